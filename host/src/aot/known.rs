//! The files that were built together with this program, by their content.
//!
//! `cargo xtask image` builds the compiler and the plugins' code first, and this program with their SHA-256 in it. What has the
//! name and the bytes of one of them counts wherever it lies and whoever owns it: file systems of containers do not always
//! show owners, permissions and devices as they were packed. No other build has such a list; there ownership alone decides.

use std::ffi::OsStr;

use sha2::{Digest as _, Sha256};

/// `NAME=SHA-256` of each file as it is stored, with a space between.
const BUILT_WITH: Option<&str> = option_env!("ORKA_STEP_BUILT_WITH");

/// Files by name and digest.
#[derive(Clone, Copy)]
pub(super) struct Known<'a>(&'a str);

impl Known<'static> {
    /// This program's own.
    pub(super) fn own() -> Self {
        Self(BUILT_WITH.unwrap_or_default())
    }
}

impl<'a> Known<'a> {
    #[cfg(test)]
    pub(super) fn new(list: &'a str) -> Self {
        Self(list)
    }

    /// Whether a file of this name was built with this program, and these are its bytes.
    pub(super) fn includes(self, name: &OsStr, bytes: &[u8]) -> bool {
        let mut entries = self.0.split(' ').filter_map(|entry| entry.split_once('='));
        let entry = entries.find(|(known, _)| name == OsStr::new(known));
        entry.is_some_and(|(_, digest)| hex::encode(Sha256::digest(bytes)) == digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_that_a_name_was_built_with_are_known_by_it() {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let list = format!("a.cwasm={} compiler.xz={}", digest(b"1"), digest(b"2"));
        let known = |list: &str, name: &str, bytes: &[u8]| {
            Known::new(list).includes(OsStr::new(name), bytes)
        };
        assert!(known(&list, "a.cwasm", b"1"));
        assert!(known(&list, "compiler.xz", b"2"));
        for (name, bytes) in [
            ("a.cwasm", &b"2"[..]),
            ("compiler.xz", b"1"),
            ("b.cwasm", b"1"),
            ("a.cwasm", b""),
            ("", b"1"),
        ] {
            assert!(!known(&list, name, bytes), "{name}");
            assert!(!known("", name, bytes), "{name}");
        }
    }
}
