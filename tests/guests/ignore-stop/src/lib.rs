//! Deploys a VM, then sleeps for ever whatever it is told.

use orka_plugin_sdk::{Error, Plugin, Verdict, clock};

/// Long enough that only a run that is being stopped makes many calls.
const NAP_MS: u64 = 60_000;

struct IgnoreStop;

impl Plugin for IgnoreStop {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        loop {
            // The answer would say that the run is over.
            let _ignored = clock::sleep(NAP_MS);
        }
    }
}

orka_plugin_sdk::register!(IgnoreStop);
