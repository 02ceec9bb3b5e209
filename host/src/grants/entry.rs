//! Entries of a grants file as an operator would write them, in the form of the file that they are for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use super::file::CeilingsEntry;

/// How a grants file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// In TOML.
    #[default]
    Toml,
    /// In YAML, with so many spaces before the `-` of an entry.
    Yaml {
        /// How many.
        indent: usize,
        /// Whether the file has no entry yet, so that the first one brings the key above them with it.
        begins: bool,
    },
}

/// What people write, and our examples have.
pub(super) const YAML_INDENT: usize = 2;

impl Form {
    /// By the ending of a file's name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ending) if ending == "yaml" || ending == "yml" => Self::Yaml {
                indent: YAML_INDENT,
                begins: true,
            },
            _ => Self::Toml,
        }
    }

    /// What the table of ceilings is called there.
    pub(super) fn ceilings(self) -> &'static str {
        match self {
            Self::Toml => "[grant.ceilings]",
            Self::Yaml { .. } => "ceilings",
        }
    }

    /// One member in a line. Strings, numbers and lists of JSON are such of TOML and of YAML.
    pub(super) fn member(self, name: &str, value: &Value) -> String {
        let value = match value {
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(Value::to_string).collect();
                format!("[{}]", items.join(", "))
            }
            other => other.to_string(),
        };
        match self {
            Self::Toml => format!("{name} = {value}"),
            Self::Yaml { .. } => format!("{name}: {value}"),
        }
    }
}

/// An entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) plugin: String,
    pub(super) digest: Option<String>,
    pub(super) capabilities: BTreeSet<String>,
    pub(super) secrets: BTreeSet<String>,
    pub(super) ceilings: CeilingsEntry,
}

impl Entry {
    /// Its lines, to be copied as they are.
    pub(super) fn text(&self, form: Form) -> String {
        let member = |(name, value): (&str, &Value)| form.member(name, value);
        let members = self.members();
        let mut lines: Vec<String> = members
            .iter()
            .map(|(name, value)| member((name, value)))
            .collect();
        let ceilings = match serde_json::to_value(&self.ceilings) {
            Ok(Value::Object(ceilings)) => ceilings,
            _ => Map::new(),
        };
        let inner = ceilings.iter().map(|(name, value)| member((name, value)));
        let mut text = String::new();
        // Writing into a `String` cannot fail.
        match form {
            Form::Toml => {
                lines.insert(0, "[[grant]]".to_owned());
                if !ceilings.is_empty() {
                    lines.push(form.ceilings().to_owned());
                }
                lines.extend(inner);
                for line in lines {
                    let _ = writeln!(text, "{line}");
                }
            }
            Form::Yaml { indent, begins } => {
                if begins {
                    text.push_str("grants:\n");
                }
                if !ceilings.is_empty() {
                    lines.push(format!("{}:", form.ceilings()));
                }
                lines.extend(inner.map(|line| format!("  {line}")));
                for (position, line) in lines.iter().enumerate() {
                    let start = if position == 0 { "- " } else { "  " };
                    let _ = writeln!(text, "{:indent$}{start}{line}", "");
                }
            }
        }
        text
    }

    fn members(&self) -> Vec<(&'static str, Value)> {
        let list = |items: &BTreeSet<String>| Value::from_iter(items.iter().cloned());
        let mut members = vec![("plugin", self.plugin.as_str().into())];
        if let Some(digest) = &self.digest {
            members.push(("digest", digest.as_str().into()));
        }
        if !self.capabilities.is_empty() {
            members.push(("capabilities", list(&self.capabilities)));
        }
        if !self.secrets.is_empty() {
            members.push(("secrets", list(&self.secrets)));
        }
        members
    }
}
