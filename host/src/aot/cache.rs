//! The operator's cache of ahead-of-time code: a directory, and the key that its records are made with.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plugin_engine::{EngineId, seal};
use rand::RngCore as _;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::process::geteuid;
use secrecy::{ExposeSecret as _, SecretSlice};

use super::native::{self, Authority, Refusal};
use super::place::{Directory, OTHERS, not_writable};
use crate::engine::{Component, Engine};
use crate::failure::Failure;

/// A key shorter than this can be guessed.
const KEY_BYTES_MIN: usize = 32;

/// A key is no document.
const KEY_BYTES_MAX: u64 = 4096;

/// So many hexadecimal digits of each digest make a file's name: enough to tell files apart. What is in them is checked.
const NAME_DIGITS: usize = 32;

/// What records are made and checked with.
#[derive(Clone, Debug)]
pub struct CacheKey(Arc<SecretSlice<u8>>);

impl CacheKey {
    /// A key of at least 32 bytes; `None` for a shorter one.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= KEY_BYTES_MIN).then(|| Self(Arc::new(bytes.into())))
    }

    /// A key that nobody else has, for this process alone.
    pub(crate) fn random() -> Self {
        let mut bytes = vec![0; KEY_BYTES_MIN];
        rand::rng().fill_bytes(&mut bytes);
        Self(Arc::new(bytes.into()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

/// The cache.
#[derive(Clone, Debug)]
pub struct CodeCache {
    directory: PathBuf,
    key: CacheKey,
}

impl CodeCache {
    /// A cache in a directory that exists.
    pub fn new(directory: PathBuf, key: CacheKey) -> Self {
        Self { directory, key }
    }

    /// The cache that flags name. The key must not lie where plugins, scripts or other steps can write.
    ///
    /// # Errors
    ///
    /// A directory or key that cannot be used, in words.
    pub fn open(
        directory: &Path,
        key_file: &Path,
        workspace: Option<&Path>,
    ) -> Result<Self, Failure> {
        let found = |path: &Path, flag: &str, made: &str| {
            path.canonicalize().map_err(|error| {
                let shown = path.display();
                let is_absent = error.kind() == std::io::ErrorKind::NotFound;
                let failure = Failure::config(format!("cannot find `{shown}` given with `{flag}`"))
                    .with_source(error);
                if is_absent {
                    failure.with_hint(format!(
                        "if it is not elsewhere, `{made} '{shown}'` makes it"
                    ))
                } else {
                    failure
                }
            })
        };
        let directory = found(directory, "--plugin-cache", "mkdir -p")?;
        if !directory.is_dir() {
            return Err(Failure::config(format!(
                "`{}` given with `--plugin-cache` is not a directory",
                directory.display()
            )));
        }
        let resolved = found(key_file, "--plugin-cache-key", "head -c 32 /dev/urandom >")?;
        let workspace = workspace.and_then(|path| path.canonicalize().ok());
        for (place, name) in [
            (Some(&directory), "cache"),
            (workspace.as_ref(), "workspace"),
        ] {
            if place.is_some_and(|place| resolved.starts_with(place)) {
                return Err(Failure::config(format!(
                    "the key `{}` lies in the {name}, where others may replace it",
                    key_file.display()
                ))
                .with_hint("mount it from a Secret, read-only and outside"));
            }
        }
        let key = read_key(&resolved, key_file)?;
        Ok(Self { directory, key })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the code of the component with this digest for this engine is, if it is there.
    pub fn path_of(&self, component: &str, engine: &EngineId) -> PathBuf {
        self.directory.join(file_name(component, engine))
    }

    /// Loads a component's code; `None` if there is none.
    pub(super) fn load(
        &self,
        engine: &Engine,
        id: &EngineId,
        component: &str,
    ) -> Result<Option<Component>, Refusal> {
        let name = file_name(component, id);
        let Some(directory) = self.checked()? else {
            return Ok(None);
        };
        let Some(file) = directory.file(Path::new(&name))? else {
            return Ok(None);
        };
        check_owner("it", file.stat.st_uid, Some(directory.owner()))?;
        not_writable("it", &file.stat, OTHERS)?;
        let authority = Authority::Key(&self.key);
        native::load(engine, id, component, &file.read()?, &authority).map(Some)
    }

    /// Keeps a component's code: whole under its name, or not at all.
    pub(super) fn store(
        &self,
        component: &str,
        id: &EngineId,
        code: &[u8],
    ) -> Result<PathBuf, Refusal> {
        let sealed = seal(code.to_vec(), component, id, Some(self.key.bytes()));
        let name = file_name(component, id);
        let gone = || Refusal::Io(std::io::ErrorKind::NotFound.into());
        let directory = self.checked()?.ok_or_else(gone)?;
        // Two at once write a file each, and the last rename wins: both are right.
        let temporary = format!(".{name}.{:016x}", rand::rng().next_u64());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(
            directory.fd(),
            &temporary,
            flags | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o644),
        )?;
        let mut file = File::from(fd);
        let written = file
            .write_all(&sealed)
            .and_then(|()| file.sync_all())
            .map_err(Refusal::from)
            .and_then(|()| Ok(renameat(directory.fd(), &temporary, directory.fd(), &name)?));
        if let Err(refusal) = written {
            // The first error is the one to tell.
            let _ = unlinkat(directory.fd(), &temporary, AtFlags::empty());
            return Err(refusal);
        }
        Ok(self.directory.join(name))
    }

    /// The directory, if it is the operator's or ours and not everybody's.
    fn checked(&self) -> Result<Option<Directory>, Refusal> {
        let Some(directory) = Directory::open(&self.directory)? else {
            return Ok(None);
        };
        check_owner("the cache's directory", directory.owner(), None)?;
        // A volume's group is often given the right to write by Kubernetes (`fsGroup`); the MAC is what protects files.
        not_writable("the cache's directory", directory.stat(), OTHERS)?;
        Ok(Some(directory))
    }
}

fn file_name(component: &str, engine: &EngineId) -> String {
    let short = |digest: &str| -> String {
        let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
        digits.chars().take(NAME_DIGITS).collect()
    };
    format!(
        "{}-{}.{}",
        short(component),
        short(&engine.to_string()),
        super::EXTENSION
    )
}

/// Root, ourselves, or who owns the directory.
pub(super) fn check_owner(
    what: &'static str,
    owner: u32,
    also: Option<u32>,
) -> Result<(), Refusal> {
    let own = geteuid().as_raw();
    if owner == 0 || owner == own || also == Some(owner) {
        return Ok(());
    }
    Err(Refusal::Owner {
        what,
        owner,
        expected: format!("root or this process's user, {own}"),
    })
}

fn read_key(path: &Path, shown: &Path) -> Result<CacheKey, Failure> {
    let shown = shown.display();
    let cannot = |error: std::io::Error| {
        Failure::config(format!(
            "cannot read `{shown}` given with `--plugin-cache-key`"
        ))
        .with_source(error)
        .with_hint("make it readable by the step's user")
    };
    let unfit = |problem: &str| {
        Failure::config(format!(
            "`{shown}` given with `--plugin-cache-key` {problem}"
        ))
        .with_hint("make one with `head -c 32 /dev/urandom > FILE`, and mount it from a Secret")
    };
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err(unfit("is not a file"));
    }
    if metadata.len() > KEY_BYTES_MAX {
        return Err(unfit("is too long for a key"));
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    if mode & OTHERS != 0 {
        return Err(unfit("may be written by everybody"));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    CacheKey::new(bytes).ok_or_else(|| unfit("has fewer than 32 bytes"))
}
