//! Nodes and their reserved ports.

use serde_json::{Value, json};

use super::status::port_records;
use super::{Call, envelope, fail};
use crate::cluster::{Cluster, Inner};
use crate::config::Architecture;
use crate::deploy::address;
use crate::reply::Reply;

/// `GET /resources/node/list`.
pub(super) fn list(call: &Call<'_>) -> Reply {
    let inner = call.cluster.lock();
    let nodes: Vec<Value> = (0..inner.nodes.len())
        .map(|node| show(call.cluster, &inner, node))
        .collect();
    envelope::ok("", json!({ "nodes": nodes }))
}

fn show(cluster: &Cluster, inner: &Inner, node: usize) -> Value {
    let address = address(cluster, node);
    let free = (inner.free_cpu(node), inner.free_memory(node));
    let spec = &inner.nodes[node].spec;
    let gpu = if spec.architecture == Architecture::Intel {
        "1"
    } else {
        "N/A"
    };
    json!({
        "name": spec.name,
        "host_name": spec.name,
        "address": address,
        "hostIP": address,
        "available_cpu": free.0,
        "allocatable_cpu": spec.cpu,
        "available_gpu": gpu,
        "allocatable_gpu": gpu,
        "available_memory": format!("{:.2}G", free.1),
        "total_cpu": spec.cpu,
        "total_memory": format!("{:.2}G", spec.memory_gib),
        "node_type": "WORKER",
        "state": if spec.ready { "READY" } else { "NOT READY" },
        "orka_tags": spec.tags,
    })
}

/// `GET /resources/node/status/{node}`.
pub(super) fn status(call: &Call<'_>, name: &str) -> Reply {
    let inner = call.cluster.lock();
    let Some(node) = inner.nodes.iter().position(|node| node.spec.name == name) else {
        return fail(404, &format!("Node {name} does not exist"));
    };
    let spec = &inner.nodes[node].spec;
    let status = json!({
        "status": if spec.ready { "READY" } else { "NOT READY" },
        "cpu": inner.free_cpu(node),
        "gpu": if spec.architecture == Architecture::Intel { "1" } else { "N/A" },
        "memory": format!("{:.2}G", inner.free_memory(node)),
        "nodeName": spec.name,
        "sandbox": "false",
        "nodeType": "WORKER",
    });
    envelope::ok("", json!({ "node_status": status }))
}

/// `GET /resources/ports`.
pub(super) fn ports(call: &Call<'_>) -> Reply {
    let inner = call.cluster.lock();
    let mut ports = Vec::new();
    for vm in inner.vms.iter().filter(|vm| vm.spec.owner == call.email) {
        for mut record in port_records(vm) {
            record["orka_node_name"] = json!(inner.nodes[vm.node].spec.name);
            ports.push(record);
        }
    }
    envelope::ok("", json!({ "reserved_ports": ports }))
}
