//! What the run will do: flags over environment over files over defaults, resolved once and read-only after.
//!
//! The one reader of the environment and of credential files. Every problem found is reported together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use orka_client::{
    ClientConfig, Credentials, Endpoint, MetadataMember, TokenSource, VersionChoice,
};
use plugin_manifest::{Capability, STEP_ACTION_PARAMETERS, STEP_ACTION_SCRIPT, environment_name};
use secrecy::{ExposeSecret as _, SecretString};

use crate::aot::CodeCache;
use crate::cli::{CodeCacheArgs, OrkaArgs, OrkaVersion, RunArgs};
use crate::failure::Failure;
use crate::grants::GrantsFile;
use crate::guard::{GuardSource, OnFailure};
#[cfg(feature = "kubernetes")]
use crate::hand_over::HandOver;
use crate::identity::Identity;
use crate::ledger::BlackBox;
use crate::limits::Limits;
use crate::mask::Masker;
use crate::plugin::{Plugin, PluginRef};

#[cfg(feature = "registry")]
mod registry;
mod ssh;

#[cfg(feature = "registry")]
pub(crate) use registry::{Login, RegistryLogins};
pub use ssh::SshConfig;

/// Where Tekton keeps results.
const TEKTON_RESULTS: &str = "/tekton/results";

/// What the environment variables of plugin parameters begin with.
const PARAM_PREFIX: &str = "ORKA_PARAM_";

/// A secret mounted as a file is small; anything larger is a mistake.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;

/// A build script larger than this belongs into the workspace.
const SCRIPT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The environment, by name.
pub type Environment = BTreeMap<String, String>;

/// Reads this process's environment; values that are not UTF-8 are left out.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The directory that is copied into VMs and back.
#[derive(Debug)]
pub struct Workspace {
    /// All access goes through this.
    pub dir: Dir,
    /// For messages.
    pub path: PathBuf,
}

/// Everything a run needs to know.
#[derive(Debug)]
pub struct Config {
    /// Whether the cluster is a simulated one of this process, which ends with it.
    pub simulated: bool,
    /// Which plugin.
    pub plugin: PluginRef,
    /// Parameters from flags, by name.
    pub params: BTreeMap<String, String>,
    /// Parameters from the environment, by variable name.
    pub environment_params: BTreeMap<String, String>,
    /// Whether those are the StepAction's, some of which the plugin may not have.
    pub step_action: bool,
    /// Parameters of a Task, some of which the plugin may not have.
    pub offered_params: BTreeMap<String, String>,
    /// The script given as a file, without a first line that names this program.
    pub script: Option<Vec<u8>>,
    /// The operator's grants.
    pub grants: Option<GrantsFile>,
    /// The operator's cache of ahead-of-time code.
    pub plugin_cache: Option<CodeCache>,
    /// The operator's guards, in order.
    pub guards: Vec<GuardSource>,
    /// What a guard that fails stands for.
    pub guard_failure: OnFailure,
    /// The cluster.
    pub orka: ClientConfig,
    /// Logins into VMs.
    pub ssh: SshConfig,
    /// The workspace, if there is one.
    pub workspace: Option<Workspace>,
    /// Where results go, if anywhere.
    pub results: Option<PathBuf>,
    /// Where the report goes, if anywhere.
    pub report: Option<PathBuf>,
    /// Where the recorded session goes.
    pub record: Option<PathBuf>,
    /// Where a crash of this process does not lose what it owes.
    pub black_box: Option<Arc<BlackBox>>,
    /// The run's own deadline, from its start.
    pub timeout: Duration,
    /// Names.
    pub identity: Identity,
    /// Whose the run's VMs are, by names that are prefixed in metadata.
    pub owner: Vec<(String, String)>,
    /// The hand-over of the older Tasks, where it is asked for.
    #[cfg(feature = "kubernetes")]
    pub hand_over: Option<HandOver>,
    /// The sandbox's limits.
    pub limits: Limits,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretString>,
    /// Hides all of the above secrets.
    pub masker: Masker,
}

/// Collects problems, so that all of them are reported at once.
#[derive(Default)]
pub(crate) struct Problems(Vec<Failure>);

impl Problems {
    /// The problems taken so far.
    pub(crate) fn into_failures(self) -> Vec<Failure> {
        self.0
    }

    /// The value, or nothing and one problem more.
    pub(crate) fn take<T>(&mut self, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.0.push(failure)).ok()
    }
}

/// Whether a plugin asks for nothing that needs SSH. One that cannot be loaded may need anything.
fn needs_no_ssh(plugin: &PluginRef) -> bool {
    let uses_ssh = |capability: &Capability| {
        matches!(capability, Capability::SshExec | Capability::SshTransfer)
    };
    Plugin::load(plugin).is_ok_and(|plugin| {
        let manifest = &plugin.manifest;
        !manifest
            .capabilities
            .iter()
            .chain(&manifest.optional_capabilities)
            .any(uses_ssh)
    })
}

impl Config {
    /// The Orka namespace of the run, where it is certain before anything is sent that there is one.
    pub(crate) fn namespace_asked_for(&self) -> Option<&str> {
        let is_3 = match self.orka.version {
            VersionChoice::V3 => true,
            VersionChoice::V2 => false,
            VersionChoice::Auto => matches!(self.orka.credentials, Credentials::Token(_)),
        };
        is_3.then_some(self.orka.namespace.as_str())
    }

    /// What deleting needs and nothing else, for a run whose process crashed: what has gone away since, or takes its time, must
    /// not keep anything from being deleted.
    ///
    /// # Errors
    ///
    /// No cluster to delete from.
    pub fn for_clean_up(
        args: &RunArgs,
        environment: &Environment,
        masker: Masker,
    ) -> Result<Self, Vec<Failure>> {
        let mut problems = Problems::default();
        let orka = resolve_orka(&args.orka, environment, &masker, &mut problems);
        // Its hashes are those of the process that crashed.
        let identity = problems.take(Identity::new(&args.vm_prefix, None, None));
        let (Some(orka), Some(identity)) = (orka, identity) else {
            return Err(problems.0);
        };
        let written = |file: Result<Option<PathBuf>, Failure>| file.ok().flatten();
        Ok(Self {
            simulated: false,
            plugin: PluginRef::Bundled {
                name: "build".to_owned(),
                directory: None,
            },
            params: BTreeMap::new(),
            environment_params: BTreeMap::new(),
            step_action: false,
            offered_params: BTreeMap::new(),
            script: None,
            grants: None,
            plugin_cache: None,
            guards: Vec::new(),
            guard_failure: args.guard_failure,
            orka,
            ssh: SshConfig::without_login(args.ssh.ssh_timeout, args.ssh.ssh_keepalive),
            workspace: None,
            results: written(results_directory(args.results.as_deref())),
            report: written(file_to_write(args.report.as_deref(), "--report", "report")),
            record: None,
            black_box: None,
            timeout: args.timeout,
            identity: identity.in_task(given(&args.task_uid)),
            owner: owner(args),
            #[cfg(feature = "kubernetes")]
            hand_over: None,
            limits: Limits::default(),
            secrets: BTreeMap::new(),
            masker,
        })
    }

    /// Resolves the command line and the environment.
    ///
    /// # Errors
    ///
    /// Every problem found, at least one.
    pub fn resolve(
        args: &RunArgs,
        environment: &Environment,
        masker: Masker,
    ) -> Result<Self, Vec<Failure>> {
        let mut problems = Problems::default();
        let plugin = problems.take(match args.fetched.clone() {
            Some(fetched) => fetched.map(PluginRef::Fetched),
            None => PluginRef::parse(&args.plugin, args.plugin_dir.clone()),
        });
        let task = args.task.clone().unwrap_or_default();
        let script = match task.script {
            Some(script) => Some(Some(script)),
            None => problems.take(args.script.as_deref().map(read_script).transpose()),
        };
        let grants = problems.take(grants(args.grants.as_deref(), task.grants.as_deref()));
        let guards = guards(args, &mut problems);
        let plugin_cache = problems.take(code_cache(&args.code_cache, args.workspace.as_deref()));
        let orka = resolve_orka(&args.orka, environment, &masker, &mut problems);
        let ssh = match ssh::resolve(&args.ssh, environment, &masker) {
            // Told only where somebody would log in.
            Err(_)
                if args.ssh.ssh_credentials.is_none()
                    && plugin.as_ref().is_some_and(needs_no_ssh) =>
            {
                Some(SshConfig::without_login(
                    args.ssh.ssh_timeout,
                    args.ssh.ssh_keepalive,
                ))
            }
            ssh => problems.take(ssh),
        };
        let workspace = problems.take(args.workspace.as_deref().map(open_workspace).transpose());
        let results = problems.take(results_directory(args.results.as_deref()));
        let report = problems.take(file_to_write(args.report.as_deref(), "--report", "report"));
        let record = problems.take(file_to_write(args.record.as_deref(), "--record", "session"));
        let identity = problems.take(identity(args));
        let owner = owner(args);
        #[cfg(feature = "kubernetes")]
        let hand_over = identity.as_ref().and_then(|identity| {
            let uid = given(&args.run_uid);
            problems.take(HandOver::resolve(
                &args.older_hand_over,
                uid,
                identity,
                environment,
                &masker,
            ))
        });
        let limits = problems.take(Limits::default().with(&args.limits));
        let secrets = problems.take(
            args.secrets
                .as_deref()
                .map_or_else(|| Ok(BTreeMap::new()), read_secrets),
        );
        let params = problems.take(params(args.params.iter().chain(&task.params)));
        if args.step_action {
            problems.0.extend(altered(environment));
        }
        if let Some(secrets) = &secrets {
            secrets
                .values()
                .for_each(|secret| masker.add(secret.expose_secret()));
        }
        let (
            Some(plugin),
            Some(script),
            Some(grants),
            Some(guards),
            Some(plugin_cache),
            Some(orka),
            Some(ssh),
            Some(workspace),
            Some(results),
            Some(report),
            Some(record),
            Some(identity),
            Some(limits),
            Some(secrets),
            Some(params),
        ) = (
            plugin,
            script,
            grants,
            guards,
            plugin_cache,
            orka,
            ssh,
            workspace,
            results,
            report,
            record,
            identity,
            limits,
            secrets,
            params,
        )
        else {
            return Err(problems.0);
        };
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(Self {
            simulated: false,
            plugin,
            params,
            offered_params: task.offered,
            step_action: args.step_action,
            environment_params: environment_params(environment, args.step_action),
            script,
            grants,
            plugin_cache,
            guards,
            guard_failure: args.guard_failure,
            orka,
            ssh,
            workspace,
            results,
            report,
            record,
            black_box: None,
            timeout: args.timeout,
            identity,
            owner,
            #[cfg(feature = "kubernetes")]
            hand_over: hand_over.flatten(),
            limits,
            secrets,
            masker,
        })
    }
}

#[cfg(all(feature = "authoring", feature = "demo"))]
/// Cluster and guests alone, with nothing of a run around them.
///
/// # Errors
///
/// The first problem found.
pub(crate) fn backends(
    orka: &OrkaArgs,
    ssh: &crate::cli::SshArgs,
    environment: &Environment,
    masker: &Masker,
) -> Result<(ClientConfig, SshConfig), Failure> {
    let mut problems = Problems::default();
    let orka = resolve_orka(orka, environment, masker, &mut problems);
    let ssh = problems.take(ssh::resolve(ssh, environment, masker));
    match (orka, ssh) {
        (Some(orka), Some(ssh)) => Ok((orka, ssh)),
        _ => Err(problems.into_failures().remove(0)),
    }
}

/// The cache of ahead-of-time code; none unless both its flags are given.
pub(crate) fn code_cache(
    args: &CodeCacheArgs,
    workspace: Option<&Path>,
) -> Result<Option<CodeCache>, Failure> {
    match (&args.plugin_cache, &args.plugin_cache_key) {
        (None, None) => Ok(None),
        (Some(directory), Some(key)) => CodeCache::open(directory, key, workspace).map(Some),
        (Some(_), None) => Err(Failure::config("`--plugin-cache` is given without its key")
            .with_hint(
                "give `--plugin-cache-key FILE` as well: nothing else tells code of yours from anybody's",
            )),
        (None, Some(_)) => Err(Failure::config(
            "`--plugin-cache-key` is given without a cache",
        )
        .with_hint("give `--plugin-cache DIR` as well")),
    }
}

/// What was given, taking an empty text for nothing: a label that a pod does not have arrives so.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Who the run is.
///
/// # Errors
///
/// UIDs that are none, and a prefix that cannot begin a name.
pub(crate) fn identity(args: &RunArgs) -> Result<Identity, Failure> {
    uids_are_expanded(args)?;
    let run_uid = given(&args.run_uid).or_else(|| given(&args.task_uid));
    let identity = Identity::new(&args.vm_prefix, run_uid, given(&args.pod_uid))?;
    Ok(identity.in_task(given(&args.task_uid)))
}

/// Whether Tekton or the kubelet has put UIDs in their places: one that nobody has is the same for every run.
fn uids_are_expanded(args: &RunArgs) -> Result<(), Failure> {
    let uids = [
        ("--run-uid", &args.run_uid),
        ("--task-uid", &args.task_uid),
        ("--pod-uid", &args.pod_uid),
    ];
    for (flag, uid) in uids {
        if let Some(uid) = uid.as_deref().filter(|uid| uid.contains("$(")) {
            return Err(Failure::config(format!(
                "`{flag}` is `{uid}`, which nobody has replaced by a UID"
            ))
            .with_hint(
                "Tekton replaces `$(context.pipelineRun.uid)` in a Pipeline alone; a Task takes the pod's label \
                 `tekton.dev/pipelineRunUID` by the downward API",
            ));
        }
    }
    Ok(())
}

/// Parameters of the plugin by the environment.
fn environment_params(environment: &Environment, step_action: bool) -> BTreeMap<String, String> {
    let mut params: BTreeMap<String, String> = environment
        .iter()
        .filter(|(name, _)| name.starts_with(PARAM_PREFIX))
        // The StepAction gives every parameter it has, empty where nobody said anything.
        .filter(|(_, value)| !(step_action && value.is_empty()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let annotated = environment.get(STEP_ACTION_SCRIPT);
    if let Some(script) = annotated.filter(|it| step_action && !it.is_empty()) {
        params.insert(environment_name("script"), script.clone());
    }
    params
}

/// Parameters of a StepAction that Kubernetes may have altered on their way: it halves `$$` and replaces `$(NAME)`, and nobody can
/// tell afterwards what they were. The script comes by an annotation, which it leaves alone.
fn altered(environment: &Environment) -> Vec<Failure> {
    // What a ConfigMap sets besides comes as it is.
    STEP_ACTION_PARAMETERS
        .into_iter()
        .filter(|name| {
            let value = environment.get(&environment_name(name));
            value.is_some_and(|value| value.contains('$'))
        })
        .map(|name| {
            let mut failure = Failure::config(format!(
                "the StepAction's parameter `{name}` holds a `$`: Kubernetes may have replaced a `$$` or `$(NAME)` in it"
            ));
            failure.code = "params.altered".into();
            failure.with_hint(
                "put what needs a `$` into the script, as a file (`script-file`) or in the TaskRun's annotation \
                 `orka-step/script`, or use the Task `orka-full`",
            )
        })
        .collect()
}

/// Whose the run's VMs are, as they are told where the API carries such.
pub(crate) fn owner(args: &RunArgs) -> Vec<(String, String)> {
    let mut owner = vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    for (name, uid) in [
        ("run", &args.run_uid),
        ("task", &args.task_uid),
        ("pod", &args.pod_uid),
    ] {
        owner.extend(given(uid).map(|uid| (name.to_owned(), uid.to_owned())));
    }
    owner
}

/// The cluster and who calls it; none if there is a problem with either.
pub(crate) fn resolve_orka(
    args: &OrkaArgs,
    environment: &Environment,
    masker: &Masker,
    problems: &mut Problems,
) -> Option<ClientConfig> {
    let endpoint = problems.take(match &args.orka_api {
        None => Err(Failure::config("no Orka endpoint is given")
            .with_hint("set `--orka-api URL` or `ORKA_API`, such as `http://10.221.188.20`")),
        Some(text) => Endpoint::parse(text).map_err(|error| {
            Failure::config(format!("`--orka-api` is not an endpoint: {error}"))
                .with_hint("give it as `http://10.221.188.20` or `https://company.orka.app`")
        }),
    });
    let credentials = problems.take(orka_credentials(args, environment, masker));
    let (endpoint, credentials) = (endpoint?, credentials?);
    let mut config = ClientConfig::new(endpoint, credentials);
    config.version = match args.orka_version {
        OrkaVersion::Auto => VersionChoice::Auto,
        OrkaVersion::V2 => VersionChoice::V2,
        OrkaVersion::V3 => VersionChoice::V3,
    };
    config.namespace = args.orka_namespace.clone();
    config.ca_file = args.orka_ca.clone();
    config.timeouts.deploy = args.deploy_timeout;
    config.node_addresses = problems.take(node_addresses(&args.node_addresses))?;
    if args.orka_metadata_member == MetadataMember::CustomVmMetadata.as_str() {
        config.metadata_member = MetadataMember::CustomVmMetadata;
    }
    Some(config)
}

fn node_addresses(pairs: &[(String, String)]) -> Result<BTreeMap<IpAddr, String>, Failure> {
    let parse = |(private, public): &(String, String)| {
        match private.trim().parse() {
        Ok(private) if !public.trim().is_empty() => Ok((private, public.trim().to_owned())),
        _ => Err(Failure::config(format!(
            "`--orka-node-address {private}={public}` does not map an IP address"
        ))
        .with_hint("write it as `10.221.188.13=203.0.113.7`: the address Orka reports, then the one to connect to")),
    }
    };
    pairs.iter().map(parse).collect()
}

fn orka_credentials(
    args: &OrkaArgs,
    environment: &Environment,
    masker: &Masker,
) -> Result<Credentials, Failure> {
    let directory = credentials_directory(&args.orka_credentials)?;
    let find = |file: &str, variable: &str| -> Result<Option<SecretString>, Failure> {
        let from_file = directory
            .as_ref()
            .map(|directory| directory.read(file))
            .transpose()?
            .flatten();
        let secret = from_file.or_else(|| {
            environment
                .get(variable)
                .filter(|value| !value.is_empty())
                .map(|value| SecretString::from(value.clone()))
        });
        Ok(secret)
    };
    let email = find("email", "ORKA_EMAIL")?;
    let password = find("password", "ORKA_PASSWORD")?;
    let licence_key = find("licenseKey", "ORKA_LICENSE_KEY")?;
    let token = find("token", "ORKA_TOKEN")?;
    for secret in [&password, &licence_key, &token].into_iter().flatten() {
        masker.add(secret.expose_secret());
    }
    // A mounted token is read again when it is rotated; one from the environment cannot change.
    let token_source = token.map(|token| {
        match directory
            .as_ref()
            .map(|directory| directory.path.join("token"))
        {
            Some(file) if file.is_file() => TokenSource::File(file),
            _ => TokenSource::Static(token),
        }
    });
    let where_to_look = "put the files `email` and `password` (Orka 2.x) or `token` (Orka 3.x) into the directory given with \
                         `--orka-credentials`, or set `ORKA_EMAIL` and `ORKA_PASSWORD`, or `ORKA_TOKEN`";
    let incomplete = |message: &str| Err(Failure::config(message).with_hint(where_to_look));
    let email = email.map(|email| email.expose_secret().to_owned());
    match (email, password, token_source) {
        (Some(email), Some(password), Some(token)) => Ok(Credentials::Both {
            email,
            password,
            licence_key,
            token,
        }),
        (Some(email), Some(password), None) => Ok(Credentials::Login {
            email,
            password,
            licence_key,
        }),
        (_, _, Some(token)) => Ok(Credentials::Token(token)),
        (Some(_), None, None) => {
            incomplete("the Orka credentials have an e-mail address but no password")
        }
        (None, Some(_), None) => {
            incomplete("the Orka credentials have a password but no e-mail address")
        }
        (None, None, None) => incomplete("no Orka credentials are given"),
    }
}

/// The names of the files with Orka credentials.
const CREDENTIAL_FILES: [&str; 4] = ["email", "password", "licenseKey", "token"];

/// The first directory that holds any of the credentials, else the first.
fn credentials_directory(paths: &[PathBuf]) -> Result<Option<SecretDirectory>, Failure> {
    let mut first = None;
    for path in paths {
        let directory = SecretDirectory::open(path, "--orka-credentials")?;
        for file in CREDENTIAL_FILES {
            if directory.read(file)?.is_some() {
                return Ok(Some(directory));
            }
        }
        first.get_or_insert(directory);
    }
    Ok(first)
}

/// A directory of small files, as Kubernetes mounts a Secret.
struct SecretDirectory {
    path: PathBuf,
    flag: &'static str,
}

impl SecretDirectory {
    fn open(path: &Path, flag: &'static str) -> Result<Self, Failure> {
        match std::fs::read_dir(path) {
            Ok(_) => Ok(Self {
                path: path.to_owned(),
                flag,
            }),
            Err(error) => Err(Failure::config(format!(
                "cannot read the directory `{}` given with `{flag}`",
                path.display()
            ))
            .with_source(error)
            .with_hint("mount the Secret there, readable by the step's user")),
        }
    }

    /// The file's text without a final line break; none if there is no such file or it is empty.
    fn read(&self, name: &str) -> Result<Option<SecretString>, Failure> {
        let path = self.path.join(name);
        let trouble = |problem: String| {
            Failure::config(format!(
                "`{}` (from `{}`) {problem}",
                path.display(),
                self.flag
            ))
        };
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble("cannot be read".to_owned()).with_source(error)),
        };
        if metadata.is_dir() {
            return Err(trouble("is a directory".to_owned()));
        }
        if metadata.len() > SECRET_BYTES_MAX {
            return Err(trouble(format!("is larger than {SECRET_BYTES_MAX} bytes")));
        }
        let bytes = std::fs::read(&path).map_err(|error| {
            trouble("cannot be read".to_owned())
                .with_source(error)
                .with_hint("make it readable by the step's user")
        })?;
        let mut text =
            String::from_utf8(bytes).map_err(|_| trouble("is not UTF-8 text".to_owned()))?;
        // Secrets made with `echo` end with a line break that nobody means.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok((!text.is_empty()).then(|| SecretString::from(text)))
    }
}

fn read_secrets(path: &Path) -> Result<BTreeMap<String, SecretString>, Failure> {
    let directory = SecretDirectory::open(path, "--secrets")?;
    let trouble =
        |error| Failure::config(format!("cannot list `{}`", path.display())).with_source(error);
    let mut secrets = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Kubernetes keeps its own bookkeeping (`..data`) beside the files.
        if name.starts_with('.') || entry.path().is_dir() {
            continue;
        }
        if let Some(secret) = directory.read(&name)? {
            secrets.insert(name, secret);
        }
    }
    Ok(secrets)
}

fn read_script(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let trouble = |error| {
        Failure::config(format!("cannot read the script `{shown}`"))
            .with_source(error)
            .with_hint("give a readable file as SCRIPT")
    };
    let size = std::fs::metadata(path).map_err(trouble)?.len();
    if size > SCRIPT_BYTES_MAX {
        return Err(Failure::config(format!(
            "the script `{shown}` is larger than {SCRIPT_BYTES_MAX} bytes"
        ))
        .with_hint("put it into the workspace and name it with `-p script-file=…`"));
    }
    Ok(without_own_shebang(std::fs::read(path).map_err(trouble)?))
}

/// Drops the first line if it names this program as the interpreter: what follows is the user's script.
fn without_own_shebang(script: Vec<u8>) -> Vec<u8> {
    let end = script
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(script.len(), |end| end + 1);
    let first = String::from_utf8_lossy(&script[..end]);
    let interpreter = first
        .strip_prefix("#!")
        .and_then(|rest| rest.split_whitespace().next());
    let names_us = interpreter
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == "orka-step");
    if names_us {
        script[end..].to_vec()
    } else {
        script
    }
}

fn open_workspace(path: &Path) -> Result<Workspace, Failure> {
    let shown = path.display();
    let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| {
        Failure::config(format!("cannot open the workspace `{shown}`"))
            .with_source(error)
            .with_hint(
                "`--workspace` needs an existing directory that the step's user can read and write",
            )
    })?;
    crate::host_folder::probe(&dir).map_err(|error| {
        Failure::config(format!("cannot write into the workspace `{shown}`"))
            .with_source(error)
            .with_hint("give the step's user write access (for a volume, `fsGroup` in the pod's securityContext), or another `--workspace`")
    })?;
    Ok(Workspace {
        dir,
        path: path.to_owned(),
    })
}

/// Where results go: what was given, else Tekton's own directory where there is one.
///
/// # Errors
///
/// A path that is no directory.
pub fn results_directory(given: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    match given {
        None => Ok(Some(PathBuf::from(TEKTON_RESULTS)).filter(|path| path.is_dir())),
        Some(path) if path.is_dir() => Ok(Some(path.to_owned())),
        // A StepAction can name its results, but not the directory that holds them.
        Some(path) if path.ends_with("outcome") && path.parent().is_some_and(Path::is_dir) => {
            Ok(path.parent().map(Path::to_owned))
        }
        Some(path) => Err(Failure::config(format!(
            "`{}` given with `--results` is not a directory",
            path.display()
        ))
        .with_hint("make it first; Tekton mounts `/tekton/results`")),
    }
}

/// A file to write, in a directory that is there; `what` names its contents.
fn file_to_write(given: Option<&Path>, flag: &str, what: &str) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = given else { return Ok(None) };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if path.is_dir() || !parent.is_dir() {
        return Err(Failure::config(format!(
            "the {what} cannot be written to `{}`",
            path.display()
        ))
        .with_hint(format!(
            "`{flag}` needs a file name in an existing directory"
        )));
    }
    Ok(Some(path.to_owned()))
}

/// The operator's grants: a file, or the text of a Task, and never both ([`crate::task_file::TaskFile::set_once`]).
fn grants(file: Option<&Path>, text: Option<&str>) -> Result<Option<GrantsFile>, Failure> {
    match text {
        Some(text) => GrantsFile::parse_text(text, "the Task's parameter `grants`").map(Some),
        None => file.map(GrantsFile::load).transpose(),
    }
}

/// The operator's guards, in the order in which they are asked; none where one of them is wrong.
fn guards(args: &RunArgs, problems: &mut Problems) -> Option<Vec<GuardSource>> {
    let list = args.guard_list.as_deref().map(GuardSource::list);
    let listed = problems.take(list.transpose());
    // By name, only those that came with this program: whoever chooses the plugin must not choose who judges it.
    let named = args
        .guards
        .iter()
        .map(|text| GuardSource::parse(text, None));
    let named: Vec<_> = named.map(|guard| problems.take(guard)).collect();
    let named: Option<Vec<_>> = named.into_iter().collect();
    Some(
        listed?
            .unwrap_or_default()
            .into_iter()
            .chain(named?)
            .collect(),
    )
}

fn params<'a>(
    given: impl Iterator<Item = &'a (String, String)>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut params = BTreeMap::new();
    for (name, value) in given {
        if params.insert(name.clone(), value.clone()).is_some() {
            return Err(
                Failure::config(format!("parameter `{name}` is given more than once"))
                    .with_hint("a list takes one item a line, or a JSON array"),
            );
        }
    }
    Ok(params)
}
