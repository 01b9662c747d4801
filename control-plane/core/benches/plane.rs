//! What the plane costs: one event to three generals, from publish to the last result; folding the same records; and
//! the memory of work that waits. Prints JSON.
//!
//! `cargo bench -p mindos-core --bench plane`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mindos_core::input::{
    AgentMessage, Entropy, Hello, HelloGeneral, Input, NewEvent, ReportedOutcome, RequestId, ResultReport, SessionId,
};
use mindos_core::output::{Output, PlaneMessage};
use mindos_core::record::{Batch, EpochCause, InstanceKey, Payload};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, TenantName, Timestamp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 200_000;
const BATCH: u64 = 64;
const TYPES: [&str; 3] = ["architecture-general", "security-general", "code-review-general"];

fn main() {
    let now = Timestamp(1_800_000_000_000);
    // First, while the process has no freed memory to give out again.
    let mut plane = start(now);
    connect(&mut plane, now, 0);
    let before = resident();
    for number in 0..100_000 {
        plane.offer(publish(number, &Bytes::new()), now, Entropy(number));
        if plane.is_full()
            && let Some(batch) = plane.seal()
        {
            plane.synced(batch.last(), now);
        }
    }
    while let Some(batch) = plane.seal() {
        plane.synced(batch.last(), now);
    }
    let waiting = (resident() - before) as f64 / 300_000.0;
    drop(plane);

    let mut batches = Vec::new();
    cycle(now, &mut |batch| batches.push(batch));
    let started = Instant::now();
    cycle(now, &mut drop);
    let cycle_ns = started.elapsed().as_nanos() as f64 / EVENTS as f64;

    let records: usize = batches.iter().map(|batch| batch.entries.len()).sum();
    let started = Instant::now();
    let mut durable = Durable::new();
    for entry in batches.iter().flat_map(|batch| &batch.entries) {
        durable.apply(entry);
    }
    let fold_ns = started.elapsed().as_nanos() as f64 / records as f64;

    println!(
        "{{\"events\":{EVENTS},\"deliveries_per_event\":3,\"plane_ns_per_event\":{cycle_ns:.0},\"records\":{records},\
         \"fold_ns_per_record\":{fold_ns:.0},\"bytes_per_waiting_delivery\":{waiting:.0}}}"
    );
}

/// Publishes every event and sees it through.
fn cycle(now: Timestamp, batches: &mut dyn FnMut(Batch)) {
    let mut plane = start(now);
    connect(&mut plane, now, 4096);
    let payload = Bytes::from(vec![7u8; 1200]);
    let mut settled = 0u64;
    for first in (0..EVENTS).step_by(BATCH as usize) {
        for number in first..first + BATCH {
            plane.offer(publish(number, &payload), now, Entropy(number));
        }
        settled += turn(&mut plane, batches, now);
    }
    while settled < EVENTS * 3 {
        settled += turn(&mut plane, batches, now);
    }
}

fn start(now: Timestamp) -> Plane {
    let limits =
        Limits { queue_backlog_max: u32::MAX, lane_backlog_max: u32::MAX, open_max: u64::MAX, ..Limits::default() };
    Plane::new(Durable::seeded(1), limits, "0.1.0", EpochCause::Start, now)
}

fn connect(plane: &mut Plane, now: Timestamp, slots: u32) {
    for (number, ty) in (1..).zip(TYPES) {
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
            generals: vec![general],
            held: Vec::new(),
            keeps_ceilings: false,
        };
        plane.offer(Input::Hello(Box::new(hello)), now, Entropy(number));
    }
}

fn publish(number: u64, payload: &Bytes) -> Input {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let event = NewEvent {
        tenant: TenantName::default_tenant(),
        source: "bench".into(),
        id: number.to_string().into(),
        ty: "pr_created".into(),
        kind: "pr_created".into(),
        subject: None,
        lane: format!("o/r/pr/{number}").into(),
        repository: None,
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
        seen: None,
        about: None,
    };
    Input::Publish { request: RequestId(number), event: Box::new(event) }
}

/// Seals, syncs and settles everything that was assigned; returns how many deliveries settled.
fn turn(plane: &mut Plane, batches: &mut dyn FnMut(Batch), now: Timestamp) -> u64 {
    plane.advance(now, Entropy(1));
    let Some(batch) = plane.seal() else { return 0 };
    let outputs = plane.synced(batch.last(), now);
    batches(batch);
    let mut settled = 0;
    for output in outputs {
        let Output::Send { session, message } = output else { continue };
        match message {
            PlaneMessage::Assign(assign) => {
                let outcome = ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None };
                let report =
                    ResultReport { delivery: assign.delivery, token: assign.token, outcome, usage: Vec::new() };
                let message = AgentMessage::Result(Box::new(report));
                plane.offer(Input::Agent { session, message }, now, Entropy(2));
            }
            PlaneMessage::Settled { .. } => settled += 1,
            _ => {}
        }
    }
    settled
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells a process its size");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("the size is listed");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("the size is a number") * 1024
}
