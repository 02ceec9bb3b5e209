//! macOS's `._` files: what its archivers make of a file's extended attributes where they cannot be stored. They are
//! noise in a workspace, and a build tool that takes `._Main.swift` for a source fails.
//!
//! A file counts as one by its name, the file it belongs to beside it, and its first bytes (AppleSingle/AppleDouble
//! format, RFC 1740 appendix B); a user's own file of such a name stays.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::listing::Chosen;

/// How such a file begins.
pub(super) const MAGIC: [u8; 4] = [0x00, 0x05, 0x16, 0x07];

/// The name of the file a `._` file belongs to.
pub(super) fn partner(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"._").filter(|name| !name.is_empty())
}

/// The chosen names that may be such files, each with a NUL behind: those with their file beside them.
pub(super) fn suspects(chosen: &Chosen) -> Vec<u8> {
    let is_suspect = |name: &&[u8]| split(name).1.starts_with(b"._");
    if !chosen.paths().any(|name| is_suspect(&name)) {
        return Vec::new();
    }
    let all: HashSet<&[u8]> = chosen.paths().collect();
    let mut suspects = Chosen::default();
    for name in chosen.paths().filter(is_suspect) {
        let (folder, file) = split(name);
        let has_partner = partner(file)
            .is_some_and(|partner| all.contains([folder, partner].concat().as_slice()));
        if has_partner {
            suspects.push(Path::new(OsStr::from_bytes(name)));
        }
    }
    suspects.names
}

/// Takes out the names in `found`, as [`suspects`] writes them, and counts them.
pub(super) fn leave_out(chosen: &mut Chosen, found: &[u8]) -> u64 {
    let found: HashSet<&[u8]> = found.split(|&byte| byte == 0).collect();
    let mut kept = Vec::new();
    let mut count = 0;
    for name in chosen.names.split(|&byte| byte == 0) {
        if name.is_empty() {
            continue;
        }
        if found.contains(name) {
            count += 1;
            continue;
        }
        kept.extend_from_slice(name);
        kept.push(0);
    }
    chosen.names = kept;
    count
}

/// The directory with its slash, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    path.split_at(at)
}
