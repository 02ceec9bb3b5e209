//! What a run asked for, was granted and used, and the narrowest grants file that follows from it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use plugin_manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::file::CeilingsEntry;
use crate::failure::Failure;

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
}

/// What the operator granted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// `FILE:LINE` of the entry; absent for the stock grant of a bundled plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
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
    /// The most CPU cores of a VM, where the plugin said how many.
    pub cpu_cores: Option<u32>,
    /// The most memory of a VM in MiB, where the plugin said how much.
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
    /// The longest time for which a VM was kept, in seconds.
    pub keep_seconds: Option<u64>,
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
        }
    }
}

impl Granted {
    pub(super) fn new(
        by: Option<String>,
        capabilities: BTreeSet<String>,
        secrets: BTreeSet<String>,
        ceilings: &CeilingsEntry,
    ) -> Self {
        Self {
            by,
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
struct Report {
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
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::config(format!("cannot read the report `{shown}`")).with_source(error)
    })?;
    let report: Report = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::config(format!(
            "`{shown}` is no report of `orka-step run --report`"
        ))
        .with_source(error)
    })?;
    match (report.plugin, report.grants) {
        (Some(plugin), Some(grants)) => Ok((plugin.name, plugin.digest, grants)),
        _ => Err(Failure::config(format!(
            "the run of `{shown}` ended before its plugin was started, so nothing was used"
        ))
        .with_hint("take the report of a run that did what is to be allowed")),
    }
}

/// The narrowest grants file, in TOML, that allows what the run of a report did.
///
/// # Errors
///
/// As [`read_report`].
pub fn narrowest(path: &Path) -> Result<String, Failure> {
    let (plugin, digest, record) = read_report(path)?;
    Ok(render(&plugin, digest.as_deref(), &record))
}

fn render(plugin: &str, digest: Option<&str>, record: &GrantsRecord) -> String {
    let (asked, used) = (&record.asked, &record.used);
    let optional = asked.optional_capabilities.intersection(&used.capabilities);
    // A plugin that is not granted all that it needs does not start, used or not.
    let capabilities: BTreeSet<String> =
        asked.capabilities.iter().chain(optional).cloned().collect();
    let mut text = String::new();
    // Writing into a `String` cannot fail.
    let mut line = |written: String| {
        let _ = writeln!(text, "{written}");
    };
    let unused: Vec<&str> = asked
        .capabilities
        .difference(&used.capabilities)
        .chain(asked.secrets.difference(&used.secrets))
        .map(String::as_str)
        .collect();
    if !unused.is_empty() {
        line(format!(
            "# Asked for and not used by this run; it does not start without: {}",
            unused.join(", ")
        ));
    }
    line("[[grant]]".to_owned());
    line(format!("plugin = {}", quoted(plugin)));
    if let Some(digest) = digest {
        line(format!("digest = {}", quoted(digest)));
    }
    line(format!("capabilities = {}", list(&capabilities)));
    if !asked.secrets.is_empty() {
        line(format!("secrets = {}", list(&asked.secrets)));
    }
    line("[grant.ceilings]".to_owned());
    line(format!(
        "lifetime = \"{}\"",
        humantime::format_duration(std::time::Duration::from_secs(record.timeout_seconds))
    ));
    line(format!("vms-at-once = {}", used.vms_at_once));
    line(format!("vms-total = {}", used.vms_total));
    line(format!("images = {}", literals(&used.images)));
    for (name, value) in [
        ("cpu-cores", used.cpu_cores),
        ("memory-mib", used.memory_mib),
    ] {
        if let Some(value) = value {
            line(format!("{name} = {value}"));
        }
    }
    if !used.namespaces.is_empty() {
        line(format!("namespaces = {}", literals(&used.namespaces)));
    }
    line(format!("programs = {}", literals(&used.programs)));
    if let Some(bytes) = used.artifact_bytes {
        line(format!("artifacts-max-size = {}", quoted(&size(bytes))));
    }
    if let Some(seconds) = used.keep_seconds {
        line(format!("keep-max = \"{seconds}s\""));
    }
    text
}

/// At least so many bytes, in MiB: what a build makes is never of the same size twice.
fn size(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20).max(1))
}

/// A TOML string: JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

fn list(items: &BTreeSet<String>) -> String {
    let items: Vec<String> = items.iter().map(|it| quoted(it)).collect();
    format!("[{}]", items.join(", "))
}

/// Names as patterns that match nothing else.
fn literals(names: &BTreeSet<String>) -> String {
    list(&names.iter().map(|name| globset::escape(name)).collect())
}
