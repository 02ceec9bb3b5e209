//! `console`.

use std::sync::PoisonError;

use wasmtime::component::Resource;

use crate::bindings::orka::plugin::console::{Ending, Host, HostGroup, Level};
use crate::console::{Level as OwnLevel, Phase, PhaseEnding};
use crate::state::HostState;

/// A line longer than this is cut: a log is for people.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// A phase that a guest has begun; none once it ended.
pub struct Group(Option<Phase>);

impl Host for HostState {
    async fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Debug => OwnLevel::Debug,
            Level::Info => OwnLevel::Info,
            Level::Warn => OwnLevel::Warn,
            Level::Error => OwnLevel::Error,
        };
        self.run.console.log(level, shortened(&message));
        Ok(())
    }

    async fn progress(
        &mut self,
        done: u64,
        total: Option<u64>,
        unit: String,
    ) -> wasmtime::Result<()> {
        let unit = shortened(&unit);
        self.run.console.progress(&match total {
            Some(total) => format!("{done} of {total} {unit}"),
            None => format!("{done} {unit}"),
        });
        Ok(())
    }

    async fn last_words(&mut self, message: String) -> wasmtime::Result<()> {
        let mut last_words = self
            .run
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_words = Some(shortened(&message).to_owned());
        Ok(())
    }
}

impl HostGroup for HostState {
    async fn new(&mut self, title: String) -> wasmtime::Result<Resource<Group>> {
        let phase = self.run.console.begin(shortened(&title));
        self.keep_or_trap(Group(Some(phase)))
    }

    async fn finish(&mut self, group: Resource<Group>, ending: Ending) -> wasmtime::Result<()> {
        let ending = match ending {
            Ending::Done => PhaseEnding::Done,
            Ending::Failed => PhaseEnding::Failed,
            Ending::Skipped => PhaseEnding::Skipped,
        };
        if let Some(phase) = self.table.get_mut(&group)?.0.take() {
            self.run.console.end(&phase, ending);
        }
        Ok(())
    }

    async fn drop(&mut self, group: Resource<Group>) -> wasmtime::Result<()> {
        if let Some(phase) = self.table.delete(group)?.0 {
            self.run.console.end(&phase, PhaseEnding::Done);
        }
        Ok(())
    }
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
