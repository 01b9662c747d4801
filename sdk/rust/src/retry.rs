//! How often a call is made again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Error;

/// How often and for how long a call is repeated. Every call made here is harmless to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Bound of the first wait; doubles from there. The wait itself is drawn between zero and the bound.
    pub first: Duration,
    /// Bound of every wait, and the longest that a server's own wish is obeyed.
    pub wait_max: Duration,
    /// No try begins later than this after the first failure.
    pub total: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { first: Duration::from_millis(100), wait_max: Duration::from_secs(5), total: Duration::from_secs(30) }
    }
}

impl Retry {
    /// One try.
    pub const NEVER: Retry = Retry { first: Duration::ZERO, wait_max: Duration::ZERO, total: Duration::ZERO };

    pub(crate) async fn run<T, F>(self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = Pause::new(self);
        loop {
            match call().await {
                Err(error @ Error::Unavailable { .. }) => pause.after(error).await?,
                answer => return answer,
            }
        }
    }
}

/// The waits of one call.
#[derive(Debug)]
pub(crate) struct Pause {
    retry: Retry,
    bound: Duration,
    /// Until when is tried; unset until the first failure.
    end: Option<Instant>,
}

impl Pause {
    pub(crate) fn new(retry: Retry) -> Pause {
        Pause { retry, bound: retry.first, end: None }
    }

    /// Something went well: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        *self = Pause::new(self.retry);
    }

    /// Waits; gives the error back when there is no time left for another try. Whoever goes on all the same has all of it again, and waits
    /// as long as before.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        let wish = match &error {
            Error::Unavailable { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let wait = wish.min(self.retry.wait_max) + jitter(self.bound);
        let now = Instant::now();
        let end = *self.end.get_or_insert(now + self.retry.total);
        if now + wait >= end {
            self.end = None;
            return Err(error);
        }
        sleep(wait).await;
        self.bound = (self.bound * 2).min(self.retry.wait_max);
        Ok(())
    }
}

fn jitter(bound: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(u32::MAX / 2);
    bound.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use tonic::Status;

    use super::*;

    fn unavailable() -> Error {
        Error::from(Status::unavailable("away"))
    }

    #[tokio::test(start_paused = true)]
    async fn time_before_the_first_failure_does_not_count() {
        let mut pause = Pause::new(Retry::default());
        advance(Duration::from_secs(60)).await;
        assert!(pause.after(unavailable()).await.is_ok());

        pause.reset();
        advance(Duration::from_secs(60)).await;
        assert!(pause.after(unavailable()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_on_after_an_end_waits_as_before() {
        let mut pause = Pause::new(Retry::default());
        while pause.after(unavailable()).await.is_ok() {}

        assert!(pause.after(unavailable()).await.is_ok());
        assert_eq!(pause.bound, Retry::default().wait_max);
    }
}
