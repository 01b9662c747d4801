//! The promise about money: many publishers, models whose use varies tenfold, a plane that dies in the middle, and a limit that is
//! overrun by no more than one model call of each lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::budget::{Amount, Budget, Limit, Period, Scope, Thresholds};
use mindos_core::input::{
    AgentMessage, BudgetChange, CeilingsWanted, Entropy, Extend, Hello, HelloGeneral, Input, NewEvent, Query,
    ReportedOutcome, RequestId, ResultReport, SessionId,
};
use mindos_core::output::{BudgetView, Output, PlaneMessage, Reply};
use mindos_core::record::{Entry, EpochCause, Record, Usage};
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{BootId, DeliveryId, FailureKind, Timestamp, Token};
use mindos_sim::words;

const PUBLISHERS: u64 = 64;
/// What one delivery takes, as somebody would have configured it.
const WORTH: u64 = 1000;
const LIMIT: u64 = 100 * WORTH;
/// What a call of the model is thought to take, and by how much it may take more.
const CALL: u64 = 100;
const CALL_OVER: u64 = 40;

/// Work in progress at a general.
struct Job {
    /// What it will have used when it is done: from 200 to 2000, if it may.
    needs: u64,
    spent: u64,
    ceiling: u64,
    /// It has asked for more than this.
    asked: bool,
}

struct World {
    plane: Option<Plane>,
    journal: Vec<Entry>,
    now: Timestamp,
    entropy: Entropy,
    session: u64,
    jobs: BTreeMap<(DeliveryId, Token), Job>,
    replies: Vec<Reply>,
    /// By the general's own account.
    used: u64,
    leases: u64,
    stopped: u64,
}

fn limits() -> Limits {
    let reservation_start = Amount { micros: WORTH, tokens: 0, time_ms: 0 };
    Limits { reservation_start, queue_backlog_max: 100_000, ..Limits::default() }
}

impl World {
    fn new() -> World {
        let mut world = World {
            plane: None,
            journal: Vec::new(),
            now: Timestamp(1_800_000_000_000),
            entropy: Entropy(7),
            session: 0,
            jobs: BTreeMap::new(),
            replies: Vec::new(),
            used: 0,
            leases: 0,
            stopped: 0,
        };
        world.start();
        world
    }

    /// Starts on what is on the disk, and nothing else.
    fn start(&mut self) {
        let mut durable = Durable::new();
        self.journal.iter().for_each(|entry| durable.apply(entry));
        self.plane = Some(Plane::new(durable, limits(), "0.1.0", EpochCause::Start, self.now));
        self.session += 1;
        let general = HelloGeneral {
            name: "g".parse().unwrap(),
            ty: "general-purpose-general".parse().unwrap(),
            labels: Vec::new(),
            slots: 64,
        };
        self.offer(Input::Hello(Box::new(Hello {
            session: SessionId(self.session),
            key: words::instance("c1", "i1").unwrap(),
            boot: BootId::new("b1").unwrap(),
            version: Arc::from("0.1.0"),
            region: None,
            cluster_labels: Vec::new(),
            pod: Default::default(),
            generals: vec![general],
            keeps_ceilings: true,
            held: self.jobs.keys().copied().collect(),
        })));
    }

    fn offer(&mut self, input: Input) {
        let entropy = Entropy(self.entropy.draw());
        self.plane.as_mut().unwrap().offer(input, self.now, entropy);
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let entropy = Entropy(self.entropy.draw());
            let plane = self.plane.as_mut().unwrap();
            plane.advance(self.now, entropy);
            let mut outputs = plane.ready(self.now);
            if let Some(batch) = plane.seal() {
                let end = batch.last();
                self.journal.extend(batch.entries);
                outputs.extend(plane.synced(end, self.now));
            }
            plane.check().unwrap();
            let idle = outputs.is_empty() && plane.next_due().is_none_or(|due| due > self.now);
            outputs.into_iter().for_each(|output| self.hear(output));
            if idle {
                return;
            }
        }
    }

    fn hear(&mut self, output: Output) {
        match output {
            Output::Reply { reply, .. } => self.replies.push(reply.unwrap()),
            Output::Send { message: PlaneMessage::Assign(assign), .. } => {
                let ceiling = assign.ceilings.unwrap().micros.unwrap();
                let needs = 200 + self.entropy.below(1801);
                self.leases += 1;
                self.jobs.insert((assign.delivery, assign.token), Job { needs, spent: 0, ceiling, asked: false });
            }
            Output::Send { message: PlaneMessage::Extended { delivery, token, ceilings: Some(limit) }, .. } => {
                self.jobs.get_mut(&(delivery, token)).unwrap().ceiling = limit.micros.unwrap();
            }
            Output::Send { message: PlaneMessage::Lost { delivery, token }, .. } => {
                panic!("{delivery} {token} was lost")
            }
            _ => {}
        }
    }

    /// One step of each piece of work: a call of the model, a question for more, or the end.
    fn work(&mut self) {
        let jobs: Vec<_> = self.jobs.keys().copied().collect();
        for (delivery, token) in jobs {
            let session = SessionId(self.session);
            let job = self.jobs.get_mut(&(delivery, token)).unwrap();
            let usage = |spent: u64| {
                vec![Usage { model: Arc::from("m"), input_tokens: spent, output_tokens: 0, cost_micros: spent }]
            };
            let message = if job.spent >= job.needs {
                let outcome = ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None };
                let usage = usage(job.spent);
                self.jobs.remove(&(delivery, token));
                AgentMessage::Result(Box::new(ResultReport { delivery, token, outcome, usage, effects: Vec::new() }))
            } else if job.spent + CALL <= job.ceiling {
                let call = 60 + self.entropy.below(CALL + CALL_OVER - 60 + 1);
                job.spent += call;
                job.asked = false;
                self.used += call;
                continue;
            } else if !job.asked {
                job.asked = true;
                let in_all = Limit { micros: Some(job.spent + CALL), ..Limit::default() };
                let wanted = Some(CeilingsWanted::InAll(in_all));
                let usage = usage(job.spent);
                AgentMessage::Extend(Box::new(Extend { delivery, token, progress: 1, checkpoint: None, usage, wanted }))
            } else {
                let outcome =
                    ReportedOutcome::Failed { kind: FailureKind::OverBudget, message: Arc::from("at its ceiling") };
                let usage = usage(job.spent);
                self.stopped += 1;
                self.jobs.remove(&(delivery, token));
                AgentMessage::Result(Box::new(ResultReport { delivery, token, outcome, usage, effects: Vec::new() }))
            };
            self.offer(Input::Agent { session, message });
        }
        self.now.0 += 200;
        let message = AgentMessage::Heartbeat { loads: Vec::new() };
        self.offer(Input::Agent { session: SessionId(self.session), message });
    }

    fn budget(&mut self) -> BudgetView {
        self.offer(Input::Query { request: RequestId(0), tenant: words::tenant(), query: Query::Budgets });
        match self.replies.pop() {
            Some(Reply::Budgets(views)) => views.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, publisher: u64, number: u64) {
        let (source, id) = (format!("p{publisher}"), number.to_string());
        let event = NewEvent {
            tenant: words::tenant(),
            source: Arc::from(source.as_str()),
            id: Arc::from(id.as_str()),
            ty: Arc::from("job"),
            kind: Arc::from("job"),
            subject: None,
            lane: Arc::from(format!("{source}/{id}")),
            repository: None,
            actor: None,
            time: None,
            key: words::dedupe_key(&source, &id),
            digest: words::content_digest("job", "x"),
            payload: words::payload("x"),
            routed: true,
            seen: None,
            about: None,
            priority: None,
            asked: None,
            not_before: None,
            trust: None,
            judged: None,
        };
        self.offer(Input::Publish { request: RequestId(1), event: Box::new(event) });
    }
}

fn set(world: &mut World, limit: u64) {
    let budget = Budget {
        name: "all".parse().unwrap(),
        scope: Scope::Tenant,
        period: Period::Total,
        limit: Limit { micros: Some(limit), ..Limit::default() },
        thresholds: Thresholds { warn: 50, act: 80, pause: 0 },
        priority: Vec::new(),
    };
    let change = BudgetChange::Set(Arc::new(budget));
    world.offer(Input::Budget {
        request: RequestId(2),
        tenant: words::tenant(),
        change,
        by: Arc::from("ann"),
        from: Arc::from(""),
    });
}

#[test]
fn a_budget_of_a_hundred_deliveries_is_overrun_by_one_call_of_each_lease_at_most() {
    let mut world = World::new();
    set(&mut world, LIMIT);
    let grant = AgentMessage::Grant { general: "g".parse().unwrap(), capacity: 64 };
    for round in 0..5 {
        for publisher in 0..PUBLISHERS {
            world.publish(publisher, round);
        }
        world.offer(Input::Agent { session: SessionId(world.session), message: grant.clone() });
        (0..3).for_each(|_| world.work());
        // Killed in the middle of it: what was not said yet is not known, and what was is the same to the last millionth.
        let before = world.budget();
        world.plane = None;
        world.start();
        let after = world.budget();
        assert_eq!((before.charged, before.reserved, before.level), (after.charged, after.reserved, after.level));
        world.offer(Input::Agent { session: SessionId(world.session), message: grant.clone() });
    }
    for _ in 0..400 {
        world.work();
    }

    let budget = world.budget();
    let overrun = budget.charged.micros.saturating_sub(LIMIT);
    println!(
        "limit {LIMIT}, charged {} by {} leases, {} stopped at their ceilings; overrun {overrun}, {} wait",
        budget.charged.micros, world.leases, world.stopped, budget.parked
    );
    assert!(world.jobs.is_empty() && budget.reserved == Amount::NONE, "all work has ended or waits");
    assert_eq!(budget.charged.micros, world.used, "what was used is charged, once");
    assert!(overrun <= world.leases * CALL_OVER, "overrun by {overrun} in {} leases", world.leases);
    assert!(budget.charged.micros > LIMIT * 9 / 10, "only {} of {LIMIT} was used", budget.charged.micros);
    assert!(budget.parked > 0);
    let crossed = world.journal.iter().filter(|entry| matches!(entry.record, Record::BudgetCrossed(_))).count();
    assert!(crossed >= 2, "people were told {crossed} times");

    // A raise, and the rest goes on by itself.
    set(&mut world, 100 * LIMIT);
    for _ in 0..400 {
        world.work();
    }
    let budget = world.budget();
    assert_eq!((budget.parked, world.jobs.len()), (0, 0));
    let settled = world.journal.iter().filter(|entry| matches!(entry.record, Record::DeliverySettled(_))).count();
    assert_eq!(settled as u64, 5 * PUBLISHERS);
}
