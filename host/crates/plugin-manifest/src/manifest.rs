//! The manifest: parsed, checked, embedded and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use semver::Version;

use crate::contract::{ContractRange, Demands};
use crate::document::{Document, ParameterTable, PluginTable, TypeName};
use crate::parameter::{Pattern, SECRET_NAME_BYTES_MAX, is_secret_name};
use crate::resolve::{check_items, check_value};
use crate::text::{is_deceptive, on_one_line};
use crate::{
    Capability, Error, HOST_RESULTS, Parameter, ParameterProblem, ParameterType, ParameterValue,
    wasm,
};

/// The longest name of a plugin, parameter or result, in bytes: that of a DNS label, so that names fit into the names
/// of Kubernetes objects.
pub const NAME_BYTES_MAX: usize = 63;

/// Stands for any secret that a plugin is granted by name.
pub const ANY_SECRET: &str = "*";

/// The parameter that a script given as a file counts as.
const SCRIPT: &str = "script";

/// What a plugin says of itself. One that exists has been checked: its defaults fit its types, its names are names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The plugin's name: `[a-z][a-z0-9-]*`, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The plugin's own version.
    pub version: Version,
    /// The versions of `orka:plugin` it is for.
    pub contract: ContractRange,
    /// What it does, in a sentence for people.
    pub description: String,
    /// The oldest host it works with, where it matters.
    pub minimum_host: Option<Version>,
    /// What it asks for.
    pub capabilities: BTreeSet<Capability>,
    /// What it can do without, for what it does only when it is told to: it runs also where these are not granted.
    pub optional_capabilities: BTreeSet<Capability>,
    /// The secrets it asks for, by name.
    pub secrets: BTreeSet<String>,
    /// The secrets that it can do without; [`ANY_SECRET`] stands for any that it is granted by name.
    pub optional_secrets: BTreeSet<String>,
    /// Groups of parameters of which a run gives exactly one.
    pub one_of: Vec<Vec<String>>,
    /// Its parameters by name.
    pub parameters: BTreeMap<String, Parameter>,
    /// Its results by name.
    pub results: BTreeMap<String, ResultDeclaration>,
}

/// A result that a plugin may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultDeclaration {
    /// What it holds, in a sentence for people.
    pub description: String,
}

impl Manifest {
    /// Parses a `plugin.toml`.
    ///
    /// # Errors
    ///
    /// [`Error::Toml`] names the line; [`Error::Invalid`] lists every problem at once.
    pub fn parse_toml(text: &str) -> Result<Self, Error> {
        Self::check(Document::parse_toml(text)?)
    }

    /// Reads the manifest that a component carries, without compiling it; `None` if it carries none.
    ///
    /// Only a custom section at the component's top level counts.
    ///
    /// # Errors
    ///
    /// [`Error::NotAComponent`], [`Error::Malformed`], [`Error::Duplicate`], or what is wrong with the manifest.
    pub fn from_component(component: &[u8]) -> Result<Option<Self>, Error> {
        let Some(bytes) = wasm::manifest_section(component)? else {
            return Ok(None);
        };
        Self::check(Document::parse_json(bytes)?).map(Some)
    }

    /// What the manifest in a component demands of the host, whether or not the rest of it can be read: a manifest that was
    /// written for a newer host may have members and capabilities that this version does not know.
    ///
    /// Nothing where there is no manifest, or none that can be found; that is told by [`Manifest::from_component`].
    pub fn demands(component: &[u8]) -> Demands {
        let section = wasm::manifest_section(component);
        section
            .ok()
            .flatten()
            .map(Demands::read)
            .unwrap_or_default()
    }

    /// Copies a component with this manifest in it, in place of any it had. Everything else stays byte for byte.
    ///
    /// The same component and manifest always give the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAComponent`], [`Error::Malformed`] or [`Error::TooLong`].
    pub fn embed(&self, component: &[u8]) -> Result<Vec<u8>, Error> {
        wasm::with_manifest_section(component, &self.to_json()?)
    }

    /// The embedded form: JSON with `"schema":1`, fixed order of members and no white space.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if it cannot be written, which no checked manifest brings about.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Document::from(self).to_json()
    }

    fn check(document: Document) -> Result<Self, Error> {
        let mut check = Check::default();
        let manifest = check.manifest(document);
        match manifest {
            Some(manifest) if check.problems.is_empty() => Ok(manifest),
            _ => Err(Error::Invalid {
                problems: check.problems,
            }),
        }
    }
}

/// Gathers every problem of a document; a part with a problem is `None`.
#[derive(Default)]
struct Check {
    problems: Vec<String>,
}

impl Check {
    fn manifest(&mut self, document: Document) -> Option<Manifest> {
        let PluginTable {
            name,
            version,
            contract,
            description,
            minimum_host,
            capabilities,
            optional_capabilities,
            secrets,
            optional_secrets,
            one_of,
        } = document.plugin;
        self.name("plugin", &name);
        self.text("the description", &description);
        let version = self.version("version", &version);
        let contract = self.parsed("contract", contract.parse::<ContractRange>());
        let minimum_host = minimum_host.map(|text| self.version("minimum-host", &text));
        let capabilities: BTreeSet<Capability> = capabilities
            .iter()
            .filter_map(|it| self.parsed("capabilities", it.parse()))
            .collect();
        let optional_capabilities: BTreeSet<Capability> = optional_capabilities
            .iter()
            .filter_map(|it| self.parsed("optional-capabilities", it.parse()))
            .collect();
        for both in capabilities.intersection(&optional_capabilities) {
            self.problem(format!(
                "`{both}` is asked for and optional; only one of them can be"
            ));
        }
        let optional = optional_secrets.iter().filter(|name| *name != ANY_SECRET);
        secrets
            .iter()
            .chain(optional)
            .for_each(|secret| self.secret_name(secret));
        let parameters = document.parameters.into_iter().filter_map(|(name, table)| {
            self.name("parameter", &name);
            Some((name.clone(), self.parameter(&name, table)?))
        });
        let parameters: BTreeMap<String, Parameter> = parameters.collect();
        one_of
            .iter()
            .for_each(|group| self.group(group, &parameters));
        for (name, parameter) in &parameters {
            if let Some(needed) = parameter.capability
                && !capabilities.contains(&needed)
                && !optional_capabilities.contains(&needed)
            {
                self.problem(format!(
                    "parameter `{name}` needs `{needed}`, which is neither in `capabilities` nor in `optional-capabilities`, so that no value but the default could be given"
                ));
            }
        }
        for (name, result) in &document.results {
            self.name("result", name);
            if HOST_RESULTS.contains(&name.as_str()) {
                self.problem(format!(
                    "result `{name}` is the host's own, which every run has; call it otherwise"
                ));
            }
            self.text(
                &format!("the description of result `{name}`"),
                &result.description,
            );
        }
        let results = document.results.into_iter();
        Some(Manifest {
            name,
            version: version?,
            contract: contract?,
            description,
            minimum_host: minimum_host.flatten(),
            capabilities,
            optional_capabilities,
            secrets: secrets.into_iter().collect(),
            optional_secrets: optional_secrets.into_iter().collect(),
            one_of,
            parameters,
            results: results
                .map(|(name, it)| {
                    (
                        name,
                        ResultDeclaration {
                            description: it.description,
                        },
                    )
                })
                .collect(),
        })
    }

    fn name(&mut self, what: &str, name: &str) {
        let mut bytes = name.bytes();
        let good = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && name.len() <= NAME_BYTES_MAX;
        if !good {
            self.problem(format!(
                "`{name}` is no {what} name: it has to start with a lower-case letter, go on with lower-case letters, \
                 digits and `-`, and have at most {NAME_BYTES_MAX} characters"
            ));
        }
    }

    fn secret_name(&mut self, name: &str) {
        if !is_secret_name(name) {
            self.problem(format!(
                "`{name}` is no secret name: it has to consist of letters, digits, `-`, `_` and `.`, and have at most \
                 {SECRET_NAME_BYTES_MAX} characters"
            ));
        }
    }

    /// Refuses what could forge or hide lines where the text is shown.
    fn text(&mut self, what: &str, text: &str) {
        if let Some(found) = text.chars().find(|it| is_deceptive(*it)) {
            self.problem(format!(
                "{what} has the character U+{:04X}, which can end a line or hide what stands beside it; leave it out",
                u32::from(found)
            ));
        }
    }

    /// As [`Check::text`] for a value, which can be a whole script: it may have lines.
    fn value(&mut self, name: &str, value: &ParameterValue) {
        let what = format!("the default of parameter `{name}`");
        let without_lines = |text: &str| text.replace("\r\n", "").replace(['\n', '\t'], "");
        match value {
            ParameterValue::Text(text) => self.text(&what, &without_lines(text)),
            ParameterValue::List(items) => {
                for item in items {
                    self.text(&what, &without_lines(item));
                }
            }
            ParameterValue::Boolean(_) | ParameterValue::Integer(_) => {}
        }
    }

    fn version(&mut self, member: &str, text: &str) -> Option<Version> {
        let parsed = Version::parse(text);
        self.parsed(
            member,
            parsed.map_err(|error| format!("`{text}` is no version such as `1.2.3`: {error}")),
        )
    }

    fn parsed<T, E: fmt::Display>(&mut self, member: &str, parsed: Result<T, E>) -> Option<T> {
        parsed
            .map_err(|error| self.problem(format!("`{member}`: {error}")))
            .ok()
    }

    fn parameter(&mut self, name: &str, table: ParameterTable) -> Option<Parameter> {
        self.only_members_of_its_type(name, &table);
        self.text(
            &format!("the description of parameter `{name}`"),
            &table.description,
        );
        if let Some(default) = &table.default {
            self.value(name, default);
        }
        if table.required && table.default.is_some() {
            self.problem(format!(
                "parameter `{name}` is required and has a default; only one of them can be"
            ));
        }
        let kind = self.parameter_type(name, &table)?;
        if let Some(default) = &table.default
            && let Err(problem) = check_value(name, &kind, &table.description, default)
                .and_then(|()| check_items(name, table.items, default))
        {
            self.problem(format!("the default does not fit: {problem}"));
        }
        let capability = table.capability.as_deref();
        let capability = capability.map(|it| self.parsed("capability", it.parse()));
        Some(Parameter {
            description: table.description,
            kind,
            default: table.default,
            required: table.required,
            items: table.items,
            capability: capability.flatten(),
            ceiling: table.ceiling,
        })
    }

    /// Refuses a group of which no run could give exactly one, or only ever the same one.
    fn group(&mut self, group: &[String], parameters: &BTreeMap<String, Parameter>) {
        if group.is_empty() {
            self.problem(
                "`one-of` has a group without parameters, of which no run could give one"
                    .to_owned(),
            );
        }
        for (position, name) in group.iter().enumerate() {
            if group[..position].contains(name) {
                self.problem(format!(
                    "`one-of` names `{name}` twice in a group, so that it would be given more than once"
                ));
                continue;
            }
            match parameters.get(name) {
                Some(Parameter {
                    kind: ParameterType::Text { .. },
                    default,
                    ..
                }) => {
                    let text = default.as_ref().and_then(ParameterValue::as_text);
                    if text.is_some_and(|text| !text.is_empty()) {
                        self.problem(format!(
                            "`one-of` names `{name}`, which has a default and so is always given; leave the default out or empty"
                        ));
                    }
                }
                _ => self.problem(format!(
                    "`one-of` names `{name}`, which is no parameter of type `string`"
                )),
            }
        }
    }

    fn parameter_type(&mut self, name: &str, table: &ParameterTable) -> Option<ParameterType> {
        Some(match table.kind {
            TypeName::String => ParameterType::Text {
                pattern: self.pattern(name, table.pattern.as_deref())?,
            },
            TypeName::Boolean => ParameterType::Boolean,
            TypeName::Integer => {
                if matches!((table.minimum, table.maximum), (Some(minimum), Some(maximum)) if minimum > maximum)
                {
                    self.problem(format!(
                        "parameter `{name}` has a minimum above its maximum"
                    ));
                }
                ParameterType::Integer {
                    minimum: table.minimum,
                    maximum: table.maximum,
                }
            }
            TypeName::Choice => ParameterType::Choice {
                choices: self.choices(name, table.choices.as_deref())?,
            },
            TypeName::List => ParameterType::List {
                pattern: self.pattern(name, table.pattern.as_deref())?,
            },
        })
    }

    fn pattern(&mut self, name: &str, source: Option<&str>) -> Option<Option<Pattern>> {
        let Some(source) = source else {
            return Some(None);
        };
        self.text(&format!("the pattern of parameter `{name}`"), source);
        let parsed = Pattern::parse(source);
        parsed
            .map_err(|error| self.problem(format!("the pattern of parameter `{name}` {error}")))
            .ok()
            .map(Some)
    }

    fn choices(&mut self, name: &str, choices: Option<&[String]>) -> Option<Vec<String>> {
        let choices = choices.unwrap_or_default();
        if choices.is_empty() {
            self.problem(format!(
                "parameter `{name}` is a choice and needs `choices` with at least one text"
            ));
            return None;
        }
        if choices.iter().collect::<BTreeSet<_>>().len() < choices.len() {
            self.problem(format!("parameter `{name}` has a choice twice"));
        }
        for choice in choices {
            self.text(&format!("a choice of parameter `{name}`"), choice);
        }
        Some(choices.to_vec())
    }

    /// Refuses, say, a `minimum` on a text: silently ignored, it would look as if it were checked.
    fn only_members_of_its_type(&mut self, name: &str, table: &ParameterTable) {
        let members = [
            (
                "choices",
                table.choices.is_some(),
                matches!(table.kind, TypeName::Choice),
                "choice",
            ),
            (
                "pattern",
                table.pattern.is_some(),
                matches!(table.kind, TypeName::String | TypeName::List),
                "string` or `list",
            ),
            (
                "minimum",
                table.minimum.is_some(),
                matches!(table.kind, TypeName::Integer),
                "integer",
            ),
            (
                "maximum",
                table.maximum.is_some(),
                matches!(table.kind, TypeName::Integer),
                "integer",
            ),
            (
                "items",
                table.items.is_some(),
                matches!(table.kind, TypeName::List),
                "list",
            ),
            (
                "ceiling",
                table.ceiling.is_some(),
                matches!(table.kind, TypeName::String),
                "string",
            ),
        ];
        for (member, present, allowed, kind) in members {
            if present && !allowed {
                self.problem(format!(
                    "parameter `{name}` has `{member}`, which only type `{kind}` can have"
                ));
            }
        }
        if table.items.is_some() && table.pattern.is_some() {
            self.problem(format!(
                "parameter `{name}` has `items` and `pattern`; only one of them can say what its texts are"
            ));
        }
    }

    fn problem(&mut self, problem: String) {
        // Names and versions in it are as they were written, which can be anything.
        self.problems.push(on_one_line(&problem));
    }
}

impl Manifest {
    /// Checks the values given to a run and fills in the defaults.
    ///
    /// Values are text, as command lines, environments and Tekton hold them. A boolean is `true` or `false`. A list is
    /// a JSON array of strings, or one item a line (blank lines are skipped). An empty text stands for "not given"
    /// where the parameter is required or its type cannot hold it: a Tekton Task can leave a param empty, but not out.
    /// Everything else arrives as it was given, not a character altered.
    ///
    /// A parameter that is optional, has no default and was not given is absent from the answer.
    ///
    /// # Errors
    ///
    /// Every problem at once, in the order of the parameters' names.
    pub fn resolve(
        &self,
        given: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, ParameterValue>, Vec<ParameterProblem>> {
        crate::resolve::resolve(&self.parameters, given)
    }

    /// Checks that of each group of `one-of` exactly one parameter has a text. A script given as a file counts as the
    /// parameter `script`.
    pub fn check_one_of(
        &self,
        values: &BTreeMap<String, ParameterValue>,
        has_script_file: bool,
    ) -> Vec<ParameterProblem> {
        let is_given = |name: &&String| {
            let text = values.get(*name).and_then(ParameterValue::as_text);
            text.is_some_and(|text| !text.is_empty())
        };
        let problem = |names: &Vec<String>| {
            let takes_script = names.iter().any(|name| name == SCRIPT);
            let given = names.iter().filter(is_given).count()
                + usize::from(takes_script && has_script_file);
            let names = names.clone();
            match given {
                0 => Some(ParameterProblem::NoneOf {
                    names,
                    takes_script,
                }),
                1 => None,
                _ => Some(ParameterProblem::SeveralOf {
                    names,
                    takes_script,
                }),
            }
        };
        self.one_of.iter().filter_map(problem).collect()
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
