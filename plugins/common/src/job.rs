//! The whole job: one VM, one script, its result back.

use orka_plugin_sdk::cluster::{self, Session};
use orka_plugin_sdk::console::{self, Ending, Level};
use orka_plugin_sdk::ssh::{self, Command, Connection};
use orka_plugin_sdk::{Error, Exit, Verdict, phase, phase_with, skipped};

use crate::keep::Keep;
use crate::machine::Machine;
use crate::work::Work;

/// How long a script that was asked to stop may take before its files are copied back as they are.
const SCRIPT_STOP_MS: u64 = 700;

/// Signs in, has a VM brought up, runs the script in it, copies back, and purges or keeps the VM.
///
/// Whoever calls it has read its own parameters: all that can be wrong with them is found before anything exists.
///
/// # Errors
///
/// Of any step but the last two: the build is done then, and the host tries them again.
pub fn build(
    bring_up: impl FnOnce(&Session, &Work) -> Result<Machine, Error>,
) -> Result<Verdict, Error> {
    let work = Work::from_params()?;
    let keep = Keep::from_params()?;
    let session = phase("sign in", cluster::sign_in)?;
    keep.check(&session)?;
    let machine = bring_up(&session, &work)?;
    let connection = &machine.connection;
    phase("copy in", || work.copy_in(connection))?;
    let exit = phase_with("run script", ending_of, || run_script(&work, connection))?;
    copy_back(&work, connection, &exit)?;
    let is_settled = if keep.keep(&machine.vm, &exit) {
        skipped("purge VM");
        true
    } else {
        warn_of(phase("purge VM", || machine.config.purge()))
    };
    // Nobody can sign out while VMs remain; the host tries both again and tells what is left.
    if is_settled {
        warn_of(phase("sign out", || session.sign_out()));
    }
    Ok(Verdict::from(exit))
}

/// How the phase of a script ended that ended so.
pub fn ending_of(exit: &Exit) -> Ending {
    if exit.success() {
        Ending::Done
    } else {
        Ending::Failed
    }
}

/// Turns an error that changes nothing any more into a warning. Says whether there was none.
pub fn warn_of<T>(result: Result<T, Error>) -> bool {
    if let Err(error) = &result {
        console::log(Level::Warn, &error.info().message);
    }
    result.is_ok()
}

fn run_script(work: &Work, connection: &Connection) -> Result<Exit, Error> {
    let command = work.start(connection, &[])?;
    loop {
        match command.wait(None) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) => {
                // What a silent script has written may say what it waited for.
                if error.is_final() || error.code() == ssh::COMMAND_SILENT {
                    save_evidence(work, connection, &command);
                }
                return Err(error);
            }
        }
    }
}

/// Copies back what there is when the script was stopped: with the run, in the little time that the host gives for it, or
/// because it was silent.
fn save_evidence(work: &Work, connection: &Connection, command: &Command) {
    if !work.wants_back(false) {
        return;
    }
    // The host has asked the script to stop; what it still writes then belongs to the evidence.
    let _ended = command.wait(Some(SCRIPT_STOP_MS));
    if let Err(error) = phase("copy back", || work.copy_back(connection, "")) {
        tell_nothing_came(&error);
    }
}

/// The script's own end is the truth of the run; evidence that is missing is worth a warning.
fn tell_nothing_came(error: &Error) {
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

fn copy_back(work: &Work, connection: &Connection, exit: &Exit) -> Result<(), Error> {
    if !work.wants_back(exit.success()) {
        skipped("copy back");
        return Ok(());
    }
    match phase("copy back", || work.copy_back(connection, "")) {
        Ok(()) => Ok(()),
        Err(error) if !exit.success() && !error.is_final() => {
            tell_nothing_came(&error);
            Ok(())
        }
        Err(error) => Err(error.context("copying back")),
    }
}
