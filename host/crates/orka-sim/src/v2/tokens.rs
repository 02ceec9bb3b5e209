//! `POST`, `GET` and `DELETE /token`.

use serde_json::json;

use super::members::Members;
use super::{Call, envelope, fail};
use crate::cluster::UserToken;
use crate::id;
use crate::reply::Reply;
use crate::switches::TokenModel;

/// Signs a user in.
pub(super) fn create(call: &Call<'_>) -> Reply {
    let statuses = &call.cluster.config.switches.v2_statuses;
    let members = Members(&call.members);
    let (email, password) = match (
        members.required_text("email"),
        members.required_text("password"),
    ) {
        (Ok(email), Ok(password)) => (email, password),
        (Err(wrong), _) | (_, Err(wrong)) => return fail(statuses.validation, &wrong),
    };
    let issued_at = call
        .cluster
        .now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let mut inner = call.cluster.lock();
    if !inner
        .users
        .iter()
        .any(|user| user.email == email && user.password == password)
    {
        return fail(statuses.login_refused, "Invalid email or password");
    }
    let fresh = UserToken {
        value: id::jwt(email, i64::try_from(issued_at).unwrap_or_default()),
        email: email.to_owned(),
        revoked: false,
    };
    let value = if call.cluster.single_token() {
        let rotates = call.cluster.config.switches.token_model == TokenModel::OneRotating;
        let live = inner
            .user_tokens
            .iter_mut()
            .find(|token| token.email == email && !token.revoked);
        match live {
            Some(token) if !rotates => return envelope::ok("", json!({ "token": token.value })),
            Some(token) => token.revoked = true,
            None => {}
        }
        fresh.value.clone()
    } else {
        fresh.value.clone()
    };
    inner.user_tokens.push(fresh);
    envelope::ok("", json!({ "token": value }))
}

/// Tells whose token it is; a bad one was refused before.
pub(super) fn check(call: &Call<'_>) -> Reply {
    envelope::ok(
        "",
        json!({ "authenticated": true, "is_token_revoked": false, "email": call.email }),
    )
}

/// Ends the token of the request.
pub(super) fn revoke(call: &Call<'_>) -> Reply {
    let token = call.request.bearer().unwrap_or_default();
    let mut inner = call.cluster.lock();
    let mut revoked = 0;
    for known in inner
        .user_tokens
        .iter_mut()
        .filter(|known| known.value == token && !known.revoked)
    {
        known.revoked = true;
        revoked += 1;
    }
    envelope::ok("", json!({ "tokensRevoked": revoked }))
}
