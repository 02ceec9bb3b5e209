//! Which names are ours: exactly the form in which [`crate::identity`] makes them, and nothing that merely looks so.

use crate::identity::PODLESS;

/// Hex digits of each hash.
const HASH_DIGITS: usize = 8;

/// What a name of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// Of the pipeline run's or task run's UID.
    pub run_hash: &'a str,
    /// Of the pod's UID.
    pub pod_hash: &'a str,
    /// Which of the pod's things it is, from 1.
    pub number: u32,
}

impl<'a> Name<'a> {
    /// Reads `<prefix>-<run hash>-<pod hash>-<n>`; none for every other text.
    ///
    /// A prefix may hold hyphens and hex digits itself. Exactly three parts must follow it, so that no name of one
    /// prefix is ever one of another.
    pub fn parse(prefix: &str, name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
        let mut parts = rest.split('-');
        let (run_hash, pod_hash) = (hash(parts.next()?)?, hash(parts.next()?)?);
        let number = counter(parts.next()?)?;
        parts.next().is_none().then_some(Self {
            run_hash,
            pod_hash,
            number,
        })
    }

    /// Whether it was made by a run that was told no pod UID, so that no list of pods can say whether it lives.
    pub fn is_podless(&self) -> bool {
        self.pod_hash.starts_with(PODLESS)
    }
}

fn hash(text: &str) -> Option<&str> {
    is_hash(text).then_some(text)
}

/// Whether it is written as the hashes in names are.
pub fn is_hash(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == HASH_DIGITS && text.bytes().all(is_digit)
}

/// A number as `format!` writes it: no sign, no leading zero.
fn counter(text: &str) -> Option<u32> {
    let number = text.parse().ok().filter(|number| *number > 0)?;
    (text == format!("{number}")).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::Identity;

    #[test]
    fn reads_what_the_identity_writes() {
        for prefix in ["tekton", "a", "tekton-ci", "x9", "tekton-deadbeef", "a-1-2"] {
            let identity = Identity::new(prefix, Some("run"), Some("pod")).unwrap();
            for number in 1..=1000 {
                let text = identity.next_name();
                let name = Name::parse(prefix, &text).unwrap();
                assert_eq!(
                    (name.run_hash, name.pod_hash, name.number),
                    (identity.run_hash(), identity.pod_hash(), number)
                );
                assert!(!name.is_podless());
            }
        }
        let podless = Identity::new("tekton", Some("run"), None)
            .unwrap()
            .next_name();
        assert!(Name::parse("tekton", &podless).unwrap().is_podless());
    }

    #[test]
    fn a_name_that_looks_almost_like_ours_is_not_ours() {
        for almost in [
            // Another prefix, a longer one, a shorter one, none, or one that goes on.
            "jenkins-0a1b2c3d-4e5f6071-1",
            "tekton-ci-0a1b2c3d-4e5f6071-1",
            "tekton-deadbeef-0a1b2c3d-4e5f6071-1",
            "tekto-0a1b2c3d-4e5f6071-1",
            "0a1b2c3d-4e5f6071-1",
            "-0a1b2c3d-4e5f6071-1",
            "tektonn-0a1b2c3d-4e5f6071-1",
            "tekton0a1b2c3d-4e5f6071-1",
            "tekton--0a1b2c3d-4e5f6071-1",
            "tekton_0a1b2c3d-4e5f6071-1",
            "Tekton-0a1b2c3d-4e5f6071-1",
            " tekton-0a1b2c3d-4e5f6071-1",
            // What the Tasks before us made.
            "tekton-0a1b2c3d",
            // Hashes of another length, or not in lower-case hex.
            "tekton-0a1b2c3-4e5f6071-1",
            "tekton-0a1b2c3d4-4e5f6071-1",
            "tekton-0a1b2c3d-4e5f607-1",
            "tekton-0a1b2c3d-4e5f60712-1",
            "tekton-0A1B2C3D-4e5f6071-1",
            "tekton-0a1b2c3d-4E5F6071-1",
            "tekton-0a1b2c3g-4e5f6071-1",
            "tekton-0a1b2c3\u{0434}-4e5f6071-1",
            "tekton-0a1b2c3d-４e5f6071-1",
            "tekton--4e5f6071-1",
            "tekton-0a1b2c3d--1",
            // A counter that is missing, no number, or not as we write it.
            "tekton-0a1b2c3d-4e5f6071",
            "tekton-0a1b2c3d-4e5f6071-",
            "tekton-0a1b2c3d-4e5f6071-0",
            "tekton-0a1b2c3d-4e5f6071-01",
            "tekton-0a1b2c3d-4e5f6071-+1",
            "tekton-0a1b2c3d-4e5f6071--1",
            "tekton-0a1b2c3d-4e5f6071-1a",
            "tekton-0a1b2c3d-4e5f6071-x",
            "tekton-0a1b2c3d-4e5f6071-１",
            "tekton-0a1b2c3d-4e5f6071-4294967296",
            // Something after it.
            "tekton-0a1b2c3d-4e5f6071-1-",
            "tekton-0a1b2c3d-4e5f6071-1-2",
            "tekton-0a1b2c3d-4e5f6071-1-abcde",
            "tekton-0a1b2c3d-4e5f6071-1 ",
            "tekton-0a1b2c3d-4e5f6071-1\n",
            "tekton-0a1b2c3d-4e5f6071-1.orkasi",
            "",
            "-",
            "---",
            "tekton",
            "tekton-",
        ] {
            assert_eq!(Name::parse("tekton", almost), None, "{almost:?}");
        }
    }

    proptest! {
        /// Whatever is taken for ours is what we would have written, letter for letter.
        #[test]
        fn nothing_is_ours_that_we_would_not_write(
            name in "[a-f0-9T-]{0,4}(tekton)?-?[a-fA-F0-9]{7,9}-?[a-fA-F0-9]{7,9}-?[0-9]{0,3}[a-f0-9-]{0,3}"
        ) {
            if let Some(read) = Name::parse("tekton", &name) {
                prop_assert_eq!(
                    format!("tekton-{}-{}-{}", read.run_hash, read.pod_hash, read.number), name.as_str()
                );
                prop_assert_eq!((read.run_hash.len(), read.pod_hash.len()), (8, 8));
            }
        }

        #[test]
        fn no_name_belongs_to_two_prefixes(
            prefix in "[a-z]([a-f0-9-]{0,14}[a-f0-9])?", other in "[a-z]([a-f0-9-]{0,14}[a-f0-9])?",
            run in "[a-f0-9]{8}", pod in "[a-f0-9]{8}", number in 1_u32..2000,
        ) {
            let name = format!("{prefix}-{run}-{pod}-{number}");
            prop_assert!(Name::parse(&prefix, &name).is_some());
            prop_assert_eq!(Name::parse(&other, &name).is_some(), prefix == other);
        }
    }
}
