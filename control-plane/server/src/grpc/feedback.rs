//! Feedback: events whose type says what somebody made of a result, and which name its delivery.
//!
//! What the plane folds of one is read from the ledger here: who did the work, and on which side of a comparison. Invariant: an event of
//! such a type names a delivery that has a result, was accepted before, or is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::input::NewEvent;
use mindos_core::journal::JournalError;
use mindos_core::record::{About, Feedback, FeedbackVerdict, GeneralKey, Record, Role, Variant};
use mindos_model::{DeliveryId, RouteName, Seq, Status, TenantName};
use mindos_proto::convert::Invalid;
use mindos_proto::rpc;

use super::{Context, status};
use crate::ingest::event::{Extension, extensions, key};

/// How types of feedback begin.
pub(super) const TYPE_PREFIX: &str = "dev.mindos.feedback.";
/// The extension attribute that names the delivery.
const DELIVERY: &str = "mindosdelivery";
/// How long the ledger is searched for a result.
const SEARCH_MAX: Duration = Duration::from_secs(2);

/// What the ledger says of a delivery.
enum Found {
    Done(Arc<GeneralKey>, Variant),
    Unknown,
    /// It waits, runs, or ended without a result.
    NoResult,
    /// Its result was not found in the time there is, which does not say that there is none.
    NotFoundYet,
}

impl Context {
    /// Finds out what feedback is about; does nothing for other events.
    pub(crate) async fn hear(self: &Arc<Self>, event: &mut NewEvent) -> Result<(), rpc::Status> {
        let Some(word) = event.ty.strip_prefix(TYPE_PREFIX) else { return Ok(()) };
        let verdict = match word {
            "accepted" => FeedbackVerdict::Accepted,
            "dismissed" => FeedbackVerdict::Dismissed,
            "reverted" => FeedbackVerdict::Reverted,
            _ => {
                let expected = format_args!("expected {TYPE_PREFIX} and one of accepted, dismissed and reverted");
                return Err(status::invalid(Invalid::new("event.type", expected)));
            }
        };
        let named = extensions(&event.payload.bytes).into_iter().find(|(name, _)| *name == DELIVERY);
        let delivery = match named {
            Some((_, Extension::Text(text))) => text.parse::<DeliveryId>().ok(),
            Some((_, Extension::Boolean(_) | Extension::Integer(_))) | None => None,
        };
        let malformed = || Invalid::new("event.mindosdelivery", "expected the delivery it is about, such as `d42.1`");
        let delivery = delivery.ok_or_else(|| status::invalid(malformed()))?;
        // What was accepted once is answered as it was then, also where the work that it names is not known any more.
        if event.seen.is_none() {
            event.seen = self.seen(&event.tenant, event.key).await.map_err(|status| rpc::Status::from(&status))?;
        }
        if event.seen.is_some() {
            return Ok(());
        }
        let found = {
            let tenant = event.tenant.clone();
            self.blocking(move |context| context.work_of(&tenant, delivery)).await
        };
        let found = found.and_then(|found| found).map_err(|status| rpc::Status::from(&status))?;
        match found {
            Found::Done(general, variant) => {
                let voice = key(&event.tenant, &event.source, &delivery.to_string());
                let feedback = Feedback { delivery, verdict, voice, general, variant };
                event.about = Some(Box::new(About::Feedback(feedback)));
                Ok(())
            }
            Found::Unknown => Err(status::not_found("delivery", delivery.to_string())),
            Found::NoResult => Err(status::no_result(delivery)),
            Found::NotFoundYet => Err(status::result_not_read(delivery)),
        }
    }

    /// Who did a delivery: from the journal, which alone knows on which side of a comparison it stood, or from the history where the
    /// journal no longer has it, or has the result too far behind its event to be found in time.
    fn work_of(&self, tenant: &TenantName, delivery: DeliveryId) -> Result<Found, tonic::Status> {
        // What is not done at the history's last record is done, if at all, in the few records behind it.
        let committed = self.history.committed();
        let row = self.history.delivery(tenant, delivery);
        let row = row.map_err(|error| super::failed("history was not read", &error))?;
        if row.is_some_and(|row| row.status != Status::Succeeded) && !self.is_settled_behind(committed, delivery)? {
            return Ok(Found::NoResult);
        }
        let (mut is_known, mut role, mut route) = (false, Role::Live, None);
        let (mut last, mut done, mut timed_out) = (None, false, false);
        let began = Instant::now();
        let read = self.source.read(delivery.event, &mut |entry| match &entry.record {
            Record::EventAccepted(event) if entry.seq == delivery.event => {
                is_known =
                    event.tenant == *tenant && (1..=event.deliveries.len()).contains(&(delivery.ordinal as usize));
                let planned = event.deliveries.get((delivery.ordinal as usize).wrapping_sub(1));
                let is_shadow = planned.and_then(|planned| planned.terms.as_deref()).is_some_and(|terms| terms.shadow);
                (role, route) = (role_of(event.replay().is_some(), is_shadow), event.route.clone());
                is_known
            }
            _ if entry.seq == delivery.event => false,
            Record::DeliveryLeased(leased) if leased.delivery == delivery => {
                last = Some((leased.general.clone(), leased.variant.as_deref().cloned()));
                true
            }
            Record::DeliverySettled(settled) if settled.delivery == delivery => {
                done = true;
                false
            }
            Record::DeliveryCancelled(cancelled) if cancelled.delivery == delivery => false,
            _ => {
                timed_out = began.elapsed() >= SEARCH_MAX;
                !timed_out
            }
        });
        match read {
            Ok(()) => {}
            Err(JournalError::Dropped { .. }) => return self.work_kept(tenant, delivery),
            Err(error) => return Err(super::failed("journal was not read", &error)),
        }
        if timed_out {
            return Ok(match self.work_kept(tenant, delivery)? {
                found @ Found::Done(..) => found,
                Found::Unknown | Found::NoResult | Found::NotFoundYet => Found::NotFoundYet,
            });
        }
        let (true, Some(route)) = (is_known, route) else { return Ok(Found::Unknown) };
        Ok(match last {
            Some((general, variant)) if done => Found::Done(general, variant.unwrap_or_else(|| plain(route, role))),
            _ => Found::NoResult,
        })
    }

    /// Whether a delivery has a result behind this record.
    fn is_settled_behind(&self, seq: Seq, delivery: DeliveryId) -> Result<bool, tonic::Status> {
        let (began, mut is_settled) = (Instant::now(), false);
        let read = self.source.read(seq.next(), &mut |entry| {
            is_settled = matches!(&entry.record, Record::DeliverySettled(settled) if settled.delivery == delivery);
            !is_settled && began.elapsed() < SEARCH_MAX
        });
        match read {
            Ok(()) | Err(JournalError::Dropped { .. }) => Ok(is_settled),
            Err(error) => Err(super::failed("journal was not read", &error)),
        }
    }

    fn work_kept(&self, tenant: &TenantName, delivery: DeliveryId) -> Result<Found, tonic::Status> {
        let row = self.history.delivery(tenant, delivery);
        let Some(row) = row.map_err(|error| super::failed("history was not read", &error))? else {
            return Ok(Found::Unknown);
        };
        let (Status::Succeeded, Some(general), Some(route)) = (row.status, row.general, row.route) else {
            return Ok(Found::NoResult);
        };
        let (Ok(cluster), Ok(name), Ok(route)) = (general.cluster.parse(), general.name.parse(), route.parse()) else {
            return Ok(Found::Unknown);
        };
        let general = GeneralKey { tenant: tenant.clone(), cluster, name };
        let role =
            if mindos_core::replay::is_replay_route(RouteName::as_str(&route)) { Role::Replay } else { Role::Live };
        Ok(Found::Done(Arc::new(general), plain(route, role)))
    }
}

fn role_of(is_replay: bool, is_shadow: bool) -> Role {
    match (is_replay, is_shadow) {
        (true, _) => Role::Replay,
        (false, true) => Role::Shadow,
        (false, false) => Role::Live,
    }
}

/// Work that nothing was compared by.
fn plain(route: RouteName, role: Role) -> Variant {
    Variant { route, role, arm: Arc::from(""), version: Arc::from("") }
}
