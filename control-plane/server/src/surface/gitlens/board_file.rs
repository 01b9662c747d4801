//! The board on disk: one small JSON file, written whole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mindos_core::record::GeneralKey;
use mindos_model::{Seq, TenantName, Timestamp};
use serde::{Deserialize, Serialize};

use super::board::{Candidates, Distribution, Recent, Shown, Slot, State};
use super::plain::PlainEvent;

/// The form of the file.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    format: u32,
    seq: u64,
    at_ms: u64,
    total_events: u64,
    types: BTreeMap<String, u64>,
    recent: Vec<PlainEvent>,
    total_distributions: u64,
    distributions: Vec<SavedDistribution>,
    routes: BTreeMap<String, Candidates>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDistribution {
    event: u64,
    at_ms: u64,
    strategy: Option<String>,
    route: Option<String>,
    deliveries: Vec<SavedSlot>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSlot {
    general: Option<(String, String)>,
    leased_at_ms: Option<u64>,
    failed: Option<String>,
}

impl SavedDistribution {
    fn of(one: &Distribution) -> SavedDistribution {
        let Distribution { event, at, strategy, route, deliveries } = one;
        let slot = |slot: &Slot| SavedSlot {
            general: slot.general.as_ref().map(|key| (key.cluster.to_string(), key.name.to_string())),
            leased_at_ms: slot.leased_at.map(|at| at.0),
            failed: slot.failed.as_deref().map(str::to_owned),
        };
        SavedDistribution {
            event: event.0,
            at_ms: at.0,
            strategy: strategy.map(|strategy| strategy.as_str().to_owned()),
            route: route.as_ref().map(ToString::to_string),
            deliveries: deliveries.iter().map(slot).collect(),
        }
    }

    fn restore(self, tenant: &TenantName) -> Option<Distribution> {
        let SavedDistribution { event, at_ms, strategy, route, deliveries } = self;
        let slot = |slot: SavedSlot| {
            let general = slot.general.and_then(|(cluster, name)| {
                let (cluster, name) = (cluster.parse().ok()?, name.parse().ok()?);
                Some(Arc::new(GeneralKey { tenant: tenant.clone(), cluster, name }))
            });
            Slot {
                general,
                leased_at: slot.leased_at_ms.map(Timestamp),
                failed: slot.failed.map(std::borrow::Cow::Owned),
            }
        };
        Some(Distribution {
            event: Seq(event),
            at: Timestamp(at_ms),
            strategy: strategy.map(|word| word.parse()).transpose().ok()?,
            route: route.map(|name| name.parse()).transpose().ok()?,
            deliveries: deliveries.into_iter().map(slot).collect(),
        })
    }
}

impl Saved {
    /// What is shown of the board, and what it needs to go on.
    pub(super) fn of((seq, at): (Seq, Timestamp), state: &State, shown: Shown) -> Saved {
        Saved {
            format: FORMAT,
            seq: seq.0,
            at_ms: at.0,
            total_events: state.total_events,
            types: state.types.clone(),
            recent: shown.events,
            total_distributions: state.total_distributions,
            distributions: shown.distributions.iter().map(SavedDistribution::of).collect(),
            routes: state.routes.clone(),
        }
    }

    pub(super) fn restore(self, tenant: &TenantName) -> Option<State> {
        let Saved { format, seq, at_ms, total_events, types, recent, total_distributions, distributions, routes } =
            self;
        let distributions: VecDeque<_> =
            distributions.into_iter().map(|saved| saved.restore(tenant)).collect::<Option<_>>()?;
        (format == FORMAT).then(|| State {
            mark: Some((Seq(seq), Timestamp(at_ms))),
            next: seq + 1,
            total_events,
            types,
            recent: recent.into_iter().map(|plain| Recent::Plain(Box::new(plain))).collect(),
            total_distributions,
            deliveries: distributions.iter().map(|one| one.deliveries.len()).sum(),
            distributions,
            routes,
            dirty: false,
        })
    }
}
