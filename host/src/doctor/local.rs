//! What can be checked before anything is sent to the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{AuthMethod, HostKeyPolicy};
use humantime::format_duration;
use orka_client::{ClientConfig, Credentials, TokenSource};
use plugin_manifest::{Manifest, ParameterValue};

use super::capacity::Demand;
use super::check::{Check, Checks, Stage, Subject};
use super::guards::Judges;
use super::parts::{Part, resolve};
use crate::aot::{self, Bounds, Origin};
use crate::backend::orka::CPU_CORES_DEFAULT;
use crate::bindings::orka::plugin::cluster::VmSpec;
use crate::cli::{DoctorArgs, RunArgs};
use crate::config::{self, Config, Environment, SshConfig, Workspace};
use crate::console::Console;
use crate::engine;
use crate::failure::Failure;
use crate::grants::{Ceilings, Grants, GrantsFile, More};
use crate::guard::{Guards, RunFacts, Wanted};
use crate::host_folder;
use crate::limits::Limits;
use crate::parameters::{check_ignore_files, check_parameters, given_parameters};
use crate::plugin::{Plugin, is_bundled_name};
use crate::stop::Stop;

/// How long to look for files `.orkaignore` that an upload could not use; more than a run takes.
const IGNORE_FILES_TIME: Duration = Duration::from_secs(30);

/// What is left to ask the cluster.
pub(super) struct Plan {
    /// Where it is; none if that is not known. Without credentials.
    pub(super) client: Option<ClientConfig>,
    /// Who asks; none if they are not readable.
    pub(super) credentials: Option<Credentials>,
    /// The images to look for.
    pub(super) images: Vec<String>,
    /// Who has a say in the VM before it is looked for.
    pub(super) judges: Judges,
    /// The Orka 3 namespace, where it is certain that there is one.
    pub(super) namespace: Option<String>,
    /// The room to look for.
    pub(super) demand: Demand,
    /// How long to wait for a list.
    pub(super) list_timeout: Duration,
}

impl Plan {
    /// Asks guards and grants about the VM, once it is known which namespace it is for; looks for what they leave of it.
    pub(super) async fn judge(
        &mut self,
        namespace: Option<String>,
        is_orka2: bool,
        console: &Console,
        checks: &mut Checks,
    ) {
        let judges = std::mem::take(&mut self.judges);
        let specs = judges.ask(namespace, is_orka2, console, checks).await;
        let cpu = specs.iter().filter_map(|spec| spec.cpu_cores).max();
        self.demand.cpu = cpu.unwrap_or(self.demand.cpu);
        self.images = specs.into_iter().map(|spec| spec.image).collect();
    }
}

/// Makes the checks that need no cluster, and says what to ask it.
pub(super) async fn examine(
    args: &DoctorArgs,
    environment: &Environment,
    console: &Console,
    stop: &Stop,
    checks: &mut Checks,
) -> Plan {
    let part = |part| resolve(part, &args.run, environment, console.masker());
    let api = taken(part(Part::Api), Subject::Endpoint, checks);
    let credentials = taken(part(Part::Credentials), Subject::Credentials, checks);
    if let Some(config) = taken(part(Part::Ssh), Subject::SshCredentials, checks) {
        checks.add(ssh(&config.ssh));
    }
    let workspace_of = taken(part(Part::Workspace), Subject::Workspace, checks);
    if let Some(config) = taken(part(Part::Results), Subject::Results, checks) {
        checks.add(results(config.results.as_deref()));
    }
    checks.add(timeout(&args.run));
    let grants = taken(part(Part::Grants), Subject::Grants, checks).map(|config| config.grants);
    let wanted = taken(part(Part::Guards), Subject::Guards, checks).map(|config| config.guards);
    let mut judges = Judges::default();
    let params = match taken(part(Part::Plugin), Subject::Plugin, checks) {
        Some(config) => {
            let place = workspace_of.as_ref().and_then(|it| it.workspace.as_ref());
            let (params, facts) = plugin(
                args,
                &config,
                (grants.as_ref(), place),
                &mut judges,
                stop,
                checks,
            );
            let wanted = Wanted {
                sources: wanted.unwrap_or_default(),
                on_failure: config.guard_failure,
                code_cache: config.plugin_cache,
                bounds: Bounds::of_run(&config.limits, config.timeout, stop),
            };
            judges.guards = start_guards(&wanted, config.limits, console, checks).await;
            judges.facts = facts;
            params
        }
        None => args.run.params.iter().cloned().collect(),
    };
    judges.specs = specs(args, &params);
    if let Some(config) = &workspace_of {
        checks.add(workspace(config));
    }
    // After the plugin, which may need more of them than others do.
    if let Some(config) = taken(part(Part::Settings), Subject::Settings, checks) {
        checks.add(settings(&args.run, &config));
    }
    checks.skip(&[Subject::Parameters], "the plugin is not loaded");
    if judges.granted.is_none() {
        checks.skip(&[Subject::Grants], "the plugin is not loaded");
    }
    let namespace = api.as_ref().and_then(|config| config.namespace_asked_for());
    Plan {
        namespace: namespace.map(str::to_owned),
        judges,
        client: api.map(|config| ClientConfig {
            credentials: Credentials::Anonymous,
            ..config.orka
        }),
        credentials: credentials.map(|config| config.orka.credentials),
        images: images(args, &params),
        demand: demand(args, &params),
        list_timeout: args.list_timeout,
    }
}

/// A part that is right; of one that is wrong, a run would end for what is told here.
fn taken(
    resolved: Result<Config, Vec<Failure>>,
    name: Subject,
    checks: &mut Checks,
) -> Option<Config> {
    resolved
        .map_err(|failures| checks.add(Check::failed(name, Stage::Settings, failures)))
        .ok()
}

/// What the Orka credentials are, in words.
pub(super) fn describe(credentials: &Credentials) -> String {
    let token_in = |source: &TokenSource| match source {
        TokenSource::File(path) => format!("the token in `{}`", path.display()),
        TokenSource::Static(_) => "the token in `ORKA_TOKEN`".to_owned(),
    };
    match credentials {
        Credentials::Login { email, .. } => format!("`{email}` and a password"),
        Credentials::Token(token) => token_in(token),
        Credentials::Both { email, token, .. } => {
            format!(
                "`{email}` and a password (2.x), and {} (3.x)",
                token_in(token)
            )
        }
        _ => "none".to_owned(),
    }
}

fn ssh(config: &SshConfig) -> Check {
    let methods: Vec<String> = config
        .methods
        .iter()
        .map(|method| match method {
            AuthMethod::Password(_) => "a password".to_owned(),
            AuthMethod::PrivateKey(key) => match key.describe_certificate() {
                Some(certificate) => format!("the key {} and its {certificate}", key.describe()),
                None => format!("the key {}", key.describe()),
            },
        })
        .collect();
    let host_keys = match &config.host_keys {
        HostKeyPolicy::FirstUse => {
            "host keys are trusted on first use (no `known_hosts`), as VMs make new ones"
        }
        HostKeyPolicy::KnownHosts(_) => "only host keys in `known_hosts` are accepted",
        HostKeyPolicy::FirstUseUnlessKnown(_) => {
            "host keys are checked where `known_hosts` names the host, else trusted on first use"
        }
        HostKeyPolicy::Pinned(_) => "only pinned host keys are accepted",
        HostKeyPolicy::AcceptAny => "host keys are not checked",
    };
    let jump = config.jump.as_ref().map(|jump| {
        let user = &jump.credentials.username;
        format!("; through the jump host {} as `{user}`", jump.target)
    });
    let words = format!(
        "user `{}` with {}; {host_keys}{}",
        config.username,
        methods.join(", then "),
        jump.unwrap_or_default()
    );
    if matches!(config.host_keys, HostKeyPolicy::AcceptAny) {
        return Check::warn(
            Subject::SshCredentials,
            words,
            "leave `--ssh-host-key accept-any` out: first use is checked for as long as a run lasts, and costs nothing",
        );
    }
    Check::ok(Subject::SshCredentials, words)
}

fn workspace(config: &Config) -> Check {
    match &config.workspace {
        Some(workspace) => Check::ok(
            Subject::Workspace,
            format!("`{}` can be read and written", workspace.path.display()),
        ),
        None => Check::skipped(
            Subject::Workspace,
            "no `--workspace` is given: nothing is copied into the VM or back",
        ),
    }
}

/// What is wrong with files `.orkaignore` of the workspace, if anything.
fn ignore_files(
    manifest: &Manifest,
    values: &BTreeMap<String, ParameterValue>,
    workspace: &Dir,
) -> Option<Check> {
    let until = Instant::now() + IGNORE_FILES_TIME;
    match check_ignore_files(manifest, values, workspace, until) {
        Ok(warnings) => warnings.first().map(|first| {
            let hint = "it reads as a `.gitignore`; what the line names goes into the VM as it is";
            Check::warn(Subject::Workspace, first, hint)
        }),
        Err(failure) => {
            let stage = Stage::Grants;
            Some(Check::failed(Subject::Workspace, stage, vec![failure]))
        }
    }
}

/// A run notes the VM's name here before it deploys, so a directory that cannot be written ends it.
fn results(directory: Option<&Path>) -> Check {
    let Some(path) = directory else {
        return Check::skipped(
            Subject::Results,
            "no `--results` is given and there is no `/tekton/results`: results are only in the report",
        );
    };
    let name = format!(
        ".orka-step-doctor-{}",
        hex::encode(rand::random::<[u8; 8]>())
    );
    let written = Dir::open_ambient_dir(path, ambient_authority()).and_then(|directory| {
        host_folder::write_whole(&directory, Path::new(&name), b"")
            .and_then(|()| directory.remove_file(&name))
    });
    match written {
        Ok(()) => Check::ok(
            Subject::Results,
            format!("`{}` can be written", path.display()),
        ),
        Err(error) => Check::failed(
            Subject::Results,
            Stage::Deploy,
            vec![
                Failure::files(
                    "files.results",
                    format!(
                        "cannot write into the results directory `{}`",
                        path.display()
                    ),
                )
                .with_source(error)
                .with_hint("give the step's user write access, or another `--results`"),
            ],
        ),
    }
}

fn settings(args: &RunArgs, config: &Config) -> Check {
    let script = match &config.script {
        Some(script) => format!("the script has {} bytes; ", script.len()),
        None => String::new(),
    };
    let identity = match &args.run_uid {
        Some(uid) if !uid.is_empty() => "and the run's hash",
        _ => "and a random hash (no `--run-uid`)",
    };
    Check::ok(
        Subject::Settings,
        format!("{script}names begin with `{}` {identity}", args.vm_prefix),
    )
}

fn timeout(args: &RunArgs) -> Check {
    let (deploy, login) = (args.orka.deploy_timeout, args.ssh.ssh_timeout);
    let text = format!(
        "the run ends {} after its start; a deploy may take {}, the login {}",
        format_duration(args.timeout),
        format_duration(deploy),
        format_duration(login)
    );
    if args.timeout > deploy.saturating_add(login) {
        Check::ok(
            Subject::Timeout,
            format!("{text}; keep the TaskRun's own timeout above it"),
        )
    } else {
        Check::warn(
            Subject::Timeout,
            format!("{text}: a slow start leaves no time for the build"),
            "raise `--timeout` and the TaskRun's timeout above it, or lower `--deploy-timeout` and `--ssh-timeout`",
        )
    }
}

/// Starts the guards; none where there are none, or one of them is unusable.
async fn start_guards(
    wanted: &Wanted,
    limits: Limits,
    console: &Console,
    checks: &mut Checks,
) -> Option<Guards> {
    if wanted.sources.is_empty() {
        checks.add(Check::ok(
            Subject::Guards,
            "no guard is named by `--guard` or `--guards`: none is asked",
        ));
        return None;
    }
    let started = match engine::engine_with(&limits) {
        Ok(engine) => Guards::start_all(wanted, &engine, limits, console, "").await,
        Err(failure) => Err(vec![failure]),
    };
    started
        .map_err(|failures| {
            checks.add(Check::failed(Subject::Guards, Stage::Guards, failures));
        })
        .ok()
}

/// Loads and compiles the plugin; gives its parameters as text, as far as they are known, and what guards are told of it.
fn plugin(
    args: &DoctorArgs,
    config: &Config,
    (grants, workspace): (Option<&Option<GrantsFile>>, Option<&Workspace>),
    judges: &mut Judges,
    stop: &Stop,
    checks: &mut Checks,
) -> (BTreeMap<String, String>, Option<RunFacts>) {
    let plugin = match Plugin::load(&config.plugin) {
        Ok(plugin) => plugin,
        Err(failure) => {
            checks.add(Check::failed(Subject::Plugin, Stage::Plugin, vec![failure]));
            return (config.params.clone(), None);
        }
    };
    checks.add(compiled(&plugin, config, stop));
    // UIDs and a prefix that are wrong are another check's.
    let identity = config::identity(&args.run);
    let facts = identity.as_ref().ok().map(|identity| {
        let owner = config::owner(&args.run);
        RunFacts::before_it_begins(&plugin.manifest, &plugin.digest, identity, &owner)
    });
    if let Err(failure) = identity.map_or(Ok(()), |it| it.admit_plugin(&plugin)) {
        checks.add(Check::failed(
            Subject::Settings,
            Stage::Parameters,
            vec![failure],
        ));
    }
    let given = given(args, config, &plugin.manifest);
    // Whether it can be read is another check's.
    let script = args.run.script.as_ref().map(|_| [].as_slice());
    let shown = config.plugin.to_string();
    let mut more = More::default();
    let params = match check_parameters(&plugin.manifest, &given, script, &shown) {
        Ok(values) => {
            // What another plugin's parameter of that name means is its own business.
            if is_bundled_name(&plugin.manifest.name)
                && let Some(failure) = missing_script_file(args, &values)
            {
                let stage = Stage::Parameters;
                checks.add(Check::failed(Subject::Parameters, stage, vec![failure]));
            }
            checks.add(parameters_ok(&given, &values));
            let place = workspace.map(|workspace| &workspace.dir);
            if let Some(check) = place.and_then(|it| ignore_files(&plugin.manifest, &values, it)) {
                checks.add(check);
            }
            if let Some(check) =
                grants.and_then(|grants| denied_values(grants.as_ref(), config, &plugin, &values))
            {
                checks.add(check);
            }
            more = More::for_parameters(&plugin.manifest, &values, &config.secrets);
            values
                .into_iter()
                .map(|(name, value)| (name, value.to_string()))
                .collect()
        }
        Err(failures) => {
            checks.add(Check::failed(
                Subject::Parameters,
                Stage::Parameters,
                failures,
            ));
            given
        }
    };
    if let Some(grants) = grants {
        match granted(grants.as_ref(), config, &plugin, &more) {
            Ok(granted) => judges.granted = Some(granted),
            Err(check) => checks.add(check),
        }
    }
    (params, facts)
}

fn compiled(plugin: &Plugin, config: &Config, stop: &Stop) -> Check {
    let bounds = Bounds::of_run(&config.limits, config.timeout, stop);
    let ready = engine::engine()
        .and_then(|engine| aot::ready(&engine, plugin, config.plugin_cache.as_ref(), &bounds));
    match ready {
        Ok(ready) => {
            let how = match ready.origin {
                Origin::Compiled(_) => "compiles",
                Origin::Program(_) | Origin::Cache(_) => "is compiled ahead of time",
            };
            let text = format!(
                "`{}` {} from `{}` loads and {how} ({})",
                plugin.manifest.name,
                plugin.manifest.version,
                plugin.path.display(),
                plugin.digest
            );
            match ready.warnings.first() {
                None => Check::ok(Subject::Plugin, text),
                Some(warning) => Check::warn(
                    Subject::Plugin,
                    format!("{text}, but {warning}"),
                    "make it again with `orka-step plugin compile`",
                ),
            }
        }
        Err(failure) => Check::failed(Subject::Plugin, Stage::Compile, vec![failure]),
    }
}

/// Flags over environment, as in a run; `--image` and `--cpu-count` stand in for the parameters of the same meaning.
fn given(args: &DoctorArgs, config: &Config, manifest: &Manifest) -> BTreeMap<String, String> {
    let mut given = given_parameters(manifest, config);
    let stand_ins = [
        ("base-image", args.image.clone()),
        ("cpu-count", args.cpu_count.map(|count| count.to_string())),
    ];
    for (name, value) in stand_ins {
        if let Some(value) = value.filter(|_| manifest.parameters.contains_key(name)) {
            given.insert(name.to_owned(), value);
        }
    }
    given
}

fn parameters_ok(
    given: &BTreeMap<String, String>,
    values: &BTreeMap<String, ParameterValue>,
) -> Check {
    let defaults = values
        .keys()
        .filter(|name| !given.contains_key(*name))
        .count();
    Check::ok(
        Subject::Parameters,
        format!("{} given, {defaults} by default", given.len()),
    )
}

/// What the plugin and values of its parameters need and the run has not; none where nothing is granted at all, which is told then.
fn denied_values(
    grants: Option<&GrantsFile>,
    config: &Config,
    plugin: &Plugin,
    values: &BTreeMap<String, ParameterValue>,
) -> Option<Check> {
    let (manifest, digest) = (&plugin.manifest, &plugin.digest);
    let granted = Grants::intersect(grants, manifest, digest, plugin.bundled);
    let failures = granted
        .ok()?
        .admit_parameters(manifest, values, &config.secrets)
        .err()?;
    Some(Check::failed(Subject::Grants, Stage::Grants, failures))
}

/// The bundled policies read their script from the workspace, before anything is deployed.
fn missing_script_file(
    args: &DoctorArgs,
    values: &BTreeMap<String, ParameterValue>,
) -> Option<Failure> {
    let path = values.get("script-file")?.as_text()?;
    if path.is_empty() {
        return None;
    }
    let Some(workspace) = &args.run.workspace else {
        let message = "parameter `script-file` names a file of the workspace, and there is none";
        return Some(Failure::config(message).with_hint("give a directory with `--workspace`"));
    };
    // A workspace that cannot be opened is another check's.
    let workspace = Dir::open_ambient_dir(workspace, ambient_authority()).ok()?;
    // Opening what is no file may wait for ever.
    let error = match workspace.metadata(path) {
        Ok(found) if !found.is_file() => io::Error::other("it is no file"),
        Ok(_) => workspace.open(path).err()?,
        Err(error) => error,
    };
    let message = format!("parameter `script-file`: `{path}` of the workspace cannot be read");
    let failure = Failure::config(message).with_source(error);
    Some(failure.with_hint("give the path of a file there, from the top of the workspace"))
}

/// What is granted besides the VM, which guards are asked about first.
fn granted(
    grants: Option<&GrantsFile>,
    config: &Config,
    plugin: &Plugin,
    more: &More,
) -> Result<(Ceilings, Check), Check> {
    let failed = |failure| Check::failed(Subject::Grants, Stage::Grants, vec![failure]);
    let (manifest, digest) = (&plugin.manifest, &plugin.digest);
    let granted =
        Grants::intersect_for(grants, manifest, digest, plugin.bundled, more).map_err(failed)?;
    let asked = plugin.manifest.capabilities.len();
    let check = Check::ok(
        Subject::Grants,
        format!(
            "all that it asks for is granted: {asked} capabilities, {} secrets",
            plugin.manifest.secrets.len()
        ),
    );
    let missing: Vec<String> = granted
        .secrets()
        .iter()
        // Without those that it needs it does not start.
        .filter(|name| !manifest.secrets.contains(*name))
        .filter(|name| !config.secrets.contains_key(*name))
        .map(|name| format!("`{name}`"))
        .collect();
    let mut warnings: Vec<(String, String)> = Vec::new();
    if let Some(warning) = Grants::not_about(grants, plugin) {
        let name = &plugin.manifest.name;
        warnings.push((
            warning,
            format!("write an entry for `{name}`, or one for `*`"),
        ));
    }
    if !missing.is_empty() {
        warnings.push((
            format!(
                "it may use secrets that are not there: {}",
                missing.join(", ")
            ),
            "put a file of that name into the directory given with `--secrets`".to_owned(),
        ));
    }
    if warnings.is_empty() {
        return Ok((granted.ceilings, check));
    }
    let (texts, hints): (Vec<_>, Vec<_>) = warnings.into_iter().unzip();
    let check = Check::warn(Subject::Grants, texts.join("; "), hints.join("; "));
    Ok((granted.ceilings, check))
}

/// The VMs that the bundled policies would ask for, one for each image, as far as they are plain from the parameters.
fn specs(args: &DoctorArgs, params: &BTreeMap<String, String>) -> Vec<VmSpec> {
    let is_set = |name: &str| text(params, name).as_deref() == Some("true");
    let cpu = cpu(args, params);
    let vcpus = text(params, "vcpu-count").and_then(|count| count.parse().ok());
    // The default of the Task that is replaced fits only 3 and 6 cores, and stands for as many as cores elsewhere.
    let vcpus = vcpus.map(|vcpus: u32| match (vcpus, cpu) {
        (3, cores) if cores != 6 => cores,
        _ => vcpus,
    });
    let spec = |image| VmSpec {
        image,
        cpu_cores: asked_cores(args, params),
        vcpus,
        memory_mib: text(params, "memory").and_then(|gib| memory_mib(&gib)),
        vnc_console: is_set("vnc-console").then_some(true),
        gpu_passthrough: is_set("gpu-passthrough").then_some(true),
        system_serial: text(params, "system-serial"),
        tag: text(params, "tag"),
        tag_required: is_set("tag-required"),
        scheduler: text(params, "scheduler"),
        options: Vec::new(),
    };
    images(args, params).into_iter().map(spec).collect()
}

/// Memory given in GiB; none for 0, which leaves it to the cluster, and for what is no such number.
fn memory_mib(gib: &str) -> Option<u32> {
    const MOST: f64 = 4096.0;
    let gib: f64 = gib.parse().ok()?;
    let is_size = gib > 0.0 && gib <= MOST;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies between nothing and four TiB"
    )]
    is_size.then(|| (gib * 1024.0).round() as u32)
}

/// Every image that the parameters name, once: `base-image`, and the cells of the plugin `matrix`.
fn images(args: &DoctorArgs, params: &BTreeMap<String, String>) -> Vec<String> {
    let one = args.image.clone().or_else(|| text(params, "base-image"));
    let mut named: Vec<String> = one.into_iter().collect();
    // NAME=IMAGE, and behind commas what else differs.
    if params.contains_key("cells") {
        let cells = items(params, "cells");
        let cells = cells.iter().filter_map(|cell| cell.split_once('='));
        named.extend(cells.map(|(_, vm)| vm.split(',').next().unwrap_or(vm).trim().to_owned()));
        named.extend(items(params, "images"));
    }
    let mut seen = BTreeSet::new();
    named.retain(|image| !image.is_empty() && seen.insert(image.clone()));
    named
}

/// A list: in JSON as a checked value is shown, one a line as it is given.
fn items(params: &BTreeMap<String, String>, name: &str) -> Vec<String> {
    let text = text(params, name).unwrap_or_default();
    let lines = || text.lines().map(|line| line.trim().to_owned()).collect();
    serde_json::from_str(&text).unwrap_or_else(|_| lines())
}

fn cpu(args: &DoctorArgs, params: &BTreeMap<String, String>) -> u32 {
    asked_cores(args, params).unwrap_or(CPU_CORES_DEFAULT)
}

fn asked_cores(args: &DoctorArgs, params: &BTreeMap<String, String>) -> Option<u32> {
    let from_params = || params.get("cpu-count")?.parse().ok();
    args.cpu_count.or_else(from_params)
}

fn demand(args: &DoctorArgs, params: &BTreeMap<String, String>) -> Demand {
    let is_required = text(params, "tag-required").as_deref() == Some("true");
    Demand {
        cpu: cpu(args, params),
        node: text(params, "node"),
        tag: text(params, "tag").filter(|_| is_required),
        on_apple_silicon: false,
        wait: text(params, "capacity-wait"),
    }
}

fn text(params: &BTreeMap<String, String>, name: &str) -> Option<String> {
    params.get(name).filter(|value| !value.is_empty()).cloned()
}
