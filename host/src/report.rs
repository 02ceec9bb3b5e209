//! What is left of a run: Tekton results, the closing lines, and the report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;

use plugin_manifest::on_one_line;
use serde::Serialize;

use crate::bindings::orka::plugin::types::Exit;
use crate::console::{Console, Level, PhaseRecord, millis, seconds};
use crate::failure::Failure;
use crate::grants::GrantsRecord;
use crate::guard::GuardRecord;
use crate::mask::Masker;
use crate::outcome::{self, Outcome};
use crate::results::{BYTES_MAX, REASON, Results};
use crate::run::{Conclusion, Finished};
use crate::state::{RunContext, SeenHostKey};
use crate::teardown::{KeptVm, Leftover, sign_out_record};

/// Names in the result `leftovers`, as results together must stay small: three of the longest. The report has all.
const LEFTOVERS_BYTES_MAX: usize = 120;

/// How long the result `reason` may be.
const REASON_BYTES_MAX: usize = 200;

/// The form of the report; raised when a member changes its meaning.
const SCHEMA: u32 = 1;

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    /// The form of the report: raised when a member changes its meaning.
    schema: u32,
    /// `orka-step` and its version.
    program: &'static str,
    /// The result `outcome`.
    outcome: Outcome,
    /// The step's exit code.
    exit_code: u8,
    /// The script's exit status; 128 + N if signal N ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u32>,
    /// The signal that ended the script, without `SIG`.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_signal: Option<&'a str>,
    /// When the run began, as RFC 3339.
    started_at: String,
    /// How long it took, in milliseconds.
    duration_ms: u64,
    /// Which plugin ran; absent if none was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<PluginSection<'a>>,
    /// What went wrong, the decisive failure first.
    failures: Vec<FailureSection>,
    /// Phases that the plugin named, in the order of their ends.
    phases: Vec<PhaseRecord>,
    /// VMs that were deployed.
    vms_deployed: u32,
    /// Host keys that were accepted.
    host_keys: Vec<SeenHostKey>,
    /// Files of the last download.
    artifacts: ArtifactsSection,
    /// Names of what was deleted at the end.
    removed: &'a [String],
    /// What may still exist.
    leftovers: &'a [Leftover],
    /// VMs that are kept on purpose.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kept: &'a [KeptVm],
    /// What became of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_out: Option<String>,
    /// Calls that the plugin made.
    host_calls: u64,
    /// What the plugin asked for, was granted and used.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<GrantsRecord>,
    /// What the guards did, in the order in which they were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guards: Vec<GuardRecord>,
    /// Tekton results by name.
    results: BTreeMap<String, String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct PluginSection<'a> {
    /// The name in its manifest.
    name: &'a str,
    /// The version in its manifest.
    version: String,
    /// `sha256:…` of its file.
    digest: Option<&'a str>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct FailureSection {
    /// Stable machine code, dotted.
    code: String,
    /// One sentence.
    message: String,
    /// Causes, outermost first.
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<String, String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Default, Serialize)]
struct ArtifactsSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    files: Vec<ArtifactFile>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct ArtifactFile {
    /// Relative to the workspace.
    path: String,
    /// In bytes.
    size: u64,
    /// In hexadecimal.
    sha256: String,
}

/// Says how the run ended, writes the results and the report, and gives the exit code.
///
/// Failing to write either is told and changes nothing else: the run's own outcome wins.
pub fn conclude(
    finished: &Finished,
    console: &Console,
    results: Option<&Results>,
    report: Option<&Path>,
) -> u8 {
    let conclusion = &finished.conclusion;
    for failure in &conclusion.failures {
        print_failure(console, failure);
    }
    let own = finished.run.as_ref().map(|run| &run.results).or(results);
    if let Some(results) = own {
        record(conclusion, console, results);
        let left_out = results.left_out();
        if !left_out.is_empty() {
            console.warn(&format!(
                "left out the results {}: results together may have {BYTES_MAX} bytes; the report has them",
                left_out.join(", ")
            ));
        }
    }
    if let Some(path) = report
        && let Err(error) = write_report(finished, console, own, path)
    {
        print_failure(
            console,
            &Failure::files(
                "files.report",
                format!("cannot write the report `{}`", path.display()),
            )
            .with_source(error),
        );
    }
    print_closing(conclusion, console);
    conclusion.exit_code
}

/// Writes the results that say how the run ended. Failing to is told and changes nothing else.
pub fn record(conclusion: &Conclusion, console: &Console, results: &Results) {
    if let Err(failure) = write_results(conclusion, console, results) {
        print_failure(console, &failure);
    }
}

/// Prints a failure in the form: what, causes, what to do next.
pub fn print_failure(console: &Console, failure: &Failure) {
    print_at(Level::Error, console, failure);
}

/// As [`print_failure`], of one that changes nothing about the end.
pub fn print_warning(console: &Console, failure: &Failure) {
    print_at(Level::Warn, console, failure);
}

fn print_at(level: Level, console: &Console, failure: &Failure) {
    let mut text = failure.message.clone();
    for cause in failure.causes() {
        text.push_str(&format!("\ncaused by: {cause}"));
    }
    for (name, value) in &failure.details {
        if value.contains('\n') {
            text.push_str(&format!("\n{name}:"));
            value
                .lines()
                .for_each(|line| text.push_str(&format!("\n  {line}")));
        } else {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    let hint = failure.hint.as_deref().unwrap_or_default();
    // What follows the sentence is to be copied.
    let (sentence, example) = hint.split_once('\n').unwrap_or((hint, ""));
    if !sentence.is_empty() {
        text.push_str(&format!("\nhint: {sentence}"));
    }
    console.log_with_example(level, &text, example);
}

fn print_closing(conclusion: &Conclusion, console: &Console) {
    let script = conclusion.exit.as_ref().map(end_of_script);
    let script = script.map_or_else(String::new, |end| format!(", {end}"));
    let level = if conclusion.exit_code == 0 {
        Level::Info
    } else {
        Level::Error
    };
    console.log(
        level,
        &format!(
            "{}{script} ({}, exit code {})",
            conclusion.outcome,
            seconds(console.elapsed()),
            conclusion.exit_code
        ),
    );
}

fn write_results(
    conclusion: &Conclusion,
    console: &Console,
    results: &Results,
) -> Result<(), Failure> {
    results.set_own("outcome", &conclusion.outcome.to_string())?;
    match reason(conclusion) {
        Some(text) => results.set_own(REASON, &shortened(&text, console.masker()))?,
        None => results.unset_own(REASON),
    }
    if let Some(exit) = &conclusion.exit {
        results.set_own("exit-status", &outcome::status_of(exit).to_string())?;
    }
    if let Some(names) = leftover_names(&conclusion.settlement.leftovers) {
        results.set_own("leftovers", &names)?;
    }
    results.set_own("duration-seconds", &console.elapsed().as_secs().to_string())
}

/// What went wrong, if anything did: of several failures the one that decided about the outcome.
fn reason(conclusion: &Conclusion) -> Option<String> {
    if let Some(failure) = conclusion.failures.iter().min_by_key(|it| it.class) {
        return Some(match conclusion.failures.len() {
            1 => failure.message.clone(),
            several => format!("{several} problems, such as: {}", failure.message),
        });
    }
    if let (Outcome::BuildFailed, Some(exit)) = (conclusion.outcome, &conclusion.exit) {
        return Some(end_of_script(exit));
    }
    let left = leftover_names(&conclusion.settlement.leftovers)?;
    (conclusion.outcome != Outcome::Succeeded).then(|| format!("may still exist: {left}"))
}

fn end_of_script(exit: &Exit) -> String {
    match exit {
        Exit::Status(status) => format!("the script exited with status {status}"),
        Exit::Signal(signal) => format!("the script was ended by SIG{}", signal.name),
    }
}

/// On one line, not too long, and without secrets.
fn shortened(text: &str, masker: &Masker) -> String {
    // Masked before it is cut: a secret that is cut in two is not known for one.
    let line = on_one_line(&masker.mask(text));
    if line.len() <= REASON_BYTES_MAX {
        return line;
    }
    let end = line.floor_char_boundary(REASON_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &line[..end])
}

/// Names under which something may be left, with spaces between; those that do not fit are counted.
fn leftover_names(leftovers: &[Leftover]) -> Option<String> {
    let mut names = String::new();
    for (position, leftover) in leftovers.iter().enumerate() {
        if names.len() + leftover.name.len() > LEFTOVERS_BYTES_MAX {
            names.push_str(&format!(" and {} more", leftovers.len() - position));
            break;
        }
        if position > 0 {
            names.push(' ');
        }
        names.push_str(&leftover.name);
    }
    (!names.is_empty()).then_some(names)
}

fn write_report(
    finished: &Finished,
    console: &Console,
    results: Option<&Results>,
    path: &Path,
) -> std::io::Result<()> {
    let conclusion = &finished.conclusion;
    let run = finished.run.as_deref();
    let masker = console.masker();
    let report = Report {
        schema: SCHEMA,
        program: concat!("orka-step ", env!("CARGO_PKG_VERSION")),
        outcome: conclusion.outcome,
        exit_code: conclusion.exit_code,
        exit_status: conclusion.exit.as_ref().map(outcome::status_of),
        exit_signal: conclusion.exit.as_ref().and_then(|exit| match exit {
            Exit::Signal(signal) => Some(signal.name.as_str()),
            Exit::Status(_) => None,
        }),
        started_at: run
            .map_or_else(jiff::Timestamp::now, |run| run.started_at)
            .to_string(),
        duration_ms: millis(console.elapsed()),
        plugin: run.map(|run| PluginSection {
            name: &run.manifest.name,
            version: run.manifest.version.to_string(),
            digest: finished.plugin_digest.as_deref(),
        }),
        failures: conclusion
            .failures
            .iter()
            .map(|failure| FailureSection {
                // A policy chooses its own codes, and names of details.
                code: masker.mask(&failure.code),
                message: masker.told(&failure.message),
                causes: failure
                    .causes()
                    .iter()
                    .map(|cause| masker.told(cause))
                    .collect(),
                hint: failure.hint.as_deref().map(|hint| masker.mask(hint)),
                details: failure
                    .details
                    .iter()
                    .map(|(name, value)| (masker.mask(name), masker.mask(value)))
                    .collect(),
            })
            .collect(),
        phases: console.phases(),
        vms_deployed: run.map_or(0, |run| run.ledger.deployed()),
        host_keys: run.map(RunContext::host_keys).unwrap_or_default(),
        artifacts: run
            .map(|run| artifacts_section(run, masker))
            .unwrap_or_default(),
        removed: &conclusion.settlement.removed,
        leftovers: &conclusion.settlement.leftovers,
        kept: &conclusion.settlement.kept,
        sign_out: run
            .and_then(|run| run.signed_out.get())
            .map(sign_out_record),
        host_calls: run.map_or(0, |run| run.journal.count()),
        grants: run.map(|run| {
            let timeout = run.deadline.duration_since(run.started);
            run.grants
                .record(&run.manifest, (timeout, run.started.elapsed()), |text| {
                    masker.mask(text)
                })
        }),
        guards: run.map(|run| run.guards.records()).unwrap_or_default(),
        results: results.map(Results::all).unwrap_or_default(),
    };
    write_whole(path, &serde_json::to_vec_pretty(&report)?)?;
    write_whole(
        &path.with_extension("html"),
        crate::page::render(&serde_json::to_value(&report)?).as_bytes(),
    )
}

fn artifacts_section(run: &RunContext, masker: &Masker) -> ArtifactsSection {
    let artifacts = run.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
    let files = artifacts.files();
    ArtifactsSection {
        digest: artifacts
            .digest()
            .map(|digest| digest.trim_start_matches("sha256:").to_owned()),
        files: files
            .iter()
            .map(|file| ArtifactFile {
                path: masker.mask(&file.path.to_string_lossy()),
                size: file.size,
                sha256: file.sha256_hex(),
            })
            .collect(),
    }
}

fn write_whole(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let directory = cap_std::fs::Dir::open_ambient_dir(parent, cap_std::ambient_authority())?;
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    crate::host_folder::write_whole(&directory, Path::new(name), contents)
}

/// The JSON Schema of the report as it is written, not as it could be read: what may be left out is not required.
#[cfg(test)]
pub(crate) fn schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<Report<'_>>()
        .to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length_without_secrets() {
        let masker = Masker::default();
        masker.add("hunter2hunter2");
        let told = |message: &str| shortened(message, &masker);
        assert_eq!(told("`x` is wrong\nhint: y"), "`x` is wrong\\nhint: y");
        assert_eq!(told(&"a".repeat(200)).len(), 200);
        let long = told(&format!("{}hunter2hunter2", "ä".repeat(95)));
        assert_eq!(long, format!("{}***", "ä".repeat(95)));
        let longer = told(&format!(
            "{}hunter2hunter2{}",
            "ä".repeat(95),
            "é".repeat(50)
        ));
        assert_eq!(longer, format!("{}***éé…", "ä".repeat(95)));
        assert!(longer.len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn leftovers_are_named_as_far_as_they_fit_and_counted_beyond() {
        let leftovers = |count: usize| -> Vec<Leftover> {
            (1..=count)
                .map(|number| Leftover {
                    name: format!("tekton-01234567-89abcdef-{number}"),
                    reason: String::new(),
                    command: String::new(),
                    inherited: false,
                })
                .collect()
        };
        assert_eq!(leftover_names(&leftovers(0)), None);
        let two = "tekton-01234567-89abcdef-1 tekton-01234567-89abcdef-2";
        assert_eq!(leftover_names(&leftovers(2)).as_deref(), Some(two));
        let many = leftover_names(&leftovers(50)).unwrap();
        assert!(
            many.starts_with(two) && many.ends_with("-4 and 46 more"),
            "{many}"
        );
        assert!(many.len() < LEFTOVERS_BYTES_MAX + 20);
    }
}
