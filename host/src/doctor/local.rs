//! What can be checked before anything is sent to the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{AuthMethod, HostKeyPolicy};
use humantime::format_duration;
use orka_client::{ClientConfig, Credentials, TokenSource};
use plugin_manifest::{Manifest, ParameterValue};

use super::capacity::Demand;
use super::check::{Check, Checks, Stage, Subject};
use super::parts::{Part, resolve};
use crate::aot::{self, Bounds, Origin};
use crate::cli::{DoctorArgs, RunArgs};
use crate::config::{self, Config, Environment, SshConfig};
use crate::engine;
use crate::failure::Failure;
use crate::grants::{Grants, More};
use crate::host_folder;
use crate::mask::Masker;
use crate::parameters::{check_parameters, given_parameters};
use crate::plugin::{Plugin, is_bundled_name};
use crate::stop::Stop;

/// Cores of a VM where nothing else is said: Orka 3's own default, and the fewest that Orka 2 takes.
const CPU_CORES_DEFAULT: u32 = 3;

/// What is left to ask the cluster.
pub(super) struct Plan {
    /// Where it is; none if that is not known. Without credentials.
    pub(super) client: Option<ClientConfig>,
    /// Who asks; none if they are not readable.
    pub(super) credentials: Option<Credentials>,
    /// The images to look for.
    pub(super) images: Vec<String>,
    /// The room to look for.
    pub(super) demand: Demand,
    /// How long to wait for a list.
    pub(super) list_timeout: Duration,
}

/// Makes the checks that need no cluster, and says what to ask it.
pub(super) fn examine(
    args: &DoctorArgs,
    environment: &Environment,
    masker: &Masker,
    stop: &Stop,
    checks: &mut Checks,
) -> Plan {
    let part = |part| resolve(part, &args.run, environment, masker);
    let api = taken(part(Part::Api), Subject::Endpoint, checks);
    let credentials = taken(part(Part::Credentials), Subject::Credentials, checks);
    if let Some(config) = taken(part(Part::Ssh), Subject::SshCredentials, checks) {
        checks.add(ssh(&config.ssh));
    }
    if let Some(config) = taken(part(Part::Workspace), Subject::Workspace, checks) {
        checks.add(workspace(&config));
    }
    if let Some(config) = taken(part(Part::Results), Subject::Results, checks) {
        checks.add(results(config.results.as_deref()));
    }
    checks.add(timeout(&args.run));
    let params = match taken(part(Part::Plugin), Subject::Plugin, checks) {
        Some(config) => plugin(args, &config, stop, checks),
        None => args.run.params.iter().cloned().collect(),
    };
    // After the plugin, which may need more of them than others do.
    if let Some(config) = taken(part(Part::Settings), Subject::Settings, checks) {
        checks.add(settings(&args.run, &config));
    }
    checks.skip(
        &[Subject::Parameters, Subject::Grants],
        "the plugin is not loaded",
    );
    Plan {
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

/// Loads and compiles the plugin; gives its parameters as text, as far as they are known.
fn plugin(
    args: &DoctorArgs,
    config: &Config,
    stop: &Stop,
    checks: &mut Checks,
) -> BTreeMap<String, String> {
    let plugin = match Plugin::load(&config.plugin) {
        Ok(plugin) => plugin,
        Err(failure) => {
            checks.add(Check::failed(Subject::Plugin, Stage::Plugin, vec![failure]));
            return config.params.clone();
        }
    };
    checks.add(compiled(&plugin, config, stop));
    // UIDs and a prefix that are wrong are another check's.
    let identity = config::identity(&args.run);
    if let Err(failure) = identity.map_or(Ok(()), |it| it.admit_plugin(&plugin.manifest)) {
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
            if let Some(check) = denied_values(config, &plugin, &values) {
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
    checks.add(grants(args, config, &plugin, &params, &more));
    params
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

/// What values of parameters need and the run has not; none where nothing is granted at all, which is told then.
fn denied_values(
    config: &Config,
    plugin: &Plugin,
    values: &BTreeMap<String, ParameterValue>,
) -> Option<Check> {
    let (manifest, digest) = (&plugin.manifest, &plugin.digest);
    let granted = Grants::intersect(config.grants.as_ref(), manifest, digest, plugin.bundled);
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

fn grants(
    args: &DoctorArgs,
    config: &Config,
    plugin: &Plugin,
    params: &BTreeMap<String, String>,
    more: &More,
) -> Check {
    let granted = match Grants::intersect_for(
        config.grants.as_ref(),
        &plugin.manifest,
        &plugin.digest,
        plugin.bundled,
        more,
    ) {
        Ok(granted) => granted,
        Err(failure) => return Check::failed(Subject::Grants, Stage::Grants, vec![failure]),
    };
    let unusable = config.guards.iter().filter_map(|guard| guard.load().err());
    let unusable: Vec<Failure> = unusable.collect();
    if !unusable.is_empty() {
        return Check::failed(Subject::Grants, Stage::Grants, unusable);
    }
    for image in images(args, params) {
        let cores = &mut Some(cpu(args, params));
        if let Err(failure) = granted.ceilings.admit(&image, cores, &mut None) {
            return Check::failed(Subject::Grants, Stage::Deploy, vec![failure]);
        }
    }
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
        .filter(|name| !config.secrets.contains_key(*name))
        .map(|name| format!("`{name}`"))
        .collect();
    if missing.is_empty() {
        return check;
    }
    Check::warn(
        Subject::Grants,
        format!(
            "it may use secrets that are not there: {}",
            missing.join(", ")
        ),
        "put a file of that name into the directory given with `--secrets`",
    )
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
    let from_params = || params.get("cpu-count")?.parse().ok();
    args.cpu_count
        .or_else(from_params)
        .unwrap_or(CPU_CORES_DEFAULT)
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
