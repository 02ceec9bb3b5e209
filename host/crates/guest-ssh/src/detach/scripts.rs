//! The shell scripts that keep, follow and end a detached program in the VM, and the lines that start them.
//!
//! They need what macOS and every Linux have: a POSIX shell, `awk`, `dd`, `kill`, `mkdir`, `mkfifo`, `ps`, `rm`, `sleep`. macOS's
//! `dd`, `ps` and `kill` know no long options, and its shell is bash 3.2.

use bytes::Bytes;

use super::frames::Position;
use crate::exec::{Start, Stdin};
use crate::quote::shell_line;

const COMMON: &str = include_str!("common.sh");
const START: &str = include_str!("start.sh");
const LAUNCH: &str = include_str!("launch.sh");
const WATCH: &str = include_str!("watch.sh");
const FOLLOW: &str = include_str!("follow.sh");
const END: &str = include_str!("end.sh");

/// A script as it is sent: comments are for readers here, and would fill the VM's process list.
fn sent(parts: &[&str]) -> String {
    let lines = parts.iter().flat_map(|part| part.lines());
    lines
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// How often the VM looks whether somebody follows, and how often in vain before it gives up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    pub(super) seconds: u64,
    pub(super) count: u64,
}

/// Starts the program that `line` starts, below the directory `name` of the home directory.
pub(super) fn start(name: &str, line: &[u8], input: Option<(Bytes, Stdin)>, looks: Looks) -> Start {
    let feed: &[u8] = if input.is_some() { b"feed" } else { b"none" };
    let (launch, watch) = (sent(&[LAUNCH]), sent(&[COMMON, WATCH]));
    let (seconds, count) = (looks.seconds.to_string(), looks.count.to_string());
    let arguments = [
        name.as_bytes(),
        line,
        feed,
        launch.as_bytes(),
        watch.as_bytes(),
        seconds.as_bytes(),
        count.as_bytes(),
    ];
    let (preamble, stdin) = input.unwrap_or_default();
    Start {
        line: shell_line(&sent(&[START]), arguments),
        preamble,
        stdin,
        pty: false,
    }
}

/// Follows from `position` on, at most `window` bytes ahead of what is acknowledged.
pub(super) fn follow(name: &str, position: &Position, window: u64) -> Start {
    let mut words = vec![name.to_owned(), position.line.to_string()];
    for place in &position.streams {
        words.push(
            place
                .segment
                .map_or("-1".to_owned(), |segment| segment.to_string()),
        );
        words.push(place.offset.to_string());
    }
    words.push(window.to_string());
    let words = words.iter().map(String::as_bytes);
    Start::script(&sent(&[COMMON, FOLLOW]), words, Stdin::Open)
}

/// Ends the program, with so long between SIGTERM and SIGKILL, and removes what there is of it.
pub(super) fn end(name: &str, tenths_of_grace: u64) -> Start {
    let grace = tenths_of_grace.to_string();
    let words = [name.as_bytes(), grace.as_bytes()];
    Start::script(&sent(&[COMMON, END]), words, Stdin::None)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read as _, Write as _};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_shell_here_can_read_the_scripts_as_they_are_sent() {
        for parts in [
            &[START][..],
            &[LAUNCH],
            &[COMMON, WATCH],
            &[COMMON, FOLLOW],
            &[COMMON, END],
        ] {
            let script = sent(parts);
            let is_comment = |word: &str| word.starts_with('#');
            assert!(!script.split_whitespace().any(is_comment), "{script}");
            for shell in [&["sh"][..], &["bash", "--posix"]] {
                let output = Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-n", "-c", &script])
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{shell:?}: {output:?}\n{script}");
            }
        }
    }

    /// What is sent of a frame shows that the follower has met the end of the file, half a line behind it.
    #[test]
    fn a_line_of_the_index_that_is_half_written_is_read_whole() {
        let home = tempfile::tempdir().unwrap();
        let name = ".orka-step.0123456789abcdef";
        let dir = home.path().join(name);
        std::fs::create_dir_all(dir.join("started")).unwrap();
        let mut watcher = Command::new("sh")
            .args(["-c", "read -r line", "orka-step", name])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = watcher.id();
        std::fs::write(dir.join("pids"), format!("{pid} {pid} plain {pid}\n")).unwrap();
        std::fs::write(dir.join("1.0"), "abcde").unwrap();
        std::fs::write(dir.join("index.0"), "1 0 3\n1 0").unwrap();
        let mut follower = Command::new("sh")
            .args(["-c", &sent(&[COMMON, FOLLOW]), "orka-step", name])
            .args(["0", "-1", "0", "-1", "0", "1000000"])
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = follower.stdout.take().unwrap();
        let mut said = [0; 28];
        stdout.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"orka-step: begin\n1 0 1 3\nabc");
        let mut index = OpenOptions::new()
            .append(true)
            .open(dir.join("index.0"))
            .unwrap();
        index.write_all(b" 2\nend status 0 5\n").unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "1 0 1 2\ndeend status 0 5\n");
        drop(watcher.stdin.take());
        watcher.wait().unwrap();
        follower.wait().unwrap();
    }

    /// A signal that is sent again may come when the group's number is somebody else's.
    #[test]
    fn a_signal_for_a_program_that_has_ended_reaches_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let script = sent(&[COMMON]) + "dir=$1 group=$2 mode=$3\nask TERM\n";
        for mode in ["plain", "exact"] {
            let mut stranger = Command::new("sh")
                .args(["-c", "read -r line; :"])
                .stdin(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let group = stranger.id().to_string();
            std::fs::write(dir.path().join("ended"), "").unwrap();
            let asked = Command::new("sh")
                .args(["-c", &script, "orka-step"])
                .arg(dir.path())
                .args([&group, mode])
                .output()
                .unwrap();
            drop(stranger.stdin.take());
            assert!(stranger.wait().unwrap().success(), "{mode}: {asked:?}");
        }
    }
}
