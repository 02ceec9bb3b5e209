//! Which VM is asked for.

use std::fmt;

use orka_plugin_sdk::cluster::{DeployOptions, VmSpec};
use orka_plugin_sdk::{Error, params};

use crate::metadata;
use crate::numbers::{count_or, memory_mib};

/// The default of `cpu-count`, and of `vcpu-count` in the Task, kept also where it cannot be meant.
const CPU_DEFAULT: u32 = 3;

/// The parameters that are about the VM, understood.
#[derive(Clone, Debug)]
pub struct VmSettings {
    /// The base image.
    pub base_image: String,
    /// CPU cores.
    pub cpu_count: u32,
    /// Memory; none leaves it to the cluster.
    pub memory_mib: Option<u32>,
    /// Node tag to prefer.
    pub tag: Option<String>,
    /// Whether the tag is a must.
    pub tag_required: bool,
    /// The node to deploy on; none lets Orka choose.
    pub node: Option<String>,
    /// How many VMs are tried until one comes up.
    pub deploy_attempts: u32,
    /// How long to wait while no node has room.
    pub capacity_wait_ms: Option<u64>,
    vcpu_count: u32,
    vnc_console: bool,
    gpu_passthrough: bool,
    system_serial: Option<String>,
    scheduler: Option<String>,
    metadata: Vec<(String, String)>,
    reserved_ports: Vec<String>,
    options: Vec<(String, String)>,
}

impl VmSettings {
    /// Reads all parameters about the VM but for its image, which is given here.
    ///
    /// # Errors
    ///
    /// `params.invalid`, naming the parameter.
    pub fn from_params(base_image: String) -> Result<Self, Error> {
        let memory = params::non_empty_text("memory")?;
        Ok(Self {
            base_image,
            cpu_count: count_or("cpu-count", CPU_DEFAULT)?,
            memory_mib: match memory {
                None => None,
                Some(text) => {
                    memory_mib(&text).map_err(|problem| Error::parameter("memory", problem))?
                }
            },
            tag: params::non_empty_text("tag")?,
            tag_required: params::flag("tag-required")?,
            node: params::non_empty_text("node")?,
            deploy_attempts: count_or("deploy-attempts", 1)?,
            capacity_wait_ms: params::duration_ms("capacity-wait")?,
            vcpu_count: count_or("vcpu-count", CPU_DEFAULT)?,
            vnc_console: params::flag("vnc-console")?,
            gpu_passthrough: params::flag("gpu-passthrough")?,
            system_serial: params::non_empty_text("system-serial")?,
            scheduler: params::non_empty_text("scheduler")?,
            metadata: match params::non_empty_text("vm-metadata")? {
                None => Vec::new(),
                Some(text) => metadata::parse(&text)
                    .map_err(|problem| Error::parameter("vm-metadata", problem))?,
            },
            reserved_ports: params::list("reserved-ports")?,
            options: options(&params::list("vm-options")?)?,
        })
    }

    /// The VM's shape.
    ///
    /// Intel-only options are left out where they are off, so that they trouble nobody on Apple silicon.
    pub fn vm_spec(&self) -> VmSpec {
        VmSpec {
            cpu_cores: Some(self.cpu_count),
            vcpus: Some(fitting_vcpus(self.cpu_count, self.vcpu_count)),
            memory_mib: self.memory_mib,
            vnc_console: self.vnc_console.then_some(true),
            gpu_passthrough: self.gpu_passthrough.then_some(true),
            system_serial: self.system_serial.clone(),
            tag: self.tag.clone(),
            tag_required: self.tag_required,
            scheduler: self.scheduler.clone(),
            options: self.options.clone(),
            ..VmSpec::from_image(&self.base_image)
        }
    }

    /// What belongs to the deployment.
    pub fn deploy_options(&self) -> DeployOptions {
        DeployOptions {
            node: self.node.clone(),
            metadata: self.metadata.clone(),
            reserved_ports: self.reserved_ports.clone(),
            capacity_wait_ms: self.capacity_wait_ms,
            ..DeployOptions::default()
        }
    }
}

impl fmt::Display for VmSettings {
    /// What tells one VM from another in a log: `sonoma.orkasi, 6 cores, tag m2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = if self.cpu_count == 1 { "core" } else { "cores" };
        write!(f, "{}, {} {cores}", self.base_image, self.cpu_count)?;
        if let Some(mib) = self.memory_mib {
            write!(f, ", {mib} MiB")?;
        }
        if let Some(tag) = &self.tag {
            write!(f, ", tag {tag}")?;
        }
        if let Some(node) = &self.node {
            write!(f, ", node {node}")?;
        }
        Ok(())
    }
}

/// The Task's default of 3 virtual CPUs fits only 3 and 6 cores; elsewhere it is taken as "as many as cores".
fn fitting_vcpus(cores: u32, vcpus: u32) -> u32 {
    let fits = vcpus == cores || vcpus.checked_mul(2) == Some(cores);
    if vcpus == CPU_DEFAULT && !fits {
        cores
    } else {
        vcpus
    }
}

fn options(lines: &[String]) -> Result<Vec<(String, String)>, Error> {
    let option = |line: &String| match line.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err(Error::parameter(
            "vm-options",
            format!("needs lines of the form NAME=VALUE, not `{line}`"),
        )),
    };
    lines.iter().map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_default_of_virtual_cpus_never_stands_in_the_way() {
        for (cores, vcpus, expected) in [
            (3, 3, 3),
            (6, 3, 3),
            (12, 3, 12),
            (4, 3, 4),
            (8, 4, 4),
            (8, 5, 5),
        ] {
            assert_eq!(
                fitting_vcpus(cores, vcpus),
                expected,
                "{cores} cores, {vcpus} virtual"
            );
        }
    }
}
