//! A VM whose commands print and end in ways no honest one does. Memory stays bounded, the truth is told once, and
//! nothing hangs.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use guest_ssh::{Error, ExecRequest, Exit, RemotePath};
use russh::server::Handle;
use russh::{ChannelId, Sig};
use support::run_out;
use support::scripted::{Answer, End, Script, Scripted};
use support::sshd::Sshd;

fn request() -> ExecRequest {
    ExecRequest::new("x", [""; 0])
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap()
}

/// A server that answers each command by these messages.
async fn sending<F, W>(messages: F) -> Scripted
where
    F: Fn(Handle, ChannelId) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    Scripted::start(Script::answering(move |_| {
        let messages = messages.clone();
        Answer::new(
            "",
            End::Own(Box::new(move |handle, id| Box::pin(messages(handle, id)))),
        )
    }))
    .await
}

/// Resident memory of this process, in MiB; a test has one of its own under nextest.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn of_a_storm_of_endings_the_exit_is_one_and_stays() {
    let server = sending(|handle, id| async move {
        for status in 1..5000 {
            let _ = handle.exit_status_request(id, status).await;
        }
        let _ = handle.eof(id).await;
        let _ = handle.close(id).await;
    })
    .await;
    let connection = server.connect().await;
    let mut command = connection.exec(request()).await.unwrap();
    let exit = within(command.wait()).await.unwrap();
    assert_eq!(within(command.wait()).await.unwrap(), exit);
    assert_eq!(
        exit,
        Exit::Status(1),
        "the first one is believed: a later one may be an afterthought"
    );
}

#[tokio::test]
async fn a_signal_with_an_odd_name_is_told_and_cannot_move_the_cursor() {
    for name in ["\x1b[2J\r\n", "", "SIGKILL", &"N".repeat(20_000)] {
        let sent = name.to_owned();
        let server = sending(move |handle, id| {
            let sent = sent.clone();
            async move {
                let message = "\x1b]0;title\x07".repeat(500);
                let _ = handle
                    .exit_signal_request(id, Sig::Custom(sent), false, message, String::new())
                    .await;
                let _ = handle.close(id).await;
            }
        })
        .await;
        let connection = server.connect().await;
        let mut command = connection.exec(request()).await.unwrap();
        let exit = within(command.wait()).await.unwrap();
        let shown = exit.to_string();
        assert!(matches!(exit, Exit::Signal { .. }), "{exit:?}");
        assert!(
            !shown.chars().any(char::is_control) && shown.len() < 70_000,
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn what_comes_after_the_close_is_nobodys() {
    let server = sending(|handle, id| async move {
        let _ = handle.exit_status_request(id, 7).await;
        let _ = handle.eof(id).await;
        let _ = handle
            .data(id, Bytes::from_static(b"after the end of output"))
            .await;
        let _ = handle.close(id).await;
        for _ in 0..100 {
            let _ = handle
                .data(id, Bytes::from_static(b"after the close"))
                .await;
            let _ = handle.exit_status_request(id, 0).await;
            let _ = handle.close(id).await;
        }
    })
    .await;
    let connection = server.connect().await;
    let ran = within(run_out(connection.exec(request()).await.unwrap())).await;
    assert_eq!(ran.exit, Exit::Status(7));
    assert!(!ran.stdout.ends_with(b"after the close"));
}

#[tokio::test]
async fn extended_data_of_an_unknown_kind_is_passed_over() {
    let server = sending(|handle, id| async move {
        for kind in [0, 2, u32::MAX] {
            let _ = handle
                .extended_data(id, kind, Bytes::from_static(b"who am I"))
                .await;
        }
        let _ = handle
            .extended_data(id, 1, Bytes::from_static(b"error"))
            .await;
        let _ = handle.exit_status_request(id, 0).await;
        let _ = handle.close(id).await;
    })
    .await;
    let connection = server.connect().await;
    let ran = within(run_out(connection.exec(request()).await.unwrap())).await;
    assert_eq!(
        (ran.stdout.as_slice(), ran.stderr.as_slice()),
        (&b""[..], &b"error"[..])
    );
}

#[tokio::test]
async fn an_endless_line_is_bounded_in_memory() {
    let server = Scripted::start(Script::answering(|_| Answer {
        stdout: Box::new(std::iter::repeat_with(|| Bytes::from_static(&[b'x'; 30_000])).take(8000)),
        end: End::Status(0),
    }))
    .await;
    let connection = server.connect().await;
    let mut command = connection.exec(request()).await.unwrap();
    let mut read = 0;
    let before = resident_mib();
    while let Some(chunk) = within(command.next_output()).await {
        assert!(chunk.data.len() <= 64 * 1024);
        read += chunk.data.len();
    }
    assert_eq!(
        (read, command.wait().await.unwrap()),
        (240_000_000, Exit::Status(0))
    );
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 64, "{grown} MiB");
}

#[tokio::test]
async fn an_answer_far_larger_than_due_is_cut_off_and_the_session_of_use_still() {
    let server = Sshd::start();
    let large = server.path().join("large");
    std::fs::File::create(&large)
        .unwrap()
        .set_len(10 << 30)
        .unwrap();
    let connection = server.connect().await;
    let path = RemotePath::parse(large.to_str().unwrap()).unwrap();
    for _ in 0..3 {
        let read = within(connection.read_file(&path, 100_000)).await;
        assert!(matches!(read, Err(Error::LimitExceeded { .. })), "{read:?}");
    }
    let mut command = within(connection.exec(ExecRequest::new("echo", ["x"])))
        .await
        .unwrap();
    assert_eq!(within(command.next_output()).await.unwrap().data, "x\n");
}

#[tokio::test]
async fn an_answer_where_none_is_due_is_cut_off() {
    let server = Scripted::start(Script::answering(|_| Answer {
        stdout: Box::new(std::iter::repeat_with(|| {
            Bytes::from_static(&[b'x'; 30_000])
        })),
        end: End::Status(0),
    }))
    .await;
    let connection = server.connect().await;
    let path = RemotePath::parse("x").unwrap();
    let written = within(connection.write_file(&path, b"x", 0o600)).await;
    assert!(written.is_err(), "{written:?}");
}

#[tokio::test]
async fn a_channel_that_opens_and_says_nothing_leaves_when_its_caller_does() {
    let server = sending(|_, _| std::future::pending()).await;
    let connection = server.connect().await;
    let mut command = connection.exec(request()).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), command.wait())
            .await
            .is_err()
    );
    drop(command);
    assert!(connection.exec(request()).await.is_ok());
}

/// What the program left behind prints for ever, now and then or as fast as it can.
#[tokio::test(start_paused = true)]
async fn a_talkative_neighbour_does_not_hold_an_ended_command_open() {
    for (pause, at_most) in [(500, 12), (0, 12)] {
        let server = sending(move |handle, id| async move {
            let _ = handle.data(id, Bytes::from_static(b"own words\n")).await;
            let _ = handle.exit_status_request(id, 3).await;
            let noise = vec![b'x'; if pause == 0 { 32 * 1024 } else { 1 }];
            let mut sent = 0;
            // An end of its own, so that a client without one is told apart.
            while sent < 2_000 {
                sent += 1;
                if handle.data(id, Bytes::from(noise.clone())).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(pause + 10)).await;
            }
            let _ = handle.close(id).await;
        })
        .await;
        let connection = server.connect().await;
        let began = tokio::time::Instant::now();
        let mut command = connection.exec(request()).await.unwrap();
        assert_eq!(command.wait().await.unwrap(), Exit::Status(3));
        assert!(command.output_left_open());
        let took = began.elapsed().as_secs();
        assert!((5..=at_most).contains(&took), "{took} s");
    }
}

/// What the program wrote may be long on its way after the exit status: a slow line is no neighbour.
#[tokio::test(start_paused = true)]
async fn what_a_slow_line_holds_back_at_the_exit_arrives_whole() {
    const PIECES: usize = 120;
    let server = sending(move |handle, id| async move {
        let _ = handle.exit_status_request(id, 0).await;
        for _ in 0..PIECES {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = handle.data(id, Bytes::from(vec![b'x'; 32 * 1024])).await;
        }
        let _ = handle.close(id).await;
    })
    .await;
    let connection = server.connect().await;
    let command = connection.exec(request()).await.unwrap();
    let ran = run_out(command).await;
    assert_eq!(ran.stdout.len(), PIECES * 32 * 1024);
}
