//! Answers that come while they are made: server-sent events, and JSON values on lines of their own.
//!
//! Invariants: whatever the pieces it comes in, a stream gives the same lines; nothing that is held is longer than the bound it was
//! given; and a line that the stream breaks off in is not given out.

/// A line, or an event, is longer than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the answer has more than {max} bytes")]
pub struct TooLong {
    pub max: usize,
}

/// Splits bytes into lines, which end with LF, CR or both.
#[derive(Debug)]
pub struct Lines {
    held: Vec<u8>,
    max: usize,
    /// The line before ended with a CR, so that an LF belongs to it.
    after_cr: bool,
}

impl Lines {
    /// Lines of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Lines {
        Lines { held: Vec::new(), max, after_cr: false }
    }

    /// Takes a piece and gives out each line that it ends, without the end.
    ///
    /// # Errors
    /// Of `each`, or when a line is too long.
    pub fn feed<E: From<TooLong>>(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &piece[..end.unwrap_or(piece.len())];
            if self.held.len() + part.len() > self.max {
                return Err(TooLong { max: self.max }.into());
            }
            let Some(end) = end else {
                self.held.extend_from_slice(part);
                return Ok(());
            };
            self.after_cr = piece[end] == b'\r';
            piece = &piece[end + 1..];
            if self.held.is_empty() {
                each(part)?;
            } else {
                self.held.extend_from_slice(part);
                let line = std::mem::take(&mut self.held);
                each(&line)?;
            }
        }
        Ok(())
    }

    /// What stands after the last end of a line.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.held
    }
}

/// Reads server-sent events: of each the lines of `data`, joined. Names are not needed, for every provider says the type within.
#[derive(Debug)]
pub struct Sse {
    lines: Lines,
    data: Vec<u8>,
    /// Whether the event has a line of data, be it empty.
    has_data: bool,
    max: usize,
    begun: bool,
}

impl Sse {
    /// Events of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Sse {
        Sse { lines: Lines::new(max), data: Vec::new(), has_data: false, max, begun: false }
    }

    /// Takes a piece and gives out the data of each event that it ends.
    ///
    /// # Errors
    /// Of `each`, or when an event is too long.
    pub fn feed<E: From<TooLong>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Sse { lines, data, has_data, max, begun } = self;
        lines.feed(piece, |line| {
            let line = match std::mem::replace(begun, true) {
                false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
                true => line,
            };
            if line.is_empty() {
                if std::mem::take(has_data) {
                    each(&std::mem::take(data))?;
                }
                return Ok(());
            }
            let (field, value) = match line.iter().position(|byte| *byte == b':') {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &[][..]),
            };
            if field == b"data" {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                if data.len() + value.len() + 1 > *max {
                    return Err(TooLong { max: *max }.into());
                }
                if std::mem::replace(has_data, true) {
                    data.push(b'\n');
                }
                data.extend_from_slice(value);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream that comes in pieces of so many bytes.
    fn events(stream: &[u8], piece: usize, max: usize) -> Result<Vec<String>, TooLong> {
        let (mut sse, mut events) = (Sse::new(max), Vec::new());
        for piece in stream.chunks(piece) {
            sse.feed(piece, |data| {
                events.push(String::from_utf8_lossy(data).into_owned());
                Ok::<(), TooLong>(())
            })?;
        }
        Ok(events)
    }

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_come() {
        let stream = "\u{feff}data: one\n\n: a comment\nevent: x\r\ndata:two\r\ndata:  three\r\nid: 7\r\n\r\n\r\rdata\r\rdata: ä\n\ndata: cut"
            .as_bytes();
        for piece in 1..=stream.len() {
            assert_eq!(events(stream, piece, 64).unwrap(), ["one", "two\n three", "", "ä"], "{piece}");
        }
    }

    #[test]
    fn nothing_is_held_beyond_the_bound() {
        assert_eq!(events(b"data: 12345678\n\n", 3, 14).unwrap(), ["12345678"]);
        assert_eq!(events(b"data: 123456789\n\n", 3, 14), Err(TooLong { max: 14 }));
        let many = b"data: 1234\n".repeat(4);
        assert_eq!(events(&many, 5, 14), Err(TooLong { max: 14 }), "an event of many lines is bounded as well");
        let (mut lines, mut count) = (Lines::new(8), 0);
        let mut feed = |lines: &mut Lines, piece: &[u8]| {
            lines.feed(piece, |_| {
                count += 1;
                Ok::<(), TooLong>(())
            })
        };
        feed(&mut lines, b"{}\n\n{").unwrap();
        assert_eq!(lines.rest(), b"{");
        assert_eq!(feed(&mut lines, &[b'a'; 8]), Err(TooLong { max: 8 }));
        assert_eq!(count, 2);
    }
}
