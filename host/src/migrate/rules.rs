//! What the older Tasks took, and what becomes of it.

use std::time::Duration;

use serde_json::Value;

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

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "orka-full",
            Self::Init => "orka-init",
            Self::Deploy => "orka-deploy",
            Self::Teardown => "orka-teardown",
        }
    }
}

/// What becomes of a parameter.
enum Fate {
    Same,
    /// Accepted; the value that is no surprise, and why it has no effect.
    NoEffect(&'static str, &'static str),
    /// Works on Intel nodes alone, unless it has this value.
    Intel(&'static str),
    /// Of the first drafts of the Task; what takes its place.
    Gone(&'static str),
}

const IMAGE: Fate = Fate::NoEffect("", "the image comes with the Task");
const TOKEN: &str = "no token is handed from Task to Task, unless `hand-over` is `kubernetes`; each signs in by itself";

fn fate(param: &str) -> Option<Fate> {
    Some(match param {
        "base-image"
        | "cpu-count"
        | "vcpu-count"
        | "vm-metadata"
        | "tag"
        | "tag-required"
        | "scheduler"
        | "script"
        | "copy-build"
        | "verbose"
        | "delete-vm"
        | "vnc-console"
        | "orka-creds-secret"
        | "orka-creds-email-key"
        | "orka-creds-password-key"
        | "ssh-key"
        | "ssh-secret"
        | "ssh-username-key"
        | "ssh-password-key"
        | "orka-vm-name-config"
        | "orka-vm-name-config-key"
        | "io-boost" => Fate::Same,
        "orka-image" | "orka-tekton-runner-image" | "docker-image" => IMAGE,
        "user-home" => Fate::NoEffect("/tekton/home", "the program uses no home directory"),
        "orka-token-secret" => Fate::NoEffect("orka-token", TOKEN),
        "orka-token-secret-key" => Fate::NoEffect("token", TOKEN),
        "system-serial" => Fate::Intel(""),
        "gpu-passthrough" => Fate::Intel("false"),
        "orka-api-url" => Fate::Gone(
            "put the endpoint into the ConfigMap `orka-tekton-config` as `ORKA_API`, or give `orka-api`",
        ),
        "ssh-username" | "ssh-password" => Fate::Gone(
            "put the login into the Secret `orka-ssh-creds` as `username` and `password`",
        ),
        "ssh-secret-key" => Fate::Gone("call it `ssh-password-key`"),
        _ => return None,
    })
}

/// What names the Secret and the ConfigMap of the older hand-over, and its defaults.
const HAND_OVER_NAMES: [(&str, &str); 4] = [
    ("orka-token-secret", "orka-token"),
    ("orka-token-secret-key", "token"),
    ("orka-vm-name-config", "orka-vm-name"),
    ("orka-vm-name-config-key", "vm-name"),
];

/// Parameters that the Tasks have beyond the older ones; enough not to call them unknown.
const NEW: [&str; 34] = [
    "hand-over",
    "script-file",
    "env",
    "secret-env",
    "shell",
    "artifacts",
    "artifacts-when",
    "artifacts-max-size",
    "artifacts-max-count",
    "detach",
    "silence-timeout",
    "exclude",
    "memory",
    "node",
    "reserved-ports",
    "vm-options",
    "deploy-attempts",
    "capacity-wait",
    "keep",
    "keep-for",
    "plugin",
    "plugin-params",
    "grants",
    "timeout",
    "orka-api",
    "orka-namespace",
    "deploy-timeout",
    "ssh-timeout",
    "ssh-host-key",
    "report",
    "orka-creds-token-key",
    "vm-config",
    "init-wait-seconds",
    "capacity-wait-seconds",
];

/// A place where one of the Tasks is used.
pub(super) struct Use<'a> {
    pub(super) task: OldTask,
    user: &'a Value,
}

impl<'a> Use<'a> {
    /// None where another Task is used.
    pub(super) fn of(user: &'a Value) -> Option<Self> {
        let reference = &user["taskRef"];
        let resolved = || {
            let params = reference["params"].as_array()?;
            let of_name = params.iter().find(|param| param["name"] == "name")?;
            of_name["value"].as_str()
        };
        let name = reference["name"].as_str().or_else(resolved)?;
        let task = OldTask::ALL.into_iter().find(|task| task.name() == name)?;
        Some(Self { task, user })
    }

    /// What the Pipeline calls it.
    pub(super) fn name(&self) -> Option<&'a str> {
        self.user["name"].as_str()
    }

    fn params(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let params = self.user["params"].as_array().into_iter().flatten();
        params.filter_map(|param| Some((param["name"].as_str()?, param["value"].as_str())))
    }

    /// What is to be said of it alone.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let reference = &self.user["taskRef"];
        if reference.get("bundle").is_some() || reference.get("resolver").is_some() {
            findings.push(change(
                "reference.elsewhere",
                format!("`{}` is taken from a catalog or a bundle", self.task.name()),
                "refer to the Task that is installed here: `taskRef: {name: …}` and nothing else",
            ));
        }
        if reference["kind"] == "ClusterTask" {
            findings.push(change(
                "reference.cluster-task",
                "ClusterTasks are no part of Tekton any more".to_owned(),
                "install the Task into the namespace and leave `kind` out",
            ));
        }
        let hands_over = self.hands_over();
        for (name, value) in self.params() {
            if !(hands_over && name.starts_with("orka-token-secret")) {
                findings.extend(of_param(name, value));
            }
        }
        findings.extend(self.time());
        findings
    }

    /// Whether it keeps the Secret and the ConfigMap of the older Tasks.
    fn hands_over(&self) -> bool {
        matches!(self.task, OldTask::Init | OldTask::Teardown)
            && self
                .params()
                .any(|param| param == ("hand-over", Some("kubernetes")))
    }

    /// What no `orka-teardown` of the Pipeline deletes of what this `orka-init` hands over.
    fn left_by_teardowns(&self, uses: &[Use<'_>]) -> Option<Finding> {
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
        let is_same = |teardown: &&Use<'_>| teardown.hand_over_names() == own;
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
        let allowed = duration(&self.user["timeout"]).filter(|time| *time < TIME_NEEDED)?;
        (!own && self.task != OldTask::Teardown).then(|| short_time(allowed))
    }

    /// What is to be said of it beside the others of its Pipeline.
    pub(super) fn findings_among(&self, uses: &[Use<'_>]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let signs_in_anew = matches!(self.task, OldTask::Deploy | OldTask::Teardown);
        let init = uses.iter().find(|it| it.task == OldTask::Init);
        if let Some(init) = init.filter(|_| signs_in_anew) {
            let lacks = |name: &str| !self.params().any(|(own, _)| own == name);
            let other: Vec<String> = init
                .params()
                .filter(|(name, _)| name.starts_with("orka-creds-") && lacks(name))
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
            findings.push(Finding {
                weight: Weight::Check,
                code: "teardown.none",
                message: "no `orka-teardown` in this Pipeline: its VM config stays on the cluster"
                    .to_owned(),
                hint: Some("add `orka-teardown` under `finally`".to_owned()),
            });
        }
        findings.extend(self.left_by_teardowns(uses));
        findings
    }
}

fn of_param(name: &str, value: Option<&str>) -> Option<Finding> {
    let finding = |weight, code, message: String, hint: Option<&str>| {
        Some(Finding {
            weight,
            code,
            message,
            hint: hint.map(str::to_owned),
        })
    };
    match fate(name) {
        Some(Fate::Same) => None,
        Some(Fate::NoEffect(expected, _)) if value == Some(expected) => None,
        Some(Fate::NoEffect(_, why)) => finding(
            Weight::Differs,
            "param.no-effect",
            format!("the parameter `{name}` has no effect: {why}"),
            None,
        ),
        Some(Fate::Intel(expected)) if value == Some(expected) => None,
        Some(Fate::Intel(_)) => finding(
            Weight::Check,
            "param.intel",
            format!(
                "the parameter `{name}` is for Intel nodes; Apple silicon refuses it, and the run fails with Orka's words"
            ),
            Some("leave it out unless the image ends in `.img`"),
        ),
        Some(Fate::Gone(hint)) => finding(
            Weight::Change,
            "param.gone",
            format!("there is no parameter `{name}`"),
            Some(hint),
        ),
        None if NEW.contains(&name) => None,
        None => finding(
            Weight::Check,
            "param.unknown",
            format!("`{name}` was no parameter of the older Task"),
            Some("look it up in the README of the Task"),
        ),
    }
}

/// What is to be said of a run itself.
pub(super) fn of_run(kind: &str, spec: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    // v1beta1 has both of these at the top.
    let template = &spec["taskRunTemplate"];
    let either = |member: &str| match template.get(member) {
        Some(value) => value,
        None => &spec[member],
    };
    if either("serviceAccountName") == "orka-svc" {
        findings.push(Finding {
            weight: Weight::Differs,
            code: "run.service-account",
            message: "the service account `orka-svc` and its rights are not needed any more"
                .to_owned(),
            hint: None,
        });
    }
    let has_group = either("podTemplate")["securityContext"]
        .get("fsGroup")
        .is_some();
    let workspaces = spec["workspaces"].as_array().into_iter().flatten();
    let is_volume = |binding: &Value| {
        ["persistentVolumeClaim", "volumeClaimTemplate"]
            .iter()
            .any(|source| binding.get(*source).is_some())
    };
    if !has_group && workspaces.into_iter().any(is_volume) {
        findings.push(Finding {
            weight: Weight::Check,
            code: "run.fs-group",
            message: "the step is not root: a volume that belongs to root cannot be written".to_owned(),
            hint: Some(
                "give the run `podTemplate: {securityContext: {fsGroup: 65532}}`, or Tekton's `default-pod-template` once".to_owned(),
            ),
        });
    }
    if kind == "PipelineRun" {
        let times = ["pipeline", "tasks"].map(|name| duration(&spec["timeouts"][name]));
        let shortest = times.into_iter().flatten().min();
        findings.extend(shortest.filter(|time| *time < TIME_NEEDED).map(short_time));
    }
    findings
}

/// Whatever reads what the older `orka-init` wrote into the namespace.
pub(super) fn of_hand_over(document: &Value) -> Option<Finding> {
    let reads = |value: &Value| {
        let name = |reference: &str| value[reference]["name"].as_str();
        name("secretKeyRef") == Some("orka-token")
            || name("configMapKeyRef") == Some("orka-vm-name")
            || value["secret"]["secretName"] == "orka-token"
            || value["configMap"]["name"] == "orka-vm-name"
    };
    if !any(document, &reads) {
        return None;
    }
    let hands_over = |value: &Value| value["name"] == "hand-over" && value["value"] == "kubernetes";
    Some(if any(document, &hands_over) {
        Finding {
            weight: Weight::Check,
            code: "hand-over.role",
            message: "the service account of `orka-init` and `orka-teardown` has to keep a Secret and a ConfigMap".to_owned(),
            hint: Some("`kubectl apply -k tekton/overlays/hand-over` gives it that right".to_owned()),
        }
    } else {
        change(
            "hand-over.read",
            "something reads the Secret `orka-token` or the ConfigMap `orka-vm-name`, which are not written by themselves any \
             more"
                .to_owned(),
            "give `orka-init` and `orka-teardown` the parameter `hand-over: kubernetes`; or sign in with the Secret `orka-creds`, \
             and take the VM config's name from the result `vm-name` of `orka-init`",
        )
    })
}

/// The API version of the document.
pub(super) fn of_version(document: &Value) -> Option<Finding> {
    (document["apiVersion"] == "tekton.dev/v1beta1").then(|| Finding {
        weight: Weight::Differs,
        code: "version.v1beta1",
        message: "`tekton.dev/v1beta1` is deprecated; it works as long as Tekton serves it"
            .to_owned(),
        hint: None,
    })
}

fn any(value: &Value, test: &impl Fn(&Value) -> bool) -> bool {
    test(value)
        || match value {
            Value::Array(items) => items.iter().any(|item| any(item, test)),
            Value::Object(members) => members.values().any(|member| any(member, test)),
            _ => false,
        }
}

/// A duration as Go and Kubernetes write it, such as `1h30m`; none where there is none, or zero, which means no limit.
fn duration(value: &Value) -> Option<Duration> {
    let time = humantime::parse_duration(value.as_str()?).ok()?;
    (!time.is_zero()).then_some(time)
}

fn short_time(allowed: Duration) -> Finding {
    Finding {
        weight: Weight::Check,
        code: "run.timeout",
        message: format!(
            "Tekton ends this after {}, before the run's own deadline of 55m",
            humantime::format_duration(allowed)
        ),
        hint: Some("give `timeout` some minutes less, so that VMs are deleted in order".to_owned()),
    }
}

fn change(code: &'static str, message: String, hint: &str) -> Finding {
    Finding {
        weight: Weight::Change,
        code,
        message,
        hint: Some(hint.to_owned()),
    }
}
