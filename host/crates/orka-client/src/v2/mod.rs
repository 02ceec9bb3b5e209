//! Orka 1.x and 2.x: `/token` and `/resources/…`, every answer an envelope with `message`, `help` and `errors`.

mod read;
mod write;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::config::RetryPolicy;
use crate::error::Error;
use crate::http::{Call, Reply, Transport};
use crate::lenient::{self, Object};
use crate::refusal::Refusal;
use crate::retry::Backoff;

pub(crate) use read::{configs, images, is_health_check, nodes, version, vms};
pub(crate) use write::{create_body, deploy_body, deployed};

/// What the API said, if it carried the call out.
///
/// Success takes both a 2xx status and no entry in `errors`: either alone is known to lie.
pub(crate) fn judge(call: &Call, reply: &Reply) -> Result<Object, Error> {
    let Some(envelope) = reply.object() else {
        let refusal = Refusal::new(reply, page(reply));
        return Err(refusal
            .by_status_alone(call)
            .unwrap_or_else(|| reply.unexpected(call, not_an_envelope(reply))));
    };
    let mut messages = lenient::messages(envelope.get("errors"));
    if reply.is_success() && messages.is_empty() {
        return Ok(envelope);
    }
    if messages.is_empty() {
        messages = lenient::messages(envelope.get("message"));
        // A gateway's own 404 says nothing about VMs; taking it for Orka's would leave one behind.
        if reply.status == 404 {
            return Err(reply.unexpected(call, "something that is no Orka answer"));
        }
    }
    Err(Refusal::new(reply, messages).into_error(call))
}

/// The beginning of a body that is no envelope, so that a proxy's own words are shown with its status.
fn page(reply: &Reply) -> Vec<String> {
    Some(reply.excerpt())
        .filter(|excerpt| !excerpt.is_empty())
        .into_iter()
        .collect()
}

fn not_an_envelope(reply: &Reply) -> &'static str {
    if reply.is_empty() {
        "nothing"
    } else {
        "something that is no JSON object"
    }
}

/// Obtains a token. Made once per run: up to 2.1.0 each login leaves a further token in the cluster's database.
///
/// It goes straight to the transport, past the renewal of tokens, so a refusal cannot lead to another login.
///
/// Orka 2.1 API, `POST /token`.
pub(crate) async fn login(
    transport: &Transport,
    retry: RetryPolicy,
    email: &str,
    password: &SecretString,
) -> Result<SecretString, Error> {
    let body = json!({ "email": email, "password": password.expose_secret() });
    let call = Call::create(&["token"], body, transport.timeouts().call);
    let mut backoff = Backoff::new(retry);
    let (envelope, status) = loop {
        let sent = transport.send(&call, None).await;
        let judged = sent.and_then(|reply| Ok((judge(&call, &reply)?, reply.status)));
        let error = match judged {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        let wait = if error.is_worth_repeating(call.effect) {
            backoff.next_wait(error.retry_after())
        } else {
            None
        };
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(as_login_refused(error)),
        }
    };
    match lenient::text_of(&envelope, &["token"]) {
        Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(SecretString::from(token))
        }
        // The answer may hold a token in some other shape, so none of it is shown.
        _ => Err(Error::UnexpectedReply {
            call: call.to_string(),
            status,
            why: "no usable `token`".to_owned(),
            excerpt: String::new(),
            may_have_happened: true,
        }),
    }
}

/// Whatever an envelope says against a login is about the login. Which status it has is not documented.
fn as_login_refused(error: Error) -> Error {
    match error {
        Error::Unauthorized(reply)
        | Error::NotFound(reply)
        | Error::Conflict(reply)
        | Error::Forbidden { reply, .. }
        | Error::Invalid {
            reply: Some(reply), ..
        } => Error::LoginRefused(reply),
        other => other,
    }
}

/// `DELETE /token`; the API wants no body.
pub(crate) fn revoke(transport: &Transport) -> Call {
    Call::remove(&["token"], None, transport.timeouts().call)
}

/// `POST /resources/vm/deploy` and the like: every path below `/resources`.
pub(crate) fn vm_path(operation: &str) -> [String; 3] {
    [
        "resources".to_owned(),
        "vm".to_owned(),
        operation.to_owned(),
    ]
}

/// `DELETE` with a JSON body, which is how Orka 2 wants the name.
pub(crate) fn removal(transport: &Transport, operation: &str, name: &str) -> Call {
    Call::remove(
        &vm_path(operation),
        Some(json!({ "orka_vm_name": name })),
        transport.timeouts().call,
    )
}

/// `GET /validate-license-key`, with a body although it is a GET.
pub(crate) fn licence_check(transport: &Transport, key: &SecretString) -> Call {
    let mut call = Call::get(&["validate-license-key"], transport.timeouts().call);
    call.body = Some(json!({ "licenseKey": key.expose_secret() }));
    call
}
