//! An SSH server in this process that says what a test tells it to, true or not.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use guest_ssh::{AuthMethod, Connection, Credentials, HostKeyPolicy, Target};
use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Sig};
use tokio::net::TcpListener;

/// What the server prints for one command, and how it ends it.
pub struct Answer {
    pub stdout: Box<dyn Iterator<Item = Bytes> + Send>,
    pub end: End,
}

pub enum End {
    /// An exit status, then the end of output.
    Status(u32),
    /// The exit status first and the output afterwards, as servers may.
    StatusBeforeOutput(u32),
    /// The channel closes and nothing is said.
    Nothing,
    /// Waits for a signal and ends by it.
    BySignal,
    /// Whatever these messages are, and nothing more.
    Own(Messages),
}

type Messages = Box<
    dyn FnOnce(russh::server::Handle, ChannelId) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send,
>;

impl Answer {
    pub fn new(stdout: impl Into<Bytes>, end: End) -> Self {
        Self {
            stdout: Box::new(std::iter::once(stdout.into())),
            end,
        }
    }
}

type Answers = dyn Fn(&str) -> Answer + Send + Sync;

/// How the server behaves.
#[derive(Clone)]
pub struct Script {
    /// Accepted by the `password` method.
    pub password: Option<&'static str>,
    /// Accepted as the hidden answer of `keyboard-interactive`.
    pub interactive: Option<&'static str>,
    /// How many logins are declined before the right password is right.
    pub refusals: Arc<AtomicU32>,
    pub answers: Arc<Answers>,
    /// The secret half of the host key, if it matters.
    pub host_key: Option<PrivateKey>,
}

impl Script {
    pub fn answering(answers: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            password: Some("admin"),
            interactive: None,
            refusals: Arc::default(),
            answers: Arc::new(answers),
            host_key: None,
        }
    }

    /// What a transfer asks first is answered as a VM with everything would; all its scripts begin with the same line.
    fn answer(&self, line: &str) -> Answer {
        const BEGIN: &[u8] = b"orka-step: begin\n";
        if !line.contains("orka-step: begin") {
            return (self.answers)(line);
        }
        if line.contains("tar --version") {
            let facts = "tar=gnu\nfind\ndetails=printf\ngzip\nsha256=sha256sum\nend\n";
            return Answer::new([BEGIN, facts.as_bytes()].concat(), End::Status(0));
        }
        let Answer { stdout, end } = (self.answers)(line);
        Answer {
            stdout: Box::new(std::iter::once(Bytes::from_static(BEGIN)).chain(stdout)),
            end,
        }
    }

    pub fn quiet() -> Self {
        Self::answering(|_| Answer::new("", End::Status(0)))
    }
}

/// A running scripted server.
pub struct Scripted {
    pub port: u16,
    /// Logins tried so far, by method.
    pub logins: Arc<AtomicU32>,
}

impl Scripted {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let logins = Arc::new(AtomicU32::new(0));
        let mut methods = MethodSet::empty();
        if script.password.is_some() {
            methods.push(MethodKind::Password);
        }
        if script.interactive.is_some() {
            methods.push(MethodKind::KeyboardInteractive);
        }
        let config = Arc::new(Config {
            methods,
            keys: vec![
                script
                    .host_key
                    .clone()
                    .unwrap_or_else(|| private_key("ed25519")),
            ],
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..Config::default()
        });
        let counted = Arc::clone(&logins);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What the kernel holds back is late in virtual time.
                stream.set_nodelay(true).unwrap();
                let guest = Guest {
                    script: script.clone(),
                    logins: Arc::clone(&counted),
                    signals: Arc::default(),
                };
                let config = Arc::clone(&config);
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, guest).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { port, logins }
    }

    pub fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    pub async fn connect(&self) -> Connection {
        let policy = HostKeyPolicy::FirstUse;
        guest_ssh::connect(
            &self.target(),
            &password("admin"),
            &policy,
            &super::options(),
            |_| (),
        )
        .await
        .unwrap()
    }
}

pub fn password(password: &str) -> Credentials {
    Credentials {
        username: "admin".to_owned(),
        methods: vec![AuthMethod::Password(password.to_owned().into())],
    }
}

pub fn private_key(kind: &str) -> PrivateKey {
    let dir = tempfile::tempdir().unwrap();
    let path = super::sshd::keygen(&dir.path().join("key"), &["-t", kind]);
    russh::keys::load_secret_key(path, None).unwrap()
}

struct Guest {
    script: Script,
    logins: Arc<AtomicU32>,
    signals: Arc<Mutex<HashMap<ChannelId, tokio::sync::oneshot::Sender<Sig>>>>,
}

impl Guest {
    fn verdict(&self, right: bool) -> Auth {
        self.logins.fetch_add(1, Ordering::SeqCst);
        let early = self
            .script
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if right && early.is_err() {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(self.verdict(self.script.password == Some(password)))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Borrowed("a visible question first"),
                prompts: Cow::Borrowed(&[
                    (Cow::Borrowed("Colour:"), true),
                    (Cow::Borrowed("Password:"), false),
                ]),
            });
        };
        let (visible, hidden) = (response.next(), response.next());
        let right = self
            .script
            .interactive
            .is_some_and(|right| hidden.is_some_and(|given| given == right));
        Ok(self.verdict(right && visible.is_some_and(|given| given.is_empty())))
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(id)?;
        let answer = self.script.answer(&String::from_utf8_lossy(line));
        let (send, signalled) = tokio::sync::oneshot::channel();
        self.signals.lock().unwrap().insert(id, send);
        tokio::spawn(give(session.handle(), id, answer, signalled));
        Ok(())
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(waiting) = self.signals.lock().unwrap().remove(&id) {
            let _ = waiting.send(signal);
        }
        Ok(())
    }
}

/// Plays an answer; stops where the client has gone.
async fn give(
    handle: russh::server::Handle,
    id: ChannelId,
    answer: Answer,
    signalled: tokio::sync::oneshot::Receiver<Sig>,
) -> Option<()> {
    if let End::StatusBeforeOutput(status) = answer.end {
        handle.exit_status_request(id, status).await.ok()?;
    }
    for piece in answer.stdout {
        handle.data(id, piece).await.ok()?;
    }
    match answer.end {
        End::Status(status) => handle.exit_status_request(id, status).await.ok()?,
        End::BySignal => {
            let signal = signalled.await.ok()?;
            handle
                .exit_signal_request(id, signal, true, "as told".to_owned(), "en".to_owned())
                .await
                .ok()?;
        }
        End::Nothing | End::StatusBeforeOutput(_) => {}
        End::Own(messages) => {
            messages(handle, id).await;
            return Some(());
        }
    }
    handle.eof(id).await.ok()?;
    handle.close(id).await.ok()
}
