//! How long a thousand tests of a plugin take: whole runs of `build` under `plugin-testkit`, one after the other.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::medians::Runs;
use benches::{machine, results};
use clap::Parser;
use plugin_testkit::{ExecReply, Outcome, PluginUnderTest, Scenario};

/// What is promised of a thousand runs.
const GOAL: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(
    name = "bench testkit",
    about = "How long a thousand tests of a plugin take"
)]
struct Cli {
    /// A directory with the plugin `build.wasm`
    #[arg(long)]
    plugins: PathBuf,
    /// Runs in all
    #[arg(long, default_value_t = 1000)]
    repetitions: u32,
    /// Keep the table in `tests/benches/RESULTS.md`
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(cli.repetitions > 0, "nothing is measured in no runs");
    let began = Instant::now();
    let plugin = PluginUnderTest::load(&cli.plugins.join("build.wasm"));
    let compiled = began.elapsed();
    let mut runs = Runs::new("build");
    let mut virtual_time = Duration::ZERO;
    let mut host_calls = 0;
    let began = Instant::now();
    for _ in 0..cli.repetitions {
        let began = Instant::now();
        let report = plugin.run(scenario());
        ensure!(
            report.outcome == Outcome::Succeeded && report.left_on_the_cluster.is_empty(),
            "a run failed:\n{}",
            report.log_text()
        );
        runs.durations.push(began.elapsed());
        virtual_time += report.elapsed;
        host_calls += report.host_calls_total;
    }
    let all = began.elapsed();
    let goal = GOAL * cli.repetitions / 1000;
    let text = format!(
        "`cargo xtask bench testkit --keep`; {}; one thread; the plugin compiled once before, in {:.2} s.\n\n\
         | {} whole runs of `build` | promised | median of a run | quickest–slowest | virtual time of all | host calls of all |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: |\n\
         | {:.2} s | {:.0} s | {:.2} ms | {} s | {:.1} h | {host_calls} |\n",
        machine::describe(),
        compiled.as_secs_f64(),
        cli.repetitions,
        all.as_secs_f64(),
        goal.as_secs_f64(),
        runs.median().as_secs_f64() * 1000.0,
        runs.spread(),
        virtual_time.as_secs_f64() / 3600.0,
    );
    println!("{text}");
    if cli.keep {
        results::keep("testkit", &text)?;
    }
    ensure!(all < goal, "slower than promised");
    Ok(())
}

/// A build of twelve minutes with a file to copy in and one to bring back.
fn scenario() -> Scenario {
    Scenario::new()
        .param("base-image", "sonoma.orkasi")
        .param("script", "make ipa\n")
        .file("main.c", "int main(void) {}")
        .on_exec(
            "../build-script",
            ExecReply::exit(0)
                .stdout("built\n")
                .after(Duration::from_secs(12 * 60))
                .writes("workspace/orka/app.ipa", "ipa"),
        )
}
