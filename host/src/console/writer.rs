//! The only writer of a standard stream: a thread of its own behind a bounded queue, so that a log which nobody reads
//! holds up nothing that must not wait.
//!
//! While a run goes on, what programs in VMs write waits for room here, and so do the programs: nothing is lost. Once
//! nothing may wait any more ([`Writer::stop_waiting`]), what does not fit is left out and counted, and the count is told
//! where the lines would have been, as soon as somebody reads again. Our own lines never wait and have room of their own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Bytes on their way at most before what programs write has to wait; as long as lines wait, one more is taken at a time.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Room beyond that for our own lines: thousands of them, where clean-up has dozens.
const OWN_BYTES_MAX: usize = 512 * 1024;

/// Bytes that are handed to the stream at once. After each, those who wait look again.
const BATCH_BYTES: usize = 16 * 1024;

/// Pause before a stream is tried again that is full and was made not to block by another process that has it open.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Whose a line is, and so what becomes of it where there is little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A program in a VM, or data that was asked for.
    Output,
    /// Diagnostics of libraries: the first of ours to be left out.
    Detail,
    /// This program.
    Own,
}

impl Origin {
    fn bytes_max(self) -> usize {
        OUTPUT_BYTES_MAX
            + match self {
                Self::Output => 0,
                Self::Detail => OWN_BYTES_MAX / 2,
                Self::Own => OWN_BYTES_MAX,
            }
    }
}

/// Lines that were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

enum Item {
    /// A line with its end.
    Line(Vec<u8>),
    Gap(Gap),
}

struct Queue {
    items: VecDeque<Item>,
    /// Bytes of lines that the stream has not taken.
    bytes: usize,
    /// What is drawn below the last line, on a terminal.
    footer: Option<String>,
    /// The footer is not what is on the terminal.
    is_footer_new: bool,
    may_wait: bool,
    is_writing: bool,
    /// Nobody can ever read what is written.
    is_closed: bool,
    is_over: bool,
}

impl Queue {
    fn push(&mut self, origin: Origin, line: Vec<u8>) {
        if self.is_closed {
            return;
        }
        if self.bytes < origin.bytes_max() {
            self.bytes += line.len();
            self.items.push_back(Item::Line(line));
            return;
        }
        let bytes = line.len() as u64;
        match self.items.back_mut() {
            Some(Item::Gap(gap)) => {
                gap.lines += 1;
                gap.bytes += bytes;
            }
            _ => self.items.push_back(Item::Gap(Gap { lines: 1, bytes })),
        }
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.is_writing && !self.is_footer_new
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Told when there is something to write.
    work: Condvar,
    /// Told when something was written.
    written: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines to one stream. What is on its way when the last handle goes is written still, if somebody reads it.
pub(super) struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    /// Writes to `stream`. What `tell` makes of a gap is written in its place, unless it takes care of that itself.
    pub(super) fn new(
        stream: impl Write + Send + 'static,
        tell: impl Fn(Gap) -> Option<String> + Send + 'static,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                bytes: 0,
                footer: None,
                is_footer_new: false,
                may_wait: true,
                is_writing: false,
                is_closed: false,
                is_over: false,
            }),
            work: Condvar::new(),
            written: Notify::new(),
        });
        let working = Arc::clone(&shared);
        let started = std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || work(&working, stream, tell));
        // Without a thread there is no log, and a run without a log is better than none.
        shared.queue().is_closed = started.is_err();
        Arc::new(Self { shared })
    }

    /// Writes a line without waiting: left out if it does not fit.
    pub(super) fn push(&self, origin: Origin, line: Vec<u8>) {
        self.shared.queue().push(origin, line);
        self.shared.work.notify_one();
    }

    /// Writes a line once there is room for it, or leaves it out once nothing may wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready writes nothing.
    pub(super) async fn output(&self, line: Vec<u8>) {
        self.room().await;
        // Others may have been quicker: each by one line, and there are few of them.
        let mut queue = self.shared.queue();
        let origin = if queue.may_wait {
            Origin::Own
        } else {
            Origin::Output
        };
        queue.push(origin, line);
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Waits until there is room, or nothing may wait.
    pub(super) async fn room(&self) {
        loop {
            let written = self.shared.written.notified();
            tokio::pin!(written);
            // Registered before looking, so that what is written in between is not missed.
            written.as_mut().enable();
            {
                let queue = self.shared.queue();
                if !queue.may_wait || queue.is_closed || queue.bytes < OUTPUT_BYTES_MAX {
                    return;
                }
            }
            written.await;
        }
    }

    /// Lets nothing wait from here on.
    pub(super) fn stop_waiting(&self) {
        self.shared.queue().may_wait = false;
        self.shared.written.notify_waiters();
    }

    /// Draws this below the last line, in place of what was there; for terminals only.
    pub(super) fn draw(&self, footer: Option<String>) {
        let mut queue = self.shared.queue();
        if !queue.is_closed && queue.footer != footer {
            queue.footer = footer;
            queue.is_footer_new = true;
            drop(queue);
            self.shared.work.notify_one();
        }
    }

    /// Waits until everything is written; for `patience` at most while nobody reads, and `until` at the latest.
    pub(super) async fn finish(&self, patience: Duration, until: Option<Instant>) {
        loop {
            let written = self.shared.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.shared.queue().is_empty() {
                return;
            }
            let patience_ends = Instant::now() + patience;
            let limit = until.map_or(patience_ends, |until| until.min(patience_ends));
            if timeout_at(limit, written).await.is_err() {
                return;
            }
        }
    }

    /// What cannot outlive the last clone, for a gap that is told on another stream.
    pub(super) fn downgrade(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue().is_over = true;
        self.shared.work.notify_one();
    }
}

/// What to write next.
struct Batch {
    bytes: Vec<u8>,
    /// Bytes that count as on their way until they are written.
    counted: usize,
    gap: Option<Gap>,
    footer: Option<String>,
}

/// Waits for something to write; none once nothing will come any more.
fn next(shared: &Shared) -> Option<Batch> {
    let mut queue = shared.queue();
    while queue.items.is_empty() && !queue.is_footer_new {
        if queue.is_over {
            return None;
        }
        queue = shared
            .work
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
    }
    let mut batch = Batch {
        bytes: Vec::new(),
        counted: 0,
        gap: None,
        footer: queue.footer.clone(),
    };
    while batch.bytes.len() < BATCH_BYTES && batch.gap.is_none() {
        match queue.items.pop_front() {
            Some(Item::Line(line)) => batch.bytes.extend_from_slice(&line),
            Some(Item::Gap(gap)) => batch.gap = Some(gap),
            None => break,
        }
    }
    batch.counted = batch.bytes.len();
    queue.is_footer_new = false;
    queue.is_writing = true;
    Some(batch)
}

fn work(shared: &Shared, mut stream: impl Write, tell: impl Fn(Gap) -> Option<String>) {
    let mut drawn = None;
    while let Some(mut batch) = next(shared) {
        if let Some(told) = batch.gap.and_then(&tell) {
            batch.bytes.extend_from_slice(told.as_bytes());
            batch.bytes.push(b'\n');
        }
        let mut bytes = Vec::new();
        if drawn.is_some() {
            // To the start of the line, and erase to its end (ECMA-48, 8.3.41).
            bytes.extend_from_slice(b"\r\x1b[K");
        }
        bytes.append(&mut batch.bytes);
        if let Some(footer) = &batch.footer {
            bytes.extend_from_slice(footer.as_bytes());
        }
        drawn = batch.footer;
        let is_open = write(shared, &mut stream, &bytes);
        let mut queue = shared.queue();
        queue.is_writing = false;
        queue.bytes -= batch.counted;
        if !is_open {
            // Whoever reads has gone for good, and that is no reason to stop cleaning up.
            queue.is_closed = true;
            queue.items.clear();
            queue.bytes = 0;
        }
        drop(queue);
        shared.written.notify_waiters();
    }
}

/// Writes all of it; says whether the stream is still open.
fn write(shared: &Shared, stream: &mut impl Write, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(BATCH_BYTES)];
        match stream.write(piece) {
            Ok(0) => return false,
            Ok(written) => {
                bytes = &bytes[written..];
                shared.written.notify_waiters();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    /// A stream that is read once somebody wants to.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<Passed>, Condvar)>);

    #[derive(Default)]
    struct Passed {
        text: Vec<u8>,
        is_open: bool,
        is_gone: bool,
    }

    impl Gate {
        fn change(&self, change: impl FnOnce(&mut Passed)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn open(&self) {
            self.change(|passed| passed.is_open = true);
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().text.clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let passed = self.0.0.lock().unwrap();
            let mut passed = (self.0.1)
                .wait_while(passed, |passed| !passed.is_open && !passed.is_gone)
                .unwrap();
            if passed.is_gone {
                return Err(ErrorKind::BrokenPipe.into());
            }
            // Streams take less than they are given, too.
            let taken = bytes.len().min(999);
            passed.text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer() -> (Arc<Writer>, Gate) {
        let gate = Gate::default();
        let told = |gap: Gap| Some(format!("[{} lines, {} bytes]", gap.lines, gap.bytes));
        (Writer::new(gate.clone(), told), gate)
    }

    /// A line of 1,000 bytes.
    fn line(number: usize) -> Vec<u8> {
        format!("{number:0>999}\n").into_bytes()
    }

    fn lines(numbers: std::ops::Range<usize>) -> String {
        String::from_utf8(numbers.flat_map(line).collect()).unwrap()
    }

    /// Output until it has to wait; how many lines that took.
    fn fill(writer: &Writer) -> usize {
        (0..)
            .find(|number| writer.output(line(*number)).now_or_never().is_none())
            .unwrap()
    }

    async fn done(writer: &Writer) {
        timeout(LATE, writer.finish(LATE, None))
            .await
            .expect("waits for ever");
        assert!(writer.shared.queue().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn output_waits_for_a_reader_and_none_of_it_is_lost() {
        let (writer, gate) = writer();
        let filled = fill(&writer);
        assert_eq!(filled, OUTPUT_BYTES_MAX.div_ceil(1000));
        let writing = Arc::clone(&writer);
        let more = tokio::spawn(async move {
            for number in filled..filled + 1000 {
                writing.output(line(number)).await;
            }
        });
        gate.open();
        timeout(LATE, more).await.expect("waits").unwrap();
        done(&writer).await;
        assert!(gate.text() == lines(0..filled + 1000));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn once_nothing_may_wait_what_does_not_fit_is_left_out_and_told_in_its_place() {
        let (writer, gate) = writer();
        let filled = fill(&writer);
        let waiting = Arc::clone(&writer);
        let waiter = tokio::spawn(async move { waiting.output(line(1)).await });
        writer.stop_waiting();
        timeout(LATE, waiter).await.expect("still waits").unwrap();
        for number in 0..9 {
            assert!(writer.output(line(number)).now_or_never().is_some());
        }
        writer.push(Origin::Own, b"deleted\n".to_vec());
        assert!(writer.output(line(5)).now_or_never().is_some());
        gate.open();
        done(&writer).await;
        assert_eq!(
            &gate.text()[filled * 1000..],
            "[10 lines, 10000 bytes]\ndeleted\n[1 lines, 1000 bytes]\n"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn our_own_lines_never_wait_and_have_room_of_their_own_and_an_end() {
        let (writer, gate) = writer();
        let filled = fill(&writer);
        let fitting = (OUTPUT_BYTES_MAX + OWN_BYTES_MAX).div_ceil(1000) - filled;
        for number in 0..fitting + 7 {
            writer.push(Origin::Own, line(number));
            if number > fitting / 2 {
                writer.push(Origin::Detail, line(0));
            }
        }
        gate.open();
        done(&writer).await;
        let text = gate.text();
        let own: Vec<_> = text[filled * 1000..].lines().collect();
        let is_own = |line: &&&str| !line.starts_with('[');
        assert_eq!(own.iter().filter(is_own).count(), fitting);
        assert!(
            text.ends_with("[15 lines, 15000 bytes]\n"),
            "{:?}",
            own.last()
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_waits_for_a_slow_reader_and_not_for_one_that_does_not_read() {
        let (writer, gate) = writer();
        fill(&writer);
        timeout(LATE, writer.finish(SOON, None))
            .await
            .expect("waits for ever");
        let until = Some(Instant::now() + SOON);
        timeout(LATE, writer.finish(LATE, until))
            .await
            .expect("waits for ever");
        assert_eq!(gate.text(), "");
        gate.open();
        done(&writer).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_has_gone_holds_up_nobody() {
        let (writer, gate) = writer();
        fill(&writer);
        gate.change(|passed| passed.is_gone = true);
        for number in 0..1000 {
            timeout(LATE, writer.output(line(number)))
                .await
                .expect("waits");
        }
        writer.draw(Some("50 %".to_owned()));
        done(&writer).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_footer_is_erased_before_a_line_and_drawn_again_below_it() {
        let (writer, gate) = writer();
        gate.open();
        writer.draw(Some("50 %".to_owned()));
        done(&writer).await;
        writer.push(Origin::Own, b"line\n".to_vec());
        done(&writer).await;
        writer.draw(None);
        done(&writer).await;
        writer.push(Origin::Own, b"last\n".to_vec());
        done(&writer).await;
        assert_eq!(gate.text(), "50 %\r\x1b[Kline\n50 %\r\x1b[Klast\n");
    }
}
