//! What people give as their reason stands in the records of what they change.

use std::sync::Arc;

use mindos_core::input::{AgentMessage, Entropy, Input, ReportedOutcome, RequestId, ResultReport, Selector, SessionId};
use mindos_core::record::{Entry, EpochCause, HoldTarget, Holds, Record};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{ClusterName, DeliveryId, FailureKind, TenantName, Timestamp, Token};

use crate::support;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const REQUEST: RequestId = RequestId(1);
const SESSION: SessionId = SessionId(1);

/// A plane with one general that has one slot.
struct World {
    plane: Plane,
}

fn tenant() -> TenantName {
    TenantName::default_tenant()
}

impl World {
    fn new() -> World {
        let plane = Plane::new(Durable::new(), Limits::default(), "0.1.0", EpochCause::Start, NOW);
        let mut world = World { plane };
        world.offer(support::hello(&tenant(), SESSION.0, "pod", &["worker"], 1));
        world
    }

    /// Offers it, and returns what was recorded.
    fn offer(&mut self, input: Input) -> Vec<Entry> {
        self.plane.offer(input, NOW, Entropy(1));
        self.plane.advance(NOW, Entropy(1));
        let mut entries = Vec::new();
        while let Some(batch) = self.plane.seal() {
            self.plane.synced(batch.last(), NOW);
            entries.extend(batch.entries);
        }
        entries
    }

    /// Publishes an event; its delivery, and the token under which that was leased, if it was.
    fn publish(&mut self, number: u64) -> (DeliveryId, Option<Token>) {
        let entries = self.offer(support::publish(&tenant(), number, &number.to_string(), None));
        let accepted = entries.iter().find(|entry| matches!(entry.record, Record::EventAccepted(_))).unwrap();
        (DeliveryId::new(accepted.seq, 1), leased(&entries))
    }
}

fn leased(entries: &[Entry]) -> Option<Token> {
    entries.iter().find_map(|entry| match &entry.record {
        Record::DeliveryLeased(record) => Some(record.token),
        _ => None,
    })
}

/// The reasons on record, with the kinds of their records.
fn reasons(entries: &[Entry]) -> Vec<(&'static str, String)> {
    let why = |record: &Record| match record {
        Record::DeliveryCancelled(record) => Some(record.why.to_string()),
        Record::CancelRequested(record) => Some(record.why.to_string()),
        Record::DeliveryRedriven(record) => Some(record.why.to_string()),
        Record::HoldChanged(record) => Some(record.why.to_string()),
        _ => None,
    };
    entries.iter().filter_map(|entry| Some((entry.record.kind(), why(&entry.record)?))).collect()
}

#[test]
fn a_reason_stands_in_the_record_of_what_it_was_given_for() {
    let mut world = World::new();
    let (first, token) = world.publish(1);
    let report = ResultReport {
        delivery: first,
        token: token.unwrap(),
        outcome: ReportedOutcome::Failed { kind: FailureKind::Poison, message: "no".into() },
        usage: Vec::new(),
        effects: Vec::new(),
    };
    let message = AgentMessage::Result(Box::new(report));
    world.offer(Input::Agent { session: SESSION, message });
    let (request, ann) = (REQUEST, Arc::<str>::from("ann"));

    let (select, why, by) = (Selector::One(first), Arc::from("it can be read"), ann.clone());
    let redriven = world.offer(Input::Redrive { request, tenant: tenant(), select, why, by });
    assert_eq!(reasons(&redriven), [("DeliveryRedriven", "it can be read".to_owned())]);
    assert!(leased(&redriven).is_some());

    let (second, token) = world.publish(2);
    assert_eq!(token, None, "the slot is taken");
    for (id, kind) in [(second, "DeliveryCancelled"), (first, "CancelRequested")] {
        let (select, why, by) = (Selector::One(id), Arc::from("no longer wanted"), ann.clone());
        let cancelled = world.offer(Input::Cancel { request, tenant: tenant(), select, why, by });
        assert_eq!(reasons(&cancelled), [(kind, "no longer wanted".to_owned())]);
    }

    for (end, begin, given) in [(Holds::NONE, Holds::PAUSED, "it is moved"), (Holds::PAUSED, Holds::NONE, "it is back")]
    {
        let target = HoldTarget::Cluster(ClusterName::new("eu").unwrap());
        let (why, by, from) = (Arc::from(given), ann.clone(), Arc::from(""));
        let held = world.offer(Input::Hold { request, tenant: tenant(), target, end, begin, why, by, from });
        assert_eq!(reasons(&held), [("HoldChanged", given.to_owned())]);
    }
}
