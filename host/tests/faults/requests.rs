//! The calls of a build, and what a cluster's record of them tells.

use std::collections::BTreeMap;

use orka_sim::{RequestRecord, State};
use serde_json::Value;

use crate::world::World;

/// A call of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The question whether the endpoint is an Orka 3.
    ProbeThree,
    /// The question whether the endpoint is an Orka 2.
    ProbeTwo,
    /// The login; on Orka 3 the first call with the token.
    SignIn,
    /// Makes the VM config; Orka 2 alone.
    Create,
    Deploy,
    /// Removes the VM, on Orka 2 with its config.
    Purge,
    /// Looks whether the VM is gone.
    LookForVm,
    /// Looks whether the VM config is gone; Orka 2 alone.
    LookForConfig,
    /// Revokes the token; up to Orka 2.1.0 alone.
    SignOut,
}

impl Call {
    const ALL: [Self; 9] = [
        Self::ProbeThree,
        Self::ProbeTwo,
        Self::SignIn,
        Self::Create,
        Self::Deploy,
        Self::Purge,
        Self::LookForVm,
        Self::LookForConfig,
        Self::SignOut,
    ];

    /// The calls of a build in this world.
    pub fn of(world: World) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |call| call.target(world).is_some())
    }

    /// Method and path, `*` in it standing for names.
    pub fn target(self, world: World) -> Option<(&'static str, &'static str)> {
        const VMS: &str = "/api/v1/namespaces/orka-default/vms";
        const VM: &str = "/api/v1/namespaces/orka-default/vms/*";
        let target = match (self, world.is_orka3()) {
            (Self::ProbeThree, _) => ("GET", "/api/v1/cluster-info"),
            (Self::ProbeTwo, _) => ("GET", "/health-check"),
            (Self::SignIn, false) => ("POST", "/token"),
            (Self::SignIn, true) => ("GET", VMS),
            (Self::Create, false) => ("POST", "/resources/vm/create"),
            (Self::Deploy, false) => ("POST", "/resources/vm/deploy"),
            (Self::Deploy, true) => ("POST", VMS),
            (Self::Purge, false) => ("DELETE", "/resources/vm/purge"),
            (Self::Purge, true) => ("DELETE", VM),
            (Self::LookForVm, false) => ("GET", "/resources/vm/status/*"),
            (Self::LookForVm, true) => ("GET", VM),
            (Self::LookForConfig, false) => ("GET", "/resources/vm/configs/*"),
            (Self::SignOut, false) if world == World::Orka210 => ("DELETE", "/token"),
            _ => return None,
        };
        Some(target)
    }
}

/// What a request that makes something makes: the kind and the name.
fn made_by(request: &RequestRecord) -> Option<(&'static str, String)> {
    let (kind, member) = match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/resources/vm/create") => ("VM config", "orka_vm_name"),
        ("POST", "/resources/vm/deploy") => ("VM", "orka_vm_name"),
        ("POST", path) if path.starts_with("/api/v1/") && path.ends_with("/vms") => ("VM", "name"),
        _ => return None,
    };
    let body = request.json();
    let name = body.get(member).and_then(Value::as_str).unwrap_or_default();
    Some((kind, name.to_owned()))
}

/// Every name that a build chose, in the order of first use.
pub fn names(state: &State) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, name) in state.requests.iter().filter_map(made_by) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether an answer says beyond doubt that nothing was made: refused for the caller, the pace or the room.
fn is_refused(request: &RequestRecord, capacity_refusals: bool) -> bool {
    matches!(request.status, Some(401 | 403 | 429)) || capacity_refusals
}

/// Requests that were sent although an earlier one for the same thing may have taken effect.
///
/// `capacity_refusals`: every answer but the last says that there is no room.
pub fn repeated(state: &State, capacity_refusals: bool) -> Vec<String> {
    let mut sent: BTreeMap<(&str, String), u32> = BTreeMap::new();
    let mut repeated = Vec::new();
    for request in &state.requests {
        let Some(made) = made_by(request) else {
            continue;
        };
        let open = sent.entry(made.clone()).or_default();
        if *open > 0 {
            repeated.push(format!("{} `{}` asked for again", made.0, made.1));
        }
        if !is_refused(request, capacity_refusals) {
            *open += 1;
        }
    }
    repeated
}
