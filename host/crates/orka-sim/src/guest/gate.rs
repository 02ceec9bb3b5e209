//! The TCP side of a guest: the connection that can be cut, and the doorkeeper that applies connection faults.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// What lies between a guest and whoever is logged in: it can break, or let nothing through any more.
#[derive(Debug)]
pub(super) struct Link {
    is_frozen: AtomicBool,
    /// Connections served so far, and how many of them have died without a word.
    served: AtomicU64,
    stalled: AtomicU64,
    power: CancellationToken,
    whole: Mutex<CancellationToken>,
}

impl Link {
    pub(super) fn new(power: &CancellationToken) -> Self {
        Self {
            is_frozen: AtomicBool::new(false),
            served: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            power: power.clone(),
            whole: Mutex::new(power.child_token()),
        }
    }

    /// From now on nothing passes, in either direction, on connections of now and later.
    pub(super) fn freeze(&self) {
        self.is_frozen.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::Relaxed)
    }

    /// From now on nothing passes on the connections of now; later ones are served.
    pub(super) fn stall(&self) {
        let served = self.served.load(Ordering::Relaxed);
        self.stalled.store(served, Ordering::Relaxed);
    }

    /// Whether nothing passes on this connection, counted from 0.
    fn is_dead(&self, number: u64) -> bool {
        self.is_frozen() || number < self.stalled.load(Ordering::Relaxed)
    }

    /// Ends every connection of now; later ones are served.
    pub(super) fn cut(&self) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *whole, self.power.child_token()).cancel();
    }

    /// Cancelled when the connections of now are to end.
    pub(super) fn token(&self) -> CancellationToken {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.child_token()
    }
}

/// A TCP connection that ends when its token is cancelled.
#[derive(Debug)]
pub(super) struct GuestStream {
    stream: Arc<TcpStream>,
    link: Arc<Link>,
    number: u64,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl GuestStream {
    pub(super) fn new(stream: Arc<TcpStream>, link: Arc<Link>, cut: CancellationToken) -> Self {
        Self {
            stream,
            number: link.served.fetch_add(1, Ordering::Relaxed),
            link,
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
            if self.link.is_dead(self.number) {
                // Nothing thaws it, so nothing needs to wake it but the cut.
                return Poll::Pending;
            }
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
        if self.link.is_dead(self.number) {
            return Poll::Pending;
        }
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
