//! `/api/v1/namespaces/{ns}/vms`.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::body::Body;
use super::order::{self, Order};
use super::{Call, Failure, Outcome, items};
use crate::cluster::{Cluster, Image, Inner, Phase, Vm, VmSpec, Waiting};
use crate::config::ImageSpec;
use crate::deploy::{BringUpError, NoRoom, bring_up, reserve, take_down};
use crate::fault::failing_vm;
use crate::id;
use crate::reply::Reply;
use crate::switches::{DeleteReply, FullCluster, NetworkMode};

/// The plural Kubernetes knows VMs by.
const RESOURCE: &str = "virtualmachineinstances";

/// Deploys a VM and waits until it runs, fails, or the request's timeout passes.
pub(super) async fn deploy(call: &Call<'_>, namespace: &str) -> Outcome {
    call.allow(namespace, "create", RESOURCE)?;
    let Order { spec, timeout } = order::read(call, namespace)?;
    let ticket = {
        let mut inner = call.cluster.lock();
        if exists(&inner, namespace, &spec.name) {
            return Err(Failure::already_exists(RESOURCE, &spec.name));
        }
        let ticket = inner.next_serial;
        inner.next_serial += 1;
        let created = call.cluster.now();
        inner.waiting.push(Waiting {
            ticket,
            created,
            spec: spec.clone(),
        });
        ticket
    };
    let (told, outcome) = oneshot::channel();
    let (cluster, failing) = (Arc::clone(call.cluster), failing_vm(call.actions));
    // The operator works on when the client, or the API's own patience, gives up.
    tokio::spawn(async move {
        let _ = told.send(operate(&cluster, ticket, spec, failing).await);
    });
    let outcome = tokio::select! {
        outcome = outcome => outcome.unwrap_or(Err(Trouble::Deleted)),
        () = tokio::time::sleep(timeout) => return Err(timed_out(call, ticket).await),
    };
    let serial = outcome.map_err(|trouble| trouble.failure(call.cluster))?;
    let inner = call.cluster.lock();
    let vm = inner
        .vm(serial)
        .ok_or_else(|| Trouble::Deleted.failure(call.cluster))?;
    let status = if call.cluster.config.switches.deploy_created {
        201
    } else {
        200
    };
    Ok(Reply::json(status, deployed(call.cluster, &inner, vm)))
}

/// Why a deploy came to nothing.
enum Trouble {
    NoRoom(NoRoom),
    BringUp(BringUpError),
    Deleted,
}

impl Trouble {
    fn failure(&self, cluster: &Cluster) -> Failure {
        let switches = &cluster.config.switches;
        let full = switches.v3_capacity_status;
        match self {
            Self::NoRoom(NoRoom::Slots { node, slots }) if switches.v3_slots_text.is_empty() => {
                Failure::new(
                    full,
                    format!("Cannot deploy more than {slots} VMs on node {node}"),
                )
            }
            Self::NoRoom(NoRoom::Slots { node, .. }) => {
                Failure::new(full, switches.v3_slots_text.replace("{node}", node))
            }
            Self::NoRoom(NoRoom::Cpu | NoRoom::NoSuchNode) => {
                Failure::new(full, "Not enough CPU available")
            }
            Self::NoRoom(NoRoom::Memory) => Failure::new(full, "Not enough memory available"),
            Self::NoRoom(NoRoom::UnknownNode(node)) => Failure::not_found("orkanodes", node),
            Self::NoRoom(NoRoom::Ports(text)) => {
                Failure::new(500, format!("no free port on the node: {text}"))
            }
            Self::BringUp(BringUpError::Failed(message)) => Failure::new(500, message.clone()),
            Self::BringUp(BringUpError::Guest(_)) => Failure::new(
                500,
                "Unable to deploy the VM as the underlying VM process has crashed.",
            ),
            Self::BringUp(BringUpError::Deleted) | Self::Deleted => {
                Failure::new(500, "the VM was deleted while it was being deployed")
            }
        }
    }
}

/// What the operator does with one VM: find room, now or by switch later, and bring it up.
async fn operate(
    cluster: &Arc<Cluster>,
    ticket: u64,
    spec: VmSpec,
    failing: Option<String>,
) -> Result<u64, Trouble> {
    let waits = cluster.config.switches.full_cluster == FullCluster::Wait;
    loop {
        // Listening starts before looking, so that no freed room is missed.
        let freed = cluster.room_freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if !cluster.lock().is_waiting(ticket) {
            return Err(Trouble::Deleted);
        }
        match reserve(cluster, spec.clone(), Some(ticket)) {
            Ok(reserved) => {
                bring_up(cluster, &reserved, failing)
                    .await
                    .map_err(Trouble::BringUp)?;
                return Ok(reserved.serial);
            }
            Err(why) if waits && why.is_capacity() => freed.await,
            Err(why) => {
                cluster.lock().forget_waiting(ticket);
                return Err(Trouble::NoRoom(why));
            }
        }
    }
}

/// The answer to a deploy whose time is up; the VM stays, or by switch goes.
async fn timed_out(call: &Call<'_>, ticket: u64) -> Failure {
    if call.cluster.config.switches.remove_after_timeout {
        call.cluster.lock().forget_waiting(ticket);
        take_down(call.cluster, |vm| vm.ticket == Some(ticket)).await;
    }
    Failure::new(504, "timed out waiting for the VM to be deployed")
}

fn exists(inner: &Inner, namespace: &str, name: &str) -> bool {
    let same = |spec: &VmSpec| spec.namespace == namespace && spec.name == name;
    inner.vms.iter().any(|vm| same(&vm.spec))
        || inner.waiting.iter().any(|waiting| same(&waiting.spec))
}

/// All VMs of the namespace, whoever made them.
pub(super) fn list(call: &Call<'_>, namespace: &str) -> Outcome {
    call.allow(namespace, "list", RESOURCE)?;
    let inner = call.cluster.lock();
    let vms = inner.vms.iter().filter(|vm| vm.spec.namespace == namespace);
    let waiting = inner
        .waiting
        .iter()
        .filter(|waiting| waiting.spec.namespace == namespace);
    let shown = vms
        .map(|vm| shown(call.cluster, &inner, vm))
        .chain(waiting.map(pending));
    Ok(items(shown.collect()))
}

/// One VM.
pub(super) fn show(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.allow(namespace, "get", RESOURCE)?;
    let inner = call.cluster.lock();
    let same = |spec: &VmSpec| spec.namespace == namespace && spec.name == name;
    if let Some(vm) = inner.vms.iter().find(|vm| same(&vm.spec)) {
        return Ok(Reply::json(200, shown(call.cluster, &inner, vm)));
    }
    let waiting = inner.waiting.iter().find(|waiting| same(&waiting.spec));
    let waiting = waiting.ok_or_else(|| Failure::not_found(RESOURCE, name))?;
    Ok(Reply::json(200, pending(waiting)))
}

/// Deletes one VM.
pub(super) async fn delete(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.allow(namespace, "delete", RESOURCE)?;
    let same = |spec: &VmSpec| spec.namespace == namespace && spec.name == name;
    let was_waiting = {
        let mut inner = call.cluster.lock();
        let before = inner.waiting.len();
        inner.waiting.retain(|waiting| !same(&waiting.spec));
        inner.waiting.len() < before
    };
    let gone = take_down(call.cluster, |vm| same(&vm.spec)).await;
    if gone == 0 && !was_waiting {
        return Err(Failure::not_found(RESOURCE, name));
    }
    Ok(match call.cluster.config.switches.delete_reply {
        DeleteReply::OkEmpty => Reply::empty(200),
        DeleteReply::OkJson => Reply::json(200, json!({ "name": name })),
        DeleteReply::Accepted => Reply::empty(202),
        DeleteReply::NoContent => Reply::empty(204),
    })
}

/// Save, commit and push.
pub(super) fn act(call: &Call<'_>, namespace: &str, name: &str, action: &str) -> Outcome {
    call.allow(namespace, "update", RESOURCE)?;
    let body = Body::read(call.request)?;
    let mut inner = call.cluster.lock();
    if !inner
        .vms
        .iter()
        .any(|vm| vm.spec.namespace == namespace && vm.spec.name == name)
    {
        return Err(Failure::not_found(RESOURCE, name));
    }
    match action {
        "save" => {
            let image = body.required_text("imageName")?;
            if inner.images.iter().any(|known| known.spec.name == image) {
                return Err(Failure::already_exists("images", &image));
            }
            let (added, owner) = (call.cluster.now(), call.caller.spec.account.clone());
            inner.images.push(Image {
                spec: ImageSpec::named(image),
                added,
                owner,
            });
            Ok(Reply::json(200, json!({})))
        }
        "push" => {
            body.required_text("imageReference")?;
            Ok(Reply::json(
                200,
                json!({ "jobName": format!("{name}-push-{}", id::suffix()) }),
            ))
        }
        _ => Ok(Reply::json(200, json!({}))),
    }
}

/// The answer to a deploy.
fn deployed(cluster: &Cluster, inner: &Inner, vm: &Vm) -> Value {
    let mut members = json!({
        "name": vm.spec.name,
        "node": inner.nodes[vm.node].spec.name,
        "memory": format!("{:.2}Gi", vm.memory_gib),
        "ip": vm.ip.to_string(),
        "ssh": vm.ssh_port,
        "status": status_word(&vm.phase),
    });
    let bridge = cluster.config.switches.network_mode == NetworkMode::Bridge;
    members["screenshare"] = json!(if bridge { 5900 } else { vm.screen_port });
    if let Some(port) = vm.vnc_port {
        members["vnc"] = json!(if bridge { 6000 } else { port });
    }
    if !vm.port_warnings.is_empty() {
        members["portWarnings"] = json!(vm.port_warnings.join(", "));
    }
    members
}

/// A VM as `GET` shows it.
fn shown(cluster: &Cluster, inner: &Inner, vm: &Vm) -> Value {
    let mut members = deployed(cluster, inner, vm);
    members["cpu"] = json!(vm.spec.cpu);
    if !cluster.config.switches.hide_timestamps {
        members["deployDate"] = json!(id::timestamp(vm.created));
    }
    members["image"] = json!(vm.spec.image);
    members["gpuPassthrough"] = json!(vm.spec.gpu_passthrough);
    members["type"] = json!(vm.spec.architecture.orka3_type());
    if !vm.spec.metadata.is_empty() {
        members["customMetadata"] = Value::Object(vm.spec.metadata.clone());
    }
    if let Phase::Failed(message) = &vm.phase {
        members["errorMessage"] = json!(message);
    }
    if vm.phase == Phase::Pending
        && let Value::Object(members) = &mut members
    {
        // No address before the VM runs.
        for name in ["ip", "ssh", "vnc", "screenshare"] {
            members.remove(name);
        }
    }
    members
}

/// A VM that has no node yet.
fn pending(waiting: &Waiting) -> Value {
    json!({
        "name": waiting.spec.name,
        "cpu": waiting.spec.cpu,
        "deployDate": id::timestamp(waiting.created),
        "image": waiting.spec.image,
        "gpuPassthrough": waiting.spec.gpu_passthrough,
        "type": waiting.spec.architecture.orka3_type(),
        "status": "Pending",
    })
}

/// Stopped and suspended VMs are still shown as running.
fn status_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running | Phase::Stopped | Phase::Suspended => "Running",
        Phase::Failed(_) => "Failed",
    }
}
