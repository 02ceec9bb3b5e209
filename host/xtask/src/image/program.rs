//! The image's programs, and the plugins' native code.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Architecture, PLUGINS, Tree, read};
use crate::workspace::Workspace;
use crate::{build, packages, process, setup, wasm_toolchain};

/// A program of the image, as cargo builds it.
pub(super) struct Program {
    pub(super) package: &'static str,
    profile: &'static str,
    /// No simulated cluster: that is for people, and a third of the program. No compiler: that is a program of its own.
    pub(super) features: &'static [&'static str],
}

/// What the step runs.
pub(super) const STEP: Program = Program {
    package: "orka-step",
    profile: "shipped",
    features: &["--no-default-features", "--features", "kubernetes,registry"],
};

/// What it starts for a plugin that brings no code.
pub(super) const COMPILER: Program = Program {
    package: "plugin-compiler",
    profile: "shipped-compiler",
    features: &[],
};

/// Variables of the caller's that would change what is linked into the program.
pub(super) const FOREIGN_SETTINGS: [&str; 4] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CFLAGS",
    // With it, features of other members, such as the simulated cluster, would be built in.
    "CARGO_RESOLVER_FEATURE_UNIFICATION",
];

/// The plugin that runs where none is named, and its code. All others are compressed to a third, and take 2 ms longer to load.
const AS_IT_IS: &str = "usr/local/bin/plugins/build.";

/// Builds a program.
pub(super) fn build(
    workspace: &Workspace,
    architecture: Architecture,
    program: &Program,
) -> Result<PathBuf> {
    let target = architecture.target();
    setup::target(target)?;
    let compiler = architecture.c_compiler();
    packages::require(&[compiler])?;
    let mut command = process::cargo();
    command
        .args(["build", "--profile", program.profile, "--target", target])
        .args(["--package", program.package, "--bin", program.package])
        .args(program.features)
        .arg("--config")
        .arg(settings(workspace, target))
        .current_dir(&workspace.root);
    // These would take the place of the settings above, and differ from machine to machine.
    for variable in FOREIGN_SETTINGS {
        command.env_remove(variable);
    }
    let variable = |name: &str| format!("{name}_{}", target.replace('-', "_"));
    let compiler = process::find_program(compiler.program)
        .ok_or_else(|| anyhow!("there is no `{}`", compiler.program))?;
    command.env(variable("CC"), compiler);
    command.env(variable("CFLAGS"), c_flags(workspace));
    let mut built = build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable);
    built
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `{}`", program.package))
}

/// Prefixes of paths on this machine, and what stands for them in the program.
fn mapped(workspace: &Workspace) -> [(PathBuf, &'static str); 3] {
    // The later one wins where several match.
    [
        (wasm_toolchain::cargo_home(), "/cargo"),
        (workspace.root.clone(), "/source"),
        (workspace.target_directory.clone(), "/target"),
    ]
}

fn settings(workspace: &Workspace, target: &str) -> String {
    let mut flags: Vec<String> = mapped(workspace)
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    flags.extend(
        [
            // The toolchain's own linker, so that the machine's does not matter.
            "-Clinker=rust-lld",
            "-Crelocation-model=pie",
            // Relocations of a position-independent program in a tenth of their size.
            "-Clink-arg=--pack-dyn-relocs=relr",
            // Functions of the same code become one. Rust never promises that functions have addresses of their own.
            "-Clink-arg=--icf=all",
        ]
        .map(str::to_owned),
    );
    // Debug formatting of strings happens to be TOML's, for all that paths hold in practice.
    format!("target.{target}.rustflags={flags:?}")
}

fn c_flags(workspace: &Workspace) -> String {
    let maps =
        mapped(workspace).map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    // Some distributions' compilers check calls of the C library by functions that musl does not have.
    format!("{} -U_FORTIFY_SOURCE", maps.join(" "))
}

/// Has the image's compiler compile the plugins, so that their code is of the program's version and configuration.
pub(super) fn compile_plugins(
    tree: &Tree,
    compiler: &Path,
    architecture: Architecture,
) -> Result<()> {
    process::run(started(architecture, compiler)?.arg(tree.path(PLUGINS)))?;
    for file in tree.files()? {
        let is_plugins = file.path.starts_with(PLUGINS);
        if is_plugins && !file.path.starts_with(AS_IT_IS) {
            let packed = packed(&tree.path(&file.path))?;
            tree.add(&file.path, &packed, file.mode)?;
        }
    }
    Ok(())
}

/// A program as it is kept in the image: the same bytes each time, since there is no time of day in them.
pub(super) fn packed(program: &Path) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed
        .write_all(&read(program)?)
        .and_then(|()| packed.finish())
        .with_context(|| format!("cannot compress `{}`", program.display()))
}

/// A command that starts a program of this architecture, by emulation where this machine has another.
pub(super) fn started(architecture: Architecture, program: &Path) -> Result<Command> {
    let Some(emulator) = architecture.emulator() else {
        return Ok(Command::new(program));
    };
    packages::require(&[emulator])?;
    let path = process::find_program(emulator.program)
        .ok_or_else(|| anyhow!("there is no `{}`", emulator.program))?;
    let mut command = Command::new(path);
    command.arg(program);
    Ok(command)
}
