//! What the run owes the cluster: everything that must be deleted before the step ends.
//!
//! A name is entered, durably, before the request that may create the thing. No VM exists outside the ledger.

use std::collections::BTreeSet;
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
#[derive(Clone, Debug)]
pub struct Debt {
    /// What it is.
    pub thing: Thing,
    /// The name the host chose.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// VMs known to exist under the name, by Orka's id, or by the name where there is none.
    pub instances: BTreeSet<String>,
    /// Deployments allowed and not yet answered.
    pending: u32,
    /// Deploy requests whose end will never be known: each may still make a VM.
    lost: u32,
    /// Whether the request that makes the VM config has no answer: it may still make it.
    config_lost: bool,
}

impl Debt {
    /// Requests that may still make something.
    pub fn in_doubt(&self) -> u32 {
        self.pending + self.lost + u32::from(self.config_lost)
    }

    /// Whether the request that makes the VM config may still do so.
    pub fn config_in_doubt(&self) -> bool {
        self.config_lost
    }

    /// Whether nothing is left of it and nothing can come.
    pub fn is_settled(&self) -> bool {
        self.state == State::Released && self.in_doubt() == 0
    }

    /// Whether all that is left of it is doubt.
    pub fn is_only_doubt(&self) -> bool {
        self.state == State::Released && self.in_doubt() > 0
    }

    fn vms(&self) -> u32 {
        u32::try_from(self.instances.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.pending + self.lost)
    }
}

/// How many VMs a run may have.
#[derive(Clone, Copy, Debug)]
pub struct VmLimits {
    /// At the same time.
    pub at_once: u32,
    /// In all.
    pub total: u32,
}

/// Which of the limits a deployment would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// VMs at the same time.
    AtOnce,
    /// VMs in all.
    Total,
}

/// How a deploy request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeployEnd<'a> {
    /// There is a VM, by this key.
    Made(&'a str),
    /// There certainly is none.
    Refused,
    /// No answer will come: there may be one, now or later.
    Lost,
}

/// One line of the ledger's file.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    name: &'a str,
    thing: Thing,
    state: State,
}

#[derive(Debug, Default)]
struct Entries {
    debts: Vec<Debt>,
    /// Deployments allowed that have no name yet.
    unnamed: u32,
    /// Deployments allowed in all.
    deployed: u32,
}

/// The ledger of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
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
            entries: Mutex::default(),
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
        self.entries().debts.push(Debt {
            thing,
            name: name.to_owned(),
            state: State::Intent,
            instances: BTreeSet::new(),
            pending: 0,
            lost: 0,
            config_lost: false,
        });
        Ok(())
    }

    /// Allows one more deployment, counting all that exist or may come to exist.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn allow_deployment(&self, limits: VmLimits) -> Result<(), LimitReached> {
        let mut entries = self.entries();
        let live = entries
            .debts
            .iter()
            .map(Debt::vms)
            .fold(entries.unnamed, u32::saturating_add);
        if live >= limits.at_once {
            return Err(LimitReached::AtOnce);
        }
        if entries.deployed >= limits.total {
            return Err(LimitReached::Total);
        }
        entries.unnamed += 1;
        entries.deployed += 1;
        Ok(())
    }

    /// Gives an allowed deployment back that will not be made.
    pub fn forgo_deployment(&self) {
        let mut entries = self.entries();
        entries.unnamed = entries.unnamed.saturating_sub(1);
    }

    /// Puts an allowed deployment under a name: from here on, until it is answered, a VM may come to exist.
    pub fn deploy_begins(&self, name: &str) {
        let mut entries = self.entries();
        entries.unnamed = entries.unnamed.saturating_sub(1);
        if let Some(debt) = entries.debts.iter_mut().find(|debt| debt.name == name) {
            debt.pending += 1;
        }
    }

    /// Notes how a deployment ended.
    pub fn deploy_ends(&self, name: &str, end: DeployEnd<'_>) {
        self.change(name, |debt| {
            debt.pending = debt.pending.saturating_sub(1);
            match end {
                DeployEnd::Made(key) => {
                    debt.instances.insert(key.to_owned());
                    debt.state = State::Created;
                }
                DeployEnd::Lost => debt.lost += 1,
                // A name that only ever stood for this VM stands for nothing now.
                DeployEnd::Refused if debt.thing == Thing::Vm && debt.vms() == 0 => {
                    debt.state = State::Released
                }
                DeployEnd::Refused => {}
            }
        });
        self.note(name);
    }

    /// Notes that nobody waits for answers any more: deployments that had none will never have one.
    pub fn abandon(&self) {
        for debt in &mut self.entries().debts {
            debt.lost += std::mem::take(&mut debt.pending);
        }
    }

    /// Notes that no request in doubt can make anything under this name any more.
    pub fn doubt_is_settled(&self, name: &str) {
        self.change(name, |debt| {
            debt.lost = 0;
            debt.config_lost = false;
        });
    }

    /// Notes that one VM under a name is gone.
    pub fn vm_gone(&self, name: &str, key: &str) {
        self.change(name, |debt| {
            debt.instances.remove(key);
        });
    }

    /// Notes that the request that makes a VM config is about to be sent: until it is answered, it may come to exist.
    pub fn create_begins(&self, name: &str) {
        self.change(name, |debt| debt.config_lost = true);
    }

    /// Notes that the request that makes a VM config was answered.
    pub fn create_ends(&self, name: &str) {
        self.change(name, |debt| debt.config_lost = false);
    }

    /// Notes what turned up under a name that nobody answered for: each VM accounts for one request in doubt.
    pub fn accounted_for(&self, name: &str, vms: u32, config: bool) {
        self.change(name, |debt| {
            debt.lost = debt.lost.saturating_sub(vms);
            debt.config_lost &= !(config || vms > 0);
        });
    }

    /// Notes that the thing exists.
    pub fn created(&self, name: &str) {
        self.change(name, |debt| debt.state = State::Created);
        self.note(name);
    }

    /// Notes that everything that was under the name is gone. Requests in doubt stay in doubt.
    pub fn released(&self, name: &str) {
        self.change(name, |debt| {
            debt.state = State::Released;
            debt.instances.clear();
        });
        self.note(name);
    }

    /// What is still owed or in doubt, newest first.
    pub fn owed(&self) -> Vec<Debt> {
        self.entries()
            .debts
            .iter()
            .rev()
            .filter(|debt| !debt.is_settled())
            .cloned()
            .collect()
    }

    /// One entry.
    pub fn debt(&self, name: &str) -> Option<Debt> {
        self.entries()
            .debts
            .iter()
            .find(|debt| debt.name == name)
            .cloned()
    }

    /// Deployments allowed in all.
    pub fn deployed(&self) -> u32 {
        self.entries().deployed
    }

    /// Whether anything was ever entered.
    pub fn is_untouched(&self) -> bool {
        self.entries().debts.is_empty()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Debt)) {
        if let Some(debt) = self
            .entries()
            .debts
            .iter_mut()
            .find(|debt| debt.name == name)
        {
            change(debt);
        }
    }

    /// Writes the present state. A failure only costs a later look-up, so it does not stop the run.
    fn note(&self, name: &str) {
        if let Some(debt) = self.debt(name)
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
        file.write_all(&bytes).map_err(trouble)?;
        // Only what must survive a sudden end is worth waiting for: the names that may exist.
        if state == State::Intent {
            file.sync_data().map_err(trouble)
        } else {
            Ok(())
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: VmLimits = VmLimits {
        at_once: 2,
        total: 3,
    };

    fn names(ledger: &Ledger) -> Vec<String> {
        ledger.owed().into_iter().map(|debt| debt.name).collect()
    }

    #[test]
    fn what_was_owed_is_owed_until_released_newest_first() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.owe(Thing::Vm, "b").unwrap();
        ledger.created("b");
        assert_eq!(names(&ledger), ["b", "a"]);
        ledger.released("b");
        assert_eq!(names(&ledger), ["a"]);
    }

    #[test]
    fn a_request_without_an_answer_outlives_a_release() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.deploy_begins("a");
        ledger.released("a");
        assert_eq!(names(&ledger), ["a"], "in flight");
        ledger.deploy_ends("a", DeployEnd::Lost);
        ledger.released("a");
        assert_eq!(names(&ledger), ["a"], "lost");
        ledger.accounted_for("a", 1, false);
        assert!(names(&ledger).is_empty());
    }

    #[test]
    fn a_deployment_that_nobody_waits_for_is_accounted_for_by_its_vm() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.deploy_begins("a");
        ledger.abandon();
        ledger.released("a");
        ledger.accounted_for("a", 1, false);
        assert!(names(&ledger).is_empty());
    }

    #[test]
    fn a_vm_that_comes_after_a_release_is_owed_again() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.deploy_begins("a");
        ledger.released("a");
        ledger.deploy_ends("a", DeployEnd::Made("id"));
        assert_eq!(names(&ledger), ["a"]);
    }

    #[test]
    fn a_refused_vm_is_not_owed_but_a_config_stays() {
        let ledger = Ledger::in_memory();
        for (thing, name) in [(Thing::Vm, "vm"), (Thing::VmConfig, "config")] {
            ledger.owe(thing, name).unwrap();
            ledger.allow_deployment(LIMITS).unwrap();
            ledger.deploy_begins(name);
            ledger.deploy_ends(name, DeployEnd::Refused);
        }
        assert_eq!(names(&ledger), ["config"]);
    }

    #[test]
    fn limits_count_what_exists_and_what_may_and_each_vm_once() {
        let ledger = Ledger::in_memory();
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        assert_eq!(
            ledger.allow_deployment(LIMITS),
            Err(LimitReached::AtOnce),
            "allowed ones count"
        );
        ledger.deploy_begins("a");
        ledger.deploy_ends("a", DeployEnd::Made("one"));
        ledger.deploy_begins("a");
        ledger.deploy_ends("a", DeployEnd::Made("two"));
        assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::AtOnce));
        ledger.vm_gone("a", "one");
        ledger.vm_gone("a", "one");
        ledger.allow_deployment(LIMITS).unwrap();
        assert_eq!(
            ledger.allow_deployment(LIMITS),
            Err(LimitReached::AtOnce),
            "deleting one twice makes no more room"
        );
        ledger.forgo_deployment();
        assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::Total));
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
