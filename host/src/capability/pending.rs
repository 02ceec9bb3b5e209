//! Work that goes on beside the guest until its result is taken.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::wait::Waitable;
use crate::failure::{Class, Failure, Kind};
use crate::state::RunContext;

type Outcome<T> = Arc<Mutex<Option<Result<T, Failure>>>>;

/// Work that was begun. Dropping it does not end the work: what it makes is accounted for elsewhere.
pub(super) struct Pending<T> {
    outcome: Outcome<T>,
    done: watch::Receiver<bool>,
}

impl<T> Clone for Pending<T> {
    fn clone(&self) -> Self {
        Self {
            outcome: Arc::clone(&self.outcome),
            done: self.done.clone(),
        }
    }
}

impl<T: Send + 'static> Pending<T> {
    /// Begins work that takes as long as the run lasts at most.
    pub(super) fn begin(
        run: &Arc<RunContext>,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Self {
        let (set_done, done) = watch::channel(false);
        let outcome: Outcome<T> = Arc::default();
        let pending = Self {
            outcome: Arc::clone(&outcome),
            done,
        };
        let work_run = Arc::clone(run);
        run.spawn(async move {
            let result = work_run.within_the_run(work).await;
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            // Nobody waiting any more is fine.
            let _ = set_done.send(true);
        });
        pending
    }

    /// Ready when [`Pending::take`] would not wait.
    pub(super) fn waitable(&self) -> Waitable {
        Waitable::Flag(self.done.clone())
    }

    /// Waits for the result and takes it; the second time fails with `code`.
    pub(super) async fn take(mut self, code: &'static str, message: &str) -> Result<T, Failure> {
        // An error means that the work ended without an answer, which the next line finds out.
        let _ = self.done.wait_for(|done| *done).await;
        self.outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_else(|| Err(Failure::new(Kind::Conflict, Class::Plugin, code, message)))
    }
}
