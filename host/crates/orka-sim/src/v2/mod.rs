//! The REST API of Orka 1.x/2.x, as the 2.1 collection and the clients of its time show it.

mod configs;
mod deploy;
mod envelope;
mod images;
mod members;
mod nodes;
mod power;
mod remove;
mod status;
mod tokens;
mod users;

use std::sync::Arc;

use http::Method;
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, DEFAULT_NAMESPACE};
use crate::fault::FaultAction;
use crate::reply::Reply;
use crate::request::{NoBearer, Payload, Request};

pub(crate) use envelope::fail;

/// All parameters of a request together may have this many bytes.
const BODY_BYTES_MAX: usize = 100 * 1024;

/// The licence key header.
const LICENCE_HEADER: &str = "orka-licensekey";

/// One call with what the handlers need of it.
struct Call<'a> {
    cluster: &'a Arc<Cluster>,
    request: &'a Request,
    /// Members of the body.
    members: Map<String, Value>,
    /// Faults that hit this request.
    actions: &'a [FaultAction],
    /// E-mail address of the caller; empty where none is needed.
    email: String,
}

/// Answers one call; `None` for a path that does not exist here.
pub(crate) async fn answer(
    cluster: &Arc<Cluster>,
    request: &Request,
    actions: &[FaultAction],
) -> Option<Reply> {
    // Express takes no path with an empty segment for one without.
    if request.path.contains("//") {
        return None;
    }
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if !is_known(&request.method, &segments) {
        return None;
    }
    let statuses = &cluster.config.switches.v2_statuses;
    if request.body.len() > BODY_BYTES_MAX {
        return Some(fail(statuses.too_large, "request entity too large"));
    }
    let members = match request.payload() {
        Payload::Members(members) => members,
        Payload::Malformed(text) => return Some(fail(400, &text)),
    };
    let mut call = Call {
        cluster,
        request,
        members,
        actions,
        email: String::new(),
    };
    if let Some(reply) = open_call(&call, &segments) {
        return Some(reply);
    }
    match caller(cluster, request) {
        Ok(email) => call.email = email,
        Err(reply) => return Some(reply),
    }
    Some(signed_in_call(&call, &segments).await)
}

/// Paths of the API, so that an unknown one is told from one that needs a token.
fn is_known(method: &Method, segments: &[&str]) -> bool {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    let delete = *method == Method::DELETE;
    match segments {
        ["token"] => get || post || delete,
        [
            "health-check"
            | "version"
            | "validation-requirements"
            | "validate-license-key"
            | "default-base-image",
        ] => get,
        ["users"] => get || post,
        ["users", _] => delete,
        ["resources", "ports"] | ["resources", "iso", "list"] => get,
        ["resources", "vm", "create" | "deploy"] => post,
        ["resources", "vm", "configs" | "list"] => get,
        ["resources", "vm", "configs" | "status" | "list", _] => get,
        ["resources", "vm", "delete" | "purge"] => delete,
        [
            "resources",
            "vm",
            "exec",
            "start" | "stop" | "suspend" | "resume" | "revert",
        ] => post,
        ["resources", "node", "list"] | ["resources", "node", "status", _] => get,
        ["resources", "image", "list" | "list-remote"]
        | ["resources", "image", "checksum" | "download", _] => get,
        ["resources", "image", "delete"] => post || delete,
        [
            "resources",
            "image",
            "pull" | "copy" | "rename" | "save" | "commit",
        ] => post,
        _ => false,
    }
}

/// The calls that need no token (users need the licence key alone).
fn open_call(call: &Call<'_>, segments: &[&str]) -> Option<Reply> {
    let method = &call.request.method;
    Some(match segments {
        ["token"] if *method == Method::POST => tokens::create(call),
        ["health-check"] => health(call.cluster),
        ["version"] => version(call),
        ["validation-requirements"] => envelope::ok("", json!({ "password_length": 6 })),
        ["validate-license-key"] => users::validate_licence(call),
        ["default-base-image"] => default_image(call.cluster),
        ["users"] if *method == Method::POST => users::create(call),
        ["users"] => users::list(call),
        ["users", email] => users::remove(call, email),
        _ => return None,
    })
}

async fn signed_in_call(call: &Call<'_>, segments: &[&str]) -> Reply {
    match segments {
        ["token"] if call.request.method == Method::DELETE => tokens::revoke(call),
        ["token"] => tokens::check(call),
        ["resources", "vm", "create"] => configs::create(call),
        ["resources", "vm", "configs"] => configs::list(call, None),
        ["resources", "vm", "configs", name] => configs::list(call, Some(name)),
        ["resources", "vm", "deploy"] => deploy::deploy(call).await,
        ["resources", "vm", "status", name] => status::status(call, name),
        ["resources", "vm", "list"] => status::list(call),
        ["resources", "vm", "list", whose] => status::list_of_others(call, whose),
        ["resources", "vm", "delete"] => remove::delete(call).await,
        ["resources", "vm", "purge"] => remove::purge(call).await,
        ["resources", "vm", "exec", action] => power::exec(call, action),
        ["resources", "node", "list"] => nodes::list(call),
        ["resources", "node", "status", node] => nodes::status(call, node),
        ["resources", "ports"] => nodes::ports(call),
        ["resources", "iso", "list"] => {
            envelope::ok("", json!({ "iso_attributes": [], "isos": [] }))
        }
        ["resources", "image", rest @ ..] => images::answer(call, rest),
        // `is_known` lets nothing else through.
        _ => Reply::express_not_found(call.request.method.as_str(), &call.request.path),
    }
}

/// Who calls, by the bearer token.
fn caller(cluster: &Cluster, request: &Request) -> Result<String, Reply> {
    let token = match request.bearer() {
        Ok(token) => token,
        Err(NoBearer::Absent) => return Err(fail(401, "No authorization token was found")),
        Err(NoBearer::OtherScheme) => {
            return Err(fail(401, "Format is Authorization: Bearer [token]"));
        }
    };
    let inner = cluster.lock();
    match inner.user_tokens.iter().find(|known| known.value == token) {
        Some(known) if !known.revoked => Ok(known.email.clone()),
        // A single token may have been revoked and handed out again; `tokens` then holds it twice or live.
        Some(_) => Err(refused(cluster, request, "The token has been revoked.")),
        None if token.split('.').count() == 3 => {
            Err(refused(cluster, request, "invalid signature"))
        }
        None => Err(refused(cluster, request, "jwt malformed")),
    }
}

/// The answer to a bad token: `401`, or for `GET /token`, by switch, `200` that says so.
fn refused(cluster: &Cluster, request: &Request, text: &str) -> Reply {
    let is_check = request.method == Method::GET && request.path.trim_matches('/') == "token";
    if is_check && cluster.config.switches.token_check_always_ok {
        return envelope::ok(
            "",
            json!({ "authenticated": false, "is_token_revoked": true }),
        );
    }
    fail(401, text)
}

/// Whether the caller has shown the licence key.
fn is_admin(call: &Call<'_>) -> bool {
    call.request.header(LICENCE_HEADER) == Some(call.cluster.config.licence_key.as_str())
}

/// The answer to an administrative call without the right key.
fn wrong_licence() -> Reply {
    fail(401, "Provided license key is not valid")
}

fn health(cluster: &Cluster) -> Reply {
    let version = &cluster.config.api_version;
    envelope::ok(
        "",
        if version.is_empty() {
            json!({})
        } else {
            json!({ "api_version": version })
        },
    )
}

fn version(call: &Call<'_>) -> Reply {
    let version = &call.cluster.config.api_version;
    let mut members = json!({ "api_version": version });
    if call.request.has_query("all") {
        for name in ["cli_version", "operator_version", "webui_version"] {
            members[name] = json!(version);
        }
    }
    envelope::ok("", members)
}

fn default_image(cluster: &Cluster) -> Reply {
    let inner = cluster.lock();
    let image = inner.images.first().map(|image| image.spec.name.clone());
    envelope::ok("", json!({ "default_base_image": image }))
}

/// The namespace of everything made through this API.
fn namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}
