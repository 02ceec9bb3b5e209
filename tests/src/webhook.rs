//! What Tekton refuses of a manifest that has the right form: the rules of its admission webhook, and of its controller
//! where they can be told from the manifest alone.
//!
//! After `pkg/apis/pipeline/v1/*_validation.go`, `pkg/apis/pipeline/v1beta1/stepaction_validation.go` and
//! `pkg/substitution` of tektoncd/pipeline, with the feature flags that an installation has by default: what is alpha is
//! refused. `tekton/README.md` names the commits.

mod pipeline;
mod run;
mod task;
mod variables;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Kubernetes' limit for a label, in which Tekton writes these names.
const NAME_LENGTH_MAX: usize = 63;

/// Every reason to refuse a manifest of Tekton's, each with its place. None for another.
pub fn refusals(manifest: &Value) -> Vec<String> {
    let mut refused = Refused::default();
    if !text(&manifest["apiVersion"]).starts_with("tekton.dev/") {
        return refused.0;
    }
    let name = text(&manifest["metadata"]["name"]);
    if name.contains('.') || name.len() > NAME_LENGTH_MAX {
        let rule = "is longer than 63 characters, or has a dot";
        refused.say("metadata.name", format!("`{name}` {rule}"));
    }
    let spec = &manifest["spec"];
    match text(&manifest["kind"]) {
        "Task" => task::check(
            spec,
            "spec",
            &Params::declared(&spec["params"]),
            &mut refused,
        ),
        "StepAction" => task::check_step_action(spec, &mut refused),
        "Pipeline" => pipeline::check(spec, "spec", &pipeline::Around::none(), &mut refused),
        "TaskRun" => run::check_task_run(spec, &mut refused),
        "PipelineRun" => run::check_pipeline_run(spec, &mut refused),
        _ => {}
    }
    refused.0
}

/// What was found so far.
#[derive(Default)]
struct Refused(Vec<String>);

impl Refused {
    fn say(&mut self, at: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{at}: {what}"));
    }

    fn say_if(&mut self, is_wrong: bool, at: &str, what: impl std::fmt::Display) {
        if is_wrong {
            self.say(at, what);
        }
    }

    /// Names that have to be different from one another.
    fn unique<'a>(&mut self, names: impl Iterator<Item = &'a str>, at: &str) {
        let mut seen = BTreeSet::new();
        for name in names {
            self.say_if(!seen.insert(name), at, format!("`{name}` is there twice"));
        }
    }

    /// The references of Tasks, Pipelines and StepActions: a name or a resolver.
    fn reference(&mut self, reference: &Value, at: &str) {
        let (name, resolver) = (text(&reference["name"]), text(&reference["resolver"]));
        if resolver.is_empty() {
            self.say_if(
                reference.get("params").is_some(),
                at,
                "`params` needs a `resolver`",
            );
            let is_name = matches(
                name,
                r"^([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            );
            self.say_if(
                !is_name || name.len() > NAME_LENGTH_MAX,
                at,
                format!("`{name}` is no name"),
            );
        } else {
            self.say_if(!name.is_empty(), at, "`name` beside a `resolver`");
            self.unique(names(&reference["params"]), at);
        }
    }

    /// A `when` of a task or step. CEL is not there by default.
    fn when(&mut self, when: &Value, at: &str) {
        for expression in list(when) {
            let is_known = matches!(text(&expression["operator"]), "in" | "notin");
            self.say_if(
                !is_known,
                at,
                format!("the operator of {expression} is no `in` or `notin`"),
            );
            self.say_if(
                list(&expression["values"]).next().is_none(),
                at,
                "`values` is empty",
            );
        }
    }

    fn duration(&mut self, value: &Value, at: &str) {
        let is_there = !value.is_null();
        self.say_if(
            is_there && seconds(value).is_none(),
            at,
            format!("{value} is no duration"),
        );
    }
}

/// What a parameter is, and of an object its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Array,
    Object(BTreeSet<String>),
}

/// Parameters by their names.
#[derive(Clone, Debug, Default)]
struct Params(BTreeMap<String, Kind>);

impl Params {
    /// Those that are declared.
    fn declared(specs: &Value) -> Self {
        let keys = |spec: &Value| {
            spec["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|it| it.0.clone())
                .collect()
        };
        let kind = |spec: &Value| match kind_of(spec) {
            "array" => Kind::Array,
            "object" => Kind::Object(keys(spec)),
            _ => Kind::Text,
        };
        let declared = list(specs).map(|spec| (text(&spec["name"]).to_owned(), kind(spec)));
        Self(declared.collect())
    }

    /// Those that are given, which a Task or Pipeline inside a run sees without declaring them.
    fn given(params: &Value) -> Self {
        let kind = |value: &Value| match value {
            Value::Array(_) => Kind::Array,
            Value::Object(members) => Kind::Object(members.keys().cloned().collect()),
            _ => Kind::Text,
        };
        let given = list(params).map(|it| (text(&it["name"]).to_owned(), kind(&it["value"])));
        Self(given.collect())
    }

    /// These and others; what is declared counts more.
    fn and(mut self, others: &Self) -> Self {
        for (name, kind) in &others.0 {
            self.0.entry(name.clone()).or_insert_with(|| kind.clone());
        }
        self
    }
}

/// The type of a declared parameter, told by its properties or its default where it is not said.
fn kind_of(spec: &Value) -> &str {
    match (spec["type"].as_str(), &spec["default"]) {
        (Some(kind), _) => kind,
        (None, _) if spec.get("properties").is_some() => "object",
        (None, Value::Array(_)) => "array",
        (None, Value::Object(_)) => "object",
        _ => "string",
    }
}

/// A duration as Go reads it, in seconds; none where it is below zero.
fn seconds(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    if text == "0" {
        return Some(0.0);
    }
    if !matches(text, r"^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$") {
        return None;
    }
    let parts = regex_lite::Regex::new(r"([0-9.]+)([a-zµ]+)").unwrap();
    let part = |number: &str, unit: &str| {
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            _ => 0.0,
        };
        number.parse::<f64>().unwrap_or_default() * factor
    };
    Some(
        parts
            .captures_iter(text)
            .map(|found| part(&found[1], &found[2]))
            .sum(),
    )
}

fn is_label(name: &str) -> bool {
    name.len() <= NAME_LENGTH_MAX && matches(name, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
}

fn matches(text: &str, pattern: &str) -> bool {
    regex_lite::Regex::new(pattern).unwrap().is_match(text)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn names(items: &Value) -> impl Iterator<Item = &str> {
    list(items).map(|item| text(&item["name"]))
}

#[cfg(test)]
mod tests;
