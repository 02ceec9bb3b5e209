//! References to Tasks that are not among the files.

use serde_json::Value;

use super::Finding;
use super::reference::Reference;
use super::rules::{check, list};
use super::scope::Scope;

/// A reference whose Task was not looked at.
pub(super) struct Unseen {
    place: String,
    /// A parameter that nobody gave, or a file: it may be any Task, one of the four too.
    pub(super) may_be_any: bool,
    is_filled_in: bool,
}

/// Where a Task can be.
pub(super) enum Place<'a> {
    Named(&'a str),
    File(&'a str),
}

impl Unseen {
    /// None where the Task is one of the four, or is known, or is no Task of Tekton's.
    pub(super) fn of(
        reference: &Value,
        scope: &Scope,
        is_known: impl Fn(Place<'_>) -> bool,
    ) -> Option<Self> {
        if !reference.is_object() || Reference::of(reference, scope).is_some() {
            return None;
        }
        let text = |value: &Value| value.as_str().map(|text| scope.text(text));
        let param = |name: &str| {
            let param = list(&reference["params"]).find(|param| param["name"] == name)?;
            text(&param["value"])
        };
        let file = || param("pathInRepo").or_else(|| param("url"));
        let (place, is_named) = match reference["resolver"].as_str() {
            None => {
                let api = reference["apiVersion"].as_str().unwrap_or("tekton.dev/v1");
                let name = text(&reference["name"])?;
                // Templates are told of as such.
                let is_task = api.starts_with("tekton.dev/") && !name.contains("{{");
                is_task.then_some((name, true))?
            }
            Some("git" | "http") => (file()?, false),
            Some(_) => (param("name")?, true),
        };
        let is_filled_in = place.contains("$(");
        let known = match is_named {
            true => is_known(Place::Named(&place)),
            false => is_known(Place::File(&place)),
        };
        // A hub has what is published for everybody.
        let is_public = reference["resolver"] == "hub" && !is_filled_in;
        (!known && !is_public).then_some(Self {
            place,
            may_be_any: is_filled_in || !is_named,
            is_filled_in,
        })
    }

    /// What is to be said of it, given the user of the Task, and whether it may be one that reads the older hand-over.
    pub(super) fn finding(&self, user: &Value, may_read: bool) -> Option<Finding> {
        if self.is_filled_in {
            return Some(check(
                "task.not-told",
                format!("which Task `{}` is cannot be told", self.place),
                "see whether it can be one of the Orka Tasks, or one that reads what `orka-init` wrote",
            ));
        }
        let given = list(&user["params"]).chain(list(&user["matrix"]["params"]));
        let mut names = given.filter_map(|param| param["name"].as_str());
        let looks_like_ours = names.any(|name| name == "base-image" || name.starts_with("orka-"));
        (may_read || looks_like_ours).then(|| {
            check(
                "task.elsewhere",
                format!("its Task `{}` was not given, and was not looked at", self.place),
                "if it is your own, give its file as well: it may be an older Task, or read what `orka-init` wrote",
            )
        })
    }
}
