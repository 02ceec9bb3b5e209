//! What came of all cells: the table in the log, the result `matrix`, and the verdict.

use orka_plugin_common::warn_of;
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Exit, Verdict, results};

use crate::board::Ended;
use crate::cell::End;

/// The result with all ends.
const MATRIX: &str = "matrix";

/// What the host says of a result that does not fit.
const TOO_LARGE: &str = "results.too-large";

/// Tells how each cell ended, in the log and as a result.
pub(crate) fn tell(ends: &[Ended]) {
    let succeeded = ends.iter().filter(|cell| cell.end.is_success()).count();
    let heading = format!("{succeeded} of {} cells succeeded", ends.len());
    console::log(Level::Info, &heading);
    let width = |text: fn(&Ended) -> String| {
        let lengths = ends.iter().map(|cell| text(cell).chars().count());
        lengths.max().unwrap_or_default()
    };
    let names = width(|cell| cell.name.clone());
    let times = width(|cell| duration(cell.elapsed_ms));
    let vms = width(|cell| cell.vm.clone());
    for cell in ends {
        console::log(
            Level::Info,
            &format!(
                "  {:<names$}  {:>times$}  {:<vms$}  {}",
                cell.name,
                duration(cell.elapsed_ms),
                cell.vm,
                in_words(&cell.end)
            ),
        );
    }
    set_result(ends);
}

/// As much as fits beside the host's own results: every cell, or those that failed and counts, or counts.
fn set_result(ends: &[Ended]) {
    let mut set = Ok(());
    for text in [all_json(ends), failed_json(ends), counts_json(ends)] {
        set = results::set(MATRIX, &text);
        if !set.as_ref().is_err_and(|error| error.code() == TOO_LARGE) {
            break;
        }
    }
    warn_of(set);
}

/// Succeeded only if all did; else as the first cell of the list that failed, whatever came of the others.
pub(crate) fn verdict(ends: Vec<Ended>) -> Result<Verdict, Error> {
    let mut ends = ends;
    let decides = ends.iter().position(|cell| cell.end.is_failure());
    match ends.swap_remove(decides.unwrap_or_default()) {
        Ended {
            end: End::Exited(exit, command),
            ..
        } => {
            // Asked like this, it is what the result `exit-status` says.
            command.wait(Some(0))?;
            Ok(Verdict::from(exit))
        }
        Ended {
            end: End::Failed(error),
            name,
            ..
        } => Err(error.context(&format!("cell `{name}`"))),
        // Only a cell that failed lets others be cancelled.
        Ended {
            end: End::Cancelled,
            ..
        } => Ok(Verdict::Succeeded),
    }
}

fn in_words(end: &End) -> String {
    match end {
        End::Exited(exit, _) if exit.success() => "succeeded".to_owned(),
        End::Exited(exit, _) => format!("failed: the script {exit}"),
        End::Failed(error) => format!("failed: {} ({})", error.info().message, error.code()),
        End::Cancelled => "cancelled".to_owned(),
    }
}

/// A status, or why there is none. Codes have letters, digits, dots and hyphens.
fn in_json(end: &End) -> String {
    match end {
        End::Exited(Exit::Status(status), _) => status.to_string(),
        End::Exited(Exit::Signal(signal), _) => format!("\"SIG{}\"", signal.name),
        End::Failed(error) => format!("\"{}\"", error.code()),
        End::Cancelled => "\"cancelled\"".to_owned(),
    }
}

fn members<'a>(ends: impl Iterator<Item = &'a Ended>) -> String {
    let members = ends.map(|cell| format!("\"{}\":{}", cell.name, in_json(&cell.end)));
    members.collect::<Vec<_>>().join(",")
}

fn all_json(ends: &[Ended]) -> String {
    format!("{{{}}}", members(ends.iter()))
}

fn failed_json(ends: &[Ended]) -> String {
    let failed = members(ends.iter().filter(|cell| cell.end.is_failure()));
    let (succeeded, _, cancelled) = counts(ends);
    format!("{{\"succeeded\":{succeeded},\"cancelled\":{cancelled},\"failed\":{{{failed}}}}}")
}

fn counts_json(ends: &[Ended]) -> String {
    let (succeeded, failed, cancelled) = counts(ends);
    format!("{{\"succeeded\":{succeeded},\"cancelled\":{cancelled},\"failed\":{failed}}}")
}

fn counts(ends: &[Ended]) -> (usize, usize, usize) {
    let succeeded = ends.iter().filter(|cell| cell.end.is_success()).count();
    let failed = ends.iter().filter(|cell| cell.end.is_failure()).count();
    (succeeded, failed, ends.len() - succeeded - failed)
}

/// As the host writes durations: `12.0 s`, `3 min 05 s`.
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    if seconds >= 60 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1} s", ms as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orka_plugin_sdk::ErrorInfo;

    fn ended(name: &str, end: End) -> Ended {
        Ended {
            name: name.to_owned(),
            vm: "sonoma.orkasi, 3 cores".to_owned(),
            end,
            elapsed_ms: 125_000,
        }
    }

    fn failed(code: &str) -> End {
        End::Failed(Error::Other(ErrorInfo::new(code, "why")))
    }

    #[test]
    fn the_result_says_less_where_all_of_it_does_not_fit() {
        let ends = [
            ended("a", failed("ssh.refused")),
            ended("b", End::Cancelled),
        ];
        assert_eq!(all_json(&ends), r#"{"a":"ssh.refused","b":"cancelled"}"#);
        assert_eq!(
            failed_json(&ends),
            r#"{"succeeded":0,"cancelled":1,"failed":{"a":"ssh.refused"}}"#
        );
        assert_eq!(
            counts_json(&ends),
            r#"{"succeeded":0,"cancelled":1,"failed":1}"#
        );
    }

    #[test]
    fn the_first_of_the_list_that_failed_decides() {
        let ends = vec![
            ended("a", End::Cancelled),
            ended("b", failed("ssh.refused")),
            ended("c", failed("orka.no-capacity")),
        ];
        let error = verdict(ends).unwrap_err();
        assert_eq!(error.code(), "ssh.refused");
        assert_eq!(error.info().message, "cell `b`: why");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(12_040), "12.0 s");
        assert_eq!(duration(185_999), "3 min 05 s");
    }
}
