//! A measurement of placement: the real plane, a fleet with one slow and one failing instance, and load that swings.
//!
//! ```text
//!  arrivals --> plane --assign--> instance: slots --> its model works on a few at a time, the rest waits before it
//! ```
//! The same arrivals, needs and failures meet each way of drawing an instance; breakers are in force under all of them. Time in
//! queue is all the time in which nobody works on a delivery, at the plane and before the model, over all its attempts. Invariant:
//! equal settings give equal figures.

mod report;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mindos_core::input::{
    AgentMessage, Entropy, Extend, Hello, HelloGeneral, Input, ModelLoad, Query, ReportedLoad, ReportedOutcome,
    RequestId, ResultReport, SessionId,
};
use mindos_core::output::{FleetView, Output, PlaneMessage, Reply};
use mindos_core::record::EpochCause;
use mindos_core::route::{Match, Route, RouteTable, Targets};
use mindos_core::{BreakerState, Drawing, Durable, Limits, Plane};
use mindos_model::{
    BootId, DeliveryId, FailureKind, GeneralName, GeneralType, RouteName, Seq, Strategy, Timestamp, Token,
};

pub use self::report::report;
use crate::chance::Chance;
use crate::script::parse::{self, Step};
use crate::words;

/// How often leases are extended, instances report, and the fleet is looked at.
const EXTEND: u64 = 8000;
const BEAT: u64 = 5000;
const LOOK: u64 = 100;
const START: u64 = 1_000_000;
/// Request numbers of looks at the fleet.
const LOOKS: u64 = 1 << 40;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub seed: u64,
    pub instances: u32,
    /// Deliveries that an instance takes at a time, and those of them that its model works on.
    pub slots: u32,
    pub parallel: u32,
    /// Mean time of work at the model of a healthy instance, in milliseconds.
    pub work_ms: u64,
    /// Events come for so long, in seconds.
    pub seconds: u64,
    pub lanes: u64,
    /// Least and most load, in percent of what the models can do.
    pub load: (u64, u64),
    /// Length of one swing of the load, in seconds.
    pub swing: u64,
    /// One instance needs so many times as long.
    pub slower: u64,
    /// How many others fail.
    pub fail: u32,
    /// Each of them fails so many percent of its work between these seconds.
    pub failing: (u64, u64, u64),
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            seed: 1,
            instances: 100,
            slots: 8,
            parallel: 4,
            work_ms: 2000,
            seconds: 600,
            lanes: 1000,
            load: (30, 90),
            swing: 120,
            slower: 10,
            fail: 1,
            failing: (50, 60, 300),
        }
    }
}

/// What came of one way of drawing. Times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub deliveries: u64,
    pub settled: u64,
    pub attempts_failed: u64,
    /// Time in queue: at half, at 99 in 100, at 999 in 1000 of all deliveries.
    pub queue: [u64; 3],
    /// From acceptance to the result, the same.
    pub done: [u64; 3],
    /// Deliveries that the slow and the failing instance got.
    pub at_slow: u64,
    pub at_failing: u64,
    /// From the first failure to the ejection; from the healing to the first full share of slots.
    pub ejected_after: Option<u64>,
    pub back_after: Option<u64>,
    /// Most instances that were ejected at a time.
    pub ejected_max: u32,
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    Arrives(usize),
    Ends { instance: usize, delivery: DeliveryId },
    Extends { instance: usize, delivery: DeliveryId, token: Token },
    Beats(usize),
    Look,
    Turn,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    delivery: DeliveryId,
    token: Token,
    event: usize,
    begun: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Instance {
    /// Leases, in the order in which the model takes them on.
    jobs: VecDeque<Job>,
    running: u32,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: u64,
    need: u64,
    lane: u64,
    /// Time in which somebody worked on it in vain.
    wasted: u64,
    queue: Option<u64>,
    done: u64,
}

struct Bench {
    setting: Setting,
    plane: Plane,
    now: u64,
    chance: Chance,
    agenda: BTreeMap<(u64, u64), Happens>,
    number: u64,
    turn_at: u64,
    arrivals: Vec<Arrival>,
    of_seq: BTreeMap<Seq, usize>,
    instances: Vec<Instance>,
    figures: Figures,
    /// When the failing instance failed first, and whether it was seen ejected since it healed.
    failed_first: Option<u64>,
}

const SLOW: usize = 0;
const FAILING: usize = 1;

/// Measures one way of drawing.
#[must_use]
pub fn measure(setting: Setting, drawing: Drawing) -> Figures {
    let limits = Limits { drawing, ..Limits::default() };
    let plane = Plane::new(Durable::new(), limits, "0.1.0", EpochCause::Start, Timestamp(START));
    let mut bench = Bench {
        setting,
        plane,
        now: START,
        chance: Chance::new(setting.seed),
        agenda: BTreeMap::new(),
        number: 0,
        turn_at: u64::MAX,
        arrivals: arrivals(setting),
        of_seq: BTreeMap::new(),
        instances: vec![Instance::default(); setting.instances as usize],
        figures: Figures::default(),
        failed_first: None,
    };
    bench.run();
    bench.figures()
}

/// What comes when, and what it needs: the same for every way of drawing.
fn arrivals(setting: Setting) -> Vec<Arrival> {
    let Setting { seed, instances, parallel, work_ms, seconds, lanes, load: (low, high), swing, .. } = setting;
    let mut chance = Chance::new(seed ^ 0x61_7272);
    let mut uniform = move || (chance.draw() >> 11) as f64 / (1u64 << 53) as f64;
    let per_ms = f64::from(instances * parallel) / work_ms as f64;
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    while at < seconds as f64 * 1000.0 {
        let turn = at / (swing as f64 * 1000.0) * std::f64::consts::TAU;
        let share = (low as f64 + (high - low) as f64 * (1.0 - turn.cos()) / 2.0) / 100.0;
        at += -(1.0 - uniform()).ln() / (per_ms * share);
        let need = (-(1.0 - uniform()).ln() * work_ms as f64).clamp(50.0, work_ms as f64 * 10.0);
        let lane = (uniform() * lanes as f64) as u64;
        arrivals.push(Arrival { at: START + at as u64, need: need as u64, lane, wasted: 0, queue: None, done: 0 });
    }
    arrivals
}

impl Bench {
    fn run(&mut self) {
        self.routes();
        for instance in 0..self.instances.len() {
            self.hello(instance);
            self.at(self.now + self.chance.clone().below(BEAT) + instance as u64, Happens::Beats(instance));
        }
        for event in 0..self.arrivals.len() {
            self.at(self.arrivals[event].at, Happens::Arrives(event));
        }
        self.at(self.now, Happens::Look);
        let end = START + self.setting.seconds * 1000 + 200_000;
        while let Some(((at, _), happens)) = self.agenda.pop_first() {
            if at > end || self.figures.settled == self.arrivals.len() as u64 {
                break;
            }
            self.now = at;
            self.happen(happens);
            self.turn();
        }
    }

    fn at(&mut self, at: u64, happens: Happens) {
        self.number += 1;
        self.agenda.insert((at, self.number), happens);
    }

    fn offer(&mut self, input: Input) {
        let entropy = Entropy(self.chance.draw());
        self.plane.offer(input, Timestamp(self.now), entropy);
    }

    fn say(&mut self, instance: usize, message: AgentMessage) {
        self.offer(Input::Agent { session: SessionId(instance as u64 + 1), message });
    }

    fn routes(&mut self) {
        let name = |name| RouteName::new(name).expect("a name of ours");
        let ty = GeneralType::new("worker").expect("a name of ours");
        let targets = Targets { types: vec![ty], ..Targets::default() };
        let route = Route::new(name("all"), Match::default(), targets, Strategy::Broadcast);
        let table = Arc::new(RouteTable { routes: vec![route], trust: None });
        let (request, tenant, by) = (RequestId(LOOKS - 1), words::tenant(), Arc::from("bench"));
        self.offer(Input::ApplyRoutes { request, tenant, table, expected: None, by, from: Arc::from("") });
    }

    fn hello(&mut self, instance: usize) {
        let general = HelloGeneral {
            name: GeneralName::new("g").expect("a name of ours"),
            ty: GeneralType::new("worker").expect("a name of ours"),
            labels: Vec::new(),
            slots: self.setting.slots,
        };
        let key = words::instance("c1", &format!("i{instance}")).expect("a name of ours");
        self.offer(Input::Hello(Box::new(Hello {
            session: SessionId(instance as u64 + 1),
            key,
            boot: BootId::new("b1").expect("a name of ours"),
            version: Arc::from("0.1.0"),
            region: None,
            cluster_labels: Vec::new(),
            pod: Default::default(),
            generals: vec![general],
            keeps_ceilings: false,
            held: Vec::new(),
        })));
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Turn => {}
            Happens::Arrives(event) => {
                let Arrival { lane, .. } = self.arrivals[event];
                let line = format!("publish bench/{event} kind=job lane=l{lane}");
                let step = parse::step(&line, Timestamp(START), Timestamp(self.now));
                let Ok(Step::Input(mut input)) = step else { panic!("a line of ours is not understood: {step:?}") };
                words::name_request(&mut input, RequestId(event as u64));
                self.offer(*input);
            }
            Happens::Ends { instance, delivery } => self.ends(instance, delivery),
            Happens::Extends { instance, delivery, token } => {
                if self.instances[instance].jobs.iter().any(|job| job.token == token && job.delivery == delivery) {
                    let progress = self.now;
                    let extend =
                        Extend { delivery, token, progress, checkpoint: None, usage: Vec::new(), wanted: None };
                    self.say(instance, AgentMessage::Extend(Box::new(extend)));
                    self.at(self.now + EXTEND, Happens::Extends { instance, delivery, token });
                }
            }
            Happens::Beats(instance) => {
                let Instance { jobs, running } = &self.instances[instance];
                let model = ModelLoad {
                    running: *running,
                    queue: u32::try_from(jobs.len()).unwrap_or(u32::MAX) - running,
                    cache_permille: Some(u16::try_from(running * 1000 / self.setting.slots).unwrap_or(1000)),
                    tokens_per_second: Some(running * if instance == SLOW { 4 } else { 40 }),
                    ..ModelLoad::default()
                };
                let load = ReportedLoad { model: Some(Box::new(model)), ..ReportedLoad::default() };
                let general = GeneralName::new("g").expect("a name of ours");
                self.say(instance, AgentMessage::Heartbeat { loads: vec![(general, load)] });
                self.at(self.now + BEAT, Happens::Beats(instance));
            }
            Happens::Look => {
                let request = RequestId(LOOKS);
                self.offer(Input::Query { request, tenant: words::tenant(), query: Query::Fleet });
                self.at(self.now + LOOK, Happens::Look);
            }
        }
    }

    fn turn(&mut self) {
        let now = Timestamp(self.now);
        loop {
            let entropy = Entropy(self.chance.draw());
            self.plane.advance(now, entropy);
            let mut outputs = self.plane.ready(now);
            while let Some(batch) = self.plane.seal() {
                outputs.extend(self.plane.synced(batch.last(), now));
            }
            if outputs.is_empty() {
                break;
            }
            outputs.into_iter().for_each(|output| self.hear(output));
        }
        let due = self.plane.next_due().map_or(u64::MAX, |at| at.0.max(self.now + 1));
        if due != self.turn_at && due < u64::MAX {
            self.turn_at = due;
            self.at(due, Happens::Turn);
        }
    }

    fn hear(&mut self, output: Output) {
        match output {
            Output::Reply { request: _, reply } => match *reply {
                Ok(Reply::Published(published)) => {
                    let event = self.of_seq.len();
                    self.of_seq.insert(published.event, event);
                }
                Ok(Reply::Fleet(fleet)) => self.look(&fleet),
                Ok(_) => {}
                Err(refused) => panic!("the bench asks for nothing that is refused: {refused}"),
            },
            Output::Send { session, message: PlaneMessage::Assign(assign) } => {
                let instance = session.0 as usize - 1;
                let (delivery, token) = (assign.delivery, assign.token);
                self.figures.at_slow += u64::from(instance == SLOW);
                self.figures.at_failing += u64::from(instance == FAILING);
                let job = Job { delivery, token, event: self.of_seq[&delivery.event], begun: None };
                self.instances[instance].jobs.push_back(job);
                self.say(instance, AgentMessage::Accept { delivery, token });
                self.at(self.now + EXTEND, Happens::Extends { instance, delivery, token });
                self.begin(instance);
            }
            Output::Send { .. } | Output::Close { .. } | Output::DropPrefix { .. } => {}
        }
    }

    /// The model takes on what it can.
    fn begin(&mut self, instance: usize) {
        let Setting { parallel, slower, .. } = self.setting;
        let state = &mut self.instances[instance];
        while state.running < parallel {
            let Some(job) = state.jobs.iter_mut().find(|job| job.begun.is_none()) else { return };
            job.begun = Some(self.now);
            state.running += 1;
            let need = self.arrivals[job.event].need * if instance == SLOW { slower } else { 1 };
            self.number += 1;
            let ends = Happens::Ends { instance, delivery: job.delivery };
            self.agenda.insert((self.now + need, self.number), ends);
        }
    }

    fn ends(&mut self, instance: usize, delivery: DeliveryId) {
        let state = &mut self.instances[instance];
        let at = state.jobs.iter().position(|job| job.delivery == delivery && job.begun.is_some());
        let Some(job) = at.and_then(|at| state.jobs.remove(at)) else { return };
        state.running -= 1;
        let begun = job.begun.expect("what ends was begun");
        let fails = self.fails(instance, job);
        let arrival = &mut self.arrivals[job.event];
        let outcome = if fails {
            arrival.wasted += self.now - begun;
            self.figures.attempts_failed += 1;
            self.failed_first.get_or_insert(self.now);
            ReportedOutcome::Failed { kind: FailureKind::Transient, message: Arc::from("as set") }
        } else {
            arrival.queue = Some(begun - arrival.at - arrival.wasted);
            arrival.done = self.now - arrival.at;
            self.figures.settled += 1;
            ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None }
        };
        let report = ResultReport { delivery, token: job.token, outcome, usage: Vec::new(), effects: Vec::new() };
        self.say(instance, AgentMessage::Result(Box::new(report)));
        self.begin(instance);
    }

    /// The same attempt fails under every way of drawing, where it comes to the failing instance.
    fn fails(&self, instance: usize, job: Job) -> bool {
        let (percent, from, until) = self.setting.failing;
        let since = (self.now - START) / 1000;
        let mut lot = Entropy(self.setting.seed ^ (job.event as u64) << 8 ^ u64::from(job.token.term));
        (FAILING..FAILING + self.setting.fail as usize).contains(&instance)
            && (from..until).contains(&since)
            && lot.below(100) < percent
    }

    fn look(&mut self, fleet: &FleetView) {
        let breaker =
            |view: &mindos_core::output::InstanceView| view.generals.first().map(|(.., health)| health.breaker);
        let is_out = |state| matches!(state, Some(BreakerState::Open { .. } | BreakerState::Trial { .. }));
        let ejected = fleet.instances.iter().filter(|view| is_out(breaker(view))).count();
        self.figures.ejected_max = self.figures.ejected_max.max(u32::try_from(ejected).unwrap_or(u32::MAX));
        let failing = fleet.instances.iter().find(|view| view.key.instance.as_str() == format!("i{FAILING}"));
        let Some(state) = failing.and_then(breaker) else { return };
        if let (Some(first), None, true) = (self.failed_first, self.figures.ejected_after, is_out(Some(state))) {
            self.figures.ejected_after = Some(self.now - first);
        }
        let healed = START + self.setting.failing.2 * 1000;
        if self.now < healed || state != BreakerState::Closed {
            self.figures.back_after = None;
        } else {
            self.figures.back_after.get_or_insert(self.now - healed);
        }
    }

    fn figures(mut self) -> Figures {
        let at = |mut of: Vec<u64>| {
            of.sort_unstable();
            [500, 990, 999].map(|permille| of.get((of.len() * permille / 1000).min(of.len() - 1)).copied().unwrap_or(0))
        };
        let settled = || self.arrivals.iter().filter_map(|arrival| Some((arrival.queue?, arrival.done)));
        self.figures.queue = at(settled().map(|(queue, _)| queue).collect());
        self.figures.done = at(settled().map(|(_, done)| done).collect());
        self.figures.deliveries = self.arrivals.len() as u64;
        self.figures
    }
}

/// The limit of an extension is far from the lease's.
const _: () = assert!(EXTEND < Duration::from_secs(25).as_millis() as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_one_is_ejected_in_time_and_comes_back_and_no_tenth_is_ever_out() {
        let setting = Setting { instances: 40, seconds: 130, lanes: 400, failing: (50, 10, 60), ..Setting::default() };

        let figures = measure(setting, Drawing::BetterOfTwo);

        assert_eq!(figures.settled, figures.deliveries, "nothing is lost");
        assert!(figures.ejected_after.is_some_and(|after| after <= 10_000), "{figures:?}");
        assert!(figures.back_after.is_some_and(|after| after <= 75_000), "{figures:?}");
        assert_eq!(figures, measure(setting, Drawing::BetterOfTwo), "equal settings give equal figures");
        let many = measure(Setting { fail: 20, ..setting }, Drawing::BetterOfTwo);
        assert_eq!(many.ejected_max, 4, "{many:?}");
    }
}
