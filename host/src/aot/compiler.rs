//! Compiling: in this program, or, where it was built without a compiler, by the program that the image keeps for that.
//!
//! The image's `plugin-compiler` lies compressed beside this program, since hardly any run needs it. It is unpacked into memory
//! and started from there: that takes no writable path and no rights, only a kernel that lets memory be executed. Where it
//! lies as it is, that file is started. How it is started and bounded is in [`child`].

#[cfg(any(test, not(feature = "compiler")))]
mod child;

use std::time::Duration;

#[cfg(feature = "compiler")]
use plugin_engine::told;
use plugin_fit::Difference;

use crate::engine::{Component, Engine};
use crate::limits::Limits;
use crate::stop::Stop;

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It is not valid: the engine's words.
    #[error("{0}")]
    Invalid(String),
    /// Nothing compiles here.
    #[error("the compiler {0}")]
    NoCompiler(String),
    /// The run was stopped meanwhile.
    #[error("the run is being stopped")]
    Stopped,
}

/// How long and with how much a compiler beside this program may work. One in this program has no bounds.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Then it is killed.
    pub time: Duration,
    /// Of address space.
    pub memory_bytes: usize,
    /// It is killed once the run is stopped.
    pub stop: Stop,
}

impl Bounds {
    /// Those of a run that may last so long.
    pub fn of_run(limits: &Limits, timeout: Duration, stop: &Stop) -> Self {
        Self {
            time: limits.compile.min(timeout),
            memory_bytes: limits.compile_memory_bytes,
            stop: stop.clone(),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        let limits = Limits::default();
        Self::of_run(&limits, limits.compile, &Stop::default())
    }
}

/// Compiles a component.
///
/// # Errors
///
/// [`Trouble::Invalid`] for a component that is not; [`Trouble::NoCompiler`] where this program has no compiler and the one
/// beside it cannot be used.
#[cfg(feature = "compiler")]
pub fn component(engine: &Engine, bytes: &[u8], _bounds: &Bounds) -> Result<Component, Trouble> {
    Component::new(engine, bytes).map_err(|error| Trouble::Invalid(told(&error)))
}

/// Compiles a component.
///
/// # Errors
///
/// [`Trouble::Invalid`] for a component that is not; [`Trouble::NoCompiler`] where this program has no compiler and the one
/// beside it cannot be used; [`Trouble::Stopped`].
#[cfg(not(feature = "compiler"))]
pub fn component(engine: &Engine, bytes: &[u8], bounds: &Bounds) -> Result<Component, Trouble> {
    use super::native::{self, Authority};

    let compiler = compiler()?;
    let sealed = child::code(&compiler, bytes, bounds)?;
    // The record says which engine made this, and of what: a compiler of another version is noticed.
    native::load(
        engine,
        &plugin_engine::EngineId::own(),
        &plugin_engine::digest(bytes),
        &sealed,
        &Authority::Program(compiler.proof),
    )
    .map_err(|refusal| Trouble::NoCompiler(format!("made code that is not used: {refusal}")))
}

/// What a component wants otherwise than the contract has it: also the compiler's, where that is another program.
///
/// # Errors
///
/// None in this program; see the other one.
#[cfg(feature = "compiler")]
pub fn differences(bytes: &[u8], _bounds: &Bounds) -> Result<Vec<Difference>, Trouble> {
    Ok(plugin_fit::differences(bytes))
}

/// What a component wants otherwise than the contract has it.
///
/// # Errors
///
/// [`Trouble::NoCompiler`] where the compiler beside this program cannot be used.
#[cfg(not(feature = "compiler"))]
pub fn differences(bytes: &[u8], bounds: &Bounds) -> Result<Vec<Difference>, Trouble> {
    child::differences(&compiler()?, bytes, bounds)
}

/// The compiler as it is, or else compressed.
#[cfg(not(feature = "compiler"))]
fn compiler() -> Result<super::place::Found, Trouble> {
    let program = std::env::current_exe()
        .map_err(|error| Trouble::NoCompiler(format!("cannot be found: {error}")))?;
    let directory = program
        .parent()
        .and_then(|directory| directory.parent())
        .map(|prefix| prefix.join("lib/orka-step"))
        .ok_or_else(|| Trouble::NoCompiler("has no place".to_owned()))?;
    for name in ["compiler", "compiler.xz"] {
        let found = super::place::beside_program(&directory.join(name))
            .map_err(|refusal| Trouble::NoCompiler(format!("is not used: {refusal}")))?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let directory = directory.display();
    Err(Trouble::NoCompiler(format!("is not in `{directory}`")))
}
