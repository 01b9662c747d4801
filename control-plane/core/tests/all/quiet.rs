//! Who has little to do is not kept waiting by who has much: a quiet repository, queue and tenant beside a noisy one with 100,000
//! deliveries that wait.

use std::collections::VecDeque;
use std::sync::Arc;

use mindos_core::input::{AgentMessage, Entropy, Input, ReportedOutcome, ResultReport, SessionId};
use mindos_core::output::{Assign, Output, PlaneMessage};
use mindos_core::record::{EpochCause, Record};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{TenantName, Timestamp};

use crate::support;

const NOISY: u64 = 100_000;
const SLOTS: u32 = 4;
/// How long each piece of work takes, in milliseconds.
const WORK: u64 = 10_000;

struct World {
    plane: Plane,
    now: Timestamp,
    published: u64,
    /// Work under way, the oldest first, with its stream.
    running: VecDeque<(SessionId, Assign)>,
    /// Lanes of what was leased, in order.
    leased: Vec<Arc<str>>,
}

impl World {
    fn new() -> World {
        let limits = Limits { queue_backlog_max: u32::MAX, ..Limits::default() };
        let now = Timestamp(1_800_000_000_000);
        let plane = Plane::new(Durable::new(), limits, "0.1.0", EpochCause::Start, now);
        World { plane, now, published: 0, running: VecDeque::new(), leased: Vec::new() }
    }

    fn connect(&mut self, tenant: &str, session: u64, generals: &[String], slots: u32) {
        let tenant = TenantName::new(tenant).unwrap();
        let generals: Vec<_> = generals.iter().map(String::as_str).collect();
        let hello = support::hello(&tenant, session, "pod", &generals, slots);
        self.plane.offer(hello, self.now, Entropy(session));
    }

    fn publish(&mut self, tenant: &str, repository: &str) {
        self.published += 1;
        let number = self.published;
        let lane = format!("{tenant}:{repository}/pr/{number}");
        let publish = support::publish(&TenantName::new(tenant).unwrap(), number, &lane, Some(repository));
        self.plane.offer(publish, self.now, Entropy(number));
        if self.plane.is_full() {
            self.sync();
        }
    }

    /// What is due, and everything that is open becomes durable.
    fn turn(&mut self) {
        self.plane.advance(self.now, Entropy(self.now.0));
        self.sync();
        self.plane.durable().check().unwrap();
    }

    fn sync(&mut self) {
        while let Some(batch) = self.plane.seal() {
            for entry in &batch.entries {
                if let Record::DeliveryLeased(_) = &entry.record {
                    self.leased.push("".into());
                }
            }
            let before = self.leased.len();
            let mut assigned = Vec::new();
            for output in self.plane.synced(batch.last(), self.now) {
                if let Output::Send { session, message: PlaneMessage::Assign(assign) } = output {
                    assigned.push((session, *assign));
                }
            }
            // Assignments leave in the order of their leases.
            for (at, (session, assign)) in (before - assigned.len()..).zip(assigned) {
                self.leased[at] = assign.lane.clone();
                self.running.push_back((session, assign));
            }
        }
    }

    /// The oldest piece of work is done, and its slot comes free.
    fn finish(&mut self) {
        let (session, assign) = self.running.pop_front().unwrap();
        let outcome = ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None };
        let report = ResultReport {
            delivery: assign.delivery,
            token: assign.token,
            outcome,
            usage: Vec::new(),
            effects: Vec::new(),
        };
        let message = AgentMessage::Result(Box::new(report));
        self.plane.offer(Input::Agent { session, message }, self.now, Entropy(1));
        self.turn();
    }
}

#[test]
fn a_quiet_repository_gets_the_first_or_second_slot_that_comes_free() {
    let mut world = World::new();
    world.connect("default", 1, &["worker".to_owned()], SLOTS);
    (0..NOISY).for_each(|_| world.publish("default", "o/noisy"));
    world.turn();
    for done in 0..3 {
        world.now = Timestamp(world.now.0 + WORK / u64::from(SLOTS));
        world.finish();
        let repository = format!("o/quiet-{done}");
        let before = world.leased.len();
        world.publish("default", &repository);
        world.finish();
        world.finish();
        let next = &world.leased[before..];
        assert_eq!(next.len(), 2);
        assert!(next.iter().any(|lane| lane.contains(&repository)), "{next:?}");
    }
}

#[test]
fn a_quiet_tenant_waits_for_no_slot_of_a_noisy_one() {
    let mut world = World::new();
    world.connect("noisy", 1, &["worker".to_owned()], SLOTS);
    world.connect("quiet", 2, &["worker".to_owned()], SLOTS);
    (0..NOISY).for_each(|_| world.publish("noisy", "o/r"));
    world.turn();
    world.publish("quiet", "o/r");
    world.turn();
    assert!(world.leased.last().is_some_and(|lane| lane.starts_with("quiet:")), "slots are a tenant's own");
}

/// What tenants share is the plane's time: 100,000 leases that are due at once do not come before the one of another tenant.
#[test]
fn a_quiet_tenant_gets_the_first_or_second_turn_of_the_plane() {
    let mut world = World::new();
    let generals: Vec<_> = (0..250).map(|number| format!("worker-{number}")).collect();
    world.connect("quiet", 2, &["worker".to_owned()], SLOTS);
    (0..NOISY).for_each(|_| world.publish("noisy", "o/r"));
    world.connect("noisy", 1, &generals, 400);
    world.plane.advance(world.now, Entropy(1));
    assert!(world.plane.is_full(), "far more is due than one batch takes");
    world.sync();
    let before = world.leased.len();
    world.publish("quiet", "o/r");
    world.turn();
    let place = world.leased[before..].iter().position(|lane| lane.starts_with("quiet:"));
    assert!(place.is_some_and(|place| place <= 16), "{place:?}: one turn of a queue may be before it");
    assert!(world.leased.len() < NOISY as usize, "the noisy one is not done");
}
