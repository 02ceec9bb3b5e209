//! `/resources/image/…`.

use serde_json::{Value, json};

use super::members::Members;
use super::{Call, envelope, fail};
use crate::cluster::{Image, Inner};
use crate::config::ImageSpec;
use crate::id;
use crate::reply::Reply;

/// Answers the image calls; `rest` is the path after `image`.
pub(super) fn answer(call: &Call<'_>, rest: &[&str]) -> Reply {
    match rest {
        ["list"] => list(call),
        ["list-remote"] => list_remote(call),
        ["checksum", image] => checksum(call, image),
        ["download", image] => download(call, image),
        [action] => change(call, action).unwrap_or_else(|reply| reply),
        _ => Reply::express_not_found(call.request.method.as_str(), &call.request.path),
    }
}

fn list(call: &Call<'_>) -> Reply {
    let inner = call.cluster.lock();
    let attributes = |image: &Image| {
        let time = id::timestamp(image.added);
        json!({
            "image": image.spec.name,
            "image_size": format!("{}G", image.spec.size_gb),
            "modified": time,
            "date_added": time,
            "owner": image.owner,
        })
    };
    let all: Vec<Value> = inner.images.iter().map(attributes).collect();
    envelope::ok(
        "",
        json!({ "image_attributes": all, "images": names(&inner) }),
    )
}

fn list_remote(call: &Call<'_>) -> Reply {
    let inner = call.cluster.lock();
    envelope::ok("", json!({ "images": names(&inner) }))
}

fn names(inner: &Inner) -> Vec<String> {
    inner
        .images
        .iter()
        .map(|image| image.spec.name.clone())
        .collect()
}

fn checksum(call: &Call<'_>, image: &str) -> Reply {
    if call
        .cluster
        .lock()
        .images
        .iter()
        .any(|known| known.spec.name == image)
    {
        envelope::with_help(202, "Calculating checksum", json!({}), json!({}))
    } else {
        fail(404, &format!("image '{image}' not found"))
    }
}

/// No image has bytes here, so even a known one has no file.
fn download(_call: &Call<'_>, image: &str) -> Reply {
    fail(404, &format!("image file not found: {image}"))
}

/// Copy, rename, delete, pull, save and commit.
fn change(call: &Call<'_>, action: &str) -> Result<Reply, Reply> {
    let statuses = &call.cluster.config.switches.v2_statuses;
    let invalid = |wrong: String| fail(statuses.validation, &wrong);
    let members = Members(&call.members);
    let mut inner = call.cluster.lock();
    let source = |inner: &Inner, name: &str| {
        let found = inner
            .images
            .iter()
            .position(|image| image.spec.name == name);
        found.ok_or_else(|| fail(404, &format!("image '{name}' not found")))
    };
    let done = match action {
        "copy" | "rename" => {
            let at = source(&inner, members.required_text("image").map_err(invalid)?)?;
            let name = members
                .required_text("new_name")
                .map_err(invalid)?
                .to_owned();
            if action == "rename" {
                inner.images[at].spec.name = name;
                "Successfully rename".to_owned()
            } else {
                let copy = Image {
                    spec: ImageSpec {
                        name,
                        ..inner.images[at].spec.clone()
                    },
                    ..inner.images[at].clone()
                };
                inner.images.push(copy);
                "Successfully copied".to_owned()
            }
        }
        "delete" => {
            let name = members.required_text("image").map_err(invalid)?;
            let at = source(&inner, name)?;
            inner.images.remove(at);
            format!("Successfully deleted: {name}")
        }
        "pull" => {
            let name = members.required_text("image").map_err(invalid)?;
            let new_name = members.text("new_name").map_err(invalid)?.unwrap_or(name);
            add(call, &mut inner, new_name);
            "Successfully copied image.".to_owned()
        }
        _ => {
            let vm = members.required_text("orka_vm_name").map_err(invalid)?;
            if !inner.vms.iter().any(|known| known.spec.id == vm) {
                return Err(fail(
                    statuses.delete_nothing,
                    "No VMs with that name are currently deployed",
                ));
            }
            if action == "save" {
                add(
                    call,
                    &mut inner,
                    members.required_text("new_name").map_err(invalid)?,
                );
                "saved".to_owned()
            } else {
                "committed".to_owned()
            }
        }
    };
    Ok(envelope::ok(&done, json!({})))
}

fn add(call: &Call<'_>, inner: &mut Inner, name: &str) {
    if !inner.images.iter().any(|image| image.spec.name == name) {
        let (spec, added, owner) = (
            ImageSpec::named(name),
            call.cluster.now(),
            call.email.clone(),
        );
        inner.images.push(Image { spec, added, owner });
    }
}
