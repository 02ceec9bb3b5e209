//! The default build policy: one VM, one script, its result back.
//!
//! Parameters and behaviour are those of the Tekton Task `orka-full`; what is new is optional.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod metadata;
mod script;
mod settings;

use orka_plugin_sdk::cluster::{self, VmConfig};
use orka_plugin_sdk::console::{self, Ending, Level};
use orka_plugin_sdk::ssh::{self, Connection, ExecOptions, Stdin};
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

struct Build;

impl Plugin for Build {
    fn run() -> Result<Verdict, Error> {
        // All that can be wrong with parameters is found before anything exists.
        let settings = Settings::from_params()?;
        let session = phase("sign in", cluster::sign_in)?;
        let config = phase("create VM config", || {
            session.create_config(&settings.vm_spec())
        })?;
        let exit = build(&settings, &config)?;
        let purged = phase("purge VM", || config.purge());
        if let Err(error) = purged {
            // The host tries again and tells what is left.
            console::log(Level::Warn, &error.info().message);
        } else {
            phase("sign out", || session.sign_out())?;
        }
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(Build);

fn build(settings: &Settings, config: &VmConfig) -> Result<Exit, Error> {
    let vm = phase("deploy VM", || config.deploy(&settings.deploy_options()))?;
    let connection = phase("wait for SSH", || {
        ssh::connect(&vm, &ssh::ConnectOptions::default())
    })?;
    phase("copy in", || copy_in(settings, &connection))?;
    let exit = phase_with("run script", ending_of, || {
        run_script(settings, &connection)
    })?;
    copy_back(settings, &connection, &exit)?;
    Ok(exit)
}

fn copy_in(settings: &Settings, connection: &Connection) -> Result<(), Error> {
    if workspace::available() {
        connection.upload("", REMOTE_WORKSPACE, &settings.upload_options())?;
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
    connection.write_file(REMOTE_SCRIPT, &settings.script, SCRIPT_MODE)
}

fn run_script(settings: &Settings, connection: &Connection) -> Result<Exit, Error> {
    let options = ExecOptions {
        cwd: Some(REMOTE_WORKSPACE.to_owned()),
        env: settings.env.clone(),
        stdin: Stdin::Empty,
        shell: settings.shell,
        ..ExecOptions::default()
    };
    ssh::run(connection, SCRIPT_FROM_WORKSPACE, &[], &options)
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
    let copied = phase("copy back", || {
        connection.download(REMOTE_WORKSPACE, "", &settings.download_options())
    });
    match copied {
        Ok(_) => Ok(()),
        // The script's own failure is the truth of this run; missing evidence is only worth a warning.
        Err(error) if !exit.success() && !error.is_final() => {
            console::log(
                Level::Warn,
                &format!("nothing was copied back: {}", error.info().message),
            );
            Ok(())
        }
        Err(error) => Err(error.context("copying back")),
    }
}
