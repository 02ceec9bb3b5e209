//! Deploys three VMs side by side, logs into all of them at once, and runs a program in each as it comes up.

use orka_plugin_sdk::cluster::{DeployOptions, Deployment};
use orka_plugin_sdk::ssh::{self, Command, ConnectOptions, Connecting, Connection, ExecOptions};
use orka_plugin_sdk::wait::{self, Waitable};
use orka_plugin_sdk::{Error, ErrorInfo, Exit, Plugin, Verdict};

const VMS: usize = 3;

/// Only the last VM's succeeds.
const SCRIPT: &str = "echo \"hello from port $1\"; test \"$2\" = 3";

struct Several;

enum Stage {
    Deploying(Deployment, usize),
    Connecting(Connecting, u16, usize),
    Running(
        Command,
        #[expect(dead_code, reason = "it stays open")] Connection,
    ),
}

impl Plugin for Several {
    fn run() -> Result<Verdict, Error> {
        let config = guest_common::config()?;
        let mut open = Vec::new();
        for number in 1..=VMS {
            let deployment = config.start_deploy(&DeployOptions::default())?;
            open.push(Stage::Deploying(deployment, number));
        }
        let mut ended = Vec::new();
        while !open.is_empty() {
            let waitables: Vec<Waitable> = open.iter().map(subscribe).collect();
            let mut ready = wait::wait_any(&waitables.iter().collect::<Vec<_>>(), None)?;
            // From the back, so that the positions before stay what they are.
            ready.reverse();
            for position in ready {
                let stage = open.remove(position as usize);
                match step(stage)? {
                    Stage::Running(command, _) if command.exit()?.is_some() => ended.push(command),
                    stage => open.push(stage),
                }
            }
        }
        decide(&ended)
    }
}

fn subscribe(stage: &Stage) -> Waitable {
    match stage {
        Stage::Deploying(deployment, _) => deployment.subscribe(),
        Stage::Connecting(connecting, ..) => connecting.subscribe(),
        Stage::Running(command, _) => command.subscribe(),
    }
}

fn step(stage: Stage) -> Result<Stage, Error> {
    match stage {
        Stage::Deploying(deployment, number) => {
            let vm = deployment.finish()?;
            let connecting = ssh::start_connect(&vm, &ConnectOptions::default())?;
            Ok(Stage::Connecting(connecting, vm.info().ssh_port, number))
        }
        Stage::Connecting(connecting, port, number) => {
            let connection = connecting.finish()?;
            if !matches!(connecting.finish(), Err(Error::Conflict(info)) if info.code == "connecting.finished")
            {
                return Err(broken("a login was taken twice"));
            }
            connection.label_output(&format!("[{port}] "));
            let arguments = ["-c", SCRIPT, "sh", &port.to_string(), &number.to_string()];
            let arguments = arguments.map(str::to_owned);
            let command = connection.exec("/bin/sh", &arguments, &ExecOptions::default())?;
            Ok(Stage::Running(command, connection))
        }
        running @ Stage::Running(..) => Ok(running),
    }
}

/// Asked by `exit`, no end is that of the script; the one that is waited for is.
fn decide(ended: &[Command]) -> Result<Verdict, Error> {
    for command in ended {
        if matches!(command.exit()?, Some(Exit::Status(0))) {
            return match command.wait(None)? {
                Some(exit) => Ok(Verdict::from(exit)),
                None => Err(broken("a program that has ended runs")),
            };
        }
    }
    Err(broken("no program succeeded"))
}

fn broken(message: &str) -> Error {
    Error::Other(ErrorInfo::new("several.broken", message))
}

orka_plugin_sdk::register!(Several);
