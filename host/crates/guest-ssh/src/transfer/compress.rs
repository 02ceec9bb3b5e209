//! Compression where it pays: the first seconds of a transfer are the measurement.
//!
//! A transfer starts plain. If after [`MEASURE`] the link has proved slow, what passed last is compressed as a sample, and
//! if the rest would be through sooner that way the transfer is begun again with `gzip` at both ends (stock on macOS and
//! Linux alike). A fast link costs nothing but a look at the clock, and packed data stays as it is. SSH's own
//! `zlib@openssh.com` would have to be agreed on before anything is known, for every byte of every command.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::archive::PieceReader;
use super::pack::PieceWriter;
use super::{Compress, PIPE_PIECES};

/// How long a link is watched before it is judged.
const MEASURE: Duration = Duration::from_millis(1500);

/// Bytes after which a link that was slow before is judged again.
const MEASURE_KNOWN: u64 = 1024 * 1024;

/// Bytes a second that `gzip -1` manages even on an old Mac, and we with it. A faster link is left alone.
const GZIP_RATE: f64 = 60e6;

/// How much sooner the rest has to be through for a fresh start to be worth it.
const GAIN_MIN: f64 = 1.25;

/// Pieces kept as a sample.
const SAMPLE_PIECES: usize = 8;

/// What became of the question.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Go on as it is.
    GoOn,
    /// Begin again, compressed; the note says why.
    Restart(String),
}

/// Watches a plain transfer.
pub(super) struct Pace {
    watching: bool,
    known_slow: bool,
    started: Option<Instant>,
    passed: u64,
    sample: VecDeque<Bytes>,
    /// Bytes a second, once measured.
    pub(super) rate: Option<f64>,
    pub(super) note: Option<String>,
}

impl Pace {
    /// `before` is the rate that an earlier transfer measured.
    pub(super) fn new(compress: Compress, gzip: bool, before: Option<f64>) -> Self {
        Self {
            watching: compress == Compress::Auto && gzip,
            known_slow: before.is_some_and(|rate| rate * GAIN_MIN < GZIP_RATE),
            started: None,
            passed: 0,
            sample: VecDeque::new(),
            rate: before,
            note: None,
        }
    }

    /// Takes note of a piece that was sent, or came, at `now`.
    pub(super) fn passed(&mut self, piece: &Bytes, now: Instant) -> Verdict {
        if !self.watching {
            return Verdict::GoOn;
        }
        let started = *self.started.get_or_insert(now);
        self.passed += piece.len() as u64;
        if self.sample.len() == SAMPLE_PIECES {
            self.sample.pop_front();
        }
        self.sample.push_back(piece.clone());
        let elapsed = now - started;
        if elapsed < MEASURE && !(self.known_slow && self.passed >= MEASURE_KNOWN) {
            return Verdict::GoOn;
        }
        self.watching = false;
        if elapsed >= MEASURE {
            self.rate = Some(self.passed as f64 / elapsed.as_secs_f64());
        }
        let sample: Vec<Bytes> = self.sample.drain(..).collect();
        let Some(rate) = self.rate.filter(|rate| rate * GAIN_MIN < GZIP_RATE) else {
            return Verdict::GoOn;
        };
        let ratio = ratio(&sample);
        let measured = format!(
            "the link carried {:.1} MB/s and a sample shrank to {:.0} %",
            rate / 1e6,
            ratio * 100.0
        );
        if rate * GAIN_MIN < (rate / ratio.max(0.001)).min(GZIP_RATE) {
            Verdict::Restart(format!("compressed with gzip: {measured}"))
        } else {
            self.note = Some(format!("not compressed: {measured}"));
            Verdict::GoOn
        }
    }
}

/// Compresses what is in memory.
pub(super) fn at_once(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

fn ratio(sample: &[Bytes]) -> f64 {
    let size: usize = sample.iter().map(Bytes::len).sum();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = sample
        .iter()
        .try_for_each(|piece| encoder.write_all(piece))
        .and_then(|()| encoder.finish());
    packed.map_or(1.0, |packed| packed.len() as f64 / size.max(1) as f64)
}

/// Compresses what comes, on a thread of its own. The thread ends when either side does.
pub(super) fn packed(plain: mpsc::Receiver<Bytes>) -> mpsc::Receiver<Bytes> {
    let (pieces, queue) = mpsc::channel(PIPE_PIECES);
    tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(PieceWriter::new(pieces), Compression::fast());
        let packed = io::copy(&mut PieceReader::new(plain), &mut encoder)
            .and_then(|_| encoder.finish())
            .and_then(|mut rest| rest.flush());
        if let Err(problem) = packed {
            tracing::debug!(%problem, "compression ended early");
        }
    });
    queue
}

/// Expands what comes, on a thread of its own. Damage ends the stream early, which its reader notices.
pub(super) fn expanded(packed: mpsc::Receiver<Bytes>) -> mpsc::Receiver<Bytes> {
    let (pieces, queue) = mpsc::channel(PIPE_PIECES);
    tokio::task::spawn_blocking(move || {
        let mut decoder = MultiGzDecoder::new(PieceReader::new(packed));
        let mut writer = PieceWriter::new(pieces);
        let expanded = pour(&mut decoder, &mut writer);
        // What was good is passed on first, so that the entry at fault is known.
        if let Err(problem) = expanded.and(writer.flush()) {
            tracing::debug!(%problem, "a compressed stream is damaged or nobody wants it");
        }
    });
    queue
}

fn pour(from: &mut impl Read, to: &mut PieceWriter) -> io::Result<()> {
    let outcome = io::copy(from, to).map(drop);
    to.flush()?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(compressible: bool) -> Bytes {
        let mut bytes = vec![0_u8; 64 * 1024];
        if !compressible {
            rand::fill(&mut bytes[..]);
        }
        bytes.into()
    }

    fn judged(piece_each: Duration, compressible: bool) -> (Verdict, Pace) {
        let mut pace = Pace::new(Compress::Auto, true, None);
        let started = Instant::now();
        for count in 0..4000 {
            let verdict = pace.passed(&piece(compressible), started + piece_each * count);
            if verdict != Verdict::GoOn {
                return (verdict, pace);
            }
        }
        (Verdict::GoOn, pace)
    }

    #[test]
    fn only_a_slow_link_and_compressible_data_are_worth_it() {
        let (slow, fast) = (Duration::from_millis(50), Duration::from_micros(600));
        let (verdict, _) = judged(slow, true);
        assert!(matches!(verdict, Verdict::Restart(_)), "{verdict:?}");
        let (verdict, pace) = judged(slow, false);
        assert_eq!(verdict, Verdict::GoOn);
        assert!(
            pace.note
                .unwrap()
                .starts_with("not compressed: the link carried 1.")
        );
        let (verdict, pace) = judged(fast, true);
        assert_eq!((verdict, pace.note), (Verdict::GoOn, None));
    }

    #[test]
    fn a_link_known_to_be_slow_is_judged_after_a_mebibyte() {
        let mut pace = Pace::new(Compress::Auto, true, Some(1e6));
        let now = Instant::now();
        let pieces = (0..100).take_while(|_| pace.passed(&piece(true), now) == Verdict::GoOn);
        assert_eq!(pieces.count(), 15);
    }

    #[test]
    fn nothing_is_judged_without_gzip_or_against_the_callers_wish() {
        for (compress, gzip) in [(Compress::Auto, false), (Compress::Never, true)] {
            let mut pace = Pace::new(compress, gzip, Some(1.0));
            let now = Instant::now();
            assert!((0..100).all(|_| pace.passed(&piece(true), now) == Verdict::GoOn));
        }
    }

    #[tokio::test]
    async fn a_stream_survives_the_way_there_and_back() {
        let (send, plain) = mpsc::channel(PIPE_PIECES);
        let mut there_and_back = expanded(packed(plain));
        let sent = [piece(true), piece(false)].concat();
        let bytes = Bytes::from(sent.clone());
        tokio::spawn(async move { send.send(bytes).await });
        let mut got = Vec::new();
        while let Some(piece) = there_and_back.recv().await {
            got.extend_from_slice(&piece);
        }
        assert!(got == sent);
    }
}
