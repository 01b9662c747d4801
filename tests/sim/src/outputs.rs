//! What leaves the plane, held against what is durable.

use mindos_core::output::{Mode, Output, PayloadOf, PlaneMessage, Published, Rejection, Reply, SettledVerdict};
use mindos_model::{DeliveryId, Seq, Token};

use crate::ledger::{Broken, Facts, Ledger};

const EARLY: &str = "nothing_leaves_before_durable";

impl Ledger {
    /// Judges an output at the moment it leaves.
    ///
    /// # Errors
    /// Names the invariant that it breaks.
    pub fn judge_output(&self, output: &Output) -> Result<(), Broken> {
        match output {
            Output::Reply { request: _, reply } => match reply.as_ref() {
                Ok(reply) => self.judge_reply(reply),
                Err(Rejection::Conflict { event }) => self.has_event(*event),
                Err(Rejection::RoutesChanged { current, .. }) => self.reached(*current, "routes in force"),
                Err(_) => Ok(()),
            },
            Output::Send { session: _, message } => self.judge_message(message),
            Output::Close { .. } => Ok(()),
            Output::DropPrefix { through } => self.reached(*through, "dropped prefix"),
        }
    }

    fn reached(&self, seq: Seq, what: &str) -> Result<(), Broken> {
        if seq <= self.end { Ok(()) } else { Err(format!("{EARLY}: {what} at {seq}, durable through {}", self.end)) }
    }

    fn has_event(&self, event: Seq) -> Result<(), Broken> {
        if self.events.contains_key(&event) {
            return Ok(());
        }
        Err(format!("{EARLY}: event {event} was answered, durable through {}", self.end))
    }

    fn has_token(&self, id: DeliveryId, token: Token, what: &str) -> Result<(), Broken> {
        match self.deliveries.get(&id) {
            Some(facts) if facts.token >= token => Ok(()),
            _ => Err(format!("{EARLY}: {what} of {id} {token}, durable through {}", self.end)),
        }
    }

    fn judge_reply(&self, reply: &Reply) -> Result<(), Broken> {
        match reply {
            Reply::Published(published) => {
                let Published { event, duplicate: _, route: _, deliveries } = published;
                self.has_event(*event)?;
                deliveries.iter().try_for_each(|delivery| self.has_token(delivery.delivery, Token::default(), "answer"))
            }
            Reply::Changed { deliveries } => {
                deliveries.iter().try_for_each(|id| self.has_token(*id, Token::default(), "change"))
            }
            Reply::Done { at } => self.reached(*at, "change"),
            Reply::TokenMade { id } => self.reached(Seq(id.0), "token"),
            Reply::Joined { identity: _, at } => self.reached(*at, "join"),
            Reply::Seen(seen) => seen.map_or(Ok(()), |seen| self.has_event(seen.event)),
            Reply::Event(view) => view.as_ref().map_or(Ok(()), |view| {
                self.has_event(view.event)?;
                view.deliveries.iter().try_for_each(|view| self.has_token(view.delivery, view.token, "view"))
            }),
            Reply::Deliveries(views) => {
                views.iter().try_for_each(|view| self.has_token(view.delivery, view.token, "view"))
            }
            Reply::Fleet(_) | Reply::Unjudged(_) | Reply::Objects(_) | Reply::Object { .. } => Ok(()),
            Reply::Budgets(views) => views.iter().try_for_each(|view| self.reached(view.since, "budget")),
            Reply::Routes { table: _, at } => self.reached(*at, "routes"),
            Reply::Totals(totals) => self.reached(totals.seq, "totals"),
            Reply::Payloads(payloads) => payloads.iter().try_for_each(|(of, at)| {
                match of {
                    PayloadOf::Event(event) => self.has_event(*event)?,
                    PayloadOf::Effect { effect, .. } => self.reached(effect.0, "effect")?,
                }
                self.reached(at.seq, "payload")
            }),
            Reply::Effects(views) => self.judge_effect_views(views),
            Reply::EffectsChanged { effects: _, at } => self.reached(*at, "change of effects"),
        }
    }

    fn judge_message(&self, message: &PlaneMessage) -> Result<(), Broken> {
        match message {
            PlaneMessage::Welcome { epoch, verdicts: _ } if *epoch > self.epoch => {
                Err(format!("{EARLY}: welcome in epoch {epoch}, durable is {}", self.epoch))
            }
            PlaneMessage::Assign(assign) => {
                self.has_token(assign.delivery, assign.token, "assignment")?;
                if self.access.redacted.contains_key(&assign.delivery.event) {
                    return Err(format!("what_is_redacted_stays_so: {} was given out", assign.delivery));
                }
                let facts = self.deliveries.get(&assign.delivery);
                let mode = |facts: &Facts| match (facts.plan.replay, facts.plan.terms.shadow) {
                    (true, _) => Mode::Replay,
                    (false, true) => Mode::Shadow,
                    (false, false) => Mode::Live,
                };
                if facts.is_some_and(|facts| mode(facts) != assign.mode) {
                    return Err(format!("shadows_are_told_that_they_are: {} as {:?}", assign.delivery, assign.mode));
                }
                if assign.payload.seq <= self.dropped {
                    return Err(format!(
                        "payloads_of_open_work_are_kept: {} of {}",
                        assign.payload.seq, assign.delivery
                    ));
                }
                self.reached(assign.payload.seq, "payload")
            }
            PlaneMessage::Settled { delivery, token, verdict, effects } => {
                self.judge_settled_effects(*delivery, effects)?;
                self.judge_settled(*delivery, *token, *verdict)
            }
            PlaneMessage::Cancel { delivery, .. } if !self.cancels.contains(delivery) => {
                Err(format!("{EARLY}: cancel of {delivery}, durable through {}", self.end))
            }
            PlaneMessage::Welcome { .. }
            | PlaneMessage::Cancel { .. }
            | PlaneMessage::Extended { .. }
            | PlaneMessage::Lost { .. }
            | PlaneMessage::Reconciled { .. }
            | PlaneMessage::Drain => Ok(()),
        }
    }

    fn judge_settled(&self, id: DeliveryId, token: Token, verdict: SettledVerdict) -> Result<(), Broken> {
        let facts = self.deliveries.get(&id);
        match verdict {
            SettledVerdict::Settled if facts.is_some_and(|facts| facts.answered.contains(&token)) => Ok(()),
            SettledVerdict::Settled => {
                Err(format!("settled_means_recorded: {id} {token}, durable through {}", self.end))
            }
            SettledVerdict::Stale { .. } if self.refused.contains(&(id, token)) => Ok(()),
            SettledVerdict::Stale { .. } => Err(format!("refusals_are_recorded: {id} {token}")),
            SettledVerdict::Unknown => match facts {
                Some(facts) if facts.settled_by == Some(token) => {
                    Err(format!("settled_means_recorded: {id} {token} is recorded and was called unknown"))
                }
                _ => Ok(()),
            },
        }
    }
}
