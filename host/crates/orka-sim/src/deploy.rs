//! Finding room for a VM, bringing it up and taking it down.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::cluster::{Cluster, Inner, Phase, Vm, VmSpec};
use crate::config::{Architecture, GuestKind};
use crate::guest::{Guest, GuestOrder, kill_processes_of, search_path};
use crate::snapshot::DeletionRecord;
use crate::switches::{NetworkMode, PortNumbers};

/// First SSH, screen sharing and VNC port of a node.
const FIRST_PORTS: (u16, u16, u16) = (8822, 5900, 5999);

/// How many ports of a kind a node has: 8822–9122 and its like.
const PORTS_PER_NODE: u16 = 301;

/// Why no node can take a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The request names a node that does not exist.
    UnknownNode(String),
    /// Nodes of the right kind have too few free cores.
    Cpu,
    /// Nodes of the right kind have too little free memory.
    Memory,
    /// Nodes of the right kind have as many VMs as they may; one of them.
    Slots { node: String, slots: u32 },
    /// There is no ready node of the right processor, namespace or tag at all.
    NoSuchNode,
    /// A port could not be had.
    Ports(String),
}

/// Room found: the VM is on the list, in phase `Pending`.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) serial: u64,
    /// The image is not yet on the node.
    pub(crate) pull: bool,
}

/// Puts a VM on the list, on a node that has room.
///
/// A `ticket` is the waiting entry that becomes this VM.
pub(crate) fn reserve(
    cluster: &Cluster,
    spec: VmSpec,
    ticket: Option<u64>,
) -> Result<Reserved, NoRoom> {
    let mut inner = cluster.lock();
    if cluster.power.is_cancelled() {
        return Err(NoRoom::NoSuchNode);
    }
    let node = choose_node(&inner, &spec)?;
    let memory_gib = spec
        .memory_gib
        .unwrap_or_else(|| automatic_memory(&inner, node, spec.cpu));
    let (ip, socket, ssh_port) =
        ssh_address(cluster, &inner, node).map_err(|error| NoRoom::Ports(error.to_string()))?;
    let screen_port = lowest_free(&inner, node, FIRST_PORTS.1, |vm| Some(vm.screen_port));
    let shows_vnc = spec.vnc_console && !spec.gpu_passthrough;
    let vnc_port = shows_vnc.then(|| lowest_free(&inner, node, FIRST_PORTS.2, |vm| vm.vnc_port));
    let port_warnings = taken_ports(&inner, node, &spec);
    let serial = inner.next_serial;
    inner.next_serial += 1;
    let home = cluster.homes.join(format!("{}-{serial}", spec.name));
    let pull = !inner.nodes[node].cached_images.contains(&spec.image);
    if let Some(ticket) = ticket {
        inner.forget_waiting(ticket);
    }
    inner.vms.push(Vm {
        serial,
        ticket,
        node,
        ip,
        ssh_port,
        screen_port,
        vnc_port,
        memory_gib,
        created: cluster.now(),
        phase: Phase::Pending,
        home,
        port_warnings,
        socket: Some(socket),
        guest: None,
        spec,
    });
    Ok(Reserved { serial, pull })
}

/// The VM was taken away, or its guest could not start, while it was being brought up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BringUpError {
    /// Somebody deleted it in the meantime.
    #[error("the VM was deleted while it was being deployed")]
    Deleted,
    /// A fault says so.
    #[error("{0}")]
    Failed(String),
    /// The guest did not start.
    #[error("the VM process has crashed")]
    Guest(#[source] crate::guest::GuestError),
}

/// Waits as long as a deploy takes, then starts the guest.
pub(crate) async fn bring_up(
    cluster: &Arc<Cluster>,
    reserved: &Reserved,
    failing: Option<String>,
) -> Result<(), BringUpError> {
    let pull = if reserved.pull {
        cluster.config.image_pull_delay
    } else {
        Duration::ZERO
    };
    let wait = cluster.config.deploy_delay + pull;
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let order = {
        let mut inner = cluster.lock();
        let vm = inner.vm_mut(reserved.serial).ok_or(BringUpError::Deleted)?;
        if let Some(message) = failing {
            vm.phase = Phase::Failed(message.clone());
            return Err(BringUpError::Failed(message));
        }
        let socket = vm.socket.take().ok_or(BringUpError::Deleted)?;
        guest_order(cluster, vm, socket)
    };
    let started = Guest::start(&cluster.config.guests, order).await;
    let orphan = {
        let mut inner = cluster.lock();
        match (
            inner.vms.iter().position(|vm| vm.serial == reserved.serial),
            started,
        ) {
            (Some(at), Ok(guest)) => {
                let (node, image) = (inner.vms[at].node, inner.vms[at].spec.image.clone());
                inner.vms[at].guest = Some(guest);
                inner.vms[at].phase = Phase::Running;
                inner.nodes[node].cached_images.insert(image);
                return Ok(());
            }
            (Some(at), Err(error)) => {
                inner.vms[at].phase = Phase::Failed(error.to_string());
                return Err(BringUpError::Guest(error));
            }
            (None, Err(_)) => return Err(BringUpError::Deleted),
            (None, Ok(guest)) => guest,
        }
    };
    // Deleted between the two locks: the deletion did not see this guest.
    orphan.stop().await;
    Err(BringUpError::Deleted)
}

fn guest_order(cluster: &Cluster, vm: &Vm, socket: TcpSocket) -> GuestOrder {
    let config = &cluster.config;
    let fault = vm.spec.guest_fault.clone();
    GuestOrder {
        vm: vm.spec.name.clone(),
        home: vm.home.clone(),
        socket,
        boot_delay: fault
            .boot_ms
            .map_or(config.boot_delay, Duration::from_millis),
        fault,
        user: config.guest_user.clone(),
        password: config.guest_password.clone(),
        authorized_keys: config.authorized_keys.clone(),
        accept_env: config.accept_env.clone(),
        path: search_path(config.guest_programs.as_deref()),
    }
}

/// Takes VMs off the list, then stops their guests and removes their homes.
///
/// `keep` says which stay. Returns how many went.
pub(crate) async fn take_down(cluster: &Cluster, goes: impl Fn(&Vm) -> bool) -> usize {
    let at_ms = u64::try_from(cluster.elapsed().as_millis()).unwrap_or(u64::MAX);
    let gone: Vec<Vm> = {
        let mut inner = cluster.lock();
        let (gone, kept) = std::mem::take(&mut inner.vms)
            .into_iter()
            .partition(|vm| goes(vm));
        inner.vms = kept;
        for vm in &gone {
            let vm: &Vm = vm;
            let (name, id) = (vm.spec.name.clone(), vm.spec.id.clone());
            inner.deletions.push(DeletionRecord {
                kind: "vm",
                name,
                id,
                at_ms,
            });
        }
        gone
    };
    let count = gone.len();
    for vm in gone {
        if let Some(guest) = vm.guest {
            guest.stop().await;
        }
        kill_processes_of(&vm.home);
        remove_home(vm.home).await;
    }
    // Also told when nothing went: a VM without a node may have been forgotten.
    cluster.room_freed.notify_waiters();
    count
}

/// Removes a home directory. A process that was just killed may still have written a last file, hence the repeats.
async fn remove_home(home: std::path::PathBuf) {
    for _ in 0..5 {
        match tokio::fs::remove_dir_all(&home).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!(%error, "home directory is still in use");
                tokio::task::yield_now().await;
            }
            _ => return,
        }
    }
}

/// The node for a VM: the one asked for, or the best with room.
fn choose_node(inner: &Inner, spec: &VmSpec) -> Result<usize, NoRoom> {
    if let Some(name) = &spec.node {
        let found = inner.nodes.iter().position(|node| node.spec.name == *name);
        let node = found.ok_or_else(|| NoRoom::UnknownNode(name.clone()))?;
        if !is_eligible(inner, node, spec) {
            return Err(NoRoom::NoSuchNode);
        }
        return refusal(inner, node, spec).map_or(Ok(node), Err);
    }
    let eligible: Vec<usize> = (0..inner.nodes.len())
        .filter(|node| is_eligible(inner, *node, spec))
        .collect();
    let wanted = spec.tag.as_deref().unwrap_or_default();
    let tagged = |node: &usize| {
        !wanted.is_empty() && inner.nodes[*node].spec.tags.iter().any(|tag| tag == wanted)
    };
    let mut refused = NoRoom::NoSuchNode;
    let mut fitting: Vec<usize> = Vec::new();
    for node in eligible {
        if spec.tag_required && !wanted.is_empty() && !tagged(&node) {
            continue;
        }
        match refusal(inner, node, spec) {
            None => fitting.push(node),
            Some(reason) => refused = reason,
        }
    }
    let load = |node: usize| inner.on_node(node).map(|vm| vm.spec.cpu).sum::<u32>();
    let rank = |node: &usize| {
        let load = i64::from(load(*node));
        (
            !tagged(node),
            if spec.most_allocated { -load } else { load },
        )
    };
    fitting.into_iter().min_by_key(rank).ok_or(refused)
}

/// Whether a node is of the right kind, empty or not.
fn is_eligible(inner: &Inner, node: usize, spec: &VmSpec) -> bool {
    let node = &inner.nodes[node].spec;
    node.ready && node.architecture == spec.architecture && node.namespace == spec.namespace
}

/// Why a node of the right kind cannot take the VM now.
fn refusal(inner: &Inner, node: usize, spec: &VmSpec) -> Option<NoRoom> {
    let node_spec = &inner.nodes[node].spec;
    let memory = spec
        .memory_gib
        .unwrap_or_else(|| automatic_memory(inner, node, spec.cpu));
    if inner.on_node(node).count() >= node_spec.slots as usize {
        Some(NoRoom::Slots {
            node: node_spec.name.clone(),
            slots: node_spec.slots,
        })
    } else if inner.free_cpu(node) < spec.cpu {
        Some(NoRoom::Cpu)
    } else if inner.free_memory(node) + f64::EPSILON < memory {
        Some(NoRoom::Memory)
    } else {
        None
    }
}

/// The memory of a VM that asks for none: its share of four fifths of the node's, so that 3 of 8 cores and 16 GiB
/// give the 4.80 GiB seen in answers of real clusters.
fn automatic_memory(inner: &Inner, node: usize, cpu: u32) -> f64 {
    let node = &inner.nodes[node].spec;
    node.memory_gib * 0.8 / f64::from(node.cpu.max(1)) * f64::from(cpu)
}

/// Binds the SSH port of a new VM without listening, so that connections are refused until the guest is up.
fn ssh_address(
    cluster: &Cluster,
    inner: &Inner,
    node: usize,
) -> std::io::Result<(IpAddr, TcpSocket, u16)> {
    let bind = |ip: IpAddr, port: u16| -> std::io::Result<(IpAddr, TcpSocket, u16)> {
        let socket = if ip.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Lets a real sshd bind the same port while this socket, which never listens then, keeps others off it.
        socket.set_reuseaddr(matches!(cluster.config.guests, GuestKind::Sshd(_)))?;
        socket.bind(SocketAddr::new(ip, port))?;
        let port = socket.local_addr()?.port();
        Ok((ip, socket, port))
    };
    let switches = &cluster.config.switches;
    if switches.port_numbers == PortNumbers::Kernel {
        return bind(cluster.config.bind, 0);
    }
    let ip = IpAddr::V4(node_address(node));
    if switches.network_mode == NetworkMode::Bridge {
        return bind(ip, 0);
    }
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for port in FIRST_PORTS.0..FIRST_PORTS.0 + PORTS_PER_NODE {
        if inner
            .vms
            .iter()
            .any(|vm| vm.node == node && vm.ssh_port == port)
        {
            continue;
        }
        match bind(ip, port) {
            Ok(bound) => return Ok(bound),
            // Another program on this machine has it.
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The address VMs of a node are reached at.
pub(crate) fn address(cluster: &Cluster, node: usize) -> String {
    match cluster.config.switches.port_numbers {
        PortNumbers::Kernel => cluster.config.bind.to_string(),
        PortNumbers::Cluster => node_address(node).to_string(),
    }
}

/// The loopback address of a node with cluster port numbers: 127.0.0.2 upward.
fn node_address(node: usize) -> Ipv4Addr {
    let number = u32::try_from(node)
        .unwrap_or(0)
        .saturating_add(2)
        .min(0x00ff_fffe);
    Ipv4Addr::from(0x7f00_0000 | number)
}

fn lowest_free(inner: &Inner, node: usize, first: u16, port: impl Fn(&Vm) -> Option<u16>) -> u16 {
    let taken = |candidate: &u16| {
        inner
            .vms
            .iter()
            .any(|vm| vm.node == node && port(vm) == Some(*candidate))
    };
    (first..first.saturating_add(PORTS_PER_NODE))
        .find(|candidate| !taken(candidate))
        .unwrap_or(first)
}

fn taken_ports(inner: &Inner, node: usize, spec: &VmSpec) -> Vec<String> {
    let taken = |port: u16| {
        inner
            .on_node(node)
            .any(|vm| vm.spec.reserved_ports.iter().any(|used| used.host == port))
    };
    let wanted = spec
        .reserved_ports
        .iter()
        .filter(|mapping| taken(mapping.host));
    wanted
        .map(|mapping| format!("Port {} is already in use on the node", mapping.host))
        .collect()
}

impl NoRoom {
    /// Whether later may be different.
    pub(crate) fn is_capacity(&self) -> bool {
        matches!(
            self,
            Self::Cpu | Self::Memory | Self::Slots { .. } | Self::NoSuchNode
        )
    }
}

/// The processors a cluster has at all; a VM for another one never finds room.
pub(crate) fn has_architecture(inner: &Inner, architecture: Architecture) -> bool {
    inner
        .nodes
        .iter()
        .any(|node| node.spec.architecture == architecture)
}
