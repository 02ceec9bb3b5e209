//! Detached commands, and what is left of them in the VM.

use std::path::PathBuf;
use std::time::Duration;

use guest_ssh::{Connection, Detach, ExecRequest, HostKeyPolicy, Keepalive, Target};

use super::proxy::Proxy;
use super::sshd::Sshd;

pub fn sh(script: &str) -> ExecRequest {
    ExecRequest {
        detach: Some(Detach::default()),
        ..ExecRequest::new("sh", ["-c", script])
    }
}

/// Through a proxy, with a dead link noticed after two seconds.
pub async fn through(proxy: &Proxy, server: &Sshd) -> Connection {
    let options = guest_ssh::ConnectOptions {
        keepalive: Keepalive::within(Duration::from_secs(2)),
        ..super::options()
    };
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: proxy.port,
    };
    let policy = HostKeyPolicy::FirstUse;
    guest_ssh::connect(&target, &server.credentials(), &policy, &options, |_| ())
        .await
        .unwrap()
}

/// Directories of detached commands in the VM.
pub fn directories(server: &Sshd) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(server.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(".orka-step.")
        })
        .collect()
}

/// Processes in the VM: those whose home directory is the server's. Ended ones that nobody waited for do not count.
pub fn processes(server: &Sshd) -> Vec<String> {
    let home = format!("HOME={}", server.path().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ
            .split(|&byte| byte == 0)
            .any(|variable| variable == home.as_bytes())
        {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push(format!(
                "{} {}",
                entry.file_name().display(),
                &line[..line.floor_char_boundary(150)]
            ));
        }
    }
    found
}

pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: never");
}

pub async fn nothing_is_left(server: &Sshd) {
    until("no directory is left", || directories(server).is_empty()).await;
    for _ in 0..100 {
        if processes(server).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("left: {:#?}", processes(server));
}
