//! A VM that lies: archives made to escape, to flood, or to break off; endings that are none.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{
    ConnectOptions, Error, ExecRequest, Exit, HostKeyPolicy, Keepalive, Limits, RemotePath,
    Selection, Signal, Target,
};
use support::archives::*;
use support::run_out;
use support::scripted::{Answer, End, Script, Scripted, password};

#[tokio::test]
async fn an_honest_archive_passes_so_that_the_others_prove_something() {
    let archive = [
        member(b'5', "./d/", "", b""),
        member(b'0', "./d/f", "", b"x"),
        END.to_vec(),
    ]
    .concat();
    let (outcome, here) = download(archive).await;
    assert_eq!(outcome.unwrap().files, 1);
    assert_eq!(
        everything_in(here.path()),
        ["./work", "./work/out", "./work/out/d", "./work/out/d/f"]
    );
    let mode = std::os::unix::fs::MetadataExt::mode(
        &std::fs::metadata(here.path().join("work/out/d/f")).unwrap(),
    );
    assert_eq!(mode & 0o7777, 0o777, "set-user-id does not come through");
}

#[tokio::test]
async fn whatever_reaches_outside_is_refused_and_leaves_no_trace() {
    let file = |name: &str| member(b'0', name, "", b"x");
    let long = |name: &str| {
        [
            member(b'L', "././@LongLink", "", name.as_bytes()),
            file("harmless"),
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an absolute name", file("/tmp/evil")),
        ("a name that climbs", file("../evil")),
        ("a name that climbs later", file("a/../../evil")),
        ("a long name that climbs", long("x/../../../evil")),
        (
            "a pax name that climbs",
            [pax("path", "../evil"), file("harmless")].concat(),
        ),
        (
            "a pax name that is absolute",
            [pax("path", "/tmp/evil"), file("harmless")].concat(),
        ),
        ("a name that was excluded", file("secret/x")),
        (
            "a file written through a link",
            [
                member(b'2', "l", "d", b""),
                member(b'5', "d", "", b""),
                file("l/evil"),
            ]
            .concat(),
        ),
        (
            "a directory over a link",
            [
                member(b'2', "l", "d", b""),
                member(b'5', "l", "", b""),
                file("l/x"),
            ]
            .concat(),
        ),
        ("a file below a file", [file("f"), file("f/x")].concat()),
        ("a hard link out", member(b'1', "h", "/etc/passwd", b"")),
        ("a hard link up", member(b'1', "h", "../../evil", b"")),
        (
            "a hard link to a link",
            [member(b'2', "l", "f", b""), member(b'1', "h", "l", b"")].concat(),
        ),
        ("a character device", member(b'3', "null", "", b"")),
        ("a block device", member(b'4', "disk", "", b"")),
        ("a pipe", member(b'6', "pipe", "", b"")),
        ("a sparse file", member(b'S', "sparse", "", b"")),
        (
            "a pax sparse file",
            [pax("GNU.sparse.major", "1"), file("GNUSparseFile.0/x")].concat(),
        ),
        ("an unknown kind", member(b'Z', "what", "", b"")),
        (
            "the same file twice",
            [file("twice"), file("twice")].concat(),
        ),
        ("a directory with contents", member(b'5', "d", "", b"boo")),
        ("a file without a name", file("./")),
        ("a damaged header", {
            let mut bytes = file("x");
            bytes[0] = b'y';
            bytes
        }),
        (
            "a name of many bytes",
            head(b'L', "././@LongLink", "", 1 << 40),
        ),
        ("a pax record of many bytes", head(b'x', "pax", "", 1 << 40)),
        ("a size beyond belief", head(b'0', "huge", "", 1 << 61)),
    ];
    for (what, archive) in cases {
        let (outcome, here) = download([archive, END.to_vec()].concat()).await;
        assert!(
            matches!(outcome, Err(Error::Transfer { .. })),
            "{what}: {outcome:?}"
        );
        assert_eq!(everything_in(here.path()), ["./work"], "{what}");
    }
    assert!(!Path::new("/tmp/evil").exists());
}

#[tokio::test]
async fn links_out_of_the_tree_are_left_out_and_named() {
    let link = |name: &str, to: &str| member(b'2', name, to, b"");
    let archive = [
        link("absolute", "/etc/passwd"),
        link("up", "../../../etc/passwd"),
        link("here", "."),
        link("through", "here/.."),
        link("fine", "d/x"),
        member(b'0', "d/x", "", b"x"),
        END.to_vec(),
    ];
    let (outcome, here) = download(archive.concat()).await;
    let skipped: Vec<_> = outcome
        .unwrap()
        .skipped
        .into_iter()
        .map(|skipped| skipped.path.into_os_string())
        .collect();
    assert_eq!(skipped, ["absolute", "up", "through"]);
    let found = everything_in(&here.path().join("work/out"));
    assert_eq!(found, ["./d", "./d/x", "./fine", "./here"]);
}

#[tokio::test]
async fn a_stream_that_breaks_off_places_nothing() {
    let whole = [member(b'0', "f", "", &[1; 2000]), END.to_vec()].concat();
    for length in [0, 100, 512, 1000, 2560] {
        let (outcome, here) = download(whole[..length].to_vec()).await;
        assert!(
            matches!(outcome, Err(Error::Transfer { .. })),
            "{length}: {outcome:?}"
        );
        assert_eq!(everything_in(here.path()), ["./work"], "{length}");
    }
}

#[tokio::test]
async fn a_whole_stream_from_a_failed_or_lost_tar_places_nothing() {
    let whole = Bytes::from([member(b'0', "f", "", b"x"), END.to_vec()].concat());
    let failing = whole.clone();
    let (outcome, here) = download_from(
        move || Answer::new(failing.clone(), End::Status(2)),
        &Limits::default(),
    )
    .await;
    assert!(
        matches!(
            outcome,
            Err(Error::RemoteFailed {
                exit: Exit::Status(2),
                ..
            })
        ),
        "{outcome:?}"
    );
    assert_eq!(everything_in(here.path()), ["./work"]);
    let (outcome, here) = download_from(
        move || Answer::new(whole.clone(), End::Nothing),
        &Limits::default(),
    )
    .await;
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
    assert_eq!(everything_in(here.path()), ["./work"]);
}

fn endless(first: Vec<u8>, rest: Vec<u8>) -> Answer {
    let rest = Bytes::from(rest);
    let stdout = std::iter::once(Bytes::from(first)).chain(std::iter::repeat(rest));
    Answer {
        stdout: Box::new(stdout),
        end: End::Status(0),
    }
}

#[tokio::test]
async fn floods_are_cut_off_at_the_limit() {
    let limits = Limits {
        bytes: 1_000_000,
        entries: 1000,
        path_bytes: 100,
    };
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let file = move || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Bytes::from(member(b'0', &format!("f{n}"), "", b""))
    };
    let file = Arc::new(file);
    let files = move || {
        let file = Arc::clone(&file);
        Answer {
            stdout: Box::new(std::iter::repeat_with(move || file())),
            end: End::Status(0),
        }
    };
    let (outcome, here) = download_from(files, &limits).await;
    assert!(
        matches!(
            outcome,
            Err(Error::LimitExceeded {
                limit: "entries",
                ..
            })
        ),
        "{outcome:?}"
    );
    assert_eq!(everything_in(here.path()), ["./work"]);

    // A size is believed in neither direction: refused when announced, never grown past it.
    let (outcome, _) = download_from(
        || endless(head(b'0', "big", "", 1_000_001), vec![0; 30_000]),
        &limits,
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::LimitExceeded { limit: "bytes", .. })),
        "{outcome:?}"
    );
    let (outcome, _) = download_from(
        || {
            endless(
                [head(b'0', "f", "", 512), vec![1; 512], END.to_vec()].concat(),
                vec![0; 30_000],
            )
        },
        &limits,
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::Transfer { .. })),
        "{outcome:?}"
    );

    // Nor may a listing go on for ever.
    let server = Scripted::start(Script::answering(|_| {
        endless(b"./a\0".to_vec(), b"./b\0./c/\0".repeat(1000))
    }))
    .await;
    let here = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient_dir(here.path(), ambient_authority()).unwrap();
    let connection = server.connect().await;
    let outcome = connection
        .download(
            &RemotePath::home(),
            &Selection::everything(),
            &into,
            Path::new("out"),
            &limits,
            |_| (),
        )
        .await;
    assert!(
        matches!(
            outcome,
            Err(Error::LimitExceeded {
                limit: "entries",
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_listing_that_names_the_outside_is_refused() {
    let server = Scripted::start(Script::answering(|_| {
        Answer::new("./a\0../../etc/passwd\0", End::Status(0))
    }))
    .await;
    let here = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient_dir(here.path(), ambient_authority()).unwrap();
    let connection = server.connect().await;
    let (what, limits) = (Selection::everything(), Limits::default());
    let outcome = connection
        .download(
            &RemotePath::home(),
            &what,
            &into,
            Path::new("out"),
            &limits,
            |_| (),
        )
        .await;
    assert!(
        matches!(outcome, Err(Error::Transfer { .. })),
        "{outcome:?}"
    );
    for target in ["../x", "/tmp/x"] {
        let outcome = connection
            .download(
                &RemotePath::home(),
                &what,
                &into,
                Path::new(target),
                &limits,
                |_| (),
            )
            .await;
        assert!(
            matches!(outcome, Err(Error::Transfer { .. })),
            "{target}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn output_after_the_exit_status_still_arrives() {
    let server = Scripted::start(Script::answering(|_| {
        let stdout = Box::new((0..500).map(|_| Bytes::from_static(&[7; 10_000])));
        Answer {
            stdout,
            end: End::StatusBeforeOutput(65),
        }
    }))
    .await;
    let connection = server.connect().await;
    let ran = run_out(
        connection
            .exec(ExecRequest::new("x", [""; 0]))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!((ran.stdout.len(), ran.exit), (5_000_000, Exit::Status(65)));
}

#[tokio::test]
async fn a_channel_closed_without_a_word_is_no_exit() {
    let server = Scripted::start(Script::answering(|_| Answer::new("x", End::Nothing))).await;
    let connection = server.connect().await;
    let mut command = connection
        .exec(ExecRequest::new("x", [""; 0]))
        .await
        .unwrap();
    let outcome = command.wait().await;
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_signal_is_sent_and_its_end_told() {
    let server = Scripted::start(Script::answering(|_| Answer::new("ready", End::BySignal))).await;
    let connection = server.connect().await;
    let mut command = connection
        .exec(ExecRequest::new("x", [""; 0]))
        .await
        .unwrap();
    assert_eq!(command.next_output().await.unwrap().data, "ready");
    command.signal(Signal::Term).await.unwrap();
    let exit = command.wait().await.unwrap();
    let expected = Exit::Signal {
        name: "TERM".to_owned(),
        core_dumped: true,
        message: "as told".to_owned(),
    };
    assert_eq!(exit, expected);
}

/// Passes bytes on both ways until told to freeze: then the connection stays open and nothing moves, as when a VM is
/// paused or a link dies.
async fn freezable(port: u16) -> (u16, tokio::sync::watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut frozen = frozen.clone();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = async { frozen.wait_for(|frozen| *frozen).await.map(drop) } => std::future::pending().await,
                }
            });
        }
    });
    (own_port, freeze)
}

#[tokio::test]
async fn a_link_that_goes_dead_is_noticed() {
    let server = Scripted::start(Script::answering(|_| Answer::new("ready", End::BySignal))).await;
    let (port, freeze) = freezable(server.port).await;
    let target = Target {
        port,
        ..server.target()
    };
    let keepalive = Keepalive {
        interval: Duration::from_millis(100),
        count_max: 2,
    };
    let options = ConnectOptions {
        keepalive,
        ..support::options()
    };
    let policy = HostKeyPolicy::FirstUse;
    let connection = guest_ssh::connect(&target, &password("admin"), &policy, &options, |_| ())
        .await
        .unwrap();
    let mut command = connection
        .exec(ExecRequest::new("x", [""; 0]))
        .await
        .unwrap();
    assert_eq!(command.next_output().await.unwrap().data, "ready");
    // Quiet alone is no reason to give up.
    assert!(
        tokio::time::timeout(Duration::from_millis(700), command.wait())
            .await
            .is_err()
    );
    freeze.send(true).unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(20), command.wait())
        .await
        .unwrap();
    assert!(
        matches!(&outcome, Err(Error::Lost { reason, .. }) if reason.contains("keepalive")),
        "{outcome:?}"
    );
}
