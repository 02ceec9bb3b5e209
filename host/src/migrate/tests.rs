//! What is found in which manifest.

use super::*;

mod together;

fn places(yaml: &str) -> Vec<Place> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut documents = Documents::default();
    let read = read::documents(&file).unwrap();
    read.into_iter()
        .for_each(|value| documents.add(&file, value));
    documents.places()
}

fn codes(yaml: &str) -> Vec<(Weight, &'static str)> {
    let places = places(yaml).into_iter();
    let findings = places.flat_map(|place| place.findings);
    findings.map(|it| (it.weight, it.code)).collect()
}

fn task_run(params: &str) -> String {
    format!(
        "apiVersion: tekton.dev/v1\nkind: TaskRun\nmetadata: {{name: x}}\nspec:\n  taskRef: {{name: orka-full}}\n  \
             params: [{params}]\n  workspaces: [{{name: orka, emptyDir: {{}}}}]\n"
    )
}

#[test]
fn what_stays_the_same_gives_no_finding() {
    assert_eq!(
        codes(&task_run(
            "{name: base-image, value: x}, {name: script, value: 'echo $(HOME)'}, {name: cpu-count, value: '6'}"
        )),
        []
    );
}

#[test]
fn what_differs_and_what_has_to_be_changed_are_told_apart() {
    for (param, weight, code) in [
        ("docker-image", Weight::Differs, "param.no-effect"),
        ("orka-api-url", Weight::Change, "param.gone"),
        ("ssh-secret-key", Weight::Change, "param.gone"),
        ("system-serial", Weight::Check, "param.intel"),
        ("basimage", Weight::Check, "param.unknown"),
    ] {
        let found = codes(&task_run(&format!("{{name: {param}, value: x}}")));
        assert_eq!(found, [(weight, code)], "{param}");
    }
    assert_eq!(
        codes(&task_run("{name: gpu-passthrough, value: 'false'}")),
        []
    );
}

/// The shell of the older Tasks took any text for a truth value, and sent numbers on.
#[test]
fn a_value_that_is_refused_has_to_be_changed() {
    for (param, value) in [
        ("copy-build", "True"),
        ("verbose", "yes"),
        ("tag-required", "TRUE"),
        ("cpu-count", "0"),
        ("gpu-passthrough", "False"),
    ] {
        let found = codes(&task_run(&format!("{{name: {param}, value: '{value}'}}")));
        assert!(
            found.contains(&(Weight::Change, "param.value")),
            "{param}: {found:?}"
        );
    }
    let reference = "{name: copy-build, value: $(params.copy)}";
    assert_eq!(codes(&task_run(reference)), []);
    let of_another = "{name: plugin, value: mine}, {name: verbose, value: 'yes'}";
    assert_eq!(codes(&task_run(of_another)), []);
}

#[test]
fn a_value_that_a_default_or_a_matrix_gives_is_looked_at_too() {
    let yaml = "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: p}
spec:
  params: [{name: copy, default: 'Yes'}, {name: open}]
  tasks:
    - name: build
      taskRef: {name: orka-full}
      params: [{name: base-image, value: x}, {name: copy-build, value: $(params.copy)}, {name: verbose, value: $(params.open)}]
      matrix: {params: [{name: cpu-count, value: ['4', 'many', '0']}]}
";
    assert_eq!(codes(yaml), [(Weight::Change, "param.value"); 3]);
}

/// Where there is no such parameter, that is what matters; with a carriage return the line ended nothing.
#[test]
fn a_line_that_ended_the_script_early_is_told_where_there_was_a_script() {
    for (script, found) in [
        ("x\\nEOF\\ny", &[(Weight::Differs, "script.eof")][..]),
        ("x\\nEOF", &[(Weight::Differs, "script.eof")]),
        ("x\\r\\nEOF\\r\\n", &[]),
        ("x\\n EOF\\n", &[]),
    ] {
        let yaml = task_run(&format!("{{name: script, value: \"{script}\"}}"));
        assert_eq!(codes(&yaml), found, "{script}");
        let of_init = yaml.replace("orka-full", "orka-init");
        let of_init = codes(&of_init);
        assert!(
            of_init.contains(&(Weight::Check, "param.unknown")),
            "{of_init:?}"
        );
        assert!(
            !of_init.contains(&(Weight::Differs, "script.eof")),
            "{of_init:?}"
        );
    }
}

#[test]
fn a_pipeline_whose_init_has_other_credentials_needs_them_elsewhere_too() {
    let yaml = "
apiVersion: tekton.dev/v1beta1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}, {name: orka-creds-secret, value: mine}]
    - name: build
      taskRef: {name: orka-deploy}
      params: [{name: script, value: 'true'}]
  finally:
    - name: clean
      taskRef: {name: orka-teardown}
";
    let found = codes(yaml);
    let elsewhere = found
        .iter()
        .filter(|(_, code)| *code == "credentials.elsewhere");
    assert_eq!(elsewhere.count(), 2, "{found:?}");
    assert!(found.contains(&(Weight::Differs, "version.v1beta1")));
}

#[test]
fn what_reads_the_old_hand_over_has_to_be_changed() {
    let yaml = "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}]
    - name: mine
      taskSpec:
        steps:
          - image: x
            env: [{name: T, valueFrom: {secretKeyRef: {name: orka-token, key: token}}}]
";
    assert!(codes(yaml).contains(&(Weight::Change, "hand-over.read")));
}

#[test]
fn the_old_hand_over_is_asked_for_by_both_its_ends() {
    let yaml = "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: p}
spec:
  tasks:
    - name: setup
      taskRef: {name: orka-init}
      params: [{name: base-image, value: x}, {name: hand-over, value: kubernetes}, {name: orka-token-secret, value: t}]
    - name: mine
      taskSpec:
        steps:
          - image: x
            env: [{name: T, valueFrom: {configMapKeyRef: {name: orka-vm-name, key: vm-name}}}]
  finally:
    - name: cleanup
      taskRef: {name: orka-teardown}
      params: [HAND_OVER]
";
    let told = "{name: hand-over, value: kubernetes}";
    let named = format!("{told}, {{name: orka-token-secret, value: t}}");
    assert_eq!(
        codes(&yaml.replace("HAND_OVER", &named)),
        [(Weight::Check, "hand-over.role")]
    );
    for others in [
        told.to_owned(),
        format!("{named}, {{name: orka-token-secret-key, value: k}}"),
        format!("{named}, {{name: orka-vm-name-config, value: c}}"),
        format!("{named}, {{name: orka-vm-name-config-key, value: k}}"),
    ] {
        let found = codes(&yaml.replace("HAND_OVER", &others));
        assert!(
            found.contains(&(Weight::Change, "hand-over.names")),
            "{others}: {found:?}"
        );
    }
    // One of several is enough: each may be for another `orka-init`.
    let two = format!(
        "{told}]\n    - name: other\n      taskRef: {{name: orka-teardown}}\n      params: [{named}"
    );
    assert_eq!(
        codes(&yaml.replace("HAND_OVER", &two)),
        [(Weight::Check, "hand-over.role")]
    );
    let untold = codes(&yaml.replace("HAND_OVER", ""));
    assert!(
        untold.contains(&(Weight::Change, "hand-over.teardown")),
        "{untold:?}"
    );
}

#[test]
fn runs_are_looked_at_for_their_user_their_account_and_their_time() {
    let yaml = "
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {generateName: r-}
spec:
  pipelineRef: {name: p}
  taskRunTemplate: {serviceAccountName: orka-svc}
  timeouts: {pipeline: 30m}
  workspaces: [{name: x, persistentVolumeClaim: {claimName: y}}]
";
    assert_eq!(
        codes(yaml),
        [
            (Weight::Check, "pipeline.elsewhere"),
            (Weight::Check, "run.fs-group"),
            (Weight::Check, "run.timeout"),
            (Weight::Check, "run.service-account"),
        ]
    );
}

#[test]
fn whoever_names_the_account_of_the_older_tasks_is_found() {
    for yaml in [
        "kind: TaskRun\nmetadata: {name: r}\nspec: {serviceAccountName: orka-svc, taskRef: {name: kubectl}}\n",
        "kind: PipelineRun\nmetadata: {name: r}\nspec: {pipelineSpec: {tasks: []}, taskRunTemplate: {serviceAccountName: orka-svc}}\n",
        "kind: PipelineRun\nmetadata: {name: r}\nspec: {pipelineSpec: {tasks: []}, taskRunSpecs: [{pipelineTaskName: b, \
         serviceAccountName: orka-svc}]}\n",
        "kind: PipelineRun\nmetadata: {name: r}\nspec: {pipelineSpec: {tasks: []}, taskRunSpecs: [{pipelineTaskName: b, \
         taskServiceAccountName: orka-svc}]}\n",
        "kind: TriggerTemplate\nmetadata: {name: t}\nspec: {resourcetemplates: [{kind: TaskRun, metadata: {generateName: r-}, \
         spec: {serviceAccountName: orka-svc, taskRef: {name: kubectl}}}]}\n",
        "kind: EventListener\nmetadata: {name: e}\nspec: {triggers: [{serviceAccountName: orka-svc, triggerRef: t}]}\n",
        "kind: CronJob\nmetadata: {name: j}\nspec: {jobTemplate: {spec: {template: {spec: {serviceAccountName: orka-svc, \
         containers: [{name: c, image: x}]}}}}}\n",
        "kind: ConfigMap\nmetadata: {name: config-defaults}\ndata: {default-service-account: orka-svc}\n",
    ] {
        let said = ["`orka-svc`", "before `orka-svc` is deleted"];
        assert_says(yaml, Weight::Check, "run.service-account", &said);
        assert_eq!(codes(&yaml.replace("orka-svc", "own")), [], "{yaml}");
    }
    let told = pipeline(", {name: hand-over, value: kubernetes}", "")
        + "---\nkind: TaskRun\nmetadata: {name: r}\nspec: {serviceAccountName: orka-svc, taskRef: {name: kubectl}}\n";
    assert_says(
        &told,
        Weight::Check,
        "run.service-account",
        &["the account of `tekton/overlays/hand-over`"],
    );
}

#[test]
fn other_kinds_are_passed_over() {
    assert_eq!(
        codes("kind: ConfigMap\n---\nkind: List\nitems: []\n---\n"),
        []
    );
}

/// A Pipeline with an `orka-init` of these parameters and these further tasks.
fn pipeline(of_init: &str, tasks: &str) -> String {
    format!(
        "apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {{name: p}}
spec:
  params: [{{name: secret, default: orka-token}}, {{name: asked}}]
  tasks:
    - name: setup
      taskRef: {{name: orka-init}}
      params: [{{name: base-image, value: x}}{of_init}]
{tasks}
  finally:
    - name: cleanup
      taskRef: {{name: orka-teardown}}
      params: [{{name: timeout, value: 5m}}{of_init}]
"
    )
}

fn step(step: &str, volumes: &str) -> String {
    format!(
        "    - name: mine
      taskSpec:
        volumes: [{volumes}]
        steps: [{{name: ask, image: x, {step}}}]"
    )
}

/// What is said, for a message that holds all of these, of one finding.
#[track_caller]
fn assert_says(yaml: &str, weight: Weight, code: &str, parts: &[&str]) {
    let places = places(yaml);
    let findings = places.iter().flat_map(|place| &place.findings);
    let said: Vec<&Finding> = findings.filter(|it| it.code == code).collect();
    assert_eq!(said.len(), 1, "{places:#?}");
    assert_eq!(said[0].weight, weight, "{places:#?}");
    for part in parts {
        let hint = said[0].hint.as_deref().unwrap_or_default();
        let found = said[0].message.contains(part) || hint.contains(part);
        assert!(found, "{part}: {said:#?}");
    }
}

#[test]
fn every_way_to_read_the_older_hand_over_is_found() {
    for (own, volumes, how) in [
        (
            "env: [{name: T, valueFrom: {secretKeyRef: {name: orka-token, key: token}}}]",
            "",
            "by the variable `T`",
        ),
        (
            "envFrom: [{secretRef: {name: orka-token}}]",
            "",
            "by `envFrom`",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /t}]",
            "{name: v, secret: {secretName: orka-token}}",
            "by the volume `v`",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /t}]",
            "{name: v, projected: {sources: [{secret: {name: orka-token}}]}}",
            "by the volume `v`",
        ),
        (
            "script: 'kubectl get secret orka-token -o yaml'",
            "",
            "in its script",
        ),
        (
            "script: 'curl https://k/api/v1/namespaces/ci/secrets/orka-token'",
            "",
            "in its script",
        ),
        ("args: [get, secret/orka-token]", "", "in its arguments"),
        (
            "command: [kubectl, get, secret, orka-token]",
            "",
            "in its arguments",
        ),
        (
            "env: [{name: S, value: orka-token}]",
            "",
            "in the variable `S`",
        ),
        (
            "envFrom: [{secretRef: {name: $(params.secret)}}]",
            "",
            "by `envFrom`",
        ),
        (
            "script: 'kubectl get secret $(params[\"secret\"])'",
            "",
            "in its script",
        ),
    ] {
        let yaml = pipeline("", &step(own, volumes));
        let said = [
            "step `ask` ",
            how,
            "Secret `orka-token`",
            "hand-over: kubernetes",
            "tekton/overlays/hand-over",
        ];
        assert_says(&yaml, Weight::Change, "hand-over.read", &said);
        let told = pipeline(
            ", {name: hand-over, value: kubernetes}",
            &step(own, volumes),
        );
        let said = [
            "step `ask` ",
            how,
            "Secret `orka-token`",
            "tekton/overlays/hand-over",
        ];
        assert_says(&told, Weight::Check, "hand-over.role", &said);
        assert!(
            codes(&told)
                .iter()
                .all(|(weight, _)| *weight != Weight::Change),
            "{told}"
        );
    }
    for (own, volumes) in [
        ("envFrom: [{configMapRef: {name: orka-vm-name}}]", ""),
        ("script: 'kubectl get cm orka-vm-name'", ""),
        (
            "volumeMounts: [{name: v, mountPath: /t}]",
            "{name: v, configMap: {name: orka-vm-name}}",
        ),
    ] {
        let yaml = pipeline("", &step(own, volumes));
        assert_says(
            &yaml,
            Weight::Change,
            "hand-over.read",
            &["step `ask` ", "ConfigMap `orka-vm-name`"],
        );
    }
}

#[test]
fn what_only_looks_like_the_older_hand_over_is_passed_over() {
    for own in [
        "script: 'kubectl get secret my-orka-token'",
        "script: 'kubectl get secret orka-token-2'",
        "script: 'cat /etc/orka-token/token'",
        "script: \"# was: kubectl get secret orka-token\\ntrue\"",
        "envFrom: [{configMapRef: {name: orka-token}}, {secretRef: {name: orka-creds}}]",
    ] {
        assert_eq!(codes(&pipeline("", &step(own, ""))), [], "{own}");
    }
}

#[test]
fn names_of_ones_own_are_followed_to_their_readers() {
    let renamed = ", {name: orka-token-secret, value: t-$(context.pipelineRun.name)}, {name: orka-vm-name-config, value: vm}";
    let reads = step(
        "envFrom: [{secretRef: {name: 't-$(context.pipelineRun.name)'}}, {configMapRef: {name: vm}}]",
        "",
    );
    let found = codes(&pipeline(renamed, &reads));
    let read = found
        .iter()
        .filter(|it| **it == (Weight::Change, "hand-over.read"));
    assert_eq!(read.count(), 2, "{found:?}");
    // The default names are nothing that this Pipeline made, and still nothing that is there.
    let reads = step("envFrom: [{secretRef: {name: orka-token}}]", "");
    assert!(codes(&pipeline(renamed, &reads)).contains(&(Weight::Change, "hand-over.read")));
    // A short name in a script may be anything.
    let says = step("script: 'echo vm'", "");
    assert!(codes(&pipeline(renamed, &says)).contains(&(Weight::Check, "hand-over.named")));
    let asks = step("script: 'kubectl get configmap vm'", "");
    assert_says(
        &pipeline(renamed, &asks),
        Weight::Change,
        "hand-over.read",
        &["`resourceNames`", "`vm`"],
    );
    // A parameter without a default ties both ends together.
    let asked = ", {name: orka-token-secret, value: $(params.asked)}";
    let reads = step("envFrom: [{secretRef: {name: $(params.asked)}}]", "");
    assert!(codes(&pipeline(asked, &reads)).contains(&(Weight::Change, "hand-over.read")));
}

#[test]
fn readers_in_tasks_and_step_actions_of_their_own_are_found_where_they_are_used() {
    let task = "---
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: notify}
spec:
  params: [{name: from, default: other}]
  steps: [{name: ask, image: x, envFrom: [{secretRef: {name: $(params.from)}}]}]
";
    let uses = "    - {name: mine, taskRef: {name: notify}, params: [{name: from, value: $(params.secret)}]}";
    let yaml = pipeline("", uses) + task;
    assert_says(
        &yaml,
        Weight::Change,
        "hand-over.read",
        &["step `ask` reads, by `envFrom`"],
    );
    let place = places(&yaml)
        .into_iter()
        .find(|place| !place.findings.is_empty())
        .unwrap();
    assert_eq!(
        (place.kind.as_str(), place.task.as_deref()),
        ("Pipeline", Some("mine"))
    );
    let harmless = uses.replace("$(params.secret)", "another");
    assert_eq!(codes(&(pipeline("", &harmless) + task)), []);
    // Of a Task that is not there, the parameter is all that is known.
    assert_says(
        &pipeline("", uses),
        Weight::Change,
        "hand-over.read",
        &["its Task is given, by the parameter `from`"],
    );
    // By itself, a Task has its defaults.
    assert_eq!(codes(task), []);
    assert_says(
        &task.replace("other", "orka-token"),
        Weight::Change,
        "hand-over.read",
        &["step `ask`"],
    );
    let action = "---
apiVersion: tekton.dev/v1beta1
kind: StepAction
metadata: {name: asks}
spec: {image: x, params: [{name: from, default: other}], env: [{name: T, valueFrom: {secretKeyRef: {name: $(params.from), key: k}}}]}
";
    let uses = "    - {name: mine, taskSpec: {steps: [{name: ask, ref: {name: asks}, params: [{name: from, value: orka-token}]}]}}";
    for yaml in [pipeline("", uses) + action, pipeline("", uses)] {
        assert_says(&yaml, Weight::Change, "hand-over.read", &["step `ask` "]);
    }
    assert_says(
        &action.replace("other", "orka-token"),
        Weight::Change,
        "hand-over.read",
        &["it reads"],
    );
}

#[test]
fn runs_and_pods_that_read_the_older_hand_over_are_found() {
    let pipeline = pipeline(
        "",
        "    - {name: mine, workspaces: [{name: w, workspace: creds}], params: [{name: from, value: $(params.asked)}], taskRef: {name: other}}",
    );
    let run = |rest: &str| {
        format!(
            "---\napiVersion: tekton.dev/v1\nkind: PipelineRun\nmetadata: {{name: r}}\nspec: {{pipelineRef: {{name: p}}, {rest}}}\n"
        )
    };
    let bound = run("workspaces: [{name: creds, secret: {secretName: orka-token}}]");
    let said = ["the workspace `creds` of task `mine` is the Secret `orka-token`"];
    assert_says(
        &(pipeline.clone() + &bound),
        Weight::Change,
        "hand-over.read",
        &said,
    );
    let given = run("params: [{name: asked, value: orka-token}]");
    let said = ["its Task is given, by the parameter `from`, the name of the Secret `orka-token`"];
    assert_says(
        &(pipeline.clone() + &given),
        Weight::Change,
        "hand-over.read",
        &said,
    );
    let place = places(&(pipeline + &given))
        .into_iter()
        .find(|place| place.findings.iter().any(|it| it.code == "hand-over.read"))
        .unwrap();
    assert_eq!(
        (place.kind.as_str(), place.task.as_deref()),
        ("PipelineRun", Some("mine"))
    );
    let inside = "apiVersion: tekton.dev/v1
kind: TaskRun
metadata: {name: r}
spec: {taskSpec: {steps: [{image: x, envFrom: [{secretRef: {name: orka-token}}]}]}}
";
    assert_says(inside, Weight::Change, "hand-over.read", &["step 1 reads"]);
    let job = "apiVersion: batch/v1
kind: CronJob
metadata: {name: j}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: x, envFrom: [{secretRef: {name: orka-token}}]}]}}}}}
";
    assert_says(
        job,
        Weight::Change,
        "hand-over.read",
        &["container `c` reads"],
    );
}

#[test]
fn a_hand_over_that_nothing_here_reads_needs_its_rights_all_the_same() {
    let yaml = pipeline(", {name: hand-over, value: kubernetes}", "");
    assert_eq!(codes(&yaml), [(Weight::Check, "hand-over.role")]);
}

#[test]
fn a_task_is_found_however_it_is_referred_to() {
    let run = |reference: &str| {
        format!(
            "apiVersion: tekton.dev/v1\nkind: TaskRun\nmetadata: {{name: r}}\nspec:\n  taskRef: {reference}\n"
        )
    };
    let resolver = |name: &str, params: &[(&str, &str)]| {
        let params: Vec<String> = params
            .iter()
            .map(|(name, value)| format!("{{name: {name}, value: '{value}'}}"))
            .collect();
        run(&format!(
            "{{resolver: {name}, params: [{}]}}",
            params.join(", ")
        ))
    };
    let (change, check) = (Weight::Change, Weight::Check);
    for (yaml, weight, said) in [
        (
            resolver("hub", &[("name", "orka-full")]),
            change,
            "resolver `hub`",
        ),
        (
            resolver("hub", &[("name", "orka-full"), ("version", "0.2")]),
            change,
            "version `0.2`",
        ),
        (
            resolver("hub", &[("name", "orka-full"), ("version", "0.3")]),
            check,
            "version `0.3`",
        ),
        (
            resolver(
                "git",
                &[
                    ("url", "https://github.com/tektoncd/catalog"),
                    ("pathInRepo", "task/orka-full/0.2/orka-full.yaml"),
                ],
            ),
            change,
            "that is the older Task",
        ),
        (
            resolver(
                "git",
                &[
                    ("url", "https://git.example.com/tasks"),
                    ("pathInRepo", "tekton/task/orka-full/0.3/orka-full.yaml"),
                ],
            ),
            check,
            "`https://git.example.com/tasks`",
        ),
        (
            resolver(
                "bundles",
                &[
                    (
                        "bundle",
                        "gcr.io/tekton-releases/catalog/upstream/orka-full:0.2",
                    ),
                    ("name", "orka-full"),
                ],
            ),
            change,
            "that is the older Task",
        ),
        (
            resolver(
                "bundles",
                &[
                    ("bundle", "r.example.com/tasks@sha256:0"),
                    ("name", "orka-full"),
                ],
            ),
            check,
            "resolver `bundles`",
        ),
        (
            resolver(
                "cluster",
                &[
                    ("kind", "task"),
                    ("name", "orka-full"),
                    ("namespace", "shared"),
                ],
            ),
            check,
            "install these Tasks in the namespace `shared`",
        ),
        (
            resolver(
                "http",
                &[("url", "https://raw.example.com/x/0.1/orka-full.yaml")],
            ),
            change,
            "resolver `http`",
        ),
        (
            run("{name: orka-full, bundle: 'r.example.com/x:1'}"),
            change,
            "has dropped",
        ),
    ] {
        assert_says(&yaml, weight, "reference.elsewhere", &[said]);
    }
    assert_says(
        &run("{name: orka-full, kind: ClusterTask}"),
        change,
        "reference.cluster-task",
        &["ClusterTasks"],
    );
    for other in [
        resolver(
            "git",
            &[("pathInRepo", "task/git-clone/0.9/git-clone.yaml")],
        ),
        run("{name: orka-full, apiVersion: example.com/v1, kind: Own}"),
    ] {
        assert_eq!(codes(&other), []);
    }
}

#[test]
fn uses_are_found_wherever_a_pipeline_can_stand() {
    let inside = "{tasks: [{name: b, taskRef: {name: orka-full}, params: [{name: orka-api-url, value: x}]}]}";
    for yaml in [
        format!("kind: PipelineRun\nmetadata: {{name: r}}\nspec: {{pipelineSpec: {inside}}}\n"),
        format!(
            "kind: Pipeline\nmetadata: {{name: p}}\nspec: {{tasks: [{{name: x, pipelineSpec: {inside}}}]}}\n"
        ),
        format!("kind: List\nitems: [{{kind: Pipeline, metadata: {{name: p}}, spec: {inside}}}]\n"),
        format!(
            "kind: PipelineList\nitems: [{{kind: Pipeline, metadata: {{name: p}}, spec: {inside}}}]\n"
        ),
        format!(
            "kind: TriggerTemplate\nmetadata: {{name: t}}\nspec: {{resourcetemplates: [{{kind: PipelineRun, metadata: \
             {{generateName: r-}}, spec: {{pipelineSpec: {inside}}}}}]}}\n"
        ),
        format!(
            "kind: Pipeline\nmetadata: {{name: p}}\nspec: {inside}\n---\n---\nkind: ConfigMap\n"
        ),
        format!("kind: Pipeline\nmetadata: {{name: p}}\nspec: &it {inside}\nagain: *it\n"),
    ] {
        assert_eq!(codes(&yaml), [(Weight::Change, "param.gone")], "{yaml}");
    }
}

#[test]
fn tasks_that_need_one_another_do_not_work_in_task_runs_by_themselves() {
    let run = |task: &str, params: &str| {
        format!(
            "kind: TaskRun\nmetadata: {{name: r}}\nspec: {{taskRef: {{name: {task}}}, params: [{params}]}}\n"
        )
    };
    for task in ["orka-init", "orka-deploy", "orka-teardown"] {
        assert_eq!(
            codes(&run(task, "")),
            [(Weight::Change, "task-run.alone")],
            "{task}"
        );
    }
    assert_eq!(
        codes(&run("orka-deploy", "{name: vm-config, value: theirs}")),
        []
    );
}

#[test]
fn what_deploy_is_told_speaks_of_deploy() {
    let deploy = |params: &str| {
        let task = format!(
            "    - {{name: build, taskRef: {{name: orka-deploy}}, params: [{{name: script, value: x}}{params}]}}"
        );
        pipeline(
            ", {name: orka-creds-secret, value: orka-creds}, {name: orka-creds-email-key, value: email}",
            &task,
        )
    };
    // What `orka-init` names is what the others look for by themselves.
    assert_eq!(codes(&deploy("")), []);
    let renamed = deploy(", {name: orka-token-secret, value: t}");
    assert_says(
        &renamed,
        Weight::Differs,
        "param.no-effect",
        &["`orka-deploy` signs in by itself"],
    );
    let told = deploy(", {name: hand-over, value: kubernetes}");
    assert_says(
        &told,
        Weight::Check,
        "param.unknown",
        &["`orka-deploy` has no parameter `hand-over`"],
    );
}

#[test]
fn what_cannot_be_told_is_said() {
    for (yaml, code) in [
        (
            "kind: PipelineRun\nmetadata: {name: r}\nspec: {pipelineRef: {resolver: git, params: []}}\n",
            "pipeline.elsewhere",
        ),
        (
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [x]\n",
            "document.kustomization",
        ),
        ("resources: [x]\n", "document.kustomization"),
        ("- {op: add, path: /x, value: y}\n", "document.no-kind"),
        ("image: {tag: 1}\n", "document.no-kind"),
        (
            "kind: TaskRun\nmetadata: {name: r}\nspec: {taskRef: {name: '{{ .Values.task }}'}}\n",
            "template",
        ),
    ] {
        assert_eq!(codes(yaml), [(Weight::Check, code)], "{yaml}");
    }
    let older = "kind: Task\nmetadata: {name: orka-init}\nspec: {steps: [{image: x, script: 'kubectl create secret generic orka-token'}]}\n";
    assert_eq!(codes(older), [(Weight::Differs, "task.older")]);
}

#[test]
fn a_script_that_the_older_task_cut_short_is_told() {
    let script = |text: &str| {
        let text = serde_json::to_string(text).unwrap();
        codes(&task_run(&format!("{{name: script, value: {text}}}")))
    };
    let told = [(Weight::Differs, "script.eof")];
    assert_eq!(script("cat <<EOF >x\nin\nEOF\nmake\n"), told);
    assert_eq!(script("cat <<-EOF >x\n\tEOF\nEOF2\necho EOF\n"), []);
}

#[test]
fn a_child_pipeline_that_was_not_given_is_told() {
    let pipeline = |reference: &str| {
        format!(
            "
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {{name: parent}}
spec:
  params: [{{name: which, default: child}}]
  tasks: [{{name: build, pipelineRef: {reference}}}]
"
        )
    };
    let told = [(Weight::Check, "pipeline.elsewhere")];
    for reference in [
        "{name: child}",
        "{name: $(params.which)}",
        "{resolver: git}",
    ] {
        assert_eq!(codes(&pipeline(reference)), told, "{reference}");
    }
    let child = "---
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: child}
spec:
  tasks: [{name: mine, taskSpec: {steps: [{image: x}]}}]
";
    for reference in ["{name: child}", "{name: $(params.which)}"] {
        let both = pipeline(reference) + child;
        assert_eq!(codes(&both), [], "{reference}");
    }
}
