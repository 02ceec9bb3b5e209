//! Is told that the run is being stopped, and calls it a success.

use orka_plugin_sdk::{Error, Plugin, Verdict, clock};

const LONG_MS: u64 = 3_600_000;

struct Liar;

impl Plugin for Liar {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let _told = clock::sleep(LONG_MS);
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Liar);
