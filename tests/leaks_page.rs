//! The page "What happens to my VM when…" tells of tests that exist.

use std::path::{Path, PathBuf};

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
fn every_row_of_the_page_links_to_tests_that_exist() {
    let host = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../host");
    let page = std::fs::read_to_string(host.join("LEAKS.md")).unwrap();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| {
            line.starts_with("| ") && !line.starts_with("| … |") && !line.starts_with("| ---")
        })
        .collect();
    assert!(rows.len() >= 30, "the table has {} rows", rows.len());
    for row in rows {
        let links = links(row);
        assert!(!links.is_empty(), "no test is linked: {row}");
        for (name, path) in links {
            assert!(
                has_test(&host.join(path), name),
                "`{path}` has no test `{name}`"
            );
        }
    }
}
