//! Whose a record is: asked by whoever shows the ledger to one tenant alone.

use std::collections::{BTreeMap, VecDeque};

use mindos_core::access::AccessRecord;
use mindos_core::record::{Entry, Record};
use mindos_journal::{EmbeddedError, JournalError, Ledger, RealDisk};
use mindos_model::{Seq, TenantName};

/// Events whose tenants are remembered.
const REMEMBERED_MAX: usize = 100_000;

/// Whose a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Tenant(TenantName),
    /// Of the plane, and everybody needs it to verify the ledger.
    Everybody,
    /// Of the plane alone, or of somebody of whom nothing is known any more.
    Plane,
}

/// Tells whose records are, in the order of the journal.
#[derive(Debug)]
pub struct Tenancy {
    ledger: Ledger<RealDisk>,
    events: BTreeMap<Seq, Option<TenantName>>,
    order: VecDeque<Seq>,
}

impl Tenancy {
    /// Looks into `ledger` for events that come before.
    #[must_use]
    pub fn new(ledger: Ledger<RealDisk>) -> Tenancy {
        Tenancy { ledger, events: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Whose a record is.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn owner(&mut self, entry: &Entry) -> Result<Owner, EmbeddedError> {
        Ok(match &entry.record {
            Record::EventAccepted(event) => {
                self.remember(entry.seq, Some(event.tenant.clone()));
                Owner::Tenant(event.tenant.clone())
            }
            Record::DeliveryLeased(record) => self.of_event(record.delivery.event)?,
            Record::AttemptEnded(record) => self.of_event(record.delivery.event)?,
            Record::DeliverySettled(record) => self.of_event(record.delivery.event)?,
            Record::DeliveryCancelled(record) => self.of_event(record.delivery.event)?,
            Record::CancelRequested(record) => self.of_event(record.delivery.event)?,
            Record::DeliveryParked(record) => self.of_event(record.delivery.event)?,
            Record::DeliveryRedriven(record) => self.of_event(record.delivery.event)?,
            Record::LeaseExtended(record) => self.of_event(record.delivery.event)?,
            Record::PayloadCarried(record) => self.of_event(record.event)?,
            Record::ResultRefused(record) => Owner::Tenant(record.instance.tenant.clone()),
            Record::ClusterRegistered(record) => Owner::Tenant(record.tenant.clone()),
            Record::GeneralRegistered(record) => Owner::Tenant(record.key.tenant.clone()),
            Record::GeneralRemoved(record) => Owner::Tenant(record.key.tenant.clone()),
            Record::HoldChanged(record) => Owner::Tenant(record.tenant.clone()),
            Record::RoutesApplied(record) => Owner::Tenant(record.tenant.clone()),
            Record::RouteAsked(record) => Owner::Tenant(record.tenant.clone()),
            Record::BudgetSet(record) => Owner::Tenant(record.tenant.clone()),
            Record::BudgetRemoved(record) => Owner::Tenant(record.tenant.clone()),
            Record::BudgetAcknowledged(record) => Owner::Tenant(record.tenant.clone()),
            Record::BudgetCrossed(record) => Owner::Tenant(record.tenant.clone()),
            Record::PayloadsRedacted(record) => Owner::Tenant(record.tenant.clone()),
            Record::EpochStarted(_) | Record::PrefixDropped(_) | Record::JournalTruncated(_) => Owner::Everybody,
            Record::UpgradeFinalized(_) => Owner::Plane,
            Record::Access(record) => match (&**record, record.tenant()) {
                (AccessRecord::CheckpointSigned(_) | AccessRecord::AuthorityChanged { .. }, _) => Owner::Everybody,
                (_, Some(tenant)) => Owner::Tenant(tenant.clone()),
                (_, None) => Owner::Plane,
            },
        })
    }

    fn of_event(&mut self, event: Seq) -> Result<Owner, EmbeddedError> {
        if !self.events.contains_key(&event) {
            let found = match self.ledger.entry(event) {
                Err(EmbeddedError::Log(JournalError::Dropped { .. })) => None,
                other => other?,
            };
            let tenant = found.and_then(|entry| match entry.record {
                Record::EventAccepted(event) => Some(event.tenant),
                _ => None,
            });
            self.remember(event, tenant);
        }
        let tenant = self.events.get(&event).cloned().flatten();
        Ok(tenant.map_or(Owner::Plane, Owner::Tenant))
    }

    fn remember(&mut self, event: Seq, tenant: Option<TenantName>) {
        if self.order.len() == REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        if self.events.insert(event, tenant).is_none() {
            self.order.push_back(event);
        }
    }
}
