//! Tables in READMEs, between two comments; everything around them is written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Made;
use super::parameters::TaskParameter;
use super::task::Workspace;

/// What the tables are made from.
pub(super) struct Tables<'a> {
    pub(super) parameters: &'a [TaskParameter],
    pub(super) workspaces: &'a [Workspace],
    pub(super) results: &'a [(String, String)],
}

/// The file with its tables made anew.
pub(super) fn with_tables(root: &Path, path: PathBuf, tables: &Tables<'_>) -> Result<Made> {
    let mut text = fs::read_to_string(root.join(&path))
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    replace(&mut text, "parameters", &parameters(tables.parameters))
        .and_then(|()| replace(&mut text, "results", &results(tables.results)))
        .with_context(|| format!("`{}`", path.display()))?;
    if !tables.workspaces.is_empty() {
        replace(&mut text, "workspaces", &workspaces(tables.workspaces))
            .with_context(|| format!("`{}`", path.display()))?;
    }
    Ok(Made { path, text })
}

fn replace(text: &mut String, name: &str, table: &str) -> Result<()> {
    let (begin, end) = (
        format!("<!-- {name}: made by `cargo xtask tekton` -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let start = text.find(&begin).map(|at| at + begin.len());
    let stop = text.find(&end);
    match (start, stop) {
        (Some(start), Some(stop)) if start <= stop => {
            text.replace_range(start..stop, table);
            Ok(())
        }
        _ => bail!("has no place for its {name}"),
    }
}

fn parameters(parameters: &[TaskParameter]) -> String {
    let mut table = "| Parameter | Default | Meaning |\n| --- | --- | --- |\n".to_owned();
    for it in parameters {
        let default = match it.default.as_deref() {
            None => "required".to_owned(),
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        row(
            &mut table,
            &[&format!("`{}`", it.name), &default, &it.description],
        );
    }
    table
}

fn workspaces(workspaces: &[Workspace]) -> String {
    let mut table = "| Workspace | | Meaning |\n| --- | --- | --- |\n".to_owned();
    for it in workspaces {
        let need = if it.optional { "optional" } else { "required" };
        row(
            &mut table,
            &[&format!("`{}`", it.name), need, it.description],
        );
    }
    table
}

fn results(results: &[(String, String)]) -> String {
    let mut table = "| Result | Meaning |\n| --- | --- |\n".to_owned();
    for (name, description) in results {
        row(&mut table, &[&format!("`{name}`"), description]);
    }
    table
}

fn row(table: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // Writing into a `String` cannot fail.
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before_and_nothing_else() {
        let mut text =
            "a\n<!-- x: made by `cargo xtask tekton` -->\nold\n<!-- end of x -->\nb\n".to_owned();
        replace(&mut text, "x", "new\n").unwrap();
        let once = text.clone();
        replace(&mut text, "x", "new\n").unwrap();
        assert_eq!(text, once);
        assert_eq!(
            text,
            "a\n<!-- x: made by `cargo xtask tekton` -->\nnew\n<!-- end of x -->\nb\n"
        );
        assert!(replace(&mut text, "y", "").is_err());
    }
}
