//! `/api/v1/namespaces/{ns}/nodes`.

use serde_json::{Value, json};

use super::body::Body;
use super::{Call, Failure, Outcome, items};
use crate::cluster::{Cluster, Inner};
use crate::deploy::address;
use crate::reply::Reply;

/// The plural Kubernetes knows nodes by.
const RESOURCE: &str = "orkanodes";

/// The nodes of one namespace.
pub(super) fn list(call: &Call<'_>, namespace: &str) -> Outcome {
    call.allow(namespace, "list", RESOURCE)?;
    let inner = call.cluster.lock();
    let here = (0..inner.nodes.len()).filter(|node| inner.nodes[*node].spec.namespace == namespace);
    Ok(items(
        here.map(|node| shown(call.cluster, &inner, node)).collect(),
    ))
}

fn shown(cluster: &Cluster, inner: &Inner, node: usize) -> Value {
    let spec = &inner.nodes[node].spec;
    json!({
        "name": spec.name,
        "namespace": spec.namespace,
        "nodeIP": address(cluster, node),
        "availableCpu": inner.free_cpu(node),
        "availableMemory": format!("{:.2}G", inner.free_memory(node)),
        "availableGpu": 0,
        "allocatableCpu": spec.cpu,
        "allocatableMemory": format!("{:.2}G", spec.memory_gib),
        "allocatableGpu": 0,
        "nodeType": "WORKER",
        "phase": if spec.ready { "READY" } else { "NOT READY" },
        "orkaTags": spec.tags,
    })
}

/// Moves a node to another namespace.
pub(super) fn move_to(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.allow_admin("update", RESOURCE, namespace)?;
    let target = Body::read(call.request)?.required_text("namespace")?;
    let mut inner = call.cluster.lock();
    if !inner.namespaces.contains(&target) {
        return Err(Failure::not_found("namespaces", &target));
    }
    let here = |node: &&mut crate::cluster::Node| {
        node.spec.name == name && node.spec.namespace == namespace
    };
    let node = inner
        .nodes
        .iter_mut()
        .find(here)
        .ok_or_else(|| Failure::not_found(RESOURCE, name))?;
    node.spec.namespace = target;
    Ok(Reply::json(200, json!({})))
}
