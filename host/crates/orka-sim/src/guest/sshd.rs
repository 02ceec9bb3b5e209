//! A guest as a real OpenSSH server, started for this VM alone.
//!
//! It runs without PAM and without privilege separation of users: the login is the user this process runs as, by public
//! key. A wrapper gives each VM a home directory of its own.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::command::kill_group;
use super::{GuestError, GuestOrder};
use crate::config::SshdSettings;

/// How long an `sshd` that was told to end is waited for.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What every `sshd` of this machine needs, checked before the cluster starts.
#[derive(Debug)]
pub(crate) struct SshdSite;

impl SshdSite {
    /// Finds the program.
    pub(crate) fn find(settings: &SshdSettings) -> Result<PathBuf, GuestError> {
        if let Some(program) = &settings.program {
            return Ok(program.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
        let mut candidates = places
            .into_iter()
            .chain(std::env::split_paths(&path))
            .map(|place| place.join("sshd"));
        // `sshd` insists on being started by its absolute path.
        candidates
            .find(|file| file.is_absolute() && file.is_file())
            .ok_or(GuestError::NoSshd)
    }

    /// The name of the user this process runs as.
    pub(crate) fn user() -> Result<String, GuestError> {
        let output = std::process::Command::new("id")
            .arg("-un")
            .output()
            .map_err(GuestError::Sshd)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes an ed25519 key pair without passphrase; returns the line of the public half.
    pub(crate) async fn make_key(file: &Path) -> Result<String, GuestError> {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "orka-sim", "-f"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(GuestError::HostKey)?;
        if !made.status.success() {
            let text = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(GuestError::HostKey(io::Error::other(text)));
        }
        let public = file.with_extension("pub");
        tokio::fs::read_to_string(public)
            .await
            .map(|line| line.trim().to_owned())
            .map_err(GuestError::HostKey)
    }
}

/// A running `sshd`.
#[derive(Debug)]
pub(crate) struct SshdGuest {
    power: CancellationToken,
    restart: Arc<Notify>,
    keeper: Option<JoinHandle<()>>,
    site: PathBuf,
}

impl SshdGuest {
    pub(crate) async fn start(
        settings: &SshdSettings,
        order: GuestOrder,
    ) -> Result<Self, GuestError> {
        let program = SshdSite::find(settings)?;
        let user = SshdSite::user()?;
        let mut site = order.home.clone().into_os_string();
        site.push(".sshd");
        let site = PathBuf::from(site);
        tokio::fs::create_dir_all(&site)
            .await
            .map_err(GuestError::Sshd)?;
        SshdSite::make_key(&site.join("host_key")).await?;
        let port = order.socket.local_addr().map_err(GuestError::Sshd)?;
        write_site(&site, &order, port, &user)
            .await
            .map_err(GuestError::Sshd)?;
        let power = CancellationToken::new();
        let restart = Arc::new(Notify::new());
        let keeping = keep(
            program,
            site.clone(),
            order,
            power.clone(),
            Arc::clone(&restart),
        );
        let keeper = tokio::spawn(keeping);
        Ok(Self {
            power,
            restart,
            keeper: Some(keeper),
            site,
        })
    }

    /// Ends the server and its sessions and starts it anew, in the background.
    pub(crate) fn restart(&self) {
        self.restart.notify_one();
    }

    pub(crate) async fn stop(mut self) {
        self.power.cancel();
        if let Some(keeper) = self.keeper.take()
            && tokio::time::timeout(STOP_WAIT, keeper).await.is_err()
        {
            tracing::warn!("an sshd did not stop in time");
        }
        if let Err(error) = tokio::fs::remove_dir_all(&self.site).await {
            tracing::debug!(%error, "sshd's directory stays");
        }
    }
}

impl Drop for SshdGuest {
    fn drop(&mut self) {
        // The keeper notices, kills the processes and ends.
        self.power.cancel();
    }
}

/// Configuration, login wrapper and authorized keys of one `sshd`.
async fn write_site(
    site: &Path,
    order: &GuestOrder,
    at: std::net::SocketAddr,
    user: &str,
) -> io::Result<()> {
    let keys = order.authorized_keys.join("\n") + "\n";
    tokio::fs::write(site.join("authorized_keys"), keys).await?;
    let login = site.join("login");
    tokio::fs::write(&login, login_script(order, user)).await?;
    tokio::fs::set_permissions(&login, std::fs::Permissions::from_mode(0o755)).await?;
    let config = site.join("sshd_config");
    tokio::fs::write(config, sshd_config(site, order, at)).await
}

fn sshd_config(site: &Path, order: &GuestOrder, at: std::net::SocketAddr) -> String {
    let mut text = String::new();
    let site = site.display();
    let accept_env = order.accept_env.join(" ");
    let lines = [
        format!("ListenAddress {at}"),
        format!("HostKey {site}/host_key"),
        format!("AuthorizedKeysFile {site}/authorized_keys"),
        format!("ForceCommand {site}/login"),
        "PidFile none".to_owned(),
        "StrictModes no".to_owned(),
        "UsePAM no".to_owned(),
        "PermitRootLogin yes".to_owned(),
        "PasswordAuthentication no".to_owned(),
        "KbdInteractiveAuthentication no".to_owned(),
        "PrintMotd no".to_owned(),
        "UseDNS no".to_owned(),
        "MaxStartups 100".to_owned(),
        "MaxSessions 100".to_owned(),
        "Subsystem sftp internal-sftp".to_owned(),
        // The login shell that runs the wrapper reads its start-up files from here, not from the user's own home.
        format!("SetEnv \"HOME={}\"", order.home.display()),
        if accept_env.is_empty() {
            String::new()
        } else {
            format!("AcceptEnv {accept_env}")
        },
    ];
    for line in lines.iter().filter(|line| !line.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The wrapper each session runs: the VM's own home and a clean environment, then the command, a shell or SFTP.
fn login_script(order: &GuestOrder, user: &str) -> String {
    let home = shell_quote(&order.home.display().to_string());
    let path = shell_quote(&order.path);
    // The user's own login shell runs this script, and may have set anything.
    let kept = order
        .accept_env
        .iter()
        .map(String::as_str)
        .chain(["SSH_*", "TERM"])
        .collect::<Vec<_>>()
        .join("|");
    let sftp = [
        "/usr/lib/openssh/sftp-server",
        "/usr/libexec/openssh/sftp-server",
        "/usr/libexec/sftp-server",
    ];
    let sftp = sftp
        .into_iter()
        .find(|file| Path::new(file).is_file())
        .unwrap_or("sftp-server");
    format!(
        "#!/bin/sh\n\
         for name in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z_0-9]*\\)=.*/\\1/p'); do\n\
         case $name in {kept}) ;; *) unset \"$name\" ;; esac\n\
         done\n\
         HOME={home}\n\
         TMPDIR=$HOME/tmp\n\
         PATH={path}\n\
         USER={user}\n\
         LOGNAME=$USER\n\
         SHELL=/bin/sh\n\
         export HOME TMPDIR PATH USER LOGNAME SHELL\n\
         cd \"$HOME\" || exit 254\n\
         unset OLDPWD\n\
         if [ -z \"${{SSH_ORIGINAL_COMMAND+x}}\" ]; then exec /bin/sh; fi\n\
         if [ \"$SSH_ORIGINAL_COMMAND\" = internal-sftp ]; then exec {sftp} -d \"$HOME\"; fi\n\
         command=$SSH_ORIGINAL_COMMAND\n\
         unset SSH_ORIGINAL_COMMAND\n\
         exec /bin/sh -c \"$command\"\n",
        user = shell_quote(user),
    )
}

fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Boots the guest after its delay, and keeps it until the power goes.
async fn keep(
    program: PathBuf,
    site: PathBuf,
    order: GuestOrder,
    power: CancellationToken,
    restart: Arc<Notify>,
) {
    let boots = async {
        if order.fault.never_boots {
            std::future::pending::<()>().await;
        }
        if !order.boot_delay.is_zero() {
            tokio::time::sleep(order.boot_delay).await;
        }
    };
    tokio::select! {
        () = power.cancelled() => return,
        () = boots => {}
    }
    // Held until the server ends, so that nobody else is given the port.
    let _port: TcpSocket = order.socket;
    let mut child = match start_sshd(&program, &site) {
        Ok(child) => child,
        Err(error) => return tracing::error!(vm = order.vm, %error, "cannot start sshd"),
    };
    loop {
        tokio::select! {
            () = power.cancelled() => break,
            status = child.wait() => {
                tracing::error!(vm = order.vm, ?status, "sshd ended by itself");
                break;
            }
            () = restart.notified() => {
                end_servers(&mut child).await;
                match start_sshd(&program, &site) {
                    Ok(started) => child = started,
                    Err(error) => return tracing::error!(vm = order.vm, %error, "cannot start sshd again"),
                }
            }
        }
    }
    end_all(&mut child).await;
}

fn start_sshd(program: &Path, site: &Path) -> io::Result<Child> {
    let log = std::fs::File::create(site.join("log"))?;
    // `sshd` refuses to start without its directory for privilege separation.
    let _ = std::fs::create_dir_all("/run/sshd");
    Command::new(program)
        .args(["-D", "-e", "-f"])
        .arg(site.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Kills the server and those of its children that serve sessions; what they started goes on.
async fn end_servers(child: &mut Child) {
    let Some(server) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
        return;
    };
    let serves = |process: &Pid| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero()));
        name.is_ok_and(|name| name.starts_with("sshd"))
    };
    let mut servers: Vec<Pid> = descendants(server).into_iter().filter(serves).collect();
    servers.push(server);
    for process in servers {
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
    let _ = child.wait().await;
}

/// Kills the server, its sessions and everything they started.
async fn end_all(child: &mut Child) {
    let Some(server) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
        return;
    };
    // Sessions lead groups of their own, so the tree is walked before its root goes.
    let mut tree = descendants(server);
    tree.push(server);
    for process in tree {
        kill_group(process, Signal::KILL);
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
    let _ = child.wait().await;
}

/// All processes below one, by the parents that `/proc` shows.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut parents: Vec<(i32, i32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The command name in parentheses may hold anything; the parent is the second field after the last one.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent| (process, parent)));
    }
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut at = 0;
    while let Some(&current) = found.get(at) {
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == current)
                .map(|(process, _)| *process),
        );
        at += 1;
    }
    found
        .into_iter()
        .skip(1)
        .filter_map(Pid::from_raw)
        .collect()
}
