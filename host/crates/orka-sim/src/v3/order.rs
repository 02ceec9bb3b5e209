//! A deploy request of Orka 3.x, checked and joined with its VM configuration.

use std::time::Duration;

use serde_json::{Map, Value};

use super::body::Body;
use super::{Call, Failure};
use crate::cluster::{PortMapping, VmSpec, is_oci_reference};
use crate::config::Architecture;
use crate::fault::guest_fault;
use crate::id;

/// Longest name of a VM.
const NAME_LENGTH_MAX: usize = 63;

/// Minutes the server waits for a VM when the request does not say.
const TIMEOUT_MINUTES: u32 = 10;

/// Cores of a VM that asks for none.
const CPU: u32 = 3;

/// What is to be deployed, and how long to wait for it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) spec: VmSpec,
    pub(super) timeout: Duration,
}

/// Reads and checks a request. The name is not yet known to be free.
pub(super) fn read(call: &Call<'_>, namespace: &str) -> Result<Order, Failure> {
    let body = Body::read(call.request)?;
    let config = config(call, &body)?;
    let invalid = |text: String| invalid(call, text);
    let image = match body.text("image")? {
        Some(image) => image,
        None => config
            .text("image")?
            .ok_or_else(|| invalid("image or vmConfig is required".to_owned()))?,
    };
    let architecture = architecture(call, &image)?;
    let name = name(&body).map_err(invalid)?;
    let cpu = match body.integer("cpu")? {
        Some(cpu) => cpu,
        None => config.integer("cpu")?.unwrap_or(CPU),
    };
    if cpu == 0 {
        return Err(invalid("cpu must be greater than 0".to_owned()));
    }
    let text = |name: &str| -> Result<Option<String>, Failure> {
        Ok(body.text(name)?.or(config.text(name)?))
    };
    let boolean = |name: &str| -> Result<Option<bool>, Failure> {
        Ok(body.boolean(name)?.or(config.boolean(name)?))
    };
    let legacy_io = boolean("legacyIO")?.unwrap_or(false);
    let net_boost = boolean("netBoost")?;
    if legacy_io && net_boost == Some(true) {
        return Err(invalid(
            "netBoost cannot be enabled together with legacyIO".to_owned(),
        ));
    }
    let gpu_passthrough = boolean("gpuPassthrough")?.unwrap_or(false);
    if gpu_passthrough && !call.cluster.config.switches.gpu_passthrough {
        return Err(invalid(
            "GPU passthrough is not enabled in this cluster".to_owned(),
        ));
    }
    if gpu_passthrough && architecture == Architecture::AppleSilicon {
        return Err(invalid("gpuPassthrough is for Intel nodes only".to_owned()));
    }
    check_limits(&body).map_err(invalid)?;
    let scheduler = text("scheduler")?;
    if let Some(word) = scheduler
        .as_deref()
        .filter(|word| !["default", "most-allocated"].contains(word))
    {
        return Err(invalid(format!("scheduler {word} is not supported")));
    }
    let reserved = body.text("reservedPorts")?.unwrap_or_default();
    let minutes = body
        .integer("timeout")?
        .filter(|minutes| *minutes > 0)
        .unwrap_or(TIMEOUT_MINUTES);
    let minute = Duration::from_millis(call.cluster.config.switches.minute_ms);
    let spec = VmSpec {
        id: id::vm_id(),
        owner: call.caller.spec.account.clone(),
        namespace: namespace.to_owned(),
        disk: image.clone(),
        image,
        architecture,
        cpu,
        vcpu: cpu,
        memory_gib: body.memory()?.or(config.memory()?),
        node: text("node")?,
        tag: text("tag")?,
        tag_required: boolean("tagRequired")?.unwrap_or(false),
        most_allocated: scheduler.as_deref() == Some("most-allocated"),
        vnc_console: boolean("vncConsole")?.unwrap_or(true),
        gpu_passthrough,
        io_boost: !legacy_io,
        net_boost: net_boost.unwrap_or(!legacy_io),
        template: body.text("vmConfig")?,
        replicas: 1,
        reserved_ports: ports(&reserved).map_err(invalid)?,
        metadata: metadata(call, &body)?,
        guest_fault: guest_fault(call.actions),
        name,
    };
    Ok(Order {
        spec,
        timeout: minute.saturating_mul(minutes),
    })
}

fn invalid(call: &Call<'_>, text: String) -> Failure {
    Failure::new(call.cluster.config.switches.v3_validation_status, text)
}

/// The configuration the request names; no members where it names none.
fn config(call: &Call<'_>, body: &Body) -> Result<Body, Failure> {
    let Some(name) = body.text("vmConfig")? else {
        return Ok(Body::from(Map::new()));
    };
    let inner = call.cluster.lock();
    let known = inner
        .vmconfigs
        .iter()
        .find(|config| config.get("name").and_then(Value::as_str) == Some(&name));
    let known = known.ok_or_else(|| Failure::not_found("virtualmachineconfigs", &name))?;
    Ok(Body::from(known.clone()))
}

fn architecture(call: &Call<'_>, image: &str) -> Result<Architecture, Failure> {
    let strict = call.cluster.config.switches.strict_oci_images;
    let found = call.cluster.lock().image_architecture(image, strict);
    found.ok_or_else(|| {
        if is_oci_reference(image) {
            Failure::new(500, format!("failed to pull image {image}: not found"))
        } else {
            Failure::not_found("images", image)
        }
    })
}

/// The name asked for, with a generated tail where that is asked for, or a generated one.
fn name(body: &Body) -> Result<String, String> {
    let asked = body.text("name").ok().flatten();
    let generate = body
        .boolean("shouldGenerateName")
        .ok()
        .flatten()
        .unwrap_or(false);
    let name = match asked {
        None => format!("vm-{}", id::suffix()),
        Some(name) if generate => format!("{name}-{}", id::suffix()),
        Some(name) => name,
    };
    check_name(&name)?;
    Ok(name)
}

/// Lower case letters, digits and `-`; a letter first, no `-` last; at most 63.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let first = name
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_lowercase());
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !first || !plain || name.ends_with('-') {
        return Err(format!(
            "Invalid value: \"{name}\": a name must consist of lower case alphanumeric characters or '-', start with an \
             alphabetic character, and end with an alphanumeric character"
        ));
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(format!(
            "Invalid value: \"{name}\": must be no more than {NAME_LENGTH_MAX} characters"
        ));
    }
    Ok(())
}

/// Ranges of display members, serial and tag.
pub(super) fn check_limits(body: &Body) -> Result<(), String> {
    let ranges = [
        ("displayWidth", 320, 3840),
        ("displayHeight", 480, 2160),
        ("displayDPI", 60, 320),
    ];
    for (name, least, most) in ranges {
        let value = body
            .integer(name)
            .map_err(|_| format!("{name} must be an integer"))?;
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            return Err(format!("{name} must be between {least} and {most}"));
        }
    }
    for (name, least, most) in [("systemSerial", 8, 12), ("tag", 1, 32), ("iso", 1, 65)] {
        let value = body
            .text(name)
            .map_err(|_| format!("{name} must be a string"))?;
        if value.is_some_and(|value| !(least..=most).contains(&value.chars().count())) {
            return Err(format!(
                "{name} must have between {least} and {most} characters"
            ));
        }
    }
    Ok(())
}

/// `NODE:VM,NODE:VM/udp`; TCP where nothing is said.
fn ports(text: &str) -> Result<Vec<PortMapping>, String> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let wrong = || format!("Invalid port mapping {pair}: expected NODE_PORT:VM_PORT");
            let (numbers, protocol) = pair.split_once('/').unwrap_or((pair, "tcp"));
            let protocol = match protocol.to_ascii_lowercase().as_str() {
                "tcp" => "TCP",
                "udp" => "UDP",
                _ => return Err(wrong()),
            };
            let (host, guest) = numbers.split_once(':').ok_or_else(wrong)?;
            let port = |text: &str| {
                text.parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(wrong)
            };
            Ok(PortMapping {
                host: port(host)?,
                guest: port(guest)?,
                protocol,
            })
        })
        .collect()
}

/// `customMetadata`, and by switch `customVMMetadata`.
fn metadata(call: &Call<'_>, body: &Body) -> Result<Map<String, Value>, Failure> {
    let mut metadata = body.string_map("customMetadata")?;
    if call.cluster.config.switches.accept_custom_vm_metadata {
        metadata.extend(body.string_map("customVMMetadata")?);
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_reservations_take_a_protocol_in_any_case() {
        let mappings = ports("9000:4000, 9001:4001/UDP").unwrap();
        let shown: Vec<(u16, u16, &str)> = mappings
            .iter()
            .map(|port| (port.host, port.guest, port.protocol))
            .collect();
        assert_eq!(shown, [(9000, 4000, "TCP"), (9001, 4001, "UDP")]);
        assert!(ports("").unwrap().is_empty());
        for wrong in ["9000", "9000:x", "0:1", "9000:4000/icmp", "70000:1"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_may_be_longer_than_in_orka_2_and_follow_the_same_rule() {
        assert!(check_name(&"a".repeat(63)).is_ok());
        for wrong in ["a".repeat(64).as_str(), "1a", "a-", "A", "a.b", ""] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
