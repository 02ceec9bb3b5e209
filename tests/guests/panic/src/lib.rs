//! Deploys a VM, then panics.

use orka_plugin_sdk::{Error, Plugin, Verdict};

struct Panic;

impl Plugin for Panic {
    fn run() -> Result<Verdict, Error> {
        let vm = guest_common::deploy()?;
        panic!("no target called `ipa` on port {}", vm.info().ssh_port);
    }
}

orka_plugin_sdk::register!(Panic);
