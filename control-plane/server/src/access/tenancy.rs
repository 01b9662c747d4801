//! Whose a record is: its tenant, by what it says or by the event that it is about.
//!
//! Invariant: what is not known to be a tenant's is shown to none; what concerns the plane is shown to its own viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use mindos_core::record::Record;
use mindos_model::{Seq, TenantName};

use crate::views::follow::Source;
use crate::views::history::HistoryReader;

/// Events whose tenants are remembered; others are looked up in the journal.
const EVENTS_MAX: usize = 131_072;

/// Whose a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    Plane,
    Tenant(&'a TenantName),
    /// Of whoever published this event.
    OfEvent(Seq),
}

/// Whose a record is, as far as it says so itself.
#[must_use]
pub fn owner(record: &Record) -> Owner<'_> {
    match record {
        Record::EventAccepted(record) => Owner::Tenant(&record.tenant),
        Record::DeliveryLeased(record) => Owner::Tenant(&record.general.tenant),
        Record::AttemptEnded(record) => Owner::OfEvent(record.delivery.event),
        Record::DeliverySettled(record) => Owner::OfEvent(record.delivery.event),
        Record::DeliveryCancelled(record) => Owner::OfEvent(record.delivery.event),
        Record::CancelRequested(record) => Owner::OfEvent(record.delivery.event),
        Record::DeliveryParked(record) => Owner::OfEvent(record.delivery.event),
        Record::DeliveryRedriven(record) => Owner::OfEvent(record.delivery.event),
        Record::ResultRefused(record) => Owner::OfEvent(record.delivery.event),
        Record::LeaseExtended(record) => Owner::OfEvent(record.delivery.event),
        Record::PayloadCarried(record) => Owner::OfEvent(record.event),
        Record::ClusterRegistered(record) => Owner::Tenant(&record.tenant),
        Record::GeneralRegistered(record) => Owner::Tenant(&record.key.tenant),
        Record::GeneralRemoved(record) => Owner::Tenant(&record.key.tenant),
        Record::HoldChanged(record) => Owner::Tenant(&record.tenant),
        Record::RoutesApplied(record) => Owner::Tenant(&record.tenant),
        Record::RouteAsked(record) => Owner::Tenant(&record.tenant),
        Record::BudgetSet(record) => Owner::Tenant(&record.tenant),
        Record::BudgetRemoved(record) => Owner::Tenant(&record.tenant),
        Record::BudgetAcknowledged(record) => Owner::Tenant(&record.tenant),
        Record::BudgetCrossed(record) => Owner::Tenant(&record.tenant),
        Record::PayloadsRedacted(record) => Owner::Tenant(&record.tenant),
        Record::EffectIntended(record) => Owner::Tenant(&record.tenant),
        Record::EffectDeferred(record) => Owner::Tenant(&record.tenant),
        Record::EffectEnded(record) => Owner::Tenant(&record.tenant),
        Record::EffectRevived(record) => Owner::Tenant(&record.tenant),
        Record::Object(record) => Owner::Tenant(&record.key().tenant),
        Record::Access(record) => record.tenant().map_or(Owner::Plane, Owner::Tenant),
        Record::EpochStarted(_)
        | Record::PrefixDropped(_)
        | Record::JournalTruncated(_)
        | Record::UpgradeFinalized(_) => Owner::Plane,
    }
}

/// The tenants of events, remembered within a bound.
#[derive(Debug, Default)]
pub struct EventTenants(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    tenants: HashMap<Seq, Option<TenantName>>,
    order: VecDeque<Seq>,
}

impl EventTenants {
    /// Notes what an event's own record says.
    pub fn note(&self, event: Seq, tenant: &TenantName) {
        self.put(event, Some(tenant.clone()));
    }

    fn put(&self, event: Seq, tenant: Option<TenantName>) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.tenants.insert(event, tenant).is_none() {
            remembered.order.push_back(event);
        }
        while remembered.order.len() > EVENTS_MAX {
            if let Some(oldest) = remembered.order.pop_front() {
                remembered.tenants.remove(&oldest);
            }
        }
    }

    /// Whether an event is a tenant's; false where that cannot be told. Reads files: not for async threads.
    pub fn is_of(&self, event: Seq, tenant: &TenantName, source: &dyn Source, history: &HistoryReader) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).tenants.get(&event).cloned();
        match known {
            Some(Some(known)) => return known == *tenant,
            Some(None) => {}
            None => {
                let mut found = None;
                let read = source.read(event, &mut |entry| {
                    if let (true, Record::EventAccepted(accepted)) = (entry.seq == event, &entry.record) {
                        found = Some(accepted.tenant.clone());
                    }
                    false
                });
                if read.is_ok() && found.is_some() {
                    let is_of = found.as_ref() == Some(tenant);
                    self.put(event, found);
                    return is_of;
                }
                self.put(event, None);
            }
        }
        // Its record has left the journal.
        history.event(tenant, event).is_ok_and(|row| row.is_some())
    }

    /// Whether a record is a tenant's. Reads files where it has to.
    pub fn shows(
        &self,
        seq: Seq,
        record: &Record,
        tenant: &TenantName,
        source: &dyn Source,
        history: &HistoryReader,
    ) -> bool {
        match owner(record) {
            Owner::Plane => false,
            Owner::Tenant(owner) => {
                if matches!(record, Record::EventAccepted(_)) {
                    self.note(seq, owner);
                }
                owner == tenant
            }
            Owner::OfEvent(event) => self.is_of(event, tenant, source, history),
        }
    }
}
