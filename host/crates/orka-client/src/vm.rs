//! What the API tells: VMs, VM configs, nodes, images.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Generation;
use crate::version::ApiVersion;

/// A VM that was just deployed. macOS may still be booting: SSH answers later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployedVm {
    /// The name to look it up and delete it by.
    pub name: String,
    /// Orka 2: the instance's id.
    pub id: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
    /// IP address or host name to connect to, after [`node_addresses`](crate::ClientConfig::node_addresses).
    pub address: String,
    /// The address as Orka gave it: the node's, or on a bridged Orka 3 cluster the VM's own.
    pub reported_ip: IpAddr,
    /// TCP port of SSH at [`address`](Self::address).
    pub ssh_port: u16,
    /// TCP port of macOS screen sharing.
    pub screen_share_port: Option<u16>,
    /// TCP port of the VNC console; none if it is off.
    pub vnc_port: Option<u16>,
    /// Its memory in whole MiB, where the API tells it.
    pub memory_mib: Option<u32>,
    /// What the API remarked, such as port reservations it changed.
    pub warnings: Vec<String>,
}

/// A VM, or an Orka 2 VM config without one, as status and lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmInstance {
    /// Name of the VM and, on Orka 2, of its VM config.
    pub name: String,
    /// Orka 2: the instance's id.
    pub id: Option<String>,
    /// What the API says about it.
    pub state: VmState,
    /// The node it runs on.
    pub node: Option<String>,
    /// IP address or host name to connect to, after [`node_addresses`](crate::ClientConfig::node_addresses).
    pub address: Option<String>,
    /// The address as Orka gave it.
    pub reported_ip: Option<IpAddr>,
    /// TCP port of SSH.
    pub ssh_port: Option<u16>,
    /// TCP port of macOS screen sharing.
    pub screen_share_port: Option<u16>,
    /// TCP port of the VNC console.
    pub vnc_port: Option<u16>,
    /// Base image.
    pub image: Option<String>,
    /// Who made it; Orka 2 only.
    pub owner: Option<String>,
    /// When it was deployed, as the API writes it (RFC 3339 in every known release).
    pub created_at: Option<String>,
    /// Its metadata; Orka 3 only.
    pub metadata: BTreeMap<String, String>,
}

impl VmInstance {
    /// Whether a VM exists, in whatever state, and not a VM config alone.
    pub fn is_deployed(&self) -> bool {
        self.state != VmState::NotDeployed
    }
}

/// What the API says about a VM. None of it proves that macOS answers: only SSH does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VmState {
    /// Orka 2: a VM config without a VM.
    NotDeployed,
    /// Being deployed, or just deployed.
    Pending,
    /// The VM process runs. Stopped and suspended VMs may be shown so too.
    Running,
    /// It will not run any more; delete it.
    Failed,
    /// Another word.
    Other(String),
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotDeployed => "not deployed",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Other(word) => word,
        })
    }
}

impl VmState {
    /// Reads the API's word; no word is how Orka 2 shows a VM right after its deploy.
    pub(crate) fn from_word(word: Option<&str>) -> Self {
        let Some(word) = word else {
            return Self::Pending;
        };
        match word.to_ascii_lowercase().as_str() {
            "running" => Self::Running,
            "pending" | "starting" | "deploying" => Self::Pending,
            "failed" | "error" => Self::Failed,
            "not deployed" => Self::NotDeployed,
            _ => Self::Other(word.to_owned()),
        }
    }
}

/// A VM config.
#[derive(Debug, Clone, PartialEq)]
pub struct VmConfig {
    /// Its name.
    pub name: String,
    /// Base image.
    pub image: Option<String>,
    /// CPU cores.
    pub cpu: Option<u32>,
    /// Virtual CPUs; Orka 2 only.
    pub vcpu: Option<u32>,
    /// Memory in GiB; `None` if the cluster chooses.
    pub memory_gib: Option<f64>,
    /// Who made it; Orka 2 only.
    pub owner: Option<String>,
    /// Node tag.
    pub tag: Option<String>,
}

/// What came of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Removal {
    /// The API says it removed it.
    Removed,
    /// There was nothing of that name.
    AlreadyGone,
}

/// What came of [`Client::sign_out`](crate::Client::sign_out).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignOut {
    /// Orka 2 below 2.1.1: the token was this client's own and is revoked.
    Revoked,
    /// Orka 2 from 2.1.1 or of unknown version: the user has one token, and revoking it would log out every other
    /// build. Also for a token that was given to this client. It is forgotten here.
    KeptShared,
    /// Orka 3 revokes no tokens: they end by expiry or with their service account. It is forgotten here.
    NothingToRevoke,
    /// This client never obtained a token.
    NeverSignedIn,
}

/// Whether the API takes the token that the client holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Valid {
        /// The user it belongs to; Orka 2 only.
        user: Option<String>,
    },
    /// It does not.
    Refused {
        /// The API's reason.
        why: String,
    },
}

/// What the cluster says about itself without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The API it speaks.
    pub generation: Generation,
    /// Its version; Orka 2 only, since Orka 3 does not tell.
    pub version: Option<ApiVersion>,
    /// Its domain; Orka 3 only, absent in older releases.
    pub api_domain: Option<String>,
    /// Whether VMs may be given a GPU; Orka 3 only.
    pub gpu_passthrough: Option<bool>,
}

/// A node: a Mac that runs VMs.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address, as Orka gives it.
    pub ip: Option<IpAddr>,
    /// Whether it takes VMs.
    pub is_ready: bool,
    /// Cores that are free.
    pub available_cpu: Option<u32>,
    /// Cores in all.
    pub allocatable_cpu: Option<u32>,
    /// Memory that is free, as the API writes it, such as `47.49G`.
    pub available_memory: Option<String>,
    /// `WORKER`, `SANDBOX`, `FOUNDATION`.
    pub kind: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
}

/// An image in the cluster's own storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name, suffix included.
    pub name: String,
    /// Its size, as the API writes it, such as `90G`.
    pub size: Option<String>,
    /// `arm64` or `amd64`; Orka 3 only.
    pub architecture: Option<String>,
    /// A remark; Orka 3 only.
    pub description: Option<String>,
}
