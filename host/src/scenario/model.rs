//! What a test's cluster and VMs do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plugin_manifest::Manifest;
use secrecy::SecretString;

use crate::bindings::orka::plugin::cluster::Node;
use crate::bindings::orka::plugin::types::{Exit, ExitSignal};
use crate::failure::Failure;
use crate::grants::GrantsFile;
use crate::guard::GuardSource;
use crate::limits::Limits;
use crate::outcome::StopSignal;

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

/// A text in which `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub(crate) String);

impl Pattern {
    /// Reads a pattern; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether `text` is one of those that the pattern stands for.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// How many calls an expectation serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// So many, and all of them must come.
    Exactly(u32),
    /// Any number, none included.
    Any,
    /// One; or, for the last expectation of a program, all further calls. None need come.
    LastServesAll,
}

/// A program that a plugin is expected to run.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) program: Pattern,
    /// None takes any arguments.
    pub(crate) arguments: Option<Vec<Pattern>>,
    pub(crate) times: Times,
    pub(crate) reply: ExecReply,
}

impl Expected {
    pub(crate) fn fits(&self, program: &str, arguments: &[String]) -> bool {
        let fits = |wanted: &Vec<Pattern>| {
            wanted.len() == arguments.len()
                && wanted
                    .iter()
                    .zip(arguments)
                    .all(|(pattern, argument)| pattern.matches(argument))
        };
        self.program.matches(program) && self.arguments.as_ref().is_none_or(fits)
    }

    /// As a line for people.
    pub(crate) fn line(&self) -> String {
        let arguments = match &self.arguments {
            None => "…".to_owned(),
            Some(arguments) => arguments
                .iter()
                .map(|argument| argument.0.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        };
        format!("{} {arguments}", self.program.0)
            .trim_end()
            .to_owned()
    }
}

/// What the operator grants in a test.
#[derive(Clone, Debug)]
pub(crate) enum Granted {
    /// What this file grants.
    ByFile(Arc<GrantsFile>),
    /// What the one entry of this file grants: it is said of the plugin that is tested, unless it names another or all.
    ByEntry {
        /// The entry.
        file: Arc<GrantsFile>,
        /// Whether it names a plugin.
        names_one: bool,
    },
}

impl Granted {
    /// The file for a run of this plugin.
    pub(crate) fn file(&self, manifest: &Manifest, digest: &str) -> Cow<'_, GrantsFile> {
        match self {
            Self::ByFile(file) => Cow::Borrowed(file),
            // Whoever writes the name means this one, wherever its file is; a digest says which is meant by itself.
            Self::ByEntry { file, names_one } => {
                if !names_one || file.is_of_name(&manifest.name) {
                    Cow::Owned(file.said_of(manifest, digest))
                } else {
                    Cow::Borrowed(file)
                }
            }
        }
    }
}

/// A test's set-up: parameters, the workspace, and how cluster and VMs behave.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) script: Option<Vec<u8>>,
    pub(crate) workspace: Option<BTreeMap<String, Vec<u8>>>,
    pub(crate) secrets: BTreeMap<String, SecretString>,
    pub(crate) grants: Option<Granted>,
    pub(crate) guards: Vec<GuardSource>,
    pub(crate) limits: Limits,
    pub(crate) timeout: Duration,
    pub(crate) stop: Option<(Duration, StopSignal)>,
    pub(crate) orka3: bool,
    pub(crate) deploy_time: Duration,
    pub(crate) boot_time: Duration,
    pub(crate) images: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) execs: Vec<Expected>,
    pub(crate) failures: Vec<(String, usize, Failure)>,
    pub(crate) lost_deploys: BTreeMap<u16, Duration>,
    pub(crate) seed: u64,
    pub(crate) began: jiff::Timestamp,
    pub(crate) show_debug: bool,
}

/// When runs begin on the virtual calendar, if nothing else is said: 2026-01-01T00:00:00Z.
const BEGAN_SECONDS: i64 = 1_767_225_600;

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
            guards: Vec::new(),
            limits: Limits::default(),
            timeout: Duration::from_secs(3600),
            stop: None,
            orka3: false,
            deploy_time: Duration::from_secs(5),
            boot_time: Duration::from_secs(20),
            images: vec!["sonoma.orkasi".to_owned(), "monterey.img".to_owned()],
            nodes: vec![node("mini-1"), node("mini-2")],
            execs: Vec::new(),
            failures: Vec::new(),
            lost_deploys: BTreeMap::new(),
            seed: 0,
            began: jiff::Timestamp::from_second(BEGAN_SECONDS).unwrap_or_default(),
            show_debug: false,
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

    /// What the cluster's list of images has.
    #[must_use]
    pub fn images(mut self, names: &[&str]) -> Self {
        self.images = names.iter().map(|name| (*name).to_owned()).collect();
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
        self.grants = Some(Granted::ByFile(Arc::new(file)));
        self
    }

    /// Asks the guard of this file with this configuration, after those named before.
    #[must_use]
    pub fn guard(mut self, file: &Path, config: &str) -> Self {
        let source = GuardSource::of_file(file.to_owned(), Some(config));
        self.guards.push(source);
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
        self.execs.push(Expected {
            program: Pattern::new(program),
            arguments: None,
            times: Times::LastServesAll,
            reply,
        });
        self
    }

    /// Expects a program with exactly these arguments, in which `*` stands for any text; so many times, no more and no less.
    #[must_use]
    pub fn on_exec_with(
        mut self,
        program: &str,
        arguments: &[&str],
        times: u32,
        reply: ExecReply,
    ) -> Self {
        self.execs.push(Expected {
            program: Pattern::new(program),
            arguments: Some(arguments.iter().copied().map(Pattern::new).collect()),
            times: Times::Exactly(times),
            reply,
        });
        self
    }

    /// Changes what the plugin's random numbers are made from; they are the same in every run of one seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Lets the answer to a deployment be lost, the first being 1; its VM appears so long after the request.
    #[must_use]
    pub fn deploy_reply_lost(mut self, occurrence: u16, appears_after: Duration) -> Self {
        self.lost_deploys.insert(occurrence, appears_after);
        self
    }

    /// Lets a call fail, by its name in [`Report::calls`](super::Report::calls) without arguments; `occurrence` counts
    /// from 1, and 0 means every time.
    #[must_use]
    pub fn fails(mut self, call: &str, occurrence: usize, failure: Failure) -> Self {
        self.failures.push((call.to_owned(), occurrence, failure));
        self
    }
}

/// A node with room.
pub(crate) fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        ready: true,
        cpu_available: Some(12),
        cpu_total: Some(12),
        tags: Vec::new(),
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
        match rule_for(&self.rules, call, *seen) {
            Some(position) => Err(self.rules[position].2.clone()),
            None => Ok(()),
        }
    }
}

/// Rules of [`Faults`] by which none of these calls failed, in words for people.
pub(crate) fn not_reached(rules: &[(String, usize, Failure)], calls: &[String]) -> Vec<String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reached = vec![false; rules.len()];
    for call in calls {
        let name = call.split(' ').next().unwrap_or_default();
        let seen = seen.entry(name).or_default();
        *seen += 1;
        if let Some(position) = rule_for(rules, name, *seen) {
            reached[position] = true;
        }
    }
    let told = |(call, occurrence, _): &(String, usize, Failure)| {
        let number = match occurrence {
            0 => String::new(),
            number => format!(" number {number}"),
        };
        let why = match seen.get(call.as_str()) {
            None => "there was no such call".to_owned(),
            Some(count) if count < occurrence => format!("there were no more than {count}"),
            Some(_) => "another of `failures` comes before it".to_owned(),
        };
        format!("`{call}`{number}: {why}")
    };
    let rules = rules.iter().zip(reached);
    rules
        .filter(|(_, reached)| !reached)
        .map(|(rule, _)| told(rule))
        .collect()
}

/// The first rule for this call, the `seen`th of its name.
fn rule_for(rules: &[(String, usize, Failure)], call: &str, seen: usize) -> Option<usize> {
    rules
        .iter()
        .position(|(name, occurrence, _)| name == call && (*occurrence == 0 || *occurrence == seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, fits, does_not) in [
            ("make", "make", "make ipa"),
            ("*", "anything", "\u{0}never"),
            ("-scheme*", "-scheme App", "scheme"),
            ("*.ipa", "a.ipa", "a.ipa.txt"),
            ("a*b*c", "a-b-b-c", "a-c-b"),
            ("a*a", "aa", "a"),
        ] {
            assert!(Pattern::new(pattern).matches(fits), "{pattern} {fits}");
            if pattern != "*" {
                assert!(
                    !Pattern::new(pattern).matches(does_not),
                    "{pattern} {does_not}"
                );
            }
        }
    }

    #[test]
    fn a_failure_that_no_call_came_to_is_told_with_the_reason() {
        let failure = || Failure::internal("it fails");
        let rules = [
            ("connect".to_owned(), 2, failure()),
            ("connect".to_owned(), 5, failure()),
            ("exec".to_owned(), 0, failure()),
            ("exec".to_owned(), 1, failure()),
            ("list".to_owned(), 0, failure()),
        ];
        let calls = ["connect", "connect", "exec make ipa"].map(str::to_owned);
        assert_eq!(
            not_reached(&rules, &calls),
            [
                "`connect` number 5: there were no more than 2",
                "`exec` number 1: another of `failures` comes before it",
                "`list`: there was no such call",
            ]
        );
    }

    #[test]
    fn arguments_fit_one_by_one() {
        let scenario = Scenario::new().on_exec_with("make", &["-j*", "ipa"], 1, ExecReply::exit(0));
        let expected = &scenario.execs[0];
        let fits = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            expected.fits("make", &arguments)
        };
        assert!(fits(&["-j8", "ipa"]));
        assert!(!fits(&["-j8"]) && !fits(&["-j8", "dmg"]) && !fits(&["-j8", "ipa", "x"]));
    }
}
