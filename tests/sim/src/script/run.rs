//! Runs a scenario against the real plane.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use mindos_core::input::{Entropy, Input, RequestId};
use mindos_core::output::Output;
use mindos_core::record::{Batch, Entry, EpochCause, Record};
use mindos_core::route::Pattern;
use mindos_core::route::Route;
use mindos_core::snapshot::Item;
use mindos_core::{Durable, Limits, Plane};
use mindos_model::{Seq, Timestamp};

use super::parse::{self, Step};
use super::show;
use crate::words;

/// What a scenario led to.
#[derive(Debug)]
pub struct Ran {
    /// The text with what came of it below `----`.
    pub text: String,
    /// An invariant that did not hold.
    pub broken: Option<String>,
}

/// When scripts begin.
pub const START: Timestamp = Timestamp(1_795_200_000_000);

struct Runner {
    plane: Option<Plane>,
    limits: Limits,
    now: Timestamp,
    entropy: Entropy,
    journal: Vec<Entry>,
    snapshot: Option<(Seq, Vec<Item>)>,
    in_flight: VecDeque<Batch>,
    syncs: bool,
    exact: bool,
    routes: Vec<Route>,
    requests: u64,
    /// The events that were accepted, in order.
    events: Vec<Seq>,
    out: String,
}

/// Runs the steps above `----` and writes anew what stands below.
///
/// # Errors
/// Names the line that is not understood or cannot be done.
pub fn run(script: &str) -> Result<Ran, String> {
    let steps = script.split("\n----").next().unwrap_or_default();
    let mut runner = Runner {
        plane: None,
        limits: Limits::default(),
        now: START,
        entropy: Entropy(1),
        journal: Vec::new(),
        snapshot: None,
        in_flight: VecDeque::new(),
        syncs: true,
        exact: false,
        routes: Vec::new(),
        requests: 0,
        events: Vec::new(),
        out: String::new(),
    };
    let mut broken = None;
    for (number, line) in (1..).zip(steps.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let named = runner.name_events(line).map_err(|error| format!("line {number}: {error}"))?;
        let step = parse::step(&named, START, runner.now).map_err(|error| format!("line {number}: {error}"))?;
        if !matches!(step, Step::Limits(_) | Step::Route(_) | Step::Exact | Step::At(_)) {
            let _ = writeln!(runner.out, "> {line}");
        }
        runner.step(step).map_err(|error| format!("line {number}: {error}"))?;
        if broken.is_none() {
            broken = runner.check().err().map(|error| format!("line {number}: {error}"));
        }
    }
    if let Some(broken) = &broken {
        let _ = writeln!(runner.out, "broken: {broken}");
    }
    Ok(Ran { text: format!("{}\n----\n{}", steps.trim_end(), runner.out), broken })
}

impl Runner {
    fn plane(&mut self) -> Result<&mut Plane, String> {
        if self.plane.is_none() && self.journal.is_empty() {
            self.start(Durable::new());
        }
        self.plane.as_mut().ok_or_else(|| "the plane is down".to_owned())
    }

    fn start(&mut self, durable: Durable) {
        self.plane = Some(Plane::new(durable, self.limits.clone(), "0.1.0", EpochCause::Start, self.now));
        if !self.exact {
            self.turn();
        }
    }

    /// Puts ids for names such as `e2.1`: the first delivery of the second event that was accepted.
    fn name_events(&self, line: &str) -> Result<String, String> {
        let mut text = String::new();
        for word in line.split_inclusive([' ', '=', ',', '@']) {
            let ending = word.trim_end_matches([' ', '=', ',', '@']).len();
            let (name, rest) = word.split_at(ending);
            let parts = name.strip_prefix('e').and_then(|name| name.split_once('.'));
            let numbers = parts.and_then(|(event, ordinal)| Some((event.parse::<usize>().ok()?, ordinal)));
            match numbers {
                Some((event, ordinal)) => {
                    let seq = event.checked_sub(1).and_then(|at| self.events.get(at));
                    let seq = seq.ok_or_else(|| format!("`{name}`: {} events were accepted", self.events.len()))?;
                    let _ = write!(text, "d{seq}.{ordinal}{rest}");
                }
                None => text.push_str(word),
            }
        }
        Ok(text)
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Limits(limits) => self.limits(&limits)?,
            Step::Route(route) => self.routes.push(*route),
            Step::Apply { expected, by, guards } => {
                let table = parse::table(std::mem::take(&mut self.routes), guards);
                let (request, tenant) = (RequestId(0), words::tenant());
                self.input(Input::ApplyRoutes { request, tenant, table, expected, by, from: "".into() })?;
            }
            Step::Input(mut input) => {
                super::objects::bring(&mut input, &mut self.routes);
                self.input(*input)?;
            }
            Step::Advance(span) => self.advance(span)?,
            Step::Stall(span) => self.now = self.now + span,
            Step::Crash { keep } => {
                self.plane()?;
                self.plane = None;
                let kept: Vec<_> = self.in_flight.drain(..).take(keep).collect();
                self.journal.extend(kept.into_iter().flat_map(|batch| batch.entries));
            }
            Step::Restart { from_snapshot } => {
                let durable = self.recovered(from_snapshot)?;
                self.start(durable);
            }
            Step::Snapshot => {
                let durable = self.recovered(false)?;
                let items = durable.export();
                let _ = writeln!(self.out, "snapshot at #{} of {} items", durable.seq(), items.len());
                self.snapshot = Some((durable.seq(), items));
            }
            Step::Sync(on) => {
                self.syncs = on;
                self.turn();
            }
            Step::Exact => self.exact = true,
            Step::At(span) => self.now = START + span,
            Step::Turn => self.turn(),
            Step::Synced => self.synced(),
        }
        Ok(())
    }

    fn limits(&mut self, limits: &BTreeMap<String, u32>) -> Result<(), String> {
        for (name, value) in limits {
            match name.as_str() {
                "lane" => self.limits.lane_backlog_max = *value,
                "queue" => self.limits.queue_backlog_max = *value,
                "tenant" => self.limits.tenant_backlog_max = u64::from(*value),
                "open" => self.limits.open_max = u64::from(*value),
                // Of a repository, or of all that begin so.
                pattern if pattern.contains('/') => {
                    let pattern = Pattern::new(pattern).map_err(|error| error.to_string())?;
                    self.limits.weights.repositories.push((pattern, *value));
                }
                other => return Err(format!("limit `{other}` is not known")),
            }
        }
        Ok(())
    }

    fn input(&mut self, mut input: Input) -> Result<(), String> {
        self.requests += 1;
        words::name_request(&mut input, RequestId(self.requests));
        let (now, entropy) = (self.now, Entropy(self.entropy.draw()));
        self.plane()?.offer(input, now, entropy);
        if !self.exact {
            self.turn();
        }
        Ok(())
    }

    fn advance(&mut self, span: Duration) -> Result<(), String> {
        let until = self.now + span;
        loop {
            let due = self.plane()?.next_due().filter(|due| *due <= until);
            let Some(due) = due else { break };
            // A driver is a little late, and never early.
            self.now = due.max(self.now);
            self.turn();
            if self.plane()?.next_due().is_some_and(|again| again <= self.now) {
                self.now = self.now + Duration::from_millis(1);
                if self.now > until {
                    break;
                }
            }
        }
        self.now = until;
        self.turn();
        Ok(())
    }

    fn turn(&mut self) {
        let (now, entropy, exact) = (self.now, Entropy(self.entropy.draw()), self.exact);
        let Some(plane) = self.plane.as_mut() else { return };
        plane.advance(now, entropy);
        loop {
            let Some(plane) = self.plane.as_mut() else { return };
            if let Some(batch) = plane.seal() {
                for entry in &batch.entries {
                    if matches!(entry.record, Record::EventAccepted(_)) {
                        self.events.push(entry.seq);
                    }
                    let at =
                        if entry.at == now { String::new() } else { format!(" at {}", show::since(entry.at, START)) };
                    let _ = writeln!(self.out, "{}{at}", show::entry(entry, START));
                }
                self.in_flight.push_back(batch);
            }
            if exact || !self.syncs || self.in_flight.is_empty() {
                break;
            }
            self.synced();
        }
        if let Some(plane) = self.plane.as_mut() {
            let outputs = plane.ready(now);
            self.show(&outputs);
        }
    }

    fn synced(&mut self) {
        let Some(batch) = self.in_flight.pop_front() else { return };
        let (end, now) = (batch.last(), self.now);
        self.journal.extend(batch.entries);
        if let Some(plane) = self.plane.as_mut() {
            let outputs = plane.synced(end, now);
            self.show(&outputs);
        }
    }

    fn show(&mut self, outputs: &[Output]) {
        for output in outputs {
            let _ = writeln!(self.out, "{}", show::output(output, START));
        }
    }

    fn recovered(&self, from_snapshot: bool) -> Result<Durable, String> {
        let mut durable = match (&self.snapshot, from_snapshot) {
            (Some((_, items)), true) => Durable::import(items.iter().cloned()),
            (None, true) => return Err("no snapshot was taken".to_owned()),
            (_, false) => Durable::new(),
        };
        let from = durable.seq();
        self.journal.iter().filter(|entry| entry.seq > from).for_each(|entry| durable.apply(entry));
        Ok(durable)
    }

    fn check(&self) -> Result<(), String> {
        let Some(plane) = &self.plane else { return Ok(()) };
        if self.exact {
            // Between the calls of a turn more may be due than is looked at.
            return plane.durable().check().map_err(|error| format!("agenda_equals_scan: {error}"));
        }
        plane.check().map_err(|error| format!("agenda_equals_scan: {error}"))?;
        let mut replayed = self.recovered(false)?;
        self.in_flight.iter().flat_map(|batch| &batch.entries).for_each(|entry| replayed.apply(entry));
        if replayed.seq() == plane.durable().seq() && replayed.export() != plane.durable().export() {
            return Err("replay_equals_live_state: the journal leads elsewhere".to_owned());
        }
        Ok(())
    }
}
