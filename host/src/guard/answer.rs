//! What a guard's answers mean: whether they are answers at all, and what becomes of the request.

use std::collections::BTreeSet;

use super::bindings::exports::orka::plugin::guarding::{
    Artifact, ArtifactList, ArtifactsAnswer, Deployment, ExecAnswer, ExecRequest, Input, VmAnswer,
    VmRequest,
};
use super::instance::Answer;
use crate::backend::{Exec, FileDigest};
use crate::bindings::orka::plugin::cluster::{DeployOptions, VmSpec};
use crate::mask::Masker;

/// A reason is a sentence.
const REASON_BYTES_MAX: usize = 1024;

/// What an answer comes to.
#[derive(Debug)]
pub(super) enum Verdict<T> {
    Allowed,
    Changed {
        to: T,
        reason: String,
        changes: Vec<String>,
    },
    Denied(String),
    /// It is none.
    Failed(String),
}

/// A text of at most so many bytes.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A guard's reason as it is told: one line, not too long, never empty.
pub(super) fn shortened(reason: &str) -> String {
    let line: String = cut(reason.trim(), REASON_BYTES_MAX)
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if line.is_empty() {
        "it gives no reason".to_owned()
    } else {
        line
    }
}

fn of_another_kind<T>() -> Verdict<T> {
    Verdict::Failed("the host mistook its answer".to_owned())
}

// --- VMs ---

/// A VM as a guard is shown it.
pub(super) fn vm_request(spec: &VmSpec, deployment: Option<&DeployOptions>) -> VmRequest {
    VmRequest {
        image: spec.image.clone(),
        cpu_cores: spec.cpu_cores,
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        vnc_console: spec.vnc_console,
        gpu_passthrough: spec.gpu_passthrough,
        system_serial: spec.system_serial.clone(),
        tag: spec.tag.clone(),
        tag_required: spec.tag_required,
        scheduler: spec.scheduler.clone(),
        options: spec.options.clone(),
        deployment: deployment.map(|options| Deployment {
            node: options.node.clone(),
            metadata: options.metadata.clone(),
            reserved_ports: options.reserved_ports.clone(),
            capacity_wait_ms: options.capacity_wait_ms,
            options: options.options.clone(),
        }),
    }
}

/// Makes a VM's shape what the guards left.
pub(super) fn apply_spec(request: VmRequest, spec: &mut VmSpec) {
    *spec = VmSpec {
        image: request.image,
        cpu_cores: request.cpu_cores,
        vcpus: request.vcpus,
        memory_mib: request.memory_mib,
        vnc_console: request.vnc_console,
        gpu_passthrough: request.gpu_passthrough,
        system_serial: request.system_serial,
        tag: request.tag,
        tag_required: request.tag_required,
        scheduler: request.scheduler,
        options: request.options,
    };
}

/// Makes a deployment what the guards left.
pub(super) fn apply_deployment(request: VmRequest, options: &mut DeployOptions) {
    if let Some(deployment) = request.deployment {
        options.node = deployment.node;
        options.metadata = deployment.metadata;
        options.reserved_ports = deployment.reserved_ports;
        options.capacity_wait_ms = deployment.capacity_wait_ms;
        options.options = deployment.options;
    }
}

/// What differs between two requests, one phrase each.
pub(super) fn vm_changes(before: &VmRequest, after: &VmRequest) -> Vec<String> {
    let mut changes = Changes::default();
    changes.note("image", &before.image, &after.image);
    changes.note("cpu-cores", &before.cpu_cores, &after.cpu_cores);
    changes.note("vcpus", &before.vcpus, &after.vcpus);
    changes.note("memory-mib", &before.memory_mib, &after.memory_mib);
    changes.note("vnc-console", &before.vnc_console, &after.vnc_console);
    changes.note(
        "gpu-passthrough",
        &before.gpu_passthrough,
        &after.gpu_passthrough,
    );
    changes.note("system-serial", &before.system_serial, &after.system_serial);
    changes.note("tag", &before.tag, &after.tag);
    changes.note("tag-required", &before.tag_required, &after.tag_required);
    changes.note("scheduler", &before.scheduler, &after.scheduler);
    changes.note("options", &before.options, &after.options);
    if let (Some(before), Some(after)) = (&before.deployment, &after.deployment) {
        changes.note("node", &before.node, &after.node);
        changes.note("metadata", &before.metadata, &after.metadata);
        changes.note(
            "reserved-ports",
            &before.reserved_ports,
            &after.reserved_ports,
        );
        changes.note(
            "capacity-wait-ms",
            &before.capacity_wait_ms,
            &after.capacity_wait_ms,
        );
        changes.note("deploy options", &before.options, &after.options);
    }
    changes.0
}

pub(super) fn judge_vm(before: &VmRequest, answer: Result<Answer, String>) -> Verdict<VmRequest> {
    let changed = match answer {
        Err(problem) => return Verdict::Failed(problem),
        Ok(Answer::Vm(VmAnswer::Allow)) => return Verdict::Allowed,
        Ok(Answer::Vm(VmAnswer::Deny(reason))) => return Verdict::Denied(reason),
        Ok(Answer::Vm(VmAnswer::Change(changed))) => changed,
        Ok(_) => return of_another_kind(),
    };
    let after = changed.request;
    if after.deployment.is_some() != before.deployment.is_some() {
        return Verdict::Failed("its answer has another `deployment` than the question".to_owned());
    }
    if after.image.trim().is_empty() {
        return Verdict::Failed("its answer names no image".to_owned());
    }
    if after.cpu_cores == Some(0) || after.memory_mib == Some(0) {
        return Verdict::Failed("its answer is a VM without CPU cores or memory".to_owned());
    }
    if before.deployment.is_some() {
        let without = |request: &VmRequest| VmRequest {
            deployment: None,
            ..request.clone()
        };
        let settled = vm_changes(&without(before), &without(&after));
        if !settled.is_empty() {
            return Verdict::Failed(format!(
                "it wants to change what is settled once the VM config is made: {}",
                settled.join(", ")
            ));
        }
    }
    let changes = vm_changes(before, &after);
    if changes.is_empty() {
        return Verdict::Allowed;
    }
    Verdict::Changed {
        to: after,
        reason: changed.reason,
        changes,
    }
}

// --- programs ---

/// A program as a guard is shown it: without any secret of the run.
pub(super) fn exec_request(vm: &str, exec: &Exec, input: Input, masker: &Masker) -> ExecRequest {
    let mut environment: Vec<String> = Vec::new();
    let names = exec.env.iter().map(|(name, _)| name);
    for name in names.chain(exec.secret_env.iter().map(|(name, _)| name)) {
        if !environment.contains(name) {
            environment.push(name.clone());
        }
    }
    ExecRequest {
        vm: vm.to_owned(),
        program: masker.mask(&exec.program),
        arguments: exec.arguments.iter().map(|it| masker.mask(it)).collect(),
        cwd: exec.cwd.as_deref().map(|cwd| masker.mask(cwd)),
        environment,
        input,
        login_shell: exec.login_shell,
        pty: exec.pty,
    }
}

pub(super) fn judge_exec(
    before: &ExecRequest,
    answer: Result<Answer, String>,
) -> Verdict<ExecRequest> {
    let changed = match answer {
        Err(problem) => return Verdict::Failed(problem),
        Ok(Answer::Exec(ExecAnswer::Allow)) => return Verdict::Allowed,
        Ok(Answer::Exec(ExecAnswer::Deny(reason))) => return Verdict::Denied(reason),
        Ok(Answer::Exec(ExecAnswer::Change(changed))) => changed,
        Ok(_) => return of_another_kind(),
    };
    let after = changed.request;
    if after.vm != before.vm || after.input != before.input {
        return Verdict::Failed(
            "its answer changes the VM or what the program reads, which it may not".to_owned(),
        );
    }
    if after.program.is_empty() {
        return Verdict::Failed("its answer names no program".to_owned());
    }
    let known: BTreeSet<&String> = before.environment.iter().collect();
    if let Some(name) = after.environment.iter().find(|it| !known.contains(it)) {
        return Verdict::Failed(format!(
            "its answer adds the environment variable `{}`; it may only leave some out",
            name.escape_default()
        ));
    }
    let mut changes = Changes::default();
    changes.note("program", &before.program, &after.program);
    changes.note("arguments", &before.arguments, &after.arguments);
    changes.note("cwd", &before.cwd, &after.cwd);
    changes.note("environment", &before.environment, &after.environment);
    changes.note("login-shell", &before.login_shell, &after.login_shell);
    changes.note("pty", &before.pty, &after.pty);
    if changes.0.is_empty() {
        return Verdict::Allowed;
    }
    Verdict::Changed {
        to: after,
        reason: changed.reason,
        changes: changes.0,
    }
}

/// Makes a program what the guards left. What came back as it was shown stays as the plugin gave it: the guard was shown
/// it without secrets.
pub(super) fn apply_exec(shown: &ExecRequest, left: ExecRequest, exec: &mut Exec) {
    if *shown == left {
        return;
    }
    if left.program != shown.program {
        exec.program = left.program;
    }
    if left.cwd != shown.cwd {
        exec.cwd = left.cwd;
    }
    let originals = std::mem::take(&mut exec.arguments);
    let mut unused: Vec<(&String, Option<String>)> = shown
        .arguments
        .iter()
        .zip(originals.into_iter().map(Some))
        .collect();
    exec.arguments = left
        .arguments
        .into_iter()
        .map(|argument| {
            let same = unused
                .iter_mut()
                .find(|(shown, original)| **shown == argument && original.is_some());
            same.and_then(|(_, original)| original.take())
                .unwrap_or(argument)
        })
        .collect();
    let kept: BTreeSet<String> = left.environment.into_iter().collect();
    exec.env.retain(|(name, _)| kept.contains(name));
    exec.secret_env.retain(|(name, _)| kept.contains(name));
    exec.login_shell = left.login_shell;
    exec.pty = left.pty;
}

// --- artifacts ---

/// A file as a guard is shown it.
pub(super) fn artifact(file: &FileDigest) -> Artifact {
    Artifact {
        path: file.path.to_string_lossy().into_owned(),
        size: file.size,
        sha256: file.sha256_hex(),
    }
}

pub(super) fn judge_artifacts(
    list: &ArtifactList,
    answer: Result<Answer, String>,
) -> Verdict<BTreeSet<String>> {
    let fewer = match answer {
        Err(problem) => return Verdict::Failed(problem),
        Ok(Answer::Artifacts(ArtifactsAnswer::Allow)) => return Verdict::Allowed,
        Ok(Answer::Artifacts(ArtifactsAnswer::Deny(reason))) => return Verdict::Denied(reason),
        Ok(Answer::Artifacts(ArtifactsAnswer::Change(fewer))) => fewer,
        Ok(_) => return of_another_kind(),
    };
    let listed: BTreeSet<&String> = list.files.iter().map(|file| &file.path).collect();
    if let Some(path) = fewer.leave_out.iter().find(|path| !listed.contains(path)) {
        return Verdict::Failed(format!(
            "its answer leaves out `{}`, which is not in the list",
            path.escape_default()
        ));
    }
    let left_out: BTreeSet<String> = fewer.leave_out.into_iter().collect();
    if left_out.is_empty() {
        return Verdict::Allowed;
    }
    Verdict::Changed {
        changes: vec![format!("left out {}", some_of(&left_out))],
        to: left_out,
        reason: fewer.reason,
    }
}

/// The first few, and how many more there are.
fn some_of(paths: &BTreeSet<String>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = paths
        .iter()
        .take(SHOWN)
        .map(|it| format!("`{it}`"))
        .collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Collects differences.
#[derive(Default)]
struct Changes(Vec<String>);

impl Changes {
    fn note<T: PartialEq + Shown>(&mut self, name: &str, before: &T, after: &T) {
        if before != after {
            self.0.push(format!(
                "{name} from {} to {}",
                before.shown(),
                after.shown()
            ));
        }
    }
}

/// A value as people read it.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        format!("`{self}`")
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for (String, String) {
    fn shown(&self) -> String {
        format!("`{}={}`", self.0, self.1)
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref()
            .map_or_else(|| "none".to_owned(), Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> String {
        let items: Vec<String> = self.iter().map(Shown::shown).collect();
        format!("[{}]", items.join(", "))
    }
}
