//! Dropbear: a small server that shares no code with OpenSSH, as some images and appliances have it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use guest_ssh::{AuthMethod, Connection, Credentials, HostKeyPolicy, Identity, Target};
use tempfile::TempDir;

use super::{sshd, userland};

/// A running `dropbear`; stopped when dropped.
pub struct Dropbear {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Dropbear {
    /// A server with or without a program for SFTP.
    ///
    /// It reads `~/.ssh/authorized_keys` and nothing else, so it sees a home directory of its own in a mount namespace.
    pub fn start(sftp: bool) -> Self {
        let program = userland::find("dropbear")
            .expect("these tests need `dropbear`: install the package `dropbear-bin`");
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home/.ssh");
        std::fs::create_dir_all(&home).unwrap();
        sshd::keygen(&dir.path().join("id"), &["-t", "ed25519"]);
        let made = Command::new("dropbearkey")
            .args(["-t", "ed25519", "-f"])
            .arg(dir.path().join("host_key"))
            .output();
        assert!(made.unwrap().status.success(), "`dropbearkey` made no key");
        std::fs::copy(dir.path().join("id.pub"), home.join("authorized_keys")).unwrap();
        for place in [
            home.as_path(),
            &dir.path().join("home"),
            &home.join("authorized_keys"),
        ] {
            std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
        }
        // Another process may take a port between our looking and the server's binding; then another is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if let Some(child) = try_start(&program, dir.path(), port, sftp) {
                return Self { child, dir, port };
            }
        }
        panic!(
            "dropbear did not start: {}",
            std::fs::read_to_string(dir.path().join("log")).unwrap()
        );
    }

    pub async fn connect(&self) -> Connection {
        let key = std::fs::read_to_string(self.dir.path().join("id"))
            .unwrap()
            .into();
        let credentials = Credentials {
            username: sshd::user(),
            methods: vec![AuthMethod::PrivateKey(Identity::parse(&key, None).unwrap())],
        };
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let policy = HostKeyPolicy::FirstUse;
        guest_ssh::connect(&target, &credentials, &policy, &super::options(), |_| ())
            .await
            .unwrap()
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IN_ITS_OWN_NAMESPACE: &str = r#"mount --bind "$1/home" "$2" || exit 90
[ "$3" = sftp ] || mount --bind /bin/false "$(readlink -f /usr/lib/sftp-server)" || exit 90
exec "$4" -F -E -s -r "$1/host_key" -P "" -p "127.0.0.1:$5""#;

fn try_start(program: &Path, dir: &Path, port: u16, sftp: bool) -> Option<Child> {
    let home = std::env::home_dir().unwrap();
    let is_root = sshd::user() == "root";
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut child = Command::new("unshare")
        .arg(if is_root { "-m" } else { "-rm" })
        .args(["sh", "-c", IN_ITS_OWN_NAMESPACE, "sh"])
        .args([dir, &home])
        .arg(if sftp { "sftp" } else { "none" })
        .arg(program)
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
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
