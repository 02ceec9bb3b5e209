//! Settles the ledger: deletes by name, confirms by a read, and says what may be left; then signs out.
//!
//! Runs after the guest's store is gone, with a budget that no plugin can spend.

mod shared;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use secrecy::SecretString;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(crate) use shared::tell_left;

use crate::backend::orka::NO_SUCH_CALL;
use crate::backend::{Cluster, Remains, Removal};
use crate::bindings::orka::plugin::cluster::SignOut;
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::ledger::{Debt, Kept, Ledger, Thing};
use crate::state::RunContext;

/// Kubernetes kills us 30 s after SIGTERM, and we promise to have ended after 25; one more is kept back to write results
/// and the report. Counted from the signal, so that the guest's grace, removals and signing out fit into it together.
pub const BUDGET_AFTER_SIGNAL: Duration = Duration::from_secs(24);

/// Without a signal nobody is in a hurry, but a dead API must not hold the step for long either.
pub const BUDGET: Duration = Duration::from_secs(60);

/// What is left of the budget after a second signal: enough for one more try.
pub const BUDGET_HURRIED: Duration = Duration::from_secs(5);

/// One call to Orka during teardown. Short, because a hung call must leave time for another try.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The look before a removal, for the count of what may still come: it may fail, and holds up no removal for long.
const COUNT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before a failed removal is tried again; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// Pause between looks for a VM whose deploy request got no answer.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// Signing out is a courtesy: it never takes long and nothing depends on it. Kept back from the budget.
const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(3);

/// Something that may still exist.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, serde::Serialize)]
pub struct Leftover {
    /// Its name.
    pub name: String,
    /// Why it may still exist.
    pub reason: String,
    /// How a person deletes it.
    pub command: String,
    /// Whether it is a predecessor's: told, but nothing that this run did wrong.
    pub inherited: bool,
}

/// A VM that is kept on purpose.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, serde::Serialize)]
pub struct KeptVm {
    /// Its name.
    pub name: String,
    /// Until when, why, and how to log in.
    #[serde(flatten)]
    pub kept: Kept,
}

/// What teardown did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Settlement {
    /// Names under which nothing is left, deleted here.
    pub removed: Vec<String>,
    /// Names under which something may be left.
    pub leftovers: Vec<Leftover>,
    /// What is kept on purpose.
    pub kept: Vec<KeptVm>,
}

/// Deletes everything the run still owes.
///
/// Never fails: what could not be done is in the answer, and told as soon as it is known. A first signal shortens the
/// time to what is left of [`BUDGET_AFTER_SIGNAL`], a second one to [`BUDGET_HURRIED`].
pub async fn settle(run: &RunContext) -> Settlement {
    let stopped_at = run.stop.stopped_at();
    let deadline = match stopped_at {
        Some(stopped_at) => stopped_at + BUDGET_AFTER_SIGNAL - SIGN_OUT_TIMEOUT,
        None => Instant::now() + BUDGET,
    };
    run.ledger.abandon();
    let owed = run.ledger.owed();
    let mut open: Vec<String> = owed.iter().map(|debt| debt.name.clone()).collect();
    // Once for all of them: credentials that are declined too often lock the user out.
    let sign_in = signed_in(run, deadline).boxed().shared();
    let mut removals: FuturesUnordered<_> = owed
        .into_iter()
        .map(|debt| (debt, sign_in.clone()))
        .map(|(debt, sign_in)| async move {
            let result = match sign_in.await {
                Ok(()) => remove_owed(run.cluster.as_ref(), &run.ledger, &debt, deadline).await,
                Err(failure) => Err(failure),
            };
            (debt.name, result)
        })
        .collect();
    let mut settlement = Settlement {
        kept: tell_kept(run),
        ..Settlement::default()
    };
    let cut_short = cut_short(run, stopped_at.is_some());
    tokio::pin!(cut_short);
    loop {
        let (name, result) = tokio::select! {
            next = removals.next() => match next {
                Some(next) => next,
                None => break,
            },
            () = &mut cut_short => break,
        };
        open.retain(|other| *other != name);
        match result {
            Ok(()) => {
                let stays = |debt: &Debt| !debt.kept.is_empty();
                if tell_left(run, &name) || run.ledger.debt(&name).as_ref().is_some_and(stays) {
                    continue;
                }
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
            "a signal cut the clean-up short".to_owned(),
        ));
    }
    settlement
}

/// Signs in if the policy never did, since nothing can be deleted without; tries again until `deadline`.
async fn signed_in(run: &RunContext, deadline: Instant) -> Result<(), Failure> {
    let mut pause = PAUSE_FIRST;
    loop {
        let sign_in = run.facts.get_or_try_init(|| run.cluster.sign_in());
        let failure = match limited(deadline, "sign-in", sign_in).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        // Credentials that were declined once are declined again, and too often locks the user out.
        if failure.class == Class::Config || Instant::now() + pause >= deadline {
            return Err(failure);
        }
        tracing::debug!(error = %failure, "signing in to clean up is tried again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns when a signal that comes during the clean-up leaves no more time for it.
async fn cut_short(run: &RunContext, is_reckoned_with: bool) {
    let first = async {
        if is_reckoned_with {
            // The deadline has taken it into account.
            std::future::pending::<()>().await;
        }
        run.stop.stopped().await;
        sleep(BUDGET_AFTER_SIGNAL - SIGN_OUT_TIMEOUT).await;
    };
    let second = async {
        run.stop.hurried().await;
        sleep(BUDGET_HURRIED).await;
    };
    tokio::select! {
        () = first => {}
        () = second => {}
    }
}

/// Says what is kept, and how long.
fn tell_kept(run: &RunContext) -> Vec<KeptVm> {
    let kept = run.ledger.kept().into_iter();
    kept.map(|(name, kept)| {
        let Kept { expires, login, .. } = &kept;
        run.console.warn(&format!(
            "VM `{name}` is kept until {expires}\nhint: log in with `{login}`; a reaper that is shown this workspace (`--ledger`) or this pod deletes it after that, \
             and one that is not at once; `{}` does at any time",
            run.cluster.removal_command(&name)
        ));
        KeptVm { name, kept }
    })
    .collect()
}

fn leftover(run: &RunContext, name: String, reason: String) -> Leftover {
    let command = run.cluster.removal_command(&name);
    let debt = run.ledger.debt(&name);
    let inherited = debt.as_ref().is_some_and(|debt| debt.inherited);
    tell_leftover(run, name, reason, command, inherited)
}

impl Leftover {
    /// Says that it may be left, and what deletes it.
    pub(crate) fn tell(&self, console: &Console) {
        let (name, reason, command) = (&self.name, &self.reason, &self.command);
        console.warn(&format!(
            "`{name}` may still exist\ncaused by: {reason}\nhint: delete it with `{command}`"
        ));
    }
}

/// Says what may be left, on Orka or elsewhere.
pub(crate) fn tell_leftover(
    run: &RunContext,
    name: String,
    reason: String,
    command: String,
    inherited: bool,
) -> Leftover {
    let leftover = Leftover {
        name,
        reason,
        command,
        inherited,
    };
    // Told at once: whoever kills us next must not keep anybody from knowing.
    leftover.tell(&run.console);
    leftover
}

fn reason(failure: &Failure) -> String {
    std::iter::once(failure.message.clone())
        .chain(failure.causes())
        .collect::<Vec<_>>()
        .join(": ")
}

/// Removes what is owed. Where a deploy request got no answer, goes on looking and deletes what turns up, since a cluster
/// that is slow or was cut off goes on deploying.
async fn remove_owed(
    cluster: &dyn Cluster,
    ledger: &Ledger,
    debt: &Debt,
    deadline: Instant,
) -> Result<(), Failure> {
    remove_accounted(cluster, ledger, &debt.name, deadline).await?;
    let watched_from = Instant::now();
    while ledger
        .debt(&debt.name)
        .is_some_and(|debt| debt.in_doubt() > 0)
    {
        let now = ledger.debt(&debt.name);
        if now
            .as_ref()
            .is_some_and(|now| now.thing == Thing::VmOfConfig)
        {
            return Err(in_doubt(
                "a deploy request got no answer, and VMs of a shared VM config cannot be told apart; a VM may still \
                 appear until the run is purged"
                    .to_owned(),
            ));
        }
        if now.is_some_and(|now| now.inherited) {
            // Watched since this run began; longer does not help.
            return Err(in_doubt(
                "a predecessor's request got no answer; a VM may still appear".to_owned(),
            ));
        }
        if Instant::now() + DOUBT_PAUSE >= deadline {
            return Err(in_doubt(format!(
                "a request got no answer; nothing turned up in the {} s since, but a VM may still appear",
                watched_from.elapsed().as_secs()
            )));
        }
        sleep(DOUBT_PAUSE).await;
        if let Err(failure) = remove_accounted(cluster, ledger, &debt.name, deadline).await {
            tracing::debug!(vm = debt.name, error = %failure, "looking again for a VM in doubt");
        }
    }
    Ok(())
}

/// What says that a VM cannot be told from others of the same name.
pub(crate) fn no_id(name: &str) -> Failure {
    Failure::new(
        Kind::Conflict,
        Class::Orka,
        "orka.no-vm-id",
        format!(
            "Orka told no id of a VM of `{name}`, and by the name alone other Tasks' VMs would be deleted, too"
        ),
    )
}

fn in_doubt(message: String) -> Failure {
    Failure::new(Kind::Unavailable, Class::Orka, "orka.in-doubt", message)
}

/// Removes everything of a name that this run has to remove, and notes which requests in doubt it accounts for.
///
/// # Errors
///
/// As [`remove_confirmed`].
pub async fn remove_accounted(
    cluster: &dyn Cluster,
    ledger: &Ledger,
    name: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let before = ledger.debt(name);
    if before.as_ref().is_some_and(|debt| debt.thing.is_config()) {
        // On Orka 3 one that a predecessor stored would not be looked for otherwise.
        cluster.expect_config(name);
    }
    if shared::is_left_to_others(cluster, ledger, before.as_ref(), deadline).await? {
        return Ok(());
    }
    ledger.deletion_begins(name);
    if let Some(debt) = before.as_ref().filter(|debt| goes_one_by_one(debt)) {
        return remove_one_by_one(cluster, ledger, debt, deadline).await;
    }
    let in_doubt = before.as_ref().map_or(0, Debt::in_doubt);
    let mut seen = Remains::default();
    if in_doubt > 0 {
        let look = count(cluster, name, deadline).await;
        let is_seen = look.is_some();
        seen = look.unwrap_or_default();
        if is_seen && seen.is_nothing() && before.as_ref().is_some_and(Debt::is_only_doubt) {
            return Ok(());
        }
    }
    remove_confirmed(cluster, name, deadline).await?;
    let known = before.map_or(0, |debt| {
        u32::try_from(debt.instances.len()).unwrap_or(u32::MAX)
    });
    ledger.released(name);
    ledger.accounted_for(name, seen.vms.saturating_sub(known), seen.config);
    Ok(())
}

/// What is there before it is deleted; none if that cannot be told soon. It is deleted all the same then, and what cannot
/// be counted stays in doubt.
async fn count(cluster: &dyn Cluster, name: &str, deadline: Instant) -> Option<Remains> {
    let give_up = deadline.min(Instant::now() + COUNT_TIMEOUT);
    loop {
        let limit = give_up.min(Instant::now() + COUNT_TIMEOUT / 2);
        match limited(limit, "read", cluster.remains(name)).await {
            Ok(remains) => return Some(remains),
            Err(failure) => {
                tracing::debug!(vm = name, error = %failure, "what is in doubt cannot be counted");
                if Instant::now() + PAUSE_FIRST >= give_up {
                    return None;
                }
            }
        }
        sleep(PAUSE_FIRST).await;
    }
}

/// Whether others' VMs, or ones that are kept, are under the same name.
fn goes_one_by_one(debt: &Debt) -> bool {
    debt.thing == Thing::VmOfConfig || !debt.kept.is_empty()
}

/// Deletes the VMs of a name that are this run's and not kept, by Orka's ids, each confirmed by a read.
async fn remove_one_by_one(
    cluster: &dyn Cluster,
    ledger: &Ledger,
    debt: &Debt,
    deadline: Instant,
) -> Result<(), Failure> {
    let name = &debt.name;
    let mut pause = PAUSE_FIRST;
    let mut last = None;
    let mut unanswered = BTreeSet::new();
    loop {
        let listed = limited(deadline, "read", cluster.instances(name)).await;
        let failed = match listed {
            Ok(listed) => {
                // Of a config of its own everything is the run's, also what nobody answered for.
                let is_own =
                    |key: &String| debt.thing != Thing::VmOfConfig || debt.instances.contains(key);
                let own: Vec<_> = listed
                    .into_iter()
                    .filter(|key| is_own(key) && !debt.stays(key))
                    .collect();
                let strangers = own.iter().filter(|key| !debt.instances.contains(*key));
                unanswered.extend(strangers.cloned());
                if own.is_empty() {
                    let turned_up = u32::try_from(unanswered.len()).unwrap_or(u32::MAX);
                    ledger.accounted_for(name, turned_up, false);
                    debt.instances
                        .iter()
                        .filter(|key| !debt.stays(key))
                        .for_each(|key| ledger.vm_gone(name, key));
                    if debt.kept.is_empty() {
                        ledger.released(name);
                    }
                    return Ok(());
                }
                let deletions = own.iter().map(|key| async move {
                    // On Orka 2 a name is every Task's that deployed from the VM config.
                    if debt.thing == Thing::VmOfConfig && key == name {
                        return Err(no_id(name));
                    }
                    limited(deadline, "delete", cluster.delete(name, Some(key))).await
                });
                let failures = join_all(deletions).await.into_iter();
                failures
                    .filter_map(Result::err)
                    .max_by_key(|failure| failure.retry_after)
            }
            Err(failure) => Some(failure),
        };
        let asked = asked_for(pause, failed.as_ref());
        last = failed.or(last);
        if Instant::now() + asked >= deadline {
            return Err(last.unwrap_or_else(|| {
                Failure::new(
                    Kind::Unavailable,
                    Class::Orka,
                    "orka.not-removed",
                    format!("Orka accepted the removal of VMs of `{name}`, but still lists them"),
                )
            }));
        }
        sleep(asked).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The pause before the next try: no shorter than what Orka has asked for, within reason.
fn asked_for(pause: Duration, failure: Option<&Failure>) -> Duration {
    let asked = failure.and_then(|failure| failure.retry_after);
    pause.max(asked.unwrap_or_default().min(PAUSE_MAX))
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
            Ok((_, remains)) if remains.is_nothing() => return Ok(()),
            Ok((_, remains)) => Failure::new(
                Kind::Unavailable,
                Class::Orka,
                "orka.not-removed",
                format!("Orka accepted the removal of `{name}`, but still lists {remains}"),
            ),
            Err(failure) => failure,
        };
        if Instant::now() + asked_for(pause, Some(&failure)) >= deadline {
            return Err(failure);
        }
        tracing::debug!(vm = name, error = %failure, "removal is tried again");
        sleep(asked_for(pause, Some(&failure))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One removal, with what it found, and one look at what is left.
pub(crate) async fn remove_once(
    cluster: &dyn Cluster,
    name: &str,
    deadline: Instant,
) -> Result<(Removal, Remains), Failure> {
    let removal = limited(deadline, "delete", cluster.remove(name)).await?;
    let remains = match limited(deadline, "read", cluster.remains(name)).await {
        // The removal was accepted in so many words; a server without the call to look has nothing more to tell.
        Err(failure) if failure.code == NO_SUCH_CALL && removal == Removal::Removed => {
            tracing::warn!(vm = name, error = %failure, "Orka accepted the removal, but it cannot be confirmed by a read");
            Remains::default()
        }
        answer => answer?,
    };
    Ok((removal, remains))
}

pub(crate) async fn limited<T>(
    deadline: Instant,
    what: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = CALL_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
    // What Orka says is worth more than that nobody waited any longer.
    let work = orka_client::patient_until(Instant::now() + limit, work);
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

/// Signs out if the run is signed in; says what became of the token.
pub async fn sign_out(run: &RunContext) {
    if run.facts.get().is_none() || run.signed_out.get().is_some() {
        return;
    }
    let ends = sign_out_ends(run);
    let limit = sleep_until(ends);
    tokio::select! {
        biased;
        outcome = orka_client::patient_until(ends, give_back_token(run)) => match outcome {
            Ok(outcome) => {
                tell_sign_out(&run.console, &outcome);
                let _first = run.signed_out.set(outcome);
            }
            Err(failure) => run.console.warn(&format!("signing out failed: {}", reason(&failure))),
        },
        () = limit => run.console.warn("signing out failed: Orka did not answer in time"),
    }
}

/// Gives back tokens of a process that could not do so itself, in the time that signing out has.
pub async fn give_back(run: &RunContext, tokens: Vec<SecretString>) {
    let deadline = sign_out_ends(run);
    let revoked = tokens
        .into_iter()
        .map(|token| limited(deadline, "sign-out", run.cluster.revoke(token)));
    for outcome in join_all(revoked).await {
        match outcome {
            Ok(SignOut::Revoked) => tell_sign_out(&run.console, &SignOut::Revoked),
            // What this run's own token has been told about already.
            Ok(_) => {}
            Err(failure) => run.console.warn(&format!(
                "the token of the process that crashed was not given back: {}",
                reason(&failure)
            )),
        }
    }
}

/// When signing out has to have ended.
fn sign_out_ends(run: &RunContext) -> Instant {
    let own = Instant::now() + SIGN_OUT_TIMEOUT;
    // No longer than that after a second signal either, which shortens what comes before.
    match run.stop.stopped_at() {
        Some(stopped_at) => own.min(stopped_at + BUDGET_AFTER_SIGNAL),
        None => own,
    }
}

/// Gives the token back, unless steps of others go by it.
pub async fn give_back_token(run: &RunContext) -> Result<SignOut, Failure> {
    #[cfg(feature = "kubernetes")]
    if let Some(hand_over) = run.hand_over().filter(|it| it.is_published()) {
        return Ok(SignOut::Kept(format!(
            "{} holds it until `teardown`",
            hand_over.shown()
        )));
    }
    run.cluster.sign_out().await
}

/// Says what became of the token.
pub fn tell_sign_out(console: &Console, outcome: &SignOut) {
    console.info(&told_sign_out(outcome));
}

/// What became of a token, and never more than was done.
pub fn told_sign_out(outcome: &SignOut) -> String {
    match outcome {
        SignOut::Revoked => "token revoked".to_owned(),
        SignOut::Kept(reason) => format!("token kept: {reason}"),
        SignOut::NotApplicable => {
            "token dropped from memory; Orka 3 has no revocation, it ends by its own expiry"
                .to_owned()
        }
    }
}

/// The same as reports and sessions have it.
pub fn sign_out_record(outcome: &SignOut) -> String {
    match outcome {
        SignOut::Revoked => "revoked".to_owned(),
        SignOut::Kept(reason) => format!("kept: {reason}"),
        SignOut::NotApplicable => "not-applicable".to_owned(),
    }
}

#[cfg(test)]
#[path = "teardown/tests.rs"]
mod tests;
