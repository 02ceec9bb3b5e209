//! VM configs that Tasks of a run share, on Orka 2, where a purge by name takes every VM of a config.
//!
//! Whoever waits for such a config deploys from it as soon as the cluster lists it: before its maker has had the answer,
//! let alone handed it over. So before one is purged its VMs are looked at. Where one is not its maker's, the config is left
//! to whoever purges the run, as if it had been handed over.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{PAUSE_FIRST, PAUSE_MAX, limited};
use crate::backend::Cluster;
use crate::failure::{Class, Failure, Kind};
use crate::ledger::{Debt, Ledger, Thing};
use crate::state::RunContext;

/// Whether others have deployed from it; then what is this run's alone is deleted, and the config handed over.
///
/// # Errors
///
/// It cannot be known by `deadline` whether others have, or what is this run's cannot be deleted. Nothing of others was
/// touched then either.
pub(super) async fn is_left_to_others(
    cluster: &dyn Cluster,
    ledger: &Ledger,
    debt: Option<&Debt>,
    deadline: Instant,
) -> Result<bool, Failure> {
    let is_shared = |debt: &&Debt| debt.thing == Thing::SharedConfig && cluster.stores_configs();
    let Some(debt) = debt.filter(is_shared) else {
        return Ok(false);
    };
    let name = &debt.name;
    let mut pause = PAUSE_FIRST;
    loop {
        let failure = match limited(deadline, "read", cluster.instances(name)).await {
            Ok(listed) => {
                let listed: BTreeSet<String> = listed.into_iter().collect();
                // One whose deploy request of ours got no answer is among the others' as well: nothing tells them apart.
                if listed.is_subset(&debt.instances) {
                    return Ok(false);
                }
                let own: Vec<&String> = debt
                    .instances
                    .intersection(&listed)
                    .filter(|key| !debt.stays(key))
                    .collect();
                if own.is_empty() {
                    ledger.leave_to_others(name);
                    return Ok(true);
                }
                delete_each(cluster, name, own, deadline).await
            }
            Err(failure) => failure,
        };
        if Instant::now() + pause >= deadline {
            return Err(failure);
        }
        tracing::debug!(vm = name, error = %failure, "a shared VM config is looked at again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Deletes these, and says what is known of them until they are looked for again.
async fn delete_each(
    cluster: &dyn Cluster,
    name: &str,
    own: Vec<&String>,
    deadline: Instant,
) -> Failure {
    let mut failure = Failure::new(
        Kind::Unavailable,
        Class::Orka,
        "orka.not-removed",
        format!("Orka accepted the removal of VMs of `{name}`, but still lists them"),
    );
    let deletions = own
        .into_iter()
        .map(|key| limited(deadline, "delete", cluster.delete(name, Some(key))));
    if let Some(error) = join_all(deletions).await.into_iter().find_map(Result::err) {
        failure = error;
    }
    failure
}

/// Says that something is left to others, if it is.
pub(crate) fn tell_left(run: &RunContext, name: &str) -> bool {
    let is_left_config = |debt: Debt| debt.thing == Thing::SharedConfig && debt.is_others();
    let is_left = run.ledger.debt(name).is_some_and(is_left_config);
    if is_left {
        run.console.info(&format!(
            "VM config `{name}` is left to the purge of the run: another Task has deployed from it"
        ));
    }
    is_left
}

#[cfg(test)]
mod tests;
