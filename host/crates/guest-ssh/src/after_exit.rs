//! How long output is waited for after a program's exit: what it left behind may print for ever.

use std::time::Duration;

use tokio::time::Instant;

/// How long output may stay silent after the exit status came. A build may leave a daemon behind that holds the
/// output open for ever; what the program itself wrote has long arrived by then.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// How long output may go on in all after the exit status came, and how much may still come that the program itself wrote: what
/// the channel's window and the server hold, over a line as slow as this one. A daemon that never stops printing is none of that.
const LINGER_ALL: Duration = Duration::from_secs(10);
const LINGER_BYTES: u64 = 8 * 1024 * 1024;
const LINGER_RATE: u64 = 64 * 1024;

/// What there was of a program's output after its exit status.
#[derive(Default)]
pub(crate) struct AfterExit {
    since: Option<Instant>,
    /// How long it was waited for; time in which nobody asked for it does not count.
    waited: Duration,
    pub(crate) bytes: u64,
}

impl AfterExit {
    /// How long the next piece may be waited for, if one may.
    pub(crate) fn patience(&mut self) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = if self.bytes > LINGER_BYTES {
            // Where the next piece is always there nobody ever waits.
            LINGER_ALL.checked_sub(since.elapsed())?
        } else {
            let slow = Duration::from_secs(self.bytes / LINGER_RATE);
            (LINGER_ALL + slow).checked_sub(self.waited)?
        };
        (!left.is_zero()).then(|| left.min(LINGER_MAX))
    }

    /// Counts until what is returned is dropped.
    pub(crate) fn waiting(&mut self) -> Waiting<'_> {
        Waiting(self, Instant::now())
    }
}

pub(crate) struct Waiting<'a>(&'a mut AfterExit, Instant);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waited += self.1.elapsed();
    }
}
