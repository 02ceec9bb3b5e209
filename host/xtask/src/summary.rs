//! Counting tests from what the test runners print.

use std::fmt;

/// Who runs tests and prints how they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// Rust's own, which `cargo test` runs; it prints to standard output.
    Libtest,
    /// cargo-nextest; it prints to standard error.
    Nextest,
}

/// How many tests passed, failed and did not run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Summary {
    /// Whether anything ran at all.
    pub(crate) fn ran(self) -> bool {
        self.passed + self.failed > 0
    }

    /// Adds what one line of a runner's output counts; other lines add nothing.
    ///
    /// Only the runner's own lines count: cargo-nextest repeats what a failed test printed, and that ends with a line
    /// of libtest's.
    pub(crate) fn count_line(&mut self, runner: Runner, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        match runner {
            Runner::Libtest => line
                .strip_prefix("test result: ")
                .map(|counts| self.count_libtest(counts)),
            Runner::Nextest => line
                .strip_prefix("Summary [")
                .map(|counts| self.count_nextest(counts)),
        };
    }

    /// `ok. 4 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
    fn count_libtest(&mut self, counts: &str) {
        let counts = counts.split_once(". ").map_or(counts, |(_, rest)| rest);
        for part in counts.split(';') {
            match number_and_word(part) {
                Some((number, "passed")) => self.passed += number,
                Some((number, "failed")) => self.failed += number,
                Some((number, "ignored" | "filtered out")) => self.skipped += number,
                _ => {}
            }
        }
    }

    /// `   1.2s] 5/6 tests run: 3 passed (1 slow, 1 flaky), 1 failed, 1 timed out, 2 skipped`
    fn count_nextest(&mut self, counts: &str) {
        let Some((_, counts)) = counts.split_once("run: ") else {
            return;
        };
        for part in without_parentheses(counts).split(',') {
            match number_and_word(part) {
                Some((number, "passed")) => self.passed += number,
                // A test that hung or whose process could not start did not pass.
                Some((number, "failed" | "timed out" | "exec failed")) => self.failed += number,
                Some((number, "skipped")) => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)
        } else {
            Ok(())
        }
    }
}

fn number_and_word(part: &str) -> Option<(u64, &str)> {
    let (number, word) = part.trim().split_once(' ')?;
    Some((number.parse().ok()?, word.trim()))
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0_u32;
    text.chars()
        .filter(|character| {
            let inside = depth > 0;
            match character {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            !inside && *character != '('
        })
        .collect()
}

/// Drops the colour codes `ESC [ … m`.
fn without_colours(line: &str) -> String {
    let mut pieces = line.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    pieces.for_each(|piece| plain.push_str(piece.split_once('m').map_or(piece, |(_, rest)| rest)));
    plain
}

#[cfg(test)]
mod tests {
    use super::Runner::{Libtest, Nextest};
    use super::{Runner, Summary};

    fn counted(runner: Runner, lines: &[&str]) -> Summary {
        let mut summary = Summary::default();
        lines
            .iter()
            .for_each(|line| summary.count_line(runner, line));
        summary
    }

    #[test]
    fn counts_what_nextest_prints() {
        let line = "     Summary [   0.390s] 44 tests run: 44 passed, 0 skipped";
        assert_eq!(counted(Nextest, &[line]).to_string(), "44 passed, 0 failed");
        let line = "Summary [ 1.2s] 5/8 tests run: 3 passed (1 slow, 2 flaky), 1 failed, 1 timed out, 2 skipped";
        assert_eq!(
            counted(Nextest, &[line]).to_string(),
            "3 passed, 2 failed, 2 skipped"
        );
        let line = "\x1b[32;1m     Summary\x1b[0m [   0.4s] \x1b[1m1\x1b[0m test run: \x1b[1m1\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m \x1b[33;1mskipped\x1b[0m";
        assert_eq!(counted(Nextest, &[line]).to_string(), "1 passed, 0 failed");
    }

    #[test]
    fn counts_what_cargo_test_prints_and_adds_up() {
        let lines = [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s",
        ];
        assert_eq!(
            counted(Libtest, &lines),
            Summary {
                passed: 3,
                failed: 2,
                skipped: 5
            }
        );
    }

    #[test]
    fn other_lines_and_empty_runs_count_nothing() {
        let none = counted(
            Nextest,
            &[
                "3 passed",
                "",
                "Summary of changes",
                "PASS [ 0.1s] 1 passed",
            ],
        );
        assert_eq!(none, Summary::default());
        assert!(!none.ran());
        assert!(
            !counted(
                Nextest,
                &["Summary [ 0.0s] 0 tests run: 0 passed, 9 skipped"]
            )
            .ran()
        );
    }

    #[test]
    fn a_failed_test_that_nextest_quotes_is_counted_once() {
        let lines = [
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 21 filtered out",
            "     Summary [   0.004s] 2 tests run: 1 passed, 1 failed, 0 skipped",
        ];
        assert_eq!(counted(Nextest, &lines).to_string(), "1 passed, 1 failed");
    }
}
