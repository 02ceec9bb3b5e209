//! `wait`: the first of several things.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use wasmtime::component::Resource;

use crate::bindings::orka::plugin::wait::{Host, HostWaitable};
use crate::failure::Failure;
use crate::state::{CallError, HostState};

/// Something that becomes ready once.
#[derive(Clone, Debug)]
pub enum Waitable {
    /// When the flag is set, or nobody is left to set it.
    Flag(watch::Receiver<bool>),
    /// At this time.
    Timer(Instant),
}

impl Waitable {
    fn is_ready(&self) -> bool {
        match self {
            Self::Flag(flag) => *flag.borrow() || flag.has_changed().is_err(),
            Self::Timer(at) => Instant::now() >= *at,
        }
    }

    async fn ready(&self) {
        match self {
            Self::Flag(flag) => {
                // An error means that the other side is gone: there is nothing left to wait for.
                let _ = flag.clone().wait_for(|ready| *ready).await;
            }
            Self::Timer(at) => sleep_until(*at).await,
        }
    }
}

impl Host for HostState {
    async fn timer(&mut self, duration_ms: u64) -> wasmtime::Result<Resource<Waitable>> {
        let at = Instant::now()
            .checked_add(Duration::from_millis(duration_ms))
            .unwrap_or(self.run.deadline);
        self.keep_or_trap(Waitable::Timer(at))
    }

    async fn wait_any(
        &mut self,
        waitables: Vec<Resource<Waitable>>,
        timeout_ms: Option<u64>,
    ) -> Result<Vec<u32>, CallError> {
        let waitables: Vec<Waitable> = waitables
            .iter()
            .map(|waitable| self.table.get(waitable).cloned())
            .collect::<Result<_, _>>()?;
        let run = &self.run;
        run.call("wait.wait-any", async {
            if waitables.is_empty() {
                return Err(Failure::invalid(
                    "wait.empty",
                    "there is nothing to wait for",
                ));
            }
            let mut first: FuturesUnordered<_> = waitables.iter().map(Waitable::ready).collect();
            let limit = timeout_ms.map(Duration::from_millis);
            match limit {
                None => {
                    first.next().await;
                }
                // Running out of time is an answer here, not an error.
                Some(limit) => {
                    let _ = tokio::time::timeout(limit, first.next()).await;
                }
            }
            Ok((0..)
                .zip(&waitables)
                .filter(|(_, waitable)| waitable.is_ready())
                .map(|(position, _)| position)
                .collect())
        })
        .await
    }
}

impl HostWaitable for HostState {
    async fn ready(&mut self, waitable: Resource<Waitable>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&waitable)?.is_ready())
    }

    async fn drop(&mut self, waitable: Resource<Waitable>) -> wasmtime::Result<()> {
        self.table.delete(waitable)?;
        Ok(())
    }
}
