//! Ahead-of-time code: a plugin's native code from a file, in place of compiling the plugin at each start.
//!
//! Native code has all the power of this program, and the engine runs whatever bytes it is given: a file with one changed
//! byte may run to a wrong end or take the process down. So the `.wasm` is the plugin, and its `.cwasm` is only a faster
//! form of it, used when all of this holds:
//!
//! 1. Its record names the SHA-256 of this very `.wasm` and of the code, and the engine that made it: wasmtime's version
//!    and configuration, and the target ([`EngineId`]).
//! 2. The record is authentic ([`native::Authority`]). Either the file lies beside the program and is one that the program was
//!    built with, by its digest ([`known`]). Or it lies there, is owned as the program is, and nobody else may write it: whoever
//!    could forge it could as well replace the program. Or it lies in the operator's cache and carries a MAC under a key that
//!    the operator gave. Nothing else is ever read: not what lies beside a plugin in a workspace, in a ConfigMap or in a
//!    directory given with `--plugin-dir`.
//! 3. What was checked is what runs: the file is read once, and the same bytes in memory are checked and loaded.
//!
//! Anything else means that the plugin is compiled from its `.wasm`, and the log says why.

mod cache;
mod compiler;
mod known;
mod native;
mod place;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::console::{Announcement, Console, millis};
use crate::engine::{self, Compiled, Engine};
use crate::failure::Failure;
use crate::plugin::Plugin;

pub use cache::{CacheKey, CodeCache};
pub use compiler::{Bounds, Trouble, component, differences};
pub use native::Refusal;
pub use place::unpacked;
pub use plugin_engine::EngineId;

/// What a file of ahead-of-time code is called: the plugin's name with this ending.
pub const EXTENSION: &str = "cwasm";

/// Larger than the code of any plugin: that of a Python component is 35 MB.
const CODE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Where a plugin's native code came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled now, which took so long.
    Compiled(Duration),
    /// From a file that came with this program.
    Program(PathBuf),
    /// From the operator's cache.
    Cache(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiled(took) => write!(f, "the plugin was compiled in {} ms", millis(*took)),
            Self::Program(path) | Self::Cache(path) => {
                write!(f, "the plugin's code is from `{}`", path.display())
            }
        }
    }
}

/// A plugin that can be started.
pub struct Ready {
    /// Its code, linked.
    pub compiled: Compiled,
    /// Where the code came from.
    pub origin: Origin,
    /// Ahead-of-time code that was there and was not used, or could not be kept, and why. Sentences for the log.
    pub warnings: Vec<String>,
}

/// A component as it was read: a plugin's or a guard's.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// `sha256:…` of its file.
    pub digest: &'a str,
    /// Where that is.
    pub path: &'a Path,
    /// Whether it came with this program.
    pub bundled: bool,
}

/// What was made of a component's code.
pub struct Made<T> {
    /// The code, linked.
    pub linked: T,
    /// Where it came from.
    pub origin: Origin,
    /// As in [`Ready`].
    pub warnings: Vec<String>,
}

/// After so long a person is told that a plugin is being compiled.
const COMPILING_TOLD_AFTER: Duration = Duration::from_secs(2);

/// Says that this is being compiled, once that has taken a while, until what is given back is dropped.
pub(crate) fn tell_compiling(console: &Console, what: &str, name: &str) -> Announcement {
    console.say_after(
        COMPILING_TOLD_AFTER,
        format!(
            "compiling {what} `{name}`, as every run does that has no code for it: `orka-step plugin compile` and `--plugin-cache` \
             save that"
        ),
    )
}

/// Makes a plugin ready: from ahead-of-time code where it may be trusted, else by compiling it.
///
/// What was compiled is kept in the cache, if there is one that can be written.
///
/// # Errors
///
/// A component that is not valid or does not fit this host. Trouble with ahead-of-time code is never an error.
pub fn ready(
    engine: &Engine,
    plugin: &Plugin,
    cache: Option<&CodeCache>,
    bounds: &Bounds,
) -> Result<Ready, Failure> {
    let source = Source {
        digest: &plugin.digest,
        path: &plugin.path,
        bundled: plugin.bundled,
    };
    let made = made(
        engine,
        source,
        cache,
        || engine::compile(engine, plugin, bounds),
        |component| Compiled::link(engine, component, plugin),
    )?;
    Ok(Ready {
        compiled: made.linked,
        origin: made.origin,
        warnings: made.warnings,
    })
}

/// As [`ready`], for any component: how it is compiled and linked is the caller's.
///
/// # Errors
///
/// Those of `compile` and `link`.
pub fn made<T>(
    engine: &Engine,
    source: Source<'_>,
    cache: Option<&CodeCache>,
    compile: impl FnOnce() -> Result<engine::Component, Failure>,
    link: impl Fn(&engine::Component) -> Result<T, Failure>,
) -> Result<Made<T>, Failure> {
    let id = EngineId::own();
    let mut warnings = Vec::new();
    if source.bundled {
        let path = source.path.with_extension(EXTENSION);
        match beside_program(engine, &id, source.digest, &path) {
            Ok(Some(component)) => {
                return Ok(Made {
                    linked: link(&component)?,
                    origin: Origin::Program(path),
                    warnings,
                });
            }
            Ok(None) => {}
            Err(refusal) => warnings.push(not_used(&path, &refusal)),
        }
    }
    if let Some(cache) = cache {
        let path = cache.path_of(source.digest, &id);
        match cache.load(engine, &id, source.digest) {
            Ok(Some(component)) => {
                return Ok(Made {
                    linked: link(&component)?,
                    origin: Origin::Cache(path),
                    warnings,
                });
            }
            Ok(None) => {}
            Err(refusal) => warnings.push(not_used(&path, &refusal)),
        }
    }
    let began = Instant::now();
    let component = compile()?;
    let linked = link(&component)?;
    let origin = Origin::Compiled(began.elapsed());
    if let Some(cache) = cache {
        let kept = serialized(&component)
            .map_err(Refusal::Declined)
            .and_then(|code| cache.store(source.digest, &id, &code).map(drop));
        if let Err(refusal) = kept {
            let directory = cache.directory().display();
            warnings.push(format!(
                "the compiled plugin cannot be kept in `{directory}`: {refusal}"
            ));
        }
    }
    Ok(Made {
        linked,
        origin,
        warnings,
    })
}

fn not_used(path: &Path, refusal: &Refusal) -> String {
    format!(
        "the ahead-of-time code `{}` is not used: {refusal}; the plugin is compiled instead",
        path.display()
    )
}

fn beside_program(
    engine: &Engine,
    id: &EngineId,
    digest: &str,
    path: &Path,
) -> Result<Option<engine::Component>, Refusal> {
    let Some(found) = place::beside_program(path)? else {
        return Ok(None);
    };
    // What is rarely used may be compressed: half a megabyte takes 2 ms more to load.
    let bytes = unpacked(found.bytes)?;
    let authority = native::Authority::Program(found.proof);
    native::load(engine, id, digest, &bytes, &authority).map(Some)
}

/// A component's code with a record that is good beside a program, and nowhere else.
pub fn seal_for_program(digest: &str, code: Vec<u8>) -> Vec<u8> {
    plugin_engine::seal(code, digest, &EngineId::own(), None)
}

/// Keeps a component's code in the cache and gives the file's path.
///
/// # Errors
///
/// A cache that cannot be written.
pub fn keep(digest: &str, code: &[u8], cache: &CodeCache) -> Result<PathBuf, Failure> {
    cache
        .store(digest, &EngineId::own(), code)
        .map_err(|refusal| {
            Failure::config(format!(
                "the code cannot be kept in `{}`",
                cache.directory().display()
            ))
            .with_source(refusal)
        })
}

/// Compiles a plugin.
///
/// # Errors
///
/// A component that is not valid or does not fit this host.
pub fn code_of(engine: &Engine, plugin: &Plugin) -> Result<Vec<u8>, Failure> {
    let component = engine::compile(engine, plugin, &Bounds::default())?;
    // Linked for the sake of the check: code of a plugin that no run can use is of no use either.
    Compiled::link(engine, &component, plugin)?;
    code(&component)
}

/// The code of a component that was compiled.
///
/// # Errors
///
/// What the engine says.
pub fn code(component: &engine::Component) -> Result<Vec<u8>, Failure> {
    serialized(component)
        .map_err(|problem| Failure::internal(format!("the code cannot be written: {problem}")))
}

fn serialized(component: &engine::Component) -> Result<Vec<u8>, String> {
    component.serialize().map_err(|error| format!("{error:#}"))
}

/// As [`Ready`]'s loading alone, for measurements: checks and loads code that this process sealed itself.
pub(crate) fn load_sealed(
    engine: &Engine,
    digest: &str,
    sealed: &[u8],
    key: &CacheKey,
) -> Result<engine::Component, Refusal> {
    let id = EngineId::own();
    native::load(engine, &id, digest, sealed, &native::Authority::Key(key))
}

/// Seals the code of the component of this digest under `key`, for measurements.
pub(crate) fn sealed(code: Vec<u8>, digest: &str, key: &CacheKey) -> Vec<u8> {
    plugin_engine::seal(code, digest, &EngineId::own(), Some(key.bytes()))
}
