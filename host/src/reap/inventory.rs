//! What the cluster lists, one entry a name, and what of it is ours.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::name::Name;
use crate::backend::Listed;

/// The metadata by which anybody who may deploy VMs on Orka 3 spares one from the reaper: until when, as RFC 3339. The
/// host itself cannot: metadata is given with the deployment and never changes, and keeping is decided later.
pub const KEPT_UNTIL: &str = "orka-step-kept-until";

/// Everything under one name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The name.
    pub name: String,
    /// What it says of the run.
    pub run_hash: String,
    /// What it says of the pod.
    pub pod_hash: String,
    /// VMs of the name, in whatever state: those that are still being deployed included.
    pub vms: u32,
    /// Whether there is a VM config of the name.
    pub config: bool,
    /// When the youngest of the VMs was made; none where the cluster does not tell it of each.
    pub created_at: Option<Timestamp>,
    /// What the cluster says about the VM.
    pub state: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Until when its metadata says that it is kept.
    pub kept_until: Option<Timestamp>,
}

impl Item {
    /// What it is, for people.
    pub fn what(&self) -> String {
        match (self.vms, self.config) {
            (0, _) => "VM config".to_owned(),
            (1, false) => "VM".to_owned(),
            (1, true) => "VM and its config".to_owned(),
            (vms, false) => format!("{vms} VMs"),
            (vms, true) => format!("{vms} VMs and their config"),
        }
    }
}

/// What the cluster lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What is ours, by name.
    pub ours: BTreeMap<String, Item>,
    /// Names of everything else.
    pub foreign: Vec<String>,
}

impl Inventory {
    /// Sorts what the cluster lists into ours and foreign.
    pub fn new(prefix: &str, listed: Vec<Listed>) -> Self {
        let mut inventory = Self::default();
        for entry in listed {
            match Name::parse(prefix, &entry.name) {
                None => inventory.foreign.push(entry.name),
                Some(name) => {
                    let new = item(name, &entry);
                    inventory
                        .ours
                        .entry(entry.name)
                        .and_modify(|item| merge(item, &new))
                        .or_insert(new);
                }
            }
        }
        inventory.foreign.sort_unstable();
        inventory.foreign.dedup();
        inventory
    }
}

fn item(name: Name<'_>, entry: &Listed) -> Item {
    let time = |text: Option<&String>| text.and_then(|text| text.parse().ok());
    Item {
        name: entry.name.clone(),
        run_hash: name.run_hash.to_owned(),
        pod_hash: name.pod_hash.to_owned(),
        vms: u32::from(!entry.is_config),
        config: entry.is_config,
        created_at: time(entry.created_at.as_ref()),
        state: entry.state.clone(),
        node: entry.node.clone(),
        kept_until: time(entry.metadata.get(KEPT_UNTIL)),
    }
}

fn merge(item: &mut Item, new: &Item) {
    // All VMs of a name go together, so the youngest decides, and one whose age is unknown hides the others'.
    item.created_at = match (item.vms, new.vms) {
        (_, 0) => item.created_at,
        (0, _) => new.created_at,
        _ => item.created_at.zip(new.created_at).map(|(a, b)| a.max(b)),
    };
    item.vms = item.vms.saturating_add(new.vms);
    item.config |= new.config;
    item.state = item.state.take().or_else(|| new.state.clone());
    item.node = item.node.take().or_else(|| new.node.clone());
    item.kept_until = item.kept_until.max(new.kept_until);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "tekton-0a1b2c3d-4e5f6071-1";

    fn vm(created_at: Option<&str>) -> Listed {
        Listed {
            name: NAME.to_owned(),
            created_at: created_at.map(str::to_owned),
            ..Listed::default()
        }
    }

    fn config() -> Listed {
        Listed {
            name: NAME.to_owned(),
            is_config: true,
            ..Listed::default()
        }
    }

    fn only(listed: Vec<Listed>) -> Item {
        let inventory = Inventory::new("tekton", listed);
        assert!(inventory.foreign.is_empty());
        inventory.ours[NAME].clone()
    }

    #[test]
    fn a_vm_and_its_config_are_one_thing_in_either_order() {
        let made = "2026-01-01T10:00:00Z";
        for listed in [
            vec![vm(Some(made)), config()],
            vec![config(), vm(Some(made))],
            vec![config(), config(), vm(Some(made))],
        ] {
            let item = only(listed);
            assert_eq!((item.vms, item.config), (1, true));
            assert_eq!(item.created_at, made.parse().ok());
            assert_eq!(item.what(), "VM and its config");
        }
        let item = only(vec![config()]);
        assert_eq!((item.vms, item.created_at), (0, None));
        assert_eq!(item.what(), "VM config");
    }

    #[test]
    fn the_youngest_of_several_vms_decides_and_an_unknown_age_hides_the_others() {
        let (old, young) = ("2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z");
        let item = only(vec![vm(Some(young)), config(), vm(Some(old))]);
        assert_eq!(item.created_at, young.parse().ok());
        for unknown in [None, Some("yesterday"), Some("")] {
            for listed in [
                vec![vm(unknown), vm(Some(old))],
                vec![vm(Some(old)), vm(unknown)],
            ] {
                assert_eq!(only(listed).created_at, None);
            }
        }
    }

    #[test]
    fn what_does_not_parse_is_foreign_and_told_once() {
        let foreign = |name: &str, is_config| Listed {
            name: name.to_owned(),
            is_config,
            ..Listed::default()
        };
        let listed = vec![
            foreign("tekton-ci-0a1b2c3d-4e5f6071-1", false),
            foreign("mine", false),
            foreign("mine", true),
        ];
        let inventory = Inventory::new("tekton", listed);
        assert!(inventory.ours.is_empty());
        assert_eq!(inventory.foreign, ["mine", "tekton-ci-0a1b2c3d-4e5f6071-1"]);
    }
}
