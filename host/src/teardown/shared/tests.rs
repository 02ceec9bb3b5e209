//! Shared VM configs of a run that ends, in virtual time, on a cluster of which only the VMs are known.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::backend::{Deploy, Listed, Remains, Removal, StoredConfig};
use crate::bindings::orka::plugin::cluster::{Facts, Node, SignOut, VmInfo, VmSpec};
use crate::ledger::{DeployEnd, State};
use crate::teardown::remove_accounted;

const NAME: &str = "tekton-0a1b2c3d-4e5f6071-1";
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Known {
    vms: BTreeSet<String>,
    purges: u32,
    /// Looks that fail before one does not.
    failing: u32,
}

#[derive(Default)]
struct VmsOfOneConfig(Mutex<Known>);

impl VmsOfOneConfig {
    fn new(vms: &[&str], failing: u32) -> Self {
        let vms = vms.iter().map(|vm| (*vm).to_owned()).collect();
        Self(Mutex::new(Known {
            vms,
            failing,
            purges: 0,
        }))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Cluster for VmsOfOneConfig {
    fn stores_configs(&self) -> bool {
        true
    }
    async fn instances(&self, _: &str) -> Result<Vec<String>, Failure> {
        let mut known = self.known();
        if known.failing > 0 {
            known.failing -= 1;
            return Err(Failure::new(
                Kind::Unavailable,
                Class::Orka,
                "orka.test",
                "no",
            ));
        }
        Ok(known.vms.iter().cloned().collect())
    }
    async fn delete(&self, _: &str, id: Option<&str>) -> Result<(), Failure> {
        self.known().vms.remove(id.unwrap());
        Ok(())
    }
    async fn remove(&self, _: &str) -> Result<Removal, Failure> {
        let mut known = self.known();
        known.vms.clear();
        known.purges += 1;
        Ok(Removal::Removed)
    }
    async fn remains(&self, _: &str) -> Result<Remains, Failure> {
        let known = self.known();
        Ok(Remains {
            vms: u32::try_from(known.vms.len()).unwrap(),
            config: known.purges == 0,
        })
    }
    async fn sign_in(&self) -> Result<Facts, Failure> {
        unreachable!()
    }
    async fn images(&self) -> Result<Vec<String>, Failure> {
        unreachable!()
    }
    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        unreachable!()
    }
    async fn create_config(&self, _: &str, _: &VmSpec) -> Result<(), Failure> {
        unreachable!()
    }
    async fn deploy(&self, _: &Deploy) -> Result<VmInfo, Failure> {
        unreachable!()
    }
    async fn exists(&self, _: &VmInfo) -> Result<bool, Failure> {
        unreachable!()
    }
    async fn config(&self, _: &str) -> Result<Option<StoredConfig>, Failure> {
        unreachable!()
    }
    async fn sign_out(&self) -> Result<SignOut, Failure> {
        unreachable!()
    }
    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        unreachable!()
    }
    fn removal_command(&self, _: &str) -> String {
        unreachable!()
    }
}

/// A ledger whose run asked for the config and has had no answer, and deployed these VMs from it.
fn ledger(thing: Thing, own: &[&str]) -> Ledger {
    let ledger = Ledger::in_memory();
    ledger.owe(thing, NAME).unwrap();
    ledger.create_begins(NAME);
    for vm in own {
        ledger.deploy_begins(NAME).unwrap();
        ledger.deploy_ends(NAME, DeployEnd::Made(vm));
    }
    ledger
}

async fn remove(cluster: &VmsOfOneConfig, ledger: &Ledger) -> Result<(), Failure> {
    remove_accounted(cluster, ledger, NAME, Instant::now() + MINUTE).await
}

/// The VMs there are, and how often everything was purged.
fn after(cluster: &VmsOfOneConfig) -> (Vec<String>, u32) {
    let known = cluster.known();
    (known.vms.iter().cloned().collect(), known.purges)
}

#[tokio::test(start_paused = true)]
async fn a_config_from_which_another_task_deployed_is_handed_over_and_its_vm_stays() {
    let (cluster, ledger) = (
        VmsOfOneConfig::new(&["theirs"], 0),
        ledger(Thing::SharedConfig, &[]),
    );
    remove(&cluster, &ledger).await.unwrap();
    assert_eq!(after(&cluster), (vec!["theirs".to_owned()], 0));
    let debt = ledger.debt(NAME).unwrap();
    assert!(
        debt.is_settled() && debt.state == State::HandedOver,
        "{debt:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_the_makers_goes_by_id_and_the_rest_stays() {
    let (cluster, ledger) = (
        VmsOfOneConfig::new(&["mine", "mine-too", "theirs"], 0),
        ledger(Thing::SharedConfig, &["mine", "mine-too"]),
    );
    remove(&cluster, &ledger).await.unwrap();
    assert_eq!(after(&cluster), (vec!["theirs".to_owned()], 0));
    assert!(ledger.owed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_else_uses_is_purged_as_is_one_that_is_not_shared() {
    for (thing, vms) in [
        (Thing::SharedConfig, &["mine"][..]),
        (Thing::SharedConfig, &[]),
        (Thing::VmConfig, &["mine", "nobody answered for it"]),
    ] {
        let (cluster, ledger) = (VmsOfOneConfig::new(vms, 0), ledger(thing, &["mine"]));
        remove(&cluster, &ledger).await.unwrap();
        assert_eq!(after(&cluster), (vec![], 1), "{vms:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_purged_while_it_is_not_known_whose_it_is() {
    let (cluster, shared) = (
        VmsOfOneConfig::new(&["theirs"], 3),
        ledger(Thing::SharedConfig, &[]),
    );
    remove(&cluster, &shared).await.unwrap();
    assert_eq!(cluster.known().vms.len(), 1, "after some looks that failed");
    let (cluster, shared) = (
        VmsOfOneConfig::new(&["theirs"], u32::MAX),
        ledger(Thing::SharedConfig, &[]),
    );
    let begun = Instant::now();
    let failure = remove(&cluster, &shared).await.unwrap_err();
    assert_eq!(failure.code, "orka.test");
    assert!(begun.elapsed() <= MINUTE);
    assert_eq!(after(&cluster), (vec!["theirs".to_owned()], 0));
    assert!(!shared.owed().is_empty(), "it is told as a leftover");
}
