//! Runs programs that write more than it reads: signals one, drops one, and starts too many.

use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, Command, ConnectOptions, Connection, ExecOptions, Output};
use orka_plugin_sdk::{Error, ErrorInfo, Exit, Plugin, Verdict};

/// Writes for ever; told to stop, says so in a file and ends.
const ENDLESS: &str = "trap 'kill $!; echo told >told; exit 7' TERM; yes & wait";

/// Writes far more than the host and all that is between keep, then says so in a file.
const MUCH: &str = "head -c 50000000 /dev/zero; echo through >through";

struct Flood;

impl Plugin for Flood {
    fn run() -> Result<Verdict, Error> {
        let vm = guest_common::deploy()?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        signalled(&connection)?;
        dropped(&connection)?;
        too_many(&connection)?;
        Ok(Verdict::Succeeded)
    }
}

/// A program whose output nobody takes still gets its signal.
fn signalled(connection: &Connection) -> Result<(), Error> {
    let endless = captured(connection, ENDLESS)?;
    // Full: more than a second without a byte read.
    if endless.wait(Some(1500))?.is_some() {
        return Err(wrong("the endless program ended"));
    }
    endless.signal("TERM")?;
    appears(connection, "told")?;
    while endless.read_output(1 << 20, 10_000)?.is_some() {}
    match endless.wait(None)? {
        Some(Exit::Status(7)) => {}
        _ => return Err(wrong("the endless program did not end as it was told")),
    }
    endless.signal("TERM")?;
    console::log(Level::Info, "signalled");
    Ok(())
}

/// A program whose command is dropped goes on, and waits for nobody to read.
fn dropped(connection: &Connection) -> Result<(), Error> {
    drop(captured(connection, MUCH)?);
    appears(connection, "through")?;
    console::log(Level::Info, "dropped");
    Ok(())
}

/// So many programs may have output that nobody takes, and more may run once it is dropped.
fn too_many(connection: &Connection) -> Result<(), Error> {
    let mut running = Vec::new();
    let refused = loop {
        match captured(connection, "echo kept") {
            Ok(command) => running.push(command),
            Err(error) => break error,
        }
    };
    console::log(
        Level::Info,
        &format!("after {}: {}", running.len(), refused.info().code),
    );
    if let Some(last) = running.last() {
        last.wait(None)?;
    }
    drop(running);
    appears(connection, "through")
}

fn captured(connection: &Connection, script: &str) -> Result<Command, Error> {
    let options = ExecOptions {
        output: Output::Capture,
        ..ExecOptions::default()
    };
    connection.exec("sh", &["-c".to_owned(), script.to_owned()], &options)
}

/// Waits for a file in the home directory.
fn appears(connection: &Connection, file: &str) -> Result<(), Error> {
    let script = format!("until [ -s {file} ]; do sleep 0.05; done");
    ssh::run(connection, "sh", &["-c", &script], &ExecOptions::default()).map(drop)
}

fn wrong(message: &str) -> Error {
    Error::Other(ErrorInfo::new("flood.wrong", message))
}

orka_plugin_sdk::register!(Flood);
