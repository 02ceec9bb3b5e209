//! The hand-over of the older Tasks: a Secret with the token and a ConfigMap with the VM config's name, for Pipelines with
//! steps of their own that read them. Only where `--hand-over kubernetes` asks for it.
//!
//! `init` claims both before anything exists on the cluster: it makes them empty, under the run's hash, so that missing rights
//! and another run that uses the same names show while nothing has to be undone. It fills them when the VM config is handed
//! over. `teardown` revokes the token, where that is safe, and deletes both. What bears another run's hash is left alone. The
//! PipelineRun owns both, so that Kubernetes deletes them with it where no `teardown` ran.
//!
//! What it needs is a Role with `create` on Secrets and ConfigMaps, and `get`, `patch` and `delete` on the two names.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::cli::{HandOverArgs, HandOverBy};
use crate::config::Environment;
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::identity::Identity;
use crate::kubernetes::{Answer, Api, Body, failed};

/// Whose an object is: the run's hash, as in the names of its VMs.
const RUN_LABEL: &str = "orka-step/run";

/// How often a request is made.
const ATTEMPTS: u32 = 4;

/// Pause after the first failure; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// No pause is longer, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One of the two objects.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    kind: &'static str,
    /// The kind as URLs and Roles have it.
    resource: &'static str,
    name: String,
    key: String,
    /// The Task's parameter that names it.
    parameter: &'static str,
}

/// How far the hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is claimed.
    Idle,
    /// Claimed, or perhaps so.
    Claimed,
    /// Filled: others go by it.
    Published,
}

/// Keeps the two objects of one run.
#[derive(Debug)]
pub struct HandOver {
    api: Api,
    client: OnceCell<reqwest::Client>,
    namespace: String,
    run: String,
    owner: Option<Value>,
    token: Object,
    config: Object,
    progress: Mutex<Progress>,
}

impl HandOver {
    /// From flags; none unless they ask for it.
    ///
    /// # Errors
    ///
    /// No Kubernetes API, a run that nobody could recognise, or a name that is none.
    pub(crate) fn resolve(
        args: &HandOverArgs,
        run_uid: Option<&str>,
        identity: &Identity,
        environment: &Environment,
    ) -> Result<Option<Self>, Failure> {
        if args.hand_over == HandOverBy::Run {
            return Ok(None);
        }
        if !identity.run_is_told() {
            return Err(Failure::config(
                "`--hand-over kubernetes` needs the run's UID: without it nobody could tell whose the Secret is",
            )
            .with_hint("give `--run-uid` (`ORKA_RUN_UID`), as the Tasks do"));
        }
        let object = |kind, resource, name: &str, key: &str, parameter| {
            if !is_name(name) {
                return Err(Failure::config(format!(
                    "`{parameter}` is `{}`, which is no name of a {kind}",
                    name.escape_debug()
                )));
            }
            Ok(Object {
                kind,
                resource,
                name: name.to_owned(),
                key: key.to_owned(),
                parameter,
            })
        };
        let api = Api::resolve(
            args.kubernetes_api.as_deref(),
            args.kubernetes_credentials.as_deref(),
            environment,
        )?;
        let name = args.run_name.as_deref().filter(|name| !name.is_empty());
        Ok(Some(Self {
            namespace: api.namespace()?,
            api,
            client: OnceCell::new(),
            run: identity.run_hash().to_owned(),
            owner: run_uid.zip(name).map(|(uid, name)| {
                json!([{ "apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": name, "uid": uid }])
            }),
            token: object(
                "Secret",
                "secrets",
                &args.token_secret,
                &args.token_secret_key,
                "orka-token-secret",
            )?,
            config: object(
                "ConfigMap",
                "configmaps",
                &args.vm_name_config,
                &args.vm_name_config_key,
                "orka-vm-name-config",
            )?,
            progress: Mutex::new(Progress::Idle),
        }))
    }

    /// Whether others go by the token.
    pub(crate) fn is_published(&self) -> bool {
        self.progress() == Progress::Published
    }

    /// Whether the names are taken and nobody goes by them.
    pub(crate) fn is_only_claimed(&self) -> bool {
        self.progress() == Progress::Claimed
    }

    /// What holds the token, for the log.
    pub(crate) fn shown(&self) -> String {
        format!("the Secret `{}`", self.token.name)
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Makes both objects, empty, or takes up those that an earlier pod of the run has made.
    ///
    /// # Errors
    ///
    /// Missing rights, or an object of the same name that is not this run's.
    pub(crate) async fn claim(&self) -> Result<(), Failure> {
        for object in [&self.token, &self.config] {
            self.claim_one(object).await?;
        }
        Ok(())
    }

    async fn claim_one(&self, object: &Object) -> Result<(), Failure> {
        let mut metadata = json!({
            "name": object.name,
            "labels": { "app.kubernetes.io/managed-by": "orka-step", RUN_LABEL: self.run },
        });
        if let Some(owner) = &self.owner {
            metadata["ownerReferences"] = owner.clone();
        }
        let wanted = json!({ "apiVersion": "v1", "kind": object.kind, "metadata": metadata });
        // From here on there is something to give back, also if no answer comes.
        self.reach(Progress::Claimed);
        let path = self.path(object, false);
        let made = self.ask(Method::POST, &path, Body::Json(&wanted)).await?;
        match made.status {
            200..=202 => Ok(()),
            // Perhaps by a request of ours whose answer was lost, or by an earlier pod.
            409 => match self.found(object).await? {
                Some(found) if self.is_own(&found) => Ok(()),
                found => Err(self.taken(object, found.as_ref())),
            },
            _ => Err(self.refused("create", object, &made)),
        }
    }

    /// Fills both objects.
    ///
    /// # Errors
    ///
    /// Missing rights, or objects that are gone.
    pub(crate) async fn publish(&self, token: &SecretString, config: &str) -> Result<(), Failure> {
        let encoded = STANDARD.encode(token.expose_secret());
        self.fill(&self.token, &encoded).await?;
        self.fill(&self.config, config).await?;
        self.reach(Progress::Published);
        Ok(())
    }

    async fn fill(&self, object: &Object, value: &str) -> Result<(), Failure> {
        let patch = json!({ "data": { &object.key: value } });
        let path = self.path(object, true);
        let answer = self
            .ask(Method::PATCH, &path, Body::MergePatch(&patch))
            .await?;
        match answer.status {
            200 => Ok(()),
            _ => Err(self.refused("patch", object, &answer)),
        }
    }

    /// The token that an earlier Task of the run published.
    ///
    /// # Errors
    ///
    /// Missing rights.
    pub(crate) async fn published_token(&self) -> Result<Option<SecretString>, Failure> {
        let Some(secret) = self.found(&self.token).await? else {
            return Ok(None);
        };
        let token = secret["data"][&self.token.key]
            .as_str()
            .filter(|_| self.is_own(&secret))
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(token.map(SecretString::from))
    }

    /// Deletes what of both is this run's, and says what was deleted.
    ///
    /// # Errors
    ///
    /// Missing rights. Both are tried.
    pub(crate) async fn retract(&self) -> Result<Vec<String>, Failure> {
        let mut deleted = Vec::new();
        let mut first = None;
        for object in [&self.token, &self.config] {
            match self.delete(object).await {
                Ok(true) => deleted.push(format!("{} `{}`", object.kind, object.name)),
                Ok(false) => {}
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        self.reach(Progress::Idle);
        first.map_or(Ok(deleted), Err)
    }

    async fn delete(&self, object: &Object) -> Result<bool, Failure> {
        let found = self.found(object).await?;
        let Some(found) = found.filter(|found| self.is_own(found)) else {
            return Ok(false);
        };
        // The one that was looked at, and no other that has taken its name since.
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": { "uid": found["metadata"]["uid"] } });
        let path = self.path(object, true);
        let answer = self
            .ask(Method::DELETE, &path, Body::Json(&options))
            .await?;
        match answer.status {
            200..=202 => Ok(true),
            404 | 409 => Ok(false),
            _ => Err(self.refused("delete", object, &answer)),
        }
    }

    /// Says that what was claimed may stay behind.
    pub(crate) fn tell_left(&self, console: &Console, problem: &str) {
        let (secret, config) = (&self.token.name, &self.config.name);
        console.warn(&format!(
            "the Secret `{secret}` and the ConfigMap `{config}` may be left: {problem}\nhint: delete them with `kubectl \
             --namespace {} delete secret/{secret} configmap/{config}`; a later run with these names is refused while they are there",
            self.namespace
        ));
    }

    fn is_own(&self, object: &Value) -> bool {
        object["metadata"]["labels"][RUN_LABEL] == self.run
    }

    async fn found(&self, object: &Object) -> Result<Option<Value>, Failure> {
        let path = self.path(object, true);
        let answer = self.ask(Method::GET, &path, Body::Nothing).await?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(|error| {
                    failed(format!(
                        "the {} `{}` cannot be read",
                        object.kind, object.name
                    ))
                    .with_source(error)
                }),
            404 => Ok(None),
            _ => Err(self.refused("get", object, &answer)),
        }
    }

    fn path<'a>(&'a self, object: &'a Object, named: bool) -> Vec<&'a str> {
        let mut path = vec!["api", "v1", "namespaces", &self.namespace, object.resource];
        path.extend(named.then_some(object.name.as_str()));
        path
    }

    /// One answer that is not worth asking for again.
    async fn ask(&self, method: Method, path: &[&str], body: Body<'_>) -> Result<Answer, Failure> {
        let client = self.client.get_or_try_init(|| self.api.client()).await?;
        let mut pause = PAUSE_FIRST;
        let mut attempt = 1;
        loop {
            let url = self.api.url(path.iter().copied());
            let answer = self.api.exchange(client, method.clone(), url, body).await?;
            match answer {
                Ok(answer) if attempt == ATTEMPTS || !answer.is_passing() => return Ok(answer),
                Ok(answer) => pause = pause.max(answer.retry_after.unwrap_or_default()),
                Err(error) if attempt == ATTEMPTS => return Err(self.api.unreachable(error)),
                Err(_) => {}
            }
            sleep(pause.min(PAUSE_MAX)).await;
            pause *= 2;
            attempt += 1;
        }
    }

    fn taken(&self, object: &Object, found: Option<&Value>) -> Failure {
        let (kind, name) = (object.kind, &object.name);
        let whose = found
            .and_then(|found| found["metadata"]["labels"][RUN_LABEL].as_str())
            .map_or_else(
                || "and no run of this program has made it".to_owned(),
                |run| {
                    let run = crate::lines::printable(run.as_bytes());
                    format!("of another run (`{run}` in the names of its VMs)")
                },
            );
        Failure::new(
            Kind::Conflict,
            Class::Config,
            "hand-over.taken",
            format!("there is a {kind} `{name}` already, {whose}; nothing was made"),
        )
        .with_hint(format!(
            "give `{}` a name for each run, such as `{name}-$(context.pipelineRun.name)`; once its run is over, delete it \
             with `kubectl --namespace {} delete {}/{name}`",
            object.parameter,
            self.namespace,
            kind.to_lowercase()
        ))
    }

    fn refused(&self, verb: &str, object: &Object, answer: &Answer) -> Failure {
        let (kind, name, resource) = (object.kind, &object.name, object.resource);
        let failure = failed(format!(
            "Kubernetes refused to {verb} the {kind} `{name}` with {}: {}",
            answer.status,
            answer.message()
        ));
        match answer.status {
            401 => {
                failure.with_hint("the token is not accepted: look at the pod's service account")
            }
            403 => failure.with_hint(format!(
                "give the pod's service account a Role in `{}` with the verb `{verb}` on `{resource}`; \
                 `tekton/overlays/hand-over` has one",
                self.namespace
            )),
            404 => failure.with_hint("somebody has deleted it while this run went on"),
            _ => failure,
        }
    }
}

/// Whether Kubernetes takes it as a name of such objects: a DNS subdomain.
fn is_name(text: &str) -> bool {
    let is_inner = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.')
    };
    let is_end = |letter: Option<char>| letter.is_some_and(|it| it.is_ascii_alphanumeric());
    text.len() <= 253
        && text.chars().all(is_inner)
        && is_end(text.chars().next())
        && is_end(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for good in ["orka-token", "a", "a.b-2", &"x".repeat(253)] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a/b",
            "../x",
            "é",
            &"x".repeat(254),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
