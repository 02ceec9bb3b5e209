//! How a run is told to end: by a signal or by its own deadline, and what still happens then.
//!
//! In this order, whatever the plugin does: programs in VMs are asked to stop ([`Programs`]); the guest is told, and gets
//! a short grace to say why and to fetch evidence; then it is dropped, and [`crate::teardown`] deletes. The grace has an
//! end that no call of the guest can move, so no deletion is ever later than that.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::Control;
use crate::outcome::StopSignal;

/// A guest told to stop by its imports gets so long to say why before it is dropped. After a signal this is also all the
/// time there is for evidence: a healthy cluster is to have confirmed the last deletion within 5 s of the signal.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// After the run's own deadline nobody kills us soon, so evidence on its way may take so long, counted from the deadline.
/// Without any on its way [`STOP_GRACE`] applies.
pub const EVIDENCE_GRACE: Duration = Duration::from_secs(15);

/// What a guest gets to hand back its answer once its evidence is there.
pub const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Programs in VMs get so long between SIGTERM and the loss of their connection. A part of [`STOP_GRACE`].
pub const POLITE_STOP: Duration = Duration::from_secs(1);

/// Tells everything that waits that the run is being stopped.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    again: CancellationToken,
    signal: Arc<OnceLock<(StopSignal, Instant)>>,
}

impl Stop {
    /// Stops the run. The first signal is the one that is reported; another one means to hurry.
    pub fn stop(&self, signal: StopSignal) {
        self.stop_since(signal, Instant::now());
    }

    /// As [`Stop::stop`], for a signal that came a while ago.
    pub fn stop_since(&self, signal: StopSignal, at: Instant) {
        if self.signal.set((signal, at)).is_err() {
            self.again.cancel();
        }
        self.token.cancel();
    }

    /// Waits until somebody who has stopped the run already stops it again.
    pub async fn hurried(&self) {
        self.again.cancelled().await;
    }

    /// Whether somebody who had stopped the run already has stopped it again.
    pub fn is_hurried(&self) -> bool {
        self.again.is_cancelled()
    }

    /// Which signal stopped the run, if one did.
    pub fn signal(&self) -> Option<StopSignal> {
        self.signal.get().map(|(signal, _)| *signal)
    }

    /// Whether the run is being stopped.
    pub fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// When the first signal came, if one did.
    pub fn stopped_at(&self) -> Option<Instant> {
        self.signal.get().map(|(_, at)| *at)
    }

    /// Waits until the run is stopped.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// Returns `after` the first signal, or at once after a second one.
    async fn stopped_for(&self, after: Duration) {
        self.stopped().await;
        let end = self.stopped_at().unwrap_or_else(Instant::now) + after;
        tokio::select! {
            () = sleep_until(end) => {}
            () = self.hurried() => {}
        }
    }
}

/// The guest's last grace, once its run is over.
#[derive(Debug)]
pub struct Grace {
    /// Calls under way that fetch evidence.
    fetching: watch::Sender<u32>,
}

impl Default for Grace {
    fn default() -> Self {
        Self {
            fetching: watch::Sender::new(0),
        }
    }
}

impl Grace {
    /// Notes that evidence is on its way until what is returned is dropped.
    pub fn fetch(&self) -> Fetching<'_> {
        self.fetching.send_modify(|calls| *calls += 1);
        Fetching(self)
    }

    /// Returns when evidence that is on its way is given up.
    pub async fn evidence_ends(&self, stop: &Stop, deadline: Instant) {
        tokio::select! {
            () = stop.stopped_for(STOP_GRACE) => {}
            () = sleep_until(deadline + EVIDENCE_GRACE) => {}
        }
    }

    /// Returns when the guest is dropped.
    pub async fn ends(&self, stop: &Stop, deadline: Instant) {
        tokio::select! {
            () = stop.stopped_for(STOP_GRACE) => {}
            () = self.ends_after(deadline) => {}
        }
    }

    async fn ends_after(&self, deadline: Instant) {
        sleep_until(deadline + STOP_GRACE).await;
        let mut fetching = self.fetching.subscribe();
        while *fetching.borrow() > 0 {
            let fetched = fetching.wait_for(|calls| *calls == 0);
            // An error cannot be, since the sender is here; the time may be over, and then it is over.
            if !matches!(
                timeout_at(deadline + EVIDENCE_GRACE, fetched).await,
                Ok(Ok(_))
            ) {
                return;
            }
            let answer = (Instant::now() + ANSWER_GRACE).min(deadline + EVIDENCE_GRACE);
            sleep_until(answer).await;
        }
    }
}

/// Evidence on its way.
pub struct Fetching<'a>(&'a Grace);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0
            .fetching
            .send_modify(|calls| *calls = calls.saturating_sub(1));
    }
}

/// A program that runs in a VM.
struct Program {
    control: Weak<dyn Control>,
    ended: watch::Receiver<bool>,
    was_asked: bool,
}

impl Program {
    fn is_running(&self) -> bool {
        !*self.ended.borrow() && self.ended.has_changed().is_ok()
    }
}

/// The programs that a run has started in its VMs.
#[derive(Default)]
pub struct Programs(Mutex<Vec<Program>>);

impl Programs {
    /// Notes one that was just started; `ended` says when it has ended.
    pub fn add(&self, control: &Arc<dyn Control>, ended: watch::Receiver<bool>) {
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs.retain(Program::is_running);
        programs.push(Program {
            control: Arc::downgrade(control),
            ended,
            was_asked: false,
        });
    }

    /// Sends SIGTERM to those that run and were not asked before, and waits until all have ended, `until` at the latest.
    /// Their output is taken meanwhile.
    pub async fn stop(&self, until: Instant) {
        let (controls, ends): (Vec<_>, Vec<_>) = {
            let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            programs.retain(Program::is_running);
            let asked = |program: &mut Program| {
                let first = !std::mem::replace(&mut program.was_asked, true);
                let control = program.control.upgrade().filter(|_| first);
                (control, program.ended.clone())
            };
            programs.iter_mut().map(asked).unzip()
        };
        let ask = controls.into_iter().flatten().map(|control| async move {
            if let Err(failure) = control.signal("TERM").await {
                tracing::debug!(error = %failure, "a program in a VM could not be asked to stop");
            }
        });
        let end = ends.into_iter().map(|mut ended| async move {
            // An error means that nobody watches the program any more: there is nothing to wait for.
            let _ = ended.wait_for(|ended| *ended).await;
        });
        // Out of time is an answer: the connection is closed under what still runs.
        let _ = timeout_at(until, async {
            tokio::join!(join_all(ask), join_all(end));
        })
        .await;
    }
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Programs")
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::failure::Failure;

    const DEADLINE: Duration = Duration::from_secs(100);

    /// When the guest is dropped, in milliseconds after the start, while evidence is on its way for `fetch`.
    async fn dropped_after(stop: &Stop, fetch: Option<Duration>) -> u128 {
        let started = Instant::now();
        let grace = Grace::default();
        let fetching = async {
            if let Some(fetch) = fetch {
                let _evidence = grace.fetch();
                tokio::time::sleep(fetch).await;
            }
        };
        let ends = async {
            grace.ends(stop, started + DEADLINE).await;
            started.elapsed().as_millis()
        };
        tokio::select! {
            biased;
            after = ends => after,
            () = async { fetching.await; std::future::pending::<()>().await } => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_deadline_evidence_on_its_way_is_waited_for_and_no_longer() {
        let stop = Stop::default();
        assert_eq!(dropped_after(&stop, None).await, 102_000);
        let short = Some(Duration::from_secs(50));
        assert_eq!(dropped_after(&stop, short).await, 102_000);
        let longer = Some(Duration::from_secs(105));
        assert_eq!(dropped_after(&stop, longer).await, 105_500);
        let endless = Some(Duration::from_secs(1000));
        assert_eq!(dropped_after(&stop, endless).await, 115_000);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_signal_evidence_gets_no_more_time_than_anything_else() {
        let stop = Stop::default();
        stop.stop(StopSignal::Terminate);
        let endless = Some(Duration::from_secs(1000));
        assert_eq!(dropped_after(&stop, endless).await, 2_000);
        stop.stop(StopSignal::Terminate);
        assert_eq!(dropped_after(&stop, endless).await, 0, "hurried");
    }

    /// Ends `after` it was told to; counts how often it was.
    struct Told {
        asked: Mutex<u32>,
        after: Duration,
        ended: watch::Sender<bool>,
    }

    #[async_trait]
    impl Control for Told {
        async fn signal(&self, name: &str) -> Result<(), Failure> {
            assert_eq!(name, "TERM");
            *self.asked.lock().unwrap() += 1;
            tokio::time::sleep(self.after).await;
            self.ended.send_replace(true);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn programs_are_asked_once_all_at_the_same_time_and_not_waited_for_without_end() {
        let programs = Programs::default();
        let told = |after: u64| {
            Arc::new(Told {
                asked: Mutex::default(),
                after: Duration::from_millis(after),
                ended: watch::Sender::new(false),
            })
        };
        let (quick, slow, over) = (told(100), told(1_000_000), told(0));
        for program in [&quick, &slow, &over] {
            let control: Arc<dyn Control> = program.clone();
            programs.add(&control, program.ended.subscribe());
        }
        over.ended.send_replace(true);
        let started = Instant::now();
        programs.stop(started + Duration::from_secs(1)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        programs.stop(started + Duration::from_secs(2)).await;
        let asked = [&quick, &slow, &over].map(|program| *program.asked.lock().unwrap());
        assert_eq!(asked, [1, 1, 0]);
    }
}
