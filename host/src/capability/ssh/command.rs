//! A program that runs in a VM: its end, its captured output, its signals.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use wasmtime::component::Resource;

use super::super::wait::Waitable;
use super::silence::{Silence, Step};
use crate::backend::{Control, Event, Guest, OutputStream, Running};
use crate::bindings::orka::plugin::ssh::{HostCommand, Output, OutputChunk, Stream};
use crate::bindings::orka::plugin::types::Exit;
use crate::failure::{Class, Failure, Kind};
use crate::lines::LineAssembler;
use crate::mask::StreamMasker;
use crate::state::{CallError, HostState, RunContext};

/// Captured output kept for the guest; a program that is ahead of the guest by more has to wait.
const CAPTURE_BYTES_MAX: usize = 1024 * 1024;

/// What a piece of captured output takes beside its bytes, so that many small ones stay within the limit too.
const PIECE_OVERHEAD: usize = 64;

/// How long asking for a sign of life may take; whatever holds it up is a sign of none.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Signals of RFC 4254 section 6.10, and the two user signals that OpenSSH passes on as well.
const SIGNALS: [&str; 13] = [
    "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1",
    "USR2",
];

/// What is done with a program's output, and how long it may be silent.
pub(super) struct Treatment {
    pub(super) output: Output,
    pub(super) silence: Silence,
    /// What each of its lines in the log begins with.
    pub(super) label: String,
}

/// A program that was started.
pub struct Command {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    control: Arc<dyn Control>,
    is_captured: bool,
}

impl Command {
    /// Takes up a program that was just started in a VM, and what lets it count as running.
    pub(super) fn new(
        run: &Arc<RunContext>,
        guest: Arc<dyn Guest>,
        running: Running,
        treatment: Treatment,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        shared.state().slot = Some(slot);
        let (set_ended, ended) = watch::channel(false);
        run.programs.add(&running.control, ended.clone());
        let command = Self {
            shared: Arc::clone(&shared),
            ended,
            control: Arc::clone(&running.control),
            is_captured: matches!(treatment.output, Output::Capture),
        };
        let work_run = Arc::clone(run);
        run.spawn(async move {
            drain(&work_run, running, &shared, treatment).await;
            // Until here, so that a program can be asked to stop also when the plugin's handles are gone.
            drop(guest);
            // Nobody waiting any more is fine.
            let _ = set_ended.send(true);
            shared.changed.notify_waiters();
        });
        command
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // Nobody can read any more: a program that waits for room would wait for ever.
        self.shared.discard();
    }
}

/// What the task that drains a program's output and the guest's calls share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when output arrived, was taken, or will not arrive or be taken any more.
    changed: Notify,
}

#[derive(Default)]
struct State {
    output: VecDeque<(OutputStream, BytesMut)>,
    held: usize,
    is_unwanted: bool,
    ending: Option<Result<Exit, Failure>>,
    /// Given back once the program has ended and none of its output is kept.
    slot: Option<OwnedSemaphorePermit>,
}

impl State {
    fn release_if_over(&mut self) {
        if self.ending.is_some() && self.output.is_empty() {
            self.slot = None;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> Option<Result<Exit, Failure>> {
        self.state().ending.clone()
    }

    /// Keeps output for the guest, and holds the program back while the guest is behind.
    async fn capture(&self, stream: OutputStream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that output taken in between is not missed.
            changed.as_mut().enable();
            if self.keep(stream, data) {
                self.changed.notify_waiters();
                return;
            }
            changed.await;
        }
    }

    /// Keeps output if there is room, or nobody wants it; says whether the program may go on.
    fn keep(&self, stream: OutputStream, data: &[u8]) -> bool {
        let mut state = self.state();
        if state.is_unwanted {
            return true;
        }
        if state.held >= CAPTURE_BYTES_MAX {
            return false;
        }
        state.held += data.len();
        match state.output.back_mut() {
            Some((last, kept)) if *last == stream => kept.extend_from_slice(data),
            _ => {
                state.held += PIECE_OVERHEAD;
                state.output.push_back((stream, BytesMut::from(data)));
            }
        }
        true
    }

    fn end(&self, ending: Result<Exit, Failure>) {
        let mut state = self.state();
        state.ending = Some(ending);
        state.release_if_over();
    }

    fn discard(&self) {
        let mut state = self.state();
        state.is_unwanted = true;
        state.output.clear();
        state.held = 0;
        state.release_if_over();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until there is output, or will be none.
    async fn readable(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                if !state.output.is_empty() || state.ending.is_some() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Takes captured output, splitting the last piece if it is too large. None if there is none and will be none.
    fn take(&self, max_bytes: usize) -> Result<Option<Vec<OutputChunk>>, Failure> {
        let mut state = self.state();
        if state.output.is_empty() {
            // Under one lock with the look at the output: what came last is never mistaken for nothing.
            return match &state.ending {
                None => Ok(Some(Vec::new())),
                Some(Ok(_)) => Ok(None),
                Some(Err(failure)) => Err(failure.clone()),
            };
        }
        let mut chunks = Vec::new();
        let mut room = max_bytes;
        while room > 0
            && let Some((stream, mut data)) = state.output.pop_front()
        {
            let piece = data.split_to(data.len().min(room));
            room -= piece.len();
            state.held -= piece.len();
            if data.is_empty() {
                state.held -= PIECE_OVERHEAD;
            } else {
                state.output.push_front((stream, data));
            }
            chunks.push(OutputChunk {
                stream: match stream {
                    OutputStream::Stdout => Stream::Stdout,
                    OutputStream::Stderr => Stream::Stderr,
                },
                data: piece.to_vec(),
            });
        }
        state.release_if_over();
        drop(state);
        self.changed.notify_waiters();
        Ok(Some(chunks))
    }
}

/// Both streams of a program, each through the masker on its own.
struct Streams<T> {
    stdout: T,
    stderr: T,
}

impl<T> Streams<T> {
    fn of(&mut self, stream: OutputStream) -> &mut T {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

/// Takes a program's output as it comes, until it ends, and notes how it ended.
async fn drain(run: &RunContext, mut running: Running, shared: &Shared, treatment: Treatment) {
    let Treatment {
        output,
        mut silence,
        label,
    } = treatment;
    let masker = run.console.masker();
    let mut lines = Streams {
        stdout: LineAssembler::new(masker.clone()),
        stderr: LineAssembler::new(masker.clone()),
    };
    let mut pieces = Streams {
        stdout: StreamMasker::new(masker.clone()),
        stderr: StreamMasker::new(masker.clone()),
    };
    let ending = loop {
        let event = tokio::select! {
            biased;
            event = running.events.recv() => event,
            step = silence.passes() => {
                match step {
                    Step::Doubt => {
                        let asked = timeout(ASK_MAX, running.control.ask_for_sign()).await;
                        if asked == Ok(false) {
                            silence.heard();
                        }
                    }
                    Step::Ask(signal) => {
                        if signal == "TERM" {
                            run.console.warn(&format!("{label}{}; it is asked to stop", silence.message()));
                        }
                        let control = Arc::clone(&running.control);
                        run.spawn(async move {
                            if let Err(failure) = control.signal(signal).await {
                                tracing::debug!(error = %failure, signal, "a silent program could not be signalled");
                            }
                        });
                    }
                    Step::GiveUp => break Err(silence.failure()),
                }
                continue;
            }
        };
        match event {
            Some(Event::Output(stream, data)) => {
                match output {
                    Output::Discard => {}
                    Output::Log => {
                        for mut line in lines.of(stream).push(&data) {
                            line.insert_str(0, &label);
                            run.console.output(&line).await;
                        }
                    }
                    Output::Capture => {
                        let data = pieces.of(stream).push(&data);
                        shared.capture(stream, &data).await;
                    }
                }
                silence.broken();
            }
            Some(Event::Interrupted(reason)) => {
                silence.suspend();
                run.console.warn(&format!(
                    "{label}the connection to the VM was lost ({reason}); the program runs on, and a new connection is made"
                ));
            }
            Some(Event::Resumed) => {
                silence.broken();
                run.console.info(&format!("{label}the connection to the VM is back, and nothing of the program's output was lost"));
            }
            Some(Event::Heard) => silence.heard(),
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
    for stream in [OutputStream::Stdout, OutputStream::Stderr] {
        for mut line in lines.of(stream).finish() {
            line.insert_str(0, &label);
            run.console.output(&line).await;
        }
        let rest = pieces.of(stream).finish();
        shared.capture(stream, &rest).await;
    }
    // How a program ends that was stopped says nothing about the build.
    let ending = if silence.is_over() {
        Err(silence.failure())
    } else {
        ending
    };
    shared.end(ending);
}

impl HostCommand for HostState {
    async fn subscribe(
        &mut self,
        command: Resource<Command>,
    ) -> wasmtime::Result<Resource<Waitable>> {
        let ended = self.table.get(&command)?.ended.clone();
        self.keep_or_trap(Waitable::Flag(ended))
    }

    async fn wait(
        &mut self,
        command: Resource<Command>,
        timeout_ms: Option<u64>,
    ) -> Result<Option<Exit>, CallError> {
        let command = self.table.get(&command)?;
        let (shared, mut ended) = (command.shared.clone(), command.ended.clone());
        let run = &self.run;
        run.call_in_grace("ssh.wait", async {
            let end = ended.wait_for(|ended| *ended);
            match timeout_ms {
                // An error means that nobody drains the program any more; the ending says why.
                None => drop(end.await),
                // Running out of time is an answer here, not an error.
                Some(limit) => drop(timeout(Duration::from_millis(limit), end).await),
            }
            let exit = shared.ending().transpose()?;
            if let Some(exit) = &exit {
                run.note_exit(exit);
            }
            Ok(exit)
        })
        .await
    }

    async fn exit(&mut self, command: Resource<Command>) -> Result<Option<Exit>, CallError> {
        let shared = self.table.get(&command)?.shared.clone();
        self.run
            .call_now("ssh.exit", || shared.ending().transpose())
    }

    async fn read_output(
        &mut self,
        command: Resource<Command>,
        max_bytes: u32,
        timeout_ms: u64,
    ) -> Result<Option<Vec<OutputChunk>>, CallError> {
        let command = self.table.get(&command)?;
        let (shared, is_captured) = (command.shared.clone(), command.is_captured);
        self.run
            .call_in_grace("ssh.read-output", async {
                if !is_captured {
                    return Err(Failure::new(
                        Kind::Conflict,
                        Class::Plugin,
                        "command.not-captured",
                        "this program's output is not captured",
                    ));
                }
                if max_bytes == 0 {
                    return Err(Failure::invalid(
                        "command.max-bytes",
                        "no output can be read in zero bytes",
                    ));
                }
                // Running out of time is an answer here: no output came.
                let _ = timeout(Duration::from_millis(timeout_ms), shared.readable()).await;
                shared.take(max_bytes as usize)
            })
            .await
    }

    async fn signal(&mut self, command: Resource<Command>, name: String) -> Result<(), CallError> {
        let command = self.table.get(&command)?;
        let (shared, control) = (command.shared.clone(), command.control.clone());
        self.run
            .call_in_grace("ssh.signal", async {
                if !SIGNALS.contains(&name.as_str()) {
                    return Err(Failure::invalid(
                        "ssh.signal",
                        format!("there is no signal `{}`", name.escape_default()),
                    )
                    .with_hint(format!("use one of {}", SIGNALS.join(", "))));
                }
                match shared.ending() {
                    // A program that has ended needs no signal any more.
                    Some(Ok(_)) => Ok(()),
                    Some(Err(failure)) => Err(failure),
                    None => control.signal(&name).await,
                }
            })
            .await
    }

    async fn drop(&mut self, command: Resource<Command>) -> wasmtime::Result<()> {
        // The program goes on; whoever drops the handle only does not care how it ends.
        self.table.delete(command)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunks: Option<Vec<OutputChunk>>) -> String {
        let bytes: Vec<u8> = (chunks.unwrap().into_iter())
            .flat_map(|chunk| chunk.data)
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn output_that_came_before_the_end_is_read_before_the_end_is_told() {
        let shared = Shared::default();
        assert!(shared.take(10).unwrap().unwrap().is_empty());
        shared.capture(OutputStream::Stdout, b"last ").await;
        shared.capture(OutputStream::Stdout, b"words").await;
        shared.end(Ok(Exit::Status(0)));
        shared.readable().await;
        assert_eq!(text(shared.take(7).unwrap()), "last wo");
        assert_eq!(text(shared.take(7).unwrap()), "rds");
        assert!(shared.take(7).unwrap().is_none());
    }

    #[tokio::test]
    async fn output_waits_for_room_until_it_is_taken_or_nobody_wants_it() {
        let shared = Arc::new(Shared::default());
        let full = vec![b'x'; CAPTURE_BYTES_MAX];
        shared.capture(OutputStream::Stdout, &full).await;
        let writer = Arc::clone(&shared);
        let mut more = tokio::spawn(async move {
            writer.capture(OutputStream::Stderr, b"more").await;
            writer
                .capture(OutputStream::Stdout, &[b'y'; CAPTURE_BYTES_MAX])
                .await;
            writer.capture(OutputStream::Stdout, b"never kept").await;
        });
        assert!(timeout(Duration::from_millis(20), &mut more).await.is_err());
        assert_eq!(
            text(shared.take(usize::MAX).unwrap()).len(),
            CAPTURE_BYTES_MAX
        );
        assert!(timeout(Duration::from_millis(20), &mut more).await.is_err());
        shared.discard();
        more.await.unwrap();
        assert!(shared.state().output.is_empty());
    }

    #[tokio::test]
    async fn a_command_counts_until_it_has_ended_and_nothing_of_it_is_kept() {
        let slots = Arc::new(tokio::sync::Semaphore::new(1));
        let shared = Shared::default();
        shared.state().slot = Some(Arc::clone(&slots).try_acquire_owned().unwrap());
        shared.capture(OutputStream::Stdout, b"kept").await;
        shared.end(Ok(Exit::Status(0)));
        assert_eq!(slots.available_permits(), 0);
        assert_eq!(text(shared.take(100).unwrap()), "kept");
        assert_eq!(slots.available_permits(), 1);
    }
}
