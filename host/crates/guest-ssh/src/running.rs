//! A program that runs in the VM, as callers see it: on a channel of its own, or detached from any.

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::Error;
use crate::command::{self, Exit, OutputChunk, Signal};
use crate::detach::Detached;

/// A running command.
///
/// Its output waits until it is read: after about 4 MiB the program is held back, nothing is lost and nothing else
/// grows. Dropping the command closes its channel, which ends its input and output; a program that ignores both goes on
/// until the VM is gone, unless it was sent a [`Signal`]. A [detached](crate::ExecRequest::detach) one is sent SIGTERM and then
/// SIGKILL when it is dropped.
#[derive(Debug)]
pub struct Command(Kind);

#[derive(Debug)]
enum Kind {
    OnChannel(Box<command::Command>, Option<JoinHandle<bool>>),
    Detached(Detached),
}

/// What a running command tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// It wrote something.
    Output(OutputChunk),
    /// The connection broke under a detached command. It runs on, and a new connection is being made.
    Interrupted {
        /// What is known about the end of the connection.
        reason: String,
    },
    /// A detached command is followed again.
    Resumed,
    /// The answer to [`Command::ask_for_sign`]: the VM is there, and what was printed before it answered was told before this.
    Heard,
}

impl From<command::Command> for Command {
    fn from(command: command::Command) -> Self {
        Self(Kind::OnChannel(Box::new(command), None))
    }
}

impl From<Detached> for Command {
    fn from(command: Detached) -> Self {
        Self(Kind::Detached(command))
    }
}

impl Command {
    /// The next event in the order in which they happened, or [`None`] at the end. Afterwards [`Self::wait`] has the exit.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next_event(&mut self) -> Option<Event> {
        match &mut self.0 {
            Kind::OnChannel(command, sign) => tokio::select! {
                biased;
                chunk = command.next_output() => chunk.map(Event::Output),
                () = answered(sign) => Some(Event::Heard),
            },
            Kind::Detached(command) => command.next_event().await,
        }
    }

    /// The next output in the order it arrived, or [`None`] at its end. Afterwards [`Self::wait`] has the exit.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next_output(&mut self) -> Option<OutputChunk> {
        loop {
            if let Event::Output(chunk) = self.next_event().await? {
                return Some(chunk);
            }
        }
    }

    /// Waits for the program's end. Output that was not read before is read and dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection ended first and, for a detached command, no new one could be made: the program
    /// may still run, and may have done anything. [`Error::Detached`] if a detached one cannot be followed to its end.
    /// [`Error::Input`] if its standard input cannot be read: it is ended, one that is not detached when this is dropped.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; the answer stays the same once known.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        match &mut self.0 {
            Kind::OnChannel(command, _) => command.wait().await,
            Kind::Detached(command) => command.wait().await,
        }
    }

    /// Sends a signal to the program and its process group. Delivery is not confirmed, and servers may ignore it: OpenSSH
    /// does before 7.9, for logins as root and for forced commands. One for a detached command does not depend on the server;
    /// where the connection is broken, or was without that being noticed, it is sent on the next, and delivered once.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if there is no connection to send it on; for a detached command, if too many others wait for one. There
    /// SIGKILL overtakes them and is never refused.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        match &self.0 {
            Kind::OnChannel(command, _) => command.signal(signal).await,
            Kind::Detached(command) => command.signal(signal),
        }
    }

    /// Sends input; only of use with [`Stdin::Open`](crate::Stdin::Open). Returns when it is on its way, so a program that does
    /// not read holds the caller back: read output meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone.
    pub async fn write_input(&self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        match &self.0 {
            Kind::OnChannel(command, _) => command.write_input(bytes).await,
            Kind::Detached(_) => Ok(()),
        }
    }

    /// Ends the input; only of use with [`Stdin::Open`](crate::Stdin::Open).
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone.
    pub async fn close_input(&self) -> Result<(), Error> {
        match &self.0 {
            Kind::OnChannel(command, _) => command.close_input().await,
            Kind::Detached(_) => Ok(()),
        }
    }

    /// Whether output ended because the program had exited while another process still held it open.
    #[must_use]
    pub fn output_left_open(&self) -> bool {
        match &self.0 {
            Kind::OnChannel(command, _) => command.output_left_open(),
            Kind::Detached(_) => false,
        }
    }

    /// Asks the VM whether it is still there; [`Event::Heard`] is the answer. It never comes over a connection that is dead
    /// without that being noticed, so a program that only seems silent is told from one that is.
    pub fn ask_for_sign(&mut self) {
        match &mut self.0 {
            Kind::OnChannel(command, sign) => *sign = Some(tokio::spawn(command.ping())),
            Kind::Detached(command) => command.ask_for_sign(),
        }
    }
}

/// Returns when the VM has answered; never if it was not asked, or does not.
async fn answered(sign: &mut Option<JoinHandle<bool>>) {
    if let Some(ping) = sign {
        let is_answered = ping.await.unwrap_or(false);
        *sign = None;
        if is_answered {
            return;
        }
    }
    std::future::pending().await
}
