//! Plays cells side by side and judges them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orka_sim::State;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::axes::{Absent, Call, Cell, Fault, Moment, World};
use crate::expected::Expected;
use crate::stage::Stage;
use crate::{in_process, process};

/// Builds in this process that compute at the same time; those that only wait are not counted.
const IN_PROCESS_AT_ONCE: usize = 6;

/// Programs at the same time.
const PROCESSES_AT_ONCE: usize = 4;

/// A build whose time is up before it has reached its place gets more of it, so often.
const PATIENCE: [u32; 3] = [1, 3, 9];

/// No build may take longer: one that looks for a VM that may still appear takes the whole of a clean-up's budget.
const GUARD: Duration = Duration::from_secs(150);

/// The end of the log that is shown of a build that did not end as it must.
const LINES_SHOWN: usize = 15;

/// How a build ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) outcome: String,
    pub(crate) reaped: Option<i32>,
    pub(crate) log: Vec<String>,
}

/// One cell and what became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The build.
    pub cell: Cell,
    /// Why there is none, or how it was judged.
    pub judged: Result<Judged, Absent>,
}

/// How a build ended and what it left.
#[derive(Debug, Default)]
pub struct Judged {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The result `outcome`.
    pub outcome: String,
    /// The reaper's exit code, where there was one.
    pub reaped: Option<i32>,
    /// VMs left.
    pub vms: usize,
    /// VM configs left.
    pub configs: usize,
    /// Tokens left that somebody could have revoked.
    pub tokens: usize,
    /// How long it took.
    pub took: Duration,
    /// What was not as it must be.
    pub problems: Vec<String>,
    /// The end of its log, if anything was not.
    pub log: Vec<String>,
}

/// Everything that was played.
#[derive(Debug)]
pub struct Matrix {
    /// Every cell that was asked for, in order.
    pub outcomes: Vec<Outcome>,
    /// How long all of it took.
    pub took: Duration,
}

/// What is counted over a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Builds played.
    pub played: usize,
    /// Builds that ended as they must and left nothing.
    pub ok: usize,
    /// All others.
    pub wrong: usize,
    /// Combinations that mean nothing.
    pub absent: usize,
    /// VMs left by all builds.
    pub vms: usize,
    /// VM configs left by all builds.
    pub configs: usize,
    /// Tokens left by all builds.
    pub tokens: usize,
}

impl Matrix {
    /// The builds that did not end as they must, or left something.
    pub fn wrong(&self) -> impl Iterator<Item = (&Cell, &Judged)> {
        self.outcomes.iter().filter_map(|outcome| {
            let judged = outcome.judged.as_ref().ok()?;
            (!judged.problems.is_empty()).then_some((&outcome.cell, judged))
        })
    }

    /// Sums.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for outcome in &self.outcomes {
            let Ok(judged) = &outcome.judged else {
                totals.absent += 1;
                continue;
            };
            totals.played += 1;
            totals.ok += usize::from(judged.problems.is_empty());
            totals.wrong += usize::from(!judged.problems.is_empty());
            totals.vms += judged.vms;
            totals.configs += judged.configs;
            totals.tokens += judged.tokens;
        }
        totals
    }
}

/// Plays these cells side by side. `done` is told of each that has ended.
pub async fn play_all(cells: Vec<Cell>, mut done: impl FnMut(&Outcome)) -> Matrix {
    let started = Instant::now();
    let in_process = Arc::new(Semaphore::new(IN_PROCESS_AT_ONCE));
    let processes = Arc::new(Semaphore::new(PROCESSES_AT_ONCE));
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut playing = JoinSet::new();
    let mut exist = Vec::new();
    for cell in cells {
        match cell.absent() {
            Some(absent) => outcomes.push(Outcome {
                cell,
                judged: Err(absent),
            }),
            None => exist.push(cell),
        }
    }
    // Those that wait for longest begin first.
    exist.sort_by_key(|cell| {
        let waits = [Fault::ApiTimeout, Fault::Deadline, Fault::SshFrozen];
        waits
            .iter()
            .position(|&fault| fault == cell.fault)
            .unwrap_or(waits.len())
    });
    for cell in exist {
        let permits = if cell.fault.is_signal() {
            Arc::clone(&processes)
        } else {
            Arc::clone(&in_process)
        };
        playing.spawn(async move {
            let judged = play(cell, permits).await;
            Outcome {
                cell,
                judged: Ok(judged),
            }
        });
    }
    while let Some(outcome) = playing.join_next().await {
        let outcome = outcome.unwrap();
        done(&outcome);
        outcomes.push(outcome);
    }
    outcomes.sort_by_key(|outcome| outcome.cell);
    Matrix {
        outcomes,
        took: started.elapsed(),
    }
}

async fn play(cell: Cell, permits: Arc<Semaphore>) -> Judged {
    for patience in PATIENCE {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let stage = Stage::set(cell).await;
        let started = Instant::now();
        let playing = async {
            if cell.fault.is_signal() {
                Some(process::play(&stage, permit).await)
            } else {
                in_process::play(&stage, patience, permit).await
            }
        };
        let ended = timeout(GUARD, playing).await;
        let took = started.elapsed();
        let ended = match ended {
            // Too slow a machine proves nothing.
            Ok(None) => continue,
            Ok(Some(ended)) => Some(ended),
            Err(_) => None,
        };
        let judged = judge(cell, ended, &stage.settled().await, took);
        stage.sim.shutdown().await;
        return judged;
    }
    Judged {
        problems: vec!["the place was never reached in time".to_owned()],
        ..Judged::default()
    }
}

fn judge(cell: Cell, ended: Option<Ended>, state: &State, took: Duration) -> Judged {
    let expected = Expected::of(&cell);
    let tokens = state.live_tokens().saturating_sub(unrevocable(cell));
    let mut judged = Judged {
        // One that waits for a node is to be a VM.
        vms: state.vms.len() + state.waiting.len(),
        configs: state.configs.len(),
        tokens: if cell.world.revokes() { tokens } else { 0 },
        took,
        ..Judged::default()
    };
    let mut problems = Vec::new();
    if let Some(ended) = ended {
        if !expected.admits(ended.code, &ended.outcome, ended.reaped) {
            let code = |code: Option<i32>| {
                code.map_or_else(|| "a signal".to_owned(), |code| code.to_string())
            };
            let reaped = ended
                .reaped
                .map(|reaped| format!(", reaped with {reaped}"))
                .unwrap_or_default();
            problems.push(format!(
                "ended with {} ({}){reaped}, must end with {expected}",
                code(ended.code),
                ended.outcome
            ));
        }
        (judged.code, judged.outcome, judged.reaped) = (ended.code, ended.outcome, ended.reaped);
        judged.log = ended.log;
    } else {
        problems.push("did not end in time".to_owned());
    }
    for (count, what) in [
        (judged.vms, "VM"),
        (judged.configs, "VM config"),
        (judged.tokens, "token"),
    ] {
        if count > 0 {
            problems.push(format!("{count} {what} left"));
        }
    }
    let shown = if problems.is_empty() { 0 } else { LINES_SHOWN };
    let surplus = judged.log.len().saturating_sub(shown);
    judged.log.drain(..surplus);
    judged.problems = problems;
    judged
}

/// Tokens that nobody knows any more who could revoke them.
fn unrevocable(cell: Cell) -> usize {
    let signed_in = cell.is_from(Call::SignIn, Moment::During);
    let signed_out = cell.is_from(Call::SignOut, Moment::During);
    match cell.fault {
        // It died with the process.
        Fault::SigkillReap => usize::from(signed_in && !signed_out),
        // Its only copy was in the answer that never came.
        _ => usize::from((cell.call, cell.moment) == (Call::SignIn, Moment::During)),
    }
}

/// The worlds of a matrix, for its tables.
pub(crate) fn worlds(matrix: &Matrix) -> Vec<World> {
    let mut worlds: Vec<World> = matrix
        .outcomes
        .iter()
        .map(|outcome| outcome.cell.world)
        .collect();
    worlds.dedup();
    worlds
}

#[cfg(test)]
mod tests {
    use orka_sim::{TokenRecord, VmConfigRecord, VmRecord};

    use super::*;

    const CELL: Cell = Cell {
        world: World::Orka210,
        call: Call::Deploy,
        moment: Moment::During,
        fault: Fault::Sigterm,
    };

    fn clean() -> State {
        State {
            tokens: Vec::new(),
            configs: Vec::new(),
            vms: Vec::new(),
            waiting: Vec::new(),
            requests: Vec::new(),
            deletions: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn live_token() -> TokenRecord {
        TokenRecord {
            token: "token".to_owned(),
            email: "ci@example.com".to_owned(),
            revoked: false,
        }
    }

    fn problems(cell: Cell, code: Option<i32>, outcome: &str, state: &State) -> Vec<String> {
        let ended = Ended {
            code,
            outcome: outcome.to_owned(),
            reaped: None,
            log: Vec::new(),
        };
        judge(cell, Some(ended), state, Duration::ZERO).problems
    }

    #[test]
    fn whatever_is_left_is_found() {
        let right = |cell, state: &State| problems(cell, Some(143), "cancelled", state);
        assert!(right(CELL, &clean()).is_empty());
        let mut state = clean();
        state.vms.push(VmRecord {
            name: "tekton-1".to_owned(),
            id: String::new(),
            owner: String::new(),
            namespace: String::new(),
            node: String::new(),
            image: String::new(),
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            ssh_port: 22,
            cpu: 3,
            phase: "Pending".to_owned(),
            metadata: serde_json::Map::new(),
            home: std::path::PathBuf::new(),
        });
        assert_eq!(right(CELL, &state), ["1 VM left"]);
        let mut state = clean();
        state.configs.push(VmConfigRecord {
            name: "tekton-1".to_owned(),
            owner: String::new(),
            image: String::new(),
            cpu: 3,
        });
        assert_eq!(right(CELL, &state), ["1 VM config left"]);
    }

    #[test]
    fn a_token_counts_where_somebody_could_have_revoked_it() {
        let mut state = clean();
        state.tokens.push(live_token());
        let right = |cell| problems(cell, Some(143), "cancelled", &state);
        assert_eq!(right(CELL), ["1 token left"]);
        let world = World::Orka240;
        assert!(right(Cell { world, ..CELL }).is_empty(), "shared");
        let call = Call::SignIn;
        assert!(right(Cell { call, ..CELL }).is_empty(), "never told");
        state.tokens.push(live_token());
        let right = |cell| problems(cell, Some(143), "cancelled", &state);
        assert_eq!(right(Cell { call, ..CELL }), ["1 token left"]);
    }

    #[test]
    fn another_end_than_the_right_one_is_found() {
        for (code, outcome) in [(0, "succeeded"), (143, "timed-out"), (214, "infra-failed")] {
            assert_eq!(problems(CELL, Some(code), outcome, &clean()).len(), 1);
        }
        assert_eq!(problems(CELL, None, "", &clean()).len(), 1);
        let judged = judge(CELL, None, &clean(), Duration::ZERO);
        assert_eq!(judged.problems, ["did not end in time"]);
    }
}
