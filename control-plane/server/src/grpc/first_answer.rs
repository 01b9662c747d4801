//! The first answer again: what the publisher of an event was told when it was accepted.
//!
//! The plane knows it while the event is open and nothing has changed. Afterwards it stands in the event's own record, and where
//! that has left the journal, in the history. Invariant: nobody but a publisher that repeats itself waits for this.

use std::sync::Arc;

use mindos_core::journal::JournalError;
use mindos_core::output::{Published, PublishedDelivery};
use mindos_core::record::{EventAccepted, GeneralKey, Record};
use mindos_model::{DeliveryId, ParkReason, Seq, TenantName};
use tracing::warn;

use super::Context;
use crate::logging::Chain;
use crate::views::history::EventRow;

impl Context {
    /// The answer to a duplicate as it was the first time; any other stays as it is. One whose first answer cannot be found
    /// any more keeps what the plane says of it.
    pub(crate) async fn first_answer(self: &Arc<Self>, tenant: &TenantName, published: Published) -> Published {
        if !published.duplicate {
            return published;
        }
        let (event, tenant) = (published.event, tenant.clone());
        match self.blocking(move |context| context.told(&tenant, event)).await {
            Ok(Some(told)) => told,
            Ok(None) | Err(_) => published,
        }
    }

    fn told(&self, tenant: &TenantName, event: Seq) -> Option<Published> {
        let mut told = None;
        let read = self.source.read(event, &mut |entry| {
            if let Record::EventAccepted(accepted) = &entry.record
                && entry.seq == event
                && accepted.tenant == *tenant
            {
                told = Some(of_record(event, accepted));
            }
            false
        });
        match read {
            Ok(()) => told,
            Err(JournalError::Dropped { .. }) => match self.history.event(tenant, event) {
                Ok(row) => row.and_then(|row| of_row(tenant, event, row)),
                Err(error) => {
                    warn!(error = %Chain(&error), %event, "first answer was not read");
                    None
                }
            },
            Err(error) => {
                warn!(error = %Chain(&error), %event, "first answer was not read");
                None
            }
        }
    }
}

fn of_row(tenant: &TenantName, event: Seq, row: EventRow) -> Option<Published> {
    let mut planned = Vec::with_capacity(row.deliveries.len());
    for delivery in row.deliveries {
        let general = match delivery.general {
            Some(general) => Some(Arc::new(GeneralKey {
                tenant: tenant.clone(),
                cluster: general.cluster.parse().ok()?,
                name: general.name.parse().ok()?,
            })),
            None => None,
        };
        planned.push((general, delivery.parked));
    }
    let route = row.route.map(|route| route.parse()).transpose().ok()?;
    Some(Published { event, duplicate: true, route, deliveries: numbered(event, planned) })
}

fn of_record(event: Seq, accepted: &EventAccepted) -> Published {
    let planned = accepted.deliveries.iter().map(|planned| (planned.general.clone(), planned.parked));
    Published { event, duplicate: true, route: accepted.route.clone(), deliveries: numbered(event, planned) }
}

type Planned = (Option<Arc<GeneralKey>>, Option<ParkReason>);

fn numbered(event: Seq, planned: impl IntoIterator<Item = Planned>) -> Vec<PublishedDelivery> {
    let numbered = (1..).zip(planned);
    numbered
        .map(|(ordinal, (general, parked))| PublishedDelivery {
            delivery: DeliveryId::new(event, ordinal),
            general,
            parked,
        })
        .collect()
}
