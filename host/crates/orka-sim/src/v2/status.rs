//! `GET /resources/vm/status/{name-or-id}` and `GET /resources/vm/list`.

use serde_json::{Value, json};

use super::deploy::{boolean, put_port};
use super::{Call, envelope, is_admin, wrong_licence};
use crate::cluster::{Cluster, Inner, Phase, Vm, VmConfig};
use crate::id;
use crate::reply::Reply;

/// The configuration of a name with its VMs, or the VMs of an id.
pub(super) fn status(call: &Call<'_>, name_or_id: &str) -> Reply {
    let inner = call.cluster.lock();
    let everyone = is_admin(call);
    let mine = |owner: &str| everyone || owner == call.email;
    let named = |config: &&VmConfig| mine(&config.owner) && config.name == name_or_id;
    let mut resources: Vec<Value> = inner
        .configs
        .iter()
        .filter(named)
        .map(|config| resource(call.cluster, &inner, config, true))
        .collect();
    let by_id: Vec<&Vm> = inner
        .vms
        .iter()
        .filter(|vm| mine(&vm.spec.owner) && vm.spec.id == name_or_id)
        .collect();
    if let (true, Some(first)) = (resources.is_empty(), by_id.first()) {
        resources.push(deployed(
            call.cluster,
            &inner,
            &first.spec.name,
            &by_id,
            true,
        ));
    }
    envelope::ok("", json!({ "virtual_machine_resources": resources }))
}

/// Everything of the caller.
pub(super) fn list(call: &Call<'_>) -> Reply {
    listing(call, |owner| owner == call.email)
}

/// Everything of everybody or of one user; needs the licence key.
pub(super) fn list_of_others(call: &Call<'_>, whose: &str) -> Reply {
    if !is_admin(call) {
        return wrong_licence();
    }
    listing(call, |owner| whose == "all" || owner == whose)
}

fn listing(call: &Call<'_>, wanted: impl Fn(&str) -> bool) -> Reply {
    let inner = call.cluster.lock();
    let expand = call.request.has_query("expand");
    let hides_failed = call.cluster.config.switches.list_hides_failed;
    let shown =
        |config: &&VmConfig| wanted(&config.owner) && !(hides_failed && config.deploy_failed);
    let configs = inner.configs.iter().filter(shown);
    let resources: Vec<Value> = configs
        .map(|config| resource(call.cluster, &inner, config, expand))
        .collect();
    let members =
        json!({ "virtual_machine_resources": resources, "failed_virtual_machine_resources": [] });
    envelope::ok("", members)
}

fn resource(cluster: &Cluster, inner: &Inner, config: &VmConfig, expand: bool) -> Value {
    let of_config = |vm: &&Vm| vm.spec.owner == config.owner && vm.spec.name == config.name;
    let vms: Vec<&Vm> = inner.vms.iter().filter(of_config).collect();
    if vms.is_empty() {
        undeployed(cluster, inner, config)
    } else {
        deployed(cluster, inner, &config.name, &vms, expand)
    }
}

fn undeployed(cluster: &Cluster, inner: &Inner, config: &VmConfig) -> Value {
    let strict = cluster.config.switches.strict_oci_images;
    let architecture = inner.image_architecture(&config.base_image, strict);
    let flag = |value: bool| {
        architecture.map_or(json!(value), |architecture| {
            boolean(cluster, architecture, value)
        })
    };
    let mut members = json!({
        "virtual_machine_name": config.name,
        "vm_deployment_status": "Not Deployed",
        "owner": config.owner,
        "cpu": config.cpu,
        "vcpu": config.vcpu,
        "base_image": config.base_image,
        "image": config.image,
        "io_boost": flag(config.io_boost),
        "use_saved_state": flag(false),
        "gpu_passthrough": flag(config.gpu_passthrough),
        "configuration_template": config.template.as_deref().unwrap_or("default"),
    });
    if let Some(memory) = config.memory_gib {
        members["RAM"] = json!(format!("{memory:.2}G"));
    }
    members
}

fn deployed(cluster: &Cluster, inner: &Inner, name: &str, vms: &[&Vm], expand: bool) -> Value {
    let scaled = vms.first().is_some_and(|vm| vm.spec.replicas > 1);
    let shown = if scaled && !expand { &vms[..1] } else { vms };
    let status: Vec<Value> = shown
        .iter()
        .map(|vm| {
            let mut entry = entry(cluster, inner, vm);
            if scaled && !expand {
                entry["vm_status"] = json!("Scaled");
            }
            entry
        })
        .collect();
    json!({ "virtual_machine_name": name, "vm_deployment_status": "Deployed", "status": status })
}

fn entry(cluster: &Cluster, inner: &Inner, vm: &Vm) -> Value {
    let node = &inner.nodes[vm.node].spec;
    let flag = |value: bool| boolean(cluster, vm.spec.architecture, value);
    let mut members = json!({
        "owner": vm.spec.owner,
        "virtual_machine_name": vm.spec.name,
        "virtual_machine_id": vm.spec.id,
        "node_location": node.name,
        "node_status": if node.ready { "UP" } else { "DOWN" },
        "virtual_machine_ip": vm.ip.to_string(),
        "cpu": vm.spec.cpu,
        "vcpu": vm.spec.vcpu,
        "gpu": if vm.spec.gpu_passthrough { "1" } else { "N/A" },
        "RAM": format!("{:.2}G", vm.memory_gib),
        "base_image": vm.spec.image,
        "image": vm.spec.disk,
        "configuration_template": vm.spec.template.as_deref().unwrap_or("default"),
        "vm_status": word(&vm.phase),
        "io_boost": flag(vm.spec.io_boost),
        "net_boost": flag(vm.spec.net_boost),
        "use_saved_state": flag(false),
        "reserved_ports": port_records(vm),
        "tag": vm.spec.tag.as_deref().unwrap_or_default(),
        "tag_required": vm.spec.tag_required,
        "replicas": vm.spec.replicas,
    });
    let switches = &cluster.config.switches;
    if !switches.hide_timestamps {
        let key = if switches.camel_case_timestamp {
            "creationTimestamp"
        } else {
            "creation_timestamp"
        };
        members[key] = json!(id::timestamp(vm.created));
    }
    if let Value::Object(members) = &mut members {
        put_port(cluster, members, "ssh_port", Some(vm.ssh_port));
        put_port(
            cluster,
            members,
            "screen_sharing_port",
            Some(vm.screen_port),
        );
        put_port(cluster, members, "vnc_port", vm.vnc_port);
    }
    members
}

/// All node ports of a VM with the guest ports behind them. On Intel, SSH goes through 8821 of the container network.
pub(super) fn port_records(vm: &Vm) -> Vec<Value> {
    let intel = vm.spec.architecture == crate::config::Architecture::Intel;
    let ssh = if intel { 8821 } else { 22 };
    let record = |host: u16, guest: u16, protocol: &str| json!({ "host_port": host, "guest_port": guest, "protocol": protocol });
    let vnc = vm.vnc_port.map(|port| record(port, 5999, "TCP"));
    let own = [
        record(vm.screen_port, 5900, "TCP"),
        record(vm.ssh_port, ssh, "TCP"),
    ];
    let reserved = vm
        .spec
        .reserved_ports
        .iter()
        .map(|port| record(port.host, port.guest, port.protocol));
    vnc.into_iter().chain(own).chain(reserved).collect()
}

fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "n/a",
        Phase::Running => "running",
        Phase::Stopped => "stopped",
        Phase::Suspended => "suspended",
        Phase::Failed(_) => "ERROR",
    }
}
