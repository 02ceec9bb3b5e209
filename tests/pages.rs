//! The pages of cases, "What happens to my VM when…" and "What an odd plugin tries", tell of tests that exist; and examples that
//! people copy out of pages are what they are said to be.

use std::path::{Path, PathBuf};

use end_to_end::{Schemas, Step, documents, repository};
use serde_json::Value;

/// A page of `host/` whose tables have a row a case.
struct Page {
    folder: PathBuf,
    text: String,
}

impl Page {
    fn read(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../host");
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        Self { folder, text }
    }

    /// The rows of all tables, without their heads.
    fn rows(&self) -> Vec<&str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_row = |line: &str| line.starts_with("| ");
        let is_rule = |line: &str| line.starts_with("| ---");
        let next = |at: usize| lines.get(at + 1).copied().unwrap_or_default();
        let rows = lines.iter().enumerate();
        rows.filter(|&(at, line)| is_row(line) && !is_rule(line) && !is_rule(next(at)))
            .map(|(_, line)| *line)
            .collect()
    }

    #[track_caller]
    fn assert_every_row_links_to_tests(&self) {
        for row in self.rows() {
            let links = links(row);
            assert!(!links.is_empty(), "no test is linked: {row}");
            for (name, path) in links {
                assert!(
                    has_test(&self.folder.join(path), name),
                    "`{path}` has no test `{name}`"
                );
            }
        }
    }

    /// Fails unless the first cell of some row names this.
    #[track_caller]
    fn assert_has_a_row_for(&self, name: &str) {
        let name = format!("`{name}`");
        let first = |row: &&str| row.split(" | ").next().is_some_and(|it| it.contains(&name));
        assert!(self.rows().iter().any(first), "no row is about {name}");
    }
}

/// `[`name`](path)` in a line.
fn links(line: &str) -> Vec<(&str, &str)> {
    line.split("[`")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once("`](")?;
            Some((name, rest.split_once(')')?.0))
        })
        .collect()
}

fn has_test(file: &Path, name: &str) -> bool {
    let source = std::fs::read_to_string(file).unwrap_or_default();
    source.lines().any(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    })
}

#[test]
fn every_row_about_vms_links_to_tests_that_exist() {
    let page = Page::read("LEAKS.md");
    assert!(page.rows().len() >= 30, "{} rows", page.rows().len());
    page.assert_every_row_links_to_tests();
}

#[tokio::test]
async fn every_row_about_the_sandbox_links_to_tests_that_exist_and_nothing_is_left_out() {
    let page = Page::read("SANDBOX.md");
    page.assert_every_row_links_to_tests();
    let limits = Step::new(&["limits"]).ended().await;
    let limits = limits.stdout.lines().skip(1).map_while(|line| {
        let name = line.split_whitespace().next()?;
        Some(name.to_owned())
    });
    let limits: Vec<String> = limits.collect();
    assert!(limits.len() >= 17, "{limits:?}");
    let schema = Step::new(&["schema", "plugin"]).ended().await.summary();
    let capabilities = schema["$defs"]["Capability"]["enum"].as_array().unwrap();
    assert!(capabilities.len() >= 12, "{capabilities:?}");
    let capabilities = capabilities.iter().map(|it| it.as_str().unwrap());
    for name in limits.iter().map(String::as_str).chain(capabilities) {
        page.assert_has_a_row_for(name);
    }
}

/// Every block of YAML in these pages: of a plugin's author, of a platform team, and of whoever runs the Tasks.
const PAGES_WITH_YAML: [&str; 3] = [
    "plugins/README.md",
    "plugins/TESTING.md",
    "tekton/task/orka-full/0.3/README.md",
];

#[tokio::test]
async fn examples_in_yaml_can_be_copied_as_they_are() {
    let schemas = Schemas::read();
    let [scenarios, grants] = ["scenarios", "grants"].map(|name| Step::new(&["schema", name]));
    let (scenarios, grants) = (scenarios.ended().await, grants.ended().await);
    let (scenarios, grants) = (scenarios.summary(), grants.summary());
    let problems = |document: &Value| {
        let schema = if document.get("scenarios").is_some() {
            &scenarios
        } else if document.get("grants").is_some() {
            &grants
        } else {
            return schemas.problems(document);
        };
        schemas.problems_by(schema, document)
    };
    for page in PAGES_WITH_YAML {
        let text = std::fs::read_to_string(repository().join(page)).unwrap();
        let blocks: Vec<&str> = text.split("```yaml\n").skip(1).collect();
        assert!(!blocks.is_empty(), "{page}");
        for block in blocks {
            let block = block.split("\n```").next().unwrap();
            for document in documents(block) {
                assert_eq!(problems(&document), [""; 0], "{page}: {block}");
                assert_whole(&document, block);
                // A file in a ConfigMap has a form of its own.
                if let Some(inner) = document["data"]["grants.yaml"].as_str() {
                    assert_eq!(problems(&documents(inner)[0]), [""; 0], "{page}: {inner}");
                }
            }
        }
    }
}

/// Fails where something is left out.
#[track_caller]
fn assert_whole(value: &Value, block: &str) {
    match value {
        Value::String(text) => assert!(!text.contains('…'), "{text}: {block}"),
        Value::Array(items) => items.iter().for_each(|item| assert_whole(item, block)),
        Value::Object(members) => members.values().for_each(|it| assert_whole(it, block)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
