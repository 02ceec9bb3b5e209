//! `keep` and `keep-for`: a VM that stays to be looked into.

use orka_plugin_sdk::cluster::{Session, Vm};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Exit, params, phase};

use crate::work::When;

/// The default of `keep-for`.
const KEEP_FOR_MS_DEFAULT: u64 = 3_600_000;

/// After which end of the script the VM is kept, and how long.
pub(crate) struct Keep {
    when: Option<When>,
    lifetime_ms: u64,
}

impl Keep {
    pub(crate) fn from_params() -> Result<Self, Error> {
        Ok(Self {
            when: match params::text("keep")?.as_deref() {
                Some("always") => Some(When::Always),
                Some("failure") => Some(When::Failure),
                _ => None,
            },
            lifetime_ms: params::duration_ms("keep-for")?.unwrap_or(KEEP_FOR_MS_DEFAULT),
        })
    }

    /// Finds out before anything is deployed whether the VM may be kept as `keep` asks.
    pub(crate) fn check(&self, session: &Session) -> Result<(), Error> {
        if self.when.is_none() {
            return Ok(());
        }
        let granted = session.keep_max()?;
        if self.lifetime_ms > granted {
            let problem = format!("is longer than the {} s that are granted", granted / 1000);
            let hint = format!(
                "shorten it, or have the operator raise the ceiling `keep-max` of this plugin's entry in the grants file to \"{}s\"",
                self.lifetime_ms.div_ceil(1000)
            );
            return Err(Error::parameter("keep-for", problem).with_hint(hint));
        }
        Ok(())
    }

    /// Keeps the VM if `keep` asks for it after this end of the script. Says whether it did.
    pub(crate) fn keep(&self, vm: &Vm, exit: &Exit) -> bool {
        if !self.when.is_some_and(|when| when.includes(exit.success())) {
            return false;
        }
        let kept = phase("keep VM", || {
            vm.keep(self.lifetime_ms, &format!("the script {exit}"))
        });
        if let Err(error) = &kept {
            // The script's end is the truth of this run; a VM that is not kept is deleted.
            console::log(
                Level::Warn,
                &format!("the VM is not kept: {}", error.info().message),
            );
        }
        kept.is_ok()
    }
}
