//! What a plugin says of itself: its manifest, and the custom section that carries it.
//!
//! An author writes `plugin.toml` beside the plugin's source. Building the plugin embeds it, as canonical JSON, in a
//! custom section of the component, so that the `.wasm` file alone tells which parameters it takes and which
//! capabilities it asks for. All of it is read without compiling, and nothing here runs WebAssembly.
//!
//! - [`Manifest`] is the parsed and checked document; [`Manifest::resolve`] checks a run's parameters against it.
//! - [`kind`], [`imports`] and [`exports`] look at the outside of a WebAssembly file.
//! - `componentize` (cargo feature of the same name) turns a core module into a component.
//!
//! What a plugin is *granted* is the host's business: a manifest only asks.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod capability;
#[cfg(feature = "componentize")]
mod componentize;
mod contract;
mod document;
mod error;
mod manifest;
mod parameter;
mod resolve;
mod suggest;
mod text;
mod wasm;

#[cfg(test)]
mod fixture;

pub use capability::{Capability, UnknownCapability};
#[cfg(feature = "componentize")]
pub use componentize::componentize;
pub use contract::{ContractRange, Demands};
#[cfg(feature = "schema")]
pub use document::schema;
pub use error::Error;
pub use manifest::{ANY_SECRET, Manifest, NAME_BYTES_MAX, ResultDeclaration};
pub use parameter::{
    Ceiling, Items, Parameter, ParameterType, ParameterValue, Pattern, is_secret_name,
};
pub use resolve::{ParameterProblem, environment_name, resolve_one};
pub use suggest::{nearest, teach};
pub use text::{is_disguise, on_one_line};
pub use wasm::{MANIFEST_BYTES_MAX, MANIFEST_SECTION, WasmKind, exports, imports, kind};

/// The results of every run, which the host sets. No plugin declares one of them: a Task would have it twice.
pub const HOST_RESULTS: [&str; 11] = [
    "vm-name",
    "kept-vm",
    "kept-until",
    "outcome",
    "reason",
    "exit-status",
    "artifacts-digest",
    "artifacts-manifest",
    "ARTIFACT_OUTPUTS",
    "duration-seconds",
    "leftovers",
];

/// The parameters of `build` that the StepAction has: names, numbers and globs, which come by the environment, where Kubernetes
/// alters `$$` and `$(NAME)`.
pub const STEP_ACTION_PARAMETERS: [&str; 14] = [
    "base-image",
    "script-file",
    "cpu-count",
    "memory",
    "tag",
    "tag-required",
    "node",
    "copy-build",
    "artifacts",
    "artifacts-when",
    "exclude",
    "shell",
    "capacity-wait",
    "deploy-attempts",
];

/// The variable with the annotation `orka-step/script` of the StepAction's pod. Apart from that of the parameter, which the namespace
/// may set: an annotation that is not there is an empty value, which would count for more.
pub const STEP_ACTION_SCRIPT: &str = "ORKA_STEP_ACTION_SCRIPT";
