//! Deploys a VM, then allocates for ever.

use orka_plugin_sdk::{Error, Plugin, Verdict};

const MIB: usize = 1024 * 1024;

struct Allocate;

impl Plugin for Allocate {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let mut kept = Vec::new();
        loop {
            kept.push(core::hint::black_box(vec![1_u8; MIB]));
        }
    }
}

orka_plugin_sdk::register!(Allocate);
