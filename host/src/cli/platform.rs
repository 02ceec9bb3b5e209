//! Commands for whoever decides what plugins may do: look, check, grant, hand out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::plugin::PluginPlace;

pub(super) const CHECK_HELP: &str = "\
What is looked at: that it is a component of this contract and not damaged, its manifest, each import against what this
host has, that it compiles, and with `--grants` whether all that it asks for is granted. Without, grants are not looked at,
and what fits may be denied all the same. Nothing of it is run.

Exit code: 0 if it fits, and with `--grants` is granted what it asks for; otherwise 212 (211 where the grants file is wrong).";

pub(super) const TASK_HELP: &str = "\
The Task takes the Secrets `orka-creds` and `orka-ssh-creds` of its namespace, with the files that `orka-step run --help`
names, and the variables of the ConfigMap `orka-tekton-config`. Values of parameters travel byte for byte in the step's
script, as `orka-step task --help` describes.

Example:
  orka-step plugin task ./mine.wasm --image registry.example.com/orka-step:0.1.0 --plugin-path /plugins/mine.wasm";

pub(super) const GRANT_HELP: &str = "\
The entry names the plugin with its digest (one that came with the program without), all capabilities that it needs and those of its optional ones that it used,
and as ceilings what the run used of images, cores, memory, VMs, namespaces, programs, artifacts and time to keep, also where the
plugin left it open. The lifetime is what `--timeout` asked for, or else twice what the run took, in steps of 5 minutes.

Example:
  orka-step run --report run.json …
  orka-step grant --from-run run.json > grants.toml
  orka-step run --grants grants.toml …";

/// `orka-step plugin inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// A bundled name, the path of a `.wasm` file, or what is fetched: `https://…#sha256:…`, `oci://…@sha256:…`.
    #[arg(value_name = "REF")]
    pub plugin: String,

    #[command(flatten)]
    pub place: PluginPlace,

    /// Show what this grants file grants of it.
    #[arg(long, env = "ORKA_GRANTS", hide_env_values = true, value_name = "FILE")]
    pub grants: Option<PathBuf>,

    /// Show what the run of this report used of it.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `orka-step plugin check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// A bundled name, the path of a `.wasm` file, or what is fetched: `https://…#sha256:…`, `oci://…@sha256:…`.
    #[arg(value_name = "REF")]
    pub plugin: String,

    #[command(flatten)]
    pub place: PluginPlace,

    /// Check also that this grants file grants all that it asks for.
    #[arg(long, env = "ORKA_GRANTS", hide_env_values = true, value_name = "FILE")]
    pub grants: Option<PathBuf>,

    /// Fail unless its digest is this one.
    #[arg(long, value_name = "sha256:DIGEST")]
    pub digest: Option<String>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `orka-step plugin task`.
#[derive(Args, Clone, Debug)]
pub struct TaskArgs {
    /// A bundled name, the path of a `.wasm` file, or what is fetched: `https://…#sha256:…`, `oci://…@sha256:…`.
    #[arg(value_name = "REF")]
    pub plugin: String,

    #[command(flatten)]
    pub place: PluginPlace,

    /// The step's container image, best by digest.
    #[arg(long, value_name = "IMAGE")]
    pub image: String,

    /// The program's path in that image.
    #[arg(long, value_name = "PATH", default_value = "/usr/local/bin/orka-step")]
    pub program: String,

    /// The path of the plugin's file in the step's container. A Task brings no file: put it into an image of your own, or
    /// mount it, such as from a ConfigMap. Needed for a plugin that is a file here; one that came with this program is found
    /// there by its name, and one that is fetched is fetched there as well.
    #[arg(long, value_name = "PATH")]
    pub plugin_path: Option<String>,

    /// The Task's name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `orka-step grant`.
#[derive(Args, Clone, Debug)]
pub struct GrantArgs {
    /// The report of a run that did what is to be allowed.
    #[arg(long, value_name = "REPORT")]
    pub from_run: PathBuf,

    /// Write the file here instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A file whose schema can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaName {
    /// The operator's grants file (`--grants`).
    Grants,
    /// The list of guards in a directory (`--guards`), as the lines that name one.
    Guards,
    /// A plugin's manifest (`plugin.toml`).
    Plugin,
    /// The report of a run (`--report`).
    Report,
    /// A file of scenarios (`plugin test`).
    Scenarios,
    /// A recorded session (`run --record`, `plugin test --replay`).
    Session,
}
