//! Tekton results: small files, each written whole as soon as its value is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::failure::{Class, Failure, Kind};

/// All results together, names and values; a container's termination message holds 4,096 bytes, shared with other steps
/// and with Tekton's own entries.
pub const BYTES_MAX: usize = 1024;

/// Kept back for what the host says in any run: two VM names of 38 characters, the leftovers (120 bytes and a count), and
/// the small ones. A run that keeps several VMs has less left for what may be left out.
const OWN_BYTES: usize = 320;

/// Kept back beside that where files may come back: `artifacts-digest` (87), `artifacts-manifest` (61) and
/// `ARTIFACT_OUTPUTS` (191).
const ARTIFACTS_BYTES: usize = 344;

/// The names of the VMs that are kept on purpose, separated by spaces. The reaper reads it.
pub const KEPT_VM: &str = "kept-vm";

/// Until when they are kept, as RFC 3339; the latest time of several. The reaper reads it.
pub const KEPT_UNTIL: &str = "kept-until";

/// Why the run did not succeed: what there is to read where the pod and its log are gone.
pub const REASON: &str = "reason";

/// SHA-256 over the files that came back.
pub const ARTIFACTS_DIGEST: &str = "artifacts-digest";

/// Where in the workspace those are listed.
pub const ARTIFACTS_MANIFEST: &str = "artifacts-manifest";

/// The same as Tekton Chains reads it.
pub const ARTIFACT_OUTPUTS: &str = "ARTIFACT_OUTPUTS";

/// The host's own results: a plugin can neither declare nor set them.
pub const OWN: [&str; 11] = plugin_manifest::HOST_RESULTS;

/// What is left out first where results together would be too large. The first four can be had from the log, the workspace or
/// the report; what is not here is never left out.
const LEFT_OUT_FIRST: [&str; 5] = [
    REASON,
    ARTIFACTS_MANIFEST,
    ARTIFACT_OUTPUTS,
    ARTIFACTS_DIGEST,
    "duration-seconds",
];

/// Writes results.
#[derive(Debug)]
pub struct Results {
    directory: Option<Dir>,
    own_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written: BTreeMap<String, String>,
    left_out: Vec<&'static str>,
}

impl State {
    fn bytes(&self, counts: impl Fn(&str) -> bool) -> usize {
        let counted = self.written.iter().filter(|(name, _)| counts(name));
        counted.map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Results {
    /// Results into `path`, or kept for the report alone.
    ///
    /// # Errors
    ///
    /// A directory that cannot be opened.
    pub fn new(path: Option<&PathBuf>) -> Result<Self, Failure> {
        let open = |path: &PathBuf| {
            Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| {
                Failure::config(format!(
                    "cannot open the results directory `{}`",
                    path.display()
                ))
                .with_source(error)
            })
        };
        Ok(Self {
            directory: path.map(open).transpose()?,
            own_bytes: OWN_BYTES,
            state: Mutex::default(),
        })
    }

    /// The same with room kept back for the results about files that come back.
    #[must_use]
    pub fn with_artifacts(mut self) -> Self {
        self.own_bytes = OWN_BYTES + ARTIFACTS_BYTES;
        self
    }

    /// Takes back what a process of the same run has said of its end and could not keep to, and what it left half written.
    /// What it deployed and what is kept stays.
    pub fn take_back(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        let stays = ["vm-name", KEPT_VM, KEPT_UNTIL];
        for name in OWN.iter().filter(|name| !stays.contains(name)) {
            // Most are not there.
            let _ = directory.remove_file(name);
        }
        let entries = directory.entries().into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let is_half = |name: &str| {
                let of = name
                    .strip_suffix(".partial")
                    .and_then(|name| name.split_once('.'));
                of.is_some_and(|(name, _)| OWN.contains(&name))
            };
            if name.to_str().is_some_and(is_half) {
                let _ = directory.remove_file(&name);
            }
        }
    }

    /// Sets one of the host's own results. Where they would be too large together, some are left out instead, see
    /// [`Results::left_out`].
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn set_own(&self, name: &'static str, value: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let needed = |state: &State| state.bytes(|other| other != name) + name.len() + value.len();
        for other in LEFT_OUT_FIRST {
            if needed(&state) <= BYTES_MAX {
                break;
            }
            if other == name {
                self.leave_out(&mut state, name);
                return Ok(());
            }
            if state.written.contains_key(other) {
                self.leave_out(&mut state, other);
            }
        }
        self.write(&mut state, name, value)
    }

    /// Takes back one of the host's own results, if it is set.
    pub fn unset_own(&self, name: &'static str) {
        self.remove(&mut self.state(), name);
    }

    /// The host's own results that were left out for want of room.
    pub fn left_out(&self) -> Vec<&'static str> {
        self.state().left_out.clone()
    }

    /// Sets a result of the plugin's.
    ///
    /// # Errors
    ///
    /// Results too large together, or a file that cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let others = state.bytes(|other| other != name && !OWN.contains(&other));
        let most = BYTES_MAX - self.own_bytes;
        if others + name.len() + value.len() > most {
            return Err(Failure::new(
                Kind::NoCapacity,
                Class::Plugin,
                "results.too-large",
                format!(
                    "result `{name}` does not fit: the results of this plugin together may have {most} bytes"
                ),
            )
            .with_hint("write longer text to the workspace and hand over its path"));
        }
        self.write(&mut state, name, value)
    }

    /// Everything set so far.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.state().written.clone()
    }

    fn leave_out(&self, state: &mut State, name: &'static str) {
        self.remove(state, name);
        if !state.left_out.contains(&name) {
            state.left_out.push(name);
        }
    }

    fn remove(&self, state: &mut State, name: &'static str) {
        if state.written.remove(name).is_some()
            && let Some(directory) = &self.directory
            && let Err(error) = directory.remove_file(name)
        {
            tracing::warn!(result = name, %error, "a result cannot be taken back");
        }
    }

    fn write(&self, state: &mut State, name: &str, value: &str) -> Result<(), Failure> {
        if let Some(directory) = &self.directory {
            crate::host_folder::write_whole(directory, Path::new(name), value.as_bytes()).map_err(
                |error| {
                    Failure::files("files.results", format!("cannot write the result `{name}`"))
                        .with_source(error)
                },
            )?;
        }
        state.written.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_an_end_that_did_not_come_is_taken_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_owned();
        for name in [
            "vm-name",
            "kept-vm",
            "exit-status",
            "outcome",
            "outcome.0123.partial",
            "version",
            "a.partial",
        ] {
            std::fs::write(path.join(name), "x").unwrap();
        }
        Results::new(Some(&path)).unwrap().take_back();
        let left = std::fs::read_dir(&path).unwrap();
        let mut left: Vec<_> = left
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a.partial", "kept-vm", "version", "vm-name"]);
    }

    #[test]
    fn a_plugin_cannot_fill_the_termination_message() {
        let directory = tempfile::tempdir().unwrap();
        let results = Results::new(Some(&directory.path().to_owned())).unwrap();
        results.set("a", &"x".repeat(600)).unwrap();
        assert_eq!(
            results.set("b", &"x".repeat(200)).unwrap_err().code,
            "results.too-large"
        );
        results.set("a", "shorter").unwrap();
        results.set("b", &"x".repeat(200)).unwrap();
        assert_eq!(
            std::fs::read_to_string(directory.path().join("a")).unwrap(),
            "shorter"
        );
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "no partial files"
        );
    }
    /// The longest value of each of the host's own results.
    fn longest_own() -> Vec<(&'static str, String)> {
        let digest = format!("sha256:{}", "0".repeat(64));
        let name = "x".repeat(38);
        vec![
            ("vm-name", name.clone()),
            (KEPT_VM, name),
            (KEPT_UNTIL, "2026-01-01T12:00:00Z".to_owned()),
            ("exit-status", "255".to_owned()),
            (ARTIFACTS_DIGEST, digest.clone()),
            (
                ARTIFACTS_MANIFEST,
                crate::artifacts::manifest_path("01234567", "89abcdef", "json"),
            ),
            (
                ARTIFACT_OUTPUTS,
                crate::artifacts::outputs("01234567", "89abcdef", &digest),
            ),
            ("outcome", "plugin-failed".to_owned()),
            (REASON, "x".repeat(200)),
            ("leftovers", format!("{} and 4096 more", "x".repeat(120))),
            ("duration-seconds", "2592000".to_owned()),
        ]
    }

    #[test]
    fn everything_fits_that_the_host_says_beside_what_a_plugin_may() {
        let own = longest_own();
        assert!(
            OWN.iter()
                .all(|name| own.iter().any(|(other, _)| other == name))
        );
        let is_artifact = |name: &str| LEFT_OUT_FIRST[1..4].contains(&name);
        for with_artifacts in [false, true] {
            let results = Results::new(None).unwrap();
            let (results, most) = if with_artifacts {
                (results.with_artifacts(), 360)
            } else {
                (results, 704)
            };
            results.set("a", &"x".repeat(most - 1)).unwrap();
            assert!(results.set("b", "").is_err());
            let own = own
                .iter()
                .filter(|(name, _)| with_artifacts || !is_artifact(name))
                // Nothing is kept back for it.
                .filter(|(name, _)| *name != REASON);
            for (name, value) in own {
                results.set_own(name, value).unwrap();
            }
            assert_eq!(results.left_out(), [""; 0]);
            let all = results.all();
            let bytes: usize = all
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum();
            assert!(bytes <= BYTES_MAX, "{bytes}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_in_order_and_never_the_outcome() {
        let directory = tempfile::tempdir().unwrap();
        let results = Results::new(Some(&directory.path().to_owned())).unwrap();
        // A plugin that was promised more than it should have been.
        results.set("a", &"x".repeat(700)).unwrap();
        for (name, value) in longest_own() {
            results.set_own(name, &value).unwrap();
        }
        assert_eq!(
            results.left_out(),
            [
                ARTIFACTS_MANIFEST,
                ARTIFACT_OUTPUTS,
                REASON,
                ARTIFACTS_DIGEST
            ]
        );
        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "a",
                "duration-seconds",
                "exit-status",
                "kept-until",
                "kept-vm",
                "leftovers",
                "outcome",
                "vm-name"
            ]
        );
    }
}
