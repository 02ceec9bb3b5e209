//! The parameters of the run, in the types the manifest gives them.
//!
//! The host has checked them against the manifest before the plugin starts, so a value of another type than asked for
//! here is a mistake in the plugin; it is reported like a wrong parameter, not by a panic.

use crate::Error;
use crate::bindings::orka::plugin::params::{self, Value};

pub use crate::bindings::orka::plugin::params::script;

/// A `string` or `choice`; none if it was not given and has no default.
///
/// # Errors
///
/// `params.invalid` if the manifest gives it another type.
pub fn text(name: &str) -> Result<Option<String>, Error> {
    match params::get(name) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(other_type(name, "string", &other)),
    }
}

/// A `string` or `choice` that is not empty, or none.
///
/// # Errors
///
/// As [`text`].
pub fn non_empty_text(name: &str) -> Result<Option<String>, Error> {
    Ok(text(name)?.filter(|text| !text.is_empty()))
}

/// A `string` or `choice` that must be there and not empty.
///
/// # Errors
///
/// `params.invalid` if it is missing, empty or of another type.
pub fn required_text(name: &str) -> Result<String, Error> {
    non_empty_text(name)?.ok_or_else(|| missing(name))
}

/// What is said of a parameter that has no value. The contract does not tell one that was not given from one that nobody can
/// give, so the hint is for both; the host's log names the latter.
fn missing(name: &str) -> Error {
    Error::parameter(name, "is missing").with_hint(format!(
        "give it with `-p {name}=…`; `[parameters.{name}]` in the plugin's `plugin.toml` declares it"
    ))
}

/// What is said of a plugin that reads a parameter as another type than its manifest gives it.
fn other_type(name: &str, wanted: &str, value: &Value) -> Error {
    let declared = match value {
        Value::Text(_) => "string",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) => "integer",
        Value::List(_) => "list",
    };
    let problem =
        format!("is of type `{declared}` in `plugin.toml`, and the plugin reads it as `{wanted}`");
    Error::parameter(name, problem).with_hint(format!(
        "change `type` of `[parameters.{name}]` in the plugin's `plugin.toml`, or how the plugin reads it"
    ))
}

/// A `boolean`; `false` if it was not given and has no default.
///
/// # Errors
///
/// `params.invalid` if the manifest gives it another type.
pub fn flag(name: &str) -> Result<bool, Error> {
    match params::get(name) {
        None => Ok(false),
        Some(Value::Boolean(flag)) => Ok(flag),
        Some(other) => Err(other_type(name, "boolean", &other)),
    }
}

/// An `integer`; none if it was not given and has no default.
///
/// # Errors
///
/// `params.invalid` if the manifest gives it another type.
pub fn integer(name: &str) -> Result<Option<i64>, Error> {
    match params::get(name) {
        None => Ok(None),
        Some(Value::Integer(number)) => Ok(Some(number)),
        Some(other) => Err(other_type(name, "integer", &other)),
    }
}

/// A `string` such as `90s`, `10m` or `1h`, in milliseconds; none if it is empty or was not given.
///
/// # Errors
///
/// `params.invalid` if it is no such duration, or of another type.
pub fn duration_ms(name: &str) -> Result<Option<u64>, Error> {
    let text = non_empty_text(name)?;
    text.map(|text| milliseconds(name, &text)).transpose()
}

fn milliseconds(name: &str, text: &str) -> Result<u64, Error> {
    let wrong = || Error::parameter(name, format!("is not a duration such as `10m`: `{text}`"));
    let unit_at = text.len().checked_sub(1).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(unit_at).ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(wrong)
}

/// A `list`; empty if it was not given and has no default.
///
/// # Errors
///
/// `params.invalid` if the manifest gives it another type.
pub fn list(name: &str) -> Result<Vec<String>, Error> {
    match params::get(name) {
        None => Ok(Vec::new()),
        Some(Value::List(items)) => Ok(items),
        Some(other) => Err(other_type(name, "list", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_mistake_about_a_parameter_is_told_with_its_manifest() {
        let error = other_type("cpu", "string", &Value::Integer(4));
        assert_eq!(
            error.info().message,
            "parameter `cpu` is of type `integer` in `plugin.toml`, and the plugin reads it as `string`"
        );
        let hints = [error, missing("cpu")].map(|it| it.info().hint.clone().unwrap_or_default());
        for hint in hints {
            assert!(
                hint.contains("`[parameters.cpu]` in the plugin's `plugin.toml`"),
                "{hint}"
            );
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(milliseconds("capacity-wait", "90s").ok(), Some(90_000));
        assert_eq!(milliseconds("capacity-wait", "2h").ok(), Some(7_200_000));
        assert!(milliseconds("capacity-wait", "5").is_err());
        assert!(milliseconds("capacity-wait", "5ä").is_err());
        assert!(milliseconds("capacity-wait", "99999999999999999999h").is_err());
    }
}
