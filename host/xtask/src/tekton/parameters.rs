//! The parameters of each Task: those of its plugin, and those of the program and its credentials.

use plugin_manifest::{Manifest, Parameter, ParameterType, ParameterValue};

use super::task::Task;

/// How a parameter reaches the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As a section of the step's file, of this kind.
    Section(String),
    /// As two of them: for the plugin and for the program.
    Sections(String, String),
    /// As a name in the Task's volumes: nothing of it reaches the program.
    Volume,
    /// As an environment variable (a StepAction has no file).
    Variable(String),
}

/// A parameter as Tekton has it: always a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskParameter {
    pub(super) name: String,
    pub(super) description: String,
    /// None where it is required.
    pub(super) default: Option<String>,
    pub(super) way: Way,
}

impl TaskParameter {
    pub(super) fn new(name: &str, description: &str, default: &str, way: Way) -> Self {
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            default: Some(default.to_owned()),
            way,
        }
    }

    /// From a plugin's manifest.
    pub(super) fn of_plugin(name: &str, parameter: &Parameter, way: Way) -> Self {
        Self {
            name: name.to_owned(),
            description: described(parameter),
            default: (!parameter.required).then(|| default(parameter)),
            way,
        }
    }

    fn set(name: &str, description: &str) -> Self {
        Self::new(name, description, "", Way::Section(format!("set {name}")))
    }

    fn ignored(name: &str, description: &str, default: &str) -> Self {
        Self::new(
            name,
            description,
            default,
            Way::Section(format!("ignored {name}")),
        )
    }
}

fn described(parameter: &Parameter) -> String {
    match &parameter.kind {
        ParameterType::Choice { choices } => {
            let choices: Vec<String> = choices.iter().map(|it| format!("`{it}`")).collect();
            format!("{}: {}", parameter.description, choices.join(" or "))
        }
        _ => parameter.description.clone(),
    }
}

fn default(parameter: &Parameter) -> String {
    match &parameter.default {
        None => String::new(),
        Some(ParameterValue::List(items)) => items.join("\n"),
        Some(ParameterValue::Text(text)) => text.clone(),
        Some(ParameterValue::Boolean(flag)) => flag.to_string(),
        Some(ParameterValue::Integer(number)) => number.to_string(),
    }
}

/// All parameters of a Task, in the order in which they are written.
pub(super) fn of(task: &Task, manifest: &Manifest) -> Vec<TaskParameter> {
    let section = |name: &str| Way::Section(format!("param {name}"));
    let way = |name: &str| match program_flag(task, name) {
        Some(flag) => Way::Sections(format!("param {name}"), format!("set {flag}")),
        None => section(name),
    };
    let mut own: Vec<TaskParameter> = manifest
        .parameters
        .iter()
        .filter(|(name, _)| *name != "script")
        .map(|(name, parameter)| TaskParameter::of_plugin(name, parameter, way(name)))
        .collect();
    // What has to be given comes first; the rest is by name.
    own.sort_by_key(|parameter| parameter.default.is_some());
    let mut all = own;
    if let Some(script) = manifest.parameters.get("script") {
        let way = Way::Section("script".to_owned());
        all.insert(
            all.partition_point(|it| it.default.is_none()),
            TaskParameter::of_plugin("script", script, way),
        );
    }
    if task.takes_plugins {
        all.extend(plugin());
    }
    all.extend(program(task));
    all.extend(orka_credentials());
    if task.uses_ssh {
        all.extend(ssh_credentials());
    }
    all.extend(older(task));
    all
}

fn plugin() -> Vec<TaskParameter> {
    vec![
        TaskParameter::new(
            "plugin",
            "The build policy: the name of a plugin in the image or in the workspace `plugin`, a path, or what is fetched by digest: \
             `oci://registry/repository@sha256:…`, `https://…#sha256:…`",
            "build",
            Way::Section("set plugin".to_owned()),
        ),
        TaskParameter::new(
            "plugin-params",
            "Parameters of a plugin of your own, as NAME=VALUE one a line, or as a JSON object of texts",
            "",
            Way::Section("params".to_owned()),
        ),
        TaskParameter::new(
            "grants",
            "What a plugin of your own may do, in TOML; the workspace `grants` can give it instead. A plugin of the image \
             needs none",
            "",
            Way::Section("grants".to_owned()),
        ),
    ]
}

fn program(task: &Task) -> Vec<TaskParameter> {
    let mut all = vec![
        TaskParameter::set(
            "timeout",
            "The run's own deadline, such as `50m` (default `55m`). Keep it some minutes below the TaskRun's timeout (60 min \
             if nothing else is said), so that VMs are deleted in order",
        ),
        TaskParameter::set(
            "orka-api",
            "The Orka endpoint, such as `http://10.221.188.20`; empty takes `ORKA_API` of the ConfigMap `orka-tekton-config`",
        ),
        TaskParameter::set(
            "orka-namespace",
            "The Orka namespace (3.x); empty takes `orka-default`, or `ORKA_NAMESPACE` of that ConfigMap",
        ),
    ];
    if task.uses_ssh {
        all.extend([
            TaskParameter::set(
                "deploy-timeout",
                "How long one deployment may take (default `10m`); the first of an image on a node takes minutes",
            ),
            TaskParameter::set(
                "ssh-timeout",
                "How long a deployed VM may take until it accepts the login (default `10m`)",
            ),
            TaskParameter::set(
                "ssh-host-key",
                "The host key that VMs of the image show, as `SHA256:…`; empty takes `known_hosts` of the Secret, or trusts \
                 what a VM shows first",
            ),
            TaskParameter::set(
                "report",
                "A file for the report as JSON, with a page for people (`.html`) beside it, such as \
                 `/workspace/orka/report.json`",
            ),
        ]);
    }
    all
}

fn orka_credentials() -> Vec<TaskParameter> {
    vec![
        TaskParameter::new(
            "orka-creds-secret",
            "The Secret with the Orka credentials; one of the name `tekton-orka-creds` stands in where it is missing",
            "orka-creds",
            Way::Volume,
        ),
        TaskParameter::new(
            "orka-creds-email-key",
            "The Secret's key for the user's e-mail address (Orka 2.x)",
            "email",
            Way::Volume,
        ),
        TaskParameter::new(
            "orka-creds-password-key",
            "The Secret's key for the user's password (Orka 2.x)",
            "password",
            Way::Volume,
        ),
        TaskParameter::new(
            "orka-creds-token-key",
            "The Secret's key for a service account token (Orka 3.x)",
            "token",
            Way::Volume,
        ),
    ]
}

fn ssh_credentials() -> Vec<TaskParameter> {
    vec![
        TaskParameter::new(
            "ssh-secret",
            "The Secret with the login of the VMs; its keys `passphrase` and `known_hosts` are used where they are there",
            "orka-ssh-creds",
            Way::Volume,
        ),
        TaskParameter::new(
            "ssh-username-key",
            "The Secret's key for the user name",
            "username",
            Way::Volume,
        ),
        TaskParameter::new(
            "ssh-password-key",
            "The Secret's key for the password, or with `ssh-key` for the private key",
            "password",
            Way::Volume,
        ),
        TaskParameter::new(
            "ssh-key",
            "Whether that key holds a private key",
            "false",
            Way::Section("set ssh-key".to_owned()),
        ),
    ]
}

/// What the older Tasks had: accepted, so that Pipelines that give it stay as they are.
fn older(task: &Task) -> Vec<TaskParameter> {
    let mut all = Vec::new();
    let image = "Accepted and without effect: the image comes with the Task";
    for name in ["orka-image", "orka-tekton-runner-image", "docker-image"] {
        all.push(TaskParameter::ignored(name, image, ""));
    }
    if task.uses_ssh {
        all.push(TaskParameter::ignored(
            "user-home",
            "Accepted and without effect: the program uses no home directory",
            "/tekton/home",
        ));
    }
    if task.hands_over() {
        all.extend(older_hand_over(task));
    } else if task.is_modular {
        let text = "Accepted and without effect: no token is handed from Task to Task";
        all.push(TaskParameter::ignored(
            "orka-token-secret",
            text,
            "orka-token",
        ));
        all.push(TaskParameter::ignored(
            "orka-token-secret-key",
            text,
            "token",
        ));
    }
    all
}

/// The flag of the program that a parameter of the older hand-over is for.
fn program_flag(task: &Task, parameter: &str) -> Option<&'static str> {
    let flag = match parameter {
        "orka-token-secret" => "token-secret",
        "orka-token-secret-key" => "token-secret-key",
        "orka-vm-name-config" => "vm-name-config",
        "orka-vm-name-config-key" => "vm-name-config-key",
        _ => return None,
    };
    task.hands_over().then_some(flag)
}

/// The Secret and the ConfigMap of the older Tasks.
fn older_hand_over(task: &Task) -> Vec<TaskParameter> {
    let mut all = vec![TaskParameter::set(
        "hand-over",
        "`kubernetes` hands over as the older Tasks did, for steps of others: `orka-init` keeps the token in a Secret and the VM \
         config's name in a ConfigMap, `orka-teardown` deletes both, and revokes a token that `orka-init` got by a login where that is safe; give it to both. On Orka 3 \
         the Secret holds a copy of the service account token, which nobody can revoke. Only in a PipelineRun; the service account \
         needs the Role of `tekton/overlays/hand-over`. Empty writes nothing into the namespace",
    )];
    let mut named = |name: &str, description: &str, default: &str| {
        let flag = program_flag(task, name).unwrap_or_default();
        let way = Way::Section(format!("set {flag}"));
        all.push(TaskParameter::new(name, description, default, way));
    };
    named(
        "orka-token-secret",
        "The Secret for the token, with `hand-over: kubernetes`. Runs at the same time need a name each, and so does each `orka-init` of a \
         run. Names that are made for each run need rights on all Secrets of the namespace: use a namespace for such builds, or \
         fixed names and one run at a time",
        "orka-token",
    );
    named("orka-token-secret-key", "Its key", "token");
    // `orka-init` has these two from its plugin.
    if task.name == "orka-teardown" {
        named(
            "orka-vm-name-config",
            "The ConfigMap for the VM config's name, with `hand-over: kubernetes`",
            "orka-vm-name",
        );
        named("orka-vm-name-config-key", "Its key", "vm-name");
    }
    all
}
