//! A VM one can work with: sessions are opened as needed, commands and transfers run on them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::Error;
use crate::command;
use crate::detach;
use crate::dial::Dialer;
use crate::exec::ExecRequest;
use crate::hostkey::HostKey;
use crate::ready::Target;
use crate::running::Command;
use crate::session::{Lease, Session};

/// How many commands may run at once. `sshd` takes more, and no build needs as many.
const SESSIONS_MAX: usize = 16;

/// How long [`Connection::close`] waits for detached commands to be ended in the VM.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A connection to a VM that accepted our login.
///
/// Commands may run side by side. Each running command has an SSH session of its own, so one whose output is not read
/// cannot hold up another; the further sessions are opened when needed, must show the same host key, and are kept for
/// reuse. Once the VM drops a session no new one is opened behind the caller's back: everything after says
/// [`Error::Lost`]. Transfers begin again on a new session, because repeating them is safe, and detached commands are followed
/// on one; after that the connection is as good as new.
pub struct Connection {
    sessions: Arc<Sessions>,
    host_key: HostKey,
    jump_host_key: Option<HostKey>,
    fingerprint: String,
    server_version: String,
    /// What earlier transfers learned about the VM.
    pub(crate) transfers: crate::transfer::Memory,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("target", self.target())
            .field("host_key_fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(dialer: Arc<Dialer>, session: Session) -> Self {
        let host_key = session.host_key;
        let jump_host_key = session.carrier.as_ref().map(|jump| jump.host_key);
        let server_version = session.server_version();
        Self {
            host_key,
            jump_host_key,
            sessions: Arc::new(Sessions::new(dialer, session)),
            fingerprint: host_key.fingerprint.to_string(),
            server_version,
            transfers: crate::transfer::Memory::default(),
        }
    }

    /// Where the VM is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.sessions.dialer.target
    }

    /// The server's host key, as `SHA256:…`.
    #[must_use]
    pub fn host_key_fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The server's host key, and why it was accepted.
    #[must_use]
    pub fn host_key(&self) -> HostKey {
        self.host_key
    }

    /// The jump host's host key, if the connection goes through one.
    #[must_use]
    pub fn jump_host_key(&self) -> Option<HostKey> {
        self.jump_host_key
    }

    /// What the server calls itself, such as `SSH-2.0-OpenSSH_9.9`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Starts a command and returns once the server has taken it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what cannot be a program argument, [`Error::ExecRefused`], [`Error::Lost`].
    pub async fn exec(&self, mut request: ExecRequest) -> Result<Command, Error> {
        if let Some(how) = request.detach.take() {
            let sessions = Arc::clone(&self.sessions);
            return detach::start(sessions, request, how)
                .await
                .map(Command::from);
        }
        let start = request.into_start()?;
        let command = command::start(self.lease().await?, self.address(), start).await?;
        Ok(Command::from(command))
    }

    /// Says goodbye on every session. Commands still running lose their connection; detached ones are ended first.
    pub async fn close(&self) {
        self.sessions.close().await;
    }

    pub(crate) fn address(&self) -> String {
        self.sessions.address()
    }

    /// Makes sure of one usable session after one was lost. Only for work that may be repeated whole.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        self.sessions.renew().await
    }

    /// A session that no command uses, opened if there is none.
    pub(crate) async fn lease(&self) -> Result<Lease, Error> {
        self.sessions.lease().await
    }
}

/// The sessions of a connection, and the way to further ones.
pub(crate) struct Sessions {
    dialer: Arc<Dialer>,
    open: Mutex<Vec<Arc<Session>>>,
    /// Whether nothing is to be opened any more.
    closing: watch::Sender<bool>,
    /// Detached commands that are followed.
    detached: watch::Sender<usize>,
}

impl Sessions {
    fn new(dialer: Arc<Dialer>, session: Session) -> Self {
        Self {
            dialer,
            open: Mutex::new(vec![Arc::new(session)]),
            closing: watch::Sender::new(false),
            detached: watch::Sender::new(0),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.dialer.target.to_string()
    }

    /// Fails once the machine is known to be gone.
    pub(crate) fn still_there(&self) -> Result<(), Error> {
        self.dialer.still_there()
    }

    /// Becomes true when the connection is closed on purpose.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Counts a detached command until what is returned is dropped.
    pub(crate) fn follow(self: &Arc<Self>) -> Following {
        self.detached.send_modify(|count| *count += 1);
        Following(Arc::clone(self))
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        let mut detached = self.detached.subscribe();
        // Out of time is an answer: then the VM ends them once nobody has followed them for long enough.
        let _ = timeout(CLOSE_MAX, detached.wait_for(|count| *count == 0)).await;
        let sessions = std::mem::take(&mut *self.open.lock().await);
        for session in sessions {
            session.disconnect().await;
        }
    }

    /// See [`Connection::renew`].
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        self.still_there()?;
        let mut sessions = self.open.lock().await;
        sessions.retain(|session| !session.is_closed());
        if sessions.is_empty() {
            sessions.push(Arc::new(self.dialer.dial().await?));
        }
        Ok(())
    }

    /// See [`Connection::lease`].
    pub(crate) async fn lease(&self) -> Result<Lease, Error> {
        self.still_there()?;
        let mut sessions = self.open.lock().await;
        if let Some(ended) = sessions.iter().find(|session| session.is_closed()) {
            return Err(Error::Lost {
                address: self.address(),
                reason: ended.end(),
            });
        }
        if let Some(lease) = sessions.iter().find_map(Lease::take) {
            return Ok(lease);
        }
        if sessions.len() >= SESSIONS_MAX {
            let reason = format!("{SESSIONS_MAX} commands are running already");
            return Err(Error::ExecRefused {
                address: self.address(),
                reason,
            });
        }
        let session = Arc::new(self.dialer.dial().await?);
        tracing::debug!(target = %self.dialer.target, sessions = sessions.len() + 1, "SSH session added");
        sessions.push(Arc::clone(&session));
        drop(sessions);
        Lease::take(&session).ok_or_else(|| Error::Lost {
            address: self.address(),
            reason: "a new session was not free".to_owned(),
        })
    }
}

/// A detached command that is followed.
pub(crate) struct Following(Arc<Sessions>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.detached.send_modify(|count| *count -= 1);
    }
}
