//! `handoff`: small files in the host's folder of the workspace, apart for each pipeline run.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use cap_std::fs::Dir;
use plugin_manifest::Capability;

use crate::bindings::orka::plugin::handoff::Host;
use crate::failure::Failure;
use crate::host_folder;
use crate::state::{CallError, HostState};

const NAME_BYTES_MAX: usize = 63;
const VALUE_BYTES_MAX: usize = 64 * 1024;

impl Host for HostState {
    async fn put(&mut self, name: String, value: String) -> Result<(), CallError> {
        let run_hash = self.run.identity.run_hash().to_owned();
        let masker = self.run.console.masker().clone();
        self.on_disk("handoff.put", Capability::HandoffWrite, move |workspace| {
            put(workspace, &run_hash, &name, &masker.mask(&value))
        })
        .await
    }

    async fn get(&mut self, name: String) -> Result<Option<String>, CallError> {
        let run_hash = self.run.identity.run_hash().to_owned();
        self.on_disk("handoff.get", Capability::HandoffRead, move |workspace| {
            get(workspace, &run_hash, &name)
        })
        .await
    }
}

fn put(workspace: &Dir, run_hash: &str, name: &str, value: &str) -> Result<(), Failure> {
    let file = file_name(name)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(too_large(name));
    }
    host_folder::of_run(workspace, run_hash)
        .and_then(|folder| host_folder::write_whole(&folder, Path::new(&file), value.as_bytes()))
        .map_err(trouble)
}

fn get(workspace: &Dir, run_hash: &str, name: &str) -> Result<Option<String>, Failure> {
    let file = file_name(name)?;
    let folder = host_folder::of_run(workspace, run_hash).map_err(trouble)?;
    // Whoever shares the volume may have put anything there: what is no regular file could block or never end.
    match folder.metadata(&file) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(trouble(ErrorKind::InvalidData.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(error)),
    }
    let mut value = String::new();
    folder
        .open(&file)
        .and_then(|file| {
            file.take(VALUE_BYTES_MAX as u64 + 1)
                .read_to_string(&mut value)
        })
        .map_err(trouble)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(too_large(name));
    }
    Ok(Some(value))
}

fn file_name(name: &str) -> Result<String, Failure> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Failure::invalid(
            "handoff.name",
            format!("`{}` cannot be a handoff's name", name.escape_default()),
        )
        .with_hint("use lower-case letters, digits and `-`, at most 63"));
    }
    Ok(format!("handoff-{name}"))
}

fn too_large(name: &str) -> Failure {
    Failure::invalid(
        "handoff.too-large",
        format!("the value for `{name}` is larger than {VALUE_BYTES_MAX} bytes"),
    )
}

fn trouble(error: std::io::Error) -> Failure {
    Failure::files("files.handoff", "the handoff in the workspace failed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_what_is_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        assert_eq!(get(&dir, "run", "vm").unwrap(), None);
        put(&dir, "run", "vm", "mini-7").unwrap();
        assert_eq!(get(&dir, "run", "vm").unwrap().as_deref(), Some("mini-7"));
        assert_eq!(get(&dir, "another", "vm").unwrap(), None);
        let folder = directory.path().join(".orka-step/run");
        let full = "x".repeat(VALUE_BYTES_MAX);
        put(&dir, "run", "full", &full).unwrap();
        assert_eq!(get(&dir, "run", "full").unwrap(), Some(full));
        std::fs::write(
            folder.join("handoff-large"),
            vec![b'x'; VALUE_BYTES_MAX + 1],
        )
        .unwrap();
        assert_eq!(
            get(&dir, "run", "large").unwrap_err().code,
            "handoff.too-large"
        );
        let status = std::process::Command::new("mkfifo")
            .arg(folder.join("handoff-pipe"))
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(get(&dir, "run", "pipe").unwrap_err().code, "files.handoff");
        assert_eq!(get(&dir, "run", "../x").unwrap_err().code, "handoff.name");
    }
}
