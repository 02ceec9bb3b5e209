//! OpenSSH's own server, as the user who runs the tests, on a port the kernel chose.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest_ssh::{AuthMethod, Connection, Credentials, HostKeyPolicy, Identity, Target};
use secrecy::SecretString;
use tempfile::TempDir;

use super::userland::{self, MACOS, Macos};

const SSHD: &str = "/usr/sbin/sshd";

/// A running `sshd`; stopped when dropped.
pub struct Sshd {
    child: Child,
    dir: TempDir,
    /// What `PATH` leads to, where a test or the program's userland has its own.
    tools: Option<Tools>,
    extra: String,
    environment: String,
    pub port: u16,
}

enum Tools {
    Macos(Macos),
    Own(TempDir),
}

/// Which `tar` the VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tar {
    Gnu,
    Bsd,
}

/// macOS has one only.
pub const TARS: [Tar; if MACOS { 1 } else { 2 }] = {
    let mut tars = [Tar::Bsd; if MACOS { 1 } else { 2 }];
    if !MACOS {
        tars[0] = Tar::Gnu;
    }
    tars
};

impl Sshd {
    pub fn start() -> Self {
        Self::with("")
    }

    /// A server whose `tar` is the one named; macOS has its own whatever is named.
    pub fn with_tar(tar: Tar) -> Self {
        match tar {
            _ if MACOS => Self::start(),
            Tar::Gnu => Self::start(),
            Tar::Bsd => {
                let bin = tempfile::tempdir().unwrap();
                std::os::unix::fs::symlink(userland::bsdtar(), bin.path().join("tar")).unwrap();
                let path = format!("{}:/usr/bin:/bin", bin.path().display());
                let mut server = Self::with_path(&path);
                server.tools = Some(Tools::Own(bin));
                server
            }
        }
    }

    /// A server with the userland of macOS, in whatever program.
    pub fn with_macos(macos: Macos, extra: &str) -> Self {
        let mut server = Self::configured(extra, &environment_with(macos.path()), true);
        server.tools = Some(Tools::Macos(macos));
        server
    }

    /// A server whose sessions look for programs there.
    pub fn with_path(path: &str) -> Self {
        Self::configured("", &environment_with(Path::new(path)), MACOS)
    }

    /// The same, with further lines in its configuration.
    pub fn with_path_and(path: &str, extra: &str) -> Self {
        Self::configured(extra, &environment_with(Path::new(path)), MACOS)
    }

    /// The same, with further variables in the environment of its sessions.
    pub fn with_path_in(path: &str, variables: &str) -> Self {
        let environment = format!("{} {variables}", environment_with(Path::new(path)));
        Self::configured("", &environment, MACOS)
    }

    /// A server with further lines in its configuration.
    pub fn with(extra: &str) -> Self {
        if MACOS {
            Self::with_macos(Macos::whole(), extra)
        } else {
            Self::configured(extra, "", false)
        }
    }

    pub fn configured(extra: &str, environment: &str, zsh: bool) -> Self {
        let extra = if zsh {
            // The login shell is a matter of the user database; this comes to the same.
            format!(
                "{extra}\nForceCommand command=$SSH_ORIGINAL_COMMAND; unset SSH_ORIGINAL_COMMAND; exec {} -c \"$command\"\n",
                userland::zsh().display()
            )
        } else {
            extra.to_owned()
        };
        assert!(
            Path::new(SSHD).exists(),
            "these tests need OpenSSH's server: install the package `openssh-server`"
        );
        // As a package's start script would: without it a fresh machine's server refuses to start.
        let _ = std::fs::create_dir_all("/run/sshd");
        let dir = tempfile::tempdir().unwrap();
        for kind in ["ed25519", "ecdsa"] {
            keygen(&dir.path().join(format!("host_{kind}")), &["-t", kind]);
        }
        keygen(&dir.path().join("id"), &["-t", "ed25519"]);
        // Another process may take a port between our looking and the server's binding; then another is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if let Some(child) = try_start(dir.path(), port, &extra, environment) {
                return Self {
                    child,
                    dir,
                    tools: None,
                    extra,
                    environment: environment.to_owned(),
                    port,
                };
            }
        }
        panic!(
            "sshd did not start: {}",
            std::fs::read_to_string(dir.path().join("log")).unwrap()
        );
    }

    pub fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    pub fn identity(&self) -> Identity {
        Identity::parse(&self.private_key(), None).unwrap()
    }

    pub fn private_key(&self) -> SecretString {
        std::fs::read_to_string(self.dir.path().join("id"))
            .unwrap()
            .into()
    }

    pub fn credentials(&self) -> Credentials {
        Credentials {
            username: user(),
            methods: vec![AuthMethod::PrivateKey(self.identity())],
        }
    }

    /// The fingerprint of a host key, by `ssh-keygen`.
    pub fn fingerprint(&self, kind: &str) -> String {
        let public = self.dir.path().join(format!("host_{kind}.pub"));
        let output = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(public)
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned()
    }

    /// A host key as `known_hosts` has it: type and key.
    pub fn host_key(&self, kind: &str) -> String {
        let public =
            std::fs::read_to_string(self.dir.path().join(format!("host_{kind}.pub"))).unwrap();
        public.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn connect(&self) -> Connection {
        let policy = HostKeyPolicy::FirstUse;
        guest_ssh::connect(
            &self.target(),
            &self.credentials(),
            &policy,
            &super::options(),
            |_| (),
        )
        .await
        .unwrap()
    }

    /// Ends the server process and with it its listening socket; sessions are processes of their own.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends the server and all sessions, and starts it anew: same port, same keys.
    pub fn restart(&mut self) {
        self.kill_sessions();
        self.stop();
        for _ in 0..100 {
            if let Some(child) =
                try_start(self.dir.path(), self.port, &self.extra, &self.environment)
            {
                self.child = child;
                return;
            }
            // Its port is given back a moment after its sessions are gone.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("sshd did not start again");
    }

    /// The server's own process; those that serve sessions are its children.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process that serves our session, as a VM does that goes away.
    pub fn kill_sessions(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for pid in std::fs::read_to_string(children)
            .unwrap()
            .split_whitespace()
        {
            assert!(
                Command::new("kill")
                    .args(["-KILL", pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn environment_with(path: &Path) -> String {
    let mut text = format!("PATH={}", path.display());
    if MACOS {
        write!(text, " SHELL={}", userland::zsh().display()).unwrap();
    }
    text
}

fn try_start(dir: &Path, port: u16, extra: &str, environment: &str) -> Option<Child> {
    let config = dir.join("config");
    std::fs::write(&config, configuration(dir, port, extra, environment)).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut child = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(&config)
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

/// The home directory is an empty one: what a developer's own start-up files do is no part of a test.
fn configuration(dir: &Path, port: u16, extra: &str, environment: &str) -> String {
    let dir = dir.display();
    let mut text = String::new();
    write!(
        text,
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_ed25519\nHostKey {dir}/host_ecdsa\n\
         AuthorizedKeysFile {dir}/id.pub\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nMaxStartups 100\n\
         SetEnv HOME={dir} {environment}\n{extra}"
    )
    .unwrap();
    text
}

pub fn keygen(path: &Path, arguments: &[&str]) -> PathBuf {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-f"])
        .arg(path)
        .args(arguments)
        .output()
        .expect("these tests need `ssh-keygen`: install the package `openssh-client`");
    assert!(output.status.success(), "{output:?}");
    path.to_owned()
}

pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
