//! Plugins that are named before they are built, or as if they came with the program.

use std::path::{Path, PathBuf};

use plugin_manifest::Manifest;

/// What a project's manifest is called, and where `plugin build` puts the component.
const MANIFEST: &str = "plugin.toml";
const OUTPUT: &str = "dist";

/// What makes a file that is not there, if it lies in a plugin's project.
pub(super) fn unbuilt(file: &Path) -> Option<String> {
    let project = file
        .ancestors()
        .skip(1)
        .find(|it| it.join(MANIFEST).is_file())?;
    let directory = match project.to_str()? {
        "" | "." => String::new(),
        directory => format!(" {directory}"),
    };
    Some(format!(
        "`orka-step plugin build{directory}` builds the plugin of that project"
    ))
    // The image has no such command, and no projects.
    .filter(|_| cfg!(feature = "authoring"))
}

/// How the plugin of the project that this is called in is given, if it is called so.
pub(super) fn of_this_directory(name: &str) -> Option<String> {
    of(Path::new(""), name)
}

fn of(project: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(project.join(MANIFEST)).ok()?;
    if Manifest::parse_toml(&text).ok()?.name != name {
        return None;
    }
    let file: PathBuf = project.join(OUTPUT).join(format!("{name}.wasm"));
    if file.is_file() {
        let file = Path::new(".").join(file);
        return Some(format!(
            "the plugin of this project is given as `{}`",
            file.display()
        ));
    }
    unbuilt(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_of_a_project_is_told_with_what_builds_it_and_then_with_its_path() {
        let scratch = tempfile::tempdir().unwrap();
        let project = scratch.path().join("mine");
        std::fs::create_dir_all(project.join(OUTPUT)).unwrap();
        let file = project.join("dist/mine.wasm");
        assert_eq!(unbuilt(&file), None, "there is no manifest");
        std::fs::write(
            project.join(MANIFEST),
            "[plugin]\nname = \"mine\"\nversion = \"1.0.0\"\ncontract = \"0.1\"\ndescription = \"x\"\n",
        )
        .unwrap();
        let build = format!(
            "`orka-step plugin build {}` builds the plugin of that project",
            project.display()
        );
        assert_eq!(unbuilt(&file), Some(build.clone()));
        assert_eq!(of(&project, "mine"), Some(build));
        assert_eq!(of(&project, "other"), None);
        std::fs::write(&file, "").unwrap();
        let given = of(&project, "mine").unwrap();
        assert!(given.ends_with("dist/mine.wasm`"), "{given}");
    }
}
