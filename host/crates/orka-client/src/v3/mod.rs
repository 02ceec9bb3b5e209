//! Orka 3.x: `/api/v1/…` with a bearer token and namespaces; refusals are Kubernetes `Status` objects.

mod read;
mod write;

use serde_json::Value;

use crate::config::DEFAULT_NAMESPACE;
use crate::error::Error;
use crate::http::{Call, Reply};
use crate::lenient::{self, Object};
use crate::refusal::Refusal;

pub(crate) use read::{cluster_info, config, configs, images, is_cluster_info, nodes, vm, vms};
pub(crate) use write::{config_body, deploy_body, deployed};

/// `/api/v1/namespaces/{namespace}/…`.
pub(crate) fn path(namespace: &str, rest: &[&str]) -> Vec<String> {
    ["api", "v1", "namespaces", namespace]
        .iter()
        .chain(rest)
        .map(|&segment| segment.to_owned())
        .collect()
}

/// A path in the namespace where VM configs and local images of all namespaces live.
pub(crate) fn shared_path(rest: &[&str]) -> Vec<String> {
    path(DEFAULT_NAMESPACE, rest)
}

/// What the API said, if it carried the call out; `null` for an empty body, which deletions are answered with.
pub(crate) fn judge(call: &Call, reply: &Reply) -> Result<Value, Error> {
    let namespace = call
        .segments
        .get(3)
        .filter(|_| call.segments.len() > 4)
        .cloned();
    if reply.is_success() && reply.is_empty() {
        return Ok(Value::Null);
    }
    match reply.json() {
        Some(value) if reply.is_success() && !is_failure(&value) => Ok(value),
        Some(Value::Object(status)) => {
            let mut messages = lenient::messages(status.get("message"));
            if messages.is_empty() {
                messages = lenient::messages(status.get("errors").or_else(|| status.get("error")));
            }
            if reply.status == 404 && !says_what_is_missing(&status, &messages) {
                return Err(reply.unexpected(call, "something that is no Orka answer"));
            }
            let refusal = Refusal {
                namespace,
                ..Refusal::new(reply, messages)
            };
            Err(refusal.into_error(call))
        }
        _ => {
            let page = Some(reply.excerpt())
                .filter(|excerpt| !excerpt.is_empty())
                .into_iter()
                .collect();
            let refusal = Refusal {
                namespace,
                ..Refusal::new(reply, page)
            };
            Err(refusal
                .by_status_alone(call)
                .unwrap_or_else(|| reply.unexpected(call, "something that is no JSON")))
        }
    }
}

/// A `Status` object that reports a failure, whatever the status code with which it came.
fn is_failure(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        object.get("kind").and_then(Value::as_str) == Some("Status")
            && object.get("status").and_then(Value::as_str) == Some("Failure")
    })
}

/// Whether a 404 is Orka's own: a gateway's says nothing about VMs, and taking it for Orka's would leave one behind.
fn says_what_is_missing(status: &Object, messages: &[String]) -> bool {
    let is_status = status.get("kind").and_then(Value::as_str) == Some("Status")
        || status.contains_key("reason");
    let names_it = |message: &String| {
        let message = message.to_lowercase();
        message.contains("not found") && message.trim() != "not found"
    };
    is_status || messages.iter().any(names_it)
}

/// The object that a call must answer with.
pub(crate) fn object(call: &Call, reply: &Reply) -> Result<Object, Error> {
    match judge(call, reply)? {
        Value::Object(object) => Ok(object),
        Value::Null => Err(reply.unexpected(call, "nothing")),
        _ => Err(reply.unexpected(call, "something that is no JSON object")),
    }
}

/// The items of a list; a bare array is taken for one.
pub(crate) fn items(call: &Call, reply: &Reply) -> Result<Vec<Object>, Error> {
    let list = match judge(call, reply)? {
        Value::Array(list) => Some(list),
        Value::Object(mut object) => match object.remove("items") {
            Some(Value::Array(list)) => Some(list),
            Some(Value::Null) => Some(Vec::new()),
            _ => None,
        },
        _ => None,
    };
    let list = list.ok_or_else(|| reply.unexpected(call, "no list"))?;
    Ok(lenient::objects_in(&list).into_iter().cloned().collect())
}
