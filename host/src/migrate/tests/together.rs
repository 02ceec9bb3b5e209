//! What documents say together, and what was not among them.

use super::*;

/// A document of Tekton with this in `spec`.
fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn tasks_of_several_pipeline_runs_do_not_find_one_another() {
    let init = "{name: i, taskRef: {name: orka-init}, params: [{name: base-image, value: x}]}";
    let deploy = "{name: d, taskRef: {name: orka-deploy}, params: [{name: script, value: x}]}";
    let teardown = "{name: t, taskRef: {name: orka-teardown}}";
    let of = |tasks: &[&str]| {
        document(
            "Pipeline",
            "p",
            &format!("{{tasks: [{}]}}", tasks.join(", ")),
        )
    };
    let apart = "pipeline.apart";
    let child = format!("{{name: child, pipelineSpec: {{tasks: [{deploy}]}}}}");
    for yaml in [
        of(&[deploy]),
        of(&[deploy, teardown]),
        of(&[init, &child, teardown]),
    ] {
        assert_says(
            &yaml,
            Weight::Change,
            apart,
            &["`orka-deploy`", "no `orka-init`"],
        );
    }
    assert_says(
        &of(&[teardown]),
        Weight::Change,
        apart,
        &["`orka-teardown`", "deletes"],
    );
    let told = deploy.replace("params: [", "params: [{name: vm-config, value: theirs}, ");
    let full = "{name: f, taskRef: {name: orka-full}}";
    for yaml in [
        of(&[init, deploy, teardown]),
        of(&[&told, teardown]),
        of(&[full, teardown]),
    ] {
        assert_eq!(codes(&yaml), [], "{yaml}");
    }
    // What may be any Task may be the one that is looked for.
    let filled = "{name: a, taskRef: {name: $(params.which)}}";
    assert_says(
        &of(&[filled, deploy]),
        Weight::Check,
        apart,
        &["no `orka-init`"],
    );
}

#[test]
fn what_was_not_given_is_said() {
    let check = Weight::Check;
    let own = "    - {name: mine, taskRef: {name: notify}}";
    assert_says(
        &pipeline("", own),
        check,
        "task.elsewhere",
        &["`notify`", "give its file"],
    );
    // Told to hand over, `orka-init` leaves nothing that a Task could miss.
    let told = pipeline(", {name: hand-over, value: kubernetes}", own);
    assert_eq!(codes(&told), [(check, "hand-over.role")]);
    let given = document("Task", "notify", "{steps: [{image: x}]}");
    assert_eq!(codes(&(pipeline("", own) + &given)), []);
    let git = |path: &str| {
        format!(
            "    - {{name: mine, taskRef: {{resolver: git, params: [{{name: pathInRepo, value: {path}}}]}}}}"
        )
    };
    assert_says(
        &pipeline("", &git("ci/y.yaml")),
        check,
        "task.elsewhere",
        &["`ci/y.yaml`"],
    );
    // The documents of these tests stand in `x.yaml`.
    assert_eq!(codes(&(pipeline("", &git("x.yaml")) + &given)), []);
    let reads = document(
        "Task",
        "notify",
        "{steps: [{image: x, script: kubectl get secret orka-token}]}",
    );
    let found = codes(&(pipeline("", &git("x.yaml")) + &reads));
    assert!(
        found.contains(&(Weight::Change, "hand-over.read")),
        "{found:?}"
    );
    let hub =
        "    - {name: mine, taskRef: {resolver: hub, params: [{name: name, value: git-clone}]}}";
    assert_eq!(codes(&pipeline("", hub)), []);
    // Without an `orka-init`, a Task is of interest that is given what the four are given.
    let alone = |params: &str| {
        document(
            "Pipeline",
            "p",
            &format!(
                "{{tasks: [{{name: a, taskRef: {{resolver: git, params: [{{name: pathInRepo, value: ci/y.yaml}}]}}, params: [{params}]}}]}}"
            ),
        )
    };
    assert_says(
        &alone("{name: base-image, value: x}"),
        check,
        "task.elsewhere",
        &["ci/y.yaml"],
    );
    assert_eq!(codes(&alone("{name: revision, value: x}")), []);
    for reference in [
        "{name: $(params.which)}",
        "{resolver: git, params: [{name: pathInRepo, value: 'tasks/$(params.which)/task.yaml'}]}",
        "{resolver: cluster, params: [{name: name, value: $(params.which)}]}",
    ] {
        let spec =
            format!("{{params: [{{name: which}}], tasks: [{{name: a, taskRef: {reference}}}]}}");
        assert_says(
            &document("Pipeline", "p", &spec),
            check,
            "task.not-told",
            &["$(params.which)"],
        );
        let told = spec.replace("{name: which}", "{name: which, default: other}");
        let found = codes(&document("Pipeline", "p", &told));
        assert!(!found.contains(&(check, "task.not-told")), "{found:?}");
    }
    let run = document("PipelineRun", "r", "{pipelineRef: {name: p}}");
    assert_says(&run, check, "pipeline.elsewhere", &["`p` was not given"]);
    assert_eq!(
        codes(&(run + &document("Pipeline", "p", "{tasks: []}"))),
        []
    );
}

#[test]
fn what_triggers_make_is_looked_at() {
    let run = "{kind: TaskRun, metadata: {generateName: r-}, spec: {taskRef: {name: orka-init}}}";
    for (kind, spec) in [
        (
            "Trigger",
            format!("{{template: {{spec: {{resourcetemplates: [{run}]}}}}}}"),
        ),
        (
            "EventListener",
            format!(
                "{{triggers: [{{template: {{ref: t}}}}, {{template: {{spec: {{resourcetemplates: [{run}]}}}}}}]}}"
            ),
        ),
    ] {
        assert_eq!(
            codes(&document(kind, "x", &spec)),
            [(Weight::Change, "task-run.alone")]
        );
    }
}

#[test]
fn a_run_that_names_steps_or_a_user_which_these_tasks_do_not_have_is_found() {
    let steps =
        |name: &str| format!("[{{name: {name}, computeResources: {{requests: {{cpu: 1}}}}}}]");
    let of_task_run = |rest: &str| {
        document(
            "TaskRun",
            "r",
            &format!("{{taskRef: {{name: orka-full}}, {rest}}}"),
        )
    };
    let pipeline = document(
        "Pipeline",
        "p",
        "{tasks: [{name: b, taskRef: {name: orka-full}}, {name: other, taskRef: {name: x}}]}",
    );
    let of_run = |rest: &str| {
        pipeline.clone()
            + &document(
                "PipelineRun",
                "r",
                &format!("{{pipelineRef: {{name: p}}, {rest}}}"),
            )
    };
    for member in ["stepSpecs", "stepOverrides"] {
        for (step, is_found) in [("copy-script", true), ("build", false)] {
            let steps = steps(step);
            for yaml in [
                of_task_run(&format!("{member}: {steps}")),
                of_run(&format!(
                    "taskRunSpecs: [{{pipelineTaskName: b, {member}: {steps}}}]"
                )),
            ] {
                match is_found {
                    true => assert_says(
                        &yaml,
                        Weight::Change,
                        "run.steps",
                        &["`copy-script`", "one step, `build`"],
                    ),
                    false => assert_eq!(codes(&yaml), [], "{yaml}"),
                }
            }
        }
    }
    let other = format!(
        "taskRunSpecs: [{{pipelineTaskName: other, stepSpecs: {}}}]",
        steps("copy-script")
    );
    assert_eq!(codes(&of_run(&other)), []);
    let root = "podTemplate: {securityContext: {runAsUser: 0}}";
    for yaml in [
        of_task_run(root),
        of_run(root),
        of_run(&format!("taskRunTemplate: {{{root}}}")),
        of_run(&format!("taskRunSpecs: [{{pipelineTaskName: b, {root}}}]")),
        of_run(
            "taskRunSpecs: [{pipelineTaskName: b, taskPodTemplate: {securityContext: {runAsUser: 0}}}]",
        ),
    ] {
        assert_says(&yaml, Weight::Change, "run.root", &["user 0"]);
        assert_eq!(
            codes(&yaml.replace("runAsUser: 0", "runAsUser: 1000")),
            [],
            "{yaml}"
        );
    }
    let unknown = document(
        "PipelineRun",
        "r",
        &format!("{{pipelineRef: {{name: q}}, {root}}}"),
    );
    assert_says(&unknown, Weight::Check, "run.root", &["user 0"]);
}

#[test]
fn a_run_that_turns_the_hand_over_off_is_found() {
    let told = ", {name: hand-over, value: $(params.hand)}";
    let reads = step("envFrom: [{secretRef: {name: orka-token}}]", "");
    let pipeline = pipeline(told, &reads).replace(
        "params: [{name: secret,",
        "params: [{name: hand, default: kubernetes}, {name: secret,",
    );
    let run = |value: &str| {
        let spec =
            format!("{{pipelineRef: {{name: p}}, params: [{{name: hand, value: {value}}}]}}");
        pipeline.clone() + &document("PipelineRun", "r", &spec)
    };
    assert_eq!(
        codes(&run("kubernetes")),
        [(Weight::Check, "hand-over.role")]
    );
    let found = places(&run("''"));
    let place = found
        .iter()
        .find(|place| place.kind == "PipelineRun")
        .unwrap();
    assert_eq!(place.task.as_deref(), Some("mine"));
    assert_eq!(place.findings[0].code, "hand-over.read");
    assert_eq!(place.findings[0].weight, Weight::Change);
}

/// The Pipeline and its defaults are in order; what the run puts in their place is not.
#[test]
fn a_value_that_a_run_gives_to_a_pipeline_elsewhere_is_put_to_the_task() {
    let build = "{name: b, taskRef: {name: orka-full}, params: [{name: copy-build, value: $(params.copy)}]}";
    let child = format!("{{name: child, pipelineSpec: {{tasks: [{build}]}}}}");
    for tasks in [build, &child] {
        let spec = format!("{{params: [{{name: copy, default: 'true'}}], tasks: [{tasks}]}}");
        let pipeline = document("Pipeline", "p", &spec);
        let run = |value: &str| {
            let spec =
                format!("{{pipelineRef: {{name: p}}, params: [{{name: copy, value: {value}}}]}}");
            document("PipelineRun", "r", &spec)
        };
        for good in ["'false'", "$(tt.params.copy)"] {
            assert_eq!(codes(&(pipeline.clone() + &run(good))), [], "{good}");
        }
        let template = run("'True'").replace("---\n", "").replace('\n', "\n      ");
        let template = format!(
            "---\nkind: TriggerTemplate\nmetadata: {{name: t}}\nspec:\n  resourcetemplates:\n    - {}\n",
            template.trim_end()
        );
        for run in [run("'True'"), template] {
            let yaml = pipeline.clone() + &run;
            assert_says(
                &yaml,
                Weight::Change,
                "param.value",
                &["`orka-full` refuses it", "`true` or `false`"],
            );
            let found = places(&yaml);
            let of_run = found.iter().filter(|it| it.kind == "PipelineRun");
            let tasks: Vec<_> = of_run.map(|it| it.task.as_deref()).collect();
            assert_eq!(tasks, [Some("b")]);
            assert_eq!(found.iter().filter(|it| it.uses.is_some()).count(), 1);
        }
        // What is wrong with the Pipeline itself is said once.
        let wrong = pipeline.replace("'true'", "'True'");
        assert_eq!(
            codes(&(wrong + &run("'True'"))),
            [(Weight::Change, "param.value")]
        );
    }
}

#[test]
fn a_name_in_a_script_for_the_mac_may_be_anything() {
    let yaml = task_run("{name: script, value: 'echo orka-vm-name'}");
    assert_says(&yaml, Weight::Check, "hand-over.named", &["`orka-vm-name`"]);
}

#[test]
fn every_volume_that_the_step_writes_to_needs_its_group() {
    for source in ["persistentVolumeClaim", "volumeClaimTemplate", "csi"] {
        let spec = format!(
            "{{taskRef: {{name: orka-full}}, workspaces: [{{name: orka, {source}: {{}}}}]}}"
        );
        assert_says(
            &document("TaskRun", "r", &spec),
            Weight::Check,
            "run.fs-group",
            &["fsGroup"],
        );
    }
}
