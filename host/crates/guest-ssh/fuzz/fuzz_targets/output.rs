//! What a command prints, on its way to the log. These two files are the host's own, without the host around them.
#![no_main]
#![allow(dead_code)]

#[path = "../../../../src"]
mod host {
    // Found as the host finds them, so that what they have below them is found, too.
    pub mod lines;
    pub mod mask;
}

use host::{lines, mask};

const SECRET: &str = "hunter2-and-more";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let masker = mask::Masker::default();
    masker.add(SECRET);
    let mut assembler = lines::LineAssembler::new(masker.clone());
    let mut shown = Vec::new();
    for piece in bytes.chunks(usize::from(first) + 1) {
        shown.extend(assembler.push(piece));
    }
    shown.extend(assembler.finish());
    let length: usize = shown.iter().map(String::len).sum();
    assert!(length <= 3 * bytes.len() + 3 * shown.len());
    for line in &shown {
        assert!(!line.contains(SECRET));
        // Colours are the only sequences left, and nothing else is a control character.
        for (at, found) in line.char_indices().filter(|(_, found)| found.is_control() && *found != '\t') {
            let rest = &line[at..];
            let end = rest.find('m').expect("a colour has an end");
            assert!(found == '\u{1b}' && rest[1..].starts_with('['));
            assert!(rest[2..end].chars().all(|part| part.is_ascii_digit() || ";:".contains(part)));
        }
    }
    // A stream that is masked in pieces comes out as the whole would.
    let mut stream = mask::StreamMasker::new(masker.clone());
    let mut pieces = Vec::new();
    for piece in bytes.chunks(usize::from(first) + 1) {
        pieces.extend(stream.push(piece));
    }
    pieces.extend(stream.finish());
    assert_eq!(pieces, masker.mask_bytes(bytes));
});
