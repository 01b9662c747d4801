//! The agents: the real core of the sidecar, around it a shell that dials, and generals that follow no script but the seed's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_core::RATE_POOL_LABEL;
use mindos_core::output::PlaneMessage;
use mindos_core::record::InstanceKey;
use mindos_model::{BootId, ClusterName, DeliveryId, FailureKind, GeneralName, GeneralType, InstanceId, Region, Token};
use mindos_sidecar_core::{Action, Agent, Config, Down, Finish, GeneralConfig, GeneralIndex, Outcome, Progress};

use super::{Event, World};
use crate::chance::Chance;
use crate::faults::Fault;
use crate::ledger::Broken;
use crate::{wire, words};

/// Work at a general.
#[derive(Clone, Debug)]
struct Job {
    general: u16,
    outcome: Outcome,
    /// Told to stop.
    stopping: bool,
    /// The plane heard that it was taken.
    confirmed: bool,
    progress: u64,
}

/// An agent and its generals.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) key: Arc<InstanceKey>,
    pub(super) config: Config,
    pub(super) boot: u32,
    core: Option<Agent<(), ()>>,
    pub(super) session: Option<u64>,
    jobs: BTreeMap<(DeliveryId, Token), Job>,
    /// Everything that this boot began.
    started: BTreeSet<(DeliveryId, Token)>,
    tick_due: u64,
}

impl Host {
    pub(super) fn confirmed(&mut self, id: DeliveryId, token: Token) {
        if let Some(job) = self.jobs.get_mut(&(id, token)) {
            job.confirmed = true;
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.core.is_some()
    }
}

/// Three agents in two clusters; generals of one name in the first one have two instances.
pub(super) fn fleet(chance: &mut Chance, seed: u64) -> Vec<Host> {
    let shapes: [(&str, &str, &[&str]); 3] =
        [("c1", "i1", &["a", "b"]), ("c1", "i2", &["a", "c"]), ("c2", "i3", &["a", "b", "c"])];
    let mut hosts = Vec::new();
    for (cluster, instance, generals) in shapes {
        // One of them may carry it while another one of the same general does not: the newest hello holds.
        let shared = chance.permille(200).then(|| (RATE_POOL_LABEL.to_owned(), "key-1".to_owned()));
        let generals = generals.iter().map(|name| GeneralConfig {
            name: GeneralName::new(name).expect("a letter is a name"),
            ty: GeneralType::new(name).expect("a letter is a name"),
            labels: shared.iter().cloned().collect(),
            slots: chance.within(1, 4) as u32,
        });
        let mut config = Config::new(
            ClusterName::new(cluster).expect("a name of ours"),
            InstanceId::new(instance).expect("a name of ours"),
            boot_id(instance, 0),
            generals.collect(),
            seed,
        );
        if chance.permille(300) {
            config.stream_age_max = chance.millis(20_000, 120_000);
        }
        let key = words::instance(cluster, instance).expect("names of ours");
        hosts.push(Host {
            key,
            config,
            boot: 0,
            core: None,
            session: None,
            jobs: BTreeMap::new(),
            started: BTreeSet::new(),
            tick_due: 0,
        });
    }
    hosts
}

fn boot_id(instance: &str, boot: u32) -> BootId {
    BootId::new(&format!("{instance}-{boot}")).expect("a name of ours")
}

impl World {
    /// The agent's process starts.
    pub(super) fn boot(&mut self, agent: usize) -> Result<(), Broken> {
        let seed = self.chance.draw();
        let host = &mut self.hosts[agent];
        if host.core.is_some() {
            return Ok(());
        }
        host.boot += 1;
        host.config.boot = boot_id(host.config.instance.as_str(), host.boot);
        host.config.seed = seed;
        // Agents are upgraded, and some are not.
        let versions = ["0.1.0", "0.1.0", "0.2.0-rc.1", "0.2.0", "custom"];
        host.config.version = versions[seed as usize % versions.len()].to_owned();
        // Nodes differ: what a general runs on, and sometimes where.
        let kinds = [None, None, Some("a"), Some("b")];
        let node = kinds[(seed >> 8) as usize % kinds.len()];
        for general in &mut host.config.generals {
            general.labels.retain(|key, _| key != "node");
            general.labels.extend(node.map(|node| ("node".to_owned(), node.to_owned())));
        }
        let regions = [None, Some("north"), Some("north"), Some("south")];
        if (seed >> 16).is_multiple_of(4) {
            let region = regions[(seed >> 24) as usize % regions.len()];
            host.config.region = region.and_then(|region| Region::new(region).ok());
        }
        host.started.clear();
        host.jobs.clear();
        host.core = Some(Agent::new(host.config.clone()).map_err(|error| format!("agents_begin: {error}"))?);
        let (boot, generals) = (host.boot, host.config.generals.len());
        for general in 0..generals {
            let after = self.chance.within(0, 1500);
            self.at(after, Event::Ready { agent, boot, general: general as u16 });
        }
        self.at(0, Event::Dial { agent, boot });
        Ok(())
    }

    pub(super) fn dial(&mut self, agent: usize, boot: u32) -> Result<(), Broken> {
        let now = self.time();
        let refused = self.plane.is_none() || (!self.healing && self.chance.permille(self.mood.dial_fails));
        let host = &self.hosts[agent];
        if host.boot != boot || host.core.is_none() || host.session.is_some() {
            return Ok(());
        }
        if refused {
            self.suffer(Fault::DialFailed);
            if let Some(core) = &mut self.hosts[agent].core {
                core.stream_lost(now);
            }
        } else {
            let session = self.open(agent, boot);
            let host = &mut self.hosts[agent];
            host.session = Some(session);
            if let Some(core) = &mut host.core {
                core.connected(now);
            }
        }
        self.run_agent(agent)
    }

    pub(super) fn stream_lost(&mut self, agent: usize, boot: u32, session: u64) -> Result<(), Broken> {
        let now = self.time();
        let host = &mut self.hosts[agent];
        if host.boot != boot || host.session != Some(session) {
            return Ok(());
        }
        host.session = None;
        if let Some(core) = &mut host.core {
            core.stream_lost(now);
        }
        self.run_agent(agent)
    }

    pub(super) fn heard(
        &mut self,
        agent: usize,
        boot: u32,
        session: u64,
        number: u64,
        message: PlaneMessage,
    ) -> Result<(), Broken> {
        let now = self.time();
        let host = &mut self.hosts[agent];
        if host.boot != boot || host.session != Some(session) {
            return Ok(());
        }
        let Some(core) = &mut host.core else { return Ok(()) };
        let lease = match &message {
            PlaneMessage::Assign(assign) => Some((assign.delivery, assign.token)),
            _ => None,
        };
        match (wire::down(message, core, now), lease) {
            (Some(Down::Assign(assign)), _) => {
                let (id, token) = (assign.delivery, assign.token);
                core.received(number, Down::Assign(assign), now);
                if self.stale.len() < 400 {
                    self.stale.push((agent, id, token));
                }
            }
            (Some(message), _) => core.received(number, message, now),
            (None, Some((id, token))) => core.refuse(id, token, "no such general here", now),
            (None, None) => {}
        }
        self.run_agent(agent)
    }

    pub(super) fn tick(&mut self, agent: usize, due: u64) -> Result<(), Broken> {
        if self.hosts[agent].tick_due == due { self.run_agent(agent) } else { Ok(()) }
    }

    /// Carries out what the agent wants, ends its turn, and sets its next one.
    pub(super) fn run_agent(&mut self, agent: usize) -> Result<(), Broken> {
        let now = self.time();
        self.carry_out(agent)?;
        if let Some(core) = &mut self.hosts[agent].core {
            core.tick(now);
        }
        self.carry_out(agent)?;
        let host = &mut self.hosts[agent];
        let Some(due) = host.core.as_ref().and_then(Agent::next_due) else { return Ok(()) };
        let after = due.since(now).as_millis() as u64;
        if after > 24 * 60 * 60 * 1000 {
            return Ok(());
        }
        let due = self.now + after.max(1);
        if host.tick_due != due {
            host.tick_due = due;
            self.at(after.max(1), Event::Tick { agent, due });
        }
        Ok(())
    }

    fn carry_out(&mut self, agent: usize) -> Result<(), Broken> {
        loop {
            let mut actions = Vec::new();
            if let Some(core) = &mut self.hosts[agent].core {
                core.take_actions(&mut actions);
            }
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                self.action(agent, action)?;
            }
        }
    }

    fn action(&mut self, agent: usize, action: Action<(), ()>) -> Result<(), Broken> {
        match action {
            Action::Send(message) => {
                if let Some(session) = self.hosts[agent].session {
                    self.send_up(session, message);
                }
            }
            Action::Start { general, delivery, token, work: () } => self.start(agent, general, delivery, token)?,
            Action::Stop { delivery, token, grace } => self.stop(agent, delivery, token, grace),
            Action::Reconnect { after } => {
                if let Some(session) = self.hosts[agent].session.take() {
                    self.agent_closes(session);
                }
                let boot = self.hosts[agent].boot;
                self.at(after.as_millis() as u64 + 1, Event::Dial { agent, boot });
            }
            Action::Exit => self.exit(agent),
        }
        Ok(())
    }

    fn start(&mut self, agent: usize, general: GeneralIndex, id: DeliveryId, token: Token) -> Result<(), Broken> {
        let (outcome, after, hangs) = self.outcome();
        let host = &self.hosts[agent];
        if host.started.contains(&(id, token)) {
            return Err(format!("no_second_start: {} began {id} {token} again", host.key));
        }
        let slots = host.config.generals[usize::from(general.0)].slots as usize;
        let running = host.jobs.values().filter(|job| job.general == general.0).count();
        if running >= slots {
            return Err(format!("no_push_without_a_slot: {} runs {running} jobs on {slots} slots", host.key));
        }
        for other in self.hosts.iter().filter(|other| other.core.is_some()) {
            let twice = other.jobs.iter().find(|((known, older), job)| {
                *known == id && !job.stopping && job.confirmed && !self.ledger.stuck.contains(&(id, *older))
            });
            if let Some(((_, older), _)) = twice {
                let key = &self.hosts[agent].key;
                return Err(format!(
                    "one_worker_per_delivery: {key} began {id} {token}, {} works under {older}",
                    other.key
                ));
            }
        }
        let job = Job { general: general.0, outcome, stopping: false, confirmed: false, progress: 0 };
        let host = &mut self.hosts[agent];
        host.started.insert((id, token));
        host.jobs.insert((id, token), job);
        let boot = host.boot;
        self.ledger.started.insert((id, token));
        if hangs {
            self.suffer(Fault::GeneralHung);
        } else {
            self.at(after, Event::Done { agent, boot, id, token });
        }
        if after > 3000 && self.chance.permille(500) {
            let after = self.chance.within(1000, 3000);
            self.at(after, Event::Progress { agent, boot, id, token });
        }
        Ok(())
    }

    /// How a piece of work will end, after how long, and whether it does at all.
    fn outcome(&mut self) -> (Outcome, u64, bool) {
        let after = self.chance.skewed(0, self.mood.work);
        if self.healing || self.chance.permille(700) {
            return (Outcome::Succeeded, if self.healing { after.min(2000) } else { after }, false);
        }
        let until = self.time() + self.chance.millis(0, 30_000);
        let kind = match self.chance.below(20) {
            0..=6 => FailureKind::Transient,
            7 => FailureKind::Lost,
            8 | 9 => FailureKind::Poison,
            10 => FailureKind::TooLarge,
            11..=13 => FailureKind::RateLimited { until },
            14 => FailureKind::OverBudget,
            15 => FailureKind::Cancelled,
            16 => return (Outcome::Succeeded, after, true),
            _ => return (Outcome::Succeeded, after + 20_000, false),
        };
        (Outcome::Failed { kind, message: Arc::from("as drawn") }, after, false)
    }

    fn stop(&mut self, agent: usize, id: DeliveryId, token: Token, grace: Duration) {
        let ignores = !self.healing && self.chance.permille(100);
        let grace = grace.as_millis() as u64;
        let after =
            if ignores { grace + self.chance.within(3000, 30_000) } else { self.chance.within(0, grace.min(2000)) };
        let host = &mut self.hosts[agent];
        let boot = host.boot;
        let Some(job) = host.jobs.get_mut(&(id, token)) else { return };
        job.stopping = true;
        if ignores {
            self.suffer(Fault::GeneralIgnoresStop);
        }
        self.at(after, Event::Done { agent, boot, id, token });
    }

    pub(super) fn job_done(&mut self, agent: usize, boot: u32, id: DeliveryId, token: Token) -> Result<(), Broken> {
        let now = self.time();
        let host = &mut self.hosts[agent];
        if host.boot != boot {
            return Ok(());
        }
        let Some(job) = host.jobs.remove(&(id, token)) else { return Ok(()) };
        let outcome = if job.stopping {
            Outcome::Failed { kind: FailureKind::Transient, message: Arc::from("stopped") }
        } else {
            job.outcome
        };
        if let Some(core) = &mut host.core {
            core.general_finished(id, token, Finish { outcome, body: () }, now);
        }
        self.run_agent(agent)
    }

    pub(super) fn job_progress(&mut self, agent: usize, boot: u32, id: DeliveryId, token: Token) -> Result<(), Broken> {
        let now = self.time();
        let with_checkpoint = self.chance.permille(300);
        let after = self.chance.within(1000, 6000);
        let host = &mut self.hosts[agent];
        if host.boot != boot {
            return Ok(());
        }
        let Some(job) = host.jobs.get_mut(&(id, token)).filter(|job| !job.stopping) else { return Ok(()) };
        job.progress += 1;
        let checkpoint = if with_checkpoint { b"half".to_vec() } else { Vec::new() };
        let progress = Progress { note: job.progress.to_string(), usage: Vec::new(), checkpoint, wanted: None };
        if let Some(core) = &mut host.core {
            core.progressed(id, token, progress, now);
        }
        self.at(after, Event::Progress { agent, boot, id, token });
        self.run_agent(agent)
    }

    pub(super) fn general_ready(&mut self, agent: usize, boot: u32, general: u16) -> Result<(), Broken> {
        let host = &mut self.hosts[agent];
        if host.boot != boot {
            return Ok(());
        }
        if let Some(core) = &mut host.core {
            core.ready(GeneralIndex(general), true);
        }
        self.run_agent(agent)
    }

    pub(super) fn general_fails_ready(&mut self, agent: usize) -> Result<(), Broken> {
        let general = self.chance.below(self.hosts[agent].config.generals.len() as u64) as u16;
        let after = self.chance.within(500, 10_000);
        let host = &mut self.hosts[agent];
        let boot = host.boot;
        let Some(core) = &mut host.core else { return Ok(()) };
        core.ready(GeneralIndex(general), false);
        self.suffer(Fault::GeneralNotReady);
        self.at(after, Event::Ready { agent, boot, general });
        self.run_agent(agent)
    }

    /// The agent's process dies, and its generals with it.
    pub(super) fn agent_crash(&mut self, agent: usize) {
        let half_open = self.chance.permille(300);
        let after = self.chance.skewed(100, 40_000);
        let host = &mut self.hosts[agent];
        if host.core.take().is_none() {
            return;
        }
        host.jobs.clear();
        if let Some(session) = host.session.take() {
            if half_open {
                self.cut(session, Fault::Blackhole);
            } else {
                self.cut(session, Fault::StreamCut);
            }
            if let Some(conn) = self.conns.get_mut(&session) {
                conn.agent_open = false;
            }
        }
        self.suffer(Fault::AgentCrash);
        self.at(after, Event::Boot { agent });
    }

    pub(super) fn agent_drain(&mut self, agent: usize) -> Result<(), Broken> {
        let now = self.time();
        let grace = self.chance.millis(0, 20_000);
        let Some(core) = self.hosts[agent].core.as_mut().filter(|core| !core.is_draining()) else { return Ok(()) };
        core.drain(now, grace);
        self.suffer(Fault::AgentDrain);
        self.run_agent(agent)
    }

    fn exit(&mut self, agent: usize) {
        let after = self.chance.skewed(100, 20_000);
        let host = &mut self.hosts[agent];
        let clean = host.core.as_ref().is_some_and(|core| {
            core.is_open() && core.claims().next().is_none() && core.counts().lapsed == 0 && core.counts().lost == 0
        });
        host.core = None;
        host.jobs.clear();
        let boot = host.config.boot.clone();
        if let Some(session) = host.session.take() {
            if clean && self.conns.get(&session).is_some_and(super::net::Conn::is_sound) {
                self.ledger.left.insert(boot);
            }
            self.agent_closes(session);
            // Its last words are heard before it is started again.
            let heard = self.conns.get(&session).map_or(0, |conn| conn.in_flight(self.now));
            self.at(after + heard, Event::Boot { agent });
            return;
        }
        self.at(after, Event::Boot { agent });
    }
}
