//! What a person sees: phases, milestones and the remote program's output.
//!
//! The remote output goes to standard output, everything of ours to standard error; both are masked. Without a terminal
//! every line of ours carries a time stamp, since a pod's log has none of its own.
//!
//! [`writer`] says who waits for whom when nobody reads, [`transfer`] how a transfer is shown.

mod transfer;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use transfer::{Progress, Transfer};
use writer::{Gap, Origin, Writer};

use crate::lines::printable;
use crate::mask::Masker;

/// How often something that is waited for is mentioned.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The report keeps so many phases; more are shown only.
const PHASES_MAX: usize = 1000;

/// A plugin's own lines may take so many bytes of the log of a run.
const PLUGIN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a line takes beside its text: time stamp, label and line end.
const LINE_OVERHEAD: u64 = 32;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Shown with `--verbose`.
    Debug,
    /// A milestone.
    Info,
    /// Someone may want to act.
    Warn,
    /// The run will fail for this.
    Error,
}

/// How a phase ended.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseEnding {
    /// As it should.
    Done,
    /// It failed.
    Failed,
    /// There was nothing to do.
    Skipped,
    /// The plugin never ended it.
    Unfinished,
}

/// A phase, for the report.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseRecord {
    /// What the plugin called it.
    pub title: String,
    /// Milliseconds after the start of the run.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// How it ended.
    pub ending: PhaseEnding,
}

/// Keeps lines instead of showing them, for tests of plugins.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Captured {
    /// Everything said so far, ours and the remote programs', in order.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep(&self, line: &str) {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line.to_owned());
    }
}

/// Where lines go.
#[derive(Clone)]
enum Lines {
    /// The standard streams; both are one if they lead to the same place, so that lines keep their order there.
    Written {
        stdout: Arc<Writer>,
        stderr: Arc<Writer>,
    },
    /// Memory.
    Kept(Captured),
}

struct State {
    phases: Vec<PhaseRecord>,
    last_progress: Option<Instant>,
    plugin_bytes: u64,
}

/// Something that may still be said: see [`Console::say_after`].
#[derive(Debug)]
pub struct Announcement(Option<tokio::task::JoinHandle<()>>);

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Some(waiting) = &self.0 {
            waiting.abort();
        }
    }
}

/// The step's log. Clones write to the same one.
#[derive(Clone)]
pub struct Console {
    lines: Lines,
    state: Arc<Mutex<State>>,
    masker: Masker,
    level: Level,
    time_stamps: bool,
    started: Instant,
}

impl Console {
    /// Shows lines from `level` up on the standard streams.
    pub fn standard(masker: Masker, level: Level) -> Self {
        let time_stamps = !io::stderr().is_terminal();
        Self::new(written(time_stamps), masker, level, time_stamps)
    }

    /// Keeps all lines.
    pub fn captured(masker: Masker) -> (Self, Captured) {
        Self::captured_from(masker, Level::Debug)
    }

    /// Keeps lines from `level` up.
    pub fn captured_from(masker: Masker, level: Level) -> (Self, Captured) {
        let captured = Captured::default();
        let lines = Lines::Kept(captured.clone());
        (Self::new(lines, masker, level, false), captured)
    }

    fn new(lines: Lines, masker: Masker, level: Level, time_stamps: bool) -> Self {
        let state = State {
            phases: Vec::new(),
            last_progress: None,
            plugin_bytes: 0,
        };
        Self {
            lines,
            state: Arc::new(Mutex::new(state)),
            masker,
            level,
            time_stamps,
            started: Instant::now(),
        }
    }

    /// Waits until there is room for a line in a log that is read. At once where nothing may wait any more.
    ///
    /// For whatever can bring lines without end; what the host itself says never waits.
    pub async fn room(&self) {
        if let Lines::Written { stdout, stderr } = &self.lines {
            stdout.room().await;
            stderr.room().await;
        }
    }

    /// Lets nothing wait for whoever reads the log from here on: what does not fit is left out, and told if somebody
    /// reads again. For a run that is stopped, and for clean-up.
    pub fn stop_waiting(&self) {
        if let Lines::Written { stdout, stderr } = &self.lines {
            stdout.stop_waiting();
            stderr.stop_waiting();
        }
    }

    /// Waits until all lines are written; for `patience` at most while nobody reads, and `until` at the latest.
    pub async fn finish(&self, patience: Duration, until: Option<Instant>) {
        if let Lines::Written { stdout, stderr } = &self.lines {
            // In this order: a gap of the first is told on the second.
            stdout.finish(patience, until).await;
            stderr.finish(patience, until).await;
        }
    }

    /// What hides secrets here.
    pub fn masker(&self) -> &Masker {
        &self.masker
    }

    /// Time since the start of the run.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes a line of ours; one with line breaks becomes several, and one that is too long is cut.
    pub fn log(&self, level: Level, text: &str) {
        if level >= self.level {
            self.write(level, &self.masker.told(text));
        }
    }

    fn write(&self, level: Level, masked: &str) {
        let label = match level {
            Level::Debug | Level::Info => "",
            Level::Warn => "warning: ",
            Level::Error => "error: ",
        };
        for (position, line) in masked.lines().enumerate() {
            self.line(&format!(
                "{}{}",
                if position == 0 { label } else { "  " },
                printable(line.as_bytes())
            ));
        }
    }

    /// As [`Console::log`], followed by lines that are to be copied, and so stand there as they are.
    pub fn log_with_example(&self, level: Level, text: &str, example: &str) {
        self.log(level, text);
        if level < self.level {
            return;
        }
        for line in self.masker.mask(example).lines() {
            self.plain(&printable(line.as_bytes()));
        }
    }

    /// As [`Console::log`] for a line of the plugin, of which there may be 16 MiB in all.
    pub fn log_of_plugin(&self, level: Level, text: &str) {
        if level < self.level {
            return;
        }
        let lines = text.lines().count() as u64;
        let before = {
            let mut state = self.state();
            let before = state.plugin_bytes;
            state.plugin_bytes = before.saturating_add(text.len() as u64 + lines * LINE_OVERHEAD);
            before
        };
        // The first text that is too much is shown still, so the last one that fits is never cut.
        if before < PLUGIN_BYTES_MAX {
            self.write(level, &self.masker.mask(text));
            if self.state().plugin_bytes >= PLUGIN_BYTES_MAX {
                self.warn("the plugin has written 16 MiB to this log; the rest is left out");
            }
        }
    }

    /// Writes a milestone about something that goes on, once it has taken so long; not if it is over before.
    ///
    /// Without a runtime nothing is said.
    #[must_use = "dropping it says that it is over"]
    pub fn say_after(&self, delay: Duration, text: String) -> Announcement {
        let console = self.clone();
        let waiting = tokio::runtime::Handle::try_current().map(|runtime| {
            runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                console.info(&text);
            })
        });
        Announcement(waiting.ok())
    }

    /// Writes a milestone.
    pub fn info(&self, text: &str) {
        self.log(Level::Info, text);
    }

    /// Writes a warning.
    pub fn warn(&self, text: &str) {
        self.log(Level::Warn, text);
    }

    /// Writes a line of a remote program, which must be masked and printable already, once there is room for it.
    pub async fn output(&self, line: &str) {
        match &self.lines {
            Lines::Written { stdout, .. } => stdout.output(ended(line)).await,
            Lines::Kept(captured) => captured.keep(line),
        }
    }

    /// Writes data, such as what a command was asked to print, as it is.
    pub async fn data(&self, text: &str) {
        for line in text.lines() {
            self.output(line).await;
        }
    }

    /// As [`Console::data`], from a thread that may wait.
    pub fn data_blocking(&self, text: &str) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime.block_on(self.data(text)),
            Err(_) => futures_util::FutureExt::now_or_never(self.data(text)).unwrap_or_default(),
        }
    }

    /// Writes diagnostics, which must be masked already, if there is room for them.
    pub(crate) fn diagnostics(&self, text: &[u8]) {
        match &self.lines {
            Lines::Written { stderr, .. } => stderr.push(Origin::Detail, text.to_owned()),
            Lines::Kept(captured) => captured.keep(String::from_utf8_lossy(text).trim_end()),
        }
    }

    /// Begins a phase.
    pub fn begin(&self, title: &str) -> Phase {
        let title = printable(self.masker.mask(title).as_bytes());
        if self.level <= Level::Info {
            self.line(&format!("==> {title}"));
        }
        // What is done at once needs no progress.
        self.state().last_progress = Some(Instant::now());
        Phase {
            title,
            started: Instant::now(),
            started_after: self.elapsed(),
        }
    }

    /// Ends a phase.
    pub fn end(&self, phase: &Phase, ending: PhaseEnding) {
        let elapsed = phase.started.elapsed();
        let word = match ending {
            PhaseEnding::Done => "done",
            PhaseEnding::Failed => "failed",
            PhaseEnding::Skipped => "skipped",
            PhaseEnding::Unfinished => "not finished",
        };
        if self.level <= Level::Info {
            self.line(&format!(
                "<== {}: {word} ({})",
                phase.title,
                seconds(elapsed)
            ));
        }
        let mut state = self.state();
        if state.phases.len() < PHASES_MAX {
            state.phases.push(PhaseRecord {
                title: phase.title.clone(),
                started_ms: millis(phase.started_after),
                elapsed_ms: millis(elapsed),
                ending,
            });
        }
    }

    /// Mentions how far something is, now and then.
    pub fn progress(&self, text: &str) {
        {
            let mut state = self.state();
            if state
                .last_progress
                .is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL)
            {
                return;
            }
            state.last_progress = Some(Instant::now());
        }
        self.info(text);
    }

    /// The phases that have ended, in the order of their ends.
    pub fn phases(&self) -> Vec<PhaseRecord> {
        self.state().phases.clone()
    }

    fn line(&self, line: &str) {
        self.plain(&stamped(line, self.time_stamps));
    }

    fn plain(&self, line: &str) {
        match &self.lines {
            Lines::Written { stderr, .. } => stderr.push(Origin::Own, ended(line)),
            Lines::Kept(captured) => captured.keep(line),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writers of the standard streams.
fn written(time_stamps: bool) -> Lines {
    let told = move |what: &str, gap: Gap| {
        let (lines, size) = (gap.lines, bytes(gap.bytes));
        let text = format!(
            "warning: {lines} lines of {what} ({size}) are left out here: nobody read this log in time"
        );
        stamped(&text, time_stamps)
    };
    let stderr = Writer::new(stream(&io::stderr()), move |gap| Some(told("the log", gap)));
    if is_same(&io::stdout(), &io::stderr()) {
        return Lines::Written {
            stdout: Arc::clone(&stderr),
            stderr,
        };
    }
    // Standard output holds nothing but output.
    let teller = stderr.downgrade();
    let stdout = Writer::new(stream(&io::stdout()), move |gap| {
        if let Some(stderr) = teller.upgrade() {
            stderr.push(Origin::Own, ended(&told("output", gap)));
        }
        None
    });
    Lines::Written { stdout, stderr }
}

/// A stream without a buffer; one that cannot be had swallows everything.
fn stream(stream: &impl AsFd) -> Box<dyn io::Write + Send> {
    match stream.as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::sink()),
    }
}

/// Whether two streams lead to the same terminal, pipe or file.
fn is_same(one: &impl AsFd, other: &impl AsFd) -> bool {
    let identity = |stream: BorrowedFd<'_>| {
        let found = File::from(stream.try_clone_to_owned().ok()?)
            .metadata()
            .ok()?;
        Some((found.dev(), found.ino()))
    };
    let one = identity(one.as_fd());
    one.is_some() && one == identity(other.as_fd())
}

fn stamped(line: &str, time_stamps: bool) -> String {
    if time_stamps {
        format!("{:.0} {line}", jiff::Timestamp::now())
    } else {
        line.to_owned()
    }
}

fn ended(line: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    bytes
}

/// A phase that has begun.
#[derive(Debug)]
pub struct Phase {
    title: String,
    started: Instant,
    started_after: Duration,
}

/// A duration as people read it: `0.31 s`, `12.0 s`, `3 min 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole >= 60 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else if whole >= 10 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// Bytes as people read them: `312 B`, `4.1 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Whole milliseconds, as the contract counts time.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_defuses_what_a_plugin_says() {
        let masker = Masker::default();
        masker.add("hunter2");
        let (console, captured) = Console::captured(masker);
        console.log(Level::Warn, "password hunter2 \u{1b}]0;x\u{7}\nsecond line");
        assert_eq!(
            captured.lines(),
            [
                "warning: password *** \u{241b}]0;x\u{2407}",
                "  second line"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_said_once_and_what_is_over_before_is_not() {
        let (console, captured) = Console::captured(Masker::default());
        let delay = Duration::from_secs(2);
        drop(console.say_after(delay, "quick".to_owned()));
        let slow = console.say_after(delay, "slow".to_owned());
        tokio::time::sleep(delay - Duration::from_millis(1)).await;
        assert!(captured.lines().is_empty());
        tokio::time::sleep(2 * delay).await;
        drop(slow);
        tokio::time::sleep(2 * delay).await;
        assert_eq!(captured.lines(), ["slow"]);
    }

    #[test]
    fn a_plugin_that_never_stops_talking_is_cut_off_once_and_the_host_is_not() {
        let (console, captured) = Console::captured(Masker::default());
        let text = "x".repeat(1024 * 1024 - 32);
        for _ in 0..20 {
            console.log_of_plugin(Level::Info, &text);
        }
        console.info("deleted");
        let lines = captured.lines();
        assert_eq!(lines.len(), 18);
        assert!(lines[16].contains("the rest is left out"), "{}", lines[16]);
        assert_eq!(lines[17], "deleted");
    }

    #[test]
    fn so_many_phases_are_kept_and_more_are_shown() {
        let (console, captured) = Console::captured(Masker::default());
        for _ in 0..PHASES_MAX + 5 {
            let phase = console.begin("again");
            console.end(&phase, PhaseEnding::Done);
        }
        assert_eq!(console.phases().len(), PHASES_MAX);
        assert_eq!(captured.lines().len(), 2 * (PHASES_MAX + 5));
        let record = serde_json::to_value(&console.phases()[0]).unwrap();
        assert!(record["startedMs"].is_u64() && record["elapsedMs"].is_u64());
    }

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(seconds(Duration::from_millis(312)), "0.31 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(bytes(312), "312 B");
        assert_eq!(bytes(4_300_000), "4.1 MiB");
    }
}
