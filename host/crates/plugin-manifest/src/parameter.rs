//! Parameters: what a plugin declares, and the typed values a run gives.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Capability;
use crate::text::on_one_line;

/// A parameter that a plugin declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// What it is for, in a sentence for people.
    pub description: String,
    /// Which values it takes.
    pub kind: ParameterType,
    /// The value when none is given. A parameter that is neither required nor has a default may stay without a value.
    pub default: Option<ParameterValue>,
    /// Whether a run must give a value. Never together with a default.
    pub required: bool,
    /// What the texts of a list are, where that is said.
    pub items: Option<Items>,
    /// What any value but the default needs.
    pub capability: Option<Capability>,
    /// What bounds the value, where that is said.
    pub ceiling: Option<Ceiling>,
}

/// A ceiling of a grant that bounds a parameter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ceiling {
    /// How long a VM is kept, such as `30m`; of a run in which another parameter's value needs `cluster.keep`.
    KeepMax,
}

/// What the texts of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Items {
    /// Patterns of files, as in `.gitignore`.
    Globs,
    /// Environment variables, as `NAME=VALUE`.
    Environment,
    /// Environment variables whose values are secrets, as `NAME=SECRET`, or `NAME` where both are called the same.
    SecretEnvironment,
}

impl Items {
    /// The variable and what it is set to, where this is a list of variables and `item` has the form of one.
    pub fn variable(self, item: &str) -> Option<(&str, &str)> {
        let (name, value) = match self {
            Self::Globs => return None,
            Self::Environment => item.split_once('=')?,
            Self::SecretEnvironment => item.split_once('=').unwrap_or((item, item)),
        };
        let is_value = self != Self::SecretEnvironment || is_secret_name(value);
        (is_variable(name) && is_value).then_some((name, value))
    }
}

/// POSIX 8.1: letters, digits and underscores, not beginning with a digit.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

/// The longest name of a secret, in bytes: that of a key of a Kubernetes Secret.
pub(crate) const SECRET_NAME_BYTES_MAX: usize = 253;

/// Whether a secret can be called so: as a key of a Kubernetes Secret.
pub fn is_secret_name(name: &str) -> bool {
    let good = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    // `.` and `..` would be directories where secrets are files.
    good && !name.trim_matches('.').is_empty() && name.len() <= SECRET_NAME_BYTES_MAX
}

/// What values it takes and what holds without one, in words such as `integer from 1 to 24, default 3`.
impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = match self.items {
            None => "",
            Some(Items::Globs) => " of globs",
            Some(Items::Environment) => " of NAME=VALUE",
            Some(Items::SecretEnvironment) => " of NAME=SECRET",
        };
        write!(f, "{}{items}, ", self.kind)?;
        match &self.default {
            _ if self.required => f.write_str("required"),
            None => f.write_str("optional"),
            Some(ParameterValue::Text(value)) => write!(f, "default \"{}\"", on_one_line(value)),
            Some(ParameterValue::List(items)) => {
                write!(f, "default [{}]", on_one_line(&items.join(", ")))
            }
            Some(value) => write!(f, "default {value}"),
        }
    }
}

/// Which values a parameter takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterType {
    /// `string`: any text, or text that matches the pattern.
    Text {
        /// What the text has to match.
        pattern: Option<Pattern>,
    },
    /// `boolean`: `true` or `false`.
    Boolean,
    /// `integer`: a whole number of 64 bits.
    Integer {
        /// The smallest value allowed.
        minimum: Option<i64>,
        /// The largest value allowed.
        maximum: Option<i64>,
    },
    /// `choice`: one of some texts.
    Choice {
        /// The texts; never empty.
        choices: Vec<String>,
    },
    /// `list`: any number of texts, or of texts that match the pattern.
    List {
        /// What each text has to match.
        pattern: Option<Pattern>,
    },
}

impl ParameterType {
    /// The name used in `plugin.toml`, such as `string`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "string",
            Self::Boolean => "boolean",
            Self::Integer { .. } => "integer",
            Self::Choice { .. } => "choice",
            Self::List { .. } => "list",
        }
    }

    /// What a text, or each text of a list, has to match.
    pub const fn pattern(&self) -> Option<&Pattern> {
        match self {
            Self::Text { pattern } | Self::List { pattern } => pattern.as_ref(),
            Self::Boolean | Self::Integer { .. } | Self::Choice { .. } => None,
        }
    }
}

impl fmt::Display for ParameterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { minimum, maximum } => match (minimum, maximum) {
                (Some(least), Some(most)) => write!(f, "integer from {least} to {most}"),
                (Some(least), None) => write!(f, "integer of at least {least}"),
                (None, Some(most)) => write!(f, "integer of at most {most}"),
                (None, None) => f.write_str("integer"),
            },
            Self::Choice { choices } => write!(f, "one of {}", on_one_line(&choices.join(", "))),
            Self::Text { pattern } | Self::List { pattern } => {
                f.write_str(self.name())?;
                let Some(pattern) = pattern else {
                    return Ok(());
                };
                let of = match self {
                    Self::List { .. } => " of texts",
                    _ => "",
                };
                write!(f, "{of} matching `{}`", on_one_line(pattern.as_str()))
            }
            Self::Boolean => f.write_str(self.name()),
        }
    }
}

/// A value of a parameter, in the parameter's type: a text, a whole number, true or false, or a list of texts.
// `Display` writes it so that giving that text to `Manifest::resolve` yields it again: a list becomes a JSON array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    untagged,
    expecting = "expected a string, a boolean, an integer or a list of strings"
)]
pub enum ParameterValue {
    /// Of type `boolean`.
    Boolean(bool),
    /// Of type `integer`.
    Integer(i64),
    /// Of type `string` or `choice`.
    Text(String),
    /// Of type `list`.
    List(Vec<String>),
}

impl ParameterValue {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub const fn as_boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub const fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[String]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Text(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str(&serde_json::to_string(items).map_err(|_| fmt::Error)?)
            }
        }
    }
}

/// A regular expression that a text has to match somewhere; anchor it with `^` and `$` to match the whole.
///
/// The syntax is that of the `regex-lite` crate: no look-around, no back-references, so matching takes linear time.
#[derive(Debug, Clone)]
pub struct Pattern(regex_lite::Regex);

impl Pattern {
    /// The longest pattern that is accepted, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// Compiles a pattern; an error is a phrase that says what is wrong with it.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        if source.len() > Self::BYTES_MAX {
            return Err(format!("is longer than {} bytes", Self::BYTES_MAX));
        }
        regex_lite::Regex::new(source)
            .map(Self)
            .map_err(|error| format!("cannot be used: {error}"))
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is held at both ends. It is looked for anywhere in a value, which few authors mean.
    pub fn is_anchored(&self) -> bool {
        let source = self.as_str();
        let begins = source.starts_with('^') || source.starts_with(r"\A");
        let ends = source.ends_with('$') && !source.ends_with(r"\$");
        begins && (ends || source.ends_with(r"\z"))
    }

    /// Whether it is found in `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}
