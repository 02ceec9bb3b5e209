//! Every plugin to a component.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use plugin_manifest::{Manifest, componentize, nearest};
use sha2::{Digest as _, Sha256};

use crate::build::{Artifact, build};
use crate::wasm_toolchain::WasmToolchain;
use crate::workspace::{Plugin, Workspace};

/// Builds the named plugins, or all, and prints name, size and digest of each.
pub(crate) fn run(
    workspace: &Workspace,
    toolchain: &WasmToolchain,
    names: &[String],
) -> Result<()> {
    let plugins = selected(workspace.plugins(), names)?;
    if plugins.is_empty() {
        println!("there are no plugins to build");
        return Ok(());
    }
    // Read before anything is compiled: a mistake here is quickly told.
    let manifests = plugins.iter().map(manifest).collect::<Result<Vec<_>>>()?;
    let mut command = toolchain.cargo_build(workspace);
    plugins.iter().for_each(|plugin| {
        command.args(["--package", &plugin.package.name]);
    });
    let artifacts = build(&mut command)?;
    for (plugin, manifest) in plugins.iter().zip(&manifests) {
        let core_module = core_module(plugin, &artifacts)?;
        let component = componentize(&core_module, Some(manifest))
            .with_context(|| format!("cannot make a component of plugin `{}`", plugin.name))?;
        write_if_changed(&plugin.output, &component)?;
        let digest = hex::encode(Sha256::digest(&component));
        let shown = plugin
            .output
            .strip_prefix(&workspace.target_directory)
            .unwrap_or(&plugin.output);
        println!(
            "{:<28} {:>9} bytes  sha256:{digest}",
            shown.display(),
            component.len()
        );
    }
    Ok(())
}

fn selected<'a>(plugins: Vec<Plugin<'a>>, names: &[String]) -> Result<Vec<Plugin<'a>>> {
    for name in names {
        if !plugins.iter().any(|plugin| plugin.name == *name) {
            let known = || plugins.iter().map(|plugin| plugin.name.as_str());
            let hint = match nearest(name, known()) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None if plugins.is_empty() => "there are none".to_owned(),
                None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
            };
            bail!(
                "no plugin `{name}` with a `plugin.toml` under `plugins`, `plugins/examples` or `tests/guests`; {hint}"
            );
        }
    }
    Ok(plugins
        .into_iter()
        .filter(|plugin| names.is_empty() || names.contains(&plugin.name))
        .collect())
}

fn manifest(plugin: &Plugin<'_>) -> Result<Manifest> {
    let path = plugin.manifest_path();
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Manifest::parse_toml(&text).with_context(|| format!("`{}` is wrong", path.display()))
}

fn core_module(plugin: &Plugin<'_>, artifacts: &[Artifact]) -> Result<Vec<u8>> {
    let own = artifacts
        .iter()
        .filter(|artifact| artifact.package_id == plugin.package.id);
    let mut modules = own
        .flat_map(|it| &it.filenames)
        .filter(|path| path.extension().is_some_and(|it| it == "wasm"));
    let Some(path) = modules.next() else {
        bail!(
            "plugin `{}` has no library of crate type `cdylib`; add one to its Cargo.toml",
            plugin.name
        );
    };
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Writes a file whole or not at all, and leaves it alone if it is already so: what is newer than it stays newer.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    write_atomically(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Two runs at once each write their own, and the last rename wins.
    let temporary = path.with_extension(format!("wasm.{}.tmp", std::process::id()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell; a left-over temporary file does no harm.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::write_if_changed;

    #[test]
    fn a_file_is_replaced_when_its_bytes_change_and_untouched_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plugins/build.wasm");
        write_if_changed(&path, b"one").unwrap();
        let old = fs::File::options().write(true).open(&path).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();

        write_if_changed(&path, b"one").unwrap();
        assert_eq!(
            path.metadata().unwrap().modified().unwrap(),
            std::time::UNIX_EPOCH
        );
        write_if_changed(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_ne!(
            path.metadata().unwrap().modified().unwrap(),
            std::time::UNIX_EPOCH
        );
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "a temporary file was left"
        );
    }

    #[test]
    fn a_write_that_fails_names_the_file_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("build.wasm");
        fs::create_dir(&path).unwrap();
        let error = write_if_changed(&path, b"one").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot write `{}`", path.display())
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
