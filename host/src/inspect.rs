//! `orka-step plugin inspect`: what a plugin says of itself, without running it.

use std::fmt::Write as _;

use plugin_manifest::{Manifest, ParameterType, ParameterValue};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::plugin::{Plugin, PluginRef};

/// What is known of a plugin, for people or as JSON.
///
/// # Errors
///
/// As [`Plugin::load`].
pub fn inspect(reference: &PluginRef, as_json: bool) -> Result<String, Failure> {
    let plugin = Plugin::load(reference)?;
    let imports = plugin_manifest::imports(&plugin.bytes).map_err(|error| {
        Failure::internal("the imports cannot be read again").with_source(error)
    })?;
    if as_json {
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
        });
        return Ok(format!("{value:#}\n"));
    }
    Ok(describe(&plugin, &imports))
}

fn describe(plugin: &Plugin, imports: &[String]) -> String {
    let manifest = &plugin.manifest;
    let mut text = String::new();
    // Writing into a `String` cannot fail.
    let _ = writeln!(
        text,
        "{} {}: {}",
        manifest.name, manifest.version, manifest.description
    );
    let _ = writeln!(
        text,
        "  file      {} ({} bytes)",
        plugin.path.display(),
        plugin.bytes.len()
    );
    let _ = writeln!(text, "  digest    {}", plugin.digest);
    let _ = writeln!(
        text,
        "  contract  {}.{}",
        manifest.contract.major, manifest.contract.minor
    );
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
    let granted = if plugin.bundled {
        "all of it (it came with this program)"
    } else {
        "nothing without `--grants`"
    };
    let _ = writeln!(text, "  granted   {granted}");
    let _ = writeln!(text, "  imports   {}", imports.join("\n            "));
    parameters(&mut text, manifest);
    for (name, result) in &manifest.results {
        let _ = writeln!(text, "\nresult {name}\n    {}", result.description);
    }
    text
}

fn parameters(text: &mut String, manifest: &Manifest) {
    for (name, parameter) in &manifest.parameters {
        let kind = match &parameter.kind {
            ParameterType::Text { .. } => "string".to_owned(),
            ParameterType::Boolean => "boolean".to_owned(),
            ParameterType::Integer { .. } => "integer".to_owned(),
            ParameterType::Choice { choices } => format!("one of {}", choices.join(", ")),
            ParameterType::List => "list".to_owned(),
        };
        let default = match &parameter.default {
            _ if parameter.required => "required".to_owned(),
            None => "optional".to_owned(),
            Some(ParameterValue::Text(value)) => format!("default \"{value}\""),
            Some(ParameterValue::Boolean(value)) => format!("default {value}"),
            Some(ParameterValue::Integer(value)) => format!("default {value}"),
            Some(ParameterValue::List(items)) => format!("default [{}]", items.join(", ")),
        };
        let _ = writeln!(
            text,
            "\n-p {name}=…  ({kind}, {default})\n    {}",
            parameter.description
        );
    }
}
