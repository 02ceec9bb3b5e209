//! The nearest name to a mistyped one.

use crate::text::on_one_line;

/// Finds the candidate that `given` most likely meant, if any is near enough to be worth suggesting.
///
/// Near means at most one edit (insertion, deletion, substitution or swap of neighbours) for every three characters
/// of `given`, and at least one. Case does not count.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    let edits_max = (given.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&given, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(edits, _)| *edits <= edits_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The end of an error sentence that offers `nearest`, or nothing.
pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// Adds the nearest name to an "unknown field" or "unknown variant" message of serde.
///
/// Serde names the unknown word first and then every known one, each in backticks. A message of another shape is
/// returned without a suggestion.
pub fn teach(message: &str) -> String {
    // An unknown name is repeated as it was written, which can be anything.
    let message = on_one_line(message);
    if !message.starts_with("unknown field ") && !message.starts_with("unknown variant ") {
        return message;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(given) = words.next() else {
        return message;
    };
    let suggestion = did_you_mean(nearest(given, words));
    format!("{message}{suggestion}")
}

#[cfg(test)]
mod tests {
    use super::{nearest, teach};

    #[test]
    fn suggests_the_nearest_name_and_nothing_far_fetched() {
        let names = ["base-image", "cpu-count", "tag"];
        assert_eq!(nearest("base-imgae", names), Some("base-image"));
        assert_eq!(nearest("CPU-count", names), Some("cpu-count"));
        assert_eq!(nearest("tga", names), Some("tag"));
        assert_eq!(nearest("script", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn adds_the_nearest_name_to_what_serde_says() {
        assert_eq!(
            teach("unknown field `minimun`, expected one of `minimum`, `maximum`"),
            "unknown field `minimun`, expected one of `minimum`, `maximum`; did you mean `minimum`?"
        );
        assert_eq!(teach("missing field `name`"), "missing field `name`");
        assert_eq!(
            teach("unknown field `zzzzz`, expected `a`"),
            "unknown field `zzzzz`, expected `a`"
        );
    }
}
