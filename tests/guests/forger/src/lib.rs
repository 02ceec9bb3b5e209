//! Uses handles that it was never given, has dropped, has of another kind, or kept for longer than what they stand for.

use orka_plugin_sdk::cluster::{DeployOptions, Session, Vm, VmSpec};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions, TransferOptions};
use orka_plugin_sdk::wait::{self, Waitable};
use orka_plugin_sdk::{Error, ErrorInfo, Plugin, Verdict, cluster, params};

/// Far above every handle that a guest has.
const FORGED: u32 = 4242;

/// Longer than the guest lives.
const LONG_MS: u64 = 600_000;

/// So long it waits for the end of a program whose VM is gone.
const PATIENCE_MS: u64 = 10_000;

/// VMs deployed until one has the address that is free, and the pauses between.
const TRIES: usize = 10;
const PAUSE_MS: u64 = 100;

struct Forger;

/// A VM behind a number, whatever the host thinks of it.
#[expect(unsafe_code, reason = "that is what is tried")]
fn vm(handle: u32) -> Vm {
    // SAFETY: the host is to refuse it; nothing on this side depends on it.
    unsafe { Vm::from_handle(handle) }
}

fn tell<T>(call: &str, result: Result<T, Error>) {
    let said = result.map_or_else(|error| error.code().to_owned(), |_| "done".to_owned());
    console::log(Level::Info, &format!("{call}: {said}"));
}

/// Uses everything that belonged to a VM once that is gone.
fn after_purge() -> Result<Verdict, Error> {
    let config = guest_common::config()?;
    let vm = config.deploy(&DeployOptions::default())?;
    let connection = ssh::connect(&vm, &ConnectOptions::default())?;
    let long = ["600".to_owned()];
    let command = connection.exec("sleep", &long, &ExecOptions::default())?;
    let detached = ExecOptions {
        detach: true,
        ..ExecOptions::default()
    };
    let detached = connection.exec("sleep", &long, &detached)?;
    under_way()?;
    config.purge()?;
    tell("wait", command.wait(Some(PATIENCE_MS)));
    tell("detached", detached.wait(Some(PATIENCE_MS)));
    let all = TransferOptions::default();
    tell("upload", connection.upload(".", "work", &all));
    tell("download", connection.download("work", "back", &all));
    tell("write", connection.write_file("note", b"x", 0o600));
    tell(
        "exec",
        connection.exec("true", &[], &ExecOptions::default()),
    );
    tell("connect", ssh::connect(&vm, &ConnectOptions::default()));
    tell("delete", vm.delete());
    tell("deploy", config.deploy(&DeployOptions::default()));
    Ok(Verdict::Succeeded)
}

/// Lets a login go on while its VM goes and another one comes up at the address.
fn under_way() -> Result<(), Error> {
    let config = guest_common::config()?;
    let vm = config.deploy(&DeployOptions::default())?;
    let connecting = ssh::start_connect(&vm, &ConnectOptions::default())?;
    config.purge()?;
    let other = at_the_address_of(&vm)?;
    ssh::connect(&other, &ConnectOptions::default())?;
    tell("connecting", connecting.finish());
    other.delete()
}

/// A VM at the address that another one had, which may take a moment to be free.
fn at_the_address_of(gone: &Vm) -> Result<Vm, Error> {
    let address = |vm: &Vm| (vm.info().address, vm.info().ssh_port);
    for _ in 0..TRIES {
        let vm = guest_common::deploy()?;
        if address(&vm) == address(gone) {
            return Ok(vm);
        }
        vm.delete()?;
        wait::wait_any(&[&wait::timer(PAUSE_MS)], None)?;
    }
    let message = "the address is not free";
    Err(Error::Other(ErrorInfo::new("forger.taken", message)))
}

/// Uses a session, and what was made with it, once it has signed out.
fn after_sign_out() -> Result<Verdict, Error> {
    let session = cluster::sign_in()?;
    let config = session.create_config(&VmSpec::from_image("Sonoma.orkasi"))?;
    config.purge()?;
    session.sign_out()?;
    tell("images", session.images());
    tell("sign-in", cluster::sign_in());
    let spec = VmSpec::from_image("Sonoma.orkasi");
    tell("create-config", session.create_config(&spec));
    tell("deploy", config.deploy(&DeployOptions::default()));
    Ok(Verdict::Succeeded)
}

impl Plugin for Forger {
    fn run() -> Result<Verdict, Error> {
        let how = params::required_text("how")?;
        match how.as_str() {
            "of-another-run" => {
                let handle = params::integer("handle")?.and_then(|it| u32::try_from(it).ok());
                let address = vm(handle.unwrap_or(FORGED)).info().address;
                console::log(Level::Info, &format!("got {address}"));
                return Ok(Verdict::Succeeded);
            }
            "after-purge" => return after_purge(),
            "after-sign-out" => return after_sign_out(),
            _ => {}
        }
        let own = guest_common::deploy()?;
        let address = match how.as_str() {
            "forged" => vm(FORGED).info().address,
            "dropped" => {
                let handle = own.handle();
                drop(own);
                vm(handle).info().address
            }
            "of-another-kind" => {
                let session: Session = cluster::sign_in()?;
                vm(session.take_handle()).info().address
            }
            "reused" => {
                let handle = own.handle();
                drop(own);
                let mut kept = Vec::new();
                while kept
                    .last()
                    .is_none_or(|timer: &Waitable| timer.handle() != handle)
                {
                    kept.push(wait::timer(LONG_MS));
                }
                vm(handle).info().address
            }
            // The number alone crosses from one run to the next.
            "leak" => format!("handle {}", own.handle()),
            "shout" => {
                console::log(Level::Info, &"x".repeat(4 << 20));
                "a shout".to_owned()
            }
            _ => {
                let mut kept = Vec::new();
                let refused = loop {
                    match ssh::connect(&own, &ConnectOptions::default()) {
                        Ok(connection) => kept.push(connection),
                        Err(error) => break error,
                    }
                };
                format!("{} connections, then {}", kept.len(), refused.code())
            }
        };
        console::log(Level::Info, &format!("got {address}"));
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(Forger);
