//! A file's documents, or why there are none.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;

/// A manifest with all samples is far smaller.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const RENDER: &str =
    "render it first (`helm template`, `kubectl kustomize`, …) and give what that prints";

/// Everything that stands in the file, empty documents left out.
pub(super) fn documents(path: &Path) -> Result<Vec<Value>, Failure> {
    let shown = path.display();
    let trouble = |what: &str| Failure::config(format!("`{shown}` {what}"));
    if path.is_dir() {
        return Err(trouble("is a directory").with_hint("give the files in it"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| trouble("cannot be read").with_source(error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(trouble("is larger than 16 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let is_wide = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        let hint = if is_wide {
            "it looks like UTF-16: save it as UTF-8"
        } else {
            "save it as UTF-8"
        };
        trouble(&format!("is not UTF-8 text (line {line})")).with_hint(hint)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        if let Some((number, line)) = line_with(text, |line| line.contains("{{")) {
            let line = line.trim();
            return trouble(&format!(
                "is a template and no manifest (line {number}: `{line}`)"
            ))
            .with_hint(RENDER);
        }
        let indents_with_tab =
            |line: &str| line[..line.len() - line.trim_start().len()].contains('\t');
        let tab = line_with(text, indents_with_tab).map(|(number, _)| {
            format!("line {number} is indented with a tab, which YAML does not allow; use spaces")
        });
        trouble("is not YAML").with_source(error).with_hint(
            tab.unwrap_or_else(|| {
                "give manifests as `kubectl get … -o yaml` prints them".to_owned()
            }),
        )
    })?;
    Ok(documents.into_iter().filter(|it| !it.is_null()).collect())
}

/// The first line that is so, with its number.
fn line_with(text: &str, test: impl Fn(&str) -> bool) -> Option<(usize, &str)> {
    let mut lines = text.lines().enumerate();
    lines
        .find(|(_, line)| test(line))
        .map(|(number, line)| (number + 1, line))
}
