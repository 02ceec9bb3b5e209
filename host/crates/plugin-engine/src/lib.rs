//! The engine's configuration, and what is recorded about the code that it makes.
//!
//! Two programs need both to be the same: the one that runs plugins, and `plugin-compiler`, which the image carries beside it
//! because a compiler is large and hardly ever needed there.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod record;

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::Config;
#[cfg(feature = "compiler")]
use wasmtime::Engine;

pub use record::{Record, Sealed, digest, seal};

/// wasmtime's version, as Cargo.lock has it: code of another version is not loaded.
const WASMTIME_VERSION: &str = "48.0.8";

/// Sets one setting.
type Setter = fn(&mut Config, bool) -> &mut Config;

/// What of the configuration decides which code is made. Everything else is wasmtime's default.
const SETTINGS: [(&str, bool, Setter); 11] = [
    ("epoch-interruption", true, Config::epoch_interruption),
    // Tables that nobody here reads: a trap is told by the names of functions, which do not need them. They would make
    // a sixth of the code's size.
    ("address-map", false, Config::generate_address_map),
    ("native-unwind-info", false, Config::native_unwind_info),
    ("concurrency", false, Config::concurrency_support),
    ("threads", false, Config::wasm_threads),
    (
        "shared-everything-threads",
        false,
        Config::wasm_shared_everything_threads,
    ),
    ("memory64", false, Config::wasm_memory64),
    ("relaxed-simd", false, Config::wasm_relaxed_simd),
    ("exceptions", false, Config::wasm_exceptions),
    ("gc", false, Config::wasm_gc),
    (
        "function-references",
        false,
        Config::wasm_function_references,
    ),
];

/// What plugins are compiled for: this program's own target.
pub fn target() -> &'static str {
    static TARGET: LazyLock<String> = LazyLock::new(|| target_lexicon::HOST.to_string());
    &TARGET
}

/// The strictest configuration that all guest toolchains work with.
///
/// It compiles for every processor of the architecture rather than for the one at hand, so that code which was compiled
/// ahead of time on one machine runs on all: naming the target keeps wasmtime from asking what this processor can do.
///
/// # Errors
///
/// A machine that wasmtime does not know.
pub fn config() -> Result<Config, wasmtime::Error> {
    let mut config = Config::new();
    config.target(target())?;
    for (_, value, set) in SETTINGS {
        set(&mut config, value);
    }
    Ok(config)
}

/// What identifies an engine whose code runs in another: wasmtime's version, the target and the settings, as `sha256:…`.
///
/// wasmtime can tell more, but only where it has a compiler; and it compares all of that itself when it loads code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineId(String);

impl EngineId {
    /// That of [`config`].
    pub fn own() -> Self {
        Self::of(&SETTINGS.map(|(name, value, _)| (name, value)))
    }

    /// That of other settings.
    pub fn of(settings: &[(&str, bool)]) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("wasmtime {WASMTIME_VERSION}\0{}\0", target()));
        for (name, value) in settings {
            hash.update(format!("{name}={value}\0"));
        }
        Self(format!("sha256:{}", hex::encode(hash.finalize())))
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The native code of a component.
///
/// # Errors
///
/// A component that is not valid, in the engine's words.
#[cfg(feature = "compiler")]
pub fn compile(component: &[u8]) -> Result<Vec<u8>, String> {
    config()
        .and_then(|config| Engine::new(&config))
        .and_then(|engine| engine.precompile_component(component))
        .map_err(|error| told(&error))
}

/// An error of the engine's with its causes, in one line.
pub fn told(error: &wasmtime::Error) -> String {
    let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
    chain.join(": ")
}

#[cfg(test)]
mod tests {
    use super::{EngineId, SETTINGS, WASMTIME_VERSION};

    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../Cargo.lock");
        let lock: toml::Table = std::fs::read_to_string(lock).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        let versions: Vec<_> = packages
            .iter()
            .filter(|package| package["name"].as_str() == Some("wasmtime"))
            .map(|package| package["version"].as_str().unwrap())
            .collect();
        assert_eq!(versions, [WASMTIME_VERSION]);
    }

    #[test]
    fn other_settings_are_another_engine() {
        assert_eq!(EngineId::own(), EngineId::own());
        let all = SETTINGS.map(|(name, value, _)| (name, value));
        for changed in 0..all.len() {
            let mut settings = all;
            settings[changed].1 = !settings[changed].1;
            assert_ne!(EngineId::of(&settings), EngineId::own());
        }
        assert_ne!(EngineId::of(&all[1..]), EngineId::own());
    }

    #[cfg(feature = "compiler")]
    mod with_a_compiler {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};

        use wasmtime::{Config, Engine};

        use super::super::{compile, config};

        fn hash(config: &Config) -> u64 {
            let engine = Engine::new(config).unwrap();
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        }

        #[test]
        fn the_engine_is_the_same_on_every_processor() {
            assert_eq!(hash(&config().unwrap()), hash(&config().unwrap()));
            let mut native = Config::new();
            for (_, value, set) in super::SETTINGS {
                set(&mut native, value);
            }
            // As wasmtime sets it up by itself it asks what this processor can do.
            assert_ne!(hash(&config().unwrap()), hash(&native));
        }

        #[test]
        fn what_is_no_component_is_told_in_the_engines_words() {
            let told = compile(b"\0asm\x0d\0\x01\0\xff").unwrap_err();
            assert!(!told.is_empty() && !told.contains('\n'), "{told}");
            let empty = wat::parse_str("(component)").unwrap();
            assert!(compile(&empty).unwrap().starts_with(b"\x7fELF"));
        }
    }
}
