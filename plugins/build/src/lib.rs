//! The default build policy: one VM, one script, its result back.
//!
//! Parameters and behaviour are those of the Tekton Task `orka-full`; what is new is optional.

use orka_plugin_common::{VmSettings, bring_up, build};
use orka_plugin_sdk::{Error, Plugin, Verdict, params};

struct Build;

impl Plugin for Build {
    fn run() -> Result<Verdict, Error> {
        let settings = VmSettings::from_params(params::required_text("base-image")?)?;
        build(|session, work| bring_up(session, &settings, work).map_err(|failed| failed.error))
    }
}

orka_plugin_sdk::register!(Build);
