//! Differences between what was expected and what came, for people.

use similar::{ChangeTag, TextDiff};

/// Two lists, line by line: `-` was expected and did not come, `+` came and was not expected.
pub(super) fn lists(expected: &[String], found: &[String]) -> String {
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    render(&TextDiff::from_slices(&expected, &found))
}

/// Two texts, line by line.
pub(super) fn texts(expected: &str, found: &str) -> String {
    let expected: Vec<&str> = expected.lines().collect();
    let found: Vec<&str> = found.lines().collect();
    let rendered = render(&TextDiff::from_slices(&expected, &found));
    if expected == found {
        // Only a line break at the end tells them apart, or none does.
        return format!("{rendered}\n  (they differ in the final line break)");
    }
    rendered
}

fn render(diff: &TextDiff<'_, '_, str>) -> String {
    let lines = diff.iter_all_changes().map(|change| {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        format!("{sign} {}", change.value())
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_did_not_are_told_apart() {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            lists(&owned(&["a", "b", "c"]), &owned(&["a", "x", "c"])),
            "  a\n- b\n+ x\n  c"
        );
        assert!(texts("a\n", "a").contains("final line break"));
    }
}
