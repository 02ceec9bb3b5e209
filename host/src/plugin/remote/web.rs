//! HTTP for fetching plugins: what bounds size and time, where it may be led, and who is trusted.
//!
//! Redirects are followed here and not by `reqwest`, which would go on from https to http. Credentials go to the place that
//! they are for and nowhere else.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, redirect};
use tokio::time::sleep;
use url::Url;

use super::is_loopback;
use crate::console::bytes;
use crate::failure::{Class, Failure, Kind};

/// Connecting takes a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Registries lead to their storage, sometimes by way of a front end; more is a loop.
const REDIRECTS_MAX: usize = 5;

/// How often a request is made that found the other side out of order.
const ATTEMPTS: u32 = 3;
/// The pause after the first; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// No pause is longer, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// As much of an error's text is read.
const ERROR_BYTES_MAX: u64 = 64 * 1024;

/// A request, as it is made to each place that it is led to.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// For the origin of `url`, and none that it leads to.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: Option<Bytes>,
    /// No more bytes than this are taken for an answer.
    pub(crate) bytes_max: u64,
    /// What a failure begins with, such as `cannot fetch plugin …`.
    pub(crate) what: String,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What answered.
    pub(crate) url: Url,
}

impl Call {
    pub(crate) fn get(url: Url, bytes_max: u64, what: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: None,
            bytes_max,
            what: what.into(),
        }
    }

    fn only_reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

impl Answer {
    /// A failure that says what was answered.
    pub(crate) fn unexpected(&self, what: &str) -> Failure {
        let text = String::from_utf8_lossy(&self.body);
        let words: Vec<&str> = text.split_whitespace().collect();
        // Whoever tells it cuts it, once no secret is in it.
        let line = words.join(" ");
        let host = self.url.host_str().unwrap_or_default();
        let colon = if line.is_empty() { "" } else { ": " };
        unavailable(format!(
            "{what}: `{host}` answered {}{colon}{line}",
            self.status
        ))
    }
}

/// Makes requests.
pub(crate) struct Web {
    roots: Vec<reqwest::Certificate>,
    ca_file: Option<PathBuf>,
    secure: OnceLock<reqwest::Client>,
    plain: OnceLock<reqwest::Client>,
    /// Bytes of the answer that is being read.
    received: AtomicU64,
    /// Bytes of all of it, or zero where that is not known.
    total: AtomicU64,
}

impl Web {
    /// Trusts the system's authorities, those of `SSL_CERT_FILE` included, and those of `ca_file`.
    ///
    /// # Errors
    ///
    /// A file of authorities that cannot be read or holds none.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, Failure> {
        orka_client::install_crypto_provider();
        Ok(Self {
            roots: ca_file.map_or_else(|| Ok(Vec::new()), read_roots)?,
            ca_file: ca_file.map(Path::to_owned),
            secure: OnceLock::new(),
            plain: OnceLock::new(),
            received: AtomicU64::new(0),
            total: AtomicU64::new(0),
        })
    }

    /// How far the answer is that is being read, in words.
    pub(crate) fn progress(&self) -> String {
        let received = bytes(self.received.load(Ordering::Relaxed));
        match self.total.load(Ordering::Relaxed) {
            0 => received,
            total => format!("{received} of {}", bytes(total)),
        }
    }

    /// The answer, whatever its status. Requests that only read are made again where the other side is out of order.
    ///
    /// # Errors
    ///
    /// No answer, one that leads where it must not, or one that is too large.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let mut pause = PAUSE_FIRST;
        for _ in 1..ATTEMPTS {
            let after = match self.call_once(call).await {
                Ok(answer) if call.only_reads() && is_passing(answer.status) => {
                    retry_after(&answer.headers)
                }
                Err(failure) if call.only_reads() && failure.retryable => {
                    tracing::debug!(error = %failure, "fetching once more");
                    None
                }
                done => return done,
            };
            sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
            pause *= 2;
        }
        self.call_once(call).await
    }

    async fn call_once(&self, call: &Call) -> Result<Answer, Failure> {
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(call, &url).await?;
            match target(&response, &url).filter(|_| call.only_reads()) {
                None => return self.read(call, response).await,
                Some(to) => url = may_follow(&call.what, &url, to)?,
            }
        }
        Err(unavailable(format!(
            "{}: one is led on too often",
            call.what
        )))
    }

    async fn send(&self, call: &Call, url: &Url) -> Result<reqwest::Response, Failure> {
        let client = self.client(url)?;
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone());
        let is_at_home = url.origin() == call.url.origin();
        if let Some(authorization) = call.authorization.as_ref().filter(|_| is_at_home) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        tracing::debug!(method = %call.method, host = url.host_str(), path = url.path(), "fetch.request");
        let sent = request.send().await;
        sent.map_err(|why| self.unreachable(call, url, &why))
    }

    async fn read(&self, call: &Call, mut response: reqwest::Response) -> Result<Answer, Failure> {
        let is_success = response.status().is_success();
        let limit = if is_success {
            call.bytes_max
        } else {
            ERROR_BYTES_MAX
        };
        let announced = response
            .content_length()
            .filter(|_| call.method != Method::HEAD);
        if is_success && announced.is_some_and(|length| length > limit) {
            return Err(too_large(&call.what, limit));
        }
        self.received.store(0, Ordering::Relaxed);
        self.total.store(announced.unwrap_or(0), Ordering::Relaxed);
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Bytes::new(),
            url: response.url().clone(),
        };
        let broken = |why: reqwest::Error| {
            let host = answer.url.host_str().unwrap_or_default();
            unavailable(format!("{}: the connection to `{host}` broke", call.what))
                .with_source(Told(innermost(&why)))
                .retryable(true)
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            let length = (body.len() + chunk.len()) as u64;
            if length > limit {
                if is_success {
                    return Err(too_large(&call.what, limit));
                }
                break;
            }
            body.extend_from_slice(&chunk);
            self.received.store(length, Ordering::Relaxed);
        }
        answer.body = body.into();
        Ok(answer)
    }

    /// The client for a place. Reading the system's authorities takes a moment, so it is done only where they are asked.
    fn client(&self, url: &Url) -> Result<&reqwest::Client, Failure> {
        let is_secure = url.scheme() == "https";
        let kept = if is_secure { &self.secure } else { &self.plain };
        if let Some(client) = kept.get() {
            return Ok(client);
        }
        let builder = if is_secure {
            builder().tls_certs_merge(self.roots.clone())
        } else {
            // Only this machine is asked without TLS, and a proxy's loopback is not ours.
            builder().tls_certs_only([]).no_proxy()
        };
        let client = builder.build().map_err(|why| {
            Failure::config("the TLS setup for fetching plugins is wrong")
                .with_source(Told(innermost(&why)))
                .with_hint(
                    "install the system's CA certificates, or name a file with `--registry-ca`",
                )
        })?;
        Ok(kept.get_or_init(|| client))
    }

    fn unreachable(&self, call: &Call, url: &Url, why: &reqwest::Error) -> Failure {
        let host = url.host_str().unwrap_or_default();
        // That of the scheme says nothing.
        let port = url
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        let message = format!("{}: `{host}{port}` cannot be reached", call.what);
        let told = Told(innermost(why));
        if !is_about_certificates(why) {
            return unavailable(message).with_source(told).retryable(true);
        }
        Failure::config(message).with_source(told).with_hint(match &self.ca_file {
            Some(path) => format!(
                "neither the system nor `{}` (`--registry-ca`) vouches for it",
                path.display()
            ),
            None => "if an authority of your own vouches for it, name its certificate with `--registry-ca FILE`".to_owned(),
        })
    }
}

/// An error's text: the error itself would repeat URLs, which may hold signatures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_MAX)
        .user_agent(concat!("orka-step/", env!("CARGO_PKG_VERSION")))
}

fn read_roots(path: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let wrong = |what: &str| {
        Failure::config(format!(
            "`{}` given with `--registry-ca` {what}",
            path.display()
        ))
        .with_hint("give a readable file of certificates in PEM form")
    };
    let pem = std::fs::read(path).map_err(|error| wrong("cannot be read").with_source(error))?;
    reqwest::Certificate::from_pem_bundle(&pem)
        .ok()
        .filter(|roots| !roots.is_empty())
        .ok_or_else(|| wrong("holds no certificate"))
}

/// Where an answer leads; none if it is the answer itself.
fn target(response: &reqwest::Response, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}

/// To https from anywhere, and within this machine.
pub(crate) fn may_follow(what: &str, from: &Url, to: Url) -> Result<Url, Failure> {
    let stays = from.scheme() == "http" && to.scheme() == "http" && is_loopback(&to);
    if to.scheme() == "https" || stays {
        return Ok(to);
    }
    let host = |url: &Url| url.host_str().unwrap_or_default().to_owned();
    Err(Failure::plugin_rejected(
        "plugin.redirected",
        format!(
            "{what}: `{}` leads to `{}://{}`, which is not https",
            host(from),
            to.scheme(),
            host(&to)
        ),
    )
    .with_hint("name a place that serves it by https to the end"))
}

fn is_passing(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn too_large(what: &str, limit: u64) -> Failure {
    Failure::plugin_rejected(
        "plugin.too-large",
        format!("{what}: it is larger than {}", bytes(limit)),
    )
}

/// The code of what [`unavailable`] gives.
pub(crate) const UNREACHABLE: &str = "plugin.unreachable";

/// The other side is at fault, or the way to it.
pub(crate) fn unavailable(message: String) -> Failure {
    Failure::new(Kind::Unavailable, Class::Files, UNREACHABLE, message)
        .with_hint("nothing was deployed; the same may succeed later")
}

fn sources<'a>(
    why: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(why), |error| (**error).source())
}

fn innermost(why: &reqwest::Error) -> String {
    sources(why)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// A certificate that is not trusted now is not trusted in a second either.
fn is_about_certificates(why: &reqwest::Error) -> bool {
    // rustls hides its error inside I/O errors, whose chain of sources passes over what they hold.
    sources(why).any(|source| {
        let mut held = source;
        loop {
            if let Some(tls) = held.downcast_ref::<rustls::Error>() {
                return matches!(tls, rustls::Error::InvalidCertificate(_));
            }
            let inner = held
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref);
            match inner {
                Some(inner) => held = inner,
                None => return false,
            }
        }
    })
}
