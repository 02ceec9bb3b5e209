//! Deploys without end, whatever it is told; gives up only once nothing at all can be deployed any more.

use orka_plugin_sdk::cluster::DeployOptions;
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Plugin, Verdict, params};

/// So many refusals in a row, and no more is to be had.
const REFUSALS: u32 = 5;

struct Deploys;

impl Plugin for Deploys {
    fn run() -> Result<Verdict, Error> {
        let beside = params::flag("beside")?;
        let config = guest_common::config()?;
        let (mut vms, mut deployments) = (Vec::new(), Vec::new());
        let mut refusals = 0;
        loop {
            let options = DeployOptions::default();
            let refused = if beside {
                config
                    .start_deploy(&options)
                    .map(|deployment| deployments.push(deployment))
            } else {
                config.deploy(&options).map(|vm| vms.push(vm))
            };
            match refused {
                Ok(()) => refusals = 0,
                Err(error) => {
                    refusals += 1;
                    if refusals == REFUSALS {
                        let made = vms.len() + deployments.len();
                        console::log(Level::Info, &format!("after {made}: {}", error.code()));
                        return Err(error);
                    }
                }
            }
        }
    }
}

orka_plugin_sdk::register!(Deploys);
