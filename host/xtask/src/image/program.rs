//! The image's program, and the plugins' native code that it makes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Architecture, PLUGINS, PROGRAM, Tree};
use crate::workspace::Workspace;
use crate::{build, packages, process, setup, wasm_toolchain};

/// Cargo's profile for the image's program.
const PROFILE: &str = "shipped";

/// Variables of the caller's that would change what is linked into the program.
pub(super) const FOREIGN_SETTINGS: [&str; 4] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CFLAGS",
    // With it, features of other members, such as the simulated cluster, would be built in.
    "CARGO_RESOLVER_FEATURE_UNIFICATION",
];

/// Builds the program.
pub(super) fn build(workspace: &Workspace, architecture: Architecture) -> Result<PathBuf> {
    let target = architecture.target();
    setup::target(target)?;
    let compiler = architecture.c_compiler();
    packages::require(&[compiler])?;
    let mut command = process::cargo();
    command
        .args(["build", "--profile", PROFILE, "--target", target])
        // No simulated cluster: that is for people, and a third of the program.
        .args(["--package", "orka-step", "--bin", "orka-step"])
        .args(["--no-default-features", "--features", "kubernetes,registry"])
        .arg("--config")
        .arg(settings(workspace, target))
        .current_dir(&workspace.root);
    // These would take the place of the settings above, and differ from machine to machine.
    for variable in FOREIGN_SETTINGS {
        command.env_remove(variable);
    }
    let variable = |name: &str| format!("{name}_{}", target.replace('-', "_"));
    let program = process::find_program(compiler.program)
        .ok_or_else(|| anyhow!("there is no `{}`", compiler.program))?;
    command.env(variable("CC"), program);
    command.env(variable("CFLAGS"), c_flags(workspace));
    let mut built = build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable);
    built
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `orka-step`"))
}

/// Prefixes of paths on this machine, and what stands for them in the program.
fn mapped(workspace: &Workspace) -> [(PathBuf, &'static str); 3] {
    // The later one wins where several match.
    [
        (wasm_toolchain::cargo_home(), "/cargo"),
        (workspace.root.clone(), "/source"),
        (workspace.target_directory.clone(), "/target"),
    ]
}

fn settings(workspace: &Workspace, target: &str) -> String {
    let mut flags: Vec<String> = mapped(workspace)
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    flags.extend(
        [
            // The toolchain's own linker, so that the machine's does not matter.
            "-Clinker=rust-lld",
            "-Crelocation-model=pie",
            // Relocations of a position-independent program in a tenth of their size.
            "-Clink-arg=--pack-dyn-relocs=relr",
            // Functions of the same code become one. Rust never promises that functions have addresses of their own.
            "-Clink-arg=--icf=all",
        ]
        .map(str::to_owned),
    );
    // Debug formatting of strings happens to be TOML's, for all that paths hold in practice.
    format!("target.{target}.rustflags={flags:?}")
}

fn c_flags(workspace: &Workspace) -> String {
    let maps =
        mapped(workspace).map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    // Some distributions' compilers check calls of the C library by functions that musl does not have.
    format!("{} -U_FORTIFY_SOURCE", maps.join(" "))
}

/// Has the image's own program compile the plugins beside it, so that both are of one version and configuration.
pub(super) fn compile_plugins(tree: &Tree, architecture: Architecture) -> Result<()> {
    let directory = tree.path(PLUGINS);
    let program = tree.path(PROGRAM);
    let mut command = started(architecture, &program)?;
    command
        .args(["plugin", "compile", "--into"])
        .arg(&directory);
    command.args(components(&directory)?);
    process::run(&mut command)
}

/// A command that starts a program of this architecture, by emulation where this machine has another.
pub(super) fn started(architecture: Architecture, program: &Path) -> Result<Command> {
    let Some(emulator) = architecture.emulator() else {
        return Ok(Command::new(program));
    };
    packages::require(&[emulator])?;
    let path = process::find_program(emulator.program)
        .ok_or_else(|| anyhow!("there is no `{}`", emulator.program))?;
    let mut command = Command::new(path);
    command.arg(program);
    Ok(command)
}

fn components(directory: &Path) -> Result<Vec<OsString>> {
    let entries = directory
        .read_dir()
        .with_context(|| format!("cannot read `{}`", directory.display()))?;
    let mut components = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "wasm") {
            components.push(path.into_os_string());
        }
    }
    if components.is_empty() {
        bail!("there are no plugins in `{}`", directory.display());
    }
    components.sort();
    Ok(components)
}
