//! Cluster information, namespaces, service accounts and who may work where.

use std::time::Duration;

use serde_json::{Value, json};

use super::body::Body;
use super::{Call, Failure, Outcome, items};
use crate::cluster::{Cluster, LiveSaToken};
use crate::config::SaToken;
use crate::id;
use crate::reply::Reply;

/// Life of a service account token.
const TOKEN_LIFETIME: Duration = Duration::from_secs(8760 * 3600);

/// `GET /api/v1/cluster-info`. There is no Kubernetes API behind this cluster, so no certificate of one is told.
pub(super) fn cluster_info(cluster: &Cluster) -> Value {
    json!({
        "apiDomain": "simulated.orka.app",
        "apiEndpoint": format!("https://{}:6443", cluster.config.bind),
        "appClientId": "abcdefghijklmnop0123456789",
        "baseOauthEndpoint": "https://auth.example.com",
        "certData": "",
        "gpuPassthroughEnabled": cluster.config.switches.gpu_passthrough,
    })
}

fn namespace(name: &str) -> Value {
    json!({ "name": name, "customPods": false })
}

pub(super) fn list_namespaces(call: &Call<'_>) -> Outcome {
    let spec = &call.caller.spec;
    let inner = call.cluster.lock();
    let visible = inner
        .namespaces
        .iter()
        .filter(|name| spec.admin || spec.namespaces.contains(name));
    Ok(items(visible.map(|name| namespace(name)).collect()))
}

pub(super) fn show_namespace(call: &Call<'_>, name: &str) -> Outcome {
    call.allow(name, "get", "namespaces")?;
    Ok(Reply::json(200, namespace(name)))
}

pub(super) fn create_namespace(call: &Call<'_>) -> Outcome {
    call.allow_admin("create", "namespaces", "")?;
    let name = Body::read(call.request)?.required_text("name")?;
    if !name.starts_with("orka-") || super::order::check_name(&name).is_err() {
        return Err(Failure::new(
            400,
            "a namespace begins with orka- and has at most 63 characters",
        ));
    }
    let mut inner = call.cluster.lock();
    if inner.namespaces.contains(&name) {
        return Err(Failure::already_exists("namespaces", &name));
    }
    inner.namespaces.push(name.clone());
    Ok(Reply::json(201, namespace(&name)))
}

pub(super) fn create_account(call: &Call<'_>, ns: &str, name: &str) -> Outcome {
    call.allow_admin("create", "serviceaccounts", ns)?;
    call.allow(ns, "create", "serviceaccounts")?;
    let account = (ns.to_owned(), name.to_owned());
    let mut inner = call.cluster.lock();
    if inner.accounts.contains(&account) {
        return Err(Failure::already_exists("serviceaccounts", name));
    }
    inner.accounts.push(account);
    Ok(Reply::json(201, json!({ "name": name, "namespace": ns })))
}

/// A further token of an account, for the namespace the account lives in.
pub(super) fn create_token(call: &Call<'_>, ns: &str, name: &str) -> Outcome {
    call.allow_admin("create", "serviceaccounts", ns)?;
    let elapsed = call.cluster.elapsed();
    let mut inner = call.cluster.lock();
    if !inner.accounts.contains(&(ns.to_owned(), name.to_owned())) {
        return Err(Failure::not_found("serviceaccounts", name));
    }
    let token = id::jwt(&format!("system:serviceaccount:{ns}:{name}"), 0);
    let spec = SaToken {
        token: token.clone(),
        account: name.to_owned(),
        namespaces: vec![ns.to_owned()],
        lifetime: Some(TOKEN_LIFETIME),
        admin: false,
    };
    inner.sa_tokens.push(LiveSaToken {
        spec,
        expires: Some(elapsed + TOKEN_LIFETIME),
    });
    Ok(Reply::json(201, json!({ "token": token })))
}

/// Removes an account, which ends all its tokens.
pub(super) fn delete_account(call: &Call<'_>, ns: &str, name: &str) -> Outcome {
    call.allow_admin("delete", "serviceaccounts", ns)?;
    let account = (ns.to_owned(), name.to_owned());
    let mut inner = call.cluster.lock();
    let before = (inner.accounts.len(), inner.sa_tokens.len());
    inner.accounts.retain(|known| *known != account);
    inner.sa_tokens.retain(|token| {
        let lives_here = token.spec.namespaces.first().is_some_and(|home| home == ns);
        token.spec.account != name || !lives_here
    });
    if before == (inner.accounts.len(), inner.sa_tokens.len()) {
        return Err(Failure::not_found("serviceaccounts", name));
    }
    Ok(Reply::empty(200))
}

/// Gives people and accounts the right to work in a namespace, or takes it.
pub(super) fn change_subjects(call: &Call<'_>, ns: &str, action: &str) -> Outcome {
    call.allow_admin("update", "rolebindings", ns)?;
    let body = Body::read(call.request)?;
    let users = body.array("users")?;
    let accounts = body.array("serviceaccounts")?;
    let names = users
        .iter()
        .chain(accounts.iter().filter_map(|account| account.get("name")));
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    let mut inner = call.cluster.lock();
    for token in inner
        .sa_tokens
        .iter_mut()
        .filter(|token| names.contains(&token.spec.account.as_str()))
    {
        token.spec.namespaces.retain(|known| known != ns);
        if action == "add" {
            token.spec.namespaces.push(ns.to_owned());
        }
    }
    Ok(Reply::json(200, json!({})))
}
