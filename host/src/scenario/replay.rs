//! Plays a recorded session again: the plugin's calls are answered as they were, matched by what they ask for.

mod times;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cap_std::fs::Dir;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::check::Problem;
use super::cluster::ScriptedCluster;
use super::diff;
use super::model::Scenario;
use super::play::{Backends, Report, Subject};
use crate::backend::{
    Choice, Cluster, Control, Copied, Deploy, Event, Exec, Gone, Guest, Guests, Listed, Login,
    OutputStream, Remains, Removal, Running, StoredConfig,
};
use crate::bindings::orka::plugin::cluster::{Facts, Node, SignOut, VmInfo, VmSpec};
use crate::bindings::orka::plugin::types::{Exit, ExitSignal};
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::interference::Interference;
use crate::outcome::StopSignal;
use crate::session::{
    CopiedRecord, Exchange, FORMAT_WITH_TIDYING, FactsRecord, FileRecord, Names, NodeRecord,
    Session, Tidying, VmRecord, Witness, deploy_asked, download_asked, exec_asked, login_asked,
    spec_asked, upload_asked, write_asked,
};
use times::Times;

/// Files that a plugin did not read are made as large as they were, up to this.
const STAND_IN_BYTES_MAX: u64 = 1024 * 1024;

/// As in production, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a replay came to.
pub struct Replayed {
    /// What the run did.
    pub report: Report,
    /// What differs from the session.
    pub problems: Vec<Problem>,
}

/// Runs the plugin once against a session.
///
/// # Errors
///
/// As [`Subject::play`].
pub fn replay(subject: &Subject, session: &Session) -> Result<Replayed, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .map_err(|error| Failure::internal("no runtime for the test").with_source(error))?;
    runtime.block_on(stage(subject, session))
}

async fn stage(subject: &Subject, session: &Session) -> Result<Replayed, Failure> {
    let scenario = scenario(session);
    let tape = Arc::new(Tape::of(session));
    let cluster = Arc::new(ScriptedCluster::new(&scenario, Arc::default()).with_any_image());
    let backends = Backends {
        cluster: Arc::new(ReplayedCluster {
            inner: Arc::clone(&cluster),
            tape: Arc::clone(&tape),
            signed_out: session.ended.sign_out.as_deref().and_then(sign_out),
        }),
        guests: Arc::new(ReplayedGuests(Arc::clone(&tape))),
        witness: Some(tape.clone()),
    };
    let ended = subject
        .run_on(&scenario, backends, Arc::new(Interference::default()))
        .await?;
    let state = tape.state();
    let report = Report {
        calls: state.made.clone(),
        left_on_the_cluster: cluster.left(),
        ..ended.report
    };
    let mut problems = Vec::new();
    let leftovers = state.left.iter().flatten().count();
    if leftovers > 0 || state.extras > 0 {
        let recorded: Vec<String> = session.calls.iter().map(Exchange::line).collect();
        problems.push(Problem {
            what: format!(
                "{leftovers} recorded calls were not made, {} others were",
                state.extras
            ),
            difference: Some(diff::lists(&recorded, &state.made)),
        });
    }
    let ending = |outcome: &str, code: u8| format!("outcome {outcome}, exit code {code}");
    let recorded = ending(&session.ended.outcome, session.ended.exit_code);
    let found = ending(&report.outcome.to_string(), report.exit_code);
    if recorded != found {
        problems.push(Problem {
            what: "it ended otherwise".to_owned(),
            difference: Some(diff::lists(&[recorded], &[found])),
        });
    }
    problems.extend(super::check::shown_secrets(&report));
    drop(state);
    Ok(Replayed { report, problems })
}

/// What the run was given, as far as the session has it.
fn scenario(session: &Session) -> Scenario {
    let given = &session.given;
    let stand_in = |size: u64| vec![0; usize::try_from(size.min(STAND_IN_BYTES_MAX)).unwrap_or(0)];
    let file = |(path, file): (&String, &FileRecord)| {
        let contents = match file {
            FileRecord::Size { size } => stand_in(*size),
            FileRecord::Contents(blob) => blob.bytes(),
        };
        (path.clone(), contents)
    };
    let signed_in = session.calls.iter().find(|call| call.call == "sign-in");
    Scenario {
        params: given.params.clone(),
        script: given.script.as_ref().map(crate::session::Blob::bytes),
        workspace: given
            .workspace
            .as_ref()
            .map(|files| files.iter().map(file).collect()),
        secrets: given
            .secrets
            .iter()
            // Only its name was recorded. What stands in for it is masked wherever it turns up, as it was.
            .map(|name| {
                (
                    name.clone(),
                    SecretString::from(format!("secret-{name}-of-the-session")),
                )
            })
            .collect(),
        timeout: Duration::from_millis(given.timeout_ms),
        stop: given.stopped.as_ref().map(|stopped| {
            let signal = if stopped.signal == StopSignal::Interrupt.name() {
                StopSignal::Interrupt
            } else {
                StopSignal::Terminate
            };
            (Duration::from_millis(stopped.after_ms), signal)
        }),
        orka3: signed_in.is_some_and(|call| call.answer["orka"] == 3),
        began: session.began,
        deploy_time: Duration::ZERO,
        ..Scenario::new()
    }
}

#[derive(Default)]
struct TapeState {
    /// Recorded calls, without those that were made again.
    left: Vec<Option<Exchange>>,
    /// Calls that were made, as lines.
    made: Vec<String>,
    extras: usize,
    /// Whether a call waits for the stop that the run had not come to.
    has_one_beyond: bool,
    names: Names,
}

impl TapeState {
    /// Whether all is made that the run had come to when it was stopped.
    fn is_where_the_stop_came(&self) -> bool {
        let came_later = |call: &Exchange| call.after_stop || call.unended;
        self.left.iter().flatten().all(came_later)
    }
}

/// The recorded calls, each to be taken once.
struct Tape {
    state: Mutex<TapeState>,
    times: Times,
    /// Whether the run was stopped while none of its calls was under way.
    between_calls: bool,
    files: BTreeMap<String, FileRecord>,
    /// Whether what the plugin tidied up was recorded as well.
    has_tidying: bool,
}

impl Tape {
    fn of(session: &Session) -> Self {
        Self {
            state: Mutex::new(TapeState {
                left: session.calls.iter().cloned().map(Some).collect(),
                ..TapeState::default()
            }),
            times: Times::of(session),
            // Sessions of an older form do not say so: a difference too many is better than one too few.
            between_calls: session.ended.between_calls,
            files: session.given.workspace.clone().unwrap_or_default(),
            has_tidying: session.session >= FORMAT_WITH_TIDYING,
        }
    }

    fn state(&self) -> MutexGuard<'_, TapeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call that was not recorded is the one that the run would have made next when it was stopped.
    ///
    /// Only recorded calls take time in a replay, so that a run that was stopped on its way from one to the next, computing
    /// or in a call that is not recorded, gets to the next one before the stop. Which that was nobody knows: the host had
    /// refused it before it came to a backend. It is no difference then, but it is one call, since a guest makes one at a
    /// time; and it comes after all that the run had come to. Any other one differs from the session.
    fn is_beyond_the_stop(&self, state: &TapeState) -> bool {
        self.between_calls
            && self.times.is_before_the_stop()
            && !state.has_one_beyond
            && state.is_where_the_stop_came()
    }

    /// The first recorded call that asked for the same and was not made yet, once it has ended as it did then. One that
    /// the stopped run had not come to ends with the stop.
    async fn take(&self, call: &str, asked: Value) -> Result<Exchange, Failure> {
        self.take_begun(call, asked).await.map(|(_, found)| found)
    }

    /// As [`Tape::take`], with when the call began.
    async fn take_begun(
        &self,
        call: &str,
        mut asked: Value,
    ) -> Result<(Instant, Exchange), Failure> {
        let found = {
            let mut state = self.state();
            state.names.clean(&mut asked);
            let line = Exchange {
                call: call.to_owned(),
                asked: asked.clone(),
                ..Exchange::default()
            }
            .line();
            let fits = |left: &Option<Exchange>| {
                left.as_ref()
                    .is_some_and(|left| left.call == call && left.asked == asked)
            };
            let position = state.left.iter().position(fits);
            let exchange = position.and_then(|position| state.left[position].take());
            let is_beyond = exchange.is_none() && self.is_beyond_the_stop(&state);
            if is_beyond {
                state.has_one_beyond = true;
            } else {
                state.made.push(line.clone());
            }
            match exchange {
                Some(exchange) => Some(exchange),
                None if is_beyond => None,
                None => {
                    state.extras += 1;
                    let message = format!("the session has no such call (any more): {line}");
                    return Err(Failure::new(
                        Kind::Other,
                        Class::Internal,
                        "replay.unexpected",
                        message,
                    ));
                }
            }
        };
        let Some(found) = found.filter(|found| !found.unended) else {
            // What cut it off does so again.
            return std::future::pending().await;
        };
        let (began, ended) = self.times.of_call(&found, Instant::now());
        sleep_until(ended).await;
        match &found.failure {
            Some(failure) => Err(failure.failure()),
            None => Ok((began, found)),
        }
    }
}

#[async_trait]
impl Witness for Tape {
    fn read(&self, _path: &str, _contents: &[u8]) {}

    async fn tidies(&self, what: Tidying<'_>) -> Result<usize, Failure> {
        if self.has_tidying {
            if let Some(name) = what.name() {
                self.state().names.add(name);
            }
            self.take(what.call(), what.asked()).await?;
        }
        Ok(0)
    }

    fn tidied(&self, _number: usize, _failure: Option<&Failure>) {}

    fn plugin_ended(&self) {}
}

fn answer<T: DeserializeOwned>(exchange: &Exchange) -> Result<T, Failure> {
    serde_json::from_value(exchange.answer.clone()).map_err(|error| {
        Failure::config(format!(
            "the session's answer to `{}` is damaged",
            exchange.line()
        ))
        .with_source(error)
    })
}

/// What became of a token, of the words of a session.
fn sign_out(recorded: &str) -> Option<SignOut> {
    match (recorded, recorded.strip_prefix("kept: ")) {
        ("revoked", _) => Some(SignOut::Revoked),
        ("not-applicable", _) => Some(SignOut::NotApplicable),
        (_, reason) => reason.map(|reason| SignOut::Kept(reason.to_owned())),
    }
}

/// Answers what the plugin asks from the tape; the host's own housekeeping meets a cluster in memory.
struct ReplayedCluster {
    inner: Arc<ScriptedCluster>,
    tape: Arc<Tape>,
    /// What became of the token.
    signed_out: Option<SignOut>,
}

#[async_trait]
impl Cluster for ReplayedCluster {
    async fn sign_in(&self) -> Result<Facts, Failure> {
        let exchange = self.tape.take("sign-in", Value::Null).await?;
        Ok(answer::<FactsRecord>(&exchange)?.facts())
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        answer(&self.tape.take("images", Value::Null).await?)
    }

    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let nodes: Vec<NodeRecord> = answer(&self.tape.take("nodes", Value::Null).await?)?;
        Ok(nodes.into_iter().map(NodeRecord::node).collect())
    }

    async fn create_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.tape.state().names.add(name);
        self.tape.take("create-config", spec_asked(spec)).await?;
        self.inner.create_config(name, spec).await
    }

    async fn store_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.tape.state().names.add(name);
        self.tape.take("store-config", spec_asked(spec)).await?;
        self.inner.store_config(name, spec).await
    }

    fn expect_config(&self, name: &str) {
        self.inner.expect_config(name);
    }

    async fn stored_configs(&self) -> Result<Vec<(String, StoredConfig)>, Failure> {
        self.inner.stored_configs().await
    }

    fn stores_configs(&self) -> bool {
        self.inner.stores_configs()
    }

    async fn deploy(&self, deploy: &Deploy) -> Result<VmInfo, Failure> {
        self.tape.state().names.add(&deploy.name);
        let exchange = self.tape.take("deploy", deploy_asked(deploy)).await?;
        let vm = self.inner.deploy(deploy).await?;
        Ok(answer::<VmRecord>(&exchange)?.over(vm))
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
        let scripted = self.inner.sign_out().await?;
        Ok(self.signed_out.clone().unwrap_or(scripted))
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

    fn removal_command(&self, name: &str) -> String {
        self.inner.removal_command(name)
    }
}

struct ReplayedGuests(Arc<Tape>);

#[async_trait]
impl Guests for ReplayedGuests {
    async fn connect(
        &self,
        _vm: &VmInfo,
        login: &Login,
        _gone: &Gone,
        _deadline: Instant,
        _console: &Console,
    ) -> Result<Arc<dyn Guest>, Failure> {
        let exchange = self.0.take("connect", login_asked(login)).await?;
        Ok(Arc::new(ReplayedGuest {
            tape: Arc::clone(&self.0),
            host_key: exchange.answer["host-key"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        }))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

struct ReplayedGuest {
    tape: Arc<Tape>,
    host_key: String,
}

struct Deaf;

#[async_trait]
impl Control for Deaf {
    async fn signal(&self, _name: &str) -> Result<(), Failure> {
        Ok(())
    }
}

#[async_trait]
impl Guest for ReplayedGuest {
    fn host_key(&self) -> String {
        self.host_key.clone()
    }

    async fn exec(&self, exec: Exec) -> Result<Running, Failure> {
        let asked = exec_asked(&exec, <[u8]>::to_vec);
        let (began, exchange) = self.tape.take_begun("exec", asked).await?;
        let end = exchange.program.clone().map(|end| {
            let at = self.tape.times.of_program(&exchange, began, &end);
            (end, at)
        });
        let (events, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            for piece in &exchange.output {
                let stream = if piece.stderr {
                    OutputStream::Stderr
                } else {
                    OutputStream::Stdout
                };
                let event = Event::Output(stream, piece.text.bytes().into());
                if events.send(event).await.is_err() {
                    return;
                }
            }
            let Some((end, at)) = end else {
                return events.closed().await;
            };
            sleep_until(at).await;
            let event = match (end.status, end.signal, end.lost) {
                (_, _, Some(lost)) => Event::Lost(lost.failure()),
                (_, Some(name), None) => Event::Exit(Exit::Signal(ExitSignal {
                    name,
                    core_dumped: false,
                })),
                (status, None, None) => Event::Exit(Exit::Status(status.unwrap_or_default())),
            };
            // The run may be over already.
            let _ = events.send(event).await;
        });
        Ok(Running {
            events: receiver,
            control: Arc::new(Deaf),
        })
    }

    async fn write_file(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Failure> {
        let asked = write_asked(path, contents, mode);
        self.tape.take("write-file", asked).await.map(drop)
    }

    async fn upload(
        &self,
        _source: &Dir,
        target: &str,
        choice: &Choice,
        _console: &Console,
    ) -> Result<Copied, Failure> {
        let exchange = self
            .tape
            .take("upload", upload_asked(target, choice))
            .await?;
        Ok(answer::<CopiedRecord>(&exchange)?.copied())
    }

    async fn download(
        &self,
        source: &str,
        workspace: &Dir,
        into: &Path,
        choice: &Choice,
        _console: &Console,
    ) -> Result<Copied, Failure> {
        let asked = download_asked(source, into, choice);
        let copied = answer::<CopiedRecord>(&self.tape.take("download", asked).await?)?.copied();
        for entry in &copied.entries {
            let place = into.join(&entry.path);
            let read = self.tape.files.get(&*place.to_string_lossy());
            let contents = match read {
                Some(FileRecord::Contents(blob)) => blob.bytes(),
                _ => vec![0; usize::try_from(entry.size.min(STAND_IN_BYTES_MAX)).unwrap_or(0)],
            };
            place
                .parent()
                .map_or(Ok(()), |parent| workspace.create_dir_all(parent))
                .and_then(|()| workspace.write(&place, contents))
                .map_err(|error| {
                    Failure::files("files.workspace", "the test's workspace cannot be used")
                        .with_source(error)
                })?;
        }
        Ok(copied)
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::StoppedRecord;

    pub(super) fn session(calls: Vec<Exchange>, timeout_ms: u64) -> Session {
        let rest = serde_json::json!({
            "session": crate::session::FORMAT,
            "recorded-by": "a test",
            "began": "2026-01-01T00:00:00Z",
            "plugin": { "name": "a", "version": "1.0.0", "digest": "" },
            "given": { "timeout-ms": timeout_ms },
            "calls": [],
            "ended": { "outcome": "succeeded", "exit-code": 0 },
        });
        Session {
            calls,
            ..serde_json::from_value(rest).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_call_that_a_run_stopped_between_two_would_have_made_next_waits_for_the_stop()
    {
        let call = |name: &str, after_stop| Exchange {
            call: name.to_owned(),
            at_ms: Some(10),
            took_ms: 10,
            after_stop,
            ..Exchange::default()
        };
        // Whether calls that are not in the session wait, and how many count as extras.
        let made_early = async |between_calls: bool, has_made_images: bool| {
            let calls = vec![call("images", false), call("purge-run", true)];
            let mut session = session(calls, 3_600_000);
            session.given.stopped = Some(StoppedRecord {
                after_ms: 50,
                signal: "SIGTERM".to_owned(),
            });
            session.ended.between_calls = between_calls;
            let tape = Tape::of(&session);
            if has_made_images {
                tape.take("images", Value::Null).await.unwrap();
            }
            let mut waits = [false; 2];
            for waits in &mut waits {
                let nodes = tape.take("nodes", Value::Null);
                let early = tokio::time::timeout(Duration::from_millis(5), nodes);
                *waits = early.await.is_err();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let late = tape.take("nodes", Value::Null).await;
            assert!(late.is_err(), "the run is over");
            (waits, tape.state().extras)
        };
        assert_eq!(made_early(true, true).await, ([true, false], 2));
        assert_eq!(made_early(true, false).await, ([false, false], 3));
        assert_eq!(made_early(false, true).await, ([false, false], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_a_stop_cut_off_does_not_end_when_it_is_played_again() {
        let call = |unended| Exchange {
            call: "purge-run".to_owned(),
            took_ms: 1,
            unended,
            ..Exchange::default()
        };
        let tape = Tape::of(&session(vec![call(false), call(true)], 3_600_000));
        tape.tidies(Tidying::PurgeRun).await.unwrap();
        let cut_off = tape.tidies(Tidying::PurgeRun);
        let ended = tokio::time::timeout(Duration::from_secs(3600), cut_off).await;
        assert!(ended.is_err());
        // It was made all the same.
        assert!(tape.state().left.iter().all(Option::is_none));
        assert_eq!(tape.state().extras, 0);
    }
}
