//! An SFTP server that lies: about names, sizes, ends and whose answer is whose. Nothing lands outside, nothing stays,
//! nothing hangs, and memory stays bounded.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_ssh::{Error, Limits, RemotePath, Selection, TransferSummary};
use support::archives::everything_in;
use support::lying_sftp::*;
use support::trees::open;

const LIMITS: Limits = Limits {
    bytes: 1_000_000,
    entries: 500,
    path_bytes: 200,
};

async fn fetch(
    given: Vec<Name>,
    lie: impl Fn(u8, u32, u32) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Result<TransferSummary, Error>, tempfile::TempDir) {
    let server = LyingSftp::start(given, lie).await;
    fetch_from(&server, &Selection::everything(), &LIMITS).await
}

async fn fetch_from(
    server: &LyingSftp,
    what: &Selection,
    limits: &Limits,
) -> (Result<TransferSummary, Error>, tempfile::TempDir) {
    let here = tempfile::tempdir().unwrap();
    std::fs::create_dir(here.path().join("work")).unwrap();
    let connection = server.connect().await;
    let (work, home) = (open(&here.path().join("work")), RemotePath::home());
    let download = connection.download(&home, what, &work, Path::new("out"), limits, |_| ());
    let outcome = tokio::time::timeout(Duration::from_secs(30), download)
        .await
        .unwrap();
    (outcome, here)
}

/// Resident memory of this process, in MiB; a test has one of its own under nextest.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn file(name: &[u8], size: u64) -> Name {
    (name.to_vec(), FILE, size)
}

#[tokio::test]
async fn an_honest_server_passes_so_that_the_others_prove_something() {
    let (outcome, here) = fetch(vec![file(b"a", 1), file(b"b", 1)], |_, _, _| None).await;
    assert_eq!(outcome.unwrap().files, 2);
    assert_eq!(everything_in(&here.path().join("work/out")), ["./a", "./b"]);
}

#[tokio::test]
async fn names_that_are_paths_reach_nothing() {
    for name in [
        &b"../evil"[..],
        b"/tmp/evil",
        b"a/b",
        b"a/../../evil",
        b"a\0b",
        b"",
        &[b'n'; 400],
    ] {
        let (outcome, here) = fetch(vec![file(b"a", 1), file(name, 1)], |_, _, _| None).await;
        assert!(outcome.is_err(), "{name:?}: {outcome:?}");
        assert_eq!(everything_in(here.path()), ["./work"], "{name:?}");
    }
    // Every server lists these, and nobody goes there.
    let dots = vec![
        (b".".to_vec(), DIRECTORY, 0),
        (b"..".to_vec(), DIRECTORY, 0),
        file(b"a", 1),
    ];
    let (outcome, here) = fetch(dots, |_, _, _| None).await;
    assert_eq!(outcome.unwrap().files, 1);
    assert_eq!(everything_in(&here.path().join("work/out")), ["./a"]);
}

#[tokio::test]
async fn a_name_that_comes_twice_does_not_come() {
    let (outcome, here) = fetch(vec![file(b"a", 1), file(b"a", 1)], |_, _, _| None).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(everything_in(here.path()), ["./work"]);
}

#[tokio::test]
async fn a_link_out_is_left_out() {
    let given = vec![file(b"a", 1), (b"link".to_vec(), LINK, 0)];
    let (outcome, here) = fetch(given, |_, _, _| None).await;
    assert_eq!(outcome.unwrap().skipped[0].path, Path::new("link"));
    assert_eq!(everything_in(&here.path().join("work/out")), ["./a"]);
}

#[tokio::test]
async fn directories_that_never_end_are_cut_off() {
    // Long names, many of them: what is held of a directory is bounded in bytes, not in names alone.
    let before_all = resident_mib();
    let again = |kind: u8, id: u32, before: u32| {
        let name = |n: u32| {
            file(
                format!("{before:08}{n:08}{}", "n".repeat(2000)).as_bytes(),
                0,
            )
        };
        (kind == READDIR).then(|| names(id, &(0..50).map(name).collect::<Vec<_>>()))
    };
    let (outcome, here) = fetch(Vec::new(), again).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(everything_in(here.path()), ["./work"]);
    let grown = resident_mib().saturating_sub(before_all);
    assert!(
        grown < 192,
        "{grown} MiB, of which the server here has a part"
    );

    // Each directory holds another one.
    let deeper = |kind: u8, id: u32, before: u32| {
        (kind == READDIR).then(|| {
            if before.is_multiple_of(2) {
                names(id, &[(b"d".to_vec(), DIRECTORY, 0)])
            } else {
                status(id, 1)
            }
        })
    };
    let (outcome, here) = fetch(Vec::new(), deeper).await;
    assert!(
        matches!(outcome, Err(Error::LimitExceeded { .. })),
        "{outcome:?}"
    );
    assert_eq!(everything_in(here.path()), ["./work"]);

    // Answers without a name in them, for ever.
    let empty = |kind: u8, id: u32, _| (kind == READDIR).then(|| names(id, &[]));
    let (outcome, here) = fetch(Vec::new(), empty).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(everything_in(here.path()), ["./work"]);
}

/// Patterns by which everything is looked at and nothing of what these servers have is wanted.
fn nothing() -> Selection {
    Selection::parse(&["*.ipa"], &[""; 0]).unwrap()
}

/// Of long names, as many as come to so many bytes in one answer.
fn long_names(id: u32, before: u32, kind: u32) -> Vec<u8> {
    let name = |number: u32| {
        let name = format!("{before:08}{number:08}{}", "n".repeat(1000));
        (name.into_bytes(), kind, 0)
    };
    names(id, &(0..200).map(name).collect::<Vec<_>>())
}

#[tokio::test]
async fn many_large_directories_side_by_side_are_not_held_at_once() {
    let before_all = resident_mib();
    // The top has 64 directories, and each of them 4 MB of names that nobody wants.
    let siblings = |kind: u8, id: u32, before: u32| {
        (kind == READDIR).then(|| match before {
            0 => {
                let name = |number: u32| (format!("d{number}").into_bytes(), DIRECTORY, 0);
                names(id, &(0..64).map(name).collect::<Vec<_>>())
            }
            1 => status(id, 1),
            // Whoever reads, all get the same number.
            _ if before < 64 * 20 => long_names(id, before, FILE),
            _ => status(id, 1),
        })
    };
    let server = LyingSftp::start(Vec::new(), siblings).await;
    let (outcome, here) = fetch_from(&server, &nothing(), &Limits::default()).await;
    assert_eq!(outcome.unwrap().files, 0);
    assert_eq!(everything_in(here.path()), ["./work"]);
    let grown = resident_mib().saturating_sub(before_all);
    assert!(grown < 128, "{grown} MiB, of which the server has a part");
}

#[tokio::test]
async fn a_tree_without_end_in_width_is_cut_off_by_the_bytes_of_its_names() {
    let before_all = resident_mib();
    // Directories that nobody wants count for no limit, and each is to be looked into: 20 MB of them in one, and so on.
    let wide = |kind: u8, id: u32, before: u32| {
        (kind == READDIR).then(|| match before % 100 {
            99 => status(id, 1),
            _ => long_names(id, before, DIRECTORY),
        })
    };
    let server = LyingSftp::start(Vec::new(), wide).await;
    let any_length = Limits {
        path_bytes: 100_000,
        ..Limits::default()
    };
    let (outcome, here) = fetch_from(&server, &nothing(), &any_length).await;
    assert!(
        matches!(
            outcome,
            Err(Error::LimitExceeded {
                limit: "bytes of names",
                ..
            })
        ),
        "{outcome:?}"
    );
    assert_eq!(everything_in(here.path()), ["./work"]);
    let grown = resident_mib().saturating_sub(before_all);
    assert!(grown < 256, "{grown} MiB, of which the server has a part");

    // Files that are wanted, fewer than the limit of entries.
    let many =
        |kind: u8, id: u32, before: u32| (kind == READDIR).then(|| long_names(id, before, FILE));
    let server = LyingSftp::start(Vec::new(), many).await;
    let everything = Selection::everything();
    let (outcome, _here) = fetch_from(&server, &everything, &Limits::default()).await;
    assert!(
        matches!(
            outcome,
            Err(Error::LimitExceeded {
                limit: "bytes of names",
                ..
            })
        ),
        "{outcome:?}"
    );
    let grown = resident_mib().saturating_sub(before_all);
    assert!(grown < 320, "{grown} MiB, of which the server has a part");
}

#[tokio::test]
async fn what_goes_away_after_it_was_listed_is_looked_for_once_more_and_then_left_out() {
    let given = || vec![file(b"a", 1), file(b"large", 1 << 20), file(b"z", 1)];
    // The second look finds all there is.
    let once =
        |kind: u8, id: u32, before: u32| (kind == OPEN && before == 2).then(|| status(id, 2));
    let server = LyingSftp::start(vec![file(b"a", 1), file(b"b", 1), file(b"z", 1)], once).await;
    let (outcome, here) = fetch_from(&server, &Selection::everything(), &LIMITS).await;
    // Each session of SFTP counts anew, so what is asked for third is never there.
    let summary = outcome.unwrap();
    assert_eq!(summary.files, 2);
    assert_eq!(
        summary.warnings,
        ["left out `z`: it went away in the VM while files were fetched"]
    );
    assert_eq!(everything_in(&here.path().join("work/out")), ["./a", "./b"]);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);

    let never = |kind: u8, id: u32, _: u32| (kind == OPEN).then(|| status(id, 2));
    let limits = Limits {
        bytes: 10 << 20,
        ..LIMITS
    };
    let server = LyingSftp::start(given(), never).await;
    let (outcome, _here) = fetch_from(&server, &Selection::everything(), &limits).await;
    let summary = outcome.unwrap();
    assert_eq!((summary.files, summary.warnings.len()), (0, 3));
}

#[tokio::test]
async fn a_connection_lost_while_sftp_starts_is_made_anew_and_nonsense_is_not() {
    let server = LyingSftp::cutting(1, vec![file(b"a", 1)], |_, _, _| None).await;
    let (outcome, here) = fetch_from(&server, &Selection::everything(), &LIMITS).await;
    assert_eq!(outcome.unwrap().files, 1);
    assert_eq!(everything_in(&here.path().join("work/out")), ["./a"]);

    let unknown = |kind: u8, id: u32, _| (kind == READDIR).then(|| packet(77, id, b""));
    let server = LyingSftp::start(vec![file(b"a", 1)], unknown).await;
    let (outcome, _here) = fetch_from(&server, &Selection::everything(), &LIMITS).await;
    let problem = outcome.unwrap_err();
    assert!(
        problem
            .to_string()
            .contains("does not keep to the protocol"),
        "{problem}"
    );
    assert!(!matches!(problem, Error::Lost { .. }), "{problem:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn files_that_are_not_what_they_claim_bring_nothing() {
    type Case = (&'static str, u64, fn(u8, u32, u32) -> Option<Vec<u8>>);
    let cases: [Case; 6] = [
        ("shorter than it said", 1000, |_, _, _| None),
        ("far larger than allowed", u64::MAX, |_, _, _| None),
        ("more than was asked for", 1000, |kind, id, _| {
            (kind == READ).then(|| data(id, &[7; 200_000]))
        }),
        ("never an end", 10, |kind, id, _| {
            (kind == READ).then(|| data(id, b""))
        }),
        ("a refusal in the middle", 1000, |kind, id, before| {
            (kind == READ && before > 0).then(|| status(id, 4))
        }),
        (
            "a status that is fine where data is due",
            10,
            |kind, id, _| (kind == READ).then(|| status(id, 0)),
        ),
    ];
    for (what, size, lie) in cases {
        let (outcome, here) = fetch(vec![file(b"a", size)], lie).await;
        assert!(outcome.is_err(), "{what}: {outcome:?}");
        assert_eq!(everything_in(here.path()), ["./work"], "{what}");
    }
}

#[tokio::test]
async fn answers_that_are_none_end_the_session() {
    type Case = (&'static str, fn(u8, u32, u32) -> Option<Vec<u8>>);
    let cases: [Case; 8] = [
        ("another's number", |kind, id, _| {
            (kind == OPEN).then(|| status(id + 1000, 0))
        }),
        ("twice the same", |kind, id, _| {
            (kind == READDIR).then(|| [status(id, 1), status(id, 1)].concat())
        }),
        ("a packet of four gigabytes", |kind, _, _| {
            (kind == READDIR).then(|| vec![0xff; 64])
        }),
        ("an empty packet", |kind, _, _| {
            (kind == READDIR).then(|| vec![0; 4])
        }),
        ("an unknown kind", |kind, id, _| {
            (kind == READDIR).then(|| packet(77, id, b""))
        }),
        ("a handle where names are due", |kind, id, _| {
            (kind == READDIR).then(|| packet(102, id, &string(b"h")))
        }),
        ("a count of names that is not there", |kind, id, _| {
            (kind == READDIR).then(|| packet(104, id, &u32::MAX.to_be_bytes()))
        }),
        (
            "no names, and an attribute list without end",
            |kind, id, _| {
                (kind == LSTAT).then(|| packet(105, id, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]))
            },
        ),
    ];
    for (what, lie) in cases {
        let (outcome, here) = fetch(vec![file(b"a", 1)], lie).await;
        if what == "no names, and an attribute list without end" && outcome.is_ok() {
            // Nobody asked for that one's attributes.
            continue;
        }
        assert!(outcome.is_err(), "{what}: {outcome:?}");
        assert_eq!(everything_in(here.path()), ["./work"], "{what}");
    }
}
