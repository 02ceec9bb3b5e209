//! VMs that do what the scenario says: files in memory, programs by expectation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::ssh::transfer_failure;
use crate::backend::{
    Choice, Control, Copied, Event, Exec, FileDigest, Gone, Guest, Guests, Login, OutputStream,
    Running,
};
use crate::bindings::orka::plugin::cluster::VmInfo;
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use async_trait::async_trait;
use cap_std::fs::Dir;
use guest_ssh::Selection;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::model::{Act, End, ExecReply, Expected, Faults, Scenario, Times};

/// A VM's SSH answers after so long if nothing else is said in production, too.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    execs: Vec<(Expected, u32)>,
    unexpected: Vec<String>,
    environment: Vec<(String, String)>,
    faults: Faults,
}

/// What all VMs of a scenario share.
struct Shared {
    calls: Arc<Mutex<Vec<String>>>,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self, call: &str, arguments: &str) -> Result<(), Failure> {
        let shown = if arguments.is_empty() {
            call.to_owned()
        } else {
            format!("{call} {arguments}")
        };
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(shown);
        self.state().faults.check(call)
    }
}

pub(crate) struct ScriptedGuests {
    shared: Arc<Shared>,
    boot_time: Duration,
}

impl ScriptedGuests {
    pub(crate) fn new(scenario: &Scenario, calls: Arc<Mutex<Vec<String>>>) -> Self {
        let state = State {
            execs: scenario.execs.iter().cloned().map(|it| (it, 0)).collect(),
            faults: Faults::new(&scenario.failures),
            ..State::default()
        };
        Self {
            shared: Arc::new(Shared {
                calls,
                state: Mutex::new(state),
            }),
            boot_time: scenario.boot_time,
        }
    }

    /// Programs that ran and were not expected, as they were called.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        self.shared.state().unexpected.clone()
    }

    /// Programs that were expected and did not run, or not often enough.
    pub(crate) fn missing(&self) -> Vec<String> {
        let state = self.shared.state();
        let missing = state
            .execs
            .iter()
            .filter_map(|(expected, served)| match expected.times {
                Times::Exactly(times) if times > *served => Some((expected, times - served)),
                _ => None,
            });
        missing
            .flat_map(|(expected, times)| (0..times).map(|_| expected.line()))
            .collect()
    }

    /// Plain environment variables that programs got.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.shared.state().environment.clone()
    }

    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.shared.state().files.clone()
    }
}

#[async_trait]
impl Guests for ScriptedGuests {
    async fn connect(
        &self,
        vm: &VmInfo,
        _login: &Login,
        _gone: &Gone,
        deadline: Instant,
        _console: &Console,
    ) -> Result<Arc<dyn Guest>, Failure> {
        self.shared.called("connect", "")?;
        let up = Instant::now() + self.boot_time;
        sleep_until(up.min(deadline)).await;
        if up > deadline {
            let message = format!(
                "{}:{} was not ready for SSH in time",
                vm.address, vm.ssh_port
            );
            return Err(Failure::new(
                Kind::TimedOut,
                Class::Ssh,
                "ssh.refused",
                message,
            ));
        }
        Ok(Arc::new(ScriptedGuest(Arc::clone(&self.shared))))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

struct ScriptedGuest(Arc<Shared>);

impl ScriptedGuest {
    /// The reply to a program: the first expectation that fits and is not used up.
    fn reply(&self, program: &str, arguments: &[String], line: &str) -> Option<ExecReply> {
        let mut state = self.0.state();
        let fitting: Vec<usize> = (0..state.execs.len())
            .filter(|position| state.execs[*position].0.fits(program, arguments))
            .collect();
        let open = |(rank, position): (usize, &usize)| {
            let (expected, served) = &state.execs[*position];
            let is_open = match expected.times {
                Times::Exactly(times) => *served < times,
                Times::Any => true,
                Times::LastServesAll => *served == 0 || rank + 1 == fitting.len(),
            };
            is_open.then_some(*position)
        };
        let Some(position) = fitting.iter().enumerate().find_map(open) else {
            state.unexpected.push(line.to_owned());
            return None;
        };
        let (expected, served) = &mut state.execs[position];
        *served += 1;
        Some(expected.reply.clone())
    }
}

/// Notes signals; no program heeds them.
struct Deaf(Arc<Shared>);

#[async_trait]
impl Control for Deaf {
    async fn signal(&self, name: &str) -> Result<(), Failure> {
        self.0.called("signal", name)
    }
}

#[async_trait]
impl Guest for ScriptedGuest {
    fn host_key(&self) -> String {
        "SHA256:scripted".to_owned()
    }

    async fn exec(&self, exec: Exec) -> Result<Running, Failure> {
        let line = std::iter::once(exec.program.clone())
            .chain(exec.arguments.clone())
            .collect::<Vec<_>>()
            .join(" ");
        let call = if exec.detach { "exec-detached" } else { "exec" };
        self.0.called(call, &line)?;
        self.0.state().environment.extend(exec.env.clone());
        let Some(reply) = self.reply(&exec.program, &exec.arguments, &line) else {
            let message = format!("the scenario does not expect the program `{line}`");
            return Err(Failure::new(
                Kind::Other,
                Class::Internal,
                "testkit.unexpected",
                message,
            ));
        };
        let (events, receiver) = mpsc::channel(8);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            for act in reply.acts {
                if !play(act, exec.detach, &events).await {
                    return;
                }
            }
            sleep(reply.after).await;
            shared.state().files.extend(reply.writes);
            let ending = match reply.end {
                End::Exit(exit) => Event::Exit(exit),
                End::Lost => Event::Lost(lost()),
                End::Never => return events.closed().await,
            };
            // The run may be over already.
            let _ = events.send(ending).await;
        });
        Ok(Running {
            events: receiver,
            control: Arc::new(Deaf(Arc::clone(&self.0))),
        })
    }

    async fn write_file(&self, path: &str, contents: &[u8], _mode: u32) -> Result<(), Failure> {
        self.0.called("write-file", path)?;
        self.0
            .state()
            .files
            .insert(path.to_owned(), contents.to_vec());
        Ok(())
    }

    async fn upload(
        &self,
        source: &Dir,
        target: &str,
        choice: &Choice,
        _console: &Console,
    ) -> Result<Copied, Failure> {
        self.0.called("upload", target)?;
        let selection = selection(choice)?;
        let mut copied = Copied::default();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            let path = if directory.is_empty() {
                "."
            } else {
                &directory
            };
            for entry in source.read_dir(path).map_err(trouble)? {
                let entry = entry.map_err(trouble)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let name = if directory.is_empty() {
                    name
                } else {
                    format!("{directory}/{name}")
                };
                let is_directory = entry.file_type().map_err(trouble)?.is_dir();
                if !selection.selects(Path::new(&name), is_directory) {
                    continue;
                }
                if is_directory {
                    directories.push(name);
                    continue;
                }
                let contents = source.read(&name).map_err(trouble)?;
                copied.files += 1;
                copied.bytes += contents.len() as u64;
                self.0
                    .state()
                    .files
                    .insert(format!("{target}/{name}"), contents);
            }
        }
        Ok(copied)
    }

    async fn download(
        &self,
        source: &str,
        workspace: &Dir,
        into: &Path,
        choice: &Choice,
        _console: &Console,
    ) -> Result<Copied, Failure> {
        self.0.called("download", source)?;
        let selection = selection(choice)?;
        let mut copied = Copied::default();
        let prefix = format!("{source}/");
        let mut found: Vec<(FileDigest, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for (path, contents) in self.0.state().files.clone() {
            let Some(name) = path.strip_prefix(&prefix) else {
                continue;
            };
            if !selection.selects(Path::new(name), false) {
                continue;
            }
            bytes += contents.len() as u64;
            for (limit, allowed, wanted) in [
                ("bytes", choice.max_bytes, bytes),
                ("entries", choice.max_entries, found.len() as u64 + 1),
            ] {
                if wanted > allowed {
                    return Err(transfer_failure(guest_ssh::Error::LimitExceeded {
                        direction: guest_ssh::Direction::Download,
                        limit,
                        allowed,
                        entry: name.to_owned(),
                    }));
                }
            }
            let file = FileDigest {
                path: name.into(),
                size: contents.len() as u64,
                sha256: Sha256::digest(&contents).into(),
            };
            found.push((file, contents));
        }
        let left_out = match &choice.review {
            None => Vec::new(),
            Some(review) => {
                let files = found.iter().map(|(file, _)| file.clone());
                review.look(files.collect()).await?
            }
        };
        copied.left_out = left_out.len() as u64;
        let mut set = Sha256::new();
        for (at, (file, contents)) in found.into_iter().enumerate() {
            if left_out.contains(&at) {
                continue;
            }
            let place = into.join(&file.path);
            place
                .parent()
                .map_or(Ok(()), |parent| workspace.create_dir_all(parent))
                .map_err(trouble)?;
            workspace.write(&place, &contents).map_err(trouble)?;
            set.update(file.sums_line());
            copied.files += 1;
            copied.bytes += file.size;
            copied.entries.push(file);
        }
        copied.digest = (copied.files > 0).then(|| hex::encode(set.finalize()));
        Ok(copied)
    }

    async fn close(&self) {}
}

/// Does one thing of a program. Says whether the program goes on.
async fn play(act: Act, is_detached: bool, events: &mpsc::Sender<Event>) -> bool {
    let event = match act {
        Act::Stdout(data) => Event::Output(OutputStream::Stdout, data.into()),
        Act::Stderr(data) => Event::Output(OutputStream::Stderr, data.into()),
        Act::Pause(duration) => {
            sleep(duration).await;
            return true;
        }
        Act::LoseConnection(duration) if is_detached => {
            let lost = Event::Interrupted("the scenario cut it".to_owned());
            if events.send(lost).await.is_err() {
                return false;
            }
            sleep(duration).await;
            Event::Resumed
        }
        Act::LoseConnection(_) => {
            // The run may be over already.
            let _ = events.send(Event::Lost(lost())).await;
            return false;
        }
    };
    events.send(event).await.is_ok()
}

fn lost() -> Failure {
    Failure::new(
        Kind::Unavailable,
        Class::Ssh,
        "ssh.lost",
        "the connection to 10.0.0.1:8822 was lost",
    )
}

fn selection(choice: &Choice) -> Result<Selection, Failure> {
    Selection::parse(&choice.include, &choice.exclude)
        .map_err(|error| Failure::invalid("files.pattern", error.to_string()))
}

fn trouble(error: std::io::Error) -> Failure {
    Failure::files("files.workspace", "the test's workspace cannot be used").with_source(error)
}
