//! One SSH session over one TCP connection: dialling it, proving both sides, noticing its end.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{Disconnect, Preferred, cipher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::Error;
use crate::auth::{self, Credentials};
use crate::hostkey::Verifier;
use crate::ready::{Keepalive, Target};

/// Fastest first on processors with AES instructions, which every Mac and every build node has; measured, the library's
/// own order costs a quarter of the throughput up and 40 % down.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
];

/// What one channel may have in flight towards us. More gains nothing on a local network; OpenSSH's own is the same.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Messages of one channel that wait to be read. At 32 KiB each this holds one window, so memory per command is bounded
/// at about twice [`WINDOW_BYTES`]; beyond that the TCP connection itself is held back.
const CHANNEL_MESSAGES: usize = 64;

/// A packet that nobody acknowledges is sent again by the kernel for much longer than this; a connection attempt is
/// given up and made anew instead, because a VM that has just come up answers the next first packet at once.
const TCP_CONNECT_MAX: Duration = Duration::from_millis(2500);

/// How many reads are acknowledged at once. The server's first answers are small, and it holds each back for our delayed
/// acknowledgement (40 ms): this covers key exchange, login and the first command.
const EARLY_READS: u32 = 64;

/// What it takes to open a session; kept, because a connection opens further ones when commands run side by side.
pub(crate) struct Dialer {
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) keepalive: Keepalive,
}

/// Where an attempt is, for the sentence that says where it stopped.
#[derive(Default)]
struct Progress {
    stage: AtomicU8,
    bytes_read: AtomicU64,
}

const CONNECTING: u8 = 0;
const GREETING: u8 = 1;
const LOGGING_IN: u8 = 2;

impl Progress {
    fn during(&self) -> &'static str {
        match self.stage.load(Ordering::Relaxed) {
            LOGGING_IN => "during login",
            GREETING if self.bytes_read.load(Ordering::Relaxed) == 0 => "before its SSH banner",
            _ => "during key exchange",
        }
    }
}

impl Dialer {
    /// Opens a session, within `attempt_timeout` in all.
    ///
    /// # Errors
    ///
    /// How the attempt ended; [`Error::may_pass`] tells whether the next may go differently.
    pub(crate) async fn dial(&self) -> Result<Session, Error> {
        // A server with several host keys is asked for each kind in turn before a pinned key counts as absent.
        let mut refused = None;
        for family in 0..self.verifier.families() {
            match self.dial_family(family).await {
                Err(mismatch @ Error::HostKeyMismatch { .. }) => {
                    refused.get_or_insert(mismatch);
                }
                Err(Error::Handshake {
                    source: russh::Error::NoCommonAlgo { .. },
                    ..
                }) if family + 1 < self.verifier.families() || refused.is_some() => {}
                outcome => return outcome,
            }
        }
        Err(refused.unwrap_or_else(|| Error::Handshake {
            address: self.target.to_string(),
            source: russh::Error::UnknownKey,
        }))
    }

    async fn dial_family(&self, family: usize) -> Result<Session, Error> {
        let progress = Arc::new(Progress::default());
        match tokio::time::timeout(self.attempt_timeout, self.attempt(&progress, family)).await {
            Ok(outcome) => outcome,
            Err(_) if progress.stage.load(Ordering::Relaxed) == CONNECTING => {
                Err(Error::Unanswered {
                    address: self.target.to_string(),
                    after: self.attempt_timeout,
                })
            }
            Err(_) => Err(Error::Silent {
                address: self.target.to_string(),
                during: progress.during(),
                after: self.attempt_timeout,
            }),
        }
    }

    async fn attempt(&self, progress: &Arc<Progress>, family: usize) -> Result<Session, Error> {
        let stream = self.open_tcp().await?;
        progress.stage.store(GREETING, Ordering::Relaxed);
        let notes = Arc::new(Mutex::new(Notes::default()));
        let handler = Client {
            verifier: Arc::clone(&self.verifier),
            notes: Arc::clone(&notes),
        };
        let stream = PromptStream {
            inner: stream,
            progress: Arc::clone(progress),
            prompt_reads: EARLY_READS,
        };
        let mut handle = client::connect_stream(Arc::new(self.config(family)), stream, handler)
            .await
            .map_err(|problem| self.handshake_error(problem, progress))?;
        progress.stage.store(LOGGING_IN, Ordering::Relaxed);
        let declined = match auth::authenticate(&mut handle, &self.credentials).await {
            Ok(()) => {
                return Ok(Session {
                    handle,
                    notes,
                    busy: AtomicBool::new(false),
                });
            }
            Err(declined) => declined,
        };
        if declined.cut {
            // Its end is recorded just before it is over. A server that hangs up on a wrong password has answered;
            // one that hangs up for no reason may be starting still.
            let _ = (&mut handle).await;
            if !lock(&notes).login_refused {
                return Err(Error::Reset {
                    address: self.target.to_string(),
                    during: progress.during(),
                });
            }
        }
        Err(Error::AuthenticationDeclined {
            address: self.target.to_string(),
            user: self.credentials.username.clone(),
            accepts: declined.accepts,
            tried: declined.tried,
        })
    }

    async fn open_tcp(&self) -> Result<TcpStream, Error> {
        let Target { host, port } = &self.target;
        let unresolved = |source| Error::Unresolved {
            host: host.clone(),
            source,
        };
        let addresses = tokio::net::lookup_host((host.as_str(), *port))
            .await
            .map_err(unresolved)?;
        let mut last = unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        for address in addresses {
            match tokio::time::timeout(TCP_CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    self.prepare(&stream);
                    return Ok(stream);
                }
                Ok(Err(problem)) => last = self.tcp_error(problem),
                Err(_) => {
                    last = Error::Unanswered {
                        address: self.target.to_string(),
                        after: TCP_CONNECT_MAX,
                    }
                }
            }
        }
        Err(last)
    }

    fn prepare(&self, stream: &TcpStream) {
        // Without this every small request on an open connection waits 40 ms for a delayed acknowledgement.
        if let Err(problem) = stream.set_nodelay(true) {
            tracing::debug!(%problem, "TCP_NODELAY refused");
        }
        // Keepalives notice a dead link while we wait to read; this notices it while we wait to write.
        #[cfg(target_os = "linux")]
        {
            let patience = self
                .keepalive
                .patience()
                .as_millis()
                .try_into()
                .unwrap_or(u32::MAX);
            if let Err(problem) = rustix::net::sockopt::set_tcp_user_timeout(stream, patience) {
                tracing::debug!(%problem, "TCP_USER_TIMEOUT refused");
            }
        }
    }

    fn tcp_error(&self, source: io::Error) -> Error {
        let address = self.target.to_string();
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Error::Refused { address },
            io::ErrorKind::TimedOut => Error::Unanswered {
                address,
                after: TCP_CONNECT_MAX,
            },
            io::ErrorKind::ConnectionReset => Error::Reset {
                address,
                during: "while connecting",
            },
            _ => Error::NoRoute { address, source },
        }
    }

    fn handshake_error(&self, problem: russh::Error, progress: &Progress) -> Error {
        let address = self.target.to_string();
        match problem {
            russh::Error::UnknownKey => self.verifier.take_refusal().unwrap_or(Error::Handshake {
                address,
                source: problem,
            }),
            russh::Error::HUP | russh::Error::Disconnect => Error::Reset {
                address,
                during: progress.during(),
            },
            russh::Error::IO(source) if was_cut(&source) => Error::Reset {
                address,
                during: progress.during(),
            },
            source => Error::Handshake { address, source },
        }
    }

    fn config(&self, family: usize) -> client::Config {
        client::Config {
            preferred: Preferred {
                cipher: Cow::Borrowed(CIPHERS),
                key: self.verifier.key_preference(family),
                host_key_certificates: self.verifier.certificate_preference(),
                ..Preferred::DEFAULT
            },
            window_size: WINDOW_BYTES,
            channel_buffer_size: CHANNEL_MESSAGES,
            keepalive_interval: (!self.keepalive.interval.is_zero())
                .then_some(self.keepalive.interval),
            keepalive_max: self.keepalive.count_max as usize,
            nodelay: true,
            ..client::Config::default()
        }
    }
}

fn was_cut(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// An authenticated session. It carries one command at a time: the library delivers all channels of a session through
/// one loop, so a command whose output nobody reads would hold up its neighbours.
pub(crate) struct Session {
    pub(crate) handle: Handle<Client>,
    notes: Arc<Mutex<Notes>>,
    busy: AtomicBool,
}

#[derive(Default)]
struct Notes {
    server_version: String,
    ended: Option<String>,
    /// The session ended because no login was left to try: the server accepts no further method, or said that there
    /// were too many failures (`MaxAuthTries` in `sshd_config(5)`).
    login_refused: bool,
}

impl Session {
    /// The server's version line, such as `SSH-2.0-OpenSSH_9.9`.
    pub(crate) fn server_version(&self) -> String {
        lock(&self.notes).server_version.clone()
    }

    /// Why the session ended, as far as is known.
    pub(crate) fn end(&self) -> String {
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
    verifier: Arc<Verifier>,
    notes: Arc<Mutex<Notes>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(self.verifier.accepts(shown))
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
        let login_refused = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                matches!(info.reason_code, Disconnect::NoMoreAuthMethodsAvailable)
                    || info.message.contains("authentication failures")
            }
            DisconnectReason::Error(problem) => matches!(problem, russh::Error::NoAuthMethod),
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
        notes.login_refused = login_refused;
        Ok(())
    }
}

fn lock(notes: &Mutex<Notes>) -> std::sync::MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP stream that acknowledges its first reads at once and counts what it read.
struct PromptStream {
    inner: TcpStream,
    progress: Arc<Progress>,
    prompt_reads: u32,
}

impl AsyncRead for PromptStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() && self.prompt_reads > 0 {
            self.prompt_reads -= 1;
            self.progress
                .bytes_read
                .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
            // Not kept by the kernel, so it is asked for again with each read (tcp(7), TCP_QUICKACK).
            #[cfg(target_os = "linux")]
            let _ = self.inner.set_quickack(true);
        }
        polled
    }
}

impl AsyncWrite for PromptStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
