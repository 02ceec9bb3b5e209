//! The hand-over of the older Tasks: a Secret with the token and a ConfigMap with the VM config's name, for Pipelines with
//! steps of their own that read them. Only where `--hand-over kubernetes` asks for it.
//!
//! `init` claims both before anything exists on the cluster: it makes them empty, under the hashes of its run and its TaskRun,
//! and asks whether it may do with them what is to be done later, so that missing rights and others that use the same names
//! show while nothing has to be undone. It fills them when the VM config is handed over. `teardown` revokes the token, where
//! that is safe, and deletes both. What bears another hash is left alone, unless its PipelineRun is over. The PipelineRun owns
//! both, so that Kubernetes deletes them with it where no `teardown` ran.
//!
//! What it needs is a Role with `create` on Secrets and ConfigMaps, `get`, `patch` and `delete` on the two names, and `get` on
//! PipelineRuns to know that one is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::cli::{HandOverArgs, HandOverBy};
use crate::config::Environment;
use crate::failure::{Class, Failure, Kind};
use crate::identity::Identity;
use crate::kubernetes::{Answer, Api, Body, failed};
use crate::mask::Masker;

/// Whose an object is: the run's hash, as in the names of its VMs.
const RUN_LABEL: &str = "orka-step/run";

/// Which TaskRun of the run has made it: the same when a pod is tried again, another for another `orka-init`.
const TASK_LABEL: &str = "orka-step/task";

/// Which process has made it, so that one whose answer was lost is known again.
const CLAIM_ANNOTATION: &str = "orka-step/claim";

/// Where the token is from.
const TOKEN_ANNOTATION: &str = "orka-step/token";

/// A login got the token for the run: nobody else has it, unless the cluster shares tokens.
const FROM_LOGIN: &str = "login";

/// The run was given the token, and so may others be.
const GIVEN: &str = "given";

/// Hex digits of the TaskRun's hash: a label's value may have 63 characters.
const TASK_DIGITS: usize = 16;

/// How often an object that goes while it is looked at is made anew.
const ATTEMPTS: u32 = 4;

/// Pause after the first failure of a request; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// What is known of an object that this process may have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Hold {
    /// Nothing was asked for.
    #[default]
    Nothing,
    /// It was asked for, and may be there.
    Asked,
    /// It is there and ours, with this UID.
    Held(String),
}

/// One of the two objects.
#[derive(Debug)]
struct Object {
    kind: &'static str,
    /// The kind as URLs and Roles have it.
    resource: &'static str,
    name: String,
    key: String,
    /// The Task's parameter that names it.
    parameter: &'static str,
    hold: Mutex<Hold>,
}

impl Object {
    fn hold(&self) -> Hold {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        hold.clone()
    }

    fn keep(&self, hold: Hold) {
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = hold;
    }

    /// As `kubectl` takes it.
    fn shown(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }
}

/// How far the hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is claimed.
    Idle,
    /// Claimed, or perhaps so.
    Claimed,
    /// Filled, and the VM config left to others: they go by it.
    Published,
    /// Deleted.
    Retracted,
}

/// Whose objects are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those that this process has made, or an earlier pod of the TaskRun.
    Task,
    /// Those of the whole run.
    Run,
}

/// A token in a Secret.
pub(crate) struct Published {
    pub(crate) token: SecretString,
    /// Whether it came from a login of the run.
    pub(crate) from_login: bool,
}

/// An object that may still be there.
pub(crate) struct Left {
    /// As `kubectl` takes it.
    pub(crate) name: String,
    pub(crate) reason: Option<Failure>,
    /// How a person deletes it.
    pub(crate) command: String,
}

/// What became of both objects.
#[derive(Default)]
pub(crate) struct Retracted {
    pub(crate) deleted: Vec<String>,
    pub(crate) left: Vec<Left>,
}

/// Keeps the two objects of one run.
#[derive(Debug)]
pub struct HandOver {
    api: Api,
    client: OnceCell<reqwest::Client>,
    masker: Masker,
    namespace: String,
    run: String,
    task: Option<String>,
    /// This process.
    claim: String,
    owner: Value,
    token: Object,
    config: Object,
    progress: Mutex<Progress>,
    purge_asked: AtomicBool,
}

impl HandOver {
    /// From flags; none unless they ask for it.
    ///
    /// # Errors
    ///
    /// No Kubernetes API, a run without a PipelineRun, or a name or key that is none.
    pub(crate) fn resolve(
        args: &HandOverArgs,
        run_uid: Option<&str>,
        identity: &Identity,
        environment: &Environment,
        masker: &Masker,
    ) -> Result<Option<Self>, Failure> {
        if args.hand_over == HandOverBy::Run {
            return Ok(None);
        }
        let name = args.run_name.as_deref().filter(|name| !name.is_empty());
        let Some((uid, name)) = run_uid.zip(name) else {
            return Err(Failure::config(
                "`--hand-over kubernetes` needs a PipelineRun, its UID and its name: without one nobody owns the Secret, and \
                 nobody could tell whose it is",
            )
            .with_hint(
                "a TaskRun by itself has nobody to hand over to: leave the parameter `hand-over` out; in a Pipeline the Tasks \
                 give `--run-uid` (`ORKA_RUN_UID`) and `--run-name` (`ORKA_RUN_NAME`) by the pod's labels",
            ));
        };
        let api = Api::resolve(
            args.kubernetes_api.as_deref(),
            args.kubernetes_credentials.as_deref(),
            environment,
        )?;
        Ok(Some(Self {
            namespace: api.namespace()?,
            api,
            client: OnceCell::new(),
            masker: masker.clone(),
            run: identity.run_hash().to_owned(),
            task: identity
                .task_hash()
                .map(|hash| hash.chars().take(TASK_DIGITS).collect()),
            claim: hex::encode(rand::random::<[u8; 8]>()),
            owner: json!([{ "apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": name, "uid": uid }]),
            token: object(
                ("Secret", "secrets"),
                (&args.token_secret, &args.token_secret_key),
                ("orka-token-secret", "orka-token-secret-key"),
            )?,
            config: object(
                ("ConfigMap", "configmaps"),
                (&args.vm_name_config, &args.vm_name_config_key),
                ("orka-vm-name-config", "orka-vm-name-config-key"),
            )?,
            progress: Mutex::new(Progress::Idle),
            purge_asked: AtomicBool::new(false),
        }))
    }

    /// Whether others go by the token.
    pub(crate) fn is_published(&self) -> bool {
        self.progress() == Progress::Published
    }

    /// What is still to be deleted when the run ends, which has failed or not.
    pub(crate) fn owed(&self, purges_runs: bool, has_failed: bool) -> Option<Whose> {
        let is_asked = self.purge_asked.load(Ordering::Relaxed);
        match self.progress() {
            Progress::Retracted => None,
            _ if is_asked => Some(Whose::Run),
            Progress::Claimed => Some(Whose::Task),
            // A teardown that did not come as far as its purge.
            Progress::Idle if purges_runs && has_failed => Some(Whose::Run),
            Progress::Idle | Progress::Published => None,
        }
    }

    /// What holds the token, for the log.
    pub(crate) fn shown(&self) -> String {
        format!("the Secret `{}`", self.token.name)
    }

    fn objects(&self) -> [&Object; 2] {
        [&self.token, &self.config]
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Makes both objects, empty, or takes up those that an earlier pod of the TaskRun has made. Tokens of runs that are over
    /// are added to `stale`, whether or not this succeeds.
    ///
    /// # Errors
    ///
    /// Missing rights, or an object of the same name that is another's.
    pub(crate) async fn claim(&self, stale: &mut Vec<Published>) -> Result<(), Failure> {
        for object in self.objects() {
            self.claim_one(object, stale).await?;
        }
        // All that is to be asked for later: nothing is on the cluster yet.
        for object in self.objects() {
            self.try_rights(object).await?;
        }
        Ok(())
    }

    async fn claim_one(&self, object: &Object, stale: &mut Vec<Published>) -> Result<(), Failure> {
        let mut labels =
            json!({ "app.kubernetes.io/managed-by": "orka-step", RUN_LABEL: self.run });
        if let Some(task) = &self.task {
            labels[TASK_LABEL] = json!(task);
        }
        let wanted = json!({
            "apiVersion": "v1",
            "kind": object.kind,
            "metadata": {
                "name": object.name,
                "labels": labels,
                "annotations": { CLAIM_ANNOTATION: self.claim },
                "ownerReferences": self.owner,
            },
        });
        let path = self.path(object, false);
        for _ in 0..ATTEMPTS {
            // From here on there is something to give back, also if no answer comes.
            object.keep(Hold::Asked);
            self.reach(Progress::Claimed);
            let made = self
                .ask(Method::POST, &path, None, Body::Json(&wanted))
                .await?;
            match made.status {
                200..=202 => {
                    let made = self.read(object, &made)?;
                    object.keep(Hold::Held(uid(&made)));
                    return Ok(());
                }
                409 => {}
                _ => {
                    object.keep(Hold::Nothing);
                    return Err(self.refused("create", object, &made));
                }
            }
            // Somebody has made it; as far as nobody tells who, it is not ours.
            object.keep(Hold::Nothing);
            let Some(found) = self.found(object).await? else {
                continue;
            };
            // By a request of ours whose answer was lost, or by an earlier pod.
            if self.is_of_task(&found) {
                object.keep(Hold::Held(uid(&found)));
                return Ok(());
            }
            self.may_take(object, &found).await?;
            stale.extend(self.token_in(object, &found));
            self.delete_found(object, &uid(&found)).await?;
        }
        object.keep(Hold::Nothing);
        Err(self.taken(object, "which others make and delete just now", None))
    }

    /// Whether the object's run is over, so that nobody goes by it any more.
    async fn may_take(&self, object: &Object, found: &Value) -> Result<(), Failure> {
        let label = |label: &str| found["metadata"]["labels"][label].as_str();
        let Some(run) = label(RUN_LABEL) else {
            return Err(self.taken(object, "and no run of this program has made it", None));
        };
        if run == self.run {
            return Err(self
                .taken(object, "of another Task of this run", None)
                .with_hint(format!(
                    "give each `orka-init` of a Pipeline an `{}` of its own",
                    object.parameter
                )));
        }
        let whose = format!(
            "of another run (`{}` in the names of its VMs)",
            crate::lines::printable(run.as_bytes())
        );
        match self.is_over(found).await? {
            Over::Yes => Ok(()),
            Over::No => Err(self.taken(object, &whose, None)),
            Over::Unknown(why) => Err(self.taken(object, &whose, Some(why))),
        }
    }

    /// Whether the PipelineRun that owns the object has ended or is gone. Only what Tekton says in so many words counts.
    async fn is_over(&self, found: &Value) -> Result<Over, Failure> {
        let owners = found["metadata"]["ownerReferences"].as_array();
        let owner = owners.into_iter().flatten().find(|owner| {
            let version = owner["apiVersion"].as_str().unwrap_or_default();
            version.starts_with("tekton.dev/") && owner["kind"] == "PipelineRun"
        });
        let named = owner.and_then(|owner| Some((owner["name"].as_str()?, owner["uid"].as_str()?)));
        let Some((name, uid)) = named else {
            return Ok(Over::Unknown("no PipelineRun owns it"));
        };
        let path = [
            "apis",
            "tekton.dev",
            "v1",
            "namespaces",
            &self.namespace,
            "pipelineruns",
            name,
        ];
        let answer = self.ask(Method::GET, &path, None, Body::Nothing).await?;
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(match answer.status {
            200 if told["metadata"]["uid"] != uid => Over::Yes,
            200 if told["status"]["completionTime"].is_string() => Over::Yes,
            200 => Over::No,
            // And not that Tekton is gone, or does not serve this version.
            404 if told["details"]["kind"] == "pipelineruns" && told["details"]["name"] == name => {
                Over::Yes
            }
            403 => Over::Unknown(
                "with the verb `get` on `pipelineruns.tekton.dev` in its Role, this Task takes over what a run has left that is \
                 over; `tekton/overlays/hand-over` has it",
            ),
            _ => Over::Unknown("Tekton does not tell whether its run is over"),
        })
    }

    /// Tries what is asked for later, without doing it.
    async fn try_rights(&self, object: &Object) -> Result<(), Failure> {
        let Hold::Held(uid) = object.hold() else {
            return Ok(());
        };
        self.found(object).await?;
        let path = self.path(object, true);
        let patch = json!({ "metadata": { "uid": uid } });
        let body = Body::MergePatch(&patch);
        let answer = self
            .ask(Method::PATCH, &path, Some("dryRun=All"), body)
            .await?;
        if answer.status != 200 {
            return Err(self.refused("patch", object, &answer));
        }
        // In the body: with one, Kubernetes does not look at the query.
        let options = delete_options(&uid, true);
        let answer = self
            .ask(Method::DELETE, &path, None, Body::Json(&options))
            .await?;
        match answer.status {
            200..=202 => Ok(()),
            _ => Err(self.refused("delete", object, &answer)),
        }
    }

    /// Fills both objects.
    ///
    /// # Errors
    ///
    /// Missing rights, or objects that are gone or another's.
    pub(crate) async fn fill(
        &self,
        token: &SecretString,
        from_login: bool,
        config: &str,
    ) -> Result<(), Failure> {
        let token = token.expose_secret();
        self.masker.add(token);
        let from = if from_login { FROM_LOGIN } else { GIVEN };
        let annotations = json!({ TOKEN_ANNOTATION: from });
        self.fill_one(&self.token, &STANDARD.encode(token), &annotations)
            .await?;
        self.fill_one(&self.config, config, &json!({})).await
    }

    async fn fill_one(
        &self,
        object: &Object,
        value: &str,
        annotations: &Value,
    ) -> Result<(), Failure> {
        let Hold::Held(uid) = object.hold() else {
            return Err(Failure::internal(format!(
                "{} is filled and was never claimed",
                object.shown()
            )));
        };
        // With the UID, so that it is the one that was claimed and no other that has taken its name since.
        let patch = json!({
            "metadata": { "uid": uid, "annotations": annotations },
            "data": { &object.key: value },
        });
        let path = self.path(object, true);
        let answer = self
            .ask(Method::PATCH, &path, None, Body::MergePatch(&patch))
            .await?;
        match answer.status {
            200 => Ok(()),
            _ => Err(self.refused("patch", object, &answer)),
        }
    }

    /// From here on others go by both, and nothing of them is given back before the run is purged.
    pub(crate) fn publish(&self) {
        self.reach(Progress::Published);
    }

    /// Whether both are claimed.
    pub(crate) fn is_claimed(&self) -> bool {
        self.objects()
            .iter()
            .all(|object| matches!(object.hold(), Hold::Held(_)))
    }

    /// The token that was published before.
    ///
    /// # Errors
    ///
    /// Missing rights.
    pub(crate) async fn published_token(&self, whose: Whose) -> Result<Option<Published>, Failure> {
        let secret = self.found(&self.token).await?;
        let secret = secret.filter(|secret| self.is_of(whose, secret));
        Ok(secret.and_then(|secret| self.token_in(&self.token, &secret)))
    }

    fn token_in(&self, object: &Object, found: &Value) -> Option<Published> {
        if object.kind != self.token.kind {
            return None;
        }
        let encoded = found["data"][&object.key].as_str()?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let token = String::from_utf8(bytes).ok()?;
        self.masker.add(&token);
        Some(Published {
            token: SecretString::from(token),
            from_login: found["metadata"]["annotations"][TOKEN_ANNOTATION] == FROM_LOGIN,
        })
    }

    /// Notes that everything of the run is to go: what is not deleted then is when the run ends.
    pub(crate) fn ask_purge(&self) {
        self.purge_asked.store(true, Ordering::Relaxed);
    }

    /// Deletes what of both is this run's or Task's, and says what was deleted and what was not. Both are tried.
    pub(crate) async fn retract(&self, whose: Whose) -> Retracted {
        let mut retracted = Retracted::default();
        for object in self.objects() {
            match self.delete(object, whose).await {
                Ok(true) => retracted
                    .deleted
                    .push(format!("{} `{}`", object.kind, object.name)),
                Ok(false) => {}
                Err(failure) => retracted.left.push(self.left(object, Some(failure))),
            }
        }
        if retracted.left.is_empty() {
            self.reach(Progress::Retracted);
        }
        retracted
    }

    /// What may be there where Kubernetes does not answer.
    pub(crate) fn all_left(&self, whose: Whose) -> Vec<Left> {
        let objects = self.objects().into_iter();
        objects
            .filter(|object| whose == Whose::Run || object.hold() != Hold::Nothing)
            .map(|object| self.left(object, None))
            .collect()
    }

    fn left(&self, object: &Object, reason: Option<Failure>) -> Left {
        Left {
            name: object.shown(),
            reason,
            command: self.removal_command(object),
        }
    }

    fn removal_command(&self, object: &Object) -> String {
        let namespace = &self.namespace;
        format!("kubectl --namespace {namespace} delete {}", object.shown())
    }

    async fn delete(&self, object: &Object, whose: Whose) -> Result<bool, Failure> {
        let held = match object.hold() {
            Hold::Nothing if whose == Whose::Task => return Ok(false),
            Hold::Held(uid) => Some(uid),
            Hold::Nothing | Hold::Asked => {
                let found = self.found(object).await?;
                found
                    .filter(|found| self.is_of(whose, found))
                    .map(|found| uid(&found))
            }
        };
        let deleted = match held {
            Some(uid) => self.delete_found(object, &uid).await?,
            None => false,
        };
        object.keep(Hold::Nothing);
        Ok(deleted)
    }

    /// Deletes the one that was looked at, and no other that has taken its name since.
    async fn delete_found(&self, object: &Object, uid: &str) -> Result<bool, Failure> {
        let options = delete_options(uid, false);
        let path = self.path(object, true);
        let answer = self
            .ask(Method::DELETE, &path, None, Body::Json(&options))
            .await?;
        match answer.status {
            200..=202 => Ok(true),
            404 | 409 => Ok(false),
            _ => Err(self.refused("delete", object, &answer)),
        }
    }

    fn is_of(&self, whose: Whose, object: &Value) -> bool {
        match whose {
            Whose::Run => object["metadata"]["labels"][RUN_LABEL] == self.run,
            Whose::Task => self.is_of_task(object),
        }
    }

    fn is_of_task(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let task = metadata["labels"][TASK_LABEL].as_str();
        let is_of_task = task.is_some() && task == self.task.as_deref();
        let is_of_process = metadata["annotations"][CLAIM_ANNOTATION] == self.claim;
        metadata["labels"][RUN_LABEL] == self.run && (is_of_task || is_of_process)
    }

    async fn found(&self, object: &Object) -> Result<Option<Value>, Failure> {
        let path = self.path(object, true);
        let answer = self.ask(Method::GET, &path, None, Body::Nothing).await?;
        match answer.status {
            200 => self.read(object, &answer).map(Some),
            404 => Ok(None),
            _ => Err(self.refused("get", object, &answer)),
        }
    }

    fn read(&self, object: &Object, answer: &Answer) -> Result<Value, Failure> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            failed(format!(
                "the {} `{}` cannot be read",
                object.kind, object.name
            ))
            .with_source(error)
        })
    }

    fn path<'a>(&'a self, object: &'a Object, named: bool) -> Vec<&'a str> {
        let mut path = vec!["api", "v1", "namespaces", &self.namespace, object.resource];
        path.extend(named.then_some(object.name.as_str()));
        path
    }

    /// One answer that is not worth asking for again.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Body<'_>,
    ) -> Result<Answer, Failure> {
        let client = self.client.get_or_try_init(|| self.api.client()).await?;
        let mut url = self.api.url(path.iter().copied());
        url.set_query(query);
        self.api.ask(client, method, url, body, PAUSE_FIRST).await
    }

    fn taken(&self, object: &Object, whose: &str, more: Option<&str>) -> Failure {
        let (kind, name) = (object.kind, &object.name);
        let more = more.map_or_else(String::new, |more| format!("; {more}"));
        Failure::new(
            Kind::Conflict,
            Class::Config,
            "hand-over.taken",
            format!("there is a {kind} `{name}` already, {whose}; nothing was made"),
        )
        .with_hint(format!(
            "give `{}` a name for each run, such as `{name}-$(context.pipelineRun.name)`; once its run is over, delete it \
             with `{}`{more}",
            object.parameter,
            self.removal_command(object),
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
            // Which of the two it is for another UID depends on the version.
            409 | 422 => failure
                .with_hint("somebody has put another of this name in its place while this run went on"),
            _ => failure,
        }
    }
}

/// Whether a run is over.
enum Over {
    Yes,
    No,
    /// Nobody tells; why.
    Unknown(&'static str),
}

fn object(
    (kind, resource): (&'static str, &'static str),
    (name, key): (&str, &str),
    (parameter, key_parameter): (&'static str, &'static str),
) -> Result<Object, Failure> {
    let wrong = |parameter: &str, value: &str, what: &str| {
        let value = value.escape_debug();
        Failure::config(format!("`{parameter}` is `{value}`, which is no {what}"))
    };
    if !is_name(name) {
        return Err(wrong(parameter, name, &format!("name of a {kind}")));
    }
    if !is_key(key) {
        return Err(wrong(key_parameter, key, &format!("key of a {kind}")));
    }
    Ok(Object {
        kind,
        resource,
        name: name.to_owned(),
        key: key.to_owned(),
        parameter,
        hold: Mutex::default(),
    })
}

fn uid(object: &Value) -> String {
    let uid = object["metadata"]["uid"].as_str();
    uid.unwrap_or_default().to_owned()
}

fn delete_options(uid: &str, dry_run: bool) -> Value {
    let mut options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": { "uid": uid },
    });
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// Whether Kubernetes takes it as a key of such objects' data.
fn is_key(text: &str) -> bool {
    let is_inner =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    (1..=253).contains(&text.len())
        && text.chars().all(is_inner)
        && text != "."
        && !text.starts_with("..")
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
