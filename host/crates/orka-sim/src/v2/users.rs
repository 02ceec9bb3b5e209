//! Users and the licence key: the administrator's side.

use serde_json::json;

use super::members::Members;
use super::{Call, envelope, fail, is_admin, wrong_licence};
use crate::config::User;
use crate::reply::Reply;

/// Shortest password.
const PASSWORD_LENGTH_MIN: usize = 6;

/// `GET /validate-license-key`, with the key in a JSON body.
pub(super) fn validate_licence(call: &Call<'_>) -> Reply {
    let given = call
        .members
        .get("licenseKey")
        .and_then(serde_json::Value::as_str);
    if given == Some(call.cluster.config.licence_key.as_str()) {
        envelope::ok("Provided license key is valid", json!({}))
    } else {
        wrong_licence()
    }
}

/// `POST /users`.
pub(super) fn create(call: &Call<'_>) -> Reply {
    if !is_admin(call) {
        return wrong_licence();
    }
    let statuses = &call.cluster.config.switches.v2_statuses;
    let members = Members(&call.members);
    let (email, password) = match (
        members.required_text("email"),
        members.required_text("password"),
    ) {
        (Ok(email), Ok(password)) => (email, password),
        (Err(wrong), _) | (_, Err(wrong)) => return fail(statuses.validation, &wrong),
    };
    if password.chars().count() < PASSWORD_LENGTH_MIN {
        return fail(
            statuses.validation,
            "password must be at least 6 characters long",
        );
    }
    let mut inner = call.cluster.lock();
    if inner.users.iter().any(|user| user.email == email) {
        return fail(statuses.duplicate, "User already exists");
    }
    inner.users.push(User {
        email: email.to_owned(),
        password: password.to_owned(),
    });
    envelope::with_help(201, "Successfully created user", json!({}), json!({}))
}

/// `GET /users`.
pub(super) fn list(call: &Call<'_>) -> Reply {
    if !is_admin(call) {
        return wrong_licence();
    }
    let inner = call.cluster.lock();
    let emails: Vec<&str> = inner.users.iter().map(|user| user.email.as_str()).collect();
    envelope::ok("", json!({ "user_list": emails }))
}

/// `DELETE /users/{email}`: the user's tokens end with it, its VMs stay.
pub(super) fn remove(call: &Call<'_>, email: &str) -> Reply {
    if !is_admin(call) {
        return wrong_licence();
    }
    let mut inner = call.cluster.lock();
    let before = inner.users.len();
    inner.users.retain(|user| user.email != email);
    if inner.users.len() == before {
        return fail(404, "User not found");
    }
    inner
        .user_tokens
        .iter_mut()
        .filter(|token| token.email == email)
        .for_each(|token| token.revoked = true);
    envelope::ok("Successfully deleted user", json!({}))
}
