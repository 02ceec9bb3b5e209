//! Scenario files: YAML, with every member checked. `plugins/TESTING.md` is the format for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;
use yaml_serde::Value;

use super::check::Expectations;
use super::model::{ExecReply, Expected, Granted, Pattern, Scenario, Times, node};
use crate::bindings::orka::plugin::cluster::Node;
use crate::failure::{Class, Failure, Kind};
use crate::guard::GuardSource;
use crate::limits::{self, Limits, TABLE};
use crate::outcome::StopSignal;

/// A scenario as a file has it: what is given, and what must come of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, which is unique in its file.
    pub name: String,
    /// What it stands on.
    pub backend: Backend,
    /// What is given.
    pub scenario: Scenario,
    /// What must come of it.
    pub expect: Expectations,
}

/// What a case's plugin runs on.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Scripted backends on a virtual clock.
    #[default]
    Scripted,
    /// The simulated cluster, whose VMs are directories of this machine with real SSH and real programs, in real time.
    Simulator,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[cfg_attr(test, schemars(title = "Scenarios of a plugin of orka-step"))]
struct Document {
    /// The members of a scenario, laid under each: maps member by member, everything else as a whole.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, serde_json::Value>"))]
    defaults: Value,
    /// The scenarios, played one by one.
    #[cfg_attr(test, schemars(with = "Vec<Entry>"))]
    scenarios: Vec<Value>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    /// Unique in the file.
    name: String,
    /// More words for people.
    #[serde(default, rename = "about")]
    _about: Option<String>,
    /// What the plugin runs on.
    #[serde(default)]
    backend: Backend,
    /// Parameters; a list becomes one item a line.
    #[serde(default)]
    params: BTreeMap<String, Scalar>,
    /// The script as a file of its own.
    script: Option<String>,
    /// Files by path; `false` for a run without a workspace.
    #[serde(default)]
    workspace: Workspace,
    /// Secrets by name.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// An entry of the operator's grants file; all that the plugin asks for, if absent.
    grants: Option<Grants>,
    /// Who is asked before the grants are looked at, in this order.
    #[serde(default)]
    guards: Vec<GuardEntry>,
    /// Limits of the sandbox, as `orka-step limits` names them; and `fuel`, the steps that the plugin may compute.
    #[serde(default)]
    limits: BTreeMap<String, u64>,
    /// The run's own deadline; `1h` if absent.
    timeout: Option<Span>,
    /// A signal that comes in the middle.
    stop: Option<Stop>,
    /// What random numbers are made from.
    #[serde(default)]
    seed: u64,
    /// The calendar at the start of the run.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    began: Option<jiff::Timestamp>,
    /// The cluster and its times.
    #[serde(default)]
    cluster: Cluster,
    /// Programs that are expected to run in VMs.
    #[serde(default)]
    programs: Vec<Program>,
    /// Calls that fail.
    #[serde(default)]
    failures: Vec<Fault>,
    /// What must come of it.
    #[serde(default)]
    expect: Expectations,
}

/// A parameter's value as it is convenient to write.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Boolean(bool),
    Integer(i64),
    Text(String),
    List(Vec<String>),
}

impl Scalar {
    /// As it is given on the command line: a list has one item a line.
    fn text(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::List(items) => items.join("\n"),
        }
    }
}

/// The workspace's files; `false` is none at all.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(untagged)]
enum Workspace {
    Present(bool),
    Files(BTreeMap<String, Contents>),
}

impl Default for Workspace {
    fn default() -> Self {
        Self::Present(true)
    }
}

/// A file's contents: text, or bytes as base64.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Contents {
    Text(String),
    Bytes(Base64),
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base64 {
    base64: String,
}

impl Contents {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Bytes(Base64 { base64 }) => STANDARD
                .decode(base64.trim())
                .map_err(|error| format!("not base64: {error}")),
        }
    }
}

/// A grant for this plugin, as an entry of the operator's file has it.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
struct Grants {
    #[serde(flatten)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, serde_json::Value>"))]
    members: BTreeMap<String, Value>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GuardEntry {
    /// A bundled name, or the path of a `.wasm` file relative to this file.
    guard: String,
    /// The text of its configuration.
    config: Option<String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Stop {
    /// So long after the start.
    after: Span,
    /// `TERM` or `INT`.
    #[serde(default)]
    signal: StopName,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Default, Deserialize)]
enum StopName {
    #[default]
    #[serde(rename = "TERM")]
    Terminate,
    #[serde(rename = "INT")]
    Interrupt,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cluster {
    /// 2 or 3.
    orka: Option<u8>,
    /// Until a deployment is answered.
    deploy_time: Option<Span>,
    /// From then until SSH answers.
    boot_time: Option<Span>,
    /// Names of images.
    images: Option<Vec<String>>,
    /// Its nodes.
    nodes: Option<Vec<NodeEntry>>,
    /// Deployments whose answer is lost.
    #[serde(default)]
    lost_deploys: Vec<LostDeploy>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeEntry {
    /// Its name.
    name: String,
    /// Whether it takes VMs.
    ready: Option<bool>,
    /// Free cores.
    cpu_available: Option<u32>,
    /// All cores.
    cpu_total: Option<u32>,
    /// Its tags.
    #[serde(default)]
    tags: Vec<String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LostDeploy {
    /// Which deployment, counted from 1.
    number: u16,
    /// When its VM appears all the same.
    appears_after: Span,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Program {
    /// The program; `*` stands for any text.
    run: String,
    /// Exactly these; any, if absent.
    arguments: Option<Vec<String>>,
    /// How often, no more and no less; once, if absent.
    times: Option<TimesEntry>,
    /// Its status.
    exit: Option<u32>,
    /// The signal that ends it.
    signal: Option<String>,
    /// How else it ends.
    ends: Option<Ends>,
    /// What it writes to standard output.
    #[serde(default)]
    stdout: Option<Contents>,
    /// What it writes to standard error.
    #[serde(default)]
    stderr: Option<Contents>,
    /// How long it takes.
    after: Option<Span>,
    /// Files that it leaves in the VM, by path.
    #[serde(default)]
    writes: BTreeMap<String, Contents>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(untagged)]
enum TimesEntry {
    Number(u32),
    Word(TimesWord),
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TimesWord {
    Any,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ends {
    Lost,
    Never,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Fault {
    /// The call, as `plugins/TESTING.md` lists them.
    call: String,
    /// Which of them, counted from 1; each, if absent.
    number: Option<usize>,
    /// The case of the contract's `error`.
    kind: KindName,
    /// Its code.
    code: Option<String>,
    /// Its sentence.
    message: Option<String>,
    /// What to do about it.
    hint: Option<String>,
    /// Whether the same call may work later.
    #[serde(default)]
    retryable: bool,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    Invalid,
    Denied,
    NotFound,
    Conflict,
    NoCapacity,
    Unauthenticated,
    Unavailable,
    TimedOut,
    Other,
}

/// A duration such as `90s` or `1h 30m`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(#[cfg_attr(test, schemars(with = "String"))] pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Span).map_err(|_| {
            serde::de::Error::custom(format!(
                "`{text}` is not a duration such as `90s`, `10m` or `1h 30m`"
            ))
        })
    }
}

/// Calls that can be made to fail, as they are named in `calls`.
const CALLS: [&str; 18] = [
    "sign-in",
    "images",
    "nodes",
    "create-config",
    "deploy",
    "exists",
    "config",
    "instances",
    "delete",
    "purge",
    "look",
    "sign-out",
    "list",
    "connect",
    "exec",
    "write-file",
    "upload",
    "download",
];

/// Reads a file of scenarios.
///
/// # Errors
///
/// A file that cannot be read or is wrong, with the scenario and the member.
pub fn load(path: &Path) -> Result<Vec<Case>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::config(format!("cannot read the scenario file `{shown}`")).with_source(error)
    })?;
    let directory = path.parent().unwrap_or(Path::new(""));
    parse(&text, directory).map_err(|problem| {
        Failure::config(format!("the scenario file `{shown}` is wrong: {problem}"))
            .with_hint("`orka-step schema scenarios` is the JSON Schema of such a file, and describes every member")
    })
}

/// Reads the text of a file of scenarios; paths in it are relative to `directory`.
///
/// # Errors
///
/// What is wrong, with the scenario and the member.
pub fn parse(text: &str, directory: &Path) -> Result<Vec<Case>, String> {
    let document: Document =
        yaml_serde::from_str(text).map_err(|error| taught(&error.to_string()))?;
    let mut cases: Vec<Case> = Vec::new();
    for (position, entry) in document.scenarios.into_iter().enumerate() {
        let name = entry.get("name").and_then(Value::as_str).map_or_else(
            || format!("number {}", position + 1),
            |name| format!("`{name}`"),
        );
        let merged = merge(document.defaults.clone(), entry);
        let entry = yaml_serde::from_value::<Entry>(merged).map_err(|error| {
            let problem = error.to_string();
            let at = line_of(text, &problem).map(|line| format!(", line {line}"));
            let at = at.unwrap_or_default();
            format!("scenario {name}{at}: {}", taught(&problem))
        })?;
        let case =
            case(entry, directory).map_err(|problem| format!("scenario {name}: {problem}"))?;
        if cases.iter().any(|other| other.name == case.name) {
            return Err(format!("there are two scenarios named {name}"));
        }
        cases.push(case);
    }
    if cases.is_empty() {
        return Err("it has no scenarios".to_owned());
    }
    Ok(cases)
}

/// The line of what is wrong with a scenario: once the defaults are laid under it, it has none. There is none either for what
/// is wrong with the defaults.
fn line_of(text: &str, problem: &str) -> Option<usize> {
    #[derive(Deserialize)]
    struct Located {
        #[serde(rename = "scenarios")]
        _scenarios: Vec<Entry>,
    }
    let error = yaml_serde::from_str::<Located>(text).err()?;
    let is_the_same = error.to_string().contains(problem);
    error
        .location()
        .filter(|_| is_the_same)
        .map(|location| location.line())
}

/// What serde says, with the nearest name to one that is unknown. The place within the document may come before it.
fn taught(problem: &str) -> String {
    let at = ["unknown field ", "unknown variant "];
    let at = at.iter().find_map(|words| problem.find(words));
    let (place, problem) = problem.split_at(at.unwrap_or_default());
    format!("{place}{}", plugin_manifest::teach(problem))
}

/// `over` laid over `under`: maps member by member, everything else as a whole.
fn merge(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Mapping(mut under), Value::Mapping(over)) => {
            for (name, value) in over {
                let below = under.remove(&name).unwrap_or(Value::Null);
                under.insert(name, merge(below, value));
            }
            Value::Mapping(under)
        }
        (_, over) => over,
    }
}

fn case(entry: Entry, directory: &Path) -> Result<Case, String> {
    let mut scenario = Scenario {
        params: entry
            .params
            .iter()
            .map(|(name, value)| (name.clone(), value.text()))
            .collect(),
        script: entry.script.map(String::into_bytes),
        workspace: match entry.workspace {
            Workspace::Present(false) => None,
            Workspace::Present(true) => Some(BTreeMap::new()),
            Workspace::Files(files) => Some(contents("workspace", &files)?),
        },
        secrets: entry
            .secrets
            .into_iter()
            .map(|(name, value)| (name, SecretString::from(value)))
            .collect(),
        grants: entry.grants.map(grants).transpose()?,
        guards: entry
            .guards
            .into_iter()
            .map(|entry| GuardSource::of_text(directory, &entry.guard, entry.config).map_err(said))
            .collect::<Result<_, _>>()?,
        limits: limits(&entry.limits)?,
        seed: entry.seed,
        stop: entry.stop.map(|stop| {
            let signal = match stop.signal {
                StopName::Terminate => StopSignal::Terminate,
                StopName::Interrupt => StopSignal::Interrupt,
            };
            (stop.after.0, signal)
        }),
        ..Scenario::new()
    };
    if let Some(timeout) = entry.timeout {
        scenario.timeout = timeout.0;
    }
    if let Some(began) = entry.began {
        scenario.began = began;
    }
    set_cluster(&mut scenario, entry.cluster)?;
    for program in entry.programs {
        scenario.execs.push(expected(program)?);
    }
    for fault in entry.failures {
        scenario.failures.push(failure(fault)?);
    }
    if entry.backend == Backend::Simulator {
        refuse_what_only_a_script_can(&scenario)?;
    }
    entry.expect.check_itself()?;
    Ok(Case {
        name: entry.name,
        backend: entry.backend,
        scenario,
        expect: entry.expect,
    })
}

fn refuse_what_only_a_script_can(scenario: &Scenario) -> Result<(), String> {
    let only = [
        ("programs", !scenario.execs.is_empty()),
        ("failures", !scenario.failures.is_empty()),
        ("cluster.lost-deploys", !scenario.lost_deploys.is_empty()),
    ];
    match only.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((member, _)) => Err(format!(
            "`{member}` is for scripted backends; on the simulator real programs run"
        )),
    }
}

fn set_cluster(scenario: &mut Scenario, cluster: Cluster) -> Result<(), String> {
    scenario.orka3 = match cluster.orka {
        None | Some(2) => false,
        Some(3) => true,
        Some(other) => return Err(format!("`cluster.orka` is {other}, expected 2 or 3")),
    };
    if let Some(time) = cluster.deploy_time {
        scenario.deploy_time = time.0;
    }
    if let Some(time) = cluster.boot_time {
        scenario.boot_time = time.0;
    }
    if let Some(images) = cluster.images {
        scenario.images = images;
    }
    if let Some(nodes) = cluster.nodes {
        scenario.nodes = nodes.into_iter().map(of_entry).collect();
    }
    for lost in cluster.lost_deploys {
        if lost.number == 0 {
            return Err("`cluster.lost-deploys`: deployments are counted from 1".to_owned());
        }
        scenario
            .lost_deploys
            .insert(lost.number, lost.appears_after.0);
    }
    Ok(())
}

fn of_entry(entry: NodeEntry) -> Node {
    let usual = node(&entry.name);
    Node {
        ready: entry.ready.unwrap_or(usual.ready),
        cpu_available: entry.cpu_available.or(usual.cpu_available),
        cpu_total: entry.cpu_total.or(usual.cpu_total),
        tags: entry.tags,
        name: entry.name,
    }
}

fn expected(program: Program) -> Result<Expected, String> {
    let named = |problem: String| format!("program `{}`: {problem}", program.run);
    let mut reply = match (program.exit, &program.signal, program.ends) {
        (Some(status), None, None) => ExecReply::exit(status),
        (None, Some(signal), None) => ExecReply::signal(signal.trim_start_matches("SIG")),
        (None, None, Some(Ends::Lost)) => ExecReply::lost(),
        (None, None, Some(Ends::Never)) => ExecReply::never_ends(),
        (None, None, None) => ExecReply::exit(0),
        _ => return Err(named("give one of `exit`, `signal` and `ends`".to_owned())),
    };
    if let Some(stdout) = &program.stdout {
        reply = reply.stdout(stdout.bytes().map_err(named)?);
    }
    if let Some(stderr) = &program.stderr {
        reply = reply.stderr(stderr.bytes().map_err(named)?);
    }
    if let Some(after) = program.after {
        reply = reply.after(after.0);
    }
    for (path, contents) in &program.writes {
        reply = reply.writes(path, contents.bytes().map_err(named)?);
    }
    Ok(Expected {
        program: Pattern::new(program.run.clone()),
        arguments: program
            .arguments
            .map(|arguments| arguments.into_iter().map(Pattern::new).collect()),
        times: match program.times {
            None => Times::Exactly(1),
            Some(TimesEntry::Number(number)) => Times::Exactly(number),
            Some(TimesEntry::Word(TimesWord::Any)) => Times::Any,
        },
        reply,
    })
}

fn failure(fault: Fault) -> Result<(String, usize, Failure), String> {
    let known = || CALLS.iter().copied();
    if !known().any(|call| call == fault.call) {
        let nearest = plugin_manifest::nearest(&fault.call, known());
        let hint = nearest.map_or_else(
            || format!("there are {}", known().collect::<Vec<_>>().join(", ")),
            |nearest| format!("did you mean `{nearest}`?"),
        );
        return Err(format!("`failures` names no call `{}`; {hint}", fault.call));
    }
    let class = match fault.call.as_str() {
        "connect" | "exec" => Class::Ssh,
        "write-file" | "upload" | "download" => Class::Files,
        _ => Class::Orka,
    };
    let (kind, class, code) = match fault.kind {
        KindName::Invalid => (Kind::Invalid, Class::Config, "orka.invalid"),
        KindName::Denied => (Kind::Denied, class, "orka.forbidden"),
        KindName::NotFound => (Kind::NotFound, class, "orka.not-found"),
        KindName::Conflict => (Kind::Conflict, class, "orka.conflict"),
        KindName::NoCapacity => (Kind::NoCapacity, Class::NoCapacity, "orka.no-capacity"),
        KindName::Unauthenticated => (Kind::Unauthenticated, class, "orka.login-declined"),
        KindName::Unavailable if class == Class::Orka => {
            (Kind::Unavailable, class, "orka.server-error")
        }
        KindName::Unavailable => (Kind::Unavailable, Class::Ssh, "ssh.lost"),
        KindName::TimedOut if class == Class::Orka => (Kind::TimedOut, class, "orka.timed-out"),
        KindName::TimedOut => (Kind::TimedOut, Class::Ssh, "ssh.refused"),
        KindName::Other => (Kind::Other, class, "test.failure"),
    };
    let message = fault
        .message
        .unwrap_or_else(|| format!("`{}` fails as the scenario says", fault.call));
    let code = fault.code.unwrap_or_else(|| code.to_owned());
    let mut failure = Failure::new(kind, class, code, message).retryable(fault.retryable);
    failure.hint = fault.hint;
    // No number means every time, which 0 stands for.
    Ok((fault.call, fault.number.unwrap_or(0), failure))
}

/// The limit that only scenarios have.
const FUEL: &str = "fuel";

fn limits(entries: &BTreeMap<String, u64>) -> Result<Limits, String> {
    let names = || TABLE.iter().map(|row| row.name).chain([FUEL]);
    if let Some(unknown) = entries.keys().find(|name| !names().any(|it| it == **name)) {
        let meant = limits::meant(unknown, names());
        return Err(format!("`limits` knows no `{unknown}`; {meant}"));
    }
    if entries.get(FUEL) == Some(&0) {
        return Err(format!(
            "`limits.{FUEL}` is 0, expected a whole number from 1"
        ));
    }
    let changes: Vec<(String, String)> = entries
        .iter()
        .filter(|(name, _)| *name != FUEL)
        .map(|(name, value)| (name.clone(), value.to_string()))
        .collect();
    let limits = Limits::default().with(&changes).map_err(said)?;
    Ok(Limits {
        fuel: entries.get(FUEL).copied(),
        ..limits
    })
}

/// The operator's file with this one entry.
fn grants(entry: Grants) -> Result<Granted, String> {
    let mut entry: yaml_serde::Mapping = entry
        .members
        .into_iter()
        .map(|(name, value)| (Value::from(name), value))
        .collect();
    let names_one = entry.contains_key("plugin");
    if !names_one {
        entry.insert("plugin".into(), "*".into());
    }
    let file =
        yaml_serde::Mapping::from_iter([("grant".into(), vec![Value::Mapping(entry)].into())]);
    let file = yaml_serde::from_value(Value::Mapping(file))
        .map(Arc::new)
        .map_err(|error| format!("`grants`: {error}"))?;
    Ok(Granted::ByEntry { file, names_one })
}

fn contents(
    member: &str,
    files: &BTreeMap<String, Contents>,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    files
        .iter()
        .map(|(path, contents)| {
            let bytes = contents
                .bytes()
                .map_err(|problem| format!("`{member}.{path}`: {problem}"))?;
            Ok((path.clone(), bytes))
        })
        .collect()
}

fn said(failure: Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{failure}; {hint}"),
        None => failure.to_string(),
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scripted => "scripted",
            Self::Simulator => "simulator",
        })
    }
}

/// The JSON Schema of a file of scenarios.
#[cfg(test)]
pub(crate) fn schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
