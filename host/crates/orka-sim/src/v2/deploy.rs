//! `POST /resources/vm/deploy`: finds room, waits as long as a deploy takes, answers with the address.

use serde_json::{Map, Value, json};

use super::members::{Members, Wrong};
use super::{Call, envelope, fail, namespace};
use crate::cluster::{Cluster, Vm, VmConfig, VmSpec};
use crate::config::Architecture;
use crate::deploy::{NoRoom, Reserved, bring_up, has_architecture, reserve};
use crate::fault::{failing_vm, guest_fault};
use crate::id;
use crate::reply::{Content, Reply};
use crate::switches::{BooleanStyle, PortStyle};

/// Why a deploy failed, with the status it is told by.
struct Failure {
    status: u16,
    text: String,
}

/// Deploys one VM, or several with `replicas`.
pub(super) async fn deploy(call: &Call<'_>) -> Reply {
    match try_deploy(call).await {
        Ok(reply) => reply,
        Err(failure) => {
            let name = call
                .members
                .get("orka_vm_name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            mark(call, name, true);
            failed(call.cluster, &failure)
        }
    }
}

async fn try_deploy(call: &Call<'_>) -> Result<Reply, Failure> {
    let spec = order(call)?;
    let wanted = spec.replicas;
    let mut deployed = Vec::new();
    let mut last = None;
    for _ in 0..wanted {
        match deploy_one(call, spec.clone()).await {
            Ok(serial) => deployed.push(serial),
            Err(failure) => last = Some(failure),
        }
    }
    if let (true, Some(failure)) = (deployed.is_empty(), last) {
        return Err(failure);
    }
    mark(call, &spec.name, false);
    let inner = call.cluster.lock();
    if wanted > 1 {
        let message = format!("{} of {wanted} VMs deployed successfully.", deployed.len());
        return Ok(envelope::ok(&message, json!({ "vm_id": spec.id })));
    }
    let vm = deployed.first().and_then(|serial| inner.vm(*serial));
    let gone = || Failure {
        status: 500,
        text: "The VM was deleted while it was being deployed".to_owned(),
    };
    let vm = vm.ok_or_else(gone)?;
    let node = &inner.nodes[vm.node].spec.name;
    Ok(success(call, vm, node))
}

async fn deploy_one(call: &Call<'_>, spec: VmSpec) -> Result<u64, Failure> {
    let reserved: Reserved =
        reserve(call.cluster, spec, None).map_err(|why| no_room(call.cluster, &why))?;
    bring_up(call.cluster, &reserved, failing_vm(call.actions))
        .await
        .map_err(|error| Failure {
            status: 500,
            text: error.to_string(),
        })?;
    Ok(reserved.serial)
}

/// Remembers whether the last deploy of a configuration failed.
fn mark(call: &Call<'_>, name: &str, failed: bool) {
    let mut inner = call.cluster.lock();
    let mine = |config: &&mut VmConfig| config.owner == call.email && config.name == name;
    if let Some(config) = inner.configs.iter_mut().find(mine) {
        config.deploy_failed = failed;
    }
}

/// Joins the configuration and the members of the request.
fn order(call: &Call<'_>) -> Result<VmSpec, Failure> {
    let switches = &call.cluster.config.switches;
    let statuses = &switches.v2_statuses;
    let invalid = |text: Wrong| Failure {
        status: statuses.validation,
        text,
    };
    let members = Members(&call.members);
    let name = members.required_text("orka_vm_name").map_err(invalid)?;
    let inner = call.cluster.lock();
    let unknown = || Failure {
        status: statuses.unknown_config,
        text: "No VM configurations exist".to_owned(),
    };
    let config = inner.config(&call.email, name).ok_or_else(unknown)?;
    let no_image = || {
        let text = format!("image '{}' not found", config.base_image);
        Failure {
            status: statuses.unknown_image,
            text,
        }
    };
    let architecture = inner
        .image_architecture(&config.base_image, switches.strict_oci_images)
        .ok_or_else(no_image)?;
    let spec = read(call, config, architecture).map_err(invalid)?;
    if !has_architecture(&inner, architecture) {
        return Err(Failure {
            status: statuses.capacity,
            text: switches.v2_capacity_text.clone(),
        });
    }
    Ok(spec)
}

fn read(call: &Call<'_>, config: &VmConfig, architecture: Architecture) -> Result<VmSpec, Wrong> {
    let members = Members(&call.members);
    let replicas = members.integer("replicas")?.unwrap_or(1);
    let gpu_passthrough = members
        .boolean("gpu_passthrough")?
        .unwrap_or(config.gpu_passthrough);
    if architecture == Architecture::AppleSilicon && (replicas > 1 || gpu_passthrough) {
        return Err("replicas and gpu_passthrough are for Intel nodes only".to_owned());
    }
    if replicas == 0 {
        return Err("replicas must be at least 1".to_owned());
    }
    let scheduler = members.scheduler()?.or_else(|| config.scheduler.clone());
    // Checked although they change nothing here.
    members.boolean("iso_install")?;
    members.boolean("attach_disk")?;
    for name in ["iso_image", "attached_disk", "system_serial"] {
        members.text(name)?;
    }
    Ok(VmSpec {
        name: config.name.clone(),
        id: id::vm_id(),
        owner: call.email.clone(),
        namespace: namespace(),
        image: config.base_image.clone(),
        architecture,
        disk: config.image.clone(),
        cpu: config.cpu,
        vcpu: config.vcpu,
        memory_gib: config.memory_gib,
        node: members.owned_text("orka_node_name")?,
        tag: members.owned_text("tag")?.or_else(|| config.tag.clone()),
        tag_required: members
            .boolean("tag_required")?
            .unwrap_or(config.tag_required),
        most_allocated: scheduler.as_deref() == Some("most-allocated"),
        vnc_console: members
            .boolean("vnc_console")?
            .unwrap_or(config.vnc_console),
        gpu_passthrough,
        io_boost: config.io_boost,
        net_boost: config.net_boost,
        template: config.template.clone(),
        replicas,
        reserved_ports: members.reserved_ports()?,
        metadata: members.metadata()?,
        guest_fault: guest_fault(call.actions),
    })
}

fn no_room(cluster: &Cluster, why: &NoRoom) -> Failure {
    let switches = &cluster.config.switches;
    match why {
        NoRoom::UnknownNode(node) => Failure {
            status: switches.v2_statuses.validation,
            text: format!("Node {node} does not exist"),
        },
        NoRoom::Ports(text) => Failure {
            status: 500,
            text: format!("No free port on the node: {text}"),
        },
        capacity if capacity.is_capacity() => Failure {
            status: switches.v2_statuses.capacity,
            text: switches.v2_capacity_text.clone(),
        },
        _ => Failure {
            status: 500,
            text: "The VM could not be deployed".to_owned(),
        },
    }
}

/// The failure envelope; older servers fill the deploy members with nothing.
fn failed(cluster: &Cluster, failure: &Failure) -> Reply {
    let mut reply = fail(failure.status, &failure.text);
    if cluster.config.switches.zeroed_error_members
        && let Content::Json(Value::Object(members)) = &mut reply.content
    {
        for name in [
            "ram",
            "vcpu",
            "host_cpu",
            "ip",
            "ssh_port",
            "screen_share_port",
            "vm_id",
            "vnc_port",
        ] {
            members.insert(name.to_owned(), json!(""));
        }
        members.insert("port_warnings".to_owned(), Value::Null);
    }
    reply
}

fn success(call: &Call<'_>, vm: &Vm, node: &str) -> Reply {
    let (base, cluster) = (&call.request.base, call.cluster);
    let hint =
        |verb: &str| format!("To {verb} a VM send rest request to {base}/resources/vm/exec/{verb}");
    let mut help = json!({
        "start_virtual_machine": hint("start"),
        "stop_virtual_machine": hint("stop"),
        "resume_virtual_machine": hint("resume"),
        "suspend_virtual_machine": hint("suspend"),
        "data_for_virtual_machine_exec_tasks": { "orka_vm_name": vm.spec.name, "orka_node_name": node },
    });
    if let Some(port) = vm.vnc_port {
        let text = format!(
            "Once started and deployed, you can use VNC to access it via {}:{port}",
            vm.ip
        );
        help["virtual_machine_vnc"] = json!(text);
    }
    let flag = |value: bool| boolean(cluster, vm.spec.architecture, value);
    let mut members = json!({
        "ram": format!("{:.2}G", vm.memory_gib),
        "vcpu": vm.spec.vcpu.to_string(),
        "host_cpu": vm.spec.cpu.to_string(),
        "ip": vm.ip.to_string(),
        "vm_id": vm.spec.id,
        "port_warnings": vm.port_warnings,
        "io_boost": flag(vm.spec.io_boost),
        "net_boost": flag(vm.spec.net_boost),
        "use_saved_state": flag(false),
        "gpu_passthrough": flag(vm.spec.gpu_passthrough),
    });
    if let Value::Object(members) = &mut members {
        put_port(cluster, members, "ssh_port", Some(vm.ssh_port));
        put_port(cluster, members, "screen_share_port", Some(vm.screen_port));
        put_port(cluster, members, "vnc_port", vm.vnc_port);
    }
    envelope::with_help(200, "Successfully deployed VM", help, members)
}

/// Writes a port in the style of the release.
pub(super) fn put_port(
    cluster: &Cluster,
    members: &mut Map<String, Value>,
    name: &str,
    port: Option<u16>,
) {
    let value = match (cluster.config.switches.port_style, port) {
        (PortStyle::Missing, _) => return,
        (PortStyle::NotApplicable, _) | (_, None) => json!("N/A"),
        (PortStyle::Number, Some(port)) => json!(port),
        (PortStyle::Text, Some(port)) => json!(port.to_string()),
    };
    members.insert(name.to_owned(), value);
}

/// Writes a boolean in the style of the release.
pub(super) fn boolean(cluster: &Cluster, architecture: Architecture, value: bool) -> Value {
    match (cluster.config.switches.boolean_style, architecture) {
        (BooleanStyle::Boolean, _) | (BooleanStyle::ByArchitecture, Architecture::Intel) => {
            json!(value)
        }
        (BooleanStyle::Text, _) => json!(value.to_string()),
        (BooleanStyle::NotApplicable, _)
        | (BooleanStyle::ByArchitecture, Architecture::AppleSilicon) => json!("N/A"),
    }
}
