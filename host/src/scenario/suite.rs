//! `orka-step plugin test`: finds scenario files, plays them and says what did not come as expected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::check::Problem;
use super::file::{self, Backend, Case};
use super::junit::{self, TestCase, Verdict};
use super::play::{Report, Subject};
use super::{replay, sweep};
use crate::cli::PluginTestArgs;
use crate::config;
use crate::console::Console;
use crate::failure::Failure;
use crate::outcome;
use crate::plugin::{PluginRef, is_bundled_name};
use crate::report;
use crate::session::Session;

/// Where a project keeps its scenarios.
const SCENARIOS: &str = "scenarios";
/// What a project's manifest is called.
const MANIFEST: &str = "plugin.toml";

/// The exit code when a scenario did not pass.
pub const EXIT_FAILED: u8 = 1;

/// How often files are looked at with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);

/// So much of a run's log is shown with a scenario that did not pass.
const LOG_LINES_SHOWN: usize = 40;

/// What is to be played.
struct Plan {
    plugin: PluginRef,
    files: Vec<PathBuf>,
    replays: Vec<PathBuf>,
}

/// One scenario that was played.
struct Played {
    file: PathBuf,
    name: String,
    took: Duration,
    /// Runs that were made for it, more than one in a sweep.
    runs: usize,
    problems: Vec<String>,
}

/// Plays scenarios as `args` says and gives the exit code: 0 if all passed, 1 if not, else what kept them from being
/// played.
pub fn test(args: &PluginTestArgs, console: &Console) -> u8 {
    if args.watch {
        return watch(args, console);
    }
    once(args, console)
}

fn once(args: &PluginTestArgs, console: &Console) -> u8 {
    match plan(args).and_then(|plan| play_all(args, &plan, console)) {
        Ok(code) => code,
        Err(failure) => {
            report::print_failure(console, &failure);
            // A system that shows the file and not the log would show nothing, or what an earlier run left.
            if let Some(path) = &args.junit
                && let Err(unwritten) = write_error(path, &failure)
            {
                report::print_warning(console, &unwritten);
            }
            outcome::of_class(failure.class).1
        }
    }
}

/// Results of scenarios of which none could be played.
fn write_error(path: &Path, failure: &Failure) -> Result<(), Failure> {
    let mut text = failure.to_string();
    for cause in failure.causes() {
        text.push_str(&format!("\ncaused by: {cause}"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("\nhint: {hint}"));
    }
    let case = TestCase {
        file: "orka-step plugin test".to_owned(),
        name: "the scenarios can be played".to_owned(),
        took: Duration::ZERO,
        verdict: Verdict::Error(text),
    };
    write_document(path, "orka-step plugin test", &[case])
}

/// Plays whenever the plugin or a scenario file changes; ends with the process.
fn watch(args: &PluginTestArgs, console: &Console) -> u8 {
    let mut seen: Option<BTreeMap<PathBuf, Option<SystemTime>>> = None;
    loop {
        let plan = plan(args);
        let now = plan.as_ref().map_or_else(|_| BTreeMap::new(), stamps);
        if seen.as_ref() != Some(&now) {
            seen = Some(now);
            once(args, console);
            console.info("waiting for a change; SIGINT ends this");
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// When what a plan names was changed last.
fn stamps(plan: &Plan) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let plugin = plan.plugin.file();
    let paths = plan
        .files
        .iter()
        .chain(&plan.replays)
        .cloned()
        .chain(plugin);
    let changed = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    paths.map(|path| (path.clone(), changed(&path))).collect()
}

fn plan(args: &PluginTestArgs) -> Result<Plan, Failure> {
    let mut files = Vec::new();
    let mut project = None;
    let here = [PathBuf::from(".")];
    // Sessions are enough to play where nothing else is named, and each says what was recorded.
    let is_project = Path::new(MANIFEST).is_file();
    let only_replays = args.scenarios.is_empty()
        && !args.replays.is_empty()
        && (args.plugin.is_some() || !is_project);
    let places = if args.scenarios.is_empty() && !only_replays {
        &here[..]
    } else {
        &args.scenarios[..]
    };
    for place in places {
        if !place.is_dir() {
            files.push(place.clone());
            continue;
        }
        let is_project = place.join(MANIFEST).is_file();
        if is_project && project.is_none() {
            project = Some(place.clone());
        }
        let directory = if is_project {
            place.join(SCENARIOS)
        } else {
            place.clone()
        };
        files.extend(scenario_files(&directory)?);
    }
    let project = || project.or_else(|| project_of(places));
    let plugin = match &args.plugin {
        Some(plugin) => args.place.reference(plugin)?,
        None if only_replays => recorded(args)?,
        None => built(&project().ok_or_else(|| {
            Failure::config("no plugin is given").with_hint(
                "name it with `--plugin FILE`, or give the directory of a project with a `plugin.toml`",
            )
        })?)?,
    };
    Ok(Plan {
        plugin,
        files,
        replays: args.replays.clone(),
    })
}

/// The bundled plugin that was recorded. Another is wherever it was then.
fn recorded(args: &PluginTestArgs) -> Result<PluginRef, Failure> {
    let name = match args.replays.first() {
        Some(path) => Session::load(path)?.plugin.name,
        None => String::new(),
    };
    if is_bundled_name(&name) {
        return args.place.reference(&name);
    }
    let shown = crate::lines::printable(name.as_bytes());
    Err(Failure::config(format!(
        "which file is the plugin `{shown}` that was recorded is not said"
    ))
    .with_hint("name it with `--plugin FILE`"))
}

/// The project whose plugin is meant where scenarios alone are named: that of this directory, else the nearest one above a
/// scenario.
fn project_of(places: &[PathBuf]) -> Option<PathBuf> {
    let is_project = |directory: &Path| directory.join(MANIFEST).is_file();
    let above = |place: &PathBuf| {
        let place = std::path::absolute(place).ok()?;
        let mut directories = place.ancestors().skip(1);
        directories.find(|it| is_project(it)).map(Path::to_owned)
    };
    let here = PathBuf::from(".");
    if is_project(&here) {
        return Some(here);
    }
    places.iter().find_map(above)
}

/// The files of a directory that can hold scenarios, by name.
fn scenario_files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let shown = directory.display();
    let entries = std::fs::read_dir(directory).map_err(|error| {
        Failure::config(format!("cannot list the scenarios in `{shown}`")).with_source(error)
    })?;
    let is_yaml = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(is_yaml)
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(
            Failure::config(format!("there are no scenarios in `{shown}`"))
                .with_hint("a scenario file is YAML and its name ends in `.yaml`"),
        );
    }
    Ok(files)
}

/// What `plugin build` makes of a project.
fn built(project: &Path) -> Result<PluginRef, Failure> {
    let path = project.join(MANIFEST);
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::config(format!("`{}` is wrong: {error}", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(&error))?;
    let manifest = plugin_manifest::Manifest::parse_toml(&text).map_err(|error| wrong(&error))?;
    let plugin = project.join("dist").join(format!("{}.wasm", manifest.name));
    if !plugin.is_file() {
        return Err(Failure::config(format!(
            "the plugin of this project is not built: there is no `{}`",
            plugin.display()
        ))
        .with_hint("run `orka-step plugin build`, or name another file with `--plugin`"));
    }
    Ok(PluginRef::Path(plugin))
}

fn play_all(args: &PluginTestArgs, plan: &Plan, console: &Console) -> Result<u8, Failure> {
    let mut cases: Vec<(PathBuf, Case)> = Vec::new();
    for path in &plan.files {
        let found = file::load(path)?.into_iter();
        cases.extend(found.map(|case| (path.clone(), case)));
    }
    if let Some(filter) = &args.filter {
        cases.retain(|(_, case)| case.name.contains(filter.as_str()));
    }
    if cases.is_empty() && args.replays.is_empty() {
        return Err(
            Failure::config("no scenario has such a name").with_hint("`--list` shows the names")
        );
    }
    if args.list {
        for (path, case) in &cases {
            console.data_blocking(&format!("{}: {}", path.display(), case.name));
        }
        return Ok(0);
    }
    // Read before anything is played: one that is damaged would take what was played out of the results.
    let sessions = args.replays.iter();
    let sessions: Vec<(&Path, Session)> = sessions
        .map(|path| Ok((path.as_path(), Session::load(path)?)))
        .collect::<Result<_, Failure>>()?;
    let began = Instant::now();
    let code_cache = config::code_cache(&args.code_cache, None)?;
    let subject = Subject::load_with(&plan.plugin, code_cache, console)?;
    let mut played = in_parallel(&subject, &cases, args, console)?;
    for (path, session) in &sessions {
        let replayed = replayed(&subject, path, session)?;
        tell(&replayed, console);
        played.push(replayed);
    }
    if let Some(path) = &args.junit {
        write_junit(path, &subject.plugin.manifest.name, &played)?;
    }
    let failed = played
        .iter()
        .filter(|played| !played.problems.is_empty())
        .count();
    let runs: usize = played.iter().map(|played| played.runs).sum();
    console.data_blocking(&format!(
        "{} passed, {failed} failed ({runs} runs in {:.2} s)",
        played.len() - failed,
        began.elapsed().as_secs_f64()
    ));
    Ok(if failed == 0 { 0 } else { EXIT_FAILED })
}

/// Plays all cases, as many at a time as this machine has processors, and tells each as it ends, in the files' order.
fn in_parallel(
    subject: &Subject,
    cases: &[(PathBuf, Case)],
    args: &PluginTestArgs,
    console: &Console,
) -> Result<Vec<Played>, Failure> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Played, Failure>>> = Mutex::default();
    let told = AtomicUsize::new(0);
    let tell = || {
        let done = done.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Ok(played)) = done.get(&told.load(Ordering::Relaxed)) {
            tell(played, console);
            told.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some((path, case)) = cases.get(position) else {
                        return;
                    };
                    let played = play(subject, path, case, args.sweep);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(position, played);
                    tell();
                }
            });
        }
    });
    done.into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_values()
        .collect()
}

fn play(subject: &Subject, path: &Path, case: &Case, sweeps: bool) -> Result<Played, Failure> {
    let began = Instant::now();
    let report = match case.backend {
        Backend::Scripted => subject.play(&case.scenario)?,
        Backend::Simulator => simulated(subject, case)?,
    };
    let mut problems = told(&case.expect.check(&report), &report);
    let mut runs = 1;
    // Real time has no such sweep; and what is wrong already would only be said many times over.
    if sweeps && problems.is_empty() && case.backend == Backend::Scripted {
        let swept = sweep::sweep(subject, &case.scenario, &case.expect, &report)?;
        runs += swept.runs;
        for broken in &swept.broken {
            let what = broken.problems.iter().map(|problem| problem.what.as_str());
            problems.push(format!("{broken}: {}", what.collect::<Vec<_>>().join("; ")));
        }
    }
    Ok(Played {
        file: path.to_owned(),
        name: case.name.clone(),
        took: began.elapsed(),
        runs,
        problems,
    })
}

fn replayed(subject: &Subject, path: &Path, session: &Session) -> Result<Played, Failure> {
    let began = Instant::now();
    let replayed = replay::replay(subject, session)?;
    Ok(Played {
        file: path.to_owned(),
        name: format!("replay of {}", path.display()),
        took: began.elapsed(),
        runs: 1,
        problems: told(&replayed.problems, &replayed.report),
    })
}

#[cfg(feature = "demo")]
fn simulated(subject: &Subject, case: &Case) -> Result<Report, Failure> {
    super::simulator::play(subject, &case.scenario)
}

#[cfg(not(feature = "demo"))]
fn simulated(_subject: &Subject, _case: &Case) -> Result<Report, Failure> {
    Err(
        Failure::config("this program was built without the simulated cluster")
            .with_hint("build it with the cargo feature `demo`"),
    )
}

/// Problems as texts, the last with the end of the log.
fn told(problems: &[Problem], report: &Report) -> Vec<String> {
    let mut told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if let Some(last) = told.last_mut() {
        let skipped = report.log.len().saturating_sub(LOG_LINES_SHOWN);
        last.push_str("\nlog:");
        if skipped > 0 {
            last.push_str(&format!("\n  … {skipped} lines before"));
        }
        for line in &report.log[skipped..] {
            last.push_str(&format!("\n  {line}"));
        }
    }
    told
}

fn tell(played: &Played, console: &Console) {
    let runs = match played.runs {
        1 => String::new(),
        runs => format!(", {runs} runs"),
    };
    let took = played.took.as_millis();
    let verdict = if played.problems.is_empty() {
        "ok  "
    } else {
        "FAIL"
    };
    console.data_blocking(&format!("{verdict} {} ({took} ms{runs})", played.name));
    for problem in &played.problems {
        for (position, line) in problem.lines().enumerate() {
            let indent = if position == 0 { "     - " } else { "       " };
            console.data_blocking(&format!("{indent}{line}"));
        }
    }
}

fn write_junit(path: &Path, suite: &str, played: &[Played]) -> Result<(), Failure> {
    let cases: Vec<TestCase> = played
        .iter()
        .map(|played| TestCase {
            file: played.file.display().to_string(),
            name: played.name.clone(),
            took: played.took,
            verdict: if played.problems.is_empty() {
                Verdict::Passed
            } else {
                Verdict::Failed(played.problems.join("\n"))
            },
        })
        .collect();
    write_document(path, suite, &cases)
}

fn write_document(path: &Path, suite: &str, cases: &[TestCase]) -> Result<(), Failure> {
    std::fs::write(path, junit::document(suite, cases)).map_err(|error| {
        Failure::config(format!("cannot write `{}`", path.display())).with_source(error)
    })
}
