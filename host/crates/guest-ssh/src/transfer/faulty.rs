//! A volume from which tests take things away, with the real one behind it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use cap_std::fs::Dir;

use super::volume::{Disk, PRIVATE, Space, Volume};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Rename,
    Exchange,
    HardLink,
    Symlink,
    Mode,
    /// What a new file is given is decided by the directory, and is everything.
    ModeWhenMade,
    Time,
    Sync,
}

/// A volume from which a test takes things away.
#[derive(Default)]
pub(super) struct Faulty {
    pub(super) lacks: Vec<Lack>,
    /// Names that differ in case only are one.
    pub(super) folds_case: bool,
    /// The target belongs to another volume.
    pub(super) apart: bool,
    /// Each node has locks of its own.
    pub(super) locks_apart: bool,
    /// Bytes that may be written.
    pub(super) room: Option<AtomicU64>,
    pub(super) space: Option<Space>,
    /// Counts moves once it is set: from the first into the target on.
    pub(super) placing: AtomicBool,
    pub(super) moves: AtomicU64,
    pub(super) fail_at: u64,
    pub(super) kill_at: u64,
}

impl Faulty {
    pub(super) fn lacking(lacks: &[Lack]) -> Self {
        Self {
            lacks: lacks.to_vec(),
            ..Self::default()
        }
    }

    fn can(&self, what: Lack) -> io::Result<()> {
        if self.lacks.contains(&what) {
            return Err(rustix::io::Errno::OPNOTSUPP.into());
        }
        Ok(())
    }

    fn moving(&self) -> io::Result<()> {
        if !self.placing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let count = self.moves.fetch_add(1, Ordering::SeqCst) + 1;
        if count == self.kill_at {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
        if count == self.fail_at {
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(())
    }

    /// Whether something can go from one directory to the other at all.
    fn across(&self, from: &Dir, to: &Dir) -> io::Result<()> {
        use cap_std::fs::MetadataExt as _;
        let is_moving = self.apart && self.placing.load(Ordering::SeqCst);
        if is_moving && from.dir_metadata()?.ino() != to.dir_metadata()?.ino() {
            return Err(rustix::io::Errno::XDEV.into());
        }
        Ok(())
    }
}

impl Volume for Faulty {
    fn make_dir(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        if path == Path::new("old") {
            self.placing.store(true, Ordering::SeqCst);
        }
        self.fold(dir, path)?;
        Disk.make_dir(dir, path)
    }

    fn make_file(&self, dir: &Dir, path: &Path, mode: u32) -> io::Result<File> {
        self.fold(dir, path)?;
        let keeps_modes = !self.lacks.contains(&Lack::Mode);
        let made = Disk.make_file(dir, path, if keeps_modes { mode } else { PRIVATE })?;
        if self.lacks.contains(&Lack::ModeWhenMade) {
            Disk.set_mode(&made, 0o777)?;
        }
        Ok(made)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Some(room) = &self.room {
            let count = bytes.len() as u64;
            room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(count)
            })
            .map_err(|_| io::Error::from(rustix::io::Errno::NOSPC))?;
        }
        Disk.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.can(Lack::Sync)?;
        Disk.sync(file)
    }

    fn set_mode(&self, file: &File, mode: u32) -> io::Result<()> {
        // As some do: agrees, and does nothing.
        if self.lacks.contains(&Lack::Mode) {
            return Ok(());
        }
        Disk.set_mode(file, mode)
    }

    fn set_time(&self, file: &File, time: SystemTime) -> io::Result<()> {
        self.can(Lack::Time)?;
        Disk.set_time(file, time)
    }

    fn symlink(&self, target: &Path, dir: &Dir, path: &Path) -> io::Result<()> {
        self.can(Lack::Symlink)?;
        self.moving()?;
        self.fold(dir, path)?;
        Disk.symlink(target, dir, path)
    }

    fn hard_link(&self, from: &Dir, path: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        self.can(Lack::HardLink)?;
        self.across(from, to)?;
        Disk.hard_link(from, path, to, new)
    }

    fn rename(&self, from: &Dir, name: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        self.can(Lack::Rename)?;
        self.across(from, to)?;
        self.moving()?;
        Disk.rename(from, name, to, new)
    }

    fn exchange(&self, one: &Dir, name: &Path, other: &Dir, other_name: &Path) -> io::Result<()> {
        self.can(Lack::Exchange)?;
        self.across(one, other)?;
        self.moving()?;
        Disk.exchange(one, name, other, other_name)
    }

    fn space(&self, dir: &Dir) -> Option<Space> {
        self.space.or_else(|| Disk.space(dir))
    }

    fn is_remote(&self, _: &Dir) -> bool {
        self.lacks.contains(&Lack::Sync)
    }

    fn shares_locks(&self, _: &Dir) -> bool {
        !self.locks_apart
    }
}

impl Faulty {
    fn fold(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        let (Some(name), true) = (path.file_name(), self.folds_case) else {
            return Ok(());
        };
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let taken = dir
            .read_dir(parent.unwrap_or(Path::new(".")))?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().eq_ignore_ascii_case(name));
        if taken {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }
}
