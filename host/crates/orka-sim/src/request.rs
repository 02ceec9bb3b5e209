//! A request as the APIs see it: body read whole, JSON or form decoded.

use http::{HeaderMap, Method, header};
use serde_json::{Map, Value};

/// One request, complete.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path without query, still percent-encoded.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// `http://host:port` the client used, for the texts that name endpoints.
    pub(crate) base: String,
}

/// What the body of a request holds.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Members of the JSON object or of the form; empty where there is no body or a type the servers do not read.
    Members(Map<String, Value>),
    /// It says JSON and is not; the text of the parser.
    Malformed(String),
}

impl Request {
    /// The text of a header, if it is there and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The string after `Bearer`, or why there is none.
    pub(crate) fn bearer(&self) -> Result<&str, NoBearer> {
        let value = self
            .header(header::AUTHORIZATION.as_str())
            .ok_or(NoBearer::Absent)?;
        let (scheme, token) = value.split_once(' ').ok_or(NoBearer::OtherScheme)?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(NoBearer::OtherScheme);
        }
        Ok(token.trim())
    }

    /// Whether the query holds this name, with or without a value.
    pub(crate) fn has_query(&self, name: &str) -> bool {
        let query = self.query.as_deref().unwrap_or_default();
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    }

    /// Path segments, percent-decoded, without empty ones.
    pub(crate) fn segments(&self) -> Vec<String> {
        self.path
            .split('/')
            .filter(|piece| !piece.is_empty())
            .map(percent_decode)
            .collect()
    }

    /// Decodes the body by its `Content-Type`, as Express does with its JSON and form readers.
    pub(crate) fn payload(&self) -> Payload {
        let kind = self
            .header("content-type")
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if self.body.is_empty() {
            Payload::Members(Map::new())
        } else if kind.eq_ignore_ascii_case("application/json") {
            json_members(&self.body)
        } else if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Payload::Members(form_members(&self.body))
        } else {
            Payload::Members(Map::new())
        }
    }

    /// Decodes the body as JSON whatever its `Content-Type` says, as the Go service of Orka 3.x does.
    pub(crate) fn json(&self) -> Payload {
        if self.body.is_empty() {
            Payload::Members(Map::new())
        } else {
            json_members(&self.body)
        }
    }
}

/// Why a request carries no bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBearer {
    /// No `Authorization` at all.
    Absent,
    /// One of another form.
    OtherScheme,
}

fn json_members(body: &[u8]) -> Payload {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(members)) => Payload::Members(members),
        Ok(_) => Payload::Malformed("the body is not a JSON object".to_owned()),
        Err(error) => Payload::Malformed(error.to_string()),
    }
}

fn form_members(body: &[u8]) -> Map<String, Value> {
    let text = String::from_utf8_lossy(body);
    let decode = |piece: &str| percent_decode(&piece.replace('+', " "));
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), Value::String(decode(value))))
        .collect()
}

/// Undoes percent-encoding (RFC 3986, section 2.1); a `%` without two digits stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match escaped.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let members = form_members(b"email=ci%40example.com&password=a+b%2B&flag");
        assert_eq!(members["email"], "ci@example.com");
        assert_eq!(members["password"], "a b+");
        assert_eq!(members["flag"], "");
    }

    #[test]
    fn a_percent_sign_without_digits_stays() {
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%41"), "%zzA");
    }
}
