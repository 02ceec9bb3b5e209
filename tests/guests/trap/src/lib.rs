//! Deploys a VM, then traps without a word.

use orka_plugin_sdk::{Error, Plugin, Verdict};

struct Trap;

impl Plugin for Trap {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        give_up()
    }
}

#[cfg(target_arch = "wasm32")]
#[inline(never)]
fn give_up() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn give_up() -> ! {
    std::process::abort()
}

orka_plugin_sdk::register!(Trap);
