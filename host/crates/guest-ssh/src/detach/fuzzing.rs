//! A way in for fuzzing to what a follower in the VM says; see `transfer/fuzzing.rs`.
#![allow(clippy::unwrap_used, reason = "a panic is what fuzzing looks for")]

use bytes::Bytes;

use super::frames::{Frames, Position, Said};
use crate::command::{Exit, Stream};

/// Reads the bytes as what followers say, in pieces of a length the first byte gives. At the byte that the second and third give
/// the connection breaks, and the rest is what the next follower says.
///
/// # Panics
///
/// If more comes out than went in, other pieces make another text, the place to go on at goes back, or what is to be told or
/// removed is no name of ours.
pub fn frames(bytes: &[u8]) {
    let &[size, high, low, ref bytes @ ..] = bytes else {
        return;
    };
    let cut = usize::from(u16::from_be_bytes([high, low])).min(bytes.len());
    let in_pieces = follow(bytes, cut, usize::from(size) + 1);
    assert_eq!(in_pieces, follow(bytes, cut, bytes.len().max(1)));
}

/// What was said on both streams, and how it ended.
type Followed = ([Vec<u8>; 2], Vec<String>);

fn follow(bytes: &[u8], cut: usize, size: usize) -> Followed {
    let mut followed = Followed::default();
    let mut position = Position::default();
    for part in [&bytes[..cut], &bytes[cut..]] {
        let mut frames = Frames::new(position.clone());
        let mut is_whole = true;
        for piece in part.chunks(size) {
            let pushed = frames.push(Bytes::copy_from_slice(piece), |said| {
                take(said, &mut followed);
            });
            if let Err(problem) = pushed {
                assert!(!problem.chars().any(char::is_control) && problem.len() < 600);
                is_whole = false;
                break;
            }
        }
        let next = frames.position();
        assert!(frames.arrived <= part.len() as u64);
        assert!(next.line >= position.line && next.bytes() >= position.bytes());
        if !is_whole {
            break;
        }
        position = next;
    }
    let got: usize = followed.0.iter().map(Vec::len).sum();
    assert!(got <= bytes.len());
    followed
}

fn take(said: Said, (texts, told): &mut Followed) {
    match said {
        Said::Output(Stream::Stdout, data) => texts[0].extend_from_slice(&data),
        Said::Output(Stream::Stderr, data) => texts[1].extend_from_slice(&data),
        Said::Fetched(file) => {
            // It goes to `rm` in the VM.
            let (kind, number) = file.split_once('.').unwrap();
            assert!(["1", "2", "index"].contains(&kind), "{file}");
            assert!(number.parse::<u64>().is_ok(), "{file}");
            told.push(file);
        }
        Said::End(Exit::Signal { name, .. }) => {
            assert!(!name.chars().any(char::is_control) && name.len() < 100);
            told.push(name);
        }
        other => told.push(format!("{other:?}")),
    }
}
