//! What answers on the SSH port of a VM.

mod command;
mod embedded;
mod gate;
mod sftp;
mod sshd;
mod sweep;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::config::GuestKind;
use crate::fault::GuestFault;

pub(crate) use embedded::EmbeddedGuest;
pub(crate) use sshd::{SshdGuest, SshdSite};
pub(crate) use sweep::kill_processes_of;

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Its home directory could not be made.
    #[error("cannot make the guest's home directory")]
    Home(#[source] io::Error),
    /// Its host key could not be made.
    #[error("cannot make the guest's host key")]
    HostKey(#[source] io::Error),
    /// There is no OpenSSH server on this machine.
    #[error("`sshd` is not installed; `apt-get install openssh-server` brings it")]
    NoSshd,
    /// The OpenSSH server could not be set up or started.
    #[error("cannot start `sshd`")]
    Sshd(#[source] io::Error),
}

/// Everything a guest is made from.
#[derive(Debug)]
pub(crate) struct GuestOrder {
    pub(crate) vm: String,
    pub(crate) home: PathBuf,
    /// Bound to the SSH port and not listening.
    pub(crate) socket: TcpSocket,
    pub(crate) boot_delay: Duration,
    pub(crate) fault: GuestFault,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) authorized_keys: Vec<String>,
    pub(crate) accept_env: Vec<String>,
    /// Where programs are searched.
    pub(crate) path: String,
}

/// Where guests search programs: as macOS does, after a directory of stand-ins, if there is one.
pub(crate) fn search_path(programs: Option<&Path>) -> String {
    const SYSTEM: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
    match programs {
        Some(programs) => format!("{}:{SYSTEM}", programs.display()),
        None => SYSTEM.to_owned(),
    }
}

/// A started guest. Dropping it stops it as well, without waiting.
#[derive(Debug)]
pub(crate) enum Guest {
    /// An SSH server in this process.
    Embedded(EmbeddedGuest),
    /// A real `sshd`.
    Sshd(SshdGuest),
    /// A closed port, held so that nobody else answers there.
    Closed {
        /// Never listens.
        _port: TcpSocket,
    },
}

impl Guest {
    /// Makes the home directory and starts the guest; its port opens after the boot delay.
    pub(crate) async fn start(kind: &GuestKind, order: GuestOrder) -> Result<Self, GuestError> {
        tokio::fs::create_dir_all(order.home.join("tmp"))
            .await
            .map_err(GuestError::Home)?;
        match kind {
            GuestKind::Embedded => EmbeddedGuest::start(order).map(Self::Embedded),
            GuestKind::Sshd(settings) => SshdGuest::start(settings, order).await.map(Self::Sshd),
            GuestKind::None => Ok(Self::Closed {
                _port: order.socket,
            }),
        }
    }

    /// Whether it could be frozen: an embedded one alone.
    pub(crate) fn freeze(&self) -> bool {
        let Self::Embedded(guest) = self else {
            return false;
        };
        guest.freeze();
        true
    }

    /// Whether its connections could be stalled: an embedded one's alone.
    pub(crate) fn stall(&self) -> bool {
        let Self::Embedded(guest) = self else {
            return false;
        };
        guest.stall();
        true
    }

    /// Whether its server could be told to start anew: a real `sshd` alone.
    pub(crate) fn restart(&self) -> bool {
        let Self::Sshd(guest) = self else {
            return false;
        };
        guest.restart();
        true
    }

    /// Whether its connections could be ended: an embedded one's alone.
    pub(crate) fn cut(&self) -> bool {
        let Self::Embedded(guest) = self else {
            return false;
        };
        guest.cut();
        true
    }

    /// Ends every session and process of the guest and closes its port.
    pub(crate) async fn stop(self) {
        match self {
            Self::Embedded(guest) => guest.stop().await,
            Self::Sshd(guest) => guest.stop().await,
            Self::Closed { .. } => {}
        }
    }
}
