//! The hand-over of the older Tasks, at the points of a run where it happens. Without `--hand-over kubernetes` nothing does.

use crate::failure::Failure;
use crate::state::RunContext;

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
    hand_over.publish(&token, config).await?;
    run.console.info(&format!(
        "{} holds the token for steps that read it",
        hand_over.shown()
    ));
    Ok(())
}

/// When everything of the run is purged: revokes the token and deletes what held it.
#[cfg(feature = "kubernetes")]
pub(super) async fn retract(run: &RunContext) -> Result<(), Failure> {
    use secrecy::ExposeSecret as _;

    use crate::teardown;

    let Some(hand_over) = run.hand_over() else {
        return Ok(());
    };
    if let Some(token) = hand_over.published_token().await? {
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
    for name in hand_over.retract().await? {
        run.console.info(&format!("deleted the {name}"));
    }
    Ok(())
}

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
