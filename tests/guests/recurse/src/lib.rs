//! Deploys a VM, then calls itself for ever.

use orka_plugin_sdk::{Error, Plugin, Verdict};

struct Recurse;

impl Plugin for Recurse {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let depth = deeper(0);
        unreachable!("came back from depth {depth}");
    }
}

/// What the compiler cannot see through stays a call, with a frame of its own.
#[inline(never)]
fn deeper(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 8]);
    if core::hint::black_box(depth) == u64::MAX {
        return frame[0];
    }
    deeper(depth + 1) + core::hint::black_box(frame)[7]
}

orka_plugin_sdk::register!(Recurse);
