//! Settles the ledger: deletes by name, confirms by a read, then signs out.
//!
//! Runs after the guest's store is gone, with a budget that no plugin can spend.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::Cluster;
use crate::backend::orka::NO_SUCH_CALL;
use crate::bindings::orka::plugin::cluster::SignOut;
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::ledger::Debt;
use crate::state::RunContext;

/// Kubernetes kills us 30 s after SIGTERM; 5 s are kept back to stop the guest and to say what was left behind.
pub const BUDGET_AFTER_SIGNAL: Duration = Duration::from_secs(25);

/// Without a signal nobody is in a hurry, but a dead API must not hold the step for long either.
pub const BUDGET: Duration = Duration::from_secs(60);

/// What is left of the budget after a second signal: enough for one more try.
pub const BUDGET_HURRIED: Duration = Duration::from_secs(5);

/// One call to Orka during teardown. Short, because a hung call must leave time for another try.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Pause before a failed removal is tried again; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How long to look for a VM whose deploy request got no answer. Deployments of an image that is at hand take about
/// 5 s; the reaper is for those that take minutes.
const DOUBT_WATCHED: Duration = Duration::from_secs(10);
/// Pause between looks.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// Signing out is a courtesy: it never takes long and nothing depends on it.
const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that may still exist.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Leftover {
    /// Its name.
    pub name: String,
    /// Why it may still exist.
    pub reason: String,
    /// How a person deletes it.
    pub command: String,
}

/// What teardown did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Settlement {
    /// Names under which nothing is left, deleted here.
    pub removed: Vec<String>,
    /// Names under which something may be left.
    pub leftovers: Vec<Leftover>,
}

/// Deletes everything the run still owes and signs out.
///
/// Never fails: what could not be done is in the answer. A second signal shortens the time to [`BUDGET_HURRIED`].
pub async fn settle(run: &RunContext) -> Settlement {
    let budget = if run.stop.signal().is_some() {
        BUDGET_AFTER_SIGNAL
    } else {
        BUDGET
    };
    let deadline = Instant::now() + budget;
    let owed = run.ledger.owed();
    let mut open: Vec<String> = owed.iter().map(|debt| debt.name.clone()).collect();
    let mut removals: FuturesUnordered<_> = owed
        .into_iter()
        .map(|debt| async move {
            let result = remove_owed(run.cluster.as_ref(), &debt, deadline).await;
            (debt.name, result)
        })
        .collect();
    let mut settlement = Settlement::default();
    let hurried = async {
        run.stop.hurried().await;
        sleep(BUDGET_HURRIED).await;
    };
    tokio::pin!(hurried);
    loop {
        let (name, result) = tokio::select! {
            next = removals.next() => match next {
                Some(next) => next,
                None => break,
            },
            () = &mut hurried => break,
        };
        open.retain(|other| *other != name);
        match result {
            Ok(()) => {
                run.ledger.released(&name);
                run.console.info(&format!("purged `{name}`"));
                settlement.removed.push(name);
            }
            Err(failure) => settlement
                .leftovers
                .push(leftover(run, name, reason(&failure))),
        }
    }
    for name in open {
        settlement.leftovers.push(leftover(
            run,
            name,
            "a second signal cut the clean-up short".to_owned(),
        ));
    }
    sign_out(run).await;
    settlement
}

fn leftover(run: &RunContext, name: String, reason: String) -> Leftover {
    Leftover {
        command: run.cluster.removal_command(&name),
        reason,
        name,
    }
}

fn reason(failure: &Failure) -> String {
    std::iter::once(failure.message.clone())
        .chain(failure.causes())
        .collect::<Vec<_>>()
        .join(": ")
}

/// Removes what is owed; where a deploy request got no answer, keeps looking for a while, since a cluster that is slow
/// or was cut off goes on deploying, and deletes what turns up.
async fn remove_owed(cluster: &dyn Cluster, debt: &Debt, deadline: Instant) -> Result<(), Failure> {
    remove_confirmed(cluster, &debt.name, deadline).await?;
    if !debt.in_doubt {
        return Ok(());
    }
    let watched_until = (Instant::now() + DOUBT_WATCHED).min(deadline);
    while Instant::now() + DOUBT_PAUSE < watched_until {
        sleep(DOUBT_PAUSE).await;
        if limited(deadline, "read", cluster.remains(&debt.name))
            .await?
            .is_some()
        {
            remove_confirmed(cluster, &debt.name, deadline).await?;
        }
    }
    Ok(())
}

/// Deletes everything of a name and reads until nothing of it is left; tries again until `deadline`.
///
/// # Errors
///
/// The last thing that went wrong, or what is still there.
pub async fn remove_confirmed(
    cluster: &dyn Cluster,
    name: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let mut pause = PAUSE_FIRST;
    loop {
        let failure = match remove_once(cluster, name, deadline).await {
            Ok(None) => return Ok(()),
            Ok(Some(remains)) => Failure::new(
                Kind::Unavailable,
                Class::Orka,
                "orka.not-removed",
                format!("Orka accepted the removal of `{name}`, but still lists {remains}"),
            ),
            Err(failure) => failure,
        };
        if Instant::now() + pause >= deadline {
            return Err(failure);
        }
        tracing::debug!(vm = name, error = %failure, "removal is tried again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One removal and one look; says what is left.
async fn remove_once(
    cluster: &dyn Cluster,
    name: &str,
    deadline: Instant,
) -> Result<Option<String>, Failure> {
    limited(deadline, "delete", cluster.remove(name)).await?;
    match limited(deadline, "read", cluster.remains(name)).await {
        // The removal was accepted in so many words; a server without the call to look has nothing more to tell.
        Err(failure) if failure.code == NO_SUCH_CALL => {
            tracing::warn!(vm = name, error = %failure, "Orka accepted the removal, but it cannot be confirmed by a read");
            Ok(None)
        }
        answer => answer,
    }
}

async fn limited<T>(
    deadline: Instant,
    what: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = CALL_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Kind::TimedOut,
            Class::Orka,
            "orka.timed-out",
            format!(
                "Orka did not answer a {what} request within {:.0} s",
                limit.as_secs_f64()
            ),
        ))
    })
}

async fn sign_out(run: &RunContext) {
    if run.facts.get().is_none() || run.signed_out.get().is_some() {
        return;
    }
    match timeout(SIGN_OUT_TIMEOUT, run.cluster.sign_out()).await {
        Ok(Ok(outcome)) => {
            tell_sign_out(&run.console, &outcome);
            let _first = run.signed_out.set(outcome);
        }
        Ok(Err(failure)) => run
            .console
            .warn(&format!("signing out failed: {}", reason(&failure))),
        Err(_) => run
            .console
            .warn("signing out failed: Orka did not answer in time"),
    }
}

/// Says what became of the token, and never more than was done.
pub fn tell_sign_out(console: &Console, outcome: &SignOut) {
    console.info(&match outcome {
        SignOut::Revoked => "token revoked".to_owned(),
        SignOut::Kept(reason) => format!("token kept: {reason}"),
        SignOut::NotApplicable => {
            "token dropped from memory; Orka 3 has no revocation, it ends by its own expiry"
                .to_owned()
        }
    });
}
