//! Compiles plugins, beside a program that has no compiler.
//!
//! `plugin-compiler` reads a component from standard input and writes its native code to standard output, with the record that
//! says which engine made it and of what; what is wrong with the component goes to standard error, with exit code 1. It dies
//! with the thread that started it. `plugin-compiler --compare` reads a component as well, and writes as JSON in what it differs
//! from the contract. `plugin-compiler DIR` writes beside each `.wasm` in a directory the
//! code that a program beside that directory takes: this is how the image's plugins get theirs.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use plugin_engine::{EngineId, compile, digest, seal};
use rustix::process::{Signal, set_parent_process_death_signal};

/// The exit code for everything that is not the component's fault.
const TROUBLE: u8 = 2;

/// Why there is no code.
enum Failure {
    /// The component's fault.
    Invalid(String),
    /// Anything else.
    Trouble(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Trouble(error)
    }
}

fn main() -> ExitCode {
    let done = match std::env::args_os().nth(1) {
        None => one(sealed),
        Some(argument) if argument == plugin_fit::COMPARE => one(compared),
        Some(directory) => all(Path::new(&directory)),
    };
    let (message, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Invalid(message)) => (message, 1),
        Err(Failure::Trouble(error)) => (error.to_string(), TROUBLE),
    };
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(code)
}

/// What is made of one component, from standard input to standard output.
fn one(made: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>) -> Result<(), Failure> {
    // Whoever is gone before this ends the input as well.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    let mut component = Vec::new();
    io::stdin().read_to_end(&mut component)?;
    let made = made(&component).map_err(Failure::Invalid)?;
    io::stdout().write_all(&made)?;
    io::stdout().flush()?;
    Ok(())
}

/// Code with its record, which makes it good beside a program, and in its hands.
fn sealed(component: &[u8]) -> Result<Vec<u8>, String> {
    let code = compile(component)?;
    Ok(seal(code, &digest(component), &EngineId::own(), None))
}

/// In what a component differs from the contract.
fn compared(component: &[u8]) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&plugin_fit::differences(component)).map_err(|error| error.to_string())
}

/// Every `.wasm` of a directory.
fn all(directory: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != "wasm") {
            continue;
        }
        let component = fs::read(&path)?;
        let sealed = sealed(&component)
            .map_err(|message| Failure::Invalid(format!("`{}`: {message}", path.display())))?;
        fs::write(path.with_extension("cwasm"), sealed)?;
    }
    Ok(())
}
