//! One manifest of each kind that Tekton takes, with all that the bad examples change.

use serde_json::{Value, json};

pub(super) fn task() -> Value {
    json!({"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "x"}, "spec": {
        "params": [{"name": "p", "default": "d"}, {"name": "list", "type": "array"},
            {"name": "thing", "properties": {"key": {}}}],
        "results": [{"name": "r"}, {"name": "of-step", "value": "$(steps.one.results.r)"}],
        "workspaces": [{"name": "w"}],
        "volumes": [{"name": "v", "secret": {"secretName": "$(params.p)"}}],
        "steps": [
            {"name": "one", "image": "x", "script": "$(params.p) $(params[\"p\"]) $(params.thing.key) $(results.r.path) $(context.taskRun.uid)",
                "args": ["$(params.list[*])", "$(params.list[0]) too"], "volumeMounts": [{"name": "v", "mountPath": "/etc/v"}]},
            {"name": "two", "ref": {"name": "action"}, "params": [{"name": "p", "value": "$(workspaces.w.path)"}], "onError": "continue"},
            {"name": "three", "image": "x", "env": [{"name": "E", "value": "$(steps.two.results.r)"}]},
        ],
    }})
}

pub(super) fn step_action() -> Value {
    json!({"apiVersion": "tekton.dev/v1beta1", "kind": "StepAction", "metadata": {"name": "x"}, "spec": {
        "image": "x", "command": ["x"], "args": ["--to=$(step.results.r.path)"], "params": [{"name": "p", "type": "string"}],
        "env": [{"name": "E", "value": "$(params.p)"}], "results": [{"name": "r", "type": "object", "properties": {"key": {"type": "string"}}}],
        "volumeMounts": [{"name": "$(params.p)", "mountPath": "/etc/v"}],
    }})
}

pub(super) fn pipeline() -> Value {
    json!({"apiVersion": "tekton.dev/v1", "kind": "Pipeline", "metadata": {"name": "x"}, "spec": {
        "params": [{"name": "p", "type": "string"}, {"name": "list", "type": "array"}],
        "workspaces": [{"name": "w"}],
        "results": [{"name": "r", "value": "$(tasks.one.results.r)"}],
        "tasks": [
            {"name": "one", "taskRef": {"name": "t"}, "params": [{"name": "p", "value": "$(params.p) $(mktemp)"}], "retries": 1},
            {"name": "two", "runAfter": ["one"], "onError": "continue", "workspaces": [{"name": "source", "workspace": "w"}],
                "taskSpec": {"workspaces": [{"name": "source"}], "steps": [{"image": "x", "args": ["$(params.p)"]}]},
                "when": [{"input": "$(tasks.one.results.r)", "operator": "in", "values": ["a"]}]},
            {"name": "many", "taskRef": {"resolver": "git"}, "params": [{"name": "p", "value": "v"}],
                "matrix": {"params": [{"name": "q", "value": ["1", "2"]}]}},
        ],
        "finally": [{"name": "last", "taskRef": {"name": "t"}, "params": [{"name": "p", "value": "$(tasks.one.status) $(tasks.status)"}]}],
    }})
}

pub(super) fn task_run() -> Value {
    json!({"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"generateName": "x-"}, "spec": {
        "taskRef": {"name": "t"}, "params": [{"name": "p", "value": "v"}], "timeout": "1h30m", "retries": 2,
        "workspaces": [{"name": "w", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x"}}],
    }})
}

pub(super) fn pipeline_run() -> Value {
    json!({"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"generateName": "x-"}, "spec": {
        "pipelineSpec": {"workspaces": [{"name": "w"}], "tasks": [
            {"name": "one", "taskRef": {"name": "t"}, "workspaces": [{"name": "w"}]},
            {"name": "two", "taskSpec": {"steps": [{"image": "x", "script": "$(params.given)"}]}},
        ]},
        "params": [{"name": "given", "value": "v"}],
        "taskRunSpecs": [{"pipelineTaskName": "one", "serviceAccountName": "s"}],
        "timeouts": {"pipeline": "1h", "tasks": "50m", "finally": "10m"},
        "workspaces": [{"name": "w", "emptyDir": {}}],
    }})
}
