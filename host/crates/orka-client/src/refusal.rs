//! Which error a refusal is. Orka's status codes are not to be relied on, so its texts are read as well.

use std::time::Duration;

use crate::error::{Error, Rejection};
use crate::http::{Call, Effect, Reply};

/// Parts of the texts with which either generation says that no node has room, in lower case.
///
/// They changed from release to release; Orka gives no code for it.
const CAPACITY_TEXTS: [&str; 8] = [
    "no available nodes with sufficient",
    "requested cpu is not available",
    "cannot deploy more than",
    "not enough cpu",
    "not enough memory",
    "insufficient",
    "no nodes available",
    "exceeded quota",
];

/// Parts of the texts with which Orka 2 says that nothing of a name exists, whatever the status code.
const GONE_TEXTS: [&str; 4] = [
    "no vms with that name",
    "no deployments exist",
    "no vm configurations exist",
    "no deployments exists for this vm name",
];

/// Parts of the texts with which Orka 2 refuses a token; the standard texts of Node's JWT middleware.
const TOKEN_TEXTS: [&str; 6] = [
    "no authorization token was found",
    "invalid signature",
    "jwt malformed",
    "jwt expired",
    "invalid token",
    "token has been revoked",
];

/// Parts of the texts that say a name is taken.
const TAKEN_TEXTS: [&str; 3] = ["already exists", "already in use", "already taken"];

/// An answer that says no.
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) messages: Vec<String>,
    pub(crate) retry_after: Option<Duration>,
    /// Orka 3: the namespace of the call.
    pub(crate) namespace: Option<String>,
}

impl Refusal {
    pub(crate) fn new(reply: &Reply, messages: Vec<String>) -> Self {
        Self {
            status: reply.status,
            messages,
            retry_after: reply.retry_after,
            namespace: None,
        }
    }

    /// The error for an answer without a body that explains it, such as a proxy's page.
    ///
    /// `None` if the status alone does not tell.
    pub(crate) fn by_status_alone(self, call: &Call) -> Option<Error> {
        match self.status {
            401 | 403 | 408 | 429 | 500..=599 => Some(self.into_error(call)),
            _ => None,
        }
    }

    /// Sorts the refusal by what a caller can do about it.
    pub(crate) fn into_error(self, call: &Call) -> Error {
        let text = self.messages.join("\n").to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let status = self.status;
        let reply = Box::new(Rejection {
            call: call.to_string(),
            status,
            messages: self.messages,
        });
        let retry_after = self.retry_after;
        let no_server_failure = status < 500;

        if status == 401 || (no_server_failure && says(&TOKEN_TEXTS)) {
            Error::Unauthorized(reply)
        } else if call.effect == Effect::Create && says_full(status, &says) {
            Error::NoCapacity(reply)
        } else if status == 403 {
            Error::Forbidden {
                namespace: self.namespace,
                reply,
            }
        } else if status == 404 || says(&GONE_TEXTS) || (no_server_failure && says(&["not found"]))
        {
            Error::NotFound(reply)
        } else if status == 409 || says(&TAKEN_TEXTS) {
            Error::Conflict(reply)
        } else if status == 429 {
            Error::RateLimited { retry_after, reply }
        } else if status >= 500 || status == 408 {
            Error::Server {
                may_have_happened: call.may_have_happened(),
                retry_after,
                reply,
            }
        } else {
            let why = if reply.messages.is_empty() {
                reply.to_string()
            } else {
                reply.messages.join("; ")
            };
            Error::Invalid {
                what: format!("`{call}`"),
                why,
                hint: None,
                reply: Some(reply),
            }
        }
    }
}

/// A 403 about "insufficient" rights is no matter of capacity; one about a quota is.
fn says_full(status: u16, says: &impl Fn(&[&str]) -> bool) -> bool {
    if status == 403 {
        says(&["exceeded quota"])
    } else {
        says(&CAPACITY_TEXTS)
    }
}
