//! Plays a recorded session again: the plugin's calls are answered as they were, matched by what they ask for.

mod tape;
mod times;

use std::path::Path;
use std::sync::Arc;
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
use crate::failure::Failure;
use crate::interference::Interference;
use crate::outcome::StopSignal;
use crate::session::{
    CopiedRecord, Exchange, FactsRecord, FileRecord, NodeRecord, Session, VmRecord, deploy_asked,
    download_asked, exec_asked, login_asked, spec_asked, upload_asked, write_asked,
};
use tape::Tape;

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
