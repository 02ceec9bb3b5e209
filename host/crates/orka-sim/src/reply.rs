//! An answer before it goes on the wire, and the body that carries faults onto it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::time::Sleep;

/// Content of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// `application/json; charset=utf-8`.
    Json(Value),
    /// Anything else, with its type.
    Text { content_type: String, body: Bytes },
    /// No body and no type.
    Empty,
}

/// Status, headers beyond the usual ones, and content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: Content,
}

impl Reply {
    pub(crate) fn json(status: u16, value: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Json(value),
        }
    }

    pub(crate) fn text(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let content = Content::Text {
            content_type: content_type.to_owned(),
            body: body.into(),
        };
        Self {
            status,
            headers: Vec::new(),
            content,
        }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Empty,
        }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The answer of an Express server to a path it does not know: an HTML page.
    pub(crate) fn express_not_found(method: &str, path: &str) -> Self {
        let path = path
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;");
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Error</title>\n</head>\n\
             <body>\n<pre>Cannot {method} {path}</pre>\n</body>\n</html>\n"
        );
        Self::text(404, "text/html; charset=utf-8", page)
            .with_header("Content-Security-Policy", "default-src 'none'")
            .with_header("X-Content-Type-Options", "nosniff")
    }

    /// The bytes of the body.
    pub(crate) fn bytes(&self) -> Bytes {
        match &self.content {
            Content::Json(value) => Bytes::from(value.to_string()),
            Content::Text { body, .. } => body.clone(),
            Content::Empty => Bytes::new(),
        }
    }

    /// `Content-Type`, if there is a body.
    pub(crate) fn content_type(&self) -> Option<&str> {
        match &self.content {
            Content::Json(_) => Some("application/json; charset=utf-8"),
            Content::Text { content_type, .. } => Some(content_type),
            Content::Empty => None,
        }
    }
}

/// A weak `ETag` in the form Express gives it: length in hexadecimal and a digest.
pub(crate) fn weak_etag(body: &[u8]) -> String {
    let mut digest = [0_u8; 20];
    for (round, piece) in digest.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (round, body).hash(&mut hasher);
        piece.copy_from_slice(&hasher.finish().to_be_bytes()[..piece.len()]);
    }
    format!("W/\"{:x}-{}\"", body.len(), STANDARD_NO_PAD.encode(digest))
}

/// One thing the wire body does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send these bytes.
    Send(Bytes),
    /// Send nothing for a while.
    Wait(Duration),
    /// Break off: the connection is closed with the body incomplete.
    Break,
}

/// A body of announced length that is sent as its steps say.
#[derive(Debug)]
pub(crate) struct WireBody {
    length: u64,
    steps: VecDeque<Step>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl WireBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        let steps = if bytes.is_empty() {
            VecDeque::new()
        } else {
            VecDeque::from([Step::Send(bytes)])
        };
        Self {
            length,
            steps,
            waiting: None,
        }
    }

    /// The first half, a pause in which it is sent, then nothing more.
    pub(crate) fn half(bytes: Bytes, pause: Duration) -> Self {
        let length = bytes.len() as u64;
        let half = bytes.slice(..bytes.len() / 2);
        Self {
            length,
            steps: VecDeque::from([Step::Send(half), Step::Wait(pause), Step::Break]),
            waiting: None,
        }
    }

    /// Everything, `piece` bytes at a time with `pause` before each.
    pub(crate) fn drip(bytes: Bytes, piece: usize, pause: Duration) -> Self {
        let length = bytes.len() as u64;
        let pieces = bytes.chunks(piece.max(1)).map(Bytes::copy_from_slice);
        let steps = pieces
            .flat_map(|piece| [Step::Wait(pause), Step::Send(piece)])
            .collect();
        Self {
            length,
            steps,
            waiting: None,
        }
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(sleep) = self.waiting.as_mut() {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Wait(pause)) => self.waiting = Some(Box::pin(tokio::time::sleep(pause))),
                Some(Step::Break) => {
                    let broken =
                        io::Error::new(io::ErrorKind::ConnectionAborted, "broken off on purpose");
                    return Poll::Ready(Some(Err(broken)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_html_page_for_an_unknown_path_is_as_long_as_that_of_express() {
        assert_eq!(Reply::express_not_found("GET", "/").bytes().len(), 139);
    }

    #[test]
    fn etags_are_weak_and_carry_the_length_in_hexadecimal() {
        let tag = weak_etag(&[b'x'; 82]);
        assert!(tag.starts_with("W/\"52-"), "{tag}");
        assert_eq!(tag, weak_etag(&[b'x'; 82]));
        assert_ne!(tag, weak_etag(&[b'y'; 82]));
    }
}
