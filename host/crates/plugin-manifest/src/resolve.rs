//! A run's parameters: text in, typed values out, every problem at once.

use std::collections::BTreeMap;

use crate::parameter::{Items, Parameter, ParameterType, ParameterValue};
use crate::suggest::{did_you_mean, nearest};

/// How much of a refused value is shown, in characters. A value can be a whole script.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// Why a parameter given to a run was refused. `Display` is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterProblem {
    /// The plugin has no such parameter.
    #[error("the plugin has no parameter `{name}`{}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// The name that was given.
        name: String,
        /// The parameter that was probably meant.
        nearest: Option<String>,
    },
    /// A required parameter has no value, or an empty one.
    #[error("parameter `{name}` is required{}", in_words(description))]
    Missing {
        /// The parameter.
        name: String,
        /// What it is for.
        description: String,
    },
    /// The value is of another type.
    #[error("parameter `{name}` has to be {expected}, not {}", shown(given))]
    WrongType {
        /// The parameter.
        name: String,
        /// What it has to be, with its article.
        expected: &'static str,
        /// The value that was given.
        given: String,
    },
    /// The value is none of the choices.
    #[error(
        "parameter `{name}` has to be one of {}, not {}{}",
        listed(choices), shown(given), did_you_mean(nearest(given, choices.iter().map(String::as_str)))
    )]
    NotAChoice {
        /// The parameter.
        name: String,
        /// The value that was given.
        given: String,
        /// The values it can have.
        choices: Vec<String>,
    },
    /// The number is too small or too large.
    #[error("parameter `{name}` has to be {}, not {given}", range(*minimum, *maximum))]
    OutOfRange {
        /// The parameter.
        name: String,
        /// The number that was given.
        given: i64,
        /// The smallest value allowed.
        minimum: Option<i64>,
        /// The largest value allowed.
        maximum: Option<i64>,
    },
    /// The text, or one of a list, does not match the pattern. The description says in words what the pattern says to a
    /// program.
    #[error(
        "parameter `{name}` cannot {} {}{} (it has to match `{pattern}`)",
        if *is_list { "have the line" } else { "be" }, shown(given), in_words(description)
    )]
    PatternMismatch {
        /// The parameter.
        name: String,
        /// The text that was given.
        given: String,
        /// Whether it is one of several.
        is_list: bool,
        /// What the parameter is for.
        description: String,
        /// The regular expression.
        pattern: String,
    },
    /// A text of a list has not the form that those of this list have. It is not shown: it may be worth hiding.
    #[error("parameter `{name}` needs lines of the form {form}; line {line} is none")]
    Item {
        /// The parameter.
        name: String,
        /// Which text, the first being 1.
        line: usize,
        /// What it has to look like.
        form: &'static str,
    },
    /// None of a group of parameters was given.
    #[error("parameter `{}` is missing: give {}", names.first().map_or("", String::as_str), one_of(names, *takes_script))]
    NoneOf {
        /// The group.
        names: Vec<String>,
        /// Whether a script given as a file would do as well.
        takes_script: bool,
    },
    /// More than one of a group of parameters was given.
    #[error(
        "parameter `{}` is given in more than one way: give {}",
        names.first().map_or("", String::as_str), one_of(names, *takes_script)
    )]
    SeveralOf {
        /// The group.
        names: Vec<String>,
        /// Whether a script given as a file counts as well.
        takes_script: bool,
    },
}

impl ParameterProblem {
    /// The name of the parameter the problem is about.
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown { name, .. }
            | Self::Missing { name, .. }
            | Self::WrongType { name, .. }
            | Self::NotAChoice { name, .. }
            | Self::OutOfRange { name, .. }
            | Self::PatternMismatch { name, .. }
            | Self::Item { name, .. } => name,
            Self::NoneOf { names, .. } | Self::SeveralOf { names, .. } => {
                names.first().map_or("", String::as_str)
            }
        }
    }
}

/// What the variables begin with that give parameters.
const PARAM_PREFIX: &str = "ORKA_PARAM_";

/// The environment variable that gives a parameter: `ORKA_PARAM_` and the name in upper case with `-` as `_`.
///
/// Names have no `_` and no upper case, so no two parameters share a variable.
pub fn environment_name(parameter: &str) -> String {
    format!(
        "{PARAM_PREFIX}{}",
        parameter.to_ascii_uppercase().replace('-', "_")
    )
}

/// See [`Manifest::resolve`](crate::Manifest::resolve).
pub(crate) fn resolve(
    parameters: &BTreeMap<String, Parameter>,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, ParameterValue>, Vec<ParameterProblem>> {
    let mut values = BTreeMap::new();
    let mut problems = unknown(parameters, given);
    for (name, parameter) in parameters {
        match value(name, parameter, given.get(name).map(String::as_str)) {
            Ok(Some(value)) => {
                values.insert(name.clone(), value);
            }
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    problems.sort_by(|a, b| a.name().cmp(b.name()));
    if problems.is_empty() {
        Ok(values)
    } else {
        Err(problems)
    }
}

/// One parameter by itself: what a text given for it stands for.
///
/// # Errors
///
/// What is wrong with it.
pub fn resolve_one(
    name: &str,
    parameter: &Parameter,
    given: &str,
) -> Result<Option<ParameterValue>, ParameterProblem> {
    value(name, parameter, Some(given))
}

fn unknown(
    parameters: &BTreeMap<String, Parameter>,
    given: &BTreeMap<String, String>,
) -> Vec<ParameterProblem> {
    let known = || parameters.keys().map(String::as_str);
    let unknown = given.keys().filter(|name| !parameters.contains_key(*name));
    // One that came by a variable is answered with the variable that was meant.
    let nearest_variable = |name: &String| {
        let typed = name.strip_prefix(PARAM_PREFIX)?;
        let typed = typed.to_ascii_lowercase().replace('_', "-");
        nearest(&typed, known()).map(environment_name)
    };
    let problem = |name: &String| ParameterProblem::Unknown {
        name: name.clone(),
        nearest: nearest_variable(name).or_else(|| nearest(name, known()).map(str::to_owned)),
    };
    unknown.map(problem).collect()
}

fn value(
    name: &str,
    parameter: &Parameter,
    given: Option<&str>,
) -> Result<Option<ParameterValue>, ParameterProblem> {
    match given {
        Some(text) if !stands_for_absent(parameter, text) => {
            let value = typed(name, &parameter.kind, text)?;
            check_value(name, &parameter.kind, &parameter.description, &value)?;
            check_items(name, parameter.items, &value)?;
            Ok(Some(value))
        }
        _ if parameter.required => Err(ParameterProblem::Missing {
            name: name.to_owned(),
            description: parameter.description.clone(),
        }),
        _ => Ok(parameter.default.clone()),
    }
}

/// Whether an empty text means that nothing was given.
fn stands_for_absent(parameter: &Parameter, text: &str) -> bool {
    let can_be_empty = match &parameter.kind {
        ParameterType::Text { pattern } => {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(""))
        }
        ParameterType::Choice { choices } => choices.iter().any(String::is_empty),
        ParameterType::Boolean | ParameterType::Integer { .. } => false,
        ParameterType::List { .. } => true,
    };
    text.is_empty() && (parameter.required || !can_be_empty)
}

fn typed(name: &str, kind: &ParameterType, text: &str) -> Result<ParameterValue, ParameterProblem> {
    let value = match kind {
        ParameterType::Text { .. } | ParameterType::Choice { .. } => {
            Some(ParameterValue::Text(text.to_owned()))
        }
        ParameterType::Boolean => text.parse().ok().map(ParameterValue::Boolean),
        ParameterType::Integer { .. } => text.parse().ok().map(ParameterValue::Integer),
        ParameterType::List { .. } => list(text).map(ParameterValue::List),
    };
    value.ok_or_else(|| wrong_type(name, kind, text.to_owned()))
}

/// A JSON array, or one item a line; `None` for a JSON array of anything but strings.
fn list(text: &str) -> Option<Vec<String>> {
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Ok(items) => items
            .into_iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        // Not an array at all: globs may start with a bracket too.
        Err(_) => Some(
            text.lines()
                .filter(|line| !line.trim().is_empty())
                .map(str::to_owned)
                .collect(),
        ),
    }
}

/// Checks a typed value, given or default, against what its type allows.
pub(crate) fn check_value(
    name: &str,
    kind: &ParameterType,
    description: &str,
    value: &ParameterValue,
) -> Result<(), ParameterProblem> {
    let name = || name.to_owned();
    let matches = |texts: &[String]| {
        let Some(pattern) = kind.pattern() else {
            return Ok(());
        };
        let wrong = texts.iter().find(|text| !pattern.matches(text));
        wrong.map_or(Ok(()), |given| {
            Err(ParameterProblem::PatternMismatch {
                name: name(),
                given: given.clone(),
                is_list: matches!(kind, ParameterType::List { .. }),
                description: description.to_owned(),
                pattern: pattern.as_str().to_owned(),
            })
        })
    };
    match (kind, value) {
        (ParameterType::Text { .. }, ParameterValue::Text(text)) => {
            matches(std::slice::from_ref(text))
        }
        (ParameterType::List { .. }, ParameterValue::List(texts)) => matches(texts),
        (ParameterType::Integer { minimum, maximum }, ParameterValue::Integer(given)) => {
            let allowed = minimum.unwrap_or(i64::MIN)..=maximum.unwrap_or(i64::MAX);
            if allowed.contains(given) {
                return Ok(());
            }
            Err(ParameterProblem::OutOfRange {
                name: name(),
                given: *given,
                minimum: *minimum,
                maximum: *maximum,
            })
        }
        (ParameterType::Choice { choices }, ParameterValue::Text(text)) => {
            if choices.contains(text) {
                return Ok(());
            }
            Err(ParameterProblem::NotAChoice {
                name: name(),
                given: text.clone(),
                choices: choices.clone(),
            })
        }
        (ParameterType::Boolean, ParameterValue::Boolean(_)) => Ok(()),
        (kind, value) => Err(wrong_type(&name(), kind, value.to_string())),
    }
}

/// Checks the variables of a list of such. What a glob may be is known to who uses it.
pub(crate) fn check_items(
    name: &str,
    items: Option<Items>,
    value: &ParameterValue,
) -> Result<(), ParameterProblem> {
    let (Some(items), Some(lines)) = (items, value.as_list()) else {
        return Ok(());
    };
    let form = match items {
        Items::Globs => return Ok(()),
        Items::Environment => "NAME=VALUE, with a name of letters, digits and `_`",
        Items::SecretEnvironment => {
            "NAME=SECRET, or NAME where the secret is called the same, with a name of letters, digits and `_`, and a secret of letters, digits, `-`, `_` and `.`"
        }
    };
    let wrong = lines.iter().position(|line| items.variable(line).is_none());
    wrong.map_or(Ok(()), |position| {
        Err(ParameterProblem::Item {
            name: name.to_owned(),
            line: position + 1,
            form,
        })
    })
}

/// One of a group of parameters, as part of a sentence.
fn one_of(names: &[String], takes_script: bool) -> String {
    let script = takes_script.then(|| "the positional SCRIPT".to_owned());
    let names = names.iter().map(|name| format!("`{name}`"));
    let ways: Vec<String> = names.chain(script).collect();
    match ways.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("one of {} and {last}", others.join(", ")),
        None => String::new(),
    }
}

fn wrong_type(name: &str, kind: &ParameterType, given: String) -> ParameterProblem {
    let expected = match kind {
        ParameterType::Text { .. } | ParameterType::Choice { .. } => "a string",
        ParameterType::Boolean => "`true` or `false`",
        ParameterType::Integer { .. } => "an integer",
        ParameterType::List { .. } => "a list of strings",
    };
    ParameterProblem::WrongType {
        name: name.to_owned(),
        expected,
        given,
    }
}

/// What a description adds to a sentence, where there is one.
fn in_words(description: &str) -> String {
    match description.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    }
}

/// A value as part of a sentence: in backticks, on one line, not too long.
fn shown(value: &str) -> String {
    let mut characters = value.chars();
    let start: String = characters
        .by_ref()
        .take(SHOWN_CHARACTERS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    let ellipsis = if characters.next().is_some() {
        "…"
    } else {
        ""
    };
    format!("`{start}{ellipsis}`")
}

fn listed(choices: &[String]) -> String {
    choices
        .iter()
        .map(|choice| format!("`{choice}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn range(minimum: Option<i64>, maximum: Option<i64>) -> String {
    match (minimum, maximum) {
        (Some(minimum), Some(maximum)) => format!("from {minimum} to {maximum}"),
        (Some(minimum), None) => format!("at least {minimum}"),
        (None, Some(maximum)) => format!("at most {maximum}"),
        (None, None) => "an integer".to_owned(),
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
