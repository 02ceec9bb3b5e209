//! `random`.

use std::sync::PoisonError;

use crate::bindings::orka::plugin::random::Host;
use crate::state::HostState;

/// What the contract promises at most.
const BYTES_MAX: u32 = 4096;

impl Host for HostState {
    async fn bytes(&mut self, count: u32) -> wasmtime::Result<Vec<u8>> {
        let mut bytes = vec![0; count.min(BYTES_MAX) as usize];
        self.run
            .random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        Ok(bytes)
    }
}
