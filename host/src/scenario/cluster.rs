//! A cluster that does what the scenario says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::{Cluster, Deploy, Listed, Remains, Removal, StoredConfig, image};
use crate::bindings::orka::plugin::cluster::{Facts, Generation, Node, SignOut, VmInfo, VmSpec};
use crate::failure::{Class, Failure, Kind};
use async_trait::async_trait;

use super::model::{Faults, Scenario};

#[derive(Debug, Default)]
struct State {
    configs: BTreeMap<String, VmSpec>,
    vms: BTreeSet<(String, String)>,
    deployed: u16,
    nodes: Vec<Option<String>>,
    /// Numbers of the deployments whose answer was lost.
    lost: BTreeSet<u16>,
    faults: Faults,
}

pub(crate) struct ScriptedCluster {
    calls: Arc<Mutex<Vec<String>>>,
    state: Arc<Mutex<State>>,
    orka3: bool,
    lost: BTreeMap<u16, Duration>,
    images: Vec<String>,
    /// Whether it has images that no list names.
    has_any_image: bool,
    on_offer: Vec<Node>,
    deploy_time: Duration,
}

impl ScriptedCluster {
    pub(crate) fn new(scenario: &Scenario, calls: Arc<Mutex<Vec<String>>>) -> Self {
        let state = State {
            faults: Faults::new(&scenario.failures),
            ..State::default()
        };
        Self {
            calls,
            state: Arc::new(Mutex::new(state)),
            lost: scenario.lost_deploys.clone(),
            images: scenario.images.clone(),
            has_any_image: false,
            on_offer: scenario.nodes.clone(),
            orka3: scenario.orka3,
            deploy_time: scenario.deploy_time,
        }
    }

    /// With whatever image is asked for: that of a session, which knows what its cluster answered.
    pub(crate) fn with_any_image(self) -> Self {
        Self {
            has_any_image: true,
            ..self
        }
    }

    /// Names that still exist.
    pub(crate) fn left(&self) -> Vec<String> {
        let state = self.state();
        let names: BTreeSet<&String> = state
            .configs
            .keys()
            .chain(state.vms.iter().map(|(name, _)| name))
            .collect();
        names.into_iter().cloned().collect()
    }

    /// The node each deployment asked for.
    pub(crate) fn nodes_asked_for(&self) -> Vec<Option<String>> {
        self.state().nodes.clone()
    }

    /// Lost answers of the scenario that no deployment came to, in words for people.
    pub(crate) fn not_lost(&self) -> Vec<String> {
        let state = self.state();
        let deployed = state.deployed;
        let told = |number: &u16| {
            let why = if *number > deployed {
                format!("there were no more than {deployed}")
            } else {
                "it was refused".to_owned()
            };
            format!("lost `deploy` number {number}: {why}")
        };
        let numbers = self.lost.keys();
        numbers
            .filter(|number| !state.lost.contains(number))
            .map(told)
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a VM appear later, and gives what the client sees meanwhile.
    fn lose(&self, name: String, id: String, appears_after: Duration) -> Failure {
        let state = Arc::clone(&self.state);
        let orka3 = self.orka3;
        tokio::spawn(async move {
            tokio::time::sleep(appears_after).await;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            // On Orka 2 a deployment needs its VM config.
            if orka3 || state.configs.contains_key(&name) {
                state.vms.insert((name, id));
            }
        });
        let mut failure = Failure::new(
            Kind::TimedOut,
            Class::Orka,
            "orka.timed-out",
            "the deploy request got no answer",
        );
        failure.may_have_happened = true;
        failure
    }

    /// Refuses an image that the cluster does not have, in Orka's words. One in a registry is pulled by the node (Orka 3).
    fn pull(&self, wanted: &str) -> Result<(), Failure> {
        let is_pulled = self.orka3 && image::is_oci_reference(wanted);
        if self.has_any_image || is_pulled || self.images.iter().any(|name| name == wanted) {
            return Ok(());
        }
        let answer = if self.orka3 {
            format!(
                "`POST /api/v1/namespaces/orka-default/vms` was answered 404: images.orka.macstadium.com \"{wanted}\" not found"
            )
        } else {
            format!("`POST /resources/vm/deploy` was answered 404: image '{wanted}' not found")
        };
        Err(Failure::new(
            Kind::NotFound,
            Class::Orka,
            "orka.not-found",
            format!("Orka knows no such thing: {answer}"),
        ))
    }

    fn called(&self, call: &str) -> Result<(), Failure> {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call.to_owned());
        self.state().faults.check(call)
    }
}

fn stored(spec: &VmSpec) -> StoredConfig {
    StoredConfig {
        image: Some(spec.image.clone()),
        cpu_cores: spec.cpu_cores,
        memory_mib: spec.memory_mib,
    }
}

#[async_trait]
impl Cluster for ScriptedCluster {
    async fn sign_in(&self) -> Result<Facts, Failure> {
        self.called("sign-in")?;
        Ok(Facts {
            generation: if self.orka3 {
                Generation::Orka3
            } else {
                Generation::Orka2
            },
            api_version: (!self.orka3).then(|| "2.1.0".to_owned()),
            namespace: self.orka3.then(|| "orka-default".to_owned()),
        })
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        self.called("images")?;
        Ok(self.images.clone())
    }

    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        self.called("nodes")?;
        Ok(self.on_offer.clone())
    }

    async fn create_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.called("create-config")?;
        if !self.orka3 {
            self.state().configs.insert(name.to_owned(), spec.clone());
        }
        Ok(())
    }

    async fn store_config(&self, name: &str, spec: &VmSpec) -> Result<(), Failure> {
        self.called("store-config")?;
        self.state().configs.insert(name.to_owned(), spec.clone());
        Ok(())
    }

    async fn stored_configs(&self) -> Result<Vec<(String, StoredConfig)>, Failure> {
        self.called("stored-configs")?;
        let state = self.state();
        let configs = state.configs.iter();
        Ok(configs
            .map(|(name, spec)| (name.clone(), stored(spec)))
            .collect())
    }

    fn stores_configs(&self) -> bool {
        !self.orka3
    }

    async fn deploy(&self, deploy: &Deploy) -> Result<VmInfo, Failure> {
        self.called("deploy")?;
        let (id, number) = {
            let mut state = self.state();
            state.deployed += 1;
            state.nodes.push(deploy.options.node.clone());
            (format!("{:013x}", state.deployed), state.deployed)
        };
        self.pull(&deploy.spec.image)?;
        if let Some(appears_after) = self.lost.get(&number) {
            self.state().lost.insert(number);
            return Err(self.lose(deploy.name.clone(), id, *appears_after));
        }
        self.state().vms.insert((deploy.name.clone(), id.clone()));
        // The VM exists before its deployment is answered, as on a real cluster.
        tokio::time::sleep(self.deploy_time).await;
        let port = 8821 + self.state().deployed;
        Ok(VmInfo {
            name: deploy.name.clone(),
            id: (!self.orka3).then_some(id),
            node: Some(
                deploy
                    .options
                    .node
                    .clone()
                    .unwrap_or_else(|| "mini-1".to_owned()),
            ),
            address: "10.0.0.1".to_owned(),
            ssh_port: port,
            screen_share_port: None,
            vnc_port: None,
        })
    }

    async fn explain(&self, mut failure: Failure, spec: &VmSpec) -> Failure {
        if !image::is_about(&failure, &spec.image) {
            return failure;
        }
        failure.class = Class::Config;
        let names: Vec<&str> = self.images.iter().map(String::as_str).collect();
        match image::similar(&spec.image, &names) {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }

    async fn exists(&self, vm: &VmInfo) -> Result<bool, Failure> {
        self.called("exists")?;
        Ok(self
            .state()
            .vms
            .iter()
            .any(|(name, id)| *name == vm.name && vm.id.as_ref().is_none_or(|wanted| wanted == id)))
    }

    async fn config(&self, name: &str) -> Result<Option<StoredConfig>, Failure> {
        self.called("config")?;
        Ok(self.state().configs.get(name).map(stored))
    }

    async fn instances(&self, name: &str) -> Result<Vec<String>, Failure> {
        self.called("instances")?;
        let state = self.state();
        let of_name = state.vms.iter().filter(|(other, _)| other == name);
        Ok(of_name
            .map(|(name, id)| if self.orka3 { name.clone() } else { id.clone() })
            .collect())
    }

    async fn delete(&self, name: &str, id: Option<&str>) -> Result<(), Failure> {
        self.called("delete")?;
        let orka3 = self.orka3;
        self.state().vms.retain(|(other, other_id)| {
            other != name || !orka3 && id.is_some_and(|wanted| wanted != other_id)
        });
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<Removal, Failure> {
        self.called("purge")?;
        let mut state = self.state();
        let before = state.vms.len();
        state.vms.retain(|(other, _)| other != name);
        let had_config = state.configs.remove(name).is_some();
        let removed = had_config || state.vms.len() < before;
        Ok(if removed {
            Removal::Removed
        } else {
            Removal::AlreadyGone
        })
    }

    async fn remains(&self, name: &str) -> Result<Remains, Failure> {
        self.called("look")?;
        let state = self.state();
        let vms = state.vms.iter().filter(|(other, _)| other == name).count();
        Ok(Remains {
            vms: u32::try_from(vms).unwrap_or(u32::MAX),
            config: state.configs.contains_key(name),
        })
    }

    async fn sign_out(&self) -> Result<SignOut, Failure> {
        self.called("sign-out")?;
        Ok(if self.orka3 {
            SignOut::NotApplicable
        } else {
            SignOut::Revoked
        })
    }

    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        self.called("list")?;
        let state = self.state();
        let config = |name: &String| Listed {
            name: name.clone(),
            is_config: true,
            ..Listed::default()
        };
        let vm = |(name, _): &(String, String)| Listed {
            name: name.clone(),
            ..Listed::default()
        };
        let configs = state.configs.keys().map(config);
        Ok(configs.chain(state.vms.iter().map(vm)).collect())
    }

    fn removal_command(&self, name: &str) -> String {
        format!("orka vm purge -v {name}")
    }
}
