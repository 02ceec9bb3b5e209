//! Records a session: backends that pass everything on and note it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cap_std::fs::Dir;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{
    Blob, CopiedRecord, EndedRecord, Exchange, FORMAT, FactsRecord, FailureRecord, FileRecord,
    Given, Names, NodeRecord, OutputRecord, PluginRecord, ProgramEnd, Session, StoppedRecord,
    Tidying, VmRecord, Witness, deploy_asked, download_asked, each_text, exec_asked, login_asked,
    spec_asked, upload_asked, write_asked,
};
use crate::backend::{
    Choice, Cluster, Copied, Deploy, Event, Exec, Gone, Guest, Guests, JumpHostKey, Listed, Login,
    OutputStream, Remains, Removal, Running, StoredConfig,
};
use crate::bindings::orka::plugin::cluster::{Facts, Node, SignOut, VmInfo, VmSpec};
use crate::bindings::orka::plugin::types::Exit;
use crate::console::{Console, millis};
use crate::failure::Failure;
use crate::host_folder;
use crate::mask::Masker;
use crate::run::Finished;
use crate::state::RunContext;
use crate::teardown::sign_out_record;

/// So much of what one program writes is kept, the beginning of it.
const OUTPUT_KEPT: usize = 256 * 1024;
/// So many files of a workspace are listed.
const FILES_MAX: usize = 2000;
/// Events on their way through the recorder.
const EVENTS_QUEUED: usize = 64;

/// What a recorded program wrote, before secrets are taken out.
type Piece = (OutputStream, Vec<u8>);

/// A call, and when what happened to it did.
struct Noted {
    call: Exchange,
    began: Instant,
    ended: Option<Instant>,
    program_ended: Option<Instant>,
    output: Vec<Piece>,
}

impl Noted {
    /// Whether the call, or the program that it started, was under way when the run was stopped.
    fn meets_the_stop(&self, times: &Times) -> bool {
        let lasts = |ended: Option<Instant>| ended.is_none_or(|ended| times.is_over(ended));
        let has_started = self.call.call == "exec" && self.call.failure.is_none();
        self.began <= times.over && (lasts(self.ended) || has_started && lasts(self.program_ended))
    }
}

#[derive(Default)]
struct State {
    calls: Vec<Noted>,
    /// When the plugin's part was over.
    plugin_ended: Option<Instant>,
    names: Names,
    read: BTreeMap<String, Vec<u8>>,
}

/// A run's own time. Every moment is rounded the same way, so that their order stays.
struct Times {
    started: Instant,
    /// When it was stopped, or its deadline passed.
    over: Instant,
}

impl Times {
    fn of(run: &RunContext) -> Self {
        let stopped = run.stop.stopped_at().unwrap_or(run.deadline);
        Self {
            started: run.started,
            over: stopped.min(run.deadline),
        }
    }

    fn at(&self, moment: Instant) -> u64 {
        millis(moment.saturating_duration_since(self.started))
    }

    fn is_over(&self, moment: Instant) -> bool {
        moment >= self.over
    }
}

/// Takes notes of a run. Nothing that goes wrong here touches the run.
pub struct Recorder {
    masker: Masker,
    state: Mutex<State>,
    params: BTreeMap<String, String>,
    workspace: Option<BTreeMap<String, u64>>,
}

impl Recorder {
    /// Of a run with these parameters, as they were given, and this workspace as it is now.
    pub fn new(
        masker: Masker,
        params: BTreeMap<String, String>,
        workspace: Option<&Dir>,
    ) -> Arc<Self> {
        Arc::new(Self {
            masker,
            state: Mutex::default(),
            params,
            workspace: workspace.map(sizes),
        })
    }

    /// Backends that stand on these and note what passes.
    pub fn around(
        self: &Arc<Self>,
        cluster: Arc<dyn Cluster>,
        guests: Arc<dyn Guests>,
    ) -> (Arc<dyn Cluster>, Arc<dyn Guests>) {
        let recorder = Arc::clone(self);
        let cluster = RecordedCluster {
            inner: cluster,
            recorder: Arc::clone(&recorder),
        };
        (
            Arc::new(cluster),
            Arc::new(RecordedGuests {
                inner: guests,
                recorder,
            }),
        )
    }

    /// The whole of it; none for a run that never began.
    pub fn session(&self, finished: &Finished) -> Option<Session> {
        let run = finished.run.as_deref()?;
        let mask = |text: &str| self.cleaned(text);
        let times = Times::of(run);
        let given = Given {
            params: self
                .params
                .iter()
                .map(|(name, value)| (name.clone(), mask(value)))
                .collect(),
            script: run.script.as_deref().map(|script| self.blob(script)),
            timeout_ms: millis(run.deadline.saturating_duration_since(run.started)),
            secrets: run.secrets.keys().cloned().collect(),
            stopped: run.stop.signal().map(|signal| StoppedRecord {
                after_ms: run.stop.stopped_at().map_or(0, |at| times.at(at)),
                signal: signal.name().to_owned(),
            }),
            workspace: self.workspace.as_ref().map(|files| self.files(files)),
        };
        Some(Session {
            session: FORMAT,
            recorded_by: concat!("orka-step ", env!("CARGO_PKG_VERSION")).to_owned(),
            began: run.started_at,
            plugin: PluginRecord {
                name: run.manifest.name.clone(),
                version: run.manifest.version.to_string(),
                digest: finished.plugin_digest.clone().unwrap_or_default(),
            },
            given,
            calls: self.session_calls(&times),
            ended: EndedRecord {
                outcome: finished.conclusion.outcome.to_string(),
                exit_code: finished.conclusion.exit_code,
                between_calls: self.was_stopped_between_calls(&times),
                sign_out: run
                    .signed_out
                    .get()
                    .map(|outcome| mask(&sign_out_record(outcome))),
            },
        })
    }

    fn files(&self, sizes: &BTreeMap<String, u64>) -> BTreeMap<String, FileRecord> {
        let state = self.state();
        let mut files: BTreeMap<String, FileRecord> = sizes
            .iter()
            .map(|(path, size)| (path.clone(), FileRecord::Size { size: *size }))
            .collect();
        for (path, contents) in &state.read {
            files.insert(
                path.clone(),
                FileRecord::Contents(Blob::of(&self.masker.mask_bytes(contents))),
            );
        }
        files
    }

    /// Only what happened says so: an outcome does not, since a silent program ends a run as its deadline does, and a script
    /// that had ended keeps its own outcome.
    fn was_stopped_between_calls(&self, times: &Times) -> bool {
        let state = self.state();
        let was_over = state.plugin_ended.is_some_and(|ended| times.is_over(ended));
        was_over && !state.calls.iter().any(|call| call.meets_the_stop(times))
    }

    fn session_calls(&self, times: &Times) -> Vec<Exchange> {
        // Cleaning takes the state again, for the names.
        let noted: Vec<(Exchange, Vec<Piece>)> = self
            .state()
            .calls
            .iter()
            .map(|noted| (timed(noted, times), noted.output.clone()))
            .collect();
        noted
            .into_iter()
            .map(|(call, output)| self.clean(call, &output))
            .collect()
    }

    /// With secrets and names taken out.
    fn clean(&self, mut call: Exchange, output: &[Piece]) -> Exchange {
        self.clean_value(&mut call.asked);
        self.clean_value(&mut call.answer);
        let clean_failure = |failure: Option<FailureRecord>| {
            let mut value = serde_json::to_value(failure?).ok()?;
            self.clean_value(&mut value);
            serde_json::from_value(value).ok()
        };
        call.failure = clean_failure(call.failure);
        if let Some(end) = &mut call.program {
            end.lost = clean_failure(end.lost.take());
        }
        call.output = output
            .iter()
            .map(|(stream, bytes)| OutputRecord {
                stderr: *stream == OutputStream::Stderr,
                text: self.blob(bytes),
            })
            .collect();
        call
    }

    fn clean_value(&self, value: &mut Value) {
        each_text(value, &|text| self.cleaned(text));
    }

    fn cleaned(&self, text: &str) -> String {
        self.state().names.cleaned(&self.masker.mask(text))
    }

    fn blob(&self, bytes: &[u8]) -> Blob {
        match Blob::of(&self.masker.mask_bytes(bytes)) {
            Blob::Text(text) => Blob::Text(self.cleaned(&text)),
            bytes @ Blob::Bytes { .. } => bytes,
        }
    }

    /// Enters a call, gives its position, and keeps its place in the order in which calls began.
    fn begins(&self, call: &str, asked: Value) -> usize {
        let mut state = self.state();
        state.calls.push(Noted {
            call: Exchange {
                call: call.to_owned(),
                asked,
                ..Exchange::default()
            },
            began: Instant::now(),
            ended: None,
            program_ended: None,
            output: Vec::new(),
        });
        state.calls.len() - 1
    }

    fn ends<T>(
        &self,
        position: usize,
        result: &Result<T, Failure>,
        answer: impl FnOnce(&T) -> Value,
    ) {
        let mut state = self.state();
        let Some(noted) = state.calls.get_mut(position) else {
            return;
        };
        noted.ended = Some(Instant::now());
        match result {
            Ok(value) => noted.call.answer = answer(value),
            Err(failure) => noted.call.failure = Some(FailureRecord::of(failure)),
        }
    }

    fn names(&self, name: &str) {
        self.state().names.add(name);
    }

    fn wrote(&self, position: usize, stream: OutputStream, bytes: &[u8]) {
        let mut state = self.state();
        let Some(noted) = state.calls.get_mut(position) else {
            return;
        };
        let pieces = &mut noted.output;
        let kept: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
        let fits = bytes.len().min(OUTPUT_KEPT.saturating_sub(kept));
        match pieces.last_mut() {
            Some((last, piece)) if *last == stream => piece.extend_from_slice(&bytes[..fits]),
            _ if fits > 0 => pieces.push((stream, bytes[..fits].to_vec())),
            _ => {}
        }
        noted.call.output_left_out += (bytes.len() - fits) as u64;
    }

    /// Notes that nobody hears of a program any more: its plugin let go of it, or it ended.
    fn program_left(&self, position: usize) {
        if let Some(noted) = self.state().calls.get_mut(position) {
            noted.program_ended.get_or_insert_with(Instant::now);
        }
    }

    fn program_ended(&self, position: usize, event: &Event) {
        let end = match event {
            // A connection that is lost under a detached program is no end of it.
            Event::Output(..) | Event::Interrupted(_) | Event::Resumed | Event::Heard => return,
            Event::Exit(Exit::Status(status)) => ProgramEnd {
                status: Some(*status),
                ..ProgramEnd::default()
            },
            Event::Exit(Exit::Signal(signal)) => ProgramEnd {
                signal: Some(signal.name.clone()),
                ..ProgramEnd::default()
            },
            Event::Lost(failure) => ProgramEnd {
                lost: Some(FailureRecord::of(failure)),
                ..ProgramEnd::default()
            },
        };
        if let Some(noted) = self.state().calls.get_mut(position) {
            noted.call.program = Some(end);
            noted.program_ended = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Witness for Recorder {
    fn read(&self, path: &str, contents: &[u8]) {
        // As it was the first time.
        self.state()
            .read
            .entry(path.to_owned())
            .or_insert_with(|| contents.to_vec());
    }

    async fn tidies(&self, what: Tidying<'_>) -> Result<usize, Failure> {
        if let Some(name) = what.name() {
            self.names(name);
        }
        Ok(self.begins(what.call(), what.asked()))
    }

    fn tidied(&self, number: usize, failure: Option<&Failure>) {
        let result = failure.map_or(Ok(()), |failure| Err(failure.clone()));
        self.ends(number, &result, |()| Value::Null);
    }

    fn plugin_ended(&self) {
        self.state().plugin_ended = Some(Instant::now());
    }
}

/// A call with its times.
fn timed(noted: &Noted, times: &Times) -> Exchange {
    let mut call = noted.call.clone();
    let at_ms = times.at(noted.began);
    call.at_ms = Some(at_ms);
    match noted.ended {
        None => call.unended = true,
        Some(ended) => {
            call.took_ms = times.at(ended) - at_ms;
            call.after_stop = times.is_over(ended);
        }
    }
    if let (Some(end), Some(ended)) = (&mut call.program, noted.program_ended) {
        end.after_ms = times.at(ended) - at_ms;
        end.after_stop = times.is_over(ended);
    }
    call
}

/// The regular files of a workspace with their sizes, without the host's own folder.
fn sizes(root: &Dir) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let place = if directory.is_empty() {
            "."
        } else {
            &directory
        };
        for entry in root.read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if directory.is_empty() && name == host_folder::NAME {
                continue;
            }
            let path = if directory.is_empty() {
                name
            } else {
                format!("{directory}/{name}")
            };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(path),
                Ok(kind) if kind.is_file() && files.len() < FILES_MAX => {
                    files.insert(path, entry.metadata().map_or(0, |metadata| metadata.len()));
                }
                _ => {}
            }
        }
    }
    files
}

struct RecordedCluster {
    inner: Arc<dyn Cluster>,
    recorder: Arc<Recorder>,
}

#[async_trait]
impl Cluster for RecordedCluster {
    async fn sign_in(&self) -> Result<Facts, Failure> {
        let call = self.recorder.begins("sign-in", Value::Null);
        let result = self.inner.sign_in().await;
        self.recorder
            .ends(call, &result, |facts| json!(FactsRecord::of(facts)));
        result
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        let call = self.recorder.begins("images", Value::Null);
        let result = self.inner.images().await;
        self.recorder.ends(call, &result, |images| json!(images));
        result
    }

    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let call = self.recorder.begins("nodes", Value::Null);
        let result = self.inner.nodes().await;
        let answer =
            |nodes: &Vec<Node>| json!(nodes.iter().map(NodeRecord::of).collect::<Vec<_>>());
        self.recorder.ends(call, &result, answer);
        result
    }

    async fn create_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.recorder.names(name);
        let call = self.recorder.begins("create-config", spec_asked(spec));
        let result = self.inner.create_config(name, spec).await;
        self.recorder.ends(call, &result, |()| Value::Null);
        result
    }

    async fn store_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.recorder.names(name);
        let call = self.recorder.begins("store-config", spec_asked(spec));
        let result = self.inner.store_config(name, spec).await;
        self.recorder.ends(call, &result, |()| Value::Null);
        result
    }

    fn stores_configs(&self) -> bool {
        self.inner.stores_configs()
    }

    async fn deploy(&self, deploy: &Deploy) -> Result<VmInfo, Failure> {
        self.recorder.names(&deploy.name);
        let call = self.recorder.begins("deploy", deploy_asked(deploy));
        let result = self.inner.deploy(deploy).await;
        self.recorder
            .ends(call, &result, |vm| json!(VmRecord::of(vm)));
        result
    }

    async fn explain(&self, failure: Failure, spec: &VmSpec) -> Failure {
        self.inner.explain(failure, spec).await
    }

    // What follows is done for the host's own housekeeping as well, which a replay does again by itself. What of it the plugin
    // asked for is noted by the `Witness`.

    fn expect_config(&self, name: &str) {
        self.inner.expect_config(name);
    }

    async fn stored_configs(&self) -> Result<Vec<(String, StoredConfig)>, Failure> {
        self.inner.stored_configs().await
    }

    async fn exists(&self, vm: &VmInfo) -> Result<bool, Failure> {
        self.inner.exists(vm).await
    }

    async fn config(&self, name: &str) -> Result<Option<StoredConfig>, Failure> {
        self.inner.config(name).await
    }

    async fn instances(&self, name: &str) -> Result<Vec<String>, Failure> {
        self.inner.instances(name).await
    }

    async fn delete(&self, name: &str, id: Option<&str>) -> Result<(), Failure> {
        self.inner.delete(name, id).await
    }

    async fn remove(&self, name: &str) -> Result<Removal, Failure> {
        self.inner.remove(name).await
    }

    async fn remains(&self, name: &str) -> Result<Remains, Failure> {
        self.inner.remains(name).await
    }

    async fn sign_out(&self) -> Result<SignOut, Failure> {
        self.inner.sign_out().await
    }

    async fn token(&self) -> Result<SecretString, Failure> {
        self.inner.token().await
    }

    fn token_is_from_login(&self) -> bool {
        self.inner.token_is_from_login()
    }

    async fn held_token(&self) -> Option<SecretString> {
        self.inner.held_token().await
    }

    async fn revoke(&self, token: SecretString) -> Result<SignOut, Failure> {
        self.inner.revoke(token).await
    }

    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        self.inner.list().await
    }

    fn memory_told(&self, name: &str) -> Option<u32> {
        self.inner.memory_told(name)
    }

    fn removal_command(&self, name: &str) -> String {
        self.inner.removal_command(name)
    }
}

struct RecordedGuests {
    inner: Arc<dyn Guests>,
    recorder: Arc<Recorder>,
}

#[async_trait]
impl Guests for RecordedGuests {
    async fn connect(
        &self,
        vm: &VmInfo,
        login: &Login,
        gone: &Gone,
        deadline: Instant,
        console: &Console,
    ) -> Result<Arc<dyn Guest>, Failure> {
        let call = self.recorder.begins("connect", login_asked(login));
        let result = self.inner.connect(vm, login, gone, deadline, console).await;
        self.recorder.ends(
            call,
            &result,
            |guest| json!({ "host-key": guest.host_key() }),
        );
        result.map(|inner| {
            Arc::new(RecordedGuest {
                inner,
                recorder: Arc::clone(&self.recorder),
            }) as Arc<dyn Guest>
        })
    }

    fn username(&self) -> Option<&str> {
        self.inner.username()
    }

    fn patience(&self) -> Duration {
        self.inner.patience()
    }
}

struct RecordedGuest {
    inner: Arc<dyn Guest>,
    recorder: Arc<Recorder>,
}

#[async_trait]
impl Guest for RecordedGuest {
    fn host_key(&self) -> String {
        self.inner.host_key()
    }

    fn host_key_trust(&self) -> guest_ssh::HostKeyTrust {
        self.inner.host_key_trust()
    }

    fn jump_host(&self) -> Option<JumpHostKey> {
        self.inner.jump_host()
    }

    fn loss_after(&self) -> Duration {
        self.inner.loss_after()
    }

    async fn exec(&self, exec: Exec) -> Result<Running, Failure> {
        let masker = &self.recorder.masker;
        let asked = exec_asked(&exec, |bytes| masker.mask_bytes(bytes));
        let call = self.recorder.begins("exec", asked);
        let result = self.inner.exec(exec).await;
        self.recorder.ends(call, &result, |_| Value::Null);
        let mut running = result?;
        let (events, receiver) = mpsc::channel(EVENTS_QUEUED);
        let recorder = Arc::clone(&self.recorder);
        let mut from = std::mem::replace(&mut running.events, receiver);
        tokio::spawn(async move {
            while let Some(event) = from.recv().await {
                match &event {
                    Event::Output(stream, bytes) => recorder.wrote(call, *stream, bytes),
                    ended => recorder.program_ended(call, ended),
                }
                // Whoever took the events is gone: so must we be, so that the program notices.
                if events.send(event).await.is_err() {
                    break;
                }
            }
            recorder.program_left(call);
        });
        Ok(running)
    }

    async fn write_file(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Failure> {
        let asked = write_asked(path, &self.recorder.masker.mask_bytes(contents), mode);
        let call = self.recorder.begins("write-file", asked);
        let result = self.inner.write_file(path, contents, mode).await;
        self.recorder.ends(call, &result, |()| Value::Null);
        result
    }

    async fn upload(
        &self,
        source: &Dir,
        target: &str,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure> {
        let call = self.recorder.begins("upload", upload_asked(target, choice));
        let result = self.inner.upload(source, target, choice, console).await;
        self.recorder
            .ends(call, &result, |copied| json!(CopiedRecord::of(copied)));
        result
    }

    async fn download(
        &self,
        source: &str,
        workspace: &Dir,
        into: &Path,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure> {
        let asked = download_asked(source, into, choice);
        let call = self.recorder.begins("download", asked);
        let result = self
            .inner
            .download(source, workspace, into, choice, console)
            .await;
        self.recorder
            .ends(call, &result, |copied| json!(CopiedRecord::of(copied)));
        result
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ended_is_told_from_one_that_did_and_from_one_that_ended_too_late() {
        let times = Times {
            started: Instant::now(),
            over: Instant::now() + Duration::from_millis(30),
        };
        let recorder = Recorder::new(Masker::default(), BTreeMap::new(), None);
        let mut numbers = Vec::new();
        for name in ["one", "two", "three"] {
            numbers.push(recorder.tidies(Tidying::Delete(name)).await.unwrap());
            sleep(Duration::from_millis(9)).await;
        }
        recorder.tidied(numbers[1], None);
        sleep(Duration::from_millis(3)).await;
        let late = recorder.tidies(Tidying::PurgeRun).await.unwrap();
        recorder.tidied(late, None);
        recorder.tidied(numbers[2], None);
        let told: Vec<_> = recorder
            .session_calls(&times)
            .iter()
            .map(|call| (call.at_ms, call.took_ms, call.unended, call.after_stop))
            .collect();
        let wanted = [
            (Some(0), 0, true, false),
            (Some(9), 18, false, false),
            (Some(18), 12, false, true),
            (Some(30), 0, false, true),
        ];
        assert_eq!(told, wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_comes_between_calls_where_it_meets_none_before_the_plugin_ends() {
        // When a call ended, and when the plugin did; the stop comes after 30 ms.
        for (call_ended, plugin_ended, wanted) in [
            (Some(20), 40, true),
            (Some(20), 30, true),
            (Some(20), 29, false),
            (Some(30), 40, false),
            (None, 40, false),
        ] {
            let started = Instant::now();
            let after = |ms| started + Duration::from_millis(ms);
            let times = Times {
                started,
                over: after(30),
            };
            let recorder = Recorder::new(Masker::default(), BTreeMap::new(), None);
            let number = recorder.tidies(Tidying::PurgeRun).await.unwrap();
            if let Some(ended) = call_ended {
                tokio::time::sleep_until(after(ended)).await;
                recorder.tidied(number, None);
            }
            tokio::time::sleep_until(after(plugin_ended)).await;
            assert!(!recorder.was_stopped_between_calls(&times));
            recorder.plugin_ended();
            let found = recorder.was_stopped_between_calls(&times);
            assert_eq!(found, wanted, "{call_ended:?} {plugin_ended}");
        }
    }
}
