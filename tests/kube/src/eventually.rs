//! Waiting for what comes about by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Asks until there is an answer; returns it and how long that took. What it says meanwhile as an error is told when time is up.
///
/// # Errors
/// When `time` is over.
pub async fn eventually<T, F>(what: &str, time: Duration, mut ask: impl FnMut() -> F) -> Result<(T, Duration)>
where
    F: Future<Output = Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        let last = match tokio::time::timeout(time, ask()).await.context("no answer") {
            Ok(Ok(Some(answer))) => return Ok((answer, begun.elapsed())),
            Ok(Ok(None)) => None,
            Ok(Err(error)) | Err(error) => Some(error),
        };
        if begun.elapsed() > time {
            match last {
                Some(error) => return Err(error.context(format!("not within {time:?}: {what}"))),
                None => bail!("not within {time:?}: {what}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
