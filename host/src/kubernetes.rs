//! The Kubernetes API, with the rights of the pod's own service account: how it is reached, and one request.
//!
//! What is asked of it is decided elsewhere: `reap` lists pods, and `hand_over` keeps a Secret and a ConfigMap. Nothing else in
//! this program talks to Kubernetes, and neither does unless it was asked to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, redirect};
use serde_json::Value;
use tokio::time::sleep;
use url::Url;

use crate::config::Environment;
use crate::failure::{Class, Failure, Kind};

/// Where Kubernetes mounts what a pod needs to talk to the API: the files `token`, `ca.crt` and `namespace`.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// No answer is as large; what is larger is something else.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often a request is made.
const ATTEMPTS: u32 = 4;

/// No pause between two is longer, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How to reach the API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    base: Url,
    credentials: PathBuf,
}

/// An answer, whatever it says.
pub(crate) struct Answer {
    pub(crate) status: u16,
    retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// What is sent with a request.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Nothing,
    Json(&'a Value),
    /// A patch that replaces the members it names (RFC 7386).
    MergePatch(&'a Value),
}

impl Api {
    /// From flags, and from what Kubernetes puts into a pod's environment.
    ///
    /// # Errors
    ///
    /// No address to be found, or one that would send the token in the clear.
    pub(crate) fn resolve(
        url: Option<&str>,
        credentials: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let address = match (
            url,
            variable("KUBERNETES_SERVICE_HOST"),
            variable("KUBERNETES_SERVICE_PORT"),
        ) {
            (Some(url), ..) => url.to_owned(),
            // An IPv6 address needs brackets, in a URL as elsewhere.
            (None, Some(host), Some(port)) if host.contains(':') => {
                format!("https://[{host}]:{port}")
            }
            (None, Some(host), Some(port)) => format!("https://{host}:{port}"),
            _ => {
                return Err(Failure::config(
                    "there is no Kubernetes API: this is no pod of a cluster",
                )
                .with_hint(
                    "give `--kubernetes-api URL`; `reap` takes the pods themselves as well, with `--live-pods FILE`",
                ));
            }
        };
        let wrong = |what: &str| Failure::config(format!("`--kubernetes-api {address}` {what}"));
        let base = Url::parse(&address).map_err(|error| wrong("is no URL").with_source(error))?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(wrong("is neither http nor https"));
        }
        // `kubectl proxy` on this machine speaks http; anybody else would see the token.
        if base.scheme() == "http" && !is_loopback(&base) {
            return Err(wrong("would send the token in the clear")
                .with_hint("use https, or `kubectl proxy` on this machine"));
        }
        let credentials = credentials.unwrap_or(Path::new(CREDENTIALS)).to_owned();
        Ok(Self { base, credentials })
    }

    /// A client for it.
    ///
    /// # Errors
    ///
    /// Certificates that cannot be read.
    pub(crate) async fn client(&self) -> Result<reqwest::Client, Failure> {
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // The service address of a cluster is inside it; a proxy is for what is outside.
            .no_proxy()
            .user_agent(concat!("orka-step/", env!("CARGO_PKG_VERSION")));
        orka_client::install_crypto_provider();
        if self.base.scheme() == "https" {
            let path = self.credentials.join("ca.crt");
            let pem = self.read(&path).await?;
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .ok()
                .filter(|roots| !roots.is_empty())
                .ok_or_else(|| unusable(&path, "holds no certificate"))?;
            builder = builder.tls_certs_only(roots);
        } else {
            builder = builder.tls_certs_only([]);
        }
        builder.build().map_err(|error| {
            Failure::internal("the Kubernetes client cannot be made").with_source(error)
        })
    }

    /// The URL of what these segments name.
    pub(crate) fn url<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// An answer that is not worth asking for again. The first failure is followed by this pause, which doubles.
    ///
    /// # Errors
    ///
    /// Nobody answers, or credentials that cannot be read, or an answer of absurd size.
    pub(crate) async fn ask(
        &self,
        client: &reqwest::Client,
        method: Method,
        url: Url,
        body: Body<'_>,
        mut pause: Duration,
    ) -> Result<Answer, Failure> {
        let mut attempt = 1;
        loop {
            let answer = self
                .exchange(client, method.clone(), url.clone(), body)
                .await?;
            match answer {
                Ok(answer) if attempt == ATTEMPTS || !answer.is_passing() => return Ok(answer),
                Ok(answer) => pause = pause.max(answer.retry_after.unwrap_or_default()),
                Err(error) if attempt == ATTEMPTS => return Err(self.unreachable(error)),
                Err(_) => {}
            }
            tracing::debug!(path = url.path(), attempt, "kubernetes.repeat");
            sleep(pause.min(PAUSE_MAX)).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// One request; the inner error is that of the connection. The token is read anew for each: Kubernetes replaces it.
    ///
    /// # Errors
    ///
    /// Credentials that cannot be read, or an answer of absurd size.
    async fn exchange(
        &self,
        client: &reqwest::Client,
        method: Method,
        url: Url,
        body: Body<'_>,
    ) -> Result<reqwest::Result<Answer>, Failure> {
        let mut request = client
            .request(method, url)
            .header(ACCEPT, "application/json");
        let (kind, value) = match body {
            Body::Nothing => ("", None),
            Body::Json(value) => ("application/json", Some(value)),
            Body::MergePatch(value) => ("application/merge-patch+json", Some(value)),
        };
        if let Some(value) = value {
            request = request.header(CONTENT_TYPE, kind).body(value.to_string());
        }
        if let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, token);
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    return Err(failed(
                        "an answer of Kubernetes is larger than 64 MiB".to_owned(),
                    ));
                }
                Ok(None) => {
                    return Ok(Ok(Answer {
                        status,
                        retry_after,
                        body,
                    }));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Nobody answered.
    fn unreachable(&self, error: reqwest::Error) -> Failure {
        failed(format!("{self} did not answer")).with_source(error.without_url())
    }

    /// The namespace of the pod.
    ///
    /// # Errors
    ///
    /// A pod without one, which is no pod.
    pub(crate) fn namespace(&self) -> Result<String, Failure> {
        let path = self.credentials.join("namespace");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| unusable(&path, "cannot be read").with_source(error))?;
        Ok(text.trim().to_owned())
    }

    /// The `Authorization` header; none for a proxy on this machine that has the credentials itself.
    async fn token(&self) -> Result<Option<HeaderValue>, Failure> {
        let path = self.credentials.join("token");
        if self.base.scheme() == "http" && !path.exists() {
            return Ok(None);
        }
        let token = self.read(&path).await?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| unusable(&path, "holds no token"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    async fn read(&self, path: &Path) -> Result<String, Failure> {
        tokio::fs::read_to_string(path)
            .await
            .map_err(|error| unusable(path, "cannot be read").with_source(error))
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Kubernetes at {}",
            self.base.origin().ascii_serialization()
        )
    }
}

impl Answer {
    /// Whether the same request may do better later.
    fn is_passing(&self) -> bool {
        matches!(self.status, 401 | 429 | 500..)
    }

    /// The API's own words.
    pub(crate) fn message(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Status {
            message: String,
        }
        serde_json::from_slice::<Status>(&self.body).map_or_else(
            |_| "no word why".to_owned(),
            |status| crate::lines::printable(status.message.as_bytes()),
        )
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Kubernetes could not be asked, or did not do it.
pub(crate) fn failed(message: String) -> Failure {
    Failure::new(Kind::Unavailable, Class::Config, "kubernetes", message)
}

fn unusable(path: &Path, what: &str) -> Failure {
    Failure::config(format!("`{}` {what}", path.display())).with_hint(
        "run as a pod whose service account is mounted, or give `--kubernetes-credentials DIR` with the files `token` \
         and `ca.crt`",
    )
}
