//! Reading a file from a directory: what it is, and who could have written it, is asked of what is open, not of its name.

#[cfg(any(test, not(feature = "compiler")))]
use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use flate2::read::GzDecoder;
#[cfg(any(test, not(feature = "compiler")))]
use lzma_rust2::XzReader;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, openat};
use rustix::io::Errno;

use super::CODE_BYTES_MAX;
use super::known::Known;
use super::native::Refusal;

/// What a compressed file begins with (RFC 1952). It ends with the length of what is compressed.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What the compressed compiler begins with: XZ, which takes four times as long to unpack and makes a program a quarter
/// smaller.
#[cfg(any(test, not(feature = "compiler")))]
const XZ_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";

/// Others than the owner, and others than owner and group.
pub(super) const GROUP_AND_OTHERS: u32 = 0o022;
pub(super) const OTHERS: u32 = 0o002;

/// By everybody.
const EXECUTABLE: u32 = 0o111;

/// Proof that bytes came with this program: they are those that it was built with, or those of a file that is owned as it is,
/// on its file system, and that nobody else may write, nor its directory.
pub(super) struct CameWithProgram(());

/// A file that came with this program, read once.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) proof: CameWithProgram,
    /// The same, still open, where it can be executed and nobody but those in charge of the program may write it.
    #[cfg_attr(
        all(feature = "compiler", not(test)),
        expect(dead_code, reason = "only a program without a compiler starts one")
    )]
    pub(super) executable: Option<File>,
}

#[cfg(any(test, not(feature = "compiler")))]
impl Found {
    /// Whether it is compressed.
    pub(super) fn is_packed(&self) -> bool {
        self.bytes.starts_with(&XZ_MAGIC)
    }

    /// The program that this file is, or that is compressed in it.
    ///
    /// # Errors
    ///
    /// A file that is damaged.
    pub(super) fn program(&self) -> std::io::Result<Cow<'_, [u8]>> {
        if !self.is_packed() {
            return Ok(Cow::Borrowed(&self.bytes));
        }
        let mut program = Vec::new();
        // One that is larger is not whole, and so no program that starts.
        XzReader::new(&self.bytes[..], false)
            .take(CODE_BYTES_MAX)
            .read_to_end(&mut program)?;
        Ok(Cow::Owned(program))
    }
}

/// As if it had been found.
#[cfg(test)]
pub(super) fn of_test(bytes: Vec<u8>, executable: Option<File>) -> Found {
    Found {
        bytes,
        proof: CameWithProgram(()),
        executable,
    }
}

/// A directory, opened: what is in it is reached through it and nothing else.
pub(super) struct Directory {
    fd: OwnedFd,
    stat: Stat,
}

/// A file, opened.
pub(super) struct Opened {
    file: File,
    pub(super) stat: Stat,
}

impl Directory {
    /// Opens a directory; `None` if there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&fd)?;
        Ok(Some(Self { fd, stat }))
    }

    pub(super) fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    pub(super) fn stat(&self) -> &Stat {
        &self.stat
    }

    pub(super) fn fd(&self) -> impl AsFd + '_ {
        self.fd.as_fd()
    }

    /// Opens a regular file in it, and nothing that only leads to one; `None` if there is none.
    pub(super) fn file(&self, name: &Path) -> Result<Option<Opened>, Refusal> {
        // Opening a FIFO that nobody writes to must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(Refusal::NotAFile),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refusal::NotAFile);
        }
        let file = File::from(fd);
        Ok(Some(Opened { file, stat }))
    }
}

impl Opened {
    /// The whole file.
    pub(super) fn read(&self) -> Result<Vec<u8>, Refusal> {
        let size = u64::try_from(self.stat.st_size).unwrap_or(0);
        if size > CODE_BYTES_MAX {
            return Err(Refusal::TooLarge(size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        // One that grows meanwhile is read to its limit and then fails its check.
        (&self.file)
            .take(CODE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Refuses what others than those in charge may write.
pub(super) fn not_writable(what: &'static str, stat: &Stat, by: u32) -> Result<(), Refusal> {
    let mode = Mode::from_raw_mode(stat.st_mode).bits();
    if mode & by == 0 {
        Ok(())
    } else {
        Err(Refusal::Writable { what, mode })
    }
}

/// The running program's file: what others are compared with.
#[derive(Clone, Copy)]
pub(super) struct Program {
    pub(super) owner: u32,
    pub(super) device: u64,
}

impl Program {
    fn own() -> Result<Self, Refusal> {
        let metadata = std::env::current_exe().and_then(std::fs::metadata)?;
        Ok(Self {
            owner: metadata.uid(),
            device: metadata.dev(),
        })
    }

    /// Whether only those who may replace the program may write this.
    fn vouches_for(self, what: &'static str, stat: &Stat) -> Result<(), Refusal> {
        // A volume mounted over the program's files is not part of them, whoever owns it: a ConfigMap's files are root's.
        #[allow(
            clippy::unnecessary_cast,
            clippy::useless_conversion,
            reason = "signed on some systems"
        )]
        if stat.st_dev as u64 != self.device {
            return Err(Refusal::Mounted { what });
        }
        self.owns(what, stat)
    }

    /// Whether the program's owner owns this, and nobody else may write it.
    fn owns(self, what: &'static str, stat: &Stat) -> Result<(), Refusal> {
        if stat.st_uid != self.owner {
            return Err(Refusal::Owner {
                what,
                owner: stat.st_uid,
                expected: format!("the program's owner, {}", self.owner),
            });
        }
        not_writable(what, stat, GROUP_AND_OTHERS)
    }
}

/// A file that came with this program; `None` if there is no such file.
pub(super) fn beside_program(path: &Path) -> Result<Option<Found>, Refusal> {
    beside(Known::own(), Program::own, path)
}

pub(super) fn beside(
    known: Known<'_>,
    program: impl FnOnce() -> Result<Program, Refusal>,
    path: &Path,
) -> Result<Option<Found>, Refusal> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let Some(directory) = Directory::open(parent)? else {
        return Ok(None);
    };
    let Some(file) = directory.file(Path::new(name))? else {
        return Ok(None);
    };
    let bytes = file.read()?;
    let program = program();
    let is_fixed = if known.includes(name, &bytes) {
        // Others may have written it after it was read: what was read is what counts.
        program.is_ok_and(|program| program.owns("it", &file.stat).is_ok())
    } else {
        let program = program?;
        program.vouches_for("its directory", directory.stat())?;
        program.vouches_for("it", &file.stat)?;
        true
    };
    let mode = Mode::from_raw_mode(file.stat.st_mode).bits();
    Ok(Some(Found {
        bytes,
        proof: CameWithProgram(()),
        executable: (is_fixed && mode & EXECUTABLE == EXECUTABLE).then_some(file.file),
    }))
}

/// The bytes of a file that came with this program, where it was compressed; as they are where it was not.
///
/// # Errors
///
/// A file that is damaged.
pub fn unpacked(bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    // Growing step by step would copy it several times over, and touch twice the memory: half a millisecond of a start.
    let length = bytes.last_chunk().copied().map_or(0, u32::from_le_bytes);
    if u64::from(length) <= CODE_BYTES_MAX {
        // No more than a hint.
        let _ = unpacked.try_reserve_exact(length as usize);
    }
    // One that is larger is read to the limit and then fails its check.
    GzDecoder::new(&bytes[..])
        .take(CODE_BYTES_MAX)
        .read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
