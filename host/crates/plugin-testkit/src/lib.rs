//! Tests of a plugin with no Mac, cluster or network: the real `.wasm` under wasmtime, the production host code, and
//! scripted backends with a virtual clock.
//!
//! ```no_run
//! use plugin_testkit::{ExecReply, Outcome, PluginUnderTest, Scenario};
//!
//! let plugin = PluginUnderTest::bundled("build");
//! let scenario = Scenario::new()
//!     .param("base-image", "sonoma.orkasi")
//!     .param("script", "make ipa")
//!     .on_exec("../build-script", ExecReply::exit(65).stderr("no such scheme\n"));
//! let report = plugin.run(scenario);
//! assert_eq!((report.outcome, report.exit_code), (Outcome::BuildFailed, 65));
//! assert!(report.left_on_the_cluster.is_empty());
//! ```
//!
//! What the host checks in production it checks here: parameters against the manifest, grants, limits, the ledger. The
//! kit is strict: a program that no [`Scenario::on_exec`] expects fails the test. Time is virtual: a plugin that sleeps
//! for an hour is done in a millisecond, and every wait takes exactly as long as the scenario says.

mod cluster;
mod guest;
mod scenario;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use orka_step::config::Workspace;
use orka_step::console::{Console, Level, PhaseRecord};
use orka_step::engine::{self, Compiled, Engine};
use orka_step::grants::Grants;
use orka_step::identity::Identity;
use orka_step::ledger::Ledger;
use orka_step::mask::Masker;
use orka_step::plugin::{Plugin, PluginRef};
use orka_step::results::Results;
use orka_step::run::{self, Finished};
use orka_step::state::{RunContext, RunParts, Stop};
use rand::SeedableRng as _;
use secrecy::ExposeSecret as _;

pub use orka_step::bindings::orka::plugin::types::Exit;
pub use orka_step::failure::{Class, Failure, Kind};
pub use orka_step::limits::Limits;
pub use orka_step::outcome::{Outcome, StopSignal};
pub use scenario::{ExecReply, Scenario};

use cluster::ScriptedCluster;
use guest::ScriptedGuests;

/// A plugin that has been compiled, to be run any number of times.
pub struct PluginUnderTest {
    plugin: Plugin,
    compiled: Compiled,
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
    /// The node that each deployment asked for, in order.
    pub nodes: Vec<Option<String>>,
    /// Names that the cluster still has.
    pub left_on_the_cluster: Vec<String>,
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

impl PluginUnderTest {
    /// A plugin of this source tree, as `cargo xtask plugins` built it.
    ///
    /// # Panics
    ///
    /// If it is not there or cannot be loaded, saying what to do.
    pub fn bundled(name: &str) -> Self {
        Self::load(
            &target_directory()
                .join("plugins")
                .join(format!("{name}.wasm")),
        )
    }

    /// A plugin's file.
    ///
    /// # Panics
    ///
    /// If it is not there or cannot be loaded, saying what to do.
    #[expect(clippy::panic, reason = "a test without its plugin cannot go on")]
    pub fn load(path: &Path) -> Self {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        let built = "build the plugins with `cargo xtask plugins`";
        let plugin = Plugin::load(&PluginRef::Path(path.to_owned()))
            .unwrap_or_else(|failure| panic!("{failure}; {built} ({:?})", failure.hint));
        let engine =
            ENGINE.get_or_init(|| engine::engine().unwrap_or_else(|failure| panic!("{failure}")));
        let compiled =
            Compiled::new(engine, &plugin).unwrap_or_else(|failure| panic!("{failure}; {built}"));
        Self { plugin, compiled }
    }

    /// Runs the plugin once.
    ///
    /// # Panics
    ///
    /// If the plugin ran a program that the scenario does not expect, or the test's own set-up fails.
    #[expect(
        clippy::panic,
        reason = "a strict kit ends the test at what was not expected"
    )]
    pub fn run(&self, scenario: Scenario) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime for the test: {error}"));
        let (report, unexpected) = runtime.block_on(self.play(scenario));
        assert!(
            unexpected.is_empty(),
            "the plugin ran programs that the scenario does not expect: {unexpected:?}\n{}",
            report.log_text()
        );
        report
    }

    async fn play(&self, scenario: Scenario) -> (Report, Vec<String>) {
        let (console, captured) = Console::captured_from(Masker::default(), Level::Info);
        for secret in scenario.secrets.values() {
            console.masker().add(secret.expose_secret());
        }
        let started = tokio::time::Instant::now();
        let calls = Arc::default();
        let cluster = Arc::new(ScriptedCluster::new(&scenario, Arc::clone(&calls)));
        let guests = Arc::new(ScriptedGuests::new(&scenario, Arc::clone(&calls)));
        let directory = scenario.workspace.as_ref().map(workspace_with);
        let finished = match self.parts(&scenario, &console, &cluster, &guests, directory.as_ref())
        {
            Err(failures) => Finished::not_started(failures),
            Ok(parts) => {
                let stop = parts.stop.clone();
                if let Some((after, signal)) = scenario.stop {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        stop.stop(signal);
                    });
                }
                let run = RunContext::new(parts);
                let conclusion = run::execute(&self.compiled, run.clone()).await;
                Finished {
                    conclusion,
                    run: Some(run),
                    plugin_digest: Some(self.plugin.digest.clone()),
                }
            }
        };
        orka_step::report::conclude(&finished, &console, None, None);
        let unexpected = guests.unexpected();
        let report = Report {
            outcome: finished.conclusion.outcome,
            exit_code: finished.conclusion.exit_code,
            exit: finished.conclusion.exit,
            failures: finished.conclusion.failures,
            calls: calls.lock().map(|calls| calls.clone()).unwrap_or_default(),
            nodes: cluster.nodes_asked_for(),
            left_on_the_cluster: cluster.left(),
            log: captured.lines(),
            phases: console.phases(),
            results: finished
                .run
                .as_ref()
                .map(|run| run.results.all())
                .unwrap_or_default(),
            vm_files: guests.files(),
            workspace: directory
                .map(|directory| files_below(directory.path()))
                .unwrap_or_default(),
            elapsed: started.elapsed(),
        };
        (report, unexpected)
    }

    /// The run as production would set it up, on scripted backends.
    #[expect(clippy::panic, reason = "a test whose set-up fails cannot go on")]
    fn parts(
        &self,
        scenario: &Scenario,
        console: &Console,
        cluster: &Arc<ScriptedCluster>,
        guests: &Arc<ScriptedGuests>,
        directory: Option<&tempfile::TempDir>,
    ) -> Result<RunParts, Vec<Failure>> {
        let manifest = &self.plugin.manifest;
        let params = run::check_parameters(manifest, &scenario.params, &manifest.name)?;
        let grants = match &scenario.grants {
            None => Grants::everything(manifest),
            Some(file) => Grants::intersect(Some(file), manifest, &self.plugin.digest, false)
                .map_err(|failure| vec![failure])?,
        };
        let workspace = directory.map(|directory| Workspace {
            dir: Dir::open_ambient_dir(directory.path(), ambient_authority())
                .unwrap_or_else(|error| panic!("the test's workspace cannot be opened: {error}")),
            path: directory.path().to_owned(),
        });
        Ok(RunParts {
            cluster: cluster.clone(),
            guests: guests.clone(),
            console: console.clone(),
            ledger: Ledger::in_memory(),
            grants,
            params,
            script: scenario.script.clone(),
            manifest: manifest.clone(),
            workspace,
            results: Results::new(None).map_err(|failure| vec![failure])?,
            secrets: scenario.secrets.clone(),
            identity: Identity::new("tekton", Some("run"), Some("pod"))
                .map_err(|failure| vec![failure])?,
            owner: Vec::new(),
            limits: scenario.limits,
            timeout: scenario.timeout,
            stop: Stop::default(),
            random: Box::new(rand::rngs::StdRng::seed_from_u64(0)),
        })
    }
}

/// The target directory that the running test was built into.
///
/// # Panics
///
/// If the test does not run from a target directory.
#[expect(clippy::panic, reason = "a test without its plugins cannot go on")]
pub fn target_directory() -> PathBuf {
    let program = std::env::current_exe()
        .unwrap_or_else(|error| panic!("the test's own path is unknown: {error}"));
    // `<target>/<profile>/deps/<test>`.
    program
        .ancestors()
        .nth(3)
        .unwrap_or_else(|| panic!("`{}` is not in a target directory", program.display()))
        .to_owned()
}

#[expect(clippy::panic, reason = "a test whose set-up fails cannot go on")]
fn workspace_with(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    let directory =
        tempfile::tempdir().unwrap_or_else(|error| panic!("no directory for the test: {error}"));
    for (path, contents) in files {
        let path = directory.path().join(path);
        let made = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, contents));
        made.unwrap_or_else(|error| {
            panic!("`{}` cannot be made for the test: {error}", path.display())
        });
    }
    directory
}

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
