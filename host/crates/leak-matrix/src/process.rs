//! Builds by the built program, which is sent signals.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::OwnedSemaphorePermit;

use crate::axes::Fault;
use crate::built;
use crate::matrix::Ended;
use crate::stage::{Stage, until};

/// Every run of the matrix has a cluster of its own, so they may have the same UIDs.
const RUN_UID: &str = "4a0c1c52-6d1e-4b1f-9d5b-2f1f0d9f8e01";
const POD_UID: &str = "9b7a35b0-8e0a-4a41-8f7e-6d3d1f2c4b02";

/// What the guest asks for.
const GRANTS: &str = "[[grant]]\nplugin = \"steps\"\ncapabilities = [\"*\"]\n";

/// Plays a build. The permit is given back once nothing is left to compute but for the reaper, which mostly waits.
pub(crate) async fn play(stage: &Stage, permit: OwnedSemaphorePermit) -> Ended {
    let mut child = start(stage);
    let early = tokio::select! {
        () = stage.reached() => None,
        status = child.wait() => Some(status.unwrap()),
    };
    if early.is_none() {
        signal(stage, &child).await;
    }
    let status = match early {
        Some(status) => status,
        None => child.wait().await.unwrap(),
    };
    drop(permit);
    let reaped = match stage.cell.fault {
        Fault::SigkillReap if status.signal().is_some() => reap(stage).await,
        _ => None,
    };
    let outcome = std::fs::read_to_string(stage.path("results/outcome"));
    Ended {
        code: status.code(),
        outcome: outcome.unwrap_or_default(),
        reaped,
        log: said(stage).lines().map(str::to_owned).collect(),
    }
}

fn start(stage: &Stage) -> Child {
    let grants = stage.path("grants.toml");
    std::fs::write(&grants, GRANTS).unwrap();
    let mut command = step(stage, "run");
    for (flag, value) in [
        ("--plugin", built::guest()),
        ("--grants", grants),
        ("--workspace", stage.path("workspace")),
        ("--results", stage.path("results")),
    ] {
        command.arg(flag).arg(value);
    }
    command.args(["--run-uid", RUN_UID, "--pod-uid", POD_UID]);
    for (name, value) in stage.params() {
        command.arg("-p").arg(format!("{name}={value}"));
    }
    command.spawn().unwrap()
}

/// The program with nothing in its environment but what it needs, and its log in a file.
fn step(stage: &Stage, subcommand: &str) -> Command {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(stage.path("log"))
        .unwrap();
    let mut command = Command::new(built::program());
    command
        .arg(subcommand)
        .env_clear()
        .envs(stage.environment())
        .current_dir(stage.path("results"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    command
}

async fn signal(stage: &Stage, child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let send = |signal| {
        if let Some(pid) = pid {
            // It may have ended a moment ago, which its exit code tells.
            let _ = kill_process(pid, signal);
        }
    };
    match stage.cell.fault {
        Fault::Crash => {
            if let Some(worker) = pid.and_then(worker_of) {
                let _ = kill_process(worker, Signal::ABORT);
            }
        }
        Fault::SigkillReap => send(Signal::KILL),
        Fault::SigtermTwice => {
            send(Signal::TERM);
            until(|| said(stage).contains("SIGTERM: stopping")).await;
            send(Signal::TERM);
        }
        _ => send(Signal::TERM),
    }
}

/// The process that does the work, for which the program itself only waits.
fn worker_of(program: Pid) -> Option<Pid> {
    let pid = program.as_raw_pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}

fn said(stage: &Stage) -> String {
    std::fs::read_to_string(stage.path("log")).unwrap_or_default()
}

/// What a `finally` Task does.
async fn reap(stage: &Stage) -> Option<i32> {
    let mut command = step(stage, "reap");
    command.args(["--run", RUN_UID]);
    command.status().await.unwrap().code()
}
