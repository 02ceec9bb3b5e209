//! What is to be said of a use of the older Tasks, and of a run.

use std::time::Duration;

use serde_json::Value;

use super::overrides;
use super::params::of_param;
use super::readers::{Kept, Names};
use super::reference::Reference;
use super::scope::Scope;
use super::values::of_value;
use super::{Finding, Weight};

/// The run's own deadline where nothing else is said, and a little more for what comes after it.
const TIME_NEEDED: Duration = Duration::from_secs(56 * 60);

/// One of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OldTask {
    Full,
    Init,
    Deploy,
    Teardown,
}

impl OldTask {
    const ALL: [Self; 4] = [Self::Full, Self::Init, Self::Deploy, Self::Teardown];

    /// None for every other Task.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "orka-full",
            Self::Init => "orka-init",
            Self::Deploy => "orka-deploy",
            Self::Teardown => "orka-teardown",
        }
    }
}

/// What names the Secret and the ConfigMap of the older hand-over, and its defaults.
const HAND_OVER_NAMES: [(&str, &str); 4] = [
    ("orka-token-secret", "orka-token"),
    ("orka-token-secret-key", "token"),
    ("orka-vm-name-config", "orka-vm-name"),
    ("orka-vm-name-config-key", "vm-name"),
];

/// Where the Tasks look for credentials by themselves.
const CREDENTIALS: [(&str, Option<&str>); 4] = [
    ("orka-creds-secret", Some("orka-creds")),
    ("orka-creds-email-key", Some("email")),
    ("orka-creds-password-key", Some("password")),
    ("orka-creds-token-key", Some("token")),
];

/// A place where one of the Tasks is used.
pub(super) struct Use {
    pub(super) task: OldTask,
    name: Option<String>,
    params: Vec<(String, Option<String>)>,
    /// Every value of every parameter: a matrix gives several.
    values: Vec<(String, String)>,
    /// What Tekton allows it.
    timeout: Option<Duration>,
    of_reference: Vec<Finding>,
}

impl Use {
    /// None where another Task is used.
    pub(super) fn of(user: &Value, scope: &Scope) -> Option<Self> {
        let reference = Reference::of(&user["taskRef"], scope)?;
        let matrix = &user["matrix"];
        let included = list(&matrix["include"]).flat_map(|it| list(&it["params"]));
        let given = list(&user["params"]).chain(list(&matrix["params"]));
        let given: Vec<&Value> = given.chain(included).collect();
        let param = |param: &&Value| {
            let value = param["value"].as_str().map(|value| scope.text(value));
            Some((param["name"].as_str()?.to_owned(), value))
        };
        let values = |param: &&Value| {
            let name = param["name"].as_str().unwrap_or_default().to_owned();
            let value = &param["value"];
            let texts = list(value).chain([value]).filter_map(Value::as_str);
            let values = texts.map(|text| (name.clone(), scope.text(text)));
            values.collect::<Vec<_>>()
        };
        Some(Self {
            task: reference.task,
            name: user["name"].as_str().map(str::to_owned),
            params: given.iter().filter_map(param).collect(),
            values: given.iter().flat_map(values).collect(),
            timeout: duration(&user["timeout"]),
            of_reference: reference.findings,
        })
    }

    /// What the Pipeline calls it.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn params(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let params = self.params.iter();
        params.map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// What is to be said of it alone.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.of_reference.clone();
        let hands_over = self.hands_over();
        for (name, value) in self.params() {
            if !(hands_over && name.starts_with("orka-token-secret")) {
                findings.extend(of_param(self.task, name, value));
            }
        }
        let has_own_plugin = self
            .params()
            .any(|(name, value)| name == "plugin" && value != Some("build"));
        for (name, value) in &self.values {
            findings.extend(of_value(self.task, name, value, has_own_plugin));
        }
        findings.extend(self.time());
        findings
    }

    /// What is to be said of it where no PipelineRun holds several of them together.
    pub(super) fn finding_alone(&self) -> Option<Finding> {
        (self.task != OldTask::Full && !self.is_told_config()).then(|| {
            change(
                "task-run.alone",
                format!(
                    "`{}` in a TaskRun by itself: these Tasks find one another by their PipelineRun",
                    self.task.name()
                ),
                "put `orka-init`, `orka-deploy` and `orka-teardown` into one Pipeline, or use `orka-full`",
            )
        })
    }

    /// Whether it is an `orka-deploy` that looks for no `orka-init`.
    fn is_told_config(&self) -> bool {
        self.task == OldTask::Deploy
            && self
                .params()
                .any(|(name, value)| name == "vm-config" && value != Some(""))
    }

    /// What it looks for in its PipelineRun and does not find there; `is_all_seen` unless a task may be any Task.
    fn finding_apart(&self, uses: &[Use], is_all_seen: bool) -> Option<Finding> {
        let has = |task| uses.iter().any(|it| it.task == task);
        let (message, hint) = match self.task {
            OldTask::Deploy if !has(OldTask::Init) && !self.is_told_config() => (
                "no `orka-init` in this Pipeline: `orka-deploy` looks for the VM config of its own PipelineRun, and finds none",
                "put `orka-init` into the same Pipeline, since a child Pipeline is a PipelineRun of its own; or give `vm-config`; \
                 or use `orka-full`",
            ),
            OldTask::Teardown if uses.iter().all(|it| it.task == OldTask::Teardown) => (
                "`orka-teardown` by itself in this Pipeline: it deletes what its own PipelineRun has made, finds nothing and succeeds",
                "put it under `finally` of the Pipeline that has `orka-init` and `orka-deploy`; a child Pipeline is a PipelineRun \
                 of its own",
            ),
            _ => return None,
        };
        let finding = if is_all_seen { change } else { check };
        Some(finding("pipeline.apart", message.to_owned(), hint))
    }

    /// Adds the names of what it has, if it is an `orka-init`.
    pub(super) fn add_names(&self, names: &mut Names) {
        if self.task == OldTask::Init {
            let [secret, _, config_map, _] = self.hand_over_names();
            names.add(Kept::Secret, secret, self.hands_over());
            names.add(Kept::ConfigMap, config_map, self.hands_over());
        }
    }

    /// Whether it keeps the Secret and the ConfigMap of the older Tasks.
    pub(super) fn hands_over(&self) -> bool {
        matches!(self.task, OldTask::Init | OldTask::Teardown)
            && self
                .params()
                .any(|param| param == ("hand-over", Some("kubernetes")))
    }

    /// What no `orka-teardown` of the Pipeline deletes of what this `orka-init` hands over.
    fn left_by_teardowns(&self, uses: &[Use]) -> Option<Finding> {
        if self.task != OldTask::Init || !self.hands_over() {
            return None;
        }
        let mut teardowns = uses
            .iter()
            .filter(|it| it.task == OldTask::Teardown)
            .peekable();
        teardowns.peek()?;
        let told: Vec<_> = teardowns.filter(|it| it.hands_over()).collect();
        if told.is_empty() {
            return Some(change(
                "hand-over.teardown",
                "`orka-teardown` is not told of the Secret, and leaves its token valid".to_owned(),
                "give it `hand-over: kubernetes` as well, and the names if they are not the default ones",
            ));
        }
        let own = self.hand_over_names();
        let is_same = |teardown: &&Use| teardown.hand_over_names() == own;
        if told.iter().any(is_same) {
            return None;
        }
        let names: Vec<String> = HAND_OVER_NAMES
            .iter()
            .zip(own)
            .map(|((parameter, _), name)| format!("`{parameter}: {name}`"))
            .collect();
        Some(change(
            "hand-over.names",
            "no `orka-teardown` is told the names that `orka-init` uses: it deletes others, and leaves these and the token"
                .to_owned(),
            &format!("give it what `orka-init` has: {}", names.join(", ")),
        ))
    }

    /// The names of the Secret, of the ConfigMap and of their keys, as given or by default.
    fn hand_over_names(&self) -> [&str; 4] {
        HAND_OVER_NAMES.map(|(parameter, default)| {
            let given = self.params().find(|(name, _)| *name == parameter);
            given.and_then(|(_, value)| value).unwrap_or(default)
        })
    }

    fn time(&self) -> Option<Finding> {
        let own = self
            .params()
            .any(|(name, value)| name == "timeout" && value != Some(""));
        let allowed = self.timeout.filter(|time| *time < TIME_NEEDED)?;
        (!own && self.task != OldTask::Teardown).then(|| short_time(allowed))
    }

    /// What is to be said of it beside the others of its Pipeline.
    pub(super) fn findings_among(&self, uses: &[Use], is_all_seen: bool) -> Vec<Finding> {
        let mut findings = Vec::from_iter(self.finding_apart(uses, is_all_seen));
        let signs_in_anew = matches!(self.task, OldTask::Deploy | OldTask::Teardown);
        let init = uses.iter().find(|it| it.task == OldTask::Init);
        if let Some(init) = init.filter(|_| signs_in_anew) {
            let lacks = |name: &str| !self.params().any(|(own, _)| own == name);
            let other: Vec<String> = init
                .params()
                .filter(|param| param.0.starts_with("orka-creds-") && lacks(param.0))
                .filter(|param| !CREDENTIALS.contains(param))
                .map(|(name, value)| format!("`{name}: {}`", value.unwrap_or_default()))
                .collect();
            if !other.is_empty() {
                findings.push(change(
                    "credentials.elsewhere",
                    format!(
                        "`{}` signs in by itself and looks for the Secret `orka-creds`",
                        self.task.name()
                    ),
                    &format!("give it what `orka-init` has: {}", other.join(", ")),
                ));
            }
        }
        let has_teardown = uses.iter().any(|it| it.task == OldTask::Teardown);
        if self.task == OldTask::Init && !has_teardown {
            findings.push(check(
                "teardown.none",
                "no `orka-teardown` in this Pipeline: its VM config stays on the cluster"
                    .to_owned(),
                "add `orka-teardown` under `finally`",
            ));
        }
        findings.extend(self.left_by_teardowns(uses));
        findings
    }
}

/// What is to be said of a run itself.
pub(super) fn of_run(kind: &str, spec: &Value, is_surely_ours: bool) -> Vec<Finding> {
    // v1beta1 has it at the top.
    let template = &spec["taskRunTemplate"];
    let either = |member: &str| match template.get(member) {
        Some(value) => value,
        None => &spec[member],
    };
    let mut findings = Vec::from_iter(overrides::of_user(either("podTemplate"), is_surely_ours));
    let has_group = either("podTemplate")["securityContext"]
        .get("fsGroup")
        .is_some();
    let is_volume = |binding: &Value| {
        ["persistentVolumeClaim", "volumeClaimTemplate", "csi"]
            .iter()
            .any(|source| binding.get(*source).is_some())
    };
    if !has_group && list(&spec["workspaces"]).any(is_volume) {
        findings.push(check(
            "run.fs-group",
            "the step is not root: a volume that belongs to root cannot be written".to_owned(),
            "give the run `podTemplate: {securityContext: {fsGroup: 65532}}`, or Tekton's `default-pod-template` once",
        ));
    }
    if kind == "PipelineRun" {
        let times = ["pipeline", "tasks"].map(|name| duration(&spec["timeouts"][name]));
        let shortest = times.into_iter().flatten().min();
        findings.extend(shortest.filter(|time| *time < TIME_NEEDED).map(short_time));
    }
    findings
}

/// Whoever names the account of the older Tasks: runs, for all tasks or for one, pods, triggers, and Tekton's default.
pub(super) fn of_account(document: &Value, is_handed_over: bool) -> Option<Finding> {
    names_account(document).then(|| {
        let hint = match is_handed_over {
            false => {
                "take it out before `orka-svc` is deleted; a step of yours that uses its rights needs an account of its own"
            }
            true => {
                "before `orka-svc` is deleted, name the account of `tekton/overlays/hand-over` for `orka-init` and \
                 `orka-teardown`, and none elsewhere; a step of yours that uses its rights needs an account of its own"
            }
        };
        check(
            "run.service-account",
            "it names the service account `orka-svc`, which these Tasks do not need; without that account no pod of it starts"
                .to_owned(),
            hint,
        )
    })
}

fn names_account(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(names_account),
        Value::Object(members) => members.iter().any(|(name, member)| match name.as_str() {
            "serviceAccountName" | "taskServiceAccountName" | "default-service-account" => {
                member == "orka-svc"
            }
            // Documents of their own.
            "items" | "resourcetemplates" => false,
            _ => names_account(member),
        }),
        _ => false,
    }
}

/// The API version of the document.
pub(super) fn of_version(document: &Value) -> Option<Finding> {
    match document["apiVersion"].as_str()? {
        "tekton.dev/v1beta1" => Some(differs(
            "version.v1beta1",
            "`tekton.dev/v1beta1` is deprecated; it works as long as Tekton serves it".to_owned(),
        )),
        "tekton.dev/v1alpha1" => Some(change(
            "version.v1alpha1",
            "`tekton.dev/v1alpha1` is not served by any release of Tekton that these Tasks run on"
                .to_owned(),
            "make it `tekton.dev/v1`",
        )),
        _ => None,
    }
}

/// A duration as Go and Kubernetes write it, such as `1h30m`; none where there is none, or zero, which means no limit.
fn duration(value: &Value) -> Option<Duration> {
    let time = humantime::parse_duration(value.as_str()?).ok()?;
    (!time.is_zero()).then_some(time)
}

fn short_time(allowed: Duration) -> Finding {
    check(
        "run.timeout",
        format!(
            "Tekton ends this after {}, before the run's own deadline of 55m",
            humantime::format_duration(allowed)
        ),
        "give `timeout` some minutes less, so that VMs are deleted in order",
    )
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// It does not work as it is.
pub(super) fn change(code: &'static str, message: String, hint: &str) -> Finding {
    finding(Weight::Change, code, message, Some(hint))
}

/// Somebody has to look.
pub(super) fn check(code: &'static str, message: String, hint: &str) -> Finding {
    finding(Weight::Check, code, message, Some(hint))
}

/// It works in another way.
pub(super) fn differs(code: &'static str, message: String) -> Finding {
    finding(Weight::Differs, code, message, None)
}

fn finding(weight: Weight, code: &'static str, message: String, hint: Option<&str>) -> Finding {
    Finding {
        weight,
        code,
        message,
        hint: hint.map(str::to_owned),
    }
}
