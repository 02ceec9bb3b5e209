//! Deploys a VM from a VM config that `init` handed over, and runs a script in it: the second of three Tasks.
//!
//! Parameters and behaviour are those of the Tekton Task `orka-deploy`. Several of these share one VM config; each has a VM
//! of its own and deletes no other.

// Both have to look in the same place.
#[path = "../../init/src/channel.rs"]
mod channel;

use std::time::Duration;

use orka_plugin_common::{ending_of, metadata, remote, script, warn_of};
use orka_plugin_sdk::cluster::{self, DeployOptions, Session, VmConfig};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, Connection, ExecOptions, TransferOptions};
use orka_plugin_sdk::{
    Error, Exit, Plugin, Verdict, clock, handoff, params, phase, phase_with, skipped, workspace,
};

/// What the VM config is called in the handoff and as a parameter.
const VM_CONFIG: &str = "vm-config";
/// Pause between looks for a VM config that is not there yet.
const INIT_PAUSE_MS: u64 = 2000;

struct Deploy;

impl Plugin for Deploy {
    fn run() -> Result<Verdict, Error> {
        // All that can be wrong with parameters is found before anything exists.
        let script = script::from_params()?;
        let options = deploy_options()?;
        let exec_options = exec_options()?;
        let copy_build = params::flag("copy-build")?;
        let delete_vm = params::flag("delete-vm")?;
        let session = phase("sign in", cluster::sign_in)?;
        let config = phase("take up VM config", || vm_config(&session))?;
        let vm = phase("deploy VM", || config.deploy(&options))?;
        if !delete_vm {
            // At once: the Task promises to leave the VM however the script ends.
            vm.hand_over()?;
        }
        let connection = phase("wait for SSH", || {
            ssh::connect(&vm, &ssh::ConnectOptions::default())
        })?;
        phase("copy in", || {
            remote::copy_in(&connection, &script, &TransferOptions::default())
        })?;
        let exit = phase_with("run script", ending_of, || {
            run_script(&connection, &exec_options)
        })?;
        if copy_build && exit.success() && workspace::available() {
            phase("copy back", || {
                connection.download(remote::WORKSPACE, "", &TransferOptions::default())
            })?;
        } else {
            skipped("copy back");
        }
        finish(&session, &config, delete_vm);
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(Deploy);

fn vm_config(session: &Session) -> Result<VmConfig, Error> {
    if let Some(text) = params::non_empty_text(VM_CONFIG)? {
        return session.adopt_config(&text);
    }
    let channel = channel::channel()?;
    let seconds = params::integer("init-wait-seconds")?.unwrap_or_default();
    let give_up = clock::elapsed_ms() + u64::try_from(seconds).unwrap_or_default() * 1000;
    let mut is_told = false;
    loop {
        match session.shared_config(&channel) {
            Ok(Some(config)) => return Ok(config),
            Ok(None) => {}
            // An account without rights to stored configs: a workspace may still have the text. What the operator denies
            // stays denied, whatever is waited for.
            Err(Error::Denied(info))
                if info.code.starts_with("orka.") && workspace::available() => {}
            Err(error) => return Err(error),
        }
        if workspace::available()
            && let Some(text) = handoff::get(VM_CONFIG)?
        {
            return session.adopt_config(&text);
        }
        if clock::elapsed_ms() + INIT_PAUSE_MS > give_up {
            return Err(Error::parameter(
                VM_CONFIG,
                "is empty, and no `init` of this pipeline run has made one: let it run first, or give its result `vm-config`",
            ));
        }
        if !is_told {
            console::log(
                Level::Info,
                &format!("waiting for `init` of this pipeline run, for {seconds} s at most"),
            );
            is_told = true;
        }
        clock::sleep(INIT_PAUSE_MS)?;
    }
}

fn deploy_options() -> Result<DeployOptions, Error> {
    let mut options = Vec::new();
    if let Some(serial) = params::non_empty_text("system-serial")? {
        options.push(("system-serial".to_owned(), serial));
    }
    if params::flag("gpu-passthrough")? {
        options.push(("gpu-passthrough".to_owned(), "true".to_owned()));
    }
    let seconds = params::integer("capacity-wait-seconds")?.unwrap_or_default();
    Ok(DeployOptions {
        metadata: match params::non_empty_text("vm-metadata")? {
            None => Vec::new(),
            Some(text) => metadata::parse(&text)
                .map_err(|problem| Error::parameter("vm-metadata", problem))?,
        },
        capacity_wait_ms: u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(|seconds| seconds * 1000),
        options,
        ..DeployOptions::default()
    })
}

fn exec_options() -> Result<ExecOptions<'static>, Error> {
    let silence = params::duration_ms("silence-timeout")?
        .filter(|limit| *limit > 0)
        .map(Duration::from_millis);
    let options = ExecOptions {
        cwd: Some(remote::WORKSPACE.to_owned()),
        ..ExecOptions::default()
    };
    Ok(options
        .detached(params::flag("detach")?)
        .silence_timeout(silence))
}

fn run_script(connection: &Connection, options: &ExecOptions<'_>) -> Result<Exit, Error> {
    ssh::run(connection, remote::SCRIPT_FROM_WORKSPACE, &[], options)
}

/// Deletes the VM and signs out. The host tries again what fails here, and tells what is left.
fn finish(session: &Session, config: &VmConfig, delete_vm: bool) {
    if delete_vm && !warn_of(phase("delete VM", || config.purge())) {
        return;
    }
    warn_of(phase("sign out", || session.sign_out()));
}
