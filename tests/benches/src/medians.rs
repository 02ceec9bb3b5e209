//! Durations in turns, and what is said about them.

use std::time::Duration;

/// All runs of one competitor.
#[derive(Debug)]
pub struct Runs {
    /// Its name in the table.
    pub name: String,
    /// How long each run took.
    pub durations: Vec<Duration>,
}

impl Runs {
    /// A competitor that has not run.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            durations: Vec::new(),
        }
    }

    /// The middle of its runs; the mean of the two in the middle where their number is even. Zero without runs.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        match sorted.len() {
            0 => Duration::ZERO,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2,
        }
    }

    /// The quickest and the slowest run, in seconds.
    #[must_use]
    pub fn spread(&self) -> String {
        let shortest = self.durations.iter().min().copied().unwrap_or_default();
        let longest = self.durations.iter().max().copied().unwrap_or_default();
        format!("{:.2}–{:.2}", shortest.as_secs_f64(), longest.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |millis: &[u64]| {
            let durations = millis.iter().map(|&ms| Duration::from_millis(ms)).collect();
            Runs {
                name: String::new(),
                durations,
            }
            .median()
            .as_millis()
        };
        assert_eq!(
            (of(&[]), of(&[5]), of(&[9, 1, 2]), of(&[4, 1, 2, 9])),
            (0, 5, 2, 3)
        );
    }
}
