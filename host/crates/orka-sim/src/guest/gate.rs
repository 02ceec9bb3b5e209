//! The TCP side of a guest: the connection that can be cut, and the doorkeeper that applies connection faults.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::fault::GuestFault;

/// What happens to a connection that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Served.
    Serve,
    /// Kept open without a word.
    Silence,
    /// Reset.
    Reset,
}

/// Counts connections against the faults of a guest.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    fault: GuestFault,
    accepted: AtomicU32,
}

impl Doorkeeper {
    pub(super) fn new(fault: GuestFault) -> Self {
        Self {
            fault,
            accepted: AtomicU32::new(0),
        }
    }

    pub(super) fn admit(&self) -> Admission {
        let earlier = self.accepted.fetch_add(1, Ordering::Relaxed);
        if self.fault.hangs || earlier < self.fault.silent_connections {
            Admission::Silence
        } else if earlier
            < self
                .fault
                .silent_connections
                .saturating_add(self.fault.reset_connections)
        {
            Admission::Reset
        } else {
            Admission::Serve
        }
    }

    /// How long a served connection lives.
    pub(super) fn cut_after(&self) -> Option<Duration> {
        self.fault.cut_after_ms.map(Duration::from_millis)
    }
}

/// A TCP connection that ends when its token is cancelled.
#[derive(Debug)]
pub(super) struct GuestStream {
    stream: Arc<TcpStream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl GuestStream {
    pub(super) fn new(stream: Arc<TcpStream>, cut: CancellationToken) -> Self {
        Self {
            stream,
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            Poll::Pending => Ok(()),
        }
    }
}

/// Whether the other side has closed the connection, seen without reading what it sent before.
pub(super) fn peer_is_gone(stream: &TcpStream) -> bool {
    use futures_util::FutureExt;
    let ready = stream.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket closes when its last holder drops it; half-closing needs the owned stream.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_first_silent_then_reset_then_served() {
        let fault = GuestFault {
            silent_connections: 1,
            reset_connections: 2,
            ..GuestFault::default()
        };
        let doorkeeper = Doorkeeper::new(fault);
        let seen: Vec<Admission> = (0..5).map(|_| doorkeeper.admit()).collect();
        let expected = [
            Admission::Silence,
            Admission::Reset,
            Admission::Reset,
            Admission::Serve,
            Admission::Serve,
        ];
        assert_eq!(seen, expected);
    }
}
