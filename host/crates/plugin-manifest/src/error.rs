//! Why a manifest or a WebAssembly file could not be read.

use crate::wasm::{MANIFEST_BYTES_MAX, MANIFEST_SECTION, WasmKind};

/// Why a manifest or a WebAssembly file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `plugin.toml` is not TOML, or has a member of the wrong name or type.
    #[error("line {line}: {message}")]
    Toml {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, with the nearest valid name where one is near.
        message: String,
    },
    /// The embedded manifest is not the JSON document it has to be.
    #[error("the manifest in custom section `{MANIFEST_SECTION}` cannot be read: {message}")]
    Json {
        /// What is wrong and where.
        message: String,
    },
    /// The embedded manifest was written by a newer builder than this reader knows.
    #[error("the manifest has schema {found}; schemas up to {newest} can be read", newest = crate::document::SCHEMA)]
    NewerSchema {
        /// The schema it has.
        found: u32,
    },
    /// The document reads well but says something impossible; every problem is listed.
    #[error("{}", problems.join("; "))]
    Invalid {
        /// One sentence for each problem.
        problems: Vec<String>,
    },
    /// A component was needed and the bytes are something else.
    #[error("it is {found}, not a component")]
    NotAComponent {
        /// What the bytes are.
        found: WasmKind,
    },
    /// The bytes start like a component and do not go on like one.
    #[error("the component is damaged: {message} at byte {offset}")]
    Malformed {
        /// What is wrong.
        message: String,
        /// Where, counted from the start of the file.
        offset: u64,
    },
    /// More than one manifest is embedded, so that two readers could disagree about what the plugin asks for.
    #[error("it has more than one custom section `{MANIFEST_SECTION}`")]
    Duplicate,
    /// The manifest is longer than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest is {found} bytes long; the limit is {MANIFEST_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A core module could not be turned into a component.
    #[cfg(feature = "componentize")]
    #[error("the core module cannot be made a component")]
    Componentize(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<wasmparser::BinaryReaderError> for Error {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed {
            message: error.message().to_owned(),
            offset: error.offset(),
        }
    }
}
