//! What a run asked for, was granted and used, and the narrowest grants file that follows from it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use plugin_manifest::{Capability, Manifest};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Form};
use super::file::CeilingsEntry;
use crate::failure::Failure;
use crate::outcome::Outcome;

/// The report's section about grants.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GrantsRecord {
    /// What the plugin's manifest asks for.
    pub asked: Asked,
    /// What the operator granted of it.
    pub granted: Granted,
    /// What the run used.
    pub used: Used,
    /// The run's own deadline, in seconds from its start.
    pub timeout_seconds: u64,
}

/// What a manifest asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Capabilities that it needs.
    pub capabilities: BTreeSet<String>,
    /// Capabilities that it can do without.
    #[serde(default)]
    pub optional_capabilities: BTreeSet<String>,
    /// Secrets.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Secrets that it can do without; `*` for any that is granted by name.
    #[serde(default)]
    pub optional_secrets: BTreeSet<String>,
}

/// What the operator granted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// `FILE:LINE` of the entry; absent for the stock grant of a bundled plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether the plugin came with the program.
    #[serde(default)]
    bundled: bool,
    /// Capabilities.
    pub capabilities: BTreeSet<String>,
    /// Secrets.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Ceilings as they are written in the entry.
    #[serde(default)]
    ceilings: CeilingsEntry,
}

/// What a run used.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Used {
    /// Capabilities, by the calls that needed them.
    pub capabilities: BTreeSet<String>,
    /// Secrets that were opened.
    pub secrets: BTreeSet<String>,
    /// Images of VM configs.
    pub images: BTreeSet<String>,
    /// The most CPU cores of a VM, also where the plugin left them open.
    pub cpu_cores: Option<u32>,
    /// The most memory of a VM in MiB, where the plugin said how much, or Orka did.
    pub memory_mib: Option<u32>,
    /// The most VMs at the same time.
    pub vms_at_once: u32,
    /// VMs in all.
    pub vms_total: u32,
    /// Orka namespaces.
    pub namespaces: BTreeSet<String>,
    /// Programs that were started, as the plugin named them.
    pub programs: BTreeSet<String>,
    /// Bytes of all that was fetched.
    pub artifact_bytes: Option<u64>,
    /// Files, links and directories of it.
    pub artifact_count: Option<u64>,
    /// The longest time for which a VM was kept, in seconds.
    pub keep_seconds: Option<u64>,
    /// How long the run took, in seconds.
    pub seconds: Option<u64>,
    /// How long it was to last at most, in seconds, where somebody asked for that.
    pub timeout_asked_seconds: Option<u64>,
}

impl Asked {
    /// What this manifest asks for.
    pub fn of(manifest: &Manifest) -> Self {
        let names = |capabilities: &BTreeSet<plugin_manifest::Capability>| {
            capabilities.iter().map(ToString::to_string).collect()
        };
        Self {
            capabilities: names(&manifest.capabilities),
            optional_capabilities: names(&manifest.optional_capabilities),
            secrets: manifest.secrets.clone(),
            optional_secrets: manifest.optional_secrets.clone(),
        }
    }
}

impl Granted {
    pub(super) fn new(
        (by, bundled): (Option<String>, bool),
        capabilities: BTreeSet<String>,
        secrets: BTreeSet<String>,
        ceilings: &CeilingsEntry,
    ) -> Self {
        Self {
            by,
            bundled,
            capabilities,
            secrets,
            ceilings: ceilings.clone(),
        }
    }

    /// The ceilings as lines `name value`.
    pub fn ceiling_lines(&self) -> Vec<String> {
        match serde_json::to_value(&self.ceilings) {
            Ok(serde_json::Value::Object(members)) => members
                .iter()
                .map(|(name, value)| format!("{name} = {value}"))
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Used {
    /// The higher of what was used before and this.
    pub(super) fn raise<T: Ord>(value: &mut Option<T>, to: T) {
        if value.as_ref().is_none_or(|before| *before < to) {
            *value = Some(to);
        }
    }
}

/// What of a report matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    outcome: Option<String>,
    exit_code: Option<u8>,
    plugin: Option<Plugin>,
    grants: Option<GrantsRecord>,
}

#[derive(Deserialize)]
struct Plugin {
    name: String,
    digest: Option<String>,
}

/// Reads what a run's report says about its plugin's name and its grants.
///
/// # Errors
///
/// A file that is no report, or the report of a run that ended before anything was granted.
pub fn read_report(path: &Path) -> Result<(String, Option<String>, GrantsRecord), Failure> {
    let report = read(path)?;
    match (report.plugin, report.grants) {
        (Some(plugin), Some(grants)) => Ok((plugin.name, plugin.digest, grants)),
        _ => Err(Failure::config(format!(
            "the run of `{}` ended before its plugin was started, so nothing was used",
            path.display()
        ))
        .with_hint("take the report of a run that did what is to be allowed")),
    }
}

fn read(path: &Path) -> Result<Report, Failure> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::config(format!("cannot read the report `{shown}`")).with_source(error)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::config(format!(
            "`{shown}` is no report of `orka-step run --report`"
        ))
        .with_source(error)
    })
}

/// The narrowest grants file for a run.
pub(super) struct Narrowest {
    /// The file.
    pub(super) text: String,
    /// Whose grants they are.
    pub(super) plugin: String,
    /// Why it may be too narrow for later runs, and what to do about it.
    pub(super) doubts: Vec<String>,
}

/// The narrowest grants file that allows what the run of a report did.
///
/// # Errors
///
/// As [`read_report`].
pub(super) fn narrowest(path: &Path, form: Form) -> Result<Narrowest, Failure> {
    let Report {
        outcome, exit_code, ..
    } = read(path)?;
    let (plugin, digest, record) = read_report(path)?;
    let ended = |outcome: String| {
        let code = exit_code.map(|code| format!(", exit code {code}"));
        format!(
            "the run of `{}` ended as `{outcome}`{}: what it did not come to is not in its grants, which may be too narrow\n\
             hint: take the report of a run that succeeded",
            path.display(),
            code.unwrap_or_default()
        )
    };
    let failed = outcome.filter(|outcome| *outcome != Outcome::Succeeded.to_string());
    let mut doubts: Vec<String> = failed.map(ended).into_iter().collect();
    doubts.extend(fetched_nothing(&record));
    doubts.extend(took_no_time(&record));
    Ok(Narrowest {
        text: render(&plugin, digest, &record, form),
        plugin,
        doubts,
    })
}

/// What it means for later runs that this one brought nothing back.
fn fetched_nothing(record: &GrantsRecord) -> Option<String> {
    let asked = &record.asked.capabilities;
    let may_fetch = [Capability::SshTransfer, Capability::WorkspaceWrite]
        .iter()
        .all(|it| asked.contains(&it.to_string()));
    (may_fetch && record.used.artifact_count.unwrap_or(0) == 0).then(|| {
        "the run brought no files back, so `artifacts-max-count` is 0: a later run that brings some is denied, after its script has \
         succeeded\n\
         hint: take the report of a run with a workspace that brings its artifacts back, or raise `artifacts-max-count` and \
         `artifacts-max-size`"
            .to_owned()
    })
}

/// What it means for later runs that this one was short, where nobody said how long it may last.
fn took_no_time(record: &GrantsRecord) -> Option<String> {
    const SHORT_SECONDS: u64 = 60;
    let used = &record.used;
    let seconds = used.seconds.filter(|seconds| *seconds < SHORT_SECONDS);
    let seconds = seconds.filter(|_| used.timeout_asked_seconds.is_none())?;
    let lifetime = lifetime(record);
    Some(format!(
        "the run took {seconds} s, so `lifetime` is {lifetime}: a later run is stopped after that, and one with a longer `--timeout` is denied\n\
         hint: take the report of a whole build, with the `--timeout` that later ones have, or raise `lifetime`"
    ))
}

fn render(plugin: &str, digest: Option<String>, record: &GrantsRecord, form: Form) -> String {
    let (asked, used) = (&record.asked, &record.used);
    let optional = asked.optional_capabilities.intersection(&used.capabilities);
    let unused: Vec<&str> = asked
        .capabilities
        .difference(&used.capabilities)
        .chain(asked.secrets.difference(&used.secrets))
        .map(String::as_str)
        .collect();
    let mut text = String::new();
    if !unused.is_empty() {
        text = format!(
            "# Asked for and not used by this run; it does not start without: {}\n",
            unused.join(", ")
        );
    }
    let is_bundled = record.granted.bundled;
    if is_bundled {
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "# Without a digest: `{plugin}` came with orka-step, and the digest of the image holds it to one file"
        );
    }
    let entry = Entry {
        plugin: plugin.to_owned(),
        digest: digest.filter(|_| !is_bundled),
        // A plugin that is not granted all that it needs does not start, used or not.
        capabilities: asked.capabilities.iter().chain(optional).cloned().collect(),
        secrets: asked.secrets.union(&used.secrets).cloned().collect(),
        ceilings: CeilingsEntry {
            images: Some(literals(&used.images)),
            cpu_cores: used.cpu_cores,
            memory_mib: used.memory_mib,
            vms_at_once: Some(used.vms_at_once),
            vms_total: Some(used.vms_total),
            keep_max: used.keep_seconds.map(|seconds| format!("{seconds}s")),
            lifetime: Some(lifetime(record)),
            namespaces: (!used.namespaces.is_empty()).then(|| literals(&used.namespaces)),
            programs: Some(literals(&used.programs)),
            artifacts_max_size: Some(used.artifact_bytes.map_or_else(|| "0".to_owned(), size)),
            artifacts_max_count: used
                .artifact_count
                .or_else(|| used.artifact_bytes.is_none().then_some(0)),
            ..CeilingsEntry::default()
        },
    };
    text.push_str(&entry.text(form));
    text
}

/// How long the same run may last: as long as it was asked to, since more is denied; else twice as long as it took, rounded up,
/// since no two runs take as long, and no longer than this one could have.
fn lifetime(record: &GrantsRecord) -> String {
    const STEP_SECONDS: u64 = 5 * 60;
    let used = &record.used;
    let with_room = used.seconds.map(|seconds| {
        let steps = seconds.saturating_mul(2).div_ceil(STEP_SECONDS).max(1);
        steps
            .saturating_mul(STEP_SECONDS)
            .min(record.timeout_seconds)
    });
    let seconds = used.timeout_asked_seconds.or(with_room);
    let lifetime = Duration::from_secs(seconds.unwrap_or(record.timeout_seconds));
    humantime::format_duration(lifetime).to_string()
}

/// At least so many bytes, in MiB: what a build makes is never of the same size twice.
fn size(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20).max(1))
}

/// Names as patterns that match nothing else.
fn literals(names: &BTreeSet<String>) -> Vec<String> {
    names.iter().map(|name| globset::escape(name)).collect()
}
