//! VMs that outlive their run on purpose.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use plugin_manifest::Capability;

use super::{Vm, key_of, rfc3339};
use crate::bindings::orka::plugin::cluster::KeptVm;
use crate::failure::{Class, Failure, Kind};
use crate::ledger::Kept;
use crate::results::{KEPT_UNTIL, KEPT_VM};
use crate::state::RunContext;

/// A reason is a sentence in a log and in a ledger's line.
const REASON_CHARACTERS_MAX: usize = 200;

/// Keeps a VM for so long from now on.
pub(super) fn keep(
    run: &RunContext,
    vm: &Vm,
    lifetime_ms: u64,
    reason: &str,
) -> Result<KeptVm, Failure> {
    run.grants.require(Capability::ClusterKeep)?;
    let lifetime = Duration::from_millis(lifetime_ms);
    run.grants.ceilings.admit_keeping(lifetime)?;
    if lifetime < Duration::from_secs(1) {
        return Err(Failure::invalid(
            "cluster.keep-lifetime",
            "a VM cannot be kept for less than a second",
        ));
    }
    still_there(run, vm)?;
    let expires = Timestamp::now().checked_add(lifetime).map_err(|_| {
        Failure::invalid(
            "cluster.keep-lifetime",
            "the lifetime ends beyond the calendar",
        )
    })?;
    let info = &vm.info;
    let kept = Kept {
        expires: rfc3339(expires),
        reason: run
            .console
            .masker()
            .mask(reason)
            .chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .take(REASON_CHARACTERS_MAX)
            .collect(),
        address: info.address.clone(),
        ssh_port: info.ssh_port,
        login: login(run.guests.username(), &info.address, info.ssh_port),
    };
    run.grants.note_keeping(lifetime);
    run.ledger.keep(&info.name, key_of(info), &kept)?;
    tell(run)?;
    run.console.info(&format!(
        "VM `{}` will be kept until {} ({}); log in with `{}`",
        info.name, kept.expires, kept.reason, kept.login
    ));
    Ok(KeptVm {
        name: info.name.clone(),
        address: kept.address,
        ssh_port: kept.ssh_port,
        login: kept.login,
        expires_at: kept.expires,
    })
}

/// Lets the caller go on with a VM that this run has not removed or given away.
pub(super) fn still_there(run: &RunContext, vm: &Vm) -> Result<(), Failure> {
    let has = |debt: crate::ledger::Debt| debt.instances.contains(key_of(&vm.info));
    if run.ledger.debt(&vm.info.name).is_some_and(has) {
        return Ok(());
    }
    Err(Failure::new(
        Kind::NotFound,
        Class::Plugin,
        "run.vm-gone",
        format!("VM `{}` is not this run's any more", vm.info.name),
    ))
}

/// Writes the results by which a reaper that reads pods knows what is kept, on both generations.
fn tell(run: &RunContext) -> Result<(), Failure> {
    let kept = run.ledger.kept();
    let names: BTreeSet<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    run.results.set_own(KEPT_VM, &names.join(" "))?;
    if let Some(until) = kept.iter().map(|(_, kept)| kept.expires_at()).max() {
        run.results.set_own(KEPT_UNTIL, &rfc3339(until))?;
    }
    Ok(())
}

fn login(user: Option<&str>, address: &str, port: u16) -> String {
    match user {
        Some(user) => format!("ssh -p {port} {user}@{address}"),
        None => format!("ssh -p {port} {address}"),
    }
}
