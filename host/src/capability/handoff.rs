//! `handoff`: small files in the host's folder of the workspace, apart for each pipeline run.

use std::io::ErrorKind;
use std::path::Path;

use plugin_manifest::Capability;

use crate::bindings::orka::plugin::handoff::Host;
use crate::failure::Failure;
use crate::host_folder;
use crate::state::{CallError, HostState, RunContext};

const NAME_BYTES_MAX: usize = 63;
const VALUE_BYTES_MAX: usize = 64 * 1024;

impl Host for HostState {
    async fn put(&mut self, name: String, value: String) -> Result<(), CallError> {
        let run = &self.run;
        run.call_now("handoff.put", || {
            run.grants.require(Capability::HandoffWrite)?;
            let (folder, file) = place(run, &name)?;
            if value.len() > VALUE_BYTES_MAX {
                return Err(Failure::invalid(
                    "handoff.too-large",
                    format!("the value for `{name}` is larger than {VALUE_BYTES_MAX} bytes"),
                ));
            }
            host_folder::write_whole(&folder, Path::new(&file), value.as_bytes()).map_err(trouble)
        })
    }

    async fn get(&mut self, name: String) -> Result<Option<String>, CallError> {
        let run = &self.run;
        run.call_now("handoff.get", || {
            run.grants.require(Capability::HandoffRead)?;
            let (folder, file) = place(run, &name)?;
            match folder.read_to_string(&file) {
                Ok(value) => Ok(Some(value)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(trouble(error)),
            }
        })
    }
}

fn place(run: &RunContext, name: &str) -> Result<(cap_std::fs::Dir, String), Failure> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Failure::invalid(
            "handoff.name",
            format!("`{}` cannot be a handoff's name", name.escape_default()),
        )
        .with_hint("use lower-case letters, digits and `-`, at most 63"));
    }
    let folder =
        host_folder::of_run(&run.workspace()?.dir, run.identity.run_hash()).map_err(trouble)?;
    Ok((folder, format!("handoff-{name}")))
}

fn trouble(error: std::io::Error) -> Failure {
    Failure::files("files.handoff", "the handoff in the workspace failed").with_source(error)
}
