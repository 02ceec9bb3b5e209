//! Keeps secrets out of everything that is shown or written.

use std::collections::BTreeSet;
use std::ops::{Bound, Range};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

mod quoted;
mod wrapped;

pub use wrapped::LineSoFar;
use wrapped::{Joined, join};

/// Shorter values would turn ordinary text into asterisks and hide nothing that is worth hiding.
const MASKED_LENGTH_MIN: usize = 4;

const MASK: &str = "***";

/// More of a line helps nobody: what others say may be a whole page.
const TOLD_BYTES_MAX: usize = 2048;

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
    /// In order, so that those which begin with a text stand right behind it.
    forms: BTreeSet<Vec<u8>>,
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
    fn open(&self, bytes: &[u8], range: Range<usize>) -> Option<usize> {
        let first = range
            .start
            .max((bytes.len() + 1).saturating_sub(self.longest));
        (first..range.end).find(|&place| {
            let tail = &bytes[place..];
            let behind = (Bound::Excluded(tail), Bound::Unbounded);
            let next = self.forms.range::<[u8], _>(behind).next();
            next.is_some_and(|form| form.starts_with(tail))
        })
    }

    /// The same over the line breaks of an encoder.
    fn open_joined(&self, joined: &Joined, range: &Range<usize>) -> Option<usize> {
        if !joined.reaches_end {
            return None;
        }
        let from = joined.places.partition_point(|&place| place < range.start);
        let to = joined.places.partition_point(|&place| place < range.end);
        self.open(&joined.text, from..to)
            .map(|place| joined.places[place])
    }
}

/// Whether a secret is long enough to be hidden: less would hide half of every log.
pub(crate) fn is_masked(secret: &str) -> bool {
    secret.trim().len() >= MASKED_LENGTH_MIN
}

impl Masker {
    /// Hides `secret` from now on: as it is, line by line, as base64 of both alphabets, also within a longer text and
    /// over several lines, percent-encoded, escaped for JSON and quoted for a shell.
    pub fn add(&self, secret: &str) {
        let trimmed = secret.trim();
        if !is_masked(secret) {
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
        for text in std::iter::once(trimmed).chain(trimmed.lines().map(str::trim)) {
            // A line that is too short stays so, however long it is made.
            if text.len() >= MASKED_LENGTH_MIN {
                forms.extend(quoted::forms(text));
            }
        }
        let mut needles = self.needles.write().unwrap_or_else(PoisonError::into_inner);
        let known = needles.forms.len();
        for form in forms {
            let form = form.into_bytes();
            if form.len() >= MASKED_LENGTH_MIN {
                needles.forms.insert(form);
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
        self.mask_rest(bytes, LineSoFar::default())
    }

    /// The end of a text of whose line `before` was given before, with every secret replaced.
    fn mask_rest(&self, bytes: &[u8], before: LineSoFar) -> Vec<u8> {
        let needles = self.needles();
        let Some(automaton) = &needles.automaton else {
            return all_or_nothing(&needles, bytes);
        };
        let found = Found::in_text(automaton, bytes, &join(bytes, before));
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for place in &found {
            masked.extend_from_slice(&bytes[at..place.range.start]);
            place.mask(bytes, &mut masked);
            at = place.range.end;
        }
        masked.extend_from_slice(&bytes[at..]);
        masked
    }

    /// The beginning of a text that goes on, with every secret replaced, and how many of `bytes` it stands for. `before` is
    /// what was given before of the line with which `bytes` begin.
    ///
    /// What is left, hardly longer than [`Masker::longest`], may be the beginning of a secret: it must be given again in
    /// front of what follows, or to [`Masker::mask_bytes`] if nothing does.
    pub fn mask_settled(&self, bytes: &[u8], before: LineSoFar) -> (Vec<u8>, usize) {
        let needles = self.needles();
        let Some(automaton) = &needles.automaton else {
            return (all_or_nothing(&needles, bytes), bytes.len());
        };
        let joined = join(bytes, before);
        let open = |range: Range<usize>| {
            let plain = needles.open(bytes, range.clone());
            let wrapped = joined
                .iter()
                .filter_map(|joined| needles.open_joined(joined, &range));
            plain.into_iter().chain(wrapped).min()
        };
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for place in Found::in_text(automaton, bytes, &joined) {
            if let Some(open) = open(at..place.range.start + 1) {
                masked.extend_from_slice(&bytes[at..open]);
                return (masked, open);
            }
            masked.extend_from_slice(&bytes[at..place.range.start]);
            place.mask(bytes, &mut masked);
            at = place.range.end;
        }
        let open = open(at..bytes.len()).unwrap_or(bytes.len());
        masked.extend_from_slice(&bytes[at..open]);
        (masked, open)
    }

    /// `text` with every secret replaced.
    pub fn mask(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask_bytes(text.as_bytes())).into_owned()
    }

    /// `text` as it is told to people: every secret replaced, and only then each line cut where it is longer than anybody
    /// reads. Who makes texts of what others say leaves the cutting to this: a secret that is cut in two is not known for one.
    pub fn told(&self, text: &str) -> String {
        let masked = self.mask(text);
        if masked.len() <= TOLD_BYTES_MAX {
            return masked;
        }
        let lines = masked.split('\n').map(|line| {
            if line.len() <= TOLD_BYTES_MAX {
                return line.to_owned();
            }
            format!("{}…", &line[..line.floor_char_boundary(TOLD_BYTES_MAX)])
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn needles(&self) -> RwLockReadGuard<'_, Needles> {
        self.needles.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hides secrets in bytes that come in pieces, also where one is cut in two.
pub struct StreamMasker {
    masker: Masker,
    open: Vec<u8>,
    before: LineSoFar,
}

impl StreamMasker {
    /// Nothing received yet.
    pub fn new(masker: Masker) -> Self {
        Self {
            masker,
            open: Vec::new(),
            before: LineSoFar::default(),
        }
    }

    /// Takes bytes and gives what is settled: all but what may be the beginning of a secret.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.open.extend_from_slice(bytes);
        let (masked, taken) = self.masker.mask_settled(&self.open, self.before);
        self.before.take(&self.open[..taken]);
        self.open.drain(..taken);
        masked
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        let before = std::mem::take(&mut self.before);
        self.masker
            .mask_rest(&std::mem::take(&mut self.open), before)
    }
}

/// A place where a secret stands.
struct Found {
    range: Range<usize>,
    /// An encoder broke it into lines, which stay lines.
    is_wrapped: bool,
}

impl Found {
    /// All of them, in order and apart from each other.
    fn in_text(automaton: &AhoCorasick, bytes: &[u8], joined: &[Joined]) -> Vec<Self> {
        let mut found: Vec<Self> = automaton
            .find_iter(bytes)
            .map(|found| Self {
                range: found.range(),
                is_wrapped: false,
            })
            .collect();
        let plain = found.len();
        for joined in joined {
            let wrapped = automaton.find_iter(&joined.text).map(|found| Self {
                range: joined.places[found.start()]..joined.places[found.end() - 1] + 1,
                is_wrapped: true,
            });
            // What stands within a line was found already.
            found.extend(wrapped.filter(|place| bytes[place.range.clone()].contains(&b'\n')));
        }
        if found.len() == plain {
            return found;
        }
        found.sort_by_key(|place| place.range.start);
        let mut apart: Vec<Self> = Vec::with_capacity(found.len());
        for place in found {
            match apart.last_mut() {
                Some(last) if place.range.start < last.range.end => {
                    last.range.end = last.range.end.max(place.range.end);
                    last.is_wrapped |= place.is_wrapped;
                }
                _ => apart.push(place),
            }
        }
        apart
    }

    fn mask(&self, bytes: &[u8], masked: &mut Vec<u8>) {
        masked.extend_from_slice(MASK.as_bytes());
        if self.is_wrapped {
            let breaks = bytes[self.range.clone()]
                .iter()
                .filter(|&&byte| byte == b'\n');
            for _ in breaks {
                masked.push(b'\n');
                masked.extend_from_slice(MASK.as_bytes());
            }
        }
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

/// What base64 makes of `secret` in both alphabets, alone and after one or two bytes more than a multiple of three, as in `user:secret`.
///
/// Characters that also depend on what stands before are left out, and those that depend on what follows are so in a
/// second form. Padding is in none of them.
fn base64_forms(secret: &str) -> impl Iterator<Item = String> {
    (0..3_usize).flat_map(move |before| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        // One byte reaches into the second character, two into the third.
        let foreign = if before == 0 { 0 } else { before + 1 };
        [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD]
            .into_iter()
            .flat_map(move |alphabet| {
                let alone = alphabet.encode(&bytes)[foreign..].to_owned();
                let whole = alone.len() - usize::from(bytes.len() % 3 != 0);
                [alone[..whole].to_owned(), alone]
            })
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
    fn what_is_told_is_cut_after_its_secrets_are_hidden() {
        let masker = Masker::default();
        masker.add("a-secret-that-is-cut");
        for filler in TOLD_BYTES_MAX - 30..TOLD_BYTES_MAX + 10 {
            let told = masker.told(&format!("{}a-secret-that-is-cut", "é".repeat(filler / 2)));
            assert!(!told.contains("a-s"), "{filler}");
            assert!(told.len() <= TOLD_BYTES_MAX + "…".len());
        }
        let line = "y".repeat(TOLD_BYTES_MAX);
        let text = format!("{line}\n{line}\n");
        assert_eq!(masker.told(&text), text, "each line fits");
    }

    #[test]
    fn hides_each_line_of_a_key() {
        let masker = Masker::default();
        masker.add("-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n");
        assert_eq!(masker.mask("x ijklmnop y"), "x *** y");
    }

    #[test]
    fn a_line_that_is_too_short_is_shown_in_every_form() {
        let masker = Masker::default();
        masker.add("{\n  \"key\": \"s3cret\"\n},\n$x");
        let text = "},\n%7D%2C \\},  \\}\\, \\$x";
        assert_eq!(masker.mask(text), text);
        assert_eq!(masker.mask("%22key%22%3A%20%22s3cret%22"), "***");
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
            let (masked, taken) = masker.mask_settled(text.as_bytes(), LineSoFar::default());
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

    /// Forms that share beginnings, one of them the beginning of others.
    #[test]
    fn among_many_forms_what_may_go_on_is_what_any_of_them_begins_with() {
        let words = ["", "ab", "abab", "b", "ba", "a\u{e4}", "\u{10ffff}", "zz"];
        let masker = Masker::default();
        for first in words {
            for second in words {
                masker.add(&format!("{first}{second}ab{first}"));
            }
        }
        let needles = masker.needles();
        for first in words {
            for (second, third) in words.iter().zip(words.iter().rev()) {
                let text = format!("x{first}{second}{third}");
                let bytes = text.as_bytes();
                let expected = (0..bytes.len()).find(|&place| {
                    let tail = &bytes[place..];
                    let goes_on =
                        |form: &Vec<u8>| form.len() > tail.len() && form.starts_with(tail);
                    needles.forms.iter().any(goes_on)
                });
                assert_eq!(needles.open(bytes, 0..bytes.len()), expected, "{text}");
            }
        }
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

    /// `text` as `base64` and `openssl base64` print it.
    fn wrapped(encoded: &str, width: usize) -> String {
        let lines = encoded.as_bytes().chunks(width);
        lines
            .map(|line| format!("{}\n", std::str::from_utf8(line).unwrap()))
            .collect()
    }

    /// Wherever a secret stands in a text that is encoded and wrapped, and wherever the stream is cut: the encoding of no
    /// four bytes of it in a row is shown.
    #[test]
    fn base64_over_several_lines_shows_no_secret() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        let masker = Masker::default();
        let secret = "correct ho?se ~b>ttery 7 ÿÿÿ";
        masker.add(secret);
        let long: String = (0..30)
            .map(|number| format!("{number} of a long secret; "))
            .collect();
        masker.add(&long);
        for secret in [secret, &long] {
            for width in [64, 76] {
                for before in (0..width).step_by(if secret.len() > 99 { 7 } else { 1 }) {
                    let text = format!("{}{secret} and what follows", "x".repeat(before));
                    for encoded in [
                        STANDARD.encode(&text),
                        URL_SAFE.encode(&text),
                        STANDARD_NO_PAD.encode(&text),
                    ] {
                        let lines = wrapped(&encoded, width);
                        let whole = masker.mask(&lines);
                        let shown: String = whole.split_whitespace().collect();
                        for place in
                            (before..before + secret.len() - 6).filter(|place| place % 3 == 0)
                        {
                            let piece = &encoded[place / 3 * 4..place / 3 * 4 + 8];
                            let is_own = place > before && place + 6 < before + secret.len();
                            assert!(
                                !is_own || !shown.contains(piece),
                                "{width} {before}: {piece} in {whole}"
                            );
                        }
                        assert_eq!(
                            whole.lines().count(),
                            lines.lines().count(),
                            "lines stay lines"
                        );
                        assert!(
                            whole.ends_with(&lines[lines.len() - 9..]),
                            "what follows is shown: {whole}"
                        );
                        let sizes: &[usize] = if secret.len() > 99 {
                            &[65, 400]
                        } else {
                            &[1, 7, 64, 65, 100]
                        };
                        for &size in sizes {
                            let mut stream = StreamMasker::new(masker.clone());
                            let mut masked: Vec<u8> = (lines.as_bytes().chunks(size))
                                .flat_map(|part| stream.push(part))
                                .collect();
                            masked.extend(stream.finish());
                            assert_eq!(
                                String::from_utf8(masked).unwrap(),
                                whole,
                                "pieces of {size}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lines_that_only_look_encoded_stay_and_wait_for_nothing() {
        let masker = Masker::default();
        masker.add("correct horse 7");
        let mut stream = StreamMasker::new(masker);
        for text in [
            "x".repeat(64),
            "y".repeat(76),
            "Y2".repeat(31),
            "a b".to_owned(),
        ] {
            let line = format!("{text}\n");
            assert_eq!(stream.push(line.as_bytes()), line.as_bytes());
        }
    }

    #[test]
    fn leaves_short_values_alone() {
        let masker = Masker::default();
        masker.add("yes");
        assert_eq!(masker.mask("yes, yes, eWVz"), "yes, yes, eWVz");
    }
}
