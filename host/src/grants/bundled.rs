//! Grants for what came with the program, which has a stock grant where no entry is about it.

use plugin_manifest::{Manifest, nearest};

use super::Grants;
use super::file::{Grant, GrantsFile, Place};
use crate::failure::Failure;
use crate::plugin::Plugin;

impl Grants {
    /// What there is to say of a grants file that is given and says nothing of this plugin, which has its stock grant
    /// nevertheless.
    pub fn not_about(file: Option<&GrantsFile>, plugin: &Plugin) -> Option<String> {
        let file = file?;
        let name = &plugin.manifest.name;
        let is_mentioned = || {
            let found = file.find(&plugin.manifest, &plugin.digest, plugin.bundled);
            found.is_some() || file.grants.iter().any(|grant| grant.plugin == *name)
        };
        if !plugin.bundled || is_mentioned() {
            return None;
        }
        let has_all = format!(
            "plugin `{name}`, which came with this program, has all that it needs, with no ceiling"
        );
        if file.grants.is_empty() {
            return Some(format!("{} has no entry: {has_all}", file.shown));
        }
        let names = file.grants.iter().map(|grant| grant.plugin.as_str());
        let near = nearest(name, names.filter(|name| *name != "*"));
        let position = file
            .grants
            .iter()
            .position(|grant| Some(grant.plugin.as_str()) == near);
        let near = near.zip(position).map(|(near, position)| {
            let at = file.place(position).member("plugin");
            let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
            format!("; is `{near}`{at} meant?")
        });
        Some(format!(
            "no entry of {} is about it: {has_all}{}",
            file.shown,
            near.unwrap_or_default()
        ))
    }
}

/// The digest of an entry for a plugin. One that came with the program changes with it, and is held to by the image's digest:
/// it has one only where the operator wrote one before.
pub(super) fn pin<'a>(
    found: Option<&(&Grant, Place)>,
    digest: &'a str,
    bundled: bool,
) -> Option<&'a str> {
    let is_pinned = found.is_some_and(|(grant, _)| grant.digest.is_some());
    (!bundled || is_pinned).then_some(digest)
}

/// Why a bundled plugin is denied that the file's entries hold to other files. Without this, what was meant to bind it would
/// leave it its stock grant, without a ceiling, as soon as the program is another.
pub(super) fn other_file(file: &GrantsFile, manifest: &Manifest, digest: &str) -> Option<Failure> {
    let entries = file.grants.iter().enumerate();
    let pinned: Vec<(&str, String)> = entries
        .filter(|(_, grant)| grant.plugin == manifest.name)
        .filter_map(|(position, grant)| {
            let digest = grant.digest.as_deref()?;
            let place = file.place(position);
            let at = place.member("digest").or_else(|| place.entry());
            Some((digest, at.unwrap_or_else(|| file.shown.clone())))
        })
        .collect();
    let (_, first) = pinned.first()?;
    let name = &manifest.name;
    let theirs: Vec<String> = pinned
        .iter()
        .map(|(digest, at)| format!("{digest} at {at}"))
        .collect();
    let message = format!(
        "plugin `{name}`, which came with this program, is not the file that its grants are for: its digest is {digest}, theirs {}",
        theirs.join(", ")
    );
    let hint = format!(
        "leave `digest` out, since the digest of the image already holds `{name}` to one file; or change it at {first} to:\n{}",
        file.form.member("digest", &digest.into())
    );
    Some(Failure::denied("run.not-granted", message).with_hint(hint))
}
