//! The manifest as it is written down: the shape shared by `plugin.toml` and the embedded JSON.
//!
//! Serde checks names and types of members here; what the values mean is checked in `manifest`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::parameter::{Ceiling, Items, ParameterValue};
use crate::suggest::teach;
use crate::{Error, Manifest, Parameter, ParameterType};

/// The schema that this version writes and the newest it reads.
pub(crate) const SCHEMA: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Document {
    /// Present in the embedded form only; authors need not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schema: Option<u32>,
    /// Who the plugin is and what it asks for.
    pub(crate) plugin: PluginTable,
    /// Parameters of a run, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) parameters: BTreeMap<String, ParameterTable>,
    /// Tekton results that the plugin may set, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) results: BTreeMap<String, ResultTable>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PluginTable {
    /// Its name: lower-case letters, digits and `-`.
    pub(crate) name: String,
    /// Its version, such as `1.2.3`.
    pub(crate) version: String,
    /// The version of the contract that it was written for, such as `0.1`; or a range, such as `>=0.1, <0.3`, of a plugin
    /// that does without what the later ones add.
    pub(crate) contract: String,
    /// What it does, in a sentence.
    pub(crate) description: String,
    /// The oldest `orka-step` that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_host: Option<String>,
    /// Capabilities that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::Capability>"))]
    pub(crate) capabilities: Vec<String>,
    /// Capabilities that it can do without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::Capability>"))]
    pub(crate) optional_capabilities: Vec<String>,
    /// Names of secrets that it uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<String>,
    /// Names of secrets that it can do without; `*` for any that the operator grants it by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) optional_secrets: Vec<String>,
    /// Groups of `string` parameters of which a run must give exactly one. A script given as a file counts as `script`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) one_of: Vec<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ParameterTable {
    /// Which values it takes.
    #[serde(rename = "type")]
    pub(crate) kind: TypeName,
    /// Whether a run must give a value; never together with a default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) required: bool,
    /// The value where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<ParameterValue>,
    /// What it is for, in a sentence.
    pub(crate) description: String,
    /// The texts of a `choice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) choices: Option<Vec<String>>,
    /// A regular expression (dialect of the crate `regex-lite`) that has to be found somewhere in a `string`, or in each
    /// text of a `list`; `^…$` around it makes it the whole value. Who gives a value that it is not found in is shown the
    /// description first: an example in it helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pattern: Option<String>,
    /// The smallest `integer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minimum: Option<i64>,
    /// The largest `integer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) maximum: Option<i64>,
    /// What the texts of a `list` are; checked before anything is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) items: Option<Items>,
    /// The capability that any value but the default needs; checked before anything is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::Capability>"))]
    pub(crate) capability: Option<String>,
    /// The ceiling of a grant that bounds the value of a `string`; checked before anything is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ceiling: Option<Ceiling>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum TypeName {
    String,
    Boolean,
    Integer,
    Choice,
    List,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultTable {
    pub(crate) description: String,
}

/// The JSON Schema of `plugin.toml`.
#[cfg(feature = "schema")]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}

impl Document {
    pub(crate) fn parse_toml(text: &str) -> Result<Self, Error> {
        let document: Self = toml::from_str(text).map_err(|error| {
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            Error::Toml {
                line: before.matches('\n').count() + 1,
                message: teach(error.message()),
            }
        })?;
        document.check_schema()?;
        Ok(document)
    }

    pub(crate) fn parse_json(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct SchemaAlone {
            schema: u32,
        }
        let unreadable = |error: serde_json::Error| Error::Json {
            message: teach(&error.to_string()),
        };
        // Read first and alone: a newer schema may have members that this version would call unknown.
        let SchemaAlone { schema } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if schema > SCHEMA {
            return Err(Error::NewerSchema { found: schema });
        }
        let document: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        document.check_schema()?;
        Ok(document)
    }

    /// The embedded form: members in the order of the types above, maps sorted by name, no white space.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::Json {
            message: error.to_string(),
        })
    }

    fn check_schema(&self) -> Result<(), Error> {
        match self.schema {
            None | Some(SCHEMA) => Ok(()),
            Some(found) if found > SCHEMA => Err(Error::NewerSchema { found }),
            Some(found) => Err(Error::Invalid {
                problems: vec![format!("there is no schema {found}")],
            }),
        }
    }
}

impl From<&Manifest> for Document {
    fn from(manifest: &Manifest) -> Self {
        Self {
            schema: Some(SCHEMA),
            plugin: PluginTable {
                name: manifest.name.clone(),
                version: manifest.version.to_string(),
                contract: manifest.contract.to_string(),
                description: manifest.description.clone(),
                minimum_host: manifest.minimum_host.as_ref().map(ToString::to_string),
                capabilities: manifest
                    .capabilities
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                optional_capabilities: manifest
                    .optional_capabilities
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                secrets: manifest.secrets.iter().cloned().collect(),
                optional_secrets: manifest.optional_secrets.iter().cloned().collect(),
                one_of: manifest.one_of.clone(),
            },
            parameters: manifest
                .parameters
                .iter()
                .map(|(name, it)| (name.clone(), it.into()))
                .collect(),
            results: manifest
                .results
                .iter()
                .map(|(name, it)| {
                    (
                        name.clone(),
                        ResultTable {
                            description: it.description.clone(),
                        },
                    )
                })
                .collect(),
        }
    }
}

impl From<&Parameter> for ParameterTable {
    fn from(parameter: &Parameter) -> Self {
        let mut table = Self {
            kind: TypeName::String,
            required: parameter.required,
            default: parameter.default.clone(),
            description: parameter.description.clone(),
            choices: None,
            pattern: parameter.kind.pattern().map(|it| it.as_str().to_owned()),
            minimum: None,
            maximum: None,
            items: parameter.items,
            capability: parameter.capability.as_ref().map(ToString::to_string),
            ceiling: parameter.ceiling,
        };
        match &parameter.kind {
            ParameterType::Text { .. } => {}
            ParameterType::Boolean => table.kind = TypeName::Boolean,
            ParameterType::Integer { minimum, maximum } => {
                (table.kind, table.minimum, table.maximum) =
                    (TypeName::Integer, *minimum, *maximum);
            }
            ParameterType::Choice { choices } => {
                (table.kind, table.choices) = (TypeName::Choice, Some(choices.clone()));
            }
            ParameterType::List { .. } => table.kind = TypeName::List,
        }
        table
    }
}
