//! Finds, reads and checks a plugin. Nothing is deployed for a plugin that cannot run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plugin_manifest::{Capability, Demands, Manifest, WasmKind, nearest};
use sha2::{Digest as _, Sha256};

use crate::aot;
use crate::failure::Failure;
use crate::guard::GUARD_EXPORT;

mod project;
#[cfg(all(feature = "authoring", feature = "registry"))]
pub mod publish;
pub mod remote;

use remote::{Fetched, OciRef, UrlRef};

/// The contract this host provides.
pub const CONTRACT_PACKAGE: &str = "orka:plugin";
/// Its version: within 0.1 interfaces are added, never changed.
pub const CONTRACT_VERSION: (u64, u64) = (0, 1);
/// The interfaces of WASI 0.2 that plugins are lent, with no power behind them, by package.
pub(crate) const WASI: [(&str, &[&str]); 6] = [
    (
        "cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("filesystem", &["preopens", "types"]),
    ("io", &["error", "poll", "streams"]),
    ("random", &["insecure", "insecure-seed", "random"]),
    (
        "sockets",
        &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
];
/// What to do about an import of WASI that this host does not have.
pub(crate) const WASI_HINT: &str = "of WASI this host lends 0.2 alone, and of that `cli`, `clocks`, `filesystem`, `io`, `random` and \
                                    `sockets`, all without any power: leave out what needs more, and do over the contract what a plugin \
                                    may do";
/// What a plugin must export.
pub(crate) const POLICY_EXPORT: &str = "orka:plugin/policy@";

/// Python components have about 20 MB; anything much larger is no plugin.
pub(crate) const PLUGIN_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Which plugin to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginRef {
    /// One that is found by name: in the given directory, then among those that came with this program.
    Bundled {
        /// The name.
        name: String,
        /// A directory to look into first.
        directory: Option<PathBuf>,
    },
    /// A file.
    Path(PathBuf),
    /// A component that a web server has.
    Url(UrlRef),
    /// A component that a registry has.
    Oci(OciRef),
    /// One that a server or registry had, now in memory.
    Fetched(Fetched),
}

/// A plugin that has been read and checked, but not compiled.
#[derive(Debug)]
pub struct Plugin {
    /// The component.
    pub bytes: Vec<u8>,
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Where it came from.
    pub path: PathBuf,
    /// Whether it came with this program, and so has a stock grant.
    pub bundled: bool,
}

impl std::fmt::Display for PluginRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bundled { name, .. } => f.write_str(name),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Url(reference) => write!(f, "{reference}"),
            Self::Oci(reference) => write!(f, "{reference}"),
            Self::Fetched(fetched) => f.write_str(&fetched.shown),
        }
    }
}

impl PluginRef {
    /// Reads a reference as it is typed.
    ///
    /// # Errors
    ///
    /// A reference to fetch that is not pinned by a digest, or by other ways than https.
    pub fn parse(text: &str, directory: Option<PathBuf>) -> Result<Self, Failure> {
        if remote::is_remote(text) {
            return Self::parse_remote(text);
        }
        let is_name = !text.is_empty()
            && text.chars().all(|letter| {
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'
            });
        Ok(if is_name {
            Self::Bundled {
                name: text.to_owned(),
                directory,
            }
        } else {
            Self::Path(PathBuf::from(text))
        })
    }

    /// How long it took to fetch it, which is part of the run's own time.
    pub fn took(&self) -> Duration {
        match self {
            Self::Fetched(fetched) => fetched.took,
            _ => Duration::ZERO,
        }
    }

    /// The file, where there is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.locate().ok().map(|(path, _)| path)
    }

    pub(crate) fn locate(&self) -> Result<(PathBuf, bool), Failure> {
        match self {
            Self::Path(path) => Ok((path.clone(), false)),
            Self::Url(_) | Self::Oci(_) | Self::Fetched(_) => Err(Failure::plugin_rejected(
                "plugin.not-fetched",
                format!("plugin `{self}` is not a file"),
            )
            .with_hint("`orka-step plugin pull REF -o FILE` makes it one")),
            Self::Bundled { name, directory } => {
                let file = format!("{name}.wasm");
                if let Some(given) = directory
                    .as_ref()
                    .map(|directory| directory.join(&file))
                    .filter(|path| path.is_file())
                {
                    // A directory that somebody names is not ours to vouch for.
                    return Ok((given, false));
                }
                let homes = homes();
                homes.iter().map(|home| home.join(&file)).find(|path| path.is_file()).map(|path| (path, true)).ok_or_else(|| {
                    let looked: Vec<String> =
                        directory.iter().chain(&homes).map(|home| format!("`{}`", home.display())).collect();
                    let hint = project::of_this_directory(name).unwrap_or_else(|| {
                        let meant = match nearest(name, BUNDLED) {
                            Some(nearest) => format!("did you mean `{nearest}`?"),
                            None => format!("those that come with it are {};", BUNDLED.join(", ")),
                        };
                        format!(
                            "{meant} looked in {}; in a source tree `cargo xtask plugins` builds the bundled ones; a file is given with its path, such as `./{file}`",
                            looked.join(", ")
                        )
                    });
                    Failure::plugin_rejected("plugin.not-found", format!("there is no plugin named `{name}`"))
                        .with_hint(hint)
                })
            }
        }
    }
}

/// The plugins and guards that come with this program.
const BUNDLED: [&str; 7] = [
    "allowed-vms",
    "build",
    "deploy",
    "init",
    "matrix",
    "retry-elsewhere",
    "teardown",
];

/// Whether a plugin that came with this program is called so. Anybody can call his own that.
pub(crate) fn is_bundled_name(name: &str) -> bool {
    BUNDLED.contains(&name)
}

/// Where plugins that came with this program live: beside it in an image, one directory up in a build tree.
fn homes() -> Vec<PathBuf> {
    let mut homes = Vec::new();
    if let Some(directory) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        homes.push(directory.join("plugins"));
        if let Some(parent) = directory.parent() {
            homes.push(parent.join("plugins"));
            homes.push(parent.join("share/orka-step/plugins"));
        }
    }
    homes
}

impl Plugin {
    /// What a plugin that came with this program asks for that only works on what other Tasks of its run made. A foreign one may
    /// be all of its Tasks in one.
    pub(crate) fn works_on_others(&self) -> Option<Capability> {
        let mut asked = self.manifest.capabilities.iter();
        let of_others =
            |it: &&Capability| matches!(it, Capability::ClusterAdopt | Capability::ClusterPurgeRun);
        let found = asked.find(of_others).copied();
        found.filter(|_| self.came_with_program())
    }

    /// Whether it is a bundled plugin, or a copy of one. An author may call another the same.
    fn came_with_program(&self) -> bool {
        let name = &self.manifest.name;
        let is_copy = || {
            let ours = Self::load(&PluginRef::Bundled {
                name: name.clone(),
                directory: None,
            });
            is_bundled_name(name) && ours.is_ok_and(|ours| ours.digest == self.digest)
        };
        self.bundled || is_copy()
    }

    /// Reads a plugin and checks that this host can run it, without compiling it.
    ///
    /// # Errors
    ///
    /// What does not fit, in words: no such file, not Wasm, a core module, another world or contract version, no manifest.
    pub fn load(reference: &PluginRef) -> Result<Self, Failure> {
        if let PluginRef::Fetched(fetched) = reference {
            return Self::check(fetched.bytes.to_vec(), &fetched.shown);
        }
        let (path, bundled) = reference.locate()?;
        let shown = path.display().to_string();
        let cannot = |error: std::io::Error| {
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            let unbuilt = is_missing.then(|| project::unbuilt(&path)).flatten();
            Failure::plugin_rejected(
                "plugin.unreadable",
                format!("cannot read the plugin `{shown}`"),
            )
            .with_source(error)
            .with_hint(unbuilt.unwrap_or_else(|| {
                "give a bundled name such as `build`, or the path of a `.wasm` file".to_owned()
            }))
        };
        let metadata = std::fs::metadata(&path).map_err(cannot)?;
        if metadata.len() > PLUGIN_BYTES_MAX {
            return Err(Failure::plugin_rejected(
                "plugin.too-large",
                format!("the plugin `{shown}` is larger than {PLUGIN_BYTES_MAX} bytes"),
            ));
        }
        let mut bytes = std::fs::read(&path).map_err(cannot)?;
        if bundled {
            bytes = aot::unpacked(bytes).map_err(cannot)?;
        }
        let mut plugin = Self::check(bytes, &shown)?;
        plugin.path = path;
        plugin.bundled = bundled;
        Ok(plugin)
    }

    /// What files that belong to it are called, without their extensions.
    pub fn stem(&self) -> String {
        let path = self.path.to_string_lossy();
        match self.path.file_stem() {
            Some(stem) if !remote::is_remote(&path) => stem.to_string_lossy().into_owned(),
            _ => self.manifest.name.clone(),
        }
    }

    /// As [`Plugin::load`] for bytes at hand; `shown` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`Plugin::load`].
    pub fn check(bytes: Vec<u8>, shown: &str) -> Result<Self, Failure> {
        let reject = |code, problem: &str, hint: String| {
            Failure::plugin_rejected(code, format!("cannot load plugin `{shown}`: {problem}"))
                .with_hint(hint)
        };
        let kind = plugin_manifest::kind(&bytes);
        let is_code = shown.ends_with(".cwasm") || plugin_engine::Sealed::parse(&bytes).is_some();
        if is_code && matches!(kind, WasmKind::Elf | WasmKind::NotWasm) {
            return Err(reject(
                "plugin.precompiled",
                "it is code that was compiled ahead of time, which is never given by itself",
                "give the `.wasm` file that it was made of: the code is found beside a plugin that came with the program, or in the directory of `--plugin-cache`".to_owned(),
            ));
        }
        match kind {
            WasmKind::Component => {}
            WasmKind::CoreModule => {
                return Err(reject(
                    "plugin.core-module",
                    "it is a core module; this host runs components",
                    "run `orka-step plugin build` in the plugin's project, which makes a component of what the compiler gives and packs `plugin.toml` into it; in this source tree `cargo xtask plugins` does".to_owned(),
                ));
            }
            WasmKind::OtherVersion { .. } => {
                return Err(reject(
                    "plugin.wasm-version",
                    "it is WebAssembly of a version that this host does not know",
                    "rebuild it with a current toolchain".to_owned(),
                ));
            }
            WasmKind::Elf => {
                return Err(reject(
                    "plugin.not-wasm",
                    "it is a native program, not WebAssembly",
                    "`orka-step plugin build` in the plugin's project builds it for WebAssembly"
                        .to_owned(),
                ));
            }
            WasmKind::NotWasm => {
                return Err(reject(
                    "plugin.not-wasm",
                    "it is not WebAssembly",
                    "a plugin is a component, beginning with the bytes `00 61 73 6d 0d 00 01 00`"
                        .to_owned(),
                ));
            }
        }
        let damaged = |error: plugin_manifest::Error| {
            Failure::plugin_rejected(
                "plugin.malformed",
                format!("cannot load plugin `{shown}`: the file is damaged"),
            )
            .with_source(error)
            .with_hint("copy it again and compare its SHA-256 with the original's")
        };
        check_demands(&bytes, "plugin", shown)?;
        check_contract(&bytes, shown).map_err(|problem| problem.unwrap_or_else(damaged))?;
        let manifest = Manifest::from_component(&bytes)
            .map_err(|error| {
                let is_newer = matches!(error, plugin_manifest::Error::NewerSchema { .. });
                let failure = Failure::plugin_rejected("plugin.manifest", format!("cannot load plugin `{shown}`: its manifest is wrong"))
                    .with_source(error);
                if is_newer { failure.with_hint("use a newer host image") } else { failure }
            })?
            .ok_or_else(|| {
                reject(
                    "plugin.no-manifest",
                    "it carries no manifest",
                    "write a `plugin.toml` beside its source; the build packs it into the component".to_owned(),
                )
            })?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        Ok(Self {
            bytes,
            digest,
            manifest,
            path: PathBuf::from(shown),
            bundled: false,
        })
    }
}

/// Either a finished failure, or an error of reading the component.
enum Problem {
    Failure(Failure),
    Malformed(plugin_manifest::Error),
}

impl From<plugin_manifest::Error> for Problem {
    fn from(error: plugin_manifest::Error) -> Self {
        Self::Malformed(error)
    }
}

impl Problem {
    fn unwrap_or_else(self, damaged: impl FnOnce(plugin_manifest::Error) -> Failure) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Malformed(error) => damaged(error),
        }
    }
}

/// Compares the names the component imports and exports with what this host has.
fn check_contract(bytes: &[u8], shown: &str) -> Result<(), Problem> {
    let imports = plugin_manifest::imports(bytes)?;
    let exports = plugin_manifest::exports(bytes)?;
    check_names(Some(&imports), Some(&exports), shown).map_err(Problem::Failure)
}

/// The same for names that somebody else has read, as far as they are known.
///
/// # Errors
///
/// The first name that does not fit.
pub(crate) fn check_names(
    imports: Option<&[String]>,
    exports: Option<&[String]>,
    shown: &str,
) -> Result<(), Failure> {
    let (major, minor) = CONTRACT_VERSION;
    let mismatch = |code, message: String| {
        Failure::plugin_rejected(code, message).with_hint(format!(
            "rebuild it against version {major}.{minor} of the contract `{CONTRACT_PACKAGE}`"
        ))
    };
    let has = |prefix: &str| {
        let mut names = exports.unwrap_or_default().iter();
        names.any(|name| name.starts_with(prefix))
    };
    if has(GUARD_EXPORT) && !has(POLICY_EXPORT) {
        return Err(Failure::plugin_rejected(
            "plugin.other-world",
            format!("cannot load plugin `{shown}`: it is a guard and no plugin"),
        )
        .with_hint("give it with `--guard`, beside the plugin that it is to watch, or in a scenario file under `guards`; `orka-step plugin check` says what is known of it"));
    }
    for import in imports.unwrap_or_default() {
        if let Some(name) = import.strip_prefix("wasi:") {
            // Linked, but inert: toolchains of other languages import WASI whether they use it or not.
            if is_lent(name) {
                continue;
            }
            return Err(Failure::plugin_rejected(
                "plugin.foreign-import",
                format!("plugin `{shown}` imports `{import}`; this host has no such interface"),
            )
            .with_hint(WASI_HINT));
        }
        let Some(rest) = import
            .strip_prefix(CONTRACT_PACKAGE)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return Err(mismatch(
                "plugin.foreign-import",
                format!("plugin `{shown}` imports `{import}`, which is not part of the contract"),
            ));
        };
        let (name, version) = rest.split_once('@').unwrap_or((rest, ""));
        if name == "guard-log" && same_minor(version) {
            return Err(Failure::plugin_rejected(
                "plugin.foreign-import",
                format!("plugin `{shown}` imports `{import}`, which is for guards"),
            )
            .with_hint(format!(
                "a plugin logs by `{CONTRACT_PACKAGE}/console`; a guard exports `{GUARD_EXPORT}{major}.{minor}.0` in place of `{POLICY_EXPORT}{major}.{minor}.0`"
            )));
        }
        if !same_minor(version) {
            return Err(mismatch(
                "plugin.contract-version",
                format!("plugin `{shown}` imports `{import}`; this host provides {major}.{minor}"),
            ));
        }
    }
    let Some(exports) = exports else {
        return Ok(());
    };
    let policies: Vec<&String> = exports
        .iter()
        .filter(|name| name.starts_with(POLICY_EXPORT))
        .collect();
    match policies.as_slice() {
        [] => Err(mismatch(
            "plugin.other-world",
            format!(
                "plugin `{shown}` does not export `{POLICY_EXPORT}{major}.{minor}.0`; it exports {}",
                if exports.is_empty() {
                    "nothing".to_owned()
                } else {
                    format!("`{}`", exports.join("`, `"))
                }
            ),
        )),
        [policy] if same_minor(&policy[POLICY_EXPORT.len()..]) => Ok(()),
        [policy, ..] => Err(mismatch(
            "plugin.contract-version",
            format!("plugin `{shown}` exports `{policy}`; this host runs {major}.{minor}"),
        )),
    }
}

/// Whether this is an interface of WASI that plugins are lent, such as `cli/exit@0.2.3`.
fn is_lent(name: &str) -> bool {
    let (name, version) = name.split_once('@').unwrap_or((name, ""));
    let is_known = name.split_once('/').is_some_and(|(package, interface)| {
        let mut packages = WASI.iter();
        packages.any(|(name, interfaces)| *name == package && interfaces.contains(&interface))
    });
    // Within 0.2 the linker takes one for another.
    let version = semver::Version::parse(version);
    is_known && version.is_ok_and(|it| (it.major, it.minor) == (0, 2) && it.pre.is_empty())
}

/// Whether a version is one of the contract that this host provides.
pub(crate) fn same_minor(version: &str) -> bool {
    let (major, minor) = CONTRACT_VERSION;
    semver::Version::parse(version).is_ok_and(|version| {
        version.major == major && version.minor == minor && version.pre.is_empty()
    })
}

/// Compares what a component's manifest demands of the host with this one, before the rest of it is read: what a newer host
/// would know may be what this one cannot read.
pub(crate) fn check_demands(bytes: &[u8], what: &str, shown: &str) -> Result<(), Failure> {
    let Demands {
        minimum_host,
        contract,
    } = Manifest::demands(bytes);
    let own = semver::Version::parse(env!("CARGO_PKG_VERSION"))
        .map_err(|error| Failure::internal("own version is not a version").with_source(error))?;
    if let Some(minimum) = minimum_host.filter(|minimum| *minimum > own) {
        return Err(Failure::plugin_rejected(
            "plugin.minimum-host",
            format!("{what} `{shown}` needs orka-step {minimum} or later; this is {own}"),
        )
        .with_hint("use a newer host image"));
    }
    let (major, minor) = CONTRACT_VERSION;
    match contract.filter(|contract| !contract.holds(major, minor)) {
        Some(contract) => Err(Failure::plugin_rejected(
            "plugin.contract-version",
            format!("{what} `{shown}` was written for contract {contract}; this host provides {major}.{minor}"),
        )
        .with_hint(format!("use a {what} or a host image of the same contract version"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_bundled_plugins_are_those_in_the_source() {
        let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins");
        let mut names: Vec<String> = std::fs::read_dir(plugins)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("plugin.toml").is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, BUNDLED);
    }

    #[test]
    fn a_reference_is_a_name_or_a_path() {
        let parse = |text: &str| PluginRef::parse(text, None).unwrap();
        assert_eq!(
            parse("build"),
            PluginRef::Bundled {
                name: "build".to_owned(),
                directory: None
            }
        );
        assert_eq!(parse("./build"), PluginRef::Path("./build".into()));
        assert_eq!(
            parse("dist/build.wasm"),
            PluginRef::Path("dist/build.wasm".into())
        );
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let code = |bytes: &[u8]| Plugin::check(bytes.to_vec(), "x.wasm").unwrap_err().code;
        assert_eq!(code(b""), "plugin.not-wasm");
        assert_eq!(code(b"garbage that is long enough"), "plugin.not-wasm");
        assert_eq!(code(b"\x7fELF\x02\x01\x01\0"), "plugin.not-wasm");
        for code in [&b"\x7fELF\x02\x01\x01\0"[..], b"\x1f\x8b packed"] {
            let failure = Plugin::check(code.to_vec(), "dist/x.cwasm").unwrap_err();
            assert_eq!(failure.code, "plugin.precompiled");
            assert!(failure.hint.unwrap().starts_with("give the `.wasm` file"));
        }
        assert_eq!(code(b"\0asm\x01\0\0\0"), "plugin.core-module");
        assert_eq!(
            code(b"\0asm\x0d\0\x01\0"),
            "plugin.other-world",
            "an empty component exports nothing"
        );
        assert_eq!(code(b"\0asm\x0d\0\x01\0\x07\xff\xff"), "plugin.malformed");
    }
}
