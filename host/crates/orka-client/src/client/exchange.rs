//! How every call is made: with the token, renewed once; again where that is safe.

use tokio::time::sleep;

use super::Client;
use crate::error::Error;
use crate::http::{Call, Reply};
use crate::retry::Backoff;
use crate::token::Lease;

impl Client {
    /// Makes a call with the token, renewing the token once if the API does not take it.
    pub(super) async fn request<T>(
        &self,
        call: &Call,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lease = self.0.tokens.current(&self.0.transport).await?;
        let refused = match self.with_token(call, &lease, &read).await {
            Err(error @ Error::Unauthorized(_)) => error,
            other => return other,
        };
        match self
            .0
            .tokens
            .renewed(lease.number, &self.0.transport)
            .await?
        {
            Some(lease) => self.with_token(call, &lease, &read).await,
            None => Err(refused),
        }
    }

    pub(super) async fn with_token<T>(
        &self,
        call: &Call,
        lease: &Lease,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.repeating(call, Some(lease), read).await
    }

    pub(super) async fn anonymously<T>(
        &self,
        call: &Call,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.repeating(call, None, read).await
    }

    /// Makes a call, and makes it again where that is safe and may help.
    pub(super) async fn repeating<T>(
        &self,
        call: &Call,
        lease: Option<&Lease>,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut backoff = Backoff::new(self.0.config.retry);
        loop {
            let sent = self
                .0
                .transport
                .send(call, lease.map(|lease| &lease.token))
                .await;
            let error = match sent.and_then(|reply| read(&reply)) {
                Err(error) if error.is_worth_repeating(call.effect) => error,
                other => return other,
            };
            let attempt = backoff.attempt();
            let Some(wait) = backoff.next_wait(error.retry_after()) else {
                return Err(error);
            };
            tracing::debug!(call = %call, attempt, wait_ms = wait.as_millis(), error = %error, "orka.repeat");
            sleep(wait).await;
        }
    }
}
