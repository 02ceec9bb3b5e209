//! Deploys a VM, then returns an error of its own, under the code it is told.

use orka_plugin_sdk::{Error, ErrorInfo, Plugin, Verdict, params};

struct Own;

impl Plugin for Own {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let code = params::required_text("code")?;
        Err(Error::Other(
            ErrorInfo::new(code, "the licence server said no")
                .with_hint("ask the licence team for a seat"),
        ))
    }
}

orka_plugin_sdk::register!(Own);
