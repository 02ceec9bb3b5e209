//! What a transfer asks of the file system it writes to, and what that turns out to be able to do.
//!
//! A workspace may be a share or a bucket that has no modes, no links or no rename. What works is found by trying, in the
//! directory where the transfer arrives; everything here is a method of [`Volume`], so that tests can take things away.

use std::fs::{File, FileTimes};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _, SystemTimeSpec};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};

/// The steps by which FAT counts time are the coarsest in use.
const TIME_STEP: Duration = Duration::from_secs(2);

/// The mode of a file that nobody else is to read.
pub(super) const PRIVATE: u32 = 0o600;

/// The file system under a directory. The provided methods are the real thing.
///
/// Paths of more than one name are only given with directories that nobody else writes to.
pub(super) trait Volume: Send + Sync {
    /// Makes a directory.
    fn make_dir(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        dir.create_dir(path)
    }

    /// Makes a file that was not there, for writing, with those of the permission bits that the process may give.
    fn make_file(&self, dir: &Dir, path: &Path, mode: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        dir.open_with(path, &options).map(|file| file.into_std())
    }

    /// Empties a file for writing; a link is not followed.
    fn empty_file(&self, dir: &Dir, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .truncate(true)
            .follow(FollowSymlinks::No);
        dir.open_with(path, &options).map(|file| file.into_std())
    }

    /// Writes all of `bytes`.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Makes sure that what was written is kept, as far as the volume can say so.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Sets the permission bits of a file or directory.
    fn set_mode(&self, file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }

    /// Sets the modification time of a file or directory.
    fn set_time(&self, file: &File, time: SystemTime) -> io::Result<()> {
        file.set_times(FileTimes::new().set_modified(time))
    }

    /// Sets the modification time of a symbolic link itself.
    fn set_link_time(&self, dir: &Dir, path: &Path, time: SystemTime) -> io::Result<()> {
        let time = SystemTimeSpec::Absolute(cap_std::time::SystemTime::from_std(time));
        dir.set_symlink_times(path, None, Some(time))
    }

    /// Makes a symbolic link with exactly this target.
    fn symlink(&self, target: &Path, dir: &Dir, path: &Path) -> io::Result<()> {
        dir.symlink_contents(target, path)
    }

    /// Gives a file another name.
    fn hard_link(&self, from: &Dir, path: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        from.hard_link(path, to, new)
    }

    /// Moves an entry, in place of a file or link of the new name.
    fn rename(&self, from: &Dir, name: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        from.rename(name, to, new)
    }

    /// Swaps two entries, each a single name, in one step.
    fn exchange(&self, one: &Dir, name: &Path, other: &Dir, other_name: &Path) -> io::Result<()> {
        let swap = rustix::fs::RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(
            one, name, other, other_name, swap,
        )?)
    }

    /// Removes a file or link.
    fn remove_file(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        dir.remove_file(path)
    }

    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        dir.remove_dir(path)
    }

    /// Removes a directory with all that is in it.
    fn remove_tree(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        dir.remove_dir_all(path)
    }

    /// How much room there is; [`None`] where the volume does not say.
    fn space(&self, dir: &Dir) -> Option<Space> {
        let stat = rustix::fs::fstatvfs(dir).ok()?;
        // Buckets have no size, and say 0 or the largest number.
        let known = stat.f_blocks != 0 && stat.f_frsize != 0;
        known.then(|| Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            block: stat.f_frsize,
            entries: (stat.f_files != 0).then_some(stat.f_favail),
        })
    }

    /// Whether writing may fail after `write` has succeeded, as over a network.
    fn is_remote(&self, dir: &Dir) -> bool {
        is_remote(dir)
    }

    /// Whether a lock that one node holds is seen by all that have the volume.
    fn shares_locks(&self, dir: &Dir) -> bool {
        shares_locks(dir)
    }
}

/// The file systems the system has mounted.
pub(super) struct Disk;

impl Volume for Disk {}

/// Room on a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// Bytes that we may still take.
    pub(super) free: u64,
    /// Its size in bytes.
    pub(super) total: u64,
    /// A file takes a multiple of so many bytes.
    pub(super) block: u64,
    /// Files and directories that may still be made, where that is counted.
    pub(super) entries: Option<u64>,
}

/// What a volume can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Permission bits are kept.
    pub(super) modes: bool,
    /// The permission bits that a new file is given when it is made; the process's mask or the directory may take some.
    pub(super) made_with: u32,
    /// Modification times are kept.
    pub(super) times: bool,
    pub(super) symlinks: bool,
    pub(super) hard_links: bool,
    /// An entry can be moved, also in place of another.
    pub(super) renames: bool,
    /// Two entries can be swapped.
    pub(super) exchanges: bool,
    /// Each file is to be synced: an error may come only then.
    pub(super) syncs: bool,
}

/// Tries everything in `dir`, which must be ours, and leaves nothing there.
pub(super) fn probe(volume: &dyn Volume, dir: &Dir) -> io::Result<Abilities> {
    let [one, two, link, symlink] =
        ["probe", "probe-2", "probe-link", "probe-symlink"].map(Path::new);
    // Without these two there is no transfer at all, so their errors are told.
    let mut file = volume.make_file(dir, one, PRIVATE)?;
    let made_with = made_with(volume, dir, &file);
    volume.write(&mut file, b"probe")?;
    let abilities = Abilities {
        // Some accept a mode and keep none.
        modes: [0o700, 0o640].into_iter().all(|mode| {
            volume.set_mode(&file, mode).is_ok()
                && file
                    .metadata()
                    .is_ok_and(|found| found.mode() & 0o777 == mode)
        }),
        made_with,
        times: keeps_times(volume, &file),
        hard_links: volume.hard_link(dir, one, dir, link).is_ok(),
        symlinks: volume.symlink(Path::new("probe"), dir, symlink).is_ok()
            && dir
                .read_link_contents(symlink)
                .is_ok_and(|target| target == Path::new("probe")),
        exchanges: volume.make_file(dir, two, PRIVATE).is_ok()
            && volume.exchange(dir, one, dir, two).is_ok(),
        renames: volume.rename(dir, one, dir, two).is_ok(),
        syncs: volume.is_remote(dir),
    };
    drop(file);
    for name in [one, two, link, symlink] {
        // What cannot be removed here cannot be removed later, and is told then.
        let _ = volume.remove_file(dir, name);
    }
    Ok(abilities)
}

/// The permission bits that new files are given as asked. None where a directory's access list decides, which may give
/// more than was asked for: `private` was made as [`PRIVATE`].
fn made_with(volume: &dyn Volume, dir: &Dir, private: &File) -> u32 {
    let mode = |file: &File| file.metadata().map_or(0, |made| made.mode() & 0o777);
    if mode(private) != PRIVATE {
        return 0;
    }
    let name = Path::new("probe-open");
    let given = volume
        .make_file(dir, name, 0o777)
        .map_or(0, |open| mode(&open));
    let _ = volume.remove_file(dir, name);
    given
}

fn keeps_times(volume: &dyn Volume, file: &File) -> bool {
    let time = UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    volume.set_time(file, time).is_ok()
        && file
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|found| {
                let off = found
                    .duration_since(time)
                    .unwrap_or_else(|early| early.duration());
                off <= TIME_STEP
            })
}

/// Whether an error says that the volume cannot do such a thing, rather than that it failed this time.
pub(super) fn is_unable(problem: &io::Error) -> bool {
    use rustix::io::Errno;
    let unable = [
        Errno::NOSYS,
        Errno::OPNOTSUPP,
        Errno::INVAL,
        Errno::NOTTY,
        Errno::PERM,
        Errno::XDEV,
    ];
    problem.kind() == io::ErrorKind::Unsupported
        || Errno::from_io_error(problem).is_some_and(|errno| unable.contains(&errno))
}

/// Whether an error says that there is no room.
pub(super) fn is_full(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// File systems whose `write` fails if the data cannot be kept, by the numbers of Linux's `magic.h`: ext, XFS, Btrfs,
/// tmpfs, ramfs, overlayfs, ZFS, F2FS, FAT. Any other is taken for a remote one (NFS, SMB, FUSE, Ceph, 9p, …).
#[cfg(target_os = "linux")]
const LOCAL: [u32; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0x4d44,
];

/// Remote file systems that carry locks to each other's nodes as they are usually mounted: NFS and Ceph. SMB (`nobrl`), FUSE
/// and 9p may keep them to the node, and grant each its own.
#[cfg(target_os = "linux")]
const LOCKS_SHARED: [u32; 2] = [0x6969, 0x00c3_6400];

#[cfg(target_os = "linux")]
fn is_remote(dir: &Dir) -> bool {
    kind(dir).is_some_and(|kind| !LOCAL.contains(&kind))
}

#[cfg(target_os = "linux")]
fn shares_locks(dir: &Dir) -> bool {
    kind(dir).is_some_and(|kind| LOCAL.contains(&kind) || LOCKS_SHARED.contains(&kind))
}

#[cfg(target_os = "linux")]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "the numbers have 32 bits; the type of the field differs among processors"
)]
fn kind(dir: &Dir) -> Option<u32> {
    Some(rustix::fs::fstatfs(dir).ok()?.f_type as u32)
}

#[cfg(not(target_os = "linux"))]
fn is_remote(_: &Dir) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn shares_locks(_: &Dir) -> bool {
    true
}
