//! Archives a stranger may send, byte by byte, and a server that sends them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{Error, Limits, RemotePath, Selection, TransferSummary};

use super::scripted::{Answer, End, Script, Scripted};

/// One archive member; its checksum is right whatever else is wrong.
pub fn member(kind: u8, name: &str, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut archive = head(kind, name, link, contents.len() as u64);
    archive.extend_from_slice(contents);
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

pub fn head(kind: u8, name: &str, link: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o6777);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    // The length counts its own digits.
    let length = (body.len()..)
        .find(|length| length.to_string().len() + body.len() == *length)
        .unwrap();
    member(b'x', "pax", "", format!("{length}{body}").as_bytes())
}

pub const END: [u8; 1024] = [0; 1024];

/// Offers one name for the listing and this archive afterwards, and downloads it.
pub async fn download_from(
    archive: impl Fn() -> Answer + Send + Sync + 'static,
    limits: &Limits,
) -> (Result<TransferSummary, Error>, tempfile::TempDir) {
    let server = Scripted::start(Script::answering(move |line| {
        if line.contains("tar -cf") {
            archive()
        } else {
            Answer::new("./a\0", End::Status(0))
        }
    }))
    .await;
    let here = tempfile::tempdir().unwrap();
    std::fs::create_dir(here.path().join("work")).unwrap();
    let into = Dir::open_ambient_dir(here.path().join("work"), ambient_authority()).unwrap();
    let connection = server.connect().await;
    let selection = Selection::parse(&[""; 0], &["secret"]).unwrap();
    let home = RemotePath::home();
    let download = connection.download(&home, &selection, &into, Path::new("out"), limits, |_| ());
    let outcome = tokio::time::timeout(Duration::from_secs(30), download)
        .await
        .unwrap();
    (outcome, here)
}

pub async fn download(archive: Vec<u8>) -> (Result<TransferSummary, Error>, tempfile::TempDir) {
    let archive = Bytes::from(archive);
    download_from(
        move || Answer::new(archive.clone(), End::Status(0)),
        &Limits::default(),
    )
    .await
}

/// Every name beneath a directory.
pub fn everything_in(path: &Path) -> Vec<String> {
    let output = std::process::Command::new("find")
        .args([".", "-mindepth", "1"])
        .current_dir(path)
        .output()
        .unwrap();
    let mut names: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// A member whose header was changed afterwards; the checksum is right again.
pub fn altered(mut member: Vec<u8>, alter: impl FnOnce(&mut [u8])) -> Vec<u8> {
    alter(&mut member[..512]);
    member[148..156].fill(b' ');
    let sum: u32 = member[..512].iter().map(|&byte| u32::from(byte)).sum();
    member[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    member
}

/// A size as it stands in the header.
pub fn sized(member: Vec<u8>, size: &[u8; 12]) -> Vec<u8> {
    altered(member, |header| header[124..136].copy_from_slice(size))
}
