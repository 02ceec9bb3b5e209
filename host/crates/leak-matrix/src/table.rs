//! A matrix for people and for programs.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::axes::{Absent, Call, Cell, Fault, Moment, World};
use crate::matrix::{Judged, Matrix, Outcome, Totals, worlds};

/// The form of the JSON; raised when a member changes its meaning.
const SCHEMA: u32 = 1;

impl Matrix {
    /// One table a release: a row for each place, a column for each fault, then the legend and the sums.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for world in worlds(self) {
            let rows = self.rows(world);
            let columns = rows.first().map_or(0, Vec::len);
            let widths: Vec<usize> = (0..columns)
                .map(|column| {
                    rows.iter()
                        .map(|row| row[column].len())
                        .max()
                        .unwrap_or_default()
                })
                .collect();
            text.push_str(&format!("{world}\n"));
            for row in &rows {
                for (cell, width) in row.iter().zip(&widths) {
                    text.push_str(&format!("{cell:width$}  "));
                }
                text.truncate(text.trim_end().len());
                text.push('\n');
            }
            text.push('\n');
        }
        for reason in self.reasons() {
            text.push_str(&format!("-{}  {reason}\n", reason.number()));
        }
        text.push_str(&format!("\n{}\n", self.sums()));
        for (cell, judged) in self.wrong() {
            text.push_str(&format!(
                "\nwrong: {cell}: {}\n",
                judged.problems.join("; ")
            ));
            for line in &judged.log {
                text.push_str(&format!("    {line}\n"));
            }
        }
        text
    }

    /// The same as a page.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "# The leak matrix\n\nWritten by `cargo xtask leak-matrix --markdown host/leak-matrix.md`. Each cell is one build against a simulated \
             cluster, ended at that place in that way. `ok`: no VM, no VM config and no token that could be revoked is left, \
             and outcome and exit code are the right ones. `before`: the guest is about to make the call; `during`: the \
             other side has done what it was asked and not answered yet; `after`: the guest has its answer.\n",
        );
        for world in worlds(self) {
            text.push_str(&format!("\n## {world}\n\n"));
            for (number, row) in self.rows(world).iter().enumerate() {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
                if number == 0 {
                    text.push_str(&format!("|{}\n", " --- |".repeat(row.len())));
                }
            }
        }
        text.push_str("\nWhere there is no build, because\n\n");
        for reason in self.reasons() {
            text.push_str(&format!("- `-{}`: {reason}\n", reason.number()));
        }
        text.push_str(&format!(
            "\n{}\n\nA token whose only copy was in an answer that never came, or died with a killed process, is not counted: \
             nobody is left who could revoke it.\n",
            self.sums()
        ));
        text
    }

    /// The same for programs.
    pub fn json(&self) -> String {
        let cells = self.outcomes.iter().map(CellRecord::of).collect();
        let record = Record {
            schema: SCHEMA,
            totals: self.totals(),
            duration_ms: self.took.as_millis(),
            cells,
        };
        serde_json::to_string_pretty(&record).unwrap()
    }

    /// One line.
    pub fn sums(&self) -> String {
        let Totals {
            played,
            ok,
            wrong,
            absent,
            vms,
            configs,
            tokens,
        } = self.totals();
        format!(
            "{played} builds: {ok} ok, {wrong} wrong; {absent} combinations without a build; left over: {vms} VMs, {configs} VM \
             configs, {tokens} tokens; {:.0} s",
            self.took.as_secs_f64()
        )
    }

    fn reasons(&self) -> BTreeSet<Absent> {
        let absent = |outcome: &Outcome| outcome.judged.as_ref().err().copied();
        self.outcomes.iter().filter_map(absent).collect()
    }

    /// The header and a row for each place that has a build.
    fn rows(&self, world: World) -> Vec<Vec<String>> {
        let of_world: Vec<&Outcome> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.cell.world == world)
            .collect();
        let faults: BTreeSet<Fault> = of_world.iter().map(|outcome| outcome.cell.fault).collect();
        let mut header = vec![String::new()];
        header.extend(faults.iter().map(ToString::to_string));
        let mut rows = vec![header];
        for call in Call::ALL {
            for moment in Moment::ALL {
                let at: Vec<&&Outcome> = of_world
                    .iter()
                    .filter(|it| (it.cell.call, it.cell.moment) == (call, moment))
                    .collect();
                if at.is_empty() {
                    continue;
                }
                let mut row = vec![format!("{call} {moment}")];
                row.extend(faults.iter().map(|fault| {
                    let found = at.iter().find(|outcome| outcome.cell.fault == *fault);
                    found.map_or_else(String::new, |outcome| shown(outcome))
                }));
                rows.push(row);
            }
        }
        rows
    }
}

fn shown(outcome: &Outcome) -> String {
    match &outcome.judged {
        Err(absent) => format!("-{}", absent.number()),
        Ok(judged) if judged.problems.is_empty() => "ok".to_owned(),
        Ok(judged) if judged.vms + judged.configs + judged.tokens > 0 => {
            format!("LEAK {}/{}/{}", judged.vms, judged.configs, judged.tokens)
        }
        Ok(judged) => match judged.code {
            Some(code) => format!("EXIT {code}"),
            None => "WRONG".to_owned(),
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    schema: u32,
    totals: Totals,
    duration_ms: u128,
    cells: Vec<CellRecord>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CellRecord {
    release: String,
    call: String,
    moment: String,
    fault: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<Absent>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    judged: Option<JudgedRecord>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JudgedRecord {
    exit_code: Option<i32>,
    outcome: String,
    reaper_exit_code: Option<i32>,
    vms_left: usize,
    configs_left: usize,
    tokens_left: usize,
    duration_ms: u128,
    problems: Vec<String>,
}

impl CellRecord {
    fn of(outcome: &Outcome) -> Self {
        let Cell {
            world,
            call,
            moment,
            fault,
        } = outcome.cell;
        Self {
            release: world.to_string(),
            call: call.to_string(),
            moment: moment.to_string(),
            fault: fault.to_string(),
            absent: outcome.judged.as_ref().err().copied(),
            judged: outcome.judged.as_ref().ok().map(JudgedRecord::of),
        }
    }
}

impl JudgedRecord {
    fn of(judged: &Judged) -> Self {
        Self {
            exit_code: judged.code,
            outcome: judged.outcome.clone(),
            reaper_exit_code: judged.reaped,
            vms_left: judged.vms,
            configs_left: judged.configs,
            tokens_left: judged.tokens,
            duration_ms: judged.took.as_millis(),
            problems: judged.problems.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(call: Call, fault: Fault, judged: Result<Judged, Absent>) -> Outcome {
        let cell = Cell {
            world: World::Orka3,
            call,
            moment: Moment::Before,
            fault,
        };
        Outcome { cell, judged }
    }

    #[test]
    fn a_table_shows_what_is_right_what_is_wrong_and_why_there_is_nothing() {
        let leak = Judged {
            vms: 1,
            code: Some(143),
            problems: vec!["1 VM left".to_owned()],
            log: vec!["purging".to_owned()],
            ..Judged::default()
        };
        let outcomes = vec![
            outcome(Call::SignIn, Fault::Trap, Ok(Judged::default())),
            outcome(Call::SignIn, Fault::SshDropped, Err(Absent::NoConnection)),
            outcome(Call::Deploy, Fault::Trap, Ok(leak)),
            outcome(Call::Deploy, Fault::SshDropped, Err(Absent::NoConnection)),
        ];
        let matrix = Matrix {
            outcomes,
            took: Duration::from_secs(3),
        };
        let expected = "\
orka-3
                trap        ssh-dropped
sign-in before  ok          -6
deploy before   LEAK 1/0/0  -6

-6  there is no connection to a VM yet

2 builds: 1 ok, 1 wrong; 2 combinations without a build; left over: 1 VMs, 0 VM configs, 0 tokens; 3 s

wrong: orka-3/deploy/before/trap: 1 VM left
    purging
";
        assert_eq!(matrix.text(), expected);
        assert!(
            matrix
                .markdown()
                .contains("| deploy before | LEAK 1/0/0 | -6 |")
        );
        let json: serde_json::Value = serde_json::from_str(&matrix.json()).unwrap();
        assert_eq!(json["totals"]["vms"], 1);
        assert_eq!(json["cells"][2]["vmsLeft"], 1);
        assert_eq!(json["cells"][1]["absent"], "no-connection");
    }
}
