//! `ssh`: work inside the run's VMs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plugin_manifest::Capability;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use wasmtime::component::Resource;

use super::cluster::Vm;
use super::secrets::Secret;
use super::wait::Waitable;
use super::workspace;
use crate::backend::{
    Choice, Control, Copied, Event, Exec, Guest, Input, Login, OutputStream, Running,
};
use crate::bindings::orka::plugin::ssh::{
    ConnectOptions, ExecOptions, Host, HostCommand, HostConnection, Output, OutputChunk, Shell,
    Stdin, Stream, TransferOptions, TransferSummary,
};
use crate::bindings::orka::plugin::types::Exit;
use crate::console::{bytes, millis, seconds};
use crate::failure::{Class, Failure, Kind};
use crate::host_folder;
use crate::lines::LineAssembler;
use crate::state::{Artifacts, CallError, HostState, RunContext};

/// What the contract promises at most for a file written by the plugin.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Captured output kept for the guest; a program that is ahead of the guest by more has to wait.
const CAPTURE_BYTES_MAX: usize = 1024 * 1024;

/// Signals of RFC 4254 section 6.10, and the two user signals that OpenSSH passes on as well.
const SIGNALS: [&str; 13] = [
    "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1",
    "USR2",
];

/// A login in a VM.
pub struct Connection {
    guest: Arc<dyn Guest>,
}

/// A program that was started.
pub struct Command {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    control: Arc<dyn Control>,
    captured: bool,
}

/// What the task that drains a program's output and the guest's calls share.
#[derive(Default)]
struct Shared {
    ending: Mutex<Option<Result<Exit, Failure>>>,
    output: Mutex<VecDeque<(OutputStream, Bytes)>>,
    /// Told when output arrived, was taken, or will not arrive any more.
    changed: Notify,
}

impl Shared {
    fn output(&self) -> std::sync::MutexGuard<'_, VecDeque<(OutputStream, Bytes)>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> Option<Result<Exit, Failure>> {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn captured_bytes(&self) -> usize {
        self.output().iter().map(|(_, data)| data.len()).sum()
    }
}

impl Host for HostState {
    async fn connect(
        &mut self,
        vm: Resource<Vm>,
        options: ConnectOptions,
    ) -> Result<Resource<Connection>, CallError> {
        let info = self.table.get(&vm)?.info.clone();
        let login = Login {
            username: options.username,
            password: self.secret(options.password.as_ref())?,
            private_key: self.secret(options.private_key.as_ref())?,
        };
        let run = self.run.clone();
        let guest = run
            .call("ssh.connect", async {
                run.grants
                    .require_either(Capability::SshExec, Capability::SshTransfer)?;
                let patience = options
                    .timeout_ms
                    .map_or(run.guests.patience(), Duration::from_millis);
                let began = tokio::time::Instant::now();
                let guest = run
                    .guests
                    .connect(&info, &login, run.deadline_within(patience), &run.console)
                    .await?;
                run.console.info(&format!(
                    "SSH to `{}` after {}, host key {}",
                    info.name,
                    seconds(began.elapsed()),
                    guest.host_key()
                ));
                Ok(guest)
            })
            .await?;
        self.keep(Connection { guest })
    }
}

impl HostState {
    fn secret(
        &self,
        handle: Option<&Resource<Secret>>,
    ) -> Result<Option<secrecy::SecretString>, CallError> {
        Ok(handle
            .map(|handle| self.table.get(handle).map(|secret| secret.value().clone()))
            .transpose()?)
    }

    fn guest(&self, connection: &Resource<Connection>) -> Result<Arc<dyn Guest>, CallError> {
        Ok(self.table.get(connection)?.guest.clone())
    }

    /// The program as the backend takes it, with every handle looked up.
    fn exec_request(
        &self,
        program: String,
        arguments: Vec<String>,
        options: ExecOptions,
    ) -> Result<Exec, CallError> {
        let mut secret_env = Vec::new();
        for (name, secret) in &options.secret_env {
            secret_env.push((name.clone(), self.table.get(secret)?.value().clone()));
        }
        let input = match options.stdin {
            Stdin::Empty => Input::Empty,
            Stdin::Bytes(bytes) => Input::Bytes(bytes),
            Stdin::Secret(secret) => Input::Secret(self.table.get(&secret)?.value().clone()),
            Stdin::File(path) => {
                self.run.grants.require(Capability::WorkspaceRead)?;
                Input::File(workspace::open_for_reading(
                    &self.run.workspace()?.dir,
                    &path,
                )?)
            }
        };
        Ok(Exec {
            program,
            arguments,
            cwd: options.cwd,
            env: options.env,
            secret_env,
            input,
            login_shell: matches!(options.shell, Shell::Login),
            pty: options.pty,
        })
    }
}

impl HostConnection for HostState {
    async fn host_key(&mut self, connection: Resource<Connection>) -> wasmtime::Result<String> {
        Ok(self.table.get(&connection)?.guest.host_key())
    }

    async fn exec(
        &mut self,
        connection: Resource<Connection>,
        program: String,
        arguments: Vec<String>,
        options: ExecOptions,
    ) -> Result<Resource<Command>, CallError> {
        let guest = self.guest(&connection)?;
        let run = self.run.clone();
        run.grants.require(Capability::SshExec)?;
        let output = options.output;
        let exec = self.exec_request(program, arguments, options)?;
        let running = run.call("ssh.exec", guest.exec(exec)).await?;
        let shared = Arc::<Shared>::default();
        let (set_ended, ended) = watch::channel(false);
        let command = Command {
            shared: shared.clone(),
            ended,
            control: running.control.clone(),
            captured: matches!(output, Output::Capture),
        };
        let work_run = run.clone();
        run.spawn(async move {
            drain(&work_run, running, &shared, output).await;
            // Nobody waiting any more is fine.
            let _ = set_ended.send(true);
            shared.changed.notify_waiters();
        });
        self.keep(command)
    }

    async fn write_file(
        &mut self,
        connection: Resource<Connection>,
        path: String,
        contents: Vec<u8>,
        mode: u32,
    ) -> Result<(), CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call("ssh.write-file", async {
            run.grants.require(Capability::SshTransfer)?;
            if contents.len() > FILE_BYTES_MAX {
                return Err(Failure::invalid(
                    "files.limit",
                    format!("`{path}` would be larger than {FILE_BYTES_MAX} bytes"),
                )
                .with_hint("put it into the workspace and upload it"));
            }
            guest.write_file(&path, &contents, mode & 0o7777).await
        })
        .await
    }

    async fn upload(
        &mut self,
        connection: Resource<Connection>,
        source: String,
        target: String,
        options: TransferOptions,
    ) -> Result<TransferSummary, CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call("ssh.upload", async {
            run.grants.require(Capability::SshTransfer)?;
            run.grants.require(Capability::WorkspaceRead)?;
            let path = workspace::inside(&source)?;
            let dir = run.workspace()?.dir.open_dir(&path).map_err(|error| {
                Failure::new(
                    Kind::NotFound,
                    Class::Files,
                    "files.not-found",
                    format!("cannot open the directory `{source}` of the workspace"),
                )
                .with_source(error)
            })?;
            let mut choice = choice(options);
            choice.exclude.push(format!("/{}", host_folder::NAME));
            let began = tokio::time::Instant::now();
            let copied = guest.upload(&dir, &target, &choice, &run.console).await?;
            tell(run, "copied in", &copied, began.elapsed());
            Ok(summary(&copied, began.elapsed()))
        })
        .await
    }

    async fn download(
        &mut self,
        connection: Resource<Connection>,
        source: String,
        target: String,
        options: TransferOptions,
    ) -> Result<TransferSummary, CallError> {
        let guest = self.guest(&connection)?;
        let run = &self.run;
        run.call("ssh.download", async {
            run.grants.require(Capability::SshTransfer)?;
            run.grants.require(Capability::WorkspaceWrite)?;
            let into = workspace::inside(&target)?;
            let workspace = run.workspace()?;
            let mut choice = choice(options);
            choice.exclude.push(format!("/{}", host_folder::NAME));
            let began = tokio::time::Instant::now();
            let copied = guest
                .download(&source, &workspace.dir, &into, &choice, &run.console)
                .await?;
            if copied.files == 0 && !choice.include.is_empty() {
                return Err(Failure::new(
                    Kind::NotFound,
                    Class::Files,
                    "files.nothing-matched",
                    format!(
                        "no file in `{source}` matches {}",
                        choice.include.join(", ")
                    ),
                ));
            }
            tell(run, "copied back", &copied, began.elapsed());
            if let Some(digest) = &copied.digest {
                run.results
                    .set_own("artifacts-digest", &format!("sha256:{digest}"))?;
            }
            let mut artifacts = run.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
            *artifacts = Artifacts {
                digest: copied.digest.clone(),
                files: copied.entries.clone(),
            };
            Ok(summary(&copied, began.elapsed()))
        })
        .await
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        let connection = self.table.delete(connection)?;
        // Closing takes a round trip that the guest need not wait for.
        self.run
            .spawn(async move { connection.guest.close().await });
        Ok(())
    }
}

fn choice(options: TransferOptions) -> Choice {
    Choice {
        include: options.include,
        exclude: options.exclude,
        max_bytes: options.max_bytes,
        max_entries: options.max_entries.map(u64::from),
    }
}

fn summary(copied: &Copied, elapsed: Duration) -> TransferSummary {
    TransferSummary {
        files: copied.files,
        bytes: copied.bytes,
        elapsed_ms: millis(elapsed),
        digest: copied.digest.clone(),
    }
}

fn tell(run: &RunContext, what: &str, copied: &Copied, elapsed: Duration) {
    let rate = copied.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let files = if copied.files == 1 { "file" } else { "files" };
    run.console.info(&format!(
        "{what} {} {files}, {} in {} ({}/s)",
        copied.files,
        bytes(copied.bytes),
        seconds(elapsed),
        bytes(rate as u64)
    ));
}

/// Takes a program's output as it comes, until it ends, and notes how it ended.
async fn drain(run: &RunContext, mut running: Running, shared: &Shared, output: Output) {
    let mut stdout = LineAssembler::new(run.console.masker().clone());
    let mut stderr = LineAssembler::new(run.console.masker().clone());
    let ending = loop {
        match running.events.recv().await {
            Some(Event::Output(stream, data)) => match output {
                Output::Discard => {}
                Output::Log => {
                    let assembler = if stream == OutputStream::Stdout {
                        &mut stdout
                    } else {
                        &mut stderr
                    };
                    assembler
                        .push(&data)
                        .iter()
                        .for_each(|line| run.console.output(line));
                }
                Output::Capture => capture(shared, stream, data).await,
            },
            Some(Event::Exit(exit)) => break Ok(exit),
            Some(Event::Lost(failure)) => break Err(failure),
            None => {
                break Err(Failure::new(
                    Kind::Unavailable,
                    Class::Ssh,
                    "ssh.lost",
                    "the connection to the VM ended early",
                ));
            }
        }
    };
    for assembler in [&mut stdout, &mut stderr] {
        assembler
            .finish()
            .iter()
            .for_each(|line| run.console.output(line));
    }
    *shared.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
}

/// Keeps output for the guest, and holds the program back while the guest is behind.
async fn capture(shared: &Shared, stream: OutputStream, data: Bytes) {
    loop {
        let taken = shared.changed.notified();
        tokio::pin!(taken);
        // Registered before looking, so that output taken in between is not missed.
        taken.as_mut().enable();
        if shared.captured_bytes() < CAPTURE_BYTES_MAX {
            shared.output().push_back((stream, data));
            shared.changed.notify_waiters();
            return;
        }
        taken.await;
    }
}

impl HostCommand for HostState {
    async fn subscribe(
        &mut self,
        command: Resource<Command>,
    ) -> wasmtime::Result<Resource<Waitable>> {
        let ended = self.table.get(&command)?.ended.clone();
        Ok(self.table.push(Waitable::Flag(ended))?)
    }

    async fn wait(
        &mut self,
        command: Resource<Command>,
        timeout_ms: Option<u64>,
    ) -> Result<Option<Exit>, CallError> {
        let command = self.table.get(&command)?;
        let (shared, mut ended) = (command.shared.clone(), command.ended.clone());
        self.run
            .call("ssh.wait", async {
                let end = ended.wait_for(|ended| *ended);
                match timeout_ms {
                    // An error means that nobody drains the program any more; the ending says why.
                    None => drop(end.await),
                    // Running out of time is an answer here, not an error.
                    Some(limit) => drop(timeout(Duration::from_millis(limit), end).await),
                }
                shared.ending().transpose()
            })
            .await
    }

    async fn read_output(
        &mut self,
        command: Resource<Command>,
        max_bytes: u32,
        timeout_ms: u64,
    ) -> Result<Option<Vec<OutputChunk>>, CallError> {
        let command = self.table.get(&command)?;
        let (shared, captured) = (command.shared.clone(), command.captured);
        self.run
            .call("ssh.read-output", async {
                if !captured {
                    return Err(Failure::new(
                        Kind::Conflict,
                        Class::Plugin,
                        "command.not-captured",
                        "this program's output is not captured",
                    ));
                }
                let some = async {
                    loop {
                        let arrived = shared.changed.notified();
                        tokio::pin!(arrived);
                        arrived.as_mut().enable();
                        if !shared.output().is_empty() || shared.ending().is_some() {
                            return;
                        }
                        arrived.await;
                    }
                };
                // Running out of time is an answer here: no output came.
                let _ = timeout(Duration::from_millis(timeout_ms), some).await;
                let chunks = take(&shared, max_bytes as usize);
                match (chunks.is_empty(), shared.ending()) {
                    (true, Some(Ok(_))) => Ok(None),
                    (true, Some(Err(failure))) => Err(failure),
                    _ => Ok(Some(chunks)),
                }
            })
            .await
    }

    async fn signal(&mut self, command: Resource<Command>, name: String) -> Result<(), CallError> {
        let control = self.table.get(&command)?.control.clone();
        self.run
            .call("ssh.signal", async {
                if !SIGNALS.contains(&name.as_str()) {
                    return Err(Failure::invalid(
                        "ssh.signal",
                        format!("there is no signal `{}`", name.escape_default()),
                    )
                    .with_hint(format!("use one of {}", SIGNALS.join(", "))));
                }
                control.signal(&name).await
            })
            .await
    }

    async fn drop(&mut self, command: Resource<Command>) -> wasmtime::Result<()> {
        // The program goes on; whoever drops the handle only does not care how it ends.
        self.table.delete(command)?;
        Ok(())
    }
}

/// Takes captured output, splitting the last piece if it is too large.
fn take(shared: &Shared, max_bytes: usize) -> Vec<OutputChunk> {
    let mut output = shared.output();
    let mut chunks = Vec::new();
    let mut room = max_bytes;
    while room > 0
        && let Some((stream, mut data)) = output.pop_front()
    {
        let piece = data.split_to(data.len().min(room));
        room -= piece.len();
        if !data.is_empty() {
            output.push_front((stream, data));
        }
        chunks.push(OutputChunk {
            stream: match stream {
                OutputStream::Stdout => Stream::Stdout,
                OutputStream::Stderr => Stream::Stderr,
            },
            data: piece.to_vec(),
        });
    }
    drop(output);
    shared.changed.notify_waiters();
    chunks
}
