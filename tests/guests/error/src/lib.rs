//! Deploys a VM, then returns an error of its own, under the code it is told, with the last words it is told.

use orka_plugin_sdk::{Error, ErrorInfo, Plugin, Verdict, console, params};

struct Own;

impl Plugin for Own {
    fn run() -> Result<Verdict, Error> {
        let _vm = guest_common::deploy()?;
        let code = params::required_text("code")?;
        if let Some(words) = params::non_empty_text("last-words")? {
            console::last_words(&words);
        }
        Err(Error::Other(
            ErrorInfo::new(code, "the licence server said no")
                .with_hint("ask the licence team for a seat"),
        ))
    }
}

orka_plugin_sdk::register!(Own);
