//! Where a deployed VM is, and whether anybody can reach it there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::error::Error;
use crate::vm::DeployedVm;

/// Public address of each node whose private one Orka reports.
pub(crate) type NodeAddresses = BTreeMap<IpAddr, String>;

const MIB_PER_GIB: f64 = 1024.0;

/// What a deploy answered, before it is believed.
pub(crate) struct Placement {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) ip: Option<String>,
    pub(crate) ssh_port: Option<u16>,
    pub(crate) screen_share_port: Option<u16>,
    pub(crate) vnc_port: Option<u16>,
    pub(crate) memory_gib: Option<f64>,
    pub(crate) warnings: Vec<String>,
}

impl Placement {
    /// The VM, if its address can be used; [`Error::UnusableVm`] otherwise, so that the caller deletes it.
    pub(crate) fn into_vm(self, addresses: &NodeAddresses) -> Result<DeployedVm, Error> {
        let unusable = |why: String, hint: Option<&str>| Error::UnusableVm {
            name: self.name.clone(),
            id: self.id.clone(),
            why,
            hint: hint.map(str::to_owned),
        };
        let Some(written) = &self.ip else {
            return Err(unusable("the answer has no IP address".to_owned(), None));
        };
        let reported_ip: IpAddr = written.parse().map_err(|_| {
            unusable(
                format!(
                    "`{}` is no IP address",
                    crate::lenient::printable(written, crate::lenient::QUOTED_CHARS_MAX)
                ),
                None,
            )
        })?;
        if reported_ip.is_unspecified() {
            return Err(unusable(
                format!("`{reported_ip}` is no address to connect to"),
                None,
            ));
        }
        if is_internal(reported_ip) && !addresses.contains_key(&reported_ip) {
            return Err(unusable(
                format!(
                    "`{reported_ip}` is an address inside its node, which nothing outside can reach"
                ),
                Some(
                    "this is a known fault of bridged Orka networks; deploy again, or restart the node's networking",
                ),
            ));
        }
        let Some(ssh_port) = self.ssh_port else {
            let hint = "check that the image has SSH enabled and the VM config is not scaled";
            return Err(unusable(
                "the answer has no SSH port".to_owned(),
                Some(hint),
            ));
        };
        Ok(DeployedVm {
            address: mapped(reported_ip, addresses),
            name: self.name,
            id: self.id,
            node: self.node,
            reported_ip,
            ssh_port,
            screen_share_port: self.screen_share_port,
            vnc_port: self.vnc_port,
            memory_mib: self.memory_gib.map(|gib| (gib * MIB_PER_GIB) as u32),
            warnings: self.warnings,
        })
    }
}

/// The address to connect to for one that Orka reports.
pub(crate) fn mapped(ip: IpAddr, addresses: &NodeAddresses) -> String {
    addresses
        .get(&ip)
        .cloned()
        .unwrap_or_else(|| ip.to_string())
}

/// `192.168.64.0/24`, which macOS gives to VMs behind its own address translation.
fn is_internal(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if Ipv4Addr::from(u32::from(ip) & 0xffff_ff00) == Ipv4Addr::new(192, 168, 64, 0))
}
