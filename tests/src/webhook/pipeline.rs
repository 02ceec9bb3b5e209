//! Pipelines and their tasks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::task::{self, check_on_error, check_params, texts_of};
use super::variables::{Place, variables};
use super::{Params, Refused, is_label, list, names, text};

/// How many TaskRuns a matrix may make if nothing else is said.
const COMBINATIONS_MAX: usize = 256;

/// What a Pipeline inside a run sees of it.
pub(super) struct Around {
    pub(super) params: Params,
    pub(super) workspaces: Vec<String>,
}

impl Around {
    /// Of a Pipeline by itself.
    pub(super) fn none() -> Self {
        Self {
            params: Params::default(),
            workspaces: Vec::new(),
        }
    }
}

pub(super) fn check(spec: &Value, at: &str, around: &Around, refused: &mut Refused) {
    check_params(&spec["params"], at, refused);
    let params = Params::declared(&spec["params"]).and(&around.params);
    refused.unique(names(&spec["workspaces"]), &format!("{at}.workspaces"));
    let workspaces: BTreeSet<&str> = names(&spec["workspaces"])
        .chain(around.workspaces.iter().map(String::as_str))
        .collect();
    let [tasks, last] = [&spec["tasks"], &spec["finally"]];
    refused.say_if(list(tasks).next().is_none(), at, "it has no `tasks`");
    refused.unique(names(tasks).chain(names(last)), at);
    for (section, of_section) in [("tasks", tasks), ("finally", last)] {
        for task in list(of_section) {
            let at = format!("{at}.{section}[{}]", text(&task["name"]));
            check_task(task, &params, &workspaces, &at, refused);
            let waits = section == "finally" && task.get("runAfter").is_some();
            refused.say_if(waits, &at, "`runAfter` in `finally`");
            check_results_of_others(
                task,
                section,
                &names(tasks).collect::<Vec<_>>(),
                &at,
                refused,
            );
        }
    }
    check_order(tasks, at, refused);
    for result in list(&spec["results"]) {
        let at = format!("{at}.results");
        let mut texts = Vec::new();
        texts_of(&result["value"], &mut texts);
        for text in texts {
            let found: Vec<_> = ["tasks", "finally"]
                .iter()
                .flat_map(|of| variables(text, of))
                .collect();
            refused.say_if(
                found.is_empty(),
                &at,
                format!("`{text}` is no result of a task"),
            );
            let known: Vec<&str> = names(tasks).chain(names(last)).collect();
            for variable in found {
                let is_result =
                    variable.whole.contains(".results.") && known.contains(&variable.name());
                refused.say_if(!is_result, &at, format!("there is no {}", variable.whole));
            }
        }
    }
}

fn check_task(
    task: &Value,
    params: &Params,
    workspaces: &BTreeSet<&str>,
    at: &str,
    refused: &mut Refused,
) {
    let name = text(&task["name"]);
    refused.say_if(!is_label(name), at, format!("`{name}` is no DNS label"));
    for alpha in ["pipelineRef", "pipelineSpec"] {
        refused.say_if(task.get(alpha).is_some(), at, format!("`{alpha}` is alpha"));
    }
    let (reference, inside) = (&task["taskRef"], &task["taskSpec"]);
    let is_one = reference.is_object() != inside.is_object();
    refused.say_if(
        !is_one,
        at,
        "exactly one of `taskRef` and `taskSpec` is needed",
    );
    if reference.is_object() {
        refused.reference(reference, at);
        let is_task = matches!(text(&reference["kind"]), "" | "Task");
        let has_version = reference.get("apiVersion").is_some();
        refused.say_if(
            is_task && has_version,
            at,
            "a custom task needs a `kind` of its own",
        );
        refused.say_if(
            !is_task && !has_version,
            at,
            "a custom task needs an `apiVersion`",
        );
    }
    if inside.is_object() {
        let known = Params::declared(&inside["params"])
            .and(params)
            .and(&Params::given(&task["params"]));
        task::check(inside, &format!("{at}.taskSpec"), &known, refused);
        let is_custom = inside.get("apiVersion").or(inside.get("kind")).is_some();
        refused.say_if(is_custom, at, "`apiVersion` or `kind` beside `steps`");
    }
    check_on_error(&task["onError"], &["continue", "stopAndFail"], at, refused);
    let retries = task["retries"].as_i64().unwrap_or_default();
    refused.say_if(retries < 0, at, "`retries` is below zero");
    let has_both = task["onError"] == "continue" && retries > 0;
    refused.say_if(has_both, at, "`onError: continue` beside `retries`");
    refused.duration(&task["timeout"], at);
    refused.when(&task["when"], at);
    refused.unique(names(&task["params"]), &format!("{at}.params"));
    refused.unique(names(&task["workspaces"]), &format!("{at}.workspaces"));
    for bound in list(&task["workspaces"]) {
        let outside = text(bound.get("workspace").unwrap_or(&bound["name"]));
        refused.say_if(
            !workspaces.contains(outside),
            at,
            format!("there is no workspace `{outside}`"),
        );
    }
    check_matrix(task, at, refused);
    for text in texts(task) {
        refused.params(text, params, Place::Item, at);
        refused.only(
            text,
            "context.pipelineRun",
            &["name", "namespace", "uid"],
            at,
        );
        refused.only(text, "context.pipeline", &["name"], at);
        refused.only(text, "context.pipelineTask", &["retries"], at);
    }
}

/// What of a task Tekton replaces before it starts, its Task apart.
fn texts(task: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for param in all_params(task) {
        texts_of(&param["value"], &mut found);
    }
    for expression in list(&task["when"]) {
        texts_of(&expression["input"], &mut found);
        texts_of(&expression["values"], &mut found);
    }
    found
}

fn all_params(task: &Value) -> impl Iterator<Item = &Value> {
    let matrix = &task["matrix"];
    let included = list(&matrix["include"]).flat_map(|it| list(&it["params"]));
    list(&task["params"])
        .chain(list(&matrix["params"]))
        .chain(included)
}

fn check_matrix(task: &Value, at: &str, refused: &mut Refused) {
    let at = format!("{at}.matrix");
    let matrix = &task["matrix"];
    let given: Vec<&str> = names(&task["params"]).collect();
    refused.unique(names(&matrix["params"]), &at);
    let mut count = 1;
    for param in list(&matrix["params"]) {
        // A reference to an array is a text until the run starts.
        let is_array = param["value"].is_array() || text(&param["value"]).ends_with("[*])");
        refused.say_if(!is_array, &at, format!("{param} is no array"));
        count *= list(&param["value"]).count().max(1);
    }
    let includes = list(&matrix["include"]).flat_map(|it| list(&it["params"]));
    for param in includes {
        refused.say_if(
            !param["value"].is_string(),
            &at,
            format!("{param} is no text"),
        );
    }
    refused.say_if(
        count > COMBINATIONS_MAX,
        &at,
        format!("{count} combinations"),
    );
    let of_matrix = all_params(task)
        .skip(given.len())
        .map(|param| text(&param["name"]));
    for name in of_matrix.filter(|name| given.contains(name)) {
        refused.say(&at, format!("`{name}` is in `params` as well"));
    }
}

/// `$(tasks.NAME.results.…)` of tasks that there are, and `$(tasks.NAME.status)` in `finally` alone.
fn check_results_of_others(
    task: &Value,
    section: &str,
    tasks: &[&str],
    at: &str,
    refused: &mut Refused,
) {
    for text in texts(task) {
        for variable in variables(text, "tasks") {
            let whole = &variable.whole;
            let is_aggregate = whole == "$(tasks.status)";
            let is_status =
                whole.ends_with(".status)") || whole.ends_with(".reason)") || is_aggregate;
            refused.say_if(
                is_status && section == "tasks",
                at,
                format!("{whole} outside of `finally`"),
            );
            let is_known = is_aggregate || tasks.contains(&variable.name());
            refused.say_if(!is_known, at, format!("there is no {whole}"));
        }
    }
}

/// That tasks wait for tasks that there are, and none for itself.
fn check_order(tasks: &Value, at: &str, refused: &mut Refused) {
    let waits: BTreeMap<&str, BTreeSet<String>> = list(tasks)
        .map(|task| {
            let after = list(&task["runAfter"]).map(|name| text(name).to_owned());
            let read = texts(task)
                .into_iter()
                .flat_map(|text| variables(text, "tasks"));
            let read = read.map(|variable| variable.name().to_owned());
            (text(&task["name"]), after.chain(read).collect())
        })
        .collect();
    for (name, after) in &waits {
        for other in after
            .iter()
            .filter(|other| !waits.contains_key(other.as_str()))
        {
            refused.say(
                at,
                format!("`{name}` waits for `{other}`, which is not there"),
            );
        }
    }
    let mut done = BTreeSet::new();
    loop {
        let is_ready = |after: &BTreeSet<String>| {
            let mut known = after
                .iter()
                .filter(|name| waits.contains_key(name.as_str()));
            known.all(|name| done.contains(name.as_str()))
        };
        let ready: Vec<&str> = waits
            .iter()
            .filter(|(_, after)| is_ready(after))
            .map(|it| *it.0)
            .collect();
        if ready.len() == done.len() {
            break;
        }
        done.extend(ready);
    }
    refused.say_if(done.len() < waits.len(), at, "tasks wait for one another");
}
