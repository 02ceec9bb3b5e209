//! Uses the helpers of the SDK as it is told.

use std::time::Duration;

use orka_plugin_sdk::cluster::{self, DeployOptions, Session, Vm, VmSpec};
use orka_plugin_sdk::ssh::{self, Connection, ExecOptions};
use orka_plugin_sdk::{Error, ErrorInfo, Exit, Plugin, Retry, Verdict, params, retry, with_vm};

const IMAGE: &str = "Sonoma.orkasi";
const POLICY: Retry = Retry::attempts(4).pausing(Duration::from_secs(10), Duration::from_secs(15));
const KEPT_MS: u64 = 60_000;

struct Helpers;

impl Plugin for Helpers {
    fn run() -> Result<Verdict, Error> {
        match params::required_text("helper")?.as_str() {
            "retry" => {
                retry("signing in", POLICY, |_| cluster::sign_in())?;
                Ok(Verdict::Succeeded)
            }
            "retry-when-full" => {
                let config = cluster::sign_in()?.create_config(&VmSpec::from_image(IMAGE))?;
                let policy = POLICY.after(|error| matches!(error, Error::NoCapacity(_)));
                retry("deploying", policy, |_| {
                    config.deploy(&DeployOptions::default())
                })?;
                Ok(Verdict::Succeeded)
            }
            _ => in_a_vm(&cluster::sign_in()?).map(Verdict::from),
        }
    }
}

fn in_a_vm(session: &Session) -> Result<Exit, Error> {
    let spec = VmSpec::from_image(IMAGE);
    with_vm(session, &spec, &DeployOptions::default(), work)
}

fn work(vm: &Vm, connection: &Connection) -> Result<Exit, Error> {
    match params::required_text("work")?.as_str() {
        "fail" => Err(Error::Other(ErrorInfo::new(
            "helpers.told-to",
            "told to fail",
        ))),
        "keep" => {
            vm.keep(KEPT_MS, "told to")?;
            ssh::run(connection, "make", &[], &ExecOptions::default())
        }
        _ => ssh::run(connection, "make", &[], &ExecOptions::default()),
    }
}

orka_plugin_sdk::register!(Helpers);
