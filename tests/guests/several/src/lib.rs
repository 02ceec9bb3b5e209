//! Deploys three VMs side by side and uses each as it comes up.

use orka_plugin_sdk::cluster::{DeployOptions, Deployment};
use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions};
use orka_plugin_sdk::wait::{self, Waitable};
use orka_plugin_sdk::{Error, Plugin, Verdict};

const VMS: usize = 3;

struct Several;

impl Plugin for Several {
    fn run() -> Result<Verdict, Error> {
        let config = guest_common::config()?;
        let mut open = (0..VMS)
            .map(|_| config.start_deploy(&DeployOptions::default()))
            .collect::<Result<Vec<Deployment>, Error>>()?;
        while !open.is_empty() {
            let waitables: Vec<Waitable> = open.iter().map(Deployment::subscribe).collect();
            let mut ready = wait::wait_any(&waitables.iter().collect::<Vec<_>>(), None)?;
            // From the back, so that the positions before stay what they are.
            ready.reverse();
            for position in ready {
                use_vm(&open.remove(position as usize))?;
            }
        }
        Ok(Verdict::Succeeded)
    }
}

fn use_vm(deployment: &Deployment) -> Result<(), Error> {
    let vm = deployment.finish()?;
    let connection = ssh::connect(&vm, &ConnectOptions::default())?;
    let port = vm.info().ssh_port.to_string();
    ssh::run(
        &connection,
        "echo",
        &["hello from port", &port],
        &ExecOptions::default(),
    )?;
    Ok(())
}

orka_plugin_sdk::register!(Several);
