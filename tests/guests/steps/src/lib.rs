//! Makes a whole build, step by step, and misbehaves at the step it is told.

use orka_plugin_sdk::cluster::{self, DeployOptions, VmSpec};
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::ssh::{self, ConnectOptions, ExecOptions, TransferOptions};
use orka_plugin_sdk::{Error, ErrorInfo, Plugin, Verdict, clock, params, workspace};

const IMAGE: &str = "Sonoma.orkasi";
const REMOTE_WORKSPACE: &str = "workspace/orka";
const REMOTE_SCRIPT: &str = "workspace/build-script";

/// Pause between looks for the file that lets it go on.
const LOOK_PAUSE_MS: u64 = 3;

/// Why it goes no further: what it was told to do, or what a call said.
enum Halt {
    Return,
    Error(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

struct Steps {
    at: String,
    moment: String,
    act: String,
}

impl Steps {
    fn step<T>(&self, call: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Halt> {
        self.reached(call, "before")?;
        let made = work()?;
        self.reached(call, "after")?;
        Ok(made)
    }

    fn reached(&self, call: &str, moment: &str) -> Result<(), Halt> {
        if self.at != call || self.moment != moment {
            return Ok(());
        }
        // Whoever plays with it sees that it has come so far; without a workspace there is nobody.
        if workspace::available() {
            workspace::write("at", b"")?;
        }
        match self.act.as_str() {
            "return" => Err(Halt::Return),
            "error" => Err(Halt::Error(Error::Other(ErrorInfo::new(
                "steps.told-to",
                format!("told to fail {moment} {call}"),
            )))),
            "trap" => give_up(),
            "spin" => loop {
                core::hint::spin_loop();
            },
            _ => {
                wait();
                Ok(())
            }
        }
    }

    fn build(&self) -> Result<Verdict, Halt> {
        let session = self.step("sign-in", cluster::sign_in)?;
        let config = self.step("create-config", || {
            session.create_config(&VmSpec::from_image(IMAGE))
        })?;
        let vm = self.step("deploy", || config.deploy(&DeployOptions::default()))?;
        let connection = self.step("connect", || ssh::connect(&vm, &ConnectOptions::default()))?;
        self.step("upload", || {
            connection.upload("", REMOTE_WORKSPACE, &TransferOptions::default())
        })?;
        let script = params::required_text("script")?;
        self.step("write-file", || {
            connection.write_file(REMOTE_SCRIPT, script.as_bytes(), 0o755)
        })?;
        let options = ExecOptions {
            cwd: Some(REMOTE_WORKSPACE.to_owned()),
            ..ExecOptions::default()
        };
        let command = self.step("exec", || {
            connection.exec("sh", &["../build-script".to_owned()], &options)
        })?;
        let exit = self.step("wait", || {
            loop {
                if let Some(exit) = command.wait(None)? {
                    return Ok(exit);
                }
            }
        })?;
        let built = TransferOptions {
            include: vec!["out.txt".to_owned()],
            ..TransferOptions::default()
        };
        self.step("download", || {
            connection.download(REMOTE_WORKSPACE, "back", &built)
        })?;
        // As the bundled plugin does: the host tries both again, and the build is done.
        self.step("purge", || warned(config.purge()))?;
        self.step("sign-out", || warned(session.sign_out()))?;
        Ok(Verdict::from(exit))
    }
}

fn warned<T>(result: Result<T, Error>) -> Result<(), Error> {
    if let Err(error) = result {
        console::log(Level::Warn, &error.info().message);
    }
    Ok(())
}

/// Goes on once it may. Told that the run is over it goes on as well: what it does next is to be refused.
fn wait() {
    while workspace::read("go").is_err_and(|error| !error.is_final()) {
        if clock::sleep(LOOK_PAUSE_MS).is_err() {
            return;
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn give_up() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn give_up() -> ! {
    std::process::abort()
}

impl Plugin for Steps {
    fn run() -> Result<Verdict, Error> {
        let text = |name: &str| Ok::<_, Error>(params::text(name)?.unwrap_or_default());
        let steps = Self {
            at: text("at")?,
            moment: text("moment")?,
            act: text("act")?,
        };
        match steps.build() {
            Ok(verdict) => Ok(verdict),
            Err(Halt::Return) => Ok(Verdict::Succeeded),
            Err(Halt::Error(error)) => Err(error),
        }
    }
}

orka_plugin_sdk::register!(Steps);
