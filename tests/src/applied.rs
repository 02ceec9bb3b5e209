//! A file of manifests, applied: its TaskRun, or the tasks of its PipelineRun in the order in which Tekton starts them.
//!
//! Steps of our Tasks are run by [`Pod`]. For whatever else a Pipeline holds, the test brings a stand-in; one that is missing
//! fails it, so that nothing is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::tekton::{each_text, one_pass};
use crate::{Definition, Ended, Namespace, Pod, documents, repository, uid};

/// What the test does in place of a step that is not ours, given the first workspace of its task.
type StandIn = Box<dyn Fn(&Path)>;

/// The manifests of one file, in a namespace.
pub struct Applied {
    documents: Vec<Value>,
    namespace: Namespace,
    directories: BTreeMap<String, PathBuf>,
    stand_ins: BTreeMap<String, StandIn>,
    params: BTreeMap<String, String>,
    run: String,
    volumes: TempDir,
}

/// A step of ours that has run.
pub struct Ran {
    /// What the Pipeline calls the task, or the Task its step; empty in a TaskRun.
    pub task: String,
    /// How it ended.
    pub ended: Ended,
}

impl Applied {
    /// Reads a file of the repository; its ConfigMaps and Secrets are added to what the namespace has.
    pub fn read(path: &str, namespace: Namespace) -> Self {
        let text = std::fs::read_to_string(repository().join(path)).unwrap();
        let documents = documents(&text);
        let namespace = documents.iter().fold(namespace, |namespace, document| {
            let name = document["metadata"]["name"].as_str().unwrap_or_default();
            let data = ["data", "stringData"].map(|member| texts(&document[member]));
            let data: Vec<(&str, &str)> = data.iter().flatten().copied().collect();
            match document["kind"].as_str() {
                Some("ConfigMap") => namespace.config_map(name, &data),
                Some("Secret") => namespace.secret(name, &data),
                _ => namespace,
            }
        });
        Self {
            documents,
            namespace,
            directories: BTreeMap::new(),
            stand_ins: BTreeMap::new(),
            params: BTreeMap::new(),
            run: uid(&format!("pipeline run of {path}")),
            volumes: tempfile::tempdir().unwrap(),
        }
    }

    /// Sets a value of a ConfigMap, whatever the file has.
    #[must_use]
    pub fn value(mut self, config_map: &str, key: &str, value: &str) -> Self {
        self.namespace = self.namespace.value(config_map, key, value);
        self
    }

    /// Adds a Secret that the file does not bring.
    #[must_use]
    pub fn secret(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        self.namespace = self.namespace.secret(name, data);
        self
    }

    /// What is in a ConfigMap or Secret that a workspace is bound to, and that the file does not bring.
    #[must_use]
    pub fn directory(mut self, object: &str, contents: &Path) -> Self {
        let contents = contents.to_owned();
        self.directories.insert(object.to_owned(), contents);
        self
    }

    /// Does something in place of a task, or of a step, that is not ours.
    #[must_use]
    pub fn stand_in(mut self, name: &str, act: impl Fn(&Path) + 'static) -> Self {
        self.stand_ins.insert(name.to_owned(), Box::new(act));
        self
    }

    /// A parameter of whoever uses the file: of a Task without a run, or in place of what the TaskRun has.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The UID of its PipelineRun.
    pub fn run_uid(&self) -> &str {
        &self.run
    }

    /// The directory that a claim is, or that a claim template makes.
    pub fn volume(&self, name: &str) -> PathBuf {
        let volume = self.volumes.path().join(name);
        std::fs::create_dir_all(&volume).unwrap();
        volume
    }

    /// Runs it. Gives what each step of ours did, in the order in which they were started.
    pub async fn run(&self) -> Vec<Ran> {
        let of_kind = |kind: &str| self.documents.iter().find(|it| it["kind"] == kind);
        if let Some(run) = of_kind("TaskRun") {
            let spec = &run["spec"];
            let name = spec["taskRef"]["name"].as_str().unwrap();
            let own: Vec<(String, String)> = self.params.clone().into_iter().collect();
            let pod = self.pod(name, &spec["params"], &own);
            let pod = self.bound(pod, &spec["workspaces"], None);
            let task = String::new();
            return vec![Ran {
                task,
                ended: pod.ended().await,
            }];
        }
        if let Some(run) = of_kind("PipelineRun") {
            return self.pipeline_run(&run["spec"]).await;
        }
        self.task(of_kind("Task").unwrap()).await
    }

    async fn pipeline_run(&self, run: &Value) -> Vec<Ran> {
        let named = &run["pipelineRef"]["name"];
        let is_named = |it: &&Value| it["kind"] == "Pipeline" && it["metadata"]["name"] == *named;
        let pipeline = match run.get("pipelineSpec") {
            Some(inside) => inside,
            None => &self.documents.iter().find(is_named).unwrap()["spec"],
        };
        let mut known = BTreeMap::from([(
            "context.pipelineRun.name".to_owned(),
            "the-pipeline-run".to_owned(),
        )]);
        let mut waiting: Vec<&Value> = list(&pipeline["tasks"]).collect();
        let mut done = BTreeSet::new();
        let mut all = Vec::new();
        let mut has_failed = false;
        while !waiting.is_empty() && !has_failed {
            let is_ready = |task: &&Value| needed(task).is_subset(&done);
            let (ready, later): (Vec<&Value>, Vec<&Value>) =
                waiting.into_iter().partition(is_ready);
            assert!(!ready.is_empty(), "these wait for ever: {later:#?}");
            waiting = later;
            done.extend(ready.iter().map(|task| name_of(task)));
            has_failed = self.wave(&ready, run, &mut known, &mut all).await;
        }
        let last: Vec<&Value> = list(&pipeline["finally"]).collect();
        self.wave(&last, run, &mut known, &mut all).await;
        all
    }

    /// Tasks that are started at the same time. Gives whether one failed that the run does not go on after.
    async fn wave(
        &self,
        tasks: &[&Value],
        run: &Value,
        known: &mut BTreeMap<String, String>,
        all: &mut Vec<Ran>,
    ) -> bool {
        let mut started = Vec::new();
        for task in tasks {
            let mut task = (*task).clone();
            each_text(&mut task, &mut |text| one_pass(text, known));
            if !list(&task["when"]).all(holds) {
                known.insert(
                    format!("tasks.{}.status", name_of(&task)),
                    "None".to_owned(),
                );
                continue;
            }
            let reference = task["taskRef"]["name"].as_str().unwrap_or_default();
            let is_ours =
                repository().join("tekton/task").join(reference).is_dir() && !reference.is_empty();
            if !is_ours {
                let mount = list(&task["workspaces"]).next();
                let mount = mount.and_then(|it| it["workspace"].as_str());
                let binding = mount.and_then(|name| binding_of(run, name));
                let directory = binding.map(|it| self.claimed(it)).unwrap_or_default();
                self.stand_in_for(&name_of(&task), directory.as_deref());
                continue;
            }
            for extra in combinations(&task["matrix"]["params"]) {
                let pod = self.pod(reference, &task["params"], &extra);
                let pod = self.bound(pod, &task["workspaces"], Some(run));
                started.push((task.clone(), pod.in_pipeline_run(&self.run).start()));
            }
        }
        let mut has_failed = false;
        for (task, running) in started {
            let ended = running.ended().await;
            let name = name_of(&task);
            let is_well = ended.code == Some(0);
            has_failed |= !is_well && task["onError"] != "continue";
            let status = if is_well { "Succeeded" } else { "Failed" };
            known.insert(format!("tasks.{name}.status"), status.to_owned());
            for (result, value) in &ended.results {
                known.insert(format!("tasks.{name}.results.{result}"), value.clone());
            }
            all.push(Ran { task: name, ended });
        }
        has_failed
    }

    /// A Task of somebody's own, with a step that refers to the StepAction.
    async fn task(&self, task: &Value) -> Vec<Ran> {
        let spec = &task["spec"];
        let mut known = BTreeMap::new();
        for declared in list(&spec["params"]) {
            let name = declared["name"].as_str().unwrap();
            let value = self.params.get(name).map(String::as_str);
            let value = value.or(declared["default"].as_str()).unwrap();
            known.insert(format!("params.{name}"), value.to_owned());
        }
        for declared in list(&spec["workspaces"]) {
            let name = declared["name"].as_str().unwrap();
            let path = self.volume(name).to_str().unwrap().to_owned();
            known.insert(format!("workspaces.{name}.path"), path);
        }
        // The pod of a StepAction takes a Secret by its name, where Tekton takes the volume that mounts it.
        let secret_of = |volume: &str| {
            let volume = list(&spec["volumes"]).find(|it| it["name"] == volume)?;
            Some(volume["secret"]["secretName"].as_str().unwrap().to_owned())
        };
        let mut all = Vec::new();
        for step in list(&spec["steps"]) {
            let mut step = step.clone();
            each_text(&mut step, &mut |text| one_pass(text, &known));
            let Some(action) = step["ref"]["name"].as_str() else {
                let workspace = step["workingDir"].as_str().map(Path::new);
                self.stand_in_for(&name_of(&step), workspace);
                continue;
            };
            let mut pod = self.namespace.run(&Definition::step_action(action));
            for (name, value) in pairs(&step["params"]) {
                let value = secret_of(&value).unwrap_or(value);
                pod = pod.param(&name, &value);
            }
            for source in list(&step["envFrom"]) {
                pod = pod.env_from(source["configMapRef"]["name"].as_str().unwrap());
            }
            let task = name_of(&step);
            let ended = pod.ended().await;
            all.push(Ran { task, ended });
        }
        all
    }

    fn pod(&self, task: &str, params: &Value, extra: &[(String, String)]) -> Pod {
        let pod = self.namespace.run(&Definition::task(task));
        let params = pairs(params).into_iter().chain(extra.iter().cloned());
        params.fold(pod, |pod, (name, value)| pod.param(&name, &value))
    }

    /// Binds the workspaces of a TaskRun, or those of a task through its PipelineRun.
    fn bound(&self, pod: Pod, workspaces: &Value, run: Option<&Value>) -> Pod {
        list(workspaces).fold(pod, |pod, workspace| {
            let name = workspace["name"].as_str().unwrap();
            let binding = match run {
                None => workspace,
                Some(run) => binding_of(run, workspace["workspace"].as_str().unwrap()).unwrap(),
            };
            match self.claimed(binding) {
                Some(directory) => pod.workspace(name, &directory),
                None if binding.get("emptyDir").is_some() => pod.empty_dir(name),
                None => {
                    let directory = self.object(binding);
                    pod.workspace(name, &directory)
                }
            }
        })
    }

    /// The directory of a volume that several pods may share.
    fn claimed(&self, binding: &Value) -> Option<PathBuf> {
        if binding.get("volumeClaimTemplate").is_some() {
            return Some(self.volume(binding["name"].as_str().unwrap()));
        }
        let claim = binding["persistentVolumeClaim"]["claimName"].as_str()?;
        Some(self.volume(claim))
    }

    /// A ConfigMap or Secret as a directory.
    fn object(&self, binding: &Value) -> PathBuf {
        let names = [
            &binding["configMap"]["name"],
            &binding["secret"]["secretName"],
        ];
        let name = names.iter().find_map(|name| name.as_str()).unwrap();
        if let Some(directory) = self.directories.get(name) {
            return directory.clone();
        }
        let directory = self.volume(&format!("object-{name}"));
        let data = self.namespace.data(name);
        let data = data.unwrap_or_else(|| panic!("the pod does not start: there is no `{name}`"));
        for (key, text) in data {
            std::fs::write(directory.join(key), text).unwrap();
        }
        directory
    }

    fn stand_in_for(&self, name: &str, directory: Option<&Path>) {
        let act = self.stand_ins.get(name);
        let act = act.unwrap_or_else(|| panic!("`{name}` is not ours and has no stand-in"));
        act(directory.unwrap_or(self.volumes.path()));
    }
}

/// What a task of a Pipeline comes after.
fn needed(task: &Value) -> BTreeSet<String> {
    let mut needed: BTreeSet<String> = list(&task["runAfter"])
        .map(|it| it.as_str().unwrap().to_owned())
        .collect();
    each_text(&mut task.clone(), &mut |text| {
        let references = text.split("$(tasks.").skip(1);
        needed.extend(references.filter_map(|rest| Some(rest.split_once('.')?.0.to_owned())));
        text.to_owned()
    });
    needed
}

/// A `when` expression.
fn holds(when: &Value) -> bool {
    let is_in = list(&when["values"]).any(|value| *value == when["input"]);
    match when["operator"].as_str() {
        Some("in") => is_in,
        Some("notin") => !is_in,
        other => panic!("no operator {other:?}"),
    }
}

/// Every combination of a matrix; one without anything where there is none.
fn combinations(params: &Value) -> Vec<Vec<(String, String)>> {
    list(params).fold(vec![Vec::new()], |all, param| {
        let name = param["name"].as_str().unwrap();
        let values: Vec<&str> = list(&param["value"])
            .map(|it| it.as_str().unwrap())
            .collect();
        let with = |one: Vec<(String, String)>| {
            values
                .iter()
                .map(move |value| {
                    let mut one = one.clone();
                    one.push((name.to_owned(), (*value).to_owned()));
                    one
                })
                .collect::<Vec<_>>()
        };
        all.into_iter().flat_map(with).collect()
    })
}

fn binding_of<'a>(run: &'a Value, name: &str) -> Option<&'a Value> {
    list(&run["workspaces"]).find(|it| it["name"] == name)
}

fn name_of(task: &Value) -> String {
    task["name"].as_str().unwrap().to_owned()
}

fn pairs(params: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list(params)
        .map(|param| (text(&param["name"]), text(&param["value"])))
        .collect()
}

fn texts(data: &Value) -> Vec<(&str, &str)> {
    let members = data.as_object().into_iter().flatten();
    members
        .map(|(key, text)| (key.as_str(), text.as_str().unwrap()))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_comes_after_what_it_names_and_what_it_reads() {
        let task = json!({"runAfter": ["a"], "params": [{"value": "$(tasks.b.results.x) $(params.y)"}],
            "when": [{"input": "$(tasks.c.status)", "operator": "in", "values": []}]});
        assert_eq!(needed(&task), ["a", "b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn a_matrix_is_every_combination() {
        let params =
            json!([{"name": "x", "value": ["1", "2"]}, {"name": "y", "value": ["3", "4", "5"]}]);
        assert_eq!(combinations(&params).len(), 6);
        assert_eq!(combinations(&Value::Null), [[]]);
    }

    #[test]
    fn an_expression_holds_or_does_not() {
        let when =
            |operator: &str| json!({"input": "a", "operator": operator, "values": ["a", "b"]});
        assert!(holds(&when("in")) && !holds(&when("notin")));
    }
}
