//! Every call of a build crossed with every fault, in three worlds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orka_client::RetryPolicy;
use orka_sim::{Sim, State};
use orka_step::outcome::{EXIT_LEFTOVERS, EXIT_TIMED_OUT};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::faults::{self, Fault, Lasting, Signal};
use crate::requests::{self, Call};
use crate::rules::{self, Expected};
use crate::world::{Build, Ended, Pace, World};

/// Builds that compute at the same time; those that only wait are not counted.
const AT_ONCE: usize = 12;

/// How long the client waits for an answer.
const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// No build may take longer; one whose clean-up cannot come to an end has a minute more for it.
const GUARD: Duration = Duration::from_secs(60);
const GUARD_WITH_CLEAN_UP: Duration = Duration::from_secs(110);

/// Findings shown with the end of their log, and how many lines of it.
const EXPLAINED: usize = 5;
const LINES_SHOWN: usize = 12;

/// One build to be made and judged.
#[derive(Clone, Debug)]
struct Cell {
    world: World,
    call: Call,
    fault: Fault,
    /// A second fault, which heals.
    also: Option<(Call, Fault)>,
}

/// What was wrong with one build.
struct Finding {
    cell: String,
    expected: Expected,
    ended: Option<Ended>,
    problems: Vec<String>,
}

impl Cell {
    fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for world in World::ALL {
            for call in Call::of(world) {
                let faults = faults::at(world, call, CALL_LIMIT);
                cells.extend(faults.into_iter().map(|fault| Self {
                    world,
                    call,
                    fault,
                    also: None,
                }));
            }
        }
        cells
    }

    /// The reply to the deploy is lost, and then something of the clean-up goes wrong once.
    fn all_doubly_spoilt() -> Vec<Self> {
        let mut cells = Vec::new();
        for world in World::ALL {
            let lost = faults::at(world, Call::Deploy, CALL_LIMIT)
                .into_iter()
                .find(|fault| fault.name == "closed after")
                .unwrap();
            for call in [Call::Purge, Call::LookForVm, Call::LookForConfig] {
                if call.target(world).is_none() {
                    continue;
                }
                let passing = faults::at(world, call, CALL_LIMIT)
                    .into_iter()
                    .filter(|fault| fault.lasting == Lasting::Once && !fault.ends_the_token());
                for fault in passing {
                    // The first look counts what is there before it is deleted, the second confirms the removal, the
                    // third is on the watch for a late VM.
                    let looks = match call {
                        Call::Purge => vec![Lasting::Once],
                        _ => vec![Lasting::Once, Lasting::Third],
                    };
                    cells.extend(looks.into_iter().map(|lasting| Self {
                        world,
                        call: Call::Deploy,
                        fault: lost.clone(),
                        also: Some((call, fault.clone().lasting(lasting))),
                    }));
                }
            }
        }
        cells
    }

    fn expected(&self) -> Expected {
        rules::expected(self.world, self.call, &self.fault)
    }

    fn shown(&self) -> String {
        let also = self
            .also
            .as_ref()
            .map_or_else(String::new, |(call, fault)| {
                format!(", then {call:?} / {}", fault.shown())
            });
        format!(
            "{:?} / {:?} / {}{also}",
            self.world,
            self.call,
            self.fault.shown()
        )
    }

    /// Whether the clean-up has to go on until its time is up.
    fn is_stubborn(&self) -> bool {
        let cleaning = matches!(
            self.call,
            Call::Purge | Call::LookForVm | Call::LookForConfig
        );
        let no_token = self.world.is_orka3() && self.fault.ends_the_token();
        (cleaning && self.fault.lasting == Lasting::Always) || no_token
    }

    /// Whether little is left to compute once the fault has struck.
    fn waits_when_struck(&self) -> bool {
        let doubtful = matches!(self.call, Call::Create | Call::Deploy)
            && (self.fault.signal != Signal::Harmless);
        doubtful || self.is_stubborn()
    }

    fn pace(&self) -> Pace {
        if self.is_stubborn() {
            // The plugin's own clean-up ends with the run; what is left of it is the host's.
            Pace {
                call: Duration::from_secs(1),
                retry: RetryPolicy::NONE,
                run: Duration::from_millis(12_700),
            }
        } else {
            Pace {
                call: CALL_LIMIT,
                retry: RetryPolicy {
                    attempts_max: 5,
                    wait_first: Duration::from_millis(50),
                    wait_max: Duration::from_millis(1200),
                },
                run: Duration::from_secs(50),
            }
        }
    }

    async fn play(self, computing: Arc<Semaphore>) -> Option<Finding> {
        let permit = computing.acquire_owned().await.unwrap();
        let sim = Arc::new(self.world.start().await);
        sim.add_fault(self.fault.rule(self.world, self.call));
        if let Some((call, fault)) = &self.also {
            sim.add_fault(fault.rule(self.world, *call));
        }
        let mut build = Build::new(&sim, "true");
        if self.fault.signal == Signal::Full {
            // The first pause is about 5 s: one refusal is waited out, a lasting one is not.
            let patience = if self.fault.lasting == Lasting::Once {
                "20s"
            } else {
                "6s"
            };
            build = build.param("capacity-wait", patience);
        }
        let guard = if self.waits_when_struck() {
            GUARD_WITH_CLEAN_UP
        } else {
            GUARD
        };
        let run = timeout(guard, build.run_at(self.pace()));
        tokio::pin!(run);
        let ended = if self.waits_when_struck() {
            tokio::select! {
                ended = &mut run => ended.ok(),
                () = struck(&self, &sim) => {
                    drop(permit);
                    run.await.ok()
                }
            }
        } else {
            run.await.ok()
        };
        let state = self.settled(&sim).await;
        let problems = self.problems(ended.as_ref(), &state);
        if let Ok(sim) = Arc::try_unwrap(sim) {
            sim.shutdown().await;
        }
        (!problems.is_empty()).then(|| Finding {
            cell: self.shown(),
            expected: self.expected(),
            ended,
            problems,
        })
    }

    /// The cluster once everything is done that was asked of it.
    async fn settled(&self, sim: &Sim) -> State {
        let started = Instant::now();
        loop {
            let state = sim.state();
            let under_way = self.fault.is_slow()
                && self
                    .requests(&state)
                    .any(|request| request.status.is_none());
            if !under_way || started.elapsed() > Duration::from_secs(10) {
                return state;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn requests<'a>(
        &self,
        state: &'a State,
    ) -> impl Iterator<Item = &'a orka_sim::RequestRecord> + use<'a> {
        let (method, path) = self.call.target(self.world).unwrap();
        state.requests_to(method, path).into_iter()
    }

    fn problems(&self, ended: Option<&Ended>, state: &State) -> Vec<String> {
        let mut problems = Vec::new();
        if self.requests(state).next().is_none() {
            problems.push("the call was never made".to_owned());
        }
        problems.extend(requests::repeated(state, self.fault.signal == Signal::Full));
        let left = state.vms.iter().map(|vm| ("VM", &vm.name)).chain(
            state
                .configs
                .iter()
                .map(|config| ("VM config", &config.name)),
        );
        let Some(ended) = ended else {
            problems.push("it did not end in time".to_owned());
            return problems;
        };
        if !self.admits(ended) {
            problems.push(format!("ended with {} ({})", ended.code, ended.outcome));
        }
        for (kind, name) in left {
            if !ended.names_as_left(name) {
                problems.push(format!("{kind} `{name}` is left and not named"));
            }
            if ended.code == 0 {
                problems.push(format!("{kind} `{name}` is left by a success"));
            }
        }
        problems.extend(self.untrue(ended, state));
        problems
    }

    /// Whether it ended as it must. The deadline of stubborn builds is short only so that the test is; a call that is
    /// under way when it passes ends with it.
    fn admits(&self, ended: &Ended) -> bool {
        let cut = self.is_stubborn()
            && ended.code == EXIT_TIMED_OUT
            && !ended.leftovers.is_empty()
            && self.expected().failure == Some(EXIT_LEFTOVERS);
        cut || self.expected().admits(ended.code, ended.outcome)
    }

    /// What the run says that is not so.
    fn untrue(&self, ended: &Ended, state: &State) -> Vec<String> {
        let mut untrue = Vec::new();
        let names = requests::names(state);
        let unnamed =
            ended.leftovers.is_empty() || !ended.leftovers.iter().all(|name| names.contains(name));
        if ended.code == EXIT_LEFTOVERS && unnamed {
            untrue.push(format!("names {:?} as left", ended.leftovers));
        }
        let healed = self.also.is_some() || ended.code == 0;
        if healed && !ended.leftovers.is_empty() {
            untrue.push("names what is not left".to_owned());
        }
        let no_token_left = state.live_tokens() == 0;
        let says_revoked = ended.log.iter().any(|line| line == "token revoked");
        if says_revoked && self.world != World::Orka210 {
            untrue.push("says that it revoked a token".to_owned());
        }
        // Where a login or its end was spoilt there may be one that nobody knows of.
        let spoilt = matches!(self.call, Call::SignIn | Call::SignOut)
            || self.fault.signal == Signal::Unauthorized;
        if self.world == World::Orka210 && ended.code == 0 && !spoilt && !no_token_left {
            untrue.push("a token still works".to_owned());
        }
        untrue
    }
}

/// Returns once the call that is to be hit has been made.
async fn struck(cell: &Cell, sim: &Sim) {
    while cell.requests(&sim.state()).next().is_none() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// One line for each finding, and the last words of the first few.
fn table(findings: &[Finding]) -> String {
    let got = |finding: &Finding| {
        finding.ended.as_ref().map_or_else(String::new, |ended| {
            format!("{} {}", ended.code, ended.failure)
        })
    };
    let width = findings.iter().map(|finding| finding.cell.len()).max();
    let width = width.unwrap_or_default();
    let mut table = format!("\n{:width$} | expected | got | wrong\n", "cell");
    for finding in findings {
        let wrong = finding.problems.join("; ");
        let (cell, expected) = (&finding.cell, finding.expected.to_string());
        table.push_str(&format!(
            "{cell:width$} | {expected:8} | {} | {wrong}\n",
            got(finding)
        ));
    }
    for finding in findings.iter().take(EXPLAINED) {
        table.push_str(&format!("\n{} ended with\n", finding.cell));
        let log = finding.ended.as_ref().map_or(&[][..], |ended| &ended.log);
        for line in &log[log.len().saturating_sub(LINES_SHOWN)..] {
            table.push_str(&format!("    {line}\n"));
        }
    }
    table
}

async fn sweep(cells: Vec<Cell>) {
    let number = cells.len();
    let started = Instant::now();
    let computing = Arc::new(Semaphore::new(AT_ONCE));
    let mut builds: JoinSet<Option<Finding>> = cells
        .into_iter()
        .map(|cell| cell.play(Arc::clone(&computing)))
        .collect();
    let mut findings = Vec::new();
    while let Some(finding) = builds.join_next().await {
        findings.extend(finding.unwrap());
    }
    findings.sort_by(|one, other| one.cell.cmp(&other.cell));
    assert!(
        findings.is_empty(),
        "{} of {number} builds did not end as they must (after {:.0?}):{}",
        findings.len(),
        started.elapsed(),
        table(&findings)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_build_survives_every_fault_or_tells_what_is_left() {
    let mut cells = Cell::all();
    // Those that take longest begin first.
    cells.sort_by_key(|cell| (!cell.is_stubborn(), !cell.waits_when_struck()));
    sweep(cells).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_without_an_answer_and_a_clean_up_that_stumbles_leave_nothing() {
    sweep(Cell::all_doubly_spoilt()).await;
}
