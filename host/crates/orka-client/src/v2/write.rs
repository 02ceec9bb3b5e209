//! What is asked of Orka 2, and what a deploy answers.

use serde_json::{Value, json};

use crate::error::Error;
use crate::lenient::{self, Object};
use crate::placement::{NodeAddresses, Placement};
use crate::spec::{DeployRequest, Scheduler, VmConfigSpec};
use crate::validate::ORKA2_BODY_BYTES_MAX;
use crate::vm::DeployedVm;

/// The body of `POST /resources/vm/create`. Options that were not given are left out, except those the
/// documentation calls required.
pub(crate) fn create_body(spec: &VmConfigSpec) -> Value {
    let mut body = Object::new();
    body.insert("orka_vm_name".into(), json!(spec.name));
    body.insert("orka_base_image".into(), json!(spec.image));
    body.insert(
        "orka_image".into(),
        json!(filled(spec.snapshot.as_ref()).unwrap_or(&spec.name)),
    );
    body.insert("orka_cpu_core".into(), json!(spec.cpu));
    body.insert("vcpu_count".into(), json!(spec.vcpu.unwrap_or(spec.cpu)));
    put(&mut body, "iso_image", filled(spec.iso.as_ref()));
    put(
        &mut body,
        "attached_disk",
        filled(spec.attached_disk.as_ref()),
    );
    put(&mut body, "vnc_console", spec.vnc_console);
    put(
        &mut body,
        "system_serial",
        filled(spec.system_serial.as_ref()),
    );
    put(&mut body, "io_boost", spec.io_boost);
    put(&mut body, "net_boost", spec.net_boost);
    put(&mut body, "gpu_passthrough", spec.gpu_passthrough);
    put(&mut body, "tag", filled(spec.tag.as_ref()));
    put(&mut body, "tag_required", spec.tag_required);
    put(
        &mut body,
        "scheduler",
        spec.scheduler.map(Scheduler::as_str),
    );
    // 0 means "automatic" to some releases and nothing to others; leaving it out means it to all.
    put(
        &mut body,
        "memory",
        spec.memory_gib.filter(|gib| *gib > 0.0),
    );
    put(
        &mut body,
        "orka_vm_config_template_name",
        filled(spec.template.as_ref()),
    );
    Value::Object(body)
}

/// The body of `POST /resources/vm/deploy`.
pub(crate) fn deploy_body(request: &DeployRequest) -> Result<Value, Error> {
    let mut body = Object::new();
    body.insert("orka_vm_name".into(), json!(config_of(request)));
    put(&mut body, "orka_node_name", filled(request.node.as_ref()));
    put(&mut body, "replicas", request.replicas);
    if !request.reserved_ports.is_empty() {
        let ports: Vec<String> = request
            .reserved_ports
            .iter()
            .map(ToString::to_string)
            .collect();
        body.insert("reserved_ports".into(), json!(ports));
    }
    put(&mut body, "iso_install", request.iso_install);
    // The VM config has the ISO already; naming it again is for installing from it.
    if request.iso_install == Some(true) {
        put(&mut body, "iso_image", filled(request.iso.as_ref()));
    }
    if let Some(disk) = filled(request.attached_disk.as_ref()) {
        put(&mut body, "attach_disk", Some(true));
        put(&mut body, "attached_disk", Some(disk));
    }
    put(&mut body, "vnc_console", request.vnc_console);
    if !request.metadata.is_empty() {
        let item = |(key, value): (&String, &String)| json!({ "key": key, "value": value });
        let items: Vec<Value> = request.metadata.iter().map(item).collect();
        body.insert("vm_metadata".into(), json!({ "items": items }));
    }
    put(
        &mut body,
        "system_serial",
        filled(request.system_serial.as_ref()),
    );
    put(&mut body, "gpu_passthrough", request.gpu_passthrough);
    put(&mut body, "tag", filled(request.tag.as_ref()));
    put(&mut body, "tag_required", request.tag_required);
    put(
        &mut body,
        "scheduler",
        request.scheduler.map(Scheduler::as_str),
    );
    let body = Value::Object(body);
    let bytes = body.to_string().len();
    if bytes > ORKA2_BODY_BYTES_MAX {
        return Err(Error::invalid_with_hint(
            format!("the deploy request for `{}`", request.name),
            format!("it has {bytes} bytes, and Orka 2 takes {ORKA2_BODY_BYTES_MAX}"),
            "shorten the VM metadata; copy larger data in over SSH",
        ));
    }
    Ok(body)
}

/// The VM config that a request deploys, whose name the VM will bear.
pub(crate) fn config_of(request: &DeployRequest) -> &str {
    filled(request.config.as_ref()).unwrap_or(&request.name)
}

/// Reads the answer of `POST /resources/vm/deploy`; a VM without a usable address is an error.
pub(crate) fn deployed(
    request: &DeployRequest,
    answer: &Object,
    addresses: &NodeAddresses,
) -> Result<DeployedVm, Error> {
    let help = lenient::member(answer, &["help"]).and_then(Value::as_object);
    let told = help
        .and_then(|help| lenient::member(help, &["data_for_virtual_machine_exec_tasks"]))
        .and_then(Value::as_object);
    let placement = Placement {
        name: config_of(request).to_owned(),
        id: lenient::text_of(answer, &["vm_id"]),
        node: told.and_then(|told| lenient::text_of(told, &["orka_node_name"])),
        ip: lenient::text_of(answer, &["ip"]),
        ssh_port: lenient::port_of(answer, &["ssh_port"]),
        screen_share_port: lenient::port_of(answer, &["screen_share_port", "screen_sharing_port"]),
        vnc_port: lenient::port_of(answer, &["vnc_port"]),
        memory_gib: lenient::gib_of(answer, &["ram"]),
        warnings: lenient::messages(answer.get("port_warnings")),
    };
    placement.into_vm(addresses)
}

fn put(body: &mut Object, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

/// A text that says something; blanks are not sent, since Orka takes them for values.
fn filled(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}
