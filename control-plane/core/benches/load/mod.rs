//! What the benches of the plane share: a general that connects, an event, and an agent that succeeds at everything at once.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::Plane;
use mindos_core::input::{
    AgentMessage, Entropy, Hello, HelloGeneral, Input, NewEvent, ReportedOutcome, RequestId, ResultReport, SessionId,
};
use mindos_core::output::{Output, PlaneMessage};
use mindos_core::record::{Batch, InstanceKey, Payload};
use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, TenantName, Timestamp};

/// When everything happens.
pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Connects an instance of its own with one general, named like its type.
pub(crate) fn connect(plane: &mut Plane, number: u64, ty: &str, slots: u32) {
    let key = InstanceKey {
        tenant: TenantName::default_tenant(),
        cluster: ClusterName::new("eu").unwrap(),
        instance: InstanceId::new(&format!("pod-{number}")).unwrap(),
    };
    let general = HelloGeneral {
        name: GeneralName::new(ty).unwrap(),
        ty: GeneralType::new(ty).unwrap(),
        labels: Vec::new(),
        slots,
    };
    let hello = Hello {
        session: SessionId(number),
        key: Arc::new(key),
        boot: BootId::new("b1").unwrap(),
        version: "0.1.0".into(),
        region: None,
        cluster_labels: Vec::new(),
        pod: Default::default(),
        generals: vec![general],
        held: Vec::new(),
        keeps_ceilings: false,
    };
    plane.offer(Input::Hello(Box::new(hello)), NOW, Entropy(number));
}

/// Publishes an event; numbers tell events apart.
pub(crate) fn publish(
    plane: &mut Plane,
    number: u64,
    kind: &str,
    lane: Arc<str>,
    repository: Option<&str>,
    payload: &Bytes,
) {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let event = NewEvent {
        tenant: TenantName::default_tenant(),
        source: "bench".into(),
        id: number.to_string().into(),
        ty: kind.into(),
        kind: kind.into(),
        subject: None,
        lane,
        repository: repository.map(Arc::from),
        priority: None,
        actor: None,
        time: None,
        not_before: None,
        key,
        digest: [1; 16],
        payload: Payload { salt: [0; 16], bytes: payload.clone() },
        routed: true,
        asked: None,
        judged: None,
        trust: None,
        about: None,
        seen: None,
    };
    plane.offer(Input::Publish { request: RequestId(number), event: Box::new(event) }, NOW, Entropy(number));
}

/// Seals, syncs and has everything succeed that was assigned; returns how many deliveries were settled.
pub(crate) fn turn(plane: &mut Plane, batches: &mut dyn FnMut(Batch)) -> u64 {
    plane.advance(NOW, Entropy(1));
    let Some(batch) = plane.seal() else { return 0 };
    let outputs = plane.synced(batch.last(), NOW);
    batches(batch);
    let mut settled = 0;
    for output in outputs {
        let Output::Send { session, message } = output else { continue };
        match message {
            PlaneMessage::Assign(assign) => {
                let outcome = ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None };
                let (delivery, token) = (assign.delivery, assign.token);
                let report = ResultReport { delivery, token, outcome, usage: Vec::new(), effects: Vec::new() };
                let message = AgentMessage::Result(Box::new(report));
                plane.offer(Input::Agent { session, message }, NOW, Entropy(2));
            }
            PlaneMessage::Settled { .. } => settled += 1,
            _ => {}
        }
    }
    settled
}
