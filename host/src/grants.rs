//! What a plugin may do: what its manifest asks for, and what the operator grants. Both must name it.
//!
//! The operator's file is in [`file`], upper limits in [`ceilings`], what a run used of it all in [`used`].

mod bundled;
mod ceilings;
mod entry;
mod file;
mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plugin_manifest::{
    ANY_SECRET, Capability, Ceiling, Items, Manifest, Parameter, ParameterValue, nearest,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::backend::Copied;
use crate::backend::orka::CPU_CORES_DEFAULT;
use crate::bindings::orka::plugin::cluster::VmSpec;
use crate::cli::GrantArgs;
use crate::console::Console;
use crate::failure::{Class, Failure, Kind};
use crate::mask;

pub use ceilings::Ceilings;
pub use file::GrantsFile;
pub use used::{Asked, Granted, GrantsRecord, Used, read_report};

use bundled::{other_file, pin};
use used::narrowest;

use entry::{Entry, Form};
use file::{Grant, Place, WorkspaceAccess, is_namesake};

/// What this run's plugin may do.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    capabilities: BTreeSet<Capability>,
    secrets: BTreeSet<String>,
    /// What the entry names and its ceiling `workspace` takes away again.
    withheld: BTreeSet<Capability>,
    /// Upper limits.
    pub ceilings: Ceilings,
    /// `file:line` of the entry that grants it.
    by: Option<String>,
    /// Whether the plugin came with this program.
    bundled: bool,
    /// Whether the run's deadline is the grant's.
    is_deadline_granted: bool,
    /// Who asks, and what decides about it, for hints.
    asker: Option<Arc<Asker>>,
    used: Arc<Mutex<Used>>,
}

/// In an entry: all secrets that a plugin asks for.
const ALL_SECRETS: &str = "*";

/// A plugin and the entry that decides about it.
#[derive(Debug)]
struct Asker {
    /// All that the manifest asks for.
    asked: BTreeSet<Capability>,
    /// Whether it takes secrets whatever they are called.
    takes_any_secret: bool,
    /// What would grant it what it has.
    entry: Entry,
    form: Form,
    decided_by: Option<Decider>,
}

/// An entry of the operator's file.
#[derive(Debug)]
struct Decider {
    place: Place,
    /// Whether it is for every plugin.
    is_for_all: bool,
    /// Its `capabilities` as they are written.
    capabilities: Vec<String>,
    /// Its `secrets` as they are written.
    secrets: Vec<String>,
}

/// What a run may have beside what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct More {
    capabilities: BTreeSet<Capability>,
    secrets: BTreeSet<String>,
}

impl More {
    /// What values of parameters need, as far as the manifest says so: capabilities, and those secrets that there are.
    pub(crate) fn for_parameters(
        manifest: &Manifest,
        values: &BTreeMap<String, ParameterValue>,
        at_hand: &BTreeMap<String, SecretString>,
    ) -> Self {
        let mut more = Self::default();
        for (_, parameter, value) in declared(manifest, values) {
            more.capabilities.extend(needed(parameter, value));
            let secrets = named_secrets(parameter, value).into_iter();
            // A name that is wrong is not to be granted first.
            let there = secrets.filter(|name| at_hand.contains_key(*name));
            more.secrets.extend(there.map(str::to_owned));
        }
        more
    }

    fn capability(capability: Capability) -> Self {
        Self {
            capabilities: BTreeSet::from([capability]),
            ..Self::default()
        }
    }

    fn secret(name: &str) -> Self {
        Self {
            secrets: BTreeSet::from([name.to_owned()]),
            ..Self::default()
        }
    }
}

/// Parameters and their values, by name.
fn declared<'a>(
    manifest: &'a Manifest,
    values: &'a BTreeMap<String, ParameterValue>,
) -> impl Iterator<Item = (&'a String, &'a Parameter, &'a ParameterValue)> {
    values
        .iter()
        .filter_map(|(name, value)| Some((name, manifest.parameters.get(name)?, value)))
}

/// The capability that this value needs.
fn needed(parameter: &Parameter, value: &ParameterValue) -> Option<Capability> {
    let is_default = parameter.default.as_ref() == Some(value);
    parameter.capability.filter(|_| !is_default)
}

/// The secrets that this value names.
fn named_secrets<'a>(parameter: &Parameter, value: &'a ParameterValue) -> BTreeSet<&'a str> {
    let Some(items @ Items::SecretEnvironment) = parameter.items else {
        return BTreeSet::new();
    };
    let lines = value.as_list().unwrap_or_default().iter();
    let variables = lines.filter_map(|line| items.variable(line));
    variables.map(|(_, secret)| secret).collect()
}

/// What says that a secret is nowhere.
pub(crate) fn no_secret(name: &str) -> Failure {
    Failure::new(
        Kind::NotFound,
        Class::Config,
        "secrets.not-found",
        format!("this run has no secret `{name}`"),
    )
    .with_hint(format!(
        "put a file `{name}` into the directory given with `--secrets`"
    ))
}

/// The same, where the names of those that there are can help.
fn no_such_secret(name: &str, at_hand: &BTreeMap<String, SecretString>) -> Failure {
    match plugin_manifest::nearest(name, at_hand.keys().map(String::as_str)) {
        Some(nearest) => no_secret(name).with_hint(format!("did you mean `{nearest}`?")),
        None => no_secret(name),
    }
}

/// What keeps a secret from being a variable of a script, whose output is everybody's.
fn unfit_for_scripts(name: &str, value: &SecretString) -> Option<Failure> {
    let value = value.expose_secret();
    let why = if value.contains('\0') {
        "it holds a NUL byte, which no environment variable can"
    } else if !value.is_empty() && !mask::is_masked(value) {
        "it is too short to be kept out of the log: it needs four characters"
    } else {
        return None;
    };
    let message = format!("secret `{name}` cannot be given to a script: {why}");
    let hint = format!("change the file `{name}` in the directory given with `--secrets`");
    Some(Failure::config(message).with_hint(hint))
}

impl Grants {
    /// What `manifest` asks for and the operator grants.
    ///
    /// A plugin that came with this program (`bundled`) and is not mentioned in the file has its stock grant: all that it
    /// asks for, and nothing of what it can do without. Any other plugin that is not mentioned has nothing, and so has a
    /// bundled one that is mentioned with the digest of another file only.
    ///
    /// # Errors
    ///
    /// A request outside the grant, naming the lines that would allow it.
    pub fn intersect(
        file: Option<&GrantsFile>,
        manifest: &Manifest,
        digest: &str,
        bundled: bool,
    ) -> Result<Self, Failure> {
        Self::intersect_for(file, manifest, digest, bundled, &More::default())
    }

    /// As [`Grants::intersect`], for a run that needs `more` for its parameters: what would allow the one is told together
    /// with what would allow the other.
    ///
    /// # Errors
    ///
    /// As [`Grants::intersect`]; that `more` is granted is left to [`Grants::admit_parameters`].
    pub(crate) fn intersect_for(
        file: Option<&GrantsFile>,
        manifest: &Manifest,
        digest: &str,
        bundled: bool,
        more: &More,
    ) -> Result<Self, Failure> {
        let found = file.and_then(|file| {
            let (position, grant) = file.find(manifest, digest, bundled)?;
            Some((grant, file.place(position)))
        });
        if bundled
            && found.is_none()
            && let Some(denied) = file.and_then(|file| other_file(file, manifest, digest))
        {
            return Err(denied);
        }
        let mut granted = match &found {
            Some((grant, place)) => Self::of(grant, place.clone(), manifest)?,
            None if bundled => Self {
                capabilities: manifest.capabilities.clone(),
                secrets: manifest.secrets.clone(),
                ..Self::default()
            },
            None => Self::default(),
        };
        granted.bundled = bundled;
        let missing: Vec<String> = manifest
            .capabilities
            .difference(&granted.capabilities)
            .map(ToString::to_string)
            .chain(manifest.secrets.difference(&granted.secrets).cloned())
            .map(|name| format!("\"{name}\""))
            .collect();
        if missing.is_empty() {
            let pin = pin(found.as_ref(), digest, bundled);
            let asker = Asker::of(file, found.as_ref(), manifest, pin, &granted);
            granted.asker = Some(Arc::new(asker));
            return Ok(granted);
        }
        Err(Failure::denied(
            "run.not-granted",
            format!(
                "plugin `{}` asks for what it was not granted: {}{}",
                manifest.name,
                missing.join(", "),
                if is_namesake(manifest, bundled) {
                    "; it is not the one of that name that came with this program, so an entry for it has its digest"
                } else {
                    ""
                }
            ),
        )
        .with_hint(how_to_grant(
            file,
            found.as_ref(),
            manifest,
            (digest, pin(found.as_ref(), digest, bundled)),
            &granted,
            more,
        )))
    }

    fn of(grant: &Grant, place: Place, manifest: &Manifest) -> Result<Self, Failure> {
        let mut capabilities = BTreeSet::new();
        for name in &grant.capabilities {
            capabilities.extend(expand(name).map_err(Failure::config)?);
        }
        let above: &[Capability] = match grant.ceilings.workspace {
            None | Some(WorkspaceAccess::Write) => &[],
            Some(WorkspaceAccess::Read) => &[Capability::WorkspaceWrite],
            Some(WorkspaceAccess::None) => &[Capability::WorkspaceWrite, Capability::WorkspaceRead],
        };
        let withheld: BTreeSet<Capability> = above
            .iter()
            .copied()
            .filter(|capability| capabilities.remove(capability))
            .collect();
        let mut secrets: BTreeSet<String> = grant.secrets.iter().cloned().collect();
        if secrets.remove(ALL_SECRETS) {
            // What it takes whatever it is called has to be named here all the same.
            let asked = manifest.secrets.union(&manifest.optional_secrets);
            secrets.extend(asked.cloned());
        }
        // What is said of all plugins was not said with scripts in mind that may have whatever they name.
        let takes_any = manifest.optional_secrets.contains(ANY_SECRET) && grant.plugin != "*";
        let is_asked_for = |name: &String| {
            let is_named =
                manifest.secrets.contains(name) || manifest.optional_secrets.contains(name);
            name != ANY_SECRET && (is_named || takes_any)
        };
        let asked: BTreeSet<Capability> = manifest
            .capabilities
            .union(&manifest.optional_capabilities)
            .copied()
            .collect();
        Ok(Self {
            capabilities: capabilities.intersection(&asked).copied().collect(),
            secrets: secrets.into_iter().filter(is_asked_for).collect(),
            withheld: withheld.intersection(&asked).copied().collect(),
            by: place.entry(),
            bundled: false,
            is_deadline_granted: false,
            asker: None,
            ceilings: Ceilings::of(grant, place)?,
            used: Arc::default(),
        })
    }

    /// Everything, for tests of plugins: these secrets as well where the plugin takes any.
    pub fn everything<'a>(
        manifest: &'a Manifest,
        secrets: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let takes_any = manifest.optional_secrets.contains(ANY_SECRET);
        let optional = secrets
            .into_iter()
            .filter(|name| takes_any || manifest.optional_secrets.contains(*name));
        Self {
            capabilities: manifest
                .capabilities
                .union(&manifest.optional_capabilities)
                .copied()
                .collect(),
            secrets: manifest.secrets.iter().chain(optional).cloned().collect(),
            ..Self::default()
        }
    }

    /// How long a VM may be kept after the run; none if the run may keep none.
    pub fn keep_max(&self) -> Option<Duration> {
        let granted = self.capabilities.contains(&Capability::ClusterKeep);
        granted.then_some(self.ceilings.keep_max)
    }

    /// Whether the run may bring files back from its VMs at all.
    pub fn may_fetch(&self) -> bool {
        let needed = [Capability::SshTransfer, Capability::WorkspaceWrite];
        needed.into_iter().all(|needed| self.allows(needed))
    }

    /// Whether the run may do this. Nothing is noted: a run that might have is not one that did.
    pub fn allows(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Lets the caller go on only with this capability, and notes that it was used.
    ///
    /// # Errors
    ///
    /// `denied`, naming the capability.
    pub fn require(&self, capability: Capability) -> Result<(), Failure> {
        if self.capabilities.contains(&capability) {
            self.used().capabilities.insert(capability.to_string());
            return Ok(());
        }
        let message = format!("this run was not granted `{capability}`");
        let more = More::capability(capability);
        Err(self.lacks_capability(capability, message, &more))
    }

    /// A denial for want of a capability, with what would grant it and all else of `more`.
    fn lacks_capability(&self, capability: Capability, message: String, more: &More) -> Failure {
        let denied = Failure::denied("run.not-granted", message);
        if self.withheld.contains(&capability) {
            return denied.with_hint(self.ceilings.how_to_raise("workspace"));
        }
        let asker = self.asker.as_ref();
        denied.with_hint(match asker.filter(|asker| asker.asked.contains(&capability)) {
            Some(asker) => asker.how_to_add(more),
            None => format!(
                "ask for `{capability}` in the plugin's manifest and grant it in the grants file"
            ),
        })
    }

    /// Lets a run start with these parameters: with the capabilities and the secrets that their values need, as far as the
    /// manifest says so.
    ///
    /// # Errors
    ///
    /// Every denial, and secrets that are not among those `at_hand`: those that the plugin cannot do without, and those that
    /// values name.
    pub fn admit_parameters(
        &self,
        manifest: &Manifest,
        values: &BTreeMap<String, ParameterValue>,
        at_hand: &BTreeMap<String, SecretString>,
    ) -> Result<(), Vec<Failure>> {
        // Not when the plugin comes to use them, which would be after it has deployed VMs.
        let needed_at_all = manifest.secrets.iter();
        let nowhere = needed_at_all.filter(|name| !at_hand.contains_key(*name));
        let mut failures: Vec<Failure> = nowhere
            .map(|name| {
                let mut failure = no_secret(name);
                failure.message += &format!(", which plugin `{}` needs", manifest.name);
                failure
            })
            .collect();
        let mut more = More::for_parameters(manifest, values, at_hand);
        more.capabilities
            .retain(|it| !self.allows(*it) && !self.withheld.contains(it));
        more.secrets.retain(|it| !self.secrets.contains(it));
        for (name, parameter, value) in declared(manifest, values) {
            if let Some(capability) = needed(parameter, value)
                && !self.allows(capability)
            {
                let message = format!(
                    "`{name}={value}` needs `{capability}`, which this run was not granted"
                );
                failures.push(self.lacks_capability(capability, message, &more));
            }
            for secret in named_secrets(parameter, value) {
                let Some(value) = at_hand.get(secret) else {
                    if !manifest.secrets.contains(secret) {
                        failures.push(no_such_secret(secret, at_hand));
                    }
                    continue;
                };
                if self.secrets.contains(secret) {
                    failures.extend(unfit_for_scripts(secret, value));
                } else {
                    let message = format!(
                        "`{name}` names the secret `{secret}`, which this run was not granted"
                    );
                    failures.push(self.lacks_secret(message, &more));
                }
            }
        }
        let keeps = declared(manifest, values)
            .any(|(_, parameter, value)| needed(parameter, value) == Some(Capability::ClusterKeep));
        if keeps && self.allows(Capability::ClusterKeep) {
            failures.extend(self.above_keep_max(manifest, values));
        }
        once(&mut failures);
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    /// Denials of parameters by which a VM would be kept for longer than is granted. What is no duration is for the plugin to
    /// tell.
    fn above_keep_max(
        &self,
        manifest: &Manifest,
        values: &BTreeMap<String, ParameterValue>,
    ) -> Vec<Failure> {
        let bounded = declared(manifest, values)
            .filter(|(_, parameter, _)| parameter.ceiling == Some(Ceiling::KeepMax));
        let denied = bounded.filter_map(|(name, _, value)| {
            let lifetime = humantime::parse_duration(value.as_text()?).ok()?;
            let mut failure = self.ceilings.admit_keeping(lifetime).err()?;
            failure.message = format!("`{name}={value}`: {}", failure.message);
            Some(failure)
        });
        denied.collect()
    }

    /// A denial for want of a secret, with what would grant it and all else of `more`.
    fn lacks_secret(&self, message: String, more: &More) -> Failure {
        let asker = self.asker.as_ref();
        let hint = match asker.filter(|asker| asker.takes_any_secret) {
            Some(asker) => asker.how_to_add(more),
            None => {
                "name it under `secrets` in the plugin's manifest and in the grants file".to_owned()
            }
        };
        Failure::denied("run.not-granted", message).with_hint(hint)
    }

    /// Lets the caller go on with one of two capabilities.
    ///
    /// # Errors
    ///
    /// `denied`, naming the first one.
    pub fn require_either(&self, first: Capability, second: Capability) -> Result<(), Failure> {
        if self.capabilities.contains(&second) {
            self.require(second)
        } else {
            self.require(first)
        }
    }

    /// Lets the caller go on only if the run may use this secret, and notes that it was used.
    ///
    /// # Errors
    ///
    /// `denied`, naming the secret.
    pub fn require_secret(&self, name: &str) -> Result<(), Failure> {
        if self.secrets.contains(name) {
            self.used().secrets.insert(name.to_owned());
            return Ok(());
        }
        let message = format!("this run was not granted the secret `{name}`");
        Err(self.lacks_secret(message, &More::secret(name)))
    }

    /// Lets a VM of this shape through, as [`Ceilings::admit`], and notes it.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_vm(&self, spec: &mut VmSpec, is_orka2: bool) -> Result<(), Failure> {
        let (cores, memory) = (&mut spec.cpu_cores, &mut spec.memory_mib);
        self.ceilings.admit(&spec.image, cores, memory, is_orka2)?;
        let mut used = self.used();
        used.images.insert(spec.image.clone());
        let cores = spec.cpu_cores.unwrap_or(CPU_CORES_DEFAULT);
        Used::raise(&mut used.cpu_cores, cores);
        if let Some(memory) = spec.memory_mib {
            Used::raise(&mut used.memory_mib, memory);
        }
        Ok(())
    }

    /// How long the run may last, as [`Ceilings::admit_lifetime`]; notes it.
    ///
    /// # Errors
    ///
    /// `denied` where more was asked for than granted, naming the ceiling.
    pub fn admit_lifetime(
        &mut self,
        timeout: Duration,
        default: Duration,
    ) -> Result<Duration, Failure> {
        let admitted = self.ceilings.admit_lifetime(timeout, default)?;
        self.is_deadline_granted = self.ceilings.lifetime == Some(admitted);
        self.used().timeout_asked_seconds = (timeout != default).then(|| whole_seconds(timeout));
        Ok(admitted)
    }

    /// That the run's deadline has passed, with what would have to change.
    pub fn deadline_passed(&self) -> Failure {
        let failure = Failure::deadline();
        if !self.is_deadline_granted {
            return failure;
        }
        let raise = self.ceilings.how_to_raise("lifetime");
        match self.used().timeout_asked_seconds {
            Some(_) => {
                failure.with_hint(format!("{raise}, and `--timeout` can be raised after that"))
            }
            None => failure.with_hint(raise),
        }
    }

    /// Lets the run into an Orka namespace, and notes it.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_namespace(&self, namespace: &str) -> Result<(), Failure> {
        self.ceilings.admit_namespace(namespace)?;
        self.used().namespaces.insert(namespace.to_owned());
        Ok(())
    }

    /// Lets a program be started, and notes it.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_program(&self, program: &str) -> Result<(), Failure> {
        self.ceilings.admit_program(program)?;
        self.used().programs.insert(program.to_owned());
        Ok(())
    }

    /// Notes a deployment: so many VMs at once, so many in all.
    pub fn note_deployment(&self, (at_once, total): (u32, u32)) {
        let mut used = self.used();
        used.vms_at_once = used.vms_at_once.max(at_once);
        used.vms_total = used.vms_total.max(total);
    }

    /// Notes the memory of a VM whose plugin left it open, where it is known.
    pub fn note_memory(&self, told: Option<u32>) {
        if let Some(memory) = told {
            Used::raise(&mut self.used().memory_mib, memory);
        }
    }

    /// Notes what a download took of the ceilings, beside so many bytes and entries that others had taken before.
    pub fn note_artifacts(&self, copied: &Copied, (bytes, entries): (u64, u64)) {
        let mut used = self.used();
        let bytes = bytes.saturating_add(copied.counted_bytes.max(copied.bytes));
        let entries = entries.saturating_add(copied.counted_entries.max(copied.files));
        Used::raise(&mut used.artifact_bytes, bytes);
        Used::raise(&mut used.artifact_count, entries);
    }

    /// Notes for how long a VM is kept.
    pub fn note_keeping(&self, lifetime: Duration) {
        Used::raise(&mut self.used().keep_seconds, whole_seconds(lifetime));
    }

    /// The names of the secrets that the run may use.
    pub fn secrets(&self) -> &BTreeSet<String> {
        &self.secrets
    }

    /// What is granted, for people and for the report.
    pub fn granted(&self) -> Granted {
        Granted::new(
            (self.by.clone(), self.bundled),
            self.capabilities.iter().map(ToString::to_string).collect(),
            self.secrets.clone(),
            self.ceilings.written(),
        )
    }

    /// What was asked for, granted and used, with every text through `mask`. The run may last `timeout`, and has lasted `took`.
    pub fn record(
        &self,
        manifest: &Manifest,
        (timeout, took): (Duration, Duration),
        mask: impl Fn(&str) -> String,
    ) -> GrantsRecord {
        let mut used = self.used().clone();
        used.programs = used.programs.iter().map(|it| mask(it)).collect();
        used.images = used.images.iter().map(|it| mask(it)).collect();
        used.seconds = Some(whole_seconds(took));
        GrantsRecord {
            asked: Asked::of(manifest),
            granted: self.granted(),
            used,
            timeout_seconds: timeout.as_secs(),
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begun seconds count.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// `orka-step grant`: the narrowest file, printed or written; and what there is to say about it.
///
/// # Errors
///
/// As [`narrowest`], or a file that cannot be written.
pub fn grant(args: &GrantArgs, console: &Console) -> Result<String, Failure> {
    let form = args.output.as_deref().map_or(Form::TOML, Form::of);
    let narrowest = narrowest(&args.from_run, form)?;
    narrowest
        .doubts
        .iter()
        .for_each(|doubt| console.warn(doubt));
    let Some(output) = &args.output else {
        return Ok(narrowest.text);
    };
    std::fs::write(output, narrowest.text).map_err(|error| {
        Failure::config(format!("cannot write `{}`", output.display())).with_source(error)
    })?;
    console.info(&format!(
        "wrote into `{}` what plugin `{}` used in the run of `{}`, as its grants",
        output.display(),
        narrowest.plugin,
        args.from_run.display()
    ));
    Ok(String::new())
}

impl Asker {
    fn of(
        file: Option<&GrantsFile>,
        found: Option<&(&Grant, Place)>,
        manifest: &Manifest,
        pin: Option<&str>,
        granted: &Grants,
    ) -> Self {
        let asked = manifest.capabilities.union(&manifest.optional_capabilities);
        let names = |capabilities: &BTreeSet<Capability>| {
            capabilities.iter().map(ToString::to_string).collect()
        };
        Self {
            asked: asked.copied().collect(),
            takes_any_secret: manifest.optional_secrets.contains(ANY_SECRET),
            entry: Entry {
                plugin: manifest.name.clone(),
                digest: pin.map(str::to_owned),
                capabilities: names(&granted.capabilities),
                secrets: granted.secrets.clone(),
                ceilings: granted.ceilings.written().clone(),
            },
            form: file.map_or(Form::TOML, |file| file.form),
            decided_by: found.map(|(grant, place)| Decider {
                place: place.clone(),
                is_for_all: grant.plugin == "*",
                capabilities: grant.capabilities.clone(),
                secrets: grant.secrets.clone(),
            }),
        }
    }

    /// What grants all that besides.
    fn how_to_add(&self, more: &More) -> String {
        let names = || more.capabilities.iter().map(ToString::to_string);
        let whole = || {
            let mut entry = self.entry.clone();
            entry.capabilities.extend(names());
            entry.secrets.extend(more.secrets.iter().cloned());
            entry.text(self.form)
        };
        match &self.decided_by {
            None => format!("{}:\n{}", self.form.into_the_file(), whole()),
            // What an entry for all says of the others stays as it is.
            Some(decider) if decider.is_for_all => {
                let entry = match decider.place.entry() {
                    Some(at) => format!("the entry at {at}"),
                    None => "the entry for `*` in the grants file".to_owned(),
                };
                let set_off = self.form.set_off();
                format!("put this before {entry}{set_off}:\n{}", whole())
            }
            Some(decider) => {
                let secrets = more.secrets.iter().cloned();
                let changes = [
                    self.how_to_change(decider, "capabilities", &decider.capabilities, names()),
                    self.how_to_change(decider, "secrets", &decider.secrets, secrets),
                ];
                let changes: Vec<String> = changes.into_iter().flatten().collect();
                changes.join("\nand ")
            }
        }
    }

    /// The line of an entry that has these items as well; none if there are none.
    fn how_to_change(
        &self,
        decider: &Decider,
        member: &str,
        items: &[String],
        more: impl Iterator<Item = String>,
    ) -> Option<String> {
        let all: Vec<String> = items.iter().cloned().chain(more).collect();
        if all.len() == items.len() {
            return None;
        }
        let line = self.form.member(member, &all.into());
        let place = &decider.place;
        let set_off = self.form.set_off();
        let what = match (place.member(member), place.entry()) {
            (Some(at), _) => format!("change `{member}` at {at} to"),
            (None, Some(at)) if set_off.is_empty() => format!("add this below {at}"),
            (None, Some(at)) => format!("add this to the entry at {at}{set_off}"),
            (None, None) => "add this to its entry in the grants file".to_owned(),
        };
        Some(format!("{what}:\n{}{line}", self.form.indentation()))
    }
}

/// Leaves of hints that follow one another and are the same the last one.
fn once(failures: &mut [Failure]) {
    for position in 1..failures.len() {
        let (before, after) = failures.split_at_mut(position);
        if let (Some(before), Some(after)) = (before.last_mut(), after.first())
            && before.hint == after.hint
        {
            before.hint = None;
        }
    }
}

/// The entry that would allow all that a plugin asks for, and what it has to take the place of.
fn how_to_grant(
    file: Option<&GrantsFile>,
    found: Option<&(&Grant, Place)>,
    manifest: &Manifest,
    (digest, pin): (&str, Option<&str>),
    granted: &Grants,
    more: &More,
) -> String {
    let wanted: BTreeSet<Capability> = [&manifest.capabilities, &granted.capabilities]
        .into_iter()
        .chain([&more.capabilities])
        .flatten()
        .copied()
        .collect();
    let secrets: BTreeSet<String> = [&manifest.secrets, &granted.secrets]
        .into_iter()
        .chain([&more.secrets])
        .flatten()
        .cloned()
        .collect();
    let withheld = !wanted.is_disjoint(&granted.withheld);
    let with_ceiling: BTreeSet<Capability> = granted
        .capabilities
        .union(&granted.withheld)
        .copied()
        .collect();
    if withheld && wanted.is_subset(&with_ceiling) && secrets.is_subset(&granted.secrets) {
        return granted.ceilings.how_to_raise("workspace");
    }
    let form = file.map_or(Form::TOML, |file| file.form);
    let at = |place: &Place| match place.entry() {
        Some(entry) => format!(" at {entry}"),
        None => String::new(),
    };
    let other_digest = file.and_then(|file| {
        let position = file
            .grants
            .iter()
            .position(|it| it.plugin == manifest.name)?;
        Some((
            file.grants[position].digest.as_deref()?,
            file.place(position),
        ))
    });
    let place = match (found, other_digest) {
        (Some((grant, place)), _) => format!(
            "the entry{} grants less; if you trust the plugin, {}",
            at(place),
            // What an entry for all says of the others stays as it is.
            if grant.plugin == "*" {
                format!("put this before it{}", form.set_off())
            } else {
                "replace that entry by".to_owned()
            }
        ),
        // Not a whole entry: what the operator limits in it is to stay.
        (None, Some((other, place))) => {
            let line = place.member("digest").map(|line| format!(" at {line}"));
            return format!(
                "the grants file has an entry for `{}`{} with the digest {other}; if you trust this file too, change `digest`{} to:\n{}",
                manifest.name,
                at(&place),
                line.unwrap_or_default(),
                form.member("digest", &digest.into())
            );
        }
        (None, None) => format!("if you trust it, {}", form.into_the_file()),
    };
    let mut entry = Entry {
        plugin: manifest.name.clone(),
        digest: pin.map(str::to_owned),
        capabilities: wanted.iter().map(ToString::to_string).collect(),
        // What it can do without was granted all the same, and stays so.
        secrets,
        ..Entry::default()
    };
    if let Some((grant, _)) = found {
        entry.ceilings = grant.ceilings.clone();
        if withheld {
            entry.ceilings.workspace = Some(WorkspaceAccess::Write);
        }
    }
    format!("{place}:\n{}", entry.text(form))
}

/// The capabilities that a name in the grants file stands for.
fn expand(name: &str) -> Result<BTreeSet<Capability>, String> {
    let Some(prefix) = name.strip_suffix('*') else {
        return name
            .parse()
            .map(|capability| BTreeSet::from([capability]))
            .map_err(|error: plugin_manifest::UnknownCapability| error.to_string());
    };
    if !prefix.is_empty() && !prefix.ends_with('.') {
        return Err(format!(
            "`{name}`: `*` stands only for a whole last part, as in `ssh.*`"
        ));
    }
    let matching: BTreeSet<Capability> = Capability::ALL
        .iter()
        .copied()
        .filter(|capability| capability.to_string().starts_with(prefix))
        .collect();
    if !matching.is_empty() {
        return Ok(matching);
    }
    let groups = groups();
    let meant = match nearest(prefix.trim_end_matches('.'), groups.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}.*`?"),
        None => {
            let all: Vec<String> = groups.iter().map(|group| format!("`{group}.*`")).collect();
            format!("there are {}", all.join(", "))
        }
    };
    Err(format!("`{name}` stands for no capability; {meant}"))
}

/// What capabilities begin with before the dot.
fn groups() -> BTreeSet<&'static str> {
    let names = Capability::ALL.iter().map(|it| it.as_str());
    names
        .filter_map(|name| Some(name.split_once('.')?.0))
        .collect()
}

#[cfg(test)]
#[path = "grants/tests.rs"]
mod tests;
