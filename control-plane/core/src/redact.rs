//! Redaction: payloads of events leave the journal, and nothing of them leaves the plane any more.
//!
//! Which bytes go is the shell's. Here their open work ends: what waits is cancelled with the record, so that nobody is given the
//! payload again, and what is leased is to be stopped.

use std::sync::Arc;

use mindos_model::{Seq, TenantName, limits};

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::event::Phase;
use crate::input::RequestId;
use crate::output::{Output, PlaneMessage, Rejection, Reply};
use crate::people::SELECTED_MAX;
use crate::record::{CancelReason, CancelRequested, DeliveryCancelled, PayloadsRedacted, Record};

impl Durable {
    pub(crate) fn redact(
        &self,
        request: RequestId,
        tenant: TenantName,
        mut events: Vec<Seq>,
        why: Arc<str>,
        (by, from): (Arc<str>, Arc<str>),
        context: Context<'_>,
    ) -> Decision {
        events.sort_unstable();
        events.dedup();
        if let Err(rejection) = self.may_redact(&tenant, &events, &why) {
            return Decision::reply(request, Err(rejection));
        }
        let mut decision = Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }));
        let reason = CancelReason::Redacted;
        let mut ends = Vec::new();
        for (seq, event) in events.iter().filter_map(|seq| Some((*seq, self.events.get(*seq)?))) {
            for (delivery, known) in event.deliveries(seq) {
                // The reason stands in the record of the redaction.
                let (why, by) = (Arc::default(), by.clone());
                ends.push(match &known.phase {
                    Phase::Leased(_) if known.is_redacted() => continue,
                    Phase::Leased(lease) => {
                        let message = PlaneMessage::Cancel { delivery, token: known.token, reason };
                        let send = |session| Output::Send { session, message };
                        decision.outputs.extend(context.soft.session_of(&lease.instance).map(send));
                        Record::CancelRequested(CancelRequested { delivery, reason, why, by })
                    }
                    Phase::Waiting { .. } | Phase::Parked { .. } => {
                        let (charged, unanswered) = (None, false);
                        let cancelled = DeliveryCancelled { delivery, reason, why, by, charged, unanswered };
                        Record::DeliveryCancelled(Box::new(cancelled))
                    }
                    Phase::Succeeded | Phase::Cancelled => continue,
                });
            }
        }
        ends.extend(self.effects.redacted(&events, &by, &from));
        let record = PayloadsRedacted { tenant, events, why, by, from };
        decision.records.push(Record::PayloadsRedacted(Box::new(record)));
        decision.records.extend(ends);
        decision
    }

    fn may_redact(&self, tenant: &TenantName, events: &[Seq], why: &str) -> Result<(), Rejection> {
        let refused = |field, reason| Err(Rejection::Redaction { field, reason });
        if !(1..=limits::REDACTED_MAX).contains(&events.len()) {
            return refused("events", format!("there are {}: expected 1 to {}", events.len(), limits::REDACTED_MAX));
        }
        if why.len() > limits::REASON_MAX || why.chars().any(char::is_control) {
            let expected = format!("at most {} without control characters", limits::REASON_MAX);
            return refused("why", format!("has {} bytes: expected {expected}", why.len()));
        }
        let mut open = 0;
        for seq in events {
            let known = self.events.get(*seq);
            if *seq == Seq::ZERO || *seq > self.seq || known.is_some_and(|event| event.tenant != *tenant) {
                return Err(Rejection::UnknownTarget { what: format!("event {seq}") });
            }
            open += known.map_or(0, |event| event.open);
            open = open.saturating_add(self.effects.open_of(*seq));
        }
        match open > SELECTED_MAX {
            true => refused(
                "events",
                format!("they have {open} open deliveries and effects: expected at most {SELECTED_MAX}"),
            ),
            false => Ok(()),
        }
    }
}
