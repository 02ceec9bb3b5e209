//! A simulated cluster of one release, and builds against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser as _;
use orka_client::RetryPolicy;
use orka_sim::{Generation, Sim, SimConfig};
use orka_step::backend::orka::OrkaCluster;
use orka_step::backend::ssh::SshGuests;
use orka_step::cli::{Cli, Command};
use orka_step::config::{Config, Environment};
use orka_step::console::Console;
use orka_step::engine::{self, Compiled};
use orka_step::grants::Grants;
use orka_step::guard::Guards;
use orka_step::ledger::Ledger;
use orka_step::mask::Masker;
use orka_step::outcome::Outcome;
use orka_step::parameters::check_parameters;
use orka_step::plugin::{Plugin, PluginRef};
use orka_step::report;
use orka_step::results::Results;
use orka_step::run::{self, Finished};
use orka_step::state::{RunContext, RunParts, Stop};
use rand::SeedableRng as _;

/// An image that every simulated cluster has.
pub const IMAGE: &str = "Sonoma.orkasi";

/// The releases that differ in what a build sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The last release with a token for each login: a build revokes its own.
    Orka210,
    /// One token for each user, which no build may revoke.
    Orka240,
    /// Service account tokens, no VM configs.
    Orka3,
}

impl World {
    pub const ALL: [Self; 3] = [Self::Orka210, Self::Orka240, Self::Orka3];

    pub fn is_orka3(self) -> bool {
        self == Self::Orka3
    }

    /// What its clusters are made of.
    pub fn cluster(self) -> SimConfig {
        let (generation, version) = match self {
            Self::Orka210 => (Generation::Two, "2.1.0"),
            Self::Orka240 => (Generation::Two, "2.4.0"),
            Self::Orka3 => (Generation::Three, ""),
        };
        SimConfig {
            generation,
            api_version: version.to_owned(),
            ..SimConfig::default()
        }
    }

    pub async fn start(self) -> Sim {
        Sim::start(self.cluster()).await.unwrap()
    }
}

/// Time limits of the client, short enough for many builds and long enough for a busy machine.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Each call, deploys included.
    pub call: Duration,
    pub retry: RetryPolicy,
    /// The run's own deadline.
    pub run: Duration,
}

/// How a build ended.
#[derive(Debug)]
pub struct Ended {
    pub code: u8,
    pub outcome: Outcome,
    /// The first failure's code; empty if there was none.
    pub failure: String,
    pub hint: Option<String>,
    /// Names under which something may exist, as the run says.
    pub leftovers: Vec<String>,
    pub plugin_digest: Option<String>,
    pub log: Vec<String>,
}

impl Ended {
    /// Whether it tells a person that something of this name may be left.
    pub fn names_as_left(&self, name: &str) -> bool {
        let told =
            |line: &String| line.contains(&format!("`{name}`")) && line.contains("may still exist");
        self.leftovers.iter().any(|left| left == name) && self.log.iter().any(told)
    }

    /// The whole log as one text.
    pub fn text(&self) -> String {
        self.log.join("\n")
    }
}

/// A build to be run: the command line and environment that a person would have typed.
#[derive(Clone, Debug)]
pub struct Build {
    flags: BTreeMap<String, String>,
    params: BTreeMap<String, String>,
    environment: Environment,
}

impl Build {
    /// The main job against this cluster with this script, and with no workspace.
    pub fn new(sim: &Sim, script: &str) -> Self {
        let build = Self {
            flags: BTreeMap::new(),
            params: BTreeMap::new(),
            environment: Environment::new(),
        };
        let config = sim.config();
        let build = build
            .flag("--orka-api", &sim.url())
            .param("base-image", IMAGE)
            .param("script", script)
            .variable("SSH_USERNAME", &config.guest_user)
            .variable("SSH_PASSWORD", &config.guest_password);
        if config.generation == Generation::Three {
            build.variable("ORKA_TOKEN", &config.sa_tokens[0].token)
        } else {
            let user = &config.users[0];
            build
                .variable("ORKA_EMAIL", &user.email)
                .variable("ORKA_PASSWORD", &user.password)
        }
    }

    /// Gives a flag, in place of what it was.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.insert(flag.to_owned(), value.to_owned());
        self
    }

    /// Gives a parameter of the plugin, in place of what it was.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn config(&self, masker: &Masker) -> Config {
        let mut line = vec!["orka-step".to_owned(), "run".to_owned()];
        for (flag, value) in &self.flags {
            line.extend([flag.clone(), value.clone()]);
        }
        for (name, value) in &self.params {
            line.extend(["--param".to_owned(), format!("{name}={value}")]);
        }
        let Command::Run(arguments) = Cli::try_parse_from(&line).unwrap().command else {
            panic!("not `run`: {line:?}")
        };
        Config::resolve(&arguments, &self.environment, masker.clone())
            .unwrap_or_else(|failures| panic!("{failures:?}"))
    }

    /// Runs it as the program does, from the plugin's file to the closing line.
    pub async fn run(self) -> Ended {
        let scratch = tempfile::tempdir().unwrap();
        let grants = scratch.path().join("grants.toml");
        std::fs::write(
            &grants,
            "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n",
        )
        .unwrap();
        let build = self
            .flag("--plugin", &plugin_file().display().to_string())
            .flag("--grants", &grants.display().to_string());
        let (console, captured) = Console::captured(Masker::default());
        let config = build.config(console.masker());
        let finished = run::run(config, console.clone(), Stop::default()).await;
        concluded(&finished, &console, || captured.lines())
    }

    /// Runs it with the plugin compiled once for all builds, and at another pace.
    pub async fn run_at(self, pace: Pace) -> Ended {
        let (console, captured) = Console::captured(Masker::default());
        let mut config = self.config(console.masker());
        config.orka.timeouts.call = pace.call;
        config.orka.timeouts.probe = pace.call;
        config.orka.timeouts.deploy = pace.call;
        config.orka.retry = pace.retry;
        config.timeout = pace.run;
        let (plugin, compiled) = compiled_once();
        let run = RunContext::new(parts(config, plugin, console.clone()));
        let conclusion = run::execute(compiled, Arc::clone(&run)).await;
        let finished = Finished {
            conclusion,
            run: Some(run),
            plugin_digest: Some(plugin.digest.clone()),
        };
        concluded(&finished, &console, || captured.lines())
    }
}

fn concluded(finished: &Finished, console: &Console, log: impl Fn() -> Vec<String>) -> Ended {
    let code = report::conclude(finished, console, None, None);
    let conclusion = &finished.conclusion;
    let first = conclusion.failures.first();
    let leftovers = conclusion.settlement.leftovers.iter();
    Ended {
        code,
        outcome: conclusion.outcome,
        failure: first.map_or_else(String::new, |failure| failure.code.to_string()),
        hint: first.and_then(|failure| failure.hint.clone()),
        leftovers: leftovers.map(|leftover| leftover.name.clone()).collect(),
        plugin_digest: finished.plugin_digest.clone(),
        log: log(),
    }
}

/// What the host makes of a configuration, with the plugin's stock grant.
fn parts(config: Config, plugin: &Plugin, console: Console) -> RunParts {
    let grants = Grants::intersect(None, &plugin.manifest, &plugin.digest, true).unwrap();
    let script = config.script.as_deref();
    let params = check_parameters(&plugin.manifest, &config.params, script, "build").unwrap();
    RunParts {
        cluster: Arc::new(OrkaCluster::new(config.orka)),
        guests: Arc::new(SshGuests::new(config.ssh)),
        console,
        ledger: Ledger::in_memory(),
        grants,
        guards: Guards::default(),
        params,
        script: config.script,
        manifest: plugin.manifest.clone(),
        workspace: config.workspace,
        results: Results::new(None).unwrap(),
        secrets: config.secrets,
        identity: config.identity,
        owner: config.owner,
        limits: config.limits,
        timeout: config.timeout,
        stop: Stop::default(),
        random: Box::new(rand::rngs::StdRng::from_os_rng()),
    }
}

/// The plugin that comes with the program.
fn plugin_file() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own
        .ancestors()
        .map(|above| above.join("plugins/build.wasm"))
        .find(|path| Path::is_file(path));
    found.unwrap_or_else(|| panic!("the plugin `build` is not built: run `cargo xtask plugins`"))
}

fn compiled_once() -> &'static (Plugin, Compiled) {
    static COMPILED: OnceLock<(Plugin, Compiled)> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let plugin = Plugin::load(&PluginRef::Path(plugin_file())).unwrap();
        let compiled = Compiled::new(&engine::engine().unwrap(), &plugin).unwrap();
        (plugin, compiled)
    })
}
