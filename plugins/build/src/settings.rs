//! What the parameters mean.

use std::time::Duration;

use orka_plugin_sdk::cluster::{DeployOptions, VmSpec};
use orka_plugin_sdk::ssh::{Shell, TransferOptions};
use orka_plugin_sdk::{Error, params};

use crate::{metadata, script};

/// The default of `vcpu-count` in the Task, kept also where it cannot be meant.
const VCPU_DEFAULT: u32 = 3;

/// The default of `keep-for`.
const KEEP_FOR_MS_DEFAULT: u64 = 3_600_000;

const MIB_PER_GIB: f64 = 1024.0;

/// After which end of the script something is copied back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Success,
    Always,
    Failure,
}

/// The parameters, understood.
pub(crate) struct Settings {
    /// What runs in the VM, with its `#!` line.
    pub(crate) script: Vec<u8>,
    /// Its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Whether the log says in detail what is done.
    pub(crate) verbose: bool,
    /// How many VMs are tried.
    pub(crate) deploy_attempts: u32,
    /// What starts it.
    pub(crate) shell: Shell,
    /// Whether it outlives a lost connection.
    pub(crate) detach: bool,
    /// How long it may print nothing.
    pub(crate) silence_timeout: Option<Duration>,
    base_image: String,
    cpu_count: u32,
    vcpu_count: u32,
    memory_mib: Option<u32>,
    vnc_console: bool,
    gpu_passthrough: bool,
    system_serial: Option<String>,
    tag: Option<String>,
    tag_required: bool,
    scheduler: Option<String>,
    node: Option<String>,
    capacity_wait_ms: Option<u64>,
    metadata: Vec<(String, String)>,
    reserved_ports: Vec<String>,
    vm_options: Vec<(String, String)>,
    copy_build: bool,
    artifacts: Vec<String>,
    artifacts_when: When,
    artifacts_max_bytes: Option<u64>,
    artifacts_max_count: Option<u32>,
    keep: Option<When>,
    keep_for_ms: u64,
    exclude: Vec<String>,
}

impl Settings {
    /// Reads all parameters.
    pub(crate) fn from_params() -> Result<Self, Error> {
        let cpu_count = count("cpu-count")?;
        Ok(Self {
            script: script::from_params()?,
            env: environment(&params::list("env")?)?,
            shell: if params::text("shell")?.as_deref() == Some("login") {
                Shell::Login
            } else {
                Shell::Plain
            },
            detach: params::flag("detach")?,
            silence_timeout: params::duration_ms("silence-timeout")?
                .filter(|limit| *limit > 0)
                .map(Duration::from_millis),
            verbose: params::flag("verbose")?,
            deploy_attempts: count("deploy-attempts")?,
            base_image: params::required_text("base-image")?,
            cpu_count,
            vcpu_count: fitting_vcpus(cpu_count, count("vcpu-count")?),
            memory_mib: memory_mib(params::non_empty_text("memory")?.as_deref())?,
            vnc_console: params::flag("vnc-console")?,
            gpu_passthrough: params::flag("gpu-passthrough")?,
            system_serial: params::non_empty_text("system-serial")?,
            tag: params::non_empty_text("tag")?,
            tag_required: params::flag("tag-required")?,
            scheduler: params::non_empty_text("scheduler")?,
            node: params::non_empty_text("node")?,
            capacity_wait_ms: params::duration_ms("capacity-wait")?,
            metadata: match params::non_empty_text("vm-metadata")? {
                None => Vec::new(),
                Some(text) => metadata::parse(&text)
                    .map_err(|problem| Error::parameter("vm-metadata", problem))?,
            },
            reserved_ports: params::list("reserved-ports")?,
            vm_options: options(&params::list("vm-options")?)?,
            copy_build: params::flag("copy-build")?,
            artifacts: params::list("artifacts")?,
            artifacts_when: match params::text("artifacts-when")?.as_deref() {
                Some("always") => When::Always,
                Some("failure") => When::Failure,
                _ => When::Success,
            },
            artifacts_max_bytes: size(
                "artifacts-max-size",
                params::non_empty_text("artifacts-max-size")?.as_deref(),
            )?,
            artifacts_max_count: Some(count_or("artifacts-max-count", 0)?)
                .filter(|count| *count > 0),
            keep: match params::text("keep")?.as_deref() {
                Some("always") => Some(When::Always),
                Some("failure") => Some(When::Failure),
                _ => None,
            },
            keep_for_ms: params::duration_ms("keep-for")?.unwrap_or(KEEP_FOR_MS_DEFAULT),
            exclude: params::list("exclude")?,
        })
    }

    /// The VM's shape.
    ///
    /// Intel-only options are left out where they are off, so that they trouble nobody on Apple silicon.
    pub(crate) fn vm_spec(&self) -> VmSpec {
        VmSpec {
            cpu_cores: Some(self.cpu_count),
            vcpus: Some(self.vcpu_count),
            memory_mib: self.memory_mib,
            vnc_console: self.vnc_console.then_some(true),
            gpu_passthrough: self.gpu_passthrough.then_some(true),
            system_serial: self.system_serial.clone(),
            tag: self.tag.clone(),
            tag_required: self.tag_required,
            scheduler: self.scheduler.clone(),
            options: self.vm_options.clone(),
            ..VmSpec::from_image(&self.base_image)
        }
    }

    /// What belongs to the deployment.
    pub(crate) fn deploy_options(&self) -> DeployOptions {
        DeployOptions {
            node: self.node.clone(),
            metadata: self.metadata.clone(),
            reserved_ports: self.reserved_ports.clone(),
            capacity_wait_ms: self.capacity_wait_ms,
            ..DeployOptions::default()
        }
    }

    /// What is copied in.
    pub(crate) fn upload_options(&self) -> TransferOptions {
        TransferOptions {
            exclude: self.exclude.clone(),
            ..TransferOptions::default()
        }
    }

    /// What is copied back.
    pub(crate) fn download_options(&self) -> TransferOptions {
        TransferOptions {
            include: self.artifacts.clone(),
            exclude: self.exclude.clone(),
            max_bytes: self.artifacts_max_bytes,
            max_entries: self.artifacts_max_count,
            ..TransferOptions::default()
        }
    }

    /// How long the VM is to be kept, if it may be at all, in milliseconds.
    pub(crate) fn keep_for_ms(&self) -> Option<u64> {
        self.keep.map(|_| self.keep_for_ms)
    }

    /// How long the VM is kept after a script that succeeded or failed, in milliseconds; none if it is not.
    pub(crate) fn keeps(&self, succeeded: bool) -> Option<u64> {
        let wanted = match self.keep? {
            When::Always => true,
            When::Success => succeeded,
            When::Failure => !succeeded,
        };
        wanted.then_some(self.keep_for_ms)
    }

    /// Whether something is copied back after a script that succeeded or failed.
    ///
    /// `copy-build` is about the whole workspace; artifacts that are named are wanted whatever it says.
    pub(crate) fn wants_back(&self, succeeded: bool) -> bool {
        let asked = self.copy_build || !self.artifacts.is_empty();
        asked
            && match self.artifacts_when {
                When::Always => true,
                When::Success => succeeded,
                When::Failure => !succeeded,
            }
    }
}

fn count(name: &str) -> Result<u32, Error> {
    count_or(name, VCPU_DEFAULT)
}

fn count_or(name: &str, default: u32) -> Result<u32, Error> {
    let number = params::integer(name)?.unwrap_or(i64::from(default));
    u32::try_from(number).map_err(|_| Error::parameter(name, format!("is out of range: {number}")))
}

/// The Task's default of 3 virtual CPUs fits only 3 and 6 cores; elsewhere it is taken as "as many as cores".
fn fitting_vcpus(cores: u32, vcpus: u32) -> u32 {
    let fits = vcpus == cores || vcpus * 2 == cores;
    if vcpus == VCPU_DEFAULT && !fits {
        cores
    } else {
        vcpus
    }
}

fn memory_mib(text: Option<&str>) -> Result<Option<u32>, Error> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(0.0) => Ok(None),
        Ok(gib) if gib.is_finite() && gib > 0.0 && gib <= 4096.0 => {
            Ok(Some((gib * MIB_PER_GIB).round() as u32))
        }
        _ => Err(Error::parameter(
            "memory",
            format!("is not a number of GiB: `{text}`"),
        )),
    }
}

/// Bytes, as Kubernetes writes them; a `B` after the unit is accepted.
fn size(name: &str, text: Option<&str>) -> Result<Option<u64>, Error> {
    let Some(text) = text else { return Ok(None) };
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let bare = text.strip_suffix('B').unwrap_or(text);
    let of_unit = |(unit, shift)| bare.strip_suffix(unit).map(|number| (number, shift));
    let (number, shift) = units.into_iter().find_map(of_unit).unwrap_or((text, 0));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .map(Some)
        .ok_or_else(|| Error::parameter(name, format!("is not a size such as `4Gi`: `{text}`")))
}

fn environment(lines: &[String]) -> Result<Vec<(String, String)>, Error> {
    lines
        .iter()
        .map(|line| match line.split_once('=') {
            Some((name, value)) if is_variable(name) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Error::parameter(
                "env",
                "needs lines of the form NAME=VALUE, with a name of letters, digits and `_`",
            )),
        })
        .collect()
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

/// POSIX 8.1: letters, digits and underscores, not beginning with a digit.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
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

    #[test]
    fn memory_is_given_in_gib() {
        assert_eq!(memory_mib(Some("7.5")).unwrap(), Some(7680));
        assert_eq!(memory_mib(Some("0")).unwrap(), None);
        assert!(memory_mib(Some("lots")).is_err());
    }

    #[test]
    fn sizes_have_a_binary_unit_or_none() {
        for (text, bytes) in [("7", 7), ("3Ki", 3072), ("1MiB", 1 << 20), ("2Ti", 2 << 40)] {
            assert_eq!(size("x", Some(text)).unwrap(), Some(bytes), "{text}");
        }
        assert_eq!(size("x", None).unwrap(), None);
        for wrong in ["Ki", "1G", "7B", "99999999999999Ti"] {
            assert!(size("x", Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn environment_lines_keep_everything_after_the_first_equals_sign() {
        let lines = ["A=b=c d".to_owned(), "_X1=".to_owned()];
        let expected = [
            ("A".to_owned(), "b=c d".to_owned()),
            ("_X1".to_owned(), String::new()),
        ];
        assert_eq!(environment(&lines).unwrap(), expected);
        for wrong in ["", "=x", "1A=x", "A-B=x", "no"] {
            assert!(environment(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
