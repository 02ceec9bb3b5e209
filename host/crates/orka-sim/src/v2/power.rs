//! `POST /resources/vm/exec/{start,stop,suspend,resume,revert}`.

use serde_json::json;

use super::members::Members;
use super::{Call, envelope, fail, is_admin};
use crate::cluster::Phase;
use crate::reply::Reply;

/// Changes the phase of one VM.
pub(super) fn exec(call: &Call<'_>, action: &str) -> Reply {
    let statuses = &call.cluster.config.switches.v2_statuses;
    let members = Members(&call.members);
    let (name, node) = match (
        members.required_text("orka_vm_name"),
        members.text("orka_node_name"),
    ) {
        (Ok(name), Ok(node)) => (name, node),
        (Err(wrong), _) | (_, Err(wrong)) => return fail(statuses.validation, &wrong),
    };
    let everyone = is_admin(call);
    let mut inner = call.cluster.lock();
    let place = node.map(|node| inner.nodes.iter().position(|known| known.spec.name == node));
    let found = inner.vms.iter_mut().find(|vm| {
        let mine = everyone || vm.spec.owner == call.email;
        // A name alone does not say which VM is meant.
        let named = vm.spec.name == name && place == Some(Some(vm.node));
        mine && (vm.spec.id == name || named)
    });
    let Some(vm) = found else {
        return fail(
            statuses.delete_nothing,
            "No VMs with that name are currently deployed",
        );
    };
    let (phase, done) = match action {
        "stop" => (Phase::Stopped, "stopped"),
        "suspend" => (Phase::Suspended, "been suspended"),
        "resume" => (Phase::Running, "resumed"),
        "revert" => (Phase::Running, "been reverted"),
        _ => (Phase::Running, "started"),
    };
    vm.phase = phase;
    let at = vm.node;
    let message = format!("{name} has {done} on {}", inner.nodes[at].spec.name);
    envelope::ok(&message, json!({}))
}
