//! Which component is a guard: its reference, its pinned digest, its configuration.

use std::path::{Path, PathBuf};

use plugin_manifest::{Manifest, WasmKind};
use sha2::{Digest as _, Sha256};

use crate::aot;
use crate::failure::Failure;
use crate::plugin::remote::is_remote;
use crate::plugin::{CONTRACT_PACKAGE, CONTRACT_VERSION, POLICY_EXPORT, PluginRef};
use crate::plugin::{check_demands, same_minor};

/// What a guard must export.
pub(crate) const GUARD_EXPORT: &str = "orka:plugin/guarding@";
/// What it may import, and nothing else.
const GUARD_IMPORT: &str = "orka:plugin/guard-log@";

/// The file of a directory of guards that names them.
const LIST: &str = "guards";

/// A guard is a page of rules; one that embeds an interpreter has a few MiB.
const GUARD_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// A configuration is written by people.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// A guard as the operator names it: `REF[@sha256:DIGEST][=CONFIG-FILE]`.
#[derive(Clone, Debug)]
pub struct GuardSource {
    shown: String,
    reference: PluginRef,
    digest: Option<String>,
    config: Option<(PathBuf, String)>,
}

/// A guard that has been read and checked, but not compiled.
#[derive(Debug)]
pub struct GuardFile {
    /// Its manifest's name, or its file's.
    pub name: String,
    /// Its version, where it has a manifest.
    pub version: Option<String>,
    /// What its manifest says of it.
    pub description: Option<String>,
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// Where it came from.
    pub path: PathBuf,
    /// Whether it came with this program.
    pub bundled: bool,
    /// What it is called in messages.
    pub shown: String,
}

/// A reference as it is typed, in its parts: `COMPONENT[@sha256:DIGITS][=CONFIG]`.
pub(crate) struct Written<'a> {
    pub(crate) component: &'a str,
    digits: Option<&'a str>,
    config: Option<&'a str>,
}

impl<'a> Written<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let (component, config) = match text.split_once('=') {
            Some((component, config)) => (component, Some(config)),
            None => (text, None),
        };
        let (component, digits) = match component.rsplit_once("@sha256:") {
            Some((component, digits)) => (component, Some(digits)),
            None => (component, None),
        };
        Self {
            component,
            digits,
            config,
        }
    }
}

impl GuardSource {
    /// Reads a reference as it is typed, and the configuration that it names.
    ///
    /// # Errors
    ///
    /// A digest that is none, a reference that cannot be used, a configuration that cannot be read.
    pub fn parse(text: &str, directory: Option<PathBuf>) -> Result<Self, Failure> {
        Self::parse_in(Path::new(""), text, directory)
    }

    /// Reads the file `guards` of a directory: a reference a line, in which names and paths are those of the directory.
    ///
    /// # Errors
    ///
    /// As [`GuardSource::parse`], and a directory without that file or a file that names no guard: what is meant to be
    /// asked and is not there must not be taken for consent.
    pub fn list(directory: &Path) -> Result<Vec<Self>, Failure> {
        let path = directory.join(LIST);
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::config(format!("cannot read the list of guards `{shown}`"))
                .with_source(error)
                .with_hint(format!(
                    "`--guards` takes a directory whose file `{LIST}` names a guard a line"
                ))
        })?;
        let lines = text.lines().map(str::trim);
        let guards: Vec<Self> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Self::parse_in(directory, line, Some(directory.to_owned())))
            .collect::<Result<_, _>>()?;
        if guards.is_empty() {
            return Err(Failure::config(format!("`{shown}` names no guard"))
                .with_hint("leave out `--guards` if none is to be asked"));
        }
        Ok(guards)
    }

    fn parse_in(base: &Path, text: &str, directory: Option<PathBuf>) -> Result<Self, Failure> {
        if is_remote(text) {
            return Err(
                Failure::config(format!("`--guard {text}`: guards are not fetched")).with_hint(
                    "bring it into the pod, by a workspace, a ConfigMap or the image, and give its path",
                ),
            );
        }
        let Written {
            component,
            digits,
            config,
        } = Written::of(text);
        let digest = digits.map(|digits| digest(digits, text)).transpose()?;
        if component.is_empty() {
            return Err(
                Failure::config(format!("`--guard {text}` names no guard")).with_hint(
                    "give it as NAME or PATH, then `@sha256:…` and `=CONFIG-FILE` if wanted",
                ),
            );
        }
        let reference = PluginRef::parse(component, directory).map_err(|mut failure| {
            failure.message = failure.message.replacen("plugin", "guard", 1);
            failure
        })?;
        let reference = match reference {
            PluginRef::Path(path) => PluginRef::Path(base.join(path)),
            named => named,
        };
        Ok(Self {
            shown: component.to_owned(),
            reference,
            digest,
            config: config
                .map(|path| read_config(&base.join(path)))
                .transpose()?,
        })
    }

    /// A guard's file with a configuration at hand.
    pub fn of_file(path: PathBuf, config: Option<&str>) -> Self {
        Self {
            shown: path.display().to_string(),
            reference: PluginRef::Path(path),
            digest: None,
            config: config.map(|text| (PathBuf::from("configuration"), text.to_owned())),
        }
    }

    /// A reference with its configuration at hand; paths are relative to `base`.
    ///
    /// # Errors
    ///
    /// As [`GuardSource::parse`].
    pub fn of_text(base: &Path, text: &str, config: Option<String>) -> Result<Self, Failure> {
        let mut source = Self::parse_in(base, text, None)?;
        if let Some(config) = config {
            source.config = Some((PathBuf::from("configuration"), config));
        }
        Ok(source)
    }

    /// Its configuration; an empty text where it has none.
    pub fn config_text(&self) -> &str {
        self.config.as_ref().map_or("", |(_, text)| text)
    }

    /// Where its configuration is, if it has one.
    pub fn config_path(&self) -> Option<&Path> {
        self.config.as_ref().map(|(path, _)| path.as_path())
    }

    /// `sha256:…` of its configuration, if it has one.
    pub fn config_digest(&self) -> Option<String> {
        self.config
            .as_ref()
            .map(|(_, text)| sha256(text.as_bytes()))
    }

    /// Reads the component and checks that it is a guard and the one that was pinned.
    ///
    /// # Errors
    ///
    /// `denied`: what cannot be asked denies.
    pub fn load(&self) -> Result<GuardFile, Failure> {
        let shown = &self.shown;
        let (path, bundled) = self.reference.locate().map_err(|mut failure| {
            failure.message = failure.message.replacen("plugin", "guard", 1);
            as_denial(failure)
        })?;
        let unreadable = |error: std::io::Error| {
            refused(shown, "it cannot be read")
                .with_source(error)
                .with_hint("give `--guard` a bundled name, or the path of a `.wasm` file")
        };
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if metadata.len() > GUARD_BYTES_MAX {
            return Err(refused(
                shown,
                &format!("it is larger than {GUARD_BYTES_MAX} bytes"),
            ));
        }
        let mut bytes = std::fs::read(&path).map_err(unreadable)?;
        if bundled {
            bytes = aot::unpacked(bytes).map_err(unreadable)?;
        }
        let digest = sha256(&bytes);
        if let Some(wanted) = &self.digest
            && *wanted != digest
        {
            return Err(refused(
                shown,
                &format!("its digest is {digest}, and {wanted} was asked for"),
            )
            .with_hint("find out who changed the file; if it is right, pin its new digest"));
        }
        check_demands(&bytes, "guard", shown).map_err(as_denial)?;
        check_world(&bytes, shown)?;
        let manifest = Manifest::from_component(&bytes)
            .map_err(|error| refused(shown, "its manifest is wrong").with_source(error))?;
        if let Some(manifest) = &manifest
            && !(manifest.capabilities.is_empty()
                && manifest.optional_capabilities.is_empty()
                && manifest.secrets.is_empty()
                && manifest.optional_secrets.is_empty())
        {
            return Err(refused(
                shown,
                "its manifest asks for capabilities or secrets; a guard has none",
            )
            .with_hint(
                "take `capabilities`, `secrets` and the optional ones out of its `plugin.toml`",
            ));
        }
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        Ok(GuardFile {
            name: manifest
                .as_ref()
                .map(|manifest| manifest.name.clone())
                .or(stem)
                .unwrap_or_else(|| shown.clone()),
            version: manifest
                .as_ref()
                .map(|manifest| manifest.version.to_string()),
            description: manifest.map(|manifest| manifest.description),
            digest,
            bytes,
            path,
            bundled,
            shown: shown.clone(),
        })
    }
}

/// The lines of a list of guards, as a schema: JSON knows no comments, so those and blank lines are not in it.
#[cfg(test)]
pub(crate) fn list_schema() -> serde_json::Value {
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A list of guards of orka-step",
        "description": "The lines of the file `guards` in the directory given with `--guards`, in order, without the blank ones and \
                        those that begin with `#`.",
        "type": "array",
        "minItems": 1,
        "items": {
            "description": "`REF[@sha256:DIGEST][=CONFIG-FILE]`: the name of a file of this directory or of a bundled guard, or a \
                            path; paths are relative to the directory. Guards are not fetched.",
            "type": "string",
            "pattern": "^[^=@][^=]*(=.+)?$",
            "not": {"pattern": "^(https?|oci)://"},
            "anyOf": [
                {"pattern": "^[^=]+@sha256:[0-9A-Fa-f]{64}(=.+)?$"},
                {"not": {"pattern": "^[^=]*@sha256:"}},
            ],
        },
    })
}

/// A failure about a guard that cannot be used.
pub(super) fn refused(shown: &str, problem: &str) -> Failure {
    Failure::denied(
        "guard.unusable",
        format!("guard `{shown}` cannot be asked, so nothing is allowed: {problem}"),
    )
}

fn as_denial(mut failure: Failure) -> Failure {
    let (message, hint) = (failure.message.clone(), failure.hint.take());
    let denial = Failure::denied(
        "guard.unusable",
        format!("{message}, so nothing is allowed"),
    );
    match hint {
        Some(hint) => denial.with_hint(hint),
        None => denial,
    }
}

fn digest(digits: &str, text: &str) -> Result<String, Failure> {
    let digits = digits.to_ascii_lowercase();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(format!("sha256:{digits}"));
    }
    Err(Failure::config(format!("`--guard {text}` pins no SHA-256"))
        .with_hint("`sha256:` is followed by 64 hexadecimal digits"))
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn read_config(path: &Path) -> Result<(PathBuf, String), Failure> {
    let shown = path.display();
    let trouble = |problem: String| {
        Failure::config(format!(
            "the configuration `{shown}` given with `--guard` {problem}"
        ))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| trouble("cannot be read".to_owned()).with_source(error))?
        .len();
    if size > CONFIG_BYTES_MAX {
        return Err(trouble(format!("is larger than {CONFIG_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| trouble("cannot be read".to_owned()).with_source(error))?;
    Ok((path.to_owned(), text))
}

/// Whether a component is a guard by what it exports, whatever else may be wrong with it.
pub fn is_guard(component: &[u8]) -> bool {
    let exports = plugin_manifest::exports(component).unwrap_or_default();
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    has(GUARD_EXPORT) && !has(POLICY_EXPORT)
}

/// Compares the names that the component imports and exports with the world `guard`.
fn check_world(bytes: &[u8], shown: &str) -> Result<(), Failure> {
    let (major, minor) = CONTRACT_VERSION;
    let rebuild = format!(
        "build it against the world `guard` of `{CONTRACT_PACKAGE}` {major}.{minor}, as `wit/guard.wit` has it"
    );
    match plugin_manifest::kind(bytes) {
        WasmKind::Component => {}
        WasmKind::CoreModule => {
            return Err(refused(shown, "it is a core module, not a component").with_hint(
                "`orka-step plugin build` in the guard's project makes a component of what the compiler gives and packs `plugin.toml` into it",
            ));
        }
        other => {
            return Err(
                refused(shown, &format!("it is {other}, not a component")).with_hint(rebuild)
            );
        }
    }
    let damaged =
        |error: plugin_manifest::Error| refused(shown, "the file is damaged").with_source(error);
    let exports = plugin_manifest::exports(bytes).map_err(damaged)?;
    let guarding = exports.iter().find_map(|it| it.strip_prefix(GUARD_EXPORT));
    match guarding {
        Some(version) if same_minor(version) => {}
        Some(version) => {
            return Err(refused(
                shown,
                &format!("it is a guard of contract {version}; this host asks {major}.{minor}"),
            )
            .with_hint(rebuild));
        }
        None if exports.iter().any(|it| it.starts_with(POLICY_EXPORT)) => {
            return Err(
                refused(shown, "it is a plugin and no guard").with_hint("give it with `--plugin`")
            );
        }
        None => {
            return Err(refused(
                shown,
                &format!("it does not export `{GUARD_EXPORT}{major}.{minor}.0`"),
            )
            .with_hint(rebuild));
        }
    }
    for import in plugin_manifest::imports(bytes).map_err(damaged)? {
        if !import.strip_prefix(GUARD_IMPORT).is_some_and(same_minor) {
            return Err(refused(
                shown,
                &format!("it imports `{import}`; a guard has `{GUARD_IMPORT}{major}.{minor}` and nothing else"),
            )
            .with_hint(rebuild));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_digest_and_a_configuration_if_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a=b.toml");
        std::fs::write(&config, "text").unwrap();
        let digits = "ab".repeat(32);
        let source = GuardSource::parse(
            &format!("./g.wasm@sha256:{digits}={}", config.display()),
            None,
        )
        .unwrap();
        assert_eq!(source.reference, PluginRef::Path("./g.wasm".into()));
        assert_eq!(source.digest.as_deref(), Some(&*format!("sha256:{digits}")));
        assert_eq!(source.config_text(), "text");
        let bare = GuardSource::parse("allowed-vms", None).unwrap();
        assert!(matches!(bare.reference, PluginRef::Bundled { .. }));
        assert_eq!((bare.config_text(), bare.config_path()), ("", None));
    }

    #[test]
    fn what_is_spelled_wrong_is_a_matter_of_configuration() {
        for (text, said) in [
            ("", "names no guard"),
            ("g@sha256:12", "pins no SHA-256"),
            ("g=/nowhere/at/all", "cannot be read"),
            ("oci://example.com/g", "--guard oci://example.com/g"),
        ] {
            let failure = GuardSource::parse(text, None).unwrap_err();
            assert_eq!(failure.class, crate::failure::Class::Config, "{text}");
            assert!(failure.message.contains(said), "{}", failure.message);
        }
    }

    #[test]
    fn a_directory_names_its_guards_in_order_with_paths_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        let listed = || GuardSource::list(directory.path());
        assert!(listed().unwrap_err().message.contains("cannot read"));
        write("guards", "# none\n\n");
        assert!(listed().unwrap_err().message.contains("names no guard"));
        write("guards", "# ours\nallowed-vms=rules.txt\n\n  own.wasm\n");
        assert!(listed().unwrap_err().message.contains("rules.txt"));
        write("rules.txt", "image *");
        let [first, second] = &listed().unwrap()[..] else {
            panic!("two are named");
        };
        assert_eq!(first.config_text(), "image *");
        assert!(matches!(
            &first.reference,
            PluginRef::Bundled { name, directory: Some(given) }
                if name == "allowed-vms" && given == directory.path()
        ));
        let own = directory.path().join("own.wasm");
        assert_eq!(second.reference, PluginRef::Path(own));
    }

    #[test]
    fn what_is_no_guard_denies() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g.wasm");
        for (bytes, said) in [
            (b"text".as_slice(), "not WebAssembly"),
            (b"\0asm\x01\0\0\0", "a core module"),
            (b"\0asm\x0d\0\x01\0", "does not export"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let failure = GuardSource::of_file(path.clone(), None).load().unwrap_err();
            assert_eq!(failure.class, crate::failure::Class::Denied);
            assert!(failure.message.contains(said), "{}", failure.message);
        }
        let gone = GuardSource::parse("no-such-guard", None).unwrap();
        let failure = gone.load().unwrap_err();
        assert_eq!(failure.class, crate::failure::Class::Denied);
        assert!(
            failure.message.contains("no guard named `no-such-guard`"),
            "{}",
            failure.message
        );
    }
}
