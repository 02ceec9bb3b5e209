//! Entries of a grants file as an operator would write them, in the form of the file that they are for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use super::file::CeilingsEntry;

/// How a grants file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// In YAML, or else in TOML.
    pub(super) is_yaml: bool,
    /// What its list of entries is called.
    pub(super) key: &'static str,
    pub(super) layout: Layout,
}

/// Where an entry goes, and with what around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Below the others; in YAML with so many spaces before its `-`.
    Below(usize),
    /// Into a file that has no list yet.
    First,
    /// In the place of a list that is written out as empty.
    Instead,
    /// Somewhere in the list, which is in brackets or otherwise such that nothing can be put at the file's end.
    Within,
}

impl Default for Form {
    fn default() -> Self {
        Self::TOML
    }
}

/// What people write, and our examples have.
pub(super) const YAML_INDENT: usize = 2;

impl Form {
    pub(super) const TOML: Self = Self {
        is_yaml: false,
        key: "grant",
        layout: Layout::First,
    };

    pub(super) const YAML: Self = Self {
        is_yaml: true,
        key: "grants",
        layout: Layout::First,
    };

    /// By the ending of a file's name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ending) if ending == "yaml" || ending == "yml" => Self::YAML,
            _ => Self::TOML,
        }
    }

    /// What the table of ceilings is called there.
    pub(super) fn ceilings(self) -> String {
        if self.is_yaml || self.layout == Layout::Within {
            "ceilings".to_owned()
        } else {
            format!("[{}.ceilings]", self.key)
        }
    }

    /// Where an entry goes that takes no other's place.
    pub(super) fn into_the_file(self) -> String {
        let file = "the file given with `--grants`";
        let key = self.key;
        match self.layout {
            Layout::Below(_) | Layout::First => format!("put this into {file}"),
            Layout::Instead => format!("put this in the place of the empty `{key}` in {file}"),
            Layout::Within if self.is_yaml => format!(
                "add this to the list `{key}` in {file}, set off as its other entries are, by a comma or a `-`"
            ),
            Layout::Within => format!(
                "add this to the list `{key}` in {file}, with a comma between it and the others"
            ),
        }
    }

    /// What stands before a member of an entry that there is.
    pub(super) fn indentation(self) -> String {
        match self.layout {
            Layout::Below(indent) if self.is_yaml => " ".repeat(indent + YAML_INDENT),
            _ => String::new(),
        }
    }

    /// What an entry or a member has to be set off with from what follows or precedes it, where it is not by its line.
    pub(super) fn set_off(self) -> &'static str {
        match self.layout {
            Layout::Within => ", set off by a comma",
            _ => "",
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
        if self.is_yaml {
            format!("{name}: {value}")
        } else {
            format!("{name} = {value}")
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
        if form.layout == Layout::Within {
            if !ceilings.is_empty() {
                let inner: Vec<String> = inner.collect();
                let sign = if form.is_yaml { ":" } else { " =" };
                lines.push(format!("ceilings{sign} {{ {} }}", inner.join(", ")));
            }
            return format!("{{ {} }}\n", lines.join(", "));
        }
        let mut text = String::new();
        // Writing into a `String` cannot fail.
        if form.is_yaml {
            let indent = match form.layout {
                Layout::Below(indent) => indent,
                _ => {
                    let _ = writeln!(text, "{}:", form.key);
                    YAML_INDENT
                }
            };
            if !ceilings.is_empty() {
                lines.push(format!("{}:", form.ceilings()));
            }
            lines.extend(inner.map(|line| format!("  {line}")));
            for (position, line) in lines.iter().enumerate() {
                let start = if position == 0 { "- " } else { "  " };
                let _ = writeln!(text, "{:indent$}{start}{line}", "");
            }
        } else {
            lines.insert(0, format!("[[{}]]", form.key));
            if !ceilings.is_empty() {
                lines.push(form.ceilings());
            }
            lines.extend(inner);
            for line in lines {
                let _ = writeln!(text, "{line}");
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
