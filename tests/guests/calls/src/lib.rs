//! Deploys a VM, then calls the host for ever.

use orka_plugin_sdk::{Error, Plugin, Verdict, clock};

struct Calls;

impl Plugin for Calls {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        loop {
            clock::sleep(0)?;
        }
    }
}

orka_plugin_sdk::register!(Calls);
