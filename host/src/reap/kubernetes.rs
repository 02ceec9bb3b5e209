//! Live pods from the Kubernetes API, with the rights of the pod's own service account.
//!
//! All pods of all namespaces, or of those that were named, ended ones included: an API that tells of no pod is then
//! known to be wrong. Lists come in pages; a page that cannot be had makes the whole list unusable, since a pod that is
//! missing from it would look dead.
//!
//! What the service account needs is the verb `list` on `pods` (core API group), cluster-wide or in the named
//! namespaces, and with `--tekton-runs` on `pipelineruns` and `taskruns` (`tekton.dev`). Nothing is ever written there.
//!
//! Kubernetes API reference, "Pod v1 core", and API concepts, "Retrieving large results sets in chunks".

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::redirect;
use tokio::time::sleep;
use url::Url;

use super::live::{List, Live};
use crate::cli::ReapArgs;
use crate::config::Environment;
use crate::failure::{Class, Failure, Kind};

/// Where Kubernetes mounts what a pod needs to talk to the API: the files `token` and `ca.crt`.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Objects a page. `kubectl` asks for as many; a page is then a few MB.
const PAGE_OBJECTS: u32 = 500;

/// A page is far smaller; what is larger is something else.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// 500 000 objects: more than the largest cluster that Kubernetes supports. Keeps a server that never ends from keeping
/// us for ever.
const PAGES_MAX: u32 = 1000;

/// Connecting, and one page.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a page is asked for, and a whole list is begun anew because its continuation has expired (410 Gone).
const ATTEMPTS: u32 = 4;

/// Pause after the first failure; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// No pause is longer, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How to reach the API.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    base: Url,
    credentials: PathBuf,
    namespaces: Vec<String>,
    tekton_runs: bool,
}

impl Kubernetes {
    /// From flags, and from what Kubernetes puts into a pod's environment.
    ///
    /// # Errors
    ///
    /// No address to be found, or one that would send the token in the clear.
    pub(super) fn resolve(args: &ReapArgs, environment: &Environment) -> Result<Self, Failure> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let address = match (
            &args.kubernetes_api,
            variable("KUBERNETES_SERVICE_HOST"),
            variable("KUBERNETES_SERVICE_PORT"),
        ) {
            (Some(url), ..) => url.clone(),
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
                    "give `--kubernetes-api URL`, or the pods themselves with `--live-pods FILE`",
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
        Ok(Self {
            base,
            credentials: args
                .kubernetes_credentials
                .clone()
                .unwrap_or_else(|| PathBuf::from(CREDENTIALS)),
            namespaces: args.pod_namespaces.clone(),
            tekton_runs: args.tekton_runs,
        })
    }

    /// Who is alive right now.
    ///
    /// # Errors
    ///
    /// Whatever keeps the answer from being certainly whole.
    pub(super) async fn live(&self) -> Result<Live, Failure> {
        let client = self.client().await?;
        let mut live = Live {
            knows_runs: true,
            is_newer_than_listing: true,
            ..Live::default()
        };
        for path in self.paths() {
            for page in self.pages(&client, &path).await? {
                live.add(page)?;
            }
        }
        Ok(live)
    }

    /// What is listed, one path a kind and namespace.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut kinds: Vec<(&[&str], &str)> = vec![(&["api", "v1"], "pods")];
        if self.tekton_runs {
            let tekton: &[&str] = &["apis", "tekton.dev", "v1"];
            kinds.extend([(tekton, "pipelineruns"), (tekton, "taskruns")]);
        }
        let namespaces: Vec<Vec<&str>> = if self.namespaces.is_empty() {
            vec![Vec::new()]
        } else {
            self.namespaces
                .iter()
                .map(|namespace| vec!["namespaces", namespace.as_str()])
                .collect()
        };
        let mut paths = Vec::new();
        for (group, kind) in kinds {
            for namespace in &namespaces {
                let segments = group.iter().chain(namespace).chain([&kind]);
                paths.push(segments.map(|&segment| segment.to_owned()).collect());
            }
        }
        paths
    }

    async fn client(&self) -> Result<reqwest::Client, Failure> {
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PAGE_TIMEOUT)
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

    /// All pages of one list, from the first to the last.
    async fn pages(&self, client: &reqwest::Client, path: &[String]) -> Result<Vec<List>, Failure> {
        for _ in 0..ATTEMPTS {
            match self.pages_once(client, path).await? {
                Some(pages) => return Ok(pages),
                None => tracing::debug!(path = path.join("/"), "the list has expired; once more"),
            }
        }
        Err(unknown(format!(
            "the list of {} expired {ATTEMPTS} times before its last page",
            shown(path)
        )))
    }

    /// All pages, or none if the continuation has expired: then the rest would be of another moment than the start.
    async fn pages_once(
        &self,
        client: &reqwest::Client,
        path: &[String],
    ) -> Result<Option<Vec<List>>, Failure> {
        let mut pages = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let url = self.url(path, next.as_deref());
            let Some(page) = self.page(client, url, path, next.is_some()).await? else {
                return Ok(None);
            };
            let token = page.metadata.r#continue.clone();
            let has_more = page.metadata.has_more();
            pages.push(page);
            next = token.filter(|token| !token.is_empty());
            match (has_more, &next) {
                (false, _) => return Ok(Some(pages)),
                (true, Some(_)) => {}
                (true, None) => {
                    return Err(unknown(format!(
                        "the list of {} says that there is more, but not where",
                        shown(path)
                    )));
                }
            }
        }
        Err(unknown(format!("the list of {} never ends", shown(path))))
    }

    fn url(&self, path: &[String], next: Option<&str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", &PAGE_OBJECTS.to_string());
        if let Some(next) = next {
            query.append_pair("continue", next);
        }
        drop(query);
        url
    }

    /// One page; none if the continuation has expired.
    async fn page(
        &self,
        client: &reqwest::Client,
        url: Url,
        path: &[String],
        is_continued: bool,
    ) -> Result<Option<List>, Failure> {
        let mut pause = PAUSE_FIRST;
        let mut attempt = 1;
        loop {
            let failure = match self.exchange(client, url.clone()).await? {
                Ok((200, _, body)) => {
                    return serde_json::from_slice(&body).map(Some).map_err(|error| {
                        unknown(format!("the list of {} cannot be read", shown(path)))
                            .with_source(error)
                    });
                }
                Ok((410, ..)) if is_continued => return Ok(None),
                Ok((status, retry_after, body)) => {
                    let failure = refused(path, status, &body);
                    if !matches!(status, 401 | 429 | 500..) {
                        return Err(failure);
                    }
                    pause = pause.max(retry_after.unwrap_or_default());
                    failure
                }
                Err(error) => unknown(format!(
                    "Kubernetes at {} did not answer",
                    self.base.origin().ascii_serialization()
                ))
                .with_source(error.without_url()),
            };
            if attempt >= ATTEMPTS {
                return Err(failure);
            }
            tracing::debug!(path = path.join("/"), attempt, error = %failure, "kubernetes.repeat");
            sleep(pause.min(PAUSE_MAX)).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// Status, `Retry-After` and body of one request. The token is read anew for each: Kubernetes replaces it.
    async fn exchange(
        &self,
        client: &reqwest::Client,
        url: Url,
    ) -> Result<reqwest::Result<(u16, Option<Duration>, Vec<u8>)>, Failure> {
        let mut request = client.get(url).header(ACCEPT, "application/json");
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
                Ok(Some(chunk)) if body.len() + chunk.len() <= PAGE_BYTES_MAX => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Err(unknown("a page is larger than 64 MiB".to_owned())),
                Ok(None) => return Ok(Ok((status, retry_after, body))),
                Err(error) => return Ok(Err(error)),
            }
        }
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

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Kubernetes at {}",
            self.base.origin().ascii_serialization()
        )?;
        if self.namespaces.is_empty() {
            return Ok(());
        }
        write!(f, " (namespaces {})", self.namespaces.join(", "))
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

fn shown(path: &[String]) -> String {
    match path {
        [.., word, namespace, kind] if word == "namespaces" => {
            format!("`{kind}` in the namespace `{namespace}`")
        }
        [.., kind] => format!("`{kind}` in all namespaces"),
        [] => String::new(),
    }
}

/// Who is alive cannot be known now.
fn unknown(message: String) -> Failure {
    Failure::new(
        Kind::Unavailable,
        Class::Config,
        "kubernetes",
        format!("{message}; nothing was deleted"),
    )
}

fn unusable(path: &Path, what: &str) -> Failure {
    Failure::config(format!("`{}` {what}; nothing was deleted", path.display())).with_hint(
        "run as a pod whose service account is mounted, or give `--kubernetes-credentials DIR` with the files `token` \
         and `ca.crt`",
    )
}

/// An answer that is no list, in the API's own words.
fn refused(path: &[String], status: u16, body: &[u8]) -> Failure {
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    let said = serde_json::from_slice::<Status>(body).map_or_else(
        |_| "no word why".to_owned(),
        |status| crate::lines::printable(status.message.as_bytes()),
    );
    let failure = unknown(format!(
        "Kubernetes refused to list {} with {status}: {said}",
        shown(path)
    ));
    match status {
        401 => failure.with_hint("the token is not accepted: look at the pod's service account"),
        403 => failure.with_hint(
            "give the pod's service account a ClusterRole with the verb `list` on these, or name the namespaces in \
             which it has a Role with `--pod-namespace`",
        ),
        404 => failure.with_hint("is this the Kubernetes API, and Tekton of v0.44 or later where its runs are asked for?"),
        _ => failure,
    }
}
