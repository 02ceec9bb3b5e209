//! Names as the program makes them, told anew from what its documentation says of them.

use sha2::{Digest as _, Sha256};

/// What stands for a UID: the first eight hex digits of its SHA-256 that do not begin with `00`.
pub fn hash(uid: &str) -> String {
    let digest = hex::encode(Sha256::digest(uid));
    let mut groups = (0..64).step_by(8).map(|start| &digest[start..start + 8]);
    groups
        .find(|group| !group.starts_with("00"))
        .unwrap()
        .to_owned()
}

/// `<prefix>-<run hash>-<pod hash>-<n>`.
pub fn name(prefix: &str, run: &str, pod: &str, number: usize) -> String {
    format!("{prefix}-{}-{}-{number}", hash(run), hash(pod))
}

/// A UID as Kubernetes makes them; the same for the same words.
pub fn uid(of: &str) -> String {
    let digest = hex::encode(Sha256::digest(of));
    let group = |from: usize, to: usize| &digest[from..to];
    [
        group(0, 8),
        group(8, 12),
        group(12, 16),
        group(16, 20),
        group(20, 32),
    ]
    .join("-")
}
