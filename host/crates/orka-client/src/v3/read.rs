//! What Orka 3 tells: the cluster, VMs, VM configs, nodes, images.

use crate::config::Generation;
use crate::lenient::{self, Object};
use crate::placement::{NodeAddresses, mapped};
use crate::vm::{ClusterInfo, Image, Node, VmConfig, VmInstance, VmState};

/// Whether an object is the answer of `GET /api/v1/cluster-info`.
pub(crate) fn is_cluster_info(answer: &Object) -> bool {
    lenient::text_of(answer, &["apiEndpoint"]).is_some()
}

pub(crate) fn cluster_info(answer: &Object) -> ClusterInfo {
    ClusterInfo {
        generation: Generation::Orka3,
        version: None,
        api_domain: lenient::text_of(answer, &["apiDomain"]),
        gpu_passthrough: lenient::boolean_of(answer, &["gpuPassthroughEnabled"]),
    }
}

pub(crate) fn vms(items: &[Object], addresses: &NodeAddresses) -> Vec<VmInstance> {
    items
        .iter()
        .filter_map(|item| vm(item, addresses))
        .collect()
}

pub(crate) fn vm(record: &Object, addresses: &NodeAddresses) -> Option<VmInstance> {
    let reported_ip = lenient::ip_of(record, &["ip"]);
    Some(VmInstance {
        name: lenient::text_of(record, &["name"])?,
        id: None,
        state: VmState::from_word(lenient::text_of(record, &["status", "phase"]).as_deref()),
        node: lenient::text_of(record, &["node", "nodeName"]),
        address: reported_ip.map(|ip| mapped(ip, addresses)),
        reported_ip,
        ssh_port: lenient::port_of(record, &["ssh", "sshPort"]),
        screen_share_port: lenient::port_of(record, &["screenshare", "screenSharePort"]),
        vnc_port: lenient::port_of(record, &["vnc", "vncPort"]),
        image: lenient::text_of(record, &["image"]),
        owner: lenient::text_of(record, &["owner"]),
        created_at: lenient::text_of(record, &["deployDate"]),
        metadata: lenient::strings_of(record, &["customMetadata", "customVMMetadata"]),
    })
}

pub(crate) fn configs(items: &[Object]) -> Vec<VmConfig> {
    items.iter().filter_map(config).collect()
}

pub(crate) fn config(record: &Object) -> Option<VmConfig> {
    Some(VmConfig {
        name: lenient::text_of(record, &["name"])?,
        image: lenient::text_of(record, &["image"]),
        cpu: lenient::count_of(record, &["cpu"]),
        vcpu: None,
        memory_gib: lenient::gib_of(record, &["memory"]),
        owner: lenient::text_of(record, &["owner"]),
        tag: lenient::text_of(record, &["tag"]),
    })
}

pub(crate) fn nodes(items: &[Object]) -> Vec<Node> {
    items.iter().filter_map(node).collect()
}

fn node(record: &Object) -> Option<Node> {
    let phase = lenient::text_of(record, &["phase"]).unwrap_or_default();
    Some(Node {
        name: lenient::text_of(record, &["name"])?,
        ip: lenient::ip_of(record, &["nodeIP", "ip"]),
        is_ready: phase.eq_ignore_ascii_case("ready"),
        available_cpu: lenient::count_of(record, &["availableCpu"]),
        allocatable_cpu: lenient::count_of(record, &["allocatableCpu"]),
        available_memory: lenient::text_of(record, &["availableMemory"]),
        kind: lenient::text_of(record, &["nodeType"]),
        tags: lenient::texts_of(record, &["orkaTags"]),
    })
}

pub(crate) fn images(items: &[Object]) -> Vec<Image> {
    items
        .iter()
        .filter_map(|record| {
            Some(Image {
                name: lenient::text_of(record, &["name"])?,
                size: lenient::text_of(record, &["imageSize", "size"]),
                architecture: lenient::text_of(record, &["type"]),
                description: lenient::text_of(record, &["description"]),
            })
        })
        .collect()
}
