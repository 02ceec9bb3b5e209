//! VMs and configurations that are there without anybody having deployed them, for tests of what is already on a
//! cluster.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cluster::{Cluster, DEFAULT_NAMESPACE, Phase, Vm, VmConfig, VmSpec, Waiting};
use crate::config::{Architecture, Generation};
use crate::fault::GuestFault;
use crate::id;

/// What a seeded thing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeedKind {
    /// A VM that runs, in 2.x with its configuration. Nothing answers on its ports.
    #[default]
    Running,
    /// A VM that is still being deployed, in 3.x without a node and an address.
    Pending,
    /// A VM whose deployment failed.
    Failed,
    /// A configuration without a VM; 2.x.
    ConfigOnly,
}

/// One thing to put onto a cluster.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Its name.
    pub name: String,
    /// How long ago it was deployed.
    pub age: Duration,
    /// What it is.
    pub kind: SeedKind,
    /// Its owner: an e-mail address in 2.x; the first user when absent.
    pub owner: Option<String>,
    /// Its 3.x namespace; `orka-default` when absent.
    pub namespace: Option<String>,
    /// Its metadata.
    pub metadata: Map<String, Value>,
}

impl Seed {
    /// A running VM.
    pub fn vm(name: impl Into<String>, age: Duration) -> Self {
        Self {
            name: name.into(),
            age,
            kind: SeedKind::Running,
            owner: None,
            namespace: None,
            metadata: Map::new(),
        }
    }

    /// The same of another kind.
    #[must_use]
    pub fn of_kind(self, kind: SeedKind) -> Self {
        Self { kind, ..self }
    }

    /// The same of another owner.
    #[must_use]
    pub fn of(self, owner: &str) -> Self {
        Self {
            owner: Some(owner.to_owned()),
            ..self
        }
    }

    /// The same with one more entry of metadata.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }
}

impl Cluster {
    /// Puts a thing onto the cluster, whatever room there is.
    pub(crate) fn seed(&self, seed: Seed) {
        let owner = seed.owner.clone().unwrap_or_else(|| {
            let first = self.config.users.first();
            first.map(|user| user.email.clone()).unwrap_or_default()
        });
        let created = self.now() - seed.age;
        let spec = self.seed_spec(&seed, &owner);
        let homes = self.homes.clone();
        let mut inner = self.lock();
        if self.config.generation != Generation::Three {
            inner.configs.push(config(&seed, &owner));
        }
        let serial = inner.next_serial;
        inner.next_serial += 1;
        let phase = match seed.kind {
            SeedKind::ConfigOnly => return,
            SeedKind::Pending if self.config.generation == Generation::Three => {
                inner.waiting.push(Waiting {
                    ticket: serial,
                    created,
                    spec,
                });
                return;
            }
            SeedKind::Pending => Phase::Pending,
            SeedKind::Running => Phase::Running,
            SeedKind::Failed => Phase::Failed("it was seeded so".to_owned()),
        };
        inner.vms.push(Vm {
            serial,
            ticket: None,
            node: 0,
            ip: self.config.bind,
            ssh_port: 8822,
            screen_port: 5900,
            vnc_port: None,
            memory_gib: 4.0,
            created,
            phase,
            home: homes.join(format!("{}-{serial}", seed.name)),
            port_warnings: Vec::new(),
            socket: None,
            guest: None,
            spec,
        });
    }

    fn seed_spec(&self, seed: &Seed, owner: &str) -> VmSpec {
        VmSpec {
            name: seed.name.clone(),
            id: id::vm_id(),
            owner: owner.to_owned(),
            namespace: seed
                .namespace
                .clone()
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            image: IMAGE.to_owned(),
            architecture: Architecture::AppleSilicon,
            disk: seed.name.clone(),
            cpu: 1,
            vcpu: 1,
            memory_gib: None,
            node: None,
            tag: None,
            tag_required: false,
            most_allocated: false,
            vnc_console: false,
            gpu_passthrough: false,
            io_boost: false,
            net_boost: false,
            template: None,
            replicas: 1,
            reserved_ports: Vec::new(),
            metadata: seed.metadata.clone(),
            guest_fault: GuestFault::default(),
        }
    }
}

/// What seeded VMs were made from.
const IMAGE: &str = "Sonoma.orkasi";

fn config(seed: &Seed, owner: &str) -> VmConfig {
    VmConfig {
        owner: owner.to_owned(),
        name: seed.name.clone(),
        base_image: IMAGE.to_owned(),
        image: seed.name.clone(),
        cpu: 3,
        vcpu: 3,
        iso_image: None,
        attached_disk: None,
        vnc_console: false,
        system_serial: None,
        io_boost: false,
        net_boost: false,
        gpu_passthrough: false,
        tag: None,
        tag_required: false,
        scheduler: None,
        memory_gib: None,
        template: None,
        deploy_failed: seed.kind == SeedKind::Failed,
    }
}
