//! YAML as it is written here: two spaces, texts quoted where they need it, long ones folded.

use std::fmt::Write as _;

/// Where lines of folded text are broken.
const WIDTH: usize = 116;

/// A document under construction.
#[derive(Default)]
pub(super) struct Yaml(String);

impl Yaml {
    /// A line as it is, this deep.
    pub(super) fn line(&mut self, depth: usize, text: &str) {
        // Writing into a `String` cannot fail.
        let _ = if text.is_empty() {
            writeln!(self.0)
        } else {
            writeln!(self.0, "{:1$}{text}", "", depth * 2)
        };
    }

    /// Several lines, each with its own indentation below this depth.
    pub(super) fn lines(&mut self, depth: usize, text: &str) {
        text.lines().for_each(|line| self.line(depth, line));
    }

    /// `key: text`.
    pub(super) fn text(&mut self, depth: usize, key: &str, text: &str) {
        self.line(depth, &format!("{key}: {}", scalar(text)));
    }

    /// `key:` with prose, folded where it is long.
    pub(super) fn prose(&mut self, depth: usize, key: &str, text: &str) {
        let plain = format!("{key}: {}", scalar(text));
        if depth * 2 + plain.len() <= WIDTH && !text.contains('\n') {
            return self.line(depth, &plain);
        }
        self.line(depth, &format!("{key}: >-"));
        for (number, paragraph) in text.split("\n\n").enumerate() {
            if number > 0 {
                self.line(0, "");
            }
            for line in wrapped(paragraph, WIDTH - 2 * (depth + 1)) {
                self.line(depth + 1, &line);
            }
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A text as one scalar: plain where YAML takes it for a text and for nothing else.
pub(super) fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && !text.ends_with([':', ' '])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.contains('\n')
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        );
    if is_plain {
        text.to_owned()
    } else {
        // A JSON string is a double-quoted YAML scalar.
        serde_json::Value::from(text).to_string()
    }
}

/// Words put into lines of at most this many characters, where words allow.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_something_else_is_quoted() {
        for plain in ["orka-creds", "/tekton/home", "A sentence, with `code`"] {
            assert_eq!(scalar(plain), plain);
        }
        for quoted in [
            "",
            "3",
            "true",
            "no",
            "a: b",
            "a #b",
            "`x` y",
            "$(params.x)",
            "[a]",
            "a:",
        ] {
            assert_eq!(scalar(quoted), format!("\"{quoted}\""));
        }
        assert_eq!(scalar("a\"\n"), "\"a\\\"\\n\"");
    }

    #[test]
    fn long_prose_is_folded_and_short_is_not() {
        let mut yaml = Yaml::default();
        yaml.prose(1, "description", "Short");
        yaml.prose(1, "description", &"word ".repeat(40));
        let text = yaml.into_text();
        assert!(text.starts_with("  description: Short\n  description: >-\n    word"));
        assert!(text.lines().all(|line| line.len() <= WIDTH));
    }
}
