//! From bytes that a VM sends to lines that are safe to show: whole lines, secrets masked, terminal control harmless.

use plugin_manifest::is_disguise;

use crate::mask::{LineSoFar, Masker, StreamMasker};

/// A line longer than this is shown in pieces, so that memory stays bounded whatever a VM sends. With very long secrets,
/// it is twice the longest one: so each piece is looked through a few times at most, and most of it can be shown.
const LINE_LENGTH_MAX: usize = 64 * 1024;

/// Assembles one stream's bytes into lines.
pub struct LineAssembler {
    masker: Masker,
    partial: Vec<u8>,
    after_carriage_return: bool,
    /// Lines that an encoder may have broken a secret into, as far as that is not settled.
    encoded: StreamMasker,
    /// What is settled of them, without the end of its last line.
    settled: Vec<u8>,
    is_encoded: bool,
}

impl LineAssembler {
    /// Nothing received yet.
    pub fn new(masker: Masker) -> Self {
        Self {
            encoded: StreamMasker::new(masker.clone()),
            settled: Vec::new(),
            is_encoded: false,
            masker,
            partial: Vec::new(),
            after_carriage_return: false,
        }
    }

    /// Takes bytes and gives every line that is complete now, without line ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let length_max = LINE_LENGTH_MAX.max(2 * self.masker.longest());
        for byte in bytes {
            // A lone carriage return redraws a line (progress bars); in a log each state becomes a line of its own.
            let second_half_of_crlf = *byte == b'\n' && self.after_carriage_return;
            self.after_carriage_return = *byte == b'\r';
            match byte {
                b'\n' if second_half_of_crlf => {}
                b'\n' | b'\r' => self.end_line(&mut lines),
                _ => self.partial.push(*byte),
            }
            if self.partial.len() >= length_max {
                lines.push(self.take_piece());
            }
        }
        lines
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.partial.is_empty() {
            self.end_encoded(&mut lines);
        } else if self.is_encoded {
            self.end_encoded(&mut lines);
            // There is no line after the last line's end.
            lines.pop();
        }
        lines
    }

    /// A line is complete. One as long as an encoder's lines may hold a part of a secret that goes on in the next.
    fn end_line(&mut self, lines: &mut Vec<String>) {
        if !LineSoFar::default().is_full_with(&self.partial) {
            if self.is_encoded {
                self.end_encoded(lines);
            } else {
                lines.push(self.take());
            }
            return;
        }
        self.is_encoded = true;
        self.partial.push(b'\n');
        let settled = self.encoded.push(&std::mem::take(&mut self.partial));
        self.settled.extend_from_slice(&settled);
        while let Some(end) = self.settled.iter().position(|&byte| byte == b'\n') {
            lines.push(printable(&self.settled[..end]));
            self.settled.drain(..=end);
        }
    }

    /// The last of an encoder's lines is complete, and an ordinary one.
    fn end_encoded(&mut self, lines: &mut Vec<String>) {
        let last = std::mem::take(&mut self.partial);
        let mut text = std::mem::take(&mut self.settled);
        text.extend(self.encoded.push(&last));
        text.extend(self.encoded.finish());
        self.is_encoded = false;
        lines.extend(text.split(|&byte| byte == b'\n').map(printable));
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.partial);
        printable(&self.masker.mask_bytes(&line))
    }

    /// Takes most of an over-long line; what may be the beginning of a secret stays.
    fn take_piece(&mut self) -> String {
        let (piece, taken) = self
            .masker
            .mask_settled(&self.partial, LineSoFar::default());
        self.partial.drain(..taken);
        printable(&piece)
    }
}

/// `bytes` as text for a terminal or a log: colours stay, every other control sequence is made visible, and so is what has no
/// looks of its own and could make a line look like another.
///
/// Bytes that are not UTF-8 become U+FFFD.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(first) = rest.chars().next() {
        if let Some(colour) = colour_sequence(rest) {
            shown.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        match first {
            '\t' => shown.push('\t'),
            '\u{0}'..='\u{1f}' => {
                shown.push(char::from_u32(0x2400 + u32::from(first)).unwrap_or('\u{fffd}'))
            }
            '\u{7f}' => shown.push('\u{2421}'),
            // C1 controls: some terminals obey them like escape sequences.
            '\u{80}'..='\u{9f}' => shown.push('\u{fffd}'),
            _ if is_disguise(first) => shown.extend(first.escape_unicode()),
            _ => shown.push(first),
        }
        rest = &rest[first.len_utf8()..];
    }
    shown
}

/// A leading "select graphic rendition" sequence (ECMA-48, 8.3.117), the only kind that changes nothing but looks.
fn colour_sequence(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters
        .find(|letter: char| !letter.is_ascii_digit() && letter != ';' && letter != ':')?;
    parameters[end..]
        .starts_with('m')
        .then(|| &text[..2 + end + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_lines(masker: &Masker, chunks: &[&[u8]]) -> Vec<String> {
        let mut assembler = LineAssembler::new(masker.clone());
        let mut lines: Vec<String> = chunks
            .iter()
            .flat_map(|chunk| assembler.push(chunk))
            .collect();
        lines.extend(assembler.finish());
        lines
    }

    #[test]
    fn joins_chunks_and_ends_lines_at_every_kind_of_line_end() {
        let lines = all_lines(
            &Masker::default(),
            &[b"one\r", b"\ntwo\nthr", b"ee\r50%\r100%", b"\n\nlast"],
        );
        assert_eq!(lines, ["one", "two", "three", "50%", "100%", "", "last"]);
    }

    #[test]
    fn masks_a_secret_across_chunks() {
        let masker = Masker::default();
        masker.add("hunter2hunter2");
        assert_eq!(
            all_lines(&masker, &[b"a hunter2", b"hunter2 b\n"]),
            ["a *** b"]
        );
    }

    #[test]
    fn an_endless_line_comes_in_pieces_without_letting_a_secret_through() {
        let masker = Masker::default();
        masker.add("0123456789abcdef");
        let mut text = vec![b'x'; LINE_LENGTH_MAX - 8];
        text.extend_from_slice(b"0123456789abcdef");
        text.extend(vec![b'y'; LINE_LENGTH_MAX]);
        let lines = all_lines(&masker, &[&text]);
        let joined = lines.concat();
        assert!(lines.len() > 1);
        assert!(joined.contains("x***y"), "the secret is masked");
        assert!(lines.iter().all(|line| line.len() <= LINE_LENGTH_MAX));
    }

    #[test]
    fn a_secret_longer_than_a_line_is_hidden_in_few_lines_and_little_time() {
        let secret: String = (0..66 * 1024_u32)
            .map(|position| {
                char::from(b'a' + (position.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)
            })
            .collect();
        let masker = Masker::default();
        masker.add(&secret);
        let began = std::time::Instant::now();
        let long = [b"x".repeat(70_000), b"\n".to_vec()].concat();
        assert_eq!(all_lines(&masker, &[&long]).len(), 1);
        let endless: Vec<u8> = [b"y".repeat(1_000_000), secret.clone().into_bytes()].concat();
        let chunks: Vec<&[u8]> = endless.chunks(32 * 1024).collect();
        let lines = all_lines(&masker, &chunks);
        assert!(lines.len() < 20, "{} lines", lines.len());
        assert!(lines.iter().all(|line| !line.is_empty()));
        assert!(lines.concat().ends_with("yyy***"), "the secret is masked");
        assert!(
            began.elapsed() < std::time::Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn what_has_no_looks_of_its_own_cannot_disguise_a_line() {
        for character in [
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{200e}',
            '\u{200f}',
            '\u{61c}',
            '\u{200b}',
            '\u{feff}',
            '\u{2028}',
            '\u{e0041}',
            '\u{ad}',
            '\u{3164}',
        ] {
            let shown = printable(format!("ok{character}ko").as_bytes());
            assert_eq!(shown, format!("ok{}ko", character.escape_unicode()));
            assert!(shown.is_ascii());
        }
        let kept = "über 日本語 עברית العربية 👩\u{200d}💻 क\u{94d}\u{200c}ष é";
        assert_eq!(printable(kept.as_bytes()), kept);
    }

    #[test]
    fn a_secret_that_base64_broke_into_lines_is_hidden_line_by_line() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let masker = Masker::default();
        masker.add("correct horse battery staple");
        for before in 0..60 {
            let text = format!(
                "{}correct horse battery staple, and more",
                "x".repeat(before)
            );
            let encoded = STANDARD.encode(text);
            let wrapped: Vec<&str> = (encoded.as_bytes().chunks(64))
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            let printed = format!("before\n{}\nafter\n", wrapped.join("\n"));
            for size in [1, 10, 1000] {
                let chunks: Vec<&[u8]> = printed.as_bytes().chunks(size).collect();
                let lines = all_lines(&masker, &chunks);
                assert_eq!(lines.len(), wrapped.len() + 2, "{lines:?}");
                assert_eq!(
                    (lines[0].as_str(), lines[lines.len() - 1].as_str()),
                    ("before", "after")
                );
                let shown = lines.concat();
                for part in [
                    "IGhvcnNlIGJhdHRl",
                    "aG9yc2UgYmF0",
                    "b3JzZSBiYXR0",
                    "cnNlIGJhdHRl",
                ] {
                    assert!(!shown.contains(part), "{before}: {lines:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_line_of_an_encoder_is_not_lost() {
        let masker = Masker::default();
        masker.add("correct horse battery staple");
        let full = format!("{}Y29ycm", "x".repeat(58));
        for (printed, expected) in [
            (format!("{full}\n"), vec![full.clone()]),
            (
                format!("{full}\n\nend"),
                vec![full.clone(), String::new(), "end".to_owned()],
            ),
            (format!("{full}\nend"), vec![full.clone(), "end".to_owned()]),
            (
                format!("{full}\n{full}\nend\n"),
                vec![full.clone(), full.clone(), "end".to_owned()],
            ),
        ] {
            assert_eq!(
                all_lines(&masker, &[printed.as_bytes()]),
                expected,
                "{printed}"
            );
        }
    }

    #[test]
    fn colours_stay_and_other_control_becomes_visible() {
        assert_eq!(
            printable(b"\x1b[1;31mred\x1b[0m"),
            "\u{1b}[1;31mred\u{1b}[0m"
        );
        assert_eq!(printable(b"\x1b]0;title\x07"), "\u{241b}]0;title\u{2407}");
        assert_eq!(printable(b"\x1b[2Jgone"), "\u{241b}[2Jgone");
        assert_eq!(printable("\u{9b}2J".as_bytes()), "\u{fffd}2J");
    }
}
