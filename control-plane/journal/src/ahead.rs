//! Reading ahead: a thread of its own reads and decodes, while the one that asked folds.
//!
//! ```text
//!   read, check, decode ---chunks, a few at most---> fold
//! ```
//! Invariant: items arrive in order and none is left out. After an error no more arrive, and the caller gets the error and
//! nothing of what was folded.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::{io, panic, thread};

/// How many items go over at once, unless they are large.
const CHUNK_ITEMS: usize = 512;
/// A chunk of so many bytes goes over with fewer items.
const CHUNK_BYTES: usize = 1 << 20;
/// How many chunks may wait.
const CHUNKS_MAX: usize = 8;

/// Takes what is read.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    chunk: Vec<T>,
    bytes: usize,
    chunks: SyncSender<Vec<T>>,
}

impl<T> Ahead<T> {
    /// Hands over an item of about so many `bytes`; false if nobody wants more.
    pub(crate) fn push(&mut self, item: T, bytes: usize) -> bool {
        self.chunk.push(item);
        self.bytes += bytes;
        if self.chunk.len() < CHUNK_ITEMS && self.bytes < CHUNK_BYTES {
            return true;
        }
        self.bytes = 0;
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_ITEMS));
        self.chunks.send(chunk).is_ok()
    }
}

/// Has `read` run on another thread and `fold` on this one, with what it reads.
///
/// # Errors
/// What `read` returns, or that there is no thread to be had.
pub(crate) fn read_ahead<T, R, E>(
    read: impl FnOnce(&mut Ahead<T>) -> Result<(), E> + Send,
    fold: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
    no_thread: impl FnOnce(io::Error) -> E,
) -> Result<R, E>
where
    T: Send,
    E: Send,
{
    let (chunks, arriving) = sync_channel(CHUNKS_MAX);
    let read = move || {
        let mut ahead = Ahead { chunk: Vec::with_capacity(CHUNK_ITEMS), bytes: 0, chunks };
        read(&mut ahead)?;
        // Who wants no more has gone, and is not to be told.
        let _ = ahead.chunks.send(ahead.chunk);
        Ok(())
    };
    thread::scope(|scope| {
        let reader = thread::Builder::new().name("journal-reader".to_owned()).spawn_scoped(scope, read);
        let reader = reader.map_err(no_thread)?;
        let folded = fold(&mut arriving.into_iter().flatten());
        match reader.join() {
            Ok(read) => read.map(|()| folded),
            Err(panicked) => panic::resume_unwind(panicked),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ahead: &mut Ahead<usize>, to: usize) -> usize {
        (0..to).take_while(|number| ahead.push(*number, 3 * number)).count()
    }

    fn never(error: io::Error) -> String {
        error.to_string()
    }

    #[test]
    fn everything_arrives_in_order() {
        for to in [0, 1, CHUNK_ITEMS - 1, CHUNK_ITEMS, 20 * CHUNK_ITEMS + 7] {
            let read = |ahead: &mut Ahead<usize>| {
                numbers(ahead, to);
                Ok(())
            };
            let folded = read_ahead(read, |items| items.collect(), never);

            assert_eq!(folded, Ok((0..to).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn an_error_is_all_that_comes_of_it() {
        let read = |ahead: &mut Ahead<usize>| {
            numbers(ahead, 3 * CHUNK_ITEMS + 5);
            Err("the fourth".to_owned())
        };
        let mut folded = Vec::new();

        let result = read_ahead(read, |items| folded.extend(items), never);

        assert_eq!(result, Err("the fourth".to_owned()));
        assert_eq!(folded, (0..folded.len()).collect::<Vec<_>>());
    }

    #[test]
    fn reading_ends_when_nobody_wants_more() {
        let mut read = 0;
        let taken = read_ahead(
            |ahead| {
                read = numbers(ahead, usize::MAX / 4);
                Ok(())
            },
            |items| items.take(3).collect::<Vec<_>>(),
            never,
        );

        assert_eq!(taken, Ok(vec![0, 1, 2]));
        assert!(read <= (CHUNKS_MAX + 3) * CHUNK_ITEMS, "{read} were read");
    }

    #[test]
    #[should_panic(expected = "while reading")]
    fn a_panic_of_the_reader_is_passed_on() {
        let _ = read_ahead(|_: &mut Ahead<()>| panic!("while reading"), |items| items.count(), never);
    }
}
