//! What a plugin costs before and while it runs: `orka-step plugin bench` of the stock plugin, with what is promised of it.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use benches::{machine, results};
use clap::Parser;
use serde_json::Value;

/// A figure of `plugin bench`: its member, what it is, and what its median stays below if that is promised.
struct Figure {
    member: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: Option<f64>,
}

const fn figure(member: &'static str, what: &'static str) -> Figure {
    Figure {
        member,
        what,
        unit: "ms",
        goal: None,
    }
}

const FIGURES: [Figure; 6] = [
    Figure {
        goal: Some(3.0),
        ..figure(
            "loadMs",
            "load: read, check, map the code compiled ahead of time, link",
        )
    },
    figure("firstStartMs", "instantiate, of code that was just loaded"),
    Figure {
        goal: Some(0.2),
        ..figure("startMs", "instantiate, once more")
    },
    Figure {
        unit: "µs",
        ..figure("hostCallUs", "a host call, there and back")
    },
    figure("engineMs", "set up the engine, once in a process"),
    figure(
        "compileMs",
        "compile, which is what is saved by doing it ahead of time",
    ),
];

#[derive(Parser)]
#[command(
    name = "bench plugin",
    about = "What the stock plugin costs before and while it runs"
)]
struct Cli {
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// A directory with the plugin `build.wasm`
    #[arg(long)]
    plugins: PathBuf,
    /// How often each step is measured; compiling a tenth as often
    #[arg(long, default_value_t = 1000)]
    repetitions: u32,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let output = Command::new(&cli.program)
        .args(["plugin", "bench", "--json", "--repetitions"])
        .arg(cli.repetitions.to_string())
        .arg(cli.plugins.join("build.wasm"))
        .output()
        .with_context(|| format!("cannot start `{}`", cli.program.display()))?;
    ensure!(
        output.status.success(),
        "the plugin was not measured: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let measured: Value = serde_json::from_slice(&output.stdout)?;
    let size = |member: &str| measured[member].as_f64().unwrap_or_default() / 1024.0;
    let mut text = format!(
        "`cargo xtask bench plugin --keep`; {}; `orka-step plugin bench` of `build`, a component of {:.0} KiB with code of \
         {:.0} KiB; medians of {} runs (compiling: a tenth of that).\n\n| | promised | median |\n| --- | ---: | ---: |\n",
        machine::describe(),
        size("bytes"),
        size("codeBytes"),
        cli.repetitions,
    );
    let mut missed = Vec::new();
    for figure in &FIGURES {
        let median = measured[figure.member]
            .as_f64()
            .with_context(|| format!("`plugin bench` does not tell `{}`", figure.member))?;
        let goal = figure
            .goal
            .map(|goal| format!("{goal} {}", figure.unit))
            .unwrap_or_default();
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "| {} | {goal} | {median:.3} {} |",
            figure.what, figure.unit
        );
        if figure.goal.is_some_and(|goal| median >= goal) {
            missed.push(figure.what);
        }
    }
    println!("{text}");
    if cli.keep {
        results::keep("plugin", &text)?;
    }
    ensure!(
        missed.is_empty(),
        "slower than promised: {}",
        missed.join("; ")
    );
    Ok(())
}
