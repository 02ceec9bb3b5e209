//! What came back from the VMs of a run: its digest, its manifest, and what Tekton Chains is told of it.
//!
//! Two files in the host's own folder of the workspace, where no plugin and no VM can write, list every file that arrived,
//! by its path relative to the workspace:
//!
//! - `artifacts-<pod hash>.sha256` is what `sha256sum` prints for them, sorted by path as bytes. `sha256sum --check` in the
//!   workspace verifies the files, and the SHA-256 of this file is the result `artifacts-digest`.
//! - `artifacts-<pod hash>.json` has their sizes as well. The result `artifacts-manifest` names it.
//!
//! Nothing of this ever fails a run: what cannot be written is told and left out.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use base64::Engine as _;
use cap_std::fs::Dir;
use guest_ssh::FileDigest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::config::Workspace;
use crate::failure::Failure;
use crate::host_folder;
use crate::results::{ARTIFACT_OUTPUTS, ARTIFACTS_DIGEST, ARTIFACTS_MANIFEST};
use crate::state::RunContext;

/// The form of the manifest; raised when a member changes its meaning.
const SCHEMA: u32 = 1;

/// A run keeps so many files in memory. One transfer may have 500,000 entries; a policy that fetches without end must not
/// take the node's memory.
const FILES_MAX: usize = 1_000_000;

/// What came back from the VMs so far.
#[derive(Debug, Default)]
pub struct Artifacts {
    /// Sorted by path as bytes, relative to the workspace.
    files: Arc<Vec<FileDigest>>,
    /// SHA-256 of them all, as `sha256:…`.
    digest: Option<String>,
    is_too_many: bool,
}

impl Artifacts {
    /// The digest of all that came back, as `sha256:…`; none if nothing did.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// All that came back, by path.
    pub fn files(&self) -> Arc<Vec<FileDigest>> {
        Arc::clone(&self.files)
    }

    /// Takes what was fetched into the directory `into` of the workspace; a file that came before was replaced.
    fn add(&mut self, into: &Path, arrived: Vec<FileDigest>) {
        if self.is_too_many || self.files.len() + arrived.len() > FILES_MAX {
            *self = Self {
                is_too_many: true,
                ..Self::default()
            };
            return;
        }
        let mut files = Arc::unwrap_or_clone(std::mem::take(&mut self.files));
        files.extend(arrived.into_iter().map(|mut file| {
            if into != Path::new(".") {
                file.path = into.join(&file.path);
            }
            file
        }));
        // Stable, so what came later stays later.
        files.sort_by(|one, other| path_bytes(one).cmp(path_bytes(other)));
        files.dedup_by(|later, earlier| {
            let is_same = later.path == earlier.path;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        self.files = Arc::new(files);
    }
}

fn path_bytes(file: &FileDigest) -> &[u8] {
    file.path.as_os_str().as_bytes()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    /// With U+FFFD in place of what is not UTF-8.
    path: &'a str,
    /// The path's bytes in base64, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    size: u64,
    sha256: String,
}

/// Where the manifest of a pod is, relative to the workspace.
pub(crate) fn manifest_path(run_hash: &str, pod_hash: &str, extension: &str) -> String {
    format!(
        "{}/{run_hash}/{}",
        host_folder::NAME,
        file_name(pod_hash, extension)
    )
}

fn file_name(pod_hash: &str, extension: &str) -> String {
    format!("artifacts-{pod_hash}.{extension}")
}

/// The object that Tekton Chains takes for a subject: `uri` and `digest`, and since its format `slsa/v2alpha4`
/// `isBuildArtifact`, which has to be text.
///
/// The subject is the list of sums, since that has one digest however many files there are. It has no registry; its
/// package URL (purl-spec, type `generic`) says which pod of which run made it.
///
/// Tekton Chains: "SLSA Provenance", sections "`*ARTIFACT_OUTPUTS`" and "`v2alpha4` formatter".
pub(crate) fn outputs(run_hash: &str, pod_hash: &str, digest: &str) -> String {
    serde_json::json!({
        "uri": format!("pkg:generic/orka-step/artifacts.sha256@{run_hash}-{pod_hash}"),
        "digest": digest,
        "isBuildArtifact": "true",
    })
    .to_string()
}

/// Notes what was fetched into the directory `into` of the workspace, and writes the manifest and the results anew.
pub async fn arrived(run: &Arc<RunContext>, into: PathBuf, files: Vec<FileDigest>) {
    if files.is_empty() {
        return;
    }
    let noting = Arc::clone(run);
    // A long list is sorted, hashed and written: not on a thread that others need.
    let noted = tokio::task::spawn_blocking(move || note(&noting, &into, files)).await;
    let told = match noted {
        Ok(Ok(())) => return,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::internal("the manifest was not written").with_source(panic),
    };
    let causes = told.causes().join(": ");
    run.console.warn(&format!(
        "{}; the run goes on\ncaused by: {causes}",
        told.message
    ));
}

fn note(run: &RunContext, into: &Path, arrived: Vec<FileDigest>) -> Result<(), Failure> {
    let (files, is_too_many) = {
        let mut artifacts = lock(run);
        artifacts.add(into, arrived);
        // A volume may hang in a write, and the end of the run must not wait for the lock then.
        (Arc::clone(&artifacts.files), artifacts.is_too_many)
    };
    if is_too_many {
        for name in [ARTIFACTS_DIGEST, ARTIFACTS_MANIFEST] {
            run.results.unset_own(name);
        }
        return Err(Failure::files(
            "files.manifest",
            format!(
                "more than {FILES_MAX} files came back; no digest and no manifest is made of them"
            ),
        ));
    }
    let digest = write_sums(&files, &mut io::sink()).map_err(unwritten)?;
    let digest = format!("sha256:{}", hex::encode(digest));
    let listed = match &run.workspace {
        None => Ok(()),
        Some(workspace) => write_manifest(run, workspace, &files, &digest).map_err(unwritten),
    };
    run.results.set_own(ARTIFACTS_DIGEST, &digest)?;
    lock(run).digest = Some(digest);
    match listed {
        Ok(()) => run.results.set_own(
            ARTIFACTS_MANIFEST,
            &manifest_path(run.identity.run_hash(), run.identity.pod_hash(), "json"),
        ),
        Err(failure) => {
            // One of before would be of other files.
            run.results.unset_own(ARTIFACTS_MANIFEST);
            Err(failure)
        }
    }
}

fn lock(run: &RunContext) -> MutexGuard<'_, Artifacts> {
    run.artifacts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unwritten(error: io::Error) -> Failure {
    Failure::files(
        "files.manifest",
        "the manifest of what came back cannot be written to the workspace",
    )
    .with_source(error)
}

fn write_manifest(
    run: &RunContext,
    workspace: &Workspace,
    files: &[FileDigest],
    digest: &str,
) -> io::Result<()> {
    let folder = host_folder::of_run(&workspace.dir, run.identity.run_hash())?;
    let name = |extension| file_name(run.identity.pod_hash(), extension);
    let sums = name("sha256");
    write_file(&folder, &sums, |file| write_sums(files, file).map(drop))?;
    write_file(&folder, &name("json"), |file| {
        write_json(files, digest, &sums, file)
    })
}

fn write_file(
    folder: &Dir,
    name: &str,
    contents: impl Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    host_folder::write_whole_with(folder, Path::new(name), |file| {
        let mut buffered = BufWriter::with_capacity(64 * 1024, file);
        contents(&mut buffered)?;
        buffered.flush()
    })
}

/// Writes the sums, and gives the SHA-256 of what was written.
fn write_sums(files: &[FileDigest], to: &mut dyn Write) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    for file in files {
        let line = file.sums_line();
        hasher.update(&line);
        to.write_all(&line)?;
    }
    Ok(hasher.finalize().into())
}

/// Writes the manifest, a line a file, so that it is never in memory as a whole.
fn write_json(
    files: &[FileDigest],
    digest: &str,
    sums: &str,
    to: &mut dyn Write,
) -> io::Result<()> {
    write!(
        to,
        "{{\"schema\":{SCHEMA},\"digest\":\"{digest}\",\"sums\":\"{sums}\",\"files\":["
    )?;
    for (position, file) in files.iter().enumerate() {
        to.write_all(if position == 0 { b"\n" } else { b",\n" })?;
        let path = file.path.to_string_lossy();
        let is_exact = OsStr::new(path.as_ref()) == file.path.as_os_str();
        let line = Line {
            path: &path,
            path_base64: (!is_exact)
                .then(|| base64::engine::general_purpose::STANDARD.encode(path_bytes(file))),
            size: file.size,
            sha256: file.sha256_hex(),
        };
        serde_json::to_writer(&mut *to, &line)?;
    }
    to.write_all(b"\n]}\n")
}

/// Tells Tekton Chains of what came back: only of a run that succeeded, since what a failed one left is evidence and
/// nothing that anybody should take for a build.
///
/// # Errors
///
/// A result that cannot be written.
pub fn declare(run: &RunContext) -> Result<(), Failure> {
    let Some(digest) = lock(run).digest.clone() else {
        return Ok(());
    };
    let identity = &run.identity;
    run.results.set_own(
        ARTIFACT_OUTPUTS,
        &outputs(identity.run_hash(), identity.pod_hash(), &digest),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn file(path: &[u8], contents: &[u8]) -> FileDigest {
        FileDigest {
            path: PathBuf::from(OsStr::from_bytes(path)),
            size: contents.len() as u64,
            sha256: Sha256::digest(contents).into(),
        }
    }

    fn paths(artifacts: &Artifacts) -> Vec<&str> {
        let files = artifacts.files.iter();
        files.map(|file| file.path.to_str().unwrap()).collect()
    }

    #[test]
    fn what_comes_later_replaces_what_came_before_and_all_is_sorted_by_bytes() {
        let mut artifacts = Artifacts::default();
        artifacts.add(Path::new("out"), vec![file(b"b", b"1"), file(b"a/x", b"1")]);
        artifacts.add(
            Path::new("."),
            vec![file(b"out/b", b"2"), file(b"out.txt", b"1")],
        );
        // By components `out/…` would come first.
        assert_eq!(paths(&artifacts), ["out.txt", "out/a/x", "out/b"]);
        assert_eq!(artifacts.files[2], file(b"out/b", b"2"));
    }

    #[test]
    fn sha256sum_checks_the_sums_and_the_digest_is_theirs() {
        let directory = tempfile::tempdir().unwrap();
        let mut artifacts = Artifacts::default();
        for name in [&b"z"[..], b"a b", b"-n", b"new\nline\\", b"\xff\xfe"] {
            std::fs::write(directory.path().join(OsStr::from_bytes(name)), name).unwrap();
            artifacts.add(Path::new("."), vec![file(name, name)]);
        }
        let mut sums = Vec::new();
        let digest = write_sums(&artifacts.files, &mut sums).unwrap();
        std::fs::write(directory.path().join("SUMS"), &sums).unwrap();
        let run = |arguments: &[&str]| {
            let output = Command::new("sha256sum")
                .args(arguments)
                .current_dir(directory.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["--check", "--strict", "--quiet", "SUMS"]);
        assert!(run(&["SUMS"]).starts_with(&hex::encode(digest)));
    }

    #[test]
    fn the_manifest_is_json_that_keeps_every_byte_of_a_name() {
        let files = [file(b"dist/\"App\".ipa", b"x"), file(b"\xff", b"")];
        let mut text = Vec::new();
        write_json(&files, "sha256:00", "sums", &mut text).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(manifest["digest"], "sha256:00");
        assert_eq!(manifest["files"][0]["path"], "dist/\"App\".ipa");
        assert_eq!(manifest["files"][0]["size"], 1);
        assert!(manifest["files"][0]["pathBase64"].is_null());
        assert_eq!(manifest["files"][1]["pathBase64"], "/w==");
    }

    #[test]
    fn more_files_than_are_kept_make_no_list() {
        let mut artifacts = Artifacts::default();
        artifacts.add(Path::new("."), vec![file(b"a", b""); FILES_MAX + 1]);
        assert!(artifacts.is_too_many && artifacts.files.is_empty());
        artifacts.add(Path::new("."), vec![file(b"a", b"")]);
        assert!(artifacts.is_too_many, "a part is not the whole");
    }
}
