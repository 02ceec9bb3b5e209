//! The Tekton Tasks and their tables, made from the plugins' manifests.
//!
//! A plugin's parameters are the Task's: names, defaults and descriptions are taken from `plugin.toml`, so that they cannot
//! drift. What a Task has besides (credentials, workspaces, the program's settings) is told in [`parameters`], and checked
//! against the program's own `--help` by the end-to-end tests.

mod parameters;
mod readme;
mod step_action;
mod task;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use plugin_manifest::Manifest;

use crate::workspace::own_directory;

/// A file that is made, by its path in the repository.
struct Made {
    path: PathBuf,
    text: String,
}

/// Writes the files, or with `check` names those that are not as they would be made.
pub(crate) fn run(check: bool) -> Result<ExitCode> {
    let root = repository();
    let mut stale = 0;
    for made in everything(&root)? {
        let path = root.join(&made.path);
        if fs::read_to_string(&path).is_ok_and(|present| present == made.text) {
            continue;
        }
        stale += 1;
        if check {
            eprintln!(
                "{} is not what `cargo xtask tekton` makes",
                made.path.display()
            );
            continue;
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, made.text)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        println!("{}", made.path.display());
    }
    Ok(if check && stale > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn repository() -> PathBuf {
    // host/xtask lies two directories below.
    own_directory().join("../..")
}

fn everything(root: &Path) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for task in task::all() {
        let manifest = manifest(root, task.plugin)?;
        let parameters = parameters::of(&task, &manifest);
        let directory = Path::new("tekton/task").join(task.name).join(task::VERSION);
        made.push(Made {
            path: directory.join(format!("{}.yaml", task.name)),
            text: task.yaml(&parameters, &manifest),
        });
        made.push(readme::with_tables(
            root,
            directory.join("README.md"),
            &readme::Tables {
                parameters: &parameters,
                workspaces: task.workspaces,
                results: &task.results(&manifest),
            },
        )?);
    }
    let build = manifest(root, "build")?;
    let directory = Path::new("tekton/stepaction/orka-step").join(step_action::VERSION);
    let parameters = step_action::parameters(&build);
    made.push(Made {
        path: directory.join("orka-step.yaml"),
        text: step_action::yaml(&parameters),
    });
    made.push(readme::with_tables(
        root,
        directory.join("README.md"),
        &readme::Tables {
            parameters: &parameters,
            workspaces: &[],
            results: &task::OWN_RESULTS
                .map(|(name, description)| (name.into(), description.into())),
        },
    )?);
    Ok(made)
}

fn manifest(root: &Path, plugin: &str) -> Result<Manifest> {
    let path = root.join("plugins").join(plugin).join("plugin.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Manifest::parse_toml(&text).with_context(|| format!("`{}` is wrong", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_made() {
        let root = repository();
        for made in everything(&root).unwrap() {
            let present = fs::read_to_string(root.join(&made.path)).unwrap_or_default();
            assert!(
                present == made.text,
                "`{}` is stale: run `cargo xtask tekton`",
                made.path.display()
            );
        }
    }
}
