//! From a project to its component.

use std::path::{Path, PathBuf};

use plugin_manifest::Manifest;

use crate::{Error, Language, MANIFEST, OUTPUT, python, rust, typescript};

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    /// The component's file.
    pub path: PathBuf,
    /// The component.
    pub bytes: Vec<u8>,
    /// The language it was written in.
    pub language: Language,
}

/// Builds the project in `directory`, packs its manifest into the component and writes it to `output`, or to
/// `dist/<name>.wasm`.
///
/// # Errors
///
/// What is missing or failed. Tools say themselves what is wrong with the source.
pub fn build(directory: &Path, output: Option<&Path>) -> Result<Built, Error> {
    let no_project = |what| Error::NoProject {
        directory: directory.to_owned(),
        what,
    };
    let path = directory.join(MANIFEST);
    if !path.is_file() {
        return Err(no_project("`plugin.toml`"));
    }
    // Read first: a mistake here is quickly told.
    let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let manifest =
        Manifest::parse_toml(&text).map_err(|source| Error::Manifest { path, source })?;
    let language = Language::of(directory)
        .ok_or_else(|| no_project("`Cargo.toml`, `package.json` or `requirements.txt`"))?;
    // Tools that run inside the project would look for relative paths there.
    let root = directory
        .canonicalize()
        .map_err(Error::file("find", directory))?;
    let dist = root.join(OUTPUT);
    let scratch = dist.join(".build");
    std::fs::create_dir_all(&scratch).map_err(Error::file("make", &scratch))?;
    let component = match language {
        Language::Rust => rust::component(&root),
        Language::TypeScript => typescript::component(&root, &scratch),
        Language::Python => python::component(&root, &scratch),
    }?;
    let bytes = manifest.embed(&component).map_err(Error::Component)?;
    let path = output.map_or_else(
        || {
            directory
                .join(OUTPUT)
                .join(format!("{}.wasm", manifest.name))
        },
        Path::to_owned,
    );
    write_whole(&path, &bytes)?;
    Ok(Built {
        path,
        bytes,
        language,
    })
}

/// Whole or not at all, since somebody may be reading it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(format!("wasm.{}.tmp", std::process::id()));
    let written =
        std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(Error::file("write", path))
}
