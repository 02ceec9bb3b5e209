//! All cells side by side: who waits, who is at work, who has ended.

use std::collections::BTreeSet;

use orka_plugin_common::Work;
use orka_plugin_sdk::cluster::Session;
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::wait::{self, Waitable};
use orka_plugin_sdk::{Error, clock};

use crate::cell::{Cell, End, Step};
use crate::cells::Wanted;

/// Why a deployment found no room: the cluster's, and the run's own at the grant's ceiling.
const NO_ROOM: [&str; 2] = ["orka.no-capacity", "run.vm-limit"];

/// How long scripts that were asked to stop may take before their files are copied back as they are.
const SCRIPTS_STOP_MS: u64 = 700;

/// How cells share the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// So many have a VM at once.
    pub(crate) parallel_max: usize,
    /// Whether the first failure ends all others.
    pub(crate) is_fail_fast: bool,
}

/// A cell that has ended.
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) vm: String,
    pub(crate) end: End,
    /// From its VM config to its end, in milliseconds.
    pub(crate) elapsed_ms: u64,
}

/// The cells of a run, by their positions in the list.
pub(crate) struct Board<'a> {
    session: &'a Session,
    work: &'a Work,
    rules: Rules,
    wanted: Vec<Wanted>,
    waiting: BTreeSet<usize>,
    /// Whether the cluster had no room for the next one, and no VM of ours has gone since.
    is_full: bool,
    at_work: Vec<(usize, Cell)>,
    ends: Vec<Option<(End, u64)>>,
    is_settled: bool,
}

impl<'a> Board<'a> {
    pub(crate) fn new(
        session: &'a Session,
        work: &'a Work,
        rules: Rules,
        wanted: Vec<Wanted>,
    ) -> Self {
        Self {
            session,
            work,
            rules,
            waiting: (0..wanted.len()).collect(),
            is_full: false,
            at_work: Vec::new(),
            ends: wanted.iter().map(|_| None).collect(),
            is_settled: true,
            wanted,
        }
    }

    /// Plays until every cell has ended.
    ///
    /// # Errors
    ///
    /// That the run is being stopped; what there is of the scripts' files has been copied back then.
    pub(crate) fn play(&mut self) -> Result<(), Error> {
        let result = self.play_on();
        if result.is_err() {
            let mut patience_ms = SCRIPTS_STOP_MS;
            for (_, cell) in self.at_work.drain(..) {
                cell.stop(self.work, patience_ms);
                patience_ms = 0;
            }
        }
        result
    }

    fn play_on(&mut self) -> Result<(), Error> {
        loop {
            self.begin_those_with_room()?;
            if self.at_work.is_empty() {
                return Ok(());
            }
            let waitables: Vec<Waitable> = self
                .at_work
                .iter()
                .map(|(_, cell)| cell.subscribe())
                .collect();
            let ready = wait::wait_any(&waitables.iter().collect::<Vec<_>>(), None)?;
            drop(waitables);
            // In their order. Those that end leave, and a failure may end all others.
            let mut gone = 0;
            for place in ready {
                let before = self.at_work.len();
                let place = place as usize - gone;
                if place >= before {
                    break;
                }
                self.step(place)?;
                gone += before - self.at_work.len();
            }
        }
    }

    /// Begins cells in their order while there may be more at once and the cluster has room.
    fn begin_those_with_room(&mut self) -> Result<(), Error> {
        while !self.is_full
            && self.at_work.len() < self.rules.parallel_max
            && let Some(position) = self.waiting.pop_first()
        {
            match Cell::begin(self.session, &self.wanted[position]) {
                Ok(cell) => self.at_work.push((position, cell)),
                Err(error) => self.failed(position, error, clock::elapsed_ms())?,
            }
        }
        Ok(())
    }

    fn step(&mut self, place: usize) -> Result<(), Error> {
        let (position, cell) = self.at_work.remove(place);
        let began_ms = cell.began_ms();
        match cell.step(self.work) {
            Step::On(cell) => self.at_work.insert(place, (position, cell)),
            Step::Over(End::Failed(error)) => return self.failed(position, error, began_ms),
            Step::Over(end) => {
                self.is_full = false;
                self.ended(position, end, began_ms);
            }
        }
        Ok(())
    }

    /// A cell failed; one that found no room waits for that of the others.
    fn failed(&mut self, position: usize, error: Error, began_ms: u64) -> Result<(), Error> {
        if error.is_final() {
            return Err(error);
        }
        if NO_ROOM.contains(&error.code()) && !self.at_work.is_empty() {
            let name = &self.wanted[position].name;
            console::log(
                Level::Info,
                &format!(
                    "[{name}] {}; waiting for the room of another cell",
                    error.info().message
                ),
            );
            self.waiting.insert(position);
            self.is_full = true;
            return Ok(());
        }
        self.is_full = false;
        self.ended(position, End::Failed(error), began_ms);
        Ok(())
    }

    fn ended(&mut self, position: usize, end: End, began_ms: u64) {
        let ends_all = self.rules.is_fail_fast && end.is_failure();
        let elapsed_ms = clock::elapsed_ms().saturating_sub(began_ms);
        self.ends[position] = Some((end, elapsed_ms));
        if !ends_all {
            return;
        }
        let (name, count) = (&self.wanted[position].name, self.at_work.len());
        if count > 0 || !self.waiting.is_empty() {
            console::log(
                Level::Warn,
                &format!("[{name}] failed; the other cells are cancelled (`fail-fast`)"),
            );
        }
        self.waiting.clear();
        for (_, cell) in self.at_work.drain(..) {
            self.is_settled &= cell.cancel();
        }
    }

    /// Whether nothing of a cell can appear on the cluster any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// How each cell ended, in the order in which they were asked for.
    pub(crate) fn into_ends(self) -> Vec<Ended> {
        let ended = self.wanted.into_iter().zip(self.ends);
        let ended = ended.map(|(wanted, end)| {
            let (end, elapsed_ms) = end.unwrap_or((End::Cancelled, 0));
            Ended {
                name: wanted.name,
                vm: wanted.vm.to_string(),
                end,
                elapsed_ms,
            }
        });
        ended.collect()
    }
}
