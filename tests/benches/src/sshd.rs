//! One OpenSSH server for a whole measurement, and the ways to log into it.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use guest_ssh::{
    AuthMethod, ConnectOptions, Connection, Credentials, HostKeyPolicy, Identity, Target,
};

/// The cipher that is quickest on processors with AES instructions.
pub const BEST_CIPHER: &str = "aes128-gcm@openssh.com";

/// Longer than any server takes to start.
const START_MAX: Duration = Duration::from_secs(20);

/// A running `sshd`; stopped when dropped.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    login: Login,
}

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct Login {
    /// The server's port on the loopback interface.
    pub port: u16,
    /// The file of the private key it accepts.
    pub key: PathBuf,
}

impl Sshd {
    /// Starts a server that keeps its files in `dir`.
    ///
    /// # Errors
    ///
    /// If there is no `sshd` or `ssh-keygen`, or it does not start.
    pub fn start(dir: &Path) -> Result<Self> {
        // As a package's start script would: without it a fresh machine's server refuses to start.
        let _ = std::fs::create_dir_all("/run/sshd");
        for name in ["host", "id"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(name))
                .status();
            if !made.context("cannot run `ssh-keygen`")?.success() {
                bail!("`ssh-keygen` made no key");
            }
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let place = dir.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {place}/id.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PrintMotd no\nMaxStartups 100\nSubsystem sftp internal-sftp\nSetEnv HOME={place}\n"
        );
        std::fs::write(dir.join("config"), config)?;
        let child = spawn(dir)?;
        let login = Login {
            port,
            key: dir.join("id"),
        };
        let mut server = Self { child, login };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > START_MAX || server.child.try_wait()?.is_some() {
                bail!(
                    "`sshd` did not start: {}",
                    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Ends the server and closes its port.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the stopped server anew and does not wait until it listens.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        let dir = self
            .login
            .key
            .parent()
            .context("the key has no directory")?;
        self.child = spawn(dir)?;
        Ok(())
    }

    /// How to log in.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.login
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(dir: &Path) -> Result<Child> {
    Command::new("/usr/sbin/sshd")
        .args(["-D", "-E"])
        .arg(dir.join("log"))
        .arg("-f")
        .arg(dir.join("config"))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run `/usr/sbin/sshd`: `cargo xtask setup` installs it")
}

impl Login {
    /// Options that `ssh`, `scp` and `sftp` understand alike; the port is theirs to say.
    #[must_use]
    pub fn options(&self, cipher: Option<&str>) -> Vec<String> {
        let mut options: Vec<String> = [
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        .map(str::to_owned)
        .into();
        options.extend(["-o", "LogLevel=ERROR", "-o"].map(str::to_owned));
        options.extend([
            format!("Port={}", self.port),
            "-i".to_owned(),
            self.key.display().to_string(),
        ]);
        options.extend(
            cipher
                .iter()
                .flat_map(|cipher| ["-c".to_owned(), (*cipher).to_owned()]),
        );
        options
    }

    /// Logs in with our own client.
    ///
    /// # Errors
    ///
    /// If the key cannot be read or the server does not let us in.
    pub async fn connect(&self) -> Result<Connection> {
        let key = std::fs::read_to_string(&self.key)?.into();
        let credentials = Credentials {
            username: user_name()?,
            methods: vec![AuthMethod::PrivateKey(Identity::parse(&key, None)?)],
        };
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let options = ConnectOptions::until(tokio::time::Instant::now() + START_MAX);
        let policy = HostKeyPolicy::FirstUse;
        Ok(guest_ssh::connect(&target, &credentials, &policy, &options, |_| ()).await?)
    }
}

/// The name of the user we run as. A process of its own for this would be measured with the rest.
fn user_name() -> Result<String> {
    let id = std::fs::metadata("/proc/self")?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd")?;
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    name.context("the user we run as has no name in /etc/passwd")
}
