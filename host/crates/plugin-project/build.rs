//! Puts the contract, the Rust SDKs and the examples into the program, which makes new projects from them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Directories of the repository, and what each is called in the program.
const TREES: [(&str, &str); 8] = [
    ("WIT", "wit"),
    ("SDK", "plugins/sdk/src"),
    ("GUARD_SDK", "plugins/guard-sdk/src"),
    ("GUARD", "plugins/examples/guard"),
    ("RUST", "plugins/examples/rust"),
    ("TYPESCRIPT", "plugins/examples/typescript"),
    ("PYTHON", "plugins/examples/python"),
    ("SCENARIOS", "plugins/examples/shared/scenarios"),
];

/// What tools leave in a source tree.
const NOT_SOURCE: [&str; 7] = [
    "node_modules",
    "dist",
    "build",
    "__pycache__",
    ".venv",
    "target",
    "package-lock.json",
];

fn main() -> std::io::Result<()> {
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = own.join("../../..").canonicalize()?;
    let mut code = String::new();
    for (name, directory) in TREES {
        let tree = root.join(directory);
        println!("cargo::rerun-if-changed={}", tree.display());
        let mut files = Vec::new();
        collect(&tree, &mut files)?;
        files.sort();
        let _ = writeln!(code, "static {name}: &[(&str, &str)] = &[");
        for file in files {
            let path = file.strip_prefix(&tree).unwrap_or(&file);
            let _ = writeln!(
                code,
                "    ({:?}, include_str!({:?})),",
                path.display().to_string(),
                file.display().to_string()
            );
        }
        code.push_str("];\n");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("embedded.rs"), code)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_source = entry
            .file_name()
            .to_str()
            .is_some_and(|name| !NOT_SOURCE.contains(&name));
        if !is_source {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
