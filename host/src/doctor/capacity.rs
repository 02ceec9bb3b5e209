//! Whether a node has room for the VM now.

use std::collections::BTreeMap;

use orka_client::{Node, VmInstance, VmState};

use super::check::{Check, Stage, Subject};
use crate::failure::{Class, Failure, Kind};

/// macOS's licence allows two VMs on an Apple silicon Mac, whatever its size (Orka documentation, "Apple silicon Mac
/// servers in Orka").
const APPLE_SILICON_VMS_MAX: usize = 2;

/// So many nodes are shown by name.
const NODES_SHOWN: usize = 3;

/// The VM that is to be deployed.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    /// CPU cores.
    pub(super) cpu: u32,
    /// The node it is tied to.
    pub(super) node: Option<String>,
    /// The tag that its node must have.
    pub(super) tag: Option<String>,
    /// Whether its image runs on Apple silicon.
    pub(super) on_apple_silicon: bool,
    /// How long the policy waits for room, as it was given.
    pub(super) wait: Option<String>,
}

/// Compares what is free with what is wanted. `vms` are those that the login can see: on Orka 2 the user's own.
pub(super) fn judge(nodes: &[Node], vms: &[VmInstance], demand: &Demand) -> Check {
    if let Some(name) = &demand.node
        && !nodes.is_empty()
        && nodes.iter().all(|node| node.name != *name)
    {
        return no_such_node(name, nodes);
    }
    let eligible: Vec<&Node> = nodes.iter().filter(|node| demand.suits(node)).collect();
    let ready: Vec<&Node> = eligible
        .iter()
        .copied()
        .filter(|node| node.is_ready)
        .collect();
    if ready.is_empty() {
        return none_ready(nodes.len(), eligible.len(), demand);
    }
    let vms = vms_by_node(vms);
    let open: Vec<&Node> = ready
        .iter()
        .copied()
        .filter(|node| !demand.on_apple_silicon || !has_all_its_vms(node, &vms))
        .collect();
    let cores = demand.cpu;
    let with_room: Vec<&str> = open
        .iter()
        .filter(|node| node.available_cpu.is_some_and(|free| free >= cores))
        .map(|node| node.name.as_str())
        .collect();
    if !with_room.is_empty() {
        return Check::ok(
            Subject::Capacity,
            format!(
                "{} of {} nodes {} room for {cores} cores: {}; {}",
                with_room.len(),
                nodes.len(),
                if with_room.len() == 1 { "has" } else { "have" },
                shown(&with_room),
                if demand.on_apple_silicon {
                    "Intel nodes among them do not count, as the image is for Apple silicon, and the list does not tell which they are"
                } else {
                    "the list does not tell Intel from Apple silicon"
                }
            ),
        );
    }
    if open.iter().any(|node| node.available_cpu.is_none()) {
        return Check::warn(
            Subject::Capacity,
            "the nodes do not tell how many cores are free",
            "whether there is room shows only when a VM is deployed",
        );
    }
    no_room(&ready, open.is_empty(), demand)
}

impl Demand {
    fn suits(&self, node: &Node) -> bool {
        self.node.as_ref().is_none_or(|name| node.name == *name)
            && self.tag.as_ref().is_none_or(|tag| node.tags.contains(tag))
    }
}

fn vms_by_node(vms: &[VmInstance]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    let living = vms
        .iter()
        .filter(|vm| vm.is_deployed() && vm.state != VmState::Failed);
    for node in living.filter_map(|vm| vm.node.as_deref()) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

fn has_all_its_vms(node: &Node, vms: &BTreeMap<&str, usize>) -> bool {
    vms.get(node.name.as_str())
        .is_some_and(|count| *count >= APPLE_SILICON_VMS_MAX)
}

fn no_such_node(name: &str, nodes: &[Node]) -> Check {
    let names = nodes.iter().map(|node| node.name.as_str());
    let hint = match plugin_manifest::nearest(name, names) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            format!(
                "it sees {}; leave out `-p node=…` to let Orka choose",
                shown(&names)
            )
        }
    };
    let failure = Failure::new(
        Kind::NotFound,
        Class::Orka,
        "orka.not-found",
        format!("this login sees no node `{name}`"),
    )
    .with_hint(hint);
    Check::failed(Subject::Capacity, Stage::Deploy, vec![failure])
}

fn none_ready(listed: usize, eligible: usize, demand: &Demand) -> Check {
    let tag = demand.tag.as_deref().unwrap_or_default();
    let (message, hint) = match (listed, eligible) {
        (0, _) => (
            "this login sees no nodes".to_owned(),
            "an administrator assigns nodes to a namespace; or name another one with `--orka-namespace`",
        ),
        (_, 0) => (
            format!("no node has the tag `{tag}`"),
            "correct `-p tag=…`, or leave out `-p tag-required=true`",
        ),
        _ => (
            format!("none of the {eligible} nodes it could run on is ready"),
            "ask the cluster's administrator",
        ),
    };
    full(message, hint.to_owned())
}

fn no_room(ready: &[&Node], all_have_their_vms: bool, demand: &Demand) -> Check {
    let cores = demand.cpu;
    let largest = ready
        .iter()
        .map(|node| node.allocatable_cpu)
        .max()
        .flatten();
    if let Some(largest) = largest.filter(|largest| *largest < cores) {
        return full(
            format!("no node is large enough for {cores} cores; the largest has {largest}"),
            format!("ask for at most {largest} cores with `-p cpu-count=…`"),
        );
    }
    let message = if all_have_their_vms {
        format!(
            "each of the {} nodes that are ready runs {APPLE_SILICON_VMS_MAX} VMs, as many as Apple silicon may",
            ready.len()
        )
    } else {
        let freest = ready.iter().filter_map(|node| node.available_cpu).max();
        format!(
            "no node has room for {cores} cores now; the freest of the {} that are ready has {}",
            ready.len(),
            freest.unwrap_or_default()
        )
    };
    match &demand.wait {
        Some(wait) => Check::warn(
            Subject::Capacity,
            message,
            format!("a run waits for room up to `{wait}` (`capacity-wait`)"),
        ),
        None => full(
            message,
            "try again when other VMs have ended, let the run wait with `-p capacity-wait=10m`, or ask for fewer cores"
                .to_owned(),
        ),
    }
}

fn full(message: String, hint: String) -> Check {
    let failure = Failure::new(
        Kind::NoCapacity,
        Class::NoCapacity,
        "orka.no-capacity",
        message,
    )
    .with_hint(hint);
    Check::failed(Subject::Capacity, Stage::Deploy, vec![failure])
}

fn shown(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(NODES_SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(NODES_SHOWN) {
        0 => shown.join(", "),
        _ => format!("{}, …", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::outcome::{EXIT_NO_CAPACITY, EXIT_ORKA};

    fn node(name: &str, free: u32) -> Node {
        Node {
            name: name.to_owned(),
            ip: None,
            is_ready: true,
            available_cpu: Some(free),
            allocatable_cpu: Some(8),
            available_memory: None,
            kind: None,
            tags: vec!["fast".to_owned()],
        }
    }

    fn vm(node: &str, state: VmState) -> VmInstance {
        VmInstance {
            name: "vm".to_owned(),
            id: None,
            state,
            node: Some(node.to_owned()),
            address: None,
            reported_ip: None,
            ssh_port: None,
            screen_share_port: None,
            vnc_port: None,
            image: None,
            owner: None,
            created_at: None,
            metadata: BTreeMap::new(),
        }
    }

    fn cores(cpu: u32) -> Demand {
        Demand {
            cpu,
            ..Demand::default()
        }
    }

    fn text(check: &Check) -> &str {
        &check.findings[0].text
    }

    #[test]
    fn nodes_with_room_are_counted_and_named() {
        let nodes = [node("a", 2), node("b", 3), node("c", 8)];
        let check = judge(&nodes, &[], &cores(3));
        assert_eq!(check.status, Status::Ok);
        assert_eq!(
            text(&check),
            "2 of 3 nodes have room for 3 cores: `b`, `c`; the list does not tell Intel from Apple silicon"
        );
    }

    #[test]
    fn a_node_that_is_not_ready_has_no_room() {
        let mut nodes = [node("a", 8)];
        nodes[0].is_ready = false;
        let check = judge(&nodes, &[], &cores(3));
        assert_eq!(check.exit_code, Some(EXIT_NO_CAPACITY));
        assert!(text(&check).contains("is ready"), "{check:?}");
    }

    #[test]
    fn full_now_and_never_large_enough_are_told_apart() {
        let now = judge(&[node("a", 2)], &[], &cores(3));
        assert_eq!(now.exit_code, Some(EXIT_NO_CAPACITY));
        assert!(
            text(&now).contains("the freest of the 1 that are ready has 2"),
            "{now:?}"
        );
        let never = judge(&[node("a", 8)], &[], &cores(12));
        assert_eq!(never.exit_code, Some(EXIT_NO_CAPACITY));
        assert!(text(&never).contains("the largest has 8"), "{never:?}");
    }

    #[test]
    fn a_policy_that_waits_for_room_would_start_on_a_full_cluster_but_not_on_one_too_small() {
        let waiting = |cpu| Demand {
            wait: Some("10m".to_owned()),
            ..cores(cpu)
        };
        assert_eq!(
            judge(&[node("a", 2)], &[], &waiting(3)).status,
            Status::Warn
        );
        assert_eq!(
            judge(&[node("a", 8)], &[], &waiting(12)).status,
            Status::Fail
        );
    }

    #[test]
    fn an_apple_silicon_node_takes_no_third_vm_however_many_cores_are_free() {
        let demand = Demand {
            on_apple_silicon: true,
            ..cores(3)
        };
        let two = [vm("a", VmState::Running), vm("a", VmState::Pending)];
        let check = judge(&[node("a", 8)], &two, &demand);
        assert_eq!(check.exit_code, Some(EXIT_NO_CAPACITY));
        assert!(text(&check).contains("runs 2 VMs"), "{check:?}");
        let one = [vm("a", VmState::Running), vm("a", VmState::NotDeployed)];
        let room = judge(&[node("a", 8)], &one, &demand);
        assert_eq!(room.status, Status::Ok);
        assert!(
            text(&room).contains("Intel nodes among them do not count"),
            "{room:?}"
        );
        assert_eq!(judge(&[node("a", 8)], &two, &cores(3)).status, Status::Ok);
    }

    #[test]
    fn only_nodes_that_the_vm_is_tied_to_count() {
        let nodes = [node("mini-1", 8), node("mini-2", 2)];
        let tied = |node: Option<&str>, tag: Option<&str>| Demand {
            node: node.map(str::to_owned),
            tag: tag.map(str::to_owned),
            ..cores(3)
        };
        let judged = |node, tag| judge(&nodes, &[], &tied(node, tag));
        assert_eq!(judged(Some("mini-1"), Some("fast")).status, Status::Ok);
        assert_eq!(
            judged(Some("mini-2"), None).exit_code,
            Some(EXIT_NO_CAPACITY)
        );
        let unknown = judged(Some("mini-3"), None);
        assert_eq!(unknown.exit_code, Some(EXIT_ORKA));
        assert!(
            unknown.findings[0]
                .hint
                .as_deref()
                .unwrap()
                .contains("`mini-")
        );
        assert!(text(&judged(None, Some("slow"))).contains("no node has the tag `slow`"));
    }

    #[test]
    fn silence_about_cores_is_no_failure() {
        let mut nodes = [node("a", 0)];
        nodes[0].available_cpu = None;
        assert_eq!(judge(&nodes, &[], &cores(3)).status, Status::Warn);
    }

    #[test]
    fn no_nodes_at_all_are_no_room() {
        let check = judge(&[], &[], &cores(3));
        assert_eq!(check.exit_code, Some(EXIT_NO_CAPACITY));
    }
}
