//! A server that runs no commands and speaks SFTP, true or not: a directory with the names a test gives, and for any
//! request the bytes a test gives instead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest_ssh::{Connection, HostKeyPolicy, Target};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId};
use tokio::net::TcpListener;

use super::scripted::{password, private_key};

pub const OPEN: u8 = 3;
pub const READ: u8 = 5;
pub const LSTAT: u8 = 7;
pub const READDIR: u8 = 12;
pub const READLINK: u8 = 19;
const INIT: u8 = 1;
const CLOSE: u8 = 4;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const REALPATH: u8 = 16;
const STAT: u8 = 17;

pub const FILE: u32 = 0o100_644;
pub const DIRECTORY: u32 = 0o040_755;
pub const LINK: u32 = 0o120_777;

/// What is sent for a request instead of the honest answer: the request's kind, its number, how often one of this kind
/// came before.
pub type Lie = dyn Fn(u8, u32, u32) -> Option<Vec<u8>> + Send + Sync;

/// One name in the directory: its bytes, its mode, the size it claims.
pub type Name = (Vec<u8>, u32, u64);

#[derive(Clone)]
struct Guest {
    names: Arc<Vec<Name>>,
    lie: Arc<Lie>,
    /// Connections that are still to end when SFTP is greeted.
    cuts: Arc<AtomicU32>,
    channels: HashMap<ChannelId, Arc<Mutex<State>>>,
}

#[derive(Default)]
struct State {
    input: Vec<u8>,
    seen: HashMap<u8, u32>,
    listed: bool,
    read: HashMap<u32, u32>,
    opened: u32,
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [
        &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..],
        bytes,
    ]
    .concat()
}

/// A whole packet.
pub fn packet(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    string(&[&[kind][..], &id.to_be_bytes(), body].concat())
}

pub fn status(id: u32, code: u32) -> Vec<u8> {
    packet(
        101,
        id,
        &[&code.to_be_bytes()[..], &string(b""), &string(b"")].concat(),
    )
}

pub fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    packet(103, id, &string(bytes))
}

pub fn attributes(mode: u32, size: u64) -> Vec<u8> {
    [
        &5_u32.to_be_bytes()[..],
        &size.to_be_bytes(),
        &mode.to_be_bytes(),
    ]
    .concat()
}

pub fn names(id: u32, names: &[Name]) -> Vec<u8> {
    let mut body = u32::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for (name, mode, size) in names {
        body.extend([string(name), string(b"long"), attributes(*mode, *size)].concat());
    }
    packet(104, id, &body)
}

/// A running server.
pub struct LyingSftp {
    port: u16,
    pub connections: Arc<AtomicU32>,
}

impl LyingSftp {
    pub async fn start(
        names: Vec<Name>,
        lie: impl Fn(u8, u32, u32) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::cutting(0, names, lie).await
    }

    /// A server whose first so many connections end when SFTP is greeted.
    pub async fn cutting(
        cuts: u32,
        names: Vec<Name>,
        lie: impl Fn(u8, u32, u32) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(Config {
            keys: vec![private_key("ed25519")],
            auth_rejection_time: Duration::ZERO,
            ..Config::default()
        });
        let guest = Guest {
            names: Arc::new(names),
            lie: Arc::new(lie),
            cuts: Arc::new(cuts.into()),
            channels: HashMap::new(),
        };
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (guest, config) = (guest.clone(), Arc::clone(&config));
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, guest).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { port, connections }
    }

    pub async fn connect(&self) -> Connection {
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let policy = HostKeyPolicy::FirstUse;
        guest_ssh::connect(
            &target,
            &password("admin"),
            &policy,
            &super::options(),
            |_| (),
        )
        .await
        .unwrap()
    }
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, _password: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
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
        _line: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        // As `internal-sftp` without input.
        session.channel_success(id)?;
        session.exit_status_request(id, 0)?;
        session.eof(id)?;
        session.close(id)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.insert(id, Arc::default());
        session.channel_success(id)
    }

    async fn data(
        &mut self,
        id: ChannelId,
        bytes: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(state) = self.channels.get(&id).cloned() else {
            return Ok(());
        };
        let mut state = state.lock().unwrap();
        state.input.extend_from_slice(bytes);
        while let Some(length) = state
            .input
            .first_chunk()
            .map(|length| u32::from_be_bytes(*length) as usize)
        {
            if state.input.len() < 4 + length {
                break;
            }
            let request: Vec<u8> = state.input.drain(..4 + length).skip(4).collect();
            let cut = |left: u32| left.checked_sub(1);
            let cuts = || {
                self.cuts
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut)
            };
            if request[0] == INIT && cuts().is_ok() {
                return Err(russh::Error::Disconnect);
            }
            let answer = self.answer(&mut state, &request);
            session.data(id, answer)?;
        }
        Ok(())
    }
}

impl Guest {
    fn answer(&self, state: &mut State, request: &[u8]) -> Vec<u8> {
        let kind = request[0];
        if kind == INIT {
            return string(&[2, 0, 0, 0, 3]);
        }
        let id = u32::from_be_bytes(*request[1..].first_chunk().unwrap());
        let seen = state.seen.entry(kind).or_default();
        let before = std::mem::replace(seen, *seen + 1);
        if let Some(lie) = (self.lie)(kind, id, before) {
            return lie;
        }
        let path = request.get(9..).unwrap_or_default();
        let asked = self.names.iter().find(|(name, ..)| path.ends_with(name));
        match kind {
            OPENDIR => packet(102, id, &string(b"directory")),
            READDIR if !std::mem::replace(&mut state.listed, true) => names(id, &self.names),
            READDIR => status(id, 1),
            LSTAT | STAT | FSTAT => match asked {
                Some((_, mode, size)) => packet(105, id, &attributes(*mode, *size)),
                None => packet(105, id, &attributes(DIRECTORY, 0)),
            },
            OPEN => {
                state.opened += 1;
                packet(102, id, &string(&state.opened.to_be_bytes()))
            }
            READ => {
                let handle = u32::from_be_bytes(*request[9..].first_chunk().unwrap());
                let reads = state.read.entry(handle).or_default();
                *reads += 1;
                if *reads == 1 {
                    data(id, b"x")
                } else {
                    status(id, 1)
                }
            }
            READLINK | REALPATH => names(id, &[(b"/etc/passwd".to_vec(), LINK, 0)]),
            CLOSE => status(id, 0),
            _ => status(id, 8),
        }
    }
}
