//! SHA-256 of files as they pass, and one digest for a whole set.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// A file of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Where it is, relative to the transfer's root.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its contents.
    pub sha256: [u8; 32],
}

impl FileDigest {
    /// The digest as hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }

    /// What `sha256sum` (GNU coreutils 9) prints for the file, line end included.
    ///
    /// Like there, the line starts with a backslash where the name holds one, a line feed or a carriage return, and those
    /// are escaped; all other bytes of the name are as they are.
    #[must_use]
    pub fn sums_line(&self) -> Vec<u8> {
        let (name, escaped) = escape(self.path.as_os_str().as_bytes());
        let mut line = Vec::with_capacity(name.len() + 68);
        line.extend_from_slice(if escaped { b"\\" } else { b"" });
        line.extend_from_slice(self.sha256_hex().as_bytes());
        line.extend_from_slice(b"  ");
        line.extend_from_slice(&name);
        line.push(b'\n');
        line
    }
}

/// Hashes as bytes pass.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Hashes a hole.
    pub(crate) fn zeros(&mut self, mut count: u64) {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while count > 0 {
            let part = count.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..usize::try_from(part).unwrap_or(0)]);
            count -= part;
        }
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The digest of a set: the SHA-256 of what `sha256sum` prints for its files, sorted by path as bytes.
///
/// So anybody can check it with `find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`.
/// Directories, links, modes and times are not part of it.
pub(crate) fn of_set(entries: &[FileDigest]) -> [u8; 32] {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by(|one, other| {
        one.path
            .as_os_str()
            .as_bytes()
            .cmp(other.path.as_os_str().as_bytes())
    });
    let mut hasher = Hasher::default();
    for entry in sorted {
        hasher.update(&entry.sums_line());
    }
    hasher.finish()
}

fn escape(name: &[u8]) -> (Vec<u8>, bool) {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\r' => escaped.extend_from_slice(b"\\r"),
            _ => escaped.push(byte),
        }
    }
    let changed = escaped.len() != name.len();
    (escaped, changed)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_set_digest_is_what_sha256sum_says() {
        let dir = tempfile::tempdir().unwrap();
        let names: [&[u8]; 5] = [b"b", b"a b", b"-n", b"new\nline\\", b"\xff\xfe"];
        let mut entries = Vec::new();
        for name in names {
            let path = PathBuf::from(OsStr::from_bytes(name));
            std::fs::write(dir.path().join(&path), name).unwrap();
            let mut hasher = Hasher::default();
            hasher.update(name);
            entries.push(FileDigest {
                path,
                size: name.len() as u64,
                sha256: hasher.finish(),
            });
        }
        let script =
            "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum";
        let output = Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let expected = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            expected.split(' ').next().unwrap(),
            hex::encode(of_set(&entries))
        );
    }
}
