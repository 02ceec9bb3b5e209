//! Options by name, for callers that pass them through: known ones are set, typed; others are refused.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::Error;
use crate::spec::{DeployRequest, VmConfigSpec};

/// Names that [`VmConfigSpec::set_option`] knows.
const CONFIG_OPTIONS: &[&str] = &[
    "vcpu",
    "memory-gib",
    "snapshot",
    "iso",
    "attached-disk",
    "vnc-console",
    "system-serial",
    "io-boost",
    "net-boost",
    "legacy-io",
    "gpu-passthrough",
    "tag",
    "tag-required",
    "scheduler",
    "template",
    "node",
    "display-width",
    "display-height",
    "display-dpi",
];

/// Names that [`DeployRequest::set_option`] knows.
const DEPLOY_OPTIONS: &[&str] = &[
    "config",
    "cpu",
    "memory-gib",
    "node",
    "replicas",
    "reserved-ports",
    "iso",
    "iso-install",
    "attached-disk",
    "vnc-console",
    "system-serial",
    "gpu-passthrough",
    "tag",
    "tag-required",
    "scheduler",
    "net-boost",
    "legacy-io",
    "display-width",
    "display-height",
    "display-dpi",
];

impl VmConfigSpec {
    /// Sets the field that `name` stands for, in `kebab-case` or `snake_case`; an empty value clears it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no such option, which names those there are, or the value is not of its type.
    pub fn set_option(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match canonical(name).as_str() {
            "vcpu" => set(&mut self.vcpu, name, value),
            "memory-gib" => set(&mut self.memory_gib, name, value),
            "snapshot" => set(&mut self.snapshot, name, value),
            "iso" => set(&mut self.iso, name, value),
            "attached-disk" => set(&mut self.attached_disk, name, value),
            "vnc-console" => set(&mut self.vnc_console, name, value),
            "system-serial" => set(&mut self.system_serial, name, value),
            "io-boost" => set(&mut self.io_boost, name, value),
            "net-boost" => set(&mut self.net_boost, name, value),
            "legacy-io" => set(&mut self.legacy_io, name, value),
            "gpu-passthrough" => set(&mut self.gpu_passthrough, name, value),
            "tag" => set(&mut self.tag, name, value),
            "tag-required" => set(&mut self.tag_required, name, value),
            "scheduler" => set(&mut self.scheduler, name, value),
            "template" => set(&mut self.template, name, value),
            "node" => set(&mut self.node, name, value),
            "display-width" => set(&mut self.display.width, name, value),
            "display-height" => set(&mut self.display.height, name, value),
            "display-dpi" => set(&mut self.display.dpi, name, value),
            _ => Err(unknown(name, CONFIG_OPTIONS)),
        }
    }
}

impl DeployRequest {
    /// Sets the field that `name` stands for, in `kebab-case` or `snake_case`; an empty value clears it.
    ///
    /// `reserved-ports` takes several, separated by commas.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no such option, which names those there are, or the value is not of its type.
    pub fn set_option(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match canonical(name).as_str() {
            "config" => set(&mut self.config, name, value),
            "cpu" => set(&mut self.cpu, name, value),
            "memory-gib" => set(&mut self.memory_gib, name, value),
            "node" => set(&mut self.node, name, value),
            "replicas" => set(&mut self.replicas, name, value),
            "reserved-ports" => {
                let written = value
                    .split(',')
                    .map(str::trim)
                    .filter(|one| !one.is_empty());
                self.reserved_ports = written.map(str::parse).collect::<Result<_, _>>()?;
                Ok(())
            }
            "iso" => set(&mut self.iso, name, value),
            "iso-install" => set(&mut self.iso_install, name, value),
            "attached-disk" => set(&mut self.attached_disk, name, value),
            "vnc-console" => set(&mut self.vnc_console, name, value),
            "system-serial" => set(&mut self.system_serial, name, value),
            "gpu-passthrough" => set(&mut self.gpu_passthrough, name, value),
            "tag" => set(&mut self.tag, name, value),
            "tag-required" => set(&mut self.tag_required, name, value),
            "scheduler" => set(&mut self.scheduler, name, value),
            "net-boost" => set(&mut self.net_boost, name, value),
            "legacy-io" => set(&mut self.legacy_io, name, value),
            "display-width" => set(&mut self.display.width, name, value),
            "display-height" => set(&mut self.display.height, name, value),
            "display-dpi" => set(&mut self.display.dpi, name, value),
            _ => Err(unknown(name, DEPLOY_OPTIONS)),
        }
    }
}

fn canonical(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn set<T>(field: &mut Option<T>, name: &str, value: &str) -> Result<(), Error>
where
    T: FromStr,
    T::Err: Display,
{
    let value = value.trim();
    *field = if value.is_empty() {
        None
    } else {
        let parsed = value.parse();
        Some(parsed.map_err(|why: T::Err| {
            Error::invalid(format!("option `{name}` = `{value}`"), why.to_string())
        })?)
    };
    Ok(())
}

fn unknown(name: &str, known: &[&str]) -> Error {
    Error::invalid_with_hint(
        format!("option `{name}`"),
        "there is no such option",
        format!("use one of: {}", known.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Scheduler;

    #[test]
    fn sets_options_by_either_spelling_and_clears_them_with_nothing() {
        let mut spec = VmConfigSpec::default();
        spec.set_option("vcpu", "6").unwrap();
        spec.set_option("io_boost", "true").unwrap();
        spec.set_option("memory-gib", "7.5").unwrap();
        spec.set_option("scheduler", "most-allocated").unwrap();
        assert_eq!(
            (spec.vcpu, spec.io_boost, spec.memory_gib),
            (Some(6), Some(true), Some(7.5))
        );
        assert_eq!(spec.scheduler, Some(Scheduler::MostAllocated));
        spec.set_option("vcpu", "").unwrap();
        assert_eq!(spec.vcpu, None);

        let mut request = DeployRequest::default();
        request
            .set_option("reserved_ports", "9000:4000, 9001:4001/udp")
            .unwrap();
        assert_eq!(request.reserved_ports.len(), 2);
    }

    #[test]
    fn refuses_an_unknown_option_and_names_the_known_ones() {
        let error = VmConfigSpec::default().set_option("iops", "9").unwrap_err();
        assert_eq!(
            error.to_string(),
            "option `iops` is not valid: there is no such option"
        );
        assert!(error.hint().unwrap().contains("io-boost"));
        assert!(
            DeployRequest::default()
                .set_option("io-boost", "true")
                .is_err()
        );
    }

    #[test]
    fn refuses_a_value_of_another_type() {
        for (name, value) in [
            ("vcpu", "many"),
            ("vnc-console", "yes"),
            ("scheduler", "random"),
            ("memory-gib", "8G"),
        ] {
            assert!(
                VmConfigSpec::default().set_option(name, value).is_err(),
                "{name}={value}"
            );
        }
    }

    #[test]
    fn every_option_that_is_named_in_the_hint_exists() {
        for name in CONFIG_OPTIONS {
            VmConfigSpec::default().set_option(name, "").unwrap();
        }
        for name in DEPLOY_OPTIONS {
            DeployRequest::default().set_option(name, "").unwrap();
        }
    }
}
