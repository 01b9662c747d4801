//! What a command wrote, bounded: its beginning and its end.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes kept of the beginning, and again of the end.
const KEPT: usize = 32 << 10;

pub(super) struct Output {
    max: u64,
    total: u64,
    head: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Output {
    /// Takes up to `max` bytes.
    pub(super) fn new(max: u64) -> Output {
        Output { max, total: 0, head: Vec::new(), tail: VecDeque::new() }
    }

    /// Reads to the end, or to the bound; says whether it was the bound.
    pub(super) async fn read(&mut self, mut from: impl AsyncRead + Unpin) -> bool {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(length) => self.add(&buffer[..length]),
            }
            if self.total > self.max {
                return true;
            }
        }
    }

    /// Reads two sources as they come, to the end of both or to the bound.
    pub(super) async fn read_both(
        &mut self,
        mut one: impl AsyncRead + Unpin,
        mut other: impl AsyncRead + Unpin,
    ) -> (bool, bool) {
        let (mut first, mut second) = (vec![0; 16 << 10], vec![0; 16 << 10]);
        let (mut one_open, mut other_open) = (true, true);
        while one_open || other_open {
            tokio::select! {
                got = one.read(&mut first), if one_open => match got {
                    Ok(0) | Err(_) => one_open = false,
                    Ok(length) => self.add(&first[..length]),
                },
                got = other.read(&mut second), if other_open => match got {
                    Ok(0) | Err(_) => other_open = false,
                    Ok(length) => self.add(&second[..length]),
                },
            }
            if self.total > self.max {
                return (true, true);
            }
        }
        (false, false)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let to_head = bytes.len().min(KEPT - self.head.len());
        self.head.extend_from_slice(&bytes[..to_head]);
        self.tail.extend(&bytes[to_head..]);
        let surplus = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..surplus);
    }

    /// As text; what is left out between beginning and end is counted.
    pub(super) fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let kept = (self.head.len() + tail.len()) as u64;
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&tail));
        match self.total - kept {
            0 => format!("{head}{tail}"),
            left_out => format!("{head}\n[{left_out} bytes left out]\n{tail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let mut output = Output::new(1 << 20);
        output.add(b"begin");
        for _ in 0..100 {
            output.add(&[b'x'; 1000]);
        }
        output.add(b"end");
        let text = output.text();
        assert!(text.starts_with("begin") && text.ends_with("end"), "{text}");
        assert!(text.contains(&format!("[{} bytes left out]", 100_008 - 2 * KEPT)));
        assert!(text.len() < 2 * KEPT + 100);
    }
}
