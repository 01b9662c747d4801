//! A socket whose frames are counted while they are read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Flood, Frames};
use super::porch::{Moves, Place, here};
use super::stranger::{PART, Standing};

/// What was seen on a connection.
#[derive(Debug)]
pub(super) struct Seen {
    frames: Mutex<Frames>,
    flood: OnceLock<Flood>,
}

impl Seen {
    pub(super) fn new(streams: u32, resets: u32) -> Seen {
        Seen { frames: Mutex::new(Frames::new(streams, resets, Instant::now())), flood: OnceLock::new() }
    }

    /// What the connection is ended for.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get().copied()
    }

    /// Since when a block of headers is open, and whether anything came at all.
    pub(super) fn look(&self) -> (Option<Instant>, bool) {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        (frames.block_since(), frames.has_begun())
    }

    fn see(&self, bytes: &[u8]) -> io::Result<()> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.see(bytes, Instant::now).map_err(|flood| {
            let _ = self.flood.set(flood);
            io::Error::new(io::ErrorKind::InvalidData, flood.to_string())
        })
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    seen: Arc<Seen>,
    standing: Arc<Standing>,
    /// Who is told of what comes.
    told: Place,
    /// Whether a part of a stranger was read at this turn: the next one is for the next, when it is known what was asked in this one.
    has_read: bool,
}

impl<S: Moves> Watched<S> {
    /// A socket that was accepted on the porch.
    pub(super) fn new(inner: S, seen: Arc<Seen>, standing: Arc<Standing>) -> Watched<S> {
        Watched { inner, seen, standing, told: Place::Porch, has_read: false }
    }
}

impl<S: Moves + Unpin> Watched<S> {
    /// For every use: nobody waits for a thread that serves the connection no longer.
    fn inner(&mut self) -> Pin<&mut S> {
        if self.told != here() {
            self.inner.come_here();
            self.told = here();
        }
        Pin::new(&mut self.inner)
    }
}

impl<S: AsyncRead + Moves + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_known = self.standing.is_known();
        if (std::mem::take(&mut self.has_read) && !is_known)
            || (here() == Place::Inside && self.standing.place() == Place::Large)
        {
            // At the next turn, and where that belongs.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !is_known {
            std::task::ready!(self.standing.poll_read(context));
            let mut part = [0; PART];
            let mut part = ReadBuf::new(&mut part[..PART.min(into.remaining())]);
            std::task::ready!(self.inner().poll_read(context, &mut part))?;
            into.put_slice(part.filled());
            self.has_read = true;
            return Poll::Ready(self.seen.see(part.filled()));
        }
        let before = into.filled().len();
        std::task::ready!(self.inner().poll_read(context, into))?;
        Poll::Ready(self.seen.see(into.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Moves + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_stranger_is_read_a_part_at_a_turn_and_who_was_let_in_at_once() {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; 5 * PART]).await.unwrap();
        let standing = Arc::new(Standing::default());
        let seen = Arc::new(Seen::new(100, 100));
        let mut watched = Watched { told: here(), ..Watched::new(ours, seen, Arc::clone(&standing)) };
        let mut buffer = vec![0; 6 * PART];
        let mut turn = || {
            let mut context = Context::from_waker(std::task::Waker::noop());
            let (mut reads, mut into) = (0, ReadBuf::new(&mut buffer));
            while Pin::new(&mut watched).poll_read(&mut context, &mut into).is_ready() {
                reads += 1;
            }
            (reads, into.filled().len())
        };
        assert_eq!([turn(), turn()], [(1, PART), (1, PART)]);
        standing.let_in();
        assert_eq!(turn(), (1, 3 * PART));
        drop(peer);
        assert_eq!(watched.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
