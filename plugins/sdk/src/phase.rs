//! Phases: what the log and the report call the parts of a run.

use crate::console::{Ending, Group};

/// Does `work` as a phase: the log shows its title, its time and whether it failed.
///
/// # Errors
///
/// Whatever `work` returns.
pub fn phase<T, E>(title: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    phase_with(title, |_| Ending::Done, work)
}

/// As [`phase`], where a result that is no error may still be a failed phase: `ending` says so.
///
/// # Errors
///
/// Whatever `work` returns.
pub fn phase_with<T, E>(
    title: &str,
    ending: impl FnOnce(&T) -> Ending,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let group = Group::new(title);
    let result = work();
    group.finish(match &result {
        Ok(value) => ending(value),
        Err(_) => Ending::Failed,
    });
    result
}

/// Notes a phase that had nothing to do.
pub fn skipped(title: &str) {
    Group::new(title).finish(Ending::Skipped);
}
