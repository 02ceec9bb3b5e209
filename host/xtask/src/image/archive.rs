//! Packing a tree as an OCI image, and reading one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Architecture, Place, Tree, materials, read};
use crate::process;
use crate::workspace::Workspace;

/// Set to pack as if at another moment, in seconds since 1970.
const MOMENT_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// What registries show.
const DESCRIPTION: &str = "A Tekton step that builds on macOS VMs of a MacStadium Orka cluster";

/// What runtimes read of an image.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
}

/// A packed image.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    /// What a registry calls the image.
    pub(crate) manifest_digest: String,
    /// Of all layers, as they are sent.
    pub(crate) compressed_bytes: u64,
    pub(crate) architecture: String,
    pub(crate) settings: Settings,
    /// The layers' files in the unpacked archive, lowest first.
    pub(crate) layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    config: Settings,
}

/// When the image was made, as far as it says: at its commit, so that the same sources give the same image.
pub(super) fn moment(workspace: &Workspace) -> Result<u64> {
    if let Some(value) = std::env::var_os(MOMENT_VARIABLE) {
        return value
            .to_str()
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("`{MOMENT_VARIABLE}` is not a number of seconds"));
    }
    let committed = git(workspace, &["log", "-1", "--format=%ct"]);
    // Sources without their history: any moment will do, as long as it is always the same.
    Ok(committed.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The commit; none where the sources differ from it or have no history.
fn revision(workspace: &Workspace) -> Option<String> {
    let changes = git(workspace, &["status", "--porcelain"])?;
    changes
        .is_empty()
        .then(|| git(workspace, &["rev-parse", "HEAD"]))
        .flatten()
}

fn git(workspace: &Workspace, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(&workspace.root);
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Packs the place's tree with `buildah`, which needs no daemon.
pub(super) fn pack(
    workspace: &Workspace,
    place: &Place,
    architecture: Architecture,
    moment: u64,
) -> Result<Archive> {
    let containerfile = workspace.root.join("tekton/image/Containerfile");
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("orka-step:{version}");
    // Of its own, and gone afterwards: nothing of the machine's images is read or changed.
    let storage = place.directory.join("storage");
    let buildah = || {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"))
            .args(["--storage-driver", "vfs"])
            // Nothing is pulled, and nothing of ours is signed yet.
            .env("BUILDAH_ISOLATION", "chroot");
        command
    };
    let mut labels = vec![
        ("title", "orka-step".to_owned()),
        ("description", DESCRIPTION.to_owned()),
        ("version", version.to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
        ("created", materials::timestamp(moment)),
    ];
    labels.extend(revision(workspace).map(|commit| ("revision", commit)));
    let mut command = buildah();
    command
        .args(["bud", "--quiet", "--format", "oci", "--layers=false"])
        .args(["--omit-history", "--identity-label=false"])
        .args(["--timestamp", &moment.to_string()])
        .args(["--platform", &format!("linux/{}", architecture.name())])
        .args(["--tag", &name])
        .arg("--file")
        .arg(&containerfile);
    for (label, value) in &labels {
        command
            .arg("--label")
            .arg(format!("org.opencontainers.image.{label}={value}"));
    }
    // The directory that holds `root`, and nothing else that matters.
    let packed = process::output(command.arg(&place.directory)).and_then(|_| {
        if place.archive.exists() {
            fs::remove_file(&place.archive)
                .with_context(|| format!("cannot remove `{}`", place.archive.display()))?;
        }
        let to = format!("oci-archive:{}:{name}", place.archive.display());
        process::run(buildah().args(["push", "--quiet", &name, &to]))
    });
    let removed = fs::remove_dir_all(&storage);
    packed?;
    removed.with_context(|| format!("cannot remove `{}`", storage.display()))?;
    unpack(&place.archive, &place.directory.join("oci"))
}

/// Fails unless the same files, at another place and with other times, are packed to the same digest.
pub(super) fn packed_alike(
    workspace: &Workspace,
    place: &Place,
    architecture: Architecture,
    moment: u64,
    packed: &Archive,
) -> Result<()> {
    let directory = place.directory.join("again/in another place");
    let again = Place {
        root: directory.join("root"),
        archive: directory.join("again.oci.tar"),
        materials: directory.join("again.cdx.json"),
        directory,
    };
    let (tree, copy) = (Tree::at(&place.root), Tree::new(&again.root)?);
    // The last one first, so that neither times nor the order in the directories are the same.
    for file in tree.files()?.iter().rev() {
        copy.add(&file.path, &read(&tree.path(&file.path))?, file.mode)?;
    }
    let archive = pack(workspace, &again, architecture, moment)?;
    if archive.manifest_digest != packed.manifest_digest {
        bail!(
            "the same files were packed to {} and, at another place and time, to {}",
            packed.manifest_digest,
            archive.manifest_digest
        );
    }
    fs::remove_dir_all(place.directory.join("again"))?;
    Ok(())
}

/// Unpacks an archive into a directory, which is made anew, and reads what it holds.
pub(crate) fn unpack(archive: &Path, directory: &Path) -> Result<Archive> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    process::run(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(directory),
    )?;
    read_layout(archive, directory)
}

fn read_layout(archive: &Path, directory: &Path) -> Result<Archive> {
    let index: Index = parse(&directory.join("index.json"))?;
    let [manifest] = index.manifests.as_slice() else {
        bail!("`{}` does not hold one image", archive.display());
    };
    let manifest_digest = manifest.digest.clone();
    let manifest: Manifest = parse(&blob(directory, manifest)?)?;
    let config: Config = parse(&blob(directory, &manifest.config)?)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| blob(directory, layer))
        .collect::<Result<_>>()?;
    Ok(Archive {
        path: archive.to_owned(),
        manifest_digest,
        compressed_bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
        architecture: config.architecture,
        settings: config.config,
        layers,
    })
}

/// A blob's file, once its bytes are what its name says.
fn blob(directory: &Path, descriptor: &Descriptor) -> Result<PathBuf> {
    use sha2::Digest as _;
    let name = descriptor.digest.replace(':', "/");
    let path = directory.join("blobs").join(name);
    let digest = hex::encode(sha2::Sha256::digest(read(&path)?));
    if descriptor.digest != format!("sha256:{digest}") {
        bail!("`{}` is not what its name says", path.display());
    }
    Ok(path)
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?)
        .with_context(|| format!("`{}` is not as expected", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use sha2::{Digest as _, Sha256};

    use super::read_layout;

    fn blob(directory: &Path, bytes: &[u8]) -> String {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("blobs/sha256").join(&digest), bytes).unwrap();
        format!(
            "{{\"digest\":\"sha256:{digest}\",\"size\":{}}}",
            bytes.len()
        )
    }

    #[test]
    fn an_image_is_read_and_its_blobs_are_compared_with_their_names() {
        let place = tempfile::tempdir().unwrap();
        let layer = blob(place.path(), b"layer");
        let config = blob(
            place.path(),
            b"{\"architecture\":\"arm64\",\"config\":{\"User\":\"65532:65532\",\"Entrypoint\":[\"/p\"]}}",
        );
        let manifest = format!("{{\"config\":{config},\"layers\":[{layer}]}}");
        let index = format!(
            "{{\"manifests\":[{}]}}",
            blob(place.path(), manifest.as_bytes())
        );
        fs::write(place.path().join("index.json"), index).unwrap();
        let archive = read_layout(Path::new("x.tar"), place.path()).unwrap();
        assert_eq!(archive.compressed_bytes, 5);
        assert_eq!(archive.architecture, "arm64");
        assert_eq!(archive.settings.user, "65532:65532");
        assert_eq!(archive.settings.entrypoint, ["/p"]);

        fs::write(&archive.layers[0], b"Layer").unwrap();
        let error = read_layout(Path::new("x.tar"), place.path()).unwrap_err();
        assert!(
            error.to_string().contains("is not what its name says"),
            "{error}"
        );
    }
}
