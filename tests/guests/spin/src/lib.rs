//! Deploys a VM, then computes for ever.

use orka_plugin_sdk::{Error, Plugin, Verdict};

struct Spin;

impl Plugin for Spin {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        loop {
            core::hint::spin_loop();
        }
    }
}

orka_plugin_sdk::register!(Spin);
