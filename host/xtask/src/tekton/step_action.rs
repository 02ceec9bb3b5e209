//! The StepAction: the program between a team's own steps.
//!
//! A StepAction may not put parameters into a `script`, so values go through the environment, where Kubernetes alters `$$`
//! and `$(NAME)`. Therefore only what has no business with either is a parameter, and the program refuses one with a `$` in it
//! (`--step-action`). Free text comes from a file, or from an annotation: what a `fieldRef` gives is not expanded.

use plugin_manifest::{Manifest, STEP_ACTION_PARAMETERS, STEP_ACTION_SCRIPT, environment_name};

use super::parameters::{TaskParameter, Way};
use super::task::{
    IDENTITY, IMAGE, OWN_RESULTS, PROGRAM, SECURITY_CONTEXT, annotations, header, params, results,
};
use super::yaml::Yaml;

/// The StepAction's version.
pub(super) const VERSION: &str = "0.1";

/// Where the one free text is that Kubernetes leaves alone.
const SCRIPT: &str = "metadata.annotations['orka-step/script']";

/// The program's own settings, as name, variable, default and description.
const OF_PROGRAM: [(&str, &str, &str, &str); 8] = [
    (
        "plugin",
        "ORKA_PLUGIN",
        "build",
        "The build policy: the name of a plugin in the image, the path of one in a workspace, or what is fetched by digest: \
         `oci://registry/repository@sha256:…`, `https://…#sha256:…`",
    ),
    (
        "registry-credentials",
        "ORKA_REGISTRY_CREDENTIALS",
        "",
        "The path of a directory or file with logins for registries, as a Secret of the type `kubernetes.io/dockerconfigjson` \
         is mounted",
    ),
    (
        "grants",
        "ORKA_GRANTS",
        "",
        "The path of a file with grants for a plugin of your own",
    ),
    (
        "guards",
        "ORKA_GUARDS",
        "",
        "The path of a directory of guards: its file `guards` names one a line",
    ),
    (
        "secrets",
        "ORKA_SECRETS",
        "",
        "The path of a directory with secrets for a plugin of your own",
    ),
    (
        "timeout",
        "ORKA_TIMEOUT",
        "55m",
        "The run's own deadline; keep it below the TaskRun's timeout",
    ),
    (
        "report",
        "ORKA_REPORT",
        "",
        "A file for the report as JSON, with a page for people beside it",
    ),
    (
        "ssh-key",
        "ORKA_SSH_KEY",
        "false",
        "Whether the key `password` of the SSH credentials holds a private key",
    ),
];

pub(super) fn parameters(build: &Manifest) -> Vec<TaskParameter> {
    let variable = |name: &str| Way::Variable(name.to_owned());
    let required = |name: &str, description: &str, way: Way| TaskParameter {
        name: name.to_owned(),
        description: description.to_owned(),
        default: None,
        way,
    };
    let mut all = vec![
        required(
            "workspace-path",
            "The directory that is copied into the VM and back, such as `$(workspaces.source.path)`",
            variable("ORKA_WORKSPACE"),
        ),
        required(
            "orka-credentials",
            "The Task's volume with the Orka credentials, as the files `email` and `password`, or `token`",
            Way::Volume,
        ),
        required(
            "ssh-credentials",
            "The Task's volume with the login of the VMs, as the files `username` and `password`, or a private key",
            Way::Volume,
        ),
    ];
    let of_plugin = STEP_ACTION_PARAMETERS.into_iter();
    all.extend(of_plugin.filter_map(|name| {
        let parameter = build.parameters.get(name)?;
        let way = variable(&environment_name(name));
        let mut parameter = TaskParameter::of_plugin(name, parameter, way);
        // Another plugin may need none.
        parameter.default.get_or_insert_default();
        Some(parameter)
    }));
    all.extend(OF_PROGRAM.map(|(name, flag, default, description)| {
        TaskParameter::new(name, description, default, variable(flag))
    }));
    all
}

pub(super) fn yaml(parameters: &[TaskParameter]) -> String {
    let mut yaml = Yaml::default();
    yaml.line(
        0,
        "# Made by `cargo xtask tekton` from plugins/build/plugin.toml. Change it there.",
    );
    header(
        &mut yaml,
        "tekton.dev/v1beta1",
        "StepAction",
        "orka-step",
        VERSION,
    );
    annotations(
        &mut yaml,
        "MacStadium Orka Step",
        "orka, macstadium, macos, ios, xcode, build",
    );
    yaml.line(0, "spec:");
    yaml.prose(
        1,
        "description",
        "Runs a build script on a macOS VM of a MacStadium Orka cluster, as one step among others\n\nThe script is a file of the \
         workspace (`script-file`). Kubernetes alters `$$` and `$(NAME)` in a StepAction's parameters, so a `$` in one of them is \
         refused; what needs it belongs into that file, into the annotation `orka-step/script` of the TaskRun, or into the Task \
         `orka-full`.",
    );
    params(&mut yaml, parameters);
    let own = OWN_RESULTS.map(|(name, text)| (name.to_owned(), text.to_owned()));
    results(&mut yaml, &own);
    yaml.text(1, "image", IMAGE);
    yaml.line(1, &format!("command: [{PROGRAM}, run]"));
    yaml.line(1, "args:");
    yaml.line(2, "- --step-action");
    yaml.line(2, "- --results=$(step.results.outcome.path)");
    yaml.line(2, "- --orka-credentials=/etc/orka-step/orka");
    yaml.line(2, "- --ssh-credentials=/etc/orka-step/ssh");
    yaml.line(1, "env:");
    yaml.lines(2, IDENTITY);
    let script = format!(
        "- name: {STEP_ACTION_SCRIPT}\n  valueFrom:\n    fieldRef:\n      fieldPath: {SCRIPT}\n"
    );
    yaml.lines(2, &script);
    for parameter in parameters {
        if let Way::Variable(variable) = &parameter.way {
            yaml.text(2, "- name", variable);
            yaml.line(3, &format!("value: $(params.{})", parameter.name));
        }
    }
    yaml.lines(1, SECURITY_CONTEXT);
    yaml.line(1, "volumeMounts:");
    for (parameter, directory) in [("orka-credentials", "orka"), ("ssh-credentials", "ssh")] {
        yaml.line(2, &format!("- name: $(params.{parameter})"));
        yaml.line(3, &format!("mountPath: /etc/orka-step/{directory}"));
        yaml.line(3, "readOnly: true");
    }
    yaml.into_text()
}
