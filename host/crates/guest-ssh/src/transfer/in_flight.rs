//! How much of an upload may be on its way at once.
//!
//! OpenSSH's `sshd` keeps what the program has not read yet in one buffer, which it makes anew, and moves, as it fills and
//! empties. With the 2 MiB that it allows full all the time, that costs it more than decryption; with a few hundred KiB it
//! costs nothing. Measured on loopback, 10,000 small files take two thirds of the time. A long link needs more on its way
//! to be used at all, so this is for short ones.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::session::Session;

/// What OpenSSH allows on a channel before it has read any of it (`CHAN_SES_WINDOW_DEFAULT`, since 5.0).
const OPENSSH_WINDOW: u32 = 2 * 1024 * 1024;

/// On its way where a round trip takes no time: four times what `sshd` reads before it says so (three packets).
const LEAST: u64 = 384 * 1024;

/// Bytes a second that more than a link of 1 Gbit/s carries; as much as it moves in a round trip comes on top.
const RATE: f64 = 250e6;

/// A round trip of this length needs the whole window.
const LONG: Duration = Duration::from_millis(6);

/// How long what was sent is waited for. A server that does not tell as OpenSSH does only slows the transfer down.
const PATIENCE: Duration = Duration::from_millis(500);

/// Holds a sender back while enough is on its way.
pub(super) struct InFlight {
    /// Nothing is held back without one.
    limit: Option<u64>,
    window: watch::Receiver<u32>,
    sent: u64,
    taken: u64,
}

impl InFlight {
    /// `window` is what the server allowed when it last told, see [`crate::command::Command::window`].
    pub(super) fn new(limit: Option<u64>, window: watch::Receiver<u32>) -> Self {
        Self {
            limit,
            window,
            sent: 0,
            taken: 0,
        }
    }

    /// Takes note of bytes that were sent, and waits until more may follow.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(super) async fn sent(&mut self, count: usize) {
        self.sent += count as u64;
        while self
            .limit
            .is_some_and(|limit| self.sent - self.taken > limit)
        {
            let told = timeout(PATIENCE, self.window.changed()).await;
            // A task that was kept from running sees both at once.
            let is_told = match told {
                Ok(told) => told.is_ok(),
                Err(_) => self.window.has_changed().unwrap_or(false),
            };
            if !is_told {
                tracing::debug!("the VM reads nothing of an upload, or its server does not say so");
                self.limit = None;
                return;
            }
            let left = *self.window.borrow_and_update();
            let on_its_way = OPENSSH_WINDOW.saturating_sub(left);
            self.taken = self.sent.saturating_sub(u64::from(on_its_way));
        }
    }
}

/// How much may be on its way to this server; [`None`] for all it allows.
pub(super) async fn limit(session: &Session, server_version: &str) -> Option<u64> {
    if !server_version.contains("OpenSSH") {
        return None;
    }
    let started = Instant::now();
    timeout(LONG, session.handle.send_ping()).await.ok()?.ok()?;
    Some(LEAST + (started.elapsed().as_secs_f64() * RATE) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sender_waits_until_enough_was_taken() {
        let (told, window) = watch::channel(OPENSSH_WINDOW);
        let mut in_flight = InFlight::new(Some(100_000), window);
        in_flight.sent(100_000).await;
        let mut waiting = std::pin::pin!(in_flight.sent(1));
        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        // Still as much as before, and then a byte less.
        told.send_replace(OPENSSH_WINDOW - 100_001);
        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        told.send_replace(OPENSSH_WINDOW - 100_000);
        assert!(timeout(Duration::ZERO, &mut waiting).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_tells_is_sent_all_it_allows() {
        let (_told, window) = watch::channel(OPENSSH_WINDOW);
        let mut in_flight = InFlight::new(Some(1), window);
        let started = Instant::now();
        for _ in 0..100 {
            in_flight.sent(1000).await;
        }
        assert_eq!(started.elapsed(), PATIENCE);
    }
}
