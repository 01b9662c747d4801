//! When faults come, how hard they are, and how the world heals.

use std::sync::Arc;

use mindos_core::input::{AgentMessage, DeliveryFilter, Input, ReportedOutcome, ResultReport, SessionId};
use mindos_core::record::Holds;
use mindos_model::{DeliveryId, FailureKind, ParkReason, Seq, Token};

use super::{Event, World};
use crate::chance::Chance;
use crate::faults::Fault;
use crate::ledger::Broken;

/// How a run is tempered: each seed stresses something else. Rates in thousandths, spans in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Mood {
    pub(super) slow_disk: u64,
    pub(super) snapshots: u64,
    pub(super) long_delay: u64,
    pub(super) delay: u64,
    pub(super) dial_fails: u64,
    pub(super) work: u64,
    pub(super) publish: u64,
    pub(super) act: u64,
    fault: u64,
}

impl Mood {
    pub(super) fn draw(chance: &mut Chance) -> Mood {
        let mut one = |of: &[u64]| chance.pick(of).copied().unwrap_or_default();
        Mood {
            slow_disk: one(&[0, 2, 10, 50]),
            snapshots: one(&[5, 20]),
            long_delay: one(&[0, 0, 1, 10]),
            delay: one(&[5, 50, 500]),
            dial_fails: one(&[50, 300]),
            work: one(&[50, 500, 3000, 20_000]),
            publish: one(&[100, 300, 1000, 3000]),
            act: one(&[500, 3000, 15_000]),
            fault: one(&[2000, 10_000, 40_000]),
        }
    }
}

/// How often healing looks for what is parked, in milliseconds.
const HEAL_EVERY: u64 = 20_000;

impl World {
    pub(super) fn fault(&mut self) -> Result<(), Broken> {
        if self.healing {
            return Ok(());
        }
        let after = self.chance.skewed(100, self.mood.fault);
        self.at(after, Event::Fault);
        let agent = self.chance.below(self.hosts.len() as u64) as usize;
        match self.chance.below(40) {
            0..=3 => return self.crash(),
            4 => self.home.sync_fails = self.plane.is_some(),
            5 | 6 => {
                self.home.full = true;
                let after = self.chance.skewed(500, 20_000);
                self.at(after, Event::Room);
            }
            7..=9 => {
                let span = self.chance.skewed(1001, 15_000);
                self.paused_until = self.now + span;
            }
            10..=12 => self.agent_crash(agent),
            13 | 14 => return self.agent_drain(agent),
            15 | 16 => return self.general_fails_ready(agent),
            17..=19 => self.cut_of(agent, Fault::StreamCut),
            20..=22 => self.cut_of(agent, Fault::HalfOpenAtPlane),
            23 | 24 => self.cut_of(agent, Fault::HalfOpenAtAgent),
            25..=27 => self.cut_of(agent, Fault::Blackhole),
            28..=33 => self.late_result(),
            34..=36 => self.foreign_result(agent),
            37 | 38 => self.unknown_token(agent),
            _ => self.nonsense(),
        }
        Ok(())
    }

    fn cut_of(&mut self, agent: usize, fault: Fault) {
        if let Some(session) = self.hosts[agent].session {
            self.cut(session, fault);
        }
    }

    /// The plane's end of an agent's stream, if it is open.
    fn session_of(&self, agent: usize) -> Option<SessionId> {
        let session = self.hosts[agent].session?;
        self.conns.get(&session).filter(|conn| conn.plane_open && conn.boot == self.hosts[agent].boot)?;
        Some(SessionId(session))
    }

    fn report_result(&mut self, session: SessionId, delivery: DeliveryId, token: Token) {
        let outcome = if self.chance.permille(500) {
            ReportedOutcome::Succeeded { output: None, output_type: None, output_ref: None }
        } else {
            ReportedOutcome::Failed { kind: FailureKind::Transient, message: Arc::from("late") }
        };
        let effects = super::intents("late", Some(delivery), self.chance.below(3));
        let report = ResultReport { delivery, token, outcome, usage: Vec::new(), effects };
        self.input(Input::Agent { session, message: AgentMessage::Result(Box::new(report)) });
    }

    /// A result under a lease that is over: its sender had stalled.
    fn late_result(&mut self) {
        let at = self.chance.below(self.stale.len() as u64) as usize;
        let Some((agent, id, token)) = self.stale.get(at).copied() else { return };
        let facts = self.ledger.deliveries.get(&id);
        let is_over = facts.is_some_and(|facts| facts.token != token || facts.held.is_none());
        let Some(session) = self.session_of(agent).filter(|_| is_over) else { return };
        let answered = facts.is_some_and(|facts| facts.answered.contains(&token));
        self.suffer(if answered { Fault::DuplicateResult } else { Fault::LateResult });
        self.report_result(session, id, token);
    }

    /// A result for a lease that another instance holds.
    fn foreign_result(&mut self, agent: usize) {
        let Some(session) = self.session_of(agent) else { return };
        let key = self.hosts[agent].key.clone();
        let at = self.chance.below(self.ledger.leased.len() as u64) as usize;
        let Some(id) = self.ledger.leased.iter().nth(at).copied() else { return };
        let Some(facts) = self.ledger.deliveries.get(&id) else { return };
        if facts.held.as_ref().is_some_and(|(_, instance, _)| *instance != key) {
            let token = facts.token;
            self.suffer(Fault::ForeignResult);
            self.report_result(session, id, token);
        }
    }

    fn unknown_token(&mut self, agent: usize) {
        let Some(session) = self.session_of(agent) else { return };
        self.suffer(Fault::UnknownToken);
        let known = self.ledger.open.first().copied();
        let id =
            known.filter(|_| self.chance.permille(500)).unwrap_or(DeliveryId::new(Seq(self.chance.within(1, 99)), 3));
        // The wire lets no token or delivery pass that counts from less than 1.
        let token = Token::new(self.chance.within(1, 9) as u32, 77);
        match self.chance.below(5) {
            0 => self.input(Input::Agent { session, message: AgentMessage::Accept { delivery: id, token } }),
            1 => {
                let message: Arc<str> = Arc::from("not mine");
                let message = AgentMessage::Decline { delivery: id, token, retry_at: None, message };
                self.input(Input::Agent { session, message });
            }
            2 => {
                let held = vec![(id, token)];
                self.input(Input::Agent { session, message: AgentMessage::Reconcile { held } });
            }
            3 => {
                let extend = mindos_core::input::Extend {
                    delivery: id,
                    token,
                    progress: 1,
                    checkpoint: None,
                    usage: vec![mindos_core::record::Usage::default()],
                    wanted: None,
                };
                self.input(Input::Agent { session, message: AgentMessage::Extend(Box::new(extend)) });
            }
            _ => self.report_result(session, id, token),
        }
    }

    /// Messages of streams that are not there.
    fn nonsense(&mut self) {
        self.suffer(Fault::NonsenseMessage);
        let session = SessionId(self.next_session + 1_000_000);
        self.input(Input::Agent { session, message: AgentMessage::Draining });
        self.input(Input::Closed { session });
    }

    /// Takes all faults back, then lets people redrive until nothing is open.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.heal_rounds += 1;
        (self.home.full, self.home.sync_fails) = (false, false);
        self.acked_events_are_kept()?;
        if self.plane.is_some() {
            // In the first round in which somebody is there to hear it, and no object has a word in it.
            let without_objects = self.heal_objects()?;
            if without_objects && !std::mem::replace(&mut self.routes_healed, true) {
                self.apply_routes(true);
            }
            self.remove_budgets();
            if self.ledger.access.open_max.is_some() || self.ledger.access.streams_max.is_some() {
                self.remove_quota();
            }
            let held: Vec<_> = self.ledger.holds.iter().filter(|(_, holds)| !holds.is_none()).collect();
            let held: Vec<_> = held.into_iter().map(|(target, _)| target.clone()).collect();
            for target in held {
                self.hold(target, Holds::ALL, Holds::NONE);
            }
            self.heal_effects();
            let settled = self.ledger.open.is_empty() && self.ledger.effects.open.is_empty();
            if settled && without_objects && self.in_flight.is_empty() && self.inbox.is_empty() && self.heal_rounds > 2
            {
                self.ended = true;
                self.done_effects_are_there()?;
                return self.last_checks();
            }
            // What had no room comes back by itself.
            for reason in ParkReason::ALL.iter().filter(|reason| **reason != ParkReason::BacklogFull) {
                self.redrive(DeliveryFilter { reason: Some(*reason), ..DeliveryFilter::default() });
            }
        }
        for agent in 0..self.hosts.len() {
            if !self.hosts[agent].is_up() {
                self.at(100, Event::Boot { agent });
            }
        }
        self.at(HEAL_EVERY, Event::Heal);
        Ok(())
    }
}
