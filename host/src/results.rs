//! Tekton results: small files, each written whole as soon as its value is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::failure::Failure;

/// All results together; a container's termination message holds 4,096 bytes, shared with other steps and with Tekton's
/// own entries.
pub const BYTES_MAX: usize = 1024;

/// Kept back for the host's own results.
const OWN_BYTES: usize = 320;

/// The names of the VMs that are kept on purpose, separated by spaces. The reaper reads it.
pub const KEPT_VM: &str = "kept-vm";

/// Until when they are kept, as RFC 3339; the latest time of several. The reaper reads it.
pub const KEPT_UNTIL: &str = "kept-until";

/// The host's own results: a plugin cannot set them.
pub const OWN: [&str; 8] = [
    "vm-name",
    KEPT_VM,
    KEPT_UNTIL,
    "outcome",
    "exit-status",
    "artifacts-digest",
    "duration-seconds",
    "leftovers",
];

/// Writes results.
#[derive(Debug)]
pub struct Results {
    directory: Option<Dir>,
    written: Mutex<BTreeMap<String, String>>,
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
            written: Mutex::default(),
        })
    }

    /// Sets one of the host's own results.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn set_own(&self, name: &'static str, value: &str) -> Result<(), Failure> {
        self.write(name, value)
    }

    /// Sets a result of the plugin's.
    ///
    /// # Errors
    ///
    /// Results too large together, or a file that cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<(), Failure> {
        let others: usize = self
            .all()
            .iter()
            .filter(|(other, _)| *other != name && !OWN.contains(&other.as_str()))
            .map(|(other, value)| other.len() + value.len())
            .sum();
        if others + name.len() + value.len() > BYTES_MAX - OWN_BYTES {
            return Err(Failure::new(
                crate::failure::Kind::NoCapacity,
                crate::failure::Class::Plugin,
                "results.too-large",
                format!(
                    "result `{name}` does not fit: a plugin's results together may have {} bytes",
                    BYTES_MAX - OWN_BYTES
                ),
            )
            .with_hint("write longer text to the workspace and hand over its path"));
        }
        self.write(name, value)
    }

    /// Everything set so far.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Failure> {
        if let Some(directory) = &self.directory {
            crate::host_folder::write_whole(directory, Path::new(name), value.as_bytes()).map_err(
                |error| {
                    Failure::files("files.results", format!("cannot write the result `{name}`"))
                        .with_source(error)
                },
            )?;
        }
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
