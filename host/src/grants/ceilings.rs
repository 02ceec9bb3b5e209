//! Upper limits of what a granted plugin may ask for, each told with the line that sets it.

use std::time::Duration;

use globset::GlobSet;
use guest_ssh::Limits;
use humantime::format_duration;
use orka_client::validate::ORKA2_CPU_COUNTS;

use super::file::{CeilingsEntry, Grant, Place, duration, globs, size};
use crate::backend::orka::CPU_CORES_DEFAULT;
use crate::failure::Failure;

/// A plugin that loops over deploys must not empty the cluster: a run that needs more says so in its grant.
const VMS_AT_ONCE_DEFAULT: u32 = 4;
/// As above; leaves room for deploying anew after failures.
const VMS_TOTAL_DEFAULT: u32 = 16;
/// Long enough to look into a build that failed, short enough to be over by the next day.
pub(super) const KEEP_MAX_DEFAULT: Duration = Duration::from_secs(4 * 3600);

/// Patterns as they are written, and ready to be matched.
#[derive(Clone, Debug)]
struct Patterns {
    globs: GlobSet,
    written: Vec<String>,
}

/// Upper limits of what a granted plugin may ask the cluster for.
#[derive(Clone, Debug)]
pub struct Ceilings {
    images: Option<Patterns>,
    namespaces: Option<Patterns>,
    programs: Option<Patterns>,
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
    /// How long the run may last.
    pub lifetime: Option<Duration>,
    /// Bytes of all files that the run fetches from its VMs.
    pub artifacts_max_size: u64,
    /// Their number, links and directories included where one fetch brings them.
    pub artifacts_max_count: u64,
    /// As the operator wrote them.
    written: CeilingsEntry,
    place: Place,
}

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            images: None,
            namespaces: None,
            programs: None,
            cpu_cores: None,
            memory_mib: None,
            vms_at_once: VMS_AT_ONCE_DEFAULT,
            vms_total: VMS_TOTAL_DEFAULT,
            keep_max: KEEP_MAX_DEFAULT,
            lifetime: None,
            artifacts_max_size: Limits::default().bytes,
            artifacts_max_count: Limits::default().entries,
            written: CeilingsEntry::default(),
            place: Place::default(),
        }
    }
}

impl Ceilings {
    /// The ceilings of an entry, with defaults where it has none.
    pub(super) fn of(grant: &Grant, place: Place) -> Result<Self, Failure> {
        let written = &grant.ceilings;
        let patterns = |given: &Option<Vec<String>>| -> Result<Option<Patterns>, Failure> {
            let compiled = globs(given.as_deref())
                .map_err(|error| Failure::config("a grant has a bad pattern").with_source(error))?;
            Ok(compiled
                .zip(given.clone())
                .map(|(globs, written)| Patterns { globs, written }))
        };
        let defaults = Self::default();
        Ok(Self {
            images: patterns(&written.images)?,
            namespaces: patterns(&written.namespaces)?,
            programs: patterns(&written.programs)?,
            cpu_cores: written.cpu_cores,
            memory_mib: written.memory_mib,
            vms_at_once: written.vms_at_once.unwrap_or(defaults.vms_at_once),
            vms_total: written.vms_total.unwrap_or(defaults.vms_total),
            keep_max: duration("keep-max", written.keep_max.as_deref())
                .map_err(Failure::config)?
                .unwrap_or(defaults.keep_max),
            lifetime: duration("lifetime", written.lifetime.as_deref()).map_err(Failure::config)?,
            artifacts_max_size: size("artifacts-max-size", written.artifacts_max_size.as_deref())
                .map_err(Failure::config)?
                .unwrap_or(defaults.artifacts_max_size),
            artifacts_max_count: written
                .artifacts_max_count
                .unwrap_or(defaults.artifacts_max_count),
            written: written.clone(),
            place,
        })
    }

    /// As the operator wrote them, for the report.
    pub(super) fn written(&self) -> &CeilingsEntry {
        &self.written
    }

    /// Lets a VM of this shape through. Cores that the shape leaves open are those that the contract promises, or fewer where
    /// the ceiling is lower, and of Orka 2 a number that it has. Memory that it leaves open is set to the ceiling where there is
    /// one: the cluster's own choice could lie above it.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit(
        &self,
        image: &str,
        cpu_cores: &mut Option<u32>,
        memory_mib: &mut Option<u32>,
        is_orka2: bool,
    ) -> Result<(), Failure> {
        self.admit_name("images", self.images.as_ref(), "image", image)?;
        if let Some(ceiling) = self.cpu_cores {
            let asked = match *cpu_cores {
                Some(asked) => asked,
                None => self.cores_left_open(ceiling, is_orka2)?,
            };
            *cpu_cores = Some(asked);
            if asked > ceiling {
                return Err(self.above(
                    "cpu-cores",
                    format!("{asked} CPU cores are above the {ceiling} granted"),
                ));
            }
        }
        if let Some(ceiling) = self.memory_mib
            && *memory_mib.get_or_insert(ceiling) > ceiling
        {
            let asked = memory_mib.unwrap_or_default();
            return Err(self.above(
                "memory-mib",
                format!("{asked} MiB of memory are above the {ceiling} granted"),
            ));
        }
        Ok(())
    }

    /// As many cores as a VM has whose plugin leaves them open.
    fn cores_left_open(&self, ceiling: u32, is_orka2: bool) -> Result<u32, Failure> {
        let cores = ceiling.min(CPU_CORES_DEFAULT);
        if !is_orka2 {
            return Ok(cores);
        }
        let fitting = ORKA2_CPU_COUNTS.into_iter().filter(|it| *it <= cores).max();
        fitting.ok_or_else(|| {
            let least = ORKA2_CPU_COUNTS[0];
            self.above(
                "cpu-cores",
                format!(
                    "{least} CPU cores, the fewest that Orka 2 has, are above the {ceiling} granted"
                ),
            )
        })
    }

    /// Lets the run into this Orka namespace.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_namespace(&self, namespace: &str) -> Result<(), Failure> {
        self.admit_name(
            "namespaces",
            self.namespaces.as_ref(),
            "namespace",
            namespace,
        )
    }

    /// Lets this program be started in a VM.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_program(&self, program: &str) -> Result<(), Failure> {
        self.admit_name("programs", self.programs.as_ref(), "program", program)
    }

    fn admit_name(
        &self,
        ceiling: &str,
        patterns: Option<&Patterns>,
        what: &str,
        name: &str,
    ) -> Result<(), Failure> {
        match patterns {
            Some(patterns) if !patterns.globs.is_match(name) => Err(self.above(
                ceiling,
                format!("{what} `{name}` is none of {:?}", patterns.written),
            )),
            _ => Ok(()),
        }
    }

    /// Lets a VM be kept for so long.
    ///
    /// # Errors
    ///
    /// `denied`, naming the ceiling.
    pub fn admit_keeping(&self, lifetime: Duration) -> Result<(), Failure> {
        if lifetime <= self.keep_max {
            return Ok(());
        }
        Err(self.above(
            "keep-max",
            format!(
                "keeping a VM for {} is above the {} granted",
                shown(lifetime),
                shown(self.keep_max)
            ),
        ))
    }

    /// How long a run may last that was given `timeout`, which nobody may have asked for if it is the default.
    ///
    /// # Errors
    ///
    /// `denied` where more was asked for than granted, naming the ceiling.
    pub fn admit_lifetime(
        &self,
        timeout: Duration,
        default: Duration,
    ) -> Result<Duration, Failure> {
        match self.lifetime {
            Some(ceiling) if timeout > ceiling && timeout == default => Ok(ceiling),
            Some(ceiling) if timeout > ceiling => Err(self.above(
                "lifetime",
                format!(
                    "a run of {} (`--timeout`) is above the {} granted",
                    shown(timeout),
                    shown(ceiling)
                ),
            )),
            _ => Ok(timeout),
        }
    }

    /// A denial of what lies above a ceiling, with the line that would have to change.
    pub fn above(&self, ceiling: &str, message: String) -> Failure {
        Failure::denied("run.above-ceiling", message).with_hint(self.how_to_raise(ceiling))
    }

    /// What raises a ceiling, with the line that would have to change.
    pub fn how_to_raise(&self, ceiling: &str) -> String {
        let table = self.place.form.ceilings();
        // Of a list more is allowed by one more line of it.
        let do_so = match ceiling {
            "images" | "namespaces" | "programs" => "add to",
            _ => "raise",
        };
        match (self.place.member(ceiling), self.place.entry()) {
            (Some(line), _) => {
                format!("the operator can {do_so} `{ceiling}` under `{table}` at {line}")
            }
            (None, Some(entry)) => format!(
                "the operator can raise `{ceiling}`: add it under `{table}` to the entry at {entry}"
            ),
            (None, None) => {
                format!("the operator can {do_so} `{ceiling}` under `{table}` in the grants file")
            }
        }
    }
}

fn shown(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs())).to_string()
}
