//! What `$(params.NAME)` stands for in one place.

use std::collections::BTreeMap;

use serde_json::Value;

/// Parameters with their values. One without a value stays as it is written, and so do results and `context`.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope(BTreeMap<String, Value>);

impl Scope {
    /// What holds inside: what is given, and the defaults of what is declared and not given.
    ///
    /// A Task that stands inside a Pipeline sees the Pipeline's parameters as well.
    pub(super) fn inside(&self, declared: &Value, given: &Value) -> Self {
        let mut inside = self.clone();
        inside.declare(declared);
        inside.give(given, self);
        inside
    }

    /// The same for what stands in a document of its own, which sees nothing but what it is given.
    pub(super) fn of_own(&self, declared: &Value, given: &Value) -> Self {
        let mut inside = Self::default();
        inside.declare(declared);
        inside.give(given, self);
        inside
    }

    fn declare(&mut self, declared: &Value) {
        for param in declared.as_array().into_iter().flatten() {
            if let (Some(name), Some(default)) = (param["name"].as_str(), param.get("default")) {
                self.0.insert(name.to_owned(), default.clone());
            }
        }
    }

    fn give(&mut self, given: &Value, outside: &Self) {
        for param in given.as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) = (param["name"].as_str(), param.get("value")) {
                self.0.insert(name.to_owned(), outside.value(value));
            }
        }
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| (name.clone(), self.value(member)))
                .collect(),
            other => other.clone(),
        }
    }

    /// The text with its parameters in place; what was put in is not looked at again.
    pub(super) fn text(&self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("$(params") {
            result.push_str(before);
            let known = after
                .split_once(')')
                .and_then(|(reference, behind)| Some((self.find(reference)?, behind)));
            if let Some((value, behind)) = known {
                result.push_str(&value);
                rest = behind;
            } else {
                result.push_str("$(params");
                rest = after;
            }
        }
        result + rest
    }

    /// What stands behind `params`: `.name`, `["name"]`, `.name[*]`, `.name[0]` or `.name.key`.
    fn find(&self, reference: &str) -> Option<String> {
        let quoted = ["\"", "'"].into_iter().find_map(|quote| {
            let inside = reference.strip_prefix('[')?.strip_prefix(quote)?;
            inside.split_once(&format!("{quote}]"))
        });
        let (name, of_it) = match quoted {
            Some(found) => found,
            None => {
                let name = reference.strip_prefix('.')?;
                // Names may have dots, so the whole comes first.
                match self.0.contains_key(name) {
                    true => (name, ""),
                    false => name.split_at(name.find(['.', '['])?),
                }
            }
        };
        let value = self.0.get(name)?;
        match of_it {
            "" | "[*]" => Some(plain(value)),
            _ => match of_it.strip_prefix('.') {
                Some(key) => value.get(key).map(plain),
                None => {
                    let number = of_it.strip_prefix('[')?.strip_suffix(']')?;
                    value.get(number.parse::<usize>().ok()?).map(plain)
                }
            },
        }
    }
}

/// A text as it is, the items of a list side by side.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_replaced_in_every_form_and_the_rest_stays() {
        let scope = Scope::default().of_own(
            &json!([{"name": "a", "default": "A"}, {"name": "required"}, {"name": "list", "default": ["x", "y"]},
                {"name": "dotted.name", "default": "D"}, {"name": "object", "default": {"key": "K"}}]),
            &json!([{"name": "given", "value": "$(params.a)"}]),
        );
        assert_eq!(
            scope.text(
                "$(params.a) $(params[\"a\"]) $(params['dotted.name']) $(params.dotted.name) $(params.list[*]) \
                 $(params.list[1]) $(params.object.key)"
            ),
            "A A D D x y y K"
        );
        for stays in [
            "$(params.required)",
            "$(context.pipelineRun.name)",
            "$(params.list[7])",
            "$(params.a",
            "$(params)",
        ] {
            assert_eq!(scope.text(stays), stays);
        }
    }

    #[test]
    fn a_task_inside_sees_the_parameters_around_it_and_a_task_elsewhere_does_not() {
        let around = Scope::default().of_own(
            &json!([{"name": "p", "default": "of the Pipeline"}]),
            &json!(null),
        );
        let none = json!(null);
        assert_eq!(
            around.inside(&none, &none).text("$(params.p)"),
            "of the Pipeline"
        );
        assert_eq!(
            around.of_own(&none, &none).text("$(params.p)"),
            "$(params.p)"
        );
        let given = json!([{"name": "p", "value": "$(params.p) again"}]);
        assert_eq!(
            around.of_own(&none, &given).text("$(params.p)"),
            "of the Pipeline again"
        );
    }
}
