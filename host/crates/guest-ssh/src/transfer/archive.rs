//! Reading a tar stream from a stranger.
//!
//! A library's reader trusts sizes of long-name records and merges headers as it sees fit; here each header is looked at
//! before a byte of it is believed. Formats: ustar, GNU (long names, long links) and pax, as GNU tar and
//! libarchive write them (POSIX.1-2024, `pax`; GNU tar manual, "Standard Format").

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::header::Stamp;
use crate::quote::printable;

/// The unit of a tar stream.
pub(super) const BLOCK: usize = 512;

/// The longest name record. Longer than any path that can be created on macOS or Linux.
const NAME_MAX: u64 = 64 * 1024;

/// The longest pax record. macOS's `tar` can put extended attributes there, which we pass over.
const PAX_MAX: u64 = 4 * 1024 * 1024;

/// Ranges of data in one file with holes.
const RANGES_MAX: u64 = 1024 * 1024;

/// The largest size believed: far above any file, far below where sums could overflow.
const SIZE_MAX: u64 = 1 << 60;

/// The most descriptions (long names, pax records) ahead of one entry. Both kinds of `tar` write three at most; without a
/// limit they could go on for ever without an entry to count.
const RECORDS_MAX: u32 = 16;

/// What may follow the end mark: `tar` fills its last record, of 32 KiB as we start it.
const TRAILER_MAX: u64 = 1024 * 1024;

/// Why a stream is not read on: the entry at fault and the reason.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) entry: Vec<u8>,
    pub(super) reason: String,
    pub(super) source: Option<io::Error>,
}

impl Fault {
    fn new(entry: &[u8], reason: impl Into<String>) -> Self {
        Self {
            entry: entry.to_vec(),
            reason: reason.into(),
            source: None,
        }
    }
}

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
}

/// An entry's description. `size` bytes follow for a file; none for the rest.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: Stamp,
}

/// The stream, one member at a time.
pub(super) struct Reader<R> {
    inner: R,
    /// Bytes of the current member's contents and padding not read yet.
    contents: u64,
    padding: u64,
    last: Vec<u8>,
    /// Where the current member has data, if it has holes.
    sparse: Option<Sparse>,
}

/// A file with holes, on its way.
struct Sparse {
    /// Offset and length of the ranges to come, ascending.
    ranges: VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
}

impl Sparse {
    /// Bytes of zeros from here to the next data or the end.
    fn hole(&self) -> u64 {
        self.ranges.front().map_or(self.size, |range| range.0) - self.at
    }

    /// Takes note that data was read.
    fn advance(&mut self, count: u64) {
        self.at += count;
        if let Some(range) = self.ranges.front_mut() {
            *range = (range.0 + count, range.1 - count);
            if range.1 == 0 {
                self.ranges.pop_front();
            }
        }
    }
}

/// What extension records said about the member to come.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Stamp>,
    /// GNU's sparse format 1.0, as both GNU tar and bsdtar write it in pax archives.
    sparse_version: (Option<u64>, Option<u64>),
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            contents: 0,
            padding: 0,
            last: b"the start".to_vec(),
            sparse: None,
        }
    }

    /// The next member, or [`None`] at the end mark. Contents of the one before are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Fault> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        for _ in 0..=RECORDS_MAX {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            let size = header
                .entry_size()
                .map_err(|problem| self.fault(format!("its header is damaged: {problem}")))?;
            if is_out_of_range(&header.as_old().size) {
                return Err(self.fault("what follows it has a size that is not possible"));
            }
            match kind.as_byte() {
                b'L' => extensions.path = Some(self.name_record(size)?),
                b'K' => extensions.link = Some(self.name_record(size)?),
                b'x' => self.pax_record(size, &mut extensions)?,
                // Global records carry comments in practice; nothing they may say is believed for every member at once.
                b'g' => drop(self.record(size, PAX_MAX)?),
                _ => return self.member(&header, kind, size, extensions).map(Some),
            }
        }
        Err(self.fault("what follows it has too many descriptions"))
    }

    /// Reads the current member's contents; 0 at their end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if let hole @ 1.. = self.hole() {
            let count = buffer
                .len()
                .min(usize::try_from(hole).unwrap_or(usize::MAX));
            buffer[..count].fill(0);
            self.pass_hole(count as u64);
            return Ok(count);
        }
        let filled = self.fill()?;
        let count = buffer.len().min(filled.len());
        buffer[..count].copy_from_slice(&filled[..count]);
        self.consume(count);
        Ok(count)
    }

    /// What has come of the current member's contents, without a copy of it; empty at their end. What was used of it is
    /// told by [`Self::consume`]. Only where no hole is next.
    pub(super) fn fill(&mut self) -> Result<&[u8], Fault> {
        let wanted = self.next_data();
        if wanted == 0 {
            return Ok(&[]);
        }
        let is_end = match self.inner.fill_buf() {
            Ok(filled) => filled.is_empty(),
            Err(problem) => return Err(self.read_fault(problem)),
        };
        if is_end {
            return Err(self.fault("the stream ends in the middle of it"));
        }
        let filled = self.inner.fill_buf().unwrap_or_default();
        let count = usize::try_from(wanted).map_or(filled.len(), |most| most.min(filled.len()));
        Ok(&filled[..count])
    }

    /// Goes past so many of the bytes that [`Self::fill`] gave.
    pub(super) fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.contents -= count as u64;
        if let Some(sparse) = &mut self.sparse {
            sparse.advance(count as u64);
        }
    }

    /// Bytes of data up to the next hole or the end of the contents.
    fn next_data(&self) -> u64 {
        let range = self.sparse.as_ref().map_or(u64::MAX, |sparse| {
            sparse.ranges.front().map_or(0, |range| range.1)
        });
        self.contents.min(range)
    }

    /// Bytes of zeros that come next, of which [`Self::read`] would give as many as asked for; 0 where data comes next.
    pub(super) fn hole(&self) -> u64 {
        self.sparse.as_ref().map_or(0, Sparse::hole)
    }

    /// Passes over part of a hole.
    pub(super) fn pass_hole(&mut self, count: u64) {
        if let Some(sparse) = &mut self.sparse {
            sparse.at += count.min(sparse.hole());
        }
    }

    /// Reads what follows the end mark, which must be little.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        let left = io::copy(
            &mut self.inner.by_ref().take(TRAILER_MAX + 1),
            &mut io::sink(),
        );
        match left {
            Ok(count) if count > TRAILER_MAX => {
                Err(self.fault("the stream goes on after its end mark"))
            }
            Ok(_) => Ok(()),
            Err(problem) => Err(self.read_fault(problem)),
        }
    }

    fn member(
        &mut self,
        header: &tar::Header,
        kind: tar::EntryType,
        header_size: u64,
        extensions: Extensions,
    ) -> Result<Member, Fault> {
        let path = extensions
            .sparse_name
            .or(extensions.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.last.clone_from(&path);
        let kind = match kind.as_byte() {
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory, // As pre-POSIX archives say it.
            b'0' | b'\0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'5' => Kind::Directory,
            b'3' | b'4' => return Err(self.fault("it is a device")),
            b'6' => return Err(self.fault("it is a pipe")),
            b'S' => return Err(self.fault("it is a sparse file in a form that is not read")),
            other => {
                return Err(self.fault(format!(
                    "its type `{}` is unknown",
                    char::from(other).escape_default()
                )));
            }
        };
        let size = extensions.size.unwrap_or(header_size);
        if size > SIZE_MAX {
            return Err(self.fault("its size is not possible"));
        }
        if kind != Kind::File && size != 0 {
            return Err(self.fault("it is no file and yet has contents"));
        }
        self.contents = size;
        self.padding = padding(size);
        let size = match extensions.sparse_version {
            (None, None) => size,
            (Some(1), Some(0)) if kind == Kind::File => {
                let real = extensions
                    .sparse_size
                    .filter(|&size| size <= SIZE_MAX)
                    .ok_or_else(|| self.fault("it is a sparse file of no proper size"))?;
                self.sparse_map(real)?;
                real
            }
            _ => return Err(self.fault("it is a sparse file in a form that is not read")),
        };
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let mode = header
            .mode()
            .map_err(|problem| self.fault(format!("its mode is damaged: {problem}")))?;
        // A time before 1970 comes as a huge number; such a file is as good as undated.
        let header_time = header
            .mtime()
            .ok()
            .and_then(|time| i64::try_from(time).ok())
            .unwrap_or(0);
        Ok(Member {
            kind,
            path,
            link,
            size,
            mode,
            mtime: extensions.mtime.unwrap_or(Stamp {
                seconds: header_time,
                nanos: 0,
            }),
        })
    }

    /// Reads the map ahead of a sparse file's data: the number of ranges, then offset and length of each, a line each,
    /// filled up to a whole block (GNU tar manual, "PAX Format, Version 1.0").
    fn sparse_map(&mut self, size: u64) -> Result<(), Fault> {
        let mut block = [0; BLOCK];
        let mut used = BLOCK;
        let count = self.map_number(&mut block, &mut used)?;
        if count > RANGES_MAX {
            return Err(self.fault("it is a sparse file of too many parts"));
        }
        let mut sparse = Sparse {
            ranges: VecDeque::new(),
            at: 0,
            size,
        };
        let (mut end, mut stored) = (0, 0);
        for _ in 0..count {
            let offset = self.map_number(&mut block, &mut used)?;
            let length = self.map_number(&mut block, &mut used)?;
            let next = offset.checked_add(length).filter(|&next| next <= size);
            match next {
                Some(next) if offset >= end => end = next,
                _ => return Err(self.fault("it is a sparse file whose parts do not fit together")),
            }
            stored += length;
            // The last one may be empty: it says where the file ends.
            if length > 0 {
                sparse.ranges.push_back((offset, length));
            }
        }
        if stored != self.contents {
            return Err(self.fault("it is a sparse file with more or less data than it says"));
        }
        self.sparse = Some(sparse);
        Ok(())
    }

    fn map_number(&mut self, block: &mut [u8; BLOCK], used: &mut usize) -> Result<u64, Fault> {
        let mut digits = Vec::new();
        loop {
            if *used == BLOCK {
                if self.contents < BLOCK as u64 {
                    return Err(self.fault("it is a sparse file without a proper map"));
                }
                self.inner
                    .read_exact(block)
                    .map_err(|problem| self.read_fault(problem))?;
                self.contents -= BLOCK as u64;
                *used = 0;
            }
            let byte = block[*used];
            *used += 1;
            match byte {
                b'\n' => break,
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(self.fault("it is a sparse file without a proper map")),
            }
        }
        number(&digits).ok_or_else(|| self.fault("it is a sparse file without a proper map"))
    }

    fn header(&mut self) -> Result<Option<tar::Header>, Fault> {
        let mut block = [0; BLOCK];
        self.inner
            .read_exact(&mut block)
            .map_err(|problem| self.read_fault(problem))?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        // POSIX: the sum of the header's bytes, with the checksum field read as spaces.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(byte)
                }
            })
            .sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(self.fault("what follows it is not a tar header")),
        }
    }

    fn name_record(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let mut name = self.record(size, NAME_MAX)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn record(&mut self, size: u64, size_max: u64) -> Result<Vec<u8>, Fault> {
        if size > size_max {
            return Err(self.fault(format!("what follows it has a description of {size} bytes")));
        }
        let mut record = vec![0; usize::try_from(size).unwrap_or(0)];
        self.inner
            .read_exact(&mut record)
            .map_err(|problem| self.read_fault(problem))?;
        self.padding = padding(size);
        self.skip_rest()?;
        Ok(record)
    }

    fn pax_record(&mut self, size: u64, extensions: &mut Extensions) -> Result<(), Fault> {
        let record = self.record(size, PAX_MAX)?;
        for extension in tar::PaxExtensions::new(&record) {
            let extension =
                extension.map_err(|_| self.fault("what follows it has a damaged description"))?;
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => {
                    extensions.size = Some(
                        number(value)
                            .ok_or_else(|| self.fault("what follows it has no proper size"))?,
                    )
                }
                b"mtime" => extensions.mtime = Stamp::parse(value),
                b"GNU.sparse.major" => extensions.sparse_version.0 = number(value),
                b"GNU.sparse.minor" => extensions.sparse_version.1 = number(value),
                b"GNU.sparse.name" => extensions.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => extensions.sparse_size = number(value),
                key if key.starts_with(b"GNU.sparse.") => {
                    let message = "what follows it is a sparse file in a form that is not read";
                    return Err(self.fault(message));
                }
                // Owners, access times, attributes: not kept.
                _ => {}
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        let rest = self.contents + self.padding;
        (self.contents, self.padding) = (0, 0);
        self.sparse = None;
        match io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink()) {
            Ok(count) if count == rest => Ok(()),
            Ok(_) => Err(self.fault("the stream ends in the middle of it")),
            Err(problem) => Err(self.read_fault(problem)),
        }
    }

    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::new(&self.last, reason)
    }

    fn read_fault(&self, problem: io::Error) -> Fault {
        if problem.kind() == io::ErrorKind::UnexpectedEof {
            return self.fault("the stream ends after it, without an end mark");
        }
        Fault {
            source: Some(problem),
            ..self.fault("the stream cannot be read on")
        }
    }
}

/// Whether a number in base 256 (GNU's way to write large ones) has more than 64 bits, or a sign. The library reads the
/// last eight bytes only.
fn is_out_of_range(field: &[u8; 12]) -> bool {
    field[0] & 0x80 != 0 && (field[0] != 0x80 || field[1..4] != [0; 3])
}

fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn number(text: &[u8]) -> Option<u64> {
    // The library would take a sign.
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The receiving end of a pipe from the channel, as a blocking reader.
pub(super) struct PieceReader {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl PieceReader {
    pub(super) fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
        }
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => break,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece.advance(count);
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.fill_buf()?;
        let count = filled.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", printable(&self.entry), self.reason)
    }
}
