//! What a test's cluster and VMs do.

use std::collections::BTreeMap;
use std::time::Duration;

use orka_step::bindings::orka::plugin::types::{Exit, ExitSignal};
use orka_step::failure::Failure;
use orka_step::grants::GrantsFile;
use orka_step::limits::Limits;
use orka_step::outcome::StopSignal;
use secrecy::SecretString;

/// How a program that the plugin runs behaves.
#[derive(Clone, Debug)]
pub struct ExecReply {
    pub(crate) acts: Vec<Act>,
    pub(crate) after: Duration,
    pub(crate) end: End,
    pub(crate) writes: Vec<(String, Vec<u8>)>,
}

/// What a program does before its end.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Pause(Duration),
    LoseConnection(Duration),
}

#[derive(Clone, Debug)]
pub(crate) enum End {
    Exit(Exit),
    Lost,
    Never,
}

impl ExecReply {
    /// Ends at once with this status.
    pub fn exit(status: u32) -> Self {
        Self {
            acts: Vec::new(),
            after: Duration::ZERO,
            end: End::Exit(Exit::Status(status)),
            writes: Vec::new(),
        }
    }

    /// Is ended by this signal, named without `SIG`.
    pub fn signal(name: &str) -> Self {
        let signal = ExitSignal {
            name: name.to_owned(),
            core_dumped: false,
        };
        Self {
            end: End::Exit(Exit::Signal(signal)),
            ..Self::exit(0)
        }
    }

    /// The connection breaks while it runs.
    pub fn lost() -> Self {
        Self {
            end: End::Lost,
            ..Self::exit(0)
        }
    }

    /// Runs for ever.
    pub fn never_ends() -> Self {
        Self {
            end: End::Never,
            ..Self::exit(0)
        }
    }

    /// Writes to standard output first.
    #[must_use]
    pub fn stdout(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.acts.push(Act::Stdout(text.into()));
        self
    }

    /// Writes to standard error first.
    #[must_use]
    pub fn stderr(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.acts.push(Act::Stderr(text.into()));
        self
    }

    /// Then prints nothing for so long.
    #[must_use]
    pub fn silent_for(mut self, duration: Duration) -> Self {
        self.acts.push(Act::Pause(duration));
        self
    }

    /// Then the connection is lost, and could be made again after so long. A program that is not detached goes with it.
    #[must_use]
    pub fn loses_connection_for(mut self, duration: Duration) -> Self {
        self.acts.push(Act::LoseConnection(duration));
        self
    }

    /// Takes so long on the virtual clock.
    #[must_use]
    pub fn after(mut self, duration: Duration) -> Self {
        self.after = duration;
        self
    }

    /// Leaves a file in the VM, its path relative to the home directory.
    #[must_use]
    pub fn writes(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.writes.push((path.to_owned(), contents.into()));
        self
    }
}

/// A test's set-up: parameters, the workspace, and how cluster and VMs behave.
#[derive(Debug)]
pub struct Scenario {
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) script: Option<Vec<u8>>,
    pub(crate) workspace: Option<BTreeMap<String, Vec<u8>>>,
    pub(crate) secrets: BTreeMap<String, SecretString>,
    pub(crate) grants: Option<GrantsFile>,
    pub(crate) limits: Limits,
    pub(crate) timeout: Duration,
    pub(crate) stop: Option<(Duration, StopSignal)>,
    pub(crate) orka3: bool,
    pub(crate) deploy_time: Duration,
    pub(crate) boot_time: Duration,
    pub(crate) execs: Vec<(String, ExecReply)>,
    pub(crate) failures: Vec<(String, usize, Failure)>,
    pub(crate) lost_deploy: Option<(u16, Duration)>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self::new()
    }
}

impl Scenario {
    /// A healthy Orka 2 cluster, an empty workspace, an hour's time, and no program that is expected to run.
    pub fn new() -> Self {
        Self {
            params: BTreeMap::new(),
            script: None,
            workspace: Some(BTreeMap::new()),
            secrets: BTreeMap::new(),
            grants: None,
            limits: Limits::default(),
            timeout: Duration::from_secs(3600),
            stop: None,
            orka3: false,
            deploy_time: Duration::from_secs(5),
            boot_time: Duration::from_secs(20),
            execs: Vec::new(),
            failures: Vec::new(),
            lost_deploy: None,
        }
    }

    /// Gives a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Gives the script as a file of its own, as `orka-step run SCRIPT` does.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.script = Some(script.into());
        self
    }

    /// Puts a file into the workspace.
    #[must_use]
    pub fn file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.workspace
            .get_or_insert_default()
            .insert(path.to_owned(), contents.into());
        self
    }

    /// Runs without a workspace.
    #[must_use]
    pub fn without_workspace(mut self) -> Self {
        self.workspace = None;
        self
    }

    /// Gives a secret.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets
            .insert(name.to_owned(), SecretString::from(value.to_owned()));
        self
    }

    /// Grants what this file grants, instead of all that the plugin asks for.
    #[must_use]
    pub fn grants(mut self, file: GrantsFile) -> Self {
        self.grants = Some(file);
        self
    }

    /// Changes the sandbox's limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Changes the run's own deadline.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Stops the run after so long, as a cancelled TaskRun does.
    #[must_use]
    pub fn stopped_after(mut self, after: Duration, signal: StopSignal) -> Self {
        self.stop = Some((after, signal));
        self
    }

    /// Lets the cluster be one of Orka 3.
    #[must_use]
    pub fn on_orka3(mut self) -> Self {
        self.orka3 = true;
        self
    }

    /// Changes how long a VM takes from its deployment until SSH answers; 20 s if not given.
    #[must_use]
    pub fn boot_time(mut self, boot_time: Duration) -> Self {
        self.boot_time = boot_time;
        self
    }

    /// Expects a program, by the name the plugin gives it. Each expectation serves one call, in order; the last one of a
    /// name serves all further calls.
    #[must_use]
    pub fn on_exec(mut self, program: &str, reply: ExecReply) -> Self {
        self.execs.push((program.to_owned(), reply));
        self
    }

    /// Lets the answer to a deployment be lost, the first being 1; its VM appears so long after the request.
    #[must_use]
    pub fn deploy_reply_lost(mut self, occurrence: u16, appears_after: Duration) -> Self {
        self.lost_deploy = Some((occurrence, appears_after));
        self
    }

    /// Lets a call fail, by its name in [`Report::calls`](crate::Report::calls) without arguments; `occurrence` counts
    /// from 1, and 0 means every time.
    #[must_use]
    pub fn fails(mut self, call: &str, occurrence: usize, failure: Failure) -> Self {
        self.failures.push((call.to_owned(), occurrence, failure));
        self
    }
}

/// Decides which calls fail, by counting them.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<(String, usize, Failure)>,
    seen: BTreeMap<String, usize>,
}

impl Faults {
    pub(crate) fn new(rules: &[(String, usize, Failure)]) -> Self {
        Self {
            rules: rules.to_vec(),
            seen: BTreeMap::new(),
        }
    }

    /// Counts a call and fails it if a rule says so.
    pub(crate) fn check(&mut self, call: &str) -> Result<(), Failure> {
        let seen = self.seen.entry(call.to_owned()).or_default();
        *seen += 1;
        let rule = self
            .rules
            .iter()
            .find(|(name, occurrence, _)| name == call && (*occurrence == 0 || occurrence == seen));
        rule.map_or(Ok(()), |(_, _, failure)| Err(failure.clone()))
    }
}
