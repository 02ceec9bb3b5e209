//! A simulated cluster, and a command line with which everything is right.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use orka_sim::{Generation, GuestKind, Sim, SimConfig};
use orka_step::cli::{Cli, Command, DoctorArgs};
use orka_step::config::{Config, Environment};
use orka_step::console::{Captured, Console};
use orka_step::doctor::{self, Check, Diagnosis, Status, Subject};
use orka_step::mask::Masker;
use orka_step::run::{self, Finished};
use orka_step::state::Stop;
use tempfile::TempDir;

/// The newest release in which each login has a token of its own.
const OWN_TOKENS: &str = "2.1.0";

pub(crate) const PASSWORD: &str = "correct-horse";

pub(crate) const GRANT_ALL: &str =
    "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n";

pub(crate) fn orka2() -> SimConfig {
    SimConfig {
        generation: Generation::Two,
        api_version: OWN_TOKENS.to_owned(),
        guests: GuestKind::None,
        ..SimConfig::default()
    }
}

pub(crate) fn orka3() -> SimConfig {
    SimConfig {
        generation: Generation::Three,
        guests: GuestKind::None,
        ..SimConfig::default()
    }
}

/// The component of the plugin `build`.
pub(crate) fn build_plugin() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .map(|above| above.join("plugins/build.wasm"))
        .find(|path| path.is_file())
        .expect("the plugin `build` has not been built: run `cargo xtask test`")
}

/// A simulated cluster, and a command line with which everything is right.
pub(crate) struct Bench {
    pub(crate) sim: Sim,
    scratch: TempDir,
    flags: Vec<(String, String)>,
}

/// What a doctor said.
pub(crate) struct Examined {
    pub(crate) diagnosis: Diagnosis,
    pub(crate) said: Captured,
}

impl Bench {
    pub(crate) async fn start(config: SimConfig) -> Self {
        let sim = Sim::start(config).await.unwrap();
        let bench = Self {
            scratch: tempfile::tempdir().unwrap(),
            flags: Vec::new(),
            sim,
        };
        if bench.sim.config().generation == Generation::Three {
            bench.write("orka/token", &bench.sim.config().sa_tokens[0].token);
        } else {
            bench.write("orka/email", &bench.sim.config().users[0].email);
            bench.write("orka/password", PASSWORD);
        }
        bench.write("ssh/username", "admin");
        bench.write("ssh/password", "admin");
        bench.write("grants.toml", GRANT_ALL);
        for directory in ["workspace", "results"] {
            std::fs::create_dir(bench.path(directory)).unwrap();
        }
        let url = bench.sim.url();
        let paths = [
            ("--orka-credentials", "orka"),
            ("--ssh-credentials", "ssh"),
            ("--workspace", "workspace"),
            ("--results", "results"),
            ("--grants", "grants.toml"),
        ];
        let bench = paths.into_iter().fold(bench, |bench, (flag, name)| {
            let path = shown(&bench.path(name));
            bench.with(flag, &path)
        });
        bench
            .with("--orka-api", &url)
            .with("--plugin", &shown(&build_plugin()))
            .with("-pbase-image", "Sonoma.orkasi")
            .with("-pscript", "make")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Sets a flag, or with `-pNAME` a parameter.
    pub(crate) fn with(mut self, flag: &str, value: &str) -> Self {
        self = self.without(flag);
        self.flags.push((flag.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, flag: &str) -> Self {
        self.flags.retain(|(name, _)| name != flag);
        self
    }

    pub(crate) fn args(&self) -> DoctorArgs {
        let flags = self
            .flags
            .iter()
            .map(|(flag, value)| format!("{flag}={value}"));
        let line = ["orka-step", "doctor"]
            .map(str::to_owned)
            .into_iter()
            .chain(flags);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Doctor(args) => *args,
            _ => panic!("not `doctor`"),
        }
    }

    pub(crate) async fn examine(&self) -> Examined {
        self.examine_until(&Stop::default()).await
    }

    pub(crate) async fn examine_until(&self, stop: &Stop) -> Examined {
        let (console, said) = Console::captured(Masker::default());
        let diagnosis = doctor::examine(&self.args(), &Environment::new(), &console, stop).await;
        self.assert_untouched();
        Examined { diagnosis, said }
    }

    /// Fails if a request was made that could change the cluster, or a token of ours still works.
    pub(crate) fn assert_untouched(&self) {
        let state = self.sim.state();
        for request in &state.requests {
            let is_harmless = request.method == "GET" || request.path == "/token";
            assert!(is_harmless, "{} {}", request.method, request.path);
        }
        assert!(state.configs.is_empty(), "{:?}", state.configs);
        if self.sim.config().api_version == OWN_TOKENS {
            assert_eq!(state.live_tokens(), 0, "a token still works");
        }
    }

    /// The exit code of a run with the same command line.
    pub(crate) async fn run(&self) -> u8 {
        let (console, _) = Console::captured(Masker::default());
        let args = self.args().run;
        let finished = match Config::resolve(&args, &Environment::new(), console.masker().clone()) {
            Ok(config) => run::run(config, console, Stop::default()).await,
            Err(failures) => Finished::not_started(failures),
        };
        finished.conclusion.exit_code
    }
}

impl Examined {
    pub(crate) fn check(&self, name: Subject) -> &Check {
        self.diagnosis.check(name).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert(&self, status: Status, names: &[Subject]) {
        for name in names {
            let check = self.check(*name);
            assert_eq!(check.status, status, "{check:#?}");
        }
    }

    /// Fails unless these checks alone failed, and a run would end with this code.
    #[track_caller]
    pub(crate) fn assert_failed(&self, names: &[Subject], exit_code: u8) {
        let failed: Vec<Subject> = self
            .diagnosis
            .checks()
            .iter()
            .filter(|check| check.status == Status::Fail)
            .map(|check| check.name)
            .collect();
        assert_eq!(failed, names, "{}", self.diagnosis.table());
        assert_eq!(self.diagnosis.exit_code(), exit_code);
        for name in names {
            let findings = &self.check(*name).findings;
            // One hint may answer all that comes before it.
            assert!(
                findings
                    .last()
                    .is_some_and(|finding| finding.hint.is_some()),
                "every failure says what to mend: {findings:#?}"
            );
        }
    }

    pub(crate) fn found(&self, name: Subject) -> String {
        let finding = &self.check(name).findings[0];
        format!(
            "{} {} {}",
            finding.text,
            finding.causes.join(" "),
            finding.hint.as_deref().unwrap_or_default()
        )
    }

    #[track_caller]
    pub(crate) fn assert_found(&self, name: Subject, text: &str) {
        let found = self.found(name);
        assert!(found.contains(text), "{found}");
    }
}

pub(crate) fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// All but these.
pub(crate) fn others(names: &[Subject]) -> Vec<Subject> {
    Subject::ALL
        .into_iter()
        .filter(|name| !names.contains(name))
        .collect()
}
