//! Version 3 of SFTP as bytes (draft-ietf-secsh-filexfer-02, and OpenSSH's `PROTOCOL` for what differs).
//!
//! Names are bytes here; `russh-sftp` has them as UTF-8 text, in which a Linux guest's names do not all fit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::transfer::header::Stamp;

/// The longest packet taken from a server. OpenSSH's own client takes as much.
const PACKET_MAX: usize = 256 * 1024;

/// What follows the data in the longest write or ahead of it in the longest answer to a read.
pub(super) const DATA_MAX: usize = PACKET_MAX - 1024;

/// The most names taken in one answer. OpenSSH gives a hundred, others what fits into 32 KiB; here each takes more memory
/// than the fewest bytes it can be sent in.
const NAMES_MAX: usize = 8192;

pub(super) const INIT: u8 = 1;
const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
pub(super) const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

pub(super) const READ_FLAG: u32 = 1;
pub(super) const WRITE_FLAG: u32 = 2;
pub(super) const CREATE_FLAG: u32 = 8;
pub(super) const EXCLUSIVE_FLAG: u32 = 32;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 0x8000_0000;

pub(super) const OK: u32 = 0;
pub(super) const END_OF_FILE: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;

/// What is wrong with bytes from a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The versions it speaks, and extensions by name and value.
    Version(Vec<(Bytes, Bytes)>),
    Status {
        code: u32,
        message: Bytes,
    },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<(Bytes, Attributes)>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// What is known of a file; absent where the server does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// With the file's kind in the upper bits, as `st_mode`.
    pub(super) mode: Option<u32>,
    /// Whole seconds are all there is.
    pub(super) mtime: Option<u32>,
}

impl Attributes {
    pub(super) fn of(mode: u32, mtime: Option<Stamp>) -> Self {
        Self {
            size: None,
            mode: Some(mode & 0o777),
            mtime: mtime.map(|mtime| u32::try_from(mtime.seconds.max(0)).unwrap_or(u32::MAX)),
        }
    }

    pub(super) fn put(&self, body: &mut BytesMut) {
        let mut flags = 0;
        flags |= if self.mode.is_some() { HAS_MODE } else { 0 };
        flags |= if self.mtime.is_some() { HAS_TIMES } else { 0 };
        body.put_u32(flags);
        if let Some(mode) = self.mode {
            body.put_u32(mode);
        }
        if let Some(mtime) = self.mtime {
            // Access and modification.
            body.put_u32(mtime);
            body.put_u32(mtime);
        }
    }

    fn take(body: &mut Bytes) -> Result<Self, Malformed> {
        let flags = u32_from(body)?;
        let mut attributes = Self::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(u64_from(body)?);
        }
        if flags & HAS_OWNER != 0 {
            u64_from(body)?;
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(u32_from(body)?);
        }
        if flags & HAS_TIMES != 0 {
            u32_from(body)?;
            attributes.mtime = Some(u32_from(body)?);
        }
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..u32_from(body)? {
                string_from(body)?;
                string_from(body)?;
            }
        }
        Ok(attributes)
    }
}

pub(super) fn put_string(body: &mut BytesMut, text: &[u8]) {
    body.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    body.put_slice(text);
}

fn u32_from(body: &mut Bytes) -> Result<u32, Malformed> {
    if body.len() < 4 {
        return Err(Malformed("a packet ends in the middle of a number"));
    }
    Ok(body.get_u32())
}

pub(super) fn u64_from(body: &mut Bytes) -> Result<u64, Malformed> {
    if body.len() < 8 {
        return Err(Malformed("a packet ends in the middle of a number"));
    }
    Ok(body.get_u64())
}

fn string_from(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = usize::try_from(u32_from(body)?).unwrap_or(usize::MAX);
    if body.len() < length {
        return Err(Malformed("a packet ends in the middle of a text"));
    }
    Ok(body.split_to(length))
}

/// Reads a packet's body: which request it answers, if any, and what it says.
pub(super) fn parse(mut body: Bytes) -> Result<(Option<u32>, Reply), Malformed> {
    if body.is_empty() {
        return Err(Malformed("a packet is empty"));
    }
    let kind = body.get_u8();
    if kind == VERSION {
        u32_from(&mut body)?;
        let mut extensions = Vec::new();
        while !body.is_empty() {
            extensions.push((string_from(&mut body)?, string_from(&mut body)?));
        }
        return Ok((None, Reply::Version(extensions)));
    }
    let id = Some(u32_from(&mut body)?);
    let reply = match kind {
        STATUS => Reply::Status {
            code: u32_from(&mut body)?,
            // Servers of older versions say no more.
            message: string_from(&mut body).unwrap_or_default(),
        },
        HANDLE => Reply::Handle(string_from(&mut body)?),
        DATA => Reply::Data(string_from(&mut body)?),
        NAME => {
            let mut names = Vec::new();
            // The count is not trusted with memory; each name takes bytes of the packet.
            for _ in 0..u32_from(&mut body)? {
                if names.len() == NAMES_MAX {
                    return Err(Malformed("a packet holds too many names"));
                }
                let name = string_from(&mut body)?;
                string_from(&mut body)?;
                names.push((name, Attributes::take(&mut body)?));
            }
            Reply::Names(names)
        }
        ATTRS => Reply::Attributes(Attributes::take(&mut body)?),
        EXTENDED_REPLY => Reply::Extended(body),
        _ => return Err(Malformed("a packet is of no kind a server sends")),
    };
    Ok((id, reply))
}

/// Packets out of a stream that comes in any pieces.
#[derive(Default)]
pub(super) struct Packets(BytesMut);

impl Packets {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// The body of the next packet that is there in whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(length) = self.0.first_chunk() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > PACKET_MAX {
            return Err(Malformed("a packet claims to be too long"));
        }
        if self.0.len() < 4 + length {
            self.0.reserve(4 + length - self.0.len());
            return Ok(None);
        }
        self.0.advance(4);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

/// Reads any bytes as a server's packets.
///
/// # Panics
///
/// If more is held of them than came.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::transfer) fn read_anything<'a>(pieces: impl Iterator<Item = &'a [u8]>) {
    let mut packets = Packets::default();
    for piece in pieces {
        packets.push(piece);
        loop {
            let body = match packets.next() {
                Ok(Some(body)) => body,
                Ok(None) => break,
                Err(_) => return,
            };
            let length = body.len();
            assert!(length <= PACKET_MAX);
            let held = match parse(body) {
                Ok((_, Reply::Names(names))) => {
                    assert!(names.len() <= NAMES_MAX);
                    names.iter().map(|(name, _)| name.len() + 12).sum()
                }
                Ok((_, Reply::Version(pairs))) => {
                    let length = |(name, value): &(Bytes, Bytes)| name.len() + value.len() + 8;
                    pairs.iter().map(length).sum()
                }
                Ok((_, Reply::Handle(bytes) | Reply::Data(bytes) | Reply::Extended(bytes))) => {
                    bytes.len()
                }
                Ok((_, Reply::Status { message, .. })) => message.len(),
                Ok((_, Reply::Attributes(_))) | Err(_) => 0,
            };
            assert!(held <= length);
        }
        assert!(packets.0.len() < 4 + PACKET_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&[u8]]) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u8(NAME);
        body.put_u32(7);
        body.put_u32(u32::try_from(names.len()).unwrap());
        for name in names {
            put_string(&mut body, name);
            put_string(&mut body, b"long form");
            Attributes::of(0o644, None).put(&mut body);
        }
        body.to_vec()
    }

    #[test]
    fn packets_come_in_any_pieces() {
        let body = names(&[b"a", b"\xff"]);
        let stream = [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body]
            .concat()
            .repeat(3);
        for size in 1..stream.len() {
            let mut packets = Packets::default();
            let mut count = 0;
            for piece in stream.chunks(size) {
                packets.push(piece);
                while let Some(packet) = packets.next().unwrap() {
                    assert_eq!(packet, body);
                    count += 1;
                }
            }
            assert_eq!(count, 3);
        }
        let (id, reply) = parse(body.into()).unwrap();
        assert_eq!(id, Some(7));
        let attributes = Attributes::of(0o644, None);
        let expected = [&b"a"[..], b"\xff"].map(|name| (Bytes::from_static(name), attributes));
        assert_eq!(reply, Reply::Names(expected.to_vec()));
    }

    #[test]
    fn what_breaks_off_or_lies_is_refused() {
        let body = names(&[b"name"]);
        for cut in 0..body.len() {
            let outcome = parse(Bytes::copy_from_slice(&body[..cut]));
            assert!(outcome.is_err(), "{cut}");
        }
        let mut many = body;
        many[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(parse(many.into()).is_err());
        let mut packets = Packets::default();
        packets.push(&u32::MAX.to_be_bytes());
        assert!(packets.next().is_err());
        assert!(parse(Bytes::from_static(&[42, 0, 0, 0, 1])).is_err());
    }
}
