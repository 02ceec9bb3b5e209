//! The bytes under an SSH session: a TCP connection, or a tunnel through a jump host. Notices a peer that takes nothing.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use russh::ChannelStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How many reads are acknowledged at once. The server's first answers are small, and it holds each back for our delayed
/// acknowledgement (40 ms): this covers key exchange, login and the first command.
const EARLY_READS: u32 = 64;

/// Bytes read from the wire at once. The library reads each packet in two steps, and without this each would be a system
/// call, and the second one often an incomplete one.
const READ_AHEAD: usize = 128 * 1024;

/// Where an attempt is, for the sentence that says where it stopped.
#[derive(Default)]
pub(crate) struct Progress {
    stage: AtomicU8,
    bytes_read: AtomicU64,
}

/// The stages of an attempt, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    ReachingJump,
    Connecting,
    Greeting,
    LoggingIn,
}

impl Progress {
    pub(crate) fn enter(&self, stage: Stage) {
        self.bytes_read.store(0, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn has_reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Relaxed) >= stage as u8
    }

    pub(crate) fn during(&self) -> &'static str {
        if self.has_reached(Stage::LoggingIn) {
            "during login"
        } else if self.bytes_read.load(Ordering::Relaxed) == 0 {
            "before its SSH banner"
        } else {
            "during key exchange"
        }
    }
}

/// What carries a session.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Tunnel(ChannelStream<russh::client::Msg>),
}

/// A wire that acknowledges its first reads at once, counts what it read, and fails once the peer has taken nothing for
/// `patience`. Keepalives notice a dead link while we wait to read; the library does not send any while it waits to
/// write.
pub(crate) struct Watched {
    wire: Wire,
    progress: Arc<Progress>,
    prompt_reads: u32,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// What was read and not yet asked for.
    ahead: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Watched {
    /// Zero patience never fails.
    pub(crate) fn new(wire: Wire, progress: Arc<Progress>, patience: Duration) -> Self {
        Self {
            wire,
            ahead: vec![0; READ_AHEAD].into(),
            at: 0,
            end: 0,
            progress,
            prompt_reads: EARLY_READS,
            patience,
            stalled: None,
        }
    }

    /// Reads what there is; nothing at the end.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ahead = ReadBuf::new(&mut self.ahead);
        let polled = match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut ahead),
            Wire::Tunnel(stream) => Pin::new(stream).poll_read(cx, &mut ahead),
        };
        let count = ahead.filled().len();
        (self.at, self.end) = (0, count);
        if polled.is_ready() && self.prompt_reads > 0 {
            self.prompt_reads -= 1;
            self.progress
                .bytes_read
                .fetch_add(count as u64, Ordering::Relaxed);
            // Not kept by the kernel, so it is asked for again with each read (tcp(7), TCP_QUICKACK).
            #[cfg(target_os = "linux")]
            if let Wire::Tcp(stream) = &self.wire {
                let _ = stream.set_quickack(true);
            }
        }
        polled
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() || self.patience.is_zero() {
            self.stalled = None;
            return polled;
        }
        let until = Instant::now() + self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it took no data for {} s", self.patience.as_secs_f64()),
            ))),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == self.end {
            std::task::ready!(self.read_ahead(cx))?;
        }
        let count = buf.remaining().min(self.end - self.at);
        buf.put_slice(&self.ahead[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tunnel(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Wire::Tunnel(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        };
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(&self.wire, Wire::Tcp(stream) if stream.is_write_vectored())
    }
}
