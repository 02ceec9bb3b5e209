//! Results as JUnit XML, which every CI system shows.

use std::fmt::Write as _;
use std::time::Duration;

/// One result.
pub(super) struct TestCase {
    /// The file it is from.
    pub(super) file: String,
    /// Its name.
    pub(super) name: String,
    /// How long it took in real time.
    pub(super) took: Duration,
    /// What came of it.
    pub(super) verdict: Verdict,
}

/// What came of a test.
pub(super) enum Verdict {
    /// It passed.
    Passed,
    /// Something did not come as expected.
    Failed(String),
    /// It could not be played.
    Error(String),
}

/// The document.
pub(super) fn document(suite: &str, cases: &[TestCase]) -> String {
    let count = |is: fn(&Verdict) -> bool| cases.iter().filter(|case| is(&case.verdict)).count();
    let failures = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let errors = count(|verdict| matches!(verdict, Verdict::Error(_)));
    let took: Duration = cases.iter().map(|case| case.took).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a `String` cannot fail.
    let _ = writeln!(
        xml,
        "<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{:.3}\">",
        escaped(suite),
        cases.len(),
        took.as_secs_f64()
    );
    for case in cases {
        let _ = write!(
            xml,
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escaped(&case.file),
            escaped(&case.name),
            case.took.as_secs_f64()
        );
        let (element, text) = match &case.verdict {
            Verdict::Passed => {
                xml.push_str("/>\n");
                continue;
            }
            Verdict::Failed(text) => ("failure", text),
            Verdict::Error(text) => ("error", text),
        };
        let first = text.lines().next().unwrap_or_default();
        let _ = writeln!(
            xml,
            ">\n      <{element} message=\"{}\">{}</{element}>\n    </testcase>",
            escaped(first),
            escaped(text)
        );
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// Text as XML 1.0 has it; characters that it cannot have at all become U+FFFD.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(letter),
            letter if letter < ' ' || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_have_is_escaped_or_replaced() {
        let case = |name: &str, verdict| TestCase {
            file: "a & b.yaml".to_owned(),
            name: name.to_owned(),
            took: Duration::from_millis(12),
            verdict,
        };
        let xml = document(
            "build",
            &[
                case("good", Verdict::Passed),
                case(
                    "\"<bad>\"",
                    Verdict::Failed("it ended otherwise\n- a\n+ \u{1b}[0m".to_owned()),
                ),
                case("never", Verdict::Error("a file is <wrong>".to_owned())),
            ],
        );
        assert!(
            xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""),
            "{xml}"
        );
        assert!(
            xml.contains(
                "<error message=\"a file is &lt;wrong&gt;\">a file is &lt;wrong&gt;</error>"
            ),
            "{xml}"
        );
        assert!(
            xml.contains("classname=\"a &amp; b.yaml\" name=\"good\" time=\"0.012\"/>"),
            "{xml}"
        );
        assert!(xml.contains("name=\"&quot;&lt;bad&gt;&quot;\""), "{xml}");
        assert!(
            xml.contains("message=\"it ended otherwise\">it ended otherwise\n- a\n+ \u{fffd}[0m<"),
            "{xml}"
        );
    }
}
