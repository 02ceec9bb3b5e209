//! TaskRuns and PipelineRuns.

use serde_json::Value;

use super::pipeline::{self, Around};
use super::task;
use super::variables::variables;
use super::{Params, Refused, list, names, seconds, text};

pub(super) fn check_task_run(spec: &Value, refused: &mut Refused) {
    let at = "spec";
    check_reference(spec, "taskRef", "taskSpec", refused);
    let inside = &spec["taskSpec"];
    if inside.is_object() {
        let known = Params::declared(&inside["params"]).and(&Params::given(&spec["params"]));
        task::check(inside, "spec.taskSpec", &known, refused);
    }
    check_given(spec, refused);
    check_overrides(spec, at, refused);
    refused.say_if(spec.get("debug").is_some(), at, "`debug` is alpha");
    let status = &spec["status"];
    refused.say_if(
        !status.is_null() && status != "TaskRunCancelled",
        at,
        format!("`status` is {status}"),
    );
    refused.say_if(
        spec["retries"].as_i64() < Some(0) && spec.get("retries").is_some(),
        at,
        "`retries` is below zero",
    );
    refused.duration(&spec["timeout"], at);
}

pub(super) fn check_pipeline_run(spec: &Value, refused: &mut Refused) {
    let at = "spec";
    check_reference(spec, "pipelineRef", "pipelineSpec", refused);
    check_given(spec, refused);
    for param in list(&spec["params"]) {
        let mut texts = Vec::new();
        task::texts_of(&param["value"], &mut texts);
        let mut results = texts.iter().flat_map(|text| variables(text, "tasks"));
        refused.say_if(
            results.any(|it| it.whole.contains(".results.")),
            at,
            format!("{param} reads a result"),
        );
    }
    let inside = &spec["pipelineSpec"];
    if inside.is_object() {
        let of_tasks = list(&inside["tasks"]).map(|task| Params::given(&task["params"]));
        let around = Around {
            params: of_tasks.fold(Params::given(&spec["params"]), |all, of_task| {
                all.and(&of_task)
            }),
            workspaces: names(&spec["workspaces"]).map(str::to_owned).collect(),
        };
        pipeline::check(inside, "spec.pipelineSpec", &around, refused);
        let bound: Vec<&str> = names(&spec["workspaces"]).collect();
        for declared in list(&inside["workspaces"]).filter(|it| it["optional"] != true) {
            let name = text(&declared["name"]);
            refused.say_if(
                !bound.contains(&name),
                at,
                format!("the workspace `{name}` is not bound"),
            );
        }
        let known: Vec<&str> = names(&inside["tasks"])
            .chain(names(&inside["finally"]))
            .collect();
        for of_task in list(&spec["taskRunSpecs"]) {
            let name = text(&of_task["pipelineTaskName"]);
            refused.say_if(
                !known.contains(&name),
                at,
                format!("there is no task `{name}`"),
            );
        }
    }
    for of_task in list(&spec["taskRunSpecs"]) {
        check_overrides(of_task, "spec.taskRunSpecs", refused);
        refused.duration(&of_task["timeout"], "spec.taskRunSpecs");
    }
    check_timeouts(&spec["timeouts"], refused);
    let allowed = [
        "Cancelled",
        "CancelledRunFinally",
        "StoppedRunFinally",
        "PipelineRunPending",
    ];
    let status = &spec["status"];
    refused.say_if(
        !status.is_null() && !allowed.contains(&text(status)),
        at,
        format!("`status` is {status}"),
    );
}

/// `tasks` and `finally` together within `pipeline`. Without that the webhook compares both with a default of 60 that it takes
/// for nanoseconds, and refuses every one.
fn check_timeouts(timeouts: &Value, refused: &mut Refused) {
    let at = "spec.timeouts";
    let [whole, tasks, last] = ["pipeline", "tasks", "finally"].map(|name| {
        refused.duration(&timeouts[name], at);
        seconds(&timeouts[name])
    });
    let is_endless = whole == Some(0.0);
    for part in [tasks, last].into_iter().flatten() {
        refused.say_if(
            whole.is_none(),
            at,
            "`tasks` or `finally` without `pipeline`",
        );
        let is_longer = part == 0.0 || whole.is_some_and(|whole| part > whole);
        refused.say_if(
            !is_endless && is_longer,
            at,
            "a part is longer than `pipeline`",
        );
    }
    if let (Some(whole), Some(tasks), Some(last)) = (whole, tasks, last) {
        refused.say_if(
            tasks + last > whole,
            at,
            "`tasks` and `finally` are longer than `pipeline`",
        );
    }
}

fn check_reference(spec: &Value, reference: &str, inside: &str, refused: &mut Refused) {
    let is_one = spec[reference].is_object() != spec[inside].is_object();
    refused.say_if(
        !is_one,
        "spec",
        format!("exactly one of `{reference}` and `{inside}` is needed"),
    );
    if spec[reference].is_object() {
        refused.reference(&spec[reference], &format!("spec.{reference}"));
    }
}

/// Parameters, whose names are compared in lower case, and bound workspaces.
fn check_given(spec: &Value, refused: &mut Refused) {
    let params: Vec<String> = names(&spec["params"]).map(str::to_lowercase).collect();
    refused.unique(params.iter().map(String::as_str), "spec.params");
    let workspaces: Vec<String> = names(&spec["workspaces"]).map(str::to_lowercase).collect();
    refused.unique(workspaces.iter().map(String::as_str), "spec.workspaces");
    // What each source has to say besides being there.
    let sources = [
        ("volumeClaimTemplate", ""),
        ("persistentVolumeClaim", "claimName"),
        ("emptyDir", ""),
        ("configMap", "name"),
        ("secret", "secretName"),
        ("projected", "sources"),
        ("csi", "driver"),
    ];
    for binding in list(&spec["workspaces"]) {
        let at = format!("spec.workspaces[{}]", text(&binding["name"]));
        let there: Vec<_> = sources
            .iter()
            .filter(|(source, _)| binding.get(*source).is_some())
            .collect();
        refused.say_if(there.len() != 1, &at, "exactly one source is needed");
        for (source, member) in there.into_iter().filter(|(_, member)| !member.is_empty()) {
            let is_named = binding[*source].get(*member).is_some_and(|it| *it != "");
            refused.say_if(!is_named, &at, format!("`{source}` has no `{member}`"));
        }
    }
}

/// What a run says of a Task's steps.
fn check_overrides(spec: &Value, at: &str, refused: &mut Refused) {
    for member in ["stepSpecs", "sidecarSpecs"] {
        refused.unique(names(&spec[member]), &format!("{at}.{member}"));
    }
    let has_own = list(&spec["stepSpecs"]).any(|it| {
        it.get("computeResources")
            .is_some_and(|it| *it != serde_json::json!({}))
    });
    let has_both = has_own && spec.get("computeResources").is_some();
    refused.say_if(
        has_both,
        at,
        "`computeResources` of the steps and of the whole",
    );
}
