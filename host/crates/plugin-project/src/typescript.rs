//! TypeScript: checked by `tsc`, bundled by esbuild, put on QuickJS by componentize-qjs.
//!
//! These are the tools behind `jco componentize --backend qjs`, without the 300 MB of the other back ends: QuickJS without
//! WASI and without async, 1.8 MB, and no import but the contract's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, tool};

const ENTRY: &str = "src/plugin.ts";

/// That what the project's own tools run on is there.
pub(crate) fn tools() -> Result<(), Error> {
    match tool::find("node") {
        Some(_) => Ok(()),
        None => Err(Error::ToolMissing {
            tool: "node".to_owned(),
            reason: "the tools of TypeScript run on Node.js 20 or newer",
            install: "apt-get install nodejs npm".to_owned(),
        }),
    }
}

pub(crate) fn component(root: &Path, scratch: &Path) -> Result<Vec<u8>, Error> {
    tools()?;
    let check = needed(root, "tsc", "it checks types")?;
    let bundle = needed(
        root,
        "esbuild",
        "it makes one JavaScript file of the sources",
    )?;
    let componentize = needed(
        root,
        "componentize-qjs",
        "it makes a component of JavaScript",
    )?;
    tool::run(Command::new(check).arg("--noEmit").current_dir(root))?;
    let bundled = scratch.join("plugin.js");
    tool::run(
        Command::new(bundle)
            .args([ENTRY, "--bundle", "--format=esm", "--target=es2023"])
            .args(["--external:orka:*", "--log-level=warning"])
            .arg(format!("--outfile={}", bundled.display()))
            .current_dir(root),
    )?;
    let component = scratch.join("plugin.wasm");
    tool::run(
        Command::new(componentize)
            .args(["--world", "plugin", "--sync", "--stub-wasi", "--wit"])
            .arg(root.join("wit"))
            .arg("--js")
            .arg(&bundled)
            .arg("--output")
            .arg(&component)
            .current_dir(root),
    )?;
    std::fs::read(&component).map_err(Error::file("read", &component))
}

/// A tool among the project's own, whose versions its `package.json` pins. In a tree that holds the project it may lie
/// further up, as `node` itself looks for it.
fn needed(root: &Path, name: &str, reason: &'static str) -> Result<PathBuf, Error> {
    let beside = |directory: &Path| directory.join("node_modules/.bin").join(name);
    root.ancestors()
        .map(beside)
        .find(|path| path.is_file())
        .ok_or_else(|| Error::ToolMissing {
            tool: name.to_owned(),
            reason,
            install: format!("npm install --prefix {}", root.display()),
        })
}
