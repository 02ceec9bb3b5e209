//! One VM, one script, its artifacts back.

use orka_plugin_sdk::cluster::{self, Session, Vm, VmConfig};
use orka_plugin_sdk::console::{self, Ending, Level};
use orka_plugin_sdk::ssh::{self, Connection, ExecOptions, TransferOptions};
use orka_plugin_sdk::{
    Error, Exit, Plugin, Verdict, params, phase, phase_with, results, workspace,
};

/// Where the workspace is in the VM, relative to the home directory.
const WORKSPACE: &str = "workspace/orka";
const SCRIPT: &str = "workspace/build-script";

struct Policy;

impl Plugin for Policy {
    fn run() -> Result<Verdict, Error> {
        let session = phase("sign in", cluster::sign_in)?;
        let machine = bring_up(&session)?;
        if workspace::available() {
            phase("copy in", || {
                machine
                    .connection
                    .upload("", WORKSPACE, &TransferOptions::default())
            })?;
        }
        let exit = phase_with("run script", ending_of, || run_script(&machine.connection))?;
        let artifacts = params::list("artifacts")?;
        if !artifacts.is_empty() && workspace::available() {
            phase("copy back", || {
                copy_back(&machine.connection, artifacts, &exit)
            })?;
        }
        results::set("node", &machine.vm.info().node.unwrap_or_default())?;
        phase("purge VM", || machine.config.purge())?;
        phase("sign out", || session.sign_out())?;
        Ok(Verdict::from(exit))
    }
}

orka_plugin_sdk::register!(Policy);

/// A VM that is logged into.
struct Machine {
    config: VmConfig,
    vm: Vm,
    connection: Connection,
}

/// Tries another VM where one does not come up, as often as `attempts` allows.
fn bring_up(session: &Session) -> Result<Machine, Error> {
    let attempts = params::integer("attempts")?.unwrap_or(1);
    let mut attempt = 1;
    loop {
        let mut spec = cluster::VmSpec::from_image(params::required_text("base-image")?);
        spec.cpu_cores = params::integer("cpu-count")?.and_then(|count| u32::try_from(count).ok());
        let config = phase("create VM config", || session.create_config(&spec))?;
        let machine = phase("deploy VM", || {
            config.deploy(&cluster::DeployOptions::default())
        })
        .and_then(|vm| {
            let connection = phase("wait for SSH", || {
                ssh::connect(&vm, &ssh::ConnectOptions::default())
            })?;
            Ok((vm, connection))
        });
        match machine {
            Ok((vm, connection)) => {
                return Ok(Machine {
                    config,
                    vm,
                    connection,
                });
            }
            Err(error) if attempt < attempts && is_worth_another(&error) => {
                let message = format!("{}; trying another VM", error.info().message);
                console::log(Level::Warn, &message);
            }
            Err(error) => return Err(error),
        }
        phase("purge VM", || config.purge())?;
        attempt += 1;
    }
}

/// Whether another VM may do better: not where values, rights or credentials are wrong, nor when time is up.
fn is_worth_another(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::TimedOut(_)) && !error.is_final()
}

fn run_script(connection: &Connection) -> Result<Exit, Error> {
    let script = script(&params::text("script")?.unwrap_or_default());
    connection.write_file(SCRIPT, script.as_bytes(), 0o755)?;
    let in_workspace = workspace::available();
    let options = ExecOptions {
        cwd: in_workspace.then(|| WORKSPACE.to_owned()),
        ..ExecOptions::default()
    };
    let program = if in_workspace {
        "../build-script"
    } else {
        SCRIPT
    };
    ssh::run(connection, program, &[], &options)
}

/// What is run: the script under a shell that says each command and ends at the first that fails.
fn script(text: &str) -> String {
    format!("#!/bin/sh\nset -ex\n{text}")
}

/// Missing artifacts of a failed script are only worth a warning: its own status is the truth of the run.
fn copy_back(connection: &Connection, artifacts: Vec<String>, exit: &Exit) -> Result<(), Error> {
    let options = TransferOptions {
        include: artifacts,
        ..TransferOptions::default()
    };
    match connection.download(WORKSPACE, "", &options) {
        Ok(_) => Ok(()),
        Err(error) if !exit.success() && !error.is_final() => {
            let message = format!("nothing was copied back: {}", error.info().message);
            console::log(Level::Warn, &message);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn ending_of(exit: &Exit) -> Ending {
    if exit.success() {
        Ending::Done
    } else {
        Ending::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_ends_at_its_first_failure() {
        assert_eq!(script("make\n"), "#!/bin/sh\nset -ex\nmake\n");
    }
}
