//! `orka-step migrate`: what will differ for Pipelines and runs that use the older Tasks.
//!
//! Reads files and nothing else. `documents` finds where the Tasks are used, `rules` and `params` know what becomes of a use,
//! `readers` finds who reads what the older `orka-init` wrote.

mod documents;
mod overrides;
mod params;
mod read;
mod readers;
mod reference;
mod rules;
mod scope;
mod unseen;
mod values;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::console::Console;
use crate::failure::Failure;
use crate::outcome;
use crate::report;
use documents::Documents;

/// Nothing has to be changed.
pub const EXIT_READY: u8 = 0;
/// Something has to be changed first.
pub const EXIT_CHANGES: u8 = 1;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It works as it is, in another way than before.
    Differs,
    /// It may work or not: somebody has to look.
    Check,
    /// It does not work as it is.
    Change,
}

impl Weight {
    fn word(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Check => "check",
            Self::Change => "change",
        }
    }
}

/// One thing that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// Stable and dotted.
    pub code: &'static str,
    /// What is so.
    pub message: String,
    /// What to do, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What is to be said of one document, or of one use of a Task in it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    file: PathBuf,
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses: Option<&'static str>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    schema: u32,
    exit_code: u8,
    /// Files that were given.
    files: usize,
    /// Those of them that were read; the counts are of these.
    files_read: usize,
    uses: usize,
    change: usize,
    check: usize,
    differs: usize,
    /// Files in which nothing was found.
    without_use: Vec<&'a Path>,
    /// Files that could not be read; standard error says why.
    unread: Vec<&'a Path>,
    places: &'a [Place],
}

/// Reads the files, prints what will differ, and gives the exit code.
///
/// A file that cannot be read is told, and the others are looked at all the same.
pub async fn migrate(files: &[PathBuf], as_json: bool, console: &Console) -> u8 {
    let mut documents = Documents::default();
    let mut unread = Vec::new();
    for file in files {
        match read::documents(file) {
            Ok(read) => read
                .into_iter()
                .for_each(|value| documents.add(file, value)),
            Err(failure) => {
                report::print_failure(console, &failure);
                unread.push((file.as_path(), outcome::of_class(failure.class).1));
            }
        }
    }
    let places = documents.places();
    let report = Report::of(files, &places, &unread);
    let text = if as_json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => json + "\n",
            Err(error) => {
                let failure = Failure::internal("the report cannot be written").with_source(error);
                report::print_failure(console, &failure);
                return outcome::of_class(failure.class).1;
            }
        }
    } else {
        described(&report)
    };
    console.data(&text).await;
    report.exit_code
}

impl<'a> Report<'a> {
    /// `unread` are files that could not be read, each with the exit code for it.
    fn of(files: &'a [PathBuf], places: &'a [Place], unread: &[(&'a Path, u8)]) -> Self {
        let count = |weight| {
            let findings = places.iter().flat_map(|place| &place.findings);
            findings.filter(|it| it.weight == weight).count()
        };
        let change = count(Weight::Change);
        let found = if change > 0 { EXIT_CHANGES } else { EXIT_READY };
        let unread_files: Vec<&Path> = unread.iter().map(|(file, _)| *file).collect();
        let is_idle = |file: &&Path| {
            !unread_files.contains(file) && places.iter().all(|place| place.file != **file)
        };
        Self {
            schema: 1,
            exit_code: unread.first().map_or(found, |(_, code)| *code),
            files: files.len(),
            files_read: files.len() - unread.len(),
            uses: places.iter().filter(|place| place.uses.is_some()).count(),
            change,
            check: count(Weight::Check),
            differs: count(Weight::Differs),
            without_use: files.iter().map(PathBuf::as_path).filter(is_idle).collect(),
            unread: unread_files,
            places,
        }
    }
}

fn described(report: &Report<'_>) -> String {
    let mut text = String::new();
    for place in report.places {
        let task = match (&place.task, place.uses) {
            (Some(task), Some(uses)) => format!(", task `{task}` ({uses})"),
            (None, Some(uses)) => format!(" ({uses})"),
            (Some(task), None) => format!(", task `{task}`"),
            (None, None) => String::new(),
        };
        text += &format!(
            "{}: {} `{}`{task}\n",
            place.file.display(),
            place.kind,
            place.name
        );
        if place.findings.is_empty() {
            text += "  same     works as it is\n";
        }
        for finding in &place.findings {
            text += &format!("  {:<8} {}\n", finding.weight.word(), finding.message);
            if let Some(hint) = &finding.hint {
                text += &format!("           -> {hint}\n");
            }
        }
    }
    for file in &report.without_use {
        text += &format!("nothing in {} uses the older Tasks\n", file.display());
    }
    let plural = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    for file in &report.unread {
        text += &format!("{} could not be read\n", file.display());
    }
    let files = plural(report.files, "file", "files");
    let (of_read, exit_code) = if report.unread.is_empty() {
        (files, String::new())
    } else {
        let also = match report.change {
            0 => "",
            _ => ", and there is something to change",
        };
        let code = report.exit_code;
        (
            format!("{} of {files} read", report.files_read),
            format!("; exit code {code}, since not everything was read{also}"),
        )
    };
    text += &format!(
        "{of_read}, {} of the Orka Tasks: {} to change, {} to check, {} that differ{exit_code}\n",
        plural(report.uses, "use", "uses"),
        report.change,
        report.check,
        report.differs
    );
    text
}

#[cfg(test)]
mod tests;
