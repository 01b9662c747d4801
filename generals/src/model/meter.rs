//! What a run may use of models, and what it has used.
//!
//! ```text
//!   hold(likely) ----> Hold --- known(usage) ---> settle, or dropped ----> spent once
//!        |
//!        +--> no: over budget, nothing is asked
//! ```
//! Invariants: calls under way count with what they are likely to use, so many at once do not pass the ceiling together; what a call
//! is known to have used is spent exactly once, also when its future is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mindos_sdk::{Ceilings, Spending, Usage};

/// Asks before each call of a model whether it may be made, and is told what it used. Clones count together.
#[derive(Clone, Debug)]
pub struct Meter {
    whose: Whose,
    /// Sums of what calls under way are likely to use.
    held: Arc<Mutex<Usage>>,
}

#[derive(Clone, Debug)]
enum Whose {
    /// The control plane is asked, and told.
    Stream(Spending),
    Own {
        ceilings: Ceilings,
        began: Instant,
        used: Arc<Mutex<Vec<Usage>>>,
    },
}

impl Meter {
    /// Of work that came by the stream: its ceilings may be raised while it runs.
    #[must_use]
    pub fn stream(spending: Spending) -> Meter {
        Meter { whose: Whose::Stream(spending), held: Arc::default() }
    }

    /// Of work that came with fixed ceilings, or with none.
    #[must_use]
    pub fn own(ceilings: Ceilings) -> Meter {
        let whose = Whose::Own { ceilings, began: Instant::now(), used: Arc::default() };
        Meter { whose, held: Arc::default() }
    }

    /// What the run has used so far, by model.
    #[must_use]
    pub fn used(&self) -> Vec<Usage> {
        match &self.whose {
            Whose::Stream(spending) => spending.used(),
            Whose::Own { used, .. } => used.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// What the run may use in all, as far as is known.
    #[must_use]
    pub fn ceilings(&self) -> Ceilings {
        match &self.whose {
            Whose::Stream(spending) => spending.ceilings(),
            Whose::Own { ceilings, .. } => *ceilings,
        }
    }

    /// Whether a call that is likely to use so much may be made, and if so a place for it.
    pub(crate) async fn hold(&self, likely: Usage) -> Option<Hold> {
        let asked = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.add(&likely);
            Usage { model: likely.model.clone(), ..held.clone() }
        };
        let hold = Hold { meter: self.clone(), likely, known: None };
        let may = match &self.whose {
            Whose::Stream(spending) => spending.may_spend(&asked).await,
            Whose::Own { ceilings, began, used } => {
                let mut sum = asked;
                used.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|used| sum.add(used));
                let within = |ceiling: Option<u64>, sum: u64| ceiling.is_none_or(|ceiling| sum <= ceiling);
                within(ceilings.cost_micros, sum.cost_micros)
                    && within(ceilings.tokens, sum.input_tokens.saturating_add(sum.output_tokens))
                    && ceilings.time.is_none_or(|time| began.elapsed() < time)
            }
        };
        may.then_some(hold)
    }

    fn spend(&self, usage: Usage) {
        match &self.whose {
            Whose::Stream(spending) => spending.spend(usage),
            Whose::Own { used, .. } => {
                let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
                match used.iter_mut().find(|known| known.model == usage.model) {
                    Some(known) => known.add(&usage),
                    None => used.push(usage),
                }
            }
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Hold {
    meter: Meter,
    likely: Usage,
    known: Option<Usage>,
}

impl Hold {
    /// What the call has used as far as is known at this moment; what was known before is replaced.
    pub(crate) fn known(&mut self, usage: Usage) {
        self.known = Some(usage);
    }

    /// The call used nothing after all.
    pub(crate) fn nothing(&mut self) {
        self.known = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut held = self.meter.held.lock().unwrap_or_else(PoisonError::into_inner);
            let Usage { model: _, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = &self.likely;
            held.input_tokens = held.input_tokens.saturating_sub(*input_tokens);
            held.cached_input_tokens = held.cached_input_tokens.saturating_sub(*cached_input_tokens);
            held.output_tokens = held.output_tokens.saturating_sub(*output_tokens);
            held.cost_micros = held.cost_micros.saturating_sub(*cost_micros);
            held.calls = held.calls.saturating_sub(*calls);
        }
        if let Some(usage) = self.known.take() {
            self.meter.spend(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn usage(input_tokens: u64, cost_micros: u64) -> Usage {
        Usage { model: "m".to_owned(), input_tokens, cost_micros, calls: 1, ..Usage::default() }
    }

    #[tokio::test]
    async fn a_call_is_refused_where_it_would_pass_a_ceiling() {
        let meter = Meter::own(Ceilings { cost_micros: Some(100), ..Ceilings::default() });
        let mut hold = meter.hold(usage(5, 60)).await.unwrap();
        hold.known(usage(5, 90));
        drop(hold);
        assert!(meter.hold(usage(5, 11)).await.is_none(), "90 are used, 11 more are too many");
        assert!(meter.hold(usage(5, 10)).await.is_some());
        let meter = Meter::own(Ceilings { tokens: Some(10), ..Ceilings::default() });
        assert!(meter.hold(usage(11, 0)).await.is_none());
        let meter = Meter::own(Ceilings { time: Some(Duration::ZERO), ..Ceilings::default() });
        assert!(meter.hold(usage(1, 0)).await.is_none());
    }

    #[tokio::test]
    async fn calls_under_way_count_and_what_is_known_is_spent_once() {
        let meter = Meter::own(Ceilings { cost_micros: Some(100), ..Ceilings::default() });
        let mut first = meter.hold(usage(5, 60)).await.unwrap();
        assert!(meter.hold(usage(5, 60)).await.is_none(), "both together are too many");
        first.known(usage(3, 20));
        first.known(usage(5, 30));
        drop(first);
        assert_eq!(meter.used(), [usage(5, 30)]);
        drop(meter.hold(usage(5, 60)).await.expect("a refused call holds nothing"));
        assert_eq!(meter.used(), [usage(5, 30)], "of a call that got nowhere nothing is known");
    }
}
