//! The operator's grants file, in TOML or YAML, and which of its lines says what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use plugin_manifest::Manifest;
use serde::{Deserialize, Deserializer, Serialize};

use super::entry::{Entry, Form, Layout, YAML_INDENT};
use super::expand;
use crate::failure::Failure;
use crate::plugin::is_bundled_name;

/// What the file of a directory that is given as grants can be called.
const FILE_NAMES: [&str; 3] = ["grants.toml", "grants.yaml", "grants.yml"];

/// The operator's grants file, in TOML or, by its name's ending `.yaml` or `.yml`, in YAML.
///
/// The first entry whose `plugin` and `digest` fit decides; later ones are not looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[cfg_attr(test, schemars(title = "Grants of orka-step", transform = both_names))]
pub struct GrantsFile {
    /// The entries. `grants` means the same.
    #[serde(
        default,
        rename = "grant",
        alias = "grants",
        deserialize_with = "entries"
    )]
    #[cfg_attr(test, schemars(with = "Vec<Grant>"))]
    pub(super) grants: Vec<Grant>,
    /// What it is called in messages.
    #[serde(skip)]
    pub(super) shown: String,
    #[serde(skip)]
    pub(super) lines: Lines,
    /// How it is written, and what is to be added to it as well.
    #[serde(skip)]
    pub(super) form: Form,
}

/// A list without a word after its name is an empty one in YAML, as people see it.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Grant>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Schemas know no aliases: `grants` is written into it beside `grant`. A file has one of the two.
#[cfg(test)]
fn both_names(schema: &mut schemars::Schema) {
    let Some(properties) = schema.get_mut("properties") else {
        return;
    };
    properties["grants"] = properties["grant"].clone();
    schema.insert(
        "not".to_owned(),
        serde_json::json!({"required": ["grant", "grants"]}),
    );
}

/// As [`is_digest`] has it.
#[cfg(test)]
const DIGEST_PATTERN: &str = "^sha256:[0-9A-Fa-f]{64}$";

/// As [`duration`] has it: `1h 30m`, with the units of the crate `humantime`.
#[cfg(test)]
const DURATION_PATTERN: &str = concat!(
    r"^(0|\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|",
    r"hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)\s*)+)$"
);

/// As [`bytes`] has it.
#[cfg(test)]
const SIZE_PATTERN: &str = "^[0-9]+([KMGT]i)?B?$";

/// As [`expand`] takes them: names, and what stands for several.
#[cfg(test)]
fn capability_names(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    use plugin_manifest::Capability;

    let names = Capability::ALL.map(|it| it.as_str().to_owned());
    let groups = super::groups().into_iter().map(|it| format!("{it}.*"));
    let all: Vec<String> = names
        .into_iter()
        .chain(["*".to_owned()])
        .chain(groups)
        .collect();
    schemars::json_schema!({"type": "array", "items": {"type": "string", "enum": all}})
}

/// What one plugin, or every plugin, may do.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Grant {
    /// The name in the plugin's manifest, or `*`, which takes no digest.
    pub(super) plugin: String,
    /// `sha256:…` of the plugin's file; absent fits any. What came with the program needs none.
    #[cfg_attr(test, schemars(regex(pattern = DIGEST_PATTERN)))]
    pub(super) digest: Option<String>,
    /// Capabilities; `*` and `ssh.*` stand for several, and include those that the plugin can do without.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "capability_names"))]
    pub(super) capabilities: Vec<String>,
    /// Names of secrets; `*` stands for all that the manifest asks for.
    #[serde(default)]
    pub(super) secrets: Vec<String>,
    /// Upper limits of what is granted.
    #[serde(default)]
    pub(super) ceilings: CeilingsEntry,
}

/// Upper limits of what a granted plugin may ask for. What is absent has no ceiling, or the one named here.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CeilingsEntry {
    /// Patterns of images; `*` stays within one part of an OCI reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) images: Option<Vec<String>>,
    /// CPU cores of one VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_cores: Option<u32>,
    /// Memory of one VM, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_mib: Option<u32>,
    /// VMs at the same time; 4 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vms_at_once: Option<u32>,
    /// VMs in the whole run; 16 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vms_total: Option<u32>,
    /// How long a VM may be kept after the run, such as `2h`; `4h` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(regex(pattern = DURATION_PATTERN)))]
    pub(super) keep_max: Option<String>,
    /// How long the run may last, such as `1h`, and with it every VM that is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(regex(pattern = DURATION_PATTERN)))]
    pub(super) lifetime: Option<String>,
    /// Patterns of Orka namespaces (3.x only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespaces: Option<Vec<String>>,
    /// Patterns of programs that may be started in VMs, as the plugin names them; `*` stays within one directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) programs: Option<Vec<String>>,
    /// What of the workspace may be touched, whatever `capabilities` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workspace: Option<WorkspaceAccess>,
    /// Bytes of all that a run fetches, such as `2Gi`; `64Gi` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(regex(pattern = SIZE_PATTERN)))]
    pub(super) artifacts_max_size: Option<String>,
    /// Files, links and directories of all that a run fetches; 500000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifacts_max_count: Option<u64>,
}

/// What of the workspace may be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum WorkspaceAccess {
    /// Nothing.
    None,
    /// It may be read.
    Read,
    /// It may be read and written.
    Write,
}

/// Where an entry and its members are in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct EntryLines {
    entry: usize,
    members: BTreeMap<String, usize>,
}

/// Where all entries are.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    file: String,
    entries: Vec<EntryLines>,
}

/// Where one entry is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    file: String,
    lines: EntryLines,
    /// How the file is written.
    pub(super) form: Form,
}

impl Place {
    /// `file:line` of the entry.
    pub(super) fn entry(&self) -> Option<String> {
        self.shown(self.lines.entry)
    }

    /// `file:line` of a member of the entry or of its ceilings, if it is there.
    pub(super) fn member(&self, name: &str) -> Option<String> {
        self.shown(*self.lines.members.get(name)?)
    }

    fn shown(&self, line: usize) -> Option<String> {
        (line > 0).then(|| format!("{}:{line}", self.file))
    }
}

impl GrantsFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is not TOML or YAML, or has unknown members or capabilities.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let inside;
        let path = if path.is_dir() {
            inside = only_file_of(path)?;
            &inside
        } else {
            path
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::config(format!("cannot read the grants file `{shown}`"))
                .with_source(error)
                .with_hint(
                    "give `--grants` (`ORKA_GRANTS`) the file's path, or the directory that holds it alone; without it plugins \
                     other than the bundled ones may do nothing",
                )
        })?;
        let is_yaml = Form::of(path).is_yaml;
        Self::parse(&text, &shown, is_yaml)
    }

    /// Reads a file's text; `path` names it in messages.
    ///
    /// # Errors
    ///
    /// As [`GrantsFile::load`].
    pub fn parse(text: &str, path: &str, is_yaml: bool) -> Result<Self, Failure> {
        Self::read(text, path, &format!("the grants file `{path}`"), is_yaml)
    }

    /// Reads grants in TOML that are in no file; `shown` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`GrantsFile::load`].
    pub fn parse_text(text: &str, shown: &str) -> Result<Self, Failure> {
        Self::read(text, shown, shown, false)
    }

    fn read(text: &str, source: &str, shown: &str, is_yaml: bool) -> Result<Self, Failure> {
        let wrong = |line: Option<u64>, message: &str| {
            let at = line.map(|line| format!(", {source}:{line}"));
            // Names in it are as they were written, which can be anything.
            let message = plugin_manifest::teach(message);
            Failure::config(format!(
                "{shown} is wrong{}: {message}",
                at.unwrap_or_default()
            ))
            .with_hint("`orka-step schema grants` is the JSON Schema of such a file; `plugins/README.md` shows one")
        };
        let (mut file, mut entries): (Self, _) = if is_yaml {
            let file = serde_saphyr::from_str(text).map_err(|error| {
                let line = error.location().map(|location| location.line());
                wrong(line, &yaml_problem(&error))
            })?;
            (file, yaml_lines(text))
        } else {
            let file = toml::from_str(text).map_err(|error: toml::de::Error| {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map(|before| before.matches('\n').count() as u64 + 1);
                wrong(line, error.message())
            })?;
            (file, toml_lines(text))
        };
        shown.clone_into(&mut file.shown);
        file.form = form_of(text, is_yaml, &file.grants);
        if let Layout::Below(indent) = file.form.layout {
            for lines in &mut entries {
                lines.entry = begin_of(text, lines.entry, is_yaml.then_some(indent));
            }
        }
        file.lines = Lines {
            file: source.to_owned(),
            entries,
        };
        for (position, grant) in file.grants.iter().enumerate() {
            let place = file.place(position);
            let at = |member: &str| {
                let line = place.member(member).or_else(|| place.entry());
                line.unwrap_or_else(|| source.to_owned())
            };
            let bad = |member: &str, problem: String| {
                Failure::config(format!("{shown} is wrong, {}: {problem}", at(member)))
            };
            if let Some(digest) = &grant.digest
                && !is_digest(digest)
            {
                let problem = format!(
                    "`{digest}` is no digest: `sha256:` and 64 hexadecimal digits; `orka-step plugin inspect` shows a plugin's"
                );
                return Err(bad("digest", problem));
            }
            // It would bind no plugin but one, and leave to all others what no entry is about.
            if grant.digest.is_some() && grant.plugin == "*" {
                let problem = "`digest` goes with the name of a plugin: write that in place of `*`; \
                               `orka-step plugin inspect` shows it";
                return Err(bad("digest", problem.to_owned()));
            }
            for name in &grant.capabilities {
                expand(name).map_err(|problem| bad("capabilities", problem))?;
            }
            let ceilings = &grant.ceilings;
            for (member, value) in [
                ("keep-max", &ceilings.keep_max),
                ("lifetime", &ceilings.lifetime),
            ] {
                duration(member, value.as_deref()).map_err(|problem| bad(member, problem))?;
            }
            let member = "artifacts-max-size";
            size(member, ceilings.artifacts_max_size.as_deref())
                .map_err(|problem| bad(member, problem))?;
            for (member, patterns) in [
                ("images", &ceilings.images),
                ("namespaces", &ceilings.namespaces),
                ("programs", &ceilings.programs),
            ] {
                globs(patterns.as_deref()).map_err(|error| {
                    bad(member, format!("`{member}` has a bad pattern")).with_source(error)
                })?;
            }
        }
        Ok(file)
    }

    /// The entry that decides about a plugin, and its position.
    ///
    /// Anybody can call a plugin `build`: an entry with the name of a bundled one is for that one, unless it has a digest.
    pub(super) fn find(
        &self,
        manifest: &Manifest,
        digest: &str,
        bundled: bool,
    ) -> Option<(usize, &Grant)> {
        let is_namesake = is_namesake(manifest, bundled);
        self.grants.iter().enumerate().find(|(_, grant)| {
            let is_named =
                grant.plugin == manifest.name && (grant.digest.is_some() || !is_namesake);
            (grant.plugin == "*" || is_named)
                && grant
                    .digest
                    .as_deref()
                    .is_none_or(|wanted| wanted.eq_ignore_ascii_case(digest))
        })
    }

    /// Whether it is said of the plugins of this name alone, whichever file that is.
    #[cfg(feature = "authoring")]
    pub(crate) fn is_of_name(&self, name: &str) -> bool {
        let mut grants = self.grants.iter();
        grants.all(|grant| grant.plugin == name && grant.digest.is_none())
    }

    /// The same, said of one plugin by its name and digest instead of whichever plugins it was said of.
    #[cfg(feature = "authoring")]
    pub(crate) fn said_of(&self, manifest: &Manifest, digest: &str) -> Self {
        let mut said = self.clone();
        for grant in &mut said.grants {
            grant.plugin = manifest.name.clone();
            grant.digest = Some(digest.to_owned());
        }
        said.form = Form::YAML;
        said
    }

    /// Where an entry is.
    pub(super) fn place(&self, position: usize) -> Place {
        Place {
            file: self.lines.file.clone(),
            lines: self
                .lines
                .entries
                .get(position)
                .cloned()
                .unwrap_or_default(),
            form: self.form,
        }
    }
}

/// Whether it is another with the name of a plugin that came with this program.
pub(super) fn is_namesake(manifest: &Manifest, bundled: bool) -> bool {
    !bundled && is_bundled_name(&manifest.name)
}

/// Whether this is a digest as those that plugins' are compared with. One that is not would fit no plugin, without a word.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// How entries are written in a file that reads well: an entry is put there in each way, and the first that gives a file with
/// that entry as its last is the one.
fn form_of(text: &str, is_yaml: bool, grants: &[Grant]) -> Form {
    const PROBE: &str = "probe";
    let key =
        if has_member(text, is_yaml, "grant") || !is_yaml && !has_member(text, is_yaml, "grants") {
            "grant"
        } else {
            "grants"
        };
    let form = |layout| Form {
        is_yaml,
        key,
        layout,
    };
    if grants.is_empty() && !has_member(text, is_yaml, key) {
        return form(Layout::First);
    }
    let fits = |layout: &Layout| {
        let entry = Entry {
            plugin: PROBE.to_owned(),
            ..Entry::default()
        };
        let with_entry = format!("{text}\n{}", entry.text(form(*layout)));
        let file: Option<GrantsFile> = if is_yaml {
            serde_saphyr::from_str(&with_entry).ok()
        } else {
            toml::from_str(&with_entry).ok()
        };
        file.is_some_and(|file| {
            let last = file.grants.last();
            file.grants.len() == grants.len() + 1 && last.is_some_and(|it| it.plugin == PROBE)
        })
    };
    // TOML has no indentation, so that the first decides.
    let indents = std::iter::once(YAML_INDENT).chain(0..=INDENT_MAX);
    let below = indents.map(Layout::Below).find(fits);
    form(match below {
        Some(layout) => layout,
        None if grants.is_empty() => Layout::Instead,
        None => Layout::Within,
    })
}

/// Entries that are indented further are told of in words.
const INDENT_MAX: usize = 8;

fn has_member(text: &str, is_yaml: bool, name: &str) -> bool {
    type Members = BTreeMap<String, serde::de::IgnoredAny>;
    let members: Option<Members> = if is_yaml {
        serde_saphyr::from_str(text).ok()
    } else {
        toml::from_str(text).ok()
    };
    members.is_some_and(|members| members.contains_key(name))
}

/// The one file of a directory that can be meant.
fn only_file_of(directory: &Path) -> Result<PathBuf, Failure> {
    let shown = directory.display();
    let there: Vec<&str> = FILE_NAMES
        .into_iter()
        .filter(|name| directory.join(name).exists())
        .collect();
    match there[..] {
        [name] => Ok(directory.join(name)),
        [] => Err(Failure::config(format!(
            "there is no grants file in the directory `{shown}`"
        ))
        .with_hint(format!(
            "put one there as `{}`, or give the path of the file itself",
            FILE_NAMES[..2].join("` or `")
        ))),
        // Whichever was taken, somebody would believe that the other one holds.
        _ => Err(Failure::config(format!(
            "there are several grants files in the directory `{shown}`: `{}`",
            there.join("`, `")
        ))
        .with_hint("leave one there, or give the path of the one that is meant")),
    }
}

/// The line that begins the entry whose first member is at `line`, the nearest above: in YAML the one with its `-` after so
/// many spaces, in TOML its `[[grant]]`.
fn begin_of(text: &str, line: usize, yaml_indent: Option<usize>) -> usize {
    let begins = |line: &str| {
        let body = line.trim_start();
        match yaml_indent {
            Some(indent) => line.len() - body.len() == indent && body.starts_with('-'),
            None => body.starts_with("[["),
        }
    };
    let lines: Vec<&str> = text.lines().take(line).collect();
    lines
        .iter()
        .rposition(|line| begins(line))
        .map_or(line, |position| position + 1)
}

/// An error in the words of the library that found it, without the place, which is told as `file:line`.
fn yaml_problem(error: &serde_saphyr::Error) -> String {
    let shown = error.without_snippet().to_string();
    let first = shown.lines().next().unwrap_or_default();
    let bare = first.strip_prefix("error: ").unwrap_or(first);
    let bare = bare
        .split_once(" at line ")
        .map_or(bare, |(problem, _)| problem);
    // In the form that TOML's have, which is looked through for the nearest.
    match bare.split_once(", expected one of ") {
        Some((problem, names)) if !names.contains('`') => {
            let names: Vec<&str> = names.split(',').map(str::trim).collect();
            format!("{problem}, expected one of `{}`", names.join("`, `"))
        }
        _ => bare.to_owned(),
    }
}

/// A duration such as `4h`.
pub(super) fn duration(member: &str, value: Option<&str>) -> Result<Option<Duration>, String> {
    let parse = |text: &str| {
        humantime::parse_duration(text)
            .map_err(|_| format!("`{member} = \"{text}\"` is no duration such as `4h`"))
    };
    value.map(parse).transpose()
}

/// A size such as `2Gi`.
pub(super) fn size(member: &str, value: Option<&str>) -> Result<Option<u64>, String> {
    let parse = |text: &str| {
        bytes(text).ok_or_else(|| format!("`{member} = \"{text}\"` is no size such as `2Gi`"))
    };
    value.map(parse).transpose()
}

/// Bytes, as Kubernetes writes them: `512`, `10Mi`, `2Gi`; a `B` after that is accepted.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix('B').unwrap_or(text);
    let unit_at = text.len().checked_sub(2);
    let (number, factor) = match unit_at.and_then(|at| text.split_at_checked(at)) {
        Some((number, "Ki")) => (number, 1 << 10),
        Some((number, "Mi")) => (number, 1 << 20),
        Some((number, "Gi")) => (number, 1 << 30),
        Some((number, "Ti")) => (number, 1_u64 << 40),
        _ => (text, 1),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| number.parse().ok())??;
    number.checked_mul(factor)
}

/// Patterns in which `*` stays within one part: `sonoma-*` is no pattern for somebody else's registry.
pub(super) fn globs(patterns: Option<&[String]>) -> Result<Option<GlobSet>, globset::Error> {
    let Some(patterns) = patterns else {
        return Ok(None);
    };
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        globs.add(GlobBuilder::new(pattern).literal_separator(true).build()?);
    }
    globs.build().map(Some)
}

/// Lines of a TOML text that reads well.
fn toml_lines(text: &str) -> Vec<EntryLines> {
    let line = |at: usize| {
        let before = text.get(..at).unwrap_or_default();
        before.matches('\n').count() + 1
    };
    let Ok(document) = toml::de::DeTable::parse(text) else {
        return Vec::new();
    };
    let document = document.into_inner();
    let entries = document.get("grant").or_else(|| document.get("grants"));
    let Some(entries) = entries.and_then(|it| it.get_ref().as_array()) else {
        return Vec::new();
    };
    entries
        .iter()
        .map(|entry| {
            let mut lines = EntryLines::default();
            let Some(table) = entry.get_ref().as_table() else {
                return lines;
            };
            for (key, value) in table {
                let at = line(key.span().start);
                lines.members.insert(key.get_ref().to_string(), at);
                let is_first = lines.entry == 0 || at < lines.entry;
                if is_first && value.get_ref().as_table().is_none() {
                    lines.entry = at;
                }
                if let Some(ceilings) = value.get_ref().as_table() {
                    for key in ceilings.keys() {
                        let name = key.get_ref().to_string();
                        lines.members.insert(name, line(key.span().start));
                    }
                }
            }
            lines
        })
        .collect()
}

/// Lines of a YAML text that reads well.
fn yaml_lines(text: &str) -> Vec<EntryLines> {
    use serde_saphyr::Spanned;

    type Anything = Spanned<serde_json::Value>;

    #[derive(Deserialize)]
    struct File {
        #[serde(default, alias = "grants")]
        grant: Vec<BTreeMap<String, Anything>>,
    }

    #[derive(Deserialize)]
    struct Ceilings {
        #[serde(default)]
        ceilings: BTreeMap<String, Anything>,
    }

    #[derive(Deserialize)]
    struct CeilingsFile {
        #[serde(default, alias = "grants")]
        grant: Vec<Ceilings>,
    }

    let line = |of: &Anything| usize::try_from(of.referenced.line()).unwrap_or(0);
    let entries: Vec<_> =
        serde_saphyr::from_str::<File>(text).map_or_else(|_| Vec::new(), |it| it.grant);
    let ceilings =
        serde_saphyr::from_str::<CeilingsFile>(text).map_or_else(|_| Vec::new(), |it| it.grant);
    entries
        .iter()
        .enumerate()
        .map(|(position, entry)| {
            let members = entry
                .iter()
                .map(|(name, value)| (name.clone(), line(value)));
            let mut lines = EntryLines {
                entry: entry.values().map(line).min().unwrap_or(0),
                members: members.collect(),
            };
            if let Some(ceilings) = ceilings.get(position) {
                let members = ceilings.ceilings.iter();
                lines
                    .members
                    .extend(members.map(|(name, value)| (name.clone(), line(value))));
            }
            lines
        })
        .collect()
}
