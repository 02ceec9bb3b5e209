//! The default build policy: one VM, one script, its result back.
//!
//! Parameters and behaviour are those of the Tekton Task `orka-full`; what is new is optional.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod metadata;
mod script;
mod settings;

use orka_plugin_sdk::cluster::{self, Node, Session, Vm, VmConfig};
use orka_plugin_sdk::console::{self, Ending, Level};
use orka_plugin_sdk::ssh::{self, Command, Connection, ExecOptions, Stdin};
use orka_plugin_sdk::{Error, Exit, Plugin, Verdict, phase, phase_with, skipped, workspace};

use settings::Settings;

/// Where the workspace is in the VM: `~/workspace/orka`, as the Task has it.
const REMOTE_WORKSPACE: &str = "workspace/orka";
/// Where the script is in the VM: `~/workspace/build-script`, as the Task has it.
const REMOTE_SCRIPT: &str = "workspace/build-script";
/// The script as seen from [`REMOTE_WORKSPACE`], where it runs.
const SCRIPT_FROM_WORKSPACE: &str = "../build-script";
/// Everyone may read and run it; only its owner may change it.
const SCRIPT_MODE: u32 = 0o755;

/// How long a script that was asked to stop may take before its files are copied back as they are.
const SCRIPT_STOP_MS: u64 = 700;

struct Build;

impl Plugin for Build {
    fn run() -> Result<Verdict, Error> {
        // All that can be wrong with parameters is found before anything exists.
        let settings = Settings::from_params()?;
        let session = phase("sign in", cluster::sign_in)?;
        may_keep(&settings, &session)?;
        let (config, vm, connection) = machine(&settings, &session)?;
        phase("copy in", || copy_in(&settings, &connection))?;
        let exit = phase_with("run script", ending_of, || {
            run_script(&settings, &connection)
        })?;
        copy_back(&settings, &connection, &exit)?;
        let kept = keep(&settings, &vm, &exit);
        if kept {
            skipped("purge VM");
        }
        if let Err(error) = if kept {
            Ok(())
        } else {
            phase("purge VM", || config.purge())
        } {
            // The host tries again and tells what is left.
            console::log(Level::Warn, &error.info().message);
        } else if let Err(error) = phase("sign out", || session.sign_out()) {
            // The build is done and its VM gone: a token left behind changes neither.
            console::log(Level::Warn, &error.info().message);
        }
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(Build);

/// Finds out before anything is deployed whether the VM may be kept as `keep` asks.
fn may_keep(settings: &Settings, session: &Session) -> Result<(), Error> {
    let Some(wanted) = settings.keep_for_ms() else {
        return Ok(());
    };
    let granted = session.keep_max()?;
    if wanted > granted {
        let problem = format!("is longer than the {} s that are granted", granted / 1000);
        return Err(Error::parameter("keep-for", problem));
    }
    Ok(())
}

/// Keeps the VM if `keep` asks for it after this end of the script. Says whether it did.
fn keep(settings: &Settings, vm: &Vm, exit: &Exit) -> bool {
    let Some(lifetime_ms) = settings.keeps(exit.success()) else {
        return false;
    };
    let kept = phase("keep VM", || {
        vm.keep(lifetime_ms, &format!("the script {exit}"))
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

/// A VM that is logged into. One that does not come up is given up for another, on another node where there is one, as
/// often as `deploy-attempts` allows.
fn machine(settings: &Settings, session: &Session) -> Result<(VmConfig, Vm, Connection), Error> {
    let mut avoided: Vec<String> = Vec::new();
    for attempt in 1.. {
        let config = phase("create VM config", || {
            session.create_config(&settings.vm_spec())
        })?;
        let node = if avoided.is_empty() {
            None
        } else {
            another_node(settings, session, &avoided)
        };
        let failed = match bring_up(settings, &config, node) {
            Ok((vm, connection)) => return Ok((config, vm, connection)),
            Err(failed) => failed,
        };
        if attempt >= settings.deploy_attempts
            || failed.error.is_final()
            || !is_worth_another(&failed.error)
        {
            return Err(failed.error);
        }
        console::log(
            Level::Warn,
            &format!("{}; trying another VM", failed.error.info().message),
        );
        avoided.extend(failed.node);
        phase("purge VM", || config.purge())?;
    }
    unreachable!("attempts are counted until one succeeds or is the last")
}

/// An attempt that failed, and where.
struct Failed {
    error: Error,
    node: Option<String>,
}

fn bring_up(
    settings: &Settings,
    config: &VmConfig,
    node: Option<String>,
) -> Result<(Vm, Connection), Failed> {
    let mut options = settings.deploy_options();
    options.node = node.or(options.node);
    detail(
        settings,
        &format!("asking for {:?} with {options:?}", settings.vm_spec()),
    );
    let vm = phase("deploy VM", || config.deploy(&options)).map_err(|error| Failed {
        error,
        node: options.node.clone(),
    })?;
    let connection = phase("wait for SSH", || {
        ssh::connect(&vm, &ssh::ConnectOptions::default())
    })
    .map_err(|error| Failed {
        error,
        node: vm.info().node,
    })?;
    Ok((vm, connection))
}

/// Whether another VM may do better: not where values, rights or credentials are wrong.
fn is_worth_another(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::TimedOut(_))
}

/// A ready node with room that has not failed yet. None leaves the choice to Orka, as does a node that was asked for.
fn another_node(settings: &Settings, session: &Session, avoided: &[String]) -> Option<String> {
    if settings.deploy_options().node.is_some() {
        return None;
    }
    let nodes = session.nodes().ok()?;
    let cores = settings.vm_spec().cpu_cores;
    let fits =
        |node: &Node| node.ready && !avoided.contains(&node.name) && node.cpu_available >= cores;
    nodes.into_iter().find(fits).map(|node| node.name)
}

/// Says a detail: in the log where the run is verbose, for `--verbose` otherwise.
fn detail(settings: &Settings, text: &str) {
    let level = if settings.verbose {
        Level::Info
    } else {
        Level::Debug
    };
    console::log(level, text);
}

fn copy_in(settings: &Settings, connection: &Connection) -> Result<(), Error> {
    if workspace::available() {
        let options = settings.upload_options();
        detail(
            settings,
            &format!(
                "copying the workspace to `~/{REMOTE_WORKSPACE}` without {:?}",
                options.exclude
            ),
        );
        connection.upload("", REMOTE_WORKSPACE, &options)?;
    } else {
        // The script's working directory is there also without a workspace.
        let exit = ssh::run(
            connection,
            "mkdir",
            &["-p", REMOTE_WORKSPACE],
            &ExecOptions::default(),
        )?;
        if !exit.success() {
            let message = format!("`mkdir -p {REMOTE_WORKSPACE}` {exit} in the VM");
            return Err(Error::Other(orka_plugin_sdk::ErrorInfo::new(
                "build.directory",
                message,
            )));
        }
    }
    let interpreter = settings
        .script
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let interpreter = String::from_utf8_lossy(interpreter);
    detail(
        settings,
        &format!(
            "script of {} bytes at `~/{REMOTE_SCRIPT}`, `{interpreter}`",
            settings.script.len()
        ),
    );
    connection.write_file(REMOTE_SCRIPT, &settings.script, SCRIPT_MODE)
}

fn run_script(settings: &Settings, connection: &Connection) -> Result<Exit, Error> {
    let options = ExecOptions {
        cwd: Some(REMOTE_WORKSPACE.to_owned()),
        env: settings.env.clone(),
        stdin: Stdin::Empty,
        shell: settings.shell,
        ..ExecOptions::default()
    }
    .detached(settings.detach)
    .silence_timeout(settings.silence_timeout);
    let command = connection.exec(SCRIPT_FROM_WORKSPACE, &[], &options)?;
    loop {
        match command.wait(None) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) => {
                // What a silent script has written may say what it waited for.
                if error.is_final() || error.code() == ssh::COMMAND_SILENT {
                    save_evidence(settings, connection, &command);
                }
                return Err(error);
            }
        }
    }
}

/// Copies back what there is when the script was stopped: with the run, in the little time that the host gives for it, or
/// because it was silent.
fn save_evidence(settings: &Settings, connection: &Connection, command: &Command) {
    if !settings.wants_back(false) || !workspace::available() {
        return;
    }
    // The host has asked the script to stop; what it still writes then belongs to the evidence.
    let _ended = command.wait(Some(SCRIPT_STOP_MS));
    let copied = phase("copy back", || {
        connection.download(REMOTE_WORKSPACE, "", &settings.download_options())
    });
    if let Err(error) = copied {
        tell_nothing_came(error);
    }
}

/// The script's own end is the truth of the run; evidence that is missing is worth a warning.
fn tell_nothing_came(error: Error) {
    let error = with_own_limit(error);
    let info = error.info();
    let hint = info.hint.as_ref().map(|hint| format!("\nhint: {hint}"));
    console::log(
        Level::Warn,
        &format!(
            "nothing was copied back: {}{}",
            info.message,
            hint.unwrap_or_default()
        ),
    );
}

/// Names the parameter where it was one of ours that allows no more.
fn with_own_limit(error: Error) -> Error {
    let is_ours = error.code() == "files.limit" && error.detail("set by") == Some("the plugin");
    let parameter = match error.detail("limit") {
        Some("bytes") if is_ours => "artifacts-max-size",
        Some("entries") if is_ours => "artifacts-max-count",
        _ => return error,
    };
    error.with_hint(format!(
        "raise the parameter `{parameter}`, or copy back less with `artifacts` and `exclude`"
    ))
}

fn ending_of(exit: &Exit) -> Ending {
    if exit.success() {
        Ending::Done
    } else {
        Ending::Failed
    }
}

fn copy_back(settings: &Settings, connection: &Connection, exit: &Exit) -> Result<(), Error> {
    if !settings.wants_back(exit.success()) || !workspace::available() {
        skipped("copy back");
        return Ok(());
    }
    let options = settings.download_options();
    detail(
        settings,
        &format!(
            "copying back {:?} without {:?}",
            options.include, options.exclude
        ),
    );
    let copied = phase("copy back", || {
        connection.download(REMOTE_WORKSPACE, "", &options)
    });
    match copied {
        Ok(_) => Ok(()),
        Err(error) if !exit.success() && !error.is_final() => {
            tell_nothing_came(error);
            Ok(())
        }
        Err(error) => Err(with_own_limit(error).context("copying back")),
    }
}
