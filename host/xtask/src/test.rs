//! Every test, and one line that says how it went.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::summary::{Runner, Summary};
use crate::workspace::{Workspace, own_directory};
use crate::{authors, kubectl, plugins, process, setup};

/// Sets up, builds, runs every test and prints the summary as the last line.
///
/// The programs under test are built with the tests: cargo does so for every package that has integration tests.
pub(crate) fn run(workspace: &Workspace, filter: Option<&str>) -> Result<ExitCode> {
    setup::everything()?;
    plugins::run(workspace, &setup::wasm_toolchain()?, &[])?;
    let mut outcome = Outcome::default();
    if process::succeeds(process::cargo().args(["nextest", "--version"])) {
        outcome.add(nextest(workspace, filter), Runner::Nextest)?;
        outcome.add(doc_tests(workspace, filter), Runner::Libtest)?;
    } else {
        outcome.add(cargo_test(workspace, filter), Runner::Libtest)?;
    }
    if !outcome.summary.ran() {
        eprintln!("error: no test ran");
    }
    if let Some(missing) = kubectl::missing(workspace) {
        eprintln!("warning: tests were left out for want of {missing}");
    }
    println!("{}", outcome.summary);
    Ok(outcome.exit_code())
}

/// What the runners so far have reported.
#[derive(Default)]
struct Outcome {
    summary: Summary,
    a_runner_failed: bool,
}

impl Outcome {
    /// Runs some tests, shows what they print and counts them in.
    fn add(&mut self, mut command: Command, runner: Runner) -> Result<()> {
        let shown = process::shown(&command);
        let cannot = || format!("cannot run {shown}");
        match runner {
            Runner::Libtest => command.stdout(Stdio::piped()),
            Runner::Nextest => command.stderr(Stdio::piped()),
        };
        let mut child = command.spawn().with_context(cannot)?;
        if let Some(stdout) = child.stdout.take() {
            self.read(stdout, runner, |line| print!("{line}"))
                .with_context(cannot)?;
        }
        if let Some(stderr) = child.stderr.take() {
            self.read(stderr, runner, |line| eprint!("{line}"))
                .with_context(cannot)?;
        }
        let status = child.wait().with_context(cannot)?;
        if !status.success() {
            eprintln!("error: {shown} failed ({status})");
        }
        self.a_runner_failed |= !status.success();
        Ok(())
    }

    fn read(&mut self, from: impl Read, runner: Runner, show: fn(&str)) -> std::io::Result<()> {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 {
            // Tests may print anything; what is no UTF-8 is shown as well as can be.
            let text = String::from_utf8_lossy(&line);
            show(&text);
            self.summary.count_line(runner, &text);
            line.clear();
        }
        Ok(())
    }

    fn exit_code(&self) -> ExitCode {
        let good = !self.a_runner_failed && self.summary.ran() && self.summary.failed == 0;
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Everything but documentation tests, which cargo-nextest does not run.
fn nextest(workspace: &Workspace, filter: Option<&str>) -> Command {
    let mut command = cargo(
        workspace,
        &["nextest", "run", "--no-fail-fast", "--no-tests=pass"],
    );
    command
        .arg("--config-file")
        .arg(own_directory().join("nextest.toml"));
    command.args([
        "--color",
        if std::io::stderr().is_terminal() {
            "always"
        } else {
            "never"
        },
    ]);
    for_this_machine(&mut command, workspace);
    command.args(["--run-ignored", "all"]);
    let of_authors = authors::left_out(workspace);
    let of_authors = of_authors.map(|names| format!("not test(/^authors::({names})_goes_/)"));
    let left_out: Vec<String> = of_authors
        .into_iter()
        .chain(kubectl::left_out(workspace))
        .collect();
    if !left_out.is_empty() {
        command.args(["-E", &left_out.join(" & ")]);
    }
    command.args(filter);
    command
}

fn doc_tests(workspace: &Workspace, filter: Option<&str>) -> Command {
    let mut command = cargo(workspace, &["test", "--quiet", "--doc", "--no-fail-fast"]);
    for_this_machine(&mut command, workspace);
    command.args(filter);
    command
}

/// Everything, documentation tests too.
fn cargo_test(workspace: &Workspace, filter: Option<&str>) -> Command {
    let mut command = cargo(workspace, &["test", "--no-fail-fast"]);
    for_this_machine(&mut command, workspace);
    command.args(filter);
    command
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = process::cargo();
    command.args(arguments).current_dir(&workspace.root);
    command
}

/// Every package but the guests: they are Wasm through and through and are tested by those who run them.
pub(crate) fn for_this_machine(command: &mut Command, workspace: &Workspace) {
    command.arg("--workspace");
    workspace.guests().for_each(|guest| {
        command.args(["--exclude", &guest.name]);
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Outcome, Runner};

    /// The outcome of runners that print `script`'s output and exit as it does.
    fn outcome(scripts: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for script in scripts {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            outcome.add(command, Runner::Libtest).unwrap();
        }
        outcome
    }

    /// Whether the outcome exits with 0, and its last line.
    fn judged(scripts: &[&str]) -> (bool, String) {
        let outcome = outcome(scripts);
        let succeeded = outcome.exit_code() == std::process::ExitCode::SUCCESS;
        (succeeded, outcome.summary.to_string())
    }

    const GOOD: &str =
        "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";

    #[test]
    fn all_runners_are_added_up() {
        assert_eq!(
            judged(&[GOOD, GOOD]),
            (true, "4 passed, 0 failed".to_owned())
        );
    }

    #[test]
    fn a_runner_that_fails_fails_the_whole_even_when_every_test_it_counted_passed() {
        assert_eq!(
            judged(&[GOOD, "exit 101"]),
            (false, "2 passed, 0 failed".to_owned())
        );
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        assert_eq!(judged(&["true"]), (false, "0 passed, 0 failed".to_owned()));
        assert!(!judged(&[]).0);
    }
}
