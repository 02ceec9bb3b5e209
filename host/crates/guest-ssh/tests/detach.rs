//! Detached commands against OpenSSH's server: what a lost connection must not change, and what must not be left behind.
#![allow(clippy::unwrap_used, missing_docs)]

pub mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guest_ssh::{
    Command, ConnectOptions, Connection, Detach, EnvValue, Error, Event, ExecRequest, Exit, Gone,
    HostKeyPolicy, RemotePath, ShellChoice, Signal, Stdin, Stream, Target,
};
use secrecy::SecretString;
use support::detached::{directories, nothing_is_left, sh, through, until};
use support::proxy::{Proxy, Weather};
use support::sshd::Sshd;
use support::{Ran, run_out};

async fn ran(connection: &Connection, request: ExecRequest) -> Ran {
    run_out(connection.exec(request).await.unwrap()).await
}

#[tokio::test]
async fn ends_and_prints_as_if_it_were_not_detached() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let script = "echo out; echo err >&2; printf 'a\\0b\\n\\377no end'; exit 65";
    let ran = ran(&connection, sh(script)).await;
    assert_eq!(ran.stdout, b"out\na\0b\n\xffno end");
    assert_eq!(ran.stderr, b"err\n");
    assert_eq!(ran.exit, Exit::Status(65));
    assert!(
        directories(&server).is_empty(),
        "removed before the end is told"
    );
    connection.close().await;
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_signal_is_told_from_the_status_that_a_shell_makes_of_it() {
    let server = Sshd::start();
    let connection = server.connect().await;
    for status in [0, 1, 125, 137, 143, 255] {
        let ran = ran(&connection, sh(&format!("exit {status}"))).await;
        assert_eq!(ran.exit, Exit::Status(status));
    }
    for signal in ["KILL", "TERM", "INT", "SEGV"] {
        let ran = ran(&connection, sh(&format!("ulimit -c 0; kill -{signal} $$"))).await;
        assert!(
            matches!(&ran.exit, Exit::Signal { name, .. } if name == signal),
            "{signal}: {:?}",
            ran.exit
        );
    }
    let absent = ExecRequest {
        detach: Some(Detach::default()),
        ..ExecRequest::new("no-such-program", [""; 0])
    };
    assert_eq!(ran(&connection, absent).await.exit, Exit::Status(127));
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn environment_secrets_input_directory_and_shell_are_as_without() {
    let server = Sshd::start();
    let connection = server.connect().await;
    std::fs::create_dir(server.path().join("a 'b'")).unwrap();
    let secret = "hun'ter\\2\n\norka-step: end\n$(id) ü!";
    let input: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    for shell in [ShellChoice::Direct, ShellChoice::Login] {
        // Each process could show the secret, and each file of ours could hold it.
        let mut request = sh(
            "grep -r '[h]un.ter' \"$HOME\"/.orka-step.*/[!ioe]* | wc -l | tr -d ' '; printf '%s|%s|%s|' \"$PLAIN\" \"$TOKEN\" \"${PWD##*/}\"; /usr/bin/cksum | cut -d ' ' -f 1; umask; set | grep -c '^orka_step'; \
             cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[h]un.ter'",
        );
        request.cwd =
            Some(RemotePath::parse(server.path().join("a 'b'").to_str().unwrap()).unwrap());
        request.env = vec![
            ("PLAIN".to_owned(), EnvValue::from("a 'b'\nc")),
            (
                "TOKEN".to_owned(),
                EnvValue::from(SecretString::from(secret.to_owned())),
            ),
        ];
        request.stdin = Stdin::Bytes(input.clone().into());
        request.shell = shell;
        let ran = ran(&connection, request).await;
        let text = String::from_utf8(ran.stdout).unwrap();
        let sum = std::process::Command::new("cksum")
            .stdin({
                let file = server.path().join("input");
                std::fs::write(&file, &input).unwrap();
                std::fs::File::open(file).unwrap()
            })
            .output()
            .unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let sum = sum.split(' ').next().unwrap();
        assert_eq!(
            text,
            format!("0\na 'b'\nc|{secret}|a 'b'|{sum}\n0022\n0\n0\n"),
            "{shell:?}"
        );
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn what_a_detached_command_cannot_have_is_refused() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let terminal = ExecRequest {
        pty: true,
        ..sh("true")
    };
    let open = ExecRequest {
        stdin: Stdin::Open,
        ..sh("true")
    };
    for request in [terminal, open] {
        let refused = connection.exec(request).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    nothing_is_left(&server).await;
}

/// Counts its own starts, and then prints numbered lines on both streams, slowly enough to be interrupted.
const COUNTING: &str = "echo run >>\"$HOME/count\"; n=0; while [ $n -lt 300 ]; do n=$((n + 1)); echo \"out $n\"; echo \"err $n\" >&2; \
                        [ $((n % 10)) -ne 0 ] || sleep 0.1; done; exit 7";

/// What `COUNTING` prints on one stream.
fn counted(word: &str) -> String {
    (1..=300)
        .map(|number| format!("{word} {number}\n"))
        .collect()
}

fn assert_counted(server: &Sshd, ran: &Ran, label: &str) {
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        counted("out"),
        "{label}"
    );
    assert_eq!(
        String::from_utf8_lossy(&ran.stderr),
        counted("err"),
        "{label}"
    );
    assert_eq!(ran.exit, Exit::Status(7), "{label}");
    let count = std::fs::read_to_string(server.path().join("count")).unwrap();
    assert_eq!(count, "run\n", "{label}: it ran once");
    std::fs::remove_file(server.path().join("count")).unwrap();
}

/// Everything a command prints, how it ended, and how often it was interrupted; `between` happens after so many lines.
async fn interrupted(
    mut command: Command,
    lines: &[usize],
    mut between: impl FnMut(),
) -> (Ran, usize) {
    let (mut stdout, mut stderr, mut interruptions) = (Vec::new(), Vec::new(), 0);
    let mut places = lines.iter();
    let mut next = places.next();
    while let Some(event) = command.next_event().await {
        match event {
            Event::Output(chunk) if chunk.stream == Stream::Stdout => {
                stdout.extend_from_slice(&chunk.data)
            }
            Event::Output(chunk) => stderr.extend_from_slice(&chunk.data),
            Event::Interrupted { .. } => interruptions += 1,
            Event::Resumed | Event::Heard => {}
        }
        let arrived = stdout.iter().filter(|&&byte| byte == b'\n').count();
        if next.is_some_and(|&place| arrived >= place) {
            between();
            next = places.next();
        }
    }
    let exit = command.wait().await.unwrap();
    (
        Ran {
            stdout,
            stderr,
            exit,
        },
        interruptions,
    )
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again_loses_and_repeats_nothing() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let command = connection.exec(sh(COUNTING)).await.unwrap();
    let (ran, interruptions) = interrupted(command, &[5, 60, 120, 121, 200], || proxy.cut()).await;
    assert!(interruptions >= 3, "{interruptions}");
    assert_counted(&server, &ran, "cut");
    // The connection is as good as new.
    let after = ExecRequest::new("sh", ["-c", "echo on"]);
    assert_eq!(
        run_out(connection.exec(after).await.unwrap()).await.stdout,
        b"on\n"
    );
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_frozen_peer_is_noticed_and_left_behind() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let command = connection.exec(sh(COUNTING)).await.unwrap();
    let (ran, interruptions) = interrupted(command, &[100], || proxy.freeze()).await;
    assert_eq!(interruptions, 1);
    assert_counted(&server, &ran, "frozen");
    until("no directory is left", || directories(&server).is_empty()).await;
}

#[tokio::test]
async fn a_server_that_is_restarted_goes_on_with_the_same_program() {
    let mut server = Sshd::start();
    let connection = server.connect().await;
    let command = connection.exec(sh(COUNTING)).await.unwrap();
    let (ran, interruptions) = interrupted(command, &[50, 150], || server.restart()).await;
    assert_eq!(interruptions, 2);
    assert_counted(&server, &ran, "restarted");
    nothing_is_left(&server).await;
}

/// Wherever in the whole conversation the connection is cut, at its start too, the program runs once.
#[tokio::test]
async fn wherever_the_first_connections_break_the_program_runs_once() {
    let server = Sshd::start();
    let script = "echo run >>\"$HOME/count\"; n=0; while [ $n -lt 300 ]; do n=$((n + 1)); echo \"out $n\"; echo \"err $n\" >&2; done; exit 7";
    for cut_after in (3_000..36_000).step_by(1_500) {
        let weather = Weather {
            cuts: 3,
            cut_after,
            ..Weather::default()
        };
        let proxy = Proxy::start(server.port, weather).await;
        let connection = through(&proxy, &server).await;
        let ran = ran(&connection, sh(script)).await;
        assert_counted(&server, &ran, &format!("cut after {cut_after} bytes"));
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn another_host_key_after_the_loss_is_not_trusted() {
    let mut server = Sshd::start();
    let connection = server.connect().await;
    let mut command = connection.exec(sh("echo on; exec sleep 60")).await.unwrap();
    command.next_output().await.unwrap();
    for kind in ["ed25519", "ecdsa"] {
        let file = server.path().join(format!("host_{kind}"));
        std::fs::remove_file(&file).unwrap();
        support::sshd::keygen(&file, &["-t", kind]);
    }
    server.restart();
    let lost = command.wait().await;
    assert!(
        matches!(&lost, Err(Error::Lost { reason, .. }) if reason.contains("host key")),
        "{lost:?}"
    );
    drop(connection);
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_the_program_may_answer() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let script = "sh -c 'trap \"echo child; exit\" TERM; echo on; while :; do sleep 0.1; done' & \
                  trap 'wait; echo parent; exit 3' TERM; while :; do sleep 0.1; done";
    let mut command = connection.exec(sh(script)).await.unwrap();
    assert_eq!(command.next_output().await.unwrap().data.as_ref(), b"on\n");
    command.signal(Signal::Term).await.unwrap();
    let ran = run_out(command).await;
    assert_eq!(ran.exit, Exit::Status(3));
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "child\nparent\n");
    for (signal, name) in [
        (Signal::Kill, "KILL"),
        (Signal::Term, "TERM"),
        (Signal::Hup, "HUP"),
    ] {
        let mut command = connection
            .exec(sh("echo on; sleep 60; echo late"))
            .await
            .unwrap();
        command.next_output().await.unwrap();
        command.signal(signal).await.unwrap();
        let exit = command.wait().await.unwrap();
        assert!(
            matches!(&exit, Exit::Signal { name: got, .. } if got == name),
            "{exit:?}"
        );
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_signal_while_the_connection_is_broken_is_sent_on_the_next() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let mut command = connection.exec(sh("echo on; exec sleep 60")).await.unwrap();
    command.next_output().await.unwrap();
    proxy.cut();
    while !matches!(command.next_event().await, Some(Event::Interrupted { .. })) {}
    command.signal(Signal::Term).await.unwrap();
    let exit = command.wait().await.unwrap();
    assert!(
        matches!(&exit, Exit::Signal { name, .. } if name == "TERM"),
        "{exit:?}"
    );
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_dropped_command_leaves_no_process_and_no_file() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let stubborn = "trap '' TERM HUP; echo on; while :; do sleep 1; done";
    for script in ["echo on; exec sleep 60", stubborn] {
        let mut command = connection.exec(sh(script)).await.unwrap();
        command.next_output().await.unwrap();
        assert_eq!(directories(&server).len(), 1);
        drop(command);
        nothing_is_left(&server).await;
    }
    let mut command = connection.exec(sh(stubborn)).await.unwrap();
    command.next_output().await.unwrap();
    connection.close().await;
    assert!(matches!(command.wait().await, Err(Error::Lost { .. })));
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn what_the_program_leaves_in_the_background_is_ended_with_it() {
    let server = Sshd::start();
    let connection = server.connect().await;
    let script = "(trap '' TERM; while :; do sleep 1; done) >/dev/null 2>&1 & sleep 60 & echo done";
    let ran = ran(&connection, sh(script)).await;
    assert_eq!(
        (ran.stdout.as_slice(), ran.exit),
        (&b"done\n"[..], Exit::Status(0))
    );
    nothing_is_left(&server).await;
}

fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.metadata().map_or(0, |data| data.len()))
        .sum()
}

/// A program that prints faster than anybody reads waits; what it prints is neither lost nor kept without bound.
#[tokio::test]
async fn a_flood_is_held_back_and_then_arrives_whole() {
    const MIB: u64 = 48;
    let server = Sshd::start();
    let connection = server.connect().await;
    let script = format!(
        "echo on >&2; yes 0123456789abcde | head -c {}; touch \"$HOME/flooded\"",
        MIB << 20
    );
    let mut command = connection.exec(sh(&script)).await.unwrap();
    until("a directory", || !directories(&server).is_empty()).await;
    let directory = directories(&server).remove(0);
    until("16 MiB wait", || size_of(&directory) >= 15 << 20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(size_of(&directory) < 18 << 20, "{}", size_of(&directory));
    assert!(!server.path().join("flooded").exists());
    let (mut bytes, mut largest) = (0, 0);
    while let Some(chunk) = command.next_output().await {
        if chunk.stream == Stream::Stdout {
            let expected = b"0123456789abcde\n";
            let right =
                chunk.data.iter().enumerate().all(|(place, &byte)| {
                    byte == expected[(bytes as usize + place) % expected.len()]
                });
            assert!(right, "at {bytes}");
            bytes += chunk.data.len() as u64;
            if bytes % (1 << 20) < 32 << 10 {
                largest = largest.max(size_of(&directory));
            }
        }
    }
    assert_eq!(bytes, MIB << 20);
    assert!(largest < 24 << 20, "{largest}");
    assert_eq!(command.wait().await.unwrap(), Exit::Status(0));
    nothing_is_left(&server).await;
}

/// This side is gone for good: the VM ends the program by itself.
#[tokio::test]
async fn an_abandoned_program_is_ended_by_the_vm() {
    let mut server = Sshd::start();
    let connection = server.connect().await;
    let request = ExecRequest {
        detach: Some(Detach {
            abandoned_after: Duration::from_secs(4),
        }),
        ..sh("echo on; exec sleep 600")
    };
    let mut command = connection.exec(request).await.unwrap();
    command.next_output().await.unwrap();
    server.kill_sessions();
    server.stop();
    nothing_is_left(&server).await;
    drop(command);
}

#[tokio::test]
async fn several_at_once_do_not_disturb_each_other() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let mut running = Vec::new();
    for number in 0..3 {
        let script = format!(
            "n=0; while [ $n -lt 30 ]; do n=$((n + 1)); echo \"{number} $n\"; sleep 0.05; done; exit {number}"
        );
        running.push(connection.exec(sh(&script)).await.unwrap());
    }
    proxy.cut();
    for (number, command) in running.into_iter().enumerate() {
        let ran = run_out(command).await;
        let expected: String = (1..=30).map(|line| format!("{number} {line}\n")).collect();
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), expected);
        assert_eq!(ran.exit, Exit::Status(number as u32));
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_machine_that_is_gone_is_not_dialled_by_anything_that_outlives_the_connection() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let gone = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&gone);
    let options = ConnectOptions {
        gone: Gone::when(move || asked.load(Ordering::SeqCst)),
        ..support::options()
    };
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: proxy.port,
    };
    let (credentials, policy) = (server.credentials(), HostKeyPolicy::FirstUse);
    let connect = || guest_ssh::connect(&target, &credentials, &policy, &options, |_| ());
    let connection = connect().await.unwrap();
    let mut command = connection.exec(sh("sleep 600")).await.unwrap();
    let note = RemotePath::parse("note").unwrap();
    gone.store(true, Ordering::SeqCst);
    let refused = connection.exec(ExecRequest::new("true", [""; 0])).await;
    assert!(matches!(refused, Err(Error::Gone { .. })), "{refused:?}");
    let dialled = proxy.connections.load(Ordering::SeqCst);
    proxy.cut();
    let ending = command.wait().await;
    assert!(
        matches!(&ending, Err(Error::Lost { reason, .. }) if reason.contains("was deleted")),
        "{ending:?}"
    );
    let written = connection.write_file(&note, b"x", 0o600).await;
    assert!(matches!(written, Err(Error::Gone { .. })), "{written:?}");
    assert!(matches!(connect().await, Err(Error::Gone { .. })));
    assert_eq!(proxy.connections.load(Ordering::SeqCst), dialled);
}
