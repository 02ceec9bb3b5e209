//! `orka-step plugin new` and `plugin build`: what an author does before there is a plugin.

use std::path::{Path, PathBuf};
use std::time::Instant;

use plugin_manifest::Manifest;
use plugin_project::{Error, Language};

use crate::check;
use crate::cli::{LanguageName, PluginBuildArgs, PluginNewArgs};
use crate::console::{Console, bytes, seconds};
use crate::engine::{self, Compiled};
use crate::failure::Failure;
use crate::guard::{GuardSource, is_guard};
use crate::outcome;
use crate::plugin::{CONTRACT_VERSION, Plugin};
use crate::report;

/// Larger components take seconds to compile, which the first test or run does anyway.
const LINKED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Makes a project and says what to do with it; gives the exit code.
pub fn new(args: &PluginNewArgs, console: &Console) -> u8 {
    concluded(console, create(args, console))
}

/// Builds a project; gives the exit code.
pub fn build(args: &PluginBuildArgs, console: &Console) -> u8 {
    concluded(console, component(args, console))
}

fn concluded(console: &Console, result: Result<(), Failure>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(failure) => {
            report::print_failure(console, &failure);
            outcome::of_class(failure.class).1
        }
    }
}

fn create(args: &PluginNewArgs, console: &Console) -> Result<(), Failure> {
    let directory = args
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(&args.name));
    let language = match args.lang {
        // Without a language it is a guard.
        Some(LanguageName::Rust) | None => Language::Rust,
        Some(LanguageName::Typescript) => Language::TypeScript,
        Some(LanguageName::Python) => Language::Python,
    };
    if args.guard && language != Language::Rust {
        return Err(Failure::config("`plugin new --guard` makes guards in Rust")
            .with_hint("leave out `--lang`; a guard in another language is built with that language's own tools, against `wit/guard.wit`"));
    }
    let files = if args.guard {
        plugin_project::create_guard(&directory, &args.name)
    } else {
        plugin_project::create(&directory, &args.name, language)
    };
    let files = files.map_err(failure)?;
    let shown = directory.display();
    // Only what is missing is told: that `rustc` cannot be asked is for the build to tell.
    let missing = plugin_project::tools(&directory, language).err();
    let tool = match missing {
        Some(Error::ToolMissing {
            tool,
            reason,
            install,
        }) => {
            console.warn(&format!("`{tool}` is missing: {reason}"));
            Some(install)
        }
        _ => None,
    };
    console.info(&format!("made `{shown}` with {} files; next:", files.len()));
    let install = match language {
        Language::Rust => None,
        Language::TypeScript => Some("npm install"),
        Language::Python => {
            Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
        }
    };
    let steps = [
        tool,
        Some(format!("cd {shown}")),
        install.map(str::to_owned),
        Some("orka-step plugin build".to_owned()),
    ];
    let name = &args.name;
    let (test, run) = if args.guard {
        (
            "orka-step plugin test --plugin build scenarios",
            format!("orka-step run --guard dist/{name}.wasm …"),
        )
    } else {
        (
            "orka-step plugin test --sweep",
            format!("orka-step demo --plugin dist/{name}.wasm"),
        )
    };
    let steps = steps.into_iter().flatten();
    for step in steps.chain([test.to_owned(), run]) {
        console.data_blocking(&format!("  {step}"));
    }
    Ok(())
}

fn component(args: &PluginBuildArgs, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let directory = args.project.as_deref().unwrap_or(Path::new("."));
    check_contract(directory)?;
    let built = plugin_project::build(directory, args.output.as_deref()).map_err(failure)?;
    let shown = built.path.display().to_string();
    if is_guard(&built.bytes) {
        let guard = GuardSource::of_file(built.path, None).load()?;
        guard.code(&engine::engine()?)?;
        tell(console, &shown, guard.bytes.len(), &guard.digest, began);
        return Ok(());
    }
    let plugin = Plugin::check(built.bytes, &shown)?;
    for warning in check::unanchored(&plugin.manifest) {
        console.warn(&warning);
    }
    if plugin.bytes.len() <= LINKED_BYTES_MAX {
        // Also what only a linker sees, such as a function whose type is another.
        Compiled::new(&engine::engine()?, &plugin)?;
    }
    tell(console, &shown, plugin.bytes.len(), &plugin.digest, began);
    Ok(())
}

fn tell(console: &Console, shown: &str, size: usize, digest: &str, began: Instant) {
    console.data_blocking(&format!(
        "{shown}  {}  {digest}  ({})",
        bytes(size as u64),
        seconds(began.elapsed())
    ));
}

/// Told before the tools run, which take half a minute in some languages. A manifest that cannot be read is the build's to tell.
fn check_contract(project: &Path) -> Result<(), Failure> {
    let path = project.join(plugin_project::MANIFEST);
    let text = std::fs::read_to_string(&path).ok();
    let Some(manifest) = text.and_then(|text| Manifest::parse_toml(&text).ok()) else {
        return Ok(());
    };
    let (major, minor) = CONTRACT_VERSION;
    if manifest.contract.holds(major, minor) {
        return Ok(());
    }
    let message = format!(
        "`{}` is for contract {}; this program provides {major}.{minor}",
        path.display(),
        manifest.contract
    );
    let failure = Failure::plugin_rejected("plugin.contract-version", message);
    Err(failure.with_hint(format!(
        "set `contract = \"{major}.{minor}\"` in `plugin.toml`"
    )))
}

fn failure(error: Error) -> Failure {
    let hint = error.hint();
    let failure = match &error {
        Error::Component(_) | Error::NoLibrary => {
            Failure::plugin_rejected("plugin.build", error.to_string())
        }
        _ => Failure::config(error.to_string()),
    };
    let failure = match std::error::Error::source(&error) {
        Some(_) => failure.with_source(error),
        None => failure,
    };
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
