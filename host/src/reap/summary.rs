//! What a pass did: a table for people, JSON for programs, the exit code for both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::config::{Finished, NamedRun, ReapConfig};
use super::name::{Name, is_hash};
use super::plan::{Entry, Plan, Reason, rough};
use crate::bindings::orka::plugin::cluster::{Facts, Generation};
use crate::console::{Console, seconds};
use crate::failure::Failure;
use crate::outcome::{self, EXIT_LEFTOVERS, StopSignal};
use crate::report;

/// The form of the JSON; raised when a member changes its meaning.
const SCHEMA: u32 = 1;

/// What came of one name that was to be deleted.
#[derive(Clone, Debug)]
pub enum Done {
    /// Deleted, and the cluster lists nothing of it any more.
    Deleted,
    /// Somebody else had deleted it.
    AlreadyGone,
    /// It may still exist.
    Remains {
        /// Why.
        failure: Failure,
        /// How a person deletes it.
        command: String,
    },
}

/// One pass.
#[derive(Debug)]
pub struct Summary {
    prefix: String,
    runs: Option<Vec<NamedRun>>,
    dry_run: bool,
    cluster: Option<Facts>,
    started: Instant,
    started_at: Timestamp,
    entries: BTreeMap<String, (Entry, Option<Done>)>,
    foreign: BTreeSet<String>,
    /// What kept the pass from being made, or made whole.
    pub failures: Vec<Failure>,
    signal: Option<StopSignal>,
}

impl Summary {
    /// A pass that begins.
    pub(super) fn new(config: &ReapConfig) -> Self {
        let runs = match &config.finished {
            Finished::Runs(runs) => Some(runs.clone()),
            Finished::WithoutLivePods(_) => None,
        };
        Self {
            prefix: config.prefix.clone(),
            runs,
            dry_run: config.dry_run,
            ..Self::not_started(Vec::new())
        }
    }

    /// Runs of which nothing was found and whose UID looks like what stands in names, in words: a hash or a whole name would
    /// have to be given otherwise.
    pub fn odd_uids(&self) -> Vec<String> {
        if self.cluster.is_none() {
            return Vec::new();
        }
        let was_found = |hash: &str| {
            let mut entries = self.entries.values();
            entries.any(|(entry, _)| entry.item.run_hash == hash)
        };
        let runs = self.runs.iter().flatten();
        let lost = runs.filter(|run| !was_found(&run.hash));
        lost.filter_map(|run| {
            let uid = run.uid.as_deref()?;
            let (what, hash) = if is_hash(uid) {
                ("the hash of a run", uid)
            } else {
                ("a name", Name::parse(&self.prefix, uid)?.run_hash)
            };
            Some(format!(
                "nothing was found of a run with the UID `{uid}`, which looks like {what}\n\
                 hint: if it is one, give `--run-hash {hash}`"
            ))
        })
        .collect()
    }

    /// A pass that could not begin.
    pub fn not_started(failures: Vec<Failure>) -> Self {
        Self {
            prefix: String::new(),
            runs: None,
            dry_run: false,
            cluster: None,
            started: Instant::now(),
            started_at: Timestamp::now(),
            entries: BTreeMap::new(),
            foreign: BTreeSet::new(),
            failures,
            signal: None,
        }
    }

    pub(super) fn cluster(&mut self, facts: &Facts) {
        self.cluster = Some(facts.clone());
    }

    /// Notes what is to become of everything listed. What is listed again is not gone.
    pub(super) fn planned(&mut self, plan: &Plan) {
        for entry in &plan.entries {
            self.entries
                .insert(entry.item.name.clone(), (entry.clone(), None));
        }
        self.foreign.extend(plan.foreign.iter().cloned());
    }

    pub(super) fn done(&mut self, name: &str, done: Done) {
        if let Some((_, slot)) = self.entries.get_mut(name) {
            *slot = Some(done);
        }
    }

    /// Notes that what was to be deleted is left after all.
    pub(super) fn in_use(&mut self, name: &str) {
        if let Some((entry, _)) = self.entries.get_mut(name) {
            entry.reason = Reason::InUse;
        }
    }

    pub(super) fn end(&mut self, signal: Option<StopSignal>) {
        self.signal = signal;
    }

    /// Whether something that was to be deleted may still exist.
    pub fn remains(&self) -> bool {
        !self.dry_run && self.names(Word::Remains).next().is_some()
    }

    /// Names that came to this end.
    fn names(&self, word: Word) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(move |(_, (entry, done))| self.word(entry, done.as_ref()) == word)
            .map(|(name, _)| name.as_str())
    }

    /// Names of what was deleted, by this pass or by somebody else meanwhile.
    pub fn deleted(&self) -> Vec<&str> {
        let gone = self.names(Word::AlreadyGone);
        self.names(Word::Deleted).chain(gone).collect()
    }

    /// 0 if nothing is left that was to be deleted; 219 if something may be; otherwise by what went wrong.
    pub fn exit_code(&self) -> u8 {
        if let Some(signal) = self.signal {
            return signal.exit_code();
        }
        match self.failures.iter().map(|failure| failure.class).min() {
            Some(class) => outcome::of_class(class).1,
            None if self.remains() => EXIT_LEFTOVERS,
            None => 0,
        }
    }

    fn word(&self, entry: &Entry, done: Option<&Done>) -> Word {
        match done {
            _ if !entry.reason.deletes() => Word::Left,
            Some(Done::Deleted) => Word::Deleted,
            Some(Done::AlreadyGone) => Word::AlreadyGone,
            Some(Done::Remains { .. }) => Word::Remains,
            None if self.dry_run => Word::Planned,
            None => Word::Remains,
        }
    }

    /// Prints it on standard output.
    pub async fn print(&self, console: &Console, json: bool, verbose: bool) {
        if !json {
            console
                .data(&console.masker().told(&self.table(verbose)))
                .await;
            return;
        }
        match serde_json::to_string_pretty(&self.section(verbose)) {
            Ok(text) => console.data(&console.masker().mask(&text)).await,
            Err(error) => report::print_failure(
                console,
                &Failure::internal("the summary cannot be written as JSON").with_source(error),
            ),
        }
    }

    /// The summary for people: one line a name, and one for all.
    fn table(&self, verbose: bool) -> String {
        let mut text = String::new();
        for (entry, done) in self.entries.values() {
            if entry.reason == Reason::OtherRun && !verbose {
                continue;
            }
            let word = self.word(entry, done.as_ref());
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "{:<12} {} ({}): {}",
                word.as_str(),
                entry.item.name,
                described(entry),
                entry.reason
            );
            if let Some(Done::Remains { failure, command }) = done {
                for cause in std::iter::once(failure.to_string()).chain(failure.causes()) {
                    let _ = writeln!(text, "{:<12} caused by: {cause}", "");
                }
                let _ = writeln!(text, "{:<12} hint: delete it with `{command}`", "");
            }
        }
        if verbose {
            for name in &self.foreign {
                let name = crate::lines::printable(name.as_bytes());
                let _ = writeln!(text, "{:<12} {name}: it is not ours", "foreign");
            }
        }
        text.push_str(&self.closing());
        text
    }

    fn closing(&self) -> String {
        if self.entries.is_empty() && self.foreign.is_empty() && !self.failures.is_empty() {
            let took = seconds(self.started.elapsed());
            return format!("nothing was looked at or deleted, see the error ({took})");
        }
        let counts = self.counts();
        let mut parts = Vec::new();
        if self.dry_run {
            parts.push(format!("{} would be deleted", counts.planned));
        } else {
            parts.push(format!("{} deleted", counts.deleted));
            if counts.already_gone > 0 {
                parts.push(format!("{} gone already", counts.already_gone));
            }
            parts.push(format!("{} may still exist", counts.remaining));
        }
        parts.push(format!("{} left alone", counts.left));
        if counts.other_runs > 0 {
            parts.push(format!("{} of other runs", counts.other_runs));
        }
        parts.push(format!("{} not ours", counts.foreign));
        format!("{} ({})", parts.join(", "), seconds(self.started.elapsed()))
    }

    fn counts(&self) -> Counts {
        let count = |word| self.names(word).count();
        let of_others = |(entry, _): &&(Entry, Option<Done>)| entry.reason == Reason::OtherRun;
        let other_runs = self.entries.values().filter(of_others).count();
        Counts {
            deleted: count(Word::Deleted),
            already_gone: count(Word::AlreadyGone),
            planned: count(Word::Planned),
            remaining: count(Word::Remains),
            left: count(Word::Left) - other_runs,
            other_runs,
            foreign: self.foreign.len(),
        }
    }

    fn section(&self, verbose: bool) -> Section<'_> {
        let shown =
            |(entry, _): &&(Entry, Option<Done>)| verbose || entry.reason != Reason::OtherRun;
        Section {
            schema: SCHEMA,
            program: concat!("orka-step ", env!("CARGO_PKG_VERSION")),
            exit_code: self.exit_code(),
            dry_run: self.dry_run,
            started_at: self.started_at,
            duration_ms: crate::console::millis(self.started.elapsed()),
            prefix: &self.prefix,
            runs: self.runs.as_deref(),
            cluster: self.cluster.as_ref().map(|facts| ClusterSection {
                generation: match facts.generation {
                    Generation::Orka2 => 2,
                    Generation::Orka3 => 3,
                },
                api_version: facts.api_version.as_deref(),
                namespace: facts.namespace.as_deref(),
            }),
            counts: self.counts(),
            entries: self
                .entries
                .values()
                .filter(shown)
                .map(|(entry, done)| self.entry_section(entry, done.as_ref()))
                .collect(),
            foreign: verbose.then(|| self.foreign.iter().map(String::as_str).collect()),
            failures: self.failures.iter().map(FailureSection::new).collect(),
        }
    }

    fn entry_section<'a>(&self, entry: &'a Entry, done: Option<&'a Done>) -> EntrySection<'a> {
        let trouble = match done {
            Some(Done::Remains { failure, command }) => Some((failure, command)),
            _ => None,
        };
        EntrySection {
            name: &entry.item.name,
            run_hash: &entry.item.run_hash,
            pod_hash: &entry.item.pod_hash,
            vms: entry.item.vms,
            vm_config: entry.item.config,
            state: entry.item.state.as_deref(),
            node: entry.item.node.as_deref(),
            created_at: entry.item.created_at,
            age_seconds: entry.age.map(|age| age.as_secs()),
            kept_until: entry.kept_until,
            reason: entry.reason.code(),
            explanation: entry.reason.to_string(),
            result: self.word(entry, done).code(),
            failure: trouble.map(|(failure, _)| FailureSection::new(failure)),
            removal_command: trouble.map(|(_, command)| command.as_str()),
        }
    }
}

/// What a name came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Deleted,
    AlreadyGone,
    Planned,
    Remains,
    Left,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyGone => "gone",
            Self::Planned => "would delete",
            Self::Remains => "may remain",
            Self::Left => "left",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyGone => "already-gone",
            Self::Planned => "planned",
            Self::Remains => "remains",
            Self::Left => "left",
        }
    }
}

fn described(entry: &Entry) -> String {
    let item = &entry.item;
    let mut parts = vec![item.what()];
    if let Some(state) = &item.state {
        parts.push(crate::lines::printable(state.as_bytes()));
    }
    if let Some(node) = &item.node {
        parts.push(format!("on {}", crate::lines::printable(node.as_bytes())));
    }
    match entry.age {
        Some(age) => parts.push(format!("{} old", rough(age))),
        None if item.vms > 0 => parts.push("of unknown age".to_owned()),
        None => {}
    }
    parts.join(", ")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Section<'a> {
    schema: u32,
    program: &'static str,
    exit_code: u8,
    dry_run: bool,
    started_at: Timestamp,
    duration_ms: u64,
    prefix: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<&'a [NamedRun]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterSection<'a>>,
    counts: Counts,
    entries: Vec<EntrySection<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Vec<&'a str>>,
    failures: Vec<FailureSection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterSection<'a> {
    generation: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    deleted: usize,
    already_gone: usize,
    planned: usize,
    remaining: usize,
    left: usize,
    other_runs: usize,
    foreign: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntrySection<'a> {
    name: &'a str,
    run_hash: &'a str,
    pod_hash: &'a str,
    vms: u32,
    vm_config: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<Timestamp>,
    reason: &'static str,
    explanation: String,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removal_command: Option<&'a str>,
}

#[derive(Serialize)]
struct FailureSection {
    code: String,
    message: String,
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl FailureSection {
    fn new(failure: &Failure) -> Self {
        Self {
            code: failure.code.to_string(),
            message: failure.message.clone(),
            causes: failure.causes(),
            hint: failure.hint.clone(),
        }
    }
}
