//! `orka-step plugin compile`: native code of plugins, made before it is needed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::aot::{self, CodeCache, EXTENSION};
use crate::cli::CompileArgs;
use crate::config;
use crate::console::{Console, bytes, millis};
use crate::engine;
use crate::failure::Failure;
use crate::plugin::{Plugin, PluginRef};

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
        .map(|plugin| Plugin::load(&PluginRef::parse(plugin, args.place.plugin_dir.clone())?))
        .collect::<Result<Vec<_>, _>>()?;
    let engine = engine::engine()?;
    let mut text = String::new();
    for plugin in &plugins {
        let began = Instant::now();
        let path = match &place {
            Place::BesideProgram(directory) => {
                let code = aot::compile_for_program(&engine, plugin)?;
                write(directory, plugin, &code)?
            }
            Place::Cache(cache) => aot::compile_into_cache(&engine, plugin, cache)?,
        };
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "{} {} ({}): {} in {} ms: {}",
            plugin.manifest.name,
            plugin.manifest.version,
            plugin.digest,
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
fn write(directory: &Path, plugin: &Plugin, code: &[u8]) -> Result<PathBuf, Failure> {
    let stem = plugin.path.file_stem().unwrap_or_default();
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
