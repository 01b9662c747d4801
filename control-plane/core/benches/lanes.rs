//! What a queue costs: a million deliveries in a thousand lanes of one repository, from publish to result, at one general that is
//! always behind. Prints JSON.
//!
//! `cargo bench -p mindos-core --bench lanes`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mindos_core::input::{
    AgentMessage, Entropy, Hello, HelloGeneral, Input, NewEvent, ReportedOutcome, RequestId, ResultReport, SessionId,
};
use mindos_core::output::{Output, PlaneMessage};
use mindos_core::record::{EpochCause, InstanceKey, Payload};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, TenantName, Timestamp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 1_000_000;
const LANES: u64 = 1000;
/// Published ahead of what is settled.
const AHEAD: u64 = 5000;
const SLOTS: u32 = 64;

fn main() {
    let now = Timestamp(1_800_000_000_000);
    let limits = Limits { queue_backlog_max: u32::MAX, lane_backlog_max: u32::MAX, ..Limits::default() };
    let mut plane = Plane::new(Durable::seeded(1), limits, "0.1.0", EpochCause::Start, now);
    connect(&mut plane, now);
    let payload = Bytes::from_static(b"payload");
    let lanes: Vec<Arc<str>> = (0..LANES).map(|lane| format!("o/r/pr/{lane}").into()).collect();
    let (mut published, mut settled) = (0, 0);
    let started = Instant::now();
    while settled < EVENTS {
        while published < EVENTS.min(settled + AHEAD) {
            plane.offer(publish(published, &lanes, &payload), now, Entropy(published));
            published += 1;
        }
        plane.advance(now, Entropy(settled));
        let Some(batch) = plane.seal() else { continue };
        for output in plane.synced(batch.last(), now) {
            let Output::Send { session, message } = output else { continue };
            match message {
                PlaneMessage::Assign(assign) => {
                    let outcome = ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None };
                    let (delivery, token) = (assign.delivery, assign.token);
                    let report = ResultReport { delivery, token, outcome, usage: Vec::new() };
                    let message = AgentMessage::Result(Box::new(report));
                    plane.offer(Input::Agent { session, message }, now, Entropy(2));
                }
                PlaneMessage::Settled { .. } => settled += 1,
                _ => {}
            }
        }
    }
    let each = started.elapsed().as_nanos() as f64 / EVENTS as f64;
    println!("{{\"deliveries\":{EVENTS},\"lanes\":{LANES},\"plane_ns_per_delivery\":{each:.0}}}");
}

fn connect(plane: &mut Plane, now: Timestamp) {
    let key = InstanceKey {
        tenant: TenantName::default_tenant(),
        cluster: ClusterName::new("eu").unwrap(),
        instance: InstanceId::new("pod-1").unwrap(),
    };
    let general = HelloGeneral {
        name: GeneralName::new("general-purpose-general").unwrap(),
        ty: GeneralType::new("general-purpose-general").unwrap(),
        labels: Vec::new(),
        slots: SLOTS,
    };
    let hello = Hello {
        session: SessionId(1),
        key: Arc::new(key),
        boot: BootId::new("b1").unwrap(),
        version: "0.1.0".into(),
        region: None,
        cluster_labels: Vec::new(),
        generals: vec![general],
        keeps_ceilings: false,
        held: Vec::new(),
    };
    plane.offer(Input::Hello(Box::new(hello)), now, Entropy(1));
}

fn publish(number: u64, lanes: &[Arc<str>], payload: &Bytes) -> Input {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let event = NewEvent {
        tenant: TenantName::default_tenant(),
        source: "bench".into(),
        id: "1".into(),
        ty: "other".into(),
        kind: "other".into(),
        subject: None,
        lane: Arc::from(&*lanes[(number.wrapping_mul(7919) % LANES) as usize]),
        repository: Some("o/r".into()),
        priority: None,
        not_before: None,
        actor: None,
        time: None,
        key,
        digest: [1; 16],
        payload: Payload { salt: [0; 16], bytes: payload.clone() },
        routed: true,
        asked: None,
        judged: None,
        trust: None,
        seen: None,
        about: None,
    };
    Input::Publish { request: RequestId(number), event: Box::new(event) }
}
