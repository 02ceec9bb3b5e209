//! The version that an Orka 1.x or 2.x cluster reports.

use std::fmt;

/// The `api_version` of `GET /health-check`, read leniently: `2.4.0`, `2.1.1-preview-1`, `v1.5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiVersion {
    text: String,
    /// Major, minor, patch; a part that is missing or no number stays open.
    parts: [Option<u32>; 3],
}

/// The first release with one token per user, which several clients share.
const FIRST_WITH_SHARED_TOKENS: [u32; 3] = [2, 1, 1];

/// The first release that gives metadata to VMs on Apple silicon, too.
const FIRST_WITH_METADATA_EVERYWHERE: [u32; 3] = [2, 2, 0];

impl ApiVersion {
    /// Reads a version: split at dots, each part cut at the first character that is no digit.
    ///
    /// `None` if there is no number at the front.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = [None; 3];
        for (part, written) in parts
            .iter_mut()
            .zip(text.trim_start_matches(['v', 'V']).split('.'))
        {
            let end = written
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(written.len());
            *part = written[..end].parse().ok();
            if end < written.len() || part.is_none() {
                break;
            }
        }
        parts[0].map(|_| Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// The version as the cluster wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether each login made a token of its own, so that revoking it harms nobody else.
    ///
    /// True below 2.1.1. A part that is missing counts as new, the side on which nobody is logged out.
    pub fn has_token_per_login(&self) -> bool {
        self.parts.map(|part| part.unwrap_or(u32::MAX)) < FIRST_WITH_SHARED_TOKENS
    }
}

impl ApiVersion {
    /// Whether VMs on all kinds of nodes are given metadata, since 2.2.0. A part that is missing counts as old.
    pub fn has_metadata_everywhere(&self) -> bool {
        self.parts.map(Option::unwrap_or_default) >= FIRST_WITH_METADATA_EVERYWHERE
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q14_reads_versions_with_suffixes_and_compares_them_as_numbers() {
        for (written, own_token) in [
            ("1.5.3", true),
            ("2.1.0", true),
            ("2.1.0-preview", true),
            ("v2.0.9", true),
            ("2.1.1", false),
            ("2.1.1-preview-1", false),
            ("2.10.0", false),
            ("2.4.0", false),
            ("3.0.1", false),
            ("2.1", false),
            ("2", false),
            ("1", true),
            ("2.1.x", false),
            ("2.1.99999999999999999999", false),
        ] {
            assert_eq!(
                ApiVersion::parse(written).unwrap().has_token_per_login(),
                own_token,
                "{written}"
            );
        }
    }

    #[test]
    fn garbage_is_no_version() {
        for written in ["", "latest", ".1.2", "-1", "99999999999999999999.0.0"] {
            assert_eq!(ApiVersion::parse(written), None, "{written:?}");
        }
    }
}
