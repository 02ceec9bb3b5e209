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
}

impl Watched {
    /// Zero patience never fails.
    pub(crate) fn new(wire: Wire, progress: Arc<Progress>, patience: Duration) -> Self {
        Self {
            wire,
            progress,
            prompt_reads: EARLY_READS,
            patience,
            stalled: None,
        }
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
        let before = buf.filled().len();
        let polled = match &mut self.wire {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if polled.is_ready() && self.prompt_reads > 0 {
            self.prompt_reads -= 1;
            self.progress
                .bytes_read
                .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
            // Not kept by the kernel, so it is asked for again with each read (tcp(7), TCP_QUICKACK).
            #[cfg(target_os = "linux")]
            if let Wire::Tcp(stream) = &self.wire {
                let _ = stream.set_quickack(true);
            }
        }
        polled
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
