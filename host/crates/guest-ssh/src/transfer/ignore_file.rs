//! `.orkaignore`: what a tree says itself of what need not be sent.

use std::collections::VecDeque;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, DirEntry, OpenOptions};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::walk::leads_somewhere;
use super::{Counters, Direction, Limits, Meter, Selection};
use crate::Error;
use crate::quote::printable;

/// Its name, in the top directory of an upload or any below.
pub(super) const NAME: &str = ".orkaignore";

/// Far more patterns than anybody writes.
const BYTES_MAX: u64 = 1 << 20;

/// Lines of a file that are told as no patterns, one by one.
const PASSED_OVER_MAX: usize = 5;

/// The ignore files that hold for a directory: its own, and those above it up to the top of the upload.
///
/// As with `.gitignore`: a pattern holds from its file's directory down, the last match of the nearest file decides, `!`
/// takes back, and nothing comes back from a directory that is left out itself.
#[derive(Clone, Default)]
pub(super) struct IgnoreFiles(Option<Arc<Level>>);

struct Level {
    above: IgnoreFiles,
    patterns: Gitignore,
}

impl IgnoreFiles {
    /// Adds the ignore file of `dir`, which is `path` below the top, if it has one. As for git, a line that is no pattern
    /// matches nothing; `warnings` has it.
    ///
    /// # Errors
    ///
    /// [`Error::Transfer`] for a file that cannot be read, or a line that is no text.
    pub(super) fn enter(
        &self,
        dir: &Dir,
        path: &Path,
        meter: &Meter<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let file = path.join(NAME);
        let name = file.as_os_str().as_bytes();
        let text = match read(dir) {
            Ok(None) => return Ok(self.clone()),
            Ok(Some(text)) => text,
            Err(problem) => return Err(meter.failed(name, "it cannot be read", problem)),
        };
        let (patterns, passed_over) =
            parse(path, &text).map_err(|reason| meter.refuse(name, reason))?;
        warnings.extend(
            passed_over
                .into_iter()
                .map(|line| format!("`{}`: {line}", printable(name))),
        );
        Ok(Self(Some(Arc::new(Level {
            above: self.clone(),
            patterns,
        }))))
    }

    /// Whether an entry of the directory last entered is left out.
    pub(super) fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        let mut level = self.0.as_deref();
        while let Some(Level { above, patterns }) = level {
            match patterns.matched(path, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => level = above.0.as_deref(),
            }
        }
        false
    }
}

/// Reads the ignore files of what an upload would send, up to a time at which it has seen enough, the upper directories
/// first; gives what is to be said of lines that are no patterns.
///
/// It lists directories and looks at no other file. A directory that cannot be read is for the upload to tell.
///
/// # Errors
///
/// What the upload would end for: the first ignore file that cannot be read, or holds what is no text.
pub fn check_ignore_files(
    dir: &Dir,
    selection: &Selection,
    until: Instant,
) -> Result<Vec<String>, Error> {
    let counters = Counters::default();
    let meter = Meter {
        direction: Direction::Upload,
        limits: Limits::default(),
        counters: &counters,
    };
    let mut warnings = Vec::new();
    let mut folders = VecDeque::from([(PathBuf::new(), IgnoreFiles::default(), false)]);
    while let Some((path, above, inside)) = folders.pop_front()
        && Instant::now() < until
    {
        let here = if path.as_os_str().is_empty() {
            dir.try_clone()
        } else {
            dir.open_dir_nofollow(&path)
        };
        let Ok(here) = here else { continue };
        let ignored = above.enter(&here, &path, &meter, &mut warnings)?;
        let Ok(entries) = here.entries() else {
            continue;
        };
        let is_dir = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        for entry in entries.flatten().filter(is_dir) {
            let below = path.join(entry.file_name());
            if ignored.ignores(&below, true) {
                continue;
            }
            let decision = selection.decide(&below, true, inside);
            if decision.visit && (decision.inside || leads_somewhere(selection, &below)) {
                folders.push_back((below, ignored.clone(), decision.inside));
            }
        }
    }
    Ok(warnings)
}

/// The file's bytes. Only a regular file counts: a link could lead anywhere, and a pipe would never end.
fn read(dir: &Dir) -> std::io::Result<Option<Vec<u8>>> {
    let found = match dir.symlink_metadata(NAME) {
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if !found.is_file() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No);
    let mut text = Vec::new();
    dir.open_with(NAME, &options)?
        .take(BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Some(text))
}

/// The patterns, and what is to be said of lines that are none.
fn parse(directory: &Path, text: &[u8]) -> Result<(Gitignore, Vec<String>), String> {
    // As git: a byte order mark is not part of the first pattern.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut builder = GitignoreBuilder::new(directory);
    builder.allow_unclosed_class(false);
    let mut passed_over = Vec::new();
    let mut more = 0_usize;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| format!("line {number} is not UTF-8"))?;
        // Without a file to name, the problem names the pattern alone.
        let Err(problem) = builder.add_line(None, line) else {
            continue;
        };
        if passed_over.len() == PASSED_OVER_MAX {
            more += 1;
            continue;
        }
        let problem = printable(problem.to_string().as_bytes());
        passed_over.push(format!(
            "line {number} is not a pattern and leaves nothing out: {problem}"
        ));
    }
    if more > 0 {
        passed_over.push(format!("{more} more lines are not patterns"));
    }
    let patterns = builder
        .build()
        .map_err(|problem| format!("its patterns cannot be used: {problem}"))?;
    Ok((patterns, passed_over))
}
