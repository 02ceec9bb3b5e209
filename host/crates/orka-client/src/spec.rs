//! What to create and deploy, in one vocabulary for both generations.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;

/// A VM config: the immutable template that Orka 2 deploys from, optional on Orka 3.
///
/// Orka 2: `POST /resources/vm/create`. Orka 3: `POST /api/v1/namespaces/orka-default/vmconfigs`. A field that the
/// cluster's generation does not know is refused before anything is sent, unless it says otherwise. Empty strings
/// count as absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VmConfigSpec {
    /// Its name, and on Orka 2 that of its VMs.
    pub name: String,
    /// Base image: `*.img` Intel, `*.orkasi` Apple silicon; on Orka 3 also an OCI reference.
    pub image: String,
    /// CPU cores; Orka 2 takes 3, 4, 6, 8, 12 and 24.
    pub cpu: u32,
    /// Orka 2: virtual CPUs, as many as cores or half; default as many. Not sent to Orka 3, which counts CPUs once.
    pub vcpu: Option<u32>,
    /// Memory in GiB; absent or 0 lets the cluster choose.
    pub memory_gib: Option<f64>,
    /// Orka 2: name of the VM's own disk image; default the config's name. Not sent to Orka 3.
    pub snapshot: Option<String>,
    /// Intel: ISO to attach.
    pub iso: Option<String>,
    /// Orka 2, Intel: further disk to attach.
    pub attached_disk: Option<String>,
    /// VNC console; default on. GPU passthrough turns it off.
    pub vnc_console: Option<bool>,
    /// Intel: serial number of the VM.
    pub system_serial: Option<String>,
    /// Orka 2, Intel: faster disk access.
    pub io_boost: Option<bool>,
    /// Orka 2 from 2.3 and Orka 3, Intel: faster network.
    pub net_boost: Option<bool>,
    /// Orka 3, Intel: the older, slower disk access; excludes `net_boost`, which is then sent as `false`.
    pub legacy_io: Option<bool>,
    /// Intel: hand the node's GPU to the VM.
    pub gpu_passthrough: Option<bool>,
    /// Preferred node tag.
    pub tag: Option<String>,
    /// Makes the tag mandatory.
    pub tag_required: Option<bool>,
    /// How a node is chosen.
    pub scheduler: Option<Scheduler>,
    /// Orka 2: name of the template that the cluster's web pages show.
    pub template: Option<String>,
    /// Orka 3: node that every VM of this config is tied to.
    pub node: Option<String>,
    /// Orka 3.4: the VM's display.
    pub display: Display,
}

/// A VM to deploy.
///
/// Orka 2: `POST /resources/vm/deploy`, from the VM config of the same name; `image`, `cpu`, `memory_gib`, `iso` and
/// the rest that the config fixes are not sent again. Orka 3: `POST /api/v1/namespaces/{namespace}/vms`, from `image`
/// or `config`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeployRequest {
    /// The VM's name, chosen by the caller so that a lost answer still leaves something to delete.
    pub name: String,
    /// Orka 3: local image or OCI reference.
    pub image: Option<String>,
    /// Orka 3: VM config to take defaults from. Orka 2: VM config to deploy if it is not called `name`; the VM then
    /// bears the config's name.
    pub config: Option<String>,
    /// Orka 3: CPU cores.
    pub cpu: Option<u32>,
    /// Orka 3: memory in GiB; absent or 0 lets the cluster choose.
    pub memory_gib: Option<f64>,
    /// Node to run on; it must have room.
    pub node: Option<String>,
    /// Orka 2: number of VMs. Only 1 is accepted: a scaled VM's answer has no address.
    pub replicas: Option<u32>,
    /// Further ports of the VM to reach through the node.
    pub reserved_ports: Vec<PortReservation>,
    /// Intel: ISO to attach. Orka 2 attaches that of the VM config, and this one only with `iso_install`.
    pub iso: Option<String>,
    /// Orka 2, Intel: attach the ISO and install from it.
    pub iso_install: Option<bool>,
    /// Orka 2, Intel: further disk to attach.
    pub attached_disk: Option<String>,
    /// VNC console.
    pub vnc_console: Option<bool>,
    /// Metadata, readable by everything in the VM: no secrets.
    pub metadata: BTreeMap<String, String>,
    /// Intel: serial number of the VM.
    pub system_serial: Option<String>,
    /// Intel: hand the node's GPU to the VM; turns the VNC console off.
    pub gpu_passthrough: Option<bool>,
    /// Preferred node tag.
    pub tag: Option<String>,
    /// Makes the tag mandatory.
    pub tag_required: Option<bool>,
    /// How a node is chosen.
    pub scheduler: Option<Scheduler>,
    /// Orka 3, Intel: faster network.
    pub net_boost: Option<bool>,
    /// Orka 3, Intel: the older, slower disk access; excludes `net_boost`, which is then sent as `false`.
    pub legacy_io: Option<bool>,
    /// Orka 3.4: the VM's display.
    pub display: Display,
    /// Orka 3: let the cluster add five random characters to the name. The name is then known only from the answer.
    pub generate_name: bool,
    /// How long to wait for the answer; default [`Timeouts::deploy`](crate::Timeouts::deploy).
    pub limit: Option<Duration>,
}

impl DeployRequest {
    /// A VM of the given name, with defaults for the rest.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// The VM that `spec` describes, whichever the generation: from its VM config on Orka 2, from its image on Orka 3.
impl From<&VmConfigSpec> for DeployRequest {
    fn from(spec: &VmConfigSpec) -> Self {
        Self {
            name: spec.name.clone(),
            image: Some(spec.image.clone()),
            cpu: Some(spec.cpu),
            memory_gib: spec.memory_gib,
            node: spec.node.clone(),
            iso: spec.iso.clone(),
            vnc_console: spec.vnc_console,
            system_serial: spec.system_serial.clone(),
            gpu_passthrough: spec.gpu_passthrough,
            tag: spec.tag.clone(),
            tag_required: spec.tag_required,
            scheduler: spec.scheduler,
            net_boost: spec.net_boost,
            legacy_io: spec.legacy_io,
            display: spec.display,
            ..Self::default()
        }
    }
}

/// Orka 3.4: the size of a VM's display. Absent parts are the cluster's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Display {
    /// Width in pixels, 320 to 3840.
    pub width: Option<u32>,
    /// Height in pixels, 480 to 2160.
    pub height: Option<u32>,
    /// Dots per inch, 60 to 320.
    pub dpi: Option<u32>,
}

/// How a node is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheduler {
    /// Spread VMs over the nodes.
    #[default]
    Default,
    /// Fill one node before the next.
    MostAllocated,
}

impl Scheduler {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::MostAllocated => "most-allocated",
        }
    }
}

impl FromStr for Scheduler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Default, Self::MostAllocated]
            .into_iter()
            .find(|scheduler| scheduler.as_str() == text)
            .ok_or_else(|| {
                Error::invalid_with_hint(
                    "`scheduler`",
                    format!("there is no scheduler `{text}`"),
                    "use `default` or `most-allocated`",
                )
            })
    }
}

/// A port of the node that leads to a port of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortReservation {
    /// Port on the node.
    pub node_port: u16,
    /// Port in the VM.
    pub vm_port: u16,
    /// Transport; other than TCP from Orka 3.6.2 only.
    pub protocol: Protocol,
}

/// Transport of a reserved port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for PortReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node_port, self.vm_port)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl FromStr for PortReservation {
    type Err = Error;

    /// Reads `NODE_PORT:VM_PORT`, optionally with `/tcp` or `/udp`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid_with_hint(
                format!("the port reservation `{text}`"),
                "it is not of the form `NODE_PORT:VM_PORT`",
                "write for example `9000:4000` or `9000:4000/udp`",
            )
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, word)) if word.eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
            Some((ports, word)) if word.eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (node, vm) = ports.split_once(':').ok_or_else(wrong)?;
        let port = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(wrong)
        };
        Ok(Self {
            node_port: port(node)?,
            vm_port: port(vm)?,
            protocol,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_port_reservations_and_refuses_the_rest() {
        for (text, shown) in [
            ("9000:4000", "9000:4000"),
            ("9000:4000/TCP", "9000:4000"),
            ("1:2/udp", "1:2/udp"),
        ] {
            assert_eq!(text.parse::<PortReservation>().unwrap().to_string(), shown);
        }
        for text in [
            "", "9000", "9000:", ":1", "0:1", "1:0", "70000:1", "1:2/sctp", "1:2:3", "-1:2",
        ] {
            assert!(text.parse::<PortReservation>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_request_from_a_config_keeps_what_the_vm_is_made_of() {
        let spec = VmConfigSpec {
            name: "ci-1".into(),
            image: "Sonoma.orkasi".into(),
            cpu: 4,
            memory_gib: Some(8.0),
            tag: Some("fast".into()),
            ..VmConfigSpec::default()
        };
        let request = DeployRequest::from(&spec);
        assert_eq!(
            (request.name.as_str(), request.image.as_deref(), request.cpu),
            ("ci-1", Some("Sonoma.orkasi"), Some(4))
        );
        assert_eq!(
            (request.memory_gib, request.tag.as_deref()),
            (Some(8.0), Some("fast"))
        );
    }
}
