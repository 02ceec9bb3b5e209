//! What waits to be told to the holder of a detached command, in order.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::command::{OutputChunk, Stream};
use crate::running::Event;

/// A piece that is told; shorter ones of the same stream are put together up to this.
const PIECE_MAX: usize = 32 * 1024;

/// What an event takes beside its bytes, so that many small ones are within limits too.
const OVERHEAD: usize = 96;

#[derive(Debug)]
enum Item {
    Output(Stream, BytesMut),
    Other(Event),
}

/// Events in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    output_bytes: usize,
    held: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of output.
    pub(super) fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// About what it takes in memory.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn push_output(&mut self, stream: Stream, data: Bytes) {
        self.output_bytes += data.len();
        self.held += data.len();
        match self.items.back_mut() {
            Some(Item::Output(last, piece))
                if *last == stream && piece.len() + data.len() <= PIECE_MAX =>
            {
                piece.extend_from_slice(&data);
            }
            _ => {
                self.held += OVERHEAD;
                // Copied: a piece that is kept keeps the whole packet it came in.
                let piece = BytesMut::from(&data[..]);
                self.items.push_back(Item::Output(stream, piece));
            }
        }
    }

    /// A break right after a connection came back is the same break for whoever was not told of either.
    pub(super) fn push(&mut self, event: Event) {
        let is_back = matches!(self.items.back(), Some(Item::Other(Event::Resumed)));
        if is_back && matches!(event, Event::Interrupted { .. }) {
            self.items.pop_back();
            self.held -= OVERHEAD;
            return;
        }
        self.held += OVERHEAD;
        self.items.push_back(Item::Other(event));
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let item = self.items.pop_front()?;
        self.held -= OVERHEAD;
        Some(match item {
            Item::Output(stream, data) => {
                self.output_bytes -= data.len();
                self.held -= data.len();
                let data = data.freeze();
                Event::Output(OutputChunk { stream, data })
            }
            Item::Other(event) => event,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Event {
        Event::Interrupted {
            reason: "reset".to_owned(),
        }
    }

    #[test]
    fn however_small_the_pieces_they_take_what_they_count_for() {
        let mut queue = Queue::default();
        for _ in 0..1_000_000 {
            queue.push_output(Stream::Stdout, Bytes::from_static(b"x"));
        }
        assert_eq!((queue.output_bytes(), queue.items.len()), (1_000_000, 31));
        // Streams that take turns cannot be put together; then what each takes is counted.
        let mut queue = Queue::default();
        for _ in 0..1_000 {
            queue.push_output(Stream::Stdout, Bytes::from_static(b"x"));
            queue.push_output(Stream::Stderr, Bytes::from_static(b"y"));
        }
        assert_eq!(queue.output_bytes(), 2_000);
        assert!(queue.held() >= 2_000 * size_of::<Item>());
    }

    #[test]
    fn a_piece_of_a_large_packet_keeps_no_more_than_it_counts_for() {
        let mut queue = Queue::default();
        let packet = vec![b'x'; PIECE_MAX];
        queue.push_output(Stream::Stdout, Bytes::from(packet).slice(7..8));
        let Some(Item::Output(_, piece)) = queue.items.front() else {
            panic!("{queue:?}");
        };
        assert_eq!(piece, &b"x"[..]);
        assert!(piece.capacity() <= OVERHEAD, "{}", piece.capacity());
    }

    #[test]
    fn what_goes_in_comes_out_in_order_and_nothing_is_counted_at_the_end() {
        let mut queue = Queue::default();
        let long = vec![b'l'; PIECE_MAX];
        queue.push_output(Stream::Stdout, Bytes::from_static(b"a"));
        queue.push_output(Stream::Stdout, Bytes::from_static(b"b"));
        queue.push(broken());
        queue.push(Event::Resumed);
        queue.push_output(Stream::Stdout, Bytes::from_static(b"c"));
        queue.push_output(Stream::Stderr, Bytes::from_static(b"d"));
        queue.push_output(Stream::Stderr, long.clone().into());
        let mut told = Vec::new();
        while let Some(event) = queue.pop() {
            told.push(match event {
                Event::Output(chunk) => (chunk.stream == Stream::Stderr, chunk.data.to_vec()),
                other => (true, format!("{other:?}").into_bytes()),
            });
        }
        let expected = [
            (false, b"ab".to_vec()),
            (true, b"Interrupted { reason: \"reset\" }".to_vec()),
            (true, b"Resumed".to_vec()),
            (false, b"c".to_vec()),
            (true, b"d".to_vec()),
            (true, long),
        ];
        assert!(told == expected);
        assert_eq!((queue.output_bytes(), queue.held()), (0, 0));
    }

    #[test]
    fn breaks_that_nobody_was_told_of_are_one() {
        let mut queue = Queue::default();
        for _ in 0..1_000 {
            queue.push(broken());
            queue.push(Event::Resumed);
        }
        assert_eq!(queue.items.len(), 2);
        queue.pop();
        queue.push(broken());
        queue.push(Event::Resumed);
        assert_eq!(
            queue.items.len(),
            1,
            "told of the first, and not that it was over"
        );
    }
}
