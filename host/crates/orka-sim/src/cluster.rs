//! The cluster behind both APIs: what exists right now, and who may touch it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tokio::net::TcpSocket;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Architecture, ImageSpec, NodeSpec, SaToken, SimConfig, User, architecture_of};
use crate::fault::{Faults, GuestFault};
use crate::guest::Guest;
use crate::snapshot::{DeletionRecord, RequestRecord};

/// The namespace every cluster has.
pub(crate) const DEFAULT_NAMESPACE: &str = "orka-default";

/// A token handed out by `POST /token`.
#[derive(Clone, Debug)]
pub(crate) struct UserToken {
    pub(crate) value: String,
    pub(crate) email: String,
    pub(crate) revoked: bool,
}

/// A 3.x bearer token with the time at which it ends.
#[derive(Clone, Debug)]
pub(crate) struct LiveSaToken {
    pub(crate) spec: SaToken,
    /// Since the start of the simulator.
    pub(crate) expires: Option<Duration>,
}

/// A 2.x VM configuration.
#[derive(Clone, Debug)]
pub(crate) struct VmConfig {
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) base_image: String,
    pub(crate) image: String,
    pub(crate) cpu: u32,
    pub(crate) vcpu: u32,
    pub(crate) iso_image: Option<String>,
    pub(crate) attached_disk: Option<String>,
    pub(crate) vnc_console: bool,
    pub(crate) system_serial: Option<String>,
    pub(crate) io_boost: bool,
    pub(crate) net_boost: bool,
    pub(crate) gpu_passthrough: bool,
    pub(crate) tag: Option<String>,
    pub(crate) tag_required: bool,
    pub(crate) scheduler: Option<String>,
    pub(crate) memory_gib: Option<f64>,
    pub(crate) template: Option<String>,
    /// A deploy of it has failed and none has succeeded since.
    pub(crate) deploy_failed: bool,
}

/// Where a VM is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The deploy request is still being worked on.
    Pending,
    /// The VM process runs; macOS may still be booting.
    Running,
    /// Stopped by a power operation.
    Stopped,
    /// Suspended by a power operation.
    Suspended,
    /// It will never run; the reason.
    Failed(String),
}

/// A port of the node led to a port of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortMapping {
    pub(crate) host: u16,
    pub(crate) guest: u16,
    pub(crate) protocol: &'static str,
}

/// What a VM is made from; generation-neutral.
#[derive(Clone, Debug)]
pub(crate) struct VmSpec {
    pub(crate) name: String,
    /// Id of Orka 2.x; replicas share one.
    pub(crate) id: String,
    /// E-mail address or service account.
    pub(crate) owner: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    pub(crate) architecture: Architecture,
    /// `orka_image` of 2.x.
    pub(crate) disk: String,
    pub(crate) cpu: u32,
    pub(crate) vcpu: u32,
    /// `None` is automatic.
    pub(crate) memory_gib: Option<f64>,
    pub(crate) node: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) tag_required: bool,
    pub(crate) most_allocated: bool,
    pub(crate) vnc_console: bool,
    pub(crate) gpu_passthrough: bool,
    pub(crate) io_boost: bool,
    pub(crate) net_boost: bool,
    pub(crate) template: Option<String>,
    pub(crate) replicas: u32,
    pub(crate) reserved_ports: Vec<PortMapping>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) guest_fault: GuestFault,
}

/// One virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Unique within this simulator.
    pub(crate) serial: u64,
    /// The waiting entry it came from.
    pub(crate) ticket: Option<u64>,
    pub(crate) spec: VmSpec,
    pub(crate) node: usize,
    pub(crate) ip: IpAddr,
    pub(crate) ssh_port: u16,
    pub(crate) screen_port: u16,
    pub(crate) vnc_port: Option<u16>,
    pub(crate) memory_gib: f64,
    pub(crate) created: SystemTime,
    pub(crate) phase: Phase,
    pub(crate) home: PathBuf,
    pub(crate) port_warnings: Vec<String>,
    /// Holds the SSH port until the guest takes it over.
    pub(crate) socket: Option<TcpSocket>,
    pub(crate) guest: Option<Guest>,
}

impl Vm {
    /// Whether it takes up room on its node.
    pub(crate) fn occupies(&self) -> bool {
        !matches!(self.phase, Phase::Failed(_))
    }
}

/// A 3.x VM that has no node yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) ticket: u64,
    pub(crate) created: SystemTime,
    pub(crate) spec: VmSpec,
}

/// One node and the images it has copied.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) cached_images: HashSet<String>,
}

/// One image and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) spec: ImageSpec,
    pub(crate) added: SystemTime,
    pub(crate) owner: String,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) users: Vec<User>,
    pub(crate) user_tokens: Vec<UserToken>,
    pub(crate) sa_tokens: Vec<LiveSaToken>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) configs: Vec<VmConfig>,
    /// 3.x VM configurations, as their makers wrote them.
    pub(crate) vmconfigs: Vec<Map<String, Value>>,
    pub(crate) vms: Vec<Vm>,
    /// 3.x VMs that have no node yet.
    pub(crate) waiting: Vec<Waiting>,
    /// Service accounts made through the API: namespace and name.
    pub(crate) accounts: Vec<(String, String)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) images: Vec<Image>,
    pub(crate) faults: Faults,
    pub(crate) requests: Vec<RequestRecord>,
    pub(crate) deletions: Vec<DeletionRecord>,
    pub(crate) next_serial: u64,
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: SimConfig,
    pub(crate) homes: PathBuf,
    started: Instant,
    started_at: SystemTime,
    inner: Mutex<Inner>,
    /// Cancelled when the simulator ends; nothing new is made then.
    pub(crate) power: CancellationToken,
    /// Told whenever a VM leaves a node.
    pub(crate) room_freed: Notify,
    /// Told when the API is to refuse connections, and for how long.
    pub(crate) outages: watch::Sender<Duration>,
}

impl Cluster {
    pub(crate) fn new(config: SimConfig, homes: PathBuf) -> Self {
        let started_at = SystemTime::now();
        let inner = Inner::new(&config, started_at);
        Self {
            homes,
            started: Instant::now(),
            started_at,
            inner: Mutex::new(inner),
            power: CancellationToken::new(),
            room_freed: Notify::new(),
            outages: watch::Sender::new(Duration::ZERO),
            config,
        }
    }

    /// The changing part. Never held across an `await`.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panicking handler leaves at worst one half-made record; the simulator goes on answering.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start, on the clock of the runtime, which tests may pause.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time of day on that clock.
    pub(crate) fn now(&self) -> SystemTime {
        self.started_at + self.elapsed()
    }

    /// Whether tokens are one per user, by switch or by version (2.1.1 and later).
    pub(crate) fn single_token(&self) -> bool {
        use crate::switches::TokenModel;
        match self.config.switches.token_model {
            TokenModel::Many => false,
            TokenModel::OneSame | TokenModel::OneRotating => true,
            TokenModel::ByVersion => {
                version_numbers(&self.config.api_version).as_slice() >= [2, 1, 1].as_slice()
            }
        }
    }
}

impl Inner {
    fn new(config: &SimConfig, now: SystemTime) -> Self {
        let mut namespaces = config.namespaces.clone();
        if !namespaces.iter().any(|name| name == DEFAULT_NAMESPACE) {
            namespaces.insert(0, DEFAULT_NAMESPACE.to_owned());
        }
        let live = |spec: &SaToken| LiveSaToken {
            spec: spec.clone(),
            expires: spec.lifetime,
        };
        let node = |spec: &NodeSpec| Node {
            spec: spec.clone(),
            cached_images: HashSet::new(),
        };
        let image = |spec: &ImageSpec| Image {
            spec: spec.clone(),
            added: now,
            owner: "all".to_owned(),
        };
        let mut faults = Faults::default();
        config
            .faults
            .iter()
            .cloned()
            .for_each(|rule| faults.add(rule));
        Self {
            users: config.users.clone(),
            user_tokens: Vec::new(),
            sa_tokens: config.sa_tokens.iter().map(live).collect(),
            namespaces,
            configs: Vec::new(),
            vmconfigs: Vec::new(),
            vms: Vec::new(),
            waiting: Vec::new(),
            accounts: Vec::new(),
            nodes: config.nodes.iter().map(node).collect(),
            images: config.images.iter().map(image).collect(),
            faults,
            requests: Vec::new(),
            deletions: Vec::new(),
            next_serial: 1,
        }
    }

    /// The processor an image boots on; `None` for a plain name that is in no list.
    pub(crate) fn image_architecture(&self, name: &str, strict_oci: bool) -> Option<Architecture> {
        if let Some(image) = self.images.iter().find(|image| image.spec.name == name) {
            return Some(image.spec.architecture);
        }
        (is_oci_reference(name) && !strict_oci).then(|| architecture_of(name))
    }

    pub(crate) fn is_waiting(&self, ticket: u64) -> bool {
        self.waiting.iter().any(|waiting| waiting.ticket == ticket)
    }

    pub(crate) fn forget_waiting(&mut self, ticket: u64) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
    }

    pub(crate) fn vm(&self, serial: u64) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.serial == serial)
    }

    pub(crate) fn vm_mut(&mut self, serial: u64) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.serial == serial)
    }

    /// The 2.x configuration of this name and owner.
    pub(crate) fn config(&self, owner: &str, name: &str) -> Option<&VmConfig> {
        self.configs
            .iter()
            .find(|config| config.owner == owner && config.name == name)
    }

    /// The VMs of a node that take up room.
    pub(crate) fn on_node(&self, node: usize) -> impl Iterator<Item = &Vm> {
        self.vms
            .iter()
            .filter(move |vm| vm.node == node && vm.occupies())
    }

    /// Cores left on a node.
    pub(crate) fn free_cpu(&self, node: usize) -> u32 {
        let used: u32 = self.on_node(node).map(|vm| vm.spec.cpu).sum();
        self.nodes[node].spec.cpu.saturating_sub(used)
    }

    /// Memory left on a node, in GiB.
    pub(crate) fn free_memory(&self, node: usize) -> f64 {
        let used: f64 = self.on_node(node).map(|vm| vm.memory_gib).sum();
        (self.nodes[node].spec.memory_gib - used).max(0.0)
    }
}

/// Whether an image name is an OCI reference: the part before the first `/` has a `.` or `:`, or is `localhost`.
pub(crate) fn is_oci_reference(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

/// The leading numbers of a version, each cut at its first character that is no digit.
fn version_numbers(version: &str) -> Vec<u32> {
    let number = |piece: &str| {
        let digits: String = piece.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    version.split('.').map_while(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_up_to_what_is_no_number() {
        assert_eq!(version_numbers("2.1.1-preview-1"), [2, 1, 1]);
        assert_eq!(version_numbers("2.4"), [2, 4]);
        assert!(version_numbers("garbage").is_empty());
    }

    #[test]
    fn tokens_are_single_from_2_1_1_on() {
        for (version, single) in [
            ("1.5.3", false),
            ("2.1.0", false),
            ("2.1.1", true),
            ("2.4.0", true),
        ] {
            let config = SimConfig {
                api_version: version.to_owned(),
                ..SimConfig::default()
            };
            assert_eq!(
                Cluster::new(config, PathBuf::new()).single_token(),
                single,
                "{version}"
            );
        }
    }

    #[test]
    fn oci_references_are_told_from_local_names() {
        for (name, oci) in [
            ("ghcr.io/macstadium/orka-images/sequoia:latest", true),
            ("localhost/image", true),
            ("registry:5000/image", true),
            ("Sonoma.orkasi", false),
            ("folder/image", false),
        ] {
            assert_eq!(is_oci_reference(name), oci, "{name}");
        }
    }
}
