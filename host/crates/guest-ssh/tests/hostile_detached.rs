//! Detached commands in a VM that keeps its word in nothing. Time is virtual: server and client are one process.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use guest_ssh::{Error, Exit};
use russh::Disconnect;
use support::detached::sh;
use support::scripted::{Answer, End, Script, Scripted};
use tokio::time::Instant;

/// Lets the program start, and answers each that follows it with what `follow` says to its number.
async fn followed(follow: impl Fn(u32) -> Answer + Send + Sync + 'static) -> Scripted {
    let followers = AtomicU32::new(0);
    Scripted::start(Script::answering(move |line| {
        if line.contains("mkfifo") {
            Answer::new("started\n", End::Status(0))
        } else if line.contains("hear()") {
            follow(followers.fetch_add(1, Ordering::SeqCst))
        } else {
            Answer::new("", End::Status(0))
        }
    }))
    .await
}

/// The whole connection ends at once.
fn hang_up(said: &'static str) -> Answer {
    let leave = |handle: russh::server::Handle, _| async move {
        let reason = "going down".to_owned();
        let _ = handle
            .disconnect(Disconnect::ByApplication, reason, String::new())
            .await;
    };
    Answer::new(
        said,
        End::Own(Box::new(move |handle, id| Box::pin(leave(handle, id)))),
    )
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_accepts_logins_and_hangs_up_on_each_command_is_not_asked_without_pause_and_end()
{
    let tried = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tried);
    let server = followed(move |number| {
        counted.store(number + 1, Ordering::SeqCst);
        if number < 400 {
            hang_up("")
        } else {
            Answer::new("end status 0\n", End::Status(0))
        }
    })
    .await;
    let connection = server.connect().await;
    let mut command = connection.exec(sh("true")).await.unwrap();
    let began = Instant::now();
    let ended = command.wait().await;
    let (tried, took) = (tried.load(Ordering::SeqCst), began.elapsed());
    assert!(
        matches!(&ended, Err(Error::Lost { reason, .. }) if reason.contains("going down")),
        "{ended:?} after {tried}"
    );
    assert!((10..100).contains(&tried), "{tried}");
    assert!(
        (100..200).contains(&took.as_secs()),
        "{took:?} for the program to be reached"
    );
}

#[tokio::test(start_paused = true)]
async fn connections_that_break_and_bring_something_each_are_taken_up_again_without_end() {
    const FRAMES: [&str; 4] = ["1 0 1 1\na", "1 0 1 1\nb", "1 0 1 1\nc", "1 0 1 1\nd"];
    let server = followed(|number| match number {
        // Longer in all than one loss may take.
        0..400 if number % 4 == 3 => hang_up(FRAMES[number as usize / 4 % 4]),
        0..400 => hang_up(""),
        _ => Answer::new("end status 9 100\n", End::Status(0)),
    })
    .await;
    let connection = server.connect().await;
    let command = connection.exec(sh("true")).await.unwrap();
    let ran = tokio::time::timeout(Duration::from_secs(3600), support::run_out(command)).await;
    let ran = ran.unwrap();
    assert_eq!((ran.stdout.len(), ran.exit), (100, Exit::Status(9)));
}
