//! Deploys a VM, then keeps resources without end, of the kind it is told.

use orka_plugin_sdk::console::Group;
use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, params, wait};

struct Handles;

impl Plugin for Handles {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        match params::required_text("kind")?.as_str() {
            "timers" => keep(|| Ok(wait::timer(60_000))),
            "groups" => keep(|| Ok(Group::new("another"))),
            _ => keep(cluster::sign_in),
        }
    }
}

fn keep<T>(make: impl Fn() -> Result<T, Error>) -> Result<Verdict, Error> {
    let mut kept = Vec::new();
    loop {
        kept.push(core::hint::black_box(make()?));
    }
}

orka_plugin_sdk::register!(Handles);
