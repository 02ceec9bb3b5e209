//! Builds that end in every way, and what they leave.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;
use crate::{demo, plugins, setup};

/// The program that plays the matrix, and the feature that has it built.
const PROGRAM: &str = "leak-matrix";
const FEATURE: &str = "leak-matrix/program";

/// Builds plugins, guests and programs and becomes `leak-matrix`; returns only if that cannot be started.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    let toolchain = setup::wasm_toolchain()?;
    plugins::run(workspace, &toolchain, &[])?;
    let program = demo::build_programs(workspace, PROGRAM, &[FEATURE])?;
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", program.display()))
}
