//! The image's programs, and the plugins' native code.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use lzma_rust2::{CheckType, FilterType, LzmaOptions, XzOptions, XzReader, XzWriter};
use sha2::{Digest as _, Sha256};

use super::tree::File;
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

/// How far back a packed program refers to itself: all of it, and so much memory unpacking takes.
const PACKED_PROGRAM_DICTIONARY: u32 = 8 << 20;

/// Tells the program what it is built with; `host/src/aot/known.rs` reads it.
const BUILT_WITH_VARIABLE: &str = "ORKA_STEP_BUILT_WITH";

/// Names and digests of files as they are stored, for the program that trusts them by these.
pub(super) fn built_with<'a>(
    tree: &Tree,
    files: impl IntoIterator<Item = &'a File>,
) -> Result<String> {
    let mut entries = Vec::new();
    for file in files {
        let (_, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let digest = hex::encode(Sha256::digest(read(&tree.path(&file.path))?));
        entries.push(format!("{name}={digest}"));
    }
    Ok(entries.join(" "))
}

/// Builds a program, which is told what it is built with.
pub(super) fn build(
    workspace: &Workspace,
    architecture: Architecture,
    program: &Program,
    built_with: &str,
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
        .arg(settings(workspace, target)?)
        .current_dir(&workspace.root);
    // These would take the place of the settings above, and differ from machine to machine.
    for variable in FOREIGN_SETTINGS {
        command.env_remove(variable);
    }
    let variable = |name: &str| format!("{name}_{}", target.replace('-', "_"));
    let compiler = process::find_program(compiler.program)
        .ok_or_else(|| anyhow!("there is no `{}`", compiler.program))?;
    command.env(variable("CC"), compiler);
    command.env(variable("CFLAGS"), c_flags(workspace)?);
    command.env(BUILT_WITH_VARIABLE, built_with);
    let mut built = build::build(&mut command)?
        .into_iter()
        .filter_map(|artifact| artifact.executable);
    built
        .next()
        .ok_or_else(|| anyhow!("cargo built no program `{}`", program.package))
}

/// Prefixes of paths on this machine, and what stands for them in the program.
fn mapped(workspace: &Workspace) -> Result<Vec<(PathBuf, &'static str)>> {
    let cargo_home = wasm_toolchain::cargo_home();
    // The later one wins where several match.
    let mut mapped = vec![
        (cargo_home.clone(), "/cargo"),
        (workspace.root.clone(), "/source"),
        (workspace.target_directory.clone(), "/target"),
    ];
    // Messages of panics name a thousand places in packages, which their name and version tell best. The directories are
    // named after the registry's address, which is another one behind a mirror.
    let registries = cargo_home.join("registry/src");
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(&registries).and_then(|them| them.map(|it| Ok(it?.path())).collect());
    let mut registries = match listed {
        // Packages can all come from elsewhere, such as `cargo vendor`'s directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.with_context(|| format!("cannot list `{}`", registries.display()))?,
    };
    registries.sort();
    mapped.extend(registries.into_iter().map(|it| (it, "")));
    Ok(mapped)
}

/// Fails if a file of the image names a directory of this machine: built elsewhere, it would be another file.
pub(super) fn names_no_path(workspace: &Workspace, tree: &Tree) -> Result<()> {
    for file in tree.files()? {
        let bytes = unpacked(read(&tree.path(&file.path))?)?;
        for (own, _) in mapped(workspace)? {
            let own = own.to_string_lossy();
            if contains(&bytes, own.as_bytes()) {
                bail!("`/{}` names `{own}` of this machine", file.path);
            }
        }
    }
    Ok(())
}

/// What `packed` or `packed_program` has packed, as it was; anything else as it is.
pub(super) fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
    } else if bytes.starts_with(b"\xfd7zXZ\0") {
        XzReader::new(bytes.as_slice(), false).read_to_end(&mut plain)?;
    } else {
        return Ok(bytes);
    }
    Ok(plain)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

/// Leaves out what only a panic that unwinds needs. The compiler emits it all the same: the standard library comes built for
/// unwinding, and a function that frees what it owns names the personality. `INSERT` keeps the linker's own layout.
const NO_UNWINDING: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table .gcc_except_table.*) } } INSERT AFTER .text;
";

fn settings(workspace: &Workspace, target: &str) -> Result<String> {
    let script = workspace.target_directory.join("no-unwinding.ld");
    fs::create_dir_all(&workspace.target_directory)
        .and_then(|()| fs::write(&script, NO_UNWINDING))
        .with_context(|| format!("cannot write `{}`", script.display()))?;
    let mut flags: Vec<String> = mapped(workspace)?
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
            "-Clink-arg=--no-eh-frame-hdr",
            // Sequences of instructions that occur again and again become functions: a twentieth of the code. On AArch64 the
            // compiler does so by itself where it optimises for size.
            "-Cllvm-args=-enable-machine-outliner=always",
        ]
        .map(str::to_owned),
    );
    flags.push(format!("-Clink-arg=--script={}", script.display()));
    // Debug formatting of strings happens to be TOML's, for all that paths hold in practice.
    Ok(format!("target.{target}.rustflags={flags:?}"))
}

fn c_flags(workspace: &Workspace) -> Result<String> {
    let mut flags: Vec<String> = mapped(workspace)?
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect();
    // Some distributions' compilers check calls of the C library by functions that musl does not have.
    flags.push("-U_FORTIFY_SOURCE".to_owned());
    Ok(flags.join(" "))
}

/// Has the image's compiler compile the plugins, so that their code is of the program's version and configuration.
pub(super) fn compile_plugins(
    tree: &Tree,
    compiler: &Path,
    architecture: Architecture,
) -> Result<()> {
    process::run(started(architecture, compiler)?.arg(tree.path(PLUGINS)))?;
    for file in tree.files()? {
        // To a third, which takes 2 ms of a start.
        if file.path.starts_with(PLUGINS) {
            let packed = packed(&tree.path(&file.path))?;
            tree.add(&file.path, &packed, file.mode)?;
        }
    }
    Ok(())
}

/// A file as it is kept in the image: the same bytes each time, since there is no time of day in them.
pub(super) fn packed(file: &Path) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed
        .write_all(&read(file)?)
        .and_then(|()| packed.finish())
        .with_context(|| format!("cannot compress `{}`", file.display()))
}

/// A program that is hardly ever started, smaller still. It takes longer to unpack, which is little beside compiling.
pub(super) fn packed_program(program: &Path, architecture: Architecture) -> Result<Vec<u8>> {
    let bytes = read(program)?;
    let mut options = XzOptions::with_preset(9);
    // What unpacking takes of memory.
    options.lzma_options.dict_size = PACKED_PROGRAM_DICTIONARY;
    options.lzma_options.nice_len = LzmaOptions::NICE_LEN_MAX;
    options.set_check_sum_type(CheckType::Crc32);
    // Addresses of calls become the same wherever they are made.
    let of_calls = match architecture {
        Architecture::Amd64 => FilterType::BcjX86,
        Architecture::Arm64 => FilterType::BcjArm64,
    };
    options.prepend_pre_filter(of_calls, 0);
    XzWriter::new(Vec::new(), options)
        .and_then(|mut packed| packed.write_all(&bytes).and_then(|()| packed.finish()))
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

#[cfg(test)]
mod tests {
    use super::{Tree, built_with, mapped, names_no_path, packed};
    use crate::workspace::Workspace;

    #[test]
    fn a_path_of_this_machine_is_found_in_plain_and_in_packed_files() {
        let workspace = Workspace::load().unwrap();
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&place.path().join("root")).unwrap();
        tree.add("bin/plain", b"\0/source/lib.rs\0", 0o755).unwrap();
        names_no_path(&workspace, &tree).unwrap();
        for (own, _) in mapped(&workspace).unwrap() {
            let file = place.path().join("program");
            std::fs::write(&file, format!("\0{}/lib.rs\0", own.display())).unwrap();
            tree.add("bin/packed.gz", &packed(&file).unwrap(), 0o644)
                .unwrap();
            let error = names_no_path(&workspace, &tree).unwrap_err().to_string();
            assert!(error.contains("`/bin/packed.gz` names `"), "{error}");
        }
    }

    #[test]
    fn the_program_is_told_each_files_name_and_digest() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&place.path().join("root")).unwrap();
        tree.add("lib/a.gz", b"", 0o644).unwrap();
        tree.add("lib/b/c.cwasm", b"abc", 0o644).unwrap();
        let told = built_with(&tree, &tree.files().unwrap()).unwrap();
        // The examples of FIPS 180-2.
        let (empty, abc) = (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        );
        assert_eq!(told, format!("a.gz={empty} c.cwasm={abc}"));
    }
}
