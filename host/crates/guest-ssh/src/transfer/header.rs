//! Writing tar members in the one dialect that GNU tar and libarchive both read byte for byte.
//!
//! Names stay in GNU records, because those are bytes: pax wants UTF-8, and bsdtar in the C locale refuses what it cannot
//! convert. Times get a pax record where they have a fraction, holes the old GNU map (GNU tar manual, "Standard Format"
//! and "Storing Sparse Files"; libarchive reads both).

use std::io::{self, Write};

use super::archive::BLOCK;

/// The name GNU tar gives to records with long names.
const LONG_LINK: &[u8] = b"././@LongLink";

/// The name of a record that only carries a pax extension.
const EXTENSION: &[u8] = b"././@PaxHeader";

/// Ranges of a sparse file that fit into its first header.
const SPARSE_IN_HEADER: usize = 4;

/// Ranges in each block that continues the map.
const SPARSE_IN_BLOCK: usize = 21;

/// A moment, as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Whole seconds since 1970.
    pub(super) seconds: i64,
    /// Nanoseconds on top.
    pub(super) nanos: u32,
}

impl Stamp {
    /// The same moment as far as both can tell: a side without fractions is compared by whole seconds.
    pub(super) fn matches(self, other: Self) -> bool {
        self.seconds == other.seconds
            && (self.nanos == 0 || other.nanos == 0 || self.nanos == other.nanos)
    }

    /// Reads `seconds` or `seconds.fraction`.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut nanos = 0;
        for place in 0..9 {
            let digit = fraction
                .as_bytes()
                .get(place)
                .map_or(0, |digit| digit - b'0');
            nanos = nanos * 10 + u32::from(digit);
        }
        let mut seconds: i64 = whole.parse().ok()?;
        // The fraction of a time before 1970 counts downwards.
        if whole.starts_with('-') && nanos > 0 {
            seconds = seconds.checked_sub(1)?;
            nanos = 1_000_000_000 - nanos;
        }
        Some(Self { seconds, nanos })
    }
}

/// Where a sparse file holds data: offset and length, ascending.
pub(super) type Extents = Vec<(u64, u64)>;

/// What goes ahead of a member's contents.
pub(super) struct Outgoing<'a> {
    pub(super) kind: tar::EntryType,
    pub(super) path: &'a [u8],
    /// Where a symbolic link leads; empty otherwise.
    pub(super) link: &'a [u8],
    /// Bytes of the file, holes included.
    pub(super) size: u64,
    /// Where the data is, of a file with holes.
    pub(super) extents: Option<&'a Extents>,
    pub(super) mode: u32,
    pub(super) mtime: Stamp,
}

impl Outgoing<'_> {
    /// Bytes of contents that follow in the stream, padding aside.
    fn stored(&self) -> u64 {
        self.extents
            .map_or(self.size, |extents| extents.iter().map(|part| part.1).sum())
    }

    /// Writes headers and records; contents and [`pad`] come next.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        let room = old.name.len();
        if self.path.len() > room {
            record(
                out,
                tar::EntryType::GNULongName,
                LONG_LINK,
                &[self.path, b"\0"],
            )?;
        }
        if self.link.len() > room {
            record(
                out,
                tar::EntryType::GNULongLink,
                LONG_LINK,
                &[self.link, b"\0"],
            )?;
        }
        // Beside a record the header holds the beginning too: without it bsdtar takes a link for an empty file.
        let shown = &self.path[..self.path.len().min(room)];
        old.name[..shown.len()].copy_from_slice(shown);
        let shown = &self.link[..self.link.len().min(room)];
        old.linkname[..shown.len()].copy_from_slice(shown);
        if self.mtime.nanos > 0 && self.mtime.seconds >= 0 {
            let time = format!("{}.{:09}", self.mtime.seconds, self.mtime.nanos);
            record(
                out,
                tar::EntryType::XHeader,
                EXTENSION,
                &[pax("mtime", &time).as_bytes()],
            )?;
        }
        header.set_entry_type(self.kind);
        header.set_size(self.stored());
        header.set_mode(self.mode & 0o777);
        header.set_mtime(self.mtime.seconds.max(0).unsigned_abs());
        header.set_uid(0);
        header.set_gid(0);
        let Some(extents) = self.extents else {
            header.set_cksum();
            return out.write_all(header.as_bytes());
        };
        // The map ends with an empty range at the end of the file, so that a trailing hole is known.
        let mut map: Vec<_> = extents.clone();
        map.push((self.size, 0));
        header.set_entry_type(tar::EntryType::GNUSparse);
        let (first, more) = map.split_at(map.len().min(SPARSE_IN_HEADER));
        if let Some(gnu) = header.as_gnu_mut() {
            for (slot, &(offset, length)) in gnu.sparse.iter_mut().zip(first) {
                number(&mut slot.offset, offset);
                number(&mut slot.numbytes, length);
            }
            gnu.isextended[0] = u8::from(!more.is_empty());
            number(&mut gnu.realsize, self.size);
        }
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        let mut blocks = more.chunks(SPARSE_IN_BLOCK).peekable();
        while let Some(ranges) = blocks.next() {
            let mut block = tar::GnuExtSparseHeader::new();
            for (slot, &(offset, length)) in block.sparse.iter_mut().zip(ranges) {
                number(&mut slot.offset, offset);
                number(&mut slot.numbytes, length);
            }
            block.isextended[0] = u8::from(blocks.peek().is_some());
            out.write_all(block.as_bytes())?;
        }
        Ok(())
    }
}

/// Fills the last block of contents.
pub(super) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let left = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    out.write_all(&[0; BLOCK][..usize::try_from(left).unwrap_or(0)])
}

/// Ends the archive.
pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn record(
    out: &mut impl Write,
    kind: tar::EntryType,
    name: &[u8],
    body: &[&[u8]],
) -> io::Result<()> {
    let size = body.iter().map(|part| part.len() as u64).sum();
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    for part in body {
        out.write_all(part)?;
    }
    pad(out, size)
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    format!("{length} {key}={value}\n")
}

/// Octal where it fits, else GNU's base 256.
fn number(field: &mut [u8; 12], value: u64) {
    if value < 1 << 33 {
        field.copy_from_slice(format!("{value:011o}\0").as_bytes());
    } else {
        *field = [0; 12];
        field[4..].copy_from_slice(&value.to_be_bytes());
        field[0] = 0x80;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_itself() {
        assert_eq!(pax("mtime", "1.5"), "13 mtime=1.5\n");
        let long = pax("mtime", &"1".repeat(89));
        assert_eq!(long.len().to_string(), long.split(' ').next().unwrap());
    }

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let stamp = |seconds, nanos| Some(Stamp { seconds, nanos });
        assert_eq!(Stamp::parse(b"12"), stamp(12, 0));
        assert_eq!(Stamp::parse(b"12.5"), stamp(12, 500_000_000));
        assert_eq!(Stamp::parse(b"12.1234567890"), stamp(12, 123_456_789));
        assert_eq!(Stamp::parse(b"-1.25"), stamp(-2, 750_000_000));
        assert_eq!(Stamp::parse(b"1.-5"), None);
        assert_eq!(Stamp::parse(b"x"), None);
    }

    #[test]
    fn a_side_without_fractions_is_compared_by_seconds() {
        let stamp = |nanos| Stamp { seconds: 7, nanos };
        assert!(stamp(5).matches(stamp(0)) && stamp(5).matches(stamp(5)));
        assert!(!stamp(5).matches(stamp(6)));
    }
}
