//! When a name was first seen, for things whose age the cluster does not tell: a small file between passes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::inventory::Inventory;
use crate::failure::Failure;
use crate::host_folder;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    first_seen: BTreeMap<String, Timestamp>,
}

/// What earlier passes saw; nothing if there was none.
///
/// # Errors
///
/// A file that cannot be read or is not ours.
pub(super) fn load(path: &Path) -> Result<BTreeMap<String, Timestamp>, Failure> {
    let trouble = || {
        Failure::config(format!(
            "cannot use `{}` given with `--state`; nothing was deleted",
            path.display()
        ))
    };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(trouble().with_source(error)),
        Ok(text) => text,
    };
    serde_json::from_str(&text)
        .map(|file: File| file.first_seen)
        .map_err(|error| {
            trouble()
                .with_source(error)
                .with_hint("remove the file: ages are then counted anew")
        })
}

/// What earlier passes saw first, for what there still is, and what this one does.
pub(super) fn updated(
    mut first_seen: BTreeMap<String, Timestamp>,
    inventory: &Inventory,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    first_seen.retain(|name, _| inventory.ours.contains_key(name));
    for name in inventory.ours.keys() {
        first_seen.entry(name.clone()).or_insert(now);
    }
    first_seen
}

/// Writes the file whole or not at all. Two reapers may do so at once: each writes beside the file under a name that
/// nobody else has, in whichever container, and the last one to end decides.
///
/// # Errors
///
/// What the file system said.
pub(super) fn save(path: &Path, first_seen: BTreeMap<String, Timestamp>) -> Result<(), Failure> {
    let trouble = || {
        Failure::config(format!(
            "cannot write `{}` given with `--state`",
            path.display()
        ))
        .with_hint("without it, things whose age Orka does not tell are never deleted")
    };
    let text = serde_json::to_vec_pretty(&File { first_seen })
        .map_err(|error| trouble().with_source(error))?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(trouble());
    };
    let directory = match directory {
        none if none.as_os_str().is_empty() => Path::new("."),
        some => some,
    };
    Dir::open_ambient_dir(directory, ambient_authority())
        .and_then(|directory| {
            host_folder::write_whole_with(&directory, Path::new(name), |file| {
                file.write_all(&text)?;
                file.sync_data()
            })
        })
        .map_err(|error| trouble().with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Listed;

    fn inventory(names: &[&str]) -> Inventory {
        let listed = names.iter().map(|name| Listed {
            name: (*name).to_owned(),
            ..Listed::default()
        });
        Inventory::new("tekton", listed.collect())
    }

    #[test]
    fn a_name_keeps_the_time_of_its_first_sight_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (one, two) = ("tekton-0a1b2c3d-4e5f6071-1", "tekton-0a1b2c3d-4e5f6071-2");
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        assert!(load(&path).unwrap().is_empty());
        let seen = updated(load(&path).unwrap(), &inventory(&[one, "foreign"]), first);
        save(&path, seen).unwrap();
        let seen = updated(load(&path).unwrap(), &inventory(&[one, two]), second);
        assert_eq!((seen[one], seen[two], seen.len()), (first, second, 2));
        save(&path, seen).unwrap();
        let seen = updated(load(&path).unwrap(), &inventory(&[two]), Timestamp::now());
        assert_eq!((seen[two], seen.len()), (second, 1));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// Every reaper in a container has the same PID.
    #[test]
    fn what_another_reaper_is_writing_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let others = format!("state.json.{}.partial", std::process::id());
        let others = directory.path().join(others);
        std::fs::write(&others, "half of").unwrap();
        save(&path, BTreeMap::new()).unwrap();
        assert_eq!(std::fs::read_to_string(&others).unwrap(), "half of");
        assert!(load(&path).unwrap().is_empty());
    }

    #[test]
    fn a_failure_to_write_leaves_nothing_beside_the_file() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be renamed to it.
        let path = directory.path().join("state.json");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("held"), "").unwrap();
        assert!(save(&path, BTreeMap::new()).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for text in [
            "",
            "{",
            "[]",
            r#"{"firstSeen": {"a": "yesterday"}}"#,
            "{\"other\": {}}",
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = load(&path).unwrap_err();
            assert!(failure.message.contains("nothing was deleted"), "{text}");
        }
    }
}
