//! The way to the VMs: through a jump host, with a keepalive of one's choosing, and what the report says of host keys.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use end_to_end::{Cluster, Stream};
use tempfile::TempDir;

/// A host to go through: OpenSSH's server on a port the kernel chose, for the user who runs the tests.
struct JumpHost {
    child: Child,
    directory: TempDir,
    port: u16,
}

impl JumpHost {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // As a package's start script would: without it a fresh machine's server refuses to start.
        let _ = std::fs::create_dir_all("/run/sshd");
        for name in ["host", "id"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.path().join(name))
                .status();
            assert!(made.unwrap().success());
        }
        for _ in 0..20 {
            // Another process may take the port meanwhile; then another is tried.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            if let Some(child) = try_start(directory.path(), port) {
                return Self {
                    child,
                    directory,
                    port,
                };
            }
        }
        panic!(
            "no jump host: {}",
            std::fs::read_to_string(directory.path().join("log")).unwrap()
        );
    }

    /// The directory for `--ssh-jump-credentials`.
    fn credentials(&self) -> PathBuf {
        let directory = self.directory.path().join("credentials");
        let _ = std::fs::create_dir(&directory);
        std::fs::copy(
            self.directory.path().join("id"),
            directory.join("ssh-privatekey"),
        )
        .unwrap();
        directory
    }

    fn fingerprint(&self) -> String {
        let output = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(self.directory.path().join("host.pub"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for JumpHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn try_start(directory: &Path, port: u16) -> Option<Child> {
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/id.pub\nPidFile none\nStrictModes no\n\
         UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n",
        directory.display()
    );
    std::fs::write(directory.join("config"), config).unwrap();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(directory.join("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("log")).unwrap())
        .spawn()
        .expect("these tests need OpenSSH's server: install the package `openssh-server`");
    loop {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::yield_now();
    }
}

/// The user who runs the tests.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_build_goes_through_a_jump_host_and_the_report_has_both_keys() {
    let cluster = Cluster::start().await;
    let jump = JumpHost::start();
    let ended = cluster
        .build("#!/bin/sh\ncat in.txt\ntr a-z A-Z <in.txt >out.txt\n")
        .file("in.txt", "carried\n")
        .flag("--ssh-jump", format!("{}@{}", user(), jump.address()))
        .flag("--ssh-jump-credentials", text(&jump.credentials()))
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "carried\n", "{ended}");
    assert_eq!(ended.file("out.txt").unwrap(), b"CARRIED\n");
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
    let keys = ended.report["hostKeys"].as_array().unwrap();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(keys[0]["host"], ended.result("vm-name"));
    assert_eq!(keys[0]["verified"], "first-use");
    assert!(
        keys[0]["fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("SHA256:")
    );
    assert_eq!(keys[1]["host"], jump.address());
    assert_eq!(keys[1]["fingerprint"], jump.fingerprint());
    assert_ne!(keys[0]["fingerprint"], keys[1]["fingerprint"]);
    ended.assert_says(&["through the jump host", &jump.fingerprint()]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_build_goes_on_through_the_same_jump_host() {
    let cluster = Cluster::start().await;
    let jump = JumpHost::start();
    let mut running = cluster
        .build("#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8 9; do echo line $n; sleep 0.2; done\n")
        .param("detach", "true")
        .flag("--ssh-jump", format!("{}@{}", user(), jump.address()))
        .flag("--ssh-jump-credentials", text(&jump.credentials()))
        .start();
    running.says(Stream::Stdout, "line 3\n").await;
    assert_eq!(cluster.sim.cut_ssh(), 1);
    let ended = running.ended().await;
    ended.assert(0, "succeeded");
    let expected: String = (1..=9).map(|number| format!("line {number}\n")).collect();
    assert_eq!(ended.stdout, expected, "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_host_that_declines_is_told_from_the_vm_and_the_vm_is_deleted() {
    let cluster = Cluster::start().await;
    let jump = JumpHost::start();
    let credentials = jump.credentials();
    std::fs::copy(
        jump.directory.path().join("host"),
        credentials.join("ssh-privatekey"),
    )
    .unwrap();
    let ended = cluster
        .build("true")
        .flag("--ssh-jump", format!("{}@{}", user(), jump.address()))
        .flag("--ssh-jump-credentials", text(&credentials))
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    ended.assert_says(&["jump host", "check the jump host's credentials"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_key_is_reported_as_such_and_another_one_is_refused() {
    let cluster = Cluster::start().await;
    let wrong = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let ended = cluster
        .build("true")
        .flag("--ssh-host-key", wrong)
        .ended()
        .await;
    ended.assert(216, "infra-failed");
    ended.assert_says(&["presented host key", wrong]);
    assert_eq!(
        ended.report["hostKeys"].as_array().map_or(0, Vec::len),
        0,
        "{ended}"
    );
    cluster.assert_purged();

    let cluster = Cluster::start().await;
    let ended = cluster
        .build("true")
        .flag("--ssh-host-key", "accept-any")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(
        ended.report["hostKeys"][0]["verified"], "unchecked",
        "{ended}"
    );
    ended.assert_says(&["is not checked"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_is_noticed_within_the_keepalive() {
    let cluster = Cluster::start().await;
    let mut running = cluster
        .build("#!/bin/sh\necho running\nsleep 300\n")
        .flag("--ssh-keepalive", "2s")
        .start();
    running.says(Stream::Stdout, "running\n").await;
    assert_eq!(cluster.sim.freeze_ssh(), 1);
    let frozen = std::time::Instant::now();
    let ended = running.ended().await;
    let took = frozen.elapsed();
    ended.assert(216, "infra-failed");
    ended.assert_says(&["was lost", "keepalive"]);
    // Not the default of a minute; the rest is the clean-up and a busy machine.
    assert!(took < Duration::from_secs(30), "{took:?}: {ended}");
    cluster.assert_purged();
}
