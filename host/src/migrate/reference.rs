//! Where a `taskRef` leads.

use serde_json::Value;

use super::Finding;
use super::rules::{OldTask, change, check};
use super::scope::Scope;

/// A reference to one of the Tasks.
pub(super) struct Reference {
    pub(super) task: OldTask,
    pub(super) findings: Vec<Finding>,
}

impl Reference {
    /// None where it leads to another Task.
    pub(super) fn of(reference: &Value, scope: &Scope) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(|text| scope.text(text));
        let mut findings = Vec::new();
        let task = match text(&reference["resolver"]) {
            None => {
                // Other kinds of another API are custom tasks.
                let api = reference["apiVersion"].as_str().unwrap_or("tekton.dev/v1");
                let name = text(&reference["name"])?;
                OldTask::named(&name).filter(|_| api.starts_with("tekton.dev/"))?
            }
            Some(resolver) => {
                let params = reference["params"].as_array().into_iter().flatten();
                let params = params
                    .filter_map(|param| Some((param["name"].as_str()?, text(&param["value"])?)));
                let resolved = Resolved {
                    resolver,
                    params: params.collect(),
                };
                let task = resolved.task()?;
                findings.push(resolved.finding(task));
                task
            }
        };
        if let Some(bundle) = text(&reference["bundle"]) {
            findings.push(change(
                "reference.elsewhere",
                format!(
                    "`{}` is taken from the bundle `{bundle}`, by a member that Tekton has dropped",
                    task.name()
                ),
                INSTALLED,
            ));
        }
        if reference["kind"] == "ClusterTask" {
            findings.push(change(
                "reference.cluster-task",
                "ClusterTasks are no part of Tekton any more".to_owned(),
                "once these Tasks are installed in the namespace, leave `kind` out",
            ));
        }
        Some(Self { task, findings })
    }
}

const INSTALLED: &str = "once these Tasks are installed in the namespace, refer to the one there: `taskRef: {name: …}` and nothing else";

/// What a resolver is asked for.
struct Resolved<'a> {
    resolver: String,
    params: Vec<(&'a str, String)>,
}

impl Resolved<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        let mut params = self.params.iter();
        let (_, value) = params.find(|(own, _)| *own == name)?;
        Some(value)
    }

    /// By its name, or by that of the file (git, http) or of the bundle's repository.
    fn task(&self) -> Option<OldTask> {
        let places = ["name", "pathInRepo", "url", "bundle"];
        places.iter().find_map(|name| {
            let value = self.param(name)?;
            let last = value.rsplit('/').next()?;
            let stem = last.split(['.', ':', '@', '?']).next()?;
            OldTask::named(stem)
        })
    }

    fn finding(&self, task: OldTask) -> Finding {
        let place: Vec<String> = PLACES
            .iter()
            .filter_map(|name| Some(format!("{name} `{}`", self.param(name)?)))
            .collect();
        let of_place = match place.is_empty() {
            true => String::new(),
            false => format!(": {}", place.join(", ")),
        };
        let message = format!(
            "`{}` is taken by the resolver `{}`{of_place}",
            task.name(),
            self.resolver
        );
        if self.is_older() {
            return change(
                "reference.elsewhere",
                format!("{message}; that is the older Task"),
                INSTALLED,
            );
        }
        let hint = match self
            .param("namespace")
            .filter(|_| self.resolver == "cluster")
        {
            Some(namespace) => format!("install these Tasks in the namespace `{namespace}`"),
            None => {
                format!("see that these Tasks are there, and not the older ones; or {INSTALLED}")
            }
        };
        check("reference.elsewhere", message, &hint)
    }

    /// Whether it surely leads to the catalog's Tasks: by its repository, or by a version that only those have.
    fn is_older(&self) -> bool {
        let is_version = |text: &str| ["0.1", "0.2", "0.1.0", "0.2.0"].contains(&text);
        let hub_version = self.param("version").is_none_or(is_version);
        let values = self.params.iter().map(|(_, value)| value);
        let mut parts = values.flat_map(|value| value.split(['/', ':', '@']));
        let of_catalog = |value: &str| CATALOGS.iter().any(|catalog| value.contains(catalog));
        self.resolver == "hub" && hub_version
            || self.resolver != "cluster" && parts.any(is_version)
            || self.params.iter().any(|(_, value)| of_catalog(value))
    }
}

/// What of a resolver's parameters says where the Task is.
const PLACES: [&str; 9] = [
    "catalog",
    "url",
    "repo",
    "org",
    "pathInRepo",
    "revision",
    "bundle",
    "version",
    "namespace",
];

/// Where the older Tasks are published.
const CATALOGS: [&str; 3] = [
    "tektoncd/catalog",
    "macstadium/orka-tekton",
    "tekton-releases/catalog",
];
