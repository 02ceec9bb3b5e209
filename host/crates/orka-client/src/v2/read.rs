//! What Orka 2 tells: VMs, VM configs, nodes, images.

use serde_json::Value;

use crate::lenient::{self, Object};
use crate::placement::{NodeAddresses, mapped};
use crate::version::ApiVersion;
use crate::vm::{Image, Node, VmConfig, VmInstance, VmState};

/// The `api_version` of `GET /health-check`.
pub(crate) fn version(answer: &Object) -> Option<ApiVersion> {
    lenient::text_of(answer, &["api_version"])
        .as_deref()
        .and_then(ApiVersion::parse)
}

/// Whether an object is the answer of `GET /health-check`: it tells the version, or is at least the whole envelope that
/// nobody else sends. A release that does not tell its version counts as a new one.
pub(crate) fn is_health_check(answer: &Object) -> bool {
    let envelope = answer.get("errors").is_some_and(Value::is_array)
        && answer.get("help").is_some_and(Value::is_object)
        && answer.contains_key("message");
    answer.contains_key("api_version") || envelope
}

/// The VMs of `GET /resources/vm/status/{name}` and `GET /resources/vm/list`, VM configs without a VM included.
pub(crate) fn vms(answer: &Object, addresses: &NodeAddresses) -> Vec<VmInstance> {
    let resources = lenient::objects_of(answer, &["virtual_machine_resources"]);
    let failed = lenient::objects_of(answer, &["failed_virtual_machine_resources"]);
    let listed = resources
        .into_iter()
        .flat_map(|resource| of_resource(resource, addresses));
    let failed = failed
        .into_iter()
        .flat_map(|resource| of_resource(resource, addresses))
        .map(|vm| VmInstance {
            state: VmState::Failed,
            ..vm
        });
    listed.chain(failed).collect()
}

fn of_resource(resource: &Object, addresses: &NodeAddresses) -> Vec<VmInstance> {
    let instances = lenient::objects_of(resource, &["status"]);
    if !instances.is_empty() {
        let name = lenient::text_of(resource, &["virtual_machine_name"]);
        let instances = instances.into_iter();
        return instances
            .filter_map(|instance| vm(instance, name.as_deref(), None, addresses))
            .collect();
    }
    let word = lenient::text_of(resource, &["vm_deployment_status"]);
    let state = VmState::from_word(word.as_deref().or(Some("Not Deployed")));
    vm(resource, None, Some(state), addresses)
        .into_iter()
        .collect()
}

fn vm(
    record: &Object,
    config: Option<&str>,
    state: Option<VmState>,
    addresses: &NodeAddresses,
) -> Option<VmInstance> {
    let reported_ip = lenient::ip_of(record, &["virtual_machine_ip", "ip"]);
    let name = lenient::text_of(record, &["virtual_machine_name"])
        .or_else(|| config.map(str::to_owned))?;
    Some(VmInstance {
        name,
        id: lenient::text_of(record, &["virtual_machine_id", "vm_id"]),
        state: state.unwrap_or_else(|| {
            VmState::from_word(lenient::text_of(record, &["vm_status"]).as_deref())
        }),
        node: lenient::text_of(record, &["node_location"]),
        address: reported_ip.map(|ip| mapped(ip, addresses)),
        reported_ip,
        ssh_port: lenient::port_of(record, &["ssh_port"]),
        screen_share_port: lenient::port_of(record, &["screen_sharing_port", "screen_share_port"]),
        vnc_port: lenient::port_of(record, &["vnc_port"]),
        image: lenient::text_of(record, &["base_image"]),
        owner: lenient::text_of(record, &["owner"]),
        created_at: lenient::text_of(record, &["creation_timestamp", "creationTimestamp"]),
        metadata: lenient::strings_of(record, &["vm_metadata"]),
    })
}

/// The VM configs of `GET /resources/vm/configs`.
pub(crate) fn configs(answer: &Object) -> Vec<VmConfig> {
    lenient::objects_of(answer, &["configs"])
        .into_iter()
        .filter_map(config)
        .collect()
}

fn config(record: &Object) -> Option<VmConfig> {
    Some(VmConfig {
        name: lenient::text_of(record, &["orka_vm_name"])?,
        image: lenient::text_of(record, &["orka_base_image"]),
        cpu: lenient::count_of(record, &["orka_cpu_core"]),
        vcpu: lenient::count_of(record, &["vcpu_count"]),
        memory_gib: lenient::gib_of(record, &["memory"]),
        owner: lenient::text_of(record, &["owner"]),
        tag: lenient::text_of(record, &["tag"]),
    })
}

/// The nodes of `GET /resources/node/list`.
pub(crate) fn nodes(answer: &Object) -> Vec<Node> {
    lenient::objects_of(answer, &["nodes"])
        .into_iter()
        .filter_map(node)
        .collect()
}

fn node(record: &Object) -> Option<Node> {
    let state = lenient::text_of(record, &["state"]).unwrap_or_default();
    Some(Node {
        name: lenient::text_of(record, &["name", "host_name"])?,
        ip: lenient::ip_of(record, &["hostIP", "address"]),
        is_ready: state.eq_ignore_ascii_case("ready"),
        available_cpu: lenient::count_of(record, &["available_cpu"]),
        allocatable_cpu: lenient::count_of(record, &["allocatable_cpu", "total_cpu"]),
        available_memory: lenient::text_of(record, &["available_memory"]),
        kind: lenient::text_of(record, &["node_type"]),
        tags: lenient::texts_of(record, &["orka_tags"]),
    })
}

/// The images of `GET /resources/image/list`: `image_attributes` has their sizes, `images` the bare names.
pub(crate) fn images(answer: &Object) -> Vec<Image> {
    let described: Vec<Image> = lenient::objects_of(answer, &["image_attributes"])
        .into_iter()
        .filter_map(|record| {
            Some(Image {
                name: lenient::text_of(record, &["image"])?,
                size: lenient::text_of(record, &["image_size"]),
                architecture: None,
                description: None,
            })
        })
        .collect();
    let named = lenient::member(answer, &["images"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let bare: Vec<Image> = named
        .filter_map(lenient::text)
        .filter(|name| described.iter().all(|image| image.name != *name))
        .map(|name| Image {
            name,
            size: None,
            architecture: None,
            description: None,
        })
        .collect();
    [described, bare].concat()
}
