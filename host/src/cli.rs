//! What the person typed: spelling only. What it means is decided in [`crate::config`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

use crate::failure::Failure;
use crate::plugin::remote::Fetched;
use crate::task_file::TaskInput;

mod platform;
mod plugin;
mod registry;

pub use platform::{CheckArgs, GrantArgs, InspectArgs, SchemaName, TaskArgs};
pub use plugin::{BenchArgs, CodeCacheArgs, CompileArgs, PluginArgs, PluginCommand, PluginPlace};
#[cfg(feature = "authoring")]
pub use plugin::{LanguageName, PluginBuildArgs, PluginNewArgs, PluginTestArgs};
#[cfg(all(feature = "authoring", feature = "registry"))]
pub use plugin::{PluginPullArgs, PluginPushArgs};
pub use registry::RegistryArgs;

mod help;

use help::{AFTER_HELP, DOCTOR_HELP, REAP_HELP, TASK_HELP};

/// Builds on macOS VMs of a MacStadium Orka cluster, as a Tekton step.
///
/// A sandboxed Wasm plugin holds the build policy; this program owns the Orka API, SSH, the workspace, secrets and
/// clean-up. Whatever happens, every VM that a run made is deleted.
#[derive(Debug, Parser)]
#[command(name = "orka-step", version, about, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What this process was started with. Ends it where that is wrong, or asks for help.
    #[must_use]
    pub fn of_process() -> Self {
        let matches = Self::command().get_matches();
        let cli = Self::from_arg_matches(&matches).and_then(|mut cli| {
            match (&mut cli.command, matches.subcommand()) {
                (Command::Reap(args), Some((_, matches))) => args.prefer_what_was_typed(matches)?,
                (Command::Run(args) | Command::Task(args), Some((_, matches))) => {
                    args.refuse_empty_rules(matches)?;
                }
                (Command::Doctor(args), Some((_, matches))) => {
                    args.run.refuse_empty_rules(matches)?;
                }
                _ => {}
            }
            Ok(cli)
        });
        cli.unwrap_or_else(|error| error.exit())
    }
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Show more: once for debug messages, twice for every request.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a plugin: the main job.
    Run(Box<RunArgs>),
    /// Run a plugin with what a Tekton Task was given, out of one file: what the Tasks of this program do.
    ///
    /// FILE is the `script` of a step whose interpreter is this program. It holds parameters, settings and the build
    /// script in sections, since Kubernetes alters `$$` and `$(NAME)` in arguments and in the environment, and nothing in
    /// such a file. Flags and variables are those of `run`.
    #[command(after_help = TASK_HELP, mut_arg("script", |file| file.value_name("FILE").required(true)
        .help("The file, as Tekton wrote it").long_help(None)))]
    Task(Box<RunArgs>),
    /// Find out whether a run would start, and what to mend if not.
    ///
    /// Takes the command line of `run`: replace the word `run` by `doctor`. Goes through everything a run needs: the
    /// endpoint, the credentials and what they may do, the image, room for the VM, the SSH credentials, the
    /// directories, the plugin with its parameters and grants. A check that fails does not keep the others from being
    /// made. Nothing is deployed and no VM config is made; on Orka 2 it signs in and out again.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(Box<DoctorArgs>),
    /// Delete VMs and VM configs that provably belong to finished runs.
    ///
    /// The second net, for runs that were killed without time to clean up. Needs the Orka credentials alone: no
    /// workspace, no results, no SSH. May run twice at once, and beside builds.
    #[command(after_help = REAP_HELP)]
    Reap(Box<ReapArgs>),
    /// Look into plugins, compile and measure them.
    Plugin(PluginArgs),
    /// Say what will differ for Pipelines and runs that use the older Orka Tasks.
    ///
    /// Reads Pipelines, PipelineRuns and TaskRuns from YAML files, and changes and asks nothing. Exit code: 0 if nothing
    /// has to be changed, 1 if something has to, 211 if a file cannot be read, whatever is found in the others: the last line
    /// and `change` of the JSON count what has to be changed.
    Migrate(MigrateArgs),
    /// Write the narrowest grants file that allows what a run did.
    #[command(after_help = platform::GRANT_HELP)]
    Grant(GrantArgs),
    /// Print the JSON Schema of a file.
    #[command(arg_required_else_help = true)]
    Schema {
        /// Which file.
        name: SchemaName,
    },
    /// List the sandbox's limits: name, default, highest value, what each bounds.
    Limits,
    /// Run the whole job against a simulated cluster in this process.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
}

impl Command {
    /// The plugins that the command names, and where it looks for them; none for those that run one as a step.
    pub fn named(&mut self) -> Option<(&mut PluginPlace, Vec<String>)> {
        match self {
            Self::Plugin(args) => args.command.named(),
            #[cfg(feature = "demo")]
            Self::Demo(args) => Some((&mut args.place, vec![args.plugin.clone()])),
            _ => None,
        }
    }
}

/// `--timeout` where nothing is given: under the hour that Tekton gives a TaskRun.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(55 * 60);

/// `orka-step run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The build script as a file, so that this program can be a `#!` interpreter. The first line is dropped when it
    /// names `orka-step` as the interpreter.
    #[arg(value_name = "SCRIPT")]
    pub script: Option<PathBuf>,

    /// The plugin: a bundled name, the path of a `.wasm` file, or what is fetched before anything is deployed, always by
    /// digest: `https://…/plugin.wasm#sha256:…` or `oci://registry/repository@sha256:…`.
    #[arg(
        long,
        env = "ORKA_PLUGIN",
        hide_env_values = true,
        value_name = "REF",
        default_value = "build",
        help_heading = "Plugin"
    )]
    pub plugin: String,

    /// A directory with plugins to find by name, before those that came with this program.
    #[arg(
        long,
        env = "ORKA_PLUGIN_DIR",
        hide_env_values = true,
        value_name = "DIR",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub plugin_dir: Option<PathBuf>,

    /// A parameter of the plugin; may be repeated. Also from `ORKA_PARAM_<NAME>`, in upper case with `-` as `_`.
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = name_and_value, help_heading = "Plugin")]
    pub params: Vec<(String, String)>,

    /// What the plugin may do, in TOML or YAML; of a directory, the file `grants.toml` or `grants.yaml`. Plugins that came
    /// with this program have a stock grant; others have nothing without this file.
    #[arg(
        long,
        env = "ORKA_GRANTS",
        hide_env_values = true,
        value_name = "FILE",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub grants: Option<PathBuf>,

    /// A guard: a component that allows, changes or denies what the plugin wants, asked before the grants are looked at.
    /// May be repeated, or several with commas; asked in order. REF is the name of one that came with this program or the path of
    /// a `.wasm` file, then `@sha256:DIGEST` to pin it and `=FILE` for its configuration, if wanted.
    #[arg(
        long = "guard",
        env = "ORKA_GUARD",
        hide_env_values = true,
        value_name = "REF",
        value_delimiter = ',',
        help_heading = "Plugin"
    )]
    pub guards: Vec<String>,

    /// A directory of guards, asked before those of `--guard`. Its file `guards` has one REF a line, as above; names and
    /// paths in it are those of the directory.
    #[arg(
        long = "guards",
        env = "ORKA_GUARDS",
        hide_env_values = true,
        value_name = "DIR",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub guard_list: Option<PathBuf>,

    /// What a guard that traps, breaks a limit or answers wrongly stands for.
    #[arg(
        long,
        env = "ORKA_GUARD_FAILURE",
        hide_env_values = true,
        value_name = "WHAT",
        default_value = "deny",
        help_heading = "Plugin"
    )]
    pub guard_failure: crate::guard::OnFailure,

    /// A directory of secrets, one file each, that granted plugins can use but never read.
    #[arg(
        long,
        env = "ORKA_SECRETS",
        hide_env_values = true,
        value_name = "DIR",
        value_parser = path_or_nothing(),
        help_heading = "Plugin"
    )]
    pub secrets: Option<PathBuf>,

    /// A limit of the sandbox; may be repeated, or several with commas. `orka-step limits` lists them.
    #[arg(long = "limit", env = "ORKA_LIMITS", hide_env_values = true, value_delimiter = ',', value_name = "NAME=VALUE", value_parser = name_and_value, help_heading = "Plugin")]
    pub limits: Vec<(String, String)>,

    /// What the file of `orka-step task` holds besides flags.
    #[arg(skip)]
    pub task: Option<TaskInput>,

    /// The plugin, or why there is none, if it had to be fetched.
    #[arg(skip)]
    pub fetched: Option<Result<Fetched, Failure>>,

    #[command(flatten)]
    pub registry: RegistryArgs,

    #[command(flatten)]
    pub code_cache: CodeCacheArgs,

    #[command(flatten)]
    pub orka: OrkaArgs,

    #[command(flatten)]
    pub ssh: SshArgs,

    /// The directory that is copied into the VM and back.
    #[arg(
        long,
        env = "ORKA_WORKSPACE",
        hide_env_values = true,
        value_name = "DIR",
        value_parser = path_or_nothing(),
        help_heading = "Files"
    )]
    pub workspace: Option<PathBuf>,

    /// Where Tekton results are written; `/tekton/results` where that exists. The path of the result `outcome` in it does
    /// as well.
    #[arg(
        long,
        env = "ORKA_RESULTS",
        hide_env_values = true,
        value_name = "DIR",
        value_parser = path_or_nothing(),
        help_heading = "Files"
    )]
    pub results: Option<PathBuf>,

    /// Write what happened as JSON, with a page for people beside it (`.html`).
    #[arg(
        long,
        env = "ORKA_REPORT",
        hide_env_values = true,
        value_name = "FILE",
        value_parser = path_or_nothing(),
        help_heading = "Files"
    )]
    pub report: Option<PathBuf>,

    /// Record what the plugin asks for and gets, secrets left out, as YAML: for reading, and for `plugin test --replay`.
    #[arg(
        long,
        env = "ORKA_RECORD",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Files"
    )]
    pub record: Option<PathBuf>,

    /// The run's own deadline, such as `50m`. Keep it below the TaskRun's timeout: at its end VMs are deleted in order.
    #[arg(long, env = "ORKA_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "55m", value_parser = duration, help_heading = "Run")]
    pub timeout: Duration,

    /// UID of the pipeline run or task run, for names; random where absent.
    #[arg(
        long,
        env = "ORKA_RUN_UID",
        hide_env_values = true,
        value_name = "UID",
        help_heading = "Run"
    )]
    pub run_uid: Option<String>,

    /// UID of the TaskRun, so that a pod that is tried again finds what the one before left; stands in for `--run-uid`.
    #[arg(
        long,
        env = "ORKA_TASK_UID",
        hide_env_values = true,
        value_name = "UID",
        help_heading = "Run"
    )]
    pub task_uid: Option<String>,

    /// UID of the pod, for names; random where absent.
    #[arg(
        long,
        env = "ORKA_POD_UID",
        hide_env_values = true,
        value_name = "UID",
        help_heading = "Run"
    )]
    pub pod_uid: Option<String>,

    /// The environment is that of the StepAction: parameters that the plugin does not have are left out, and a value in which
    /// Kubernetes may have replaced `$$` or `$(NAME)` is refused. The script is that of `ORKA_STEP_ACTION_SCRIPT`, unless it is
    /// empty.
    #[arg(long, help_heading = "Run")]
    pub step_action: bool,

    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub older_hand_over: HandOverArgs,

    /// What names of VMs and VM configs begin with.
    #[arg(long, env = "ORKA_VM_PREFIX", hide_env_values = true, value_name = "PREFIX", default_value = crate::identity::DEFAULT_PREFIX, help_heading = "Run")]
    pub vm_prefix: String,
}

impl ReapArgs {
    /// Runs that are named and pods that live exclude each other. A variable, which may have been set for other commands,
    /// gives way to the flag.
    fn prefer_what_was_typed(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let is_typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        // A Task's parameter can be empty, but not absent, and so can a variable that is made of one.
        let names_hash = is_typed("run_hashes");
        if !is_typed("runs") && (names_hash || self.live_pods.is_some()) {
            self.runs.retain(|run| !run.trim().is_empty());
        }
        if !is_typed("live_pods") && (names_hash || !self.runs.is_empty()) {
            self.live_pods.take_if(|list| list.trim().is_empty());
        }
        if names_hash && !is_typed("runs") && !self.runs.is_empty() {
            self.runs.clear();
            self.passed_over.push("ORKA_RUN_UID");
        }
        let names_run = names_hash || !self.runs.is_empty();
        if !names_run || self.live_pods.is_none() {
            return Ok(());
        }
        let is_run_typed = names_hash || is_typed("runs");
        self.passed_over.push(match (is_run_typed, is_typed("live_pods")) {
            (true, false) => {
                self.live_pods = None;
                "ORKA_LIVE_PODS"
            }
            (false, true) => {
                self.runs.clear();
                "ORKA_RUN_UID"
            }
            _ => {
                return Err(reap_command().error(
                    ErrorKind::ArgumentConflict,
                    "`--run` (`ORKA_RUN_UID`) or `--run-hash` and `--live-pods` (`ORKA_LIVE_PODS`) are both given; give one of them",
                ));
            }
        });
        Ok(())
    }
}

/// `orka-step reap`, as its own help shows it.
fn reap_command() -> clap::Command {
    let mut all = Cli::command();
    all.build();
    all.find_subcommand("reap").cloned().unwrap_or(all)
}

impl RunArgs {
    /// Refuses what holds a run to rules and was typed as nothing: a shell's variable that is not set would lift them without
    /// a word. In the environment nothing stands for "not given".
    fn refuse_empty_rules(&self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let is_typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let is_empty =
            |path: &Option<PathBuf>| path.as_ref().is_some_and(|it| it.as_os_str().is_empty());
        let no_guard = self.guards.iter().any(|guard| guard.trim().is_empty());
        let found = [
            ("grants", "--grants", is_empty(&self.grants)),
            ("guard_list", "--guards", is_empty(&self.guard_list)),
            ("guards", "--guard", no_guard),
        ];
        match found.into_iter().find(|(name, _, is_empty)| *is_empty && is_typed(name)) {
            Some((_, flag, _)) => Err(Cli::command().error(
                ErrorKind::ValueValidation,
                format!("`{flag}` is empty: a variable in it may not be set; to run without, leave `{flag}` out"),
            )),
            None => Ok(()),
        }
    }

    /// The same without paths and texts that are empty: a Task's parameter can be empty, but not absent.
    #[must_use]
    pub fn without_empty(mut self) -> Self {
        for path in [
            &mut self.plugin_dir,
            &mut self.grants,
            &mut self.guard_list,
            &mut self.secrets,
            &mut self.workspace,
            &mut self.results,
            &mut self.report,
        ] {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        self.guards.retain(|guard| !guard.trim().is_empty());
        self.orka.orka_api.take_if(|url| url.is_empty());
        self
    }
}

/// How to reach and use the cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Orka")]
pub struct OrkaArgs {
    /// The cluster's endpoint, such as `http://10.221.188.20` or `https://company.orka.app`.
    #[arg(long, env = "ORKA_API", hide_env_values = true, value_name = "URL")]
    pub orka_api: Option<String>,

    /// Which of Orka's APIs the endpoint speaks.
    #[arg(
        long,
        env = "ORKA_VERSION",
        hide_env_values = true,
        value_name = "VERSION",
        default_value = "auto"
    )]
    pub orka_version: OrkaVersion,

    /// The Orka namespace (3.x).
    #[arg(
        long,
        env = "ORKA_NAMESPACE",
        hide_env_values = true,
        value_name = "NS",
        default_value = "orka-default"
    )]
    pub orka_namespace: String,

    /// A directory with the files `email`, `password` and `licenseKey` (2.x), or `token` (3.x); may be repeated, or several
    /// with commas, and the first that holds any of them is used. Instead: `ORKA_EMAIL`, `ORKA_PASSWORD`,
    /// `ORKA_LICENSE_KEY`, `ORKA_TOKEN`; files win.
    #[arg(
        long,
        env = "ORKA_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR",
        value_delimiter = ','
    )]
    pub orka_credentials: Vec<PathBuf>,

    /// A PEM file of certificate authorities to trust beside the system's.
    #[arg(long, env = "ORKA_CA", hide_env_values = true, value_name = "FILE")]
    pub orka_ca: Option<PathBuf>,

    /// Where a node is reached from here, as PRIVATE=PUBLIC; may be repeated, or several with commas. For clusters whose
    /// nodes report addresses of a network of their own.
    #[arg(
        long = "orka-node-address",
        env = "ORKA_NODE_ADDRESSES", hide_env_values = true,
        value_name = "PRIVATE=PUBLIC",
        value_delimiter = ',',
        value_parser = name_and_value
    )]
    pub node_addresses: Vec<(String, String)>,

    /// What the cluster calls VM metadata in deploy requests (3.x): both spellings are in use.
    #[arg(
        long,
        env = "ORKA_METADATA_MEMBER", hide_env_values = true,
        value_name = "NAME",
        default_value = "customMetadata",
        value_parser = ["customMetadata", "customVMMetadata"]
    )]
    pub orka_metadata_member: String,

    /// How long one deploy request may take. The first deployment of an image on a node takes minutes.
    #[arg(long, env = "ORKA_DEPLOY_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub deploy_timeout: Duration,
}

/// How to log into VMs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "SSH")]
pub struct SshArgs {
    /// A directory with the files `username` and `password`, or a private key (`ssh-privatekey`, `id_ed25519`,
    /// `id_ecdsa` or `id_rsa`), and optionally `passphrase`, a certificate (`<key>-cert.pub`) and `known_hosts`. Instead: `SSH_USERNAME`, `SSH_PASSWORD`;
    /// files win.
    #[arg(
        long,
        env = "ORKA_SSH_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub ssh_credentials: Option<PathBuf>,

    /// Whether the file `password` holds a private key. One that looks like a private key is taken for one in any case.
    #[arg(
        long,
        env = "ORKA_SSH_KEY",
        hide_env_values = true,
        value_name = "true|false",
        default_value = "false",
        action = clap::ArgAction::Set
    )]
    pub ssh_key: bool,

    /// Which host keys VMs may show; may be repeated, or several with commas. `SHA256:…` pins a key, `first-use` trusts
    /// what a VM shows first (where `known_hosts` does not name it), `accept-any` checks nothing. Without it `known_hosts`
    /// decides where there is one, else `first-use`.
    #[arg(
        long = "ssh-host-key",
        env = "ORKA_SSH_HOST_KEY",
        hide_env_values = true,
        value_name = "KEY",
        value_delimiter = ','
    )]
    pub ssh_host_keys: Vec<String>,

    /// After how long a dead link is noticed.
    #[arg(long, env = "ORKA_SSH_KEEPALIVE", hide_env_values = true, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub ssh_keepalive: Duration,

    /// A host to go through to the VMs.
    #[arg(
        long,
        env = "ORKA_SSH_JUMP",
        hide_env_values = true,
        value_name = "[USER@]HOST[:PORT]",
        requires = "ssh_jump_credentials"
    )]
    pub ssh_jump: Option<String>,

    /// A directory for the jump host, with the same files as `--ssh-credentials`.
    #[arg(
        long,
        env = "ORKA_SSH_JUMP_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub ssh_jump_credentials: Option<PathBuf>,

    /// How long a deployed VM may take until it accepts the login.
    #[arg(long, env = "ORKA_SSH_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub ssh_timeout: Duration,
}

/// Which API an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrkaVersion {
    /// Ask the endpoint.
    Auto,
    /// Orka 1.x and 2.x.
    #[value(name = "2")]
    V2,
    /// Orka 3.x.
    #[value(name = "3")]
    V3,
}

/// By what Tasks of one run find what they share.
#[cfg(feature = "kubernetes")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HandOverBy {
    /// The run's UID alone.
    #[default]
    Run,
    /// That, and for steps of others a Secret and a ConfigMap.
    Kubernetes,
}

/// The hand-over of the older Tasks.
#[cfg(feature = "kubernetes")]
#[derive(Args, Clone, Debug, Default)]
pub struct HandOverArgs {
    /// By what steps that are not ours learn the token and the VM config: `run` writes nothing into the namespace; with
    /// `kubernetes`, `init` keeps both in a Secret and a ConfigMap, and `teardown` deletes them. The pod's service account
    /// needs a Role for it.
    #[arg(
        long,
        env = "ORKA_HAND_OVER",
        hide_env_values = true,
        value_enum,
        value_name = "HOW",
        default_value = "run",
        help_heading = "Hand-over"
    )]
    pub hand_over: HandOverBy,

    /// The Secret for the token.
    #[arg(
        long,
        env = "ORKA_TOKEN_SECRET",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "orka-token",
        help_heading = "Hand-over"
    )]
    pub token_secret: String,

    /// Its key.
    #[arg(
        long,
        env = "ORKA_TOKEN_SECRET_KEY",
        hide_env_values = true,
        value_name = "KEY",
        default_value = "token",
        help_heading = "Hand-over"
    )]
    pub token_secret_key: String,

    /// The ConfigMap for the VM config's name.
    #[arg(
        long,
        env = "ORKA_VM_NAME_CONFIG",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "orka-vm-name",
        help_heading = "Hand-over"
    )]
    pub vm_name_config: String,

    /// Its key.
    #[arg(
        long,
        env = "ORKA_VM_NAME_CONFIG_KEY",
        hide_env_values = true,
        value_name = "KEY",
        default_value = "vm-name",
        help_heading = "Hand-over"
    )]
    pub vm_name_config_key: String,

    /// Name of the PipelineRun, which then owns both: Kubernetes deletes them with it.
    #[arg(
        long,
        env = "ORKA_RUN_NAME",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Hand-over"
    )]
    pub run_name: Option<String>,

    /// The Kubernetes API; in a pod, that of its cluster.
    #[arg(
        long,
        env = "ORKA_KUBERNETES_API",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Hand-over"
    )]
    pub kubernetes_api: Option<String>,

    /// A directory with the files `token`, `ca.crt` and `namespace`; in a pod, where its service account is mounted.
    #[arg(
        long,
        env = "ORKA_KUBERNETES_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Hand-over"
    )]
    pub kubernetes_credentials: Option<PathBuf>,
}

/// `orka-step migrate`.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// Files with one or more documents, as they are applied.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `orka-step doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub run: RunArgs,

    /// The image to look for, instead of the plugin's parameter `base-image`.
    #[arg(long, value_name = "NAME", help_heading = "Doctor")]
    pub image: Option<String>,

    /// The CPU cores to find room for, instead of the plugin's parameter `cpu-count`; 3 where neither is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Doctor")]
    pub cpu_count: Option<u32>,

    /// How long to wait for the cluster's lists of images and nodes. Over 10 s for nodes on a large cluster.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Doctor")]
    pub list_timeout: Duration,

    /// Print JSON.
    #[arg(long, help_heading = "Doctor")]
    pub json: bool,
}

/// `orka-step reap`.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("finished").required(true).multiple(true).args(["runs", "run_hashes", "live_pods"]))]
pub struct ReapArgs {
    /// Delete everything of this run, whose `--run-uid` it was; may be repeated, or several with commas. The run must be
    /// over: nothing else is asked.
    #[arg(
        long = "run",
        env = "ORKA_RUN_UID",
        hide_env_values = true,
        value_name = "UID",
        value_delimiter = ',',
        help_heading = "Which runs are over"
    )]
    pub runs: Vec<String>,

    /// Delete everything of the run with this hash, as `--run` does by the UID: the first of the two hashes in its VMs'
    /// names. For a run that was told no UID, which says its hash at its start; may be repeated, or several with commas.
    #[arg(
        long = "run-hash",
        value_name = "HASH",
        value_delimiter = ',',
        help_heading = "Which runs are over"
    )]
    pub run_hashes: Vec<String>,

    /// Delete what has no live pod: `kubernetes` to ask the API, else a file, or `-` for standard input, with the output
    /// of `kubectl get pods --all-namespaces -o json`, or one pod a line: its namespace and its UID. PipelineRuns and
    /// TaskRuns in the JSON count as alive until they have ended.
    #[arg(
        long,
        env = "ORKA_LIVE_PODS",
        hide_env_values = true,
        value_name = "LIST",
        help_heading = "Which runs are over"
    )]
    pub live_pods: Option<String>,

    /// The variables that are not looked at, since a flag was typed that means something else.
    #[arg(skip)]
    pub passed_over: Vec<&'static str>,

    /// With `--live-pods` and `--vm-prefix`: builds with this prefix run in this namespace and in no other; may be repeated, or
    /// several with commas. Kubernetes is asked for these alone, and a list may be of these alone, where it must otherwise show
    /// that it is of all namespaces. What runs in one that is not named looks dead.
    #[arg(
        long = "pod-namespace",
        env = "ORKA_POD_NAMESPACES",
        hide_env_values = true,
        value_name = "NS",
        value_delimiter = ',',
        help_heading = "Which runs are over"
    )]
    pub pod_namespaces: Vec<String>,

    /// With `--live-pods`: leave what is younger, and what belongs to a run whose last pod ended less than this ago.
    #[arg(long, env = "ORKA_REAP_GRACE", hide_env_values = true, value_name = "DURATION", default_value = "30m", value_parser = any_duration, help_heading = "Which runs are over")]
    pub grace: Duration,

    /// With `--live-pods`: believe a list that tells of no pod at all, or of none in a namespace that was named. Without
    /// this it is taken for a mistake.
    #[arg(long, help_heading = "Which runs are over")]
    pub allow_no_pods: bool,

    /// What names of VMs and VM configs begin with, as it was given to `run`. With `--pod-namespace` it has to be given, and be
    /// another: a prefix that builds of other namespaces have as well costs them their VMs.
    #[arg(long, env = "ORKA_VM_PREFIX", hide_env_values = true, value_name = "PREFIX", default_value = crate::identity::DEFAULT_PREFIX, help_heading = "Which runs are over")]
    pub vm_prefix: String,

    /// A file to remember first sights in, for things whose age Orka does not tell: they go by the time since then.
    /// Without it they are left alone.
    #[arg(
        long,
        env = "ORKA_REAP_STATE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Which runs are over"
    )]
    pub state: Option<PathBuf>,

    /// With `--live-pods kubernetes`: ask for PipelineRuns and TaskRuns as well, and leave what belongs to one that has
    /// not ended. For pipelines that hand a VM on and have no pod for longer than the grace.
    #[cfg(feature = "kubernetes")]
    #[arg(long, help_heading = "Kubernetes")]
    pub tekton_runs: bool,

    /// The Kubernetes API; in a pod, that of its cluster.
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "URL", help_heading = "Kubernetes")]
    pub kubernetes_api: Option<String>,

    /// A directory with the files `token` and `ca.crt`; in a pod, where its service account is mounted.
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "DIR", help_heading = "Kubernetes")]
    pub kubernetes_credentials: Option<PathBuf>,

    /// A workspace whose ledgers say what is kept on purpose, and until when; may be repeated, or several with commas.
    /// On Orka 2 nothing else tells.
    #[arg(
        long = "ledger",
        env = "ORKA_LEDGERS",
        hide_env_values = true,
        value_name = "DIR",
        value_delimiter = ',',
        help_heading = "Which runs are over"
    )]
    pub ledgers: Vec<PathBuf>,

    /// With `--run`: delete also what is kept on purpose and has not expired.
    #[arg(long, help_heading = "Which runs are over")]
    pub include_kept: bool,

    #[command(flatten)]
    pub orka: OrkaArgs,

    /// Delete nothing; tell what would be deleted, what not, and why.
    #[arg(short = 'n', long, help_heading = "Reaping")]
    pub dry_run: bool,

    /// No wait goes beyond this; what is not deleted by then is named.
    #[arg(long, env = "ORKA_REAP_TIMEOUT", hide_env_values = true, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = "Reaping")]
    pub timeout: Duration,

    /// With `--run`: how long to look for VMs that Orka was still deploying when their step was killed.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = any_duration, help_heading = "Reaping")]
    pub linger: Duration,

    /// How many names are worked on at the same time.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Reaping")]
    pub parallel: u8,

    /// Print JSON.
    #[arg(long, help_heading = "Reaping")]
    pub json: bool,
}

/// `orka-step demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The plugin to run instead of `build`; it is granted all that it asks for.
    #[arg(long, value_name = "REF", default_value = "build")]
    pub plugin: String,

    #[command(flatten)]
    pub place: PluginPlace,

    /// A parameter of the plugin; may be repeated.
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub params: Vec<(String, String)>,

    /// A directory of secrets, one file each; the plugin is granted all of them.
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,

    #[command(flatten)]
    pub code_cache: CodeCacheArgs,

    /// Use this directory as the workspace instead of a sample project in a temporary one.
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,

    /// How long the simulated VM takes to boot.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub boot_delay: Duration,
}

/// A path; an empty one stands for none, see [`RunArgs::without_empty`].
fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than zero".to_owned()),
        Ok(duration) if duration > crate::state::TIMEOUT_MAX => {
            Err("must be shorter than 30 days".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a duration such as `90s`, `10m` or `1h 30m`".to_owned()),
    }
}

fn any_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Ok(duration),
        _ => self::duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_follow_the_script_as_under_a_shebang() {
        let cli = Cli::try_parse_from([
            "orka-step",
            "run",
            "/tekton/scripts/script-0",
            "-p",
            "a=b=c",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not `run`")
        };
        assert_eq!(
            run.script.as_deref(),
            Some(std::path::Path::new("/tekton/scripts/script-0"))
        );
        assert_eq!(run.params, [("a".to_owned(), "b=c".to_owned())]);
    }
}
