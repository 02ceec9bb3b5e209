//! What the older Tasks took, and what becomes of it.

use super::Finding;
use super::rules::{OldTask, change, check, differs};

/// What becomes of a parameter that does not stay as it was.
enum Fate {
    /// Accepted; the value that is no surprise, and why it has no effect.
    NoEffect(&'static str, &'static str),
    /// Works on Intel nodes alone, unless it has this value.
    Intel(&'static str),
    /// Of the first drafts of the Task; what takes its place.
    Gone(&'static str),
}

const IMAGE: Fate = Fate::NoEffect("", "the image comes with the Task");
const TOKEN: &str = "no token is handed from Task to Task, unless `hand-over` is `kubernetes`; each signs in by itself";
const TOKEN_OF_DEPLOY: &str = "`orka-deploy` signs in by itself";

fn fate(task: OldTask, param: &str) -> Option<Fate> {
    let token = match task {
        OldTask::Deploy => TOKEN_OF_DEPLOY,
        _ => TOKEN,
    };
    Some(match param {
        "orka-image" | "orka-tekton-runner-image" | "docker-image" => IMAGE,
        "user-home" => Fate::NoEffect("/tekton/home", "the program uses no home directory"),
        "orka-token-secret" => Fate::NoEffect("orka-token", token),
        "orka-token-secret-key" => Fate::NoEffect("token", token),
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

/// What is to be said of a parameter with its value, where that is known.
pub(super) fn of_param(task: OldTask, name: &str, value: Option<&str>) -> Option<Finding> {
    let works_in_vm = matches!(task, OldTask::Full | OldTask::Deploy);
    let is_known = COMMON.contains(&name)
        || known(task).contains(&name)
        || works_in_vm && OF_VM.contains(&name);
    if works_in_vm && name == "script" {
        return of_script(value?);
    }
    match fate(task, name) {
        Some(Fate::Gone(hint)) => Some(change(
            "param.gone",
            format!("there is no parameter `{name}`"),
            hint,
        )),
        _ if !is_known => Some(check(
            "param.unknown",
            format!(
                "`{}` has no parameter `{name}`, and Tekton passes over it",
                task.name()
            ),
            "look it up in the README of the Task",
        )),
        Some(Fate::NoEffect(expected, why)) if value != Some(expected) => Some(differs(
            "param.no-effect",
            format!("the parameter `{name}` has no effect: {why}"),
        )),
        Some(Fate::Intel(expected)) if value != Some(expected) => Some(check(
            "param.intel",
            format!(
                "the parameter `{name}` is for Intel nodes; on Apple silicon the run fails and says so"
            ),
            "leave it out unless the image ends in `.img`",
        )),
        _ => None,
    }
}

/// The older Tasks pasted the script between two marks of the shell, of which `EOF` is the second. With a carriage return behind
/// it, it is none.
fn of_script(script: &str) -> Option<Finding> {
    script.split('\n').any(|line| line == "EOF").then(|| {
        differs(
            "script.eof",
            "the script has a line `EOF`: the older Task sent no more than what is above it, and ran the rest in its own \
             container, as root; now the whole script runs in the VM"
                .to_owned(),
        )
    })
}

/// Parameters that all four Tasks have.
const COMMON: [&str; 10] = [
    "timeout",
    "orka-api",
    "orka-namespace",
    "orka-creds-secret",
    "orka-creds-email-key",
    "orka-creds-password-key",
    "orka-creds-token-key",
    "orka-image",
    "orka-tekton-runner-image",
    "docker-image",
];

/// Parameters of those that work in a VM.
const OF_VM: [&str; 9] = [
    "deploy-timeout",
    "ssh-timeout",
    "ssh-host-key",
    "report",
    "ssh-secret",
    "ssh-username-key",
    "ssh-password-key",
    "ssh-key",
    "user-home",
];

/// What one of the Tasks has besides.
fn known(task: OldTask) -> &'static [&'static str] {
    match task {
        OldTask::Full => &[
            "base-image",
            "script",
            "artifacts",
            "artifacts-max-count",
            "artifacts-max-size",
            "artifacts-when",
            "capacity-wait",
            "copy-build",
            "cpu-count",
            "deploy-attempts",
            "detach",
            "env",
            "exclude",
            "gpu-passthrough",
            "keep",
            "keep-for",
            "memory",
            "node",
            "reserved-ports",
            "scheduler",
            "script-file",
            "secret-env",
            "shell",
            "silence-timeout",
            "system-serial",
            "tag",
            "tag-required",
            "vcpu-count",
            "verbose",
            "vm-metadata",
            "vm-options",
            "vnc-console",
            "plugin",
            "plugin-params",
            "grants",
        ],
        OldTask::Init => &[
            "base-image",
            "cpu-count",
            "io-boost",
            "orka-vm-name-config",
            "orka-vm-name-config-key",
            "scheduler",
            "tag",
            "tag-required",
            "vcpu-count",
            "vnc-console",
            "hand-over",
            "orka-token-secret",
            "orka-token-secret-key",
        ],
        OldTask::Deploy => &[
            "script",
            "capacity-wait-seconds",
            "copy-build",
            "delete-vm",
            "detach",
            "gpu-passthrough",
            "init-wait-seconds",
            "orka-vm-name-config",
            "orka-vm-name-config-key",
            "script-file",
            "silence-timeout",
            "system-serial",
            "verbose",
            "vm-config",
            "vm-metadata",
            "orka-token-secret",
            "orka-token-secret-key",
        ],
        OldTask::Teardown => &[
            "hand-over",
            "orka-token-secret",
            "orka-token-secret-key",
            "orka-vm-name-config",
            "orka-vm-name-config-key",
        ],
    }
}
