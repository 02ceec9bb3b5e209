//! Texts as shells and browsers quote them: what `set -x`, `printf %q`, `declare -p` and `encodeURIComponent` print.
//!
//! The quotes around a text are no part of any form, so that one which is quoted within a longer text is found too.

use std::fmt::Write as _;

/// All forms of `text`. Those that do not differ from it are among them.
pub(super) fn forms(text: &str) -> Vec<String> {
    // At its ends shells may leave out the quotes that would be empty.
    let inner = text.trim_matches('\'');
    let mut forms = Vec::new();
    for part in [text, inner] {
        // bash and most others, zsh, dash: they differ where several quotes follow each other.
        forms.push(part.replace('\'', r"'\''"));
        forms.push(runs_of_quotes(part, |run| {
            format!("'{}'", r"\'".repeat(run))
        }));
        forms.push(runs_of_quotes(part, |run| {
            format!("'\"{}\"'", "'".repeat(run))
        }));
    }
    // bash and zsh.
    forms.push(behind_backslashes(text, " \t!\"$&'()*,;<>?[\\]^`{|}"));
    forms.push(controls_apart(&behind_backslashes(
        text,
        " \"#$&'()*;<>?[\\]^`{|}",
    )));
    forms.push(behind_backslashes(text, "\"$\\`"));
    forms.push(ansi_c(text, |control| match control {
        '\u{1b}' => r"\E".to_owned(),
        other => octal(other),
    }));
    forms.push(ansi_c(text, |control| match control {
        '\u{7f}' => r"\C-?".to_owned(),
        other => format!("\\C-{}", char::from(other as u8 | 0x40)),
    }));
    forms.push(uri_component(text));
    forms
}

fn runs_of_quotes(text: &str, quoted: impl Fn(usize) -> String) -> String {
    let mut form = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\'') {
        form.push_str(&rest[..start]);
        let after = rest[start..].trim_start_matches('\'');
        form.push_str(&quoted(rest.len() - start - after.len()));
        rest = after;
    }
    form + rest
}

fn behind_backslashes(text: &str, special: &str) -> String {
    let mut form = String::with_capacity(text.len());
    for character in text.chars() {
        if special.contains(character) {
            form.push('\\');
        }
        form.push(character);
    }
    form
}

/// Control characters in quotes of their own, as zsh's.
fn controls_apart(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_control() {
            let quoted = ansi_c(character.encode_utf8(&mut [0; 4]), octal);
            // Writing to a text cannot fail.
            let _ = write!(form, "$'{quoted}'");
        } else {
            form.push(character);
        }
    }
    form
}

fn octal(control: char) -> String {
    format!("\\{:03o}", u32::from(control))
}

/// What stands in `$'…'`.
fn ansi_c(text: &str, control: impl Fn(char) -> String) -> String {
    let mut form = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => form.push_str(r"\\"),
            '\'' => form.push_str(r"\'"),
            '\n' => form.push_str(r"\n"),
            '\t' => form.push_str(r"\t"),
            '\r' => form.push_str(r"\r"),
            '\u{7}' => form.push_str(r"\a"),
            '\u{8}' => form.push_str(r"\b"),
            '\u{b}' => form.push_str(r"\v"),
            '\u{c}' => form.push_str(r"\f"),
            other if other.is_ascii_control() => form.push_str(&control(other)),
            other => form.push(other),
        }
    }
    form
}

fn uri_component(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            form.push(char::from(byte));
        } else {
            let _ = write!(form, "%{byte:02X}");
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::mask::Masker;

    const SECRETS: [&str; 8] = [
        "itis's3cret",
        "first''second\"third$fourth`fifth\\sixth",
        "'leading'quote",
        "trailing'quote'''",
        "many words, (all) of*them #special; ~and=more!",
        "upper's line\nlower\"s line",
        "tabbed\tvalue's\u{1b}[0mcolour\u{1}end",
        "pass w$rd&co",
    ];

    /// Whatever a shell prints of a secret by itself: no word of it is shown.
    #[test]
    fn no_shell_shows_a_secret_by_quoting_it() {
        let traced = "P=$V; : \"$P\" \"before$P after\"";
        let bash = "printf '%q\\n' \"$V\"; declare -p V; export -p; set | grep -a '^V='; echo \"${V@Q}\"; set -x; P=$V";
        let zsh = "printf '%q\\n' \"$V\"; typeset -p V; print -r -- ${(q)V} ${(qq)V} ${(qqq)V}; set -x; P=$V";
        for secret in SECRETS {
            let masker = Masker::default();
            masker.add(secret);
            for (shell, script) in [
                (&["sh", "-x"][..], traced),
                (&["bash", "-x"], traced),
                (&["zsh", "-f", "-x"], traced),
                (&["sh"], "export -p; set"),
                (&["bash"], bash),
                (&["zsh", "-f"], zsh),
            ] {
                let output = Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-c", script])
                    .env_clear()
                    .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                    .env("V", secret)
                    .output()
                    .unwrap_or_else(|problem| panic!("this test needs {}: {problem}", shell[0]));
                let said = [output.stdout, output.stderr].concat();
                let shown = String::from_utf8(masker.mask_bytes(&said)).unwrap();
                assert!(shown.contains("***"), "{shell:?}: {shown}");
                for word in secret.split(|character: char| !character.is_ascii_alphanumeric()) {
                    assert!(
                        word.len() < 3 || !shown.contains(word),
                        "{shell:?} shows `{word}` of {secret:?}: {shown}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_browser_shows_a_secret_by_encoding_it() {
        let masker = Masker::default();
        masker.add("it's (a) *s3cret*!");
        assert_eq!(
            masker.mask("q=it's%20(a)%20*s3cret*!&r=it%27s+%28a%29+*s3cret*%21"),
            "q=***&r=***"
        );
    }
}
