//! What a scenario file expects, and what of it did not come.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::diff;
use super::file::{Contents, Span};
use super::model::Pattern;
use super::play::Report;
use crate::console::{PhaseEnding, seconds};

/// What must come of a scenario. What is not mentioned is not looked at, but for three things: a run that is not said to
/// fail must succeed, nothing may be left on the cluster that is not said to be, and no secret may be shown.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectations {
    /// As `orka-step run` has it.
    outcome: Option<String>,
    /// As `orka-step run` has it.
    exit_code: Option<u8>,
    /// The decisive failure.
    failure: Option<FailureExpectation>,
    /// Each value; null means that there is no such result.
    #[serde(default)]
    results: BTreeMap<String, Option<String>>,
    /// All calls that ask for or change something, in order.
    calls: Option<Vec<String>>,
    /// These calls, in this order, among others.
    #[serde(default)]
    calls_include: Vec<String>,
    /// None of these calls.
    #[serde(default)]
    calls_lack: Vec<String>,
    /// What the log holds.
    #[serde(default)]
    log: TextExpectation,
    /// Files by path; null means that there is no such file.
    #[serde(default)]
    workspace: BTreeMap<String, Option<Contents>>,
    /// Files in VMs by path; null means that there is no such file.
    #[serde(default)]
    vm_files: BTreeMap<String, Option<Contents>>,
    /// Each as `TITLE: ENDING`.
    phases: Option<Vec<String>>,
    /// How many names the cluster still has.
    #[serde(default)]
    left: usize,
    /// How many of them are kept on purpose; all, if not given.
    kept: Option<usize>,
    /// The longest it may take on the virtual clock.
    within: Option<Span>,
    /// The node each deployment asked for; null for any.
    nodes: Option<Vec<Option<String>>>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FailureExpectation {
    /// Its code.
    code: Option<String>,
    /// What its sentence contains.
    message: Option<String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TextExpectation {
    /// Texts that are there.
    #[serde(default)]
    includes: Vec<String>,
    /// Texts that are not.
    #[serde(default)]
    lacks: Vec<String>,
}

/// Something that did not come as it was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What, in one line.
    pub what: String,
    /// The difference, where there is one to show.
    pub difference: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        match &self.difference {
            None => Ok(()),
            Some(difference) => write!(f, "\n{difference}"),
        }
    }
}

impl Problem {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            difference: None,
        }
    }

    fn with(what: impl Into<String>, difference: String) -> Self {
        Self {
            what: what.into(),
            difference: Some(difference),
        }
    }
}

/// What the host only reads to make sure. How often it does is its own business.
const READS: [&str; 5] = ["look", "exists", "config", "instances", "list"];

const OUTCOMES: [&str; 8] = [
    "succeeded",
    "build-failed",
    "infra-failed",
    "plugin-failed",
    "denied",
    "no-capacity",
    "timed-out",
    "cancelled",
];

impl Expectations {
    /// Refuses expectations that can never come true.
    pub(super) fn check_itself(&self) -> Result<(), String> {
        if let Some(outcome) = &self.outcome
            && !OUTCOMES.contains(&outcome.as_str())
        {
            return Err(format!(
                "`expect.outcome` is `{outcome}`, expected one of {}",
                OUTCOMES.join(", ")
            ));
        }
        let files = self.workspace.iter().chain(&self.vm_files);
        for (path, contents) in files {
            if let Some(contents) = contents {
                contents
                    .bytes()
                    .map_err(|problem| format!("`expect`: `{path}`: {problem}"))?;
            }
        }
        if self.kept.is_some_and(|kept| kept > self.left) {
            return Err("`expect.kept` is more than `expect.left`".to_owned());
        }
        Ok(())
    }

    /// How many names may be left on the cluster.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Everything that did not come as expected.
    pub fn check(&self, report: &Report) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_strictness(report, &mut problems);
        self.check_ending(report, &mut problems);
        self.check_calls(report, &mut problems);
        for (name, wanted) in &self.results {
            let found = report.results.get(name);
            if found != wanted.as_ref() {
                let shown = |value: Option<&String>| {
                    value.map_or("no such result".to_owned(), |value| {
                        format!("{name} = {value}")
                    })
                };
                problems.push(Problem::with(
                    format!("result `{name}` is another"),
                    diff::lists(&[shown(wanted.as_ref())], &[shown(found)]),
                ));
            }
        }
        self.check_log(report, &mut problems);
        check_files(
            "the workspace",
            &self.workspace,
            &report.workspace,
            &mut problems,
        );
        check_files("the VMs", &self.vm_files, &report.vm_files, &mut problems);
        if let Some(wanted) = &self.phases {
            let found: Vec<String> = report
                .phases
                .iter()
                .map(|phase| format!("{}: {}", phase.title, ending(phase.ending)))
                .collect();
            if *wanted != found {
                problems.push(Problem::with("other phases", diff::lists(wanted, &found)));
            }
        }
        if let Some(wanted) = &self.nodes
            && *wanted != report.nodes
        {
            let shown = |nodes: &[Option<String>]| -> Vec<String> {
                let shown = |node: &Option<String>| node.clone().unwrap_or("any node".to_owned());
                nodes.iter().map(shown).collect()
            };
            problems.push(Problem::with(
                "deployments asked for other nodes",
                diff::lists(&shown(wanted), &shown(&report.nodes)),
            ));
        }
        if let Some(Span(limit)) = self.within
            && report.elapsed > limit
        {
            problems.push(Problem::new(format!(
                "it took {} on the virtual clock, expected {} at most",
                seconds(report.elapsed),
                seconds(limit)
            )));
        }
        problems
    }

    fn check_strictness(&self, report: &Report, problems: &mut Vec<Problem>) {
        if !(report.unexpected.is_empty() && report.missing.is_empty()) {
            problems.push(Problem::with(
                "other programs ran than the scenario expects",
                unmatched(&report.missing, &report.unexpected),
            ));
        }
        if !report.not_reached.is_empty() {
            problems.push(Problem::with(
                "failures of the scenario were not reached",
                diff::lists(&report.not_reached, &[]),
            ));
        }
        problems.extend(shown_secrets(report));
        let left = &report.left_on_the_cluster;
        if left.len() != self.left {
            problems.push(Problem::with(
                format!("{} left on the cluster, expected {}", left.len(), self.left),
                diff::lists(&[], left),
            ));
        }
        let kept = self.kept.unwrap_or(self.left);
        if report.kept.len() != kept && left.len() == self.left {
            problems.push(Problem::new(format!(
                "{} kept on purpose, expected {kept}",
                report.kept.len()
            )));
        }
    }

    fn check_ending(&self, report: &Report, problems: &mut Vec<Problem>) {
        let is_silent =
            self.outcome.is_none() && self.exit_code.is_none() && self.failure.is_none();
        let outcome = self
            .outcome
            .clone()
            .or_else(|| is_silent.then(|| "succeeded".to_owned()));
        let found = report.outcome.to_string();
        let mut wanted_lines = Vec::new();
        let mut found_lines = Vec::new();
        if let Some(outcome) = outcome {
            wanted_lines.push(format!("outcome: {outcome}"));
            found_lines.push(format!("outcome: {found}"));
        }
        if let Some(code) = self.exit_code {
            wanted_lines.push(format!("exit code: {code}"));
            found_lines.push(format!("exit code: {}", report.exit_code));
        }
        if let Some(code) = self.failure.as_ref().and_then(|it| it.code.as_ref()) {
            wanted_lines.push(format!("failure: {code}"));
            found_lines.push(format!("failure: {}", report.code()));
        }
        if wanted_lines != found_lines {
            let mut difference = diff::lists(&wanted_lines, &found_lines);
            // Writing into a `String` cannot fail.
            for failure in &report.failures {
                let _ = write!(difference, "\n  because: {failure} ({})", failure.code);
            }
            problems.push(Problem::with("it ended otherwise", difference));
        }
        let message = self.failure.as_ref().and_then(|it| it.message.as_ref());
        if let Some(wanted) = message
            && !report.message().contains(wanted.as_str())
        {
            problems.push(Problem::with(
                "the failure says something else",
                diff::lists(std::slice::from_ref(wanted), &[report.message().to_owned()]),
            ));
        }
    }

    fn check_calls(&self, report: &Report, problems: &mut Vec<Problem>) {
        let told: Vec<String> = report
            .calls
            .iter()
            .filter(|call| !READS.contains(&call.as_str()))
            .cloned()
            .collect();
        if let Some(wanted) = &self.calls {
            let fits = wanted.len() == told.len()
                && wanted
                    .iter()
                    .zip(&told)
                    .all(|(wanted, call)| Pattern::new(wanted.clone()).matches(call));
            if !fits {
                problems.push(Problem::with(
                    "other calls",
                    diff::lists(&aligned(wanted, &told), &told),
                ));
            }
        }
        let mut after = 0;
        for wanted in &self.calls_include {
            let pattern = Pattern::new(wanted.clone());
            match report.calls[after..]
                .iter()
                .position(|call| pattern.matches(call))
            {
                Some(at) => after += at + 1,
                None => {
                    problems.push(Problem::with(
                        format!("the call `{wanted}` is not among the calls, or not after the one before it"),
                        diff::lists(&told, &told),
                    ));
                    break;
                }
            }
        }
        for unwanted in &self.calls_lack {
            let pattern = Pattern::new(unwanted.clone());
            if let Some(call) = report.calls.iter().find(|call| pattern.matches(call)) {
                problems.push(Problem::new(format!("the call `{call}` was made")));
            }
        }
    }

    fn check_log(&self, report: &Report, problems: &mut Vec<Problem>) {
        let log = report.log_text();
        for wanted in &self.log.includes {
            if !log.contains(wanted.as_str()) {
                problems.push(Problem::new(format!("the log lacks `{wanted}`")));
            }
        }
        for unwanted in &self.log.lacks {
            if let Some(line) = report
                .log
                .iter()
                .find(|line| line.contains(unwanted.as_str()))
            {
                problems.push(Problem::new(format!(
                    "the log has `{unwanted}`, in the line `{line}`"
                )));
            }
        }
    }
}

/// Secrets that could be read, as problems.
pub(super) fn shown_secrets(report: &Report) -> impl Iterator<Item = Problem> + '_ {
    report
        .secrets_shown
        .iter()
        .map(|shown| Problem::new(format!("a secret is shown: {shown}")))
}

/// Patterns that fit the call at their place in that call's words, so that a difference shows only what differs.
fn aligned(wanted: &[String], found: &[String]) -> Vec<String> {
    let mut rest = found;
    let of_found = |wanted: &String| {
        let pattern = Pattern::new(wanted.clone());
        match rest.iter().position(|call| pattern.matches(call)) {
            Some(at) => {
                let call = rest[at].clone();
                rest = &rest[at + 1..];
                call
            }
            None => wanted.clone(),
        }
    };
    wanted.iter().map(of_found).collect()
}

/// What was expected and did not come, each beside what came instead and is most like it.
fn unmatched(missing: &[String], unexpected: &[String]) -> String {
    let mut missing = missing.to_vec();
    let mut lines = Vec::new();
    for found in unexpected {
        let program = found.split(' ').next();
        let alike = missing
            .iter()
            .position(|wanted| wanted.split(' ').next() == program);
        lines.extend(alike.map(|at| format!("- {}", missing.remove(at))));
        lines.push(format!("+ {found}"));
    }
    lines.extend(missing.iter().map(|wanted| format!("- {wanted}")));
    lines.join("\n")
}

fn check_files(
    place: &str,
    wanted: &BTreeMap<String, Option<Contents>>,
    found: &BTreeMap<String, Vec<u8>>,
    problems: &mut Vec<Problem>,
) {
    for (path, wanted) in wanted {
        // Checked when the file was read.
        let wanted = wanted.as_ref().and_then(|contents| contents.bytes().ok());
        match (wanted, found.get(path)) {
            (None, None) => {}
            (Some(wanted), Some(found)) if wanted == *found => {}
            (None, Some(_)) => {
                problems.push(Problem::new(format!("there is a file `{path}` in {place}")))
            }
            (Some(_), None) => problems.push(Problem::with(
                format!("there is no file `{path}` in {place}"),
                diff::lists(&[], &found.keys().cloned().collect::<Vec<_>>()),
            )),
            (Some(wanted), Some(found)) => problems.push(Problem::with(
                format!("the file `{path}` in {place} is another"),
                diff::texts(
                    &String::from_utf8_lossy(&wanted),
                    &String::from_utf8_lossy(found),
                ),
            )),
        }
    }
}

fn ending(ending: PhaseEnding) -> &'static str {
    match ending {
        PhaseEnding::Done => "done",
        PhaseEnding::Failed => "failed",
        PhaseEnding::Skipped => "skipped",
        PhaseEnding::Unfinished => "unfinished",
    }
}
