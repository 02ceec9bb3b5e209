//! Python: componentize-py puts the sources and CPython into one component.

use std::path::Path;
use std::process::Command;

use crate::{Error, tool};

const TOOL: &str = "componentize-py";

/// That what the project's own tool runs on is there.
pub(crate) fn tools() -> Result<(), Error> {
    match tool::find("python3") {
        Some(_) => Ok(()),
        None => Err(Error::ToolMissing {
            tool: "python3".to_owned(),
            reason: "the tool that makes components of Python runs on it",
            install: "apt-get install python3 python3-venv".to_owned(),
        }),
    }
}

pub(crate) fn component(root: &Path, scratch: &Path) -> Result<Vec<u8>, Error> {
    let own = root.join(".venv/bin").join(TOOL);
    let program = Some(own)
        .filter(|path| path.is_file())
        .or_else(|| tool::find(TOOL))
        .ok_or_else(|| Error::ToolMissing {
            tool: TOOL.to_owned(),
            reason: "it makes a component of Python",
            install: format!(
                "python3 -m venv {root}/.venv && {root}/.venv/bin/pip install -r {root}/requirements.txt",
                root = root.display()
            ),
        })?;
    let component = scratch.join("plugin.wasm");
    // WASI stays in: the host links it inert, and keeps what Python writes to standard error for the message of a trap.
    tool::run(
        Command::new(program)
            .arg("--wit-path")
            .arg(root.join("wit"))
            .args([
                "--world",
                "plugin",
                "--quiet",
                "componentize",
                "--python-path",
            ])
            .arg(root.join("src"))
            .args(["plugin", "--output"])
            .arg(&component)
            .current_dir(root),
    )?;
    std::fs::read(&component).map_err(Error::file("read", &component))
}
