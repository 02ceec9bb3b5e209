//! `orka-step plugin compile`: native code of plugins and guards, made before it is needed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::aot::{self, CodeCache, EXTENSION};
use crate::cli::{CompileArgs, PluginPlace};
use crate::config;
use crate::console::{Console, bytes, millis};
use crate::engine::{self, Engine};
use crate::failure::Failure;
use crate::guard::{GuardFile, GuardSource, Written};
use crate::plugin::Plugin;
use crate::plugin::remote::is_remote;

/// Compiles plugins and gives a line for each.
///
/// # Errors
///
/// A plugin that cannot be loaded or does not fit, or a place that cannot be written. What was compiled before stays.
pub fn compile(args: &CompileArgs, console: &Console) -> Result<String, Failure> {
    let place = Place::of(args)?;
    // All are read before the first is compiled: a typing error is told at once.
    let plugins = args
        .plugins
        .iter()
        .map(|plugin| Subject::load(plugin, &args.place))
        .collect::<Result<Vec<_>, _>>()?;
    let engine = engine::engine()?;
    let mut text = String::new();
    for plugin in &plugins {
        let began = Instant::now();
        let code = plugin.code(&engine)?;
        let path = match &place {
            Place::BesideProgram(directory) => {
                let code = aot::seal_for_program(plugin.digest(), code);
                write(directory, &plugin.stem(), &code)?
            }
            Place::Cache(cache) => aot::keep(plugin.digest(), &code, cache)?,
        };
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "{} ({}): {} in {} ms: {}",
            plugin.shown(),
            plugin.digest(),
            bytes(size),
            millis(began.elapsed()),
            path.display()
        );
    }
    if let Place::BesideProgram(directory) = &place {
        console.info(&format!(
            "`{}` counts where it is the directory `plugins` beside the program, owned as that is and writable by nobody else",
            directory.display()
        ));
    }
    Ok(text)
}

/// Whether it names a file at hand with a configuration or with a digest, as only guards are named.
fn is_guard_with_more(text: &str, place: &PluginPlace) -> bool {
    let component = Written::of(text).component;
    let at_hand = || place.reference(component)?.locate();
    component != text && at_hand().is_ok_and(|(path, _)| path.is_file())
}

/// What is compiled, or measured.
pub(crate) enum Subject {
    Plugin(Box<Plugin>),
    Guard(Box<GuardSource>, Box<GuardFile>),
}

impl Subject {
    pub(crate) fn load(text: &str, place: &PluginPlace) -> Result<Self, Failure> {
        match Plugin::load(&place.reference(text)?) {
            Ok(plugin) => Ok(Self::Plugin(Box::new(plugin))),
            // Guards are files.
            Err(failure) if is_remote(text) => Err(failure),
            Err(failure) => {
                let is_other_world = failure.code == "plugin.other-world";
                let names_a_guard = is_guard_with_more(text, place);
                if !is_other_world && !names_a_guard {
                    return Err(failure);
                }
                let source = GuardSource::parse(text, place.plugin_dir.clone())?;
                match source.load() {
                    Ok(file) => Ok(Self::Guard(Box::new(source), Box::new(file))),
                    // A component that is neither is told as what it lacks to be a plugin.
                    Err(_) if is_other_world => Err(failure),
                    Err(refused) => Err(refused),
                }
            }
        }
    }

    fn code(&self, engine: &Engine) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Plugin(plugin) => aot::code_of(engine, plugin),
            Self::Guard(_, guard) => guard.code(engine),
        }
    }

    fn digest(&self) -> &str {
        match self {
            Self::Plugin(plugin) => &plugin.digest,
            Self::Guard(_, guard) => &guard.digest,
        }
    }

    /// What its code is called, without the extension.
    fn stem(&self) -> String {
        match self {
            Self::Plugin(plugin) => plugin.stem(),
            Self::Guard(_, guard) => {
                let stem = guard.path.file_stem().unwrap_or_default();
                stem.to_string_lossy().into_owned()
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Plugin(plugin) => {
                format!("{} {}", plugin.manifest.name, plugin.manifest.version)
            }
            Self::Guard(_, guard) => match &guard.version {
                Some(version) => format!("{} {version}", guard.name),
                None => guard.name.clone(),
            },
        }
    }
}

enum Place {
    BesideProgram(PathBuf),
    Cache(CodeCache),
}

impl Place {
    fn of(args: &CompileArgs) -> Result<Self, Failure> {
        if let Some(directory) = &args.into {
            return Ok(Self::BesideProgram(directory.clone()));
        }
        config::code_cache(&args.code_cache, None)?
            .map(Self::Cache)
            .ok_or_else(|| {
                Failure::config("there is no place for the code").with_hint(
                    "give `--into DIR` for a directory beside the program, or `--plugin-cache DIR --plugin-cache-key FILE`",
                )
            })
    }
}

/// Writes the code whole or not at all, whatever it replaces.
fn write(directory: &Path, stem: &str, code: &[u8]) -> Result<PathBuf, Failure> {
    let path = directory.join(stem).with_extension(EXTENSION);
    let temporary = path.with_extension(format!("{EXTENSION}.{}.tmp", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        // Whatever the umask says: code that a group may write is not used.
        .mode(0o644)
        .open(&temporary)
        .and_then(|mut file| file.write_all(code))
        .and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        Failure::config(format!("cannot write `{}`", path.display())).with_source(error)
    })?;
    Ok(path)
}
