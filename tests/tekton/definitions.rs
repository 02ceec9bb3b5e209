//! What the files themselves have to be: valid, safe, and in line with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use end_to_end::{Definition, Schemas, Step, documents, refusals, repository};
use plugin_manifest::HOST_RESULTS;
use serde_json::Value;

/// Where the image has the program.
const PROGRAM: &str = "/usr/local/bin/orka-step";

const TASKS: [&str; 4] = ["orka-full", "orka-init", "orka-deploy", "orka-teardown"];

/// Every manifest below `tekton/`: files of kustomize and of the image are no manifests.
fn manifests() -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    let mut directories = vec![repository().join("tekton")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let of_file = documents(&text);
                assert!(!of_file.is_empty(), "`{}` is empty", path.display());
                found.extend(of_file.into_iter().map(|it| (path.clone(), it)));
            }
        }
    }
    found.retain(|(_, document)| {
        let api = document["apiVersion"].as_str().unwrap_or_default();
        document.get("kind").is_some() && !api.starts_with("kustomize.config.k8s.io/")
    });
    assert!(found.len() > 20, "{}", found.len());
    found
}

/// The only document of this kind in a file of the repository.
pub(super) fn manifest(path: &str, kind: &str) -> Value {
    let text = std::fs::read_to_string(repository().join(path)).unwrap();
    let mut found: Vec<Value> = documents(&text)
        .into_iter()
        .filter(|document| document["kind"] == kind)
        .collect();
    assert_eq!(found.len(), 1, "{path}");
    found.remove(0)
}

/// Files below `tekton/` with a whole document of this kind, by their paths in the repository.
pub(super) fn manifests_of(kind: &str) -> Vec<String> {
    let found = manifests().into_iter();
    let of_kind = found.filter(|(path, document)| document["kind"] == kind && !is_patch(path));
    of_kind
        .map(|(path, _)| {
            let own = path.strip_prefix(repository()).unwrap();
            own.to_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn every_manifest_is_as_kubernetes_and_tekton_describe_it_and_tekton_takes_it() {
    let schemas = Schemas::read();
    let mut wrong = Vec::new();
    for (path, document) in manifests() {
        // A patch is part of a manifest.
        if is_patch(&path) {
            continue;
        }
        let problems = schemas.problems(&document).into_iter();
        let problems = problems.chain(refusals(&document));
        wrong.extend(problems.map(|it| format!("{}: {it}", path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_patch(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("patch-"))
}

fn steps(document: &Value) -> Vec<&Value> {
    match document["spec"]["steps"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![&document["spec"]],
    }
}

fn own() -> Vec<Definition> {
    let tasks = TASKS.map(Definition::task);
    tasks
        .into_iter()
        .chain([Definition::step_action("orka-step")])
        .collect()
}

/// The *restricted* Pod Security standard, and a read-only root.
#[test]
fn every_container_is_restricted() {
    let mut seen = 0;
    for definition in own() {
        for step in steps(definition.document()) {
            assert_restricted(&step["securityContext"]);
            seen += 1;
        }
    }
    for (_, document) in manifests().into_iter().filter(|(path, _)| !is_patch(path)) {
        let pod = &document["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            assert_restricted(&container["securityContext"]);
            assert!(container["resources"]["requests"]["memory"].is_string());
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}

fn assert_restricted(context: &Value) {
    assert_complies(context);
    assert_eq!(context["readOnlyRootFilesystem"], true, "{context}");
    // OpenShift gives each namespace users of its own.
    assert!(context.get("runAsUser").is_none(), "{context}");
}

/// With the *restricted* Pod Security standard, which looks at each container.
fn assert_complies(context: &Value) {
    assert_eq!(context["allowPrivilegeEscalation"], false, "{context}");
    assert_eq!(
        context["capabilities"]["drop"],
        serde_json::json!(["ALL"]),
        "{context}"
    );
    assert_eq!(context["runAsNonRoot"], true, "{context}");
    assert_eq!(
        context["seccompProfile"]["type"], "RuntimeDefault",
        "{context}"
    );
    assert!(context.get("privileged").is_none() && context["capabilities"].get("add").is_none());
}

/// A namespace as `tekton/overlays/namespace` makes it refuses pods with a step that does not comply. The images of others
/// have root or a user with a name, of which Kubernetes cannot tell that it is not root.
#[test]
fn every_step_of_the_samples_complies_too() {
    let mut seen = 0;
    for (path, document) in manifests() {
        if !path.iter().any(|part| part == "samples") {
            continue;
        }
        each_object(&document, &mut |object| {
            for step in object["steps"].as_array().into_iter().flatten() {
                if step.get("ref").is_none() {
                    let context = &step["securityContext"];
                    assert!(context.is_object(), "{}: {step}", path.display());
                    assert_complies(context);
                    let user = context["runAsUser"].as_u64();
                    assert!(user.is_some_and(|user| user > 0), "{}", path.display());
                    seen += 1;
                }
            }
        });
    }
    assert!(seen >= 4, "{seen}");
}

/// Beside a name of their own, samples that make other things say how to run them again.
#[test]
fn the_samples_that_can_be_created_once_say_so() {
    let mut kinds: BTreeMap<PathBuf, [bool; 2]> = BTreeMap::new();
    for (path, document) in manifests() {
        let is_generated = document["metadata"].get("generateName").is_some();
        kinds.entry(path).or_default()[usize::from(is_generated)] = true;
    }
    let both = kinds.into_iter().filter(|(_, kinds)| *kinds == [true; 2]);
    let mut seen = 0;
    for (path, _) in both {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("To run it again"), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn no_parameter_of_a_task_reaches_a_shell_an_argument_or_the_environment() {
    for task in TASKS.map(Definition::task) {
        let document = task.document();
        for step in steps(document) {
            assert!(step.get("command").is_none() && step.get("timeout").is_none());
            let script = step["script"].as_str().unwrap();
            assert!(
                script.starts_with(&format!("#!{PROGRAM} task\n## ")),
                "{script}"
            );
            for member in ["args", "env", "envFrom", "image", "workingDir"] {
                let text = step[member].to_string();
                assert!(!text.contains("$(params"), "{member}: {text}");
            }
        }
        assert!(document["spec"].get("stepTemplate").is_none());
        assert!(document["spec"].get("sidecars").is_none());
    }
}

/// The sections of a Task's file: what follows each mark, and the value.
fn sections(task: &Definition) -> BTreeMap<String, String> {
    let script = steps(task.document())[0]["script"]
        .as_str()
        .unwrap()
        .to_owned();
    let mark = "## $(context.taskRun.uid) ";
    let separator = format!("\n{mark}");
    let mut parts = script.split(separator.as_str()).skip(1);
    let number: usize = parts
        .next()
        .unwrap()
        .strip_prefix("sections ")
        .unwrap()
        .parse()
        .unwrap();
    let sections: BTreeMap<String, String> = parts
        .map(|part| part.split_once('\n').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(sections.len(), number);
    sections
}

#[test]
fn every_parameter_is_used_and_every_value_is_a_parameter_or_a_workspace() {
    for task in TASKS.map(Definition::task) {
        let document = task.document();
        let volumes = document["spec"]["volumes"].to_string();
        let sections = sections(&task);
        for name in task.defaults().keys() {
            let reference = format!("$(params.{name})");
            let of_sections = sections
                .values()
                .filter(|value| **value == reference)
                .count();
            let of_volumes = volumes.matches(&reference).count();
            // The name that ties Tasks together is also that of the older ConfigMap: the plugin's and the program's.
            let is_shared = document["metadata"]["name"] == "orka-init"
                && name.starts_with("orka-vm-name-config");
            assert_eq!(
                of_sections + of_volumes,
                if is_shared { 2 } else { 1 },
                "`{name}` of {}",
                document["metadata"]["name"]
            );
        }
        for (section, value) in &sections {
            let is_reference = value.starts_with("$(params.") || value.starts_with("$(workspaces.");
            assert!(is_reference && value.ends_with(')'), "{section}: {value}");
            assert_eq!(value.matches("$(").count(), 1, "{section}: {value}");
        }
    }
}

async fn help(command: &[&str]) -> String {
    let ended = Step::new(command).argument("--help").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.stdout
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && !"-_".contains(letter))
        .collect()
}

#[tokio::test]
async fn every_flag_and_variable_is_one_of_the_program() {
    let run = help(&["task"]).await;
    let reap = help(&["reap"]).await;
    let (run_words, reap_words) = (words(&run), words(&reap));
    let mut seen = 0;
    for definition in own() {
        let step = steps(definition.document())[0].clone();
        for argument in step["args"].as_array().unwrap() {
            let flag = argument.as_str().unwrap().split('=').next().unwrap();
            assert!(run_words.contains(flag), "{flag}");
            seen += 1;
        }
        for variable in step["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let is_parameter = name.starts_with("ORKA_PARAM_");
            assert!(is_parameter || run_words.contains(name), "{name}");
            seen += 1;
        }
    }
    for task in TASKS.map(Definition::task) {
        for section in sections(&task).keys() {
            if let Some(name) = section.strip_prefix("set ") {
                assert!(
                    run_words.contains(format!("--{name}").as_str()),
                    "{section}"
                );
                seen += 1;
            }
        }
    }
    for (path, document) in manifests() {
        // The ConfigMap that every step takes its environment from.
        if document["kind"] == "ConfigMap" && document["metadata"]["name"] == "orka-tekton-config" {
            for name in document["data"].as_object().unwrap().keys() {
                assert!(
                    run_words.contains(name.as_str()),
                    "{}: {name}",
                    path.display()
                );
            }
        }
        let pod = &document["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            // A patch may be about something else.
            for argument in container["args"].as_array().into_iter().flatten() {
                let argument = argument.as_str().unwrap();
                let flag = argument.split('=').next().unwrap();
                assert!(
                    !flag.starts_with("--") || reap_words.contains(flag),
                    "{argument}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Results that the documentation of the program names, and those of the plugins.
#[test]
fn every_result_is_one_that_the_program_writes() {
    for definition in own() {
        let document = definition.document();
        for result in document["spec"]["results"].as_array().unwrap() {
            let name = result["name"].as_str().unwrap();
            let is_of_plugin = name == "vm-config" && document["metadata"]["name"] == "orka-init";
            assert!(is_of_plugin || HOST_RESULTS.contains(&name), "{name}");
        }
    }
    // Tekton takes up declared results alone, and the reaper reads some of them.
    let full = Definition::task("orka-full");
    let declared = full.document()["spec"]["results"].as_array().unwrap();
    let declared: BTreeSet<&str> = declared
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    for name in HOST_RESULTS {
        assert!(declared.contains(name), "{name}");
    }
}

#[test]
fn every_step_runs_the_image_of_this_version() {
    for definition in own() {
        for step in steps(definition.document()) {
            let (_, tag) = step["image"].as_str().unwrap().rsplit_once(':').unwrap();
            assert_eq!(tag, env!("CARGO_PKG_VERSION"));
        }
    }
}

/// Every reference of a sample to one of our Tasks fits that Task.
#[test]
fn the_samples_use_parameters_and_workspaces_that_there_are() {
    let known: BTreeMap<&str, Definition> = TASKS
        .iter()
        .map(|name| (*name, Definition::task(name)))
        .collect();
    let mut seen = BTreeSet::new();
    for (path, document) in manifests() {
        each_reference(&document, &mut |name, user| {
            let Some(task) = known.get(name) else { return };
            seen.insert((path.clone(), name.to_owned()));
            let listed = |value: &Value| -> BTreeSet<String> {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items
                    .iter()
                    .map(|it| it["name"].as_str().unwrap().to_owned())
                    .collect()
            };
            let mut given = listed(&user["params"]);
            given.extend(listed(&user["matrix"]["params"]));
            let defaults = task.defaults();
            for param in &given {
                assert!(
                    defaults.contains_key(param),
                    "{}: `{param}` of `{name}`",
                    path.display()
                );
            }
            for (param, default) in &defaults {
                assert!(
                    default.is_some() || given.contains(param),
                    "{}: no `{param}`",
                    path.display()
                );
            }
            let bound = listed(&user["workspaces"]);
            for workspace in task.document()["spec"]["workspaces"].as_array().unwrap() {
                let name = workspace["name"].as_str().unwrap();
                let is_optional = workspace["optional"] == true;
                assert!(
                    is_optional || bound.contains(name),
                    "{}: no `{name}`",
                    path.display()
                );
            }
            let declared = listed(&task.document()["spec"]["workspaces"]);
            assert!(bound.is_subset(&declared), "{}: {bound:?}", path.display());
        });
    }
    assert!(seen.len() >= 15, "{seen:?}");
}

fn each_reference(value: &Value, found: &mut impl FnMut(&str, &Value)) {
    each_object(value, &mut |object| {
        if let Some(name) = object["taskRef"]["name"].as_str() {
            found(name, object);
        }
    });
}

pub(super) fn each_object(value: &Value, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_object(item, found)),
        Value::Object(members) => {
            found(value);
            members
                .values()
                .for_each(|member| each_object(member, found));
        }
        _ => {}
    }
}

/// Every file that a kustomization names is there, and every image it replaces is one of ours.
#[test]
fn the_kustomizations_hold_together() {
    let mut directories = vec![repository().join("tekton")];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path
                .file_name()
                .is_none_or(|name| name != "kustomization.yaml")
            {
                continue;
            }
            seen += 1;
            let document = documents(&std::fs::read_to_string(&path).unwrap()).remove(0);
            let listed = |member: &str| {
                let items = document[member]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                items.to_vec()
            };
            let patches = listed("patches").into_iter().map(|it| it["path"].clone());
            let named = listed("resources")
                .into_iter()
                .chain(listed("configurations"))
                .chain(listed("components"))
                .chain(patches);
            for name in named {
                let target = directory.join(name.as_str().unwrap());
                let is_there = target.is_file() || target.join("kustomization.yaml").is_file();
                assert!(is_there, "{}: {name}", path.display());
            }
            for image in listed("images") {
                // One place for all of them.
                assert!(directory.ends_with("tekton/image"), "{}", path.display());
                assert_eq!(image["name"], "orka-step", "{}", path.display());
                assert_eq!(
                    image["newTag"],
                    env!("CARGO_PKG_VERSION"),
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert_eq!(seen, 10);
}

/// The reaper of the cluster looks for one prefix; a namespace that sets another is never cleaned up.
#[test]
fn no_namespace_has_a_prefix_that_the_reaper_of_the_cluster_does_not_look_for() {
    let config = manifest("tekton/overlays/namespace/config.yaml", "ConfigMap");
    assert!(config["data"]["ORKA_API"].is_string(), "{config}");
    assert!(config["data"].get("ORKA_VM_PREFIX").is_none(), "{config}");
}
