//! Measurements beside other programs on this machine.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// The package that measures.
const PACKAGE: &str = "benches";

/// Optimised as a release is, and quick to build.
const PROFILE: &str = "measure";

/// What can be measured; each is a program of the package `benches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// Files up and down, beside scp, sftp, rsync, tar through ssh and cat through ssh
    Transfer,
    /// How soon a VM is usable, beside ssh in a loop, and a command on an open connection
    Ready,
}

impl Measurement {
    fn program(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Ready => "ready",
        }
    }
}

/// Sets up, builds the measurement and becomes it; returns only if that cannot be started.
pub(crate) fn run(
    workspace: &Workspace,
    measurement: Measurement,
    arguments: &[String],
) -> Result<ExitCode> {
    setup::programs()?;
    let name = measurement.program();
    let mut command = process::cargo();
    command
        .args([
            "build",
            "--profile",
            PROFILE,
            "--package",
            PACKAGE,
            "--bin",
            name,
        ])
        .current_dir(&workspace.root);
    let mut built = build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable);
    let program = built
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `{name}`"))?;
    // In our place rather than beneath us: signals reach it directly, and its exit code is ours.
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", program.display()))
}
