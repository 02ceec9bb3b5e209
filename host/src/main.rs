//! Parse, start logging, run, print the outcome, exit.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use orka_step::clean_up::clean_up;
use orka_step::cli::{Cli, Command, PluginCommand, RunArgs};
use orka_step::config::{self, Config};
use orka_step::console::{Console, Level};
use orka_step::failure::Failure;
use orka_step::mask::Masker;
use orka_step::outcome::{self, EXIT_INTERNAL, Outcome, StopSignal};
#[cfg(all(feature = "authoring", feature = "registry"))]
use orka_step::plugin::publish;
use orka_step::plugin::remote;
use orka_step::results::Results;
use orka_step::run::{self, Finished};
use orka_step::state::Stop;
use orka_step::supervisor::{self, Crash, Role};
use orka_step::task_file::TaskFile;
use orka_step::teardown::BUDGET_AFTER_SIGNAL;
use orka_step::{inspect, logging, measure, precompile, report};
use tokio::signal::unix::{SignalKind, signal};

/// How long the end waits for a log that nobody reads, without and after a signal.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
const LOG_PATIENCE_STOPPED: Duration = Duration::from_millis(500);

/// After a signal, a log that is being read has so long beyond the budget of the clean-up: the process ends within 25 s.
const LOG_AFTER_BUDGET: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::of_process();
    let level = if cli.common.verbose > 0 {
        Level::Debug
    } else {
        Level::Info
    };
    let role = match role_for(&cli.command) {
        Ok(role) => role,
        Err(code) => return ExitCode::from(code),
    };
    let console = Console::standard(Masker::default(), level);
    logging::start(cli.common.verbose, &console);
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
            // The log has a thread of its own, and without a runtime there is no better way to wait for it.
            std::thread::sleep(LOG_PATIENCE_STOPPED);
            return ExitCode::from(EXIT_INTERNAL);
        }
    };
    let code = runtime.block_on(async {
        let stop = Stop::default();
        let code = dispatch(cli, role, console.clone(), stop.clone()).await;
        finish_log(&console, &stop).await;
        code
    });
    // Whatever still runs in the background (a lost connection, say) must not hold up the step's end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// What this process is to do for a command; the exit code where a worker has done all of it.
fn role_for(command: &Command) -> Result<Role, u8> {
    if !matches!(command, Command::Run(_) | Command::Task(_)) {
        return Ok(Role::First);
    }
    let role = supervisor::role();
    if !matches!(role, Role::First) {
        return Ok(role);
    }
    // Of this thread alone, and before there is another: the worker is told of its end.
    let ended = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(supervisor::supervise()),
        Err(error) => supervisor::Ended::NotBegun(error),
    };
    match ended {
        supervisor::Ended::With(code) => Err(code),
        supervisor::Ended::Crashed(crash) => {
            let (failure, recovered) = *crash;
            Ok(Role::Bereft(failure, recovered))
        }
        supervisor::Ended::NotBegun(error) => Ok(Role::Alone(
            Failure::internal(
                "if this process crashes, VMs stay that it has made: it cannot start a second one",
            )
            .with_source(error),
        )),
    }
}

/// Gives whoever reads the log the time to read it to its end, and no more than that.
async fn finish_log(console: &Console, stop: &Stop) {
    let until = stop
        .stopped_at()
        .map(|at| at + BUDGET_AFTER_SIGNAL + LOG_AFTER_BUDGET);
    let patience = if until.is_some() {
        LOG_PATIENCE_STOPPED
    } else {
        LOG_PATIENCE
    };
    console.finish(patience, until).await;
}

/// What a signal does to a command, for the log; none for one that a signal just ends.
fn when_stopped(command: &Command) -> Option<&'static str> {
    match command {
        Command::Run(_) | Command::Task(_) => Some("VMs are deleted first"),
        #[cfg(feature = "demo")]
        Command::Demo(_) => Some("VMs are deleted first"),
        Command::Doctor(_) => Some("checks that were not made are left out; nothing was deployed"),
        Command::Reap(_) => Some("deletions under way are finished, no other begins"),
        Command::Plugin(_)
        | Command::Migrate(_)
        | Command::Grant(_)
        | Command::Schema { .. }
        | Command::Limits => None,
    }
}

async fn dispatch(mut cli: Cli, role: Role, console: Console, stop: Stop) -> u8 {
    if let Some(told) = when_stopped(&cli.command)
        && let Err(failure) = listen(&stop, &console, told)
    {
        report::print_failure(&console, &failure);
        return EXIT_INTERNAL;
    }
    if let Role::CleanUp(crash) = &role {
        crash.stop(&stop);
    }
    role.listens();
    if let Some((place, plugins)) = cli.command.named()
        && let Err(failure) = remote::bring(place, &plugins, &config::environment(), &console).await
    {
        return shown(Err(failure), &console).await;
    }
    match cli.command {
        Command::Run(args) => run_command(args.without_empty(), role, console, stop).await,
        Command::Task(args) => match with_task_file(&args) {
            Ok(args) => run_command(args, role, console, stop).await,
            Err(failure) => not_started(vec![failure], &args, &console, &stop),
        },
        Command::Doctor(mut args) => {
            args.run = args.run.without_empty();
            let environment = config::environment();
            args.run.fetched = remote::for_run(&args.run, &environment, &console, &stop).await;
            orka_step::doctor::doctor(&args, &environment, &console, &stop).await
        }
        Command::Reap(args) => {
            let verbose = cli.common.verbose > 0;
            orka_step::reap::reap(&args, &config::environment(), &console, &stop, verbose).await
        }
        Command::Migrate(args) => {
            orka_step::migrate::migrate(&args.files, args.json, &console).await
        }
        Command::Plugin(args) => match args.command {
            PluginCommand::Inspect(args) => shown(inspect::inspect(&args), &console).await,
            PluginCommand::Check(args) => {
                let verbose = cli.common.verbose > 0;
                orka_step::check::check(&args, &console, verbose).await
            }
            PluginCommand::Task(args) => shown(orka_step::task::task(&args), &console).await,
            #[cfg(feature = "authoring")]
            PluginCommand::New(args) => {
                tokio::task::block_in_place(|| orka_step::authoring::new(&args, &console))
            }
            #[cfg(feature = "authoring")]
            PluginCommand::Build(args) => {
                tokio::task::block_in_place(|| orka_step::authoring::build(&args, &console))
            }
            #[cfg(feature = "authoring")]
            PluginCommand::Test(args) => {
                // Each scenario has a runtime of its own, with a clock of its own.
                let played = tokio::task::spawn_blocking({
                    let console = console.clone();
                    move || orka_step::scenario::suite::test(&args, &console)
                });
                tokio::select! {
                    code = played => code.unwrap_or(EXIT_INTERNAL),
                    () = stop.stopped() => stop.signal().map_or(EXIT_INTERNAL, StopSignal::exit_code),
                }
            }
            PluginCommand::Compile(args) => {
                shown(precompile::compile(&args, &console), &console).await
            }
            #[cfg(all(feature = "authoring", feature = "registry"))]
            PluginCommand::Push(args) => {
                let pushed = publish::push(&args, &config::environment(), &console).await;
                shown(pushed, &console).await
            }
            #[cfg(all(feature = "authoring", feature = "registry"))]
            PluginCommand::Pull(args) => {
                let pulled = publish::pull(&args, &config::environment(), &console).await;
                shown(pulled, &console).await
            }
            PluginCommand::Bench(args) => shown(measure::bench(&args).await, &console).await,
        },
        Command::Grant(args) => shown(orka_step::grants::grant(&args, &console), &console).await,
        Command::Schema { name } => {
            shown(Ok(orka_step::schema::text(name).to_owned()), &console).await
        }
        Command::Limits => shown(Ok(orka_step::limits::listing()), &console).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => orka_step::demo::demo(args, console, stop).await,
    }
}

async fn run_command(mut args: RunArgs, role: Role, console: Console, stop: Stop) -> u8 {
    let environment = config::environment();
    let black_box = match role {
        Role::First => None,
        Role::Worker(black_box) => Some(black_box),
        Role::Alone(failure) => {
            let cause = failure.causes().join(": ");
            console.warn(&format!("{}\ncaused by: {cause}", failure.message));
            None
        }
        Role::CleanUp(crash) => return clean_up_command(args, crash, console, stop).await,
        Role::Bereft(failure, recovered) => {
            let finished = Finished::bereft(vec![failure], &recovered, &console);
            return concluded_at_once(finished, &args, &console);
        }
    };
    for notice in args.task.iter().flat_map(|task| &task.notices) {
        console.warn(notice);
    }
    args.fetched = remote::for_run(&args, &environment, &console, &stop).await;
    match Config::resolve(&args, &environment, console.masker().clone()) {
        Ok(mut config) => {
            config.black_box = black_box;
            concluded(config, console, |config, console| {
                run::run(config, console, stop)
            })
            .await
        }
        Err(failures) => not_started(failures, &args, &console, &stop),
    }
}

/// Cleans up after a worker that crashed.
async fn clean_up_command(args: RunArgs, crash: Crash, console: Console, stop: Stop) -> u8 {
    match Config::for_clean_up(&args, &config::environment(), console.masker().clone()) {
        Ok(config) => {
            concluded(config, console, |config, console| {
                clean_up(config, args.workspace, console, stop, crash)
            })
            .await
        }
        Err(mut failures) => {
            failures.insert(0, crash.failure());
            let finished = Finished::bereft(failures, &crash.recovered, &console);
            concluded_at_once(finished, &args, &console)
        }
    }
}

/// Runs, and says how that ended.
async fn concluded<F: Future<Output = Finished>>(
    config: Config,
    console: Console,
    run: impl FnOnce(Config, Console) -> F,
) -> u8 {
    let results = Results::new(config.results.as_ref()).ok();
    let report = config.report.clone();
    let finished = run(config, console.clone()).await;
    report::conclude(&finished, &console, results.as_ref(), report.as_deref())
}

fn not_started(failures: Vec<Failure>, args: &RunArgs, console: &Console, stop: &Stop) -> u8 {
    let mut finished = Finished::not_started(failures);
    if let (Outcome::Cancelled, Some(signal)) = (finished.conclusion.outcome, stop.signal()) {
        finished.conclusion.exit_code = signal.exit_code();
    }
    concluded_at_once(finished, args, console)
}

/// Says how something ended that has no configuration.
fn concluded_at_once(finished: Finished, args: &RunArgs, console: &Console) -> u8 {
    // Where results go may itself be wrong: what can be told is told.
    let results = config::results_directory(args.results.as_deref())
        .ok()
        .and_then(|directory| Results::new(directory.as_ref()).ok());
    report::conclude(&finished, console, results.as_ref(), args.report.as_deref())
}

/// What the command line and the file it names say together, as if all of it had been typed.
fn with_task_file(args: &RunArgs) -> Result<RunArgs, Failure> {
    let path = args.script.as_deref().unwrap_or(Path::new(""));
    let file = TaskFile::read(path)?;
    let given: Vec<_> = std::env::args_os().collect();
    file.set_once(&given, &config::environment())?;
    let line = file.command_line(given.into_iter());
    let cli = Cli::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        Failure::config(message)
            .with_hint("the flags of `orka-step run` are the Task's parameters of the same names")
    })?;
    match cli.command {
        Command::Task(args) => Ok(RunArgs {
            script: None,
            task: Some(file.into_input()),
            ..args.without_empty()
        }),
        _ => Err(Failure::internal("the command line became another")),
    }
}

/// Shows data, or why there is none; gives the exit code.
async fn shown(data: Result<String, Failure>, console: &Console) -> u8 {
    match data {
        Ok(text) => {
            console.data(&text).await;
            0
        }
        Err(failure) => {
            report::print_failure(console, &failure);
            outcome::of_class(failure.class).1
        }
    }
}

/// Stops the command on SIGTERM and SIGINT, and on nothing else.
///
/// Tekton's entrypoint passes on whatever it gets. Most of that is ignored by default (SIGURG, which comes all the time,
/// SIGCHLD, SIGWINCH), and SIGPIPE by Rust's runtime; see [`ignore_strays`] for the rest.
fn listen(stop: &Stop, console: &Console, told: &'static str) -> Result<(), Failure> {
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
                let again = if stop.stopped_at().is_some() {
                    " again, so less is waited for"
                } else {
                    ""
                };
                // Said before it holds: a command with nothing to clean up ends the program right after.
                console.stop_waiting();
                console.warn(&format!("{}: stopping{again}; {told}", name.name()));
                stop.stop(name);
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
                console.warn(&format!("{name} stops nothing here; SIGTERM and SIGINT do"));
            }
        });
    }
    Ok(())
}
