//! Batches on their way to the disk: at most two, and the word of a later one goes for all before it.

use mindos_core::input::Entropy;
use mindos_core::record::EpochCause;
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{TenantName, Timestamp};

use crate::support;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A new general brings records.
fn hello(plane: &mut Plane, number: u64) {
    let general = format!("general-{number}");
    let hello = support::hello(&TenantName::default_tenant(), number, &format!("pod-{number}"), &[&general], 1);
    plane.offer(hello, NOW, Entropy(number));
}

#[test]
fn two_batches_synced_at_once_make_room_for_two_more() {
    let mut plane = Plane::new(Durable::new(), Limits::default(), "0.1.0", EpochCause::Start, NOW);
    for round in 0..3 {
        let mut last = None;
        for number in 0..2 {
            hello(&mut plane, round * 3 + number + 1);
            last = plane.seal();
            assert!(last.is_some(), "batch {number} of round {round} found no room");
        }
        hello(&mut plane, round * 3 + 3);
        assert!(plane.seal().is_none(), "a third batch left in round {round}");
        plane.synced(last.unwrap().last(), NOW);
    }
}
