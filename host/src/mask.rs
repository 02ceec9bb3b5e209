//! Keeps secrets out of everything that is shown or written.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Shorter values would turn ordinary text into asterisks and hide nothing that is worth hiding.
const MASKED_LENGTH_MIN: usize = 4;

const MASK: &str = "***";

/// The values to hide, in all forms in which they may turn up. Clones share them.
#[derive(Clone, Default)]
pub struct Masker {
    needles: Arc<RwLock<Needles>>,
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masker(…)")
    }
}

#[derive(Default)]
struct Needles {
    /// Each form once.
    forms: Vec<Vec<u8>>,
    /// Finds them; none while there are none, or if there are more than one automaton can hold.
    automaton: Option<AhoCorasick>,
    longest: usize,
}

impl Needles {
    fn rebuild(&mut self) {
        self.longest = self.forms.iter().map(Vec::len).max().unwrap_or(0);
        // The other kinds need a multiple of the memory for large secrets, or of the time.
        self.automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            // Longest: a secret that contains another one is hidden whole.
            .match_kind(MatchKind::LeftmostLongest)
            .build(&self.forms)
            .inspect_err(|error| tracing::error!(%error, "secrets cannot be told from other text"))
            .ok();
    }

    /// The first place in `range` from which on `bytes` may be the beginning of a form that is not complete yet.
    fn open(&self, bytes: &[u8], range: std::ops::Range<usize>) -> Option<usize> {
        let first = range
            .start
            .max((bytes.len() + 1).saturating_sub(self.longest));
        (first..range.end).find(|&place| {
            let tail = &bytes[place..];
            self.forms
                .iter()
                .any(|form| form.len() > tail.len() && form.starts_with(tail))
        })
    }
}

impl Masker {
    /// Hides `secret` from now on: as it is, line by line, as base64 also within a longer text, percent-encoded and
    /// escaped for JSON.
    pub fn add(&self, secret: &str) {
        let trimmed = secret.trim();
        if trimmed.len() < MASKED_LENGTH_MIN {
            return;
        }
        let mut forms = vec![secret.to_owned(), trimmed.to_owned()];
        if trimmed.contains('\n') {
            forms.extend(secret.lines().map(|line| line.trim().to_owned()));
        }
        forms.extend(base64_forms(secret));
        forms.extend(base64_forms(trimmed));
        forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
        forms.push(percent_encoded(secret.as_bytes()));
        if let Ok(json) = serde_json::to_string(secret) {
            forms.push(json[1..json.len() - 1].to_owned());
        }
        let mut needles = self.needles.write().unwrap_or_else(PoisonError::into_inner);
        let known = needles.forms.len();
        for form in forms {
            let form = form.into_bytes();
            if form.len() >= MASKED_LENGTH_MIN && !needles.forms.contains(&form) {
                needles.forms.push(form);
            }
        }
        if needles.forms.len() > known {
            needles.rebuild();
        }
    }

    /// The length of the longest hidden form, in bytes.
    pub fn longest(&self) -> usize {
        self.needles().longest
    }

    /// `bytes` with every secret replaced.
    pub fn mask_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let needles = self.needles();
        let Some(automaton) = &needles.automaton else {
            return all_or_nothing(&needles, bytes);
        };
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for found in automaton.find_iter(bytes) {
            masked.extend_from_slice(&bytes[at..found.start()]);
            masked.extend_from_slice(MASK.as_bytes());
            at = found.end();
        }
        masked.extend_from_slice(&bytes[at..]);
        masked
    }

    /// The beginning of a text that goes on, with every secret replaced, and how many of `bytes` it stands for.
    ///
    /// What is left, shorter than [`Masker::longest`], may be the beginning of a secret: it must be given again in front
    /// of what follows, or to [`Masker::mask_bytes`] if nothing does.
    pub fn mask_settled(&self, bytes: &[u8]) -> (Vec<u8>, usize) {
        let needles = self.needles();
        let Some(automaton) = &needles.automaton else {
            return (all_or_nothing(&needles, bytes), bytes.len());
        };
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for found in automaton.find_iter(bytes) {
            if let Some(open) = needles.open(bytes, at..found.start() + 1) {
                masked.extend_from_slice(&bytes[at..open]);
                return (masked, open);
            }
            masked.extend_from_slice(&bytes[at..found.start()]);
            masked.extend_from_slice(MASK.as_bytes());
            at = found.end();
        }
        let open = needles.open(bytes, at..bytes.len()).unwrap_or(bytes.len());
        masked.extend_from_slice(&bytes[at..open]);
        (masked, open)
    }

    /// `text` with every secret replaced.
    pub fn mask(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask_bytes(text.as_bytes())).into_owned()
    }

    fn needles(&self) -> RwLockReadGuard<'_, Needles> {
        self.needles.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hides secrets in bytes that come in pieces, also where one is cut in two.
pub struct StreamMasker {
    masker: Masker,
    open: Vec<u8>,
}

impl StreamMasker {
    /// Nothing received yet.
    pub fn new(masker: Masker) -> Self {
        Self {
            masker,
            open: Vec::new(),
        }
    }

    /// Takes bytes and gives what is settled: all but what may be the beginning of a secret.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.open.extend_from_slice(bytes);
        let (masked, taken) = self.masker.mask_settled(&self.open);
        self.open.drain(..taken);
        masked
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.masker.mask_bytes(&std::mem::take(&mut self.open))
    }
}

/// Without an automaton: everything if there is nothing to hide, else nothing, since nobody knows what is safe.
fn all_or_nothing(needles: &Needles, bytes: &[u8]) -> Vec<u8> {
    if needles.forms.is_empty() || bytes.is_empty() {
        bytes.to_vec()
    } else {
        MASK.as_bytes().to_vec()
    }
}

/// What base64 makes of `secret`, alone and after one or two bytes more than a multiple of three, as in `user:secret`.
///
/// Characters that also depend on what stands before are left out, and those that depend on what follows are so in a
/// second form. Padding is in none of them.
fn base64_forms(secret: &str) -> impl Iterator<Item = String> {
    (0..3_usize).flat_map(move |before| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        // One byte reaches into the second character, two into the third.
        let foreign = if before == 0 { 0 } else { before + 1 };
        let alone = STANDARD_NO_PAD.encode(&bytes)[foreign..].to_owned();
        let whole = alone.len() - usize::from(bytes.len() % 3 != 0);
        [alone[..whole].to_owned(), alone]
    })
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
    fn base64_of_a_longer_text_shows_no_secret() {
        use base64::engine::general_purpose::STANDARD;
        let masker = Masker::default();
        masker.add("correct horse 7");
        for before in ["", "u", "ci", "ci:", "user"] {
            for after in ["", "x", "xy", "xyz"] {
                let encoded = STANDARD.encode(format!("{before}correct horse 7{after}"));
                let masked = masker.mask(&encoded);
                assert!(masked.contains("***"), "{encoded}");
                // A character on each side may be shared with what stands there.
                let shown = masked.len() - "***".len();
                let own = (before.len() + after.len()) * 4 / 3 + 6;
                assert!(shown <= own, "{encoded} is shown as {masked}");
            }
        }
        assert_eq!(
            masker.mask("Basic Y2k6Y29ycmVjdCBob3JzZSA3"),
            "Basic Y2k6***"
        );
    }

    #[test]
    fn the_beginning_of_a_secret_waits_for_the_rest_and_nothing_else_does() {
        let masker = Masker::default();
        masker.add("hunter2");
        masker.add("hunter2-and-more");
        let settled = |text: &str| {
            let (masked, taken) = masker.mask_settled(text.as_bytes());
            (String::from_utf8(masked).unwrap(), text[taken..].to_owned())
        };
        let pair = |masked: &str, rest: &str| (masked.to_owned(), rest.to_owned());
        assert_eq!(settled("all is well\n"), pair("all is well\n", ""));
        assert_eq!(settled("is hunt"), pair("is ", "hunt"));
        assert_eq!(settled("hunter2-and"), pair("", "hunter2-and"));
        assert_eq!(settled("hunter2-and-more h"), pair("*** ", "h"));
        assert_eq!(settled("hunter2 hunter2!"), pair("*** ***!", ""));
        assert_eq!(settled(""), pair("", ""));
    }

    #[test]
    fn a_secret_is_hidden_wherever_the_pieces_of_a_stream_are_cut() {
        let masker = Masker::default();
        masker.add("hunter2");
        masker.add("hunter2-and-more");
        masker.add("2huntsman");
        let text = b"a hunter2, hunter2-and-more, hunter2-and-less, hunter2huntsman hunt";
        let whole = masker.mask_bytes(text);
        for size in 1..text.len() {
            let mut stream = StreamMasker::new(masker.clone());
            let mut masked: Vec<u8> = text
                .chunks(size)
                .flat_map(|part| stream.push(part))
                .collect();
            masked.extend(stream.finish());
            assert_eq!(masked, whole, "pieces of {size}");
        }
    }

    #[test]
    fn leaves_short_values_alone() {
        let masker = Masker::default();
        masker.add("yes");
        assert_eq!(masker.mask("yes, yes, eWVz"), "yes, yes, eWVz");
    }
}
