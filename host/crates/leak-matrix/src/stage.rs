//! The cluster and the workspace of one build, and what is done when the guest has reached its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orka_sim::{FaultAction, FaultRule, Generation, Sim, SimConfig, State};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::axes::{Call, Cell, Fault, Moment, World};

/// Pause between looks for what somebody else has done.
const LOOK_PAUSE: Duration = Duration::from_millis(4);

/// How long an answer is held back: longer than any build of the matrix takes.
const HELD_MS: u64 = 600_000;

/// How long the API refuses connections; the client tries for longer.
const REFUSED_FOR: Duration = Duration::from_millis(250);

/// How long to wait for the end of what the cluster still does.
const SETTLED_WITHIN: Duration = Duration::from_millis(500);

/// Where the script runs, seen from the VM's home directory.
const REMOTE_WORKSPACE: &str = "workspace/orka";

/// A cluster and a workspace.
pub(crate) struct Stage {
    pub(crate) cell: Cell,
    pub(crate) sim: Sim,
    scratch: TempDir,
}

impl Stage {
    pub(crate) async fn set(cell: Cell) -> Self {
        let (generation, version) = match cell.world {
            World::Orka210 => (Generation::Two, "2.1.0"),
            World::Orka240 => (Generation::Two, "2.4.0"),
            World::Orka3 => (Generation::Three, ""),
        };
        let sim = Sim::start(SimConfig {
            generation,
            api_version: version.to_owned(),
            ..SimConfig::default()
        })
        .await
        .unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for directory in ["workspace", "results"] {
            std::fs::create_dir(scratch.path().join(directory)).unwrap();
        }
        std::fs::write(scratch.path().join("workspace/main.c"), "int main;").unwrap();
        Self { cell, sim, scratch }
    }

    /// A file or directory of this build.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The variables with everything that is secret, and where the endpoint is.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let config = self.sim.config();
        let mut variables = vec![
            ("ORKA_API", self.sim.url()),
            ("SSH_USERNAME", config.guest_user.clone()),
            ("SSH_PASSWORD", config.guest_password.clone()),
        ];
        if config.generation == Generation::Three {
            variables.push(("ORKA_TOKEN", config.sa_tokens[0].token.clone()));
        } else {
            variables.push(("ORKA_EMAIL", config.users[0].email.clone()));
            variables.push(("ORKA_PASSWORD", config.users[0].password.clone()));
        }
        variables
    }

    /// The parameters of the guest.
    pub(crate) fn params(&self) -> Vec<(&'static str, String)> {
        let moment = match self.cell.moment {
            Moment::Before | Moment::During => "before",
            Moment::After => "after",
        };
        let script = if self.is_in_the_script() {
            "touch began; sleep 600 & wait"
        } else {
            "echo built >out.txt"
        };
        vec![
            ("at", self.cell.call.to_string()),
            ("moment", moment.to_owned()),
            ("act", self.cell.fault.act().to_owned()),
            ("script", script.to_owned()),
        ]
    }

    fn is_in_the_script(&self) -> bool {
        (self.cell.call, self.cell.moment) == (Call::Wait, Moment::During)
    }

    /// Whether the guest has reached its call.
    pub(crate) fn is_at_call(&self) -> bool {
        self.path("workspace/at").exists()
    }

    /// Returns once the guest is at the very place: before or after its call, or held up in the middle of it.
    pub(crate) async fn reached(&self) {
        until(|| self.is_at_call()).await;
        if self.cell.moment != Moment::During {
            return;
        }
        let before = Fingerprint::of(&self.sim.state());
        let held = self.cell.call.request(self.cell.world);
        if let Some((method, path)) = held {
            let hold = FaultAction::DelayReply { ms: HELD_MS };
            self.sim
                .add_fault(FaultRule::new(method, path, hold).times(1));
        }
        self.go_on();
        if self.is_in_the_script() {
            let script = || {
                let vms = self.sim.state().vms;
                vms.iter().any(|vm| began(&vm.home))
            };
            return until(script).await;
        }
        let (method, path) = held.unwrap();
        until(|| {
            let state = self.sim.state();
            let asked = state
                .requests_to(method, path)
                .iter()
                .any(|request| request.status.is_none());
            // A login that only looks changes nothing.
            let looks = method == "GET";
            asked && (looks || Fingerprint::of(&state) != before)
        })
        .await;
    }

    /// Does what the cluster or the network does to this build, and lets the guest go on. Says whether there was anything
    /// to be struck: on a slow machine the build may have been over a moment ago.
    pub(crate) fn strike(&self) -> bool {
        let rule = |action| FaultRule::new("*", "*", action).times(1);
        let struck = match self.cell.fault {
            Fault::ApiTimeout => Some(FaultAction::Hang),
            Fault::Api500 => Some(FaultAction::Error {
                status: 500,
                message: "Internal Server Error".to_owned(),
            }),
            Fault::ReplyLost => Some(FaultAction::CloseAfter),
            Fault::Refused => {
                self.sim.refuse_connections_for(REFUSED_FOR);
                None
            }
            Fault::SshDropped => {
                if self.sim.cut_ssh() == 0 {
                    return false;
                }
                None
            }
            Fault::SshFrozen => {
                if self.sim.freeze_ssh() == 0 {
                    return false;
                }
                None
            }
            _ => None,
        };
        if let Some(action) = struck {
            self.sim.add_fault(rule(action));
        }
        if self.cell.fault != Fault::Deadline {
            self.go_on();
        }
        true
    }

    fn go_on(&self) {
        std::fs::write(self.path("workspace/go"), "").unwrap();
    }

    /// The cluster once it has done all that it was asked, but for requests that are never answered.
    pub(crate) async fn settled(&self) -> State {
        let started = Instant::now();
        loop {
            let state = self.sim.state();
            let busy = state
                .requests
                .iter()
                .any(|request| request.status.is_none());
            if !busy || started.elapsed() > SETTLED_WITHIN {
                return state;
            }
            sleep(LOOK_PAUSE).await;
        }
    }
}

fn began(home: &Path) -> bool {
    home.join(REMOTE_WORKSPACE).join("began").exists()
}

/// What a request that does something changes.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    vms: usize,
    configs: usize,
    live_tokens: usize,
    deletions: usize,
}

impl Fingerprint {
    fn of(state: &State) -> Self {
        Self {
            vms: state.vms.iter().filter(|vm| vm.phase == "Running").count(),
            configs: state.configs.len(),
            live_tokens: state.live_tokens(),
            deletions: state.deletions.len(),
        }
    }
}

/// Returns once it is so.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(LOOK_PAUSE).await;
    }
}
