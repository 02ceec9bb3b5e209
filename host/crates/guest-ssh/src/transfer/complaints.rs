//! What the VM's `tar` complains of while it packs, judged line by line as it comes: a few complaints are no harm, and any
//! other makes the transfer fail, however much is printed after it.

use crate::quote::printable;

/// A longer line is taken for a complaint of the worst kind. Names of the longest, escaped, fit.
const LINE_MAX: usize = 64 * 1024;

/// Entries that went away which are told by name.
const NAMED_MAX: usize = 10;

/// What both kinds say at their end about what they said before.
const CLOSING: [&str; 2] = [
    ": Exiting with failure status due to previous errors",
    ": Error exit delayed from previous errors.",
];

/// Entries that were listed and went away before they could be fetched.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    named: Vec<String>,
    more: u64,
}

impl Gone {
    pub(super) fn push(&mut self, entry: &[u8]) {
        if self.named.len() < NAMED_MAX {
            self.named.push(printable(entry));
        } else {
            self.more += 1;
        }
    }

    /// The first of them; [`None`] if there is none.
    pub(super) fn first(&self) -> Option<&str> {
        self.named.first().map(String::as_str)
    }

    /// One line for each, and one for those that are not named.
    pub(super) fn warnings(self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("left out {} more that went away", self.more));
        let named = self.named.into_iter();
        named
            .map(|name| {
                format!("left out `{name}`: it went away in the VM while files were fetched")
            })
            .chain(more)
    }
}

/// The complaints of one `tar`.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    line: Vec<u8>,
    is_cut: bool,
    /// Files that changed while they were read: what was sent of them is whole, and logs do grow.
    pub(super) changed: u64,
    /// Entries of which nothing was sent since they are no longer there.
    pub(super) gone: Gone,
    /// Something else is no longer there, and what was sent may be a part: another look may find all in order.
    pub(super) is_going: bool,
    /// The first complaint that is none of these.
    pub(super) worst: Option<String>,
}

impl Complaints {
    pub(super) fn push(&mut self, data: &[u8]) {
        let mut pieces = data.split(|&byte| byte == b'\n');
        self.extend(pieces.next().unwrap_or_default());
        for next in pieces {
            self.end_line();
            self.extend(next);
        }
    }

    /// Ends what was not ended by a line's end.
    pub(super) fn finish(&mut self) {
        self.end_line();
    }

    fn extend(&mut self, piece: &[u8]) {
        let room = LINE_MAX - self.line.len();
        self.is_cut |= piece.len() > room;
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let ends = |words: &str| line.ends_with(words.as_bytes());
        if std::mem::take(&mut self.is_cut) {
            self.is_worst(&line);
        } else if line.is_empty()
            || is_about_charset(&line)
            || CLOSING.iter().any(|words| ends(words))
        {
            // Of no consequence.
        } else if ends(": file changed as we read it") {
            self.changed += 1;
        } else if let Some(name) = gone(&line) {
            self.gone.push(name);
        } else if ends(": No such file or directory") {
            self.is_going = true;
        } else {
            self.is_worst(&line);
        }
    }

    fn is_worst(&mut self, line: &[u8]) {
        self.worst.get_or_insert_with(|| printable(line));
    }
}

/// The name in `tar: ./name: Cannot stat: No such file or directory`, as both kinds say before they send anything of it.
fn gone(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b": Cannot stat: No such file or directory")?;
    let at = line.windows(4).position(|part| part == b": ./")?;
    Some(&line[at + 4..])
}

/// bsdtar says so of each name that is not UTF-8, and sends it all the same.
pub(super) fn is_about_charset(line: &[u8]) -> bool {
    line.windows(15).any(|part| part == b"Can't translate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Complaints {
        // Cut everywhere once: lines arrive in any pieces.
        let whole = judge(&[text.as_bytes()]);
        for cut in 0..text.len() {
            let (one, other) = text.as_bytes().split_at(cut);
            let pieces = judge(&[one, other]);
            assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "{cut}");
        }
        whole
    }

    fn judge(pieces: &[&[u8]]) -> Complaints {
        let mut complaints = Complaints::default();
        for piece in pieces {
            complaints.push(piece);
        }
        complaints.finish();
        complaints
    }

    #[test]
    fn what_both_kinds_of_tar_say_is_told_apart() {
        let harmless = judged(
            "tar: ./build.log: file changed as we read it\nbsdtar: Can't translate pathname 'x' to UTF-8\n\
             tar: Exiting with failure status due to previous errors",
        );
        assert_eq!((harmless.changed, &harmless.worst), (1, &None));
        assert_eq!(harmless.gone, Gone::default());

        let away = judged(
            "tar: ./a b: Cannot stat: No such file or directory\nbsdtar: ./d/c: Cannot stat: No such file or directory\n\
             bsdtar: Error exit delayed from previous errors.\n",
        );
        assert_eq!(away.gone.first(), Some("a b"));
        assert!(!away.is_going && away.worst.is_none());

        assert!(judged("tar: ./x: Cannot open: No such file or directory\n").is_going);
        for worst in [
            "tar: ./x: File shrank by 5 bytes; padding with zeros",
            "tar: ./x: Cannot stat: Not a directory",
            "tar: ./x: Read error at byte 0, while reading 10 bytes: Input/output error",
        ] {
            let text = format!(
                "{worst}\n{}",
                "tar: ./l: file changed as we read it\n".repeat(3)
            );
            assert_eq!(judged(&text).worst.as_deref(), Some(worst));
        }
    }

    #[test]
    fn a_line_without_an_end_is_held_in_part_only() {
        let mut complaints = Complaints::default();
        for _ in 0..1000 {
            complaints.push(&[b'x'; 1000]);
        }
        assert!(complaints.line.capacity() <= 2 * LINE_MAX);
        complaints.push(b": file changed as we read it\n");
        assert!(complaints.worst.is_some());
    }

    #[test]
    fn many_that_went_away_are_counted() {
        let mut gone = Gone::default();
        for number in 0..25 {
            gone.push(format!("f{number}").as_bytes());
        }
        let told: Vec<_> = gone.warnings().collect();
        assert_eq!(told.len(), NAMED_MAX + 1);
        assert_eq!(told[NAMED_MAX], "left out 15 more that went away");
    }
}
