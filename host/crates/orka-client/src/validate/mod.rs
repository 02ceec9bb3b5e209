//! What can be told wrong before anything is sent.
//!
//! Each function is for callers too: a bad value is best reported where it was given.

use std::collections::BTreeMap;

use crate::config::Generation;
use crate::error::Error;
use crate::spec::{DeployRequest, Display, PortReservation, Protocol, VmConfigSpec};

/// Longest name of an Orka 2 VM config (Orka 2.1 API, `POST /resources/vm/create`).
pub const ORKA2_NAME_CHARS_MAX: usize = 38;

/// Longest name of an Orka 3 VM.
pub const ORKA3_NAME_CHARS_MAX: usize = 63;

/// Longest name of an Orka 3 VM config.
pub const ORKA3_CONFIG_NAME_CHARS_MAX: usize = 50;

/// Core counts that Orka 2 takes.
pub const ORKA2_CPU_COUNTS: [u32; 6] = [3, 4, 6, 8, 12, 24];

/// Most bytes that Orka 2 takes as parameters of one request, metadata included.
pub const ORKA2_BODY_BYTES_MAX: usize = 100 * 1024;

/// Node ports that Orka 2 keeps to itself.
const ORKA2_NODE_PORTS_TAKEN: [(u16, u16); 6] = [
    (22, 22),
    (443, 443),
    (6443, 6443),
    (5000, 5014),
    (5999, 6013),
    (8822, 8836),
];

/// Checks the name of a VM: lower-case letters, digits and `-`, a letter first, a letter or digit last.
///
/// # Errors
///
/// [`Error::Invalid`] with a name that would do as hint.
pub fn vm_name(generation: Generation, name: &str) -> Result<(), Error> {
    let chars_max = match generation {
        Generation::Orka2 => ORKA2_NAME_CHARS_MAX,
        Generation::Orka3 => ORKA3_NAME_CHARS_MAX,
    };
    name_within("the VM name", name, chars_max)
}

/// Checks the name of a VM config, by the rules of [`vm_name`]; on Orka 3 it may have 50 characters.
///
/// # Errors
///
/// [`Error::Invalid`] with a name that would do as hint.
pub fn config_name(generation: Generation, name: &str) -> Result<(), Error> {
    let chars_max = match generation {
        Generation::Orka2 => ORKA2_NAME_CHARS_MAX,
        Generation::Orka3 => ORKA3_CONFIG_NAME_CHARS_MAX,
    };
    name_within("the VM config name", name, chars_max)
}

/// Checks an Orka 3 namespace: a DNS label that begins with `orka-`.
///
/// # Errors
///
/// [`Error::Invalid`].
pub fn namespace(name: &str) -> Result<(), Error> {
    name_within("the namespace", name, 63)?;
    if name.starts_with("orka-") {
        return Ok(());
    }
    Err(Error::invalid_with_hint(
        format!("the namespace `{name}`"),
        "Orka namespaces begin with `orka-`",
        format!("did you mean `orka-{name}`, or the default `orka-default`?"),
    ))
}

fn name_within(what: &str, name: &str, chars_max: usize) -> Result<(), Error> {
    let bytes = name.as_bytes();
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if !bytes
        .iter()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    {
        "it may hold lower-case letters, digits and `-` only".to_owned()
    } else if !bytes[0].is_ascii_lowercase() {
        "it must begin with a letter".to_owned()
    } else if bytes.ends_with(b"-") {
        "it must end with a letter or digit".to_owned()
    } else if name.len() > chars_max {
        format!(
            "it has {} characters, and Orka takes {chars_max}",
            name.len()
        )
    } else {
        return Ok(());
    };
    let shown = crate::lenient::printable(name, crate::lenient::QUOTED_CHARS_MAX);
    let hint = suggestion(name, chars_max).map(|name| format!("`{name}` would do"));
    Err(Error::Invalid {
        what: format!("{what} `{shown}`"),
        why,
        hint,
        reply: None,
    })
}

/// The nearest name that would do: lower case, `-` for all else. None where it would have to be cut: whoever shows it hides
/// secrets first, and half of one is not known for one.
fn suggestion(name: &str, chars_max: usize) -> Option<String> {
    let lower = name.to_lowercase();
    let mapped: String = lower
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let from_letter = mapped.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name = from_letter.trim_end_matches('-');
    (!name.is_empty() && name.len() <= chars_max).then(|| name.to_owned())
}

/// Checks Orka 2's cores and virtual CPUs: as many, or from four cores on exactly half.
///
/// # Errors
///
/// [`Error::Invalid`] with the counts that are possible.
pub fn orka2_cpus(cores: u32, vcpus: Option<u32>) -> Result<(), Error> {
    if !ORKA2_CPU_COUNTS.contains(&cores) {
        let counts = ORKA2_CPU_COUNTS.map(|count| count.to_string()).join(", ");
        let hint = format!("use one of {counts}");
        return Err(Error::invalid_with_hint(
            format!("the core count {cores}"),
            "Orka 2 has no such size",
            hint,
        ));
    }
    match vcpus {
        None => Ok(()),
        Some(vcpus) if vcpus == cores || (cores > 3 && vcpus.checked_mul(2) == Some(cores)) => {
            Ok(())
        }
        Some(vcpus) => {
            let halves = if cores > 3 {
                format!(" or {}", cores / 2)
            } else {
                String::new()
            };
            Err(Error::invalid_with_hint(
                format!("the virtual CPU count {vcpus}"),
                format!("it does not go with {cores} cores"),
                format!("use {cores}{halves}"),
            ))
        }
    }
}

/// Memory in tenths of a GiB, as Orka 3 counts it: never more than was asked for in whole MiB, so that a limit on those holds.
/// A tenth itself stays what it is, though most are no whole number of MiB: 9.8 GiB is asked for as 10035 MiB.
pub(crate) fn tenths_of_gib(gib: f64) -> f64 {
    const MIB_IN_TENTHS: f64 = 10.0 / 1024.0;
    // The last tenth that begins before the next MiB does.
    (gib * 10.0 + MIB_IN_TENTHS).ceil() - 1.0
}

/// Checks the memory of a VM in GiB; 0 stands for the cluster's choice.
///
/// # Errors
///
/// [`Error::Invalid`] if it is negative or no number.
pub fn memory(gib: Option<f64>) -> Result<(), Error> {
    match gib {
        Some(gib) if !gib.is_finite() || gib < 0.0 => Err(Error::invalid_with_hint(
            format!("the memory of {gib} GiB"),
            "it must be a number of GiB",
            "leave it out to let the cluster choose",
        )),
        // Less would be sent as nothing, which is the cluster's choice and may be more.
        Some(gib) if gib > 0.0 && tenths_of_gib(gib) < 1.0 => Err(Error::invalid_with_hint(
            format!("the memory of {gib} GiB"),
            "Orka counts it in tenths of a GiB",
            "ask for more, or leave it out to let the cluster choose",
        )),
        _ => Ok(()),
    }
}

/// Checks VM metadata: keys are not empty and not among Orka's own, which begin with `orka_`.
///
/// # Errors
///
/// [`Error::Invalid`] naming the key.
pub fn metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    for key in metadata.keys() {
        let shown = crate::lenient::printable(key, crate::lenient::QUOTED_CHARS_MAX);
        if key.trim().is_empty() {
            return Err(Error::invalid("the VM metadata", "a key is empty"));
        }
        if key.to_ascii_lowercase().starts_with("orka_") {
            return Err(Error::invalid_with_hint(
                format!("the VM metadata key `{shown}`"),
                "keys that begin with `orka_` are Orka's own",
                "choose another key",
            ));
        }
    }
    let bytes: usize = metadata
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > ORKA2_BODY_BYTES_MAX {
        return Err(Error::invalid_with_hint(
            "the VM metadata",
            format!("it has {bytes} bytes, and Orka takes {ORKA2_BODY_BYTES_MAX}"),
            "copy larger data in over SSH",
        ));
    }
    Ok(())
}

/// The processor that an image is for, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// `*.img`.
    Intel,
    /// `*.orkasi`, or an OCI reference.
    AppleSilicon,
    /// The name does not tell.
    Unknown,
}

/// Tells the processor from an image's name. An OCI reference has a registry before its first `/`.
pub fn image_kind(image: &str) -> ImageKind {
    let lower = image.trim().to_ascii_lowercase();
    if lower.ends_with(".orkasi") || is_oci_reference(&lower) {
        ImageKind::AppleSilicon
    } else if lower.ends_with(".img") {
        ImageKind::Intel
    } else {
        ImageKind::Unknown
    }
}

/// Whether `image` names an image in a registry rather than in the cluster.
pub fn is_oci_reference(image: &str) -> bool {
    image
        .split_once('/')
        .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

/// An option that only Intel VMs have, and whether it is asked for.
type IntelOption = (&'static str, bool);

fn intel_options_fit(image: &str, options: &[IntelOption]) -> Result<(), Error> {
    if image_kind(image) != ImageKind::AppleSilicon {
        return Ok(());
    }
    match options.iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(Error::invalid_with_hint(
            format!("option `{option}`"),
            format!("image `{image}` is for Apple silicon, and only Intel VMs have that option"),
            "leave the option out, or use an Intel image (`*.img`)",
        )),
    }
}

/// An option that a generation does not have, and whether it is asked for.
fn known_options(generation: Generation, options: &[(&'static str, bool)]) -> Result<(), Error> {
    match options.iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(Error::invalid_with_hint(
            format!("option `{option}`"),
            format!("{generation} has no such option"),
            "leave it out",
        )),
    }
}

fn given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.trim().is_empty())
}

fn length(what: &str, text: Option<&String>, min: usize, max: usize) -> Result<(), Error> {
    match text.map(|text| text.trim().chars().count()) {
        None | Some(0) => Ok(()),
        Some(chars) if (min..=max).contains(&chars) => Ok(()),
        Some(chars) => Err(Error::invalid(
            what,
            format!("it has {chars} characters, and Orka takes {min} to {max}"),
        )),
    }
}

/// Checks a VM config against the rules of the generation that will make it.
///
/// # Errors
///
/// [`Error::Invalid`] with the first thing that is wrong.
pub fn vm_config(generation: Generation, spec: &VmConfigSpec) -> Result<(), Error> {
    config_name(generation, &spec.name)?;
    if spec.image.trim().is_empty() {
        return Err(Error::invalid("the base image", "none was given"));
    }
    memory(spec.memory_gib)?;
    display(&spec.display)?;
    intel_options_fit(
        &spec.image,
        &[
            ("iso", given(spec.iso.as_ref())),
            ("attached-disk", given(spec.attached_disk.as_ref())),
            ("system-serial", given(spec.system_serial.as_ref())),
            ("gpu-passthrough", spec.gpu_passthrough == Some(true)),
            ("io-boost", spec.io_boost == Some(true)),
            ("net-boost", spec.net_boost == Some(true)),
            ("legacy-io", spec.legacy_io == Some(true)),
        ],
    )?;
    match generation {
        Generation::Orka2 => {
            orka2_cpus(spec.cpu, spec.vcpu)?;
            let unknown = [
                ("legacy-io", spec.legacy_io == Some(true)),
                ("node", given(spec.node.as_ref())),
                ("display", spec.display != Display::default()),
            ];
            known_options(generation, &unknown)
        }
        Generation::Orka3 => {
            if spec.cpu < 2 {
                return Err(Error::invalid(
                    format!("the CPU count {}", spec.cpu),
                    "Orka 3 takes 2 and more",
                ));
            }
            let unknown = [
                ("attached-disk", given(spec.attached_disk.as_ref())),
                ("io-boost", spec.io_boost == Some(true)),
                ("template", given(spec.template.as_ref())),
            ];
            known_options(generation, &unknown)?;
            orka3_texts(
                spec.tag.as_ref(),
                spec.system_serial.as_ref(),
                spec.iso.as_ref(),
            )?;
            io_modes(spec.legacy_io, spec.net_boost)
        }
    }
}

/// Checks a deploy against the rules of the generation that will carry it out.
///
/// # Errors
///
/// [`Error::Invalid`] with the first thing that is wrong.
pub fn deploy(generation: Generation, request: &DeployRequest) -> Result<(), Error> {
    vm_name(generation, &request.name)?;
    memory(request.memory_gib)?;
    metadata(&request.metadata)?;
    display(&request.display)?;
    ports(generation, &request.reserved_ports)?;
    if request.replicas.is_some_and(|replicas| replicas != 1) {
        return Err(Error::invalid_with_hint(
            "option `replicas`",
            "the answer for a scaled VM has no address to connect to",
            "deploy each VM by itself",
        ));
    }
    intel_options_fit(
        request.image.as_deref().unwrap_or_default(),
        &[
            ("iso", given(request.iso.as_ref())),
            ("attached-disk", given(request.attached_disk.as_ref())),
            ("system-serial", given(request.system_serial.as_ref())),
            ("gpu-passthrough", request.gpu_passthrough == Some(true)),
            ("net-boost", request.net_boost == Some(true)),
            ("legacy-io", request.legacy_io == Some(true)),
        ],
    )?;
    match generation {
        Generation::Orka2 => {
            if let Some(config) = &request.config {
                config_name(generation, config)?;
            }
            let unknown = [
                ("generate-name", request.generate_name),
                ("legacy-io", request.legacy_io == Some(true)),
                ("display", request.display != Display::default()),
            ];
            known_options(generation, &unknown)
        }
        Generation::Orka3 => {
            if !given(request.image.as_ref()) && !given(request.config.as_ref()) {
                return Err(Error::invalid(
                    "the VM",
                    "it has neither an image nor a VM config to start from",
                ));
            }
            if request.cpu == Some(0) {
                return Err(Error::invalid("the CPU count 0", "a VM needs a CPU"));
            }
            let unknown = [
                ("attached-disk", given(request.attached_disk.as_ref())),
                ("iso-install", request.iso_install == Some(true)),
            ];
            known_options(generation, &unknown)?;
            orka3_texts(
                request.tag.as_ref(),
                request.system_serial.as_ref(),
                request.iso.as_ref(),
            )?;
            io_modes(request.legacy_io, request.net_boost)
        }
    }
}

/// The lengths in Orka 3's custom resource definitions.
fn orka3_texts(
    tag: Option<&String>,
    serial: Option<&String>,
    iso: Option<&String>,
) -> Result<(), Error> {
    length("the tag", tag, 1, 32)?;
    length("the system serial number", serial, 8, 12)?;
    length("the ISO name", iso, 1, 65)
}

fn io_modes(legacy_io: Option<bool>, net_boost: Option<bool>) -> Result<(), Error> {
    if legacy_io == Some(true) && net_boost == Some(true) {
        return Err(Error::invalid_with_hint(
            "option `net-boost`",
            "it does not go with `legacy-io`",
            "leave one of the two out",
        ));
    }
    Ok(())
}

fn display(display: &Display) -> Result<(), Error> {
    let parts = [
        ("the display width", display.width, 320, 3840),
        ("the display height", display.height, 480, 2160),
        // Up to 240 by default; a cluster may allow 320.
        ("the display DPI", display.dpi, 60, 320),
    ];
    for (what, value, min, max) in parts {
        if let Some(value) = value.filter(|value| !(min..=max).contains(value)) {
            return Err(Error::invalid(
                format!("{what} {value}"),
                format!("Orka takes {min} to {max}"),
            ));
        }
    }
    Ok(())
}

fn ports(generation: Generation, reservations: &[PortReservation]) -> Result<(), Error> {
    for (index, reservation) in reservations.iter().enumerate() {
        let why = if reservation.node_port == 0 || reservation.vm_port == 0 {
            "0 is no port"
        } else if generation == Generation::Orka2 && is_orka2_port(reservation.node_port) {
            "Orka keeps that node port to itself"
        } else if generation == Generation::Orka2 && reservation.protocol == Protocol::Udp {
            "Orka 2 reserves TCP ports only"
        } else if reservations[..index].iter().any(|earlier| {
            (earlier.node_port, earlier.protocol) == (reservation.node_port, reservation.protocol)
        }) {
            "that node port is reserved twice"
        } else {
            continue;
        };
        return Err(Error::invalid(
            format!("the port reservation `{reservation}`"),
            why,
        ));
    }
    Ok(())
}

fn is_orka2_port(port: u16) -> bool {
    ORKA2_NODE_PORTS_TAKEN
        .iter()
        .any(|(first, last)| (first..=last).contains(&&port))
}

#[cfg(test)]
mod tests;
