//! The object every JSON answer of this API is.

use serde_json::{Map, Value, json};

use crate::reply::Reply;

/// `200` with a message, no help, no errors, and these members beside them.
pub(super) fn ok(message: &str, members: Value) -> Reply {
    with_help(200, message, json!({}), members)
}

/// An answer with hints.
pub(super) fn with_help(status: u16, message: &str, help: Value, members: Value) -> Reply {
    let mut envelope = Map::new();
    envelope.insert("message".to_owned(), json!(message));
    envelope.insert("help".to_owned(), help);
    envelope.insert("errors".to_owned(), json!([]));
    if let Value::Object(members) = members {
        envelope.extend(members);
    }
    Reply::json(status, Value::Object(envelope))
}

/// A failure with one text.
pub(crate) fn fail(status: u16, text: &str) -> Reply {
    Reply::json(
        status,
        json!({ "message": "", "help": {}, "errors": [{ "message": text }] }),
    )
}
