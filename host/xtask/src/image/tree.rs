//! The image's files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Bytes in a line of PEM.
const PEM_LINE: usize = 64;

/// What will be `/` in an image.
pub(crate) struct Tree {
    root: PathBuf,
}

/// A file of the image.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
}

impl Tree {
    /// An empty tree, whatever was there before.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)
                .with_context(|| format!("cannot remove `{}`", root.display()))?;
        }
        let tree = Self {
            root: root.to_owned(),
        };
        tree.directory(root)?;
        Ok(tree)
    }

    /// One that is there already.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where a path of the image is on this machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file with exactly these permissions, whatever the umask says.
    pub(crate) fn add(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }

    fn directory(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the directory `{}`", path.display()))?;
        let up_to_root = path.ancestors().take_while(|it| it.starts_with(&self.root));
        for directory in up_to_root {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// All files, by path.
    pub(crate) fn files(&self) -> Result<Vec<File>> {
        let mut files = Vec::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    directories.push(entry.path());
                    continue;
                }
                let path = entry.path();
                let path = path.strip_prefix(&self.root)?.to_string_lossy();
                files.push(File {
                    path: path.into_owned(),
                    bytes: metadata.len(),
                    mode: metadata.permissions().mode() & 0o7777,
                });
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Mozilla's certificate authorities as one PEM file, where TLS libraries look for the system's.
///
/// From a package that Cargo.lock names with its digest rather than from this machine, so that the image has the same ones
/// wherever it was built.
pub(super) fn authorities() -> String {
    TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|certificate| pem(certificate))
        .collect()
}

fn pem(certificate: &[u8]) -> String {
    let encoded = STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at(rest.len().min(PEM_LINE));
        text.push_str(line);
        text.push('\n');
        rest = later;
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::{File, Tree, authorities};

    #[test]
    fn files_have_the_permissions_they_were_given_and_old_ones_are_gone() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        Tree::new(&root).unwrap().add("old", b"x", 0o644).unwrap();
        let tree = Tree::new(&root).unwrap();
        tree.add("usr/bin/program", b"12345", 0o755).unwrap();
        tree.add("etc/data", b"1", 0o444).unwrap();
        let file = |path: &str, bytes, mode| File {
            path: path.to_owned(),
            bytes,
            mode,
        };
        assert_eq!(
            tree.files().unwrap(),
            [
                file("etc/data", 1, 0o444),
                file("usr/bin/program", 5, 0o755)
            ]
        );
    }

    #[test]
    fn the_authorities_are_many_and_well_formed() {
        let text = authorities();
        let count = text.matches("-----BEGIN CERTIFICATE-----\n").count();
        assert!(count > 100, "{count}");
        assert_eq!(count, text.matches("-----END CERTIFICATE-----\n").count());
        assert!(text.lines().all(|line| line.len() <= 64));
    }
}
