//! What a check found, and all of them together: the table, the JSON, the exit code.

use std::fmt::Write as _;

use serde::Serialize;

use crate::failure::Failure;
use crate::lines::printable;
use crate::mask::Masker;
use crate::outcome::StopSignal;
use crate::run::Finished;

/// The form of the JSON; raised when a member changes its meaning.
const SCHEMA: u32 = 1;

/// What is checked, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// `--orka-api`: whether Orka answers there, and which.
    Endpoint,
    /// The Orka credentials: whether they are readable and accepted.
    Credentials,
    /// The Orka 3 namespace.
    Namespace,
    /// The base image.
    Image,
    /// Nodes with room.
    Capacity,
    /// How VMs are logged into.
    SshCredentials,
    /// The directory that is copied in and back.
    Workspace,
    /// The directory of Tekton results.
    Results,
    /// The plugin.
    Plugin,
    /// The plugin's parameters.
    Parameters,
    /// What the plugin may do.
    Grants,
    /// The operator's guards, and what they make of the VM.
    Guards,
    /// Script, names and limits.
    Settings,
    /// The run's own deadline.
    Timeout,
    /// How this check's own login ended.
    SignOut,
}

impl Subject {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::Endpoint,
        Self::Credentials,
        Self::Namespace,
        Self::Image,
        Self::Capacity,
        Self::SshCredentials,
        Self::Workspace,
        Self::Results,
        Self::Plugin,
        Self::Parameters,
        Self::Grants,
        Self::Guards,
        Self::Settings,
        Self::Timeout,
        Self::SignOut,
    ];

    /// Its name, as in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Credentials => "credentials",
            Self::Namespace => "namespace",
            Self::Image => "image",
            Self::Capacity => "capacity",
            Self::SshCredentials => "ssh-credentials",
            Self::Workspace => "workspace",
            Self::Results => "results",
            Self::Plugin => "plugin",
            Self::Parameters => "parameters",
            Self::Grants => "grants",
            Self::Guards => "guards",
            Self::Settings => "settings",
            Self::Timeout => "timeout",
            Self::SignOut => "sign-out",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As a run needs it.
    Ok,
    /// A run would start, but someone may want to act.
    Warn,
    /// A run would end for this.
    Fail,
    /// Not made; the finding says why.
    Skipped,
}

impl Status {
    /// The word for it, as in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// When a run would meet a failure: the earliest one decides how the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// While the command line is resolved.
    Settings,
    /// While the plugin is read.
    Plugin,
    /// While its parameters are checked.
    Parameters,
    /// While its requests are compared with its grants.
    Grants,
    /// While it is compiled.
    Compile,
    /// While the guards are started.
    Guards,
    /// While the run signs in.
    SignIn,
    /// When a VM is made.
    Deploy,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    pub text: String,
    /// The causes, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was checked.
    pub name: Subject,
    /// How it ended.
    pub status: Status,
    /// What was found; at least one.
    pub findings: Vec<Finding>,
    /// The code that a run would end with if this failure were the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    #[serde(skip)]
    stage: Stage,
}

impl Check {
    fn new(name: Subject, status: Status, text: impl Into<String>) -> Self {
        let finding = Finding {
            text: text.into(),
            causes: Vec::new(),
            hint: None,
        };
        Self {
            name,
            status,
            findings: vec![finding],
            exit_code: None,
            stage: Stage::Deploy,
        }
    }

    /// As a run needs it.
    pub(super) fn ok(name: Subject, text: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, text)
    }

    /// No reason not to start.
    pub(super) fn warn(name: Subject, text: impl Into<String>, hint: impl Into<String>) -> Self {
        let mut check = Self::new(name, Status::Warn, text);
        check.findings[0].hint = Some(hint.into());
        check
    }

    /// Several findings, at least one; with a hint it is a warning.
    pub(super) fn found(
        name: Subject,
        texts: impl Iterator<Item = String>,
        hint: Option<String>,
    ) -> Self {
        let status = if hint.is_some() {
            Status::Warn
        } else {
            Status::Ok
        };
        let mut check = Self::new(name, status, "");
        let finding = |text| Finding {
            text,
            causes: Vec::new(),
            hint: None,
        };
        check.findings = texts.map(finding).collect();
        if let Some(last) = check.findings.last_mut() {
            last.hint = hint;
        }
        check
    }

    /// A failure of the check itself that would not keep a run from starting.
    pub(super) fn warned(name: Subject, text: impl Into<String>, failure: &Failure) -> Self {
        let mut check = Self::new(name, Status::Warn, text);
        let finding = &mut check.findings[0];
        finding.causes.push(failure.message.clone());
        finding.causes.extend(failure.causes());
        finding.hint.clone_from(&failure.hint);
        check
    }

    /// Not made.
    pub(super) fn skipped(name: Subject, reason: impl Into<String>) -> Self {
        Self::new(name, Status::Skipped, reason)
    }

    /// Several checks of one subject as one, which ended as the worst of them did; none where there are none.
    pub(super) fn together(checks: Vec<Self>) -> Option<Self> {
        let badness = |status| match status {
            Status::Ok => 0,
            Status::Skipped => 1,
            Status::Warn => 2,
            Status::Fail => 3,
        };
        let findings = checks.iter().flat_map(|check| check.findings.clone());
        let findings = findings.collect();
        // Of several that are equally bad, the first.
        let worst = checks
            .into_iter()
            .rev()
            .max_by_key(|check| badness(check.status))?;
        Some(Self { findings, ..worst })
    }

    /// Failures that a run would end for, at least one.
    pub(super) fn failed(name: Subject, stage: Stage, failures: Vec<Failure>) -> Self {
        let findings = failures.iter().map(finding).collect();
        Self {
            name,
            status: Status::Fail,
            findings,
            exit_code: Some(Finished::not_started(failures).conclusion.exit_code),
            stage,
        }
    }
}

fn finding(failure: &Failure) -> Finding {
    Finding {
        text: failure.message.clone(),
        causes: failure.causes(),
        hint: failure.hint.clone(),
    }
}

/// The checks made so far, one a subject.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    /// Adds a check, unless its subject has one already: what was found first is what the others follow from.
    pub(super) fn add(&mut self, check: Check) {
        if !self.has(check.name) {
            self.0.push(check);
        }
    }

    /// Skips all of these that have not been made.
    pub(super) fn skip(&mut self, names: &[Subject], reason: &str) {
        for name in names {
            self.add(Check::skipped(*name, reason));
        }
    }

    pub(super) fn has(&self, name: Subject) -> bool {
        self.0.iter().any(|check| check.name == name)
    }
}

/// All checks.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    checks: Vec<Check>,
    stopped: Option<StopSignal>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema: u32,
    program: &'static str,
    would_start: bool,
    exit_code: u8,
    checks: &'a [Check],
}

impl Diagnosis {
    /// In order, complete, and with every secret masked.
    pub(super) fn new(mut checks: Checks, stopped: Option<StopSignal>, masker: &Masker) -> Self {
        let reason = stopped.map_or_else(
            || "not made".to_owned(),
            |signal| format!("{} stopped the checks before this one", signal.name()),
        );
        checks.skip(&Subject::ALL, &reason);
        let mut checks = checks.0;
        checks.sort_by_key(|check| check.name);
        for finding in checks.iter_mut().flat_map(|check| &mut check.findings) {
            finding.text = clean(masker, &finding.text);
            for cause in &mut finding.causes {
                *cause = clean(masker, cause);
            }
            finding.hint = finding.hint.as_deref().map(|hint| clean(masker, hint));
        }
        Self { checks, stopped }
    }

    /// The checks, one for each of [`Subject::ALL`], in that order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The check of one subject.
    pub fn check(&self, name: Subject) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// 0 if a run would start, otherwise what it would end with; for checks that a signal ended, the signal's code.
    pub fn exit_code(&self) -> u8 {
        match self.stopped {
            Some(signal) => signal.exit_code(),
            None => self
                .decisive()
                .and_then(|check| check.exit_code)
                .unwrap_or(0),
        }
    }

    /// The failure that a run would meet first.
    fn decisive(&self) -> Option<&Check> {
        self.checks
            .iter()
            .filter(|check| check.status == Status::Fail)
            .min_by_key(|check| check.stage)
    }

    /// For people.
    pub fn table(&self) -> String {
        let longest = |words: &mut dyn Iterator<Item = &'static str>| {
            words.map(str::len).max().unwrap_or_default()
        };
        let names = longest(&mut Subject::ALL.iter().map(|name| name.as_str()));
        let statuses = Status::Skipped.as_str().len();
        let indent = " ".repeat(names + statuses + 4);
        let mut text = format!("{:names$}  {:statuses$}  FOUND\n", "CHECK", "STATUS");
        for check in &self.checks {
            let mut lines = check.findings.iter().flat_map(lines);
            // Writing into a `String` cannot fail.
            let _ = writeln!(
                text,
                "{:names$}  {:statuses$}  {}",
                check.name.as_str(),
                check.status.as_str(),
                lines.next().unwrap_or_default()
            );
            for line in lines {
                let _ = writeln!(text, "{indent}{line}");
            }
        }
        let _ = write!(text, "\n{}\n", self.conclusion());
        text
    }

    fn conclusion(&self) -> String {
        let count = |status| {
            self.checks
                .iter()
                .filter(|check| check.status == status)
                .count()
        };
        let warnings = match count(Status::Warn) {
            0 => String::new(),
            1 => "; 1 warning".to_owned(),
            many => format!("; {many} warnings"),
        };
        if let Some(signal) = self.stopped {
            return format!("{} stopped the checks", signal.name());
        }
        match self.decisive() {
            None => format!("a run with this command line would start{warnings}"),
            Some(check) => format!(
                "a run with this command line would end with exit code {}, for `{}`; {} of {} checks failed{warnings}",
                self.exit_code(),
                check.name.as_str(),
                count(Status::Fail),
                self.checks.len(),
            ),
        }
    }

    /// For machines.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&Document {
            schema: SCHEMA,
            program: concat!("orka-step ", env!("CARGO_PKG_VERSION")),
            would_start: self.exit_code() == 0,
            exit_code: self.exit_code(),
            checks: &self.checks,
        })
    }
}

fn lines(finding: &Finding) -> Vec<String> {
    let causes = finding
        .causes
        .iter()
        .map(|cause| format!("caused by: {cause}"));
    let hint = finding.hint.iter().map(|hint| format!("hint: {hint}"));
    std::iter::once(finding.text.clone())
        .chain(causes)
        .chain(hint)
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// What a cluster or a file says may hold secrets and terminal control.
fn clean(masker: &Masker, text: &str) -> String {
    let masked = masker.told(text);
    let lines: Vec<String> = masked
        .lines()
        .map(|line| printable(line.as_bytes()))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, Kind};
    use crate::outcome::{EXIT_CONFIG, EXIT_NO_CAPACITY};

    fn diagnosis(checks: Vec<Check>) -> Diagnosis {
        let mut made = Checks::default();
        checks.into_iter().for_each(|check| made.add(check));
        Diagnosis::new(made, None, &Masker::default())
    }

    fn no_capacity() -> Check {
        let failure = Failure::new(Kind::NoCapacity, Class::NoCapacity, "x", "full");
        Check::failed(Subject::Capacity, Stage::Deploy, vec![failure])
    }

    #[test]
    fn the_failure_that_a_run_would_meet_first_decides_whatever_the_order_of_the_table() {
        let ssh = Check::failed(
            Subject::SshCredentials,
            Stage::Settings,
            vec![Failure::config("no key")],
        );
        assert_eq!(diagnosis(vec![no_capacity()]).exit_code(), EXIT_NO_CAPACITY);
        let both = diagnosis(vec![no_capacity(), ssh]);
        assert_eq!(both.exit_code(), EXIT_CONFIG);
        assert!(
            both.table()
                .contains("exit code 211, for `ssh-credentials`; 2 of 15 checks failed")
        );
    }

    #[test]
    fn names_and_words_are_those_of_the_json() {
        for name in Subject::ALL {
            assert_eq!(
                serde_json::to_string(&name).unwrap(),
                format!("\"{}\"", name.as_str())
            );
        }
        for status in [Status::Ok, Status::Warn, Status::Fail, Status::Skipped] {
            assert_eq!(
                serde_json::to_string(&status).unwrap(),
                format!("\"{}\"", status.as_str())
            );
        }
        assert!(Subject::ALL.is_sorted());
    }

    #[test]
    fn further_lines_stand_below_what_was_found() {
        let failure = Failure::config("it is wrong")
            .with_source(std::io::Error::other("broken"))
            .with_hint("put this in:\n  [[grant]]");
        let table = diagnosis(vec![Check::failed(
            Subject::Grants,
            Stage::Grants,
            vec![failure],
        )])
        .table();
        let expected = "grants           fail     it is wrong\n\
                        \u{20}                         caused by: broken\n\
                        \u{20}                         hint: put this in:\n\
                        \u{20}                           [[grant]]\n";
        assert!(table.contains(expected), "{table}");
    }

    #[test]
    fn secrets_and_terminal_control_do_not_get_through() {
        let masker = Masker::default();
        masker.add("hunter2");
        let mut checks = Checks::default();
        checks.add(Check::ok(Subject::Endpoint, "hunter2 \u{1b}]0;x\u{7}"));
        let diagnosis = Diagnosis::new(checks, None, &masker);
        for text in [diagnosis.table(), diagnosis.json().unwrap()] {
            assert!(
                !text.contains("hunter2") && !text.contains('\u{1b}'),
                "{text}"
            );
        }
    }

    #[test]
    fn a_signal_leaves_the_rest_skipped_and_gives_its_own_code() {
        let mut checks = Checks::default();
        checks.add(no_capacity());
        let stopped = Diagnosis::new(checks, Some(StopSignal::Terminate), &Masker::default());
        assert_eq!(stopped.exit_code(), 143);
        assert_eq!(stopped.checks().len(), Subject::ALL.len());
        let image = stopped.check(Subject::Image).unwrap();
        assert_eq!(image.status, Status::Skipped);
        assert!(image.findings[0].text.contains("SIGTERM"));
    }
}
