//! Developer commands: `cargo xtask setup`, `plugins`, `demo`, `image`, `bench`, `leak-matrix`, `tekton`,
//! `wit-docs` and `test`.
//!
//! Each command sets up what it needs first, so that a fresh clone needs no other steps. The commands only run other
//! programs and write into cargo's target directory.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// This is a program for a terminal: its output is what it is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod authors;
mod bench;
mod build;
mod demo;
mod image;
mod kubectl;
mod leak_matrix;
mod packages;
mod plugins;
mod process;
mod setup;
mod summary;
mod tekton;
mod test;
mod wasm_toolchain;
mod wit_docs;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Developer commands of this repository.
///
/// On a fresh clone `cargo xtask demo` shows the whole job at work and `cargo xtask test` passes every test. Both set
/// up what is missing first.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: the Wasm target, and the programs that the tests drive
    ///
    /// The Wasm target comes from rustup; where rustup is absent or cannot download, from Debian's own toolchain.
    /// The programs come from apt-get where this may install packages (as root or by passwordless sudo); elsewhere
    /// the command says what to install and why. Does nothing, quickly, when nothing is missing.
    #[command(
        after_help = "Environment:\n  ORKA_XTASK_WASM  `rustup` or `distribution`: use only this toolchain for \
                            plugins (default `auto`)"
    )]
    Setup {
        /// Change nothing; list what is missing and exit with 1 if anything is
        #[arg(long)]
        check: bool,
    },
    /// Build every plugin and test guest to a component
    ///
    /// A plugin is a workspace member under `plugins/`, `plugins/examples/` or `tests/guests/` with a `plugin.toml` beside its Cargo.toml.
    /// The components go to `plugins/`, `examples/` and `guests/` in cargo's target directory, where the host and the tests find
    /// them. A file is written only when its bytes change.
    #[command(after_help = "Examples:\n  cargo xtask plugins\n  cargo xtask plugins build spin")]
    Plugins {
        /// Build only these, named by their directory
        names: Vec<String>,
    },
    /// Run the main job against a simulated cluster in this machine
    ///
    /// Sets up what is missing, builds the plugins and programs, then runs `orka-step demo` and exits as it does.
    #[command(
        after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --plugin ./my-plugin.wasm"
    )]
    Demo {
        /// Arguments for `orka-step demo`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENTS"
        )]
        arguments: Vec<String>,
    },
    /// Build the container image: a static program, the plugins and their ahead-of-time code
    ///
    /// Sets up what is missing (a musl target from rustup, a C compiler, buildah), and writes an OCI archive and its bill of
    /// materials to `image/` in cargo's target directory. The same sources and compiler give the same digest.
    #[command(
        after_help = "Examples:\n  cargo xtask image\n  cargo xtask image --arch amd64 --arch arm64 --check\n\n\
                      Environment:\n  SOURCE_DATE_EPOCH  the image's moment, instead of the commit's"
    )]
    Image {
        /// Build for this architecture; may be repeated. This machine's, if none is named
        #[arg(long = "arch", value_name = "ARCH")]
        architectures: Vec<image::Architecture>,
        /// Store the compiler of plugins executable as it is, 3.7 MB larger, for clusters that report or forbid programs
        /// started from memory
        #[arg(long)]
        plain_compiler: bool,
        /// Then run whole jobs in it against a simulated cluster, as any user, on a read-only root, without capabilities
        #[arg(long)]
        check: bool,
    },
    /// Measure beside the programs others use, in one run on this machine
    ///
    /// Each measurement is a program of the package `benches`, built optimised. It prints a table of medians and
    /// ratios, and with `--keep` puts it into tests/benches/RESULTS.md.
    #[command(
        after_help = "Examples:\n  cargo xtask bench transfer\n  cargo xtask bench transfer --case large --repetitions 3"
    )]
    Bench {
        /// What to measure
        measurement: bench::Measurement,
        /// Arguments for the measurement; `--help` lists them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENTS"
        )]
        arguments: Vec<String>,
    },
    /// End builds in every way at every call, and count the VMs, VM configs and tokens that are left
    ///
    /// Sets up what is missing, builds the plugins and programs, then plays some nine hundred builds against simulated
    /// clusters and prints a table for each release of Orka. Fails if anything is left or ends wrongly.
    #[command(
        after_help = "Examples:\n  cargo xtask leak-matrix\n  cargo xtask leak-matrix --only orka-3 --only deploy\n  \
                      cargo xtask leak-matrix --json matrix.json --markdown host/leak-matrix.md"
    )]
    LeakMatrix {
        /// Arguments for the program: `--only TEXT`, `--json FILE`, `--markdown FILE`, `--list`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENTS"
        )]
        arguments: Vec<String>,
    },
    /// Write the Tekton Tasks and the tables of their READMEs, from the plugins' manifests
    ///
    /// The parameters of a plugin are those of its Task. The tests fail where a file is not as it would be made.
    Tekton {
        /// Change nothing; name what is not as it would be made, and exit with 1 if anything is
        #[arg(long)]
        check: bool,
    },
    /// Write the contract's reference, `wit/README.md`, from the WIT
    ///
    /// A test fails where the page is not as the contract says.
    WitDocs {
        /// Change nothing; exit with 1 if the page is not as the contract says
        #[arg(long)]
        check: bool,
    },
    /// Pass every test: unit, integration, end to end and documentation
    ///
    /// Sets up what is missing, builds the plugins and programs, then runs all tests, with cargo-nextest where it is
    /// installed. The last line is `N passed, N failed` (and `, N skipped` if any were). Fails if nothing ran.
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test -- deletes_the_vm")]
    Test {
        /// Run only tests whose names contain this
        #[arg(last = true, value_name = "FILTER")]
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error
                .chain()
                .skip(1)
                .for_each(|cause| eprintln!("  caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup { check: true } => setup::check(),
        Command::Setup { check: false } => setup::everything().map(|()| ExitCode::SUCCESS),
        Command::Plugins { names } => {
            plugins::run(&Workspace::load()?, &setup::wasm_toolchain()?, &names)
                .map(|()| ExitCode::SUCCESS)
        }
        Command::Bench {
            measurement,
            arguments,
        } => bench::run(&Workspace::load()?, measurement, &arguments),
        Command::Image {
            architectures,
            plain_compiler,
            check,
        } => image::run(&Workspace::load()?, &architectures, plain_compiler, check),
        Command::Demo { arguments } => demo::run(&Workspace::load()?, &arguments),
        Command::LeakMatrix { arguments } => leak_matrix::run(&Workspace::load()?, &arguments),
        Command::Tekton { check } => tekton::run(check),
        Command::WitDocs { check } => wit_docs::run(&Workspace::load()?, check),
        Command::Test { filter } => test::run(&Workspace::load()?, filter.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn demo_passes_on_every_argument_with_or_without_dashes() {
        for line in [
            &["xtask", "demo", "--plugin", "a.wasm", "-v"][..],
            &["xtask", "demo", "--", "--plugin", "a.wasm", "-v"],
        ] {
            let Command::Demo { arguments } = Cli::parse_from(line).command else {
                panic!()
            };
            assert_eq!(arguments, ["--plugin", "a.wasm", "-v"]);
        }
    }
}
