//! `results`.

use crate::bindings::orka::plugin::results::Host;
use crate::failure::Failure;
use crate::results::OWN;
use crate::state::{CallError, HostState};

impl Host for HostState {
    async fn set(&mut self, name: String, value: String) -> Result<(), CallError> {
        let run = &self.run;
        run.call_now("results.set", || {
            if OWN.contains(&name.as_str()) {
                return Err(Failure::invalid(
                    "results.reserved",
                    format!("the result `{name}` belongs to the host"),
                ));
            }
            if !run.manifest.results.contains_key(&name) {
                return Err(Failure::invalid(
                    "results.undeclared",
                    format!("the manifest declares no result `{name}`"),
                )
                .with_hint(format!("add `[results.{name}]` to `plugin.toml`")));
            }
            run.results.set(&name, &run.console.masker().mask(&value))
        })
    }
}
