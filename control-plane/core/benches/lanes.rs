//! What a queue costs: a million deliveries in a thousand lanes of one repository, from publish to result, at one general that is
//! always behind. Prints JSON.
//!
//! `cargo bench -p mindos-core --bench lanes`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod load;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use load::NOW;
use mindos_core::record::EpochCause;
use mindos_core::{Durable, Limits, Plane};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 1_000_000;
const LANES: u64 = 1000;
/// Published ahead of what is settled.
const AHEAD: u64 = 5000;
const SLOTS: u32 = 64;

fn main() {
    let limits = Limits { queue_backlog_max: u32::MAX, lane_backlog_max: u32::MAX, ..Limits::default() };
    let mut plane = Plane::new(Durable::seeded(1), limits, "0.1.0", EpochCause::Start, NOW);
    load::connect(&mut plane, 1, "general-purpose-general", SLOTS);
    let payload = Bytes::from_static(b"payload");
    let lanes: Vec<Arc<str>> = (0..LANES).map(|lane| format!("o/r/pr/{lane}").into()).collect();
    let (mut published, mut settled) = (0, 0);
    let started = Instant::now();
    while settled < EVENTS {
        while published < EVENTS.min(settled + AHEAD) {
            let lane = Arc::clone(&lanes[(published.wrapping_mul(7919) % LANES) as usize]);
            load::publish(&mut plane, published, "other", lane, Some("o/r"), &payload);
            published += 1;
        }
        settled += load::turn(&mut plane, &mut drop);
    }
    let each = started.elapsed().as_nanos() as f64 / EVENTS as f64;
    println!("{{\"deliveries\":{EVENTS},\"lanes\":{LANES},\"plane_ns_per_delivery\":{each:.0}}}");
}
