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

use std::path::{Path, PathBuf};

use orka_step::plugin::PluginRef;
use orka_step::scenario::Subject;
use orka_step::scenario::check::Problem;
use orka_step::scenario::{file, sweep};

pub use orka_step::bindings::orka::plugin::types::Exit;
pub use orka_step::failure::{Class, Failure, Kind};
pub use orka_step::limits::Limits;
pub use orka_step::outcome::{Outcome, StopSignal};
pub use orka_step::scenario::{ExecReply, Report, Scenario};

/// A plugin that has been compiled, to be run any number of times.
pub struct PluginUnderTest(Subject);

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
        let subject = Subject::load(&PluginRef::Path(path.to_owned())).unwrap_or_else(|failure| {
            panic!(
                "{failure}; build the plugins with `cargo xtask plugins` ({:?})",
                failure.hint
            )
        });
        Self(subject)
    }

    /// Runs the plugin once.
    ///
    /// # Panics
    ///
    /// If the plugin ran a program that the scenario does not expect, one that must run did not, a call that is to fail was
    /// not made, a secret of the scenario can be read somewhere, or the test's own set-up fails.
    #[expect(
        clippy::panic,
        reason = "a strict kit ends the test at what was not expected"
    )]
    pub fn run(&self, scenario: Scenario) -> Report {
        let report = self
            .0
            .play(&scenario)
            .unwrap_or_else(|failure| panic!("{failure}"));
        assert!(
            report.unexpected.is_empty() && report.missing.is_empty(),
            "the plugin ran programs that the scenario does not expect: {:?}; and did not run {:?}\n{}",
            report.unexpected,
            report.missing,
            report.log_text()
        );
        assert!(
            report.not_reached.is_empty(),
            "failures of the scenario were not reached: {:?}\n{}",
            report.not_reached,
            report.log_text()
        );
        assert!(
            report.secrets_shown.is_empty(),
            "secrets are shown: {:?}",
            report.secrets_shown
        );
        report
    }

    /// Plays every scenario of a file, and sweeps each: ends it in every way at every host call.
    ///
    /// Gives the number of runs.
    ///
    /// # Panics
    ///
    /// If the file is wrong, or at what did not come as the file expects.
    #[expect(clippy::panic, reason = "this is what ends the test")]
    pub fn passes(&self, scenarios: &Path) -> usize {
        let cases = file::load(scenarios).unwrap_or_else(|failure| panic!("{failure}"));
        let mut runs = 0;
        for case in &cases {
            let report = self
                .0
                .play(&case.scenario)
                .unwrap_or_else(|failure| panic!("{failure}"));
            let problems = case.expect.check(&report);
            assert!(
                problems.is_empty(),
                "scenario `{}`: {}\n{}",
                case.name,
                described(&problems),
                report.log_text()
            );
            let swept = sweep::sweep(&self.0, &case.scenario, &case.expect, &report)
                .unwrap_or_else(|failure| panic!("{failure}"));
            if let Some(broken) = swept.broken.first() {
                panic!(
                    "scenario `{}`, {broken}: {}",
                    case.name,
                    described(&broken.problems)
                );
            }
            runs += 1 + swept.runs;
        }
        runs
    }
}

fn described(problems: &[Problem]) -> String {
    let described = problems.iter().map(ToString::to_string);
    described.collect::<Vec<_>>().join("\n")
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
