//! What the run owes the cluster: everything that must be deleted before the step ends.
//!
//! A name is entered, durably, before the request that may create the thing. No VM exists outside the ledger.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use cap_std::fs::{Dir, File, OpenOptions};
use serde::Serialize;

use crate::failure::Failure;

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// A VM config, and every VM deployed from it (2.x).
    VmConfig,
    /// A VM (3.x).
    Vm,
}

/// How far an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A request that may create it is about to be sent, or was sent without a clear answer.
    Intent,
    /// It exists.
    Created,
    /// It is gone.
    Released,
}

/// One entry.
#[derive(Clone, Debug, Serialize)]
pub struct Debt {
    /// What it is.
    pub thing: Thing,
    /// The name the host chose.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// VMs deployed under the name that were not deleted since; attempts with no clear answer count.
    pub vms: u32,
    /// Whether a deploy request was sent whose end is not known: a VM may still come to exist.
    pub in_doubt: bool,
}

/// One line of the ledger's file.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    name: &'a str,
    thing: Thing,
    state: State,
}

/// The ledger of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    debts: Mutex<Vec<Debt>>,
    file: Option<Mutex<File>>,
}

impl Ledger {
    /// A ledger in memory alone, for a run without a workspace.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A ledger that is also written to `ledger-<pod hash>.jsonl` in the host's folder.
    ///
    /// # Errors
    ///
    /// A file that cannot be made.
    pub fn in_directory(directory: &Dir, pod_hash: &str) -> Result<Self, Failure> {
        let name = format!("ledger-{pod_hash}.jsonl");
        let file = directory
            .open_with(&name, OpenOptions::new().create(true).append(true))
            .map_err(|error| {
                Failure::files("files.ledger", "cannot make the ledger in the workspace")
                    .with_source(error)
            })?;
        Ok(Self {
            debts: Mutex::default(),
            file: Some(Mutex::new(file)),
        })
    }

    /// Enters a name before the request that may create the thing.
    ///
    /// # Errors
    ///
    /// The entry cannot be written; the request must not be sent then.
    pub fn owe(&self, thing: Thing, name: &str) -> Result<(), Failure> {
        self.write(name, thing, State::Intent)?;
        self.debts().push(Debt {
            thing,
            name: name.to_owned(),
            state: State::Intent,
            vms: 0,
            in_doubt: false,
        });
        Ok(())
    }

    /// Notes that a VM may come to exist under a name.
    pub fn vm_expected(&self, name: &str) {
        self.change(name, |debt| debt.vms += 1);
    }

    /// Notes that a deploy request is about to be sent: until it is answered, a VM may come to exist at any time.
    pub fn deploy_sent(&self, name: &str) {
        self.change(name, |debt| debt.in_doubt = true);
    }

    /// Notes that the deploy request was answered, one way or the other.
    pub fn deploy_answered(&self, name: &str) {
        self.change(name, |debt| debt.in_doubt = false);
    }

    /// Notes that a VM under a name does not exist, or not any more.
    pub fn vm_gone(&self, name: &str) {
        self.change(name, |debt| debt.vms = debt.vms.saturating_sub(1));
    }

    /// Notes that the thing exists.
    pub fn created(&self, name: &str) {
        self.change(name, |debt| debt.state = State::Created);
        self.note(name);
    }

    /// Notes that everything under the name is gone.
    pub fn released(&self, name: &str) {
        self.change(name, |debt| {
            debt.state = State::Released;
            debt.vms = 0;
            debt.in_doubt = false;
        });
        self.note(name);
    }

    /// What is still owed, newest first.
    pub fn owed(&self) -> Vec<Debt> {
        self.debts()
            .iter()
            .rev()
            .filter(|debt| debt.state != State::Released)
            .cloned()
            .collect()
    }

    /// VMs that exist or may exist.
    pub fn vms(&self) -> u32 {
        self.debts().iter().map(|debt| debt.vms).sum()
    }

    /// Whether anything was ever entered.
    pub fn is_untouched(&self) -> bool {
        self.debts().is_empty()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Debt)) {
        if let Some(debt) = self.debts().iter_mut().find(|debt| debt.name == name) {
            change(debt);
        }
    }

    /// Writes the present state. A failure only costs a later look-up, so it does not stop the run.
    fn note(&self, name: &str) {
        let found = self.debts().iter().find(|debt| debt.name == name).cloned();
        if let Some(debt) = found
            && let Err(failure) = self.write(name, debt.thing, debt.state)
        {
            tracing::warn!(error = %failure, "the ledger in the workspace is behind");
        }
    }

    fn write(&self, name: &str, thing: Thing, state: State) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let trouble = |error: std::io::Error| {
            Failure::files("files.ledger", "cannot write the ledger in the workspace")
                .with_source(error)
        };
        let line = Line {
            at: jiff::Timestamp::now().to_string(),
            name,
            thing,
            state,
        };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| trouble(error.into()))?;
        bytes.push(b'\n');
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .map_err(trouble)
    }

    fn debts(&self) -> std::sync::MutexGuard<'_, Vec<Debt>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_owed_is_owed_until_released_newest_first() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.owe(Thing::Vm, "b").unwrap();
        ledger.created("b");
        let names = |ledger: &Ledger| {
            ledger
                .owed()
                .into_iter()
                .map(|debt| debt.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&ledger), ["b", "a"]);
        ledger.released("b");
        assert_eq!(names(&ledger), ["a"]);
    }

    #[test]
    fn an_entry_is_on_disk_before_the_request() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        let ledger = Ledger::in_directory(&dir, "pod").unwrap();
        ledger.owe(Thing::VmConfig, "tekton-1").unwrap();
        let text = std::fs::read_to_string(directory.path().join("ledger-pod.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (line["name"].as_str(), line["state"].as_str()),
            (Some("tekton-1"), Some("intent"))
        );
    }
}
