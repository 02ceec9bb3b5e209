//! The tools that build plugins in other languages, for the tests that do.
//!
//! They come from npm and PyPI, which not every machine reaches. Without them those tests are left out, which is said.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;
use crate::wasm_toolchain::{Choice, WasmToolchain};
use crate::workspace::Workspace;

/// A language whose tools may be missing.
struct Language {
    name: &'static str,
    /// What is there once its tools are, below the tools' directory.
    proof: &'static str,
    install: fn(&Workspace) -> Result<()>,
}

const LANGUAGES: [Language; 2] = [
    Language {
        name: "typescript",
        proof: "node_modules/.bin/componentize-qjs",
        install: install_typescript,
    },
    Language {
        name: "python",
        proof: "bin/componentize-py",
        install: install_python,
    },
];

fn directory(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target_directory.join("tools").join(name)
}

fn is_there(workspace: &Workspace, language: &Language) -> bool {
    directory(workspace, language.name)
        .join(language.proof)
        .is_file()
}

/// Installs what is missing and can be had. What cannot be had is told and keeps nothing else from being tested.
pub(crate) fn install(workspace: &Workspace) {
    for language in LANGUAGES
        .iter()
        .filter(|language| !is_there(workspace, language))
    {
        if let Err(error) = (language.install)(workspace) {
            eprintln!(
                "warning: plugins in {} are NOT tested: their tools cannot be installed: {error:#}",
                language.name
            );
        }
    }
}

/// What is missing, in words.
pub(crate) fn missing(workspace: &Workspace) -> Vec<String> {
    let missing = LANGUAGES
        .iter()
        .filter(|language| !is_there(workspace, language));
    missing
        .map(|language| {
            format!(
                "the tools of {}: plugins in it are tested with them",
                language.name
            )
        })
        .collect()
}

/// The languages whose tests cannot be run here, as alternatives of a pattern.
pub(crate) fn left_out(workspace: &Workspace) -> Option<String> {
    let mut names: Vec<&str> = LANGUAGES
        .iter()
        .filter(|language| !is_there(workspace, language))
        .map(|language| language.name)
        .collect();
    // A project outside this repository is built by the toolchain that it finds, never by the distribution's.
    let choice = Choice::from_environment().unwrap_or(Choice::Rustup);
    if WasmToolchain::find(choice) != Some(WasmToolchain::Active) {
        eprintln!(
            "warning: new projects in Rust are NOT tested: the active toolchain lacks the Wasm target"
        );
        names.push("rust");
    }
    (!names.is_empty()).then(|| names.join("|"))
}

fn install_typescript(workspace: &Workspace) -> Result<()> {
    let tools = directory(workspace, "typescript");
    std::fs::create_dir_all(&tools)?;
    std::fs::copy(
        workspace
            .root
            .join("plugins/examples/typescript/package.json"),
        tools.join("package.json"),
    )?;
    process::find_program("npm").context("there is no npm; install Node.js 20 or newer")?;
    process::run(
        Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
                "--loglevel=error",
            ])
            .current_dir(&tools),
    )
}

fn install_python(workspace: &Workspace) -> Result<()> {
    let tools = directory(workspace, "python");
    process::find_program("python3")
        .context("there is no python3; install Python 3.10 or newer")?;
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&tools))?;
    process::run(
        Command::new(tools.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(
                workspace
                    .root
                    .join("plugins/examples/python/requirements.txt"),
            ),
    )
}
