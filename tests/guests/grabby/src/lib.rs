//! Asks for a lot and needs little.

use orka_plugin_sdk::{Error, Plugin, Verdict};

struct Grabby;

impl Plugin for Grabby {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Grabby);
