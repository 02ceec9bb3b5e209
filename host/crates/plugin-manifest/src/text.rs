//! Texts of plugins as they are shown to people.

/// Characters that reorder or hide their neighbours: bidirectional control (Unicode Standard Annex 9; "Trojan Source",
/// CVE-2021-42574), invisible operators, separators that some viewers take for a line's end, tags, and fillers without width.
/// Joiners stay: scripts and emoji need them.
pub fn is_disguise(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Whether a character could forge or hide something of what is printed around it, on a terminal or in a log.
pub(crate) fn is_deceptive(character: char) -> bool {
    character.is_control() || is_disguise(character)
}

/// A text of a plugin as part of a line: what could end or forge the line is escaped, all else stays.
pub fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if is_deceptive(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}
