//! `cluster`: sessions, VM configs and VMs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plugin_manifest::Capability;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wasmtime::component::Resource;

use super::wait::Waitable;
use crate::backend::Deploy;
use crate::bindings::orka::plugin::cluster::{
    DeployOptions, Facts, Generation, Host, HostDeployment, HostSession, HostVm, HostVmConfig,
    Node, SignOut, VmInfo, VmSpec,
};
use crate::console::seconds;
use crate::failure::{Class, Failure, Kind};
use crate::ledger::Thing;
use crate::state::{CallError, HostState, RunContext};
use crate::teardown;

/// Pause between attempts while no node has room; about what a short build takes to free a slot.
const CAPACITY_PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest such pause.
const CAPACITY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a plugin's own purge may take, confirmation included; what is left is tried again when the run ends.
const PURGE_TIMEOUT: Duration = Duration::from_secs(60);

/// A handle on the run's login.
pub struct Session;

/// What a VM config is made of, shared with the VMs deployed from it.
struct Template {
    name: String,
    spec: VmSpec,
    /// Names in the ledger that were deployed from it.
    deployed: Mutex<Vec<String>>,
}

/// A VM config of this run.
pub struct VmConfig(Arc<Template>);

/// A VM of this run.
#[derive(Clone, Debug)]
pub struct Vm {
    /// As its deployment was answered.
    pub(crate) info: VmInfo,
}

type Outcome = Arc<Mutex<Option<Result<Vm, Failure>>>>;

/// A deployment under way.
pub struct Deployment {
    outcome: Outcome,
    done: watch::Receiver<bool>,
}

impl Host for HostState {
    async fn sign_in(&mut self) -> Result<Resource<Session>, CallError> {
        let run = self.run.clone();
        run.call("cluster.sign-in", async {
            run.grants.require(Capability::ClusterRead)?;
            still_signed_in(&run)?;
            run.facts
                .get_or_try_init(|| async {
                    let facts = run.cluster.sign_in().await?;
                    run.console
                        .info(&format!("signed in: {}", described(&facts)));
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
            run.cluster.images().await
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

    async fn sign_out(&mut self, _session: Resource<Session>) -> Result<SignOut, CallError> {
        let run = &self.run;
        run.call("cluster.sign-out", async {
            if let Some(outcome) = run.signed_out.get() {
                return Ok(outcome.clone());
            }
            if let Some(debt) = run.ledger.owed().first() {
                return Err(Failure::new(
                    Kind::Conflict,
                    Class::Plugin,
                    "run.vms-remain",
                    format!(
                        "`{}` still exists; without the login it could not be deleted",
                        debt.name
                    ),
                ));
            }
            let outcome = run.cluster.sign_out().await?;
            teardown::tell_sign_out(&run.console, &outcome);
            Ok(run.signed_out.get_or_init(|| outcome).clone())
        })
        .await
    }

    async fn drop(&mut self, session: Resource<Session>) -> wasmtime::Result<()> {
        self.table.delete(session)?;
        Ok(())
    }
}

async fn create_config(run: &RunContext, spec: VmSpec) -> Result<VmConfig, Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    run.grants
        .ceilings
        .admit(&spec.image, spec.cpu_cores, spec.memory_mib)?;
    still_signed_in(run)?;
    let name = run.identity.next_name();
    let stored = run.cluster.stores_configs();
    if stored {
        // Entered before the request: if the reply is lost, the name is still ours to delete.
        run.ledger.owe(Thing::VmConfig, &name)?;
    }
    if let Err(failure) = run.cluster.create_config(&name, &spec).await {
        if stored && !failure.may_have_happened {
            run.ledger.released(&name);
        }
        return Err(failure);
    }
    if stored {
        run.ledger.created(&name);
        run.console
            .info(&format!("VM config `{name}`: image `{}`", spec.image));
    }
    Ok(VmConfig(Arc::new(Template {
        name,
        spec,
        deployed: Mutex::default(),
    })))
}

/// Deploys one VM, waiting for room if asked to.
async fn deploy(
    run: &RunContext,
    template: &Template,
    options: DeployOptions,
) -> Result<Vm, Failure> {
    run.grants.require(Capability::ClusterDeploy)?;
    still_signed_in(run)?;
    let patience = options
        .capacity_wait_ms
        .map(Duration::from_millis)
        .unwrap_or_default();
    let name = admitted_name(run, template)?;
    template
        .deployed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(name.clone());
    run.results.set_own("vm-name", &name)?;
    run.console.info(&format!("deploying VM `{name}`"));
    let request = Deploy {
        config: template.name.clone(),
        name: name.clone(),
        spec: template.spec.clone(),
        options,
    };
    let give_up = Instant::now() + patience;
    let mut pause = CAPACITY_PAUSE_FIRST;
    loop {
        run.ledger.deploy_sent(&name);
        let deployed = run.cluster.deploy(&request).await;
        if deployed
            .as_ref()
            .map_or_else(|failure| !failure.may_have_happened, |_| true)
        {
            run.ledger.deploy_answered(&name);
        }
        match deployed {
            Ok(info) => {
                run.ledger.created(&name);
                let node = info
                    .node
                    .as_deref()
                    .map(|node| format!(" on node `{node}`"))
                    .unwrap_or_default();
                run.console.info(&format!(
                    "VM `{}`{node} at {}:{}",
                    info.name, info.address, info.ssh_port
                ));
                return Ok(Vm { info });
            }
            Err(failure)
                if failure.class == Class::NoCapacity && Instant::now() + pause < give_up =>
            {
                let left = give_up.saturating_duration_since(Instant::now());
                run.console.info(&format!(
                    "{failure}; waiting for room, for another {} at most",
                    seconds(left)
                ));
                // Jitter, so that steps that wait for the same slot do not all ask at the same moment.
                sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                pause = (pause * 2).min(CAPACITY_PAUSE_MAX);
            }
            Err(failure) => {
                if !failure.may_have_happened {
                    run.ledger.vm_gone(&name);
                }
                return Err(failure);
            }
        }
    }
}

/// Counts the deployment against the ceilings, and gives the name that the ledger knows the VM under.
fn admitted_name(run: &RunContext, template: &Template) -> Result<String, Failure> {
    let ceilings = &run.grants.ceilings;
    let limit = |ceiling: &str, message: String| {
        Failure::new(Kind::NoCapacity, Class::Denied, "run.vm-limit", message).with_hint(format!(
            "the operator can raise `{ceiling}` under `[grant.ceilings]` in the grants file"
        ))
    };
    if run.ledger.vms() >= ceilings.vms_at_once {
        return Err(limit(
            "vms-at-once",
            format!(
                "this run has {} VMs, as many as it may have at once",
                ceilings.vms_at_once
            ),
        ));
    }
    if run.count_deployment() > ceilings.vms_total {
        return Err(limit(
            "vms-total",
            format!(
                "this run has deployed {} VMs, as many as it may in all",
                ceilings.vms_total
            ),
        ));
    }
    let name = if run.cluster.stores_configs() {
        template.name.clone()
    } else {
        let name = run.identity.next_name();
        run.ledger.owe(Thing::Vm, &name)?;
        name
    };
    run.ledger.vm_expected(&name);
    Ok(name)
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
            .call("cluster.deploy", deploy(&run, &template, options))
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
        // Refused at once what would be refused anyway, so that a guest cannot pile up hopeless deployments.
        run.call("cluster.start-deploy", async {
            run.grants.require(Capability::ClusterDeploy)
        })
        .await?;
        let (done, is_done) = watch::channel(false);
        let outcome: Outcome = Arc::default();
        let deployment = Deployment {
            outcome: outcome.clone(),
            done: is_done,
        };
        let work_run = run.clone();
        run.spawn(async move {
            let result = work_run
                .within_the_run(deploy(&work_run, &template, options))
                .await;
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            // Nobody waiting any more is fine.
            let _ = done.send(true);
        });
        self.keep(deployment)
    }

    async fn purge(&mut self, config: Resource<VmConfig>) -> Result<(), CallError> {
        let template = self.table.get(&config)?.0.clone();
        let run = &self.run;
        run.call("cluster.purge", async {
            run.grants.require(Capability::ClusterDeploy)?;
            let names = if run.cluster.stores_configs() {
                vec![template.name.clone()]
            } else {
                template
                    .deployed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            };
            let deadline = run.deadline_within(PURGE_TIMEOUT);
            for name in names {
                teardown::remove_confirmed(run.cluster.as_ref(), &name, deadline).await?;
                run.ledger.released(&name);
                run.console.info(&format!("purged `{name}`"));
            }
            Ok(())
        })
        .await
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
        let done = self.table.get(&deployment)?.done.clone();
        Ok(self.table.push(Waitable::Flag(done))?)
    }

    async fn finish(
        &mut self,
        deployment: Resource<Deployment>,
    ) -> Result<Resource<Vm>, CallError> {
        let deployment = self.table.get(&deployment)?;
        let (outcome, mut done) = (deployment.outcome.clone(), deployment.done.clone());
        let run = self.run.clone();
        let vm = run
            .call("cluster.finish-deploy", async {
                // An error means that the deployment ended without an answer, which the next line finds out.
                let _ = done.wait_for(|done| *done).await;
                outcome
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                    .unwrap_or_else(|| {
                        Err(Failure::new(
                            Kind::Conflict,
                            Class::Plugin,
                            "deployment.finished",
                            "this deployment's VM was taken already",
                        ))
                    })
            })
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
        run.call("cluster.delete", async {
            run.grants.require(Capability::ClusterDeploy)?;
            run.cluster.delete(&vm.info).await?;
            run.ledger.vm_gone(&vm.info.name);
            run.console.info(&format!("deleted VM `{}`", vm.info.name));
            Ok(())
        })
        .await
    }

    async fn drop(&mut self, vm: Resource<Vm>) -> wasmtime::Result<()> {
        // Only a hint that the guest is done with it: the ledger decides when it is deleted.
        self.table.delete(vm)?;
        Ok(())
    }
}
