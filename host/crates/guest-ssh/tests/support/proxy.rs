//! A network between us and a server that is slow, or breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// What the network does.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// Bytes a second, each way.
    pub rate: Option<u64>,
    /// The first so many connections are cut.
    pub cuts: u64,
    /// Bytes, both ways together, that pass before a connection is cut.
    pub cut_after: u64,
}

pub struct Proxy {
    pub port: u16,
    pub connections: Arc<AtomicU64>,
    /// Connections below the first number are cut, those below the second let nothing pass.
    broken: watch::Sender<(u64, u64)>,
}

impl Proxy {
    pub async fn start(to: u16, weather: Weather) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        let broken = watch::Sender::new((0, 0));
        let weather_news = broken.subscribe();
        tokio::spawn(async move {
            while let Ok((ours, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let left = if number < weather.cuts {
                    weather.cut_after
                } else {
                    u64::MAX
                };
                let (mut cut, frozen) = (weather_news.clone(), weather_news.clone());
                tokio::spawn(async move {
                    // A server that is being started anew answers nobody.
                    let Ok(theirs) = TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let (our_read, our_write) = ours.into_split();
                    let (their_read, their_write) = theirs.into_split();
                    let left = AtomicU64::new(left);
                    let line = |number| (number, frozen.clone());
                    // Whichever ends first ends both.
                    tokio::select! {
                        () = pass(our_read, their_write, weather.rate, &left, line(number)) => {}
                        () = pass(their_read, our_write, weather.rate, &left, line(number)) => {}
                        _ = cut.wait_for(|(cut, _)| number < *cut) => {}
                    }
                });
            }
        });
        Self {
            port,
            connections,
            broken,
        }
    }

    /// Ends every connection of now.
    pub fn cut(&self) {
        let now = self.connections.load(Ordering::SeqCst);
        self.broken.send_modify(|(cut, _)| *cut = now);
    }

    /// Lets nothing pass any more on the connections of now, and closes none.
    pub fn freeze(&self) {
        let now = self.connections.load(Ordering::SeqCst);
        self.broken.send_modify(|(_, frozen)| *frozen = now);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    rate: Option<u64>,
    left: &AtomicU64,
    (number, weather): (u64, watch::Receiver<(u64, u64)>),
) {
    let mut free = Instant::now();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if number < weather.borrow().1 {
            return std::future::pending().await;
        }
        let enough = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(count as u64)
        });
        if enough.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if let Some(rate) = rate {
            // Time that was not used is lost.
            free = free.max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate as f64);
            tokio::time::sleep_until(free).await;
        }
    }
}
