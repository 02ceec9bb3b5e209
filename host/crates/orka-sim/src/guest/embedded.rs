//! A guest as an SSH server in this process: real SSH on the wire, the local `/bin/sh` behind it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Handler, Msg, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Pty, Sig};
use rustix::process::{Pid, Signal};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{self, Login, Program};
use super::gate::{Admission, Doorkeeper, GuestStream, Link};
use super::{GuestError, GuestOrder, sftp};

/// How long a stopped guest is waited for before its tasks are left to end by themselves.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A running embedded guest.
#[derive(Debug)]
pub(crate) struct EmbeddedGuest {
    power: CancellationToken,
    link: Arc<Link>,
    tracker: TaskTracker,
    listener: JoinHandle<()>,
}

/// What all connections of a guest share.
#[derive(Debug)]
struct Shared {
    vm: String,
    user: String,
    password: String,
    authorized_keys: Vec<PublicKey>,
    accept_env: Vec<String>,
    login: Login,
    doorkeeper: Doorkeeper,
    refusals_left: AtomicU32,
    link: Arc<Link>,
    power: CancellationToken,
    tracker: TaskTracker,
    config: Arc<russh::server::Config>,
}

impl EmbeddedGuest {
    pub(crate) fn start(order: GuestOrder) -> Result<Self, GuestError> {
        let power = CancellationToken::new();
        let tracker = TaskTracker::new();
        let link = Arc::new(Link::new(&power));
        let parse = |line: &String| PublicKey::from_openssh(line).ok();
        let shared = Arc::new(Shared {
            vm: order.vm,
            login: Login {
                home: order.home,
                user: order.user.clone(),
                path: order.path,
            },
            user: order.user,
            password: order.password,
            authorized_keys: order.authorized_keys.iter().filter_map(parse).collect(),
            accept_env: order.accept_env,
            refusals_left: AtomicU32::new(order.fault.auth_refusals),
            link: Arc::clone(&link),
            power: power.clone(),
            tracker: tracker.clone(),
            config: Arc::new(server_config()),
            doorkeeper: Doorkeeper::new(order.fault.clone()),
        });
        let boot = async move {
            if order.fault.never_boots {
                // Holds the port, closed, until the VM goes away.
                shared.power.cancelled().await;
                drop(order.socket);
                return;
            }
            let booted = async {
                if !order.boot_delay.is_zero() {
                    tokio::time::sleep(order.boot_delay).await;
                }
            };
            tokio::select! {
                () = shared.power.cancelled() => return,
                () = booted => {}
            }
            listen(shared, order.socket).await;
        };
        let listener = tracker.spawn(boot);
        Ok(Self {
            power,
            link,
            tracker,
            listener,
        })
    }

    /// See [`Link::freeze`].
    pub(crate) fn freeze(&self) {
        self.link.freeze();
    }

    /// See [`Link::stall`].
    pub(crate) fn stall(&self) {
        self.link.stall();
    }

    /// See [`Link::cut`].
    pub(crate) fn cut(&self) {
        self.link.cut();
    }

    pub(crate) async fn stop(self) {
        self.power.cancel();
        self.tracker.close();
        if tokio::time::timeout(STOP_WAIT, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("a guest did not stop in time");
        }
    }
}

impl Drop for EmbeddedGuest {
    fn drop(&mut self) {
        self.power.cancel();
        self.listener.abort();
    }
}

fn server_config() -> russh::server::Config {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random::<[u8; 32]>()));
    russh::server::Config {
        methods: MethodSet::from(
            &[
                MethodKind::PublicKey,
                MethodKind::KeyboardInteractive,
                MethodKind::Password,
            ][..],
        ),
        keys: vec![key],
        auth_rejection_time: Duration::from_millis(20),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 6,
        inactivity_timeout: None,
        nodelay: true,
        ..russh::server::Config::default()
    }
}

async fn listen(shared: Arc<Shared>, socket: tokio::net::TcpSocket) {
    let listener = match socket.listen(128) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(vm = shared.vm, %error, "guest cannot listen"),
    };
    loop {
        let accepted = tokio::select! {
            () = shared.power.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&shared, stream, peer),
            Err(error) => tracing::debug!(%error, "guest could not accept a connection"),
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let admission = match shared.doorkeeper.admit() {
        Admission::Serve if shared.link.is_frozen() => Admission::Silence,
        admission => admission,
    };
    match admission {
        Admission::Serve => {
            let serving = serve(Arc::clone(shared), stream, peer);
            shared.tracker.spawn(serving);
        }
        Admission::Silence => {
            let power = shared.power.clone();
            shared.tracker.spawn(async move {
                power.cancelled().await;
                drop(stream);
            });
        }
        Admission::Reset => {
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "connection is closed instead of reset");
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let cut = shared.link.token();
    if let Some(after) = shared.doorkeeper.cut_after() {
        let cut = cut.clone();
        shared.tracker.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = tokio::time::sleep(after) => cut.cancel(),
            }
        });
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = Arc::new(stream);
    let connection = Connection {
        shared: Arc::clone(&shared),
        stream: Arc::clone(&stream),
        cut: cut.clone(),
        opened: HashMap::new(),
        running: Arc::new(Mutex::new(HashMap::new())),
    };
    let wire = GuestStream::new(stream, Arc::clone(&shared.link), cut.clone());
    let outcome =
        match russh::server::run_stream(Arc::clone(&shared.config), wire, connection).await {
            Ok(session) => session.await,
            Err(error) => Err(error),
        };
    if let Err(error) = outcome {
        tracing::debug!(vm = shared.vm, %peer, %error, "SSH connection ended");
    }
    // Whatever still runs for this connection goes with it.
    cut.cancel();
}

/// A session channel on which nothing has been started yet.
struct Opened {
    channel: Channel<Msg>,
    env: Vec<(String, String)>,
    terminal: Option<String>,
}

/// Process groups by channel, for `signal` requests.
type Running = Arc<Mutex<HashMap<ChannelId, Pid>>>;

/// The server side of one SSH connection.
struct Connection {
    shared: Arc<Shared>,
    stream: Arc<TcpStream>,
    cut: CancellationToken,
    opened: HashMap<ChannelId, Opened>,
    running: Running,
}

impl Connection {
    /// The verdict on a login whose proof is right or wrong, with refusals on purpose taken into account.
    fn verdict(&self, user: &str, proven: bool) -> Auth {
        let one_less = |left: u32| left.checked_sub(1);
        let right = proven && user == self.shared.user;
        let refused = right
            && self
                .shared
                .refusals_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok();
        if right && !refused {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }

    fn accepts_env(&self, name: &str) -> bool {
        self.shared
            .accept_env
            .iter()
            .any(|pattern| crate::fault::glob(pattern, name))
    }

    /// Runs a shell command, or a shell that reads its commands from the channel.
    fn run(
        &mut self,
        id: ChannelId,
        line: Option<&[u8]>,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(opened) = self.opened.remove(&id) else {
            return session.channel_failure(id);
        };
        let spawned = command::spawn(
            &self.shared.login,
            line,
            &opened.env,
            opened.terminal.as_deref(),
        );
        match spawned {
            Ok((program, group)) => {
                lock(&self.running).insert(id, group);
                session.channel_success(id)?;
                self.attend(opened.channel, program, Some(group), session.handle());
            }
            Err(error) => {
                tracing::error!(vm = self.shared.vm, %error, "cannot start a shell");
                session.channel_failure(id)?;
            }
        }
        Ok(())
    }

    fn attend(&self, channel: Channel<Msg>, program: Program, group: Option<Pid>, handle: Handle) {
        let (id, running) = (channel.id(), Arc::clone(&self.running));
        let watch = command::Watch {
            stream: Arc::clone(&self.stream),
            cut: self.cut.clone(),
            handle,
        };
        self.shared.tracker.spawn(async move {
            let ended = command::bridge(channel, program, watch).await;
            lock(&running).remove(&id);
            // What a finished command left in the background stays, as on a real machine.
            if let (Some(group), false) = (group, ended) {
                command::kill_group(group, Signal::KILL);
            }
        });
    }
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, HashMap<ChannelId, Pid>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(self.verdict(user, password == self.shared.password))
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: russh::server::PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = self
            .shared
            .authorized_keys
            .iter()
            .any(|key| key.key_data() == offer.public_key.key_data());
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = self
            .shared
            .authorized_keys
            .iter()
            .any(|known| known.key_data() == key.public_key.key_data());
        Ok(self.verdict(user, known))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut answers) = response else {
            return Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            });
        };
        let right = answers
            .next()
            .is_some_and(|answer| answer == self.shared.password.as_bytes());
        Ok(self.verdict(user, right))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.opened.insert(
            channel.id(),
            Opened {
                channel,
                env: Vec::new(),
                terminal: None,
            },
        );
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.opened.remove(&channel);
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let accepted = self.accepts_env(name);
        match self.opened.get_mut(&channel) {
            Some(opened) if accepted => {
                opened.env.push((name.to_owned(), value.to_owned()));
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.opened.get_mut(&channel) {
            Some(opened) => {
                opened.terminal = Some(term.to_owned());
                session.channel_success(channel)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.run(channel, None, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.run(channel, Some(command), session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != "sftp" {
            return session.channel_failure(channel);
        }
        let Some(opened) = self.opened.remove(&channel) else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        self.attend(
            opened.channel,
            sftp::program(&self.shared.login.home),
            None,
            session.handle(),
        );
        Ok(())
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let group = lock(&self.running).get(&channel).copied();
        if let (Some(group), Some(signal)) = (group, command::signal_number(&signal)) {
            command::kill_group(group, signal);
        }
        Ok(())
    }
}
