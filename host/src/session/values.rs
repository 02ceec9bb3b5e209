//! What is asked and answered, as a session has it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::backend::{Choice, Compare, Copied, Deploy, Exec, FileDigest, Input, Login};
use crate::bindings::orka::plugin::cluster::{Facts, Generation, Node, VmInfo, VmSpec};
use crate::failure::{Class, Failure, Kind};

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FailureRecord {
    /// Which case of the contract's `error` a plugin is told.
    kind: String,
    /// Whose failure it is.
    class: String,
    /// Its stable code.
    code: String,
    /// In words, with its causes.
    message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Whether later may work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retryable: bool,
    /// When, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Whether the work may have happened all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    may_have_happened: bool,
    /// More, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    details: Vec<(String, String)>,
}

const KINDS: [(&str, Kind); 10] = [
    ("invalid", Kind::Invalid),
    ("denied", Kind::Denied),
    ("not-found", Kind::NotFound),
    ("conflict", Kind::Conflict),
    ("no-capacity", Kind::NoCapacity),
    ("unauthenticated", Kind::Unauthenticated),
    ("unavailable", Kind::Unavailable),
    ("timed-out", Kind::TimedOut),
    ("cancelled", Kind::Cancelled),
    ("other", Kind::Other),
];

const CLASSES: [(&str, Class); 11] = [
    ("config", Class::Config),
    ("plugin-rejected", Class::PluginRejected),
    ("denied", Class::Denied),
    ("plugin", Class::Plugin),
    ("orka", Class::Orka),
    ("no-capacity", Class::NoCapacity),
    ("ssh", Class::Ssh),
    ("files", Class::Files),
    ("deadline", Class::Deadline),
    ("cancelled", Class::Cancelled),
    ("internal", Class::Internal),
];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> String {
    let found = names.iter().find(|(_, other)| other == value);
    found.map_or("other", |(name, _)| name).to_owned()
}

fn value_of<T: Copy>(names: &[(&'static str, T)], name: &str, otherwise: T) -> T {
    let found = names.iter().find(|(other, _)| *other == name);
    found.map_or(otherwise, |(_, value)| *value)
}

impl FailureRecord {
    /// Of this failure, its causes in the message.
    pub fn of(failure: &Failure) -> Self {
        let mut message = failure.message.clone();
        for cause in failure.causes() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        Self {
            kind: name_of(&KINDS, &failure.kind),
            class: name_of(&CLASSES, &failure.class),
            code: failure.code.to_string(),
            message,
            hint: failure.hint.clone(),
            retryable: failure.retryable,
            retry_after_ms: failure.retry_after.map(crate::console::millis),
            may_have_happened: failure.may_have_happened,
            details: failure.details.clone(),
        }
    }

    /// The failure again.
    pub fn failure(&self) -> Failure {
        let kind = value_of(&KINDS, &self.kind, Kind::Other);
        let class = value_of(&CLASSES, &self.class, Class::Plugin);
        let mut failure = Failure::new(kind, class, self.code.clone(), self.message.clone())
            .retryable(self.retryable);
        failure.hint.clone_from(&self.hint);
        failure.retry_after = self.retry_after_ms.map(Duration::from_millis);
        failure.may_have_happened = self.may_have_happened;
        failure.details.clone_from(&self.details);
        failure
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FactsRecord {
    orka: u8,
    api_version: Option<String>,
    namespace: Option<String>,
}

impl FactsRecord {
    pub(crate) fn of(facts: &Facts) -> Self {
        Self {
            orka: match facts.generation {
                Generation::Orka2 => 2,
                Generation::Orka3 => 3,
            },
            api_version: facts.api_version.clone(),
            namespace: facts.namespace.clone(),
        }
    }

    pub(crate) fn facts(self) -> Facts {
        Facts {
            generation: if self.orka == 3 {
                Generation::Orka3
            } else {
                Generation::Orka2
            },
            api_version: self.api_version,
            namespace: self.namespace,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NodeRecord {
    name: String,
    ready: bool,
    cpu_available: Option<u32>,
    cpu_total: Option<u32>,
    tags: Vec<String>,
}

impl NodeRecord {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            ready: node.ready,
            cpu_available: node.cpu_available,
            cpu_total: node.cpu_total,
            tags: node.tags.clone(),
        }
    }

    pub(crate) fn node(self) -> Node {
        Node {
            name: self.name,
            ready: self.ready,
            cpu_available: self.cpu_available,
            cpu_total: self.cpu_total,
            tags: self.tags,
        }
    }
}

/// A VM without its name, which each run chooses anew.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct VmRecord {
    id: Option<String>,
    node: Option<String>,
    address: String,
    ssh_port: u16,
    screen_share_port: Option<u16>,
    vnc_port: Option<u16>,
}

impl VmRecord {
    pub(crate) fn of(vm: &VmInfo) -> Self {
        Self {
            id: vm.id.clone(),
            node: vm.node.clone(),
            address: vm.address.clone(),
            ssh_port: vm.ssh_port,
            screen_share_port: vm.screen_share_port,
            vnc_port: vm.vnc_port,
        }
    }

    /// Over what a VM of the replay is: its name and id, which later calls go by, stay.
    pub(crate) fn over(self, vm: VmInfo) -> VmInfo {
        VmInfo {
            node: self.node,
            address: self.address,
            ssh_port: self.ssh_port,
            screen_share_port: self.screen_share_port,
            vnc_port: self.vnc_port,
            ..vm
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CopiedRecord {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: Option<String>,
    #[serde(default)]
    pub(crate) unchanged: u64,
    #[serde(default)]
    pub(crate) entries: Vec<(String, u64, String)>,
}

impl CopiedRecord {
    pub(crate) fn of(copied: &Copied) -> Self {
        let entry = |entry: &FileDigest| {
            let path = entry.path.to_string_lossy().into_owned();
            (path, entry.size, entry.sha256_hex())
        };
        Self {
            files: copied.files,
            bytes: copied.bytes,
            digest: copied.digest.clone(),
            unchanged: copied.unchanged,
            entries: copied.entries.iter().map(entry).collect(),
        }
    }

    pub(crate) fn copied(self) -> Copied {
        let entry = |(path, size, sha256): (String, u64, String)| {
            let mut digest = [0; 32];
            // A session that somebody has edited may hold anything here.
            let _ = hex::decode_to_slice(sha256, &mut digest);
            FileDigest {
                path: path.into(),
                size,
                sha256: digest,
            }
        };
        Copied {
            files: self.files,
            bytes: self.bytes,
            digest: self.digest,
            unchanged: self.unchanged,
            left_out: 0,
            counted_bytes: self.bytes,
            counted_entries: self.files.saturating_add(self.unchanged),
            entries: self.entries.into_iter().map(entry).collect(),
            notes: Vec::new(),
        }
    }
}

/// Without members that are null or empty: what is not asked for need not be read.
fn pruned(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        });
    }
    value
}

pub(crate) fn spec_asked(spec: &VmSpec) -> Value {
    pruned(json!({
        "image": spec.image, "cpu-cores": spec.cpu_cores, "vcpus": spec.vcpus, "memory-mib": spec.memory_mib,
        "vnc-console": spec.vnc_console, "gpu-passthrough": spec.gpu_passthrough, "system-serial": spec.system_serial,
        "tag": spec.tag, "tag-required": spec.tag_required, "scheduler": spec.scheduler, "options": spec.options,
    }))
}

pub(crate) fn deploy_asked(deploy: &Deploy) -> Value {
    let options = &deploy.options;
    let mut asked = pruned(json!({
        "node": options.node, "metadata": options.metadata, "reserved-ports": options.reserved_ports,
        "options": options.options,
    }));
    asked["image"] = deploy.spec.image.clone().into();
    asked
}

pub(crate) fn login_asked(login: &Login) -> Value {
    pruned(json!({
        "username": login.username,
        "password": login.password.as_ref().map(|_| "a secret"),
        "private-key": login.private_key.as_ref().map(|_| "a secret"),
    }))
}

/// `mask` takes secrets out of what is told by its digest alone: a digest of a secret could be guessed at.
pub(crate) fn exec_asked(exec: &Exec, mask: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let secret_env: Vec<&String> = exec.secret_env.iter().map(|(name, _)| name).collect();
    let stdin = match &exec.input {
        Input::Empty => Value::Null,
        Input::Bytes(bytes) => digest(&mask(bytes)).into(),
        Input::File(_) => "a file".into(),
        Input::Secret(_) => "a secret".into(),
    };
    pruned(json!({
        "program": exec.program, "arguments": exec.arguments, "cwd": exec.cwd, "env": exec.env,
        "secret-env": secret_env, "stdin": stdin, "login-shell": exec.login_shell, "pty": exec.pty,
        "detach": exec.detach,
    }))
}

pub(crate) fn write_asked(path: &str, contents: &[u8], mode: u32) -> Value {
    json!({ "path": path, "mode": format!("{mode:o}"), "size": contents.len(), "sha256": digest(contents) })
}

pub(crate) fn upload_asked(target: &str, choice: &Choice) -> Value {
    pruned(json!({ "target": target, "include": choice.include, "exclude": choice.exclude }))
}

pub(crate) fn download_asked(source: &str, into: &std::path::Path, choice: &Choice) -> Value {
    let compare = match choice.compare {
        Compare::Always => "always",
        Compare::SizeTime => "size-time",
        Compare::Hash => "hash",
    };
    pruned(json!({
        "source": source, "target": into.display().to_string(), "include": choice.include, "exclude": choice.exclude,
        "compare": compare,
    }))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
