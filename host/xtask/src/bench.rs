//! Measurements beside other programs on this machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{authors, build, plugins, process, setup};

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
    /// How soon a step makes its first request, beside curl
    Start,
    /// What the stock plugin costs before and while it runs
    Plugin,
    /// How long an author waits, from a new project in each language to its demo
    Scaffolds,
    /// How long a thousand tests of a plugin take
    Testkit,
}

impl Measurement {
    fn program(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Ready => "ready",
            Self::Start => "start",
            Self::Plugin => "plugin",
            Self::Scaffolds => "scaffolds",
            Self::Testkit => "testkit",
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
    let mut what = vec!["--package", PACKAGE, "--bin", name];
    if measurement == Measurement::Testkit {
        what.extend(["--features", "testkit"]);
    }
    let program = built(workspace, &what, name)?;
    // In our place rather than beneath us: signals reach it directly, and its exit code is ours.
    let mut command = Command::new(&program);
    match measurement {
        Measurement::Transfer | Measurement::Ready => {}
        Measurement::Start | Measurement::Plugin => {
            command.args(plugin_build(workspace)?);
            command.args(optimised_program(workspace, arguments)?);
        }
        Measurement::Scaffolds => {
            authors::install(workspace);
            let tools = workspace.target_directory.join("tools");
            command.arg("--tools").arg(tools);
            command.args(optimised_program(workspace, arguments)?);
        }
        Measurement::Testkit => {
            command.args(plugin_build(workspace)?);
        }
    }
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", program.display()))
}

/// Builds a program as measurements are built.
fn built(workspace: &Workspace, what: &[&str], name: &str) -> Result<PathBuf> {
    let mut command = process::cargo();
    command
        .args(["build", "--profile", PROFILE])
        .args(what)
        .current_dir(&workspace.root);
    build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable)
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `{name}`"))
}

/// The program that is measured, unless another is named, such as the image's.
fn optimised_program(workspace: &Workspace, given: &[String]) -> Result<Vec<OsString>> {
    if given
        .iter()
        .any(|argument| argument.starts_with("--program"))
    {
        return Ok(Vec::new());
    }
    let what = ["--package", "orka-step", "--bin", "orka-step"];
    let program = built(workspace, &what, "orka-step")?;
    Ok(vec!["--program".into(), program.into_os_string()])
}

/// Builds the plugin `build`, and gives the flag that says where it is.
fn plugin_build(workspace: &Workspace) -> Result<Vec<OsString>> {
    plugins::run(workspace, &setup::wasm_toolchain()?, &["build".to_owned()])?;
    let directory = workspace.target_directory.join("plugins");
    Ok(vec!["--plugins".into(), directory.into_os_string()])
}
