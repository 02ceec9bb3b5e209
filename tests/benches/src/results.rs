//! `tests/benches/RESULTS.md`: one section for each measurement, replaced whole by each run that is kept.

use std::path::Path;

use anyhow::{Context as _, Result};

const INTRODUCTION: &str = "# Measured\n\nOne section for each measurement; `cargo xtask bench NAME --keep` replaces it. Ratios inside one section hold, \
                            numbers of two machines do not compare.\n";

/// Puts `body` under the heading `name`, in place of what was there.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn keep(name: &str, body: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let before = match std::fs::read_to_string(&file) {
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => INTRODUCTION.to_owned(),
        text => text.context("cannot read RESULTS.md")?,
    };
    std::fs::write(&file, replaced(&before, name, body)).context("cannot write RESULTS.md")
}

fn replaced(text: &str, name: &str, body: &str) -> String {
    let mut sections: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("## ") || sections.is_empty() {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    let heading = format!("## {name}\n");
    let section = format!("{heading}\n{}\n", body.trim_end());
    match sections
        .iter_mut()
        .find(|section| section.starts_with(&heading))
    {
        Some(old) => *old = section,
        None => sections.push(section),
    }
    let sections: Vec<_> = sections.iter().map(|section| section.trim_end()).collect();
    sections.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn one_section_is_replaced_and_the_others_stay() {
        let text = "# Measured\n\nintro\n\n## ready\n\nold\n\n## transfer\n\nkept\n";
        let expected = "# Measured\n\nintro\n\n## ready\n\nnew\n\n## transfer\n\nkept\n";
        assert_eq!(replaced(text, "ready", "new\n"), expected);
        assert_eq!(
            replaced("# Measured\n", "x", "y"),
            "# Measured\n\n## x\n\ny\n"
        );
    }
}
