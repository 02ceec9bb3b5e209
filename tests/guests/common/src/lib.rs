//! What the odd guests do before they are odd: something that the host has to clean up after them.

use orka_plugin_sdk::Error;
use orka_plugin_sdk::cluster::{self, DeployOptions, Vm, VmConfig, VmSpec};

/// An image that every simulated cluster has.
const IMAGE: &str = "Sonoma.orkasi";

/// Signs in and makes a VM config.
///
/// # Errors
///
/// Whatever the host says.
pub fn config() -> Result<VmConfig, Error> {
    cluster::sign_in()?.create_config(&VmSpec::from_image(IMAGE))
}

/// Signs in, makes a VM config and deploys one VM, which nobody purges.
///
/// # Errors
///
/// Whatever the host says.
pub fn deploy() -> Result<Vm, Error> {
    config()?.deploy(&DeployOptions::default())
}
