//! Texts that an encoder broke into lines: `base64` does after 76 characters, `openssl` and PEM after 64.

/// Where encoders break lines.
const WIDTHS: [usize; 2] = [64, 76];

/// What came before of a line that is looked at piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSoFar {
    length: usize,
    is_encoded: bool,
}

impl Default for LineSoFar {
    /// Nothing: a line begins.
    fn default() -> Self {
        Self {
            length: 0,
            is_encoded: true,
        }
    }
}

impl LineSoFar {
    /// Takes what comes next.
    pub fn take(&mut self, bytes: &[u8]) {
        let line = match bytes.iter().rposition(|&byte| byte == b'\n') {
            None => bytes,
            Some(end) => {
                *self = Self::default();
                &bytes[end + 1..]
            }
        };
        self.length = self.length.saturating_add(line.len());
        self.is_encoded &= is_encoded(line);
    }

    /// Whether an encoder would break the line after these bytes more.
    pub(crate) fn is_full_with(mut self, bytes: &[u8]) -> bool {
        self.take(bytes);
        self.is_encoded && WIDTHS.contains(&self.length)
    }
}

/// Lines of an encoder as the one text that they were, each but the last as long as such lines are.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) text: Vec<u8>,
    /// Where each byte of it stands.
    pub(super) places: Vec<usize>,
    /// Whether what follows may belong to it.
    pub(super) reaches_end: bool,
}

/// All texts in `bytes` that go over the end of a line. Takes a multiple of their size in memory, and nothing where there are none.
pub(super) fn join(bytes: &[u8], mut before: LineSoFar) -> Vec<Joined> {
    let mut all: Vec<Joined> = Vec::new();
    let mut goes_on = false;
    let mut start = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        let is_full = line.ends_with(b"\n") && before.is_full_with(content);
        if is_full && !goes_on {
            all.push(Joined {
                text: Vec::new(),
                places: Vec::new(),
                reaches_end: false,
            });
        }
        if let Some(joined) = all.last_mut().filter(|_| is_full || goes_on) {
            joined.text.extend_from_slice(content);
            joined.places.extend(start..start + content.len());
        }
        let is_last = start + line.len() == bytes.len();
        if let Some(joined) = all.last_mut().filter(|_| is_last && (is_full || goes_on)) {
            joined.reaches_end = is_full || !line.ends_with(b"\n");
        }
        goes_on = is_full;
        before = LineSoFar::default();
        start += line.len();
    }
    all
}

fn is_encoded(text: &[u8]) -> bool {
    let legal = |&byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    text.iter().all(legal)
}
