//! From bytes that a VM sends to lines that are safe to show: whole lines, secrets masked, terminal control harmless.

use crate::mask::Masker;

/// A line longer than this is shown in pieces, so that memory stays bounded whatever a VM sends. With very long secrets,
/// it is twice the longest one: so each piece is looked through a few times at most, and most of it can be shown.
const LINE_LENGTH_MAX: usize = 64 * 1024;

/// Assembles one stream's bytes into lines.
pub struct LineAssembler {
    masker: Masker,
    partial: Vec<u8>,
    after_carriage_return: bool,
}

impl LineAssembler {
    /// Nothing received yet.
    pub fn new(masker: Masker) -> Self {
        Self {
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
                b'\n' | b'\r' => lines.push(self.take()),
                _ => self.partial.push(*byte),
            }
            if self.partial.len() >= length_max {
                lines.push(self.take_piece());
            }
        }
        lines
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.partial);
        printable(&self.masker.mask_bytes(&line))
    }

    /// Takes most of an over-long line; what may be the beginning of a secret stays.
    fn take_piece(&mut self) -> String {
        let (piece, taken) = self.masker.mask_settled(&self.partial);
        self.partial.drain(..taken);
        printable(&piece)
    }
}

/// `bytes` as text for a terminal or a log: colours stay, every other control sequence is made visible.
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
