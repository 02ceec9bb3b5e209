//! What a VM has to offer to transfers: asked once a connection, in one command without input.
//!
//! Without input, because what answers may be no shell at all: `internal-sftp` in its place ends at once, where a tar
//! stream sent on trust could mean anything to it.

use crate::Error;
use crate::command;
use crate::connection::Connection;
use crate::exec::{Start, Stdin};

/// Which `tar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tar {
    Gnu,
    Bsd,
    Other,
}

/// How a listing with sizes and times is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Details {
    /// `find -printf`, as GNU has it.
    Printf,
    /// `stat -f`, as macOS has it.
    StatF,
    /// `stat -c`, as BusyBox has it.
    StatC,
}

/// What the VM has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) tar: Option<Tar>,
    pub(super) find: bool,
    pub(super) details: Option<Details>,
    pub(super) gzip: bool,
    /// The program that prints SHA-256, with its arguments.
    pub(super) sha256: Option<&'static str>,
}

const ASK: &str = r#"printf 'orka-step: begin\n'
if command -v tar >/dev/null; then
case $(tar --version 2>/dev/null) in *bsdtar*) echo tar=bsd ;; *GNU*) echo tar=gnu ;; *) echo tar=other ;; esac
fi
command -v find >/dev/null && echo find
if find / -prune -printf '' 2>/dev/null; then echo details=printf
else case $(stat -f %z / 2>/dev/null) in
''|*[!0-9]*) case $(stat -c %s / 2>/dev/null) in ''|*[!0-9]*) ;; *) echo details=c ;; esac ;;
*) echo details=f ;;
esac
fi
command -v gzip >/dev/null && echo gzip
if command -v sha256sum >/dev/null; then echo sha256=sha256sum; elif command -v shasum >/dev/null; then echo sha256=shasum; fi
echo end"#;

/// What every script of a transfer prints first. What a chatty login shell printed before is passed over.
pub(super) const BEGIN: &[u8] = b"orka-step: begin\n";

/// What may be printed before [`BEGIN`].
const NOISE_MAX: usize = 1024 * 1024;

/// More than the answer can be.
const ANSWER_MAX: usize = NOISE_MAX + 4096;

impl Facts {
    pub(super) fn parse(answer: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(answer).ok()?;
        let mut facts = Self::default();
        let mut ended = false;
        for line in text.lines() {
            match line {
                "tar=gnu" => facts.tar = Some(Tar::Gnu),
                "tar=bsd" => facts.tar = Some(Tar::Bsd),
                "tar=other" => facts.tar = Some(Tar::Other),
                "find" => facts.find = true,
                "details=printf" => facts.details = Some(Details::Printf),
                "details=f" => facts.details = Some(Details::StatF),
                "details=c" => facts.details = Some(Details::StatC),
                "gzip" => facts.gzip = true,
                "sha256=sha256sum" => facts.sha256 = Some("sha256sum"),
                "sha256=shasum" => facts.sha256 = Some("shasum -a 256"),
                "end" => ended = true,
                _ => {}
            }
        }
        ended.then_some(facts)
    }
}

/// Passes over what comes before [`BEGIN`].
#[derive(Default)]
pub(crate) struct Beginning {
    seen: Vec<u8>,
    begun: bool,
}

impl Beginning {
    /// What of `data` belongs to the script's own output.
    pub(crate) fn strip(&mut self, data: bytes::Bytes) -> bytes::Bytes {
        if self.begun {
            return data;
        }
        // Only a beginning that reaches into what is new was not looked for before.
        let from = self.seen.len().saturating_sub(BEGIN.len() - 1);
        self.seen.extend_from_slice(&data);
        if let Some(at) = find(&self.seen[from..], BEGIN) {
            self.begun = true;
            return std::mem::take(&mut self.seen)
                .split_off(from + at + BEGIN.len())
                .into();
        }
        if self.seen.len() > NOISE_MAX {
            self.seen.drain(..self.seen.len() - BEGIN.len());
        }
        bytes::Bytes::new()
    }

    /// Whether the script was started at all; if not, another program stands in its place.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

impl Connection {
    /// What the VM has, or [`Error::ExecRefused`] if it runs no commands for us.
    pub(super) async fn ask_facts(&self) -> Result<Facts, Error> {
        let start = Start::script(ASK, [], Stdin::None);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(ANSWER_MAX).await?;
        let mut beginning = Beginning::default();
        let answer = beginning.strip(said.stdout.into());
        Facts::parse(&answer).ok_or_else(|| self.no_shell(&said.stderr.text()))
    }

    /// Something else than our script answered.
    pub(super) fn no_shell(&self, stderr: &str) -> Error {
        Error::ExecRefused {
            address: self.address(),
            reason: format!("another program takes its place: {stderr}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn noise_before_the_beginning_is_passed_over_in_any_pieces() {
        let stream = b"Welcome!\norka-step: be\norka-step: begin\ndata orka-step: begin\nmore";
        for size in 1..stream.len() {
            let mut beginning = Beginning::default();
            let mut got = Vec::new();
            for piece in stream.chunks(size) {
                got.extend_from_slice(&beginning.strip(Bytes::copy_from_slice(piece)));
            }
            assert_eq!(got, b"data orka-step: begin\nmore", "{size}");
        }
    }

    /// A VM may send its greetings byte by byte: then each is looked at a few times, and not as often as there are others.
    #[test]
    fn much_noise_in_small_pieces_takes_no_time_to_speak_of() {
        let mut beginning = Beginning::default();
        for _ in 0..NOISE_MAX {
            assert!(beginning.strip(Bytes::from_static(b"o")).is_empty());
        }
        let rest = beginning.strip(Bytes::from_static(b"orka-step: begin\nrest"));
        assert_eq!(rest.as_ref(), b"rest");
    }

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        assert_eq!(Facts::parse(b"tar=gnu\nfind\n"), None);
        let facts = Facts::parse(b"tar=bsd\ndetails=f\nsha256=shasum\nend\n").unwrap();
        assert_eq!((facts.tar, facts.find), (Some(Tar::Bsd), false));
        assert_eq!(facts.sha256, Some("shasum -a 256"));
    }
}
