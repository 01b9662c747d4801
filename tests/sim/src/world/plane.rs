//! The plane's process: turns, the writer, crash and start.

use std::sync::Arc;

use mindos_core::input::{AgentMessage, Entropy, Input};
use mindos_core::output::{Output, PlaneMessage};
use mindos_core::record::{Batch, EpochCause, GeneralKey, InstanceKey};
use mindos_core::{Durable, Plane};
use mindos_model::{DeliveryId, GeneralName, Seq, Token};

use super::{Event, World};
use crate::faults::Fault;
use crate::home::Appended;
use crate::ledger::{Broken, Ledger};
use crate::script::run::START;
use crate::script::show;

/// Turns between two comparisons of all indexes with a scan.
const CHECK_TURNS: u64 = 64;

impl World {
    /// Something waits for the plane.
    pub(super) fn input(&mut self, input: Input) {
        if self.plane_up {
            self.inbox.push_back(input);
            let after = self.chance.below(3);
            self.want_turn(after);
        }
    }

    fn want_turn(&mut self, after: u64) {
        let at = (self.now + after).max(self.paused_until);
        self.ledger.clocks.stalled |= self.now < self.paused_until;
        if self.turn_at.is_none_or(|due| at < due || due < self.now) {
            self.turn_at = Some(at);
            self.at(at - self.now, Event::Turn);
        }
    }

    pub(super) fn turn(&mut self) -> Result<(), Broken> {
        self.turn_at = None;
        if self.now < self.paused_until {
            self.ledger.clocks.stalled = true;
            self.want_turn(0);
            return Ok(());
        }
        let Some(mut plane) = self.plane.take() else { return Ok(()) };
        let result = self.turn_of(&mut plane);
        self.plane = Some(plane);
        result
    }

    fn turn_of(&mut self, plane: &mut Plane) -> Result<(), Broken> {
        let now = self.plane_time();
        if let Some(end) = self.synced.take() {
            let outputs = plane.synced(end, now);
            self.deliver(outputs, plane.durable().seq())?;
        }
        while !plane.is_full() {
            let Some(input) = self.inbox.pop_front() else { break };
            self.note_input(&input);
            self.observe(&input, plane.durable().seq());
            self.inputs += 1;
            plane.offer(input, now, Entropy(self.chance.draw()));
        }
        if !plane.is_full() {
            if self.ledger.clocks.turn(plane.durable().seq(), now) {
                self.suffer(Fault::PlaneStalled);
            }
            plane.advance(now, Entropy(self.chance.draw()));
            let looked_at = self.options.record || self.steps.is_multiple_of(CHECK_TURNS);
            if looked_at && !plane.is_full() {
                plane.check().map_err(|error| format!("agenda_equals_scan: {error}"))?;
            }
        }
        let at = show::since(now, START);
        self.note(&|| format!("at {at}\nturn"));
        // Results may wait for company, and the process may end meanwhile.
        let lingers = plane.may_linger() && self.chance.permille(500);
        match if lingers { None } else { plane.seal() } {
            Some(batch) => {
                self.in_flight.push_back(Arc::new(batch));
                self.write();
            }
            None if lingers => self.want_turn(1),
            None if self.in_flight.len() == 2 => self.suffer(Fault::WriterBusy),
            None => {}
        }
        let outputs = plane.ready(now);
        self.deliver(outputs, plane.durable().seq())?;
        if !self.inbox.is_empty() && self.in_flight.len() < 2 {
            self.want_turn(0);
        } else if let Some(due) = plane.next_due() {
            let after = due.since(now).as_millis() as u64;
            // The driver is a millisecond late, and waits for the writer when the batch is full.
            self.want_turn(if plane.is_full() { 5 } else { after.clamp(1, 60_000) });
        }
        Ok(())
    }

    /// What the plane is told of slots and leases, for the reckoning beside it.
    fn observe(&mut self, input: &Input, end: Seq) {
        match input {
            Input::Hello(hello) => {
                for general in &hello.generals {
                    let key = self.general_key(&hello.key, &general.name);
                    let served = (hello.key.clone(), key);
                    self.ledger.told.entry(served.clone()).or_default().push(end, general.labels.clone());
                    self.ledger.slots.entry(served).or_default().push(end, general.slots);
                }
                for (id, token) in &hello.held {
                    self.rearmed(&hello.key, *id, *token, end);
                }
            }
            Input::Agent { session, message } => {
                let Some(agent) = self.owners.get(&session.0) else { return };
                let key = self.hosts[*agent].key.clone();
                match message {
                    AgentMessage::Grant { general, capacity } => {
                        let general = self.general_key(&key, general);
                        self.ledger.slots.entry((key, general)).or_default().push(end, *capacity);
                    }
                    AgentMessage::Accept { delivery, token } => self.rearmed(&key, *delivery, *token, end),
                    AgentMessage::Result(report) => {
                        self.ledger.reported.insert((report.delivery, report.token, key));
                    }
                    AgentMessage::Decline { delivery, token, .. } => {
                        self.ledger.reported.insert((*delivery, *token, key));
                    }
                    AgentMessage::Extend(extend) => self.rearmed(&key, extend.delivery, extend.token, end),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn rearmed(&mut self, key: &InstanceKey, id: DeliveryId, token: Token, end: Seq) {
        let now = self.plane_time();
        let Some(facts) = self.ledger.deliveries.get(&id) else { return };
        let is_holder = facts.held.as_ref().is_some_and(|(_, instance, _)| **instance == *key);
        if facts.token == token && is_holder && self.ledger.clocks.knows(id, token) {
            self.ledger.clocks.armed(id, token, end, now);
            if let Some(host) = self.hosts.iter_mut().find(|host| *host.key == *key) {
                host.confirmed(id, token);
            }
        }
    }

    fn general_key(&self, key: &InstanceKey, name: &GeneralName) -> Arc<GeneralKey> {
        Arc::new(GeneralKey { tenant: key.tenant.clone(), cluster: key.cluster.clone(), name: name.clone() })
    }

    fn deliver(&mut self, outputs: Vec<Output>, end: Seq) -> Result<(), Broken> {
        for output in outputs {
            self.outputs += 1;
            self.note(&|| format!("# {}", show::output(&output, START).replace('\n', "\n# ")));
            self.ledger.judge_output(&output)?;
            if self.options.hash_all {
                let text = format!("{output:?}");
                self.mix(crate::words::hash(&[text.as_bytes()]));
            }
            match output {
                Output::Reply { request, reply } => {
                    self.mix(request.0);
                    self.answered(request, *reply)?;
                }
                Output::Send { session, message } => {
                    self.mix(session.0);
                    if let PlaneMessage::Assign(assign) = &message {
                        let now = self.plane_time();
                        let facts = self.ledger.deliveries.get(&assign.delivery);
                        if facts.is_some_and(|facts| facts.token == assign.token && facts.held.is_some()) {
                            self.ledger.clocks.armed(assign.delivery, assign.token, end, now);
                        }
                    }
                    self.send_down(session.0, message);
                }
                Output::Close { session, reason: _ } => self.plane_closes(session.0),
                Output::DropPrefix { through } => {
                    if self.home.snapshot.as_ref().is_some_and(|(at, _)| *at >= through) && !self.home.is_real() {
                        self.home.drop_prefix(through);
                        self.ledger.dropped = self.home.dropped;
                    }
                }
            }
        }
        Ok(())
    }

    /// The writer takes the next batch, if it is idle.
    fn write(&mut self) {
        if self.writing || self.in_flight.is_empty() {
            return;
        }
        self.writing = true;
        let slow = !self.healing && self.chance.permille(self.mood.slow_disk);
        let after = if slow { self.chance.within(1001, 6000) } else { self.chance.skewed(0, 8) };
        if slow {
            self.suffer(Fault::SlowDisk);
        }
        self.at(after, Event::Written { life: self.life });
    }

    pub(super) fn written(&mut self) -> Result<(), Broken> {
        let Some(batch) = self.in_flight.front().cloned() else { return Ok(()) };
        match self.home.append(&batch)? {
            Appended::Durable => {
                self.in_flight.pop_front();
                self.writing = false;
                self.durable(&batch)?;
                self.note(&|| "synced".to_owned());
                // Two syncs between two turns are heard as one.
                self.synced = Some(batch.last());
                self.want_turn(0);
                self.write();
                Ok(())
            }
            Appended::Full => {
                self.suffer(Fault::DiskFull);
                self.at(1000, Event::Written { life: self.life });
                Ok(())
            }
            Appended::Failed => {
                self.suffer(Fault::SyncFailed);
                self.crash()
            }
        }
    }

    fn durable(&mut self, batch: &Batch) -> Result<(), Broken> {
        for entry in &batch.entries {
            self.hash_entry(entry);
            self.note(&|| format!("# {}", show::entry(entry, START)));
            self.ledger.fold(entry)?;
            self.follower.apply(entry);
        }
        if self.chance.permille(self.mood.snapshots) {
            self.home.snapshot = Some((self.follower.seq(), Arc::new(self.follower.export())));
            // In a story it may cover a batch less: a start reads on from where it is.
            self.note(&|| "snapshot".to_owned());
        }
        Ok(())
    }

    /// The process dies.
    pub(super) fn crash(&mut self) -> Result<(), Broken> {
        let Some(mut plane) = self.plane.take() else { return Ok(()) };
        self.plane_up = false;
        self.suffer(Fault::PlaneCrash);
        self.crashes += 1;
        self.compare_with_replay(&mut plane)?;
        let in_flight: Vec<_> = self.in_flight.drain(..).collect();
        let kept = self.home.crash(&in_flight, &mut self.chance, &mut self.counts)?;
        self.note(&|| format!("crash keep={}", kept.len()));
        for batch in &kept {
            self.durable(batch)?;
        }
        self.life += 1;
        self.inbox.clear();
        (self.turn_at, self.synced, self.writing) = (None, None, false);
        self.plane_gone();
        self.asked.clear();
        self.unanswered();
        let after = self.chance.skewed(50, 20_000);
        self.at(after, Event::Restart);
        Ok(())
    }

    /// What the records lead to is what the process knew, also for those that nobody will see.
    fn compare_with_replay(&mut self, plane: &mut Plane) -> Result<(), Broken> {
        plane.durable().check().map_err(|error| format!("agenda_equals_scan: {error}"))?;
        let mut replayed = self.follower.clone();
        let now = self.plane_time();
        let mut rest: Vec<Arc<Batch>> = self.in_flight.iter().cloned().collect();
        let mut last = self.in_flight.back().map_or(self.follower.seq(), |batch| batch.last());
        // The process is about to end: nobody sees what this lets go.
        if last > plane.durable_seq() {
            plane.synced(last, now);
        }
        while let Some(batch) = plane.seal() {
            last = batch.last();
            rest.push(Arc::new(batch));
            plane.synced(last, now);
        }
        rest.iter().flat_map(|batch| &batch.entries).for_each(|entry| replayed.apply(entry));
        if replayed.seq() != plane.durable().seq() {
            return Err(format!("no_record_is_missing: {} sealed, {} decided", replayed.seq(), plane.durable().seq()));
        }
        same_state("replay_equals_live_state", &replayed, plane.durable())
    }

    pub(super) fn restart(&mut self) -> Result<(), Broken> {
        if self.plane.is_some() {
            return Ok(());
        }
        if self.life > 0 && self.chance.permille(250) {
            self.suffer(Fault::ClockMoved);
            self.clock_offset = self.chance.within(0, 120_000) as i64 - 40_000;
        }
        let snapshot = self.home.snapshot.clone();
        let from_snapshot = snapshot.as_ref().is_some_and(|(at, _)| *at >= self.home.dropped)
            && (self.home.dropped > Seq::ZERO || self.chance.permille(500));
        let mut durable = match snapshot {
            Some((_, items)) if from_snapshot => Durable::import(items.iter().cloned()),
            _ => Durable::new(),
        };
        if self.life > 0 {
            self.suffer(if from_snapshot { Fault::RestartFromSnapshot } else { Fault::RestartFromJournal });
        }
        let from = durable.seq();
        // In stretches of many lengths, while the follower folds one by one.
        let entries: Vec<_> = self.home.entries_after(from).collect();
        entries.chunks(1 + (self.life as usize * 331) % 2000).for_each(|some| durable.apply_all(some.iter().copied()));
        let name = if from_snapshot { "snapshot_equals_replay" } else { "replay_equals_live_state" };
        same_state(name, &durable, &self.follower)?;
        self.ledger.objects.compare(&durable)?;
        durable.check().map_err(|error| format!("agenda_equals_scan: after a start: {error}"))?;
        let (now, end) = (self.plane_time(), durable.seq());
        let word = if from_snapshot { " snapshot" } else { "" };
        let at = show::since(now, START);
        let first = self.life == 0;
        self.note(&|| if first { format!("at {at}") } else { format!("at {at}\nrestart{word}") });
        let Ledger { leased, deliveries, clocks, at: last, clock_moved, .. } = &mut self.ledger;
        let open = leased.iter().filter_map(|id| Some((*id, deliveries.get(id)?.token)));
        clocks.restarted(open.collect::<Vec<_>>().into_iter(), end, now);
        *clock_moved = *last;
        self.plane_up = true;
        self.plane = Some(Plane::new(durable, self.limits.clone(), "0.1.0", EpochCause::Start, now));
        self.paused_until = 0;
        if self.life == 0 {
            self.apply_routes(false);
        }
        self.want_turn(0);
        Ok(())
    }

    /// At the end: both states and all indexes agree, from the journal and from a snapshot.
    pub(super) fn last_checks(&mut self) -> Result<(), Broken> {
        let Some(mut plane) = self.plane.take() else { return Err("the_plane_is_up: it is down".to_owned()) };
        plane.check().map_err(|error| format!("agenda_equals_scan: {error}"))?;
        self.compare_with_replay(&mut plane)?;
        let imported = Durable::import(self.follower.export());
        same_state("snapshot_equals_replay", &imported, &self.follower)?;
        imported.check().map_err(|error| format!("agenda_equals_scan: of a snapshot: {error}"))?;
        self.ledger.objects.compare(&imported)?;
        if !self.home.is_real() && self.home.dropped == Seq::ZERO {
            let mut replayed = Durable::new();
            self.home.entries_after(Seq::ZERO).for_each(|entry| replayed.apply(entry));
            same_state("replay_equals_live_state", &replayed, &self.follower)?;
        }
        Ok(())
    }
}

fn same_state(name: &str, one: &Durable, other: &Durable) -> Result<(), Broken> {
    let (one, other) = (one.export(), other.export());
    if one == other {
        return Ok(());
    }
    let pairs = one.iter().zip(&other).find(|(one, other)| one != other);
    Err(match pairs {
        Some((one, other)) => format!("{name}: {one:?} against {other:?}"),
        None => format!("{name}: {} items against {}", one.len(), other.len()),
    })
}
