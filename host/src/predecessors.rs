//! What earlier pods of the same TaskRun left behind, and who must not be touched.
//!
//! Parallel Tasks of one pipeline run share its hash and mostly its workspace, and are alive. So a ledger is taken over
//! only where its process has provably ended:
//!
//! - the same pod: its steps run one after the other, and the ledger's lock, now held, says so;
//! - another pod of the same TaskRun: Tekton starts the next one only when the one before is done for. A lock that is
//!   held after all (a pod that is still being ended, on the same node) is a veto.
//!
//! Everything else is left alone; `reap` and the Task that purges the run find it by its name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cap_std::fs::{Dir, OpenOptions};
use jiff::Timestamp;
use tokio::time::sleep;

use crate::console::Console;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::ledger::{BlackBox, DOUBT_LASTS, Entry, Ledger, Record, record};
use crate::state::RunContext;
use crate::teardown;

/// Pause between looks for what may still come of a predecessor's request.
const DOUBT_PAUSE: Duration = Duration::from_secs(10);

/// How long one removal may take; what is left is tried again when the run ends.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the run's ledger and enters what predecessors left into it, before anything else is.
///
/// # Errors
///
/// A ledger that cannot be made or written. Predecessors' that cannot be read are told and left alone.
pub fn open_ledger(
    folder: &Dir,
    identity: &Identity,
    black_box: Option<&Arc<BlackBox>>,
    console: &Console,
) -> Result<Ledger, Failure> {
    let (mut ledger, own) = Ledger::open(folder, identity.head())?;
    if let Some(black_box) = black_box {
        ledger = ledger.mirrored(Arc::clone(black_box), &identity.head());
    }
    for entry in &own.entries {
        identity.skip(&entry.name);
    }
    inherit(&ledger, &own, "an earlier process of this pod", console)?;
    let own_file = record::file_name(identity.pod_hash());
    let others = match record::read_folder(folder) {
        Ok(others) => others,
        Err(error) => {
            console.warn(&format!(
                "what earlier pods of this run left cannot be read: {error}"
            ));
            return Ok(ledger);
        }
    };
    for (file, other) in others {
        let other = match other {
            Ok(other) => other,
            Err(error) => {
                tracing::warn!(ledger = %file.display(), %error, "a ledger in the workspace cannot be read");
                continue;
            }
        };
        if file == Path::new(&own_file) || open_entries(&other).next().is_none() {
            continue;
        }
        match why_left_alone(folder, &file, &other, identity) {
            None => {
                inherit(&ledger, &other, "an earlier pod of this TaskRun", console)?;
                pass_on(folder, &file, &other);
            }
            Some(Why::Ordinary) => {}
            Some(Why::Told(why)) => {
                let first = open_entries(&other).next();
                let name = first.map_or("", |entry| &entry.name);
                console.info(&format!(
                    "left alone what another pod of this run made, such as `{name}`: {why}"
                ));
            }
        }
    }
    Ok(ledger)
}

/// What its writer still had to remove.
fn open_entries(record: &Record) -> impl Iterator<Item = &Entry> {
    record.entries.iter().filter(|entry| entry.is_open())
}

enum Why {
    /// Another Task of the run, mostly at work: nothing to speak of.
    Ordinary,
    /// This is worth a sentence.
    Told(&'static str),
}

/// Why a ledger is not taken over; none if its writer has provably ended.
fn why_left_alone(folder: &Dir, file: &Path, other: &Record, identity: &Identity) -> Option<Why> {
    match (identity.task_hash(), other.task()) {
        (Some(own), Some(task)) if own == task => {}
        (Some(_), Some(_)) => return Some(Why::Ordinary),
        _ => {
            return Some(Why::Told(
                "nothing proves that it has ended (`--task-uid` would tell pods of one TaskRun)",
            ));
        }
    }
    if other
        .heads
        .iter()
        .any(|head| head.run != identity.run_hash())
        || other.unreadable > 0
    {
        return Some(Why::Told(
            "its ledger holds what this program does not understand",
        ));
    }
    Ledger::is_held(folder, file).then_some(Why::Told("it is still being ended"))
}

fn inherit(
    ledger: &Ledger,
    record: &Record,
    whose: &str,
    console: &Console,
) -> Result<(), Failure> {
    for entry in open_entries(record) {
        ledger.inherit(entry, may_still_come(entry))?;
        console.info(&format!(
            "`{}` was left by {whose}; it will be deleted",
            entry.name
        ));
    }
    Ok(())
}

/// Whether something may still come of a request that the predecessor got no answer to.
fn may_still_come(entry: &Entry) -> bool {
    let since = entry
        .entered_at
        .map(|at| Timestamp::now().duration_since(at));
    since.is_none_or(|since| since.as_secs() < DOUBT_LASTS.as_secs().cast_signed())
}

/// Writes into a predecessor's ledger that what it left is somebody else's to remove. If that fails the next one looks
/// for things that are gone, which harms nobody.
fn pass_on(folder: &Dir, file: &Path, record: &Record) {
    let append = || -> std::io::Result<()> {
        let mut file = folder.open_with(file, OpenOptions::new().append(true))?;
        record::append_handed_over(&mut file, &record.heads, open_entries(record))
    };
    if let Err(error) = append() {
        tracing::debug!(ledger = %file.display(), %error, "a predecessor's ledger cannot be settled");
    }
}

/// Deletes what predecessors left, beside the run's own work, as soon as it is signed in.
pub fn remove_inherited(run: &Arc<RunContext>) {
    for debt in run.ledger.owed() {
        if !debt.inherited {
            continue;
        }
        let work = run.clone();
        run.spawn(async move { remove(&work, &debt.name).await });
    }
}

/// Goes on looking, beside the run's own work, for what may still come of a name that the policy has purged.
pub fn watch(run: &Arc<RunContext>, name: String) {
    let work = run.clone();
    run.spawn(async move {
        while work.ledger.debt(&name).is_some_and(|debt| !debt.is_settled()) {
            sleep(DOUBT_PAUSE).await;
            let deadline = work.deadline_within(REMOVAL_TIMEOUT);
            let looked =
                teardown::remove_accounted(work.cluster.as_ref(), &work.ledger, &name, deadline);
            if let Err(failure) = looked.await {
                tracing::debug!(vm = name, error = %failure, "looking for what may still come of it");
            }
        }
    });
}

async fn remove(run: &RunContext, name: &str) {
    let give_up = tokio::time::Instant::now() + DOUBT_LASTS;
    let mut told = false;
    loop {
        let deadline = run.deadline_within(REMOVAL_TIMEOUT);
        match teardown::remove_accounted(run.cluster.as_ref(), &run.ledger, name, deadline).await {
            Ok(()) if teardown::tell_left(run, name) => return,
            Ok(()) if !std::mem::replace(&mut told, true) => {
                run.console
                    .info(&format!("purged `{name}`, left by a predecessor"));
            }
            Ok(()) => {}
            // Tried again when the run ends.
            Err(failure) => {
                tracing::debug!(vm = name, error = %failure, "what a predecessor left is still there");
                return;
            }
        }
        if run.ledger.debt(name).is_none_or(|debt| debt.is_settled()) {
            return;
        }
        if tokio::time::Instant::now() >= give_up {
            run.ledger.doubt_is_settled(name);
            return;
        }
        sleep(DOUBT_PAUSE).await;
    }
}
