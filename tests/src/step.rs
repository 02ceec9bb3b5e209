//! One start of the program.

use std::collections::BTreeMap;
use std::io::{ErrorKind, PipeReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::built::program;

/// No test waits longer than this for the program: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pipe of Linux holds 64 KiB (pipe(7)) in pages that may stay partly unused.
const PIPE_FULL: u64 = 32 * 1024;

/// A pipe that holds as much as this long ago takes no more.
const STANDS_STILL: Duration = Duration::from_secs(1);

/// Where a container looks for programs.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A command line and what belongs to it.
pub struct Step {
    program: PathBuf,
    command: Vec<String>,
    flags: BTreeMap<String, String>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    patience: Duration,
    scratch: TempDir,
}

/// One of the two streams that the program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What programs in VMs say.
    Stdout,
    /// What the program itself says.
    Stderr,
}

impl Step {
    /// The program with a command and nothing else.
    pub fn new(command: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for directory in ["home", "workspace", "results", "report"] {
            std::fs::create_dir(scratch.path().join(directory)).unwrap();
        }
        Self {
            program: program(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            flags: BTreeMap::new(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            patience: PATIENCE,
            scratch,
        }
    }

    /// With a workspace, a results directory and a report, all empty.
    pub(crate) fn with_directories(self) -> Self {
        let inside = |name: &str| self.scratch.path().join(name).to_str().unwrap().to_owned();
        let (workspace, results, report) = (
            inside("workspace"),
            inside("results"),
            inside("report/run.json"),
        );
        self.flag("--workspace", workspace)
            .flag("--results", results)
            .flag("--report", report)
    }

    /// Starts another program than the one that was built.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// Sets a flag, in place of an earlier value.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves out a flag.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.flags.remove(name);
        self
    }

    /// Adds an argument as it is.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a parameter of the plugin.
    #[must_use]
    pub fn param(self, name: &str, value: &str) -> Self {
        self.argument("-p").argument(format!("{name}={value}"))
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Uses grants with this text.
    #[must_use]
    pub fn granted(self, text: &str) -> Self {
        let file = self.scratch_file("grants.toml", text.as_bytes());
        self.flag("--grants", file)
    }

    /// Waits longer for the program's end than other tests do.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Writes a file of the workspace, making its directories.
    #[must_use]
    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.workspace().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
        self
    }

    /// Writes a file beside the workspace and gives its path.
    pub fn scratch_file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.scratch.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The workspace.
    pub fn workspace(&self) -> PathBuf {
        self.scratch.path().join("workspace")
    }

    /// Starts the program and waits for its end.
    pub async fn ended(self) -> Ended {
        self.start().ended().await
    }

    /// Starts the program with streams that nobody reads: one pipe each, or one for both.
    pub fn start_unread(self, one_pipe: bool) -> Unread {
        let mut command = self.command();
        let (stdout, stdout_writer) = std::io::pipe().unwrap();
        let (stderr, stderr_writer) = if one_pipe {
            (
                stdout.try_clone().unwrap(),
                stdout_writer.try_clone().unwrap(),
            )
        } else {
            std::io::pipe().unwrap()
        };
        command.stdout(stdout_writer).stderr(stderr_writer);
        Unread {
            child: command.spawn().unwrap(),
            stdout,
            stderr,
            patience: self.patience,
            scratch: self.scratch,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.command)
            .args(self.flags.iter().flat_map(|(name, value)| [name, value]))
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.scratch.path().join("home"))
            .envs(&self.environment)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the program.
    pub fn start(self) -> Running {
        Running::launch(self.command(), self.patience, self.scratch)
    }
}

/// How often a program that somebody still seems to write is tried to be started.
const BUSY_ATTEMPTS: u32 = 100;

impl Running {
    /// Starts a command whose directories are in `scratch`.
    pub(crate) fn launch(mut command: Command, patience: Duration, scratch: TempDir) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = Instant::now();
        let mut attempts = 0..BUSY_ATTEMPTS;
        let mut child = loop {
            match command.spawn() {
                // Another test's child may hold the script's file open for a moment, between its fork and its exec.
                Err(error)
                    if error.kind() == ErrorKind::ExecutableFileBusy
                        && attempts.next().is_some() =>
                {
                    std::thread::yield_now();
                }
                spawned => break spawned.unwrap(),
            }
        };
        let (stdout, stdout_reader) = collect(child.stdout.take().unwrap());
        let (stderr, stderr_reader) = collect(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
            readers: [stdout_reader, stderr_reader],
            started,
            patience,
            scratch,
        }
    }
}

/// Reads a stream to its end, for everyone to see how far it is.
fn collect(
    mut stream: impl AsyncRead + Unpin + Send + 'static,
) -> (watch::Receiver<Vec<u8>>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Vec::new());
    let reader = tokio::spawn(async move {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            sender.send_modify(|text| text.extend_from_slice(&chunk[..length]));
        }
    });
    (receiver, reader)
}

/// The program while nobody reads what it writes. Dropped, it is killed.
pub struct Unread {
    child: Child,
    stdout: PipeReader,
    stderr: PipeReader,
    patience: Duration,
    scratch: TempDir,
}

impl Unread {
    /// Waits until the pipe of standard output takes no more.
    ///
    /// # Panics
    ///
    /// If it does not fill up within the time it is given.
    pub async fn is_full(&self) {
        let filled = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(STANDS_STILL).await;
                let now = rustix::io::ioctl_fionread(&self.stdout).unwrap();
                if now > PIPE_FULL && now == before {
                    return;
                }
                before = now;
            }
        };
        timeout(self.patience, filled).await.expect("never filled");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("the program has ended already");
        let id = Pid::from_raw(id.cast_signed()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for the program's end, and only then reads what it has written.
    ///
    /// # Panics
    ///
    /// If it does not end within the time it is given.
    pub async fn ended(mut self) -> Ended {
        let started = Instant::now();
        let status = timeout(self.patience, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running after {:?}", self.patience))
            .unwrap();
        let took = started.elapsed();
        let text = |mut stream: PipeReader| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (text(self.stdout), text(self.stderr));
        ended(status.code(), stdout, stderr, took, self.scratch)
    }
}

fn ended(
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Duration,
    scratch: TempDir,
) -> Ended {
    let report = std::fs::read(scratch.path().join("report/run.json"));
    Ended {
        code,
        stdout,
        stderr,
        results: files_of(&scratch.path().join("results")),
        report: report.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap()),
        took,
        scratch,
    }
}

/// The program while it runs. Dropped, it is killed.
pub struct Running {
    child: Child,
    stdout: watch::Receiver<Vec<u8>>,
    stderr: watch::Receiver<Vec<u8>>,
    readers: [JoinHandle<()>; 2],
    started: Instant,
    patience: Duration,
    scratch: TempDir,
}

impl Running {
    /// Waits until a stream holds this text.
    ///
    /// # Panics
    ///
    /// If the stream ends, or the time it is given passes, without it.
    pub async fn says(&mut self, stream: Stream, text: &str) {
        let receiver = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let wanted = text.as_bytes();
        let found = receiver.wait_for(|said| said.windows(wanted.len()).any(|part| part == wanted));
        let found = matches!(timeout(self.patience, found).await, Ok(Ok(_)));
        assert!(found, "never said `{text}` on {stream:?}:\n{}", self.said());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// The program's process id.
    pub fn pid(&self) -> Pid {
        let id = self.child.id().expect("the program has ended already");
        Pid::from_raw(id.cast_signed()).unwrap()
    }

    /// The process that does the work: a child of the program's, which only waits for it.
    pub fn worker(&self) -> Pid {
        let pid = self.pid().as_raw_pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let child = children.split_whitespace().next();
        child
            .and_then(|child| child.parse().ok())
            .and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("no worker\n{}", self.said()))
    }

    /// Has the worker crash.
    pub async fn crash(&self, signal: Signal) {
        let worker = self.worker();
        rustix::process::kill_process(worker, signal).unwrap();
        // What handles SIGSEGV takes its hands off and lets the instruction fault again; of a signal that somebody sent, it
        // is the next one.
        while rustix::process::kill_process(worker, signal).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn said(&self) -> String {
        let text = |stream: &watch::Receiver<Vec<u8>>| {
            String::from_utf8_lossy(&stream.borrow()).into_owned()
        };
        format!(
            "stdout:\n{}\nstderr:\n{}",
            text(&self.stdout),
            text(&self.stderr)
        )
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    ///
    /// If it does not end within the time it is given.
    pub async fn ended(mut self) -> Ended {
        let status = timeout(self.patience, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running after {:?}:\n{}", self.patience, self.said()))
            .unwrap();
        let took = self.started.elapsed();
        for reader in &mut self.readers {
            // A stream that a surviving child of the program holds open would never end.
            timeout(self.patience, reader)
                .await
                .expect("a stream stays open")
                .unwrap();
        }
        let text =
            |stream: &watch::Receiver<Vec<u8>>| String::from_utf8(stream.borrow().clone()).unwrap();
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        ended(status.code(), stdout, stderr, took, self.scratch)
    }
}

fn files_of(directory: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// All that is known of the program after its end.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The Tekton results, by name.
    pub results: BTreeMap<String, String>,
    /// The report, or null.
    pub report: Value,
    /// From its start, or from when its end was waited for, to its end.
    pub took: Duration,
    scratch: TempDir,
}

impl Ended {
    /// Fails unless the run ended with this exit code and this outcome, in the results and in the report.
    #[track_caller]
    pub fn assert(&self, code: i32, outcome: &str) {
        assert_eq!(self.code, Some(code), "{self}");
        assert_eq!(self.result("outcome"), outcome, "{self}");
        assert_eq!(self.report["outcome"], outcome, "{self}");
        assert_eq!(self.report["exitCode"], code, "{self}");
    }

    /// Fails unless standard error holds each of these.
    #[track_caller]
    pub fn assert_says(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "does not say `{text}`:\n{self}");
        }
    }

    /// What was written to standard output, as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[track_caller]
    pub fn summary(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// A Tekton result; empty if there is none of the name.
    pub fn result(&self, name: &str) -> &str {
        self.results.get(name).map_or("", String::as_str)
    }

    /// The bytes of a file of the workspace, if it is there.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.workspace().join(name)).ok()
    }

    /// The workspace.
    pub fn workspace(&self) -> PathBuf {
        self.scratch.path().join("workspace")
    }

    /// The directory that holds everything the program was given and has written.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit code {:?} after {:?}, results {:?}\nstdout:\n{}\nstderr:\n{}",
            self.code, self.took, self.results, self.stdout, self.stderr
        )
    }
}
