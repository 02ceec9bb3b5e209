//! Images of `orka-default`.

use serde_json::json;

use super::{Call, Failure, Outcome, items};
use crate::cluster::Image;
use crate::config::ImageSpec;
use crate::reply::Reply;

/// Local images; the remote ones of this cluster are the same.
pub(super) fn list(call: &Call<'_>, namespace: &str) -> Outcome {
    call.shared(namespace, "list", "images")?;
    let inner = call.cluster.lock();
    let shown = |image: &Image| {
        json!({
            "name": image.spec.name,
            "description": "",
            "type": image.spec.architecture.orka3_type(),
            "size": format!("{}G", image.spec.size_gb),
            "status": "Ready",
        })
    };
    Ok(items(inner.images.iter().map(shown).collect()))
}

/// Takes over a remote image; asynchronous on a cluster, and done at once here.
pub(super) fn pull(call: &Call<'_>, namespace: &str, name: &str) -> Outcome {
    call.shared(namespace, "create", "images")?;
    let mut inner = call.cluster.lock();
    if inner.images.iter().any(|image| image.spec.name == name) {
        return Err(Failure::already_exists("images", name));
    }
    let (added, owner) = (call.cluster.now(), call.caller.spec.account.clone());
    inner.images.push(Image {
        spec: ImageSpec::named(name),
        added,
        owner,
    });
    Ok(Reply::json(200, json!({ "name": name })))
}
