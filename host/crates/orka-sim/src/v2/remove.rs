//! `DELETE /resources/vm/delete` and `DELETE /resources/vm/purge`.

use serde_json::{Value, json};

use super::members::Members;
use super::{Call, envelope, fail, is_admin};
use crate::cluster::{Phase, Vm};
use crate::deploy::take_down;
use crate::reply::Reply;
use crate::snapshot::DeletionRecord;

/// Removes VMs by id, by name, or by name and node; the configuration stays.
pub(super) async fn delete(call: &Call<'_>) -> Reply {
    let statuses = &call.cluster.config.switches.v2_statuses;
    let members = Members(&call.members);
    let (name, node) = match (
        members.required_text("orka_vm_name"),
        members.text("orka_node_name"),
    ) {
        (Ok(name), Ok(node)) => (name, node),
        (Err(wrong), _) | (_, Err(wrong)) => return fail(statuses.validation, &wrong),
    };
    let node = {
        let inner = call.cluster.lock();
        node.map(|node| inner.nodes.iter().position(|known| known.spec.name == node))
    };
    let everyone = is_admin(call);
    let goes = |vm: &Vm| {
        let mine = everyone || vm.spec.owner == call.email;
        // Names do not reach scaled VMs nor those in error.
        let named =
            vm.spec.name == name && vm.spec.replicas == 1 && !matches!(vm.phase, Phase::Failed(_));
        let there = node.is_none_or(|node| node == Some(vm.node));
        mine && (vm.spec.id == name || (named && there))
    };
    if take_down(call.cluster, goes).await == 0 {
        return fail(
            statuses.delete_nothing,
            "No VMs with that name are currently deployed",
        );
    }
    envelope::with_help(200, "Successfully deleted VM", help(call, name), json!({}))
}

/// Removes every VM of a name, and its configuration.
pub(super) async fn purge(call: &Call<'_>) -> Reply {
    let switches = &call.cluster.config.switches;
    let name = match Members(&call.members).required_text("orka_vm_name") {
        Ok(name) => name,
        Err(wrong) => return fail(switches.v2_statuses.validation, &wrong),
    };
    let everyone = is_admin(call);
    let mine = |owner: &str| everyone || owner == call.email;
    let (configured, deployed) = {
        let inner = call.cluster.lock();
        let configured = inner
            .configs
            .iter()
            .any(|config| mine(&config.owner) && config.name == name);
        let deployed = inner
            .vms
            .iter()
            .any(|vm| mine(&vm.spec.owner) && vm.spec.name == name);
        (configured, deployed)
    };
    let unknown = !configured && !deployed && !switches.purge_unknown_succeeds;
    let refused = configured && !deployed && switches.purge_undeployed_fails;
    if unknown || refused {
        return fail(
            switches.v2_statuses.purge_nothing,
            "No VMs with that name exist in Orka",
        );
    }
    forget_config(call, name, mine);
    take_down(call.cluster, |vm| {
        mine(&vm.spec.owner) && vm.spec.name == name
    })
    .await;
    let mut help = help(call, name);
    help["create_virtual_machine_configuration"] = json!(format!(
        "To create a VM configuration use the endpoint {}/resources/vm/create",
        call.request.base
    ));
    help["required_request_data_for_create"] = json!({ "orka_vm_name": name, "orka_base_img": "<ORKA_BASE_IMAGE>", "orka_image": "<ORKA_IMAGE>" });
    let message = if everyone {
        "Successfully purged virtual machine"
    } else {
        "Successfully purged VM"
    };
    envelope::with_help(200, message, help, json!({}))
}

/// Takes the configuration away first, so that no deploy of it starts while its VMs go.
fn forget_config(call: &Call<'_>, name: &str, mine: impl Fn(&str) -> bool) {
    let at_ms = u64::try_from(call.cluster.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut inner = call.cluster.lock();
    let before = inner.configs.len();
    inner
        .configs
        .retain(|config| !(mine(&config.owner) && config.name == name));
    if inner.configs.len() < before {
        let record = DeletionRecord {
            kind: "config",
            name: name.to_owned(),
            id: String::new(),
            at_ms,
        };
        inner.deletions.push(record);
    }
}

fn help(call: &Call<'_>, name: &str) -> Value {
    let base = &call.request.base;
    let deploy = format!(
        "To deploy a VM, make sure you have a configuration created and use the endpoint {base}/resources/vm/deploy"
    );
    json!({
        "list_orka_nodes": format!("To list orka nodes send a rest a request to {base}/resources/node/list"),
        "deploy_virtual_machine": deploy,
        "required_request_data_for_deploy": { "orka_vm_name": name },
    })
}
