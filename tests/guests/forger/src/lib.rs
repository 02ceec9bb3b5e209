//! Uses handles that it was never given, has dropped, or has of another kind.

use orka_plugin_sdk::cluster::{Session, Vm};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions};
use orka_plugin_sdk::{Error, Plugin, Verdict, cluster, params};

/// Far above every handle that a guest has.
const FORGED: u32 = 4242;

struct Forger;

/// A VM behind a number, whatever the host thinks of it.
#[expect(unsafe_code, reason = "that is what is tried")]
fn vm(handle: u32) -> Vm {
    // SAFETY: the host is to refuse it; nothing on this side depends on it.
    unsafe { Vm::from_handle(handle) }
}

impl Plugin for Forger {
    fn run() -> Result<Verdict, Error> {
        let own = guest_common::deploy()?;
        let address = match params::required_text("how")?.as_str() {
            "forged" => vm(FORGED).info().address,
            "dropped" => {
                let handle = own.handle();
                drop(own);
                vm(handle).info().address
            }
            "of-another-kind" => {
                let session: Session = cluster::sign_in()?;
                vm(session.take_handle()).info().address
            }
            "shout" => {
                console::log(Level::Info, &"x".repeat(4 << 20));
                "a shout".to_owned()
            }
            _ => {
                let mut kept = Vec::new();
                let refused = loop {
                    match ssh::connect(&own, &ConnectOptions::default()) {
                        Ok(connection) => kept.push(connection),
                        Err(error) => break error,
                    }
                };
                format!("{} connections, then {}", kept.len(), refused.code())
            }
        };
        console::log(Level::Info, &format!("got {address}"));
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Forger);
