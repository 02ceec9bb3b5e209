//! A plugin's source tree, in any of three languages: made from a template, and built to a component that carries its
//! manifest.
//!
//! The templates are the examples of the source tree, so what a new project has is what the repository tests. A project
//! needs nothing of the repository: the contract is in its `wit/`, and for Rust the SDK in its `vendor/`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod create;
mod python;
mod rust;
mod tool;
mod typescript;

use std::path::{Path, PathBuf};

pub use build::{Built, build};
pub use create::{create, create_guard};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// What a project's manifest is called.
pub const MANIFEST: &str = "plugin.toml";
/// Where a project's component goes.
pub const OUTPUT: &str = "dist";

/// A language that plugins are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust, for `wasm32-unknown-unknown`.
    Rust,
    /// TypeScript on QuickJS.
    TypeScript,
    /// Python.
    Python,
}

impl Language {
    /// The language of a project, by the file that its tools go by.
    pub fn of(directory: &Path) -> Option<Self> {
        [
            ("Cargo.toml", Self::Rust),
            ("package.json", Self::TypeScript),
            ("requirements.txt", Self::Python),
            ("pyproject.toml", Self::Python),
        ]
        .into_iter()
        .find(|(file, _)| directory.join(file).is_file())
        .map(|(_, language)| language)
    }
}

/// Finds out whether this machine has what a project's language needs beside what the project brings itself.
///
/// # Errors
///
/// [`Error::ToolMissing`] names the first tool that is not there.
pub fn tools(directory: &Path, language: Language) -> Result<(), Error> {
    match language {
        Language::Rust => rust::tools(directory),
        Language::TypeScript => typescript::tools(),
        Language::Python => python::tools(),
    }
}

/// Why a project could not be made or built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read or written.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A name that no plugin can have.
    #[error(transparent)]
    Name(plugin_manifest::Error),
    /// There is something where the project would be.
    #[error("`{}` is there already", .0.display())]
    Exists(PathBuf),
    /// A directory that is no project.
    #[error("`{}` is no plugin project: it has no {what}", directory.display())]
    NoProject {
        /// The directory.
        directory: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// The manifest is wrong.
    #[error("`{}` is wrong", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: plugin_manifest::Error,
    },
    /// A tool is not there.
    #[error("`{tool}` is missing: {reason}")]
    ToolMissing {
        /// The program.
        tool: String,
        /// What for.
        reason: &'static str,
        /// The command that installs it.
        install: String,
    },
    /// A tool failed, and has said why.
    #[error("{command} failed ({status})")]
    ToolFailed {
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// What the tools made is no component with a manifest.
    #[error("what was built is no plugin")]
    Component(#[source] plugin_manifest::Error),
    /// Cargo built no library.
    #[error("cargo built no `cdylib`")]
    NoLibrary,
}

impl Error {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ToolMissing { install, .. } => Some(format!("run `{install}`")),
            Self::NoProject { .. } => Some(
                "`orka-step plugin new --lang rust|typescript|python NAME` makes one, `orka-step plugin new --guard NAME` one of a guard".to_owned(),
            ),
            Self::NoLibrary => {
                Some("put `crate-type = [\"cdylib\"]` under `[lib]` in Cargo.toml".to_owned())
            }
            Self::Exists(_) => Some("choose another name, or `--dir`".to_owned()),
            _ => None,
        }
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }
}
