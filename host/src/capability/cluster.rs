//! `cluster`: sessions, VM configs and VMs. What outlives the run, or is shared with others, is in [`keep`] and [`shared`].

mod keep;
mod older;
mod shared;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plugin_manifest::Capability;
use tokio::time::{Instant, sleep};
use wasmtime::component::Resource;

use super::pending::Pending;
use super::wait::Waitable;
use crate::backend::Deploy;
use crate::bindings::orka::plugin::cluster::{
    DeployOptions, Facts, Generation, Host, HostDeployment, HostSession, HostVm, HostVmConfig,
    KeptVm, Node, Purged, SignOut, VmInfo, VmSpec,
};
use crate::console::seconds;
use crate::failure::{Class, Failure, Kind};
use crate::grants::Ceilings;
use crate::ledger::{BlackBox, Debt, DeployEnd, LimitReached, Thing, VmLimits};
use crate::predecessors;
use crate::session::Tidying;
use crate::state::{CallError, HostState, RunContext};
use crate::teardown;

pub(crate) use older::release as give_back_names;

/// How long the list of images may take, which is asked for before there is anything to lose.
const IMAGES_TIMEOUT: Duration = Duration::from_secs(15);

/// Pause between attempts while no node has room; about what a short build takes to free a slot.
const CAPACITY_PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest such pause.
const CAPACITY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a plugin's own purge may take, confirmation included; what is left is tried again when the run ends.
const PURGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many names that are taken are passed over.
const NAMES_TAKEN_MAX: u32 = 8;

/// What the keys of the host's own metadata begin with.
const OWNER_PREFIX: &str = "orka-step-";

/// What keys begin with that a policy may not write: it could keep its VM from every reaper, granted or not.
const RESERVED_METADATA: &str = "orka-step";

/// A handle on the run's login.
pub struct Session;

/// What a VM config is made of, shared with the VMs deployed from it.
struct Template {
    name: String,
    spec: VmSpec,
    /// Whether another Task made it: then it is not this run's to delete.
    adopted: bool,
    deployed: Mutex<Deployed>,
}

/// What was deployed from a template.
#[derive(Default)]
struct Deployed {
    /// Names in the ledger.
    names: Vec<String>,
    /// Whether it was purged: nothing can be deployed from it any more.
    purged: bool,
    /// Whether it was handed over: who takes it up deploys from it.
    handed_over: bool,
}

impl Template {
    fn deployed(&self) -> std::sync::MutexGuard<'_, Deployed> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VM config of this run.
pub struct VmConfig(Arc<Template>);

/// A VM of this run.
#[derive(Clone, Debug)]
pub struct Vm {
    /// As its deployment was answered.
    pub(crate) info: VmInfo,
}

/// A deployment under way.
pub struct Deployment(Pending<Vm>);

impl Host for HostState {
    async fn sign_in(&mut self) -> Result<Resource<Session>, CallError> {
        let run = self.run.clone();
        run.call("cluster.sign-in", async {
            run.grants.require(Capability::ClusterRead)?;
            still_signed_in(&run)?;
            run.facts
                .get_or_try_init(|| async {
                    let facts = run.cluster.sign_in().await?;
                    if let Some(namespace) = &facts.namespace {
                        run.grants.admit_namespace(namespace)?;
                    }
                    run.console
                        .info(&format!("signed in: {}", described(&facts)));
                    predecessors::remove_inherited(&run);
                    Ok(facts)
                })
                .await
        })
        .await?;
        self.keep(Session)
    }
}

fn described(facts: &Facts) -> String {
    let api = match (facts.generation, &facts.api_version) {
        (Generation::Orka2, Some(version)) => format!("Orka {version}"),
        (Generation::Orka2, None) => "Orka 2".to_owned(),
        (Generation::Orka3, Some(version)) => format!("Orka {version}"),
        (Generation::Orka3, None) => "Orka 3".to_owned(),
    };
    match &facts.namespace {
        Some(namespace) => format!("{api}, namespace `{namespace}`"),
        None => api,
    }
}

fn still_signed_in(run: &RunContext) -> Result<(), Failure> {
    if run.signed_out.get().is_some() {
        return Err(Failure::new(
            Kind::Conflict,
            Class::Plugin,
            "run.signed-out",
            "this run has signed out already",
        ));
    }
    Ok(())
}

impl HostSession for HostState {
    async fn facts(&mut self, _session: Resource<Session>) -> wasmtime::Result<Facts> {
        // A session exists only after a login, which sets the facts.
        self.run
            .facts
            .get()
            .cloned()
            .ok_or_else(|| wasmtime::Error::msg("a session without a login"))
    }

    async fn images(&mut self, _session: Resource<Session>) -> Result<Vec<String>, CallError> {
        let run = &self.run;
        run.call("cluster.images", async {
            run.grants.require(Capability::ClusterRead)?;
            still_signed_in(run)?;
            // It is a look ahead: one that hangs must not take the run's time.
            let until = Instant::now() + IMAGES_TIMEOUT;
            teardown::limited(until, "list of images", run.cluster.images()).await
        })
        .await
    }

    async fn nodes(&mut self, _session: Resource<Session>) -> Result<Vec<Node>, CallError> {
        let run = &self.run;
        run.call("cluster.nodes", async {
            run.grants.require(Capability::ClusterRead)?;
            still_signed_in(run)?;
            run.cluster.nodes().await
        })
        .await
    }

    async fn create_config(
        &mut self,
        _session: Resource<Session>,
        spec: VmSpec,
    ) -> Result<Resource<VmConfig>, CallError> {
        let run = self.run.clone();
        let config = run
            .call("cluster.create-config", create_config(&run, spec))
            .await?;
        self.keep(config)
    }

    async fn create_shared_config(
        &mut self,
        _session: Resource<Session>,
        channel: String,
        spec: VmSpec,
    ) -> Result<Resource<VmConfig>, CallError> {
        let run = self.run.clone();
        let work = shared::create(&run, &channel, spec);
        let config = run.call("cluster.create-shared-config", work).await?;
        self.keep(config)
    }

    async fn shared_config(
        &mut self,
        _session: Resource<Session>,
        channel: String,
    ) -> Result<Option<Resource<VmConfig>>, CallError> {
        let run = self.run.clone();
        let work = shared::find(&run, &channel);
        match run.call("cluster.shared-config", work).await? {
            Some(config) => Ok(Some(self.keep(config)?)),
            None => Ok(None),
        }
    }

    async fn keep_max(&mut self, _session: Resource<Session>) -> Result<u64, CallError> {
        let run = &self.run;
        run.call_now("cluster.keep-max", || {
            run.grants.require(Capability::ClusterKeep)?;
            let max = run.grants.ceilings.keep_max.as_millis();
            Ok(u64::try_from(max).unwrap_or(u64::MAX))
        })
    }

    async fn adopt_config(
        &mut self,
        _session: Resource<Session>,
        text: String,
    ) -> Result<Resource<VmConfig>, CallError> {
        let run = self.run.clone();
        let config = run
            .call("cluster.adopt-config", shared::adopt(&run, &text))
            .await?;
        self.keep(config)
    }

    async fn purge_run(&mut self, _session: Resource<Session>) -> Result<Purged, CallError> {
        let run = &self.run;
        let work = run.tidy(Tidying::PurgeRun, async {
            shared::may_purge_run(run)?;
            older::ask_purge(run);
            let black_box = run.ledger.black_box();
            black_box.map(BlackBox::note_purging);
            let purged = shared::purge_run(run).await;
            if purged.is_ok() {
                black_box.map(BlackBox::note_purged);
            }
            // VMs cost money: they go first, and what is left of the rest is deleted all the same.
            let retracted = older::retract(run).await;
            purged.and_then(|purged| retracted.map(|()| purged))
        });
        run.call("cluster.purge-run", work).await
    }

    async fn sign_out(&mut self, _session: Resource<Session>) -> Result<SignOut, CallError> {
        let run = &self.run;
        let work = run.tidy(Tidying::SignOut, sign_out(run));
        run.call("cluster.sign-out", work).await
    }

    async fn drop(&mut self, session: Resource<Session>) -> wasmtime::Result<()> {
        self.table.delete(session)?;
        Ok(())
    }
}

async fn sign_out(run: &RunContext) -> Result<SignOut, Failure> {
    if let Some(outcome) = run.signed_out.get() {
        return Ok(outcome.clone());
    }
    let owed = run.ledger.owed();
    if let Some(debt) = owed.iter().find(|debt| !debt.inherited) {
        let message = if debt.is_only_doubt() {
            format!(
                "a VM named `{}` may still appear; the host signs out once that is settled",
                debt.name
            )
        } else {
            format!(
                "`{}` still exists; without the login it could not be deleted",
                debt.name
            )
        };
        return Err(Failure::new(
            Kind::Conflict,
            Class::Plugin,
            "run.vms-remain",
            message,
        ));
    }
    if !owed.is_empty() {
        // Nothing that the policy could do anything about.
        return Ok(SignOut::Kept(
            "what an earlier pod left is still being deleted; the host signs out after that"
                .to_owned(),
        ));
    }
    let outcome = teardown::give_back_token(run).await?;
    teardown::tell_sign_out(&run.console, &outcome);
    Ok(run.signed_out.get_or_init(|| outcome).clone())
}

async fn create_config(run: &RunContext, mut spec: VmSpec) -> Result<VmConfig, Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    run.guards.config(run, &mut spec).await?;
    run.admit_vm(&mut spec)?;
    still_signed_in(run)?;
    let stored = run.cluster.stores_configs();
    let mut names_taken = 0;
    let name = loop {
        let name = if stored {
            next_owed(run, Thing::VmConfig)?
        } else {
            run.identity.next()?
        };
        // In doubt until it is answered, also if the run is stopped meanwhile.
        run.ledger.create_begins(&name);
        let created = run.cluster.create_config(&name, &spec).await;
        if !matches!(&created, Err(failure) if failure.may_have_happened) {
            run.ledger.create_ends(&name);
        }
        let Err(failure) = created else {
            break name;
        };
        if stored && !failure.may_have_happened {
            run.ledger.released(&name);
        }
        if !(stored && is_taken(&failure)) || names_taken == NAMES_TAKEN_MAX {
            return Err(failure);
        }
        names_taken += 1;
        tell_taken(run, &name);
    };
    if stored {
        run.ledger.created(&name);
        run.console
            .info(&format!("VM config `{name}`: image `{}`", spec.image));
    }
    Ok(VmConfig(Arc::new(Template {
        name,
        spec,
        adopted: false,
        deployed: Mutex::default(),
    })))
}

/// Whether the name is another's. It can only be of this pod: of a step before this one, which may be keeping it.
fn is_taken(failure: &Failure) -> bool {
    failure.kind == Kind::Conflict && !failure.may_have_happened
}

fn tell_taken(run: &RunContext, name: &str) {
    run.console.warn(&format!(
        "`{name}` exists already, left by an earlier step of this pod; another name is taken\nhint: if nobody keeps it, \
         delete it with `{}`",
        run.cluster.removal_command(name)
    ));
}

/// The next name, entered before the request that may make the thing: if the reply is lost, it is still ours to delete.
fn next_owed(run: &RunContext, thing: Thing) -> Result<String, Failure> {
    let name = run.identity.next()?;
    run.ledger.owe(thing, &name)?;
    run.results.set_own("vm-name", &name)?;
    Ok(name)
}

/// A deployment that is allowed and in the ledger.
struct Admitted {
    template: Arc<Template>,
    /// What the ledger knows the VM under.
    name: String,
    options: DeployOptions,
}

/// Checks a deployment with the guards, and then as [`admit`].
async fn ask_and_admit(
    run: &RunContext,
    template: Arc<Template>,
    mut options: DeployOptions,
) -> Result<Admitted, Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    run.guards
        .deployment(run, &template.spec, &mut options)
        .await?;
    admit(run, template, options)
}

/// Checks a deployment against grant and ceilings and enters it into the ledger, all before anything is sent.
fn admit(
    run: &RunContext,
    template: Arc<Template>,
    options: DeployOptions,
) -> Result<Admitted, Failure> {
    run.still_runs()?;
    run.grants.require(Capability::ClusterDeploy)?;
    still_signed_in(run)?;
    let mut deployed = template.deployed();
    if deployed.purged {
        return Err(Failure::new(
            Kind::Conflict,
            Class::Plugin,
            "run.config-purged",
            format!("the VM config `{}` was purged", template.name),
        ));
    }
    if deployed.handed_over {
        return Err(Failure::new(
            Kind::Conflict,
            Class::Plugin,
            "run.config-handed-over",
            format!("the VM config `{}` was handed over", template.name),
        )
        .with_hint("take it up with `adopt-config` to deploy from it"));
    }
    let reserved = options
        .metadata
        .iter()
        .find(|(key, _)| key.starts_with(RESERVED_METADATA));
    if let Some((key, _)) = reserved {
        return Err(Failure::new(
            Kind::Invalid,
            Class::Config,
            "cluster.reserved-metadata",
            format!(
                "VM metadata `{}` is reserved for the host",
                key.escape_default()
            ),
        )
        .with_hint(format!(
            "use a key that does not begin with `{RESERVED_METADATA}`"
        )));
    }
    let ceilings = &run.grants.ceilings;
    run.ledger
        .allow_deployment(VmLimits {
            at_once: ceilings.vms_at_once,
            total: ceilings.vms_total,
        })
        .map_err(|reached| limit_reached(reached, ceilings))?;
    run.grants.note_deployment(run.ledger.vms());
    let owed = if !run.cluster.stores_configs() {
        next_owed(run, Thing::Vm)
    } else if template.adopted {
        run.ledger
            .owe(Thing::VmOfConfig, &template.name)
            .and_then(|()| run.results.set_own("vm-name", &template.name))
            .map(|()| template.name.clone())
    } else {
        run.results
            .set_own("vm-name", &template.name)
            .map(|()| template.name.clone())
    };
    let name = owed.inspect_err(|_| run.ledger.forgo_deployment())?;
    if !deployed.names.contains(&name) {
        deployed.names.push(name.clone());
    }
    drop(deployed);
    Ok(Admitted {
        template,
        name,
        options,
    })
}

fn limit_reached(reached: LimitReached, ceilings: &Ceilings) -> Failure {
    let (ceiling, message) = match reached {
        LimitReached::AtOnce => (
            "vms-at-once",
            format!(
                "this run has {} VMs, as many as it may have at once",
                ceilings.vms_at_once
            ),
        ),
        LimitReached::Total => (
            "vms-total",
            format!(
                "this run has deployed {} VMs, as many as it may in all",
                ceilings.vms_total
            ),
        ),
    };
    let mut failure = ceilings.above(ceiling, message);
    (failure.kind, failure.code) = (Kind::NoCapacity, "run.vm-limit".into());
    failure
}

/// Deploys one VM, waiting for room if asked to.
async fn deploy(run: &RunContext, admitted: Admitted) -> Result<Vm, Failure> {
    let Admitted {
        template,
        name,
        options,
    } = admitted;
    let patience = options
        .capacity_wait_ms
        .map(Duration::from_millis)
        .unwrap_or_default();
    run.console.info(&format!("deploying VM `{name}`"));
    let mut names_taken = 0;
    let mut request = Deploy {
        config: template.name.clone(),
        name: name.clone(),
        spec: template.spec.clone(),
        options,
        owner: owner(run),
    };
    let give_up = Instant::now().checked_add(patience).unwrap_or(run.deadline);
    let mut pause = CAPACITY_PAUSE_FIRST;
    loop {
        let failure = match deploy_once(run, &request).await {
            Ok(vm) => return Ok(vm),
            Err(failure) => failure,
        };
        // Orka 3, where the name is the VM's own; on Orka 2 a deployment takes no name.
        if !run.cluster.stores_configs() && is_taken(&failure) && names_taken < NAMES_TAKEN_MAX {
            names_taken += 1;
            tell_taken(run, &request.name);
            run.ledger.deployment_waits();
            request.name =
                next_owed(run, Thing::Vm).inspect_err(|_| run.ledger.forgo_deployment())?;
            template.deployed().names.push(request.name.clone());
            continue;
        }
        let waits = failure.class == Class::NoCapacity && Instant::now() + pause < give_up;
        if !waits {
            return Err(run.cluster.explain(failure, &request.spec).await);
        }
        let left = give_up.saturating_duration_since(Instant::now());
        run.ledger.deployment_waits();
        run.console.info(&format!(
            "{failure}; waiting for room, for another {} at most",
            seconds(left)
        ));
        // Jitter, so that steps that wait for the same slot do not all ask at the same moment.
        sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
        pause = (pause * 2).min(CAPACITY_PAUSE_MAX);
    }
}

/// What the VM's metadata says of whose it is and until when the run lasts at most.
fn owner(run: &RunContext) -> Vec<(String, String)> {
    let prefixed =
        |(name, value): &(String, String)| (format!("{OWNER_PREFIX}{name}"), value.clone());
    let mut owner: Vec<_> = run.owner.iter().map(prefixed).collect();
    let ends = jiff::Timestamp::now().checked_add(run.remaining());
    owner.extend(ends.map(|ends| (format!("{OWNER_PREFIX}run-ends"), rfc3339(ends))));
    owner
}

/// To the second.
fn rfc3339(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

/// One deploy request, in the ledger from before it is sent until after it is answered.
async fn deploy_once(run: &RunContext, request: &Deploy) -> Result<Vm, Failure> {
    let name = &request.name;
    run.ledger.deploy_begins(name)?;
    let is_of_config = |debt: Debt| debt.thing == Thing::VmOfConfig;
    let is_of_config = run.ledger.debt(name).is_some_and(is_of_config);
    let deployed = match run.cluster.deploy(request).await {
        // By the name alone it could never be told from other Tasks' VMs.
        Ok(info) if is_of_config && info.id.is_none() => {
            let mut failure = teardown::no_id(name);
            failure.may_have_happened = true;
            Err(failure)
        }
        deployed => deployed,
    };
    match deployed {
        Ok(info) => {
            run.ledger.deploy_ends(name, DeployEnd::Made(key_of(&info)));
            if request.spec.memory_mib.is_none() {
                run.grants.note_memory(run.cluster.memory_told(name));
            }
            let node = info
                .node
                .as_deref()
                .map(|node| format!(" on node `{node}`"))
                .unwrap_or_default();
            run.console.info(&format!(
                "VM `{}`{node} at {}:{}",
                info.name, info.address, info.ssh_port
            ));
            Ok(Vm { info })
        }
        Err(failure) => {
            let end = match &failure.made {
                // Of the run's own names all is looked for at the end; of these nothing but the id tells.
                Some(id) if is_of_config => DeployEnd::Made(id),
                _ if failure.may_have_happened => DeployEnd::Lost,
                _ => DeployEnd::Refused,
            };
            run.ledger.deploy_ends(name, end);
            Err(failure)
        }
    }
}

/// What tells the VMs of one name apart.
pub(super) fn key_of(info: &VmInfo) -> &str {
    info.id.as_deref().unwrap_or(&info.name)
}

/// Deletes every VM of a template and the VM config, if there is one.
async fn purge(run: &Arc<RunContext>, template: &Template) -> Result<(), Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    let is_first;
    let names = {
        let mut deployed = template.deployed();
        is_first = !std::mem::replace(&mut deployed.purged, true);
        if deployed.handed_over {
            Vec::new()
        } else if run.cluster.stores_configs() && !template.adopted {
            vec![template.name.clone()]
        } else {
            deployed.names.clone()
        }
    };
    let deadline = run.deadline_within(PURGE_TIMEOUT);
    for name in names {
        if run.ledger.debt(&name).is_none_or(|debt| debt.is_settled()) {
            continue;
        }
        still_signed_in(run)?;
        // A request in doubt stays in the ledger: what it may still make is looked for when the run ends.
        teardown::remove_accounted(run.cluster.as_ref(), &run.ledger, &name, deadline).await?;
        match run.ledger.debt(&name) {
            _ if teardown::tell_left(run, &name) => {}
            Some(debt) if !debt.kept.is_empty() => {}
            _ => run.console.info(&format!("purged `{name}`")),
        }
        let is_doubtful = |debt: Debt| debt.is_only_doubt();
        if is_first && run.ledger.debt(&name).is_some_and(is_doubtful) {
            // The build may go on for an hour with another VM.
            predecessors::watch(run, name);
        }
    }
    Ok(())
}

async fn delete(run: &RunContext, vm: &Vm) -> Result<(), Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    still_signed_in(run)?;
    let is_shared = |debt: Debt| debt.thing == Thing::VmOfConfig;
    if vm.info.id.is_none() && run.ledger.debt(&vm.info.name).is_some_and(is_shared) {
        return Err(teardown::no_id(&vm.info.name));
    }
    let key = key_of(&vm.info);
    run.ledger.vm_deletion_begins(&vm.info.name, key);
    run.cluster
        .delete(&vm.info.name, vm.info.id.as_deref())
        .await
        .inspect_err(|failure| {
            if !failure.may_have_happened {
                run.ledger.vm_deletion_refused(&vm.info.name, key);
            }
        })?;
    run.ledger.vm_gone(&vm.info.name, key);
    run.console.info(&format!("deleted VM `{}`", vm.info.name));
    Ok(())
}

impl HostVmConfig for HostState {
    async fn name(&mut self, config: Resource<VmConfig>) -> wasmtime::Result<String> {
        Ok(self.table.get(&config)?.0.name.clone())
    }

    async fn deploy(
        &mut self,
        config: Resource<VmConfig>,
        options: DeployOptions,
    ) -> Result<Resource<Vm>, CallError> {
        let template = self.table.get(&config)?.0.clone();
        let run = self.run.clone();
        let vm = run
            .call("cluster.deploy", async {
                let admitted = ask_and_admit(&run, template, options).await?;
                deploy(&run, admitted).await
            })
            .await?;
        self.keep(vm)
    }

    async fn start_deploy(
        &mut self,
        config: Resource<VmConfig>,
        options: DeployOptions,
    ) -> Result<Resource<Deployment>, CallError> {
        let template = self.table.get(&config)?.0.clone();
        let run = self.run.clone();
        // In the ledger before the guest goes on: nothing it does next can overtake the deployment.
        let admitted = run
            .call(
                "cluster.start-deploy",
                ask_and_admit(&run, template, options),
            )
            .await?;
        let work_run = run.clone();
        let deployment = Pending::begin(&run, async move { deploy(&work_run, admitted).await });
        self.keep(Deployment(deployment))
    }

    async fn hand_over(&mut self, config: Resource<VmConfig>) -> Result<String, CallError> {
        let template = self.table.get(&config)?.0.clone();
        let run = &self.run;
        run.call("cluster.hand-over", shared::hand_over(run, &template))
            .await
    }

    async fn purge(&mut self, config: Resource<VmConfig>) -> Result<(), CallError> {
        let template = self.table.get(&config)?.0.clone();
        let run = self.run.clone();
        let work = run.tidy(Tidying::Purge(&template.name), purge(&run, &template));
        run.call("cluster.purge", work).await
    }

    async fn drop(&mut self, config: Resource<VmConfig>) -> wasmtime::Result<()> {
        self.table.delete(config)?;
        Ok(())
    }
}

impl HostDeployment for HostState {
    async fn subscribe(
        &mut self,
        deployment: Resource<Deployment>,
    ) -> wasmtime::Result<Resource<Waitable>> {
        let ready = self.table.get(&deployment)?.0.waitable();
        self.keep_or_trap(ready)
    }

    async fn finish(
        &mut self,
        deployment: Resource<Deployment>,
    ) -> Result<Resource<Vm>, CallError> {
        let deployment = self.table.get(&deployment)?.0.clone();
        let run = self.run.clone();
        let taken = "this deployment's VM was taken already";
        let vm = run
            .call(
                "cluster.finish-deploy",
                deployment.take("deployment.finished", taken),
            )
            .await?;
        self.keep(vm)
    }

    async fn drop(&mut self, deployment: Resource<Deployment>) -> wasmtime::Result<()> {
        // The deployment goes on; its VM is in the ledger.
        self.table.delete(deployment)?;
        Ok(())
    }
}

impl HostVm for HostState {
    async fn info(&mut self, vm: Resource<Vm>) -> wasmtime::Result<VmInfo> {
        Ok(self.table.get(&vm)?.info.clone())
    }

    async fn exists(&mut self, vm: Resource<Vm>) -> Result<bool, CallError> {
        let vm = self.table.get(&vm)?.clone();
        let run = &self.run;
        run.call("cluster.exists", async {
            run.grants.require(Capability::ClusterRead)?;
            still_signed_in(run)?;
            run.cluster.exists(&vm.info).await
        })
        .await
    }

    async fn delete(&mut self, vm: Resource<Vm>) -> Result<(), CallError> {
        let vm = self.table.get(&vm)?.clone();
        let run = &self.run;
        let work = run.tidy(Tidying::Delete(&vm.info.name), delete(run, &vm));
        run.call("cluster.delete", work).await
    }

    async fn keep(
        &mut self,
        vm: Resource<Vm>,
        lifetime_ms: u64,
        reason: String,
    ) -> Result<KeptVm, CallError> {
        let vm = self.table.get(&vm)?.clone();
        let run = &self.run;
        run.call_now("cluster.keep", || {
            keep::keep(run, &vm, lifetime_ms, &reason)
        })
    }

    async fn hand_over(&mut self, vm: Resource<Vm>) -> Result<(), CallError> {
        let vm = self.table.get(&vm)?.clone();
        let run = &self.run;
        run.call_now("cluster.hand-over-vm", || shared::hand_over_vm(run, &vm))
    }

    async fn drop(&mut self, vm: Resource<Vm>) -> wasmtime::Result<()> {
        // Only a hint that the guest is done with it: the ledger decides when it is deleted.
        self.table.delete(vm)?;
        Ok(())
    }
}
