//! The main job against a simulated cluster.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};

use crate::workspace::Workspace;
use crate::{build, plugins, process, setup, test};

/// The program that plays the demo.
const PROGRAM: &str = "orka-step";

/// Builds plugins and programs and becomes `orka-step demo`; returns only if that cannot be started.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    let toolchain = setup::wasm_toolchain()?;
    plugins::run(workspace, &toolchain, &[])?;
    let orka_step = build_programs(workspace, PROGRAM, &[])?;
    // In our place rather than beneath us: signals reach it directly, and its exit code is ours.
    let error = Command::new(&orka_step).arg("demo").args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", orka_step.display()))
}

/// Builds the programs, `features` of the workspace's packages on, and returns the path of one of them.
///
/// The whole workspace is named, as the tests do: cargo chooses features by what is named, and another choice would
/// compile the larger half of the dependencies a second time.
pub(crate) fn build_programs(
    workspace: &Workspace,
    program: &str,
    features: &[&str],
) -> Result<PathBuf> {
    let mut command = process::cargo();
    command
        .args(["build", "--bins"])
        .args(features.iter().flat_map(|feature| ["--features", feature]))
        .current_dir(&workspace.root);
    test::for_this_machine(&mut command, workspace);
    let built = build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable);
    let mut found = built.filter(|path| path.file_stem().is_some_and(|name| name == program));
    found
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `{program}`"))
}
