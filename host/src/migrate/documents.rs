//! Finds where the older Tasks are used, and who reads what they wrote, in everything that was given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::overrides;
use super::readers::{Actions, Names, Reads};
use super::rules::{self, OldTask, Use, check, differs, list};
use super::scope::Scope;
use super::unseen::{self, Unseen};
use super::{Finding, Place};

/// The documents of all files, those in lists and in trigger templates among them.
#[derive(Default)]
pub(super) struct Documents(Vec<Document>);

struct Document {
    file: PathBuf,
    value: Value,
}

impl Document {
    fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    fn name(&self) -> String {
        let metadata = &self.value["metadata"];
        let name = metadata["name"].as_str().map(str::to_owned);
        let generated = || Some(format!("{}…", metadata["generateName"].as_str()?));
        name.or_else(generated).unwrap_or_else(|| "?".to_owned())
    }

    fn spec(&self) -> &Value {
        &self.value["spec"]
    }
}

impl Documents {
    /// Adds a document of this file, and what it holds.
    pub(super) fn add(&mut self, file: &Path, value: Value) {
        let spec = &value["spec"];
        let inner = match value["kind"].as_str().unwrap_or_default() {
            "TriggerTemplate" => vec![&spec["resourcetemplates"]],
            "Trigger" => vec![&spec["template"]["spec"]["resourcetemplates"]],
            "EventListener" => list(&spec["triggers"])
                .map(|trigger| &trigger["template"]["spec"]["resourcetemplates"])
                .collect(),
            kind if kind.ends_with("List") => vec![&value["items"]],
            _ => Vec::new(),
        };
        let inner: Vec<Value> = inner.into_iter().flat_map(list).cloned().collect();
        let file = file.to_owned();
        self.0.push(Document {
            file: file.clone(),
            value,
        });
        inner.into_iter().for_each(|value| self.add(&file, value));
    }

    /// What is to be said of each.
    pub(super) fn places(&self) -> Vec<Place> {
        let known = Known::of(self);
        let documents = self.0.iter();
        documents
            .flat_map(|document| known.of_document(document))
            .collect()
    }
}

/// What the documents say together.
struct Known<'a> {
    tasks: BTreeMap<&'a str, &'a Value>,
    pipelines: BTreeMap<&'a str, &'a Value>,
    actions: Actions<'a>,
    /// Tasks by their files, for what refers to a file.
    files: Vec<(&'a Path, &'a Value)>,
    /// Tasks and StepActions that something here refers to: they are looked at there, with the values they are given.
    used: BTreeSet<&'a str>,
    /// What any `orka-init` here has, for readers that stand elsewhere.
    names: Names,
}

/// What was found in one place of a document.
struct Found {
    task: Option<String>,
    uses: Option<OldTask>,
    findings: Vec<Finding>,
}

impl<'a> Known<'a> {
    fn of(documents: &'a Documents) -> Self {
        let named = |kinds: &[&str]| -> BTreeMap<&'a str, &'a Value> {
            let documents = documents.0.iter();
            let of_kind = documents.filter(|document| kinds.contains(&document.kind()));
            of_kind
                .filter_map(|it| Some((it.value["metadata"]["name"].as_str()?, it.spec())))
                .collect()
        };
        let mut used = BTreeSet::new();
        let mut names = Names::older();
        for document in &documents.0 {
            each_object(&document.value, &mut |object| {
                let references = ["taskRef", "ref"].map(|member| object[member]["name"].as_str());
                used.extend(references.into_iter().flatten());
            });
            let spec = document.spec();
            for spec in [spec, &spec["pipelineSpec"]] {
                let scope = Scope::default().of_own(&spec["params"], &Value::Null);
                let mut own = Names::older();
                for used in uses(spec, &scope) {
                    used.add_names(&mut own);
                }
                names.add_all(&own);
            }
        }
        Self {
            tasks: named(&["Task", "ClusterTask"]),
            pipelines: named(&["Pipeline"]),
            actions: named(&["StepAction"]),
            files: (documents.0.iter())
                .filter(|document| document.kind() == "Task")
                .map(|document| (document.file.as_path(), document.spec()))
                .collect(),
            used,
            names,
        }
    }

    fn of_document(&self, document: &Document) -> Vec<Place> {
        let (kind, spec) = (document.kind(), document.spec());
        let mut findings = Vec::new();
        let mut found = match kind {
            "Pipeline" => self.of_pipeline(spec, &Scope::default(), &Value::Null),
            "PipelineRun" => self.of_pipeline_run(spec, &mut findings),
            "TaskRun" => self.of_task_run(spec),
            "Task" | "ClusterTask" => self.of_task(document, &mut findings),
            "StepAction" => {
                let is_used = self.used.contains(document.name().as_str());
                let reads = (!is_used).then(|| self.of_step_action(spec));
                reads.into_iter().flatten().collect()
            }
            _ => self.of_other(document, &mut findings),
        };
        found.retain(|it| it.uses.is_some() || !it.findings.is_empty());
        // A run of a Pipeline in another file has nothing of ours but what belongs to runs.
        let is_run = matches!(kind, "TaskRun" | "PipelineRun");
        if is_run && (!found.is_empty() || spec.get("pipelineRef").is_some()) {
            let is_surely_ours = self.is_surely_ours(spec);
            findings.extend(rules::of_run(kind, spec, is_surely_ours));
        }
        findings.extend(rules::of_account(
            &document.value,
            self.names.is_any_written(),
        ));
        if !found.is_empty() {
            findings.extend(rules::of_version(&document.value));
        }
        if holds_template(&document.value) {
            findings.push(check(
                "template",
                "the name of a Task is filled in by a template (`{{`), and cannot be told"
                    .to_owned(),
                "render it first, and give what comes of it",
            ));
        }
        if !findings.is_empty() {
            let of_document = Found {
                task: None,
                uses: None,
                findings,
            };
            found.insert(0, of_document);
        }
        let place = |it: Found| Place {
            file: document.file.clone(),
            kind: kind.to_owned(),
            name: document.name(),
            task: it.task,
            uses: it.uses.map(OldTask::name),
            findings: it.findings,
        };
        found.into_iter().map(place).collect()
    }

    /// The tasks of a Pipeline, those of Pipelines inside it among them.
    fn of_pipeline(&self, spec: &Value, around: &Scope, given: &Value) -> Vec<Found> {
        let scope = around.inside(&spec["params"], given);
        let uses = uses(spec, &scope);
        let names = self.names_of(&uses);
        let mut found = Vec::new();
        let (mut is_read, mut is_all_seen) = (false, true);
        let may_read = |used: &Use| used.task == OldTask::Init && !used.hands_over();
        let may_read = uses.iter().any(may_read);
        for task in tasks(spec) {
            let name = task["name"].as_str().map(str::to_owned);
            let inner = &task["pipelineSpec"];
            if inner.is_object() {
                found.extend(self.of_pipeline(inner, &scope, &task["params"]));
            }
            let elsewhere = self.pipeline_elsewhere(&task["pipelineRef"], &scope);
            let reads = self.reads_of_task(task, &scope, &names);
            is_read |= !reads.is_empty();
            let mut findings: Vec<_> = reads.iter().map(|read| read.finding(&names)).collect();
            findings.extend(elsewhere);
            if let Some(unseen) = self.unseen(task, &scope) {
                is_all_seen &= !unseen.may_be_any;
                findings.extend(unseen.finding(task, may_read && reads.is_empty()));
            }
            found.push(Found {
                task: name,
                uses: None,
                findings,
            });
        }
        for used in &uses {
            let mut findings = used.findings();
            findings.extend(used.findings_among(&uses, is_all_seen));
            if used.task == OldTask::Init && used.hands_over() && !is_read {
                findings.push(check(
                    "hand-over.role",
                    "it keeps a Secret and a ConfigMap, which its service account has to be allowed to".to_owned(),
                    "`kubectl apply -k tekton/overlays/hand-over` has the Role",
                ));
            }
            let own = |it: &&mut Found| it.task.as_deref() == used.name() && it.uses.is_none();
            if let Some(place) = found.iter_mut().find(own) {
                place.uses = Some(used.task);
                findings.append(&mut place.findings);
                place.findings = findings;
            }
        }
        found
    }

    fn names_of(&self, uses: &[Use]) -> Names {
        if !uses.iter().any(|used| used.task == OldTask::Init) {
            return self.names.clone();
        }
        let mut names = Names::older();
        for used in uses {
            used.add_names(&mut names);
        }
        names
    }

    fn of_pipeline_run(&self, spec: &Value, findings: &mut Vec<Finding>) -> Vec<Found> {
        let reference = &spec["pipelineRef"];
        let inside = &spec["pipelineSpec"];
        let known = reference["name"].as_str();
        let known = known.and_then(|name| self.pipelines.get(name).copied());
        let mut found = Vec::new();
        if inside.is_object() {
            found = self.of_pipeline(inside, &Scope::default(), &spec["params"]);
        } else if let Some(pipeline) = known {
            // What holds for the Pipeline is said there; here, what comes of the values that this run gives.
            let of = |given| self.of_pipeline(pipeline, &Scope::default(), given);
            let said = of(&Value::Null);
            for mut here in of(&spec["params"]) {
                let same = said.iter().filter(|it| it.task == here.task);
                let same: Vec<_> = same.flat_map(|it| &it.findings).collect();
                here.findings.retain(|it| !same.contains(&it));
                here.uses = None;
                found.push(here);
            }
        } else {
            findings.extend(self.pipeline_elsewhere(reference, &Scope::default()));
        }
        let pipeline = known.unwrap_or(inside);
        let scope = Scope::default().of_own(&pipeline["params"], &spec["params"]);
        let uses = uses(pipeline, &scope);
        for of_task in list(&spec["taskRunSpecs"]) {
            let name = of_task["pipelineTaskName"].as_str();
            let Some(used) = uses.iter().find(|used| used.name() == name) else {
                continue;
            };
            // v1beta1 calls it `taskPodTemplate`.
            let templates = ["podTemplate", "taskPodTemplate"].map(|member| &of_task[member]);
            let of_user = templates.map(|template| overrides::of_user(template, true));
            let said: Vec<_> = (of_user.into_iter().flatten())
                .chain(overrides::of_steps(used.task, of_task))
                .collect();
            found.push(Found {
                task: used.name().map(str::to_owned),
                uses: None,
                findings: said,
            });
        }
        let names = self.names_of(&uses);
        let mut reads = Reads::default();
        reads.add_bindings(spec, &names, |workspace| {
            let takes = |taken: &Value| {
                let outside = taken.get("workspace").unwrap_or(&taken["name"]);
                outside == workspace
            };
            tasks(pipeline)
                .filter(|task| list(&task["workspaces"]).any(takes))
                .filter_map(|task| Some(format!("task `{}`", task["name"].as_str()?)))
                .collect()
        });
        findings.extend(reads.iter().map(|read| read.finding(&names)));
        found
    }

    /// A reference to a Pipeline that is not among the files.
    fn pipeline_elsewhere(&self, reference: &Value, scope: &Scope) -> Option<Finding> {
        let message = if let Some(resolver) = reference["resolver"].as_str() {
            format!("its Pipeline is taken by the resolver `{resolver}`, and was not looked at")
        } else {
            let name = scope.text(reference["name"].as_str()?);
            if self.pipelines.contains_key(name.as_str()) {
                return None;
            }
            format!("its Pipeline `{name}` was not given, and was not looked at")
        };
        let hint = "give the file of that Pipeline as well";
        Some(check("pipeline.elsewhere", message, hint))
    }

    /// Whether a run has a task that is one of the four.
    fn is_surely_ours(&self, run: &Value) -> bool {
        let known = run["pipelineRef"]["name"].as_str();
        let known = known.and_then(|name| self.pipelines.get(name).copied());
        let pipeline = known.unwrap_or(&run["pipelineSpec"]);
        let scope = Scope::default().of_own(&pipeline["params"], &run["params"]);
        Use::of(run, &Scope::default()).is_some() || !uses(pipeline, &scope).is_empty()
    }

    /// The Task that stands in the file with this path in its repository.
    fn in_file(&self, path: &str) -> Option<&'a Value> {
        let path = path.trim_start_matches('/');
        let mut found = self.files.iter().filter(|(file, _)| file.ends_with(path));
        let (_, spec) = found.next()?;
        found.next().is_none().then_some(*spec)
    }

    /// The Task of a task, if it is among the files.
    fn task_of(&self, reference: &Value, scope: &Scope) -> Option<&'a Value> {
        match reference["resolver"].as_str() {
            None => {
                let name = scope.text(reference["name"].as_str()?);
                self.tasks.get(name.as_str()).copied()
            }
            Some("git") => {
                let path = list(&reference["params"]).find(|it| it["name"] == "pathInRepo")?;
                self.in_file(&scope.text(path["value"].as_str()?))
            }
            Some(_) => None,
        }
    }

    fn unseen(&self, task: &Value, scope: &Scope) -> Option<Unseen> {
        Unseen::of(&task["taskRef"], scope, |place| match place {
            unseen::Place::Named(name) => self.tasks.contains_key(name),
            unseen::Place::File(path) => self.in_file(path).is_some(),
        })
    }

    /// What a task of a Pipeline reads, or a TaskRun.
    fn reads_of_task(&self, task: &Value, scope: &Scope, names: &Names) -> Reads {
        let mut reads = Reads::default();
        let (inside, reference) = (&task["taskSpec"], &task["taskRef"]);
        let given = &task["params"];
        if Use::of(task, scope).is_some() {
            // Its parameters name the objects as they should; its script is somebody's own.
            let script = list(given).filter(|param| param["name"] == "script");
            reads.add_given("it", &script.cloned().collect(), scope, names);
            reads.in_doubt();
        } else if inside.is_object() {
            let scope = scope.inside(&inside["params"], given);
            reads.add_pod(inside, &scope, names, &self.actions);
        } else if let Some(spec) = self.task_of(reference, scope) {
            let scope = scope.of_own(&spec["params"], given);
            reads.add_pod(spec, &scope, names, &self.actions);
        } else {
            reads.add_given("its Task", given, scope, names);
        }
        reads.add_given("its Task", &task["matrix"]["params"], scope, names);
        reads
    }

    fn of_task_run(&self, spec: &Value) -> Vec<Found> {
        let scope = Scope::default();
        let mut reads = self.reads_of_task(spec, &scope, &self.names);
        reads.add_bindings(spec, &self.names, |_| Vec::new());
        let mut findings: Vec<Finding> =
            reads.iter().map(|read| read.finding(&self.names)).collect();
        let used = Use::of(spec, &scope);
        if let Some(used) = &used {
            findings.extend(used.findings());
            findings.extend(used.finding_alone());
            findings.extend(overrides::of_steps(used.task, spec));
        }
        let unseen = self.unseen(spec, &scope);
        findings.extend(unseen.and_then(|unseen| unseen.finding(spec, false)));
        vec![Found {
            task: None,
            uses: used.map(|used| used.task),
            findings,
        }]
    }

    fn of_task(&self, document: &Document, findings: &mut Vec<Finding>) -> Vec<Found> {
        let spec = document.spec();
        let name = document.name();
        if let Some(task) = OldTask::named(&name) {
            let script = spec["steps"][0]["script"].as_str().unwrap_or_default();
            if !script.starts_with(OWN_INTERPRETER) {
                findings.push(differs(
                    "task.older",
                    format!(
                        "this is the older Task `{}`, which the new one takes the place of",
                        task.name()
                    ),
                ));
            }
            return Vec::new();
        }
        if self.used.contains(name.as_str()) {
            return Vec::new();
        }
        let scope = Scope::default().of_own(&spec["params"], &Value::Null);
        let mut reads = Reads::default();
        reads.add_pod(spec, &scope, &self.names, &self.actions);
        vec![self.found(&reads)]
    }

    fn of_step_action(&self, spec: &Value) -> Vec<Found> {
        let scope = Scope::default().of_own(&spec["params"], &Value::Null);
        let mut reads = Reads::default();
        reads.add_action(spec, &scope, &self.names);
        vec![self.found(&reads)]
    }

    /// What has pods reads perhaps; what makes manifests was not looked at.
    fn of_other(&self, document: &Document, findings: &mut Vec<Finding>) -> Vec<Found> {
        let value = &document.value;
        let api = value["apiVersion"].as_str().unwrap_or_default();
        let is_kustomization = api.starts_with("kustomize.config.k8s.io/")
            || document.kind().is_empty() && value.get("resources").is_some();
        if is_kustomization {
            findings.push(check(
                "document.kustomization",
                "this is a kustomization; the manifests that it makes were not looked at"
                    .to_owned(),
                "`kubectl kustomize DIRECTORY >rendered.yaml`, and give that file",
            ));
        } else if document.kind().is_empty() {
            findings.push(check(
                "document.no-kind",
                "this is no manifest: it has no `kind`".to_owned(),
                "if it is part of a chart or an overlay, render that and give what comes of it",
            ));
        }
        let mut reads = Reads::default();
        each_object(value, &mut |object| {
            if object["containers"].is_array() {
                reads.add_pod(object, &Scope::default(), &self.names, &self.actions);
            }
        });
        vec![self.found(&reads)]
    }

    fn found(&self, reads: &Reads) -> Found {
        Found {
            task: None,
            uses: None,
            findings: reads.iter().map(|read| read.finding(&self.names)).collect(),
        }
    }
}

/// What the scripts of the Tasks that replace the older ones begin with.
const OWN_INTERPRETER: &str = "#!/usr/local/bin/orka-step ";

/// The tasks of a Pipeline, those under `finally` among them.
fn tasks(spec: &Value) -> impl Iterator<Item = &Value> {
    list(&spec["tasks"]).chain(list(&spec["finally"]))
}

fn uses(spec: &Value, scope: &Scope) -> Vec<Use> {
    tasks(spec)
        .filter_map(|task| Use::of(task, scope))
        .collect()
}

fn each_object<'a>(value: &'a Value, found: &mut impl FnMut(&'a Value)) {
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

fn holds_template(document: &Value) -> bool {
    let mut holds = false;
    each_object(document, &mut |object| {
        let name = object["taskRef"]["name"].as_str().unwrap_or_default();
        holds |= name.contains("{{");
    });
    holds
}
