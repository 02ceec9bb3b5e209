//! Guards and grants of the platform team: bound by whoever starts a run, or part of the Task.

use std::path::Path;

use end_to_end::{Cluster, Definition, Namespace, Pod, documents, guest, repository};
use serde_json::{Value, json};

use super::assert_outcome;

const SAMPLE: &str = "tekton/task/orka-full/0.3/samples/guards.yaml";

fn read(path: &str) -> Vec<Value> {
    documents(&std::fs::read_to_string(repository().join(path)).unwrap())
}

/// The data of a ConfigMap.
fn data(config_map: &Value) -> Vec<(&str, &str)> {
    let data = config_map["data"].as_object().unwrap();
    data.iter()
        .map(|(key, text)| (key.as_str(), text.as_str().unwrap()))
        .collect()
}

fn unbound(namespace: &Namespace, task: &Definition) -> Pod {
    namespace
        .run(task)
        .empty_dir("orka")
        .param("cpu-count", "12")
        .param("script", "true")
}

/// What the rules of sample and overlay allow, change and deny.
async fn assert_guarded(cluster: &Cluster, pod: impl Fn() -> Pod) {
    let ended = pod().param("base-image", "Ventura.orkasi").ended().await;
    assert_outcome(&ended, 212, "denied");
    ended.assert_says(&["guard `allowed-vms` denied image `Ventura.orkasi`"]);
    cluster.assert_nothing_left();
    let ended = pod().param("base-image", "Sonoma.orkasi").ended().await;
    assert_outcome(&ended, 0, "succeeded");
    ended.assert_says(&["cpu-cores from 12 to 8"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_binds_guards_that_hold_the_build_to_their_rules() {
    let cluster = Cluster::start().await;
    let sample = read(SAMPLE);
    let bound = &sample[1]["spec"]["workspaces"][1];
    assert_eq!(bound["configMap"]["name"], sample[0]["metadata"]["name"]);
    let directory = tempfile::tempdir().unwrap();
    for (key, text) in data(&sample[0]) {
        std::fs::write(directory.path().join(key), text).unwrap();
    }
    let namespace = Namespace::of(&cluster);
    let task = Definition::task("orka-full");
    let pod = || unbound(&namespace, &task).workspace("guards", directory.path());
    assert_guarded(&cluster, pod).await;
    // What is to be asked and is not there is no consent.
    std::fs::remove_file(directory.path().join("guards")).unwrap();
    let ended = pod().param("base-image", "Sonoma.orkasi").ended().await;
    assert_outcome(&ended, 211, "infra-failed");
    ended.assert_says(&["cannot read the list of guards"]);
}

/// A namespace with the overlay's policy, and one of its Tasks.
fn overlay(cluster: &Cluster, task: &str) -> (Namespace, Definition) {
    let policy = read("tekton/overlays/guards/tasks/policy.yaml");
    let patch = read("tekton/overlays/guards/tasks/patch-policy.yaml");
    let namespace = Namespace::of(cluster).config_map("orka-policy", &data(&policy[0]));
    (namespace, Definition::task(task).patched(&patch[0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlay_holds_every_build_to_its_guards_and_grants() {
    let cluster = Cluster::start().await;
    let (namespace, task) = overlay(&cluster, "orka-full");
    assert_guarded(&cluster, || unbound(&namespace, &task)).await;
    let build = || unbound(&namespace, &task).param("base-image", "Sonoma.orkasi");
    let requests = cluster.sim.state().requests.len();
    // Bundled, and still not named by the grants; and one of somebody's own.
    let plugins = tempfile::tempdir().unwrap();
    std::fs::copy(guest("several"), plugins.path().join("several.wasm")).unwrap();
    for (plugin, params) in [("retry-elsewhere", "alternatives=tag=m2"), ("several", "")] {
        let pod = build().workspace("plugin", plugins.path());
        let pod = pod.param("plugin", plugin).param("plugin-params", params);
        let ended = pod.ended().await;
        assert_outcome(&ended, 212, "denied");
        ended.assert_says(&["grants.yaml"]);
    }
    assert_eq!(cluster.sim.state().requests.len(), requests);
    let grants = namespace.data("orka-policy").unwrap()["grants.yaml"]
        .replace("lifetime: 2h", "lifetime: 1s");
    let shorter = namespace.value("orka-policy", "grants.yaml", &grants);
    let ended = unbound(&shorter, &task)
        .param("base-image", "Sonoma.orkasi")
        .param("script", "sleep 60")
        .ended()
        .await;
    assert_outcome(&ended, 218, "timed-out");
    cluster.assert_purged();
}

/// Whoever starts the run would replace what the Task sets, or believe so.
#[tokio::test(flavor = "multi_thread")]
async fn the_overlay_takes_no_other_guards_and_grants() {
    let cluster = Cluster::start().await;
    let (namespace, task) = overlay(&cluster, "orka-full");
    let build = || unbound(&namespace, &task).param("base-image", "Sonoma.orkasi");
    let all = "[[grants]]\nplugin = '*'\ncapabilities = ['*']\n";
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("grants.toml"), all).unwrap();
    let variable = namespace
        .clone()
        .value("orka-tekton-config", "ORKA_GRANTS", "/workspace/orka");
    let of_variable = unbound(&variable, &task).param("base-image", "Sonoma.orkasi");
    for (pod, other) in [
        (
            build().workspace("guards", Path::new("/nowhere")),
            "the TaskRun's workspace `guards`",
        ),
        (
            build().workspace("grants", directory.path()),
            "the TaskRun's workspace `grants`",
        ),
        (
            build().param("grants", all),
            "the TaskRun's parameter `grants`",
        ),
        (of_variable, "the variable `ORKA_GRANTS`"),
    ] {
        let ended = pod.ended().await;
        assert_outcome(&ended, 211, "infra-failed");
        ended.assert_says(&["are set by the Task's own argument `--g", "/policy`", other]);
    }
    cluster.assert_untouched();
}

/// The two Tasks that share a VM config: what one makes and the other starts is held to the same policy.
#[tokio::test(flavor = "multi_thread")]
async fn the_modular_tasks_of_the_overlay_are_held_to_it_too() {
    let cluster = Cluster::start().await;
    let (namespace, init) = overlay(&cluster, "orka-init");
    let (_, deploy) = overlay(&cluster, "orka-deploy");
    let run = end_to_end::uid("run of the modular tasks");
    let shared = tempfile::tempdir().unwrap();
    let pod = |task: &Definition| {
        let pod = namespace.run(task).in_pipeline_run(&run);
        pod.workspace("orka", shared.path())
    };
    let ended = pod(&init)
        .param("base-image", "Ventura.orkasi")
        .ended()
        .await;
    assert_outcome(&ended, 212, "denied");
    cluster.assert_nothing_left();
    let ended = pod(&init)
        .param("base-image", "Sonoma.orkasi")
        .ended()
        .await;
    assert_outcome(&ended, 0, "succeeded");
    let ended = pod(&deploy).param("script", "true").ended().await;
    assert_outcome(&ended, 0, "succeeded");
    let ended = pod(&Definition::task("orka-teardown")).ended().await;
    assert_outcome(&ended, 0, "succeeded");
    cluster.assert_nothing_left();
}

/// A plugin is chosen by whoever starts the run; a guard of the same name beside it judges nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_plugins_brings_no_guard() {
    let cluster = Cluster::start().await;
    let sample = read(SAMPLE);
    let guards = tempfile::tempdir().unwrap();
    for (key, text) in data(&sample[0]) {
        std::fs::write(guards.path().join(key), text).unwrap();
    }
    let plugins = tempfile::tempdir().unwrap();
    let odd = end_to_end::guest("odd-guard");
    std::fs::copy(odd, plugins.path().join("allowed-vms.wasm")).unwrap();
    let ended = unbound(&Namespace::of(&cluster), &Definition::task("orka-full"))
        .workspace("guards", guards.path())
        .workspace("plugin", plugins.path())
        .param("base-image", "Ventura.orkasi")
        .ended()
        .await;
    assert_outcome(&ended, 212, "denied");
    ended.assert_says(&["guard `allowed-vms` denied image"]);
}

/// The overlay's admission policies.
const OF_RUNS: &str = "tekton/overlays/guards/only-these-tasks.yaml";
const OF_TASKS: &str = "tekton/overlays/guards/only-guarded-tasks.yaml";

/// What an admission policy says of an object: its messages.
fn refused_by(policy: &str, object: &Value, before: Option<&Value>) -> Vec<String> {
    let policy = &read(policy)[0]["spec"];
    if unmet(&policy["matchConditions"], object, before).is_empty() {
        unmet(&policy["validations"], object, before)
    } else {
        Vec::new()
    }
}

/// The rules that do not hold: their messages, or names.
fn unmet(rules: &Value, object: &Value, before: Option<&Value>) -> Vec<String> {
    let operation = if before.is_some() { "UPDATE" } else { "CREATE" };
    let mut context = cel::Context::default();
    for (name, value) in [
        ("object", object),
        ("oldObject", before.unwrap_or(&Value::Null)),
        ("request", &json!({ "operation": operation })),
    ] {
        context.add_variable(name, value).unwrap();
    }
    let holds = |rule: &&Value| {
        let expression = rule["expression"].as_str().unwrap();
        let program = cel::Program::compile(expression).unwrap();
        match program.execute(&context) {
            Ok(cel::Value::Bool(holds)) => holds,
            other => panic!("{expression}\n{object}: {other:?}"),
        }
    };
    let said = |rule: &Value| rule.get("message").unwrap_or(&rule["name"]).clone();
    let rules = rules.as_array().unwrap().iter();
    rules
        .filter(|rule| !holds(rule))
        .map(|rule| said(rule).as_str().unwrap().to_owned())
        .collect()
}

/// What is said of a TaskRun.
fn refused(task_run: &Value, before: Option<&Value>) -> Vec<String> {
    refused_by(OF_RUNS, task_run, before)
}

#[test]
fn the_admission_policy_lets_taskruns_use_the_tasks_of_the_overlay_and_nothing_else() {
    let task_run =
        |spec: Value| json!({ "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "spec": spec });
    for name in ["orka-full", "orka-init", "orka-deploy", "orka-teardown"] {
        let spec = json!({ "taskRef": { "name": name, "kind": "Task" },
            "params": [{ "name": "orka-api", "value": "" }, { "name": "script", "value": "true" }],
            "workspaces": [{ "name": "orka", "emptyDir": {} }, { "name": "secrets", "secret": { "secretName": "signing" } },
                { "name": "registry", "secret": { "secretName": "pull" } }],
            "podTemplate": { "nodeSelector": { "disk": "fast" } } });
        assert_eq!(refused(&task_run(spec), None), [] as [&str; 0], "{name}");
    }
    assert_eq!(
        refused(
            &task_run(json!({ "taskRef": { "name": "orka-full" } })),
            None
        ),
        [] as [&str; 0]
    );
    for (spec, said) in [
        (json!({}), "names a Task in `taskRef`"),
        (
            json!({ "taskSpec": { "steps": [] } }),
            "brings no `taskSpec`",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "taskSpec": { "steps": [] } }),
            "brings no `taskSpec`",
        ),
        (
            json!({ "taskRef": { "name": "mine" } }),
            "the Tasks of this namespace are",
        ),
        (json!({ "taskRef": {} }), "the Tasks of this namespace are"),
        (
            json!({ "taskRef": { "resolver": "git", "params": [] } }),
            "no resolver and no bundle",
        ),
        (
            json!({ "taskRef": { "name": "orka-full", "resolver": "hub" } }),
            "no resolver and no bundle",
        ),
        (
            json!({ "taskRef": { "name": "orka-full", "bundle": "registry/mine" } }),
            "no resolver and no bundle",
        ),
        (
            json!({ "taskRef": { "name": "orka-full", "kind": "ClusterTask" } }),
            "nothing of another kind",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "params": [{ "name": "orka-api", "value": "http://mine" }] }),
            "`orka-api` stays empty",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "workspaces": [{ "name": "orka", "secret": { "secretName": "orka-creds" } }] }),
            "other than `secrets` and `registry` is no Secret",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "workspaces": [{ "name": "orka", "projected": { "sources": [] } }] }),
            "other than `secrets` and `registry` is no Secret",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "workspaces": [{ "name": "output", "secret": { "secretName": "orka-creds" } }] }),
            "other than `secrets` and `registry` is no Secret",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "podTemplate": { "env": [{ "name": "ORKA_API", "value": "http://mine" }] } }),
            "`podTemplate` has no `env`",
        ),
        (
            json!({ "taskRef": { "name": "orka-full" }, "podTemplate": { "hostAliases": [] } }),
            "`podTemplate` has no `env`",
        ),
    ] {
        let task_run = task_run(spec);
        let messages = refused(&task_run, None).join("\n");
        assert!(messages.contains(said), "{task_run}: {messages}");
    }
}

/// Which Secret is read, and which of its keys is shown as a user's name, is the platform team's to say.
#[test]
fn the_admission_policy_holds_credentials_to_the_defaults_of_the_tasks() {
    // Nothing is read by these: what `hand-over` writes, and of what kind the SSH credential is.
    let free = [
        "orka-token-secret",
        "orka-token-secret-key",
        "orka-vm-name-config-key",
        "ssh-host-key",
        "ssh-key",
    ];
    let mut held = 0;
    for name in ["orka-full", "orka-init", "orka-deploy", "orka-teardown"] {
        let run =
            |params: Value| json!({ "spec": { "taskRef": { "name": name }, "params": params } });
        let defaults = Definition::task(name).defaults();
        let all = defaults.iter().map(
            |(name, default)| json!({"name": name, "value": default.as_deref().unwrap_or("x")}),
        );
        assert_eq!(refused(&run(all.collect()), None), [] as [&str; 0]);
        let of_secrets = defaults.keys().filter(|param| {
            (param.ends_with("-secret") || param.ends_with("-key"))
                && !free.contains(&param.as_str())
        });
        for param in of_secrets {
            held += 1;
            for value in ["password", "email", "orka-creds", "orka-ssh-creds"] {
                let is_default = defaults[param].as_deref() == Some(value);
                let said = refused(&run(json!([{ "name": param, "value": value }])), None);
                assert_eq!(
                    said.is_empty(),
                    is_default,
                    "{name}: {param}={value}: {said:?}"
                );
            }
        }
    }
    // Four each, and three of the two that log into a VM.
    assert_eq!(held, 4 * 4 + 2 * 3);
    let offered = json!([{ "name": "ssh-secret", "value": "orka-creds" },
        { "name": "ssh-username-key", "value": "email" }]);
    let run = json!({ "spec": { "taskRef": { "name": "orka-full" }, "params": offered } });
    assert!(refused(&run, None)[0].contains("keep their defaults"));
}

/// Tekton itself updates TaskRuns that were there before the policy, and cancels them by their spec.
#[test]
fn the_admission_policy_looks_at_updates_that_change_what_a_run_does() {
    let before = json!({ "metadata": { "labels": {} }, "spec": { "taskRef": { "name": "mine" },
        "params": [{ "name": "a", "value": "b" }], "timeout": "1h" } });
    let changed = |path: &str, member: &str, value: Value| {
        let mut after = before.clone();
        let members = after.pointer_mut(path).and_then(Value::as_object_mut);
        members.unwrap().insert(member.to_owned(), value);
        refused(&after, Some(&before))
    };
    for (path, member, value) in [
        ("/metadata/labels", "a", json!("b")),
        ("/metadata", "finalizers", json!(["chains.tekton.dev"])),
        ("/spec", "status", json!("TaskRunCancelled")),
        (
            "/spec",
            "statusMessage",
            json!("TaskRun cancelled as the PipelineRun it belongs to has been cancelled."),
        ),
        ("/spec", "timeout", json!("2h")),
    ] {
        assert_eq!(changed(path, member, value), [] as [&str; 0], "{member}");
    }
    for (member, value) in [
        ("taskRef", json!({ "name": "theirs" })),
        ("taskSpec", json!({ "steps": [] })),
        ("params", json!([])),
        ("workspaces", json!([{ "name": "orka", "emptyDir": {} }])),
        ("podTemplate", json!({})),
    ] {
        assert!(!changed("/spec", member, value).is_empty(), "{member}");
    }
}

/// Plain Tasks of the same names would run builds that ask no guard.
#[test]
fn the_admission_policy_lets_tasks_of_these_names_be_guarded_ones_only() {
    let patch = &read("tekton/overlays/guards/tasks/patch-policy.yaml")[0];
    for name in ["orka-full", "orka-init", "orka-deploy"] {
        let plain = Definition::task(name);
        let guarded = plain.clone().patched(patch).document().clone();
        let plain = plain.document();
        assert_eq!(refused_by(OF_TASKS, &guarded, None), [] as [&str; 0]);
        assert_eq!(refused_by(OF_TASKS, &guarded, Some(plain)), [] as [&str; 0]);
        for before in [None, Some(&guarded)] {
            let said = refused_by(OF_TASKS, plain, before).join("\n");
            for part in [
                "`--guards=/etc/orka-step/policy`",
                "`orka-policy`",
                "the volume `policy`",
            ] {
                assert!(said.contains(part), "{name}: {said}");
            }
        }
        let arguments = guarded.pointer("/spec/steps/0/args").unwrap();
        let last = arguments.as_array().unwrap().len() - 1;
        let mounts = guarded.pointer("/spec/steps/0/volumeMounts").unwrap();
        let volumes = guarded
            .pointer("/spec/volumes")
            .unwrap()
            .as_array()
            .unwrap();
        let volume = format!("/spec/volumes/{}", volumes.len() - 1);
        let more = |list: &Value, item: Value| {
            let items = list.as_array().unwrap().iter().cloned().chain([item]);
            Value::Array(items.collect())
        };
        for (path, value, said) in [
            ("/spec/steps", json!([]), "has one step"),
            (
                "/spec/steps",
                json!([{ "args": arguments }, { "image": "mine" }]),
                "has one step",
            ),
            (
                &format!("/spec/steps/0/args/{last}"),
                json!("--grants=/workspace/orka"),
                "has the arguments",
            ),
            (
                &format!("/spec/steps/0/args/{}", last - 1),
                json!("--guard-failure=allow"),
                "has the arguments",
            ),
            (
                "/spec/steps/0/args",
                more(arguments, json!("--guard-failure=allow")),
                "no other arguments",
            ),
            (
                "/spec/steps/0/args",
                more(arguments, json!("--guards=/workspace/orka")),
                "no other arguments",
            ),
            (
                &format!("{volume}/configMap/name"),
                json!("mine"),
                "is the ConfigMap `orka-policy`",
            ),
            (
                &volume,
                json!({ "name": "policy", "emptyDir": {} }),
                "is the ConfigMap `orka-policy`",
            ),
            (
                "/spec/steps/0/volumeMounts",
                more(
                    mounts,
                    json!({ "name": "mine", "mountPath": "/etc/orka-step/policy/guards" }),
                ),
                "and no other",
            ),
        ] {
            let mut changed = guarded.clone();
            *changed.pointer_mut(path).unwrap() = value;
            let messages = refused_by(OF_TASKS, &changed, Some(&guarded)).join("\n");
            assert!(messages.contains(said), "{name}: {path}: {messages}");
        }
    }
    for other in [
        Definition::task("orka-teardown").document(),
        &json!({ "metadata": { "name": "fetch" } }),
    ] {
        assert_eq!(refused_by(OF_TASKS, other, None), [] as [&str; 0]);
    }
}
