//! Where the Tasks of a pipeline run look for the VM config that they share.

use orka_plugin_sdk::{Error, params};

/// What ties `init` to its `deploy`s within a pipeline run.
pub(crate) fn channel() -> Result<String, Error> {
    let part = |name| params::text(name).map(Option::unwrap_or_default);
    Ok(format!(
        "{}/{}",
        part("orka-vm-name-config")?,
        part("orka-vm-name-config-key")?
    ))
}
