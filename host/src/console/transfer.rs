//! How a running transfer is shown: on a terminal a bar below the log, elsewhere a plain line now and then.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use tokio::time::{Instant, sleep};

use super::writer::Writer;
use super::{Console, Level, bytes};

/// A transfer that is done before is told by its totals alone.
const FIRST_LINE_AFTER: Duration = Duration::from_secs(10);

/// Pauses between lines double up to this: a log of hours stays readable, and nobody takes a transfer for dead.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// Time between two looks, so that a transfer that stands still is seen to.
const LOOK: Duration = Duration::from_millis(500);

/// Times that a bar is drawn in a second at most.
const DRAWS: u8 = 10;

/// Where there is no telling how wide a terminal is.
const WIDTH_DEFAULT: u16 = 80;

const KNOWN: &str = "{msg} [{bar:20}] {binary_bytes} of {binary_total_bytes}, {prefix}, {binary_bytes_per_sec}, {eta} left";
const UNKNOWN: &str = "{msg} {binary_bytes}, {prefix}, {binary_bytes_per_sec}";

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files so far.
    pub bytes: u64,
    /// Files, links and directories so far.
    pub entries: u64,
    /// Bytes in all, where that is known.
    pub bytes_total: Option<u64>,
    /// Files, links and directories in all, where that is known.
    pub entries_total: Option<u64>,
}

/// A transfer under way. The bar goes with it.
pub struct Transfer {
    console: Console,
    what: &'static str,
    bar: Option<Bar>,
    state: Mutex<State>,
}

struct State {
    now: Progress,
    /// When the next line is due, and how long after that the one after it.
    next: Instant,
    pause: Duration,
    /// The last line, or the start.
    told: (Instant, u64),
}

impl Transfer {
    /// A transfer that begins now; `what` is a phrase such as `copying in`.
    pub(super) fn new(console: &Console, what: &'static str) -> Self {
        let now = Instant::now();
        Self {
            console: console.clone(),
            what,
            bar: console.terminal().map(|terminal| Bar::new(terminal, what)),
            state: Mutex::new(State {
                now: Progress::default(),
                next: now + FIRST_LINE_AFTER,
                pause: FIRST_LINE_AFTER,
                told: (now, 0),
            }),
        }
    }

    /// Whether there is a bar, which says how long it takes where the totals are known.
    pub fn is_a_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Notes how far it is.
    pub fn update(&self, progress: Progress) {
        let mut state = self.state();
        if progress.bytes < state.told.1 {
            // It was begun again.
            state.told = (Instant::now(), 0);
        }
        state.now = progress;
        drop(state);
        if let Some(bar) = &self.bar {
            bar.update(progress);
        }
        self.look();
    }

    /// Does the work of the transfer, which may stand still without a word, and shows how far it is meanwhile.
    ///
    /// # Cancel safety
    ///
    /// That of `work`.
    pub async fn shown<T>(&self, work: impl Future<Output = T>) -> T {
        let looking = async {
            loop {
                sleep(LOOK).await;
                self.look();
                if let Some(bar) = &self.bar {
                    bar.0.tick();
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            never = looking => never,
        }
    }

    fn look(&self) {
        let mut state = self.state();
        let now = Instant::now();
        if self.bar.is_some() || now < state.next {
            return;
        }
        state.next = now + state.pause;
        state.pause = (state.pause * 2).min(PAUSE_MAX);
        let told = (now, state.now.bytes);
        let (since, before) = std::mem::replace(&mut state.told, told);
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        let rate = state.now.bytes.saturating_sub(before) as f64 / seconds;
        let size = bytes(state.now.bytes);
        let (of, entries) = (of(state.now.bytes_total.map(bytes)), entries(&state.now));
        drop(state);
        self.console.info(&format!(
            "{}: {size}{of}, {entries}, {}/s",
            self.what,
            bytes(rate as u64)
        ));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(total: Option<impl fmt::Display>) -> String {
    total.map_or_else(String::new, |total| format!(" of {total}"))
}

fn entries(progress: &Progress) -> String {
    format!("{}{} entries", progress.entries, of(progress.entries_total))
}

/// A bar on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(terminal: Arc<Writer>, what: &'static str) -> Self {
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(Footer::new(terminal)), DRAWS);
        let bar = ProgressBar::with_draw_target(None, target).with_message(what);
        Self::style(&bar, UNKNOWN);
        Self(bar)
    }

    fn style(bar: &ProgressBar, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
    }

    fn update(&self, progress: Progress) {
        if self.0.length() != progress.bytes_total {
            match progress.bytes_total {
                Some(total) => self.0.set_length(total),
                None => self.0.unset_length(),
            }
            Self::style(
                &self.0,
                if progress.bytes_total.is_some() {
                    KNOWN
                } else {
                    UNKNOWN
                },
            );
        }
        self.0.set_prefix(entries(&progress));
        self.0.set_position(progress.bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What the library takes for a terminal: the line below the log, which the one writer of the stream keeps there.
struct Footer {
    writer: Arc<Writer>,
    line: Mutex<String>,
}

impl Footer {
    fn new(writer: Arc<Writer>) -> Self {
        Self {
            writer,
            line: Mutex::default(),
        }
    }

    fn line(&self) -> MutexGuard<'_, String> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Footer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Footer")
    }
}

impl TermLike for Footer {
    fn width(&self) -> u16 {
        let size = ::console::Term::stderr().size_checked();
        // The last column is left free: some terminals break the line when it is written.
        size.map_or(WIDTH_DEFAULT, |(_, columns)| columns).max(2) - 1
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.line().push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.line().clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let line = std::mem::take(&mut *self.line());
        let line = line.trim_end();
        self.writer
            .draw((!line.is_empty()).then(|| line.to_owned()));
        Ok(())
    }
}

impl Console {
    /// Shows a transfer that begins now; `what` is a phrase such as `copying in`.
    pub fn transfer(&self, what: &'static str) -> Transfer {
        Transfer::new(self, what)
    }

    /// The writer of standard error, if that is a terminal and milestones are shown.
    fn terminal(&self) -> Option<Arc<Writer>> {
        match &self.lines {
            super::Lines::Written { stderr, .. }
                if !self.time_stamps && self.level <= Level::Info =>
            {
                Some(Arc::clone(stderr))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::Gap;
    use super::*;
    use crate::mask::Masker;

    const MIB: u64 = 1024 * 1024;

    fn progress(seconds: u64) -> Progress {
        Progress {
            bytes: seconds * MIB,
            entries: seconds,
            bytes_total: Some(4096 * MIB),
            entries_total: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_terminal_a_line_comes_after_ten_seconds_and_then_ever_more_rarely() {
        let (console, captured) = Console::captured(Masker::default());
        let transfer = console.transfer("copying in");
        let began = Instant::now();
        let mut told = Vec::new();
        transfer
            .shown(async {
                for second in 0..1500 {
                    transfer.update(progress(second));
                    if captured.lines().len() > told.len() {
                        told.push(began.elapsed().as_secs());
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            })
            .await;
        assert_eq!(told, [10, 20, 40, 80, 160, 320, 620, 920, 1220]);
        let lines = captured.lines();
        assert_eq!(
            lines[0],
            "copying in: 10.0 MiB of 4.0 GiB, 10 entries, 1.0 MiB/s"
        );
        assert!(
            lines[8].ends_with("1.2 GiB of 4.0 GiB, 1220 entries, 1.0 MiB/s"),
            "{}",
            lines[8]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_transfer_says_nothing_and_one_that_stands_still_does() {
        let (console, captured) = Console::captured(Masker::default());
        let transfer = console.transfer("copying back");
        transfer.shown(sleep(Duration::from_secs(9))).await;
        assert_eq!(captured.lines(), [""; 0]);
        transfer.update(progress(9));
        transfer.shown(sleep(Duration::from_secs(12))).await;
        let lines = captured.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].ends_with("9 entries, 0 B/s"), "{}", lines[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_begun_again_has_no_rate_from_before() {
        let (console, captured) = Console::captured(Masker::default());
        let transfer = console.transfer("copying in");
        transfer.update(progress(100));
        transfer.shown(sleep(Duration::from_secs(11))).await;
        transfer.update(progress(1));
        transfer.shown(sleep(Duration::from_secs(10))).await;
        let lines = captured.lines();
        assert!(lines[1].contains("copying in: 1.0 MiB of"), "{}", lines[1]);
        assert!(lines[1].contains("KiB/s"), "{}", lines[1]);
    }

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn on_a_terminal_a_bar_says_how_much_how_fast_and_how_long_and_goes_away() {
        let screen = Screen::default();
        let writer = Writer::new(screen.clone(), |_: Gap| None);
        let bar = Bar::new(Arc::clone(&writer), "copying in");
        bar.update(progress(1024));
        bar.0.force_draw();
        let patience = Duration::from_secs(60);
        writer.finish(patience, None).await;
        drop(bar);
        writer.finish(patience, None).await;
        let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        for part in [
            "copying in [=====>",
            "1.00 GiB of 4.00 GiB",
            "1024 entries",
            "/s",
            " left",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text:?}");
        }
        assert!(!text.contains('\n'), "{text:?}");
        assert!(text.ends_with("\r\x1b[K"), "{text:?}");
    }
}
