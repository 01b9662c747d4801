//! One sink at work: walks the journal from its cursor on, sends what concerns it, and goes on once that was answered.
//!
//! Invariant: a message leaves only after its record is durable, and the next one only after the one before was taken or refused for
//! good. Nobody waits for a sink but the sink itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::access::Scope;
use mindos_core::journal::JournalError;
use mindos_core::passage::Passage;
use mindos_core::record::{CancelReason, Entry, EventAccepted, Next, Record};
use mindos_core::replay::is_replay_route;
use mindos_model::{DeliveryId, ParkReason, RouteName, Seq, TenantName};
use tokio::sync::watch;
use tracing::{info, warn};

use super::cursor::Cursor;
use super::message::{EventFacts, Notice};
use super::road::{Refused, Road};
use super::settings::{Outcome, Sink};
use super::state::State;
use super::tell::tell;
use crate::grpc::Context;
use crate::grpc::watch::{Step, Walk};
use crate::logging::Chain;
use crate::notify::Paces;
use mindos_outgoing::{Outgoing, Request};

/// Events that are remembered; others are looked up.
const EVENTS_MAX: usize = 16_384;
/// Generals that deliveries are leased to, remembered.
const LEASES_MAX: usize = 65_536;
/// First wait after a failure; doubles up to the last, with full jitter.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(100);
/// Between two writes of the cursor.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait when the journal cannot be read.
const READ_PAUSE: Duration = Duration::from_secs(5);

/// A sink with all that it needs.
pub(super) struct Runner {
    pub(super) context: Arc<Context>,
    pub(super) client: Outgoing,
    pub(super) paces: Paces,
    pub(super) sink: Sink,
    pub(super) state: Arc<State>,
    pub(super) cursor: Cursor,
    /// Turns true when the sink is to end.
    pub(super) stop: watch::Receiver<bool>,
    /// Held open from message to message.
    #[cfg(feature = "nats")]
    pub(super) nats: super::nats::Connection,
    pub(super) events: HashMap<Seq, Arc<EventFacts>, FixedState>,
    pub(super) order: VecDeque<Seq>,
    pub(super) leases: HashMap<DeliveryId, String, FixedState>,
}

impl Runner {
    /// Sends until told to end.
    pub(super) async fn run(mut self) {
        let Some(mut next) = self.begin().await else { return };
        loop {
            let ended = self.walk(&mut next).await;
            self.save(next).await;
            if ended || !self.rest(READ_PAUSE).await {
                return;
            }
        }
    }

    /// Where to begin: at the cursor, or at what comes next for a sink that was never there.
    async fn begin(&mut self) -> Option<Seq> {
        let after_end = self.context.handle.durable_seq().next();
        loop {
            let cursor = self.cursor.clone();
            match tokio::task::spawn_blocking(move || cursor.read()).await {
                Ok(Ok(Some(next))) if next <= after_end => {
                    self.state.next.store(next.0, Ordering::Relaxed);
                    return Some(next);
                }
                Ok(Ok(_)) => {
                    self.save(after_end).await;
                    return Some(after_end);
                }
                Ok(Err(error)) => {
                    warn!(error = %Chain(&error), sink = self.state.name, "sink's place was not read");
                    if !self.rest(READ_PAUSE).await {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Walks on from `next`, which it moves; true when the sink is to end.
    async fn walk(&mut self, next: &mut Seq) -> bool {
        let mut walk = Walk::start(&self.context, next.0);
        let mut saved = Instant::now();
        let mut stop = self.stop.clone();
        loop {
            let step = tokio::select! {
                step = walk.step() => step,
                _ = stop.wait_for(|stop| *stop) => return true,
            };
            let step = match step {
                Ok(Step::Closed) => return true,
                Ok(step) => step,
                Err(status) => {
                    self.skipped(&status, next);
                    return false;
                }
            };
            for entry in step.entries() {
                if entry.seq < *next {
                    continue;
                }
                if !self.entry(entry).await {
                    return true;
                }
                *next = entry.seq.next();
                self.state.next.store(next.0, Ordering::Relaxed);
                if saved.elapsed() >= SAVE_INTERVAL {
                    self.save(*next).await;
                    saved = Instant::now();
                }
            }
            if saved.elapsed() >= SAVE_INTERVAL {
                self.save(*next).await;
                saved = Instant::now();
            }
        }
    }

    /// The journal could not be read from `next` on: goes on where it begins, if records have left it.
    fn skipped(&self, status: &tonic::Status, next: &mut Seq) {
        let dropped = mindos_proto::rpc::Status::from(status);
        let info = dropped.detail::<mindos_proto::rpc::ErrorInfo>();
        let first = info.and_then(|info| info.metadata.get("first_seq")?.parse().ok()).map(Seq);
        match first.filter(|first| *first > *next) {
            Some(first) => {
                let records = first.0 - next.0;
                warn!(sink = self.state.name, records, "records left the journal before the sink could take them");
                self.state.skipped.fetch_add(records, Ordering::Relaxed);
                *next = first;
            }
            None => warn!(error = %status, sink = self.state.name, "journal was not read"),
        }
    }

    async fn save(&self, next: Seq) {
        self.state.next.store(next.0, Ordering::Relaxed);
        let cursor = self.cursor.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cursor.write(next)).await {
            warn!(error = %Chain(&error), sink = self.state.name, "sink's place was not kept");
        }
    }

    /// Waits; false when the sink is to end.
    async fn rest(&self, wait: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            _ = stop.wait_for(|stop| *stop) => false,
            () = self.context.drained() => false,
        }
    }

    /// Sends what one record says; false when the sink is to end.
    async fn entry(&mut self, entry: &Entry) -> bool {
        for notice in self.notices(entry) {
            if !self.sink.on.contains(&notice.outcome) || !self.sink.road.wants(&notice) {
                continue;
            }
            let Some(event) = self.event(notice.delivery.event).await else { return false };
            // What is not known to be its tenant's is not told.
            if let Scope::Tenant(own) = &self.sink.whose
                && event.as_ref().and_then(|event| event.tenant.as_ref()) != Some(own)
            {
                continue;
            }
            let route = event.as_ref().and_then(|event| event.route.as_deref());
            // What is worked on again for comparison is nobody's news.
            if route.is_some_and(is_replay_route) {
                continue;
            }
            if let Some(routes) = &self.sink.routes
                && !route.and_then(|route| RouteName::new(route).ok()).is_some_and(|route| routes.contains(&route))
            {
                continue;
            }
            if !self.deliver(&notice, event.as_deref()).await {
                return false;
            }
        }
        true
    }

    /// What a record says that sinks may want to know.
    fn notices(&mut self, entry: &Entry) -> Vec<Notice> {
        let notice = |delivery, outcome, reason: Option<&str>| Notice {
            reason: reason.map(str::to_owned),
            ..Notice::new(entry.seq, entry.at, delivery, outcome)
        };
        let parked = |delivery, reason: ParkReason| Notice {
            parked: Some(reason),
            ..notice(delivery, Outcome::Parked, Some(reason.as_str()))
        };
        let Some(passage) = entry.record.passage() else { return Vec::new() };
        match passage {
            Passage::Accepted(event) => {
                self.remember(entry.seq, facts(event));
                let planned = (1..).zip(&event.deliveries);
                planned
                    .filter_map(|(ordinal, planned)| {
                        let general = planned.general.as_ref().map(|general| general.to_string());
                        let delivery = DeliveryId::new(entry.seq, ordinal);
                        planned.parked.map(|reason| Notice { general, ..parked(delivery, reason) })
                    })
                    .collect()
            }
            Passage::Leased(leased) => {
                if self.leases.len() >= LEASES_MAX {
                    // What is forgotten is a name in a message, not a message.
                    self.leases.clear();
                }
                self.leases.insert(leased.delivery, leased.general.to_string());
                Vec::new()
            }
            Passage::Settled(settled) => vec![Notice {
                general: self.leases.remove(&settled.delivery),
                took_ms: Some(settled.took_ms),
                usage: settled.usage.clone(),
                output: settled.output.clone(),
                output_type: settled.output_type.as_deref().map(str::to_owned),
                output_ref: settled.output_ref,
                ..notice(settled.delivery, Outcome::Succeeded, None)
            }],
            Passage::AttemptEnded(ended) => match ended.next {
                Next::Park { reason } => {
                    let message = Some(ended.message.to_string()).filter(|message| !message.is_empty());
                    let general = self.leases.remove(&ended.delivery);
                    vec![Notice { general, message, ..parked(ended.delivery, reason) }]
                }
                Next::Wait { .. } => Vec::new(),
            },
            Passage::Parked(record) => vec![parked(record.delivery, record.reason)],
            Passage::Cancelled(cancelled) => {
                let reason = match cancelled.reason {
                    CancelReason::Superseded { .. } => "superseded",
                    CancelReason::Requested => "requested",
                    CancelReason::RaceLost { .. } => "race_lost",
                    CancelReason::Expired => "expired",
                    CancelReason::ShadowFailed => "shadow_failed",
                    CancelReason::ReplayFailed => "replay_failed",
                    CancelReason::ReplayOverBudget => "replay_over_budget",
                    CancelReason::Redacted => "redacted",
                };
                let general = self.leases.remove(&cancelled.delivery);
                vec![Notice { general, ..notice(cancelled.delivery, Outcome::Cancelled, Some(reason)) }]
            }
            Passage::CancelRequested(_) | Passage::Redriven(_) | Passage::Carried(_) => Vec::new(),
        }
    }

    fn remember(&mut self, seq: Seq, facts: EventFacts) -> Arc<EventFacts> {
        while self.order.len() >= EVENTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.events.remove(&oldest);
            }
        }
        let facts = Arc::new(facts);
        self.order.push_back(seq);
        self.events.insert(seq, Arc::clone(&facts));
        facts
    }

    /// The event behind a delivery: remembered, from the journal, or from the history. What cannot be read is tried again, for without it
    /// a message would be passed over. `None` when the sink is to end.
    async fn event(&mut self, seq: Seq) -> Option<Option<Arc<EventFacts>>> {
        if let Some(facts) = self.events.get(&seq) {
            return Some(Some(Arc::clone(facts)));
        }
        loop {
            let tenant = self.sink.whose.tenant().cloned();
            let read = self.context.blocking(move |context| read_event(context, tenant, seq)).await;
            let error = match read {
                Ok(Ok(facts)) => return Some(facts.map(|facts| self.remember(seq, facts))),
                Ok(Err(error)) => error,
                Err(status) => status.message().to_owned(),
            };
            warn!(sink = self.state.name, %seq, error, "event was not read: tried again");
            if !self.rest(READ_PAUSE).await {
                return None;
            }
        }
    }

    /// Sends one message until it is taken, or refused for good; false when the sink is to end.
    async fn deliver(&mut self, notice: &Notice, event: Option<&EventFacts>) -> bool {
        let (mut failures, mut refusals) = (0, 0);
        loop {
            let refused = match self.send(notice, event).await {
                None => return false,
                Some(Ok(())) => {
                    self.state.taken();
                    return true;
                }
                Some(Err(Refused::Message { reason })) => {
                    let (sink, delivery) = (&self.state.name, notice.delivery);
                    warn!(sink, %delivery, reason, "sink refused a message for good");
                    self.state.refused.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Some(Err(Refused::Settings { reason })) => {
                    refusals += 1;
                    let tries_max = self.sink.road.tries_max();
                    if tries_max.is_some_and(|most| refusals >= most || self.state.is_given_up()) {
                        self.give_up(notice, &reason);
                        return true;
                    }
                    (reason, None)
                }
                Some(Err(Refused::Later { reason, wait })) => (reason, wait),
            };
            let (reason, wait) = refused;
            failures += 1;
            let wait = wait.unwrap_or_default().max(backoff(failures)).min(RETRY_MAX * 2);
            if self.state.failed(&reason, wait) {
                let retry_in_ms = wait.as_millis() as u64;
                warn!(sink = self.state.name, reason, retry_in_ms, "sink takes nothing");
            }
            if !self.rest(wait).await {
                return false;
            }
        }
    }

    /// Passes a message over that nobody takes before the sink's settings are mended. Said of the first in a row alone.
    fn give_up(&self, notice: &Notice, reason: &str) {
        let (sink, delivery) = (&self.state.name, notice.delivery);
        self.state.refused.fetch_add(1, Ordering::Relaxed);
        if self.state.gave_up(reason) {
            warn!(sink, %delivery, reason, "sink refuses its settings: messages are passed over until one is taken");
        }
    }

    /// Tries once; `None` when the sink is to end.
    async fn send(&mut self, notice: &Notice, event: Option<&EventFacts>) -> Option<Result<(), Refused>> {
        let message = notice.message(&self.context.plane_id, event);
        let timeout = self.sink.timeout;
        let mut stop = self.stop.clone();
        let sent = async {
            match &self.sink.road {
                Road::Http(post) => {
                    let request = post.request(&message, self.context.handle.now());
                    post.send(&self.client, Request { timeout, ..request }).await
                }
                Road::Notice(place) => tell(place, &self.paces, &self.client, notice, timeout).await,
                #[cfg(feature = "nats")]
                Road::Nats(nats) => {
                    let subject = nats.subject.fill(notice, event);
                    let key = format!("{}.{}.{}", self.context.plane_id, self.state.name, message.id);
                    self.nats.send(nats, subject, &key, &message, timeout).await
                }
            }
        };
        tokio::select! {
            sent = sent => Some(sent),
            _ = stop.wait_for(|stop| *stop) => None,
            () = self.context.drained() => None,
        }
    }
}

fn facts(event: &EventAccepted) -> EventFacts {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    EventFacts {
        tenant: Some(event.tenant.clone()),
        source: event.source.to_string(),
        id: event.id.to_string(),
        ty: event.ty.to_string(),
        kind: event.kind.to_string(),
        subject: text(&event.subject),
        lane: event.lane.to_string(),
        repository: text(&event.repository),
        actor: text(&event.actor),
        route: event.route.as_ref().map(|route| route.as_str().to_owned()),
    }
}

/// Doubles up to [`RETRY_MAX`], with full jitter, and never less than a tenth of it.
fn backoff(failures: u32) -> Duration {
    let most = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_MAX);
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    most.mul_f64((f64::from(chance) / f64::from(u32::MAX)).max(0.1))
}

/// What the journal or, where its record has left it, the history has of an event; `None` where neither has any.
fn read_event(context: &Context, tenant: Option<TenantName>, seq: Seq) -> Result<Option<EventFacts>, String> {
    let mut found = None;
    let read = context.source.read(seq, &mut |entry| {
        if let (true, Record::EventAccepted(event)) = (entry.seq == seq, &entry.record) {
            found = Some(facts(event));
        }
        false
    });
    match read {
        Ok(()) | Err(JournalError::Dropped { .. }) => {}
        Err(error) => return Err(Chain(&error).to_string()),
    }
    if found.is_some() {
        return Ok(found);
    }
    let row = context.history.event_of(tenant.as_ref(), seq).map_err(|error| Chain(&error).to_string())?;
    Ok(row.map(|row| {
        let (source, id, ty, kind) = (row.source, row.id, row.ty, row.kind);
        let (subject, lane, repository, actor, route) = (row.subject, row.lane, row.repository, row.actor, row.route);
        EventFacts { tenant, source, id, ty, kind, subject, lane, repository, actor, route }
    }))
}

/// Says that a sink was forgotten.
pub(super) async fn forget(cursor: Cursor, name: &str) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cursor.remove()).await {
        warn!(error = %Chain(&error), sink = name, "sink's place was not removed");
    }
    info!(sink = name, "sink is gone");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        for failures in [1, 2, 5, 50, u32::MAX] {
            let wait = backoff(failures);
            assert!(wait >= RETRY_MIN / 10 && wait <= RETRY_MAX, "{failures}: {wait:?}");
        }
        assert!(backoff(1) <= RETRY_MIN);
    }
}
