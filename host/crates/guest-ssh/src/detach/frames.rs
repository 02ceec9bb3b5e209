//! What `follow.sh` prints, taken apart in whatever pieces it arrives, and the place from which to go on after a loss.
//!
//! The VM is a stranger here as everywhere: a header is short, a number has bounds, a frame is what a segment can hold.

use bytes::{Buf as _, Bytes};

use crate::command::{Exit, Stream};

/// Lines of one file of the index, as `watch.sh` writes them.
const INDEX_LINES: u64 = 4096;

/// The longest frame that `follow.sh` makes: 192 KiB, and one more piece of 64 KiB.
pub(super) const FRAME_MAX: u64 = 256 * 1024;

/// Longer than any header.
const HEADER_MAX: usize = 128;

/// Where in a stream the last whole frame ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment; none before the first.
    pub(super) segment: Option<u64>,
    /// Bytes of it.
    pub(super) offset: u64,
}

/// What has arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Lines of the index in whole frames.
    pub(super) line: u64,
    /// Both streams.
    pub(super) streams: [Place; 2],
    /// Bytes in whole frames.
    bytes: u64,
    /// Bytes beyond those that have arrived already, and the stream they are of.
    ahead: Option<(usize, u64)>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Position {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What a piece of the answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Output.
    Output(Stream, Bytes),
    /// A file that the VM need not keep any longer.
    Fetched(String),
    /// The program has ended.
    End(Exit),
    /// The program was not started and now never will be.
    Absent,
    /// So many words were heard.
    Heard(u64),
    /// Nobody watches the program any more.
    Gone,
    /// The program cannot be followed any further, and why.
    Fault(String),
}

#[derive(Debug)]
struct Frame {
    stream: usize,
    segment: u64,
    lines: u64,
    length: u64,
    arrived: u64,
}

/// Takes an answer apart.
#[derive(Debug)]
pub(super) struct Frames {
    position: Position,
    /// What is left to be passed over, of which stream.
    skip: Option<(usize, u64)>,
    header: Vec<u8>,
    frame: Option<Frame>,
    /// Bytes of frames, passed over or not.
    pub(super) arrived: u64,
}

impl Frames {
    /// An answer that was asked for from `position` on.
    pub(super) fn new(position: Position) -> Self {
        Self {
            skip: position.ahead,
            position,
            header: Vec::new(),
            frame: None,
            arrived: 0,
        }
    }

    /// The place from which the next follower goes on.
    pub(super) fn position(&self) -> Position {
        let skipping = self.skip.map_or(0, |(_, left)| left);
        let arrived = self.frame.as_ref().map_or(0, |frame| frame.arrived);
        let stream = self.frame.as_ref().map(|frame| frame.stream);
        let ahead = stream
            .or(self.skip.map(|(stream, _)| stream))
            .map(|stream| (stream, skipping + arrived))
            .filter(|(_, bytes)| *bytes > 0);
        Position {
            ahead,
            ..self.position.clone()
        }
    }

    /// Takes what arrived.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn push(
        &mut self,
        mut data: Bytes,
        mut said: impl FnMut(Said),
    ) -> Result<(), String> {
        while !data.is_empty() {
            if self.frame.is_some() {
                self.body(&mut data, &mut said)?;
                continue;
            }
            let end = data.iter().position(|&byte| byte == b'\n');
            let taken = data.split_to(end.map_or(data.len(), |end| end + 1));
            self.header.extend_from_slice(&taken);
            if self.header.len() > HEADER_MAX {
                return Err("it sent a line where a frame was due".to_owned());
            }
            if end.is_some() {
                let header = std::mem::take(&mut self.header);
                self.begin(&header, &mut said)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, header: &[u8], said: &mut impl FnMut(Said)) -> Result<(), String> {
        let strange = || format!("it said `{}`", crate::quote::printable(header.trim_ascii()));
        let text = std::str::from_utf8(header).map_err(|_| strange())?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["absent"] => said(Said::Absent),
            ["gone"] => said(Said::Gone),
            ["heard", count] => {
                let count = count.parse().map_err(|_| strange())?;
                said(Said::Heard(count));
            }
            ["end", "status", status, bytes] => {
                let status = status.parse().map_err(|_| strange())?;
                let bytes = bytes.parse().map_err(|_| strange())?;
                said(self.end(bytes, Exit::Status(status)));
            }
            ["end", how @ ("signal" | "core"), name, bytes] if is_signal(name) => {
                let bytes = bytes.parse().map_err(|_| strange())?;
                let exit = Exit::Signal {
                    name: (*name).to_owned(),
                    core_dumped: *how == "core",
                    message: String::new(),
                };
                said(self.end(bytes, exit));
            }
            ["end", "unknown", ..] => {
                let why = "what waited for the program was killed, so how it ended is not known";
                said(Said::Fault(why.to_owned()));
            }
            ["fault"] => {
                let why = "what it printed could not be written to the VM's disk";
                said(Said::Fault(why.to_owned()));
            }
            [stream @ ("1" | "2"), segment, lines, length] => {
                let number = |word: &str| word.parse::<u64>().map_err(|_| strange());
                let frame = Frame {
                    stream: usize::from(*stream == "2"),
                    segment: number(segment)?,
                    lines: number(lines)?,
                    length: number(length)?,
                    arrived: 0,
                };
                let follows = match self.position.streams[frame.stream].segment {
                    None => frame.segment == 0,
                    Some(segment) => frame.segment == segment || frame.segment == segment + 1,
                };
                // Each line is about a byte at least.
                let fits = (1..=FRAME_MAX).contains(&frame.length)
                    && (1..=frame.length).contains(&frame.lines);
                if !(follows && fits) {
                    return Err(strange());
                }
                self.frame = Some(frame);
            }
            _ => return Err(strange()),
        }
        Ok(())
    }

    /// An end after `bytes` of output in all; worth nothing if some of them are missing.
    fn end(&self, bytes: u64, exit: Exit) -> Said {
        if bytes == self.position.bytes {
            return Said::End(exit);
        }
        Said::Fault(format!(
            "it printed {bytes} bytes, of which {} arrived",
            self.position.bytes
        ))
    }

    fn body(&mut self, data: &mut Bytes, said: &mut impl FnMut(Said)) -> Result<(), String> {
        let Some(frame) = &mut self.frame else {
            return Ok(());
        };
        let left = usize::try_from(frame.length - frame.arrived).unwrap_or(usize::MAX);
        let mut piece = data.split_to(data.len().min(left));
        frame.arrived += piece.len() as u64;
        self.arrived += piece.len() as u64;
        if let Some((stream, to_skip)) = &mut self.skip {
            if *stream != frame.stream {
                return Err("it told another order of its output than before".to_owned());
            }
            let passed = (*to_skip).min(piece.len() as u64);
            piece.advance(usize::try_from(passed).unwrap_or(piece.len()));
            *to_skip -= passed;
            if *to_skip == 0 {
                self.skip = None;
            }
        }
        if !piece.is_empty() {
            let stream = if frame.stream == 0 {
                Stream::Stdout
            } else {
                Stream::Stderr
            };
            said(Said::Output(stream, piece));
        }
        if frame.arrived == frame.length {
            self.complete(said);
        }
        Ok(())
    }

    fn complete(&mut self, said: &mut impl FnMut(Said)) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let place = &mut self.position.streams[frame.stream];
        match place.segment {
            Some(segment) if segment == frame.segment => place.offset += frame.length,
            before => {
                if let Some(segment) = before {
                    said(Said::Fetched(format!("{}.{segment}", frame.stream + 1)));
                }
                *place = Place {
                    segment: Some(frame.segment),
                    offset: frame.length,
                };
            }
        }
        let before = self.position.line / INDEX_LINES;
        self.position.line += frame.lines;
        self.position.bytes += frame.length;
        for file in before..self.position.line / INDEX_LINES {
            said(Said::Fetched(format!("index.{file}")));
        }
    }
}

/// As `kill -l` prints names; also of real-time signals.
fn is_signal(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'-';
    name.len() <= 16 && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &mut Frames, text: &[u8], size: usize) -> Result<Vec<Said>, String> {
        let mut said = Vec::new();
        for piece in text.chunks(size) {
            frames.push(Bytes::copy_from_slice(piece), |item| said.push(item))?;
        }
        Ok(said)
    }

    fn output(said: &[Said]) -> (String, String) {
        let mut texts = (String::new(), String::new());
        for item in said {
            match item {
                Said::Output(Stream::Stdout, data) => texts.0 += std::str::from_utf8(data).unwrap(),
                Said::Output(Stream::Stderr, data) => texts.1 += std::str::from_utf8(data).unwrap(),
                _ => {}
            }
        }
        texts
    }

    const ANSWER: &[u8] = b"1 0 2 5\nab\ncd2 0 1 3\nerr1 0 1 1\n.1 1 1 2\n!!end status 7 11\n";

    #[test]
    fn an_end_without_all_of_the_output_is_a_fault() {
        for end in [
            "end status 0 8\n",
            "end signal KILL 3\n",
            "end core ABRT 0\n",
        ] {
            let mut frames = Frames::new(Position::default());
            let answer = format!("1 0 2 4\nab\nc{end}");
            let said = all(&mut frames, answer.as_bytes(), 5).unwrap();
            assert!(
                matches!(said.last(), Some(Said::Fault(why)) if why.contains("4 arrived")),
                "{said:?}"
            );
        }
    }

    #[test]
    fn an_answer_is_read_in_any_pieces() {
        for size in 1..ANSWER.len() {
            let mut frames = Frames::new(Position::default());
            let said = all(&mut frames, ANSWER, size).unwrap();
            assert_eq!(output(&said), ("ab\ncd.!!".to_owned(), "err".to_owned()));
            assert_eq!(said.last(), Some(&Said::End(Exit::Status(7))));
            assert!(said.contains(&Said::Fetched("1.0".to_owned())));
            let place = |segment, offset| Place {
                segment: Some(segment),
                offset,
            };
            let position = frames.position();
            assert_eq!(
                (position.line, position.streams),
                (5, [place(1, 2), place(0, 3)])
            );
            assert_eq!((position.ahead, frames.arrived), (None, 11));
        }
    }

    /// Wherever the connection breaks, and however the next follower joins what it sends, nothing is lost or repeated.
    #[test]
    fn an_answer_that_breaks_off_is_gone_on_with_at_the_same_byte() {
        for cut in 0..ANSWER.len() {
            let mut frames = Frames::new(Position::default());
            let mut said = all(&mut frames, &ANSWER[..cut], 3).unwrap();
            let position = frames.position();
            let rest: &[u8] = match position.line {
                0 => ANSWER,
                2 => b"2 0 1 3\nerr1 0 1 1\n.1 1 1 2\n!!end status 7 11\n",
                3 => b"1 0 1 1\n.1 1 1 2\n!!end status 7 11\n",
                4 => b"1 1 1 2\n!!end status 7 11\n",
                _ => b"end status 7 11\n",
            };
            // And once more, broken off at once: what was ahead stays ahead.
            let mut frames = Frames::new(position.clone());
            said.extend(all(&mut frames, &rest[..rest.len().min(9)], 2).unwrap());
            let mut frames = Frames::new(frames.position());
            let rest = match frames.position().line {
                line if line == position.line => rest,
                _ => &rest[rest.len().min(9)..],
            };
            said.extend(all(&mut frames, rest, 2).unwrap());
            assert_eq!(
                output(&said),
                ("ab\ncd.!!".to_owned(), "err".to_owned()),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let mut long = vec![b'1'; 200];
        long.push(b'\n');
        for wrong in [
            &b"hello\n"[..],
            b"3 0 1 1\n",
            b"1 1 1 1\n",
            b"1 0 0 1\n",
            b"1 0 2 1\n",
            b"1 0 1 0\n",
            b"1 0 1 262145\n",
            b"1 0 1 99999999999999999999\n",
            b"1 0 1 -1\n",
            b"end status -1 0\n",
            b"end status 0\n",
            b"heard\n",
            b"heard -1\n",
            b"end status 0 -1\n",
            b"end signal \x1b[2J 0\n",
            b"\xff\n",
            &long,
        ] {
            let mut frames = Frames::new(Position::default());
            assert!(all(&mut frames, wrong, 7).is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_vm_sends_no_more_comes_out_than_went_in(pieces: Vec<Vec<u8>>, headers in "([12] [0-9] [0-9] [0-9]\n|end status [0-9] [0-9]\n|heard [0-9]\n|[a-z]{0,5}){0,9}") {
            let mut frames = Frames::new(Position::default());
            let (mut given, mut got) = (0, 0);
            for piece in [headers.into_bytes()].into_iter().chain(pieces) {
                given += piece.len();
                let pushed = frames.push(piece.into(), |said| if let Said::Output(_, data) = said {
                    got += data.len();
                });
                if pushed.is_err() {
                    break;
                }
            }
            assert!(got <= given);
            let _ = Frames::new(frames.position());
        }
    }

    #[test]
    fn another_order_after_a_break_is_noticed() {
        let mut frames = Frames::new(Position::default());
        all(&mut frames, b"1 0 1 5\nab", 4).unwrap();
        let mut frames = Frames::new(frames.position());
        assert!(all(&mut frames, b"2 0 1 5\nabcde", 4).is_err());
    }

    #[test]
    fn files_of_the_index_are_given_back_as_they_fill() {
        let mut frames = Frames::new(Position::default());
        let said = all(
            &mut frames,
            &[b"1 0 8193 9000\n".to_vec(), vec![b'x'; 9000]].concat(),
            999,
        )
        .unwrap();
        let fetched: Vec<_> = said
            .iter()
            .filter(|item| matches!(item, Said::Fetched(_)))
            .collect();
        assert_eq!(
            fetched,
            [
                &Said::Fetched("index.0".to_owned()),
                &Said::Fetched("index.1".to_owned())
            ]
        );
    }
}
