//! One run of a plugin on scripted backends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rand::SeedableRng as _;
use secrecy::ExposeSecret as _;

use super::cluster::ScriptedCluster;
use super::guest::ScriptedGuests;
use super::model::{self, Scenario};
use super::once::Once;
use crate::aot::{self, Bounds, CodeCache, Origin};
use crate::backend::{Cluster, Guests};
use crate::bindings::orka::plugin::types::Exit;
use crate::config::Workspace;
use crate::console::{Console, Level, PhaseRecord};
use crate::engine::{self, Compiled, Engine};
use crate::failure::Failure;
use crate::grants::Grants;
use crate::guard::{GuardRecord, Guards, Wanted};
use crate::identity::Identity;
use crate::interference::{Interference, Strike};
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::mask::Masker;
use crate::outcome::Outcome;
use crate::parameters::check_parameters;
use crate::plugin::{Plugin, PluginRef};
use crate::report;
use crate::results::Results;
use crate::run::{self, Finished};
use crate::session::Witness;
use crate::state::{RunContext, RunParts, Stop};

/// A plugin that has been compiled, to be run any number of times.
pub struct Subject {
    /// The plugin.
    pub plugin: Plugin,
    compiled: Compiled,
    /// Where code is kept, that of guards too.
    code_cache: Option<CodeCache>,
    /// The same with code that counts its steps, for scenarios that limit those.
    counting: Once<Compiled>,
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The step's exit code.
    pub exit_code: u8,
    /// How the script ended, if it ran to an end.
    pub exit: Option<Exit>,
    /// What went wrong, if anything did.
    pub failures: Vec<Failure>,
    /// Calls to the cluster and its VMs, in order, such as `deploy`, `exec ../build-script` or `purge`.
    pub calls: Vec<String>,
    /// The plugin's host calls that can fail, with their numbers among all of them.
    pub host_calls: Vec<(u64, &'static str)>,
    /// How many host calls the plugin made, those included that cannot fail.
    pub host_calls_total: u64,
    /// Programs that ran and that the scenario does not expect.
    pub unexpected: Vec<String>,
    /// Programs that the scenario wants to run and that did not.
    pub missing: Vec<String>,
    /// Failures and lost answers that the scenario has for calls that were not made.
    pub not_reached: Vec<String>,
    /// The node that each deployment asked for, in order.
    pub nodes: Vec<Option<String>>,
    /// Names that the cluster still has.
    pub left_on_the_cluster: Vec<String>,
    /// Of these, the ones that are kept on purpose.
    pub kept: Vec<String>,
    /// The step's log as it is without `--verbose`, ours and the remote programs'.
    pub log: Vec<String>,
    /// Phases that ended.
    pub phases: Vec<PhaseRecord>,
    /// Tekton results, the host's own included.
    pub results: BTreeMap<String, String>,
    /// Files that the VMs had when the run ended, by path.
    pub vm_files: BTreeMap<String, Vec<u8>>,
    /// Files of the workspace, by path.
    pub workspace: BTreeMap<String, Vec<u8>>,
    /// Where a secret of the scenario could be read, which is nowhere unless something is badly wrong.
    pub secrets_shown: Vec<String>,
    /// What the guards did.
    pub guards: Vec<GuardRecord>,
    /// How long the run took on the virtual clock.
    pub elapsed: Duration,
}

impl Report {
    /// The first failure's code; empty if there was none.
    pub fn code(&self) -> &str {
        self.failures.first().map_or("", |failure| &failure.code)
    }

    /// The first failure's message; empty if there was none.
    pub fn message(&self) -> &str {
        self.failures.first().map_or("", |failure| &failure.message)
    }

    /// The whole log as one text.
    pub fn log_text(&self) -> String {
        self.log.join("\n")
    }
}

impl Subject {
    /// Reads and compiles a plugin.
    ///
    /// # Errors
    ///
    /// As [`Plugin::load`] and [`aot::ready`].
    pub fn load(reference: &PluginRef) -> Result<Self, Failure> {
        Ok(Self::made(Plugin::load(reference)?, None)?.0)
    }

    /// Reads a plugin and takes its code from where a run would, `code_cache` included, or compiles it. Says what a run would say.
    ///
    /// # Errors
    ///
    /// As [`Subject::load`].
    pub fn load_with(
        reference: &PluginRef,
        code_cache: Option<CodeCache>,
        console: &Console,
    ) -> Result<Self, Failure> {
        let plugin = Plugin::load(reference)?;
        let compiling = aot::tell_compiling(console, "plugin", &plugin.manifest.name);
        let (subject, origin, warnings) = Self::made(plugin, code_cache)?;
        drop(compiling);
        warnings.iter().for_each(|warning| console.warn(warning));
        console.log(Level::Debug, &origin.to_string());
        Ok(subject)
    }

    fn made(
        plugin: Plugin,
        code_cache: Option<CodeCache>,
    ) -> Result<(Self, Origin, Vec<String>), Failure> {
        static ENGINE: Once<Engine> = Once::new();
        let engine = ENGINE.get_or_make(engine::engine)?;
        let ready = aot::ready(engine, &plugin, code_cache.as_ref(), &Bounds::default())?;
        let subject = Self {
            plugin,
            compiled: ready.compiled,
            code_cache,
            counting: Once::new(),
        };
        Ok((subject, ready.origin, ready.warnings))
    }

    /// The code for a run within these limits.
    fn code_for(&self, limits: &Limits) -> Result<&Compiled, Failure> {
        if limits.fuel.is_none() {
            return Ok(&self.compiled);
        }
        // Scenarios that are played at the same time wait for the first: a large component takes much memory to compile.
        self.counting.get_or_make(|| {
            let counts = Limits {
                fuel: limits.fuel,
                ..Limits::default()
            };
            Compiled::new(&engine::engine_with(&counts)?, &self.plugin)
        })
    }

    /// Runs the plugin once. Takes no longer than the plugin computes: all waiting is virtual.
    ///
    /// # Errors
    ///
    /// A set-up that cannot be made on this machine. Whatever the plugin does is in the report.
    pub fn play(&self, scenario: &Scenario) -> Result<Report, Failure> {
        self.play_with(scenario, None)
    }

    /// As [`Subject::play`], with one host call that fails.
    ///
    /// # Errors
    ///
    /// As [`Subject::play`].
    pub fn play_with(
        &self,
        scenario: &Scenario,
        strike: Option<(u64, Strike)>,
    ) -> Result<Report, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .map_err(|error| Failure::internal("no runtime for the test").with_source(error))?;
        let interference = Arc::new(strike.map_or_else(Interference::default, |(at, strike)| {
            Interference::at(at, strike)
        }));
        runtime.block_on(self.stage(scenario, interference))
    }

    async fn stage(
        &self,
        scenario: &Scenario,
        interference: Arc<Interference>,
    ) -> Result<Report, Failure> {
        let calls = Arc::default();
        let cluster = Arc::new(ScriptedCluster::new(scenario, Arc::clone(&calls)));
        let guests = Arc::new(ScriptedGuests::new(scenario, Arc::clone(&calls)));
        let backends = Backends {
            cluster: cluster.clone(),
            guests: guests.clone(),
            witness: None,
        };
        let ended = self.run_on(scenario, backends, interference).await?;
        let calls = calls.lock().map(|calls| calls.clone()).unwrap_or_default();
        let mut report = ended.report;
        report.secrets_shown.extend(shown_in(
            scenario,
            calls
                .iter()
                .map(|call| ("a program's arguments", call.as_str())),
        ));
        let environment = guests.environment();
        report.secrets_shown.extend(shown_in(
            scenario,
            environment
                .iter()
                .map(|(_, value)| ("a plain environment variable", value.as_str())),
        ));
        let mut not_reached = model::not_reached(&scenario.failures, &calls);
        not_reached.extend(cluster.not_lost());
        Ok(Report {
            calls,
            unexpected: guests.unexpected(),
            missing: guests.missing(),
            not_reached,
            nodes: cluster.nodes_asked_for(),
            left_on_the_cluster: cluster.left(),
            vm_files: guests.files(),
            ..report
        })
    }

    /// Runs the plugin on these backends, whatever they are. What only the backends know is left empty.
    pub(super) async fn run_on(
        &self,
        scenario: &Scenario,
        backends: Backends,
        interference: Arc<Interference>,
    ) -> Result<Ended, Failure> {
        let level = if scenario.show_debug {
            Level::Debug
        } else {
            Level::Info
        };
        let (console, captured) = Console::captured_from(Masker::default(), level);
        for secret in scenario.secrets.values() {
            console.masker().add(secret.expose_secret());
        }
        let code = self.code_for(&scenario.limits)?;
        let started = tokio::time::Instant::now();
        let directory = scenario
            .workspace
            .as_ref()
            .map(workspace_with)
            .transpose()?;
        let witness = backends.witness.clone();
        let parts = match self.parts(scenario, &console, backends, directory.as_ref()) {
            Err(Refused::Run(failures)) => Err(failures),
            Err(Refused::Test(failure)) => return Err(failure),
            Ok(parts) => self.guarded(parts, scenario).await,
        };
        let finished = match parts {
            Err(failures) => Finished::not_started(failures),
            Ok(parts) => {
                let stop = parts.stop.clone();
                if let Some((after, signal)) = scenario.stop {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        stop.stop(signal);
                    });
                }
                let run = RunContext::began_at(parts, scenario.began);
                run.interfere(Arc::clone(&interference));
                if let Some(witness) = witness {
                    run.witnessed_by(witness);
                }
                let conclusion = run::execute(code, run.clone()).await;
                Finished {
                    conclusion,
                    run: Some(run),
                    plugin_digest: Some(self.plugin.digest.clone()),
                }
            }
        };
        report::conclude(&finished, &console, None, None);
        let results = finished
            .run
            .as_ref()
            .map(|run| run.results.all())
            .unwrap_or_default();
        let workspace = directory
            .map(|directory| files_below(directory.path()))
            .unwrap_or_default();
        let log = captured.lines();
        let kept = finished.conclusion.settlement.kept.iter();
        let kept = kept.map(|vm| vm.name.clone()).collect();
        let texts = log
            .iter()
            .map(|line| ("the log", line.as_str()))
            .chain(results.values().map(|value| ("a result", value.as_str())));
        let mut secrets_shown = shown_in(scenario, texts);
        secrets_shown.extend(shown_in_files(scenario, &workspace));
        let report = Report {
            outcome: finished.conclusion.outcome,
            exit_code: finished.conclusion.exit_code,
            exit: finished.conclusion.exit.clone(),
            host_calls: interference.seen(),
            host_calls_total: finished.run.as_ref().map_or(0, |run| run.journal.count()),
            failures: finished.conclusion.failures.clone(),
            calls: Vec::new(),
            unexpected: Vec::new(),
            missing: Vec::new(),
            not_reached: Vec::new(),
            nodes: Vec::new(),
            left_on_the_cluster: Vec::new(),
            kept,
            log,
            phases: console.phases(),
            results,
            vm_files: BTreeMap::new(),
            workspace,
            secrets_shown,
            guards: finished
                .run
                .as_ref()
                .map(|run| run.guards.records())
                .unwrap_or_default(),
            elapsed: started.elapsed(),
        };
        Ok(Ended { report })
    }

    /// The same with the scenario's guards started.
    async fn guarded(
        &self,
        parts: RunParts,
        scenario: &Scenario,
    ) -> Result<RunParts, Vec<Failure>> {
        let wanted = Wanted {
            sources: scenario.guards.clone(),
            code_cache: self.code_cache.clone(),
            ..Wanted::default()
        };
        let guards = Guards::start(
            &wanted,
            self.compiled.engine(),
            scenario.limits,
            &parts.console,
            &self.plugin.digest,
        );
        let guards = guards.await.map_err(|failure| vec![failure])?;
        Ok(RunParts { guards, ..parts })
    }

    /// The run as production would set it up, on scripted backends.
    fn parts(
        &self,
        scenario: &Scenario,
        console: &Console,
        backends: Backends,
        directory: Option<&tempfile::TempDir>,
    ) -> Result<RunParts, Refused> {
        let manifest = &self.plugin.manifest;
        let script = scenario.script.as_deref();
        let params = check_parameters(manifest, &scenario.params, script, &manifest.name)
            .map_err(Refused::Run)?;
        let one = |failure| Refused::Run(vec![failure]);
        let grants = match &scenario.grants {
            None => Grants::everything(manifest, scenario.secrets.keys()),
            Some(granted) => {
                let digest = &self.plugin.digest;
                let file = granted.file(manifest, digest);
                Grants::intersect(Some(&file), manifest, digest, self.plugin.bundled)
                    .map_err(one)?
            }
        };
        grants
            .admit_parameters(manifest, &params, &scenario.secrets)
            .map_err(Refused::Run)?;
        let workspace = directory
            .map(|directory| {
                let dir = Dir::open_ambient_dir(directory.path(), ambient_authority())
                    .map_err(|error| Refused::Test(no_workspace(error)))?;
                Ok(Workspace {
                    dir,
                    path: directory.path().to_owned(),
                })
            })
            .transpose()?;
        Ok(RunParts {
            cluster: backends.cluster,
            guests: backends.guests,
            console: console.clone(),
            ledger: Ledger::in_memory(),
            grants,
            guards: Guards::default(),
            params,
            script: scenario.script.clone(),
            manifest: manifest.clone(),
            workspace,
            results: Results::new(None).map_err(one)?,
            secrets: scenario.secrets.clone(),
            identity: Identity::new("tekton", Some("run"), Some("pod")).map_err(one)?,
            owner: Vec::new(),
            limits: scenario.limits,
            timeout: scenario.timeout,
            stop: Stop::default(),
            random: Box::new(rand::rngs::StdRng::seed_from_u64(scenario.seed)),
        })
    }
}

/// What a run stands on.
pub(super) struct Backends {
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) guests: Arc<dyn Guests>,
    /// Who is told what they alone cannot tell.
    pub(super) witness: Option<Arc<dyn Witness>>,
}

/// A run that has ended.
pub(super) struct Ended {
    pub(super) report: Report,
}

/// Why a run was not started.
enum Refused {
    /// As production would refuse it.
    Run(Vec<Failure>),
    /// The test itself cannot be made.
    Test(Failure),
}

fn no_workspace(error: std::io::Error) -> Failure {
    Failure::internal("the test's workspace cannot be made").with_source(error)
}

/// A workspace in memory, where the machine has a place for it: on a disk, files take most of a run's time.
const MEMORY: &str = "/dev/shm";

/// Larger workspaces stay out of it: containers have 64 MiB of it and run as many scenarios at a time as processors.
const IN_MEMORY_BYTES_MAX: usize = 1024 * 1024;

fn workspace_with(files: &BTreeMap<String, Vec<u8>>) -> Result<tempfile::TempDir, Failure> {
    workspace_of(files, write)
}

/// As [`workspace_with`], writing each file with `write`. What turns out not to fit into memory goes to the disk.
fn workspace_of(
    files: &BTreeMap<String, Vec<u8>>,
    write: impl Fn(&Dir, &str, &[u8]) -> std::io::Result<()>,
) -> Result<tempfile::TempDir, Failure> {
    let fill = |directory: &tempfile::TempDir| {
        let root = Dir::open_ambient_dir(directory.path(), ambient_authority());
        let root = root.map_err(|error| (None, error))?;
        for (path, contents) in files {
            write(&root, path, contents).map_err(|error| (Some(path), error))?;
        }
        Ok(())
    };
    let told = |(path, error): (Option<&String>, std::io::Error)| match path {
        None => no_workspace(error),
        Some(path) => Failure::config(format!("the test's file `{path}` cannot be made"))
            .with_source(error)
            .with_hint("paths are relative to the workspace and cannot leave it"),
    };
    let size: usize = files.values().map(Vec::len).sum();
    if size <= IN_MEMORY_BYTES_MAX
        && let Ok(directory) = tempfile::tempdir_in(MEMORY)
    {
        match fill(&directory) {
            Ok(()) => return Ok(directory),
            Err((_, error)) if error.kind() == std::io::ErrorKind::StorageFull => {}
            Err(wrong) => return Err(told(wrong)),
        }
    }
    let directory = tempfile::tempdir().map_err(no_workspace)?;
    fill(&directory).map_err(told)?;
    Ok(directory)
}

fn write(root: &Dir, path: &str, contents: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = Path::new(path).parent()
        && !parent.as_os_str().is_empty()
    {
        root.create_dir_all(parent)?;
    }
    root.write(path, contents)
}

/// What is below `root`, without the host's own folder.
fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if let (Ok(name), Ok(contents)) = (path.strip_prefix(root), std::fs::read(&path))
            {
                files.insert(name.to_string_lossy().into_owned(), contents);
            }
        }
    }
    files
}

/// Names of secrets that can be read in one of these texts, each with where.
fn shown_in<'a>(
    scenario: &Scenario,
    texts: impl Iterator<Item = (&'static str, &'a str)>,
) -> Vec<String> {
    if scenario.secrets.is_empty() {
        return Vec::new();
    }
    let mut shown = Vec::new();
    for (place, text) in texts {
        for (name, secret) in &scenario.secrets {
            if is_worth_hiding(secret.expose_secret()) && text.contains(secret.expose_secret()) {
                shown.push(format!("`{name}` in {place}"));
            }
        }
    }
    shown
}

fn shown_in_files(scenario: &Scenario, files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut shown = Vec::new();
    for (path, contents) in files {
        // What a test puts there itself, or a program in a VM made, is not the plugin's doing.
        let is_the_tests_own = scenario
            .workspace
            .as_ref()
            .is_some_and(|files| files.get(path) == Some(contents));
        for (name, secret) in &scenario.secrets {
            let secret = secret.expose_secret();
            let text = String::from_utf8_lossy(contents);
            let made_in_a_vm = scenario
                .execs
                .iter()
                .flat_map(|expected| &expected.reply.writes)
                .any(|(_, written)| String::from_utf8_lossy(written).contains(secret));
            if is_worth_hiding(secret)
                && text.contains(secret)
                && !is_the_tests_own
                && !made_in_a_vm
            {
                shown.push(format!("`{name}` in the file `{path}` of the workspace"));
            }
        }
    }
    shown
}

/// Shorter ones are not masked: they would turn ordinary text into asterisks.
fn is_worth_hiding(secret: &str) -> bool {
    secret.trim().len() >= 4
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_workspace_that_does_not_fit_into_memory_goes_to_the_disk_once() {
        let files = BTreeMap::from(["a/b", "c"].map(|path| (path.to_owned(), b"x".to_vec())));
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let written = Cell::new(0);
        let once = |root: &Dir, path: &str, contents: &[u8]| {
            written.set(written.get() + 1);
            // The second write finds no room, as where other scenarios have taken it.
            if written.get() == 2 {
                return Err(full());
            }
            write(root, path, contents)
        };
        let directory = workspace_of(&files, once);
        if Path::new(MEMORY).is_dir() {
            let directory = directory.unwrap();
            assert!(!directory.path().starts_with(MEMORY));
            assert_eq!(written.get(), 4);
            assert_eq!(std::fs::read(directory.path().join("a/b")).unwrap(), b"x");
        } else {
            assert!(
                directory
                    .unwrap_err()
                    .message
                    .contains("`c` cannot be made")
            );
        }
        let never = workspace_of(&files, |_, _, _| Err(full())).unwrap_err();
        assert!(never.message.contains("`a/b` cannot be made"), "{never}");
    }
}
