//! A new project.

use std::path::{Path, PathBuf};

use plugin_manifest::Manifest;

use crate::{
    Error, GUARD, GUARD_SDK, Language, MANIFEST, PYTHON, RUST, SCENARIOS, SDK, TYPESCRIPT, WIT,
};

/// What the examples are called, and a project made from one is not.
const EXAMPLE: &str = "whole-job";
const GUARD_EXAMPLE: &str = "no-latest";

/// Files as they are embedded, or made: their paths and texts.
type Tree<'a> = &'a [(&'a str, &'a str)];

/// What a project in Rust has in place of what holds its example in the repository.
const RUST_PROJECT: Tree<'static> = &[
    ("Cargo.toml", include_str!("templates/Cargo.toml.txt")),
    (
        "tests/scenarios.rs",
        include_str!("templates/scenarios.rs.txt"),
    ),
];
const SDK_MANIFEST: &str = include_str!("templates/sdk.Cargo.toml.txt");

/// In what ways the project of a guard differs from that of a plugin: text of the templates, and what stands there.
const OF_A_GUARD: [(&str, &str); 5] = [
    (EXAMPLE, GUARD_EXAMPLE),
    ("orka-plugin-sdk", "orka-guard-sdk"),
    ("Rust plugin for", "Rust guard for"),
    ("the plugin and plays its", "the guard and plays its"),
    (
        "\"test\", \"--sweep\"",
        "\"test\", \"--plugin\", \"build\", \"scenarios\"",
    ),
];

/// What belongs to an example in the repository and not to a project.
const ONLY_IN_THE_REPOSITORY: [&str; 2] = ["Cargo.toml", "tests/policy.rs"];

const IGNORED: &str = "/dist/\n/target/\n/node_modules/\n/.venv/\n__pycache__/\n";

/// Makes a project named `name` in the new directory `directory` and gives its files, by path within it.
///
/// # Errors
///
/// A name that a manifest cannot have, a directory that is there and not empty, or a file that cannot be written.
pub fn create(directory: &Path, name: &str, language: Language) -> Result<Vec<PathBuf>, Error> {
    write(directory, files(name, language))
}

/// Makes the project of a guard, in Rust.
///
/// # Errors
///
/// As [`create`].
pub fn create_guard(directory: &Path, name: &str) -> Result<Vec<PathBuf>, Error> {
    write(directory, guard_files(name))
}

fn write(directory: &Path, files: Vec<(String, String)>) -> Result<Vec<PathBuf>, Error> {
    let manifest = files.iter().find(|(path, _)| path == MANIFEST);
    let checked = manifest.map_or(Ok(()), |(_, text)| Manifest::parse_toml(text).map(drop));
    // The name is all that a template does not have.
    checked.map_err(Error::Name)?;
    let is_taken = std::fs::read_dir(directory)
        .map_or(directory.exists(), |mut entries| entries.next().is_some());
    if is_taken {
        return Err(Error::Exists(directory.to_owned()));
    }
    for (path, text) in &files {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        }
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(files.into_iter().map(|(path, _)| path.into()).collect())
}

fn files(name: &str, language: Language) -> Vec<(String, String)> {
    let (example, more): (_, Tree<'_>) = match language {
        Language::Rust => (RUST, RUST_PROJECT),
        Language::TypeScript => (TYPESCRIPT, &[]),
        Language::Python => (PYTHON, &[]),
    };
    let own = example
        .iter()
        .filter(|(path, _)| language != Language::Rust || !ONLY_IN_THE_REPOSITORY.contains(path))
        .chain(more)
        .map(|(path, text)| ((*path).to_owned(), text.replace(EXAMPLE, name)));
    let mut files: Vec<(String, String)> = own.collect();
    files.extend(below("scenarios", SCENARIOS));
    if language == Language::Rust {
        files.extend(below("vendor/orka-plugin-sdk/src", SDK));
        files.extend(below(
            "vendor/orka-plugin-sdk",
            &[("Cargo.toml", SDK_MANIFEST)],
        ));
    }
    files.extend(of_every_project());
    files
}

fn guard_files(name: &str) -> Vec<(String, String)> {
    let sdk = [("vendor/orka-plugin-sdk/Cargo.toml", SDK_MANIFEST)];
    let of_a_guard = |text: &str| {
        OF_A_GUARD
            .iter()
            .fold(text.to_owned(), |text, (plugin, guard)| {
                text.replace(plugin, guard)
            })
    };
    let made = RUST_PROJECT.iter().chain(&sdk);
    let made = made.map(|(path, text)| (of_a_guard(path), of_a_guard(text)));
    let example = GUARD
        .iter()
        .filter(|(path, _)| !ONLY_IN_THE_REPOSITORY.contains(path))
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    let named = example
        .chain(made)
        .map(|(path, text)| (path, text.replace(GUARD_EXAMPLE, name)));
    let mut files: Vec<(String, String)> = named.collect();
    files.extend(below("vendor/orka-guard-sdk/src", GUARD_SDK));
    files.extend(of_every_project());
    files
}

/// The contract, and what a repository does not keep.
fn of_every_project() -> Vec<(String, String)> {
    let contract: Vec<(&str, &str)> = WIT
        .iter()
        .copied()
        .filter(|(path, _)| path.ends_with(".wit"))
        .collect();
    let mut files = below("wit", &contract);
    files.push((".gitignore".to_owned(), IGNORED.to_owned()));
    files
}

fn below(directory: &str, tree: Tree<'_>) -> Vec<(String, String)> {
    tree.iter()
        .map(|(path, text)| (format!("{directory}/{path}"), (*text).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_its_own_name_the_contract_and_scenarios() {
        for language in [Language::Rust, Language::TypeScript, Language::Python] {
            let scratch = tempfile::tempdir().unwrap();
            let project = scratch.path().join("ios-build");
            let files = create(&project, "ios-build", language).unwrap();
            assert_eq!(Language::of(&project), Some(language));
            let has = |path: &str| files.contains(&PathBuf::from(path));
            assert!(
                has("README.md") && has("plugin.toml") && has("wit/plugin.wit"),
                "{files:?}"
            );
            assert!(has("scenarios/policy.yaml"));
            assert!(!has("tests/policy.rs"));
            for file in &files {
                let text = std::fs::read_to_string(project.join(file)).unwrap();
                assert!(!text.contains(EXAMPLE), "{}", file.display());
            }
            let again = create(&project, "ios-build", language).unwrap_err();
            assert!(matches!(again, Error::Exists(_)), "{again}");
        }
    }

    #[test]
    fn the_project_of_a_guard_has_its_own_name_its_sdk_and_nothing_of_a_plugin() {
        let scratch = tempfile::tempdir().unwrap();
        let project = scratch.path().join("no-sudo");
        let files = create_guard(&project, "no-sudo").unwrap();
        assert_eq!(Language::of(&project), Some(Language::Rust));
        let text = |path: &str| std::fs::read_to_string(project.join(path)).unwrap();
        for file in &files {
            let text = text(file.to_str().unwrap());
            assert!(
                !text.contains(EXAMPLE) && !text.contains(GUARD_EXAMPLE),
                "{}",
                file.display()
            );
            assert!(!text.contains("orka-plugin-sdk"), "{}", file.display());
        }
        let sdk = text("vendor/orka-guard-sdk/Cargo.toml");
        assert!(sdk.contains("author of a Rust guard"), "{sdk}");
        assert!(text("vendor/orka-guard-sdk/src/lib.rs").contains("path: \"../../wit\""));
        let tests = text("tests/scenarios.rs");
        assert!(
            tests.contains("\"test\", \"--plugin\", \"build\", \"scenarios\"]"),
            "{tests}"
        );
        assert!(text("scenarios/guard.yaml").contains("../dist/no-sudo.wasm"));
        assert!(text("wit/guard.wit").contains("interface guarding"));
    }

    #[test]
    fn a_name_that_a_manifest_cannot_have_is_refused_before_anything_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let project = scratch.path().join("x");
        let error = create(&project, "Not A Name", Language::Python).unwrap_err();
        assert!(matches!(error, Error::Name(_)), "{error}");
        let said = error.to_string();
        assert!(
            said.starts_with("`Not A Name` is no plugin name: "),
            "{said}"
        );
        assert!(!project.exists());
    }

    /// The lines of a WIT file's documentation that its TypeScript has as well: all but those of interfaces and resources.
    fn documented(wit: &str) -> Vec<&str> {
        let mut told = Vec::new();
        let mut block = Vec::new();
        for line in wit.lines().map(str::trim) {
            match line.strip_prefix("///") {
                Some(text) => block.push(text.trim()),
                None if ["interface ", "resource "]
                    .iter()
                    .any(|it| line.starts_with(it)) =>
                {
                    block.clear();
                }
                None => told.append(&mut block),
            }
        }
        told.retain(|line| !line.is_empty());
        told
    }

    /// What `jco guest-types` says beside the contract: headings of the cases of an enumeration, and this.
    const OF_THE_GENERATOR: &str = "This type does not have a public constructor.";

    #[test]
    fn the_types_of_typescript_are_those_of_the_contract() {
        let how = "make them again: `npx @bytecodealliance/jco@1.15.4 guest-types wit -n plugin -o plugins/examples/typescript/types`";
        let mut checked = 0;
        for (path, types) in TYPESCRIPT {
            let name = path.strip_prefix("types/interfaces/orka-plugin-");
            let Some(name) = name.and_then(|name| name.strip_suffix(".d.ts")) else {
                continue;
            };
            let wit = WIT.iter().find(|(path, _)| *path == format!("{name}.wit"));
            let wanted = documented(wit.unwrap().1);
            let lines = types.lines().map(str::trim);
            let comments = lines
                .filter_map(|line| line.strip_prefix("* "))
                .map(str::trim);
            let present: Vec<&str> = comments
                .filter(|line| {
                    !line.is_empty() && !line.starts_with('#') && *line != OF_THE_GENERATOR
                })
                .collect();
            for line in &wanted {
                assert!(present.contains(line), "`{path}` lacks `{line}`; {how}");
            }
            for line in &present {
                assert!(wanted.contains(line), "`{path}` alone has `{line}`; {how}");
            }
            checked += 1;
        }
        assert!(checked > 10, "only {checked} interfaces have types; {how}");
    }

    #[test]
    fn the_sdk_finds_the_contract_where_a_project_has_it() {
        let bindings = SDK.iter().find(|(path, _)| *path == "lib.rs").unwrap().1;
        assert!(
            bindings.contains("path: \"../../wit\""),
            "`vendor/orka-plugin-sdk` and `wit` of a project lie as this says"
        );
    }
}
