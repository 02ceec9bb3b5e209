//! Deletes what a plan says: by name, several at once, each confirmed by a read.
//!
//! Safe beside another reaper and beside the run's own clean-up: what is gone already is done. One name that cannot be
//! deleted holds up no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use crate::backend::{Cluster, Remains, Removal};
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::state::Stop;
use crate::teardown;

/// Pause before a failed deletion is tried again; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How long deletions that are under way may go on after a signal. Kubernetes kills after 30 s; signing out and the
/// summary need the rest.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What came of one name.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Deleted, and the cluster lists nothing of it any more.
    Deleted,
    /// There was nothing of it: somebody else deleted it.
    AlreadyGone,
    /// Left: a VM was deployed from it meanwhile.
    InUse,
    /// It may still exist.
    Remains(Failure),
}

/// How deletions are made.
pub struct Execution<'a> {
    /// Where.
    pub cluster: &'a dyn Cluster,
    /// Told of every name as it goes.
    pub console: &'a Console,
    /// Ends the work early.
    pub stop: &'a Stop,
    /// No attempt begins later.
    pub deadline: Instant,
    /// Names worked on at the same time, at least one.
    pub parallel: usize,
    /// Names under which a VM config alone was listed, and which are left where there is a VM by now: on Orka 2 it would go
    /// with the config.
    pub unless_in_use: BTreeSet<String>,
}

/// What an attempt found.
enum Found {
    /// This, and what is left of it.
    Removed(Removal, Remains),
    /// A VM where none must be. Nothing was asked to be deleted.
    InUse,
}

struct Job {
    name: String,
    attempts: u32,
    not_before: Instant,
    last: Option<Failure>,
}

impl Execution<'_> {
    /// Deletes everything of each name. A failure that may pass is tried again until the deadline, after the others
    /// have had their turn.
    pub async fn delete(&self, names: impl IntoIterator<Item = String>) -> BTreeMap<String, Fate> {
        let now = Instant::now();
        let mut waiting: VecDeque<Job> = names
            .into_iter()
            .map(|name| Job {
                name,
                attempts: 0,
                not_before: now,
                last: None,
            })
            .collect();
        let mut fates = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut under_way: BTreeMap<String, Option<Failure>> = BTreeMap::new();
        loop {
            let ends = self.ends();
            while running.len() < self.parallel.max(1)
                && self.stop.signal().is_none()
                && Instant::now() < ends
                && let Some(job) = ready(&mut waiting)
            {
                under_way.insert(job.name.clone(), job.last.clone());
                running.push(self.attempt(job));
            }
            let may_begin = self.stop.signal().is_none() && !waiting.is_empty();
            if running.is_empty() && !may_begin {
                break;
            }
            let next_ready = waiting.iter().map(|job| job.not_before).min();
            let has_slot = running.len() < self.parallel.max(1);
            tokio::select! {
                Some((job, result)) = running.next() => {
                    under_way.remove(&job.name);
                    if let Some(fate) = self.judge(job, result, &mut waiting) {
                        fates.insert(fate.0, fate.1);
                    }
                }
                () = sleep_until(next_ready.unwrap_or(ends)), if may_begin && has_slot => {}
                () = sleep_until(ends) => break,
                () = self.stop.stopped(), if self.stop.signal().is_none() => {}
                () = self.stop.hurried() => break,
            }
            if Instant::now() >= ends && running.is_empty() {
                break;
            }
        }
        drop(running);
        for (name, last) in under_way {
            fates.insert(name, Fate::Remains(self.cut_short(last)));
        }
        for job in waiting {
            fates.insert(job.name, Fate::Remains(self.cut_short(job.last)));
        }
        fates
    }

    /// The deadline, or soon after a signal.
    fn ends(&self) -> Instant {
        let stopped = self.stop.stopped_at();
        stopped.map_or(self.deadline, |at| self.deadline.min(at + STOP_GRACE))
    }

    async fn attempt(&self, job: Job) -> (Job, Result<Found, Failure>) {
        let result = self.attempt_once(&job.name).await;
        (job, result)
    }

    async fn attempt_once(&self, name: &str) -> Result<Found, Failure> {
        if self.unless_in_use.contains(name) {
            let look = self.cluster.remains(name);
            if teardown::limited(self.deadline, "read", look).await?.vms > 0 {
                return Ok(Found::InUse);
            }
        }
        let (removal, remains) = teardown::remove_once(self.cluster, name, self.deadline).await?;
        Ok(Found::Removed(removal, remains))
    }

    /// What came of an attempt; none if there will be another.
    fn judge(
        &self,
        mut job: Job,
        result: Result<Found, Failure>,
        waiting: &mut VecDeque<Job>,
    ) -> Option<(String, Fate)> {
        let failure = match result {
            Ok(Found::InUse) => {
                self.console.info(&format!(
                    "`{}` was left: a VM was deployed from it meanwhile",
                    job.name
                ));
                return Some((job.name, Fate::InUse));
            }
            Ok(Found::Removed(removal, remains)) if remains.is_nothing() => {
                // The first answer may have been lost and the second one say that there is nothing.
                let fate = if removal == Removal::AlreadyGone && job.attempts == 0 {
                    self.console
                        .info(&format!("`{}` was gone already", job.name));
                    Fate::AlreadyGone
                } else {
                    self.console.info(&format!("deleted `{}`", job.name));
                    Fate::Deleted
                };
                return Some((job.name, fate));
            }
            Ok(Found::Removed(_, remains)) => Failure::new(
                Kind::Unavailable,
                Class::Orka,
                "orka.not-removed",
                format!("Orka accepted the removal, but still lists {remains}"),
            ),
            Err(failure) => failure,
        };
        if is_final(&failure) {
            return Some((job.name, Fate::Remains(failure)));
        }
        let pause = PAUSE_FIRST
            .saturating_mul(1 << job.attempts.min(8))
            .min(PAUSE_MAX)
            .max(failure.retry_after.unwrap_or_default().min(PAUSE_MAX));
        tracing::debug!(vm = job.name, attempts = job.attempts, error = %failure, "deletion is tried again");
        job.attempts += 1;
        job.not_before = Instant::now() + pause;
        job.last = Some(failure);
        waiting.push_back(job);
        None
    }

    fn cut_short(&self, last: Option<Failure>) -> Failure {
        let why = if self.stop.signal().is_some() {
            "a signal ended the clean-up"
        } else {
            "`--timeout` passed"
        };
        match last {
            Some(failure) => failure,
            None => Failure::new(Kind::TimedOut, Class::Deadline, "reap.cut-short", why),
        }
    }
}

/// The first that may be tried now.
fn ready(waiting: &mut VecDeque<Job>) -> Option<Job> {
    let now = Instant::now();
    let at = waiting.iter().position(|job| job.not_before <= now)?;
    waiting.remove(at)
}

/// Whether the same would come of another attempt.
fn is_final(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        Kind::Denied | Kind::Unauthenticated | Kind::Invalid
    )
}

#[cfg(test)]
mod tests;
