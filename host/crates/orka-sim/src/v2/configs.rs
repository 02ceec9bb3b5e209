//! VM configurations: `POST /resources/vm/create` and `GET /resources/vm/configs`.

use serde_json::{Value, json};

use super::members::{Members, Wrong};
use super::{Call, envelope, fail};
use crate::cluster::VmConfig;
use crate::reply::Reply;

/// Longest name.
const NAME_LENGTH_MAX: usize = 38;

/// Core counts a configuration may have.
const CORES: [u32; 6] = [3, 4, 6, 8, 12, 24];

/// What the server says of a bad name.
const BAD_NAME: &str = "VM name must consist of lower case alphanumeric characters or \"-\", start with an alphabetic \
                        character, and end with an alphanumeric character";

/// Makes a configuration.
pub(super) fn create(call: &Call<'_>) -> Reply {
    let statuses = &call.cluster.config.switches.v2_statuses;
    let config = match read(call) {
        Ok(config) => config,
        Err(wrong) => return fail(statuses.validation, &wrong),
    };
    let name = config.name.clone();
    let mut inner = call.cluster.lock();
    if inner.config(&call.email, &name).is_some() {
        return fail(
            statuses.duplicate,
            "A VM configuration with that name already exists",
        );
    }
    inner.configs.push(config);
    drop(inner);
    let base = &call.request.base;
    let deploy = format!(
        "To deploy a VM, make sure you have a configuration created and use the endpoint {base}/resources/vm/deploy"
    );
    let help = json!({
        "deploy_virtual_machine": deploy,
        "required_request_data_for_deploy": { "orka_vm_name": name, "orka_node_name": "<ORKA_NODE_NAME>" },
    });
    envelope::with_help(201, "Successfully Created", help, json!({}))
}

fn read(call: &Call<'_>) -> Result<VmConfig, Wrong> {
    let switches = &call.cluster.config.switches;
    let members = Members(&call.members);
    let name = members.required_text("orka_vm_name")?;
    check_name(name)?;
    let image = members.owned_text("orka_image")?;
    if image.is_none() && switches.require_orka_image {
        return Err("orka_image is required".to_owned());
    }
    let cpu = members
        .integer("orka_cpu_core")?
        .ok_or("orka_cpu_core is required")?;
    let vcpu = members.integer("vcpu_count")?;
    if vcpu.is_none() && switches.require_vcpu_count {
        return Err("vcpu_count is required".to_owned());
    }
    let vcpu = vcpu.unwrap_or(cpu);
    check_cores(cpu, vcpu)?;
    let gpu_passthrough = members.boolean("gpu_passthrough")?.unwrap_or(false);
    Ok(VmConfig {
        owner: call.email.clone(),
        name: name.to_owned(),
        base_image: members.required_text("orka_base_image")?.to_owned(),
        image: image.unwrap_or_else(|| name.to_owned()),
        cpu,
        vcpu,
        iso_image: members.owned_text("iso_image")?,
        attached_disk: members.owned_text("attached_disk")?,
        vnc_console: members.boolean("vnc_console")?.unwrap_or(true) && !gpu_passthrough,
        system_serial: members.owned_text("system_serial")?,
        io_boost: members.boolean("io_boost")?.unwrap_or(false),
        net_boost: members.boolean("net_boost")?.unwrap_or(false),
        gpu_passthrough,
        tag: members.owned_text("tag")?,
        tag_required: members.boolean("tag_required")?.unwrap_or(false),
        scheduler: members.scheduler()?,
        memory_gib: members.memory()?,
        template: members.owned_text("orka_vm_config_template_name")?,
        deploy_failed: false,
    })
}

/// Lower case letters, digits and `-`; a letter first, no `-` last; at most 38.
fn check_name(name: &str) -> Result<(), Wrong> {
    let first = name
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_lowercase());
    let last = !name.ends_with('-');
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !(first && last && plain) {
        return Err(BAD_NAME.to_owned());
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(format!(
            "VM name must be at most {NAME_LENGTH_MAX} characters long"
        ));
    }
    Ok(())
}

/// The set of core counts, and virtual cores equal to them or, above 3, half of them.
fn check_cores(cpu: u32, vcpu: u32) -> Result<(), Wrong> {
    if !CORES.contains(&cpu) {
        return Err("orka_cpu_core must be one of 3, 4, 6, 8, 12, 24".to_owned());
    }
    if vcpu != cpu && !(cpu > 3 && vcpu * 2 == cpu) {
        return Err(
            "vcpu_count must equal orka_cpu_core, or half of it when that is more than 3"
                .to_owned(),
        );
    }
    Ok(())
}

/// Lists the caller's configurations, or those of one name.
pub(super) fn list(call: &Call<'_>, name: Option<&str>) -> Reply {
    let inner = call.cluster.lock();
    let mine = |config: &&VmConfig| {
        config.owner == call.email && name.is_none_or(|name| config.name == name)
    };
    let configs: Vec<Value> = inner.configs.iter().filter(mine).map(show).collect();
    envelope::ok("", json!({ "configs": configs }))
}

fn show(config: &VmConfig) -> Value {
    json!({
        "owner": config.owner,
        "orka_vm_name": config.name,
        "orka_base_image": config.base_image,
        "orka_cpu_core": config.cpu,
        "vcpu_count": config.vcpu,
        "iso_image": config.iso_image.as_deref().unwrap_or("None"),
        "attached_disk": config.attached_disk.as_deref().unwrap_or("None"),
        "vnc_console": config.vnc_console,
        "io_boost": config.io_boost,
        "net_boost": config.net_boost,
        "use_saved_state": false,
        "gpu_passthrough": config.gpu_passthrough,
        "system_serial": config.system_serial.as_deref().unwrap_or("N/A"),
        "tag": config.tag.as_deref().unwrap_or_default(),
        "tag_required": config.tag_required,
        "scheduler": config.scheduler.as_deref().unwrap_or("default"),
        "memory": config.memory_gib.map_or_else(|| json!("automatic"), |memory| json!(memory)),
        "configuration_template": config.template.as_deref().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_the_server() {
        for name in ["a", "tekton-1a2b3c4d", "a0", &"a".repeat(38)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["1a", "-a", "a-", "A", "a_b", "a.b", "é", &"a".repeat(39)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(check_name("Tekton").unwrap_err(), BAD_NAME);
    }

    #[test]
    fn virtual_cores_are_all_or_half_of_the_cores() {
        for (cpu, vcpu, allowed) in [
            (3, 3, true),
            (3, 1, false),
            (4, 2, true),
            (6, 3, true),
            (6, 4, false),
            (24, 12, true),
            (5, 5, false),
        ] {
            assert_eq!(check_cores(cpu, vcpu).is_ok(), allowed, "{cpu} {vcpu}");
        }
    }
}
