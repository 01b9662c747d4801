//! What the plane costs: one event to three generals, from publish to the last result; folding the same records; and
//! the memory of work that waits. Prints JSON.
//!
//! `cargo bench -p mindos-core --bench plane`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod load;

use std::time::Instant;

use bytes::Bytes;
use load::NOW;
use mindos_core::record::{Batch, EpochCause};
use mindos_core::{Durable, Limits, Plane};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 200_000;
const BATCH: u64 = 64;
const TYPES: [&str; 3] = ["architecture-general", "security-general", "code-review-general"];

fn main() {
    // First, while the process has no freed memory to give out again.
    let mut plane = start();
    connect(&mut plane, 0);
    let before = resident();
    for number in 0..100_000 {
        publish(&mut plane, number, &Bytes::new());
        if plane.is_full()
            && let Some(batch) = plane.seal()
        {
            plane.synced(batch.last(), NOW);
        }
    }
    while let Some(batch) = plane.seal() {
        plane.synced(batch.last(), NOW);
    }
    let waiting = (resident() - before) as f64 / 300_000.0;
    drop(plane);

    let mut batches = Vec::new();
    cycle(&mut |batch| batches.push(batch));
    let started = Instant::now();
    cycle(&mut drop);
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
fn cycle(batches: &mut dyn FnMut(Batch)) {
    let mut plane = start();
    connect(&mut plane, 4096);
    let payload = Bytes::from(vec![7u8; 1200]);
    let mut settled = 0u64;
    for first in (0..EVENTS).step_by(BATCH as usize) {
        for number in first..first + BATCH {
            publish(&mut plane, number, &payload);
        }
        settled += load::turn(&mut plane, batches);
    }
    while settled < EVENTS * 3 {
        settled += load::turn(&mut plane, batches);
    }
}

fn start() -> Plane {
    let limits =
        Limits { queue_backlog_max: u32::MAX, lane_backlog_max: u32::MAX, open_max: u64::MAX, ..Limits::default() };
    Plane::new(Durable::seeded(1), limits, "0.1.0", EpochCause::Start, NOW)
}

fn connect(plane: &mut Plane, slots: u32) {
    for (number, ty) in (1..).zip(TYPES) {
        load::connect(plane, number, ty, slots);
    }
}

fn publish(plane: &mut Plane, number: u64, payload: &Bytes) {
    load::publish(plane, number, "pr_created", format!("o/r/pr/{number}").into(), None, payload);
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells a process its size");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("the size is listed");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("the size is a number") * 1024
}
