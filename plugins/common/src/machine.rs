//! From settings to a VM that is logged into.

use orka_plugin_sdk::cluster::{Node, Session, Vm, VmConfig};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions, Connection};
use orka_plugin_sdk::{Error, phase};

use crate::vm_settings::VmSettings;
use crate::work::Work;

/// A VM that is logged into, and the config that it was deployed from.
pub struct Machine {
    /// Purging it deletes the VM too.
    pub config: VmConfig,
    /// The VM.
    pub vm: Vm,
    /// The login.
    pub connection: Connection,
}

/// No VM came up.
pub struct Failed {
    /// Why the last one did not.
    pub error: Error,
    /// Its config, which nobody has purged.
    pub config: Option<VmConfig>,
    node: Option<String>,
}

/// A VM that is logged into. One that does not come up is given up for another, on another node where there is one, as
/// often as `deploy-attempts` allows.
///
/// # Errors
///
/// The last attempt's.
pub fn bring_up(session: &Session, settings: &VmSettings, work: &Work) -> Result<Machine, Failed> {
    let mut avoided: Vec<String> = Vec::new();
    let mut attempt = 1;
    loop {
        let node = if avoided.is_empty() {
            None
        } else {
            another_node(session, settings, &avoided)
        };
        let failed = match one_attempt(session, settings, work, node) {
            Ok(machine) => return Ok(machine),
            Err(failed) => failed,
        };
        let Some(config) = failed
            .config
            .as_ref()
            .filter(|_| attempt < settings.deploy_attempts && is_worth_another(&failed.error))
        else {
            return Err(failed);
        };
        console::log(
            Level::Warn,
            &format!("{}; trying another VM", failed.error.info().message),
        );
        if let Err(error) = phase("purge VM", || config.purge()) {
            return Err(Failed { error, ..failed });
        }
        avoided.extend(failed.node);
        attempt += 1;
    }
}

fn one_attempt(
    session: &Session,
    settings: &VmSettings,
    work: &Work,
    node: Option<String>,
) -> Result<Machine, Failed> {
    let spec = settings.vm_spec();
    let mut options = settings.deploy_options();
    options.node = node.or(options.node);
    let config = match phase("create VM config", || session.create_config(&spec)) {
        Ok(config) => config,
        Err(error) => {
            return Err(Failed {
                error,
                config: None,
                node: None,
            });
        }
    };
    work.detail(&format!("asking for {spec:?} with {options:?}"));
    let vm = match phase("deploy VM", || config.deploy(&options)) {
        Ok(vm) => vm,
        Err(error) => {
            return Err(Failed {
                error,
                config: Some(config),
                node: options.node,
            });
        }
    };
    match phase("wait for SSH", || {
        ssh::connect(&vm, &ConnectOptions::default())
    }) {
        Ok(connection) => Ok(Machine {
            config,
            vm,
            connection,
        }),
        Err(error) => Err(Failed {
            error,
            config: Some(config),
            node: vm.info().node,
        }),
    }
}

/// Whether another VM of the same kind may do better: not where values, rights or credentials are wrong, or time is up.
fn is_worth_another(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::TimedOut(_)) && !error.is_final()
}

/// Whether a VM of another image, tag or node may come up where one failed with this: also where there was no room, or
/// what was asked for is not there or was refused. Not where rights or credentials are wrong, or time is up.
pub fn may_do_better_elsewhere(error: &Error) -> bool {
    let is_about_this_one = matches!(
        error,
        Error::NoCapacity(_) | Error::NotFound(_) | Error::Invalid(_) | Error::Conflict(_)
    );
    is_worth_another(error) || is_about_this_one && !error.is_final()
}

/// A ready node with room that has not failed yet. None leaves the choice to Orka, as does a node that was asked for.
fn another_node(session: &Session, settings: &VmSettings, avoided: &[String]) -> Option<String> {
    if settings.node.is_some() {
        return None;
    }
    let nodes = session.nodes().ok()?;
    let cores = Some(settings.cpu_count);
    let fits =
        |node: &Node| node.ready && !avoided.contains(&node.name) && node.cpu_available >= cores;
    nodes.into_iter().find(fits).map(|node| node.name)
}
