//! Reading JSON bodies the way a Go service does: names without regard to case, types with.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Failure;
use crate::request::{Payload, Request};

/// The members of a body by their names in lower case.
pub(super) struct Body(BTreeMap<String, Value>);

impl Body {
    /// Decodes the body; an empty one has no members.
    pub(super) fn read(request: &Request) -> Result<Self, Failure> {
        match request.json() {
            Payload::Members(members) => Ok(Self::from(members)),
            Payload::Malformed(text) => Err(Failure::new(400, text)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .get(&name.to_ascii_lowercase())
            .filter(|value| !value.is_null())
    }

    /// Text; empty text counts as absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Ok(Some(text.clone()).filter(|text| !text.trim().is_empty()))
            }
            Some(other) => Err(mismatch(name, other, "string")),
        }
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, Failure> {
        self.text(name)?
            .ok_or_else(|| Failure::new(400, format!("{name} is required")))
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(mismatch(name, other, "bool")),
        }
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<u32>, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let whole = value.as_u64().and_then(|number| u32::try_from(number).ok());
        whole.map(Some).ok_or_else(|| mismatch(name, value, "int"))
    }

    /// A number of GiB rounded to a tenth; 0 counts as absent.
    pub(super) fn memory(&self) -> Result<Option<f64>, Failure> {
        let Some(value) = self.get("memory") else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .ok_or_else(|| mismatch("memory", value, "float64"))?;
        if number < 0.0 {
            return Err(Failure::new(400, "memory must not be negative"));
        }
        Ok(Some((number * 10.0).round() / 10.0).filter(|number| *number > 0.0))
    }

    /// A map of strings.
    pub(super) fn string_map(&self, name: &str) -> Result<Map<String, Value>, Failure> {
        match self.get(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => match map.values().find(|value| !value.is_string()) {
                None => Ok(map.clone()),
                Some(other) => Err(mismatch(name, other, "string")),
            },
            Some(other) => Err(mismatch(name, other, "map[string]string")),
        }
    }

    /// An array; absent is empty.
    pub(super) fn array(&self, name: &str) -> Result<Vec<Value>, Failure> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items.clone()),
            Some(other) => Err(mismatch(name, other, "[]interface {}")),
        }
    }
}

impl From<Map<String, Value>> for Body {
    fn from(members: Map<String, Value>) -> Self {
        let lower = members
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value));
        Self(lower.collect())
    }
}

fn mismatch(name: &str, value: &Value, wanted: &str) -> Failure {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Failure::new(
        400,
        format!("json: cannot unmarshal {found} into Go struct field .{name} of type {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(value: Value) -> Body {
        Body::from(value.as_object().unwrap().clone())
    }

    #[test]
    fn names_are_read_without_regard_to_case() {
        let body = body(json!({ "displayDpi": 100, "VMCONFIG": "ci" }));
        assert_eq!(body.integer("displayDPI").ok().flatten(), Some(100));
        assert_eq!(body.text("vmConfig").ok().flatten().as_deref(), Some("ci"));
    }

    #[test]
    fn types_are_strict_and_memory_is_rounded() {
        assert!(body(json!({ "cpu": "3" })).integer("cpu").is_err());
        assert_eq!(
            body(json!({ "memory": 4.76 })).memory().ok().flatten(),
            Some(4.8)
        );
        assert_eq!(body(json!({ "memory": 0.0 })).memory().ok().flatten(), None);
        assert!(
            body(json!({ "customMetadata": { "a": 1 } }))
                .string_map("customMetadata")
                .is_err()
        );
    }
}
