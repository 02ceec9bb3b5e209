//! What the catalog and its linter ask of a Task: `tektoncd/catlin`, `pkg/validator`, and the catalog's own layout.

use std::collections::BTreeSet;
use std::path::PathBuf;

use end_to_end::{Applied, Cluster, Definition, Namespace, documents, repository};
use serde_json::Value;

use super::assert_outcome;

const TASKS: [&str; 4] = ["orka-full", "orka-init", "orka-deploy", "orka-teardown"];

/// `categories` of `config.yaml` in `tektoncd/hub`.
const CATEGORIES: [&str; 20] = [
    "Automation",
    "Build Tools",
    "CLI",
    "Cloud",
    "Code Quality",
    "Continuous Integration",
    "Deployment",
    "Developer Tools",
    "Image Build",
    "Integration & Delivery",
    "Git",
    "Kubernetes",
    "Messaging",
    "Monitoring",
    "Networking",
    "Openshift",
    "Publishing",
    "Security",
    "Storage",
    "Testing",
];

/// Everything that lies in the catalog's layout: the kind's folder, the name, and the document.
fn entries() -> Vec<(&'static str, &'static str, Definition)> {
    let tasks = TASKS.map(|name| ("task", name, Definition::task(name)));
    let action = Definition::step_action("orka-step");
    let all = tasks
        .into_iter()
        .chain([("stepaction", "orka-step", action)]);
    all.collect()
}

fn directory(kind: &str, name: &str, definition: &Definition) -> PathBuf {
    let version = &definition.document()["metadata"]["labels"]["app.kubernetes.io/version"];
    let version = version.as_str().unwrap();
    repository()
        .join("tekton")
        .join(kind)
        .join(name)
        .join(version)
}

/// The path has the kind, the name and the version that the document has; beside it lies what a reader needs.
#[test]
fn everything_lies_where_the_catalog_looks_for_it() {
    for (kind, name, definition) in entries() {
        let document = definition.document();
        assert_eq!(document["kind"].as_str().unwrap().to_lowercase(), kind);
        assert_eq!(document["metadata"]["name"], name);
        let directory = directory(kind, name, &definition);
        let text = std::fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
        assert!(documents(&text).iter().eq([document]), "{name}");
        let readme = std::fs::read_to_string(directory.join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# `{name}`")), "{name}");
        let samples = std::fs::read_dir(directory.join("samples")).unwrap();
        let samples: Vec<String> = samples
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(!samples.is_empty(), "{name} has no sample");
        for sample in samples {
            let link = format!("(samples/{sample})");
            assert!(readme.contains(&link), "{name}: {sample}");
        }
        // The catalog has rules for Tasks alone.
        if kind == "task" {
            let owners = std::fs::read_to_string(directory.join("../OWNERS")).unwrap();
            let owners = documents(&owners).remove(0);
            assert!(!owners["approvers"].as_array().unwrap().is_empty());
            assert!(directory.join("tests/run.yaml").is_file());
            // A hook would be a shell script: our Tasks need nothing before they are applied.
            assert!(!directory.join("tests/pre-apply-task-hook.sh").exists());
        }
    }
}

#[test]
fn labels_annotations_and_description_are_what_the_linter_asks_for() {
    for (_, name, definition) in entries() {
        let metadata = &definition.document()["metadata"];
        let text = |annotation: &str| {
            let text = metadata["annotations"][annotation].as_str();
            text.unwrap_or_else(|| panic!("{name} has no {annotation}"))
        };
        assert!(is_version(text("tekton.dev/pipelines.minVersion"), 3));
        let label = metadata["labels"]["app.kubernetes.io/version"].as_str();
        assert!(is_version(label.unwrap(), 2));
        let categories = text("tekton.dev/categories").split(',').map(str::trim);
        for category in categories {
            assert!(CATEGORIES.contains(&category), "{name}: {category}");
        }
        for platform in text("tekton.dev/platforms").split(',') {
            let (system, architecture) = platform.split_once('/').unwrap();
            let is_word = |word: &str| {
                let is_letter =
                    |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
                !word.is_empty() && word.chars().all(is_letter)
            };
            assert!(is_word(system) && is_word(architecture), "{platform}");
        }
        assert!(
            text("tekton.dev/tags")
                .split(',')
                .all(|tag| !tag.trim().is_empty())
        );
        assert!(text("tekton.dev/displayName").starts_with("MacStadium Orka"));
        // Artifact Hub: "Tekton annotations".
        assert_eq!(text("artifacthub.io/category"), "integration-delivery");
        assert_eq!(text("artifacthub.io/license"), "Apache-2.0");
        let description = definition.document()["spec"]["description"]
            .as_str()
            .unwrap();
        let (summary, rest) = description.split_once('\n').unwrap();
        assert!((1..=100).contains(&summary.len()), "{name}: {summary}");
        assert!(
            !rest.trim().is_empty(),
            "{name} says nothing but its summary"
        );
    }
}

fn is_version(text: &str, parts: usize) -> bool {
    let numbers = text.split('.').filter(|part| part.parse::<u32>().is_ok());
    text.split('.').count() == parts && numbers.count() == parts
}

/// What the linter calls an error has no exception. Of what it warns of there are three, each for its reason: the image's name is
/// the kustomization's to choose, a parameter stands in a script that no shell ever reads, and so the interpreter is our program.
#[test]
fn steps_are_what_the_linter_asks_for_with_three_exceptions() {
    let mut warnings = BTreeSet::new();
    for (_, name, definition) in entries() {
        let spec = &definition.document()["spec"];
        let steps = spec["steps"]
            .as_array()
            .map_or_else(|| vec![spec], |steps| steps.iter().collect());
        for step in steps {
            let image = step["image"].as_str().unwrap();
            assert!(
                !image.contains("$(") && !image.contains('@'),
                "{name}: {image}"
            );
            let (repository, tag) = image.rsplit_once(':').unwrap();
            assert!(tag != "latest" && !tag.contains('/'), "{name}: {image}");
            if !repository.contains('/') {
                warnings.insert("image without a registry");
            }
            let from_secret = |it: &&Value| {
                it["valueFrom"].get("secretKeyRef").is_some() || it.get("secretRef").is_some()
            };
            let variables = ["env", "envFrom"].map(|member| step[member].as_array());
            assert!(
                !variables
                    .into_iter()
                    .flatten()
                    .flatten()
                    .any(|it| from_secret(&it)),
                "{name}"
            );
            let script = step["script"].as_str().unwrap_or_default();
            if script.contains("$(params.") {
                warnings.insert("parameter in a script");
            }
            if !script.is_empty() && !script.starts_with("#!/usr/bin/env") {
                warnings.insert("interpreter by its path");
            }
        }
    }
    let expected = [
        "image without a registry",
        "interpreter by its path",
        "parameter in a script",
    ];
    assert_eq!(warnings, expected.into());
}

/// The catalog's tests run in an empty namespace without Orka.
#[tokio::test(flavor = "multi_thread")]
async fn the_catalogs_test_of_each_task_succeeds_in_an_empty_namespace() {
    for name in TASKS {
        let path = format!("tekton/task/{name}/0.3/tests/run.yaml");
        let ran = Applied::read(&path, Namespace::default()).run().await;
        assert_eq!(ran.len(), 1, "{name}");
        assert_outcome(&ran[0].ended, 211, "infra-failed");
    }
}

/// With credentials that are right the same run fails, by a task that is there for nothing else.
#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "`expected-infra-failed` is not ours and has no stand-in")]
async fn the_catalogs_test_notices_another_result() {
    let cluster = Cluster::start().await;
    let path = "tekton/task/orka-teardown/0.3/tests/run.yaml";
    Applied::read(path, Namespace::of(&cluster)).run().await;
}
