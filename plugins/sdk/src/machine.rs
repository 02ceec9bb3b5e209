//! One VM for as long as something is done in it.

use crate::cluster::{DeployOptions, Session, Vm, VmSpec};
use crate::console::Level;
use crate::ssh::{self, ConnectOptions, Connection};
use crate::{Error, console, phase};

/// Makes a VM config, deploys a VM from it, logs in, does `work`, and purges both, whatever `work` returned.
///
/// Each step is a phase of the log. What is left out: a VM that `work` [keeps](Vm::keep) stays, and once the run is being
/// stopped the host deletes by itself, sooner than the plugin could.
///
/// ```no_run
/// use orka_plugin_sdk::cluster::{self, DeployOptions, VmSpec};
/// use orka_plugin_sdk::{Error, Plugin, Verdict, phase, ssh, with_vm};
///
/// struct Version;
///
/// impl Plugin for Version {
///     fn run() -> Result<Verdict, Error> {
///         let session = phase("sign in", cluster::sign_in)?;
///         let spec = VmSpec::from_image("Sonoma.orkasi");
///         let exit = with_vm(&session, &spec, &DeployOptions::default(), |_vm, connection| {
///             ssh::run(connection, "sw_vers", &[], &ssh::ExecOptions::default())
///         })?;
///         phase("sign out", || session.sign_out())?;
///         Ok(Verdict::from(exit))
///     }
/// }
/// ```
///
/// # Errors
///
/// Of `work`, or of what comes before it. A purge that fails as well is told in the log and as the detail `purge` of that
/// error. One that fails alone is a warning: what `work` found out stays true, and the host deletes the VM when the run
/// ends, or fails it with the VM's name.
pub fn with_vm<T>(
    session: &Session,
    spec: &VmSpec,
    options: &DeployOptions,
    work: impl FnOnce(&Vm, &Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let config = phase("create VM config", || session.create_config(spec))?;
    let result = phase("deploy VM", || config.deploy(options)).and_then(|vm| {
        let connection = phase("wait for SSH", || {
            ssh::connect(&vm, &ConnectOptions::default())
        })?;
        work(&vm, &connection)
    });
    if result.as_ref().is_err_and(Error::is_final) {
        return result;
    }
    match (result, phase("purge VM", || config.purge())) {
        (result, Ok(())) => result,
        (Ok(value), Err(purge)) => {
            console::log(Level::Warn, &purge.info().message);
            Ok(value)
        }
        (Err(error), Err(purge)) => {
            console::log(Level::Warn, &purge.info().message);
            Err(error.with_detail("purge", &purge.info().message))
        }
    }
}
