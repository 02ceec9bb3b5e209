//! What is asked of Orka 3, and what a deploy answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::MetadataMember;
use crate::error::Error;
use crate::lenient::{self, Object};
use crate::placement::{NodeAddresses, Placement};
use crate::spec::{DeployRequest, Display, Scheduler, VmConfigSpec};
use crate::validate;
use crate::vm::{DeployedVm, VmState};

/// How many minutes longer than this client the server may wait for a VM.
///
/// The client is then always the one that gives up, and knows that it has to delete what may still appear.
const SERVER_PATIENCE_MINUTES: u64 = 5;

/// The `timeout` member of a deploy, in minutes, for a client that waits for `limit`.
pub(crate) fn server_limit_minutes(limit: Duration) -> u64 {
    limit
        .as_secs()
        .div_ceil(60)
        .saturating_add(SERVER_PATIENCE_MINUTES)
}

/// The body of `POST /api/v1/namespaces/orka-default/vmconfigs`.
pub(crate) fn config_body(spec: &VmConfigSpec) -> Value {
    let mut body = Object::new();
    body.insert("name".into(), json!(spec.name));
    body.insert("image".into(), json!(spec.image.trim()));
    body.insert("cpu".into(), json!(spec.cpu));
    put_machine(
        &mut body,
        &Machine {
            memory_gib: spec.memory_gib,
            node: spec.node.as_ref(),
            scheduler: spec.scheduler,
            tag: spec.tag.as_ref(),
            tag_required: spec.tag_required,
            legacy_io: spec.legacy_io,
            net_boost: spec.net_boost,
            gpu_passthrough: spec.gpu_passthrough,
            vnc_console: spec.vnc_console,
            iso: spec.iso.as_ref(),
            system_serial: spec.system_serial.as_ref(),
            display: spec.display,
        },
    );
    Value::Object(body)
}

/// The body of `POST /api/v1/namespaces/{namespace}/vms`.
pub(crate) fn deploy_body(
    request: &DeployRequest,
    limit: Duration,
    metadata: MetadataMember,
) -> Value {
    let mut body = Object::new();
    body.insert("name".into(), json!(request.name));
    body.insert("shouldGenerateName".into(), json!(request.generate_name));
    put(&mut body, "image", filled(request.image.as_ref()));
    put(&mut body, "vmConfig", filled(request.config.as_ref()));
    put(&mut body, "cpu", request.cpu);
    put_machine(
        &mut body,
        &Machine {
            memory_gib: request.memory_gib,
            node: request.node.as_ref(),
            scheduler: request.scheduler,
            tag: request.tag.as_ref(),
            tag_required: request.tag_required,
            legacy_io: request.legacy_io,
            net_boost: request.net_boost,
            gpu_passthrough: request.gpu_passthrough,
            vnc_console: request.vnc_console,
            iso: request.iso.as_ref(),
            system_serial: request.system_serial.as_ref(),
            display: request.display,
        },
    );
    if !request.reserved_ports.is_empty() {
        let ports: Vec<String> = request
            .reserved_ports
            .iter()
            .map(ToString::to_string)
            .collect();
        body.insert("reservedPorts".into(), json!(ports.join(",")));
    }
    if !request.metadata.is_empty() {
        body.insert(metadata.as_str().into(), json!(request.metadata));
    }
    body.insert("timeout".into(), json!(server_limit_minutes(limit)));
    Value::Object(body)
}

/// What configs and VMs have in common.
struct Machine<'a> {
    memory_gib: Option<f64>,
    node: Option<&'a String>,
    scheduler: Option<Scheduler>,
    tag: Option<&'a String>,
    tag_required: Option<bool>,
    legacy_io: Option<bool>,
    net_boost: Option<bool>,
    gpu_passthrough: Option<bool>,
    vnc_console: Option<bool>,
    iso: Option<&'a String>,
    system_serial: Option<&'a String>,
    display: Display,
}

/// Adds what was given; blanks and the "automatic" memory are left out, since the API takes them for values.
fn put_machine(body: &mut Object, machine: &Machine<'_>) {
    // The API rounds to tenths itself, also upwards, where a ceiling may lie.
    let memory = machine
        .memory_gib
        .filter(|gib| *gib > 0.0)
        .map(|gib| validate::tenths_of_gib(gib) / 10.0);
    // The API refuses `netBoost` with `legacyIO`, also by its own default.
    let net_boost = if machine.legacy_io == Some(true) {
        Some(false)
    } else {
        machine.net_boost
    };
    // A VM with the GPU has no VNC console; the API wants to be told so.
    let vnc_console = if machine.gpu_passthrough == Some(true) {
        Some(false)
    } else {
        machine.vnc_console
    };
    put(body, "memory", memory);
    put(body, "node", filled(machine.node));
    put(body, "scheduler", machine.scheduler.map(Scheduler::as_str));
    let tag = filled(machine.tag);
    put(body, "tag", tag);
    put(
        body,
        "tagRequired",
        machine.tag_required.filter(|_| tag.is_some()),
    );
    put(body, "legacyIO", machine.legacy_io);
    put(body, "netBoost", net_boost);
    put(body, "gpuPassthrough", machine.gpu_passthrough);
    put(body, "vncConsole", vnc_console);
    put(body, "iso", filled(machine.iso));
    put(body, "systemSerial", filled(machine.system_serial));
    put(body, "displayWidth", machine.display.width);
    put(body, "displayHeight", machine.display.height);
    put(body, "displayDPI", machine.display.dpi);
}

/// Reads the answer of a deploy; a failed VM, or one without a usable address, is an error.
pub(crate) fn deployed(
    name: &str,
    answer: &Object,
    addresses: &NodeAddresses,
) -> Result<DeployedVm, Error> {
    let name = lenient::text_of(answer, &["name"]).unwrap_or_else(|| name.to_owned());
    let word = lenient::text_of(answer, &["status", "phase"]);
    if VmState::from_word(word.as_deref()) == VmState::Failed {
        let told = lenient::text_of(answer, &["errorMessage", "message"]);
        let why = told.map_or_else(
            || "it failed".to_owned(),
            |told| {
                format!(
                    "it failed: {}",
                    lenient::printable(&told, lenient::QUOTED_CHARS_MAX)
                )
            },
        );
        return Err(Error::UnusableVm {
            name,
            id: None,
            why,
            hint: None,
        });
    }
    let placement = Placement {
        name,
        id: None,
        node: lenient::text_of(answer, &["node", "nodeName"]),
        ip: lenient::text_of(answer, &["ip"]),
        ssh_port: lenient::port_of(answer, &["ssh", "sshPort"]),
        screen_share_port: lenient::port_of(answer, &["screenshare", "screenSharePort"]),
        vnc_port: lenient::port_of(answer, &["vnc", "vncPort"]),
        memory_gib: lenient::gib_of(answer, &["memory"]),
        warnings: lenient::messages(answer.get("portWarnings")),
    };
    placement.into_vm(addresses)
}

fn put(body: &mut Object, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}
