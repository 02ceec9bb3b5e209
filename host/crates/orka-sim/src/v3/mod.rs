//! The REST API of Orka 3.x: a thin service in front of Kubernetes resources, which shows in its errors.

mod admin;
mod body;
mod configs;
mod failure;
mod images;
mod nodes;
mod order;
mod vms;

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, DEFAULT_NAMESPACE, LiveSaToken};
use crate::fault::FaultAction;
use crate::reply::Reply;
use crate::request::Request;

pub(crate) use failure::{Failure, status_object};

/// What a handler gives: an answer, or a failure that becomes a `Status` object.
type Outcome = Result<Reply, Failure>;

/// One call with what the handlers need of it.
struct Call<'a> {
    cluster: &'a Arc<Cluster>,
    request: &'a Request,
    actions: &'a [FaultAction],
    /// Who calls.
    caller: LiveSaToken,
}

/// Answers one call; `None` for a path that does not exist here.
pub(crate) async fn answer(
    cluster: &Arc<Cluster>,
    request: &Request,
    actions: &[FaultAction],
) -> Option<Reply> {
    if request.path.contains("//") {
        return None;
    }
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let ["api", "v1", rest @ ..] = segments.as_slice() else {
        return None;
    };
    if let (["cluster-info"], &Method::GET) = (rest, &request.method) {
        return Some(Reply::json(200, admin::cluster_info(cluster)));
    }
    if !is_known(&request.method, rest) {
        return None;
    }
    let caller = match caller(cluster, request) {
        Ok(caller) => caller,
        Err(failure) => return Some(failure.reply()),
    };
    let call = Call {
        cluster,
        request,
        actions,
        caller,
    };
    Some(
        dispatch(&call, rest)
            .await
            .unwrap_or_else(|failure| failure.reply()),
    )
}

/// Paths of the API, so that an unknown one is told from one that needs a token.
fn is_known(method: &Method, rest: &[&str]) -> bool {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    let delete = *method == Method::DELETE;
    match rest {
        ["namespaces"] | ["namespaces", _, "vms" | "vmconfigs"] => get || post,
        ["namespaces", _] | ["namespaces", _, "nodes" | "images" | "remoteimages"] => get,
        ["namespaces", _, "vms" | "vmconfigs", _] => get || delete,
        ["namespaces", _, "vms", _, "save" | "commit" | "push"] => post,
        ["namespaces", _, "remoteimages", _, "pull"] => post,
        ["namespaces", _, "serviceaccounts", _] => post || delete,
        ["namespaces", _, "serviceaccounts", _, "token"] => post,
        ["namespaces", _, "nodes", _, "namespace"] => post,
        [
            "namespaces",
            _,
            "rolebindings",
            "orka-dev",
            "subjects",
            "add" | "remove",
        ] => post,
        _ => false,
    }
}

async fn dispatch(call: &Call<'_>, rest: &[&str]) -> Outcome {
    let method = &call.request.method;
    match rest {
        ["namespaces"] if *method == Method::POST => admin::create_namespace(call),
        ["namespaces"] => admin::list_namespaces(call),
        ["namespaces", ns] => admin::show_namespace(call, ns),
        ["namespaces", ns, "vms"] if *method == Method::POST => vms::deploy(call, ns).await,
        ["namespaces", ns, "vms"] => vms::list(call, ns),
        ["namespaces", ns, "vms", name] if *method == Method::DELETE => {
            vms::delete(call, ns, name).await
        }
        ["namespaces", ns, "vms", name] => vms::show(call, ns, name),
        ["namespaces", ns, "vms", name, action] => vms::act(call, ns, name, action),
        ["namespaces", ns, "vmconfigs"] if *method == Method::POST => configs::create(call, ns),
        ["namespaces", ns, "vmconfigs"] => configs::list(call, ns),
        ["namespaces", ns, "vmconfigs", name] if *method == Method::DELETE => {
            configs::delete(call, ns, name)
        }
        ["namespaces", ns, "vmconfigs", name] => configs::show(call, ns, name),
        ["namespaces", ns, "nodes"] => nodes::list(call, ns),
        ["namespaces", ns, "nodes", node, "namespace"] => nodes::move_to(call, ns, node),
        ["namespaces", ns, "images"] => images::list(call, ns),
        ["namespaces", ns, "remoteimages"] => images::list(call, ns),
        ["namespaces", ns, "remoteimages", name, "pull"] => images::pull(call, ns, name),
        ["namespaces", ns, "serviceaccounts", name] if *method == Method::DELETE => {
            admin::delete_account(call, ns, name)
        }
        ["namespaces", ns, "serviceaccounts", name] => admin::create_account(call, ns, name),
        ["namespaces", ns, "serviceaccounts", name, "token"] => admin::create_token(call, ns, name),
        ["namespaces", ns, "rolebindings", _, _, action] => {
            admin::change_subjects(call, ns, action)
        }
        // `is_known` lets nothing else through.
        _ => Err(Failure::not_found("pages", "")),
    }
}

/// Who calls, by the bearer token: known and not expired.
fn caller(cluster: &Cluster, request: &Request) -> Result<LiveSaToken, Failure> {
    let token = request.bearer().map_err(|_| Failure::unauthorized())?;
    let inner = cluster.lock();
    let known = inner
        .sa_tokens
        .iter()
        .find(|known| known.spec.token == token);
    let known = known.ok_or_else(Failure::unauthorized)?;
    if known
        .expires
        .is_some_and(|expires| cluster.elapsed() >= expires)
    {
        return Err(Failure::unauthorized());
    }
    Ok(known.clone())
}

impl Call<'_> {
    /// Whether the caller may do this in a namespace; the namespace must exist as well.
    fn allow(&self, namespace: &str, verb: &str, resource: &str) -> Result<(), Failure> {
        let spec = &self.caller.spec;
        if !spec.admin && !spec.namespaces.iter().any(|allowed| allowed == namespace) {
            return Err(Failure::forbidden(&self.user(), verb, resource, namespace));
        }
        if !self
            .cluster
            .lock()
            .namespaces
            .iter()
            .any(|known| known == namespace)
        {
            return Err(Failure::not_found("namespaces", namespace));
        }
        Ok(())
    }

    /// VM configurations and images are in one namespace, and there for everybody.
    fn shared(&self, namespace: &str, verb: &str, resource: &str) -> Result<(), Failure> {
        if namespace == DEFAULT_NAMESPACE {
            return Ok(());
        }
        self.allow(namespace, verb, resource)?;
        Err(Failure::not_found(resource, ""))
    }

    /// Whether the caller is an administrator.
    fn allow_admin(&self, verb: &str, resource: &str, namespace: &str) -> Result<(), Failure> {
        if self.caller.spec.admin {
            Ok(())
        } else {
            Err(Failure::forbidden(&self.user(), verb, resource, namespace))
        }
    }

    /// The caller in the words of Kubernetes.
    fn user(&self) -> String {
        let account = &self.caller.spec.account;
        if account.contains('@') {
            return account.clone();
        }
        let home = self
            .caller
            .spec
            .namespaces
            .first()
            .map_or(DEFAULT_NAMESPACE, String::as_str);
        format!("system:serviceaccount:{home}:{account}")
    }
}

/// A list as every list of this API is.
fn items(items: Vec<Value>) -> Reply {
    Reply::json(200, json!({ "items": items }))
}
