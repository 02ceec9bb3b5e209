//! `orka-step plugin inspect`: what a plugin says of itself, without running it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use plugin_manifest::{ANY_SECRET, Manifest, on_one_line};
use serde_json::{Value, json};

use crate::cli::InspectArgs;
use crate::failure::Failure;
use crate::grants::{Grants, GrantsFile, GrantsRecord, read_report};
use crate::plugin::Plugin;

/// What is known of a plugin, for people or as JSON.
///
/// # Errors
///
/// As [`Plugin::load`], and files that cannot be read.
pub fn inspect(args: &InspectArgs) -> Result<String, Failure> {
    let reference = args.place.reference(&args.plugin)?;
    let plugin = Plugin::load(&reference)?;
    let file = args.grants.as_deref().map(GrantsFile::load).transpose()?;
    let granted = Grants::intersect(
        file.as_ref(),
        &plugin.manifest,
        &plugin.digest,
        plugin.bundled,
    );
    let report = args.report.as_deref().map(read_report).transpose()?;
    if let Some((name, digest, _)) = &report
        && *name != plugin.manifest.name
    {
        let digest = digest.as_deref().unwrap_or("no digest");
        return Err(Failure::config(format!(
            "the report is of plugin `{name}` ({digest}), not of `{}`",
            plugin.manifest.name
        )));
    }
    let imports = plugin_manifest::imports(&plugin.bytes).map_err(|error| {
        Failure::internal("the imports cannot be read again").with_source(error)
    })?;
    if args.json {
        let manifest: Value = plugin
            .manifest
            .to_json()
            .map_err(|error| Failure::internal("the manifest cannot be written").with_source(error))
            .and_then(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| {
                    Failure::internal("the manifest cannot be read again").with_source(error)
                })
            })?;
        let value = json!({
            "path": plugin.path, "digest": plugin.digest, "bytes": plugin.bytes.len(), "bundled": plugin.bundled,
            "imports": imports, "manifest": manifest,
            "granted": granted.as_ref().ok().map(Grants::granted),
            "warning": Grants::not_about(file.as_ref(), &plugin),
            "denied": granted.as_ref().err().map(|failure| failure.message.clone()),
            "used": report.as_ref().map(|(_, _, record)| &record.used),
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = describe(&plugin, &imports, &granted, file.as_ref());
    if let Some((_, digest, record)) = &report {
        used(&mut text, record);
        if digest.as_deref() != Some(&plugin.digest) {
            text.push_str(
                "            (by another file of this plugin: the report has another digest)\n",
            );
        }
    }
    parameters(&mut text, &plugin.manifest);
    for (name, result) in &plugin.manifest.results {
        let description = on_one_line(&result.description);
        let _ = writeln!(text, "\nresult {name}\n    {description}");
    }
    Ok(text)
}

/// What a run used, and what of that it need not have been granted.
fn used(text: &mut String, record: &GrantsRecord) {
    let used = &record.used;
    let set = |items: &std::collections::BTreeSet<String>| {
        if items.is_empty() {
            "nothing".to_owned()
        } else {
            items.iter().cloned().collect::<Vec<_>>().join(", ")
        }
    };
    let _ = writeln!(text, "  used      {}", set(&used.capabilities));
    let mut lines = Vec::new();
    if !used.secrets.is_empty() {
        lines.push(format!("secrets {}", set(&used.secrets)));
    }
    if !used.images.is_empty() {
        lines.push(format!("images {}", set(&used.images)));
    }
    let numbers = [
        ("CPU cores", used.cpu_cores.map(u64::from)),
        ("MiB of memory", used.memory_mib.map(u64::from)),
        ("VMs at once", Some(u64::from(used.vms_at_once))),
        ("VMs in all", Some(u64::from(used.vms_total))),
        ("bytes of artifacts", used.artifact_bytes),
        (
            "files, links and directories of artifacts",
            used.artifact_count,
        ),
        ("seconds of keeping", used.keep_seconds),
        ("seconds in all", used.seconds),
    ];
    for (what, number) in numbers {
        lines.extend(number.map(|number| format!("{number} {what}")));
    }
    if !used.namespaces.is_empty() {
        lines.push(format!("namespaces {}", set(&used.namespaces)));
    }
    if !used.programs.is_empty() {
        lines.push(format!("programs {}", set(&used.programs)));
    }
    for line in lines {
        let _ = writeln!(text, "            {line}");
    }
    let unused: Vec<&str> = record
        .granted
        .capabilities
        .difference(&used.capabilities)
        .chain(record.granted.secrets.difference(&used.secrets))
        .map(String::as_str)
        .collect();
    if !unused.is_empty() {
        let _ = writeln!(text, "  unused    {}", unused.join(", "));
    }
}

fn describe(
    plugin: &Plugin,
    imports: &[String],
    granted: &Result<Grants, Failure>,
    file: Option<&GrantsFile>,
) -> String {
    let manifest = &plugin.manifest;
    let mut text = String::new();
    // Writing into a `String` cannot fail.
    let _ = writeln!(
        text,
        "{} {}: {}",
        manifest.name,
        manifest.version,
        on_one_line(&manifest.description)
    );
    let _ = writeln!(
        text,
        "  file      {} ({} bytes)",
        plugin.path.display(),
        plugin.bytes.len()
    );
    let _ = writeln!(text, "  digest    {}", plugin.digest);
    let _ = writeln!(text, "  contract  {}", manifest.contract);
    let asked: Vec<String> = manifest
        .capabilities
        .iter()
        .map(ToString::to_string)
        .collect();
    let _ = writeln!(
        text,
        "  asks for  {}",
        if asked.is_empty() {
            "nothing".to_owned()
        } else {
            asked.join(", ")
        }
    );
    if !manifest.optional_capabilities.is_empty() {
        let optional: Vec<String> = manifest
            .optional_capabilities
            .iter()
            .map(ToString::to_string)
            .collect();
        let _ = writeln!(text, "  optional  {}", optional.join(", "));
    }
    if !manifest.secrets.is_empty() {
        let _ = writeln!(
            text,
            "  secrets   {}",
            manifest
                .secrets
                .iter()
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    if let Some(secrets) = may_use(&manifest.optional_secrets) {
        let _ = writeln!(text, "  may use   {secrets}");
    }
    match granted {
        Err(_) if file.is_none() => text.push_str("  granted   nothing without `--grants`\n"),
        Err(failure) => {
            let _ = writeln!(text, "  granted   not enough to start: {failure}");
        }
        Ok(grants) => {
            let granted = grants.granted();
            let by = granted.by.as_deref().unwrap_or("it came with this program");
            let names: Vec<&str> = granted
                .capabilities
                .iter()
                .chain(&granted.secrets)
                .map(String::as_str)
                .collect();
            let _ = writeln!(text, "  granted   {} ({by})", names.join(", "));
            for ceiling in granted.ceiling_lines() {
                let _ = writeln!(text, "            {ceiling}");
            }
            if let Some(warning) = Grants::not_about(file, plugin) {
                let _ = writeln!(text, "            warning: {warning}");
            }
        }
    }
    let imports: Vec<String> = imports.iter().map(|it| on_one_line(it)).collect();
    let _ = writeln!(text, "  imports   {}", imports.join("\n            "));
    text
}

/// The secrets that a plugin can do without, in words.
pub(crate) fn may_use(optional: &BTreeSet<String>) -> Option<String> {
    let names: Vec<&str> = optional.iter().map(String::as_str).collect();
    match names[..] {
        [] => None,
        _ if optional.contains(ANY_SECRET) => {
            Some("any secret that is granted to it by name".to_owned())
        }
        _ => Some(format!("the secrets {}", names.join(", "))),
    }
}

fn parameters(text: &mut String, manifest: &Manifest) {
    for (name, parameter) in &manifest.parameters {
        let _ = writeln!(
            text,
            "\n-p {name}=…  ({parameter})\n    {}",
            on_one_line(&parameter.description)
        );
    }
}
