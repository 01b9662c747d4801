//! One run: the plane, its agents, its publishers and people, and the time between them.
//!
//! ```text
//!   publishers, people --inputs--> plane --batches--> journal
//!        ^                          |  ^
//!        +-------- replies ---------+  +--- streams ---> agents ---> generals
//! ```
//! Everything that happens stands in `events` under its time; the seed decides all else. The run goes through a time of
//! faults and one of healing, at whose end all work must have settled. Invariant: equal seeds give equal runs.

mod access;
mod agents;
mod budgets;
mod effects;
mod faults;
mod net;
mod objects;
mod people;
mod plane;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mindos_core::budget::Amount;
use mindos_core::input::{Input, RequestId};
use mindos_core::output::PlaneMessage;
use mindos_core::record::{Batch, Entry};
use mindos_core::route::Pattern;
use mindos_core::{Durable, Limits, Plane, Weights};
use mindos_model::{DeliveryId, EffectId, Seq, Timestamp, Token};
use mindos_sidecar_core::Up;

use crate::chance::Chance;
use crate::coverage::Coverage;
use crate::faults::{Counts, Fault};
use crate::home::Home;
use crate::ledger::{Broken, Ledger};
use crate::script::{print, run::START, show};
use crate::words;

pub(crate) use effects::intents;

/// What a run is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Inputs before healing begins.
    pub inputs_min: u64,
    /// Hash every field of every record and output, instead of the telling ones.
    pub hash_all: bool,
    /// Keep the inputs as a script.
    pub record: bool,
    /// Run on the real embedded log: `None` leaves it to the seed, one in eight.
    pub real_journal: Option<bool>,
}

impl Default for Options {
    fn default() -> Options {
        Options { inputs_min: 2000, hash_all: false, record: false, real_journal: None }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub inputs: u64,
    pub records: u64,
    pub outputs: u64,
    pub events_accepted: u64,
    /// Simulated time, in milliseconds.
    pub took_ms: u64,
    pub hash: u64,
    pub faults: Counts,
    pub coverage: Coverage,
    pub real_journal: bool,
    /// The inputs, when they were recorded.
    pub script: String,
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// Simulated time, in milliseconds.
    pub at_ms: u64,
    pub broken: Broken,
    /// The inputs so far, when they were recorded.
    pub script: String,
}

/// Something that happens at its time.
#[derive(Debug)]
enum Event {
    Turn,
    Written {
        life: u32,
    },
    Restart,
    Up {
        session: u64,
        message: Box<Up<()>>,
    },
    Down {
        session: u64,
        message: Box<PlaneMessage>,
    },
    /// One side notices that the stream is gone.
    PlaneSees {
        session: u64,
    },
    AgentSees {
        session: u64,
    },
    Dial {
        agent: usize,
        boot: u32,
    },
    Tick {
        agent: usize,
        due: u64,
    },
    Done {
        agent: usize,
        boot: u32,
        id: DeliveryId,
        token: Token,
    },
    Progress {
        agent: usize,
        boot: u32,
        id: DeliveryId,
        token: Token,
    },
    Ready {
        agent: usize,
        boot: u32,
        general: u16,
    },
    Boot {
        agent: usize,
    },
    Publish {
        publisher: usize,
    },
    Retry {
        publication: usize,
    },
    Act,
    /// Effects are looked at.
    Broker,
    Fault,
    Room,
    Heal,
}

struct World {
    options: Options,
    seed: u64,
    now: u64,
    chance: Chance,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    home: Home,
    limits: Limits,
    /// Not here while it takes a turn.
    plane: Option<Plane>,
    plane_up: bool,
    life: u32,
    /// How far the plane's clock is from ours.
    clock_offset: i64,
    inbox: VecDeque<Input>,
    turn_at: Option<u64>,
    paused_until: u64,
    in_flight: VecDeque<Arc<Batch>>,
    writing: bool,
    synced: Option<Seq>,
    /// Folds what is durable, as a follower that writes snapshots does.
    follower: Durable,
    ledger: Ledger,
    hosts: Vec<agents::Host>,
    conns: HashMap<u64, net::Conn>,
    /// Whose stream each was; also after its end.
    owners: HashMap<u64, usize>,
    next_session: u64,
    next_request: u64,
    asked: HashMap<RequestId, people::Asked>,
    publications: Vec<people::Publication>,
    sites: objects::Sites,
    /// What is there outside, by key, with the effect that made it.
    outside: BTreeMap<Arc<str>, EffectId>,
    /// Tokens that agents held once, for late results.
    stale: Vec<(usize, DeliveryId, Token)>,
    mood: faults::Mood,
    heal_rounds: u32,
    routes_healed: bool,
    healing: bool,
    ended: bool,
    crashes: u32,
    counts: Counts,
    inputs: u64,
    outputs: u64,
    steps: u64,
    hash: u64,
    script: String,
}

/// Runs a seed.
///
/// # Errors
/// When an invariant does not hold.
pub fn run(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let mut world = match World::new(seed, options) {
        Ok(world) => world,
        Err(broken) => return Err(Box::new(Failure { seed, at_ms: 0, broken, script: String::new() })),
    };
    // A panic of either core is a broken invariant like any other.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("no_panic: {}", text.unwrap_or_default()))
    });
    match result {
        Ok(()) => Ok(world.report()),
        Err(broken) => {
            let script = std::mem::take(&mut world.script);
            Err(Box::new(Failure { seed, at_ms: world.now, broken, script }))
        }
    }
}

/// Runs a seed on the real journal and leaves its files and what they lead to in `folder`, if records of every kind came.
///
/// # Errors
/// When an invariant does not hold, or the folder cannot be written.
pub fn history(seed: u64, inputs_min: u64, folder: &std::path::Path) -> Result<bool, Broken> {
    let options = Options { inputs_min, real_journal: Some(true), ..Options::default() };
    let mut world = World::new(seed, options)?;
    world.run_until_healing()?;
    if world.ledger.kinds.len() < crate::histories::KINDS {
        return Ok(false);
    }
    let failed = |error: std::io::Error| format!("failed to write `{}`: {error}", folder.display());
    world.home.copy_to(folder).map_err(failed)?;
    std::fs::write(folder.join(crate::histories::STATE), crate::histories::summary(&world.follower)).map_err(failed)?;
    Ok(true)
}

/// How long healing may take, in milliseconds.
const HEAL_MAX: u64 = 3 * 60 * 60 * 1000;

impl World {
    fn new(seed: u64, options: Options) -> Result<World, Broken> {
        let mut chance = Chance::new(seed);
        let real = options.real_journal.unwrap_or_else(|| chance.permille(125));
        let weights =
            [1, 1, 3, 7].map(|weight| (Pattern::new(&format!("acme/{}", chance.below(3))).expect("a pattern"), weight));
        let weights = Weights { repositories: weights.to_vec(), ..Weights::default() };
        let limits = Limits {
            weights,
            lane_backlog_max: chance.within(3, 12) as u32,
            queue_backlog_max: chance.within(10, 40) as u32,
            open_max: chance.within(60, 400),
            reservation_start: Amount { micros: 300, tokens: 300, time_ms: 60_000 },
            reservation_max: Amount { micros: 1000, tokens: 1000, time_ms: 600_000 },
            // Of many seeds it bites before the plane's own does.
            tenant_backlog_max: 60 + seed % 400,
            ..Limits::default()
        };
        let mood = faults::Mood::draw(&mut chance);
        let hosts = agents::fleet(&mut chance, seed);
        Ok(World {
            options,
            seed,
            now: 0,
            home: Home::new(real, seed)?,
            chance,
            events: BTreeMap::new(),
            order: 0,
            limits,
            plane: None,
            plane_up: false,
            life: 0,
            clock_offset: 0,
            inbox: VecDeque::new(),
            turn_at: None,
            paused_until: 0,
            in_flight: VecDeque::new(),
            writing: false,
            synced: None,
            follower: Durable::new(),
            ledger: Ledger::default(),
            hosts,
            conns: HashMap::new(),
            owners: HashMap::new(),
            next_session: 1,
            next_request: 1,
            asked: HashMap::new(),
            publications: Vec::new(),
            sites: objects::Sites::default(),
            outside: BTreeMap::new(),
            stale: Vec::new(),
            mood,
            heal_rounds: 0,
            routes_healed: false,
            healing: false,
            ended: false,
            crashes: 0,
            counts: Counts::default(),
            inputs: 0,
            outputs: 0,
            steps: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            script: String::new(),
        })
    }

    fn report(&self) -> Report {
        Report {
            seed: self.seed,
            inputs: self.inputs,
            records: self.ledger.end.0,
            outputs: self.outputs,
            events_accepted: self.ledger.events.len() as u64,
            took_ms: self.now,
            hash: self.hash,
            faults: self.counts.clone(),
            coverage: self.ledger.coverage.clone(),
            real_journal: self.home.is_real(),
            script: self.script.clone(),
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        self.begin();
        let mut heal_by = u64::MAX;
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.steps += 1;
            self.happen(event)?;
            if self.inputs >= self.options.inputs_min / 2 && self.crashes == 0 && self.plane.is_some() {
                self.crash()?;
            }
            if self.inputs >= self.options.inputs_min && !self.healing && self.crashes > 0 {
                self.healing = true;
                heal_by = self.now + HEAL_MAX;
                self.at(0, Event::Heal);
            }
            if self.ended {
                return Ok(());
            }
            if self.now > heal_by {
                return Err(format!(
                    "everything_settles: {} deliveries and {} effects are open: {}",
                    self.ledger.open.len(),
                    self.ledger.effects.open.len(),
                    self.left()
                ));
            }
        }
        Err("the_world_goes_on: nothing is due any more".to_owned())
    }

    /// Stops in the middle of things, with nothing on its way to the disk.
    fn run_until_healing(&mut self) -> Result<(), Broken> {
        self.begin();
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.steps += 1;
            self.happen(event)?;
            if self.inputs >= self.options.inputs_min && self.in_flight.is_empty() && self.plane_up {
                return Ok(());
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.at(0, Event::Restart);
        for agent in 0..self.hosts.len() {
            let after = self.chance.within(0, 2000);
            self.at(after, Event::Boot { agent });
        }
        for publisher in 0..people::PUBLISHERS {
            let after = self.chance.within(0, 500);
            self.at(after, Event::Publish { publisher });
        }
        self.at(1500, Event::Act);
        self.at(1000, Event::Broker);
        self.at(3000, Event::Fault);
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Turn if self.turn_at == Some(self.now) => self.turn(),
            Event::Turn => Ok(()),
            Event::Written { life } if life == self.life => self.written(),
            Event::Written { .. } => Ok(()),
            Event::Restart => self.restart(),
            Event::Up { session, message } => self.arrived_up(session, *message),
            Event::Down { session, message } => self.arrived_down(session, *message),
            Event::PlaneSees { session } => {
                self.plane_sees(session);
                Ok(())
            }
            Event::AgentSees { session } => self.agent_sees(session),
            Event::Dial { agent, boot } => self.dial(agent, boot),
            Event::Tick { agent, due } => self.tick(agent, due),
            Event::Done { agent, boot, id, token } => self.job_done(agent, boot, id, token),
            Event::Progress { agent, boot, id, token } => self.job_progress(agent, boot, id, token),
            Event::Ready { agent, boot, general } => self.general_ready(agent, boot, general),
            Event::Boot { agent } => self.boot(agent),
            Event::Publish { publisher } => {
                self.publish(publisher);
                Ok(())
            }
            Event::Retry { publication } => {
                self.retry(publication);
                Ok(())
            }
            Event::Act => {
                self.act();
                Ok(())
            }
            Event::Broker => {
                self.broker();
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Room => {
                self.home.full = false;
                Ok(())
            }
            Event::Heal => self.heal(),
        }
    }

    /// Something happens after so many milliseconds.
    fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), event);
    }

    /// Our time, as agents see it.
    fn time(&self) -> Timestamp {
        Timestamp(START.0 + self.now)
    }

    /// The plane's time.
    fn plane_time(&self) -> Timestamp {
        Timestamp(self.time().0.saturating_add_signed(self.clock_offset))
    }

    fn left(&self) -> String {
        let some = self.ledger.open.iter().take(5);
        let text = some.map(|id| match self.ledger.deliveries.get(id) {
            Some(facts) => format!("{id} {:?} in `{}` of {:?}", facts.phase, facts.lane, facts.queue),
            None => id.to_string(),
        });
        text.collect::<Vec<_>>().join("; ")
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    fn hash_entry(&mut self, entry: &Entry) {
        if self.options.hash_all {
            let text = format!("{entry:?}");
            self.mix(words::hash(&[text.as_bytes()]));
        } else {
            self.mix(entry.seq.0 ^ entry.at.0.rotate_left(20));
            self.mix(words::hash(&[entry.record.kind().as_bytes()]));
        }
    }

    /// Writes a line of the script that a failure leaves behind.
    fn note(&mut self, line: &dyn Fn() -> String) {
        if self.options.record {
            if self.script.is_empty() {
                let Limits { lane_backlog_max, queue_backlog_max, tenant_backlog_max, open_max, .. } = &self.limits;
                self.script = format!(
                    "# Inputs of seed {}, with chance of its own.\nlimits lane={lane_backlog_max} queue={queue_backlog_max} tenant={tenant_backlog_max} open={open_max}\nexact\n",
                    self.seed
                );
            }
            self.script.push_str(&line());
            self.script.push('\n');
        }
    }

    fn note_input(&mut self, input: &Input) {
        if self.options.record {
            let (at, line) = (show::since(self.plane_time(), START), print::input(input, START));
            self.note(&|| format!("at {at}\n{line}"));
        }
    }

    fn suffer(&mut self, fault: Fault) {
        self.counts.add(fault);
    }
}
