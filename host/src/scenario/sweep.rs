//! Ends a scenario in every way at every host call, and looks at what is left.

use std::fmt;

use super::check::{self, Expectations, Problem};
use super::model::Scenario;
use super::play::{Report, Subject};
use crate::failure::{Class, Failure, Kind};
use crate::interference::Strike;
use crate::limits::Limits;
use crate::outcome::{EXIT_INTERNAL, EXIT_PLUGIN_FAILED, Outcome, StopSignal};

/// How a host call ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The call fails without doing its work.
    Refused,
    /// The call does its work, and then fails.
    Lost,
    /// The plugin traps right after the call.
    Trapped,
    /// SIGTERM stops the run as the call begins.
    Stopped,
}

const WAYS: [Way; 4] = [Way::Refused, Way::Lost, Way::Trapped, Way::Stopped];

/// One run of a sweep that went wrong.
#[derive(Clone, Debug)]
pub struct Broken {
    /// How it was ended.
    pub way: Way,
    /// At which host call, the first being 1.
    pub number: u64,
    /// The call's interface and function.
    pub function: &'static str,
    /// What was wrong.
    pub problems: Vec<Problem>,
}

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Runs that were made.
    pub runs: usize,
    /// Those that went wrong.
    pub broken: Vec<Broken>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Trapped => "trapped after",
            Self::Stopped => "stopped at",
        })
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} `{}`, host call {}",
            self.way, self.function, self.number
        )
    }
}

/// Plays `scenario`, whose undisturbed run made the host calls of `baseline`, once for each call and each way.
///
/// # Errors
///
/// As [`Subject::play`].
pub fn sweep(
    subject: &Subject,
    scenario: &Scenario,
    expect: &Expectations,
    baseline: &Report,
) -> Result<Swept, Failure> {
    let mut swept = Swept::default();
    for (number, function) in baseline.host_calls.iter().copied() {
        for way in WAYS {
            // After the last call nothing can trap any more.
            if way == Way::Trapped && number >= baseline.host_calls_total {
                continue;
            }
            let report = ended(subject, scenario, way, number)?;
            swept.runs += 1;
            let problems = problems(way, expect, baseline, &report);
            if !problems.is_empty() {
                swept.broken.push(Broken {
                    way,
                    number,
                    function,
                    problems,
                });
            }
        }
    }
    Ok(swept)
}

fn ended(subject: &Subject, scenario: &Scenario, way: Way, number: u64) -> Result<Report, Failure> {
    let failure = || {
        Failure::new(
            Kind::Unavailable,
            Class::Orka,
            "sweep.failure",
            "this call fails in this sweep",
        )
    };
    let strike = match way {
        Way::Refused => Strike::Refuse(failure()),
        Way::Lost => Strike::Lose(failure()),
        Way::Stopped => Strike::Stop(StopSignal::Terminate),
        Way::Trapped => {
            // The next call is one too many, which traps.
            let scenario = scenario.clone().limits(Limits {
                host_calls: number,
                ..scenario.limits
            });
            return subject.play(&scenario);
        }
    };
    subject.play_with(scenario, Some((number, strike)))
}

fn problems(way: Way, expect: &Expectations, baseline: &Report, report: &Report) -> Vec<Problem> {
    let mut problems: Vec<Problem> = check::shown_secrets(report).collect();
    let left: Vec<&String> = report
        .left_on_the_cluster
        .iter()
        .filter(|name| !report.kept.contains(name) && !is_meant_to_stay(expect, baseline, name))
        .collect();
    if !left.is_empty() {
        problems.push(Problem::new(format!("left on the cluster: {left:?}")));
    }
    if report.exit_code == EXIT_INTERNAL {
        problems.push(Problem::new(format!(
            "the host ended with a bug of its own: {}",
            report.message()
        )));
    }
    // A plugin that traps over being told that the run is over has not failed by itself.
    let was_over = matches!(baseline.outcome, Outcome::Cancelled | Outcome::TimedOut)
        && report.outcome == baseline.outcome;
    if way == Way::Trapped && report.exit_code != EXIT_PLUGIN_FAILED && !was_over {
        problems.push(Problem::new(format!(
            "a plugin that traps ended the step with exit code {} ({})",
            report.exit_code, report.outcome
        )));
    }
    if way == Way::Stopped && report.exit_code == 0 {
        problems.push(Problem::new(
            "a run that was stopped ended the step as a success",
        ));
    }
    problems
}

/// Whether the undisturbed scenario leaves this name as well, as a plugin that hands a VM config on does.
fn is_meant_to_stay(expect: &Expectations, baseline: &Report, name: &String) -> bool {
    expect.left() > 0 && baseline.left_on_the_cluster.contains(name)
}
