//! `cargo build`, and what it made.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde::Deserialize;

use crate::process;

/// Something that cargo built or found up to date.
#[derive(Debug, Deserialize)]
pub(crate) struct Artifact {
    /// The package it belongs to, as [`crate::workspace::Package::id`].
    pub(crate) package_id: String,
    /// The files.
    pub(crate) filenames: Vec<PathBuf>,
    /// The program, if it is one.
    pub(crate) executable: Option<PathBuf>,
}

/// One line of cargo's `--message-format=json`.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact(Artifact),
    #[serde(other)]
    Other,
}

/// Runs a `cargo build` (with its arguments already in place) and returns what it made.
///
/// Taken from cargo's messages rather than guessed from directories, which profiles, targets and configuration move.
pub(crate) fn build(command: &mut Command) -> Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics");
    Ok(artifacts(&process::output(command)?))
}

fn artifacts(messages: &str) -> Vec<Artifact> {
    let parsed = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    parsed
        .filter_map(|message| match message {
            Message::CompilerArtifact(artifact) => Some(artifact),
            Message::Other => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::artifacts;

    #[test]
    fn artifacts_are_picked_out_of_cargos_messages() {
        let messages = r#"{"reason":"compiler-message","package_id":"a","message":{}}
{"reason":"compiler-artifact","package_id":"b","filenames":["/t/b.wasm"],"executable":null,"fresh":true}
{"reason":"compiler-artifact","package_id":"c","filenames":["/t/c"],"executable":"/t/c"}
{"reason":"build-finished","success":true}
a line that is no JSON
"#;
        let artifacts = artifacts(messages);
        assert_eq!(artifacts.len(), 2);
        assert_eq!(
            (
                artifacts[0].package_id.as_str(),
                artifacts[0].filenames[0].to_str()
            ),
            ("b", Some("/t/b.wasm"))
        );
        assert_eq!(artifacts[1].executable.as_deref(), Some("/t/c".as_ref()));
    }
}
