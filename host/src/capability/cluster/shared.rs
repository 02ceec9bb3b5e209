//! What Tasks of one pipeline run share: a VM config that one makes and others deploy from, and the purge of it all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use plugin_manifest::Capability;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::keep::still_there;
use super::{Template, Vm, VmConfig, key_of, older, still_signed_in};
use crate::backend::StoredConfig;
use crate::backend::orka::NO_SUCH_CALL;
use crate::bindings::orka::plugin::cluster::{Purged, VmSpec};
use crate::failure::{Class, Failure, Kind};
use crate::identity::{HOW_TO_TELL_RUN, Identity};
use crate::ledger::{Debt, State, Thing, record};
use crate::reap::name::Name;
use crate::reap::{Execution, Fate, Inventory, Plan, Rules, Selection, plan};
use crate::state::RunContext;

/// How long the purge of a whole run may take.
const PURGE_RUN_TIMEOUT: Duration = Duration::from_secs(300);

/// How long to look for VMs that Orka was still deploying when their step was killed, as `reap --run` does.
const PURGE_RUN_LINGERS: Duration = Duration::from_secs(3);

/// Pause between looks for what appears late.
const PURGE_RUN_PAUSE: Duration = Duration::from_secs(1);

/// Names deleted at the same time, as a reaper does.
const PURGE_RUN_PARALLEL: usize = 8;

/// The form of the text; raised when a reader of before would get it wrong.
const VERSION: u32 = 1;

/// A VM config as one Task tells another of it. Written tersely: it has to fit a Tekton result.
#[derive(Serialize, Deserialize)]
struct Text {
    v: u32,
    name: String,
    /// Orka's generation, 2 or 3.
    orka: u8,
    #[serde(flatten)]
    spec: Spec,
}

/// The contract's `vm-spec`, without what is left to the cluster.
#[derive(Default, Serialize, Deserialize)]
struct Spec {
    image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mem: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vnc: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gpu: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tag_required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheduler: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<(String, String)>,
}

impl From<&VmSpec> for Spec {
    fn from(spec: &VmSpec) -> Self {
        Self {
            image: spec.image.clone(),
            cpu: spec.cpu_cores,
            vcpu: spec.vcpus,
            mem: spec.memory_mib,
            vnc: spec.vnc_console,
            gpu: spec.gpu_passthrough,
            serial: spec.system_serial.clone(),
            tag: spec.tag.clone(),
            tag_required: spec.tag_required,
            scheduler: spec.scheduler.clone(),
            options: spec.options.clone(),
        }
    }
}

impl From<Spec> for VmSpec {
    fn from(spec: Spec) -> Self {
        Self {
            image: spec.image,
            cpu_cores: spec.cpu,
            vcpus: spec.vcpu,
            memory_mib: spec.mem,
            vnc_console: spec.vnc,
            gpu_passthrough: spec.gpu,
            system_serial: spec.serial,
            tag: spec.tag,
            tag_required: spec.tag_required,
            scheduler: spec.scheduler,
            options: spec.options,
        }
    }
}

fn generation(run: &RunContext) -> u8 {
    if run.cluster.stores_configs() { 2 } else { 3 }
}

fn conflict(code: &'static str, message: String) -> Failure {
    Failure::new(Kind::Conflict, Class::Plugin, code, message)
}

/// The VM configs of the run that are shared under this word, by number.
async fn shared(
    run: &RunContext,
    channel: &str,
) -> Result<BTreeMap<u32, (String, StoredConfig)>, Failure> {
    let hash = Identity::channel_hash(channel);
    let stored = run.cluster.stored_configs().await?;
    Ok(stored
        .into_iter()
        .filter_map(|(name, config)| {
            let parsed = Name::parse(run.identity.prefix(), &name)?;
            let is_ours = parsed.run_hash == run.identity.run_hash() && parsed.pod_hash == hash;
            let number = parsed.number;
            is_ours.then_some((number, (name, config)))
        })
        .collect())
}

/// Tasks that share need the UID of their run; without one nobody finds what is shared.
fn warn_of_a_run_that_nobody_knows(run: &RunContext) {
    if !run.identity.run_is_told() {
        run.console.warn(&format!(
            "this run was told no UID, so that no other Task can find what it shares, nor it theirs\nhint: {HOW_TO_TELL_RUN}"
        ));
    }
}

/// Makes a VM config that other Tasks of the run find by themselves, or takes up the one that an earlier attempt of this
/// Task has left.
pub(super) async fn create(
    run: &RunContext,
    channel: &str,
    mut spec: VmSpec,
) -> Result<VmConfig, Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    run.grants.require(Capability::ClusterHandOver)?;
    warn_of_a_run_that_nobody_knows(run);
    run.guards.config(run, &mut spec).await?;
    run.admit_vm(&mut spec)?;
    still_signed_in(run)?;
    older::claim(run).await?;
    // What is in the ledger already is being deleted: an earlier pod did not come to its end.
    let present = match shared(run, channel).await {
        Ok(present) => present,
        Err(failure) if cannot_be_stored(run, &failure) => {
            return create_unstored(run, spec, &failure).await;
        }
        Err(failure) => return Err(failure),
    };
    let usable = present
        .values()
        .find(|(name, _)| run.ledger.debt(name).is_none());
    if let Some((name, stored)) = usable {
        if differs(stored, &spec) {
            return Err(conflict(
                "run.config-exists",
                format!(
                    "this pipeline run has another VM config for `{channel}` already, `{name}`"
                ),
            )
            .with_hint(
                "give each `orka-init` of a pipeline run an `orka-vm-name-config` of its own",
            ));
        }
        run.ledger.owe(Thing::SharedConfig, name)?;
        run.ledger.created(name);
        run.console.info(&format!(
            "VM config `{name}` is there already, from an earlier attempt"
        ));
        return Ok(template(name.clone(), spec, false));
    }
    let taken = present.keys().copied().max().unwrap_or_default();
    let name = (taken + 1..)
        .map(|number| run.identity.shared_name(channel, number))
        .find(|name| run.ledger.debt(name).is_none())
        .unwrap_or_default();
    run.ledger.owe(Thing::SharedConfig, &name)?;
    run.results.set_own("vm-name", &name)?;
    run.ledger.create_begins(&name);
    let created = run.cluster.store_config(&name, &spec).await;
    if !matches!(&created, Err(failure) if failure.may_have_happened) {
        run.ledger.create_ends(&name);
    }
    match created {
        Ok(()) => {
            run.ledger.created(&name);
            run.console
                .info(&format!("VM config `{name}`: image `{}`", spec.image));
            Ok(template(name, spec, false))
        }
        Err(failure) => {
            if !failure.may_have_happened {
                run.ledger.released(&name);
            }
            if cannot_be_stored(run, &failure) {
                return create_unstored(run, spec, &failure).await;
            }
            Err(failure)
        }
    }
}

/// Orka 3: whether this account may use VMs but no VM configs, which live in a namespace of their own.
fn cannot_be_stored(run: &RunContext, failure: &Failure) -> bool {
    !run.cluster.stores_configs()
        && !failure.may_have_happened
        && (failure.kind == Kind::Denied || failure.code == NO_SUCH_CALL)
}

async fn create_unstored(
    run: &RunContext,
    spec: VmSpec,
    why: &Failure,
) -> Result<VmConfig, Failure> {
    run.console.warn(&format!(
        "the VM config is not stored on the cluster ({why}): other Tasks need the result `vm-config`, or a workspace they share"
    ));
    let name = run.identity.next()?;
    run.cluster.create_config(&name, &spec).await?;
    Ok(template(name, spec, false))
}

fn differs(stored: &StoredConfig, spec: &VmSpec) -> bool {
    let image = stored
        .image
        .as_ref()
        .is_some_and(|image| *image != spec.image);
    let cores = stored.cpu_cores.zip(spec.cpu_cores);
    image || cores.is_some_and(|(there, here)| there != here)
}

fn template(name: String, spec: VmSpec, adopted: bool) -> VmConfig {
    VmConfig(Arc::new(Template {
        name,
        spec,
        adopted,
        deployed: Mutex::default(),
    }))
}

/// The VM config that a Task of the run shares under this word; none while there is none.
pub(super) async fn find(run: &RunContext, channel: &str) -> Result<Option<VmConfig>, Failure> {
    run.grants.require(Capability::ClusterAdopt)?;
    still_signed_in(run)?;
    let Some((_, (name, stored))) = shared(run, channel).await?.pop_last() else {
        return Ok(None);
    };
    let mut spec = VmSpec::from(Spec {
        image: stored.image.unwrap_or_default(),
        cpu: stored.cpu_cores,
        mem: stored.memory_mib,
        ..Spec::default()
    });
    run.guards.settled_config(run, &spec).await?;
    run.admit_vm(&mut spec)?;
    tell_adopted(run, &name, &spec);
    Ok(Some(template(name, spec, true)))
}

fn tell_adopted(run: &RunContext, name: &str, spec: &VmSpec) {
    run.console.info(&format!(
        "took up VM config `{name}`: image `{}`",
        spec.image
    ));
}

/// Leaves a VM config to other Tasks.
pub(super) async fn hand_over(run: &RunContext, template: &Template) -> Result<String, Failure> {
    run.grants.require(Capability::ClusterHandOver)?;
    may_hand_over(template)?;
    let name = &template.name;
    let text = Text {
        v: VERSION,
        name: name.clone(),
        orka: generation(run),
        spec: Spec::from(&template.spec),
    };
    let text = serde_json::to_string(&text).map_err(|error| {
        Failure::internal("a VM config cannot be written down").with_source(error)
    })?;
    // As long as that fails the VM config is this run's to delete.
    older::publish(run, name).await?;
    run.ledger.hand_over(name)?;
    older::published(run);
    template.deployed().handed_over = true;
    run.console.info(&format!(
        "handed VM config `{name}` over to later Tasks of the run"
    ));
    Ok(text)
}

fn may_hand_over(template: &Template) -> Result<(), Failure> {
    let name = &template.name;
    let deployed = template.deployed();
    if template.adopted {
        return Err(conflict(
            "run.config-adopted",
            format!("the VM config `{name}` was adopted, and stays as it is"),
        ));
    }
    if deployed.purged {
        return Err(conflict(
            "run.config-purged",
            format!("the VM config `{name}` was purged"),
        ));
    }
    if !deployed.names.is_empty() {
        return Err(conflict(
            "run.config-in-use",
            format!("VMs were deployed from the VM config `{name}`"),
        ));
    }
    Ok(())
}

/// Leaves a VM to whoever purges the run.
pub(super) fn hand_over_vm(run: &RunContext, vm: &Vm) -> Result<(), Failure> {
    run.grants.require(Capability::ClusterHandOver)?;
    still_there(run, vm)?;
    run.ledger.hand_over_vm(&vm.info.name, key_of(&vm.info))?;
    run.console.info(&format!(
        "left VM `{}` to the purge of the run",
        vm.info.name
    ));
    Ok(())
}

/// Takes up a VM config that another Task of the run handed over.
pub(super) async fn adopt(run: &RunContext, text: &str) -> Result<VmConfig, Failure> {
    run.grants.require(Capability::ClusterAdopt)?;
    still_signed_in(run)?;
    let wrong = |message: String| {
        Failure::invalid("handoff.vm-config", message).with_hint(
            "hand on what the Task that made the VM config gave, such as its result `vm-config`",
        )
    };
    let text: Text = serde_json::from_str(text.trim()).map_err(|error| {
        wrong(format!(
            "this is no VM config that was handed over: {error}"
        ))
    })?;
    if text.v > VERSION {
        return Err(wrong(
            "the VM config was handed over by a newer program".to_owned(),
        ));
    }
    let name = text.name;
    // The only thing that keeps two runs in one namespace apart: nobody's word counts for it but the name's.
    if !run.identity.is_of_run(&name) {
        return Err(wrong(format!(
            "`{}` is not of this pipeline run",
            name.escape_default()
        )));
    }
    if text.orka != generation(run) {
        return Err(wrong(format!(
            "`{name}` was made on Orka {}, this cluster speaks Orka {}",
            text.orka,
            generation(run)
        )));
    }
    let mut spec = VmSpec::from(text.spec);
    if run.cluster.stores_configs() {
        let stored = run.cluster.config(&name).await?.ok_or_else(|| {
            Failure::new(
                Kind::NotFound,
                Class::Orka,
                "orka.config-gone",
                format!("the VM config `{name}` is gone"),
            )
            .with_hint("the run may have been purged already, or its first Task did not end well")
        })?;
        // What the cluster holds is what is deployed, whatever the text says.
        spec.image = stored.image.unwrap_or(spec.image);
        spec.cpu_cores = stored.cpu_cores.or(spec.cpu_cores);
        spec.memory_mib = stored.memory_mib.or(spec.memory_mib);
        run.admit_vm(&mut spec)?;
        run.guards.settled_config(run, &spec).await?;
    } else {
        run.guards.config(run, &mut spec).await?;
        run.admit_vm(&mut spec)?;
        run.cluster.create_config(&name, &spec).await?;
    }
    tell_adopted(run, &name, &spec);
    Ok(template(name, spec, true))
}

/// Whether this run may purge: asked before anything of the pipeline run is touched, on Orka or elsewhere.
pub(super) fn may_purge_run(run: &RunContext) -> Result<(), Failure> {
    run.grants.require(Capability::ClusterPurgeRun)?;
    // What this run has made itself it knows without a UID.
    if run.ledger.is_untouched() {
        run.identity
            .require_run("everything of a run is to be deleted, and this one has made nothing")?;
    }
    still_signed_in(run)
}

/// Deletes everything of the pipeline run, and looks again for what was still being deployed when its step was killed.
pub(super) async fn purge_run(run: &RunContext) -> Result<Purged, Failure> {
    let started = Instant::now();
    let deadline = run.deadline_within(PURGE_RUN_TIMEOUT);
    let mut removed = BTreeSet::new();
    loop {
        let plan = plan_purge(run).await?;
        let names: Vec<String> = plan.to_delete().map(ToOwned::to_owned).collect();
        let had_work = !names.is_empty();
        delete(run, names, deadline, &mut removed).await?;
        let lingers = started.elapsed() < PURGE_RUN_LINGERS;
        if Instant::now() >= deadline || !(lingers || had_work) {
            let of_run = plan
                .entries
                .into_iter()
                .filter(|entry| entry.item.run_hash == run.identity.run_hash());
            return Ok(Purged {
                kept: of_run
                    .map(|entry| entry.item.name)
                    .filter(|name| !removed.contains(name))
                    .collect(),
                removed: removed.into_iter().collect(),
            });
        }
        if !had_work {
            sleep(PURGE_RUN_PAUSE).await;
        }
    }
}

/// What there is of the run, and what of it is kept.
async fn plan_purge(run: &RunContext) -> Result<Plan, Failure> {
    let listed = run.cluster.list().await?;
    let rules = Rules {
        selection: Selection::Runs(BTreeSet::from([run.identity.run_hash().to_owned()])),
        kept: kept(run)?,
        include_kept: false,
        first_seen: BTreeMap::new(),
        now: Timestamp::now(),
    };
    Ok(plan(Inventory::new(run.identity.prefix(), listed), &rules))
}

async fn delete(
    run: &RunContext,
    names: Vec<String>,
    deadline: Instant,
    removed: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let execution = Execution {
        cluster: run.cluster.as_ref(),
        console: &run.console,
        stop: &run.stop,
        deadline,
        parallel: PURGE_RUN_PARALLEL,
        unless_in_use: BTreeSet::new(),
    };
    let mut left = Vec::new();
    for (name, fate) in execution.delete(names).await {
        match fate {
            Fate::Remains(failure) => left.push((name, failure)),
            // Not of a run that is purged whole.
            Fate::InUse => {}
            Fate::Deleted | Fate::AlreadyGone => {
                let is_own = |debt: Debt| debt.state != State::Released;
                if run.ledger.debt(&name).is_some_and(is_own) {
                    run.ledger.released(&name);
                }
                removed.insert(name);
            }
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(leftovers(run, left))
    }
}

/// Until when things of the run are kept: what the ledgers of its workspace say, this run's own included.
fn kept(run: &RunContext) -> Result<BTreeMap<String, Timestamp>, Failure> {
    let mut kept = match &run.workspace {
        None => BTreeMap::new(),
        Some(workspace) => {
            let own_run = BTreeSet::from([run.identity.run_hash().to_owned()]);
            record::kept(&workspace.dir, Some(&own_run)).map_err(|error| {
                Failure::files(
                    "files.ledger",
                    "the ledgers in the workspace cannot be read, so what is kept on purpose is not known; \
                     nothing was deleted",
                )
                .with_source(error)
                .with_hint(
                    "where nothing of the run is kept, `orka-step reap --run` deletes what is left of it",
                )
            })?
        }
    };
    kept.extend(
        run.ledger
            .kept()
            .into_iter()
            .map(|(name, kept)| (name, kept.expires_at())),
    );
    Ok(kept)
}

fn leftovers(run: &RunContext, left: Vec<(String, Failure)>) -> Failure {
    let names: Vec<String> = left.iter().map(|(name, _)| format!("`{name}`")).collect();
    let mut failure = Failure::new(
        Kind::Unavailable,
        Class::Orka,
        "orka.leftovers",
        format!(
            "of this pipeline run these may still exist: {}",
            names.join(", ")
        ),
    )
    .retryable(true)
    .with_hint(left.first().map_or_else(String::new, |(name, _)| {
        format!(
            "delete each as with `{}`",
            run.cluster.removal_command(name)
        )
    }));
    for (name, reason) in left {
        failure = failure.with_detail(&name, reason.to_string());
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_all_that_a_spec_says_and_fits_a_result() {
        let spec = VmSpec {
            image: "ghcr.io/macstadium/orka-images/sonoma:latest".to_owned(),
            cpu_cores: Some(12),
            vcpus: Some(6),
            memory_mib: Some(16_384),
            vnc_console: Some(false),
            gpu_passthrough: Some(true),
            system_serial: Some("C02ABCDEFGH1".to_owned()),
            tag: Some("a-tag-of-32-characters-at-the-most".to_owned()),
            tag_required: true,
            scheduler: Some("most-allocated".to_owned()),
            options: vec![("net-boost".to_owned(), "false".to_owned())],
        };
        let text = serde_json::to_string(&Text {
            v: VERSION,
            name: "abcdefghijklmnop-0a1b2c3d-4e5f6071-999".to_owned(),
            orka: 3,
            spec: Spec::from(&spec),
        })
        .unwrap();
        // What a plugin's results may have together, less the name of this one.
        assert!(
            text.len() <= 704 - "vm-config".len(),
            "{} bytes",
            text.len()
        );
        let again: Text = serde_json::from_str(&text).unwrap();
        assert_eq!(
            format!("{:?}", VmSpec::from(again.spec)),
            format!("{spec:?}")
        );
    }

    #[test]
    fn what_is_left_to_the_cluster_is_not_written() {
        let text = r#"{"v":1,"name":"n","orka":2,"image":"i"}"#;
        let read: Text = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }
}
