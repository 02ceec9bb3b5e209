//! What `kubectl apply -k` applies: each kustomization, built by kustomize itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::{Definition, Schemas, documents, refusals, repository, target_directory};
use serde_json::{Value, json};

use super::definitions::each_object;

/// Each folder that can be given to `kubectl apply -k`, and the namespace that it is for.
const FOLDERS: [(&str, Option<&str>); 8] = [
    ("", None),
    ("task", None),
    ("stepaction", None),
    ("reaper", Some("orka-reap")),
    ("overlays/guards", Some("ios-builds")),
    ("overlays/hand-over", Some("ios-builds")),
    ("overlays/namespace", Some("ios-builds")),
    ("overlays/reaper-namespaced", Some("ios-builds")),
];

/// Kinds that belong to no namespace.
const OF_THE_CLUSTER: [&str; 5] = [
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn built(folder: &Path) -> Vec<Value> {
    let kubectl = target_directory().join("tools/kubectl/kubectl");
    let built = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .unwrap();
    // It warns of what is deprecated.
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success() && said.is_empty(),
        "{}: {said}",
        folder.display()
    );
    documents(&String::from_utf8(built.stdout).unwrap())
}

fn own(folder: &str) -> Vec<Value> {
    built(&repository().join("tekton").join(folder))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|it| it["kind"] == kind).collect()
}

#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn each_kustomization_builds_to_what_a_cluster_takes() {
    let schemas = Schemas::read();
    for (folder, namespace) in FOLDERS {
        let documents = own(folder);
        assert!(!documents.is_empty(), "{folder}");
        for document in &documents {
            let mut wrong = schemas.problems(document);
            wrong.extend(refusals(document));
            assert!(wrong.is_empty(), "{folder}: {wrong:#?}");
            let kind = document["kind"].as_str().unwrap();
            let own = document["metadata"]["namespace"].as_str();
            match namespace {
                Some(_) if OF_THE_CLUSTER.contains(&kind) => {
                    assert_eq!(own, None, "{folder}: {kind}")
                }
                _ => assert_eq!(own, namespace, "{folder}: {kind}"),
            }
            for subject in document["subjects"].as_array().into_iter().flatten() {
                assert_eq!(
                    subject["namespace"].as_str(),
                    namespace,
                    "{folder}: {subject}"
                );
            }
        }
        for own in of_kind(&documents, "Namespace") {
            assert_eq!(own["metadata"]["name"].as_str(), namespace, "{folder}");
        }
    }
}

/// A copy of everything below `tekton/`, for somebody who installs it to change.
fn copied() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        std::fs::create_dir_all(copy.path().join(&directory)).unwrap();
        for entry in std::fs::read_dir(repository().join("tekton").join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let own = directory.join(entry.file_name());
            if entry.path().is_dir() {
                directories.push(own);
                continue;
            }
            std::fs::copy(entry.path(), copy.path().join(own)).unwrap();
        }
    }
    copy
}

/// Replaces what stands in a file once.
#[track_caller]
fn changed(copy: &Path, file: &str, from: &str, to: &str) {
    let path = copy.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{file}: {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn an_image_of_another_name_and_digest_in_one_file_reaches_every_container() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let copy = copied();
    let file = "image/kustomization.yaml";
    let name = "registry.example.com/team/orka-step";
    changed(
        copy.path(),
        file,
        "newName: orka-step",
        &format!("newName: {name}"),
    );
    let tag = format!("newTag: {}", env!("CARGO_PKG_VERSION"));
    changed(copy.path(), file, &tag, &format!("digest: {digest}"));
    let expected = format!("{name}@{digest}");
    let mut seen = 0;
    for folder in [
        "",
        "reaper",
        "overlays/guards",
        "overlays/namespace",
        "overlays/reaper-namespaced",
    ] {
        for document in built(&copy.path().join(folder)) {
            each_object(&document, &mut |object| {
                if let Some(image) = object.get("image") {
                    assert_eq!(*image, expected, "{folder}");
                    seen += 1;
                }
            });
        }
    }
    // Four Tasks and the StepAction three times, two reapers.
    assert_eq!(seen, 17);
}

/// A name that is changed in one place and not in another would leave a reaper without rights, or Tasks without a policy.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn a_copy_of_an_overlay_names_its_namespace_in_one_place() {
    let copy = copied();
    for (folder, file) in [
        (
            "overlays/namespace",
            "overlays/namespace/kustomization.yaml",
        ),
        (
            "overlays/hand-over",
            "overlays/hand-over/kustomization.yaml",
        ),
        (
            "overlays/reaper-namespaced",
            "overlays/reaper-namespaced/kustomization.yaml",
        ),
        (
            "overlays/guards",
            "overlays/guards/tasks/kustomization.yaml",
        ),
    ] {
        changed(
            copy.path(),
            file,
            "namespace: ios-builds\n",
            "namespace: android\n",
        );
        let built = built(&copy.path().join(folder));
        let text = serde_json::to_string(&built).unwrap();
        assert!(text.contains("android"), "{folder}");
        assert!(!text.contains("ios-builds"), "{folder}: {text}");
        for binding in of_kind(&built, "ValidatingAdmissionPolicyBinding") {
            let selected = &binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"];
            assert_eq!(selected["kubernetes.io/metadata.name"], "android");
        }
    }
}

/// Objects of the cluster by one name would be those of whichever namespace was applied last.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn the_admission_policies_of_two_namespaces_leave_each_other_alone() {
    let named = |documents: &[Value]| -> BTreeSet<String> {
        let documents = documents.iter();
        documents
            .filter(|it| OF_THE_CLUSTER.contains(&it["kind"].as_str().unwrap()))
            .map(|it| format!("{} {}", it["kind"], it["metadata"]["name"]))
            .collect()
    };
    let copy = copied();
    changed(
        copy.path(),
        "overlays/guards/tasks/kustomization.yaml",
        "namespace: ios-builds\n",
        "namespace: android\n",
    );
    let of_another = built(&copy.path().join("overlays/guards"));
    let own = own("overlays/guards");
    assert_eq!(named(&own).len(), 4, "{own:#?}");
    assert_eq!(named(&of_another).len(), 4, "{of_another:#?}");
    assert!(named(&own).is_disjoint(&named(&of_another)));
    assert_bound(&of_another);
}

/// A namespace that no binding selects, or a binding to a policy that is not there, would be held to nothing.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn the_admission_policies_are_bound_to_the_namespace_of_the_tasks() {
    assert_bound(&own("overlays/guards"));
}

#[track_caller]
fn assert_bound(documents: &[Value]) {
    let tasks = of_kind(documents, "Task");
    let namespace = &tasks[0]["metadata"]["namespace"];
    let bindings = of_kind(documents, "ValidatingAdmissionPolicyBinding");
    let mut bound = BTreeSet::new();
    for binding in bindings {
        let spec = &binding["spec"];
        let selected = &spec["matchResources"]["namespaceSelector"]["matchLabels"];
        assert_eq!(selected["kubernetes.io/metadata.name"], *namespace);
        assert_eq!(spec["validationActions"], json!(["Deny"]));
        bound.insert(spec["policyName"].as_str().unwrap());
    }
    let policies = of_kind(documents, "ValidatingAdmissionPolicy");
    assert_eq!(policies.len(), 2);
    for policy in &policies {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    }
    let policies = policies.iter().map(|it| &it["metadata"]["name"]);
    assert_eq!(
        policies
            .map(|it| it.as_str().unwrap())
            .collect::<BTreeSet<_>>(),
        bound
    );
}

/// While they hold, Tasks can be deleted, and the older ones not be made.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn the_way_back_takes_every_binding_away_before_the_tasks() {
    let page = std::fs::read_to_string(repository().join("tekton/MIGRATION.md")).unwrap();
    let (before, _) = page.split_once("\nkubectl replace --force").unwrap();
    let last = before.lines().last().unwrap();
    let named = last.strip_prefix("kubectl delete validatingadmissionpolicybinding ");
    let named: BTreeSet<&str> = named.unwrap().split(' ').collect();
    let documents = own("overlays/guards");
    let bindings = of_kind(&documents, "ValidatingAdmissionPolicyBinding");
    assert_eq!(bindings.len(), 2);
    for binding in bindings {
        assert!(
            named.contains(binding["metadata"]["name"].as_str().unwrap()),
            "{last}"
        );
    }
}

/// What holds for a namespace, with its endpoint, is `overlays/namespace`'s alone: applied later, another would undo it.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn one_overlay_has_the_namespace_and_its_settings() {
    let settings = |folder: &str| -> Vec<String> {
        let documents = own(folder);
        let of_namespace = |it: &&Value| {
            it["kind"] == "Namespace" || it["metadata"]["name"] == "orka-tekton-config"
        };
        let found = documents.iter().filter(of_namespace);
        found
            .map(|it| it["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(settings("overlays/namespace"), ["Namespace", "ConfigMap"]);
    for folder in [
        "overlays/guards",
        "overlays/hand-over",
        "overlays/reaper-namespaced",
    ] {
        assert_eq!(settings(folder), [] as [&str; 0], "{folder}");
    }
}

/// What `guarded` runs is what kustomize makes of the Task.
#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn the_overlay_of_guards_changes_three_tasks_as_the_tests_do() {
    let documents = own("overlays/guards");
    let patch = repository().join("tekton/overlays/guards/tasks/patch-policy.yaml");
    let patch = end_to_end::documents(&std::fs::read_to_string(patch).unwrap());
    let tasks = of_kind(&documents, "Task");
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        let name = task["metadata"]["name"].as_str().unwrap();
        let plain = Definition::task(name);
        let expected = match name {
            "orka-teardown" => plain,
            _ => plain.patched(&patch[0]),
        };
        assert_eq!(task["spec"], expected.document()["spec"], "{name}");
    }
}

#[test]
#[ignore = "takes kubectl: `cargo xtask setup`"]
fn the_reaper_of_one_namespace_has_nothing_of_the_cluster() {
    let documents = own("overlays/reaper-namespaced");
    for kind in OF_THE_CLUSTER {
        assert!(of_kind(&documents, kind).is_empty(), "{kind}");
    }
    let [job] = of_kind(&documents, "CronJob")[..] else {
        panic!("{documents:#?}");
    };
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let account = &of_kind(&documents, "ServiceAccount")[0]["metadata"]["name"];
    assert_eq!(pod["serviceAccountName"], *account);
    let container = &pod["containers"][0];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    // The patch adds to what the base has.
    let plain = own("reaper");
    let plain = &of_kind(&plain, "CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        [0];
    assert_eq!(container["args"], plain["args"]);
    let variables = container["env"].as_array().unwrap();
    let own = variables
        .iter()
        .find(|it| it["name"] == "ORKA_POD_NAMESPACES");
    assert_eq!(
        own.unwrap()["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.namespace"
    );
    // What tells its builds' VMs from those of other namespaces, to Tasks and reaper.
    let of_builds = self::own("overlays/namespace");
    let [config] = of_kind(&of_builds, "ConfigMap")[..] else {
        panic!("{of_builds:#?}");
    };
    assert_eq!(
        config["metadata"]["namespace"],
        job["metadata"]["namespace"]
    );
    let read_by = |container: &Value| container["envFrom"][0]["configMapRef"]["name"].clone();
    assert_eq!(read_by(container), config["metadata"]["name"]);
    for task in of_kind(&of_builds, "Task") {
        assert_eq!(
            read_by(&task["spec"]["steps"][0]),
            config["metadata"]["name"]
        );
    }
}
