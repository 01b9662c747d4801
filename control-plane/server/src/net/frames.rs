//! What a peer sends on a connection, counted frame by frame before HTTP reads it, so that floods end early.
//!
//! The library bounds what a connection may hold; nothing in it bounds how often. Here each kind of frame has an allowance in a second,
//! and a block of headers has bounds of size, parts and time. Invariant: bytes pass as they are, and a look at a frame is a few
//! additions; a connection of HTTP/1 is not looked at.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// Bytes of one block of headers as they are sent: twice what they may come to.
const BLOCK_MAX: u32 = 64 << 10;
/// Frames that go on with a block.
const PARTS_MAX: u32 = 16;
/// PING, SETTINGS, PRIORITY and kinds that nobody knows, in a second. Some clients measure the way with a PING for each round trip.
const CONTROL: u32 = 1000;
/// WINDOW_UPDATE in a second: a client may send one for each frame that it gets.
const WINDOW: u32 = 50_000;
/// Frames of data without data.
const EMPTY: u32 = 100;

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Streams,
    Resets,
    Control,
    Windows,
    Empty,
    Headers,
    Beyond,
}

impl Flood {
    /// All, in the order of [`Flood`] as a number.
    pub const ALL: [(Flood, &'static str); 7] = [
        (Flood::Streams, "streams"),
        (Flood::Resets, "resets"),
        (Flood::Control, "control"),
        (Flood::Windows, "windows"),
        (Flood::Empty, "empty"),
        (Flood::Headers, "headers"),
        (Flood::Beyond, "beyond"),
    ];

    /// What HTTP ended a connection for, where that is a flood: none sends more than it may by mistake.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Flood> {
        let mut sources = std::iter::successors(Some(error), |error| (**error).source());
        let error = sources.find_map(|error| error.downcast_ref::<h2::Error>())?;
        let is_flood = error.is_library() && error.reason() == Some(h2::Reason::FLOW_CONTROL_ERROR);
        is_flood.then_some(Flood::Beyond)
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flood::Streams => "more streams were begun than a connection may begin in a second",
            Flood::Resets => "more streams were reset than may be in a second",
            Flood::Control => "more control frames came than may in a second",
            Flood::Windows => "more window updates came than may in a second",
            Flood::Empty => "too many frames of data were empty",
            Flood::Headers => "a block of headers is too large, in too many parts, or takes too long",
            Flood::Beyond => "more came than there was a window for",
        })
    }
}

/// Frames of one kind.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    rate: u32,
    left: u32,
}

impl Allowance {
    /// Twice as many as come in a second may come at once; `times` as many, where they do so in good faith.
    fn new(rate: u32, times: u32) -> Allowance {
        Allowance { rate, left: rate.saturating_mul(times) }
    }

    fn take(&mut self, flood: Flood) -> Result<(), Flood> {
        self.left = self.left.checked_sub(1).ok_or(flood)?;
        Ok(())
    }

    fn refill(&mut self, seconds: f64, times: u32) {
        let most = self.rate.saturating_mul(times);
        let more = (f64::from(self.rate) * seconds) as u32;
        self.left = self.left.saturating_add(more).min(most.max(self.left));
    }
}

/// Where in the bytes a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// So many bytes of a frame's head.
    Head(usize),
    /// So many bytes of a frame are left.
    Body(u32),
    /// HTTP/1, or something else.
    Other,
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct Frames {
    at: At,
    head: [u8; HEAD],
    streams: Allowance,
    resets: Allowance,
    control: Allowance,
    windows: Allowance,
    empty: Allowance,
    refilled: Instant,
    /// Bytes and parts of the block that is open, and since when.
    block: Option<(u32, u32, Instant)>,
}

/// How many seconds' worth may come at once.
const BURST: u32 = 2;
/// Of resets and control frames: calls that are given up come in bunches.
const BURST_LONG: u32 = 10;

impl Frames {
    /// With the allowances of streams and resets in a second.
    #[must_use]
    pub fn new(streams: u32, resets: u32, now: Instant) -> Frames {
        Frames {
            at: At::Preface(0),
            head: [0; HEAD],
            streams: Allowance::new(streams, BURST),
            resets: Allowance::new(resets, BURST_LONG),
            control: Allowance::new(CONTROL, BURST),
            windows: Allowance::new(WINDOW, BURST),
            empty: Allowance::new(EMPTY, BURST_LONG),
            refilled: now,
            block: None,
        }
    }

    /// Looks at bytes that came.
    ///
    /// # Errors
    /// When the connection is to be ended.
    pub fn see(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        let mut refilled = false;
        while !bytes.is_empty() {
            match self.at {
                At::Other => return Ok(()),
                At::Preface(seen) => {
                    let len = bytes.len().min(PREFACE.len() - seen);
                    if bytes[..len] != PREFACE[seen..seen + len] {
                        self.at = At::Other;
                        return Ok(());
                    }
                    self.at = if seen + len == PREFACE.len() { At::Head(0) } else { At::Preface(seen + len) };
                    bytes = &bytes[len..];
                }
                At::Head(seen) => {
                    let len = bytes.len().min(HEAD - seen);
                    self.head[seen..seen + len].copy_from_slice(&bytes[..len]);
                    bytes = &bytes[len..];
                    if seen + len < HEAD {
                        self.at = At::Head(seen + len);
                        continue;
                    }
                    if !refilled {
                        self.refill(now());
                        refilled = true;
                    }
                    let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
                    self.at = if length == 0 { At::Head(0) } else { At::Body(length) };
                    self.frame(length)?;
                }
                At::Body(left) => {
                    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(left);
                    bytes = &bytes[len as usize..];
                    self.at = if len == left { At::Head(0) } else { At::Body(left - len) };
                }
            }
        }
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled);
        // Often enough, and seldom enough that nothing is lost in rounding.
        if since < Duration::from_millis(50) {
            return;
        }
        self.refilled = now;
        let seconds = since.as_secs_f64();
        self.streams.refill(seconds, BURST);
        self.resets.refill(seconds, BURST_LONG);
        self.control.refill(seconds, BURST);
        self.windows.refill(seconds, BURST);
        self.empty.refill(seconds, BURST_LONG);
    }

    fn frame(&mut self, length: u32) -> Result<(), Flood> {
        const END_STREAM: u8 = 0x1;
        const END_HEADERS: u8 = 0x4;
        const ACK: u8 = 0x1;
        let [.., kind, flags, _, _, _, _] = self.head;
        match kind {
            0x0 if length == 0 && flags & END_STREAM == 0 => self.empty.take(Flood::Empty),
            0x0 => Ok(()),
            0x1 => {
                self.streams.take(Flood::Streams)?;
                self.block = (flags & END_HEADERS == 0).then_some((length, 0, self.refilled));
                if length > BLOCK_MAX { Err(Flood::Headers) } else { Ok(()) }
            }
            0x3 => self.resets.take(Flood::Resets),
            0x4 | 0x6 if flags & ACK != 0 => Ok(()),
            0x8 => self.windows.take(Flood::Windows),
            0x9 => {
                // One without a beginning is an error that the library sees.
                let Some((bytes, parts, since)) = self.block else { return self.control.take(Flood::Control) };
                let (bytes, parts) = (bytes.saturating_add(length), parts + 1);
                if bytes > BLOCK_MAX || parts > PARTS_MAX {
                    return Err(Flood::Headers);
                }
                self.block = (flags & END_HEADERS == 0).then_some((bytes, parts, since));
                Ok(())
            }
            _ => self.control.take(Flood::Control),
        }
    }

    /// Another stream was reset from this side: no difference to those that the peer resets.
    ///
    /// # Errors
    /// When the connection is to be ended.
    pub fn was_reset(&mut self) -> Result<(), Flood> {
        self.resets.take(Flood::Resets)
    }

    /// Since when a block of headers is open.
    #[must_use]
    pub fn block_since(&self) -> Option<Instant> {
        self.block.map(|(_, _, since)| since)
    }

    /// Whether the beginning of a connection was seen.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.at != At::Preface(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = Frames::new(100, 10, now);
        frames.see(PREFACE, || now).unwrap();
        frames
    }

    /// How many of these frames pass before the connection is ended.
    fn passed(frames: &mut Frames, bytes: &[u8], tries: usize, now: Instant) -> (usize, Option<Flood>) {
        for count in 0..tries {
            if let Err(flood) = frames.see(bytes, || now) {
                return (count, Some(flood));
            }
        }
        (tries, None)
    }

    #[test]
    fn each_kind_of_frame_has_an_allowance_that_comes_back() {
        for (bytes, most, flood) in [
            (frame(1, 5, 1, b"headers"), 200, Flood::Streams),
            (frame(3, 0, 1, &[0; 4]), 100, Flood::Resets),
            (frame(6, 0, 0, &[0; 8]), 2000, Flood::Control),
            (frame(4, 0, 0, &[0; 6]), 2000, Flood::Control),
            (frame(2, 0, 1, &[0; 5]), 2000, Flood::Control),
            (frame(0xfa, 0, 1, b"?"), 2000, Flood::Control),
            (frame(8, 0, 1, &[0; 4]), 100_000, Flood::Windows),
            (frame(0, 0, 1, b""), 1000, Flood::Empty),
        ] {
            let now = Instant::now();
            let mut frames = begun(now);
            assert_eq!(passed(&mut frames, &bytes, 200_000, now), (most, Some(flood)));
            let later = now + Duration::from_secs(1);
            assert!(passed(&mut frames, &bytes, 10, later).1.is_none(), "{flood:?} come back");
        }
    }

    #[test]
    fn answers_and_data_are_free() {
        let now = Instant::now();
        let mut frames = begun(now);
        for bytes in [frame(6, 1, 0, &[0; 8]), frame(4, 1, 0, b""), frame(0, 0, 1, b"x"), frame(0, 1, 1, b"")] {
            assert_eq!(passed(&mut frames, &bytes, 100_000, now), (100_000, None));
        }
    }

    #[test]
    fn headers_without_an_end_are_ended() {
        let now = Instant::now();
        let mut frames = begun(now);
        frames.see(&frame(1, 0, 1, b"begin"), || now).unwrap();
        assert!(frames.block_since().is_some());
        assert_eq!(passed(&mut frames, &frame(9, 0, 1, b"on"), 1000, now), (16, Some(Flood::Headers)));

        let mut frames = begun(now);
        frames.see(&frame(1, 0, 1, b"begin"), || now).unwrap();
        assert_eq!(passed(&mut frames, &frame(9, 0, 1, &[0; 30_000]), 1000, now), (2, Some(Flood::Headers)));

        let mut frames = begun(now);
        frames.see(&frame(1, 0, 1, b"begin"), || now).unwrap();
        frames.see(&frame(9, 4, 1, b"end"), || now).unwrap();
        assert_eq!(frames.block_since(), None);
    }

    #[test]
    fn frames_are_told_apart_wherever_the_bytes_are_cut() {
        let now = Instant::now();
        let all = [PREFACE.to_vec(), frame(4, 0, 0, &[0; 6]), frame(1, 5, 1, b"headers"), frame(3, 0, 1, &[0; 4])];
        let all = all.concat();
        for size in 1..all.len() {
            let mut frames = Frames::new(100, 10, now);
            all.chunks(size).for_each(|part| frames.see(part, || now).unwrap());
            let Frames { at, streams, resets, control, .. } = frames;
            assert_eq!((at, streams.left, resets.left, control.left), (At::Head(0), 199, 99, 1999), "{size}");
        }
    }

    #[test]
    fn http_1_is_not_looked_at() {
        let now = Instant::now();
        let mut frames = Frames::new(1, 1, now);
        frames.see(b"PRI / HTTP/1.1\r\n\r\n", || now).unwrap();
        assert_eq!(passed(&mut frames, &frame(3, 0, 1, &[0; 4]), 1000, now), (1000, None));
    }

    #[tokio::test]
    async fn more_than_there_is_a_window_for_is_a_flood_and_what_else_is_wrong_is_not() {
        let begin = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &[0x82, 0x86, 0x84])].concat();
        for (more, flood) in [
            (frame(0, 0, 1, &[0; 16 << 10]).repeat(5), Some(Flood::Beyond)),
            (frame(0, 0, 3, b"a stream that nobody began"), None),
        ] {
            let (mut peer, ours) = tokio::io::duplex(1 << 20);
            tokio::io::AsyncWriteExt::write_all(&mut peer, &[&begin[..], &more].concat()).await.unwrap();
            let mut connection = h2::server::handshake(ours).await.unwrap();
            let mut error = None;
            let mut streams = Vec::new();
            while error.is_none() {
                match connection.accept().await.expect("it ends with an error") {
                    Ok(stream) => streams.push(stream),
                    Err(ended) => error = Some(ended),
                }
            }
            assert_eq!(Flood::of(&error.unwrap()), flood);
        }
        assert_eq!(Flood::of(&std::io::Error::other("broken")), None);
    }
}
