//! Which of the VM's files differ from those at the target.
//!
//! Only regular files stay behind: directories and links cost a header, and tell what became of them.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt};
use cap_std::fs::{Dir, MetadataExt, OpenOptions, PermissionsExt};

use super::digest::Hasher;
use super::facts::{BEGIN, Beginning};
use super::header::Stamp;
use super::listing::{Chosen, Detail, Listed};
use super::parent::descend;
use super::{Compare, PIECE};
use crate::command::{self, Exit};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::{Error, RemotePath};

/// Arguments: directory, program with its arguments. Names come on standard input. `xargs -0` is in GNU, BSD and BusyBox.
const HASH: &str = r#"printf 'orka-step: begin\n'
cd "$1" || exit
exec xargs -0 $2"#;

/// Hexadecimal digits of SHA-256.
const DIGITS: usize = 64;

/// What comparing came to.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// What has to travel.
    pub(super) chosen: Chosen,
    /// Files that need not.
    pub(super) unchanged: u64,
}

/// The files at the target, one directory held open: entries arrive directory by directory.
struct Local {
    top: Dir,
    at: PathBuf,
    dir: Option<Dir>,
}

impl Local {
    /// [`None`] if there is no such directory: then everything is new.
    fn open(into: &Dir, target: &Path) -> Option<Self> {
        let top = into.open_dir(target).ok()?;
        Some(Self {
            dir: top.try_clone().ok(),
            top,
            at: PathBuf::new(),
        })
    }

    /// The directory of `path`. A way through a link leads to no file of the tree.
    fn parent(&mut self, path: &Path) -> Option<&Dir> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent != self.at {
            self.dir = descend(&self.top, parent).ok();
            self.at = parent.to_owned();
        }
        self.dir.as_ref()
    }

    /// The file of this name if its size is the same, with whether its time and mode are, too.
    fn looks_same(&mut self, path: &Path, there: &Detail) -> Option<bool> {
        let name = path.file_name()?;
        let here = self.parent(path)?.symlink_metadata(name).ok()?;
        if !here.is_file() || here.len() != there.size {
            return None;
        }
        let mtime = Stamp {
            seconds: here.mtime(),
            nanos: u32::try_from(here.mtime_nsec()).unwrap_or(0),
        };
        // What arrives can always be read and written by its owner.
        let mode = |mode: u32| mode & 0o777 | 0o600;
        Some(mtime.matches(there.mtime) && mode(here.permissions().mode()) == mode(there.mode))
    }

    fn hash(&mut self, path: &Path) -> Option<[u8; 32]> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No);
        let name = path.file_name()?;
        let mut file = self.parent(path)?.open_with(name, &options).ok()?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Some(hasher.finish()),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(problem) if problem.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// Leaves out what looks the same at the target.
pub(super) fn by_size_and_time(listed: Chosen, into: &Dir, target: &Path) -> Compared {
    let Some(mut local) = Local::open(into, target) else {
        return Compared {
            chosen: listed,
            unchanged: 0,
        };
    };
    let mut compared = Compared::default();
    for (name, detail) in listed.paths().zip(&listed.details) {
        let same = detail
            .as_ref()
            .filter(|detail| detail.kind == Listed::File)
            .and_then(|detail| local.looks_same(path(name), detail));
        if same == Some(true) {
            compared.unchanged += 1;
        } else {
            compared.chosen.push(path(name));
        }
    }
    compared.chosen.warnings = listed.warnings;
    compared
}

/// Names of files whose contents have to be looked at: those whose size is the same.
fn candidates(listed: &Chosen, into: &Dir, target: &Path) -> Vec<u8> {
    let mut chosen = Chosen::default();
    if let Some(mut local) = Local::open(into, target) {
        for (name, detail) in listed.paths().zip(&listed.details) {
            let is_candidate = detail.as_ref().is_some_and(|detail| {
                detail.kind == Listed::File && local.looks_same(path(name), detail).is_some()
            });
            if is_candidate {
                chosen.push(path(name));
            }
        }
    }
    chosen.names
}

/// Leaves out of `listed` those of `candidates` that have these contents at the target.
fn by_hash(
    listed: &Chosen,
    candidates: &[u8],
    hashes: &[[u8; 32]],
    into: &Dir,
    target: &Path,
) -> Compared {
    let mut compared = Compared::default();
    let mut local = Local::open(into, target);
    let mut asked = candidates
        .split(|&byte| byte == 0)
        .map(|name| name.strip_prefix(b"./").unwrap_or(name))
        .zip(hashes)
        .peekable();
    for name in listed.paths() {
        // Candidates are in the order of the listing.
        let same = asked
            .next_if(|(candidate, _)| *candidate == name)
            .is_some_and(|(_, hash)| {
                local
                    .as_mut()
                    .is_some_and(|local| local.hash(path(name)) == Some(*hash))
            });
        if same {
            compared.unchanged += 1;
        } else {
            compared.chosen.push(path(name));
        }
    }
    compared
}

/// The digests of a listing by `sha256sum` or `shasum`, names passed over: lines are in the order asked for.
pub(super) fn digests(text: &[u8]) -> Option<Vec<[u8; 32]>> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            // In front of a line whose name is escaped.
            let line = line.strip_prefix(b"\\").unwrap_or(line);
            let mut hash = [0; 32];
            hex::decode_to_slice(line.get(..DIGITS)?, &mut hash).ok()?;
            Some(hash)
        })
        .collect()
}

impl Connection {
    /// Leaves out of `listed` what the target has already, as `compare` wants it judged.
    pub(super) async fn compare(
        &self,
        remote: &RemotePath,
        mut listed: Chosen,
        compare: Compare,
        into: &Dir,
        target: &Path,
        sha256: Option<&'static str>,
    ) -> Result<Compared, Error> {
        let Ok(into) = into.try_clone() else {
            return Ok(Compared {
                chosen: listed,
                unchanged: 0,
            });
        };
        let target = target.to_owned();
        let warnings = std::mem::take(&mut listed.warnings);
        let (program, compare_by) = (sha256, compare);
        let mut compared = match (compare_by, program) {
            (Compare::Hash, Some(program)) => {
                let work = move || {
                    let names = candidates(&listed, &into, &target);
                    (listed, names, into, target)
                };
                let (listed, names, into, target) = blocking(work).await?;
                let names = Bytes::from(names);
                let hashes = self.hash(remote, program, names.clone()).await?;
                blocking(move || by_hash(&listed, &names, &hashes, &into, &target)).await?
            }
            (Compare::SizeTime, _) => {
                blocking(move || by_size_and_time(listed, &into, &target)).await?
            }
            (Compare::Always | Compare::Hash, _) => Compared {
                chosen: listed,
                unchanged: 0,
            },
        };
        compared.chosen.warnings = warnings;
        Ok(compared)
    }

    /// SHA-256 of each named file; none at all if one could not be read, since then nobody knows which.
    async fn hash(
        &self,
        remote: &RemotePath,
        program: &'static str,
        names: Bytes,
    ) -> Result<Vec<[u8; 32]>, Error> {
        let count = names.iter().filter(|&&byte| byte == 0).count();
        if count == 0 {
            return Ok(Vec::new());
        }
        let path = remote.argument();
        let arguments = [path.as_slice(), program.as_bytes()];
        // Names may be escaped to twice their length.
        let answer_max = 2 * names.len() + count * (DIGITS + 8) + BEGIN.len() + 4096;
        let start = Start::script(HASH, arguments, Stdin::Bytes(names));
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(answer_max).await?;
        let hashes = digests(&Beginning::default().strip(said.stdout.into()));
        Ok(match (said.exit, hashes) {
            (Some(Exit::Status(0)), Some(hashes)) if hashes.len() == count => hashes,
            _ => Vec::new(),
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    super::joined(tokio::task::spawn_blocking(move || Ok(work())).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_whatever_the_names() {
        let zeros = "0".repeat(DIGITS);
        let text = format!("{zeros}  a b\n\\{zeros}  c\\nd\n");
        assert_eq!(digests(text.as_bytes()).unwrap(), [[0; 32]; 2]);
        assert_eq!(digests(b"0123  a\n"), None);
    }

    #[test]
    fn nothing_is_unchanged_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/x"), b"12345").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("linked")).unwrap();
        let here = std::fs::metadata(dir.path().join("real/x")).unwrap();
        let detail = Detail {
            kind: Listed::File,
            size: 5,
            mtime: Stamp {
                seconds: std::os::unix::fs::MetadataExt::mtime(&here),
                nanos: 0,
            },
            mode: std::os::unix::fs::MetadataExt::mode(&here),
        };
        let mut listed = Chosen::default();
        for name in ["real/x", "linked/x", "gone/x"] {
            listed.push(Path::new(name));
            listed.details.push(Some(detail));
        }
        let into = Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap();
        let compared = by_size_and_time(listed, &into, Path::new("."));
        assert_eq!(compared.unchanged, 1);
        assert_eq!(compared.chosen.names, b"./linked/x\0./gone/x\0");
    }
}
