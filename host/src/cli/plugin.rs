//! `orka-step plugin`, as it is typed.

use std::collections::BTreeMap;
use std::path::PathBuf;

#[cfg(feature = "authoring")]
use clap::ValueEnum;
use clap::{Args, Subcommand};

use super::RegistryArgs;
use super::platform::{CHECK_HELP, CheckArgs, InspectArgs, TASK_HELP, TaskArgs};
use crate::failure::Failure;
use crate::plugin::PluginRef;
use crate::plugin::remote::Fetched;

const COMPILE_HELP: &str = "\
Native code has all the power of this program, so a file of it is used in two places only:
  beside the program  in `plugins/` there, owned as the program is and writable by nobody else: for images
  in a cache          with a record made under a key that the operator gave to this command and to `run`

Examples:
  While an image is built, as root:
    orka-step plugin compile build deploy --into /usr/local/bin/plugins

  For a plugin of your own, from a place that builds can read:
    head -c 32 /dev/urandom > key
    orka-step plugin compile ./mine.wasm --plugin-cache /cache --plugin-cache-key key
    orka-step run --plugin ./mine.wasm --plugin-cache /cache --plugin-cache-key key …

Code of another version of this program is never used; compile again after an update.";

#[cfg(feature = "authoring")]
const TEST_HELP: &str = "\
A scenario file, with one scenario:
  scenarios:
    - name: a failing script is the build's failure
      params: { base-image: sonoma.orkasi, script: make ipa }
      programs:
        - run: ../build-script
          stderr: no such scheme
          after: 12m
          exit: 65
      expect: { outcome: build-failed, exit-code: 65 }

`orka-step schema scenarios` describes every member; `plugins/TESTING.md` in the source tree is the page about tests.

Examples:
  orka-step plugin test                      the project in this directory
  orka-step plugin test --plugin build scenarios/ --sweep --junit results.xml

Exit code: 0 if every scenario passed, 1 if one did not, 211 if a scenario file is wrong, 212 if the plugin cannot be
loaded.";

/// `orka-step plugin`.
#[derive(Args, Debug)]
pub struct PluginArgs {
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// The commands about plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Show what a plugin says of itself, asks for, is granted and has used, without running it.
    Inspect(InspectArgs),
    /// Find out whether a plugin or a guard fits this host, and what differs if not.
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Print a Tekton Task with the plugin's parameters and results.
    #[command(after_help = TASK_HELP)]
    Task(TaskArgs),
    /// Compile plugins ahead of time, so that runs need not.
    #[command(after_help = COMPILE_HELP)]
    Compile(CompileArgs),
    /// Measure how long a plugin takes to compile, to load, to start and to call the host; or a guard, to be asked.
    Bench(BenchArgs),
    /// Play scenario files against a plugin, with no Mac, cluster or network.
    ///
    /// The plugin's own `.wasm` runs in the production host on a scripted cluster, a virtual clock and reproducible random
    /// numbers. A run must end as its scenario says, run no program that the scenario does not expect, leave nothing on
    /// the cluster and show no secret.
    #[cfg(feature = "authoring")]
    #[command(after_help = TEST_HELP)]
    Test(PluginTestArgs),
    /// Make the project of a new plugin or guard, which builds and passes its tests as it is.
    ///
    /// The project holds everything it needs: the contract in `wit/`, scenarios, and for Rust the SDK.
    #[cfg(feature = "authoring")]
    New(PluginNewArgs),
    /// Build the project of a plugin or a guard to a component that carries its manifest.
    ///
    /// In Rust with cargo, in TypeScript with the tools that the project's package.json pins, in Python with
    /// componentize-py. What is missing is named with the command that installs it. The result is checked against the
    /// contract.
    #[cfg(feature = "authoring")]
    Build(PluginBuildArgs),
    /// Push a plugin into a registry, and print the reference that runs take.
    ///
    /// It lies there as the CNCF's Wasm OCI artifact layout has it, with what it imports in the configuration, so that hosts
    /// refuse what does not fit before they download it. The same file gives the same digest each time.
    #[cfg(all(feature = "authoring", feature = "registry"))]
    Push(PluginPushArgs),
    /// Fetch a plugin into a file.
    #[cfg(all(feature = "authoring", feature = "registry"))]
    Pull(PluginPullArgs),
}

impl PluginCommand {
    /// The plugins that the command names, and where it looks for them.
    pub fn named(&mut self) -> Option<(&mut PluginPlace, Vec<String>)> {
        match self {
            Self::Inspect(args) => Some((&mut args.place, vec![args.plugin.clone()])),
            Self::Check(args) => Some((&mut args.place, vec![args.plugin.clone()])),
            Self::Task(args) => Some((&mut args.place, vec![args.plugin.clone()])),
            Self::Compile(args) => Some((&mut args.place, args.plugins.clone())),
            Self::Bench(args) => Some((&mut args.place, vec![args.plugin.clone()])),
            #[cfg(feature = "authoring")]
            Self::Test(args) => Some((&mut args.place, args.plugin.iter().cloned().collect())),
            #[cfg(feature = "authoring")]
            Self::New(_) | Self::Build(_) => None,
            #[cfg(all(feature = "authoring", feature = "registry"))]
            Self::Push(_) | Self::Pull(_) => None,
        }
    }
}

/// Where plugins are found by name, beside those that came with this program.
#[derive(Args, Clone, Debug, Default)]
pub struct PluginPlace {
    /// A directory with plugins to find by name.
    #[arg(
        long,
        env = "ORKA_PLUGIN_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub plugin_dir: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// What had to be fetched, by how it is typed.
    #[arg(skip)]
    pub fetched: BTreeMap<String, Fetched>,
}

impl PluginPlace {
    /// Reads a reference as it is typed.
    ///
    /// # Errors
    ///
    /// As [`PluginRef::parse`].
    pub fn reference(&self, text: &str) -> Result<PluginRef, Failure> {
        match self.fetched.get(text) {
            Some(fetched) => Ok(PluginRef::Fetched(fetched.clone())),
            None => PluginRef::parse(text, self.plugin_dir.clone()),
        }
    }
}

/// Where ahead-of-time code of plugins is kept that did not come with this program.
#[derive(Args, Clone, Debug, Default)]
pub struct CodeCacheArgs {
    /// A directory of ahead-of-time code, made by `plugin compile` or by earlier runs. Needs `--plugin-cache-key`.
    #[arg(
        long,
        env = "ORKA_PLUGIN_CACHE",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Plugin"
    )]
    pub plugin_cache: Option<PathBuf>,

    /// The key that code in the cache is vouched for with: a file of 32 bytes or more, such as a mounted Secret, outside
    /// of cache and workspace.
    #[arg(
        long,
        env = "ORKA_PLUGIN_CACHE_KEY",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Plugin"
    )]
    pub plugin_cache_key: Option<PathBuf>,
}

/// `orka-step plugin compile`.
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// Bundled names, paths of `.wasm` files, or what is fetched: `https://…#sha256:…`, `oci://…@sha256:…`.
    #[arg(value_name = "REF", required = true)]
    pub plugins: Vec<String>,
    #[command(flatten)]
    pub place: PluginPlace,
    /// Write `NAME.cwasm` into this directory, for use beside the program.
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    #[command(flatten)]
    pub code_cache: CodeCacheArgs,
}

/// `orka-step plugin bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// A bundled name, the path of a `.wasm` file, or what is fetched: `https://…#sha256:…`, `oci://…@sha256:…`. A guard
    /// may have its configuration behind `=`, as for `--guard`.
    #[arg(value_name = "REF", default_value = "build")]
    pub plugin: String,
    #[command(flatten)]
    pub place: PluginPlace,
    /// How often each step is measured; compiling a tenth as often.
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub repetitions: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `orka-step plugin new`.
#[cfg(feature = "authoring")]
#[derive(Args, Clone, Debug)]
pub struct PluginNewArgs {
    /// The name: lower-case letters, digits and `-`.
    pub name: String,

    /// The language.
    #[arg(long, value_name = "LANGUAGE", required_unless_present = "guard")]
    pub lang: Option<LanguageName>,

    /// A guard, which is asked about what a plugin wants; in Rust.
    #[arg(long)]
    pub guard: bool,

    /// Where the project goes; a directory of its name, if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A language that plugins are written in.
#[cfg(feature = "authoring")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LanguageName {
    /// Small, fast, and tested in the same language.
    Rust,
    /// On QuickJS; 2 MB.
    Typescript,
    /// With CPython inside; 19 MB.
    Python,
}

/// `orka-step plugin build`.
#[cfg(feature = "authoring")]
#[derive(Args, Clone, Debug)]
pub struct PluginBuildArgs {
    /// The project; this directory, if not given.
    #[arg(value_name = "DIR")]
    pub project: Option<PathBuf>,

    /// Where the component goes; `dist/<name>.wasm` in the project, if not given.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `orka-step plugin push`.
#[cfg(all(feature = "authoring", feature = "registry"))]
#[derive(Args, Clone, Debug)]
pub struct PluginPushArgs {
    /// The component, as `plugin build` makes it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where it goes: `oci://registry/repository`, with `:tag` if it is to have one.
    #[arg(value_name = "oci://REGISTRY/REPOSITORY[:TAG]")]
    pub to: String,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `orka-step plugin pull`.
#[cfg(all(feature = "authoring", feature = "registry"))]
#[derive(Args, Clone, Debug)]
pub struct PluginPullArgs {
    /// What is fetched: `oci://…@sha256:…` or `https://…#sha256:…`.
    #[arg(value_name = "REF")]
    pub plugin: String,

    /// Where it goes.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `orka-step plugin test`.
#[cfg(feature = "authoring")]
#[derive(Args, Clone, Debug)]
pub struct PluginTestArgs {
    /// Scenario files, directories of them, or the directory of a project, whose scenarios are in `scenarios/` and whose
    /// plugin in `dist/`. Without any, the project in this directory.
    #[arg(value_name = "PATH")]
    pub scenarios: Vec<PathBuf>,

    /// The plugin: a bundled name or the path of a `.wasm` file. Without it, that of the project: of a directory that is
    /// named, of this directory, or of the one that a scenario lies in.
    #[arg(long, value_name = "REF")]
    pub plugin: Option<String>,

    #[command(flatten)]
    pub place: PluginPlace,

    #[command(flatten)]
    pub code_cache: CodeCacheArgs,

    /// Play only scenarios whose names contain this.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Play each scenario again for every host call it makes: with the call refused, with its answer lost, with a trap
    /// after it, and with a SIGTERM at it. Nothing may be left and no secret shown.
    #[arg(long)]
    pub sweep: bool,

    /// Play a session that `orka-step run --record` wrote; may be repeated. Calls are matched by what they ask for; one that
    /// was not recorded, or recorded and not made, fails the test.
    #[arg(long = "replay", value_name = "FILE")]
    pub replays: Vec<PathBuf>,

    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Play again whenever the plugin or a scenario file changes.
    #[arg(long)]
    pub watch: bool,

    /// Only list the scenarios.
    #[arg(long)]
    pub list: bool,
}
