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
    // bash and zsh. What the locale takes for unprintable is shown byte by byte.
    forms.push(behind_backslashes(text, " \t!\"$&'()*,;<>?[\\]^`{|}"));
    forms.push(behind_backslashes(text, "\"$\\`"));
    for locale in [Locale::Utf8, Locale::C] {
        forms.push(unprintable_apart(
            &behind_backslashes(text, " \"#$&'()*;<>?[\\]^`{|}"),
            locale,
        ));
        forms.push(ansi_c(text, locale, |byte| match byte {
            0x1b => r"\E".to_owned(),
            other => octal(other),
        }));
        forms.push(ansi_c(text, locale, octal).replace('!', r"\!"));
        forms.push(ansi_c(text, locale, meta_and_control));
    }
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

/// What a shell takes a text for.
#[derive(Clone, Copy)]
enum Locale {
    Utf8,
    /// Bytes, of which it knows ASCII.
    C,
}

impl Locale {
    fn prints(self, character: char) -> bool {
        match self {
            Self::Utf8 => !character.is_ascii_control(),
            Self::C => character == ' ' || character.is_ascii_graphic(),
        }
    }
}

/// Unprintable bytes in quotes of their own, as zsh's.
fn unprintable_apart(text: &str, locale: Locale) -> String {
    let mut form = String::with_capacity(text.len());
    for character in text.chars() {
        if locale.prints(character) {
            form.push(character);
            continue;
        }
        if character.is_ascii() {
            let quoted = ansi_c(character.encode_utf8(&mut [0; 4]), locale, octal);
            // Writing to a text cannot fail.
            let _ = write!(form, "$'{quoted}'");
            continue;
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(form, "$'{}'", octal(byte));
        }
    }
    form
}

fn octal(byte: u8) -> String {
    format!("\\{byte:03o}")
}

/// As zsh traces: `\C-A`, `\M-C`, `\M-\C-A`.
fn meta_and_control(byte: u8) -> String {
    let meta = if byte.is_ascii() { "" } else { r"\M-" };
    let shown = match byte & 0x7f {
        b'\n' => r"\n".to_owned(),
        b'\t' => r"\t".to_owned(),
        0x7f => r"\C-?".to_owned(),
        control @ 0..0x20 => format!("\\C-{}", char::from(control | 0x40)),
        other => char::from(other).to_string(),
    };
    format!("{meta}{shown}")
}

/// What stands in `$'…'`.
fn ansi_c(text: &str, locale: Locale, unprintable: impl Fn(u8) -> String) -> String {
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
            other if locale.prints(other) => form.push(other),
            other => {
                for byte in other.encode_utf8(&mut [0; 4]).bytes() {
                    form.push_str(&unprintable(byte));
                }
            }
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

    const SECRETS: [&str; 11] = [
        "itis's3cret",
        "first''second\"third$fourth`fifth\\sixth",
        "'leading'quote",
        "trailing'quote'''",
        "many words, (all) of*them #special; ~and=more!",
        "upper's line\nlower\"s line",
        "tabbed\tvalue's\u{1b}[0mcolour\u{1}end",
        "pass w$rd&co",
        "p\u{e4}ssw\u{f6}rd it's \u{dc}ber-geheim",
        "\u{1f511}key\u{1f5dd}\u{fe0f} of the\tdoor\u{1f6aa}",
        // Among their bytes are those that zsh shows as `\M-\C-M`, `\M-\n`, `\M-'` and `\M-\`.
        "\u{c0}one\u{c9}two\u{ca}three\u{cd}four\u{df}five\u{e7}six\u{710}seven",
    ];

    /// Whatever a shell prints of a secret by itself: no word of it is shown.
    #[test]
    fn no_shell_shows_a_secret_by_quoting_it() {
        let traced = "P=$V; : \"$P\" \"before$P after\"";
        let bash = "printf '%q\\n' \"$V\"; declare -p V; export -p; set | grep -a '^V='; echo \"${V@Q}\"; set -x; P=$V";
        let zsh = "printf '%q\\n' \"$V\"; typeset -p V; print -r -- ${(q)V} ${(qq)V} ${(qqq)V} ${(qqqq)V} ${(q+)V}; set -x; P=$V";
        for secret in SECRETS {
            let masker = Masker::default();
            masker.add(secret);
            let ways = [
                (&["sh", "-x"][..], traced),
                (&["bash", "-x"], traced),
                (&["zsh", "-f", "-x"], traced),
                (&["sh"], "export -p; set"),
                (&["bash"], bash),
                (&["zsh", "-f"], zsh),
            ];
            for (locale, (shell, script)) in ["C", "C.UTF-8"]
                .into_iter()
                .flat_map(|locale| ways.map(|way| (locale, way)))
            {
                let output = Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-c", script])
                    .env_clear()
                    // Where the sources are may hold a word of a secret, and is printed with the rest.
                    .current_dir("/")
                    .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                    .env("LC_ALL", locale)
                    .env("V", secret)
                    .output()
                    .unwrap_or_else(|problem| panic!("this test needs {}: {problem}", shell[0]));
                let said = [output.stdout, output.stderr].concat();
                let shown = String::from_utf8(masker.mask_bytes(&said)).unwrap();
                assert!(shown.contains("***"), "{shell:?} {locale}: {shown}");
                for word in secret.split(|character: char| !character.is_ascii_alphanumeric()) {
                    assert!(
                        word.len() < 3 || !shown.contains(word),
                        "{shell:?} {locale} shows `{word}` of {secret:?}: {shown}"
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
