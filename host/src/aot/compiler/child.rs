//! A compiler in a process of its own: it gets the component as its standard input and nothing else of us.
//!
//! It is in a process group of its own, since a signal meant for this step must not look like a component that cannot be
//! compiled; so it is killed from here when the run is stopped, and asks the kernel itself to die with this process.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use plugin_fit::Difference;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};

use super::super::CODE_BYTES_MAX;
use super::super::place::Found;
use super::{Bounds, Trouble};
use crate::lines::printable;

/// The exit code for a component that is not valid.
const INVALID: i32 = 1;

/// So much of the end of its standard error is kept, and so many lines of that are told.
const WORDS_BYTES_MAX: usize = 16 * 1024;
const LAST_LINES: usize = 5;

/// How often the bounds are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How often a compiler that has said all is asked whether it has ended.
const END_TICK: Duration = Duration::from_millis(1);

/// How Rust's allocator begins its last words.
const OUT_OF_MEMORY: &str = "memory allocation of";

/// How a compiler ended, and what it wrote.
struct Output {
    status: ExitStatus,
    code: Vec<u8>,
    words: String,
}

/// What the compiler writes when it reads this component: sealed code.
pub(super) fn code(
    compiler: &Found,
    component: &[u8],
    bounds: &Bounds,
) -> Result<Vec<u8>, Trouble> {
    written(compiler, &[], component, bounds)
}

/// What the compiler finds when it compares this component with the contract.
pub(super) fn differences(
    compiler: &Found,
    component: &[u8],
    bounds: &Bounds,
) -> Result<Vec<Difference>, Trouble> {
    let list = written(compiler, &[plugin_fit::COMPARE], component, bounds)?;
    serde_json::from_slice(&list)
        .map_err(|error| Trouble::NoCompiler(format!("wrote what is no list: {error}")))
}

/// What the compiler writes with these arguments when it reads this component.
fn written(
    compiler: &Found,
    arguments: &[&str],
    component: &[u8],
    bounds: &Bounds,
) -> Result<Vec<u8>, Trouble> {
    let output = match &compiler.executable {
        Some(program) if !compiler.is_packed() => output(program, arguments, component, bounds)?,
        _ => output(&in_memory(compiler)?, arguments, component, bounds)?,
    };
    let last = last_lines(&output.words);
    let ended = |how: String| {
        Trouble::NoCompiler(match last.as_str() {
            "" => how,
            last => format!("{how}: {last}"),
        })
    };
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) if output.code.len() as u64 > CODE_BYTES_MAX => Err(Trouble::NoCompiler(
            format!("wrote more than {CODE_BYTES_MAX} bytes"),
        )),
        (Some(0), _) => Ok(output.code),
        (Some(INVALID), _) => Err(Trouble::Invalid(last)),
        (Some(code), _) => Err(ended(format!("ended with exit code {code}"))),
        _ if output.words.contains(OUT_OF_MEMORY) => Err(ended(format!(
            "needs more than the {} MiB it may use, which `--limit compile-memory-mib=N` changes",
            bounds.memory_bytes >> 20
        ))),
        (None, Some(9)) => Err(ended(
            "was killed by signal 9; is there enough memory?".to_owned(),
        )),
        (None, signal) => Err(ended(format!(
            "was killed by signal {}",
            signal.unwrap_or_default()
        ))),
    }
}

fn last_lines(words: &str) -> String {
    let lines = words.trim().lines().rev().take(LAST_LINES);
    let mut lines: Vec<String> = lines.map(|line| printable(line.as_bytes())).collect();
    lines.reverse();
    lines.join(" / ")
}

/// The program in a file in memory that can be executed and no longer be changed.
fn in_memory(compiler: &Found) -> Result<File, Trouble> {
    let cannot = |error: io::Error| Trouble::NoCompiler(format!("cannot be unpacked: {error}"));
    let program = compiler.program().map_err(cannot)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag; later ones may be set up to want it.
    let memory = match memfd_create("plugin-compiler", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("plugin-compiler", flags),
        made => made,
    };
    let sealed = memory.map_err(io::Error::from).and_then(|memory| {
        let mut file = File::from(memory);
        file.write_all(&program)?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        Ok(file)
    });
    sealed.map_err(cannot)
}

/// Started, and killed with all its own when dropped before it has ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A number that was waited for may be another's by now.
        if matches!(self.0.try_wait(), Ok(None)) {
            // One that has just ended needs no killing.
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn output(
    program: &File,
    arguments: &[&str],
    component: &[u8],
    bounds: &Bounds,
) -> Result<Output, Trouble> {
    let cannot = |error: io::Error| Trouble::NoCompiler(format!("cannot be started: {error}"));
    let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let child = Running(child);
    thread::scope(|scope| {
        // Moved in here: what the threads read ends with it, and they are waited for when this closure has ended.
        let mut child = child;
        limit_memory(&child.0, bounds.memory_bytes).map_err(cannot)?;
        let (ended, ends) = mpsc::channel();
        let (stdin, stdout, stderr) = (
            child.0.stdin.take(),
            child.0.stdout.take(),
            child.0.stderr.take(),
        );
        start(scope, move || {
            // One that stops reading says why in its exit code.
            stdin.map(|mut stdin| stdin.write_all(component))
        })
        .map_err(cannot)?;
        let also_ended = ended.clone();
        let code = start(scope, move || {
            let code = stdout.map(whole);
            drop(also_ended);
            code.unwrap_or_default()
        })
        .map_err(cannot)?;
        let words = start(scope, move || {
            let words = stderr.map(end_of);
            drop(ended);
            words.unwrap_or_default()
        })
        .map_err(cannot)?;
        let status = end(&mut child.0, &ends, bounds)?;
        let words = words.join().unwrap_or_default();
        Ok(Output {
            status,
            code: code.join().unwrap_or_default(),
            words: String::from_utf8_lossy(&words).into_owned(),
        })
    })
}

/// A thread, where there may be another one.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let thread = thread::Builder::new().name("compiler".to_owned());
    thread.spawn_scoped(scope, work)
}

/// Before it has read anything.
fn limit_memory(child: &Child, bytes: usize) -> io::Result<()> {
    let bytes = u64::try_from(bytes).ok();
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    prlimit(Some(Pid::from_child(child)), Resource::As, limit)?;
    Ok(())
}

/// A stream to its end, and one byte more than code may have at most.
fn whole(stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is missing is noticed: it is sealed.
    let _ = stream.take(CODE_BYTES_MAX + 1).read_to_end(&mut bytes);
    bytes
}

/// The end of a stream, however much comes.
fn end_of(mut stream: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    // An error is an end as well.
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        kept.extend_from_slice(&piece[..length]);
        let excess = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..excess);
    }
    kept
}

/// Waits until both streams and the compiler have ended, within the bounds.
fn end(
    child: &mut Child,
    ends: &mpsc::Receiver<()>,
    bounds: &Bounds,
) -> Result<ExitStatus, Trouble> {
    let began = Instant::now();
    let within = || {
        if bounds.stop.is_stopped() {
            return Err(Trouble::Stopped);
        }
        if began.elapsed() >= bounds.time {
            return Err(Trouble::NoCompiler(format!(
                "took longer than {} s; `--limit compile-seconds=N` gives it more, within `--timeout`",
                bounds.time.as_secs()
            )));
        }
        Ok(())
    };
    // Nothing is ever sent: that both ends are gone is the news.
    while ends.recv_timeout(TICK) != Err(RecvTimeoutError::Disconnected) {
        within()?;
    }
    loop {
        let ended = child
            .try_wait()
            .map_err(|error| Trouble::NoCompiler(format!("cannot be waited for: {error}")))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        within()?;
        thread::sleep(END_TICK);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, Instant};

    use lzma_rust2::{XzOptions, XzWriter};

    use super::super::super::place::{Found, of_test};
    use super::{Bounds, Trouble, WORDS_BYTES_MAX, code, differences};
    use crate::outcome::StopSignal;
    use crate::stop::Stop;

    fn packed(program: &str) -> Found {
        let mut packed = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
        packed.write_all(&fs::read(program).unwrap()).unwrap();
        of_test(packed.finish().unwrap(), None)
    }

    /// A shell reads its script from standard input, so this decides how it ends.
    #[track_caller]
    fn told(script: &str, bounds: &Bounds) -> Trouble {
        code(&packed("/bin/sh"), script.as_bytes(), bounds).unwrap_err()
    }

    #[test]
    fn the_program_gets_the_component_and_its_output_is_the_code() {
        // More than a pipe holds, in both directions at once.
        let component = vec![7; 1 << 20];
        let out = code(&packed("/bin/cat"), &component, &Bounds::default());
        assert_eq!(out.unwrap(), component);
    }

    #[test]
    fn a_program_that_lies_as_it_is_is_started_from_there_or_from_what_was_read_of_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("compiler");
        fs::copy("/bin/sh", &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let where_from = |open| {
            let found = of_test(fs::read("/bin/sh").unwrap(), open);
            let out = code(&found, b"readlink /proc/$$/exe", &Bounds::default());
            String::from_utf8(out.unwrap()).unwrap()
        };
        let open = fs::File::open(&path).unwrap();
        assert_eq!(where_from(Some(open)).trim(), path.to_str().unwrap());
        let memory = where_from(None);
        assert!(memory.starts_with("/memfd:plugin-compiler"), "{memory}");
    }

    #[test]
    fn what_went_wrong_is_told_apart() {
        let bounds = Bounds::default();
        let invalid = told("echo unknown section >&2; exit 1", &bounds);
        assert!(
            matches!(&invalid, Trouble::Invalid(message) if message == "unknown section"),
            "{invalid:?}"
        );
        for (script, words) in [
            (
                "echo no input >&2; exit 2",
                "ended with exit code 2: no input",
            ),
            (
                "echo a >&2; kill -9 $$",
                "was killed by signal 9; is there enough memory?: a",
            ),
            ("kill -11 $$", "was killed by signal 11"),
            (
                "for i in 1 2 3 4 5 6 7; do echo $i >&2; done; kill -6 $$",
                "was killed by signal 6: 3 / 4 / 5 / 6 / 7",
            ),
            (
                "echo memory allocation of 7 bytes failed >&2; kill -6 $$",
                "the 4096 MiB it may use, which `--limit compile-memory-mib=N` changes: memory",
            ),
        ] {
            let trouble = told(script, &bounds).to_string();
            assert!(trouble.contains(words), "{trouble}");
            assert!(!trouble.ends_with(": "), "{trouble}");
        }
    }

    #[test]
    fn what_is_no_program_is_not_started() {
        let text = packed("/proc/self/status");
        let cut = of_test(b"\xfd7zXZ\0 cut short".to_vec(), None);
        for (found, words) in [(cut, "unpacked"), (text, "started")] {
            let trouble = code(&found, b"", &Bounds::default()).unwrap_err();
            assert!(trouble.to_string().contains(words), "{trouble}");
        }
    }

    #[test]
    fn what_a_program_says_of_differences_is_read_as_such() {
        let told = |program: &str| differences(&packed(program), b"[]", &Bounds::default());
        // It writes its arguments, and no list.
        let trouble = told("/bin/echo").unwrap_err().to_string();
        assert!(trouble.contains("wrote what is no list"), "{trouble}");
        let trouble = told("/bin/false").unwrap_err();
        assert!(matches!(trouble, Trouble::Invalid(_)), "{trouble:?}");
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_all_its_own() {
        let bounds = Bounds {
            time: Duration::from_millis(200),
            ..Bounds::default()
        };
        let began = Instant::now();
        // The shell's child holds the streams open; the second script closes them and stays.
        for script in ["sleep 1000; true", "exec >&- 2>&-; sleep 1000; true"] {
            let trouble = told(script, &bounds).to_string();
            assert!(trouble.contains("`--limit compile-seconds=N`"), "{trouble}");
        }
        assert!(began.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn one_of_a_run_that_is_stopped_is_killed() {
        let stop = Stop::default();
        let bounds = Bounds {
            stop: stop.clone(),
            ..Bounds::default()
        };
        stop.stop(StopSignal::Terminate);
        let trouble = told("sleep 1000; true", &bounds);
        assert!(matches!(trouble, Trouble::Stopped), "{trouble:?}");
    }

    #[test]
    fn its_memory_is_bounded_and_so_is_what_is_kept_of_its_words() {
        let bounds = Bounds {
            memory_bytes: 3 << 30,
            ..Bounds::default()
        };
        let kib = code(&packed("/bin/sh"), b"ulimit -v", &bounds).unwrap();
        assert_eq!(kib.trim_ascii(), (3 << 20).to_string().as_bytes());
        let script = format!(
            "head -c {} /dev/zero | tr '\\0' x >&2; exit 2",
            4 * WORDS_BYTES_MAX
        );
        let trouble = told(&script, &bounds).to_string();
        assert!(trouble.len() < 2 * WORDS_BYTES_MAX, "{}", trouble.len());
    }
}
