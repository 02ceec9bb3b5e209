//! `clock`: time as tokio has it, so that tests with paused time are tests with virtual time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::bindings::orka::plugin::clock::Host;
use crate::console::millis;
use crate::state::{CallError, HostState};

impl Host for HostState {
    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        let began = u64::try_from(self.run.started_at.as_millisecond()).unwrap_or(0);
        Ok(began + millis(self.run.started.elapsed()))
    }

    async fn elapsed_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(millis(self.run.started.elapsed()))
    }

    async fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(millis(self.run.remaining()))
    }

    async fn sleep(&mut self, duration_ms: u64) -> Result<(), CallError> {
        // A sleep past the deadline ends at the deadline, so the sum cannot overflow.
        let until = Instant::now()
            .checked_add(Duration::from_millis(duration_ms))
            .unwrap_or(self.run.deadline);
        self.run
            .call("clock.sleep", async {
                sleep_until(until).await;
                Ok(())
            })
            .await
    }
}
