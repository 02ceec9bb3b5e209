//! A fake API server: answers each request as the test says, also in ways no HTTP library would.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orka_client::{ClientConfig, Credentials, Endpoint, RetryPolicy, SecretString, TokenSource};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

pub const PASSWORD: &str = "hunter2-password";
pub const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.dG9rZW4.c2ln";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A complete answer.
    Full {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The connection is closed with no answer.
    Close,
    /// The answer stops after `body`, although it promised a byte more.
    CutShort { status: u16, body: Vec<u8> },
    /// Nothing, ever.
    Silence,
    /// A body without end.
    Endless,
}

pub fn reply(status: u16, body: Value) -> Answer {
    raw(status, "application/json; charset=utf-8", body.to_string())
}

pub fn raw(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    Answer::Full {
        status,
        headers: vec![("content-type".into(), content_type.into())],
        body: body.into(),
    }
}

pub fn with_header(answer: Answer, name: &str, value: &str) -> Answer {
    match answer {
        Answer::Full {
            status,
            mut headers,
            body,
        } => {
            headers.push((name.into(), value.into()));
            Answer::Full {
                status,
                headers,
                body,
            }
        }
        other => other,
    }
}

/// The 404 of an Express server.
pub fn page_not_found() -> Answer {
    raw(
        404,
        "text/html; charset=utf-8",
        "<!DOCTYPE html>\n<pre>Cannot GET /nowhere</pre>\n",
    )
}

/// An Orka 2 answer with further members.
pub fn envelope(members: Value) -> Value {
    let mut body = json!({ "message": "", "help": {}, "errors": [] });
    let object = body.as_object_mut().unwrap();
    object.extend(members.as_object().unwrap().clone());
    body
}

/// An Orka 2 refusal.
pub fn refusal(status: u16, text: &str) -> Answer {
    reply(
        status,
        json!({ "message": "", "help": {}, "errors": [{ "message": text }] }),
    )
}

/// A Kubernetes refusal.
pub fn status_object(code: u16, reason: &str, message: &str) -> Answer {
    reply(
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                "reason": reason, "code": code }),
    )
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running fake. It ends with the test's runtime.
pub struct Fake {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Answers each request as `handler` says.
    pub async fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with("http", |stream| async move { Some(stream) }, handler).await
    }

    /// [`Fake::start`] behind something that turns each TCP connection into another stream, such as TLS.
    pub async fn start_with<S, F>(
        scheme: &str,
        accept: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("{scheme}://127.0.0.1:{port}");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let log = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let accepted = accept(stream);
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                tokio::spawn(async move {
                    if let Some(stream) = accepted.await {
                        serve(stream, &*handler, &log).await;
                    }
                });
            }
        });
        Self { url, requests }
    }

    /// An Orka 2 of that version that knows one user; everything else is up to `handler`.
    pub async fn orka2(
        version: &str,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let health = envelope(json!({ "api_version": version }));
        Self::start(
            move |request| match (request.method.as_str(), request.path.as_str()) {
                ("GET", "/health-check") => reply(200, health.clone()),
                ("GET", "/api/v1/cluster-info") => page_not_found(),
                ("POST", "/token") if request.json()["password"] == PASSWORD => {
                    reply(200, envelope(json!({ "token": TOKEN })))
                }
                _ => handler(request),
            },
        )
        .await
    }

    /// An Orka 3; everything but its cluster info is up to `handler`.
    pub async fn orka3(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(move |request| match request.path.as_str() {
            "/api/v1/cluster-info" => {
                reply(200, json!({ "apiEndpoint": "https://10.221.188.19:6443", "apiDomain": "company.orka.app" }))
            }
            "/health-check" => page_not_found(),
            _ => handler(request),
        })
        .await
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests there were of that method and path.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.is(method, path))
            .count()
    }

    /// The only request of that method and path.
    pub fn only(&self, method: &str, path: &str) -> Request {
        let mut found: Vec<_> = self
            .requests()
            .into_iter()
            .filter(|request| request.is(method, path))
            .collect();
        assert_eq!(
            found.len(),
            1,
            "{method} {path} among {:?}",
            self.requests()
        );
        found.remove(0)
    }
}

/// What a server says at once to a TLS handshake on its http port.
const NOT_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nno HTTP\n";

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handler: &Handler,
    log: &Mutex<Vec<Request>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = receive(&mut stream, &mut buffer).await {
        log.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        if !answer.send(&mut stream).await {
            return;
        }
    }
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Option<Request> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
        if !buffer[0].is_ascii_uppercase() {
            stream.write_all(NOT_HTTP).await.ok()?;
            return None;
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.split(' ');
    let (method, path) = (start.next()?.to_owned(), start.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let mut request = Request {
        method,
        path,
        headers,
        body: String::new(),
    };
    let length: usize = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while buffer.len() < head_end + 4 + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8(buffer[head_end + 4..head_end + 4 + length].to_vec()).unwrap();
    buffer.drain(..head_end + 4 + length);
    Some(request)
}

impl Answer {
    /// Whether the connection may be used further.
    async fn send<S: AsyncWrite + Unpin>(self, stream: &mut S) -> bool {
        match self {
            Self::Full {
                status,
                headers,
                body,
            } => {
                let mut head = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n",
                    body.len()
                );
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                let bytes = [head.as_bytes(), b"\r\n", &body].concat();
                stream.write_all(&bytes).await.is_ok()
            }
            Self::Close => false,
            Self::CutShort { status, body } => {
                let head = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n\r\n",
                    body.len() + 1
                );
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                let _ = stream.flush().await;
                false
            }
            Self::Silence => std::future::pending().await,
            Self::Endless => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await;
                let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                false
            }
        }
    }
}

/// E-mail address and password of the user that [`Fake::orka2`] knows.
pub fn login() -> Credentials {
    Credentials::Login {
        email: "ci@example.com".into(),
        password: SecretString::from(PASSWORD),
        licence_key: Some(SecretString::from("licence-key-9")),
    }
}

/// A given token.
pub fn token() -> Credentials {
    Credentials::Token(TokenSource::Static(SecretString::from(TOKEN)))
}

/// A configuration that waits next to nothing between attempts.
pub fn config(url: &str, credentials: Credentials) -> ClientConfig {
    let mut config = ClientConfig::new(Endpoint::parse(url).unwrap(), credentials);
    config.retry = RetryPolicy {
        attempts_max: 3,
        wait_first: Duration::from_millis(1),
        wait_max: Duration::from_millis(20),
    };
    config
}

/// A redirect.
pub fn moved(status: u16, location: &str) -> Answer {
    with_header(raw(status, "text/plain", ""), "location", location)
}

/// An Orka 3 in which there is nothing.
pub fn orka3(request: &Request) -> Answer {
    match request.path.as_str() {
        "/api/v1/cluster-info" => {
            reply(200, json!({ "apiEndpoint": "https://10.221.188.19:6443" }))
        }
        "/health-check" => page_not_found(),
        _ => reply(200, json!({ "items": [] })),
    }
}
