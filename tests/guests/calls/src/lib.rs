//! Deploys a VM, then calls the host for ever.

use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Plugin, Verdict, clock, params};

struct Calls;

impl Plugin for Calls {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let talks = params::flag("talk")?;
        loop {
            if talks {
                console::log(Level::Debug, "still here");
            } else {
                clock::sleep(0)?;
            }
        }
    }
}

orka_plugin_sdk::register!(Calls);
