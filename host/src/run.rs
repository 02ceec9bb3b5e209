//! One run, start to finish. Read top to bottom; this file alone decides order.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::aot::{self, Bounds};
use crate::artifacts;
use crate::backend::orka::OrkaCluster;
use crate::backend::ssh::SshGuests;
use crate::bindings::exports::orka::plugin::policy::Verdict;
use crate::bindings::orka::plugin::types::{Error as GuestError, Exit};
use crate::capability::cluster::give_back_names;
use crate::cli;
use crate::config::Config;
use crate::console::{Console, Level, seconds};
use crate::engine::{self, Compiled, Started};
use crate::failure::{Class, Failure, Kind};
use crate::grants::{Grants, More};
use crate::guard::{Guards, Wanted};
use crate::host_folder;
use crate::identity::how_to_reap;
use crate::ledger::{Ledger, Recovered};
use crate::outcome::{self, EXIT_INTERNAL, EXIT_LEFTOVERS, Outcome, StopSignal};
use crate::parameters::{check_ignore_files, check_parameters, given_parameters, named};
use crate::plugin::Plugin;
use crate::predecessors;
use crate::report;
use crate::results::Results;
use crate::session::{Recorder, Witness};
use crate::state::{RunContext, RunParts, Stop};
use crate::teardown::{self, Leftover, Settlement};
use crate::trap;
use futures_util::FutureExt as _;
use plugin_manifest::Manifest;
use rand::SeedableRng as _;
use secrecy::SecretString;

/// How long a run looks for files `.orkaignore` that would end its upload. A large tree on a slow volume is not to hold up the
/// VM; what is not seen here the upload tells.
const IGNORE_FILES_TIME: Duration = Duration::from_millis(500);

/// How a run ended, for the report and the exit code.
#[derive(Debug)]
pub struct Conclusion {
    /// The result `outcome`.
    pub outcome: Outcome,
    /// The step's exit code.
    pub exit_code: u8,
    /// How the script ended, if it ran to an end.
    pub exit: Option<Exit>,
    /// What went wrong, if anything did.
    pub failures: Vec<Failure>,
    /// What teardown did.
    pub settlement: Settlement,
}

/// A run that has ended, with what it left behind in memory.
pub struct Finished {
    /// How it ended.
    pub conclusion: Conclusion,
    /// Its context; none if it ended before there was one.
    pub run: Option<Arc<RunContext>>,
    /// The plugin's digest, if one was loaded.
    pub plugin_digest: Option<String>,
}

/// Runs the job that `config` describes against the real cluster.
pub async fn run(config: Config, console: Console, stop: Stop) -> Finished {
    let record = config.record.clone();
    let simulated = config.simulated;
    #[cfg(feature = "kubernetes")]
    let mut config = config;
    #[cfg(feature = "kubernetes")]
    let hand_over = config.hand_over.take();
    let Prepared {
        compiled,
        plugin,
        mut parts,
        given,
        guards,
    } = match prepare(config, console, stop) {
        Ok(prepared) => prepared,
        Err(failures) => return Finished::not_started(failures),
    };
    let started = Guards::start(
        &guards,
        compiled.engine(),
        parts.limits,
        &parts.console,
        &plugin.digest,
    );
    parts.guards = match started.await {
        Ok(guards) => guards,
        Err(failure) => return Finished::not_started(vec![failure]),
    };
    let recorder = record.is_some().then(|| {
        let workspace = parts.workspace.as_ref().map(|workspace| &workspace.dir);
        Recorder::new(parts.console.masker().clone(), given, workspace)
    });
    if let Some(recorder) = &recorder {
        (parts.cluster, parts.guests) = recorder.around(parts.cluster, parts.guests);
    }
    let run = RunContext::new(parts);
    if let Some(recorder) = &recorder {
        run.witnessed_by(Arc::clone(recorder) as Arc<dyn Witness>);
    }
    #[cfg(feature = "kubernetes")]
    if let Some(hand_over) = hand_over {
        run.hand_over_by(hand_over);
    }
    run.console.info(&format!(
        "plugin `{}` {} ({})",
        plugin.manifest.name, plugin.manifest.version, plugin.digest
    ));
    if let Some(how_to_find) = run.identity.how_to_find()
        && !simulated
    {
        run.console.info(&how_to_find);
    }
    let conclusion = execute(&compiled, run.clone()).await;
    let finished = Finished {
        conclusion,
        run: Some(run),
        plugin_digest: Some(plugin.digest),
    };
    if let (Some(recorder), Some(path)) = (&recorder, &record) {
        save_session(recorder, path, &finished);
    }
    finished
}

/// Failing to is told and changes nothing else.
fn save_session(recorder: &Recorder, path: &Path, finished: &Finished) {
    let Some(run) = &finished.run else { return };
    let saved = recorder
        .session(finished)
        .map_or(Ok(()), |session| session.save(path));
    match saved {
        Ok(()) => run
            .console
            .info(&format!("session recorded: {}", path.display())),
        Err(failure) => report::print_failure(&run.console, &failure),
    }
}

/// A run that can begin.
struct Prepared {
    compiled: Compiled,
    plugin: Plugin,
    parts: RunParts,
    /// Parameters as they were given.
    given: BTreeMap<String, String>,
    /// Who is asked; not started yet.
    guards: Wanted,
}

/// Everything that can be wrong before anything is sent to the cluster.
fn prepare(config: Config, console: Console, stop: Stop) -> Result<Prepared, Vec<Failure>> {
    let plugin = Plugin::load(&config.plugin).map_err(|failure| vec![failure])?;
    let one = |failure| vec![failure];
    config.identity.admit_plugin(&plugin).map_err(one)?;
    tell_left_out(&plugin.manifest, &config, &console);
    let given = given_parameters(&plugin.manifest, &config);
    let shown = config.plugin.to_string();
    let params = check_parameters(&plugin.manifest, &given, config.script.as_deref(), &shown)?;
    if let Some(warning) = Grants::not_about(config.grants.as_ref(), &plugin) {
        console.warn(&warning);
    }
    let mut grants = Grants::intersect_for(
        config.grants.as_ref(),
        &plugin.manifest,
        &plugin.digest,
        plugin.bundled,
        &More::for_parameters(&plugin.manifest, &params, &config.secrets),
    )
    .map_err(one)?;
    grants.admit_parameters(&plugin.manifest, &params, &config.secrets)?;
    if let Some(workspace) = &config.workspace {
        let until = std::time::Instant::now() + IGNORE_FILES_TIME;
        check_ignore_files(&plugin.manifest, &params, &workspace.dir, until).map_err(one)?;
    }
    let timeout = grants
        .admit_lifetime(config.timeout, cli::TIMEOUT_DEFAULT)
        .map_err(one)?;
    if timeout < config.timeout {
        console.info(&format!(
            "the run may last {}, as its grant says",
            seconds(timeout)
        ));
    }
    if let Some(namespace) = config.namespace_asked_for() {
        grants.ceilings.admit_namespace(namespace).map_err(one)?;
    }
    let bounds = Bounds::of_run(&config.limits, timeout, &stop);
    let compiling = aot::tell_compiling(&console, "plugin", &plugin.manifest.name);
    let ready = engine::engine_with(&config.limits)
        .and_then(|engine| aot::ready(&engine, &plugin, config.plugin_cache.as_ref(), &bounds))
        .map_err(one)?;
    drop(compiling);
    ready
        .warnings
        .iter()
        .for_each(|warning| console.warn(warning));
    console.log(Level::Debug, &ready.origin.to_string());
    let ledger = open_ledger(&config, &console).map_err(one)?;
    if let Some(black_box) = &config.black_box {
        black_box.note_began(&plugin.manifest, &plugin.digest);
    }
    let parts = RunParts {
        cluster: Arc::new(OrkaCluster::new(config.orka).noting_tokens(config.black_box)),
        guests: Arc::new(SshGuests::new(config.ssh)),
        console,
        ledger,
        grants,
        guards: Guards::default(),
        params,
        script: config.script,
        manifest: plugin.manifest.clone(),
        workspace: config.workspace,
        results: Results::new(config.results.as_ref()).map_err(one)?,
        secrets: config.secrets,
        identity: config.identity,
        owner: config.owner,
        limits: config.limits,
        timeout: timeout.saturating_sub(config.plugin.took()),
        stop,
        random: Box::new(rand::rngs::StdRng::from_os_rng()),
    };
    Ok(Prepared {
        compiled: ready.compiled,
        plugin,
        parts,
        given,
        guards: Wanted {
            sources: config.guards,
            on_failure: config.guard_failure,
            code_cache: config.plugin_cache,
            bounds,
        },
    })
}

/// Opens the run's ledger, in its workspace if it has one.
fn open_ledger(config: &Config, console: &Console) -> Result<Ledger, Failure> {
    let black_box = config.black_box.as_ref();
    let Some(workspace) = &config.workspace else {
        let ledger = Ledger::in_memory();
        return Ok(match black_box {
            Some(black_box) => ledger.mirrored(Arc::clone(black_box), &config.identity.head()),
            None => ledger,
        });
    };
    let folder =
        host_folder::of_run(&workspace.dir, config.identity.run_hash()).map_err(|error| {
            Failure::config("the host's folder in the workspace cannot be made").with_source(error)
        })?;
    predecessors::open_ledger(&folder, &config.identity, black_box, console)
}

/// Names the parameters of a Task that the plugin does not have.
fn tell_left_out(manifest: &Manifest, config: &Config, console: &Console) {
    let offered = config.offered_params.iter();
    let mut left_out: Vec<String> = offered
        .filter(|(name, value)| !value.is_empty() && !manifest.parameters.contains_key(*name))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if config.step_action {
        let given = config.environment_params.keys();
        let unknown = given.filter(|variable| named(manifest, variable).is_none());
        left_out.extend(unknown.map(|variable| format!("`{variable}`")));
    }
    if !left_out.is_empty() {
        console.info(&format!(
            "left out what plugin `{}` has no parameter for: {}",
            manifest.name,
            left_out.join(", ")
        ));
    }
}

/// Runs a compiled plugin to its end and settles what it owes, whatever it does.
pub async fn execute(compiled: &Compiled, run: Arc<RunContext>) -> Conclusion {
    // A panic in a host function is our bug; what the run made must go all the same.
    let ending = AssertUnwindSafe(run_guest(compiled, &run))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Ending::Failed(panicked(panic.as_ref())));
    run.tell_plugin_ended();
    // The store is gone here: nothing a guest does can reach past this point.
    settled(&run, ending, Vec::new()).await
}

/// Settles what the run owes, tokens of a process that crashed included, and concludes it.
pub(crate) async fn settled(
    run: &RunContext,
    ending: Ending,
    tokens: Vec<SecretString>,
) -> Conclusion {
    // Nobody who reads the log can hold it up from here on.
    run.console.stop_waiting();
    run.stop_programs().await;
    run.stop_tasks().await;
    // Beside each other: neither may cost the other its time.
    let has_failed = !matches!(ending, Ending::Verdict(Verdict::Succeeded));
    let (mut settlement, names_left) =
        tokio::join!(teardown::settle(run), give_back_names(run, has_failed));
    settlement.leftovers.extend(names_left);
    let conclusion = conclude(run, ending, settlement);
    if conclusion.outcome == Outcome::Succeeded
        && let Err(failure) = artifacts::declare(run)
    {
        // A build is no worse for it.
        report::print_failure(&run.console, &failure);
    }
    // Written before the courtesies that follow: whoever kills us next must not keep anybody from knowing.
    report::record(&conclusion, &run.console, &run.results);
    tokio::join!(teardown::sign_out(run), teardown::give_back(run, tokens));
    conclusion
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let words = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no reason given".to_owned());
    Failure::internal(format!("a host function panicked: {words}"))
}

/// How the guest's part ended.
pub(crate) enum Ending {
    /// It gave a verdict.
    Verdict(Verdict),
    /// It handed back an error.
    Error(GuestError),
    /// It trapped, broke a limit or could not be started.
    Failed(Failure),
    /// It did not come back in time after the run was stopped or its deadline had passed.
    Dropped,
}

async fn run_guest(compiled: &Compiled, run: &Arc<RunContext>) -> Ending {
    tokio::select! {
        ending = call_guest(compiled, run) => ending,
        () = run.patience_ends() => Ending::Dropped,
    }
}

async fn call_guest(compiled: &Compiled, run: &Arc<RunContext>) -> Ending {
    let Started {
        mut store,
        instance,
        output,
    } = match compiled.start(run.clone()).await {
        Ok(started) => started,
        Err(error) => return Ending::Failed(trap::explain(run, &error, None, "")),
    };
    match instance.orka_plugin_policy().call_run(&mut store).await {
        Ok(Ok(verdict)) => Ending::Verdict(verdict),
        Ok(Err(error)) => Ending::Error(error),
        Err(error) => {
            let breach = store.data().limiter.breach();
            Ending::Failed(trap::explain(run, &error, breach, &output.text()))
        }
    }
}

fn conclude(run: &RunContext, ending: Ending, settlement: Settlement) -> Conclusion {
    let last_exit = run
        .last_exit
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let (mut outcome, mut exit_code, exit, failure) = match judge(run, ending) {
        Ok(None) => (Outcome::Succeeded, 0, last_exit, None),
        Ok(Some(exit)) => (Outcome::BuildFailed, exit_code_of(&exit), Some(exit), None),
        Err(failure) => {
            let (outcome, exit_code) = outcome::of_class(failure.class);
            let exit_code = match failure.class {
                Class::Cancelled => run.stop.signal().map_or(exit_code, StopSignal::exit_code),
                _ => exit_code,
            };
            (outcome, exit_code, last_exit, Some(failure))
        }
    };
    let failure = failure.map(|failure| match failure.class {
        // Whoever reads why a policy was ended also wants to know what became of what it had made.
        Class::Plugin | Class::Internal => {
            failure.with_detail("cleaned up", cleaned_up(&settlement))
        }
        _ => failure,
    });
    if outcome == Outcome::Succeeded && settlement.leftovers.iter().any(|it| !it.inherited) {
        (outcome, exit_code) = (Outcome::InfraFailed, EXIT_LEFTOVERS);
    }
    Conclusion {
        outcome,
        exit_code,
        exit,
        failures: failure.into_iter().collect(),
        settlement,
    }
}

fn cleaned_up(settlement: &Settlement) -> String {
    let purged = settlement.removed.iter();
    let left = settlement.leftovers.iter();
    let lines: Vec<String> = purged
        .map(|name| format!("purged `{name}`"))
        .chain(left.map(|left| format!("`{}` may still exist", left.name)))
        .collect();
    if lines.is_empty() {
        "nothing was left to be cleaned up".to_owned()
    } else {
        lines.join("\n")
    }
}

/// `Ok(None)` for success, `Ok(Some(exit))` for a failed build.
fn judge(run: &RunContext, ending: Ending) -> Result<Option<Exit>, Failure> {
    // A policy that was told to stop cannot declare the run a success all the same; and one that stumbles over being
    // told, as languages with exceptions do, has not failed by itself.
    let told = |failure: Failure| run.class_of(&failure.code).is_some().then_some(failure);
    let stopped = told(Failure::cancelled()).map(|_| cancelled(run));
    let told_to_stop = || {
        stopped
            .clone()
            .or_else(|| told(run.grants.deadline_passed()))
    };
    match ending {
        Ending::Dropped => {
            let failure = match run.stop.signal() {
                Some(_) => cancelled(run),
                None => run.grants.deadline_passed(),
            };
            Err(trap::with_last_calls(run, failure)
                .with_detail("how the plugin ended", "it did not answer and was dropped"))
        }
        Ending::Failed(failure) if failure.class == Class::Plugin => Err(match told_to_stop() {
            Some(stop) => stop.with_detail("how the plugin ended", failure.message),
            None => failure,
        }),
        Ending::Failed(failure) => Err(failure),
        Ending::Error(_) | Ending::Verdict(Verdict::Succeeded) if stopped.is_some() => {
            Err(cancelled(run))
        }
        Ending::Error(error) => {
            let failure = of_guest_error(run, error);
            Err(match told_to_stop() {
                Some(stop) if failure.class != stop.class => {
                    stop.with_detail("how the plugin ended", failure.message)
                }
                _ => failure,
            })
        }
        // The script ended by itself before: that is the truth of this run.
        Ending::Verdict(Verdict::BuildFailed(exit)) => Ok(Some(exit)),
        Ending::Verdict(Verdict::Succeeded) => told_to_stop().map_or(Ok(None), Err),
    }
}

fn cancelled(run: &RunContext) -> Failure {
    let mut failure = Failure::cancelled();
    if let Some(signal) = run.stop.signal() {
        failure.message = format!("{} stopped the run", signal.name());
    }
    failure
}

fn exit_code_of(exit: &Exit) -> u8 {
    match exit {
        // A policy may call a script failed that ended with 0: the step must not look successful.
        Exit::Status(0) => 1,
        Exit::Status(status) => outcome::of_status(*status),
        Exit::Signal(signal) => outcome::of_signal(&signal.name),
    }
}

/// An error handed back by the guest: the host's own keeps its class, one of the plugin's is the plugin's failure.
fn of_guest_error(run: &RunContext, error: GuestError) -> Failure {
    let (kind, info) = match error {
        GuestError::Invalid(info) => (Kind::Invalid, info),
        GuestError::Denied(info) => (Kind::Denied, info),
        GuestError::NotFound(info) => (Kind::NotFound, info),
        GuestError::Conflict(info) => (Kind::Conflict, info),
        GuestError::NoCapacity(info) => (Kind::NoCapacity, info),
        GuestError::Unauthenticated(info) => (Kind::Unauthenticated, info),
        GuestError::Unavailable(info) => (Kind::Unavailable, info),
        GuestError::TimedOut(info) => (Kind::TimedOut, info),
        GuestError::Cancelled(info) => (Kind::Cancelled, info),
        GuestError::Other(info) => (Kind::Other, info),
    };
    if let Some(mut failure) = run.handed_back(&info.code, &info.message) {
        // A policy may know better what to do next, such as which of its parameters to change.
        let own = failure.hint.take();
        let told = own.as_deref().map(|hint| run.console.masker().mask(hint));
        failure.hint = match info.hint {
            Some(hint) if told.as_ref() != Some(&hint) => Some(in_one_line(&hint)),
            _ => own,
        };
        return failure;
    }
    let about_params =
        kind == Kind::Invalid && info.code.starts_with("params.") && run.ledger.is_untouched();
    let class = if about_params {
        Class::Config
    } else {
        Class::Plugin
    };
    let mut failure = Failure::new(kind, class, info.code, info.message);
    failure.hint = info.hint.as_deref().map(in_one_line);
    failure.details = info.details;
    match run.last_words() {
        Some(words) if class == Class::Plugin => with_last_words(failure, &words),
        _ => failure,
    }
}

/// Adds what a guest said last, such as a traceback, without the line that the message has already.
fn with_last_words(failure: Failure, words: &str) -> Failure {
    let lines = words.lines().map(str::trim_end);
    let lines: Vec<&str> = lines.filter(|line| *line != failure.message).collect();
    let more = lines.join("\n");
    if more.trim().is_empty() {
        failure
    } else {
        failure.with_detail("its last words", more)
    }
}

/// What follows the first line of a hint is printed as it is, and only the host's own word is good enough for that.
fn in_one_line(hint: &str) -> String {
    hint.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

impl Finished {
    /// A run that ended before anything was sent to the cluster.
    pub fn not_started(failures: Vec<Failure>) -> Self {
        // The gravest class decides; classes are ordered from the outermost inwards.
        let class = failures
            .iter()
            .map(|failure| failure.class)
            .min()
            .unwrap_or(Class::Internal);
        let (outcome, exit_code) = outcome::of_class(class);
        let conclusion = Conclusion {
            outcome,
            exit_code,
            exit: None,
            failures,
            settlement: Settlement::default(),
        };
        Self {
            conclusion,
            run: None,
            plugin_digest: None,
        }
    }

    /// A run whose process crashed and that nobody could clean up after. What it leaves is told.
    pub fn bereft(failures: Vec<Failure>, recovered: &Recovered, console: &Console) -> Self {
        let mut finished = Self::not_started(failures);
        finished.conclusion.outcome = Outcome::InfraFailed;
        finished.conclusion.exit_code = EXIT_INTERNAL;
        let head = recovered.record.heads.last();
        let command = head.map(|head| how_to_reap(&head.prefix, &head.run));
        let left = recovered.open().map(|name| Leftover {
            name: name.to_owned(),
            reason: "the process of the run crashed, and nothing could be deleted after that"
                .to_owned(),
            command: command.clone().unwrap_or_default(),
            inherited: recovered.inherited.contains(name),
        });
        let left: Vec<Leftover> = left.collect();
        left.iter().for_each(|leftover| leftover.tell(console));
        finished.conclusion.settlement.leftovers = left;
        finished
    }

    /// What the guest said last before it trapped or failed, if anything.
    pub fn last_words(&self) -> Option<String> {
        self.run.as_ref()?.last_words()
    }
}
