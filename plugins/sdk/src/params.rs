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
        Some(_) => Err(Error::parameter(name, "is not a string")),
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
    non_empty_text(name)?.ok_or_else(|| Error::parameter(name, "is missing"))
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
        Some(_) => Err(Error::parameter(name, "is not a boolean")),
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
        Some(_) => Err(Error::parameter(name, "is not an integer")),
    }
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
        Some(_) => Err(Error::parameter(name, "is not a list")),
    }
}
