//! The hand-over of the older Tasks, at the points of a run where it happens. Without `--hand-over kubernetes` nothing does.

#[cfg(feature = "kubernetes")]
use std::time::Duration;

#[cfg(feature = "kubernetes")]
use plugin_manifest::Capability;
#[cfg(feature = "kubernetes")]
use secrecy::ExposeSecret as _;
#[cfg(feature = "kubernetes")]
use tokio::time::sleep;

use crate::failure::Failure;
#[cfg(feature = "kubernetes")]
use crate::hand_over::{HandOver, Left, Published, Whose};
use crate::state::RunContext;
#[cfg(feature = "kubernetes")]
use crate::teardown;
use crate::teardown::Leftover;

/// How long it may take to give back what was claimed in vain once somebody is in a hurry, while VMs are deleted.
#[cfg(feature = "kubernetes")]
const HURRIED_TIMEOUT: Duration = Duration::from_secs(5);

/// How long Orka may take to revoke a token that stood in a Secret, and once somebody is in a hurry.
#[cfg(feature = "kubernetes")]
const REVOKE_TIMEOUT: Duration = Duration::from_secs(8);
#[cfg(feature = "kubernetes")]
const REVOKE_TIMEOUT_HURRIED: Duration = Duration::from_secs(2);

/// Before anything exists on the cluster.
#[cfg(feature = "kubernetes")]
pub(super) async fn claim(run: &RunContext) -> Result<(), Failure> {
    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    let mut stale = Vec::new();
    let claimed = hand_over.claim(&mut stale).await;
    for before in stale {
        run.console.info(&format!(
            "took over {} of a run that is over",
            hand_over.shown()
        ));
        revoke(run, hand_over, before).await;
    }
    if let (Ok(()), Some(black_box)) = (&claimed, run.ledger.black_box()) {
        black_box.note_claimed(hand_over.shown());
    }
    claimed
}

/// When the VM config is about to be handed over; [`published`] once it is.
#[cfg(feature = "kubernetes")]
pub(super) async fn publish(run: &RunContext, config: &str) -> Result<(), Failure> {
    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    if !hand_over.is_claimed() {
        // A VM config that was not made to be shared.
        claim(run).await?;
    }
    let token = run.cluster.token().await?;
    // An earlier pod of this Task may have published one of its own, which nobody would know any more.
    let before = hand_over.published_token(Whose::Task).await?;
    let from_login = run.cluster.token_is_from_login();
    hand_over.fill(&token, from_login, config).await?;
    if let Some(before) = before.filter(|it| it.token.expose_secret() != token.expose_secret()) {
        revoke(run, hand_over, before).await;
    }
    let holds = if from_login {
        "the token of this run until `teardown` deletes it"
    } else {
        "a copy of the token that was given: `teardown` deletes the copy, and the token stays valid"
    };
    run.console
        .info(&format!("{} holds {holds}", hand_over.shown()));
    Ok(())
}

/// When the VM config is handed over.
#[cfg(feature = "kubernetes")]
pub(super) fn published(run: &RunContext) {
    if let Some(hand_over) = run.hand_over() {
        hand_over.publish();
        if let Some(black_box) = run.ledger.black_box() {
            black_box.note_published();
        }
    }
}

/// When everything of the run is to be purged, and may be.
#[cfg(feature = "kubernetes")]
pub(super) fn ask_purge(run: &RunContext) {
    if let Some(hand_over) = run.hand_over() {
        hand_over.ask_purge();
    }
}

/// When everything of the run is purged: revokes the token and deletes what held it.
#[cfg(feature = "kubernetes")]
pub(super) async fn retract(run: &RunContext) -> Result<(), Failure> {
    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    let left = retract_of(run, hand_over, Whose::Run).await.into_iter();
    left.filter_map(|left| left.reason)
        .next()
        .map_or(Ok(()), Err)
}

/// Revokes and deletes, and gives what could not be deleted.
#[cfg(feature = "kubernetes")]
async fn retract_of(run: &RunContext, hand_over: &HandOver, whose: Whose) -> Vec<Left> {
    match hand_over.published_token(whose).await {
        Ok(Some(published)) => {
            // This run's own is given back when it signs out: until then it is needed.
            let own = run.cluster.held_token().await;
            if own.is_none_or(|own| own.expose_secret() != published.token.expose_secret()) {
                revoke(run, hand_over, published).await;
            }
        }
        Ok(None) => {}
        Err(failure) => run.console.warn(&format!(
            "whether {} holds a token is not known: {failure}",
            hand_over.shown()
        )),
    }
    let retracted = hand_over.retract(whose).await;
    for name in retracted.deleted {
        run.console.info(&format!("deleted the {name}"));
    }
    retracted.left
}

#[cfg(feature = "kubernetes")]
async fn revoke(run: &RunContext, hand_over: &HandOver, published: Published) {
    let shown = hand_over.shown();
    if !published.from_login {
        run.console.info(&format!(
            "{shown}: token kept: it was given to the Task that put it there, and others may use it"
        ));
        return;
    }
    let patience = async {
        tokio::select! {
            () = sleep(REVOKE_TIMEOUT) => {}
            () = async {
                run.stop.stopped().await;
                sleep(REVOKE_TIMEOUT_HURRIED).await;
            } => {}
        }
    };
    // It ends by its own expiry; a Secret that stays would be worse.
    let warn = |why: &str| {
        run.console
            .warn(&format!("the token of {shown} was not revoked: {why}"));
    };
    tokio::select! {
        biased;
        revoked = run.cluster.revoke(published.token) => match revoked {
            Ok(outcome) => run
                .console
                .info(&format!("{shown}: {}", teardown::told_sign_out(&outcome))),
            Err(failure) => warn(&failure.to_string()),
        },
        () = patience => warn("Orka did not answer in time"),
    }
}

/// When the run ends: gives back what was claimed and never published, since a run that failed must not keep the names, and
/// finishes what a purge of the run was to delete. Gives what may be left.
#[cfg(feature = "kubernetes")]
pub(crate) async fn release(run: &RunContext, has_failed: bool) -> Vec<Leftover> {
    let purges_runs = run.grants.allows(Capability::ClusterPurgeRun);
    let Some((hand_over, whose)) = run
        .hand_over()
        .and_then(|it| Some((it, it.owed(purges_runs, has_failed)?)))
    else {
        return Vec::new();
    };
    let left = tokio::select! {
        biased;
        left = retract_of(run, hand_over, whose) => left,
        () = patience_ends(run) => hand_over.all_left(whose),
    };
    left.into_iter()
        .map(|left| {
            let reason = left.reason.map_or_else(
                || "Kubernetes did not answer in time".to_owned(),
                |failure| failure.to_string(),
            );
            teardown::tell_leftover(run, left.name, reason, left.command, false)
        })
        .collect()
}

/// As long as the clean-up of VMs takes where nobody hurries, which it goes on beside.
#[cfg(feature = "kubernetes")]
async fn patience_ends(run: &RunContext) {
    tokio::select! {
        () = sleep(teardown::BUDGET) => {}
        () = async {
            run.stop.stopped().await;
            sleep(HURRIED_TIMEOUT).await;
        } => {}
    }
}

/// When the run ends.
#[cfg(not(feature = "kubernetes"))]
pub(crate) async fn release(_run: &RunContext, _has_failed: bool) -> Vec<Leftover> {
    Vec::new()
}

/// When the VM config is handed over.
#[cfg(not(feature = "kubernetes"))]
pub(super) fn published(_run: &RunContext) {}

/// When everything of the run is to be purged, and may be.
#[cfg(not(feature = "kubernetes"))]
pub(super) fn ask_purge(_run: &RunContext) {}

/// Before anything exists on the cluster.
#[cfg(not(feature = "kubernetes"))]
pub(super) async fn claim(_run: &RunContext) -> Result<(), Failure> {
    Ok(())
}

/// When the VM config is handed over.
#[cfg(not(feature = "kubernetes"))]
pub(super) async fn publish(_run: &RunContext, _config: &str) -> Result<(), Failure> {
    Ok(())
}

/// When everything of the run is purged.
#[cfg(not(feature = "kubernetes"))]
pub(super) async fn retract(_run: &RunContext) -> Result<(), Failure> {
    Ok(())
}
