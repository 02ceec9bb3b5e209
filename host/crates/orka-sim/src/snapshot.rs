//! What a test can see of a cluster: a copy at one moment.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cluster::{Cluster, Phase, Vm};

/// One request, in the order of arrival. Secrets are kept as received.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord {
    /// Position in the order of arrival, from 1.
    pub number: u64,
    /// HTTP method.
    pub method: String,
    /// Path without query, as sent.
    pub path: String,
    /// Query without `?`.
    pub query: Option<String>,
    /// Headers in the order sent, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as text; bytes that are not UTF-8 are replaced.
    pub body: String,
    /// Status of the answer; `None` while it is being worked on, and where no answer was sent.
    pub status: Option<u16>,
    /// Milliseconds from the start of the simulator to the arrival.
    pub at_ms: u64,
}

impl RequestRecord {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Value::Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// A 2.x token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRecord {
    /// The string.
    pub token: String,
    /// Whose it is.
    pub email: String,
    /// Whether it has been revoked.
    pub revoked: bool,
}

/// A VM configuration of either generation.
#[derive(Clone, Debug, Serialize)]
pub struct VmConfigRecord {
    /// Its name.
    pub name: String,
    /// E-mail address of its owner; empty in 3.x.
    pub owner: String,
    /// Base image.
    pub image: String,
    /// Cores.
    pub cpu: u64,
}

/// A virtual machine.
#[derive(Clone, Debug, Serialize)]
pub struct VmRecord {
    /// Name.
    pub name: String,
    /// Id of Orka 2.x.
    pub id: String,
    /// Who deployed it.
    pub owner: String,
    /// 3.x namespace.
    pub namespace: String,
    /// Node.
    pub node: String,
    /// Base image.
    pub image: String,
    /// Address.
    pub ip: IpAddr,
    /// SSH port.
    pub ssh_port: u16,
    /// Cores.
    pub cpu: u32,
    /// `Pending`, `Running`, `Stopped`, `Suspended` or `Failed`.
    pub phase: String,
    /// Metadata given at deploy.
    pub metadata: Map<String, Value>,
    /// The guest's home directory.
    pub home: PathBuf,
}

/// A VM or configuration that is gone.
#[derive(Clone, Debug, Serialize)]
pub struct DeletionRecord {
    /// `vm` or `config`.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// Id of the VM; empty for a configuration.
    pub id: String,
    /// Milliseconds from the start of the simulator.
    pub at_ms: u64,
}

/// A copy of everything a test may ask about.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// 2.x tokens ever handed out.
    pub tokens: Vec<TokenRecord>,
    /// VM configurations that exist.
    pub configs: Vec<VmConfigRecord>,
    /// VMs that exist.
    pub vms: Vec<VmRecord>,
    /// Names of 3.x VMs that exist and wait for a node.
    pub waiting: Vec<String>,
    /// Requests in the order of arrival.
    pub requests: Vec<RequestRecord>,
    /// What was deleted or purged, in order.
    pub deletions: Vec<DeletionRecord>,
    /// Fault rules in force.
    pub faults: Vec<crate::fault::FaultRule>,
}

impl State {
    /// The requests with this method and path, `*` in the path standing for any run of characters.
    pub fn requests_to(&self, method: &str, path: &str) -> Vec<&RequestRecord> {
        let fits = |request: &&RequestRecord| {
            request.method == method && crate::fault::glob(path, &request.path)
        };
        self.requests.iter().filter(fits).collect()
    }

    /// Tokens that still work.
    pub fn live_tokens(&self) -> usize {
        self.tokens.iter().filter(|token| !token.revoked).count()
    }

    /// Whether nothing that costs money is left or will come: no VM, none that waits for a node, and no configuration.
    pub fn is_clean(&self) -> bool {
        self.vms.is_empty() && self.waiting.is_empty() && self.configs.is_empty()
    }
}

impl Cluster {
    /// A copy of the present state.
    pub(crate) fn snapshot(&self) -> State {
        let inner = self.lock();
        let token = |token: &crate::cluster::UserToken| TokenRecord {
            token: token.value.clone(),
            email: token.email.clone(),
            revoked: token.revoked,
        };
        let config = |config: &crate::cluster::VmConfig| VmConfigRecord {
            name: config.name.clone(),
            owner: config.owner.clone(),
            image: config.base_image.clone(),
            cpu: u64::from(config.cpu),
        };
        let configs = inner
            .configs
            .iter()
            .map(config)
            .chain(inner.vmconfigs.iter().map(vmconfig_record));
        State {
            tokens: inner.user_tokens.iter().map(token).collect(),
            configs: configs.collect(),
            vms: inner
                .vms
                .iter()
                .map(|vm| vm_record(vm, &inner.nodes[vm.node].spec.name))
                .collect(),
            waiting: inner
                .waiting
                .iter()
                .map(|waiting| waiting.spec.name.clone())
                .collect(),
            requests: inner.requests.clone(),
            deletions: inner.deletions.clone(),
            faults: inner.faults.rules(),
        }
    }
}

fn vmconfig_record(members: &Map<String, Value>) -> VmConfigRecord {
    let text = |name: &str| {
        members
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    VmConfigRecord {
        name: text("name"),
        owner: String::new(),
        image: text("image"),
        cpu: members
            .get("cpu")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    }
}

fn vm_record(vm: &Vm, node: &str) -> VmRecord {
    VmRecord {
        name: vm.spec.name.clone(),
        id: vm.spec.id.clone(),
        owner: vm.spec.owner.clone(),
        namespace: vm.spec.namespace.clone(),
        node: node.to_owned(),
        image: vm.spec.image.clone(),
        ip: vm.ip,
        ssh_port: vm.ssh_port,
        cpu: vm.spec.cpu,
        phase: phase_word(&vm.phase).to_owned(),
        metadata: vm.spec.metadata.clone(),
        home: vm.home.clone(),
    }
}

/// The phase in the words of Orka 3.x.
pub(crate) fn phase_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Stopped => "Stopped",
        Phase::Suspended => "Suspended",
        Phase::Failed(_) => "Failed",
    }
}
