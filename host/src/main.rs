//! Parse, start logging, run, print the outcome, exit.

use std::process::ExitCode;

use clap::Parser as _;
use orka_step::cli::{Cli, Command, PluginCommand, RunArgs};
use orka_step::config::{self, Config};
use orka_step::console::{Console, Level};
use orka_step::failure::Failure;
use orka_step::mask::Masker;
use orka_step::outcome::{self, EXIT_INTERNAL, StopSignal};
use orka_step::plugin::PluginRef;
use orka_step::results::Results;
use orka_step::run::{self, Finished};
use orka_step::state::Stop;
use orka_step::{inspect, logging, report};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let masker = Masker::default();
    logging::start(cli.common.verbose, &masker);
    let level = if cli.common.verbose > 0 {
        Level::Debug
    } else {
        Level::Info
    };
    let console = Console::standard(masker, level);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report::print_failure(
                &console,
                &Failure::internal("the runtime cannot be started").with_source(error),
            );
            return ExitCode::from(EXIT_INTERNAL);
        }
    };
    let code = runtime.block_on(dispatch(cli, console));
    // Whatever still runs in the background (a lost connection, say) must not hold up the step's end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn dispatch(cli: Cli, console: Console) -> u8 {
    let stop = Stop::default();
    if let Err(failure) = listen(&stop, &console) {
        report::print_failure(&console, &failure);
        return EXIT_INTERNAL;
    }
    match cli.command {
        Command::Run(args) => run_command(*args, console, stop).await,
        Command::Doctor(args) => {
            orka_step::doctor::doctor(&args, &config::environment(), &console, &stop).await
        }
        Command::Reap(args) => {
            let verbose = cli.common.verbose > 0;
            orka_step::reap::reap(&args, &config::environment(), &console, &stop, verbose).await
        }
        Command::Plugin(args) => match args.command {
            PluginCommand::Inspect {
                plugin,
                plugin_dir,
                json,
            } => inspect_command(&plugin, plugin_dir, json, &console),
        },
        #[cfg(feature = "demo")]
        Command::Demo(args) => orka_step::demo::demo(args, console, stop).await,
    }
}

async fn run_command(args: RunArgs, console: Console, stop: Stop) -> u8 {
    match Config::resolve(&args, &config::environment(), console.masker().clone()) {
        Ok(config) => {
            let results = Results::new(config.results.as_ref()).ok();
            let report = config.report.clone();
            let finished = run::run(config, console.clone(), stop).await;
            report::conclude(&finished, &console, results.as_ref(), report.as_deref())
        }
        Err(failures) => {
            let finished = Finished::not_started(failures);
            // Where results go may itself be wrong: what can be told is told.
            let results = config::results_directory(args.results.as_deref())
                .ok()
                .and_then(|directory| Results::new(directory.as_ref()).ok());
            report::conclude(
                &finished,
                &console,
                results.as_ref(),
                args.report.as_deref(),
            )
        }
    }
}

fn inspect_command(
    plugin: &str,
    directory: Option<std::path::PathBuf>,
    json: bool,
    console: &Console,
) -> u8 {
    let inspected = PluginRef::parse(plugin, directory)
        .and_then(|reference| inspect::inspect(&reference, json));
    match inspected {
        Ok(text) => {
            console.data(&text);
            0
        }
        Err(failure) => {
            report::print_failure(console, &failure);
            outcome::of_class(failure.class).1
        }
    }
}

/// Stops the run on SIGTERM and SIGINT, and on nothing else.
///
/// Tekton's entrypoint passes on whatever it gets. Most of that is ignored by default (SIGURG, which comes all the time,
/// SIGCHLD, SIGWINCH), and SIGPIPE by Rust's runtime; see [`ignore_strays`] for the rest.
fn listen(stop: &Stop, console: &Console) -> Result<(), Failure> {
    ignore_strays(console)?;
    for (kind, name) in [
        (SignalKind::terminate(), StopSignal::Terminate),
        (SignalKind::interrupt(), StopSignal::Interrupt),
    ] {
        let mut signals = signal(kind).map_err(|error| {
            Failure::internal(format!("cannot listen to {}", name.name())).with_source(error)
        })?;
        let (stop, console) = (stop.clone(), console.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // Before anything is said: a log that nobody reads must not hold up the stop.
                stop.stop(name);
                console.warn(&format!("{}: stopping; VMs are deleted first", name.name()));
            }
        });
    }
    Ok(())
}

/// Survives signals whose default is to end a program without a word: that would leave VMs behind, and none of them asks
/// a step to stop. SIGHUP comes when a terminal goes away: the run goes on and cleans up after itself.
fn ignore_strays(console: &Console) -> Result<(), Failure> {
    for (kind, name) in [
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::alarm(), "SIGALRM"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
        (SignalKind::io(), "SIGIO"),
    ] {
        let mut signals = signal(kind).map_err(|error| {
            Failure::internal(format!("cannot listen to {name}")).with_source(error)
        })?;
        let console = console.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                console.warn(&format!(
                    "{name} does not stop the run; SIGTERM and SIGINT do"
                ));
            }
        });
    }
    Ok(())
}
