//! The clean-up in virtual time, on a cluster that answers as it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use plugin_manifest::Manifest;
use rand::SeedableRng as _;

use super::*;
use crate::backend::ssh::SshGuests;
use crate::backend::{Deploy, Listed, StoredConfig};
use crate::bindings::orka::plugin::cluster::{Facts, Generation, Node, VmInfo, VmSpec};
use crate::config::SshConfig;
use crate::grants::Grants;
use crate::guard::Guards;
use crate::identity::{DEFAULT_PREFIX, Identity};
use crate::ledger::{DeployEnd, VmLimits};
use crate::limits::Limits;
use crate::mask::Masker;
use crate::outcome::StopSignal;
use crate::results::Results;
use crate::state::{RunParts, Stop};

/// What the cluster does with one request.
#[derive(Clone, Copy)]
enum Answer {
    Works,
    Hangs,
    Refuses(Class),
    /// As Orka does who is asked too often.
    AsksToWait(Duration),
}

impl Answer {
    async fn given(self) -> Result<(), Failure> {
        match self {
            Self::Works => Ok(()),
            Self::Hangs => std::future::pending().await,
            Self::Refuses(class) => Err(Failure::new(Kind::Unavailable, class, "orka.test", "no")),
            Self::AsksToWait(span) => {
                let mut failure = Failure::new(
                    Kind::Unavailable,
                    Class::Orka,
                    "orka.rate-limited",
                    "too many requests",
                );
                failure.retry_after = Some(span);
                Err(failure)
            }
        }
    }
}

/// Answers in order, the last one for ever.
#[derive(Default)]
struct Script(Mutex<VecDeque<Answer>>);

impl Script {
    fn of(answers: &[Answer]) -> Self {
        Self(Mutex::new(answers.iter().copied().collect()))
    }

    async fn next(&self) -> Result<(), Failure> {
        let answer = {
            let mut answers = self.0.lock().unwrap();
            let next = answers.front().copied().unwrap_or(Answer::Works);
            if answers.len() > 1 {
                answers.pop_front();
            }
            next
        };
        answer.given().await
    }
}

#[derive(Default)]
struct Scripted {
    sign_ins: Script,
    sign_ins_seen: Mutex<u32>,
    configs_expected: Mutex<Vec<String>>,
    looks: Script,
    /// VMs, and when the clean-up asked for their deletion.
    vms: Mutex<u32>,
    removals: Mutex<Vec<Instant>>,
}

#[async_trait]
impl Cluster for Scripted {
    async fn sign_in(&self) -> Result<Facts, Failure> {
        *self.sign_ins_seen.lock().unwrap() += 1;
        self.sign_ins.next().await?;
        Ok(Facts {
            generation: Generation::Orka3,
            api_version: None,
            namespace: None,
        })
    }
    async fn remove(&self, _: &str) -> Result<Removal, Failure> {
        self.removals.lock().unwrap().push(Instant::now());
        match std::mem::take(&mut *self.vms.lock().unwrap()) {
            0 => Ok(Removal::AlreadyGone),
            _ => Ok(Removal::Removed),
        }
    }
    async fn remains(&self, _: &str) -> Result<Remains, Failure> {
        self.looks.next().await?;
        let vms = *self.vms.lock().unwrap();
        Ok(Remains { vms, config: false })
    }
    fn stores_configs(&self) -> bool {
        false
    }
    fn expect_config(&self, name: &str) {
        self.configs_expected.lock().unwrap().push(name.to_owned());
    }
    fn removal_command(&self, name: &str) -> String {
        format!("orka3 vm delete {name}")
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
    async fn instances(&self, _: &str) -> Result<Vec<String>, Failure> {
        self.looks.next().await?;
        Ok(Vec::new())
    }
    async fn delete(&self, _: &str, _: Option<&str>) -> Result<(), Failure> {
        unreachable!()
    }
    async fn sign_out(&self) -> Result<SignOut, Failure> {
        unreachable!()
    }
    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        unreachable!()
    }
}

const VM: &str = "tekton-0a1b2c3d-4e5f6071-1";
const SECOND: Duration = Duration::from_secs(1);

/// A run whose only deployment has no answer.
fn in_doubt_about_a_vm(cluster: Arc<Scripted>, stop: Stop) -> Arc<RunContext> {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::Vm, VM).unwrap();
    let limits = VmLimits {
        at_once: 1,
        total: 1,
    };
    ledger.allow_deployment(limits).unwrap();
    ledger.deploy_begins(VM).unwrap();
    ledger.deploy_ends(VM, DeployEnd::Lost);
    let manifest = Manifest::parse_toml(
        "[plugin]\nname = \"test\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n",
    )
    .unwrap();
    let minute = Duration::from_secs(60);
    RunContext::new(RunParts {
        cluster,
        guests: Arc::new(SshGuests::new(SshConfig::without_login(minute, minute))),
        console: Console::captured(Masker::default()).0,
        ledger,
        grants: Grants::everything(&manifest, []),
        guards: Guards::default(),
        params: BTreeMap::new(),
        script: None,
        manifest,
        workspace: None,
        results: Results::new(None).unwrap(),
        secrets: BTreeMap::new(),
        identity: Identity::new(DEFAULT_PREFIX, None, None).unwrap(),
        owner: Vec::new(),
        limits: Limits::default(),
        timeout: minute,
        stop,
        random: Box::new(rand::rngs::StdRng::seed_from_u64(1)),
    })
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_wait_is_not_asked_again_before() {
    for (asked, waited) in [(SECOND, SECOND), (SECOND * 3600, PAUSE_MAX)] {
        for is_kept in [false, true] {
            let cluster = Scripted {
                looks: Script::of(&[Answer::AsksToWait(asked), Answer::Works]),
                ..Scripted::default()
            };
            let ledger = Ledger::in_memory();
            ledger.owe(Thing::VmConfig, VM).unwrap();
            let mut debt = ledger.debt(VM).unwrap();
            let started = Instant::now();
            let deadline = started + BUDGET;
            if is_kept {
                debt.thing = Thing::VmOfConfig;
                remove_one_by_one(&cluster, &ledger, &debt, deadline)
                    .await
                    .unwrap();
            } else {
                remove_confirmed(&cluster, VM, deadline).await.unwrap();
            }
            assert_eq!(started.elapsed(), waited.max(PAUSE_FIRST), "{asked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_in_doubt_is_deleted_although_it_cannot_be_counted_first() {
    for (look, looks) in [(Answer::Hangs, 2), (Answer::Refuses(Class::Orka), 12)] {
        let started = Instant::now();
        let cluster = Arc::new(Scripted {
            // For as long as it is counted at all.
            looks: Script::of(&[vec![look; looks], vec![Answer::Works]].concat()),
            vms: Mutex::new(1),
            ..Scripted::default()
        });
        let run = in_doubt_about_a_vm(cluster.clone(), Stop::default());
        let settlement = settle(&run).await;
        assert_eq!(*cluster.vms.lock().unwrap(), 0);
        assert!(cluster.removals.lock().unwrap()[0] <= started + COUNT_TIMEOUT);
        // Whether it was the VM of the request without an answer nobody saw: that is told.
        assert_eq!(settlement.leftovers.len(), 1, "{settlement:?}");
        assert!(settlement.leftovers[0].reason.contains("may still appear"));
    }
}

#[tokio::test(start_paused = true)]
async fn signing_in_to_clean_up_is_tried_again_unless_it_was_declined() {
    for (class, vms) in [(Class::Orka, 0), (Class::Config, 1)] {
        let cluster = Arc::new(Scripted {
            sign_ins: Script::of(&[
                Answer::Refuses(class),
                Answer::Refuses(class),
                Answer::Works,
            ]),
            vms: Mutex::new(1),
            ..Scripted::default()
        });
        let run = in_doubt_about_a_vm(cluster.clone(), Stop::default());
        let settlement = settle(&run).await;
        assert_eq!(*cluster.vms.lock().unwrap(), vms, "{settlement:?}");
        assert_eq!(settlement.leftovers.len(), vms as usize, "{settlement:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_while_the_clean_up_signs_in_shortens_it() {
    let cluster = Arc::new(Scripted {
        sign_ins: Script::of(&[Answer::Hangs]),
        ..Scripted::default()
    });
    let stop = Stop::default();
    let run = in_doubt_about_a_vm(cluster, stop.clone());
    let started = Instant::now();
    let signalled = async {
        sleep(SECOND).await;
        stop.stop(StopSignal::Terminate);
        std::future::pending::<()>().await;
    };
    let settlement = tokio::select! {
        settlement = settle(&run) => settlement,
        () = signalled => unreachable!(),
    };
    assert!(
        started.elapsed() <= SECOND + BUDGET_AFTER_SIGNAL,
        "{:?}",
        started.elapsed()
    );
    assert_eq!(settlement.leftovers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_declined_are_tried_once_for_all_that_is_owed() {
    let cluster = Arc::new(Scripted {
        sign_ins: Script::of(&[Answer::Refuses(Class::Config)]),
        ..Scripted::default()
    });
    let run = in_doubt_about_a_vm(cluster.clone(), Stop::default());
    for name in ["tekton-0a1b2c3d-4e5f6071-2", "tekton-0a1b2c3d-4e5f6071-3"] {
        run.ledger.owe(Thing::Vm, name).unwrap();
    }
    let settlement = settle(&run).await;
    assert_eq!(settlement.leftovers.len(), 3);
    assert_eq!(*cluster.sign_ins_seen.lock().unwrap(), 1);
}

/// The policy failed before it signed in, so that nothing of its predecessors' was looked at before.
#[tokio::test(start_paused = true)]
async fn a_stored_config_is_looked_for_also_where_vms_need_none() {
    let cluster = Arc::new(Scripted::default());
    let run = in_doubt_about_a_vm(cluster.clone(), Stop::default());
    let config = "tekton-0a1b2c3d-4e5f6071-2";
    run.ledger.owe(Thing::SharedConfig, config).unwrap();
    settle(&run).await;
    assert_eq!(*cluster.configs_expected.lock().unwrap(), [config]);
}
