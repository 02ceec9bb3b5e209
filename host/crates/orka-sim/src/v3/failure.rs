//! Failures as Kubernetes `Status` objects.

use serde_json::{Value, json};

use crate::reply::Reply;

/// The API group of Orka's resources.
const GROUP: &str = "orka.macstadium.com";

/// A failure with everything its `Status` object says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Failure {
    /// A failure that names no resource.
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason(code),
            message: message.into(),
            details: None,
        }
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized")
    }

    pub(super) fn forbidden(user: &str, verb: &str, resource: &str, namespace: &str) -> Self {
        let what = format!("{resource}.{GROUP} is forbidden");
        let text = format!(
            "{what}: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{GROUP}\" in the namespace \
             \"{namespace}\""
        );
        Self {
            details: Some(json!({ "group": GROUP, "kind": resource })),
            ..Self::new(403, text)
        }
    }

    pub(super) fn not_found(resource: &str, name: &str) -> Self {
        Self::about(404, resource, name, "not found")
    }

    pub(super) fn already_exists(resource: &str, name: &str) -> Self {
        Self::about(409, resource, name, "already exists")
    }

    fn about(code: u16, resource: &str, name: &str, what: &str) -> Self {
        // Namespaces and the like are Kubernetes' own and carry no group.
        let core = matches!(resource, "namespaces" | "serviceaccounts");
        let full = if core {
            resource.to_owned()
        } else {
            format!("{resource}.{GROUP}")
        };
        let mut details = json!({ "name": name, "kind": resource });
        if !core {
            details["group"] = json!(GROUP);
        }
        Self {
            details: Some(details),
            ..Self::new(code, format!("{full} \"{name}\" {what}"))
        }
    }

    /// The answer.
    pub(crate) fn reply(&self) -> Reply {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        Reply::json(self.code, status)
    }
}

/// A `Status` object for any code and text.
pub(crate) fn status_object(code: u16, message: &str) -> Reply {
    Failure::new(code, message).reply()
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_follow_the_norm_of_kubernetes() {
        let missing = Failure::not_found("virtualmachineinstances", "vm-abc12");
        assert_eq!(
            missing.message,
            "virtualmachineinstances.orka.macstadium.com \"vm-abc12\" not found"
        );
        let user = "system:serviceaccount:orka-default:sa-ci";
        let refused = Failure::forbidden(user, "create", "virtualmachineinstances", "orka-test");
        let tail = "cannot create resource \"virtualmachineinstances\" in API group \"orka.macstadium.com\" in the \
                    namespace \"orka-test\"";
        assert!(refused.message.ends_with(tail), "{}", refused.message);
        assert_eq!(refused.reason, "Forbidden");
    }
}
