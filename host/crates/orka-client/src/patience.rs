//! How long whoever makes a call waits for it.

use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    /// When the caller stops waiting.
    static DEADLINE: Instant;
}

/// Does `work` for a caller who waits until `deadline` and then drops it: no call in it is repeated so late that the
/// answer would come after that. So the caller is told what was answered, where otherwise it would only know that it
/// stopped waiting.
pub async fn patient_until<T>(deadline: Instant, work: impl Future<Output = T>) -> T {
    DEADLINE.scope(deadline, work).await
}

/// Whether the caller is still there after `span`.
pub(crate) fn lasts(span: Duration) -> bool {
    let deadline = DEADLINE.try_with(|deadline| *deadline);
    deadline.map_or(true, |deadline| {
        span < deadline.saturating_duration_since(Instant::now())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_waits_until_the_deadline_and_without_one_for_ever() {
        let second = Duration::from_secs(1);
        assert!(lasts(second * 1_000_000));
        patient_until(Instant::now() + second * 3, async {
            assert!(lasts(second * 2));
            assert!(!lasts(second * 3));
            tokio::time::sleep(second * 2).await;
            assert!(!lasts(second * 2));
        })
        .await;
    }
}
