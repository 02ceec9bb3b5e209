//! A bad example of each rule, made from a good one of its kind.

use serde_json::{Value, json};

use super::refusals;

mod good;

use good::{pipeline, pipeline_run, step_action, task, task_run};

#[test]
fn good_examples_are_taken() {
    for good in [
        task(),
        step_action(),
        pipeline(),
        task_run(),
        pipeline_run(),
    ] {
        assert!(refusals(&good).is_empty(), "{:#?}", refusals(&good));
    }
    assert!(refusals(&json!({"apiVersion": "v1", "kind": "Pod"})).is_empty());
}

/// Puts a value in place of what stands there, or beside it.
fn with(mut manifest: Value, path: &str, value: Value) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = manifest.pointer_mut(parent).unwrap();
    match (parent, name) {
        (Value::Array(items), "-") => items.push(value),
        (Value::Array(items), number) => items[number.parse::<usize>().unwrap()] = value,
        (parent, name) => parent[name] = value,
    }
    manifest
}

#[track_caller]
fn assert_refused(
    good: fn() -> Value,
    bad: impl IntoIterator<Item = (&'static str, Value, &'static str)>,
) {
    for (path, value, said) in bad {
        let refused = refusals(&with(good(), path, value.clone()));
        let is_said = refused.iter().any(|it| it.contains(said));
        assert!(
            is_said,
            "{path}: {value} should be refused with `{said}`: {refused:#?}"
        );
    }
}

#[test]
fn steps_of_a_task() {
    assert_refused(
        task,
        [
            ("/metadata/name", json!("a.b"), "or has a dot"),
            ("/metadata/name", json!("x".repeat(64)), "longer than 63"),
            ("/spec/steps", json!([]), "it has no `steps`"),
            ("/spec/steps/1/image", json!("x"), "`image` beside `ref`"),
            (
                "/spec/steps/1/workingDir",
                json!("/x"),
                "`workingDir` beside `ref`",
            ),
            ("/spec/steps/1/env", json!([]), "`env` beside `ref`"),
            (
                "/spec/steps/1/ref",
                json!({"params": []}),
                "`params` needs a `resolver`",
            ),
            ("/spec/steps/0/params", json!([]), "`params` without `ref`"),
            (
                "/spec/steps/2",
                json!({"name": "three"}),
                "it has no `image`",
            ),
            (
                "/spec/steps/0/command",
                json!(["x"]),
                "`script` beside `command`",
            ),
            (
                "/spec/steps/0/script",
                json!("#!win"),
                "for Windows are alpha",
            ),
            ("/spec/steps/0/name", json!("One"), "no DNS label"),
            ("/spec/steps/0/name", json!("two"), "`two` is there twice"),
            ("/spec/steps/0/timeout", json!("soon"), "is no duration"),
            ("/spec/steps/0/timeout", json!("-10s"), "is no duration"),
            (
                "/spec/steps/0/onError",
                json!("never"),
                "`onError` is \"never\"",
            ),
            (
                "/spec/steps/0/stdoutConfig",
                json!({"path": "x"}),
                "`stdoutConfig` is alpha",
            ),
            (
                "/spec/steps/0/when",
                json!([{"input": "a", "operator": "is", "values": ["a"]}]),
                "no `in` or `notin`",
            ),
            (
                "/spec/steps/0/volumeMounts/0/mountPath",
                json!("/tekton/x"),
                "is Tekton's own",
            ),
            (
                "/spec/steps/0/volumeMounts/0/name",
                json!("tekton-internal-x"),
                "name of Tekton's own",
            ),
            (
                "/spec/sidecars",
                json!([{"name": "tekton-log-results", "image": "x"}]),
                "its name is Tekton's own",
            ),
            (
                "/spec/sidecars",
                json!([{"name": "x"}]),
                "it has no `image`",
            ),
        ],
    );
}

#[test]
fn references_in_a_task() {
    assert_refused(
        task,
        [
            (
                "/spec/steps/0/script",
                json!("$(params.q)"),
                "there is no $(params.q)",
            ),
            (
                "/spec/steps/0/image",
                json!("$(params['q'])"),
                "there is no $(params['q'])",
            ),
            (
                "/spec/steps/0/volumeMounts/0/subPath",
                json!("$(params.q)"),
                "subPath: there is no",
            ),
            (
                "/spec/steps/0/script",
                json!("$(params.p.a.b)"),
                "more than two parts",
            ),
            (
                "/spec/steps/0/script",
                json!("$(params.list[*])"),
                "is an array",
            ),
            (
                "/spec/steps/0/args",
                json!(["x $(params.list[*])"]),
                "does not stand alone",
            ),
            (
                "/spec/steps/0/script",
                json!("$(params.thing)"),
                "is a whole object",
            ),
            (
                "/spec/steps/0/script",
                json!("$(params.thing.other)"),
                "there is no $(params.thing.other)",
            ),
            (
                "/spec/steps/1/params/0/value",
                json!("$(params.q)"),
                "there is no $(params.q)",
            ),
            (
                "/spec/steps/0/script",
                json!("$(context.taskRun.id)"),
                "there is no $(context.taskRun.id)",
            ),
            (
                "/spec/steps/0/script",
                json!("$(context.task.uid)"),
                "there is no $(context.task.uid)",
            ),
            (
                "/spec/steps/0/script",
                json!("$(results.other.path)"),
                "there is no $(results.other.path)",
            ),
            (
                "/spec/steps/0/script",
                json!("$(step.results.other.path)"),
                "there is no $(step.results.other.path)",
            ),
            (
                "/spec/steps/2/image",
                json!("$(steps.two.results.r)"),
                "may not stand here",
            ),
            (
                "/spec/steps/0/script",
                json!("$(steps.one.results.r)"),
                "may not stand here",
            ),
            (
                "/spec/steps/0/args",
                json!(["$(steps.one.outputs.x)"]),
                "is an artifact",
            ),
            (
                "/spec/steps/0/args",
                json!(["$(step.artifacts.path)"]),
                "is alpha",
            ),
            (
                "/spec/steps/0/args",
                json!(["$(workspaces.other.path)"]),
                "there is no $(workspaces.other.path)",
            ),
        ],
    );
}

#[test]
fn what_a_task_declares() {
    assert_refused(
        task,
        [
            ("/spec/params/-", json!({"name": "p"}), "`p` is there twice"),
            ("/spec/params/-", json!({"name": "1p"}), "`1p` is no name"),
            (
                "/spec/params/-",
                json!({"name": "q", "type": "number"}),
                "of the type `number`",
            ),
            (
                "/spec/params/-",
                json!({"name": "q", "type": "array", "default": "x"}),
                "the default of `q` is no array",
            ),
            (
                "/spec/params/-",
                json!({"name": "q", "type": "object"}),
                "`q` has no `properties`",
            ),
            (
                "/spec/params/-",
                json!({"name": "q.r", "type": "object", "properties": {}}),
                "`q.r` is no name",
            ),
            (
                "/spec/params/-",
                json!({"name": "q", "properties": {"k": {"type": "array"}}}),
                "the key `k` of `q`",
            ),
            (
                "/spec/params/-",
                json!({"name": "q", "properties": {"k": {}}, "default": {}}),
                "the default of `q` lacks `k`",
            ),
            (
                "/spec/params/-",
                json!({"name": "q", "enum": ["a"]}),
                "the `enum` of `q` is alpha",
            ),
            ("/spec/results/-", json!({"name": "-r"}), "`-r` is no name"),
            (
                "/spec/results/-",
                json!({"name": "q", "type": "object"}),
                "`q` has no `properties`",
            ),
            (
                "/spec/results/-",
                json!({"name": "q", "type": "text"}),
                "of the type `text`",
            ),
            (
                "/spec/results/-",
                json!({"name": "q", "value": "x"}),
                "is no result of a step",
            ),
            (
                "/spec/volumes/-",
                json!({"name": "v"}),
                "`v` is there twice",
            ),
            (
                "/spec/workspaces/-",
                json!({"name": "w"}),
                "`w` is there twice",
            ),
            (
                "/spec/workspaces/-",
                json!({"name": "z", "mountPath": "/etc//v/"}),
                "`/etc/v` is there twice",
            ),
            (
                "/spec/steps/0/workspaces",
                json!([{"name": "z", "mountPath": "/z"}]),
                "there is no workspace `z`",
            ),
        ],
    );
}

#[test]
fn step_actions() {
    assert_refused(
        step_action,
        [
            ("/spec/image", json!(""), "it has no `image`"),
            ("/spec/script", json!("x"), "`script` beside `command`"),
            (
                "/spec/script",
                json!("$(params.p)"),
                "in the script of a StepAction",
            ),
            (
                "/spec/env/0/value",
                json!("$(params.q)"),
                "there is no $(params.q)",
            ),
            (
                "/spec/args",
                json!(["$(step.results.q.path)"]),
                "there is no $(step.results.q.path)",
            ),
            (
                "/spec/results/0/properties",
                Value::Null,
                "`r` has no `properties`",
            ),
            (
                "/spec/volumeMounts/0/name",
                json!("v"),
                "is not a parameter alone",
            ),
            (
                "/spec/volumeMounts/0/name",
                json!("x-$(params.p)"),
                "is not a parameter alone",
            ),
        ],
    );
}

#[test]
fn tasks_of_a_pipeline() {
    assert_refused(
        pipeline,
        [
            ("/spec/tasks", json!([]), "it has no `tasks`"),
            ("/spec/tasks/0/name", json!("One"), "no DNS label"),
            ("/spec/finally/0/name", json!("one"), "`one` is there twice"),
            (
                "/spec/tasks/0/taskSpec",
                json!({"steps": [{"image": "x"}]}),
                "exactly one of",
            ),
            (
                "/spec/tasks/0/taskRef",
                json!({"name": "-"}),
                "`-` is no name",
            ),
            (
                "/spec/tasks/0/taskRef/apiVersion",
                json!("tekton.dev/v1"),
                "a `kind` of its own",
            ),
            (
                "/spec/tasks/0/taskRef/kind",
                json!("ClusterTask"),
                "needs an `apiVersion`",
            ),
            (
                "/spec/tasks/1/taskSpec/kind",
                json!("Task"),
                "beside `steps`",
            ),
            (
                "/spec/tasks/0/pipelineRef",
                json!({"name": "p"}),
                "`pipelineRef` is alpha",
            ),
            (
                "/spec/tasks/0/onError",
                json!("continue"),
                "beside `retries`",
            ),
            (
                "/spec/tasks/1/onError",
                json!("continueAndFail"),
                "`onError` is",
            ),
            ("/spec/tasks/0/retries", json!(-1), "below zero"),
            (
                "/spec/tasks/0/params/-",
                json!({"name": "p", "value": "v"}),
                "`p` is there twice",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("$(params.q)"),
                "there is no $(params.q)",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("x $(params.list[*])"),
                "does not stand alone",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("$(context.pipelineRun.id)"),
                "there is no $(context.pipelineRun.id)",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("$(tasks.two.status)"),
                "outside of `finally`",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("$(tasks.two.results.r)"),
                "tasks wait for one another",
            ),
            (
                "/spec/tasks/0/params/0/value",
                json!("$(tasks.none.results.r)"),
                "which is not there",
            ),
            (
                "/spec/tasks/1/runAfter",
                json!(["none"]),
                "waits for `none`",
            ),
            (
                "/spec/tasks/1/workspaces/0/workspace",
                json!("z"),
                "there is no workspace `z`",
            ),
            (
                "/spec/tasks/1/when/0/values",
                json!([]),
                "`values` is empty",
            ),
            (
                "/spec/tasks/1/when/0",
                json!({"cel": "true"}),
                "no `in` or `notin`",
            ),
            (
                "/spec/tasks/1/taskSpec/steps/0/args",
                json!(["$(params.q)"]),
                "there is no $(params.q)",
            ),
            (
                "/spec/tasks/2/params/-",
                json!({"name": "q", "value": "v"}),
                "in `params` as well",
            ),
            (
                "/spec/tasks/2/matrix/params/0/value",
                json!("v"),
                "is no array",
            ),
            (
                "/spec/tasks/2/matrix/include",
                json!([{"params": [{"name": "z", "value": ["v"]}]}]),
                "is no text",
            ),
            (
                "/spec/tasks/2/matrix/params/0/value",
                json!(vec!["v"; 257]),
                "257 combinations",
            ),
            (
                "/spec/finally/0/runAfter",
                json!(["one"]),
                "`runAfter` in `finally`",
            ),
            (
                "/spec/finally/0/params/0/value",
                json!("$(tasks.last.results.r)"),
                "there is no $(tasks.last.results.r)",
            ),
            (
                "/spec/finally/0/params/0/value",
                json!("$(tasks.none.status)"),
                "there is no $(tasks.none.status)",
            ),
            ("/spec/results/0/value", json!("x"), "no result of a task"),
            (
                "/spec/results/0/value",
                json!("$(tasks.none.results.r)"),
                "there is no $(tasks.none.results.r)",
            ),
        ],
    );
}

#[test]
fn runs() {
    assert_refused(
        task_run,
        [
            (
                "/spec/taskSpec",
                json!({"steps": [{"image": "x"}]}),
                "exactly one of",
            ),
            (
                "/spec/params/-",
                json!({"name": "P", "value": "v"}),
                "`p` is there twice",
            ),
            ("/spec/status", json!("Cancelled"), "`status` is"),
            ("/spec/retries", json!(-1), "below zero"),
            ("/spec/timeout", json!("1 hour"), "is no duration"),
            ("/spec/debug", json!({}), "`debug` is alpha"),
            (
                "/spec/workspaces/-",
                json!({"name": "W", "emptyDir": {}}),
                "`w` is there twice",
            ),
            (
                "/spec/workspaces/0/configMap",
                json!({"name": "x"}),
                "exactly one source",
            ),
            (
                "/spec/workspaces/-",
                json!({"name": "z"}),
                "exactly one source",
            ),
            (
                "/spec/workspaces/1/secret",
                json!({}),
                "`secret` has no `secretName`",
            ),
            (
                "/spec/stepSpecs",
                json!([{"name": "a"}, {"name": "a"}]),
                "`a` is there twice",
            ),
        ],
    );
    assert_refused(
        pipeline_run,
        [
            ("/spec/pipelineRef", json!({"name": "p"}), "exactly one of"),
            (
                "/spec/params/0/name",
                json!("other"),
                "there is no $(params.given)",
            ),
            (
                "/spec/params/0/value",
                json!("$(tasks.one.results.r)"),
                "reads a result",
            ),
            (
                "/spec/taskRunSpecs/0/pipelineTaskName",
                json!("none"),
                "there is no task `none`",
            ),
            ("/spec/timeouts/pipeline", Value::Null, "without `pipeline`"),
            (
                "/spec/timeouts/tasks",
                json!("2h"),
                "longer than `pipeline`",
            ),
            (
                "/spec/timeouts/tasks",
                json!("51m"),
                "`tasks` and `finally` are longer",
            ),
            ("/spec/status", json!("Stopped"), "`status` is"),
            (
                "/spec/workspaces",
                json!([]),
                "the workspace `w` is not bound",
            ),
        ],
    );
}
