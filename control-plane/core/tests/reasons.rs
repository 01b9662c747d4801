//! What people give as their reason stands in the records of what they change.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::input::{
    AgentMessage, Entropy, Hello, HelloGeneral, Input, NewEvent, ReportedOutcome, RequestId, ResultReport, Selector,
    SessionId,
};
use mindos_core::record::{Entry, EpochCause, HoldTarget, Holds, InstanceKey, Payload, Record};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{
    BootId, ClusterName, DeliveryId, FailureKind, GeneralName, GeneralType, InstanceId, TenantName, Timestamp, Token,
};

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
        let hello = Hello {
            session: SESSION,
            key: Arc::new(InstanceKey {
                tenant: tenant(),
                cluster: ClusterName::new("eu").unwrap(),
                instance: InstanceId::new("pod").unwrap(),
            }),
            boot: BootId::new("b1").unwrap(),
            version: "0.1.0".into(),
            region: None,
            cluster_labels: Vec::new(),
            pod: Default::default(),
            generals: vec![HelloGeneral {
                name: GeneralName::new("worker").unwrap(),
                ty: GeneralType::new("general-purpose-general").unwrap(),
                labels: Vec::new(),
                slots: 1,
            }],
            keeps_ceilings: false,
            held: Vec::new(),
        };
        world.offer(Input::Hello(Box::new(hello)));
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
    fn publish(&mut self, number: u8) -> (DeliveryId, Option<Token>) {
        let event = NewEvent {
            tenant: tenant(),
            source: "test".into(),
            id: number.to_string().into(),
            ty: "other".into(),
            kind: "other".into(),
            subject: None,
            lane: number.to_string().into(),
            repository: None,
            priority: None,
            not_before: None,
            actor: None,
            time: None,
            key: [number; 16],
            digest: [1; 16],
            payload: Payload { salt: [0; 16], bytes: Bytes::new() },
            routed: true,
            asked: None,
            seen: None,
            about: None,
            trust: None,
            judged: None,
        };
        let entries = self.offer(Input::Publish { request: REQUEST, event: Box::new(event) });
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
