//! The toolchain that builds plugins: the active one with the Wasm target, or the distribution's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// What plugins are compiled for. It has no WASI: a plugin imports nothing but the host's contract.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Set to `rustup` or `distribution` to allow only that toolchain.
const CHOICE_VARIABLE: &str = "ORKA_XTASK_WASM";

/// A toolchain that can build plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WasmToolchain {
    /// The active one; it has the target installed.
    Active,
    /// Debian's. It has no standard library for the target but its source, and builds that along (`-Zbuild-std`).
    Distribution,
}

/// Which toolchains may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The active one first, then the distribution's.
    Auto,
    /// Only the active one.
    Rustup,
    /// Only the distribution's.
    Distribution,
}

impl Choice {
    /// Reads [`CHOICE_VARIABLE`].
    pub(crate) fn from_environment() -> Result<Self> {
        let value = std::env::var(CHOICE_VARIABLE).unwrap_or_default();
        Self::parse(&value)
    }

    fn parse(value: &str) -> Result<Self> {
        Ok(match value {
            "" | "auto" => Self::Auto,
            "rustup" => Self::Rustup,
            "distribution" => Self::Distribution,
            _ => bail!(
                "`{CHOICE_VARIABLE}` is `{value}`, expected `auto`, `rustup` or `distribution`"
            ),
        })
    }

    /// Whether the active toolchain may be used.
    pub(crate) fn allows_active(self) -> bool {
        self != Self::Distribution
    }

    /// Whether the distribution's may be used.
    pub(crate) fn allows_distribution(self) -> bool {
        self != Self::Rustup
    }
}

impl WasmToolchain {
    /// Finds a toolchain that can build plugins as things are.
    pub(crate) fn find(choice: Choice) -> Option<Self> {
        if choice.allows_active() && active_has(TARGET) {
            Some(Self::Active)
        } else if choice.allows_distribution() && distribution_is_complete() {
            Some(Self::Distribution)
        } else {
            None
        }
    }

    /// A `cargo build` for the target.
    pub(crate) fn cargo_build(&self, workspace: &Workspace) -> Command {
        let mut command = match self {
            Self::Active => process::cargo(),
            Self::Distribution => distribution_cargo(),
        };
        command
            .args(["build", "--profile", "plugin", "--target", TARGET])
            .current_dir(&workspace.root)
            .arg("--config")
            .arg(without_local_paths(&workspace.root, &cargo_home()));
        if *self == Self::Distribution {
            command.arg("-Zbuild-std=std,panic_abort");
            // Of its own: two compilers in one target directory undo each other's work.
            command
                .arg("--target-dir")
                .arg(workspace.target_directory.join("distribution"));
        }
        command
    }
}

/// A setting that keeps this machine's paths out of panic messages, so that a plugin has one digest wherever it was
/// built by the same compiler.
fn without_local_paths(root: &Path, cargo_home: &Path) -> String {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [remap(root, "/source"), remap(cargo_home, "/cargo")];
    // Debug formatting of strings happens to be TOML's, for all that paths hold in practice.
    format!("target.{TARGET}.rustflags={flags:?}")
}

pub(crate) fn cargo_home() -> PathBuf {
    let fallback = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(fallback, PathBuf::from)
}

/// Whether the active toolchain has a standard library for this target.
pub(crate) fn active_has(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(sysroot) = process::output(Command::new(rustc).args(["--print", "sysroot"])) else {
        return false;
    };
    let libraries = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(target)
        .join("lib");
    libraries.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

/// What Debian's packages install that a plugin build uses.
const DISTRIBUTION_CARGO: &str = "/usr/bin/cargo";
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

fn distribution_is_complete() -> bool {
    let programs = [DISTRIBUTION_CARGO, DISTRIBUTION_RUSTC]
        .iter()
        .all(|program| Path::new(program).exists());
    programs && source_exists() && distribution_linker().is_some() && new_enough()
}

/// The newest `wasm-ld-NN`. Debian's rustc comes without the `rust-lld` that it looks for on this target.
fn distribution_linker() -> Option<PathBuf> {
    let entries = Path::new("/usr/bin").read_dir().ok()?;
    let programs = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let versions = programs.filter_map(|path| Some((linker_version(&path)?, path)));
    versions.max().map(|(_, path)| path)
}

/// The `22` of `/usr/bin/wasm-ld-22`.
fn linker_version(program: &Path) -> Option<u32> {
    program
        .file_name()?
        .to_str()?
        .strip_prefix("wasm-ld-")?
        .parse()
        .ok()
}

fn source_exists() -> bool {
    Path::new("/usr/lib/rustlib/src/rust/library/std/Cargo.toml").exists()
}

/// Whether the distribution's rustc is not older than what the workspace needs.
fn new_enough() -> bool {
    let version = process::output(distribution_command(DISTRIBUTION_RUSTC).arg("--version"));
    version.is_ok_and(|text| {
        minor_version(&text) >= minor_version(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION")))
    })
}

/// The `95` of `rustc 1.95.0 (…)`.
fn minor_version(text: &str) -> Option<u32> {
    text.strip_prefix("rustc 1.")?
        .split('.')
        .next()?
        .trim()
        .parse()
        .ok()
}

fn distribution_cargo() -> Command {
    let mut command = distribution_command(DISTRIBUTION_CARGO);
    // `-Zbuild-std` is not stable; this lets a release compiler take it.
    command.env("RUSTC_BOOTSTRAP", "1");
    if let Some(linker) = distribution_linker() {
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    command
}

/// A program of the distribution's toolchain, shielded from the other one that runs us.
fn distribution_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(belongs_to_active_toolchain) {
            command.env_remove(name);
        }
    }
    command.env("PATH", "/usr/bin:/bin");
    command
}

/// Whether a variable was set by, or steers, the toolchain that runs this program. What concerns the network and the
/// place of the registry stays.
fn belongs_to_active_toolchain(name: &str) -> bool {
    let stays = name == "CARGO_HOME"
        || [
            "CARGO_HTTP_",
            "CARGO_NET_",
            "CARGO_REGISTRIES_",
            "CARGO_SOURCE_",
        ]
        .iter()
        .any(|it| name.starts_with(it));
    let steers = ["CARGO", "RUST", "LD_LIBRARY_PATH", "DYLD_"]
        .iter()
        .any(|it| name.starts_with(it));
    steers && !stays
}

/// Whether rustup manages the active toolchain, which its proxies say by this variable.
pub(crate) fn rustup() -> Option<PathBuf> {
    std::env::var_os("RUSTUP_TOOLCHAIN").and_then(|_| process::find_program("rustup"))
}

#[cfg(test)]
mod tests {
    use super::{
        Choice, belongs_to_active_toolchain, linker_version, minor_version, without_local_paths,
    };

    #[test]
    fn local_paths_are_kept_out_of_plugins() {
        assert_eq!(
            without_local_paths("/home/a b/repo".as_ref(), "/home/a/.cargo".as_ref()),
            "target.wasm32-unknown-unknown.rustflags=[\"--remap-path-prefix=/home/a b/repo=/source\", \
             \"--remap-path-prefix=/home/a/.cargo=/cargo\"]"
        );
    }

    #[test]
    fn the_choice_of_toolchain_has_three_spellings() {
        assert_eq!(Choice::parse("").unwrap(), Choice::Auto);
        assert_eq!(Choice::parse("rustup").unwrap(), Choice::Rustup);
        assert_eq!(Choice::parse("distribution").unwrap(), Choice::Distribution);
        let message = Choice::parse("debian").unwrap_err().to_string();
        assert_eq!(
            message,
            "`ORKA_XTASK_WASM` is `debian`, expected `auto`, `rustup` or `distribution`"
        );
    }

    #[test]
    fn compares_compilers_by_their_minor_version() {
        assert_eq!(
            minor_version("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some(96)
        );
        assert_eq!(
            minor_version(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"))),
            Some(95)
        );
        assert_eq!(minor_version("rustc 2.0.0"), None);
    }

    #[test]
    fn tells_the_version_of_a_linker_by_its_name() {
        assert_eq!(linker_version("/usr/bin/wasm-ld-22".as_ref()), Some(22));
        assert_eq!(linker_version("/usr/bin/wasm-ld".as_ref()), None);
        assert_eq!(linker_version("/usr/bin/ld.lld-22".as_ref()), None);
    }

    #[test]
    fn the_distributions_toolchain_is_shielded_from_the_active_one() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
        ] {
            assert!(belongs_to_active_toolchain(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_NET_OFFLINE",
            "HOME",
            "https_proxy",
        ] {
            assert!(!belongs_to_active_toolchain(name), "{name}");
        }
    }
}
