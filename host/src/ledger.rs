//! What the run owes the cluster: everything that must be deleted before the step ends.
//!
//! A name is entered, durably, before the request that may create the thing. No VM exists outside the ledger. Its file is
//! what the run's successors know of it: see [`record`] for its form.

pub mod black_box;
pub mod record;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cap_std::fs::{Dir, OpenOptions};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use black_box::{BlackBox, Recovered};
pub use record::{Entry, Head, Kept, Record};
use record::{Step, What};
use writer::{Ticket, Writer};

use crate::failure::Failure;
use crate::host_folder;

/// How long after a request without an answer something may still come of it. Orka 3 itself gives a deployment up after
/// 10 min.
pub const DOUBT_LASTS: Duration = Duration::from_secs(15 * 60);

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// A VM config, and every VM deployed from it (2.x).
    VmConfig,
    /// A VM config that other Tasks of the run find as soon as it exists, handed over or not: VMs of theirs may be under
    /// its name (2.x).
    SharedConfig,
    /// A VM (3.x).
    Vm,
    /// VMs of a VM config that another Task made (2.x): they go one by one, by Orka's ids, and the config stays.
    VmOfConfig,
}

impl Thing {
    /// Whether it is a VM config that this run made.
    pub fn is_config(self) -> bool {
        matches!(self, Self::VmConfig | Self::SharedConfig)
    }
}

/// How far an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A request that may create it is about to be sent, or was sent without a clear answer.
    Intent,
    /// It exists.
    Created,
    /// It is gone.
    Released,
    /// It is left on purpose, for a time.
    Kept,
    /// It is left to other Tasks of the pipeline run.
    HandedOver,
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
    /// Those of them that are kept on purpose.
    pub kept: BTreeMap<String, Kept>,
    /// VMs that were among them and that this run has deleted, or asked Orka to delete.
    gone: BTreeSet<String>,
    /// Whether a predecessor of this run made it, that ended without removing it.
    pub inherited: bool,
    /// Deployments allowed and not yet answered.
    pending: u32,
    /// When deploy requests were given up whose end will never be known: each may still make a VM.
    lost: Vec<Instant>,
    /// Whether the request that makes the VM config has no answer: it may still make it.
    config_lost: bool,
    /// What the file says of it last; none if that is not certain.
    written: Option<State>,
}

impl Debt {
    /// Requests that may still make something.
    pub fn in_doubt(&self) -> u32 {
        self.pending + self.lost() + u32::from(self.config_lost)
    }

    /// Requests without an answer that are not too old to make something.
    fn lost(&self) -> u32 {
        let young = |at: &&Instant| at.elapsed() < DOUBT_LASTS;
        u32::try_from(self.lost.iter().filter(young).count()).unwrap_or(u32::MAX)
    }

    /// Whether the request that makes the VM config may still do so.
    pub fn config_in_doubt(&self) -> bool {
        self.config_lost
    }

    fn new(thing: Thing, name: &str, state: State) -> Self {
        Self {
            thing,
            name: name.to_owned(),
            state,
            instances: BTreeSet::new(),
            kept: BTreeMap::new(),
            gone: BTreeSet::new(),
            inherited: false,
            pending: 0,
            lost: Vec::new(),
            config_lost: false,
            written: Some(State::Intent),
        }
    }

    /// What the file has to say of it: as long as a request may still make something, that and nothing else, since a
    /// successor that reads of anything else looks for nothing.
    fn to_write(&self) -> State {
        match self.state {
            _ if self.in_doubt() > 0 => State::Intent,
            // What is kept was written with all that there is to say about it.
            State::Kept if self.written != Some(State::Kept) => State::Created,
            state => state,
        }
    }

    /// Whether this run has nothing to do about it any more and nothing can come of it: it is gone, or others' to remove.
    pub fn is_settled(&self) -> bool {
        let is_left = match self.state {
            State::Released | State::HandedOver => true,
            State::Kept => self.instances.iter().all(|vm| self.kept.contains_key(vm)),
            State::Intent | State::Created => false,
        };
        is_left && self.in_doubt() == 0
    }

    /// Whether all that is left of it is doubt.
    pub fn is_only_doubt(&self) -> bool {
        self.state == State::Released && self.in_doubt() > 0
    }

    /// Whether others remove it: it was handed over.
    pub fn is_others(&self) -> bool {
        self.state == State::HandedOver
    }

    /// VMs under the name that this run does not have to remove: kept ones.
    pub fn stays(&self, key: &str) -> bool {
        self.kept.contains_key(key)
    }

    fn vms(&self) -> u32 {
        u32::try_from(self.instances.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.pending + self.lost())
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

#[derive(Debug, Default)]
struct Entries {
    debts: Vec<Debt>,
    /// Deployments allowed that have no name yet.
    unnamed: u32,
    /// Deployments allowed in all.
    deployed: u32,
}

impl Entries {
    /// VMs of this run that exist, may exist or are about to.
    fn live(&self) -> u32 {
        let own = self.debts.iter().filter(|debt| !debt.inherited);
        own.map(Debt::vms).fold(self.unnamed, u32::saturating_add)
    }
}

/// What an entry waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// That it is on disk: what may exist, and what others must know of it, has to survive a sudden end.
    OnDisk,
    /// Nothing: it spares a successor a look, and clean-up waits for no volume.
    None,
}

/// The ledger of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
    file: Option<Writer>,
    black_box: Option<Arc<BlackBox>>,
}

impl Ledger {
    /// A ledger in memory alone, for a run without a workspace.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A ledger that is also written to its pod's file in the run's folder, and locked as long as this process lives.
    ///
    /// Also gives what the file said before: what an earlier process of the same pod wrote, which has ended.
    ///
    /// # Errors
    ///
    /// A file that cannot be made, or that a process holds which is at work.
    pub fn open(folder: &Dir, head: Head) -> Result<(Self, Record), Failure> {
        let trouble = |error| {
            Failure::files("files.ledger", "cannot make the ledger in the workspace")
                .with_source(error)
        };
        let name = record::file_name(&head.pod);
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        let mut file = folder
            .open_with(&name, &options)
            .map_err(trouble)?
            .into_std();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::config(format!(
                    "another process of pod `{}` is at work in this workspace",
                    head.pod
                ))
                .with_hint("two runs at once need a `--pod-uid` each, since it is in the names of what they make"));
            }
            // A volume without locks: nothing is known of others, and nothing is assumed.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the workspace has no file locks");
            }
        }
        let mut before = Vec::new();
        file.read_to_end(&mut before).map_err(trouble)?;
        // On a line of its own, whatever the last one is.
        let mut bytes = vec![b'\n'];
        if before.last().is_none_or(|last| *last == b'\n') {
            bytes.clear();
        }
        bytes.extend(record::line(What::Head { head: head.clone() }).map_err(trouble)?);
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .and_then(|()| host_folder::sync(folder))
            .map_err(trouble)?;
        let ledger = Self {
            entries: Mutex::default(),
            file: Some(Writer::start(file, head).map_err(trouble)?),
            black_box: None,
        };
        Ok((ledger, Record::parse(&String::from_utf8_lossy(&before))))
    }

    /// The same, with all that is entered from here on also where a crash of this process does not lose it.
    #[must_use]
    pub fn mirrored(mut self, black_box: Arc<BlackBox>, head: &Head) -> Self {
        black_box.begin(head);
        self.black_box = Some(black_box);
        self
    }

    /// Where a crash of this process does not lose what is entered.
    pub fn black_box(&self) -> Option<&BlackBox> {
        self.black_box.as_deref()
    }

    /// Whether the process that writes the ledger of this name is certainly at work.
    pub fn is_held(folder: &Dir, name: &Path) -> bool {
        let Ok(file) = folder.open(name) else {
            return false;
        };
        // Shared, so that two who look at once do not take each other for its writer. Released with the file.
        matches!(
            file.into_std().try_lock_shared(),
            Err(TryLockError::WouldBlock)
        )
    }

    /// Enters a name before the request that may create the thing.
    ///
    /// # Errors
    ///
    /// The entry cannot be written; the request must not be sent then.
    pub fn owe(&self, thing: Thing, name: &str) -> Result<(), Failure> {
        self.write(step(name, thing, State::Intent))?;
        let mut entries = self.entries();
        match entries.debts.iter_mut().find(|debt| debt.name == name) {
            // One more VM of a VM config that others use, too.
            Some(debt) => {
                debt.written = Some(State::Intent);
                if debt.state == State::HandedOver && thing == Thing::VmOfConfig {
                    // Taken up again after it was handed over: the config itself is others' to remove now.
                    debt.thing = thing;
                }
                if debt.state != State::Kept {
                    debt.state = State::Intent;
                }
            }
            None => entries.debts.push(Debt::new(thing, name, State::Intent)),
        }
        Ok(())
    }

    /// Takes over what a predecessor left. `may_still_come` says whether a request of its without an answer may still
    /// make something.
    ///
    /// # Errors
    ///
    /// The entry cannot be written.
    pub fn inherit(&self, entry: &Entry, may_still_come: bool) -> Result<(), Failure> {
        if self.debt(&entry.name).is_some() {
            return Ok(());
        }
        if let Some(black_box) = &self.black_box {
            black_box.note_inherited(&entry.name);
        }
        let (debt, steps) = taken_over(entry, may_still_come);
        self.write_all(steps, Patience::OnDisk)?;
        self.entries().debts.push(debt);
        Ok(())
    }

    /// Takes over what a process of this very run left that has crashed: it is this run's to remove, and to answer for.
    pub fn claim(&self, recovered: &Recovered) {
        let mut entries = self.entries();
        for entry in &recovered.record.entries {
            if entry.is_open() || !entry.kept.is_empty() {
                // It was at work a moment ago.
                let (mut debt, _) = taken_over(entry, true);
                debt.inherited = recovered.inherited.contains(&entry.name);
                entries.debts.push(debt);
            }
        }
    }

    /// Notes in the file that a process has left which of its names are gone, so that no successor looks for them.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn note_removed(folder: &Dir, head: &Head, names: &[String]) -> io::Result<()> {
        let name = record::file_name(&head.pod);
        let mut options = OpenOptions::new();
        let mut file = folder.open_with(name, options.append(true))?;
        record::append_released(&mut file, head, names)
    }

    /// Notes that a VM is kept on purpose.
    ///
    /// # Errors
    ///
    /// The entry cannot be written: nobody would know of it, so it must not be kept.
    pub fn keep(&self, name: &str, key: &str, kept: &Kept) -> Result<(), Failure> {
        let Some(debt) = self.debt(name) else {
            return Err(Failure::internal(format!("`{name}` is not in the ledger")));
        };
        self.write(Step {
            instance: Some(key.to_owned()),
            kept: Some(kept.clone()),
            ..step(name, debt.thing, State::Kept)
        })?;
        self.change(name, |debt| {
            debt.instances.insert(key.to_owned());
            debt.kept.insert(key.to_owned(), kept.clone());
            debt.state = State::Kept;
            debt.written = Some(State::Kept);
        });
        // A deployment from the same VM config may be under way.
        self.note(name);
        Ok(())
    }

    /// Notes that another Task of the pipeline run removes one VM. Where the name stands for more that is this run's, all
    /// of it goes with the VM.
    ///
    /// # Errors
    ///
    /// The entry cannot be written.
    pub fn hand_over_vm(&self, name: &str, key: &str) -> Result<(), Failure> {
        let Some(debt) = self
            .debt(name)
            .filter(|debt| debt.thing == Thing::VmOfConfig)
        else {
            return self.hand_over(name);
        };
        self.write(Step {
            instance: Some(key.to_owned()),
            ..step(name, debt.thing, State::HandedOver)
        })?;
        self.change(name, |debt| {
            debt.instances.remove(key);
            if debt.instances.is_empty() {
                debt.state = State::HandedOver;
                debt.written = Some(State::HandedOver);
            }
        });
        self.note(name);
        Ok(())
    }

    /// Notes that other Tasks of the pipeline run remove it.
    ///
    /// # Errors
    ///
    /// The entry cannot be written.
    pub fn hand_over(&self, name: &str) -> Result<(), Failure> {
        if let Some(debt) = self.debt(name) {
            self.write(step(name, debt.thing, State::HandedOver))?;
        }
        self.change(name, |debt| {
            debt.state = State::HandedOver;
            debt.written = Some(State::HandedOver);
        });
        Ok(())
    }

    /// As [`Ledger::hand_over`] in a clean-up, which waits for no volume and fails for none: it is so, written or not.
    pub fn leave_to_others(&self, name: &str) {
        self.change(name, |debt| {
            debt.state = State::HandedOver;
            debt.lost.clear();
            debt.config_lost = false;
        });
        self.note(name);
    }

    /// Allows one more deployment, counting all that exist or may come to exist.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn allow_deployment(&self, limits: VmLimits) -> Result<(), LimitReached> {
        let mut entries = self.entries();
        if entries.live() >= limits.at_once {
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

    /// Takes back an allowed deployment that waits before it is tried again: it goes on counting.
    pub fn deployment_waits(&self) {
        let mut entries = self.entries();
        entries.unnamed = entries.unnamed.saturating_add(1);
    }

    /// Puts an allowed deployment under a name, durably: from here on, until it is answered, a VM may come to exist.
    ///
    /// # Errors
    ///
    /// It cannot be written; the request must not be sent then, and the deployment is no longer allowed.
    pub fn deploy_begins(&self, name: &str) -> Result<(), Failure> {
        {
            let mut entries = self.entries();
            entries.unnamed = entries.unnamed.saturating_sub(1);
            if let Some(debt) = entries.debts.iter_mut().find(|debt| debt.name == name) {
                debt.pending += 1;
            }
        }
        self.reconcile(name, None, Patience::OnDisk)
            .inspect_err(|_| {
                self.change(name, |debt| debt.pending = debt.pending.saturating_sub(1));
            })
    }

    /// Notes how a deployment ended.
    pub fn deploy_ends(&self, name: &str, end: DeployEnd<'_>) {
        self.change(name, |debt| {
            debt.pending = debt.pending.saturating_sub(1);
            match end {
                DeployEnd::Made(key) => {
                    debt.instances.insert(key.to_owned());
                    debt.gone.remove(key);
                    if debt.state != State::Kept {
                        debt.state = State::Created;
                    }
                }
                DeployEnd::Lost => debt.lost.push(Instant::now()),
                // A name that only ever stood for this VM stands for nothing now.
                DeployEnd::Refused if !debt.thing.is_config() && debt.vms() == 0 => {
                    debt.state = State::Released
                }
                DeployEnd::Refused => {}
            }
        });
        let made = match end {
            DeployEnd::Made(key) => Some(key),
            DeployEnd::Refused | DeployEnd::Lost => None,
        };
        self.note_of(name, made);
    }

    /// Notes that nobody waits for answers any more: deployments that had none will never have one.
    pub fn abandon(&self) {
        for debt in &mut self.entries().debts {
            let pending = std::mem::take(&mut debt.pending);
            debt.lost.extend((0..pending).map(|_| Instant::now()));
        }
    }

    /// Notes that no request in doubt can make anything under this name any more.
    pub fn doubt_is_settled(&self, name: &str) {
        self.change(name, |debt| {
            debt.lost.clear();
            debt.config_lost = false;
        });
        self.note(name);
    }

    /// Notes that one VM under a name is gone.
    pub fn vm_gone(&self, name: &str, key: &str) {
        self.change(name, |debt| {
            debt.instances.remove(key);
            debt.gone.insert(key.to_owned());
            if debt.kept.remove(key).is_some() && debt.kept.is_empty() && debt.state == State::Kept
            {
                debt.state = State::Created;
            }
        });
        if let Some(debt) = self.debt(name) {
            self.write_or_warn(Step {
                instance: Some(key.to_owned()),
                ..step(name, debt.thing, State::Released)
            });
        }
        self.note(name);
    }

    /// Notes that every VM under a name that does not stay is about to be deleted. From here on none is logged into: when Orka
    /// has answered and no longer lists them, their addresses may be others' already.
    pub fn deletion_begins(&self, name: &str) {
        self.change(name, |debt| {
            let leaving = debt.instances.iter().filter(|key| !debt.stays(key));
            let leaving: Vec<String> = leaving.cloned().collect();
            debt.gone.extend(leaving);
        });
    }

    /// The same of one VM.
    pub fn vm_deletion_begins(&self, name: &str, key: &str) {
        self.change(name, |debt| {
            debt.gone.insert(key.to_owned());
        });
    }

    /// Notes that Orka refused to delete one VM.
    pub fn vm_deletion_refused(&self, name: &str, key: &str) {
        self.change(name, |debt| {
            debt.gone.remove(key);
        });
    }

    /// Whether this run has deleted a VM, or asked for that, so that what is at its address now may be anybody's.
    pub fn is_gone(&self, name: &str, key: &str) -> bool {
        self.debt(name).is_some_and(|debt| debt.gone.contains(key))
    }

    /// Notes that the request that makes a VM config is about to be sent: until it is answered, it may come to exist.
    pub fn create_begins(&self, name: &str) {
        self.change(name, |debt| debt.config_lost = true);
    }

    /// Notes that the request that makes a VM config was answered.
    pub fn create_ends(&self, name: &str) {
        self.change(name, |debt| debt.config_lost = false);
        self.note(name);
    }

    /// Notes what turned up under a name that nobody answered for: each VM accounts for one request in doubt.
    pub fn accounted_for(&self, name: &str, vms: u32, config: bool) {
        self.change(name, |debt| {
            // The oldest first.
            let known = usize::try_from(vms).unwrap_or(usize::MAX);
            debt.lost.drain(..known.min(debt.lost.len()));
            debt.config_lost &= !(config || vms > 0);
        });
        self.note(name);
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
            let gone = std::mem::take(&mut debt.instances);
            debt.gone.extend(gone);
            debt.kept.clear();
        });
        let mut entries = self.entries();
        let Some(debt) = entries.debts.iter_mut().find(|debt| debt.name == name) else {
            return;
        };
        // What was there is gone, whatever may still come.
        let mut steps = vec![step(name, debt.thing, State::Released)];
        let state = debt.to_write();
        if state != State::Released {
            steps.push(step(name, debt.thing, state));
        }
        let queued = self.queue(steps, Patience::None);
        debt.written = queued.is_ok().then_some(state);
        drop(entries);
        warn_of(queued);
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

    /// Everything that is kept on purpose, with its name.
    pub fn kept(&self) -> Vec<(String, Kept)> {
        let entries = self.entries();
        let of = |debt: &Debt| {
            let name = debt.name.clone();
            debt.kept
                .values()
                .map(move |kept| (name.clone(), kept.clone()))
                .collect::<Vec<_>>()
        };
        entries.debts.iter().flat_map(of).collect()
    }

    /// VMs of this run that exist, may exist or are about to, and deployments allowed in all.
    pub fn vms(&self) -> (u32, u32) {
        let entries = self.entries();
        (entries.live(), entries.deployed)
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
        self.note_of(name, None);
    }

    fn note_of(&self, name: &str, instance: Option<&str>) {
        if let Err(failure) = self.reconcile(name, instance, Patience::None) {
            behind(&failure);
        }
    }

    /// Writes the present state if the file says another, or something of a VM.
    fn reconcile(
        &self,
        name: &str,
        instance: Option<&str>,
        patience: Patience,
    ) -> Result<(), Failure> {
        let mut entries = self.entries();
        let Some(debt) = entries.debts.iter_mut().find(|debt| debt.name == name) else {
            return Ok(());
        };
        let state = debt.to_write();
        if Some(state) == debt.written && instance.is_none() {
            return Ok(());
        }
        let step = Step {
            instance: instance.map(ToOwned::to_owned),
            ..step(name, debt.thing, state)
        };
        // In its place in the file before anybody changes the entry again.
        let queued = self.queue(vec![step], patience);
        debt.written = queued.is_ok().then_some(state);
        drop(entries);
        queued?.wait().map_err(cannot_write).inspect_err(|_| {
            self.change(name, |debt| debt.written = None);
        })
    }

    fn write_or_warn(&self, step: Step) {
        warn_of(self.queue(vec![step], Patience::None));
    }

    /// Writes what must be on disk before anything else happens.
    fn write(&self, step: Step) -> Result<(), Failure> {
        self.write_all(vec![step], Patience::OnDisk)
    }

    fn write_all(&self, steps: Vec<Step>, patience: Patience) -> Result<(), Failure> {
        self.queue(steps, patience)?.wait().map_err(cannot_write)
    }

    fn queue(&self, steps: Vec<Step>, patience: Patience) -> Result<Ticket, Failure> {
        if self.file.is_none() && self.black_box.is_none() {
            return Ok(Ticket::default());
        }
        let mut bytes = Vec::new();
        for step in steps {
            bytes.extend(record::line(What::Step(step)).map_err(cannot_write)?);
        }
        if let Some(black_box) = &self.black_box {
            black_box.append(&bytes);
        }
        let Some(file) = &self.file else {
            return Ok(Ticket::default());
        };
        file.queue(bytes, patience == Patience::OnDisk)
            .map_err(cannot_write)
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of another process's entry here, and what the file has to say of it.
fn taken_over(entry: &Entry, may_still_come: bool) -> (Debt, Vec<Step>) {
    let in_doubt = may_still_come && entry.state == State::Intent;
    let mut debt = Debt::new(entry.thing, &entry.name, entry.state);
    debt.inherited = true;
    debt.instances.clone_from(&entry.instances);
    debt.kept.clone_from(&entry.kept);
    // Of a config that was there it is a deployment that has no answer.
    let is_of_config = entry.thing.is_config() && !entry.was_created;
    if in_doubt && !is_of_config {
        debt.lost.push(Instant::now());
    }
    debt.config_lost = in_doubt && is_of_config;
    if !debt.kept.is_empty() {
        debt.state = State::Kept;
    }
    // All that is known of it goes along: the predecessor's own file is closed after this.
    let state = if in_doubt {
        State::Intent
    } else {
        State::Created
    };
    debt.written = Some(state);
    let of_vm = |(key, kept): (&String, Option<&Kept>)| Step {
        instance: Some(key.clone()),
        kept: kept.cloned(),
        ..step(
            &entry.name,
            entry.thing,
            kept.map_or(State::Created, |_| State::Kept),
        )
    };
    let mut steps = vec![step(&entry.name, entry.thing, State::Intent)];
    if entry.was_created {
        steps.push(step(&entry.name, entry.thing, State::Created));
    }
    steps.extend(
        debt.instances
            .iter()
            .map(|key| (key, debt.kept.get(key)))
            .map(of_vm),
    );
    steps.push(step(&entry.name, entry.thing, state));
    (debt, steps)
}

fn cannot_write(error: io::Error) -> Failure {
    Failure::files("files.ledger", "cannot write the ledger in the workspace").with_source(error)
}

fn warn_of(queued: Result<Ticket, Failure>) {
    if let Err(failure) = queued {
        behind(&failure);
    }
}

fn behind(failure: &Failure) {
    tracing::warn!(error = %failure, "the ledger in the workspace is behind");
}

fn step(name: &str, thing: Thing, state: State) -> Step {
    Step {
        name: name.to_owned(),
        thing,
        state,
        instance: None,
        kept: None,
    }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
