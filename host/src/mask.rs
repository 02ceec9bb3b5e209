//! Keeps secrets out of everything that is shown or written.

use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Shorter values would turn ordinary text into asterisks and hide nothing that is worth hiding.
const MASKED_LENGTH_MIN: usize = 4;

const MASK: &str = "***";

/// The values to hide, in all forms in which they may turn up. Clones share them.
#[derive(Clone, Default)]
pub struct Masker {
    needles: Arc<RwLock<Vec<Vec<u8>>>>,
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masker(…)")
    }
}

impl Masker {
    /// Hides `secret` from now on: as it is, line by line, as base64, percent-encoded and escaped for JSON.
    pub fn add(&self, secret: &str) {
        let mut forms = vec![secret.to_owned(), secret.trim().to_owned()];
        if secret.trim().contains('\n') {
            forms.extend(secret.lines().map(|line| line.trim().to_owned()));
        }
        // Without padding: what follows the secret in a longer text changes the last characters anyway.
        forms.push(STANDARD_NO_PAD.encode(secret));
        forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
        forms.push(percent_encoded(secret.as_bytes()));
        if let Ok(json) = serde_json::to_string(secret) {
            forms.push(json.trim_matches('"').to_owned());
        }
        let mut needles = self
            .needles
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for form in forms {
            let form = form.into_bytes();
            if form.len() >= MASKED_LENGTH_MIN && !needles.contains(&form) {
                needles.push(form);
            }
        }
        // Longest first: a secret that contains another one is hidden whole.
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
    }

    /// The length of the longest hidden form, in bytes.
    pub fn longest(&self) -> usize {
        self.needles
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .first()
            .map_or(0, Vec::len)
    }

    /// `bytes` with every secret replaced.
    pub fn mask_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let needles = self
            .needles
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut masked = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        'text: while !rest.is_empty() {
            for needle in needles.iter() {
                if rest.starts_with(needle) {
                    masked.extend_from_slice(MASK.as_bytes());
                    rest = &rest[needle.len()..];
                    continue 'text;
                }
            }
            masked.push(rest[0]);
            rest = &rest[1..];
        }
        masked
    }

    /// `text` with every secret replaced.
    pub fn mask(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask_bytes(text.as_bytes())).into_owned()
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(*byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_every_form_of_a_secret() {
        let masker = Masker::default();
        masker.add("p@ss w\"rd");
        for text in [
            "p@ss w\"rd",
            "cEBzcyB3InJk",
            "p%40ss+w%22rd",
            "p%40ss%20w%22rd",
            "p@ss w\\\"rd",
        ] {
            assert_eq!(masker.mask(&format!("<{text}>")), "<***>", "{text}");
        }
    }

    #[test]
    fn hides_each_line_of_a_key() {
        let masker = Masker::default();
        masker.add("-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n");
        assert_eq!(masker.mask("x ijklmnop y"), "x *** y");
    }

    #[test]
    fn the_longer_of_two_overlapping_secrets_wins() {
        let masker = Masker::default();
        masker.add("hunter2");
        masker.add("hunter2-and-more");
        assert_eq!(masker.mask("hunter2-and-more"), "***");
    }

    #[test]
    fn leaves_short_values_alone() {
        let masker = Masker::default();
        masker.add("yes");
        assert_eq!(masker.mask("yes, yes"), "yes, yes");
    }
}
