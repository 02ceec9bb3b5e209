//! Rust: cargo for `wasm32-unknown-unknown`, then a component without any adapter.

use std::path::{Path, PathBuf};
use std::process::Command;

use plugin_manifest::componentize;
use serde_json::Value;

use crate::{Error, tool};

/// It has no WASI: a plugin imports nothing but the contract.
const TARGET: &str = "wasm32-unknown-unknown";

/// How rustup says that nobody has chosen a toolchain.
const NO_TOOLCHAIN: &str = "no default is configured";

/// That all is there that a project in Rust is built with.
pub(crate) fn tools(root: &Path) -> Result<(), Error> {
    let missing = |tool: &str, reason, install: &str| Error::ToolMissing {
        tool: tool.to_owned(),
        reason,
        install: install.to_owned(),
    };
    if tool::find("cargo").is_none() {
        let install = "rustup toolchain install stable --target wasm32-unknown-unknown";
        return Err(missing("cargo", "it builds plugins in Rust", install));
    }
    let libraries = tool::captured(
        Command::new("rustc")
            .args(["--print", "target-libdir", "--target", TARGET])
            .current_dir(root),
        |said| {
            said.contains(NO_TOOLCHAIN).then(|| {
                let install = "rustup default stable && rustup target add wasm32-unknown-unknown";
                missing("rustc", "rustup has no default toolchain", install)
            })
        },
    )?;
    if !has_target(&libraries) {
        let install = "rustup target add wasm32-unknown-unknown";
        return Err(missing(
            TARGET,
            "plugins in Rust are compiled for it",
            install,
        ));
    }
    Ok(())
}

pub(crate) fn component(root: &Path) -> Result<Vec<u8>, Error> {
    tools(root)?;
    let messages = tool::output(
        Command::new("cargo")
            .args(["build", "--release", "--lib", "--target", TARGET])
            .arg("--message-format=json-render-diagnostics")
            .arg("--config")
            .arg(without_local_paths(root))
            .current_dir(root),
    )?;
    let path = library(&String::from_utf8_lossy(&messages), root).ok_or(Error::NoLibrary)?;
    let module = std::fs::read(&path).map_err(Error::file("read", &path))?;
    componentize(&module, None).map_err(Error::Component)
}

/// Whether the directory of the libraries for the target, as rustc prints it, has the standard library.
fn has_target(printed: &[u8]) -> bool {
    let directory = PathBuf::from(String::from_utf8_lossy(printed).trim());
    directory.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

/// A setting that keeps this machine's paths out of panic messages, so that a plugin has one digest wherever it was
/// built by the same compiler.
fn without_local_paths(root: &Path) -> String {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [remap(root, "/source"), remap(&home, "/cargo")];
    // Debug formatting of strings happens to be TOML's, for all that paths hold in practice.
    format!("target.{TARGET}.rustflags={flags:?}")
}

/// The project's own library among what cargo says it built.
fn library(messages: &str, root: &Path) -> Option<PathBuf> {
    let manifest = root.join("Cargo.toml");
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["manifest_path"].as_str().map(Path::new) == Some(&manifest));
    artifacts
        .flat_map(|artifact| {
            artifact["filenames"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_library_is_told_from_those_it_uses() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/p/vendor/sdk/Cargo.toml","filenames":["/p/t/sdk.wasm"]}
{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","filenames":["/p/t/mine.d","/p/t/mine.wasm"]}
a line that is no JSON"#;
        assert_eq!(
            library(messages, Path::new("/p")),
            Some("/p/t/mine.wasm".into())
        );
        assert_eq!(library(messages, Path::new("/q")), None);
    }
}
