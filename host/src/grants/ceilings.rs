//! How much of what is granted: upper limits, each with a default.

use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use guest_ssh::Limits;
use serde::Deserialize;

use crate::failure::Failure;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CeilingsEntry {
    images: Option<Vec<String>>,
    cpu_cores: Option<u32>,
    memory_mib: Option<u32>,
    vms_at_once: Option<u32>,
    vms_total: Option<u32>,
    keep_max: Option<String>,
    artifacts_max_size: Option<String>,
    artifacts_max_count: Option<u64>,
}

/// Upper limits of what a granted plugin may ask the cluster for.
#[derive(Clone, Debug)]
pub struct Ceilings {
    images: Option<(GlobSet, Vec<String>)>,
    /// CPU cores of one VM.
    pub cpu_cores: Option<u32>,
    /// Memory of one VM, in MiB.
    pub memory_mib: Option<u32>,
    /// VMs that exist at the same time.
    pub vms_at_once: u32,
    /// VMs in the whole run.
    pub vms_total: u32,
    /// How long a VM may be kept after the run.
    pub keep_max: Duration,
    /// Bytes of all files that the run fetches from its VMs.
    pub artifacts_max_size: u64,
    /// Their number, links and directories included where one fetch brings them.
    pub artifacts_max_count: u64,
}

/// A plugin that loops over deploys must not empty the cluster: a run that needs more says so in its grant.
const VMS_AT_ONCE_DEFAULT: u32 = 4;
/// As above; leaves room for deploying anew after failures.
const VMS_TOTAL_DEFAULT: u32 = 16;

/// Long enough to look into a build that failed, short enough to be over by the next day.
const KEEP_MAX_DEFAULT: Duration = Duration::from_secs(4 * 3600);

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            images: None,
            cpu_cores: None,
            memory_mib: None,
            vms_at_once: VMS_AT_ONCE_DEFAULT,
            vms_total: VMS_TOTAL_DEFAULT,
            keep_max: KEEP_MAX_DEFAULT,
            artifacts_max_size: Limits::default().bytes,
            artifacts_max_count: Limits::default().entries,
        }
    }
}

impl CeilingsEntry {
    /// What the entry says, with defaults for what it leaves out.
    pub(super) fn read(&self) -> Result<Ceilings, String> {
        let defaults = Ceilings::default();
        let images = match &self.images {
            Some(patterns) => Some((image_globs(patterns)?, patterns.clone())),
            None => None,
        };
        let keep_max = match &self.keep_max {
            Some(text) => humantime::parse_duration(text)
                .map_err(|_| format!("`keep-max = \"{text}\"` is no duration such as `4h`"))?,
            None => defaults.keep_max,
        };
        let artifacts_max_size = match &self.artifacts_max_size {
            Some(text) => size(text).ok_or_else(|| {
                format!("`artifacts-max-size = \"{text}\"` is no size such as `2Gi`")
            })?,
            None => defaults.artifacts_max_size,
        };
        Ok(Ceilings {
            images,
            cpu_cores: self.cpu_cores,
            memory_mib: self.memory_mib,
            vms_at_once: self.vms_at_once.unwrap_or(defaults.vms_at_once),
            vms_total: self.vms_total.unwrap_or(defaults.vms_total),
            keep_max,
            artifacts_max_size,
            artifacts_max_count: self
                .artifacts_max_count
                .unwrap_or(defaults.artifacts_max_count),
        })
    }
}

impl Ceilings {
    /// Lets a VM be kept for so long.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_keeping(&self, lifetime: Duration) -> Result<(), Failure> {
        if lifetime <= self.keep_max {
            return Ok(());
        }
        let shown = |span: Duration| {
            humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
        };
        Err(above(
            "keep-max",
            format!(
                "keeping a VM for {} is above the {} granted",
                shown(lifetime),
                shown(self.keep_max)
            ),
        ))
    }

    /// Lets a VM of this shape through. What the shape leaves open is set to the ceiling where there is one: the
    /// cluster's own choice could lie above it.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit(
        &self,
        image: &str,
        cpu_cores: &mut Option<u32>,
        memory_mib: &mut Option<u32>,
    ) -> Result<(), Failure> {
        if let Some((globs, patterns)) = &self.images
            && !globs.is_match(image)
        {
            return Err(above(
                "images",
                format!("image `{image}` is none of {patterns:?}"),
            ));
        }
        if let Some(ceiling) = self.cpu_cores
            && *cpu_cores.get_or_insert(ceiling) > ceiling
        {
            let asked = cpu_cores.unwrap_or_default();
            return Err(above(
                "cpu-cores",
                format!("{asked} CPU cores are above the {ceiling} granted"),
            ));
        }
        if let Some(ceiling) = self.memory_mib
            && *memory_mib.get_or_insert(ceiling) > ceiling
        {
            let asked = memory_mib.unwrap_or_default();
            return Err(above(
                "memory-mib",
                format!("{asked} MiB of memory are above the {ceiling} granted"),
            ));
        }
        Ok(())
    }
}

/// A failure for what lies above a ceiling.
fn above(ceiling: &str, message: String) -> Failure {
    Failure::denied("run.above-ceiling", message).with_hint(how_to_raise(ceiling))
}

/// What raises a ceiling.
pub(crate) fn how_to_raise(ceiling: &str) -> String {
    format!("the operator can raise `{ceiling}` under `[grant.ceilings]` in the grants file")
}

/// Bytes, as Kubernetes writes them: `512`, `10Mi`, `2Gi`; a `B` after that is accepted.
fn size(text: &str) -> Option<u64> {
    let text = text.strip_suffix('B').unwrap_or(text);
    let unit_at = text.len().checked_sub(2);
    let (number, factor) = match unit_at.and_then(|at| text.split_at_checked(at)) {
        Some((number, "Ki")) => (number, 1 << 10),
        Some((number, "Mi")) => (number, 1 << 20),
        Some((number, "Gi")) => (number, 1 << 30),
        Some((number, "Ti")) => (number, 1_u64 << 40),
        _ => (text, 1),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| number.parse().ok())??;
    number.checked_mul(factor)
}

fn image_globs(patterns: &[String]) -> Result<GlobSet, String> {
    let bad = |error: globset::Error| format!("bad image pattern: {error}");
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        // `*` stays within one part of an OCI reference: `sonoma-*` is no pattern for somebody else's registry.
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        globs.add(glob.map_err(bad)?);
    }
    globs.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::GrantsFile;

    #[test]
    fn keeping_longer_than_granted_is_denied_and_a_ceiling_is_a_duration() {
        let ceilings = Ceilings::default();
        assert!(ceilings.admit_keeping(KEEP_MAX_DEFAULT).is_ok());
        let failure = ceilings
            .admit_keeping(KEEP_MAX_DEFAULT + Duration::from_secs(1))
            .unwrap_err();
        assert_eq!(failure.code, "run.above-ceiling");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grants.toml");
        std::fs::write(
            &path,
            "[[grant]]\nplugin = \"x\"\n[grant.ceilings]\nkeep-max = \"long\"\n",
        )
        .unwrap();
        assert!(
            GrantsFile::load(&path)
                .unwrap_err()
                .message
                .contains("keep-max")
        );
    }

    #[test]
    fn sizes_are_written_as_in_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("512B", 512),
            ("10Ki", 10 << 10),
            ("5MiB", 5 << 20),
            ("2Gi", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "B",
            "Gi",
            "+1",
            "-1Mi",
            "1.5Gi",
            "1G",
            "1 Gi",
            "99999999999Ti",
            "é",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
