//! Manifests against the schemas of Kubernetes and Tekton, which are kept as data in `tests/schemas`, and files of the
//! program's own against those that it prints.
//!
//! The part of JSON Schema that all are written in, and nothing else: a keyword that is not known fails the test, so that
//! no rule is passed over. Objects of manifests are closed, so that a misspelt member is an error, as it is to `kubectl --validate`.

use serde_json::{Map, Value};

/// Keywords that say nothing of a value's form here.
const IGNORED: [&str; 7] = [
    "format",
    "$comment",
    "$schema",
    "$defs",
    "title",
    "description",
    "default",
];

/// The schemas.
pub struct Schemas {
    kubernetes: Value,
    tekton: Value,
}

impl Schemas {
    /// Those of `tests/schemas`.
    pub fn read() -> Self {
        let read = |name: &str| {
            let path = crate::repository().join("tests/schemas").join(name);
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
        };
        Self {
            kubernetes: read("kubernetes-1.36.json"),
            tekton: read("tekton-v1.json"),
        }
    }

    /// Every problem of a manifest, each with its place.
    pub fn problems(&self, manifest: &Value) -> Vec<String> {
        let api = manifest["apiVersion"].as_str().unwrap_or_default();
        let kind = manifest["kind"].as_str().unwrap_or_default();
        let schemas = if api.starts_with("tekton.dev/") {
            &self.tekton
        } else {
            &self.kubernetes
        };
        let mut problems = Vec::new();
        match schemas["roots"][kind].as_str() {
            None => problems.push(format!("there is no schema for `{kind}` of `{api}`")),
            Some(root) => {
                let schema = &schemas["definitions"][root];
                self.check(manifest, schema, schemas, kind, &mut problems);
                if schema["properties"]["apiVersion"].get("enum").is_none() {
                    check_version(root, api, &mut problems);
                }
            }
        }
        problems
    }

    /// Every problem of a value by a schema of its own, such as `orka-step schema` prints.
    pub fn problems_by(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.check(value, schema, schema, "", &mut problems);
        problems
    }

    fn check(
        &self,
        value: &Value,
        schema: &Value,
        of: &Value,
        at: &str,
        problems: &mut Vec<String>,
    ) {
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "$ref" => {
                    let (of, target) = self.resolve(rule.as_str().unwrap(), of);
                    self.check(value, target, of, at, problems);
                }
                "type" if !is_of_types(value, rule) => {
                    problems.push(format!("{at}: {value} is no {rule}"));
                }
                "const" if rule != value => {
                    problems.push(format!("{at}: {value} is not {rule}"));
                }
                "minimum" if value.as_f64() < rule.as_f64() && value.is_number() => {
                    problems.push(format!("{at}: {value} is below {rule}"));
                }
                "maximum" if value.as_f64() > rule.as_f64() => {
                    problems.push(format!("{at}: {value} is above {rule}"));
                }
                "pattern" if !matches(value, rule.as_str().unwrap()) => {
                    problems.push(format!("{at}: {value} is not like {rule}"));
                }
                "minItems" | "maxItems" => {
                    let few = keyword == "minItems";
                    let count = value.as_array().map(|items| items.len() as u64);
                    let bound = rule.as_u64().unwrap();
                    if count.is_some_and(|it| if few { it < bound } else { it > bound }) {
                        problems.push(format!("{at}: {value} has too many or too few items"));
                    }
                }
                "prefixItems" => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    for (number, (item, rule)) in
                        items.iter().zip(rule.as_array().unwrap()).enumerate()
                    {
                        self.check(item, rule, of, &format!("{at}[{number}]"), problems);
                    }
                }
                "uniqueItems" => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    let twice = |(number, item)| items[..number].contains(item);
                    if items.iter().enumerate().any(twice) {
                        problems.push(format!("{at}: {value} has something twice"));
                    }
                }
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    problems.push(format!("{at}: {value} is none of {rule}"));
                }
                "required" => {
                    let names = rule
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|it| it.as_str().unwrap());
                    let missing = names.filter(|name| value.get(name).is_none());
                    problems.extend(missing.map(|name| format!("{at}: `{name}` is missing")));
                }
                "properties" => self.members(value, rule, of, at, problems),
                "additionalProperties" => self.others(value, schema, rule, of, at, problems),
                "items" => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    for (number, item) in items.iter().enumerate() {
                        self.check(item, rule, of, &format!("{at}[{number}]"), problems);
                    }
                }
                "not" if self.fits(value, rule, of) => {
                    problems.push(format!("{at}: {value} has a form that it must not have"));
                }
                "oneOf" | "anyOf" => {
                    let forms = rule.as_array().unwrap().iter();
                    let count = forms.filter(|it| self.fits(value, it, of)).count();
                    if count == 0 || keyword == "oneOf" && count > 1 {
                        problems.push(format!("{at}: {value} has none of the forms it can have"));
                    }
                }
                "type" | "enum" | "const" | "minimum" | "maximum" | "pattern" | "not" => {}
                known if IGNORED.contains(&known) => {}
                unknown => panic!("the schemas use `{unknown}`, which is not known here"),
            }
        }
    }

    fn fits(&self, value: &Value, schema: &Value, of: &Value) -> bool {
        let mut found = Vec::new();
        self.check(value, schema, of, "", &mut found);
        found.is_empty()
    }

    fn resolve<'a>(&'a self, reference: &str, of: &'a Value) -> (&'a Value, &'a Value) {
        if let Some(name) = reference.strip_prefix("#/$defs/") {
            let target = &of["$defs"][name];
            assert!(target.is_object(), "there is no `{reference}`");
            return (of, target);
        }
        let (file, name) = reference.split_once("#/definitions/").unwrap();
        let of = if file == "kubernetes" {
            &self.kubernetes
        } else {
            of
        };
        let target = &of["definitions"][name];
        assert!(target.is_object(), "there is no `{reference}`");
        (of, target)
    }

    fn members(
        &self,
        value: &Value,
        rules: &Value,
        of: &Value,
        at: &str,
        problems: &mut Vec<String>,
    ) {
        for (name, rule) in rules.as_object().unwrap() {
            if let Some(member) = value.get(name) {
                self.check(member, rule, of, &format!("{at}.{name}"), problems);
            }
        }
    }

    fn others(
        &self,
        value: &Value,
        schema: &Value,
        rule: &Value,
        of: &Value,
        at: &str,
        problems: &mut Vec<String>,
    ) {
        let empty = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&empty);
        let members = value.as_object().unwrap_or(&empty);
        for (name, member) in members
            .iter()
            .filter(|(name, _)| !known.contains_key(*name))
        {
            match rule {
                Value::Bool(true) => {}
                Value::Bool(false) => problems.push(format!("{at}: there is no `{name}`")),
                rule => self.check(member, rule, of, &format!("{at}.{name}"), problems),
            }
        }
    }
}

/// `io.k8s.api.rbac.v1.Role` is of `rbac.authorization.k8s.io/v1`: the group's first word and the version are enough.
fn check_version(root: &str, api: &str, problems: &mut Vec<String>) {
    let mut parts = root.rsplit('.').skip(1);
    let (version, group) = (parts.next().unwrap(), parts.next().unwrap());
    let group = if group == "core" { "" } else { group };
    let (given, given_version) = api.rsplit_once('/').unwrap_or(("", api));
    if given.split('.').next() != Some(group) || given_version != version {
        problems.push(format!("`{api}` is not the version of `{root}`"));
    }
}

/// What is no text has no pattern to follow.
fn matches(value: &Value, pattern: &str) -> bool {
    let pattern = regex_lite::Regex::new(pattern).unwrap();
    value.as_str().is_none_or(|text| pattern.is_match(text))
}

/// One type, or one of several.
fn is_of_types(value: &Value, kinds: &Value) -> bool {
    match kinds.as_array() {
        Some(kinds) => kinds
            .iter()
            .any(|kind| is_of_type(value, kind.as_str().unwrap())),
        None => is_of_type(value, kinds.as_str().unwrap()),
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the schemas use the type `{other}`, which is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let schemas = Schemas::read();
        let task = |step: Value| json!({"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "x"}, "spec": {"steps": [step]}});
        assert!(schemas.problems(&task(json!({"image": "x:1"}))).is_empty());
        for (step, said) in [
            (json!({"imag": "x"}), "there is no `imag`"),
            (json!({"image": 1}), "is no \"string\""),
            (
                json!({"ref": {"name": "x", "kind": "y"}}),
                "there is no `kind`",
            ),
            (
                json!({"volumeDevices": [{"name": "x"}]}),
                "volumeDevices[0]: `devicePath` is missing",
            ),
            (
                json!({"results": [{"name": "x", "value": "y"}]}),
                "there is no `value`",
            ),
            (
                json!({"env": [{"value": "x"}]}),
                "spec.steps[0].env[0]: `name` is missing",
            ),
            (
                json!({"securityContext": {"runAsNonRoot": "yes"}}),
                "is no \"boolean\"",
            ),
        ] {
            let problems = schemas.problems(&task(step));
            assert!(problems.iter().any(|it| it.contains(said)), "{problems:?}");
        }
        let role =
            json!({"apiVersion": "v1", "kind": "Role", "metadata": {"name": "x"}, "rules": []});
        assert_eq!(schemas.problems(&role).len(), 1);
        assert_eq!(
            schemas
                .problems(&json!({"apiVersion": "v1", "kind": "Pod"}))
                .len(),
            1
        );
    }

    #[test]
    fn a_schema_of_its_own_is_followed_too() {
        let schema = json!({
            "$defs": {"Kind": {"oneOf": [{"const": "a"}, {"const": "b"}]}},
            "properties": {
                "kind": {"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}]},
                "size": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
                "names": {"type": "array", "uniqueItems": true},
                "pair": {"prefixItems": [{"pattern": "^a+$"}, {"type": "integer"}], "minItems": 2, "maxItems": 2},
            },
            "not": {"required": ["kind", "size"]},
        });
        let problems = |value: Value| Schemas::read().problems_by(&schema, &value);
        for fits in [
            json!({"kind": "a"}),
            json!({"kind": null}),
            json!({"size": null, "names": [1, 2]}),
            json!({"pair": ["aa", 1]}),
        ] {
            assert!(problems(fits.clone()).is_empty(), "{fits}");
        }
        for wrong in [
            json!({"kind": "c"}),
            json!({"kind": "a", "size": 1}),
            json!({"size": -1}),
            json!({"size": 10}),
            json!({"size": "1"}),
            json!({"names": [1, 1]}),
            json!({"pair": ["ab", 1]}),
            json!({"pair": ["a", "1"]}),
            json!({"pair": ["a"]}),
            json!({"pair": ["a", 1, 1]}),
        ] {
            assert_eq!(problems(wrong.clone()).len(), 1, "{wrong}");
        }
    }
}
