//! `vm-metadata`: the Task's YAML flow list, `[ { key: k, value: v }, … ]`; JSON is a part of it.
//!
//! Only what such a list needs of YAML 1.2 (chapter 7, flow styles) is read: a complete YAML library would make the
//! plugin several times as large.

/// Key and value of each item, in order.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut reader = Reader { rest: text };
    let items = reader.items()?;
    reader.skip_blank();
    if !reader.rest.is_empty() {
        return Err(format!("goes on after the list: `{}`", reader.excerpt()));
    }
    Ok(items)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn items(&mut self) -> Result<Vec<(String, String)>, String> {
        self.expect('[')?;
        let mut items = Vec::new();
        while !self.take(']') {
            items.push(self.item()?);
            if !self.take(',') {
                self.expect(']')?;
                break;
            }
        }
        Ok(items)
    }

    fn item(&mut self) -> Result<(String, String), String> {
        self.expect('{')?;
        let (mut key, mut value) = (None, None);
        while !self.take('}') {
            let name = self.scalar()?;
            self.expect(':')?;
            let text = self.scalar()?;
            let member = match name.as_str() {
                "key" => &mut key,
                "value" => &mut value,
                _ => {
                    return Err(format!(
                        "has an item with `{name}`; items have `key` and `value`"
                    ));
                }
            };
            if member.replace(text).is_some() {
                return Err(format!("has an item with two members `{name}`"));
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        match (key, value) {
            (Some(key), Some(value)) if !key.is_empty() => Ok((key, value)),
            (None, _) | (Some(_), None) => Err("has an item without `key` or `value`".to_owned()),
            _ => Err("has an item with an empty `key`".to_owned()),
        }
    }

    fn scalar(&mut self) -> Result<String, String> {
        self.skip_blank();
        match self.rest.chars().next() {
            Some('"') => self.double_quoted(),
            Some('\'') => self.single_quoted(),
            Some('[' | '{') => Err("has a list or an object where a text belongs".to_owned()),
            _ => Ok(self.plain()),
        }
    }

    /// A plain scalar ends at `,`, `]`, `}`, or a `:` that is followed by a blank (YAML 1.2, 7.3.3).
    fn plain(&mut self) -> String {
        let mut end = self.rest.len();
        for (position, letter) in self.rest.char_indices() {
            let after = self.rest[position + letter.len_utf8()..].chars().next();
            let is_colon = letter == ':'
                && after.is_none_or(|after| after.is_whitespace() || "\"'[{".contains(after));
            if matches!(letter, ',' | ']' | '}' | '{' | '[' | '\n') || is_colon {
                end = position;
                break;
            }
        }
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text.trim().to_owned()
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut letters = self.rest[1..].char_indices().peekable();
        while let Some((position, letter)) = letters.next() {
            if letter != '\'' {
                text.push(letter);
            } else if letters.peek().is_some_and(|(_, next)| *next == '\'') {
                letters.next();
                text.push('\'');
            } else {
                self.rest = &self.rest[1 + position + 1..];
                return Ok(text);
            }
        }
        Err("has a `'` that is never closed".to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut letters = self.rest[1..].char_indices();
        while let Some((position, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = &self.rest[1 + position + 1..];
                    return Ok(text);
                }
                '\\' => {
                    let escape = letters.next().map(|(_, escape)| escape).unwrap_or_default();
                    text.push(match escape {
                        '"' | '\\' | '/' => escape,
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'u' => unicode(&mut letters)?,
                        _ => return Err(format!("has an unknown escape `\\{escape}`")),
                    });
                }
                _ => text.push(letter),
            }
        }
        Err("has a `\"` that is never closed".to_owned())
    }

    fn take(&mut self, expected: char) -> bool {
        self.skip_blank();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        if self.take(expected) {
            return Ok(());
        }
        let found = if self.rest.is_empty() {
            "its end".to_owned()
        } else {
            format!("`{}`", self.excerpt())
        };
        Err(format!(
            "needs `{expected}` before {found}; write `[{{ key: name, value: text }}]`"
        ))
    }

    fn skip_blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn excerpt(&self) -> String {
        self.rest.chars().take(20).collect()
    }
}

/// The four hex digits of `\u`, with a second escape where the first is one half of a surrogate pair (RFC 8259, 7).
fn unicode(letters: &mut std::str::CharIndices<'_>) -> Result<char, String> {
    let wrong = || "has a `\\u` escape that is no character".to_owned();
    let first = four_digits(letters).ok_or_else(wrong)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first).ok_or_else(wrong);
    }
    let follows = letters.next().map(|(_, letter)| letter) == Some('\\')
        && letters.next().map(|(_, letter)| letter) == Some('u');
    let second = four_digits(letters)
        .filter(|second| follows && (0xdc00..0xe000).contains(second))
        .ok_or_else(wrong)?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or_else(wrong)
}

fn four_digits(letters: &mut std::str::CharIndices<'_>) -> Option<u32> {
    (0..4).try_fold(0, |number, _| {
        Some(number << 4 | letters.next()?.1.to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn reads_what_the_task_documents() {
        assert_eq!(
            pairs("[ { key: foo, value: 1 }, { key: bar, value: some text } ]"),
            [pair("foo", "1"), pair("bar", "some text")]
        );
    }

    #[test]
    fn reads_json() {
        let text = r#"[{"key":"a","value":"x, y: \"z\" \u00e9 \ud83c\udf4e\n"},{"value":"https://host:8080/","key":"b"}]"#;
        assert_eq!(
            pairs(text),
            [
                pair("a", "x, y: \"z\" é 🍎\n"),
                pair("b", "https://host:8080/")
            ]
        );
    }

    #[test]
    fn reads_quotes_blanks_colons_and_trailing_commas() {
        assert_eq!(pairs("[]"), []);
        assert_eq!(
            pairs("[\n  { key: 'it''s', value: http://host:80/x },\n]\n"),
            [pair("it's", "http://host:80/x")]
        );
        assert_eq!(pairs("[{key: a, value: ''}]"), [pair("a", "")]);
        assert_eq!(pairs("[{key: a, value: }]"), [pair("a", "")]);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("key: a", "needs `[`"),
            ("[{key: a}]", "without `key` or `value`"),
            ("[{key: a, value: b, extra: c}]", "`extra`"),
            ("[{key: a, key: b, value: c}]", "two members `key`"),
            ("[{key: a, value: [1]}]", "a list or an object"),
            ("[{key: 'a, value: b}]", "never closed"),
            ("[{key: a, value: b}] trailing", "goes on after"),
            ("[{key: a, value: b}", "needs `]`"),
            ("[{key: '', value: b}]", "empty `key`"),
            (r#"[{"key":"\ud83c","value":"x"}]"#, "no character"),
            (r#"[{"key":"\x","value":"x"}]"#, "unknown escape"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn no_input_panics() {
        let letters = [
            "[", "{", "key", ":", " ", "\"", "'", "\\u", "d83c", ",", "}", "]", "é", "\n",
        ];
        // Every short sequence of the letters that mean something.
        for one in letters {
            for two in letters {
                for three in letters {
                    for four in letters {
                        let _ = parse(&format!("[{{key: {one}{two}{three}{four}"));
                        let _ = parse(&[one, two, three, four].concat());
                    }
                }
            }
        }
    }
}
