//! One SSH session over one connection: who uses it, how it ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use russh::Disconnect;
use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;

use crate::Error;
use crate::hostkey::{HostKey, Verifier};

/// An authenticated session. It carries one command at a time: the library delivers all channels of a session through
/// one loop, so a command whose output nobody reads would hold up its neighbours.
pub(crate) struct Session {
    pub(crate) handle: Handle<Client>,
    pub(crate) host_key: HostKey,
    pub(crate) notes: Arc<Mutex<Notes>>,
    pub(crate) busy: AtomicBool,
    /// The session with the jump host that this one goes through.
    pub(crate) carrier: Option<Arc<Session>>,
}

/// What the library's callbacks saw.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) server_version: String,
    pub(crate) ended: Option<String>,
    /// The host key that was shown, or why it was refused.
    pub(crate) judged: Option<Result<HostKey, Error>>,
    pub(crate) login_ended: LoginEnd,
}

/// Whether the server ended the session because of our login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LoginEnd {
    /// Not that it said so.
    #[default]
    Unknown,
    /// It accepts no further method.
    Declined,
    /// There were too many failures on one connection (`MaxAuthTries` in `sshd_config(5)`).
    TooManyTries,
}

impl Session {
    /// The server's version line, such as `SSH-2.0-OpenSSH_9.9`.
    pub(crate) fn server_version(&self) -> String {
        lock(&self.notes).server_version.clone()
    }

    /// Why the session ended, as far as is known.
    pub(crate) fn end(&self) -> String {
        if let Some(jump) = self.carrier.as_ref().filter(|jump| jump.is_closed()) {
            return format!("the connection to the jump host ended: {}", jump.end());
        }
        lock(&self.notes)
            .ended
            .clone()
            .unwrap_or_else(|| "the server closed it".to_owned())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Says goodbye; a connection that is already gone is as good.
    pub(crate) async fn disconnect(&self) {
        let _ = self
            .handle
            .disconnect(Disconnect::ByApplication, "", "en")
            .await;
    }
}

/// The right to run one command on a session; given back when dropped.
pub(crate) struct Lease(Arc<Session>);

impl Lease {
    /// Takes the session if no command runs on it.
    pub(crate) fn take(session: &Arc<Session>) -> Option<Self> {
        let taken = session
            .busy
            .compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        taken.then(|| Self(Arc::clone(session)))
    }
}

impl Lease {
    /// The session itself, for what is no command.
    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.0)
    }
}

impl std::ops::Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

/// The library's view of us: judges the host key, keeps notes.
pub(crate) struct Client {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) notes: Arc<Mutex<Notes>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let verdict = self.verifier.judge(shown);
        let is_accepted = verdict.is_ok();
        lock(&self.notes).judged = Some(verdict);
        Ok(is_accepted)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        _names: &russh::Names,
        session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        lock(&self.notes).server_version = String::from_utf8_lossy(session.remote_sshid())
            .trim()
            .to_owned();
        Ok(())
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<russh::Error>,
    ) -> Result<(), russh::Error> {
        let login_ended = match &reason {
            DisconnectReason::ReceivedDisconnect(info)
                if info.message.contains("authentication failures") =>
            {
                LoginEnd::TooManyTries
            }
            DisconnectReason::ReceivedDisconnect(info)
                if matches!(info.reason_code, Disconnect::NoMoreAuthMethodsAvailable) =>
            {
                LoginEnd::Declined
            }
            DisconnectReason::Error(russh::Error::NoAuthMethod) => LoginEnd::Declined,
            _ => LoginEnd::Unknown,
        };
        let text = match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                format!(
                    "the server said `{}`",
                    crate::quote::printable(info.message.as_bytes())
                )
            }
            DisconnectReason::Error(russh::Error::KeepaliveTimeout) => {
                "it stopped answering keepalives".to_owned()
            }
            DisconnectReason::Error(russh::Error::HUP | russh::Error::Disconnect) => {
                "the server closed it".to_owned()
            }
            DisconnectReason::Error(problem) => problem.to_string(),
        };
        tracing::debug!(reason = %text, "SSH session ended");
        let mut notes = lock(&self.notes);
        notes.ended = Some(text);
        notes.login_ended = login_ended;
        Ok(())
    }
}

pub(crate) fn lock(notes: &Mutex<Notes>) -> std::sync::MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
