//! How trees travel where the straight way is closed, slow or breaks, and what need not travel at all.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use guest_ssh::{
    Compare, Compress, Connection, Error, HostKeyPolicy, Limits, Selection, Target,
    TransferOptions, TransferSummary,
};
use support::proxy::{Proxy, Weather};
use support::sshd::{Sshd, TARS, Tar};
use support::trees::{
    Scene, assert_same, digest_by_sha256sum, look, names, odd_tree, open, remote, write,
};

/// A server that runs no commands.
const SFTP_ONLY: &str = "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n";

fn scene(server: Sshd) -> Scene {
    Scene {
        server,
        here: tempfile::tempdir().unwrap(),
        there: tempfile::tempdir().unwrap(),
    }
}

fn without(tool: &str) -> Sshd {
    let bin = tempfile::tempdir().unwrap().keep();
    for tool in [
        "sh", "mkdir", "find", "tar", "cat", "wc", "chmod", "mv", "rm", "tr",
    ]
    .into_iter()
    .filter(|name| *name != tool)
    {
        symlink(support::userland::find(tool).unwrap(), bin.join(tool)).unwrap();
    }
    Sshd::configured(
        "Subsystem sftp internal-sftp\n",
        &format!("PATH={}", bin.display()),
        false,
    )
}

/// A VM whose `tar` runs out of disk, in the words of GNU's.
fn with_a_full_disk() -> Sshd {
    let bin = tempfile::tempdir().unwrap().keep();
    for tool in ["sh", "mkdir", "find", "cat", "df"] {
        symlink(support::userland::find(tool).unwrap(), bin.join(tool)).unwrap();
    }
    let tar = "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'tar (GNU tar) 1.34'; exit; }\ncat >/dev/null\n\
               echo 'tar: dist/big: Wrote only 5632 of 10240 bytes' >&2\nexit 2\n";
    write(bin.join("tar"), tar.as_bytes(), 0o755);
    Sshd::configured("", &format!("PATH={}", bin.display()), false)
}

#[tokio::test]
async fn a_full_disk_in_the_vm_is_told_with_the_entry_and_what_is_free() {
    let scene = scene(with_a_full_disk());
    write(scene.here.path().join("dist/big"), &[1; 100_000], 0o644);
    let outcome = scene
        .upload(&Selection::everything(), &Limits::default())
        .await;
    let problem = outcome.unwrap_err();
    assert!(
        matches!(&problem, Error::VmFull { entry, free: Some(_) } if entry == "dist/big"),
        "{problem:?}"
    );
    let told = problem.to_string();
    assert!(
        told.starts_with("upload stopped at `dist/big`: the VM's disk is full, with ")
            && told.ends_with(" free"),
        "{told}"
    );
}

/// Set where a test has started itself again.
const AGAIN: &str = "GUEST_SSH_TESTS_AGAIN";

#[tokio::test]
async fn a_folder_of_thousands_of_folders_travels_with_few_descriptors() {
    if std::env::var_os(AGAIN).is_none() {
        // The limit is the whole process's, and other tests may share it.
        let again = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 256; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_folder_of_thousands_of_folders_travels_with_few_descriptors",
            ])
            .env(AGAIN, "yes")
            .output()
            .unwrap();
        assert!(again.status.success(), "{again:?}");
        return;
    }
    for (server, way) in [(Sshd::start(), "tar"), (Sshd::with(SFTP_ONLY), "SFTP")] {
        let scene = scene(server);
        for number in 0..2000 {
            let path = format!("wide/d{number}/e/file");
            write(scene.here.path().join(path), b"x", 0o644);
        }
        let up = scene
            .upload(&Selection::everything(), &Limits::default())
            .await
            .unwrap_or_else(|problem| panic!("{way}: {problem:?}"));
        assert_eq!(up.files, 2000, "{way}");
        let down = scene
            .download(&Selection::everything(), "back", &Limits::default())
            .await
            .unwrap_or_else(|problem| panic!("{way}: {problem:?}"));
        assert_eq!(down.files, 2000, "{way}");
    }
}

#[tokio::test]
async fn an_sftp_only_server_takes_and_gives_an_odd_tree() {
    let scene = scene(Sshd::with(SFTP_ONLY));
    odd_tree(scene.here.path());
    let up = scene
        .upload(&Selection::everything(), &Limits::default())
        .await
        .unwrap();
    assert_same(&look(scene.here.path()), &look(scene.there.path()), "up");
    assert_eq!((up.files, up.entries.len()), (12, 0));
    assert!(
        up.notes[0].starts_with("went by SFTP, which is slower:"),
        "{:?}",
        up.notes
    );

    std::fs::remove_dir_all(scene.here.path()).unwrap();
    std::fs::create_dir(scene.here.path()).unwrap();
    let down = scene
        .download(&Selection::everything(), "out", &Limits::default())
        .await
        .unwrap();
    assert_same(
        &look(scene.there.path()),
        &look(&scene.here.path().join("out")),
        "down",
    );
    assert_eq!(down.digest_hex(), digest_by_sha256sum(scene.there.path()));
    assert!(
        down.notes[0].starts_with("went by SFTP"),
        "{:?}",
        down.notes
    );
}

#[tokio::test]
async fn sftp_replaces_what_is_there_and_follows_no_link() {
    let scene = scene(Sshd::with(SFTP_ONLY));
    let outside = tempfile::tempdir().unwrap();
    write(outside.path().join("x"), b"outside", 0o644);
    symlink(outside.path(), scene.there.path().join("dir")).unwrap();
    symlink(outside.path().join("x"), scene.there.path().join("file")).unwrap();
    std::fs::create_dir(scene.there.path().join("was empty")).unwrap();
    write(scene.there.path().join("kept"), b"kept", 0o644);
    for path in ["dir/x", "file", "was empty"] {
        write(scene.here.path().join(path), b"new", 0o644);
    }
    scene
        .upload(&Selection::everything(), &Limits::default())
        .await
        .unwrap();
    for path in ["dir/x", "file", "was empty"] {
        assert_eq!(
            std::fs::read(scene.there.path().join(path)).unwrap(),
            b"new"
        );
    }
    assert_eq!(std::fs::read(outside.path().join("x")).unwrap(), b"outside");
    assert_eq!(
        std::fs::read(scene.there.path().join("kept")).unwrap(),
        b"kept"
    );
}

#[tokio::test]
async fn sftp_keeps_to_selections_limits_and_missing_places() {
    let scene = scene(Sshd::with(SFTP_ONLY));
    for path in [
        "build/out/App.ipa",
        "build/tmp/x",
        "logs/a.log",
        ".git/config",
    ] {
        write(scene.there.path().join(path), path.as_bytes(), 0o644);
    }
    let selection = Selection::parse(&["build/out/*.ipa", "*.log"], &[".git/"]).unwrap();
    let down = scene
        .download(&selection, "out", &Limits::default())
        .await
        .unwrap();
    let paths: Vec<_> = down
        .entries
        .iter()
        .map(|entry| entry.path.to_str().unwrap())
        .collect();
    assert_eq!(paths, ["build/out/App.ipa", "logs/a.log"]);
    let tight = Limits {
        entries: 3,
        ..Limits::default()
    };
    let outcome = scene
        .download(&Selection::everything(), "more", &tight)
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
    assert_eq!(names(scene.here.path()), ["out"]);
    std::fs::remove_dir_all(scene.there.path()).unwrap();
    let outcome = scene
        .download(&Selection::everything(), "more", &Limits::default())
        .await;
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "{outcome:?}"
    );
    std::fs::create_dir(scene.there.path()).unwrap();
}

#[tokio::test]
async fn a_vm_without_tar_or_find_is_served_by_sftp() {
    for tool in ["tar", "find"] {
        let scene = scene(without(tool));
        write(scene.there.path().join("a"), b"there", 0o644);
        write(scene.here.path().join("b"), b"here", 0o644);
        let up = scene
            .upload(&Selection::everything(), &Limits::default())
            .await
            .unwrap();
        assert_eq!(
            up.notes
                .iter()
                .any(|note| note.contains("the VM has no `tar`")),
            tool == "tar"
        );
        let down = scene
            .download(&Selection::everything(), "out", &Limits::default())
            .await
            .unwrap();
        assert!(
            down.notes[0].contains(&format!("the VM has no `{tool}`")),
            "{:?}",
            down.notes
        );
        assert_eq!(names(&scene.here.path().join("out")), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_vm_with_neither_lacks_what_it_lacked_first() {
    let server = Sshd::with_path("/nonexistent");
    let scene = scene(server);
    write(scene.here.path().join("b"), b"here", 0o644);
    let outcome = scene
        .upload(&Selection::everything(), &Limits::default())
        .await;
    assert!(
        matches!(
            outcome,
            Err(Error::ExecRefused { .. } | Error::RemoteToolMissing { tool: "tar" })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn single_files_pass_by_sftp_too() {
    let scene = scene(Sshd::with(SFTP_ONLY));
    let connection = scene.server.connect().await;
    let path = remote(&scene.there.path().join("new/run me.sh"));
    for contents in [&b"#!/bin/sh\n"[..], b"", &vec![7; 300_000]] {
        connection.write_file(&path, contents, 0o755).await.unwrap();
        assert_eq!(
            connection.read_file(&path, 300_000).await.unwrap(),
            contents
        );
    }
    assert_eq!(names(&scene.there.path().join("new")), ["run me.sh"]);
    let metadata = std::fs::metadata(scene.there.path().join("new/run me.sh")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o755);
    let outcome = connection.read_file(&path, 10).await;
    assert!(
        matches!(outcome, Err(Error::LimitExceeded { .. })),
        "{outcome:?}"
    );
    let outcome = connection
        .read_file(&remote(&scene.there.path().join("none")), 10)
        .await;
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_login_shell_that_prints_spoils_nothing() {
    let shell = tempfile::tempdir().unwrap();
    let noisy = shell.path().join("noisy");
    write(
        noisy.clone(),
        b"#!/bin/sh\necho Welcome to the VM; echo orka-step: begi; echo noise >&2\nshift\nexec /bin/sh -c \"$@\"\n",
        0o755,
    );
    let force = format!(
        "ForceCommand {} -c \"$SSH_ORIGINAL_COMMAND\"",
        noisy.display()
    );
    let scene = scene(Sshd::with(&force));
    odd_tree(scene.here.path());
    scene
        .upload(&Selection::everything(), &Limits::default())
        .await
        .unwrap();
    assert_same(&look(scene.here.path()), &look(scene.there.path()), "up");
    scene
        .download(&Selection::everything(), "out", &Limits::default())
        .await
        .unwrap();
    assert_same(
        &look(scene.there.path()),
        &look(&scene.here.path().join("out")),
        "down",
    );
    let connection = scene.server.connect().await;
    let path = remote(&scene.there.path().join("file"));
    connection
        .write_file(&path, b"contents", 0o600)
        .await
        .unwrap();
    assert_eq!(connection.read_file(&path, 100).await.unwrap(), b"contents");
}

async fn fetch(scene: &Scene, connection: &Connection, compare: Compare) -> TransferSummary {
    let options = TransferOptions {
        compare,
        ..TransferOptions::default()
    };
    fetch_to(scene, connection, ".", &options).await.unwrap()
}

async fn fetch_to(
    scene: &Scene,
    connection: &Connection,
    target: &str,
    options: &TransferOptions,
) -> Result<TransferSummary, Error> {
    connection
        .download(
            &remote(scene.there.path()),
            &Selection::everything(),
            &open(scene.here.path()),
            Path::new(target),
            options,
            |_| (),
        )
        .await
}

fn paths(summary: &TransferSummary) -> Vec<&str> {
    let paths = summary.entries.iter();
    paths
        .map(|entry| entry.path.to_str().unwrap_or("not text"))
        .collect()
}

#[tokio::test]
async fn only_what_changed_comes_back() {
    let servers = [
        ("gnu", Sshd::with_tar(Tar::Gnu), true),
        ("bsd", Sshd::with_tar(Tar::Bsd), true),
        ("sftp", Sshd::with(SFTP_ONLY), false),
    ];
    for (context, server, tells_all) in servers {
        let scene = scene(server);
        odd_tree(scene.here.path());
        let precise = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let touch = |path: &Path, time| {
            std::fs::File::open(path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        write(scene.here.path().join("rewritten"), b"one", 0o644);
        touch(&scene.here.path().join("rewritten"), precise);
        let connection = scene.server.connect().await;
        let up = connection
            .upload(
                &open(scene.here.path()),
                &Selection::everything(),
                &remote(scene.there.path()),
                Limits::default(),
                |_| (),
            )
            .await
            .unwrap();
        let down = fetch(&scene, &connection, Compare::SizeTime).await;
        assert_eq!(
            (paths(&down), down.unchanged),
            (vec![], up.files),
            "{context}"
        );

        write(scene.there.path().join("added in\nthe VM"), b"new", 0o644);
        write(scene.there.path().join("empty"), b"longer", 0o600);
        // Same size, same second.
        write(scene.there.path().join("rewritten"), b"two", 0o644);
        let later = if tells_all {
            precise + Duration::from_nanos(1)
        } else {
            precise + Duration::from_secs(1)
        };
        touch(&scene.there.path().join("rewritten"), later);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(scene.there.path().join("plain"), mode).unwrap();
        // One file under two names in the VM or two files, as the way up made them.
        let down = fetch(&scene, &connection, Compare::SizeTime).await;
        assert_eq!(
            paths(&down),
            ["added in\nthe VM", "empty", "plain", "rewritten"],
            "{context}"
        );
        assert_eq!(down.unchanged, up.files - 3, "{context}");
        // Directories of the target keep their own times.
        let files = |root: &Path| {
            let mut seen = look(root);
            seen.retain(|path, _| !root.join(path).is_dir() || root.join(path).is_symlink());
            seen
        };
        assert_same(
            &files(scene.there.path()),
            &files(scene.here.path()),
            context,
        );

        // By contents: times mean nothing.
        write(scene.there.path().join("rewritten"), b"six", 0o644);
        touch(&scene.there.path().join("rewritten"), later);
        touch(&scene.there.path().join("run me.sh"), SystemTime::now());
        if tells_all {
            let down = fetch(&scene, &connection, Compare::Hash).await;
            assert_eq!(paths(&down), ["rewritten"], "{context}");
            assert_eq!(down.unchanged, up.files, "{context}");
        }
        let down = fetch(&scene, &connection, Compare::Always).await;
        assert_eq!((down.files, down.unchanged), (up.files + 1, 0), "{context}");
    }
}

#[tokio::test]
async fn holes_and_fractions_of_seconds_survive_both_ways() {
    for tar in TARS {
        let scene = Scene::new(tar);
        // Many parts, so that the map does not fit into the header, and a hole at the end.
        let path = scene.here.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        for part in 0..40_u64 {
            file.write_all_at(b"data", part * 3_000_000).unwrap();
        }
        file.set_len(200_000_000).unwrap();
        let hollow = std::fs::File::create(scene.here.path().join("hollow")).unwrap();
        hollow.set_len(5_000_000).unwrap();
        let precise = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        file.set_modified(precise).unwrap();
        let up = scene
            .upload(&Selection::everything(), &Limits::default())
            .await
            .unwrap();
        assert_eq!(up.bytes, 205_000_000);
        let here = digest_by_sha256sum(scene.here.path());
        assert_eq!(digest_by_sha256sum(scene.there.path()), here, "{tar:?}");
        let down = scene
            .download(&Selection::everything(), "out", &Limits::default())
            .await
            .unwrap();
        assert_eq!(down.digest_hex(), here, "{tar:?}");
        for root in [scene.there.path().to_owned(), scene.here.path().join("out")] {
            let metadata = std::fs::metadata(root.join("sparse")).unwrap();
            assert_eq!(metadata.modified().unwrap(), precise, "{tar:?} {root:?}");
            assert!(metadata.blocks() * 512 < 20_000_000, "{tar:?} {root:?}");
        }
    }
}

#[tokio::test]
async fn apple_doubles_stay_where_they_are_and_own_files_of_such_names_do_not() {
    for tar in TARS {
        let scene = Scene::new(tar);
        for root in [scene.here.path(), scene.there.path()] {
            for path in ["a", "b", "dir/c"] {
                write(root.join(path), path.as_bytes(), 0o644);
            }
            write(root.join("._a"), b"\0\x05\x16\x07\0\x02\0\0", 0o644);
            write(root.join("dir/._c"), b"\0\x05\x16\x07\0\x02\0\0", 0o644);
            // No such contents, or no file it belongs to.
            write(root.join("._b"), b"mine", 0o644);
            write(root.join("._lonely"), b"\0\x05\x16\x07\0\x02\0\0", 0o644);
        }
        let down = scene
            .download(&Selection::everything(), "out", &Limits::default())
            .await
            .unwrap();
        let expected = ["._b", "._lonely", "a", "b", "dir/c"];
        assert_eq!(paths(&down), expected, "{tar:?}");
        assert!(
            down.notes[0].starts_with("left out 2 `._` files"),
            "{:?}",
            down.notes
        );
        std::fs::remove_dir_all(scene.here.path().join("out")).unwrap();
        let up = scene
            .upload(&Selection::everything(), &Limits::default())
            .await
            .unwrap();
        assert_eq!(up.files, expected.len() as u64, "{tar:?}");
        assert!(
            up.notes[0].starts_with("left out 2 `._` files"),
            "{:?}",
            up.notes
        );
    }
}

async fn through(scene: &Scene, proxy: &Proxy) -> Connection {
    let target = Target {
        port: proxy.port,
        ..scene.server.target()
    };
    let policy = HostKeyPolicy::FirstUse;
    let credentials = scene.server.credentials();
    guest_ssh::connect(&target, &credentials, &policy, &support::options(), |_| ())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_transfer_that_loses_its_connection_is_begun_again_whole() {
    for extra in ["", SFTP_ONLY] {
        let scene = scene(Sshd::with(extra));
        odd_tree(scene.here.path());
        let weather = Weather {
            cuts: 2,
            cut_after: 4_000_000,
            rate: None,
        };
        let proxy = Proxy::start(scene.server.port, weather).await;
        let connection = through(&scene, &proxy).await;
        let up = connection
            .upload(
                &open(scene.here.path()),
                &Selection::everything(),
                &remote(scene.there.path()),
                Limits::default(),
                |_| (),
            )
            .await
            .unwrap();
        assert_same(&look(scene.here.path()), &look(scene.there.path()), extra);
        assert_eq!(proxy.connections.load(Ordering::SeqCst), 3, "{extra}");
        let told = |notes: &[String]| {
            notes
                .iter()
                .any(|note| note.starts_with("begun again on a new connection"))
        };
        assert!(told(&up.notes), "{:?}", up.notes);

        let proxy = Proxy::start(scene.server.port, weather).await;
        let connection = through(&scene, &proxy).await;
        let there = remote(scene.there.path());
        let everything = Selection::everything();
        let into = open(scene.here.path());
        let target = Path::new("out");
        let down = connection
            .download(
                &there,
                &everything,
                &into,
                target,
                Limits::default(),
                |_| (),
            )
            .await
            .unwrap();
        assert!(told(&down.notes), "{:?}", down.notes);
        assert_same(
            &look(scene.there.path()),
            &look(&scene.here.path().join("out")),
            extra,
        );

        // More often than allowed: the error, and nothing here.
        let proxy = Proxy::start(scene.server.port, weather).await;
        let connection = through(&scene, &proxy).await;
        let options = TransferOptions {
            retries: 1,
            ..TransferOptions::default()
        };
        let before = look(scene.here.path());
        let outcome = connection
            .download(
                &there,
                &everything,
                &into,
                Path::new("never"),
                &options,
                |_| (),
            )
            .await;
        assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
        assert_same(&before, &look(scene.here.path()), extra);
    }
}

#[tokio::test]
async fn a_slow_link_is_noticed_and_compressed_for() {
    for tar in TARS {
        let scene = Scene::new(tar);
        let text = "a line that says the same thing again\n".repeat(400_000);
        write(scene.here.path().join("text"), text.as_bytes(), 0o644);
        let weather = Weather {
            rate: Some(2_000_000),
            ..Weather::default()
        };
        let proxy = Proxy::start(scene.server.port, weather).await;
        let connection = through(&scene, &proxy).await;
        let into = open(scene.here.path());
        let there = remote(scene.there.path());
        let everything = Selection::everything();
        let up = connection
            .upload(&into, &everything, &there, Limits::default(), |_| ())
            .await
            .unwrap();
        assert_same(&look(scene.here.path()), &look(scene.there.path()), "up");
        assert!(
            up.notes[0].starts_with("compressed with gzip: the link carried "),
            "{:?}",
            up.notes
        );
        let target = Path::new("out");
        let down = connection
            .download(
                &there,
                &everything,
                &into,
                target,
                Limits::default(),
                |_| (),
            )
            .await
            .unwrap();
        assert!(
            down.notes[0].starts_with("compressed with gzip"),
            "{:?}",
            down.notes
        );
        let text = scene.here.path().join("out/text");
        assert!(
            std::fs::read(text).unwrap() == std::fs::read(scene.there.path().join("text")).unwrap()
        );
        // Plain it would take over seven seconds each way.
        assert!(
            up.duration + down.duration < Duration::from_secs(9),
            "{up:?} {down:?}"
        );
    }
}

#[tokio::test]
async fn compression_can_be_asked_for() {
    for tar in TARS {
        let scene = Scene::new(tar);
        odd_tree(scene.here.path());
        let options = TransferOptions {
            compress: Compress::Always,
            ..TransferOptions::default()
        };
        let connection = scene.server.connect().await;
        let there = remote(scene.there.path());
        let everything = Selection::everything();
        let into = open(scene.here.path());
        connection
            .upload(&into, &everything, &there, &options, |_| ())
            .await
            .unwrap();
        assert_same(&look(scene.here.path()), &look(scene.there.path()), "up");
        connection
            .download(
                &there,
                &everything,
                &into,
                Path::new("out"),
                &options,
                |_| (),
            )
            .await
            .unwrap();
        let out = scene.here.path().join("out");
        assert_same(&look(scene.there.path()), &look(&out), "down");
    }
}

/// Files whose names together are compressed before they are sent.
const MANY_NAMES: usize = 3000;

fn many_names(root: &Path) {
    for number in 0..MANY_NAMES {
        let path = format!("tree/{number:0>200}.txt");
        write(root.join(path), number.to_string().as_bytes(), 0o644);
    }
}

async fn fetch_all(scene: &Scene, compress: Compress) -> Result<TransferSummary, Error> {
    let options = TransferOptions {
        compress,
        ..TransferOptions::default()
    };
    let connection = scene.server.connect().await;
    fetch_to(scene, &connection, "out", &options).await
}

#[tokio::test]
async fn very_many_names_are_asked_for_in_short() {
    for (tar, compress) in TARS
        .into_iter()
        .flat_map(|tar| [(tar, Compress::Never), (tar, Compress::Always)])
    {
        let scene = Scene::new(tar);
        many_names(scene.there.path());
        let summary = fetch_all(&scene, compress)
            .await
            .unwrap_or_else(|problem| panic!("{compress:?}: {problem:?}"));
        assert_eq!(summary.files, MANY_NAMES as u64);
        let out = scene.here.path().join("out");
        assert_same(&look(scene.there.path()), &look(&out), "down");
    }
}

/// `tar` does not know that names are missing, and ends well. They may be lost with the shell that stands between, too: a
/// VM without memory kills it, or lets it start nothing.
#[tokio::test]
async fn names_that_are_lost_on_their_way_fail_the_transfer() {
    for (end, compress) in ["exit 1", "kill -9 $PPID"]
        .into_iter()
        .flat_map(|end| [(end, Compress::Never), (end, Compress::Always)])
    {
        let bin = tempfile::tempdir().unwrap();
        for tool in ["sh", "find", "tar", "cat"] {
            symlink(
                support::userland::find(tool).unwrap(),
                bin.path().join(tool),
            )
            .unwrap();
        }
        let real = support::userland::find("gzip").unwrap();
        let head = support::userland::find("head").unwrap();
        let gzip = format!(
            "#!/bin/sh\n[ \"$1\" = -dc ] || exec {real} \"$@\"\n{real} \"$@\" | {head} -c 100000\n{end}\n",
            real = real.display(),
            head = head.display()
        );
        write(bin.path().join("gzip"), gzip.as_bytes(), 0o755);
        let scene = scene(Sshd::configured(
            "",
            &format!("PATH={}", bin.path().display()),
            false,
        ));
        many_names(scene.there.path());
        let outcome = fetch_all(&scene, compress)
            .await
            .map(|summary| summary.files);
        assert!(
            matches!(outcome, Err(Error::RemoteFailed { .. })),
            "{end}, {compress:?}: {outcome:?}"
        );
        assert!(!scene.here.path().join("out").exists());
    }
}
