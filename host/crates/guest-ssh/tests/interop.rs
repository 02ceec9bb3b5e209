//! Servers and logins of many kinds: strict, old, chatty, restricted, full. Each either does the whole job or says plainly
//! why it cannot.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use guest_ssh::{Connection, Error, ExecRequest, Exit, Limits, Selection};
use support::dropbear::Dropbear;
use support::run_out;
use support::sshd::Sshd;
use support::trees::{assert_same, look, names, odd_tree, open, remote, write};
use support::userland;

/// Up and back: everything awkward survives.
async fn moves_trees(connection: &Connection, what: &str) {
    let dir = || tempfile::tempdir().unwrap();
    let (here, there, back) = (dir(), dir(), dir());
    odd_tree(here.path());
    let (everything, limits) = (Selection::everything(), Limits::default());
    let target = there.path().join("a 'new' place");
    let up = connection
        .upload(
            &open(here.path()),
            &everything,
            &remote(&target),
            &limits,
            |_| (),
        )
        .await
        .unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
    let down = connection
        .download(
            &remote(&target),
            &everything,
            &open(back.path()),
            Path::new("out"),
            &limits,
            |_| (),
        )
        .await
        .unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
    assert_eq!((up.files, up.bytes), (down.files, down.bytes), "{what}");
    assert_same(&look(here.path()), &look(&back.path().join("out")), what);
}

async fn runs_commands(connection: &Connection, what: &str) {
    let request = ExecRequest::new("sh", ["-c", "echo out; echo err >&2; exit 65"]);
    let ran = run_out(connection.exec(request).await.unwrap()).await;
    assert_eq!(ran.exit, Exit::Status(65), "{what}");
    assert!(
        ran.stdout.ends_with(b"out\n") && ran.stderr.ends_with(b"err\n"),
        "{what}: {ran:?}"
    );
}

#[tokio::test]
async fn openssh_in_its_strictest_and_its_oldest_plausible_form() {
    let strict = "KexAlgorithms curve25519-sha256\nHostKeyAlgorithms ssh-ed25519\nCiphers aes256-gcm@openssh.com\n\
                  MaxAuthTries 2\nMaxSessions 1\nDisableForwarding yes\nPermitTTY no\nPermitUserRC no\n\
                  PermitUserEnvironment no\nCompression no\nLoginGraceTime 20\nClientAliveInterval 5\nClientAliveCountMax 2\n";
    let old = "KexAlgorithms diffie-hellman-group14-sha256,ecdh-sha2-nistp256\nHostKeyAlgorithms ecdsa-sha2-nistp256\n\
               Ciphers aes128-ctr,aes192-ctr,aes256-ctr\nMACs hmac-sha2-256,hmac-sha1\nCompression delayed\n";
    for (what, config) in [("strict", strict), ("old", old)] {
        let server = Sshd::with(config);
        let connection = server.connect().await;
        runs_commands(&connection, what).await;
        moves_trees(&connection, what).await;
    }
}

#[tokio::test]
async fn new_keys_in_the_middle_of_a_transfer_lose_nothing() {
    let server = Sshd::with("RekeyLimit 1M\n");
    moves_trees(&server.connect().await, "rekeying").await;
}

#[tokio::test]
async fn banner_and_motd_are_nobodys_output() {
    let texts = tempfile::tempdir().unwrap();
    let banner = texts.path().join("banner");
    std::fs::write(
        &banner,
        "Unauthorised use is prohibited. \u{1b}[2J\n".repeat(200),
    )
    .unwrap();
    let server = Sshd::with(&format!(
        "Banner {}\nPrintMotd yes\nPrintLastLog yes\n",
        banner.display()
    ));
    let connection = server.connect().await;
    let ran = run_out(
        connection
            .exec(ExecRequest::new("echo", ["only this"]))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (ran.stdout.as_slice(), ran.stderr.as_slice()),
        (&b"only this\n"[..], &b""[..])
    );
    moves_trees(&connection, "banner").await;
}

#[tokio::test]
async fn one_session_a_connection_is_enough_for_several_commands_at_once() {
    let server = Sshd::with("MaxSessions 1\n");
    let connection = server.connect().await;
    let long = connection
        .exec(ExecRequest::new("sh", ["-c", "echo ready; sleep 60"]))
        .await
        .unwrap();
    runs_commands(&connection, "beside another").await;
    moves_trees(&connection, "beside another").await;
    drop(long);
}

#[tokio::test]
async fn dropbear_with_and_without_sftp() {
    for sftp in [true, false] {
        let server = Dropbear::start(sftp);
        let connection = server.connect().await;
        assert!(
            connection.server_version().contains("dropbear"),
            "{}",
            connection.server_version()
        );
        runs_commands(&connection, "dropbear").await;
        moves_trees(&connection, "dropbear").await;
    }
}

/// Links to some programs of this machine, as all of `PATH`.
fn path_of(tools: &[&str]) -> tempfile::TempDir {
    let bin = tempfile::tempdir().unwrap();
    for tool in tools {
        symlink(userland::find(tool).unwrap(), bin.path().join(tool)).unwrap();
    }
    bin
}

#[tokio::test]
async fn a_path_with_little_on_it_is_enough() {
    let bin = path_of(&[
        "sh", "mkdir", "tar", "find", "printf", "cat", "rm", "mv", "chmod", "wc", "sleep", "echo",
    ]);
    let server = Sshd::with_path(&bin.path().display().to_string());
    let connection = server.connect().await;
    runs_commands(&connection, "a short PATH").await;
    moves_trees(&connection, "a short PATH").await;
}

#[tokio::test]
async fn a_home_that_has_spaces_and_one_that_is_read_only() {
    let odd = tempfile::tempdir().unwrap();
    let odd_home = odd.path().join("a b 'c'");
    std::fs::create_dir(&odd_home).unwrap();
    // Nobody writes there, not even root.
    for home in [odd_home.as_path(), Path::new("/proc/self")] {
        let quoted = home.display().to_string().replace('\'', "'\\''");
        let server = Sshd::with(&format!(
            "ForceCommand HOME='{quoted}'; cd \"$HOME\"; command=$SSH_ORIGINAL_COMMAND; unset SSH_ORIGINAL_COMMAND; \
             exec sh -c \"$command\"\n"
        ));
        let connection = server.connect().await;
        let ran = run_out(
            connection
                .exec(ExecRequest::new("sh", ["-c", "echo \"$HOME\""]))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout).trim_end(),
            home.display().to_string()
        );
        moves_trees(&connection, &home.display().to_string()).await;
    }
}

#[tokio::test]
async fn a_vm_whose_disk_is_full_says_so_and_does_not_hang() {
    // No file there may grow beyond this many blocks of 512 bytes.
    let server = Sshd::with(
        "ForceCommand ulimit -f 200; command=$SSH_ORIGINAL_COMMAND; unset SSH_ORIGINAL_COMMAND; exec sh -c \"$command\"\n",
    );
    let connection = server.connect().await;
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(here.path().join("large"), &vec![7; 30_000_000], 0o644);
    let (dir, everything, limits) = (
        open(here.path()),
        Selection::everything(),
        Limits::default(),
    );
    let target = remote(there.path());
    let upload = connection.upload(&dir, &everything, &target, &limits, |_| ());
    let outcome = tokio::time::timeout(Duration::from_secs(60), upload)
        .await
        .unwrap();
    let problem = outcome.expect_err("the file is larger than the VM takes");
    assert!(
        matches!(problem, Error::RemoteFailed { .. } | Error::Transfer { .. }),
        "{problem:?}"
    );
    let written = connection
        .write_file(
            &remote(&there.path().join("file")),
            &vec![7; 1_000_000],
            0o644,
        )
        .await;
    assert!(
        matches!(written, Err(Error::RemoteFailed { .. })),
        "{written:?}"
    );
    assert!(
        !names(there.path()).contains(&"file".to_owned()),
        "half a file took the name"
    );
}
