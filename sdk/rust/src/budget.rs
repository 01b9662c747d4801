//! What work may use of models: its ceilings, what it has used, and asking for more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mindos_sidecar_core::{Ceilings, Progress, Usage};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::general::Reporter;

/// How long an answer is waited for; without one nothing more may be used.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Answers to what was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grants {
    count: u64,
    ceilings: Option<Ceilings>,
}

impl Grants {
    pub(crate) fn answered(&mut self, ceilings: Ceilings) {
        self.count += 1;
        self.ceilings = Some(ceilings);
    }
}

/// What a piece of work may use of models, and what it has used so far.
///
/// ```no_run
/// # use mindos_sdk::{Failure, Output, Usage, Work};
/// # async fn call_the_model() -> Usage { Usage::default() }
/// async fn process(work: Work) -> Result<Output, Failure> {
///     let spending = work.spending();
///     for _ in 0..10 {
///         let likely = Usage { model: "m".into(), input_tokens: 2000, cost_micros: 900, ..Usage::default() };
///         if !spending.may_spend(&likely).await {
///             return Err(spending.stop("no money for another look"));
///         }
///         spending.spend(call_the_model().await);
///     }
///     Ok(Output { usage: spending.used(), ..Output::text("done") })
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Spending {
    reporter: Reporter,
    began: Instant,
    assigned: Ceilings,
    grants: watch::Receiver<Grants>,
    used: Arc<Mutex<Vec<Usage>>>,
}

impl Spending {
    pub(crate) fn new(reporter: Reporter, assigned: Ceilings, grants: watch::Receiver<Grants>) -> Spending {
        Spending { reporter, began: Instant::now(), assigned, grants, used: Arc::default() }
    }

    /// What the work may use in all, as far as is known; unset has no limit.
    #[must_use]
    pub fn ceilings(&self) -> Ceilings {
        self.grants.borrow().ceilings.unwrap_or(self.assigned)
    }

    /// What the work has used so far, by model.
    #[must_use]
    pub fn used(&self) -> Vec<Usage> {
        self.lock().clone()
    }

    /// Adds what a call of a model used. The control plane hears of it with the next extension of the lease.
    pub fn spend(&self, usage: Usage) {
        let mut used = self.lock();
        match used.iter_mut().find(|known| known.model == usage.model) {
            Some(known) => known.add(&usage),
            None => used.push(usage),
        }
        let usage = used.clone();
        drop(used);
        self.reporter.progress(Progress { usage, ..Progress::default() });
    }

    /// Whether a call of a model that is likely to use so much may be made. Asks the control plane for more where the ceilings do
    /// not reach, and says no when there is none, or no answer within 30 s: stop then, with [`Spending::stop`].
    pub async fn may_spend(&self, likely: &Usage) -> bool {
        let Some(wanted) = self.missing(likely) else { return true };
        let mut grants = self.grants.clone();
        let before = grants.borrow_and_update().count;
        self.reporter.progress(Progress { usage: self.used(), wanted: Some(wanted), ..Progress::default() });
        let answer = grants.wait_for(|grants| grants.count > before);
        let answered = matches!(timeout_at(Instant::now() + ANSWER_MAX, answer).await, Ok(Ok(_)));
        answered && self.missing(likely).is_none()
    }

    /// The failure that ends work which may use no more, with what it has used.
    #[must_use]
    pub fn stop(&self, message: impl Into<String>) -> crate::Failure {
        crate::Failure { usage: self.used(), ..crate::Failure::over_budget(message) }
    }

    /// The ceilings that would do, where those that there are do not.
    fn missing(&self, likely: &Usage) -> Option<Ceilings> {
        let used = self.lock();
        let sum = |of: fn(&Usage) -> u64| used.iter().map(of).fold(of(likely), u64::saturating_add);
        let beyond = |ceiling: Option<u64>, sum: u64| ceiling.filter(|ceiling| sum > *ceiling).map(|_| sum);
        let Ceilings { cost_micros, tokens, time } = self.ceilings();
        let missing = Ceilings {
            cost_micros: beyond(cost_micros, sum(|usage| usage.cost_micros)),
            tokens: beyond(tokens, sum(|usage| usage.input_tokens.saturating_add(usage.output_tokens))),
            // As long again as it has had.
            time: time.filter(|time| self.began.elapsed() >= *time).map(|time| time + self.began.elapsed()),
        };
        (missing != Ceilings::default()).then_some(missing)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Usage>> {
        // Nothing in here is left half done by a panic.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_provider_do_not_pass_the_largest_number() {
        let most = Usage {
            model: "m".into(),
            input_tokens: u64::MAX,
            cached_input_tokens: u64::MAX,
            output_tokens: u64::MAX,
            cost_micros: u64::MAX,
            calls: u32::MAX,
        };
        let mut sum = most.clone();
        sum.add(&most);
        assert_eq!(sum, most);
    }
}
