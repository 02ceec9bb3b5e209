//! A small Kubernetes API: lists of pods and of Tekton's runs in pages, by the documented shapes of both APIs, and Secrets and
//! ConfigMaps one at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The bearer token that the API takes.
const TOKEN: &str = "kubernetes-token";

/// What one pipeline run is asked for by.
const PIPELINE_RUN: &str = "/apis/tekton.dev/v1/namespaces/ci/pipelineruns/";

/// Objects a page, fewer than a client asks for: a server may give fewer.
const PAGE: usize = 100;

/// How one request goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// A `Status` with this code.
    Status(u16),
    /// The connection is closed without an answer.
    Close,
    /// Half of the answer.
    Half,
    /// A page that says that there is more, without saying where.
    NoToken,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    pods: Vec<Value>,
    pipeline_runs: Vec<Value>,
    /// What happens to the next requests, in order; none is an answer.
    script: VecDeque<Option<Refusal>>,
    always: Option<Refusal>,
    before_next: Option<Hook>,
    before: Option<(String, Hook)>,
    requests: Vec<String>,
    /// By resource and name: `secrets/orka-token`.
    objects: BTreeMap<String, Value>,
    /// What no service account may do: `create secrets`.
    forbidden: BTreeSet<String>,
    made: u32,
    rights: BTreeSet<String>,
}

/// The API, with credentials for it.
pub struct Kubernetes {
    state: Arc<Mutex<State>>,
    url: String,
    credentials: TempDir,
    server: JoinHandle<()>,
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Kubernetes {
    /// By http, as `kubectl proxy` serves it; it takes the token all the same.
    pub async fn start() -> Self {
        Self::with(None, String::new()).await
    }

    /// By https, with a certificate that only the cluster's own authority vouches for.
    pub async fn with_tls() -> Self {
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        Self::with(Some(TlsAcceptor::from(Arc::new(config))), certificate.pem()).await
    }

    async fn with(tls: Option<TlsAcceptor>, authority: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join("token"), format!("{TOKEN}\n")).unwrap();
        std::fs::write(credentials.path().join("ca.crt"), authority).unwrap();
        std::fs::write(credentials.path().join("namespace"), "ci").unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&served), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &state).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            state,
            url,
            credentials,
            server,
        }
    }

    /// The API's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The directory for `--kubernetes-credentials`.
    pub fn credentials(&self) -> PathBuf {
        self.credentials.path().to_owned()
    }

    /// Adds a pod of a pipeline run, in this phase.
    pub fn add_pod(&self, namespace: &str, uid: &str, run: &str, phase: &str) {
        let pod = json!({
            "metadata": {"name": format!("pod-{uid}"), "namespace": namespace, "uid": uid, "labels": {
                "app.kubernetes.io/managed-by": "tekton-pipelines", "tekton.dev/pipelineRunUID": run}},
            "spec": {"containers": [{"name": "step-build", "image": "x"}]},
            "status": {"phase": phase, "containerStatuses": [{"name": "step-build", "state": {}}]},
        });
        self.state.lock().unwrap().pods.push(pod);
    }

    /// Adds a pod whose step has ended with these results, as Tekton's entrypoint tells them in the termination message.
    pub fn add_ended_pod(&self, uid: &str, run: &str, results: &BTreeMap<String, String>) {
        let said: Vec<Value> = results
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value, "type": 1}))
            .collect();
        let ended = json!({"exitCode": 1, "finishedAt": "2026-01-01T10:00:00Z",
            "message": Value::from(said).to_string()});
        let pod = json!({
            "metadata": {"name": format!("pod-{uid}"), "namespace": "ci", "uid": uid, "labels": {
                "app.kubernetes.io/managed-by": "tekton-pipelines", "tekton.dev/pipelineRunUID": run}},
            "spec": {"containers": [{"name": "step-build", "image": "x"}]},
            "status": {"phase": "Failed", "containerStatuses": [
                {"name": "step-build", "state": {"terminated": ended}}]},
        });
        self.state.lock().unwrap().pods.push(pod);
    }

    /// Lets another object of the same name and contents be in the place of this one.
    pub fn replace_object(&self, path: &str, uid: &str) {
        let mut state = self.state.lock().unwrap();
        state.objects.get_mut(path).unwrap()["metadata"]["uid"] = json!(uid);
    }

    /// Adds a pipeline run that has not ended.
    pub fn add_pipeline_run(&self, uid: &str) {
        self.add_pipeline_run_named(&format!("name-of-{uid}"), uid);
    }

    /// The same, of this name.
    pub fn add_pipeline_run_named(&self, name: &str, uid: &str) {
        let run = json!({"metadata": {"name": name, "namespace": "ci", "uid": uid}, "status": {}});
        self.state.lock().unwrap().pipeline_runs.push(run);
    }

    /// Takes a right away, such as `create secrets`.
    pub fn forbid(&self, right: &str) {
        let mut state = self.state.lock().unwrap();
        state.forbidden.insert(right.to_owned());
    }

    /// Makes an object that none of our runs has made, such as `secrets/orka-token`.
    pub fn add_object(&self, path: &str) {
        let object = json!({"metadata": {"name": path, "uid": "foreign"}});
        let mut state = self.state.lock().unwrap();
        state.objects.insert(path.to_owned(), object);
    }

    /// Secrets and ConfigMaps of the namespace `ci`, by resource and name.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.state.lock().unwrap().objects.clone()
    }

    /// Adds a pipeline run that has ended at this time (RFC 3339).
    pub fn add_ended_pipeline_run(&self, uid: &str, at: &str) {
        let run = json!({"metadata": {"name": format!("name-of-{uid}"), "namespace": "ci", "uid": uid},
            "status": {"completionTime": at}});
        self.state.lock().unwrap().pipeline_runs.push(run);
    }

    /// What was asked for, as [`granted`] tells it of a Role.
    pub fn rights(&self) -> BTreeSet<String> {
        self.state.lock().unwrap().rights.clone()
    }

    /// Lets the next requests go wrong, in order; none is one that goes well.
    pub fn script(&self, refusals: impl IntoIterator<Item = Option<Refusal>>) {
        self.state.lock().unwrap().script.extend(refusals);
    }

    /// Lets every request go wrong.
    pub fn always(&self, refusal: Refusal) {
        self.state.lock().unwrap().always = Some(refusal);
    }

    /// Does something when the next request has arrived, before it is answered.
    pub fn before_next(&self, hook: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().before_next = Some(Box::new(hook));
    }

    /// Does something when this request has arrived, such as `PATCH /api/v1/namespaces/ci/secrets/x`, before it is answered.
    pub fn before(&self, request: &str, hook: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().before = Some((request.to_owned(), Box::new(hook)));
    }

    /// Path and query of every request.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &Mutex<State>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let method = head.split(' ').next().unwrap_or_default().to_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut sent = vec![0; length];
    if stream.read_exact(&mut sent).await.is_err() {
        return;
    }
    let sent = serde_json::from_slice(&sent).unwrap_or_default();
    let (status, body, whole) = {
        let hook = state.lock().unwrap().before_next.take();
        if let Some(hook) = hook {
            hook();
        }
        let request = format!("{method} {target}");
        let hook = {
            let before = &mut state.lock().unwrap().before;
            before.take_if(|(awaited, _)| *awaited == request)
        };
        if let Some((_, hook)) = hook {
            hook();
        }
        let mut state = state.lock().unwrap();
        state.requests.push(match method.as_str() {
            "GET" => target.clone(),
            _ => request,
        });
        let refusal = state.always.or_else(|| state.script.pop_front().flatten());
        let authorized = head
            .to_ascii_lowercase()
            .contains(&format!("authorization: bearer {TOKEN}\r\n"));
        match refusal {
            Some(Refusal::Close) => return,
            Some(Refusal::Status(code)) => (code, status(code), true),
            _ if !authorized => (401, status(401), true),
            Some(Refusal::Half) => (200, page(&state, &target), false),
            Some(Refusal::NoToken) => {
                let mut page = page(&state, &target);
                page["metadata"] = json!({"remainingItemCount": 7});
                (200, page, true)
            }
            None => match target.strip_prefix("/api/v1/namespaces/ci/") {
                Some(path) if path.starts_with("secrets") || path.starts_with("configmaps") => {
                    let (code, body) = one(&mut state, &method, path, sent);
                    (code, body, true)
                }
                _ => match target.strip_prefix(PIPELINE_RUN) {
                    Some(name) => {
                        let (code, body) = pipeline_run(&mut state, name);
                        (code, body, true)
                    }
                    None => {
                        let (code, body) = list(&mut state, &target);
                        (code, body, true)
                    }
                },
            },
        }
    };
    let body = body.to_string();
    let sent = if whole { body.len() } else { body.len() / 2 };
    let reply = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
        body.len(),
        &body[..sent]
    );
    // A client that has gone away needs no answer.
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn status(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        410 => "Expired",
        _ => "InternalError",
    };
    let message = match code {
        403 => {
            "pods is forbidden: User \"system:serviceaccount:ci:reaper\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
        }
        410 => "The provided continue parameter is too old to display a consistent list result.",
        _ => reason,
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code})
}

fn forbidden(verb: &str, resource: &str) -> (u16, Value) {
    let message = format!(
        "{resource} is forbidden: User \"system:serviceaccount:ci:default\" cannot {verb} resource \"{resource}\" in API \
         group \"\" in the namespace \"ci\""
    );
    (
        403,
        json!({"kind": "Status", "message": message, "code": 403}),
    )
}

/// One pipeline run, as the API gives any object or says that there is none.
fn pipeline_run(state: &mut State, name: &str) -> (u16, Value) {
    state
        .rights
        .insert("get pipelineruns.tekton.dev".to_owned());
    if state.forbidden.contains("get pipelineruns") {
        return forbidden("get", "pipelineruns");
    }
    let run = state
        .pipeline_runs
        .iter()
        .find(|run| run["metadata"]["name"] == name);
    match run {
        Some(run) => (200, run.clone()),
        None => (
            404,
            json!({"kind": "Status", "reason": "NotFound", "code": 404, "message": format!("pipelineruns {name} not found"),
                "details": {"name": name, "group": "tekton.dev", "kind": "pipelineruns"}}),
        ),
    }
}

/// One Secret or ConfigMap: Kubernetes API reference, "Secret v1 core", "ConfigMap v1 core", and RFC 7386.
fn one(state: &mut State, method: &str, target: &str, sent: Value) -> (u16, Value) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // "API concepts", "Dry-run"; a deletion with a body is told by that alone.
    let is_dry = match method {
        "DELETE" => sent["dryRun"] == json!(["All"]),
        _ => query == "dryRun=All",
    };
    let (resource, _) = path.split_once('/').unwrap_or((path, ""));
    let verb = match method {
        "GET" => "get",
        "POST" => "create",
        "PATCH" => "patch",
        _ => "delete",
    };
    state.rights.insert(format!("{verb} {path}"));
    if state.forbidden.contains(&format!("{verb} {resource}")) {
        return forbidden(verb, resource);
    }
    let missing = json!({"kind": "Status", "message": format!("{path} not found"), "code": 404});
    match verb {
        "create" => {
            let path = format!("{resource}/{}", sent["metadata"]["name"].as_str().unwrap());
            if state.objects.contains_key(&path) {
                let message = format!("{path} already exists");
                return (
                    409,
                    json!({"kind": "Status", "message": message, "code": 409}),
                );
            }
            state.made += 1;
            let mut made = sent;
            made["metadata"]["uid"] = json!(format!("uid-{}", state.made));
            state.objects.insert(path, made.clone());
            (201, made)
        }
        "get" => match state.objects.get(path) {
            Some(object) => (200, object.clone()),
            None => (404, missing),
        },
        "patch" => match state.objects.get_mut(path) {
            Some(object) => {
                let uid = &sent["metadata"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    // It says what was sent, as validation does.
                    let message =
                        format!("{path} is invalid: metadata.uid: field is immutable: {sent}");
                    return (
                        422,
                        json!({"kind": "Status", "message": message, "code": 422}),
                    );
                }
                let mut patched = object.clone();
                merge(&mut patched, &sent);
                if !is_dry {
                    *object = patched.clone();
                }
                (200, patched)
            }
            None => (404, missing),
        },
        _ => match state.objects.get(path) {
            Some(object) if object["metadata"]["uid"] == sent["preconditions"]["uid"] => {
                if !is_dry {
                    state.objects.remove(path);
                }
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            Some(_) => (
                409,
                json!({"kind": "Status", "message": "another uid", "code": 409}),
            ),
            None => (404, missing),
        },
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in members {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn list(state: &mut State, target: &str) -> (u16, Value) {
    state.rights.insert(list_right(target));
    let path = target.split('?').next().unwrap_or_default();
    let resource = path.rsplit('/').next().unwrap_or_default();
    if state.forbidden.contains(&format!("list {resource}")) {
        return forbidden("list", resource);
    }
    (200, page(state, target))
}

/// What a list needs, which the path tells: `/api/v1/pods`, `/apis/tekton.dev/v1/namespaces/ci/taskruns`.
fn list_right(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let resource = path.rsplit('/').next().unwrap_or_default();
    let group = path
        .strip_prefix("/apis/")
        .and_then(|rest| rest.split('/').next());
    let group = group.map_or_else(String::new, |group| format!(".{group}"));
    let scope = if path.contains("/namespaces/") {
        ""
    } else {
        EVERYWHERE
    };
    format!("list {resource}{group}{scope}")
}

/// Marks what a ClusterRole grants that is bound for all namespaces.
const EVERYWHERE: &str = " everywhere";

/// What a Role or ClusterRole grants: `create secrets`, `get secrets/orka-token`, `list taskruns.tekton.dev everywhere`.
pub fn granted(role: &Value) -> BTreeSet<String> {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let scope = if role["kind"] == "ClusterRole" {
        EVERYWHERE
    } else {
        ""
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = match texts(&rule["resourceNames"]).as_slice() {
            [] => vec![String::new()],
            names => names.iter().map(|name| format!("/{name}")).collect(),
        };
        for (group, resource) in product(&texts(&rule["apiGroups"]), &texts(&rule["resources"])) {
            let group = if group.is_empty() {
                group
            } else {
                format!(".{group}")
            };
            for (verb, name) in product(&texts(&rule["verbs"]), &names) {
                granted.insert(format!("{verb} {resource}{group}{name}{scope}"));
            }
        }
    }
    granted
}

fn product(left: &[String], right: &[String]) -> Vec<(String, String)> {
    let pairs = left
        .iter()
        .flat_map(|one| right.iter().map(move |other| (one, other)));
    pairs
        .map(|(one, other)| (one.clone(), other.clone()))
        .collect()
}

/// One page of a list: Kubernetes API concepts, "Retrieving large results sets in chunks".
fn page(state: &State, target: &str) -> Value {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (kind, version, all) = match path.rsplit('/').next() {
        Some("pods") => ("PodList", "v1", &state.pods),
        Some("pipelineruns") => ("PipelineRunList", "tekton.dev/v1", &state.pipeline_runs),
        _ => ("TaskRunList", "tekton.dev/v1", &Vec::new()),
    };
    let namespace = path
        .split_once("/namespaces/")
        .and_then(|(_, rest)| rest.split('/').next());
    let listed: Vec<&Value> = all
        .iter()
        .filter(|item| namespace.is_none_or(|wanted| item["metadata"]["namespace"] == wanted))
        .collect();
    let from: usize = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("continue=from-"))
        .map_or(0, |number| number.parse().unwrap());
    let to = (from + PAGE).min(listed.len());
    let mut metadata = json!({"resourceVersion": "10245"});
    if to < listed.len() {
        metadata["continue"] = json!(format!("from-{to}"));
        metadata["remainingItemCount"] = json!(listed.len() - to);
    }
    json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": listed[from..to]})
}
