//! The container image: one static program, a compiler for plugins of others, its plugins with their ahead-of-time code, and nothing that it does not need.
//!
//! The same sources and the same compiler give the same bytes: paths are mapped away, times are those of the commit.
//!
//! The program is built last, with the digests of the compiler and of the plugins' code in it: these it trusts by their content.

mod architecture;
mod archive;
mod check;
mod materials;
mod name_server;
mod program;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

pub(crate) use architecture::Architecture;

use crate::workspace::Workspace;
use crate::{packages, plugins, setup};
use archive::Archive;
use tree::Tree;

/// The image of the shell Tasks that this one replaces, unpacked.
const PREDECESSOR_BYTES: u64 = 14_800_000;

/// What ours may have unpacked: so that it does not grow unnoticed. It has a few hundred kilobytes less.
const UNPACKED_BYTES_MAX: u64 = 13_100_000;

/// What a compiler that is stored as it is may add to that.
const PLAIN_COMPILER_BYTES_MAX: u64 = 4_500_000;

/// Where things are in the image. Tasks name these.
pub(crate) const PROGRAM: &str = "usr/local/bin/orka-step";
const PLUGINS: &str = "usr/local/bin/plugins";
/// The program looks here from its own directory on, for the compiler as it is, or compressed.
const COMPILERS: &str = "usr/local/lib/orka-step";
const COMPILER_PLAIN: &str = "usr/local/lib/orka-step/compiler";
const COMPILER_PACKED: &str = "usr/local/lib/orka-step/compiler.xz";
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";
const MATERIALS: &str = "usr/local/share/orka-step/orka-step.cdx.json";

/// Builds the image for each architecture and, if asked to, runs jobs in it.
pub(crate) fn run(
    workspace: &Workspace,
    architectures: &[Architecture],
    plain_compiler: bool,
    check: bool,
) -> Result<ExitCode> {
    let own = Architecture::own()?;
    let architectures = if architectures.is_empty() {
        &[own][..]
    } else {
        architectures
    };
    packages::require(&[&packages::BUILDAH])?;
    let toolchain = setup::wasm_toolchain()?;
    let shipped: Vec<_> = workspace
        .plugins()
        .into_iter()
        .filter(|plugin| plugin.is_shipped())
        .collect();
    let names: Vec<_> = shipped.iter().map(|plugin| plugin.name.clone()).collect();
    plugins::run(workspace, &toolchain, &names)?;
    let components: Vec<_> = shipped.iter().map(|it| it.output.clone()).collect();
    let moment = archive::moment(workspace)?;
    if check {
        name_server::start()?;
    }
    for &architecture in architectures {
        let place = Place::new(workspace, architecture);
        let contents = Contents {
            workspace,
            architecture,
            place: &place,
            components: &components,
            plain_compiler,
            moment,
        };
        let tree = contents.lay_out()?;
        let archive = archive::pack(workspace, &place, architecture, moment)?;
        report(&tree, &archive, plain_compiler)?;
        if check {
            archive::packed_alike(workspace, &place, architecture, moment, &archive)?;
            program::names_no_path(workspace, &tree)?;
            check::run(workspace, &place, architecture, &archive)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The directories of one architecture's image.
pub(crate) struct Place {
    /// Everything of this architecture but the archive.
    pub(crate) directory: PathBuf,
    /// What will be `/` in the image.
    pub(crate) root: PathBuf,
    /// The finished image.
    pub(crate) archive: PathBuf,
    /// The bill of materials beside it.
    materials: PathBuf,
}

impl Place {
    fn new(workspace: &Workspace, architecture: Architecture) -> Self {
        let images = workspace.target_directory.join("image");
        let directory = images.join(architecture.name());
        let name = format!(
            "orka-step-{}-{}",
            env!("CARGO_PKG_VERSION"),
            architecture.name()
        );
        Self {
            root: directory.join("root"),
            directory,
            archive: images.join(format!("{name}.oci.tar")),
            materials: images.join(format!("{name}.cdx.json")),
        }
    }
}

/// What goes into one architecture's image.
struct Contents<'a> {
    workspace: &'a Workspace,
    architecture: Architecture,
    place: &'a Place,
    components: &'a [PathBuf],
    plain_compiler: bool,
    moment: u64,
}

impl Contents<'_> {
    /// Builds everything and lays out the image's files anew.
    fn lay_out(&self) -> Result<Tree> {
        let tree = Tree::new(&self.place.root)?;
        let compiler = program::build(self.workspace, self.architecture, &program::COMPILER, "")?;
        if self.plain_compiler {
            tree.add(COMPILER_PLAIN, &read(&compiler)?, 0o755)?;
        } else {
            tree.add(
                COMPILER_PACKED,
                &program::packed_program(&compiler, self.architecture)?,
                0o644,
            )?;
        }
        for component in self.components {
            let name = component.file_name().context("a plugin has no name")?;
            let path = format!("{PLUGINS}/{}", name.to_string_lossy());
            tree.add(&path, &read(component)?, 0o644)?;
        }
        program::compile_plugins(&tree, &compiler, self.architecture)?;
        // Nothing else is there yet but plugins, which are sandboxed whoever made them.
        let native = tree.files()?;
        let native = native.iter().filter(|file| !file.path.ends_with(".wasm"));
        let built_with = program::built_with(&tree, native)?;
        let step = program::build(
            self.workspace,
            self.architecture,
            &program::STEP,
            &built_with,
        )?;
        tree.add(PROGRAM, &read(&step)?, 0o755)?;
        tree.add(AUTHORITIES, tree::authorities().as_bytes(), 0o644)?;
        let materials = materials::of(
            self.workspace,
            self.architecture,
            self.components,
            self.moment,
        )?;
        tree.add(MATERIALS, materials.as_bytes(), 0o644)?;
        fs::write(&self.place.materials, &materials)
            .with_context(|| format!("cannot write `{}`", self.place.materials.display()))?;
        Ok(tree)
    }
}

/// Prints what is in the image and how large it is; fails if that is too large.
fn report(tree: &Tree, archive: &Archive, plain_compiler: bool) -> Result<()> {
    let files = tree.files()?;
    for file in &files {
        println!("{:>11} bytes  {:o}  /{}", file.bytes, file.mode, file.path);
    }
    let unpacked: u64 = files.iter().map(|file| file.bytes).sum();
    println!("image      {}", archive.path.display());
    println!("digest     {}", archive.manifest_digest);
    println!(
        "size       {:.2} MB unpacked, {:.2} MB compressed",
        megabytes(unpacked),
        megabytes(archive.compressed_bytes)
    );
    println!(
        "           {:.2} × the {:.1} MB of the image that it replaces",
        unpacked as f64 / PREDECESSOR_BYTES as f64,
        megabytes(PREDECESSOR_BYTES)
    );
    let compiler = if plain_compiler {
        PLAIN_COMPILER_BYTES_MAX
    } else {
        0
    };
    let max = UNPACKED_BYTES_MAX + compiler;
    if unpacked > max {
        bail!("the image has grown beyond {:.1} MB", megabytes(max));
    }
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}
