//! The container image: one static program, a compiler for plugins of others, its plugins with their ahead-of-time code, and nothing that it does not need.
//!
//! The same sources and the same compiler give the same bytes: paths are mapped away, times are those of the commit.

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

/// What ours may have unpacked: so that it does not grow unnoticed.
const UNPACKED_BYTES_MAX: u64 = 19_500_000;

/// Where things are in the image. Tasks name these.
pub(crate) const PROGRAM: &str = "usr/local/bin/orka-step";
const PLUGINS: &str = "usr/local/bin/plugins";
/// The program looks for it from its own directory on.
const COMPILER: &str = "usr/local/lib/orka-step/compiler.gz";
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";
const MATERIALS: &str = "usr/local/share/orka-step/orka-step.cdx.json";

/// Builds the image for each architecture and, if asked to, runs jobs in it.
pub(crate) fn run(
    workspace: &Workspace,
    architectures: &[Architecture],
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
        let build = |program| program::build(workspace, architecture, program);
        let programs = Programs {
            step: build(&program::STEP)?,
            compiler: build(&program::COMPILER)?,
        };
        let tree = tree(
            &place,
            architecture,
            &programs,
            &components,
            workspace,
            moment,
        )?;
        let archive = archive::pack(workspace, &place, architecture, moment)?;
        report(&tree, &archive)?;
        if check {
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

/// What was built for one architecture.
struct Programs {
    step: PathBuf,
    compiler: PathBuf,
}

/// Lays out the image's files anew.
fn tree(
    place: &Place,
    architecture: Architecture,
    programs: &Programs,
    components: &[PathBuf],
    workspace: &Workspace,
    moment: u64,
) -> Result<Tree> {
    let tree = Tree::new(&place.root)?;
    tree.add(PROGRAM, &read(&programs.step)?, 0o755)?;
    tree.add(COMPILER, &program::packed(&programs.compiler)?, 0o644)?;
    for component in components {
        let name = component.file_name().context("a plugin has no name")?;
        tree.add(
            &format!("{PLUGINS}/{}", name.to_string_lossy()),
            &read(component)?,
            0o644,
        )?;
    }
    program::compile_plugins(&tree, &programs.compiler, architecture)?;
    tree.add(AUTHORITIES, tree::authorities().as_bytes(), 0o644)?;
    let materials = materials::of(workspace, architecture, components, moment)?;
    tree.add(MATERIALS, materials.as_bytes(), 0o644)?;
    fs::write(&place.materials, &materials)
        .with_context(|| format!("cannot write `{}`", place.materials.display()))?;
    Ok(tree)
}

/// Prints what is in the image and how large it is; fails if that is too large.
fn report(tree: &Tree, archive: &Archive) -> Result<()> {
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
    if unpacked > UNPACKED_BYTES_MAX {
        bail!(
            "the image has grown beyond {:.1} MB",
            megabytes(UNPACKED_BYTES_MAX)
        );
    }
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}
