//! One HTTP exchange: a request out, a bounded answer in, every failure named.
//!
//! This file knows nothing of Orka's bodies and never repeats a request. HTTP/1.1 only: a cluster's own clients
//! pin it, after trouble with HTTP/2.

use std::fmt;
use std::path::Path;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::config::{ClientConfig, Timeouts};
use crate::endpoint::Endpoint;
use crate::error::{Error, UnreachableKind};
use crate::lenient::{Object, QUOTED_CHARS_MAX, printable};

/// Largest answer that is read. The list of a few thousand VMs stays well below.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Redirects followed in a row; an ingress needs one.
const REDIRECTS_MAX: usize = 5;

/// How long an idle connection is kept. Node closes its side after 5 s, and a request that meets the closing one is
/// lost with nobody knowing whether it took effect.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(3);

/// What a call does to the cluster, which decides whether it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: repeated freely.
    Read,
    /// Removes something: may have happened, and is repeated freely.
    Remove,
    /// Makes something: repeated only if it was certainly never sent.
    Create,
}

/// A request, apart from who makes it.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) segments: Vec<String>,
    pub(crate) body: Option<Value>,
    pub(crate) effect: Effect,
    /// For one attempt, to the last byte of the answer.
    pub(crate) limit: Duration,
    /// Extra header whose value is secret.
    pub(crate) secret_header: Option<(HeaderName, SecretString)>,
}

impl Call {
    fn new<S: AsRef<str>>(method: Method, effect: Effect, path: &[S], limit: Duration) -> Self {
        let segments = path
            .iter()
            .map(|segment| segment.as_ref().to_owned())
            .collect();
        Self {
            method,
            segments,
            body: None,
            effect,
            limit,
            secret_header: None,
        }
    }

    pub(crate) fn get<S: AsRef<str>>(path: &[S], limit: Duration) -> Self {
        Self::new(Method::GET, Effect::Read, path, limit)
    }

    pub(crate) fn create<S: AsRef<str>>(path: &[S], body: Value, limit: Duration) -> Self {
        Self {
            body: Some(body),
            ..Self::new(Method::POST, Effect::Create, path, limit)
        }
    }

    pub(crate) fn remove<S: AsRef<str>>(path: &[S], body: Option<Value>, limit: Duration) -> Self {
        Self {
            body,
            ..Self::new(Method::DELETE, Effect::Remove, path, limit)
        }
    }

    /// Whether a request that got no answer may have changed something.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.effect != Effect::Read
    }
}

/// Method and path; never the body, which may hold a password.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} /{}", self.method, self.segments.join("/"))
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
    /// Where the answer came from, after redirects.
    pub(crate) url: Url,
}

impl Reply {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether there is nothing but white space in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.body.iter().all(u8::is_ascii_whitespace)
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(crate) fn object(&self) -> Option<Object> {
        match self.json() {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// The beginning of the answer, safe to show.
    pub(crate) fn excerpt(&self) -> String {
        // White space is folded; a little more is enough.
        let start = &self.body[..self.body.len().min(QUOTED_CHARS_MAX * 2)];
        printable(&String::from_utf8_lossy(start), QUOTED_CHARS_MAX)
    }

    /// The error for an answer that is not of this API.
    pub(crate) fn unexpected(&self, call: &Call, why: &str) -> Error {
        Error::UnexpectedReply {
            call: call.to_string(),
            status: self.status,
            why: why.to_owned(),
            excerpt: self.excerpt(),
            may_have_happened: self.is_success() && call.may_have_happened(),
        }
    }
}

/// The connection to one endpoint.
pub(crate) struct Transport {
    endpoint: Endpoint,
    config: ClientConfig,
    extra_roots: Vec<reqwest::Certificate>,
    /// For `http://`: knows no certificates, so that reading the system's store costs nothing where nobody needs it.
    plain: reqwest::Client,
    /// For `https://`, made when first needed.
    secure: OnceLock<reqwest::Client>,
}

impl Transport {
    pub(crate) async fn new(config: &ClientConfig) -> Result<Self, Error> {
        install_crypto_provider();
        let extra_roots = match &config.ca_file {
            Some(path) => read_roots(path).await?,
            None => Vec::new(),
        };
        let plain = builder(config)
            .tls_certs_only(extra_roots.clone())
            .build()
            .map_err(|why| unbuildable(&why))?;
        let transport = Self {
            endpoint: config.endpoint.clone(),
            config: config.clone(),
            extra_roots,
            plain,
            secure: OnceLock::new(),
        };
        if transport.endpoint.is_https() {
            transport.secure()?;
        }
        Ok(transport)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.config.timeouts
    }

    /// Makes `endpoint` the base of all further calls.
    pub(crate) fn move_to(&mut self, endpoint: Endpoint) {
        self.endpoint = endpoint;
    }

    /// Makes the call once, following redirects, within its limit.
    ///
    /// Whatever the status, an answer that was read to its end is `Ok`.
    pub(crate) async fn send(
        &self,
        call: &Call,
        token: Option<&SecretString>,
    ) -> Result<Reply, Error> {
        let started = Instant::now();
        let outcome = match timeout(call.limit, self.follow(call, token)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::TimedOut {
                call: call.to_string(),
                after: call.limit,
                may_have_happened: call.may_have_happened(),
            }),
        };
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let path = format_args!("/{}", call.segments.join("/")).to_string();
        match &outcome {
            Ok(reply) => {
                tracing::debug!(method = %call.method, path, status = reply.status, elapsed_ms, "orka.request");
            }
            Err(error) => {
                tracing::debug!(method = %call.method, path, error = %error, elapsed_ms, "orka.request");
            }
        }
        outcome
    }

    async fn follow(&self, call: &Call, token: Option<&SecretString>) -> Result<Reply, Error> {
        let headers = headers(call, token)?;
        let mut url = self.endpoint.call(&call.segments, None).ok_or_else(|| {
            Error::invalid(format!("`{call}`"), "a name in it is empty or made of dots")
        })?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.exchange(call, &url, headers.clone()).await?;
            let Some(target) = redirect_target(&response, &url) else {
                return read(call, response).await;
            };
            may_follow(call, &url, &target)?;
            if target.scheme() != url.scheme() {
                tracing::warn!(
                    endpoint = %self.endpoint, "the Orka endpoint redirects to https; set it to `https://` so that \
                     nothing is sent in the clear first"
                );
            }
            url = target;
        }
        Err(redirected(call, &url, "it was redirected too often"))
    }

    async fn exchange(
        &self,
        call: &Call,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, Error> {
        let client = if url.scheme() == "https" {
            self.secure()?
        } else {
            &self.plain
        };
        let mut request = client
            .request(call.method.clone(), url.clone())
            .headers(headers);
        if let Some(body) = &call.body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        request
            .send()
            .await
            .map_err(|why| self.failure(call, url, why))
    }

    fn secure(&self) -> Result<&reqwest::Client, Error> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let built = builder(&self.config)
            .tls_certs_merge(self.extra_roots.clone())
            .tls_danger_accept_invalid_certs(self.config.insecure_tls)
            .build()
            .map_err(|why| unbuildable(&why))?;
        Ok(self.secure.get_or_init(|| built))
    }

    fn failure(&self, call: &Call, url: &Url, why: reqwest::Error) -> Error {
        if why.is_builder() {
            return Error::invalid(format!("`{call}`"), innermost(&why));
        }
        if !why.is_connect() {
            return interrupted(call, why);
        }
        let mut endpoint = url.clone();
        endpoint.set_path("");
        let endpoint = endpoint.as_str().trim_end_matches('/').to_owned();
        let kind = unreachable_kind(&why);
        let source: Box<dyn std::error::Error + Send + Sync> = match tls_error(&why) {
            Some(tls) => Box::new(tls.clone()),
            None => Box::new(why.without_url()),
        };
        Error::Unreachable {
            endpoint,
            kind,
            source: Some(source),
        }
    }
}

/// Redirects are followed by [`Transport::follow`], which keeps method and body and guards the credentials.
fn builder(config: &ClientConfig) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(config.timeouts.connect)
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .tcp_nodelay(true)
        .user_agent(config.user_agent.as_str());
    // A proxy's loopback is not ours.
    if config.endpoint.is_loopback() {
        builder.no_proxy()
    } else {
        builder
    }
}

/// Makes `ring` serve every TLS connection of the process, whichever library makes it. Connecting a
/// [`Client`](crate::Client) does so by itself.
pub fn install_crypto_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error means that the program has chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

async fn read_roots(path: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let what = || format!("the CA file `{}`", path.display());
    let pem = tokio::fs::read(path)
        .await
        .map_err(|why| Error::invalid(what(), why.to_string()))?;
    let roots = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|why| Error::invalid(what(), innermost(&why)))?;
    if roots.is_empty() {
        return Err(Error::invalid_with_hint(
            what(),
            "it holds no certificate",
            "give certificates in PEM form",
        ));
    }
    Ok(roots)
}

fn unbuildable(why: &reqwest::Error) -> Error {
    Error::invalid_with_hint(
        "the TLS setup",
        innermost(why),
        "install the system's CA certificates, or name a CA file with valid certificates",
    )
}

fn headers(call: &Call, token: Option<&SecretString>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let bearer = SecretString::from(format!("Bearer {}", token.expose_secret()));
        headers.insert(AUTHORIZATION, secret_value(&bearer, "the token")?);
    }
    if let Some((name, value)) = &call.secret_header {
        headers.insert(name.clone(), secret_value(value, name.as_str())?);
    }
    Ok(headers)
}

fn secret_value(secret: &SecretString, what: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(secret.expose_secret())
        .map_err(|_| Error::invalid(what, "it holds characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a redirect leads that keeps method and body; 303 would turn a deploy into a read, so it counts as an answer.
fn redirect_target(response: &reqwest::Response, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}

/// Credentials and password bodies go to the host they were meant for and nowhere else.
fn may_follow(call: &Call, from: &Url, to: &Url) -> Result<(), Error> {
    let upgrade = from.scheme() == "http" && to.scheme() == "https";
    let same_port = from.port_or_known_default() == to.port_or_known_default();
    if from.host() != to.host() {
        Err(redirected(
            call,
            to,
            "that is another host, which must not be given the credentials",
        ))
    } else if upgrade || (from.scheme() == to.scheme() && same_port) {
        Ok(())
    } else if to.scheme() == "http" {
        Err(redirected(
            call,
            to,
            "that would send the credentials in the clear",
        ))
    } else {
        Err(redirected(
            call,
            to,
            "that is another service on the same host",
        ))
    }
}

fn redirected(call: &Call, to: &Url, why: &'static str) -> Error {
    let mut target = to.clone();
    // These fail only for URLs that cannot have the part in the first place.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    target.set_query(None);
    target.set_fragment(None);
    Error::Redirected {
        call: call.to_string(),
        target: target.to_string(),
        why,
    }
}

async fn read(call: &Call, mut response: reqwest::Response) -> Result<Reply, Error> {
    let mut reply = Reply {
        status: response.status().as_u16(),
        retry_after: retry_after(response.headers()),
        body: Vec::new(),
        url: response.url().clone(),
    };
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|why| interrupted(call, why))?
    {
        let room = BODY_BYTES_MAX - reply.body.len();
        reply
            .body
            .extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Err(reply.unexpected(call, "more than 8 MiB"));
        }
    }
    Ok(reply)
}

/// `Retry-After` in seconds; the form with a date is left to the caller's own back-off.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

fn interrupted(call: &Call, why: reqwest::Error) -> Error {
    Error::Interrupted {
        call: call.to_string(),
        may_have_happened: call.may_have_happened(),
        source: Box::new(why.without_url()),
    }
}

fn unreachable_kind(why: &reqwest::Error) -> UnreachableKind {
    use std::io::ErrorKind;

    if why.is_dns() {
        return UnreachableKind::Dns;
    }
    if tls_error(why).is_some() {
        return UnreachableKind::Tls;
    }
    if why.is_timeout() {
        return UnreachableKind::TimedOut;
    }
    let io = sources(why).find_map(|source| source.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => UnreachableKind::Refused,
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
            UnreachableKind::NoRoute
        }
        _ => UnreachableKind::Other,
    }
}

/// The TLS failure below `why`. rustls hides it inside one or more I/O errors, whose own chain of sources passes
/// over what they hold.
fn tls_error(why: &reqwest::Error) -> Option<&rustls::Error> {
    sources(why).find_map(|source| {
        let mut held = source;
        loop {
            if let Some(tls) = held.downcast_ref::<rustls::Error>() {
                return Some(tls);
            }
            held = held.downcast_ref::<std::io::Error>()?.get_ref()?;
        }
    })
}

fn sources<'a>(
    why: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(why), |error| error.source())
}

fn innermost(why: &reqwest::Error) -> String {
    sources(why)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}
