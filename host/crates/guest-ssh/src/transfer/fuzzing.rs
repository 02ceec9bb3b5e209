//! Ways in for fuzzing: everything here that parses bytes from the VM, called with any bytes at all.
//!
//! Compiled for tests and with the feature `fuzzing` only. The targets in `fuzz/` call these for hours; the tests below
//! call them with the corpus those left behind, and with damaged versions of honest input, on every run.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a panic is what fuzzing looks for"
)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use tokio::sync::mpsc;

use super::archive::PieceReader;
use super::compare::digests as digests_of;
use super::complaints::Complaints;
use super::facts::Beginning;
use super::full;
use super::listing::Listing;
use super::receive::receive;
use super::sftp::wire::read_anything;
use super::staging::Staging;
use super::{Counters, Direction, Limits, Meter, Selection};
pub use crate::detach::fuzzing::frames;
use crate::hostkey::{Fingerprint, KnownHosts};

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 200,
    path_bytes: 256,
};

/// Receives the bytes as an archive, in pieces of a length the first byte gives, and looks at what it left.
///
/// # Panics
///
/// If anything is outside the directory, any link leads out, or more arrived than the limits allow.
pub fn archive(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("work")).unwrap();
    let work = Dir::open_ambient_dir(root.path().join("work"), ambient_authority()).unwrap();
    let pieces: Vec<_> = bytes.chunks(usize::from(first) + 1).collect();
    let (send, queue) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        send.try_send(Bytes::copy_from_slice(piece)).unwrap();
    }
    drop(send);
    let counters = Counters::default();
    let meter = Meter {
        direction: Direction::Download,
        limits: LIMITS,
        counters: &counters,
    };
    let staging = Staging::create(&work).unwrap();
    let selection = Selection::parse(&[""; 0], &["secret"]).unwrap();
    let _ = receive(PieceReader::new(queue), &staging, &selection, &meter);
    let top = root.path().join("work").join(staging.path());
    inspect(&top, &top);
    drop(staging);
    let left: Vec<_> = walk(root.path());
    assert_eq!(
        left,
        [Path::new("work")],
        "more than the directory itself is left"
    );
}

fn inspect(top: &Path, dir: &Path) {
    let mut bytes = 0;
    let entries = walk(dir);
    assert!(entries.len() as u64 <= LIMITS.entries * LIMITS.path_bytes as u64 / 2);
    for path in entries {
        assert!(!path.starts_with("secret"), "excluded, and yet it came");
        let full = dir.join(&path);
        let metadata = std::fs::symlink_metadata(&full).unwrap();
        if metadata.is_symlink() {
            if let Ok(target) = full.canonicalize() {
                assert!(
                    target.starts_with(top.canonicalize().unwrap()),
                    "{path:?} leads out"
                );
            }
        } else if metadata.is_file() {
            bytes += metadata.len();
            assert_eq!(
                std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7000,
                0
            );
        } else {
            assert!(metadata.is_dir(), "{path:?}");
        }
    }
    // A hard link shows the same bytes under each of its names.
    assert!(bytes <= LIMITS.bytes * LIMITS.entries);
}

/// Everything below a directory, links not followed.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Reads the bytes as the names a VM lists, in pieces of a length the first byte gives.
///
/// # Panics
///
/// If a name comes through that is absolute, climbs, was excluded, or is past the limits.
pub fn listing(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    use super::facts::Details;
    let selection = Selection::parse(&[""; 0], &["secret"]).unwrap();
    // The first byte says in what form it comes, too.
    let details = match first % 4 {
        0 => None,
        1 => Some(Details::Printf),
        2 => Some(Details::StatF),
        _ => Some(Details::StatC),
    };
    let mut listing = Listing::new(&selection, &LIMITS, details);
    for piece in bytes.chunks(usize::from(first) + 1) {
        if listing.push(piece).is_err() {
            break;
        }
    }
    let mut count = 0;
    for name in listing
        .chosen()
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = name.strip_prefix(b"./").unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        assert!(
            path.components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        );
        assert!(!path.starts_with("secret") && name.len() <= LIMITS.path_bytes + 4);
        count += 1;
    }
    assert!(count <= LIMITS.entries);
}

/// Reads the bytes as a VM's answer to what it has, in pieces of a length the first byte gives.
///
/// # Panics
///
/// If other pieces make another answer, or a program is named that is none of ours.
pub fn facts(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let read = |size: usize| {
        let mut beginning = Beginning::default();
        let mut answer = Vec::new();
        for piece in bytes.chunks(size) {
            answer.extend_from_slice(&beginning.strip(Bytes::copy_from_slice(piece)));
        }
        super::facts::Facts::parse(&answer)
    };
    let facts = read(usize::from(first) + 1);
    assert_eq!(facts, read(bytes.len().max(1)));
    if let Some(program) = facts.and_then(|facts| facts.sha256) {
        assert!(["sha256sum", "shasum -a 256"].contains(&program));
    }
}

/// Reads the bytes as what an SFTP server sends, in pieces of a length the first byte gives.
///
/// # Panics
///
/// If more is held of them than came.
pub fn sftp(bytes: &[u8]) {
    if let Some((&first, bytes)) = bytes.split_first() {
        read_anything(bytes.chunks(usize::from(first) + 1));
    }
}

/// Reads the bytes as a listing of digests.
///
/// # Panics
///
/// If there are more of them than came.
pub fn digests(bytes: &[u8]) {
    let answer = Beginning::default().strip(Bytes::copy_from_slice(bytes));
    for text in [bytes, &answer] {
        let count = digests_of(text).map_or(0, |digests| digests.len());
        assert!(count <= text.len() / 64);
    }
}

/// Reads the bytes as what programs of the VM say of themselves: free space, a full disk, what `tar` complains of. The first byte says which, and in what pieces it comes.
///
/// # Panics
///
/// If what is shown of them could move a cursor, or is long.
pub fn answers(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    match first % 3 {
        0 => drop(full::free(&text)),
        1 => drop(full::entry(&text)),
        _ => {
            let mut complaints = Complaints::default();
            for piece in bytes.chunks(usize::from(first) + 1) {
                complaints.push(piece);
            }
            complaints.finish();
            let shown: Vec<_> = complaints.gone.warnings().chain(complaints.worst).collect();
            assert!(shown.len() <= 12);
            for line in shown {
                assert!(line.len() < 500 && !line.chars().any(char::is_control));
            }
        }
    }
}

/// Reads the bytes as a `known_hosts` file and as a fingerprint.
pub fn host_keys(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = KnownHosts::parse(&text);
    if let Ok(print) = Fingerprint::parse(&text) {
        let again = Fingerprint::parse(&print.to_string()).unwrap();
        assert_eq!(print.to_string(), again.to_string());
    }
}

/// Shows the bytes as a name in a message.
///
/// # Panics
///
/// If what is shown could move a cursor, or is far longer than what a message may hold.
pub fn name_in_message(bytes: &[u8]) {
    let shown = crate::quote::printable(bytes);
    assert!(!shown.chars().any(char::is_control));
    assert!(shown.len() < 70_000);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The corpus of a target, as committed: what fuzzing found worth keeping.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap_or_else(|problem| panic!("{}: {problem}", dir.display()))
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(!files.is_empty(), "no seeds for `{target}`");
        files
    }

    #[test]
    fn the_corpus_passes() {
        for (target, run) in [
            ("archive", archive as fn(&[u8])),
            ("listing", listing),
            ("facts", facts),
            ("frames", frames),
            ("host_keys", host_keys),
            ("name_in_message", name_in_message),
            ("sftp", sftp),
            ("digests", digests),
            ("answers", answers),
        ] {
            corpus(target).iter().for_each(|bytes| run(bytes));
        }
    }

    /// An archive with everything in it.
    fn honest() -> Vec<u8> {
        let mut archive = vec![77];
        let mut builder = tar::Builder::new(&mut archive);
        let mut add = |kind, name: &str, link: Option<&str>, contents: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_mtime(1);
            header.set_size(contents.len() as u64);
            if let Some(link) = link {
                header.set_link_name(link).unwrap();
            }
            builder.append_data(&mut header, name, contents).unwrap();
        };
        add(tar::EntryType::Directory, "d", None, b"");
        add(tar::EntryType::Regular, "d/file", None, &[7; 700]);
        add(tar::EntryType::Regular, &"long/".repeat(40), None, b"");
        add(tar::EntryType::Symlink, "d/link", Some("../d/file"), b"");
        add(tar::EntryType::Link, "hard", Some("d/file"), b"");
        builder
            .append_pax_extensions([("path", &b"renamed"[..]), ("mtime", b"5.5")])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o755);
        builder
            .append_data(&mut header, "plain", &b"abc"[..])
            .unwrap();
        builder.finish().unwrap();
        drop(builder);
        archive
    }

    /// The header's checksum made right, so that damage reaches what is behind it.
    fn mend(archive: &mut [u8]) {
        for block in archive[1..].chunks_exact_mut(512) {
            if block[257..262] == *b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }

    #[test]
    fn an_archive_may_break_off_anywhere() {
        let whole = honest();
        for length in (0..whole.len()).step_by(211) {
            archive(&whole[..length]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_archives_do_no_harm(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            mended in any::<bool>(),
        ) {
            let mut bytes = honest();
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if mended {
                mend(&mut bytes);
            }
            archive(&bytes);
        }

        #[test]
        fn any_listing_is_read_or_refused(
            names in prop::collection::vec("(\\./|/|\\.\\./)?(a|secret|[^\0]{0,20})(/|/\\.\\.|/b)?", 0..30),
            piece in any::<u8>(),
        ) {
            listing(&[&[piece], names.join("\0").as_bytes(), b"\0"].concat());
        }

        #[test]
        fn any_follower_is_understood_or_refused(
            said in prop::collection::vec(
                prop::string::bytes_regex("[12] [0-2] [0-2] [0-9]\n|1 0 1 3\nabc|2 0 1 2\nde|end status 0 [0-9]\n|end core [A-Z]{1,3} 3\n|heard 1\n|gone\n|.{0,9}").unwrap(),
                0..20,
            ),
            size in any::<u8>(),
            cut in 0..90_u8,
        ) {
            frames(&[&[size, 0, cut], said.concat().as_slice()].concat());
        }

        #[test]
        fn any_answer_has_facts_or_not(
            lines in prop::collection::vec("orka-step: begin|tar=(gnu|bsd|x)|find|details=[fc]|gzip|sha256=(shasum|sha256sum|rm)|end|.{0,9}", 0..20),
            size in any::<u8>(),
        ) {
            facts(&[&[size], lines.join("\n").as_bytes()].concat());
        }

        #[test]
        fn any_packets_are_read_or_refused(
            piece in any::<u8>(),
            packets in prop::collection::vec((90_u8..110, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
        ) {
            let mut stream = vec![piece];
            for (kind, body) in packets {
                stream.extend(u32::try_from(body.len() + 1).unwrap().to_be_bytes());
                stream.push(kind);
                stream.extend(body);
            }
            sftp(&stream);
        }

        #[test]
        fn any_answer_is_read_or_not(
            first in any::<u8>(),
            text in "(tar: |\\./|[0-9]{1,22} |100% |end\n|: Cannot stat: No such file or directory\n|[0-9a-f]{60,70}|[^\0]{0,9}){0,12}",
        ) {
            answers(&[&[first], text.as_bytes()].concat());
            digests(text.as_bytes());
        }

        #[test]
        fn any_text_is_host_keys_or_not(text in "(SHA256:|\\||@revoked |@cert-authority )?[^\n]{0,60}(\n.{0,40}){0,3}") {
            host_keys(text.as_bytes());
        }

        #[test]
        fn any_name_can_be_shown(name in prop::collection::vec(any::<u8>(), 0..2000)) {
            name_in_message(&name);
        }
    }
}
