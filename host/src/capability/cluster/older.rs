//! The hand-over of the older Tasks, at the points of a run where it happens. Without `--hand-over kubernetes` nothing does.

#[cfg(feature = "kubernetes")]
use std::time::Duration;

#[cfg(feature = "kubernetes")]
use secrecy::{ExposeSecret as _, SecretString};
#[cfg(feature = "kubernetes")]
use tokio::time::timeout;

use crate::failure::Failure;
#[cfg(feature = "kubernetes")]
use crate::hand_over::HandOver;
use crate::state::RunContext;
#[cfg(feature = "kubernetes")]
use crate::teardown;

/// How long it may take to give back what was claimed in vain, while VMs are deleted.
#[cfg(feature = "kubernetes")]
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Before anything exists on the cluster.
#[cfg(feature = "kubernetes")]
pub(super) async fn claim(run: &RunContext) -> Result<(), Failure> {
    match run.hand_over() {
        Some(hand_over) => hand_over.claim().await,
        None => Ok(()),
    }
}

/// When the VM config is handed over.
#[cfg(feature = "kubernetes")]
pub(super) async fn publish(run: &RunContext, config: &str) -> Result<(), Failure> {
    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    let token = run.cluster.token().await?;
    // An earlier pod of this Task may have published one of its own, which nobody would know any more.
    let before = hand_over.published_token().await?;
    hand_over.publish(&token, config).await?;
    if let Some(before) = before.filter(|it| it.expose_secret() != token.expose_secret()) {
        revoke(run, hand_over, before).await;
    }
    run.console.info(&format!(
        "{} holds the token for steps that read it",
        hand_over.shown()
    ));
    Ok(())
}

/// When everything of the run is purged: revokes the token and deletes what held it.
#[cfg(feature = "kubernetes")]
pub(super) async fn retract(run: &RunContext) -> Result<(), Failure> {
    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    if let Some(token) = hand_over.published_token().await? {
        // This run's own is given back when it signs out: until then it is needed.
        let own = run.cluster.token().await.ok();
        if own.is_none_or(|own| own.expose_secret() != token.expose_secret()) {
            revoke(run, hand_over, token).await;
        }
    }
    for name in hand_over.retract().await? {
        run.console.info(&format!("deleted the {name}"));
    }
    Ok(())
}

#[cfg(feature = "kubernetes")]
async fn revoke(run: &RunContext, hand_over: &HandOver, token: SecretString) {
    run.console.masker().add(token.expose_secret());
    match run.cluster.revoke(token).await {
        Ok(outcome) => run.console.info(&format!(
            "{}: {}",
            hand_over.shown(),
            teardown::told_sign_out(&outcome)
        )),
        // It ends by its own expiry; a Secret that stays would be worse.
        Err(failure) => run.console.warn(&format!(
            "the token of {} was not revoked: {failure}",
            hand_over.shown()
        )),
    }
}

/// Gives back what was claimed and never published: a run that failed must not keep the names.
#[cfg(feature = "kubernetes")]
pub(crate) async fn release(run: &RunContext) {
    let Some(hand_over) = run.hand_over().filter(|it| it.is_only_claimed()) else {
        return;
    };
    let problem = match timeout(RELEASE_TIMEOUT, retract(run)).await {
        Ok(Ok(())) => return,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "Kubernetes did not answer in time".to_owned(),
    };
    hand_over.tell_left(&run.console, &problem);
}

/// Gives back what was claimed and never published.
#[cfg(not(feature = "kubernetes"))]
pub(crate) async fn release(_run: &RunContext) {}

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
