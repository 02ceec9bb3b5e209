//! What a run says of the pods and steps of its tasks.

use serde_json::Value;

use super::Finding;
use super::rules::{OldTask, change, check, list};

/// Steps that are given resources and that the Task does not have. `specs` is a TaskRun, or one of `taskRunSpecs`.
pub(super) fn of_steps(task: OldTask, specs: &Value) -> Option<Finding> {
    // v1beta1 calls them overrides.
    let named = ["stepSpecs", "stepOverrides"]
        .into_iter()
        .flat_map(|member| list(&specs[member]));
    let others: Vec<String> = named
        .filter_map(|step| step["name"].as_str())
        .filter(|name| *name != own_step(task))
        .map(|name| format!("`{name}`"))
        .collect();
    (!others.is_empty()).then(|| {
        change(
            "run.steps",
            format!(
                "it gives resources to {}, which `{}` does not have: Tekton refuses the TaskRun",
                others.join(", "),
                task.name()
            ),
            &format!(
                "the Task has one step, `{}`; take the others out",
                own_step(task)
            ),
        )
    })
}

fn own_step(task: OldTask) -> &'static str {
    match task {
        OldTask::Full | OldTask::Deploy => "build",
        OldTask::Init => "init",
        OldTask::Teardown => "teardown",
    }
}

/// A pod template that makes root of the step, which its own security context forbids.
pub(super) fn of_user(template: &Value, is_surely_ours: bool) -> Option<Finding> {
    (template["securityContext"]["runAsUser"] == 0).then(|| {
        let message = "its pods run as user 0, and the step must not: Kubernetes does not start it"
            .to_owned();
        let hint = "take `runAsUser` out of `podTemplate`; for volumes of root there is `fsGroup`";
        match is_surely_ours {
            true => change("run.root", message, hint),
            false => check("run.root", message, hint),
        }
    })
}
