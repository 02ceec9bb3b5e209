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
use std::time::Duration;

use reqwest::Method;
use url::Url;

use super::live::{List, Live};
use crate::cli::ReapArgs;
use crate::config::Environment;
use crate::failure::Failure;
use crate::kubernetes::{Answer, Api, Body, failed};

/// Objects a page. `kubectl` asks for as many; a page is then a few MB.
const PAGE_OBJECTS: u32 = 500;

/// 500 000 objects: more than the largest cluster that Kubernetes supports. Keeps a server that never ends from keeping
/// us for ever.
const PAGES_MAX: u32 = 1000;

/// How often a whole list is begun anew because its continuation has expired (410 Gone).
const ATTEMPTS: u32 = 4;

/// Pause after the first failure of a request; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// What is asked of the API.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    api: Api,
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
        let api = Api::resolve(
            args.kubernetes_api.as_deref(),
            args.kubernetes_credentials.as_deref(),
            environment,
        );
        Ok(Self {
            api: api?,
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
        let client = self.api.client().await.map_err(undone)?;
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
        let mut url = self.api.url(path.iter().map(String::as_str));
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
        let answer = self
            .api
            .ask(client, Method::GET, url, Body::Nothing, PAUSE_FIRST)
            .await
            .map_err(undone)?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(|error| {
                    unknown(format!("the list of {} cannot be read", shown(path)))
                        .with_source(error)
                }),
            410 if is_continued => Ok(None),
            _ => Err(refused(path, &answer)),
        }
    }
}

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.api.fmt(f)?;
        if self.namespaces.is_empty() {
            return Ok(());
        }
        write!(f, " (namespaces {})", self.namespaces.join(", "))
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
    undone(failed(message))
}

/// Says what did not follow from it.
fn undone(mut failure: Failure) -> Failure {
    failure.message.push_str("; nothing was deleted");
    failure
}

/// An answer that is no list, in the API's own words.
fn refused(path: &[String], answer: &Answer) -> Failure {
    let status = answer.status;
    let failure = unknown(format!(
        "Kubernetes refused to list {} with {status}: {}",
        shown(path),
        answer.message()
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
