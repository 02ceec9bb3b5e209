//! A full disk in the VM: told by what `tar` says of it, and by how much is free.

use crate::command;
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::quote::printable;
use crate::{Error, RemotePath};

/// How both kinds of `tar` name it. GNU's says only the last one where part of a block was still written.
const WORDS: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "Wrote only ",
];

/// POSIX has `-P` and `-k`: one line a file system, in blocks of 1,024 bytes.
const FREE: &str = r#"printf 'orka-step: begin\n'; df -Pk "$1""#;

/// Far more than one line.
const ANSWER_MAX: usize = 64 * 1024;

/// The entry for which there was no room, by what a `tar` said; none if it said nothing of the kind.
pub(super) fn entry(stderr: &str) -> Option<String> {
    let of_line = |line: &str| {
        let said = WORDS.iter().filter_map(|words| line.find(words)).min()?;
        let before = line[..said].trim_end_matches(": ");
        // GNU's has its own name in front, the other has not.
        let before = ["tar: ", "gtar: ", "bsdtar: "]
            .iter()
            .find_map(|own| before.strip_prefix(own))
            .unwrap_or(before);
        let entry = before.split(": ").next().unwrap_or(before);
        Some(entry.strip_prefix("./").unwrap_or(entry).to_owned())
    };
    stderr.lines().find_map(of_line)
}

/// Bytes that are free, by what `df -Pk` printed.
pub(super) fn free(answer: &str) -> Option<u64> {
    let line = answer.lines().next_back()?;
    // Names at both ends may hold anything but the share in percent between them.
    let words: Vec<&str> = line.split_whitespace().collect();
    let share = words.iter().rposition(|word| {
        let digits = word.strip_suffix('%');
        digits.is_some_and(|digits| digits.parse::<u8>().is_ok())
    })?;
    let blocks: u64 = words.get(share.checked_sub(1)?)?.parse().ok()?;
    blocks.checked_mul(1024)
}

impl Connection {
    /// The error for a VM that has no room for an entry, with what it has.
    pub(super) async fn vm_full(&self, entry: String, remote: &RemotePath) -> Error {
        Error::VmFull {
            entry: printable(entry.as_bytes()),
            free: self.free_there(remote).await,
        }
    }

    async fn free_there(&self, remote: &RemotePath) -> Option<u64> {
        let path = remote.argument();
        let start = Start::script(FREE, [path.as_slice()], Stdin::None);
        let lease = self.lease().await.ok()?;
        let mut command = command::start(lease, self.address(), start).await.ok()?;
        let said = command.collect(ANSWER_MAX).await.ok()?;
        free(&String::from_utf8_lossy(&said.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_kinds_of_tar_are_understood() {
        for (said, expected) in [
            (
                "tar: ./dist/big: Wrote only 5632 of 10240 bytes\ntar: Exiting with failure status due to previous errors\n",
                "dist/big",
            ),
            ("tar: f31: Cannot open: No space left on device\n", "f31"),
            ("tar: d: Cannot mkdir: Disk quota exceeded\n", "d"),
            (
                "tar: a: Cannot utime: Operation not permitted\ntar: b: Cannot write: No space left on device\n",
                "b",
            ),
            (
                "./dist/big: Write failed: No space left on device\nbsdtar: Error exit delayed from previous errors.\n",
                "dist/big",
            ),
            (
                "./f31: Can't create 'f31': No space left on device\n",
                "f31",
            ),
        ] {
            assert_eq!(entry(said).as_deref(), Some(expected), "{said}");
        }
        for said in ["", "tar: x: Cannot open: Permission denied\n"] {
            assert_eq!(entry(said), None, "{said}");
        }
    }

    #[test]
    fn free_space_is_read_whatever_the_names() {
        let table = |line: &str| {
            format!("Filesystem     1024-blocks  Used Available Capacity Mounted on\n{line}\n")
        };
        for (line, expected) in [
            (
                "tmpfs                 1024    76       948       8% /tmp/a b",
                Some(948 << 10),
            ),
            (
                "//me@nas/my share 1000 1000 0 100% /Volumes/my share",
                Some(0),
            ),
            ("nonsense", None),
        ] {
            assert_eq!(free(&table(line)), expected, "{line}");
        }
    }
}
