//! Installing what is missing.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};

use crate::wasm_toolchain::{Choice, TARGET, WasmToolchain, active_has, rustup};
use crate::workspace::Workspace;
use crate::{authors, kubectl, packages, process};

/// What of Debian builds plugins. The compiler packages for web browsers' builds are the ones kept current in stable
/// releases; `lld` is the version of that compiler's LLVM, and links Wasm.
const DISTRIBUTION_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

/// Lists what is missing. Changes nothing.
pub(crate) fn check() -> Result<ExitCode> {
    let mut missing = Vec::new();
    if WasmToolchain::find(Choice::from_environment()?).is_none() {
        missing.push(format!("`{TARGET}`: plugins are compiled for it"));
    }
    let workspace = Workspace::load()?;
    missing.extend(authors::missing(&workspace));
    missing.extend(kubectl::missing(&workspace));
    let programs = packages::missing().into_iter();
    missing.extend(programs.map(|needed| format!("`{}`: {}", needed.program, needed.reason)));
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(ExitCode::SUCCESS);
    }
    missing.iter().for_each(|line| println!("missing: {line}"));
    println!("hint: `cargo xtask setup` installs it");
    Ok(ExitCode::FAILURE)
}

/// Sets up everything that any command needs.
pub(crate) fn everything() -> Result<()> {
    wasm_toolchain()?;
    programs()?;
    let workspace = Workspace::load()?;
    authors::install(&workspace);
    kubectl::install(&workspace);
    Ok(())
}

/// Sets up the programs that tests and measurements drive.
pub(crate) fn programs() -> Result<()> {
    let missing = packages::missing();
    if missing.is_empty() {
        Ok(())
    } else {
        packages::install(&missing)
    }
}

/// Finds a toolchain that can build plugins, or sets one up.
pub(crate) fn wasm_toolchain() -> Result<WasmToolchain> {
    let choice = Choice::from_environment()?;
    if let Some(found) = WasmToolchain::find(choice) {
        return Ok(found);
    }
    let from_rustup = if choice.allows_active() {
        add_target(TARGET)
    } else {
        Err(anyhow!("rustup was not allowed"))
    };
    if let Err(error) = &from_rustup {
        eprintln!("warning: cannot add `{TARGET}` with rustup: {error:#}");
        if choice.allows_distribution() {
            packages::apt_install(&DISTRIBUTION_PACKAGES).with_context(without_toolchain)?;
        }
    }
    WasmToolchain::find(choice).ok_or_else(|| anyhow!(without_toolchain()))
}

/// Makes sure that the active toolchain compiles for this target.
pub(crate) fn target(target: &str) -> Result<()> {
    if active_has(target) {
        return Ok(());
    }
    add_target(target).with_context(|| {
        format!(
            "the active Rust toolchain has no `{target}`, and it could not be added; images need rustup, and the network \
             once"
        )
    })
}

fn without_toolchain() -> String {
    format!(
        "plugins cannot be built: the active Rust toolchain has no `{TARGET}` and none could be installed; run `rustup \
         target add {TARGET}`, or on Debian 12 install {}",
        DISTRIBUTION_PACKAGES.join(" ")
    )
}

/// `rustup target add`. Needs no `RUSTUP_AUTO_INSTALL`: that one is about whole toolchains.
fn add_target(target: &str) -> Result<()> {
    let rustup = rustup().context("the active toolchain is not rustup's")?;
    let mut command = Command::new(rustup);
    command.args(["target", "add", target]);
    // Where downloads are blocked, the default of three tries of three minutes each looks like a hang.
    command
        .env("RUSTUP_MAX_RETRIES", "1")
        .env("RUSTUP_DOWNLOAD_TIMEOUT", "60")
        .env("RUST_BACKTRACE", "0");
    process::run(&mut command)
}
