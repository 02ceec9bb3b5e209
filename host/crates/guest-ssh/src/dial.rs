//! Opening a session: the way to the machine, the key exchange, the login.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::{ChannelOpenFailure, Preferred, client};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::Error;
use crate::algorithms::{self, CIPHERS, KEY_EXCHANGES, MACS};
use crate::auth::{self, Credentials, Spent};
use crate::hostkey::Verifier;
use crate::ready::{Gone, Keepalive, Target};
use crate::session::{Client, LoginEnd, Notes, Session, lock};
use crate::stream::{Progress, Stage, Watched, Wire};

/// What one channel may have in flight towards us. More gains nothing on a local network; OpenSSH's own is the same.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Messages of one channel that wait to be read. At 32 KiB each this holds one window, so memory per command is bounded
/// at about twice [`WINDOW_BYTES`]; beyond that the TCP connection itself is held back.
const CHANNEL_MESSAGES: usize = 64;

/// A packet that nobody acknowledges is sent again by the kernel for much longer than this; a connection attempt is
/// given up and made anew instead, because a VM that has just come up answers the next first packet at once.
const TCP_CONNECT_MAX: Duration = Duration::from_millis(2500);

/// What it takes to open a session; kept, because a connection opens further ones when commands run side by side.
pub(crate) struct Dialer {
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) keepalive: Keepalive,
    pub(crate) jump: Option<JumpDialer>,
    pub(crate) gone: Gone,
}

/// The way to a jump host, and a session with it that waits to carry one with the machine behind it.
pub(crate) struct JumpDialer {
    pub(crate) dialer: Box<Dialer>,
    idle: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl JumpDialer {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self {
            dialer: Box::new(dialer),
            idle: tokio::sync::Mutex::default(),
        }
    }

    /// The waiting session, or a new one.
    async fn session(&self, until: Instant) -> Result<Arc<Session>, Error> {
        let mut idle = self.idle.lock().await;
        if let Some(session) = idle.as_ref().filter(|session| !session.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let progress = Arc::new(Progress::default());
        // One level deep: a jump host is dialled directly.
        let opened = Box::pin(self.dialer.dial_until(until, &progress)).await;
        let session = Arc::new(opened.map_err(|problem| self.failed(problem))?);
        *idle = Some(Arc::clone(&session));
        Ok(session)
    }

    /// From here on the session carries one with the machine, and no further one: a command whose output nobody reads
    /// would hold up its neighbours.
    async fn take(&self, session: &Arc<Session>) {
        let mut idle = self.idle.lock().await;
        if idle.as_ref().is_some_and(|idle| Arc::ptr_eq(idle, session)) {
            *idle = None;
        }
    }

    fn failed(&self, problem: Error) -> Error {
        Error::JumpHost {
            jump: self.dialer.target.to_string(),
            source: Box::new(problem),
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
        let until = Instant::now() + self.attempt_timeout;
        self.dial_until(until, &Arc::default()).await
    }

    /// As [`Self::dial`], with the end of the attempt given and its progress to be seen.
    pub(crate) async fn dial_until(
        &self,
        until: Instant,
        progress: &Arc<Progress>,
    ) -> Result<Session, Error> {
        // A server with several host keys is asked for each kind in turn before a pinned key counts as absent.
        let mut refused = None;
        for family in 0..self.verifier.families() {
            match self.dial_family(family, until, progress).await {
                Err(mismatch @ Error::HostKeyMismatch { .. }) => {
                    refused.get_or_insert(mismatch);
                }
                Err(Error::NoCommonAlgorithm {
                    what: "host key", ..
                }) if family + 1 < self.verifier.families() || refused.is_some() => {}
                outcome => return outcome,
            }
        }
        Err(refused.unwrap_or_else(|| Error::Handshake {
            address: self.target.to_string(),
            source: russh::Error::UnknownKey,
        }))
    }

    async fn dial_family(
        &self,
        family: usize,
        until: Instant,
        progress: &Arc<Progress>,
    ) -> Result<Session, Error> {
        let mut spent = Spent::default();
        loop {
            self.still_there()?;
            let began = Instant::now();
            let carrier = match &self.jump {
                None => None,
                Some(jump) => {
                    progress.enter(Stage::ReachingJump);
                    Some(jump.session(until).await?)
                }
            };
            let attempt = self.attempt(progress, family, carrier, &mut spent);
            let declined = match timeout_at(until, attempt).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(Ended::Declined(declined))) => declined,
                Ok(Err(Ended::Failed(problem))) => return Err(problem),
                Err(_) => return Err(self.silent(progress, began.elapsed())),
            };
            // What is left is offered on a new connection; each one spends at least one offer.
            if declined.more && declined.hung_up && spent.count_the_last() {
                tracing::debug!(target = %self.target, "the server hung up after too many tries; going on with the rest");
                continue;
            }
            return Err(Error::AuthenticationDeclined {
                address: self.target.to_string(),
                user: self.credentials.username.clone(),
                accepts: declined.accepts,
                tried: spent.into_tried(&self.credentials),
            });
        }
    }

    /// Refuses to go where another machine may be by now.
    pub(crate) fn still_there(&self) -> Result<(), Error> {
        if self.gone.is_gone() {
            return Err(Error::Gone {
                address: self.target.to_string(),
            });
        }
        Ok(())
    }

    /// The sentence for an attempt that has taken `after` and is not over.
    pub(crate) fn silent(&self, progress: &Progress, after: Duration) -> Error {
        let address = self.target.to_string();
        if !progress.has_reached(Stage::Connecting)
            && let Some(jump) = &self.jump
        {
            let address = jump.dialer.target.to_string();
            return jump.failed(Error::Unanswered { address, after });
        }
        if progress.has_reached(Stage::Greeting) {
            let during = progress.during();
            Error::Silent {
                address,
                during,
                after,
            }
        } else {
            Error::Unanswered { address, after }
        }
    }

    async fn attempt(
        &self,
        progress: &Arc<Progress>,
        family: usize,
        carrier: Option<Arc<Session>>,
        spent: &mut Spent,
    ) -> Result<Session, Ended> {
        progress.enter(Stage::Connecting);
        let wire = match &carrier {
            None => Wire::Tcp(self.open_tcp().await?),
            Some(jump) => self.open_tunnel(jump).await?,
        };
        progress.enter(Stage::Greeting);
        let notes = Arc::new(Mutex::new(Notes::default()));
        let handler = Client {
            verifier: Arc::clone(&self.verifier),
            notes: Arc::clone(&notes),
        };
        let stream = Watched::new(wire, Arc::clone(progress), self.keepalive.patience());
        let mut handle = client::connect_stream(Arc::new(self.config(family)), stream, handler)
            .await
            .map_err(|problem| self.handshake_error(problem, progress, &notes))?;
        // The machine may have gone while this one's answer was waited for.
        self.still_there()?;
        progress.enter(Stage::LoggingIn);
        match auth::authenticate(&mut handle, &self.credentials, spent).await {
            Ok(()) => {
                let Some(Ok(host_key)) = lock(&notes).judged.take() else {
                    return Err(Ended::Failed(Error::Handshake {
                        address: self.target.to_string(),
                        source: russh::Error::UnknownKey,
                    }));
                };
                self.verifier.remember(host_key)?;
                if let (Some(jump), Some(carrier)) = (&self.jump, &carrier) {
                    jump.take(carrier).await;
                }
                Ok(Session {
                    handle,
                    host_key,
                    notes,
                    busy: AtomicBool::new(false),
                    carrier,
                })
            }
            Err(declined) => {
                let mut hung_up = false;
                if declined.cut {
                    // Its end is recorded just before it is over. A server that hangs up on a wrong password has
                    // answered; one that hangs up for no reason may be starting still.
                    let _ = (&mut handle).await;
                    let ended = lock(&notes).login_ended;
                    if ended == LoginEnd::Unknown {
                        return Err(Ended::Failed(Error::Reset {
                            address: self.target.to_string(),
                            during: progress.during(),
                        }));
                    }
                    hung_up = ended == LoginEnd::TooManyTries;
                }
                Err(Ended::Declined(Refusal {
                    accepts: declined.accepts,
                    more: declined.more,
                    hung_up,
                }))
            }
        }
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

    /// Asks the jump host to connect to the machine (RFC 4254, 7.2).
    async fn open_tunnel(&self, jump: &Arc<Session>) -> Result<Wire, Error> {
        let port = u32::from(self.target.port);
        let opened = jump
            .handle
            .channel_open_direct_tcpip(self.target.host.clone(), port, "127.0.0.1", 0)
            .await;
        let jump_address = || {
            self.jump
                .as_ref()
                .map(|jump| jump.dialer.target.to_string())
                .unwrap_or_default()
        };
        match opened {
            Ok(channel) => Ok(Wire::Tunnel(channel.into_stream())),
            Err(russh::Error::ChannelOpenFailure(reason)) => Err(Error::NotForwarded {
                jump: jump_address(),
                address: self.target.to_string(),
                is_forbidden: matches!(
                    reason,
                    ChannelOpenFailure::AdministrativelyProhibited
                        | ChannelOpenFailure::UnknownChannelType
                ),
            }),
            Err(_) => Err(Error::JumpHost {
                jump: jump_address(),
                source: Box::new(Error::Lost {
                    address: jump_address(),
                    reason: jump.end(),
                }),
            }),
        }
    }

    fn prepare(&self, stream: &TcpStream) {
        // Without this every small request on an open connection waits 40 ms for a delayed acknowledgement.
        if let Err(problem) = stream.set_nodelay(true) {
            tracing::debug!(%problem, "TCP_NODELAY refused");
        }
        // The kernel's own word on a peer that acknowledges nothing. Zero would mean its default.
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

    fn handshake_error(
        &self,
        problem: russh::Error,
        progress: &Progress,
        notes: &Mutex<Notes>,
    ) -> Error {
        let address = self.target.to_string();
        match problem {
            russh::Error::UnknownKey => match lock(notes).judged.take() {
                Some(Err(refusal)) => refusal,
                _ => Error::Handshake {
                    address,
                    source: problem,
                },
            },
            russh::Error::NoCommonAlgo { kind, ours, theirs } => {
                algorithms::none_in_common(address, kind, ours, theirs)
            }
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
                kex: Cow::Borrowed(KEY_EXCHANGES),
                mac: Cow::Borrowed(MACS),
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

/// How an attempt ended without a session.
enum Ended {
    Declined(Refusal),
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(problem: Error) -> Self {
        Self::Failed(problem)
    }
}

/// A login that was declined.
struct Refusal {
    accepts: Vec<String>,
    /// The server accepts something that it was not offered yet.
    more: bool,
    /// It allows no further try on this connection.
    hung_up: bool,
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
