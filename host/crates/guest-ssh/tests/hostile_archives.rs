//! A corpus of archives that lie: about names, sizes, kinds, and where they end. Nothing of them may land outside, nothing
//! may stay behind, and the error names the entry.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use bytes::Bytes;
use guest_ssh::{Error, Limits};
use support::archives::*;
use support::scripted::{Answer, End};

fn file(name: &str) -> Vec<u8> {
    member(b'0', name, "", b"x")
}

fn long_name(name: &[u8]) -> Vec<u8> {
    member(b'L', "././@LongLink", "", name)
}

/// The entry an error names, whatever the error.
fn named(outcome: Result<guest_ssh::TransferSummary, Error>) -> Result<String, String> {
    match outcome {
        Err(Error::Transfer { entry, .. } | Error::LimitExceeded { entry, .. }) => Ok(entry),
        other => Err(format!("{other:?}")),
    }
}

async fn refused(what: &str, archive: Vec<u8>, entry: &str) {
    let (outcome, here) = download(archive).await;
    match named(outcome) {
        Ok(name) => assert!(
            name.contains(entry),
            "{what}: `{name}` was named, not `{entry}`"
        ),
        Err(other) => panic!("{what}: {other}"),
    }
    assert_eq!(everything_in(here.path()), ["./work"], "{what}");
}

#[tokio::test]
async fn names_that_are_none() {
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("only a dot", file("."), "."),
        ("only dots", file(".."), ".."),
        ("up at the end", file("a/.."), "a/.."),
        ("a root", file("/"), "/"),
        (
            "a NUL byte",
            [pax("path", "a\0b"), file("x")].concat(),
            "a\\u{0}b",
        ),
        (
            "a NUL byte in a long name",
            [long_name(b"a\0b"), file("x")].concat(),
            "a\\u{0}b",
        ),
        (
            "a name of 300 bytes",
            [pax("path", &"n".repeat(300)), file("x")].concat(),
            "nnn",
        ),
        (
            "a path of 5,000 bytes",
            [pax("path", &"p/".repeat(2500)), file("x")].concat(),
            "p/p/",
        ),
        (
            "control characters",
            [pax("path", "../\x1b[2Jgone"), file("x")].concat(),
            "../\\u{1b}[2Jgone",
        ),
        (
            "a ustar prefix that climbs",
            altered(file("evil"), |header| {
                header[257..265].copy_from_slice(b"ustar\x0000");
                header[345..353].copy_from_slice(b"../../..");
            }),
            "../../../evil",
        ),
        (
            "a ustar prefix that is absolute",
            altered(file("evil"), |header| {
                header[257..265].copy_from_slice(b"ustar\x0000");
                header[345..349].copy_from_slice(b"/tmp");
            }),
            "/tmp/evil",
        ),
        (
            "a later name that climbs, for the one that did not",
            [
                pax("path", "fine"),
                pax("path", "../evil"),
                file("harmless"),
            ]
            .concat(),
            "../evil",
        ),
    ];
    for (what, archive, entry) in cases {
        refused(what, [archive, END.to_vec()].concat(), entry).await;
    }
}

#[tokio::test]
async fn sizes_that_lie() {
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "more than follows",
            head(b'0', "short", "", 10_000),
            "short",
        ),
        (
            "less than follows",
            [head(b'0', "less", "", 1), vec![b'z'; 1024]].concat(),
            "less",
        ),
        (
            "not a number",
            sized(file("word"), b"not a number"),
            "the start",
        ),
        (
            "negative, in octal",
            sized(file("minus"), b"-0000000001\0"),
            "the start",
        ),
        (
            "negative, in base 256",
            sized(file("minus"), &[0xff; 12]),
            "the start",
        ),
        (
            "the largest in base 256",
            sized(
                file("most"),
                b"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
            ),
            "most",
        ),
        (
            "past 64 bits in base 256",
            sized(
                file("past"),
                b"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01",
            ),
            "the start",
        ),
        (
            "pax says none, much follows",
            [pax("size", "0"), file("lied")].concat(),
            "lied",
        ),
        (
            "pax says minus one",
            [pax("size", "-1"), file("x")].concat(),
            "the start",
        ),
        (
            "pax says plus one",
            [pax("size", "+1"), file("x")].concat(),
            "the start",
        ),
        (
            "pax says nothing",
            [pax("size", ""), file("x")].concat(),
            "the start",
        ),
        (
            "pax says it in hex",
            [pax("size", "0x1"), file("x")].concat(),
            "the start",
        ),
        (
            "pax says more than there is",
            [pax("size", "99999999999999999999"), file("x")].concat(),
            "the start",
        ),
        (
            "pax says an exabyte",
            [pax("size", "1152921504606846977"), file("x")].concat(),
            "x",
        ),
        (
            "a link with contents",
            member(b'2', "link", "d", b"contents"),
            "link",
        ),
        (
            "a hard link with contents",
            [file("f"), member(b'1', "hard", "f", b"contents")].concat(),
            "hard",
        ),
        (
            "a pax record that says it is longer",
            member(b'x', "pax", "", b"99 path=x\n"),
            "the start",
        ),
        (
            "a pax record that says it is shorter",
            member(b'x', "pax", "", b"5 path=longer\n"),
            "the start",
        ),
        (
            "a pax record without an end",
            member(b'x', "pax", "", b"12 path=abcd"),
            "the start",
        ),
    ];
    for (what, archive, entry) in cases {
        refused(what, [archive, END.to_vec()].concat(), entry).await;
    }
}

#[tokio::test]
async fn links_that_lead_elsewhere() {
    let link = |name: &str, to: &str| member(b'2', name, to, b"");
    let hard = |name: &str, to: &str| member(b'1', name, to, b"");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a hard link to itself", hard("self", "self"), "self"),
        (
            "a hard link ahead of its file",
            [hard("early", "late"), file("late")].concat(),
            "early",
        ),
        (
            "a hard link to a directory",
            [member(b'5', "d", "", b""), hard("h", "d")].concat(),
            "h",
        ),
        ("a hard link to nothing", hard("h", ""), "h"),
        (
            "a hard link over a file",
            [file("f"), file("g"), hard("g", "f")].concat(),
            "g",
        ),
        (
            "a file over a link",
            [file("f"), link("l", "f"), file("l")].concat(),
            "l",
        ),
        (
            "a link over a file",
            [file("f"), link("f", "x")].concat(),
            "f",
        ),
        (
            "a link over a directory",
            [member(b'5', "d", "", b""), link("d", "x")].concat(),
            "d",
        ),
        (
            "a directory over a file",
            [file("f"), member(b'5', "f", "", b"")].concat(),
            "f",
        ),
        (
            "a file through a chain of links",
            [
                link("a", "b"),
                link("b", "c"),
                member(b'5', "c", "", b""),
                file("a/evil"),
            ]
            .concat(),
            "a/evil",
        ),
        (
            "a file through links that climb level by level",
            [
                member(b'5', "d", "", b""),
                link("d/up", ".."),
                file("d/up/evil"),
            ]
            .concat(),
            "d/up/evil",
        ),
    ];
    for (what, archive, entry) in cases {
        refused(what, [archive, END.to_vec()].concat(), entry).await;
    }
}

#[tokio::test]
async fn a_chain_of_links_stays_inside_however_it_is_read() {
    let mut archive = vec![member(b'5', "d", "", b""), member(b'2', "d/top", "..", b"")];
    archive.extend((0..40).map(|n| member(b'2', &format!("l{n}"), &format!("l{}", n + 1), b"")));
    // From the top by `d/top`, then up once more if a reader took the text for a path.
    archive.push(member(b'2', "d/out", "top/../../evil", b""));
    archive.push(member(b'2', "l40", "d/top/f", b""));
    archive.push(file("f"));
    archive.push(END.to_vec());
    let (outcome, here) = download(archive.concat()).await;
    let skipped: Vec<_> = outcome
        .unwrap()
        .skipped
        .into_iter()
        .map(|skipped| skipped.path)
        .collect();
    assert_eq!(skipped, [Path::new("d/out")]);
    let root = here.path().join("work/out").canonicalize().unwrap();
    for name in ["l39", "l40", "d/top"] {
        assert!(
            root.join(name).canonicalize().unwrap().starts_with(&root),
            "{name}"
        );
    }
}

/// The same bytes again and again after a start.
fn for_ever(start: Vec<u8>, again: Vec<u8>) -> impl Fn() -> Answer + Send + Sync + 'static {
    move || {
        let again = Bytes::from(again.clone());
        Answer {
            stdout: Box::new(
                std::iter::once(Bytes::from(start.clone())).chain(std::iter::repeat(again)),
            ),
            end: End::Status(0),
        }
    }
}

#[tokio::test]
async fn streams_that_never_come_to_an_entry_end() {
    let limits = Limits {
        bytes: 1_000_000,
        entries: 500,
        path_bytes: 200,
    };
    let long_link = member(b'K', "././@LongLink", "", b"x");
    for (what, again) in [
        ("pax records", pax("comment", "x").repeat(20)),
        (
            "global pax records",
            altered(pax("comment", "x"), |header| header[156] = b'g').repeat(20),
        ),
        ("large pax records", pax("comment", &"x".repeat(1_000_000))),
        ("long names", long_name(b"x").repeat(20)),
        ("long links", long_link.repeat(20)),
        ("the top", member(b'5', "./", "", b"").repeat(20)),
        ("the same directory", member(b'5', "d", "", b"").repeat(20)),
        (
            "links that are left out",
            member(b'2', "out", "/etc", b"").repeat(20),
        ),
    ] {
        let (outcome, here) = download_from(for_ever(Vec::new(), again), &limits).await;
        named(outcome).unwrap_or_else(|other| panic!("{what}: {other}"));
        assert_eq!(everything_in(here.path()), ["./work"], "{what}");
    }
}

#[tokio::test]
async fn what_follows_the_end_mark_is_not_unpacked() {
    let archive = [file("f"), END.to_vec(), file("second"), END.to_vec()].concat();
    let (outcome, here) = download(archive).await;
    assert_eq!(outcome.unwrap().files, 1);
    assert_eq!(everything_in(&here.path().join("work/out")), ["./f"]);
}

#[tokio::test]
async fn names_that_differ_in_case_only_arrive_both_or_not_at_all() {
    let archive = [file("Name"), file("name"), END.to_vec()].concat();
    let (outcome, here) = download(archive).await;
    match outcome {
        Ok(summary) => assert_eq!(
            (summary.files, everything_in(&here.path().join("work/out"))),
            (2, vec!["./Name".to_owned(), "./name".to_owned()])
        ),
        Err(problem) => {
            assert_eq!(named(Err(problem)).unwrap(), "name");
            assert_eq!(everything_in(here.path()), ["./work"]);
        }
    }
}

#[tokio::test]
async fn odd_but_honest_headers_are_read() {
    let archive = [
        // A time before 1970 and one that no clock can mean.
        altered(file("old"), |header| header[136..148].fill(0xff)),
        [pax("mtime", "99999999999999"), file("new")].concat(),
        [pax("mtime", "not a time"), file("undated")].concat(),
        // A global record names nobody.
        altered(pax("path", "../evil"), |header| header[156] = b'g'),
        file("harmless"),
        // Closed to its owner, and yet what is in it arrives.
        altered(member(b'5', "closed", "", b""), |header| {
            header[100..108].copy_from_slice(b"0000000\0")
        }),
        altered(file("closed/f"), |header| {
            header[100..108].copy_from_slice(b"0000000\0")
        }),
        END.to_vec(),
    ];
    let (outcome, here) = download(archive.concat()).await;
    assert_eq!(outcome.unwrap().files, 5);
    assert_eq!(
        everything_in(&here.path().join("work/out")),
        [
            "./closed",
            "./closed/f",
            "./harmless",
            "./new",
            "./old",
            "./undated"
        ]
    );
}

#[tokio::test]
async fn a_large_archive_that_breaks_off_leaves_nothing() {
    let whole = [
        file("a"),
        pax("path", "b"),
        file("x"),
        member(b'0', "c", "", &[7; 3000]),
        END.to_vec(),
    ]
    .concat();
    for length in (0..whole.len() - END.len()).step_by(449) {
        let (outcome, here) = download(whole[..length].to_vec()).await;
        named(outcome).unwrap_or_else(|other| panic!("{length}: {other}"));
        assert_eq!(everything_in(here.path()), ["./work"], "{length}");
    }
}
