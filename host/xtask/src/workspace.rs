//! What cargo knows of this workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

/// The workspace, as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The repository.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// Where cargo builds to; honours `CARGO_TARGET_DIR`.
    pub(crate) target_directory: PathBuf,
    /// Its members.
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name in Cargo.toml.
    pub(crate) name: String,
    /// Its identity in cargo's messages.
    pub(crate) id: String,
    manifest_path: PathBuf,
}

impl Package {
    /// The directory of its Cargo.toml.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new(""))
    }
}

/// A package that is built to a component.
#[derive(Debug)]
pub(crate) struct Plugin<'a> {
    /// The name of its directory, which names the component too.
    pub(crate) name: String,
    pub(crate) package: &'a Package,
    /// Where its component goes.
    pub(crate) output: PathBuf,
}

impl Plugin<'_> {
    /// What the plugin says of itself.
    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.package.directory().join("plugin.toml")
    }

    /// Whether it comes with the program, rather than being a guest that tests something.
    pub(crate) fn is_shipped(&self) -> bool {
        self.output
            .parent()
            .is_some_and(|it| it.ends_with("plugins"))
    }
}

/// The directory of this program's Cargo.toml: as `cargo run` says it now, since a build directory may be shared with
/// another copy of the repository or the repository moved; else as it was when this program was built.
pub(crate) fn own_directory() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let mut command = process::cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1", "--quiet"]);
        // Run from elsewhere in the file system, cargo would describe another workspace or none.
        command.current_dir(own_directory());
        let json = process::output(&mut command)?;
        serde_json::from_str(&json)
            .context("cargo described the workspace in a way this program does not know")
    }

    /// The shipped plugins and the test guests, by output path.
    pub(crate) fn plugins(&self) -> Vec<Plugin<'_>> {
        let mut plugins: Vec<_> = self
            .packages
            .iter()
            .filter_map(|package| self.plugin(package))
            .collect();
        plugins.sort_by(|a, b| a.output.cmp(&b.output));
        plugins
    }

    /// The packages under `tests/guests`: Wasm only, and not worth building for this machine.
    pub(crate) fn guests(&self) -> impl Iterator<Item = &Package> {
        let guests = self.root.join("tests/guests");
        self.packages
            .iter()
            .filter(move |package| package.directory().starts_with(&guests))
    }

    fn plugin<'a>(&self, package: &'a Package) -> Option<Plugin<'a>> {
        let directory = package.directory();
        let name = directory.file_name()?.to_str()?.to_owned();
        let place = directory.parent()?.strip_prefix(&self.root).ok()?;
        let output = match place.to_str()? {
            "plugins" => "plugins",
            "plugins/examples" => "examples",
            "tests/guests" => "guests",
            _ => return None,
        };
        let output = self
            .target_directory
            .join(output)
            .join(format!("{name}.wasm"));
        directory.join("plugin.toml").is_file().then_some(Plugin {
            name,
            package,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Package, Workspace};

    fn workspace(root: &std::path::Path, directories: &[&str]) -> Workspace {
        let package = |directory: &&str| {
            fs::create_dir_all(root.join(directory)).unwrap();
            let manifest_path = root.join(directory).join("Cargo.toml");
            Package {
                name: directory.replace('/', "-"),
                id: (*directory).to_owned(),
                manifest_path,
            }
        };
        let packages = directories.iter().map(package).collect();
        Workspace {
            root: root.to_owned(),
            target_directory: root.join("elsewhere"),
            packages,
        }
    }

    #[test]
    fn plugins_and_guests_are_members_with_a_manifest_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let members = [
            "host",
            "plugins/sdk",
            "plugins/build",
            "tests/guests/spin",
            "tests/guests/bare",
        ];
        let workspace = workspace(root.path(), &members);
        for member in ["host", "plugins/build", "tests/guests/spin"] {
            fs::write(root.path().join(member).join("plugin.toml"), "").unwrap();
        }
        let outputs: Vec<_> = workspace
            .plugins()
            .into_iter()
            .map(|plugin| plugin.output)
            .collect();
        let target = root.path().join("elsewhere");
        assert_eq!(
            outputs,
            [
                target.join("guests/spin.wasm"),
                target.join("plugins/build.wasm")
            ]
        );
        let shipped: Vec<_> = workspace
            .plugins()
            .iter()
            .map(crate::workspace::Plugin::is_shipped)
            .collect();
        assert_eq!(shipped, [false, true]);
        let guests: Vec<_> = workspace
            .guests()
            .map(|package| package.name.as_str())
            .collect();
        assert_eq!(guests, ["tests-guests-spin", "tests-guests-bare"]);
    }
}
