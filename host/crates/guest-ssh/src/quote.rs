//! Words for a remote shell, and paths in the VM. The one place where text becomes part of a command line.

use std::fmt;

use crate::Error;

/// Appends `word` to `line` so that the remote user's shell reads it as exactly that one word.
///
/// Single quotes carry every byte but three, which go outside them behind a backslash: the quote itself, the backslash
/// (fish reads it inside single quotes) and `!` (csh expands history there). POSIX shells, zsh and fish read
/// the result alike; csh and tcsh do unless the word holds a newline.
pub(crate) fn push_word(line: &mut Vec<u8>, word: &[u8]) {
    line.push(b'\'');
    for &byte in word {
        match byte {
            b'\'' | b'\\' | b'!' => line.extend_from_slice(&[b'\'', b'\\', byte, b'\'']),
            _ => line.push(byte),
        }
    }
    line.push(b'\'');
}

/// `exec /bin/sh -c SCRIPT orka-step ARGUMENTS…`, quoted for the login shell that `sshd` hands it to.
///
/// `script` is a constant of this crate; whatever varies travels as an argument, quoted once.
pub(crate) fn shell_line<'a>(
    script: &str,
    arguments: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut line = b"exec /bin/sh -c ".to_vec();
    push_word(&mut line, script.as_bytes());
    line.extend_from_slice(b" orka-step");
    for argument in arguments {
        line.push(b' ');
        push_word(&mut line, argument);
    }
    line
}

/// Refuses what no program argument can hold.
pub(crate) fn check_word(what: &'static str, word: &[u8]) -> Result<(), Error> {
    if word.contains(&0) {
        return Err(Error::Invalid {
            what,
            reason: "it holds a NUL byte".to_owned(),
        });
    }
    Ok(())
}

/// A name, or a line of what the VM says, for messages: control characters and bytes that are not UTF-8 are escaped. It is cut
/// far beyond what anybody reads: who shows an error cuts it, and can first hide secrets in it, which would not be known for
/// such once they are cut in two.
pub(crate) fn printable(name: &[u8]) -> String {
    const LONGEST: usize = 64 * 1024;
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || is_direction_mark(character) {
                text.extend(character.escape_unicode());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
            break;
        }
    }
    text
}

/// Marks that reorder text on a terminal, so that a name could look like another.
fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path in the VM. A relative path starts at the login user's home directory; an empty one is that directory.
#[derive(Clone, PartialEq, Eq)]
pub struct RemotePath(Vec<u8>);

impl RemotePath {
    /// Takes a path as the VM's file system knows it. `~` is an ordinary character.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it holds a NUL byte.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self, Error> {
        let path = path.as_ref();
        check_word("remote path", path)?;
        Ok(Self(path.to_vec()))
    }

    /// The login user's home directory.
    #[must_use]
    pub fn home() -> Self {
        Self(Vec::new())
    }

    /// The path with `name` below it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `name` holds a NUL byte.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, Error> {
        let name = name.as_ref();
        check_word("remote path", name)?;
        let mut path = self.0.clone();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Self(path))
    }

    /// The path as a program argument: never empty, never an option, never looked up in `CDPATH`.
    pub(crate) fn argument(&self) -> Vec<u8> {
        if self.0.starts_with(b"/") {
            return self.0.clone();
        }
        let mut argument = b"./".to_vec();
        argument.extend_from_slice(&self.0);
        argument
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "~" } else { "" })?;
        f.write_str(&printable(&self.0))
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemotePath({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Every byte but NUL, in an order that puts awkward neighbours together.
    fn every_byte() -> Vec<u8> {
        (1..=255).chain(*b"'\\!'\\\\''$(`x`)\"\n-~ *?[").collect()
    }

    fn shell_reads(shell: &str, word: &[u8]) -> Vec<u8> {
        let mut line = b"printf %s ".to_vec();
        push_word(&mut line, word);
        let line = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(line);
        let output = Command::new(shell).arg("-c").arg(line).output().unwrap();
        assert!(output.status.success(), "{shell}: {output:?}");
        output.stdout
    }

    #[test]
    fn every_byte_survives_the_shells_of_this_machine() {
        for shell in ["/bin/sh", "/bin/bash"] {
            assert_eq!(shell_reads(shell, &every_byte()), every_byte(), "{shell}");
            assert_eq!(shell_reads(shell, b""), b"", "{shell}");
        }
    }

    #[test]
    fn a_path_is_never_an_option_nor_empty() {
        let cases: [(&[u8], &[u8]); 4] = [
            (b"", b"./"),
            (b"-rf", b"./-rf"),
            (b"/a b", b"/a b"),
            (b"~/x", b"./~/x"),
        ];
        for (path, argument) in cases {
            assert_eq!(RemotePath::parse(path).unwrap().argument(), argument);
        }
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert!(matches!(
            RemotePath::parse(b"a\0b"),
            Err(Error::Invalid { .. })
        ));
        assert!(RemotePath::home().join("a\0").is_err());
    }

    #[test]
    fn names_in_messages_cannot_move_the_cursor() {
        assert_eq!(printable(b"a\x1b[2Jb\n\xff"), "a\\u{1b}[2Jb\\u{a}\\xff");
        assert_eq!(printable("x\u{202e}y".as_bytes()), "x\\u{202e}y");
        assert!(printable(&[b'a'; 100_000]).len() < 70_000);
    }
}
