//! `/api/v1/namespaces/orka-default/vmconfigs`.

use serde_json::{Map, Value, json};

use super::body::Body;
use super::order::check_limits;
use super::{Call, Failure, Outcome, items};
use crate::reply::Reply;
use crate::request::Payload;
use crate::snapshot::DeletionRecord;

/// The plural Kubernetes knows VM configurations by.
const RESOURCE: &str = "virtualmachineconfigs";

/// Longest name.
const NAME_LENGTH_MAX: usize = 50;

/// Fewest cores.
const CPU_MIN: u32 = 2;

pub(super) fn create(call: &Call<'_>, namespace: &str) -> Outcome {
    call.shared(namespace, "create", RESOURCE)?;
    let body = Body::read(call.request)?;
    let invalid =
        |text: String| Failure::new(call.cluster.config.switches.v3_validation_status, text);
    let name = body.required_text("name")?;
    super::order::check_name(&name).map_err(invalid)?;
    if name.len() > NAME_LENGTH_MAX {
        return Err(invalid(format!(
            "name must be no more than {NAME_LENGTH_MAX} characters"
        )));
    }
    body.required_text("image")?;
    if body.integer("cpu")?.is_some_and(|cpu| cpu < CPU_MIN) {
        return Err(invalid(format!(
            "spec.cpu in body should be greater than or equal to {CPU_MIN}"
        )));
    }
    if body.boolean("legacyIO")? == Some(true) && body.boolean("netBoost")? == Some(true) {
        return Err(invalid(
            "netBoost cannot be enabled together with legacyIO".to_owned(),
        ));
    }
    body.memory()?;
    check_limits(&body).map_err(invalid)?;
    let Payload::Members(members) = call.request.json() else {
        return Err(Failure::new(400, "no body"));
    };
    let mut inner = call.cluster.lock();
    if inner.vmconfigs.iter().any(|config| is_named(config, &name)) {
        return Err(Failure::already_exists(RESOURCE, &name));
    }
    inner.vmconfigs.push(members.clone());
    Ok(Reply::json(201, Value::Object(members)))
}

fn is_named(config: &Map<String, Value>, name: &str) -> bool {
    config.get("name").and_then(Value::as_str) == Some(name)
}

pub(super) fn list(call: &Call<'_>, namespace: &str) -> Outcome {
    call.shared(namespace, "list", RESOURCE)?;
    let inner = call.cluster.lock();
    Ok(items(inner.vmconfigs.iter().map(shown).collect()))
}

pub(super) fn show(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.shared(namespace, "get", RESOURCE)?;
    let inner = call.cluster.lock();
    let config = inner.vmconfigs.iter().find(|config| is_named(config, name));
    let config = config.ok_or_else(|| Failure::not_found(RESOURCE, name))?;
    Ok(Reply::json(200, shown(config)))
}

/// A configuration with the members every list entry has.
fn shown(config: &Map<String, Value>) -> Value {
    let mut shown = config.clone();
    shown.entry("cpu").or_insert(json!(3));
    shown.entry("memory").or_insert(json!(0));
    Value::Object(shown)
}

pub(super) fn delete(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.shared(namespace, "delete", RESOURCE)?;
    let at_ms = u64::try_from(call.cluster.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut inner = call.cluster.lock();
    let before = inner.vmconfigs.len();
    inner.vmconfigs.retain(|config| !is_named(config, name));
    if inner.vmconfigs.len() == before {
        return Err(Failure::not_found(RESOURCE, name));
    }
    let record = DeletionRecord {
        kind: "config",
        name: name.to_owned(),
        id: String::new(),
        at_ms,
    };
    inner.deletions.push(record);
    Ok(Reply::empty(200))
}
