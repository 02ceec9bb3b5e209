//! `console`.

use std::sync::PoisonError;

use wasmtime::component::Resource;

use crate::bindings::orka::plugin::console::{Ending, Host, HostGroup, Level};
use crate::console::{Level as OwnLevel, Phase, PhaseEnding};
use crate::limits::Breach;
use crate::mask::Masker;
use crate::state::HostState;

/// A line longer than this is cut: a log is for people.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The report keeps titles, so these are cut sooner.
const TITLE_BYTES_MAX: usize = 256;

/// A phase that a guest has begun; none once it ended.
pub struct Group(Option<Phase>);

impl HostState {
    /// Counts a call of this interface like any other, and leaves the last calls to those that tell more.
    fn count_console_call(&mut self) -> wasmtime::Result<()> {
        let limit = self.run.limits.host_calls;
        if self.run.journal.count_in() > limit {
            return Err(self.limiter.broken(Breach::HostCalls(limit)));
        }
        Ok(())
    }
}

impl Host for HostState {
    async fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.count_console_call()?;
        let level = match level {
            Level::Debug => OwnLevel::Debug,
            Level::Info => OwnLevel::Info,
            Level::Warn => OwnLevel::Warn,
            Level::Error => OwnLevel::Error,
        };
        let console = &self.run.console;
        console.room().await;
        let message = masked(console.masker(), &message, MESSAGE_BYTES_MAX);
        console.log_of_plugin(level, &message);
        Ok(())
    }

    async fn progress(
        &mut self,
        done: u64,
        total: Option<u64>,
        unit: String,
    ) -> wasmtime::Result<()> {
        self.count_console_call()?;
        let unit = masked(self.run.console.masker(), &unit, TITLE_BYTES_MAX);
        self.run.console.room().await;
        self.run.console.progress(&match total {
            Some(total) => format!("{done} of {total} {unit}"),
            None => format!("{done} {unit}"),
        });
        Ok(())
    }

    async fn last_words(&mut self, message: String) -> wasmtime::Result<()> {
        self.count_console_call()?;
        let message = masked(self.run.console.masker(), &message, MESSAGE_BYTES_MAX);
        let mut last_words = self
            .run
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_words = Some(message);
        Ok(())
    }
}

impl HostGroup for HostState {
    async fn new(&mut self, title: String) -> wasmtime::Result<Resource<Group>> {
        self.count_console_call()?;
        self.run.console.room().await;
        let title = masked(self.run.console.masker(), &title, TITLE_BYTES_MAX);
        let phase = self.run.console.begin(&title);
        self.keep_or_trap(Group(Some(phase)))
    }

    async fn finish(&mut self, group: Resource<Group>, ending: Ending) -> wasmtime::Result<()> {
        self.count_console_call()?;
        let ending = match ending {
            Ending::Done => PhaseEnding::Done,
            Ending::Failed => PhaseEnding::Failed,
            Ending::Skipped => PhaseEnding::Skipped,
        };
        if let Some(phase) = self.table.get_mut(&group)?.0.take() {
            self.run.console.room().await;
            self.run.console.end(&phase, ending);
        }
        Ok(())
    }

    async fn drop(&mut self, group: Resource<Group>) -> wasmtime::Result<()> {
        if let Some(phase) = self.table.delete(group)?.0 {
            self.run.console.room().await;
            self.run.console.end(&phase, PhaseEnding::Done);
        }
        Ok(())
    }
}

/// As much of a text as fits, without secrets: one that is cut in two would no longer be known for one.
pub(super) fn masked(masker: &Masker, text: &str, bytes_max: usize) -> String {
    let mut text = masker.mask(text);
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}
