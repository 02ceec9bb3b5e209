//! Waits for ever in the host call it is told.

use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions, Output, TransferOptions};
use orka_plugin_sdk::{Error, Plugin, Verdict, clock, params, wait};

const LONG_MS: u64 = 3_600_000;

struct Blocks;

impl Plugin for Blocks {
    fn run() -> Result<Verdict, Error> {
        let vm = guest_common::deploy()?;
        let call = params::required_text("in")?;
        let connection = ssh::connect(&vm, &ConnectOptions::default())?;
        let capture = call == "read-output";
        let options = ExecOptions {
            output: if capture {
                Output::Capture
            } else {
                Output::Log
            },
            ..ExecOptions::default()
        };
        let script = params::required_text("script")?;
        let command = connection.exec("sh", &["-c".to_owned(), script], &options)?;
        match call.as_str() {
            "read-output" => while command.read_output(1 << 16, LONG_MS)?.is_some() {},
            "wait-any" => drop(wait::wait_any(&[&command.subscribe()], None)?),
            "sleep" => clock::sleep(LONG_MS)?,
            "evidence" => {
                let _told = command.wait(None);
                let options = TransferOptions {
                    include: vec!["evidence.txt".to_owned()],
                    ..TransferOptions::default()
                };
                // The same again and again: only the host can end this.
                loop {
                    connection.download("", "evidence", &options)?;
                }
            }
            _ => drop(command.wait(None)?),
        }
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Blocks);
