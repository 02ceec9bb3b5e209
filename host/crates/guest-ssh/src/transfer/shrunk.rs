//! Files that became shorter while they were sent.
//!
//! GNU's `tar` says so and ends badly. bsdtar fills them up with zeros to the size it told before, says nothing, and ends
//! well: so whatever came from it with a zero at its end is looked at once more.

use std::os::unix::ffi::OsStrExt;

use super::Moved;
use super::facts::{BEGIN, Beginning};
use crate::command::{self, Exit};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::quote::printable;
use crate::{Error, RemotePath};

/// Argument: directory. Names come on standard input, and for each a line goes out: size and kind, or `gone`. `stat` leaves
/// out the line of what is not there, so then a batch is asked one by one.
const SIZES: &str = r#"printf 'orka-step: begin\n'
cd "$1" || exit
how=wc
case $(stat -f %z . 2>/dev/null) in
''|*[!0-9]*) case $(stat -c %s . 2>/dev/null) in ''|*[!0-9]*) ;; *) how=-c ;; esac ;;
*) how=-f ;;
esac
exec xargs -0 sh -c 'how=$1; shift
size() {
case $how in
-f) stat -f "%z %HT" "$@" 2>/dev/null ;;
-c) stat -c "%s %F" "$@" 2>/dev/null ;;
*) [ -f "$1" ] && [ ! -L "$1" ] && [ $# = 1 ] && echo $(wc -c <"$1") regular ;;
esac
}
if lines=$(size "$@"); then printf "%s\n" "$lines"
else for file; do line=$(size "$file") || line=gone; printf "%s\n" "$line"; done
fi' sh "$how""#;

/// Bytes of one line of the answer, at most.
const LINE_MAX: usize = 64;

/// What has to be looked at: names as `xargs -0` takes them, and the sizes that came.
pub(super) struct Suspects {
    names: Vec<u8>,
    sizes: Vec<u64>,
}

impl Suspects {
    /// What was filled up ends with a zero.
    pub(super) fn among(moved: &Moved) -> Self {
        let mut suspects = Self {
            names: Vec::new(),
            sizes: Vec::new(),
        };
        for file in moved.zero_ended.iter().map(|&at| &moved.files[at]) {
            suspects.names.extend_from_slice(b"./");
            suspects
                .names
                .extend_from_slice(file.path.as_os_str().as_bytes());
            suspects.names.push(0);
            suspects.sizes.push(file.size);
        }
        suspects
    }

    /// The first of them that is shorter now. [`None`] within if there is none, and without if this is no answer.
    fn shrunk(&self, answer: &[u8]) -> Option<Option<String>> {
        let lines: Vec<_> = answer
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        if lines.len() != self.sizes.len() {
            return None;
        }
        let names = self.names.split(|&byte| byte == 0);
        let mut all = names.zip(&self.sizes).zip(lines);
        let found = all.find(|((_, came), line)| size(line).is_some_and(|now| now < **came));
        Some(found.map(|((name, _), _)| printable(name.strip_prefix(b"./").unwrap_or(name))))
    }
}

/// The size of a regular file. What took its place tells nothing about what was sent.
fn size(line: &[u8]) -> Option<u64> {
    let (size, kind) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    kind.to_ascii_lowercase()
        .starts_with("regular")
        .then(|| size.parse().ok())?
}

impl Connection {
    /// The name of a file that is shorter in the VM than what came of it.
    pub(super) async fn find_shrunk(
        &self,
        remote: &RemotePath,
        suspects: Suspects,
    ) -> Result<Option<String>, Error> {
        if suspects.sizes.is_empty() {
            return Ok(None);
        }
        let path = remote.argument();
        let names = Stdin::Bytes(suspects.names.clone().into());
        let start = Start::script(SIZES, [path.as_slice()], names);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let answer_max = suspects.sizes.len() * LINE_MAX + BEGIN.len() + 4096;
        let said = command.collect(answer_max).await?;
        let answer = Beginning::default().strip(said.stdout.into());
        suspects.shrunk(&answer).ok_or_else(|| Error::RemoteFailed {
            what: "looking at what was sent",
            exit: said.exit.unwrap_or(Exit::Status(0)),
            stderr: said.stderr.text(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_shorter_is_named() {
        let suspects = Suspects {
            names: b"./same\0./gone\0./link\0./longer\0./short\nname\0".to_vec(),
            sizes: vec![5, 5, 5, 5, 5],
        };
        let shrunk = |last| {
            let lines = format!("5 Regular File\ngone\n1 symbolic link\n9 regular file\n{last}\n");
            suspects.shrunk(lines.as_bytes())
        };
        assert_eq!(shrunk("5 regular file"), Some(None));
        let name = Some(printable(b"short\nname"));
        assert_eq!(shrunk("0 regular empty file"), Some(name));
        // A line is missing: nobody knows whose.
        assert_eq!(shrunk(""), None);
    }
}
