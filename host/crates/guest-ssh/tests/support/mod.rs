//! Servers to test against: OpenSSH's `sshd`, one per test, and a scripted one in this process.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod archives;
pub mod detached;
pub mod dropbear;
pub mod lying_sftp;
pub mod proxy;
pub mod scripted;
pub mod sshd;
pub mod trees;
pub mod two_steps;
pub mod userland;

use std::time::Duration;

use guest_ssh::{Command, ConnectOptions, Exit, Stream};
use tokio::time::Instant;

/// Long enough for a loaded machine; tests end when the thing happens, not when time is up.
pub fn options() -> ConnectOptions {
    ConnectOptions::until(Instant::now() + Duration::from_secs(30))
}

/// Everything a command prints, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

pub async fn run_out(mut command: Command) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = command.next_output().await {
        match chunk.stream {
            Stream::Stdout => stdout.extend_from_slice(&chunk.data),
            Stream::Stderr => stderr.extend_from_slice(&chunk.data),
        }
    }
    Ran {
        stdout,
        stderr,
        exit: command.wait().await.unwrap(),
    }
}
