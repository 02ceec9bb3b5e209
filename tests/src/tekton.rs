//! What Tekton and the kubelet make of a Task, without either: the values it ends up with, and its step as a process.
//!
//! Replaced as Tekton does it: parameters, then `context`, then results, then workspaces, each in one pass that does not look
//! at what it put in (`pkg/reconciler/taskrun/resources/apply.go`). Then as the kubelet does it: `$(NAME)` and `$$` in the
//! values of `env` and in `args`. The `script` is written to a file as it is then, and started with `args` behind it.
//!
//! What differs: paths of the container (`/etc/orka-step`, `/workspace`, `/tekton/results`, the program) are directories of the
//! test, put into the Task's own text before anything is replaced, so that no value of a parameter is touched by it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::built::program;
use crate::step::{PATH, PATIENCE};
use crate::{Cluster, Running, uid};

/// Where the image has the program.
const PROGRAM: &str = "/usr/local/bin/orka-step";

/// Where the Tasks mount their volumes.
const MOUNTS: &str = "/etc/orka-step/";

/// The repository.
pub fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
        .parent()
        .unwrap()
        .to_owned()
}

/// The documents of a YAML text.
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.into_iter().filter(|it| !it.is_null()).collect()
}

/// A Task or StepAction of this repository.
#[derive(Clone, Debug)]
pub struct Definition(Value);

impl Definition {
    /// The newest version of a Task.
    pub fn task(name: &str) -> Self {
        Self::read(&format!("tekton/task/{name}"), name)
    }

    /// The newest version of a StepAction.
    pub fn step_action(name: &str) -> Self {
        Self::read(&format!("tekton/stepaction/{name}"), name)
    }

    fn read(directory: &str, name: &str) -> Self {
        let versions = std::fs::read_dir(repository().join(directory)).unwrap();
        // `OWNERS` lies beside them.
        let versions = versions.map(|entry| entry.unwrap().path());
        let newest = versions.filter(|path| path.is_dir()).max().unwrap();
        let yaml = std::fs::read_to_string(newest.join(format!("{name}.yaml"))).unwrap();
        Self(documents(&yaml).remove(0))
    }

    /// A Task that was printed.
    pub fn parse(yaml: &str) -> Self {
        Self(documents(yaml).remove(0))
    }

    /// The same after the `add` operations of a JSON patch, each to the end of a list.
    #[must_use]
    pub fn patched(mut self, patch: &Value) -> Self {
        for operation in patch.as_array().unwrap() {
            assert_eq!(operation["op"], "add");
            let path = operation["path"].as_str().unwrap();
            let list = self.0.pointer_mut(path.strip_suffix("/-").unwrap());
            let list = list.and_then(Value::as_array_mut).unwrap();
            list.push(operation["value"].clone());
        }
        self
    }

    /// The whole document.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// The defaults of its parameters; none where one is required.
    pub fn defaults(&self) -> BTreeMap<String, Option<String>> {
        let params = self.0["spec"]["params"].as_array().unwrap();
        params
            .iter()
            .map(|it| {
                let default = it.get("default").map(|it| it.as_str().unwrap().to_owned());
                (it["name"].as_str().unwrap().to_owned(), default)
            })
            .collect()
    }
}

/// What a namespace holds, apart from runs.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    config_maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Namespace {
    /// With the ConfigMap and the Secrets that the Tasks look for by default, for this cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let files = |directory: PathBuf| {
            let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
            entries
                .map(|entry| {
                    let text = std::fs::read_to_string(entry.path()).unwrap();
                    (entry.file_name().into_string().unwrap(), text)
                })
                .collect()
        };
        Self::default()
            .config_map("orka-tekton-config", &[("ORKA_API", &cluster.sim.url())])
            .secret_of("orka-creds", files(cluster.orka_credentials()))
            .secret_of("orka-ssh-creds", files(cluster.ssh_credentials()))
    }

    fn secret_of(mut self, name: &str, data: BTreeMap<String, String>) -> Self {
        self.secrets.insert(name.to_owned(), data);
        self
    }

    /// The same with this ConfigMap.
    #[must_use]
    pub fn config_map(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        let data = data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        self.config_maps.insert(name.to_owned(), data.collect());
        self
    }

    /// The same with another value in this ConfigMap.
    #[must_use]
    pub fn value(mut self, config_map: &str, key: &str, value: &str) -> Self {
        let data = self.config_maps.get_mut(config_map).unwrap();
        data.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same with this Secret.
    #[must_use]
    pub fn secret(self, name: &str, data: &[(&str, &str)]) -> Self {
        let data = data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        self.secret_of(name, data.collect())
    }

    /// What is in a ConfigMap or Secret.
    pub fn data(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.config_maps.get(name).or(self.secrets.get(name))
    }

    /// The same with a Secret under another name and with other keys.
    #[must_use]
    pub fn renamed(mut self, secret: &str, to: &str, keys: &[(&str, &str)]) -> Self {
        let mut data = self.secrets.remove(secret).unwrap();
        for (key, new) in keys {
            let text = data.remove(*key).unwrap();
            data.insert((*new).to_owned(), text);
        }
        self.secret_of(to, data)
    }

    /// The same without this Secret.
    #[must_use]
    pub fn without(mut self, secret: &str) -> Self {
        self.secrets.remove(secret).unwrap();
        self
    }

    /// A TaskRun in it, of a run of its own.
    pub fn run(&self, task: &Definition) -> Pod {
        Pod {
            namespace: self.clone(),
            task: task.clone(),
            params: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            pipeline_run: String::new(),
            task_run: uid(&format!("task run {}", rand_word())),
            annotation: String::new(),
            pod: uid(&format!("pod {}", rand_word())),
            env_from: Vec::new(),
            patience: PATIENCE,
            scratch: tempfile::tempdir().unwrap(),
        }
    }
}

fn rand_word() -> u128 {
    use std::hash::{BuildHasher as _, RandomState};
    u128::from(RandomState::new().hash_one(0))
}

/// The pod of a TaskRun.
pub struct Pod {
    namespace: Namespace,
    task: Definition,
    params: BTreeMap<String, String>,
    workspaces: BTreeMap<String, PathBuf>,
    pipeline_run: String,
    task_run: String,
    annotation: String,
    pod: String,
    env_from: Vec<String>,
    patience: Duration,
    scratch: TempDir,
}

impl Pod {
    /// Adds the `envFrom` of a step that refers to a StepAction.
    #[must_use]
    pub fn env_from(mut self, config_map: &str) -> Self {
        self.env_from.push(config_map.to_owned());
        self
    }

    /// Gives a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        assert!(
            self.task.defaults().contains_key(name),
            "the Task has no parameter `{name}`"
        );
        self.params.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Gives the TaskRun the annotation `orka-step/script`, which Tekton copies to the pod.
    #[must_use]
    pub fn annotated_script(mut self, script: &str) -> Self {
        script.clone_into(&mut self.annotation);
        self
    }

    /// Binds a workspace to a directory.
    #[must_use]
    pub fn workspace(mut self, name: &str, directory: &Path) -> Self {
        self.workspaces
            .insert(name.to_owned(), directory.to_owned());
        self
    }

    /// Binds a workspace to an empty directory, which `Ended::workspace` gives.
    #[must_use]
    pub fn empty_dir(self, name: &str) -> Self {
        let directory = self.scratch.path().join("workspace");
        std::fs::create_dir_all(&directory).unwrap();
        self.workspace(name, &directory)
    }

    /// Makes it a Task of this PipelineRun.
    #[must_use]
    pub fn in_pipeline_run(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.pipeline_run);
        self
    }

    /// The UID of its TaskRun.
    pub fn task_run_uid(&self) -> &str {
        &self.task_run
    }

    /// The UID of its pod.
    pub fn pod_uid(&self) -> &str {
        &self.pod
    }

    /// Starts its only step.
    pub fn start(self) -> Running {
        for directory in ["home", "results", "report", "mounts"] {
            std::fs::create_dir_all(self.scratch.path().join(directory)).unwrap();
        }
        let mounts = self.scratch.path().join("mounts");
        let mut spec = self.task.0["spec"].clone();
        let places = [
            (PROGRAM, program().to_str().unwrap().to_owned()),
            (MOUNTS, format!("{}/", mounts.display())),
        ];
        each_text(&mut spec, &mut |text| {
            places
                .iter()
                .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
        });
        for replacements in self.passes(&spec) {
            each_text(&mut spec, &mut |text| one_pass(text, &replacements));
        }
        self.mount(&spec);
        let step = match &spec["steps"] {
            Value::Array(steps) => {
                assert_eq!(steps.len(), 1);
                steps[0].clone()
            }
            // A StepAction is its own step.
            _ => spec,
        };
        let environment = self.environment(&step);
        let lookup = |name: &str| environment.get(name).cloned();
        let words = |member: &str| -> Vec<String> {
            let words = step[member]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            words
                .iter()
                .map(|word| expanded(word.as_str().unwrap(), &lookup))
                .collect()
        };
        let mut words_of_step = match step["script"].as_str() {
            Some(script) => vec![self.place_script(script)],
            None => words("command"),
        };
        words_of_step.extend(words("args"));
        let mut command = Command::new(&words_of_step[0]);
        command
            .args(&words_of_step[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.scratch.path().join("home"))
            // `/tekton/results`, which is the program's default where it exists.
            .env("ORKA_RESULTS", self.scratch.path().join("results"))
            .envs(&environment)
            .current_dir(self.scratch.path())
            // As Tekton's entrypoint does.
            .process_group(0);
        Running::launch(command, self.patience, self.scratch)
    }

    /// Waits for the end of its only step.
    pub async fn ended(self) -> crate::Ended {
        self.start().ended().await
    }

    /// What Tekton replaces, pass by pass.
    fn passes(&self, spec: &Value) -> Vec<BTreeMap<String, String>> {
        let mut params = BTreeMap::new();
        for (name, default) in self.task.defaults() {
            let value = self.params.get(&name).cloned().or(default);
            let value = value.unwrap_or_else(|| panic!("the parameter `{name}` is required"));
            for form in [
                format!("params.{name}"),
                format!("params[\"{name}\"]"),
                format!("params['{name}']"),
            ] {
                params.insert(form, value.clone());
            }
        }
        let contexts = BTreeMap::from([
            ("context.taskRun.uid".to_owned(), self.task_run.clone()),
            ("context.taskRun.name".to_owned(), "the-task-run".to_owned()),
            ("context.taskRun.namespace".to_owned(), "ci".to_owned()),
            (
                "context.task.name".to_owned(),
                self.task.0["metadata"]["name"].as_str().unwrap().to_owned(),
            ),
            ("context.task.retry-count".to_owned(), "0".to_owned()),
        ]);
        let results = spec["results"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let directory = self.scratch.path().join("results");
        let results = results
            .iter()
            .flat_map(|it| {
                let name = it["name"].as_str().unwrap();
                let path = directory.join(name).to_str().unwrap().to_owned();
                ["results", "step.results"].map(|of| (format!("{of}.{name}.path"), path.clone()))
            })
            .collect();
        let declared = spec["workspaces"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut workspaces = BTreeMap::new();
        for declaration in declared {
            let name = declaration["name"].as_str().unwrap();
            let bound = self.workspaces.get(name);
            assert!(
                bound.is_some() || declaration["optional"] == true,
                "the workspace `{name}` is required"
            );
            let path = bound.map_or("", |path| path.to_str().unwrap());
            workspaces.insert(format!("workspaces.{name}.path"), path.to_owned());
            workspaces.insert(
                format!("workspaces.{name}.bound"),
                bound.is_some().to_string(),
            );
        }
        for name in self.workspaces.keys() {
            assert!(
                workspaces.contains_key(&format!("workspaces.{name}.path")),
                "the Task has no workspace `{name}`"
            );
        }
        vec![params, contexts, results, workspaces]
    }

    /// The volumes with Secrets and ConfigMaps, as the step sees them.
    fn mount(&self, spec: &Value) {
        let step = spec["steps"].get(0).unwrap_or(spec);
        let volumes = spec["volumes"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for mount in step["volumeMounts"].as_array().unwrap() {
            let path = PathBuf::from(mount["mountPath"].as_str().unwrap());
            std::fs::create_dir_all(&path).unwrap();
            let volume = volumes
                .iter()
                .find(|volume| volume["name"] == mount["name"]);
            let Some(volume) = volume else {
                // A StepAction mounts a volume of the Task that refers to it, named by a parameter.
                let data = &self.namespace.secrets[mount["name"].as_str().unwrap()];
                data.iter()
                    .for_each(|(key, text)| std::fs::write(path.join(key), text).unwrap());
                continue;
            };
            let (source, name, things) = match volume.get("configMap") {
                Some(source) => (source, &source["name"], &self.namespace.config_maps),
                None => {
                    let source = &volume["secret"];
                    (source, &source["secretName"], &self.namespace.secrets)
                }
            };
            let is_optional = source["optional"] == true;
            let Some(data) = things.get(name.as_str().unwrap()) else {
                assert!(is_optional, "the pod does not start: there is no {name}");
                continue;
            };
            let items: Vec<(&str, &str)> = match source["items"].as_array() {
                Some(items) => items
                    .iter()
                    .map(|item| {
                        (
                            item["key"].as_str().unwrap(),
                            item["path"].as_str().unwrap(),
                        )
                    })
                    .collect(),
                None => data
                    .keys()
                    .map(|key| (key.as_str(), key.as_str()))
                    .collect(),
            };
            for (key, file) in items {
                match data.get(key) {
                    Some(text) => std::fs::write(path.join(file), text).unwrap(),
                    None => assert!(
                        is_optional,
                        "the pod does not start: no key `{key}` in `{name}`"
                    ),
                }
            }
        }
    }

    fn environment(&self, step: &Value) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        let sources = step["envFrom"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for source in sources {
            let reference = &source["configMapRef"];
            let name = reference["name"].as_str().unwrap();
            match self.namespace.config_maps.get(name) {
                Some(data) => environment.extend(data.clone()),
                None => assert_eq!(reference["optional"], true, "no ConfigMap `{name}`"),
            }
        }
        for name in &self.env_from {
            environment.extend(self.namespace.config_maps[name].clone());
        }
        // Only variables of `env` that stand before count for one another.
        let mut before: BTreeMap<String, String> = BTreeMap::new();
        for variable in step["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap().to_owned();
            let value = match variable["value"].as_str() {
                Some(value) => expanded(value, &|name| before.get(name).cloned()),
                None => self.field(
                    variable["valueFrom"]["fieldRef"]["fieldPath"]
                        .as_str()
                        .unwrap(),
                ),
            };
            before.insert(name.clone(), value.clone());
            environment.insert(name, value);
        }
        environment
    }

    fn field(&self, path: &str) -> String {
        match path {
            "metadata.uid" => self.pod.clone(),
            "metadata.labels['tekton.dev/taskRunUID']" => self.task_run.clone(),
            "metadata.labels['tekton.dev/pipelineRunUID']" => self.pipeline_run.clone(),
            "metadata.labels['tekton.dev/pipelineRun']" => match self.pipeline_run.as_str() {
                "" => String::new(),
                _ => "the-pipeline-run".to_owned(),
            },
            "metadata.annotations['orka-step/script']" => self.annotation.clone(),
            other => panic!("no field `{other}`"),
        }
    }

    fn place_script(&self, script: &str) -> String {
        let path = self.scratch.path().join("script-0-abcde");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Changes every text below, names of members excepted.
pub(crate) fn each_text(value: &mut Value, change: &mut impl FnMut(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(members) => members.values_mut().for_each(|it| each_text(it, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces `$(name)` by what it stands for, without looking at what was put in.
pub(crate) fn one_pass(text: &str, replacements: &BTreeMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("$(") {
        let (before, after) = rest.split_at(at);
        result.push_str(before);
        let known = after[2..]
            .split_once(')')
            .and_then(|(name, behind)| Some((replacements.get(name)?, behind)));
        if let Some((value, behind)) = known {
            result.push_str(value);
            rest = behind;
        } else {
            result.push_str("$(");
            rest = &after[2..];
        }
    }
    result + rest
}

/// The kubelet's expansion: `$(NAME)` of a known variable, `$$` to `$`, everything else as it is.
fn expanded(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("$$") {
            result.push('$');
            rest = behind;
        } else if let Some((name, behind)) =
            rest.strip_prefix("$(").and_then(|it| it.split_once(')'))
        {
            result.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
            rest = behind;
        } else {
            result.push('$');
            rest = &rest[1..];
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of measurements on a real cluster: what a program got for this argument.
    #[test]
    fn arguments_are_altered_as_a_kubelet_does() {
        let lookup = |name: &str| (name == "HOME").then(|| "/home/x".to_owned());
        let text = "echo pid $$ $$$$ $(HOME) $(date) ${HOME} `id` \"q\" 'q' $";
        assert_eq!(
            expanded(text, &lookup),
            "echo pid $ $$ /home/x $(date) ${HOME} `id` \"q\" 'q' $"
        );
    }

    #[test]
    fn a_value_is_not_looked_at_again_in_its_own_pass() {
        let params = BTreeMap::from([
            ("params.a".to_owned(), "$(params.b)".to_owned()),
            ("params.b".to_owned(), "b".to_owned()),
        ]);
        assert_eq!(
            one_pass("$(params.a) $(params.b) $(params.c) $$(params.b)", &params),
            "$(params.b) b $(params.c) $b"
        );
    }
}
