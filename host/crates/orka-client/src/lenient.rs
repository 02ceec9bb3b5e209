//! Reading JSON whose types vary from release to release.
//!
//! Orka writes ports as strings, numbers, `"N/A"`, `""` or `null`, booleans as strings, and error
//! lists in several shapes. Everything here turns such a value into an `Option` and never fails:
//! whether a missing value matters is for the caller to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// A JSON object as the rest of the crate passes it around.
pub(crate) type Object = Map<String, Value>;

/// Longest text of others repeated in an error. Far more than anybody reads: who shows an error cuts it, and can first hide
/// secrets in it, which would not be known for such once they are cut in two.
pub(crate) const QUOTED_CHARS_MAX: usize = 64 * 1024;

/// Most server texts repeated in one error.
const MESSAGES_MAX: usize = 10;

/// Words that Orka writes where it means "no value".
const ABSENT: [&str; 6] = ["", "n/a", "none", "null", "undefined", "<nil>"];

/// The first of `names` that holds something other than `null`.
pub(crate) fn member<'a>(object: &'a Object, names: &[&str]) -> Option<&'a Value> {
    names
        .iter()
        .find_map(|name| object.get(*name).filter(|value| !value.is_null()))
}

/// A text, or a number written out; `None` for the words that mean "no value".
pub(crate) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let absent = ABSENT.iter().any(|word| text.eq_ignore_ascii_case(word));
    (!absent).then_some(text)
}

/// [`text`] of the first present member of `names`.
pub(crate) fn text_of(object: &Object, names: &[&str]) -> Option<String> {
    member(object, names).and_then(text)
}

/// A whole number, also as a decimal string or as a float without a fraction.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .or_else(|| number.as_f64().and_then(whole_float)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// [`whole`] of the first present member of `names`.
pub(crate) fn whole_of(object: &Object, names: &[&str]) -> Option<u64> {
    member(object, names).and_then(whole)
}

/// [`whole_of`] as a count, such as cores.
pub(crate) fn count_of(object: &Object, names: &[&str]) -> Option<u32> {
    whole_of(object, names).and_then(|number| u32::try_from(number).ok())
}

/// A size in GiB: a number, or a string such as `"7.5"` or `"30G"`; `None` for words such as `"automatic"`, and for 0.
pub(crate) fn gib_of(object: &Object, names: &[&str]) -> Option<f64> {
    let size = match member(object, names)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .trim_end_matches(['G', 'g', 'i', 'B', 'b'])
            .parse()
            .ok(),
        _ => None,
    };
    size.filter(|size: &f64| size.is_finite() && *size > 0.0)
}

/// The texts of a list; other elements are skipped.
pub(crate) fn texts_of(object: &Object, names: &[&str]) -> Vec<String> {
    member(object, names)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(text)
        .collect()
}

/// A TCP port; zero and anything above 65535 is no port.
pub(crate) fn port_of(object: &Object, names: &[&str]) -> Option<u16> {
    whole_of(object, names)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port != 0)
}

/// An IP address.
pub(crate) fn ip_of(object: &Object, names: &[&str]) -> Option<IpAddr> {
    text_of(object, names).and_then(|text| text.parse().ok())
}

/// A boolean, also as `"true"` or `"false"`.
pub(crate) fn boolean_of(object: &Object, names: &[&str]) -> Option<bool> {
    match member(object, names)? {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The objects of a list; other elements are skipped.
pub(crate) fn objects_of<'a>(object: &'a Object, names: &[&str]) -> Vec<&'a Object> {
    member(object, names)
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| objects_in(list))
}

/// The objects among `list`.
pub(crate) fn objects_in(list: &[Value]) -> Vec<&Object> {
    list.iter().filter_map(Value::as_object).collect()
}

/// A map of strings; numbers and booleans are written out, other values skipped.
pub(crate) fn strings_of(object: &Object, names: &[&str]) -> BTreeMap<String, String> {
    let Some(map) = member(object, names).and_then(Value::as_object) else {
        return BTreeMap::new();
    };
    map.iter()
        .filter_map(|(key, value)| match value {
            Value::String(text) => Some((key.clone(), text.clone())),
            Value::Number(_) | Value::Bool(_) => Some((key.clone(), value.to_string())),
            _ => None,
        })
        .collect()
}

/// The texts in a list of messages, however it is written: `[{"message": "…"}]`, `["…"]`, one object or one string.
///
/// An element without a recognisable text is shown as JSON rather than dropped: an entry in `errors` is a failure.
pub(crate) fn messages(value: Option<&Value>) -> Vec<String> {
    let texts = match value {
        Some(Value::Array(list)) => list.iter().filter_map(message).collect(),
        Some(value) => message(value).into_iter().collect::<Vec<_>>(),
        None => Vec::new(),
    };
    texts.into_iter().take(MESSAGES_MAX).collect()
}

fn message(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null | Value::Bool(false) => return None,
        Value::Object(object) if object.is_empty() => return None,
        Value::String(text) => text.clone(),
        Value::Object(object) => ["message", "msg", "error", "detail"]
            .iter()
            .find_map(|name| object.get(*name).and_then(Value::as_str))
            .map_or_else(|| value.to_string(), str::to_owned),
        other => other.to_string(),
    };
    Some(printable(&text, QUOTED_CHARS_MAX)).filter(|text| !text.is_empty())
}

/// `text` on one line without control characters, cut after `chars_max` characters.
pub(crate) fn printable(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    let mut chars = 0;
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        let separator = usize::from(!shown.is_empty());
        let room = chars_max.saturating_sub(chars + separator);
        if room == 0 {
            return shown + "…";
        }
        if separator == 1 {
            shown.push(' ');
        }
        let length = word.chars().count();
        shown.extend(word.chars().take(room));
        if length > room {
            return shown + "…";
        }
        chars += separator + length;
    }
    shown
}

/// The whole number that `float` is, if it is one that fits.
fn whole_float(float: f64) -> Option<u64> {
    let fits = float.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&float);
    // The range check above makes the conversion exact.
    fits.then_some(float as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn reads_a_port_however_it_is_written() {
        for (written, port) in [
            (json!("8822"), Some(8822)),
            (json!(8822), Some(8822)),
            (json!(8822.0), Some(8822)),
            (json!(" 8822 "), Some(8822)),
            (json!("N/A"), None),
            (json!(""), None),
            (json!(null), None),
            (json!(0), None),
            (json!(65536), None),
            (json!(-1), None),
            (json!(22.5), None),
            (json!(true), None),
            (json!([22]), None),
        ] {
            assert_eq!(
                port_of(&object(json!({ "ssh_port": written })), &["ssh_port"]),
                port,
                "{written}"
            );
        }
        assert_eq!(port_of(&Object::new(), &["ssh_port"]), None);
    }

    #[test]
    fn reads_a_boolean_that_may_be_a_string() {
        for (written, flag) in [
            (json!(true), Some(true)),
            (json!("true"), Some(true)),
            (json!("False"), Some(false)),
            (json!("N/A"), None),
            (json!(null), None),
            (json!(1), None),
        ] {
            assert_eq!(
                boolean_of(&object(json!({ "io_boost": written })), &["io_boost"]),
                flag,
                "{written}"
            );
        }
    }

    #[test]
    fn takes_the_words_for_nothing_as_nothing() {
        for word in ["", "N/A", "n/a", "None", " none ", "null"] {
            assert_eq!(text(&json!(word)), None, "{word:?}");
        }
        assert_eq!(text(&json!("mini-3")).as_deref(), Some("mini-3"));
        assert_eq!(text(&json!(7)).as_deref(), Some("7"));
    }

    #[test]
    fn prefers_the_first_member_that_is_not_null() {
        let both = object(json!({ "creation_timestamp": null, "creationTimestamp": "2020" }));
        assert_eq!(
            text_of(&both, &["creation_timestamp", "creationTimestamp"]).as_deref(),
            Some("2020")
        );
    }

    #[test]
    fn finds_error_texts_in_every_shape() {
        for (errors, texts) in [
            (json!([]), vec![]),
            (json!(null), vec![]),
            (json!({}), vec![]),
            (json!(""), vec![]),
            (
                json!([{ "message": "a" }, { "message": "b" }]),
                vec!["a", "b"],
            ),
            (json!(["a"]), vec!["a"]),
            (json!({ "message": "a" }), vec!["a"]),
            (json!("a"), vec!["a"]),
            (json!([{ "code": 7 }]), vec![r#"{"code":7}"#]),
        ] {
            assert_eq!(messages(Some(&errors)), texts, "{errors}");
        }
    }

    #[test]
    fn shows_server_text_on_one_line_without_control_characters() {
        assert_eq!(
            printable("<html>\r\n\t<b>\u{1b}[31mred\u{7}</b>", 100),
            "<html> <b> [31mred </b>"
        );
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc def", 4), "abc…");
        assert_eq!(printable("abc", 3), "abc");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[a-z_]{0,8}|message", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics_whatever_the_json(value in any_json()) {
            let object: Object = [("x".to_owned(), value.clone())].into_iter().collect();
            let _ = (text(&value), whole(&value), messages(Some(&value)));
            let _ = (port_of(&object, &["x"]), ip_of(&object, &["x"]), boolean_of(&object, &["x"]));
            let _ = (objects_of(&object, &["x"]).len(), strings_of(&object, &["x"]));
        }

        #[test]
        fn printable_text_is_short_and_clean(text in "\\PC*|(.|[\\x00-\\x1f]){0,300}", limit in 0_usize..50) {
            let shown = printable(&text, limit);
            prop_assert!(shown.chars().count() <= limit + 1);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
