//! The soft state: what is only observed. Streams, slots, load, lease deadlines; never stored, empty after a start.
//!
//! It changes in `observe`, before an input is decided, and in `follow`, after a record is applied, which keeps the
//! indexes of free slots and deadlines. `decide` only reads it.
//!
//! Invariant: every open lease whose assignment has left has one deadline. Members and pools stand in `pool.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{BootId, DeliveryId, TenantName, Timestamp, Token, limits};

use crate::durable::{Change, Durable};
use crate::input::{AgentMessage, Extend, Hello, Input, PodName, SessionId};
use crate::member::{Kept, Member, Profile};
use crate::output::InstanceState;
use crate::plane::Limits;
use crate::pool::{MemberIdx, Pools};
use crate::rate::RatePools;
use crate::record::{InstanceKey, Load};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) instance: Arc<InstanceKey>,
    pub(crate) last_heard: Timestamp,
    /// The older stream of the same instance, to be closed.
    pub(crate) replaced: Option<SessionId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) boot: BootId,
    pub(crate) version: Arc<str>,
    pub(crate) pod: PodName,
    pub(crate) state: InstanceState,
    pub(crate) since: Timestamp,
    pub(crate) session: Option<SessionId>,
    pub(crate) members: Vec<(GeneralIdx, MemberIdx)>,
    /// What its members were when the stream was lost.
    pub(crate) kept: Vec<Kept>,
}

#[derive(Clone, Debug)]
pub(crate) struct LeaseClock {
    pub(crate) token: Token,
    /// When it is over: the lease has run out, or nothing got on for too long.
    pub(crate) deadline: Timestamp,
    /// When the lease runs out.
    pub(crate) lease_until: Timestamp,
    pub(crate) progress: u64,
    pub(crate) progress_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Soft {
    limits: Limits,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Open streams by tenant.
    streams: BTreeMap<TenantName, u32>,
    pub(crate) instances: BTreeMap<Arc<InstanceKey>, Instance>,
    pub(crate) members: Vec<Option<Member>>,
    pub(crate) vacant: Vec<MemberIdx>,
    pub(crate) pools: Pools,
    /// Generals whose pools somebody scales, or did: [`Soft::keeps_pool`] knows.
    pub(crate) kept_pools: BTreeSet<GeneralIdx>,
    /// Generals with a free slot that may begin work.
    pub(crate) free: BTreeSet<GeneralIdx>,
    /// The same by the routes that could choose them.
    pub(crate) free_of: BTreeMap<RouteIdx, BTreeSet<GeneralIdx>>,
    /// Members that time alone will change.
    pub(crate) comebacks: BTreeSet<(Timestamp, MemberIdx)>,
    pub(crate) rates: RatePools,
    /// Generals whose work may move since the plane looked last.
    pub(crate) woken: Vec<GeneralIdx>,
    /// Generals whose shadows and replays get a look.
    pub(crate) shadows_woken: Vec<GeneralIdx>,
    /// Generals that came or went, or may be chosen otherwise, since the plane looked last.
    pub(crate) moved: Vec<GeneralIdx>,
    began: Timestamp,
    pub(crate) leases: HashMap<DeliveryId, LeaseClock, FixedState>,
    pub(crate) deadlines: BTreeSet<(Timestamp, DeliveryId)>,
    pub(crate) silences: BTreeSet<(Timestamp, SessionId)>,
    /// When an instance of which nothing is known is forgotten.
    pub(crate) oblivion: BTreeSet<(Timestamp, Arc<InstanceKey>)>,
    /// When a general without instances is forgotten.
    pub(crate) idle: BTreeSet<(Timestamp, GeneralIdx)>,
    last_turn: Timestamp,
}

/// How long an instance that holds nothing is listed as unknown.
const OBLIVION: Duration = Duration::from_secs(60);

impl Soft {
    /// The soft state of a plane that starts on `durable`: nothing is known but the open leases, which all get the
    /// usual time and the grace of a restart.
    pub(crate) fn new(limits: Limits, durable: &Durable, now: Timestamp) -> Soft {
        let mut soft = Soft {
            limits,
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
            instances: BTreeMap::new(),
            members: Vec::new(),
            vacant: Vec::new(),
            pools: Pools::default(),
            kept_pools: BTreeSet::new(),
            free: BTreeSet::new(),
            free_of: BTreeMap::new(),
            comebacks: BTreeSet::new(),
            rates: RatePools::default(),
            woken: Vec::new(),
            shadows_woken: Vec::new(),
            moved: Vec::new(),
            began: now,
            leases: HashMap::with_hasher(durable.hasher.clone()),
            deadlines: BTreeSet::new(),
            silences: BTreeSet::new(),
            oblivion: BTreeSet::new(),
            idle: BTreeSet::new(),
            last_turn: now,
        };
        for (seq, event) in durable.events.iter() {
            for (id, delivery) in event.deliveries(seq) {
                let Some(lease) = delivery.lease() else { continue };
                soft.start_clock(id, delivery.token, now, soft.limits.lease + limits::LEASE_GRACE);
                let unknown = || Instance {
                    boot: lease.boot.clone(),
                    version: Arc::from(""),
                    pod: PodName::default(),
                    state: InstanceState::Unknown,
                    since: now,
                    session: None,
                    members: Vec::new(),
                    kept: Vec::new(),
                };
                soft.instances.entry(lease.instance.clone()).or_insert_with(unknown);
            }
        }
        soft.oblivion = soft.instances.keys().map(|key| (now + OBLIVION, key.clone())).collect();
        soft.idle = durable.registry.iter().map(|(idx, _)| (now + limits::GENERAL_IDLE_MAX, idx)).collect();
        soft
    }

    /// Takes in what an input shows, before it is decided.
    pub(crate) fn observe(&mut self, durable: &Durable, input: &Input, now: Timestamp) {
        match input {
            Input::Hello(hello) => self.hello(durable, hello, now),
            Input::Agent { session, message } => self.agent(durable, *session, message, now),
            Input::Closed { session } => self.closed(durable, *session, now),
            Input::KeepPools { tenant, pools } => self.keep_pools(durable, tenant, pools, now),
            Input::Publish { .. }
            | Input::Cancel { .. }
            | Input::Redrive { .. }
            | Input::Hold { .. }
            | Input::ApplyRoutes { .. }
            | Input::RemoveGeneral { .. }
            | Input::Budget { .. }
            | Input::FinalizeUpgrade { .. }
            | Input::Access { .. }
            | Input::Join(_)
            | Input::Redact { .. }
            | Input::Query { .. }
            | Input::Carry { .. }
            | Input::DropPrefix { .. }
            | Input::Effect { .. }
            | Input::ChangeEffect { .. }
            | Input::Intend { .. }
            | Input::Truncated { .. }
            | Input::Object { .. } => {}
        }
    }

    /// How many streams the tenant may have, where this instance would be one too many. Who has one may open it anew.
    pub(crate) fn too_many_streams(&self, durable: &Durable, key: &InstanceKey) -> Option<u32> {
        let max = durable.access().quota(&key.tenant).streams_max?;
        let open = self.streams.get(&key.tenant).copied().unwrap_or(0);
        (open >= max && self.session_of(key).is_none()).then_some(max)
    }

    fn hello(&mut self, durable: &Durable, hello: &Hello, now: Timestamp) {
        let Hello { session, key, boot, version, pod, region: _, cluster_labels: _, generals, keeps_ceilings, held } =
            hello;
        let replaced = self.instances.get(key).and_then(|instance| instance.session);
        if let Some(older) = replaced {
            self.closed(durable, older, now);
        }
        let before = self.instances.get_mut(key).filter(|instance| instance.boot == *boot);
        let mut kept = before.map(|instance| std::mem::take(&mut instance.kept)).unwrap_or_default();
        let mut members = Vec::with_capacity(generals.len());
        for named in generals {
            let general_key = crate::record::GeneralKey {
                tenant: key.tenant.clone(),
                cluster: key.cluster.clone(),
                name: named.name.clone(),
            };
            let Some(general) = durable.registry.find(&general_key) else { continue };
            if members.iter().any(|(known, _)| *known == general) {
                continue;
            }
            let held = durable.held.get(key);
            let open = held.map_or(0, |held| held.values().filter(|of| **of == general).count());
            let load = Load { open: u32::try_from(open).unwrap_or(u32::MAX), capacity: named.slots };
            let mut member = Member::new(key.clone(), boot.clone(), *session, general, load);
            member.is_open = durable.registry.instance_holds(key).is_none();
            member.keeps_ceilings = *keeps_ceilings;
            let release = version.parse().ok();
            member.profile = Arc::new(Profile { release, labels: named.labels.clone() });
            member.version = version.clone();
            if let Some(at) = kept.iter().position(|kept| kept.general == general) {
                member.resume(kept.swap_remove(at));
            }
            members.push((general, self.add(durable, member, now)));
        }
        *self.streams.entry(key.tenant.clone()).or_default() += 1;
        self.sessions.insert(*session, Session { instance: key.clone(), last_heard: now, replaced });
        self.silences.insert((now + self.silence_look(), *session));
        let instance = Instance {
            boot: boot.clone(),
            version: version.clone(),
            pod: pod.clone(),
            state: InstanceState::Ready,
            since: now,
            session: Some(*session),
            members,
            kept: Vec::new(),
        };
        self.instances.insert(key.clone(), instance);
        // Who claims a lease is told to keep it, and counts from the hello on: so do we.
        for (delivery, token) in held {
            self.rearm(durable, key, *delivery, *token, None, now);
        }
    }

    fn agent(&mut self, durable: &Durable, session: SessionId, message: &AgentMessage, now: Timestamp) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.last_heard = now;
        let key = known.instance.clone();
        match message {
            AgentMessage::Grant { general, capacity } => {
                if let Some(idx) = self.member_named(durable, &key, general.as_str()) {
                    self.change(durable, idx, now, |member| member.load.capacity = *capacity);
                }
            }
            AgentMessage::Accept { delivery, token } => self.rearm(durable, &key, *delivery, *token, None, now),
            AgentMessage::Extend(extend) => {
                let Extend { delivery, token, progress, checkpoint: _, usage: _, wanted: _ } = extend.as_ref();
                self.rearm(durable, &key, *delivery, *token, Some(*progress), now);
            }
            AgentMessage::Heartbeat { loads } => {
                for (general, load) in loads {
                    if let Some(idx) = self.member_named(durable, &key, general.as_str()) {
                        self.reported(durable, idx, load, now);
                    }
                }
            }
            AgentMessage::Draining => {
                self.set_state(&key, InstanceState::Draining, now);
                self.refresh_instance(durable, &key, now);
            }
            AgentMessage::Decline { .. } | AgentMessage::Result(_) | AgentMessage::Reconcile { .. } => {}
        }
    }

    /// A stream is gone: new work stops at once; leases run on.
    pub(crate) fn closed(&mut self, durable: &Durable, session: SessionId, now: Timestamp) {
        let Some(Session { instance: key, .. }) = self.sessions.remove(&session) else { return };
        if let Some(streams) = self.streams.get_mut(&key.tenant) {
            *streams -= 1;
            if *streams == 0 {
                self.streams.remove(&key.tenant);
            }
        }
        let Some(instance) = self.instances.get_mut(&key) else { return };
        if instance.session != Some(session) {
            return;
        }
        instance.session = None;
        instance.state = InstanceState::Unknown;
        instance.since = now;
        let members = std::mem::take(&mut instance.members);
        let kept: Vec<_> = members.into_iter().filter_map(|(_, idx)| self.remove(durable, idx, now)).collect();
        if let Some(instance) = self.instances.get_mut(&key) {
            instance.kept = kept;
        }
        self.oblivion.insert((now + OBLIVION, key));
    }

    /// Keeps free slots and deadlines in step with a record.
    pub(crate) fn follow(&mut self, durable: &Durable, change: Change, now: Timestamp) {
        match change {
            Change::Nothing => {}
            Change::Leased { delivery, general, instance } => self.leased(durable, delivery, general, &instance, now),
            Change::Released { delivery, general, instance, since, verdict } => {
                self.stop_clock(delivery);
                self.released(durable, (delivery, general), &instance, (verdict, now.since(since)), now);
            }
            Change::Opened(generals) => {
                for general in generals {
                    self.idle.insert((now + limits::GENERAL_IDLE_MAX, general));
                    // Routes may have come to name it, or no longer do.
                    self.free.remove(&general);
                    self.free_of.values_mut().for_each(|of| {
                        of.remove(&general);
                    });
                    self.refresh_general(durable, general);
                    self.moved.push(general);
                    self.woken.push(general);
                }
            }
            Change::Instance(key) => self.refresh_instance(durable, &key, now),
            Change::Removed(general) => {
                self.pools.remove(general);
                self.free.remove(&general);
                self.free_of.values_mut().for_each(|of| {
                    of.remove(&general);
                });
            }
        }
    }

    /// The assignment of a lease has left: its time runs.
    pub(crate) fn sent(&mut self, delivery: DeliveryId, token: Token, now: Timestamp) {
        self.start_clock(delivery, token, now, self.limits.lease);
    }

    /// One more turn of the plane. After a stall every lease gets the gap and a grace on top.
    pub(crate) fn turn(&mut self, now: Timestamp) {
        let gap = now.since(self.last_turn);
        self.last_turn = self.last_turn.max(now);
        if gap <= limits::STALL {
            return;
        }
        let more = gap + limits::LEASE_GRACE;
        for clock in self.leases.values_mut() {
            clock.deadline = clock.deadline + more;
            clock.lease_until = clock.lease_until + more;
        }
        self.deadlines = std::mem::take(&mut self.deadlines).into_iter().map(|(at, id)| (at + more, id)).collect();
        self.silences = std::mem::take(&mut self.silences).into_iter().map(|(at, id)| (at + more, id)).collect();
    }

    /// When the next deadline comes.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let lease = self.deadlines.first().map(|(at, _)| *at);
        let silence = self.silences.first().map(|(at, _)| *at);
        let oblivion = self.oblivion.first().map(|(at, _)| *at);
        let idle = self.idle.first().map(|(at, _)| *at);
        let comeback = self.comebacks.first().map(|(at, _)| *at);
        // Turns come often while there is anything to time: a gap between two of them means a stall.
        let is_timing = !self.leases.is_empty() || !self.sessions.is_empty();
        let tick = is_timing.then(|| self.last_turn + limits::STALL / 2);
        [lease, silence, oblivion, idle, comeback, self.rates.next_due(), tick].into_iter().flatten().min()
    }

    /// Sessions of which nothing was heard for too long. Those heard of meanwhile get a later date.
    pub(crate) fn silent(&mut self, durable: &Durable, now: Timestamp) -> Option<SessionId> {
        while let Some(&(at, session)) = self.silences.first() {
            if at > now {
                return None;
            }
            self.silences.pop_first();
            let Some(Session { instance, last_heard, .. }) = self.sessions.get(&session) else { continue };
            let deadline = *last_heard + self.silence_max(durable, instance);
            if deadline <= now {
                return Some(session);
            }
            self.silences.insert((deadline.min(now + self.silence_look()), session));
        }
        None
    }

    /// Forgets instances that are unknown for long and hold nothing.
    pub(crate) fn forget(&mut self, durable: &Durable, now: Timestamp) {
        while let Some((at, key)) = self.oblivion.first().cloned() {
            if at > now {
                return;
            }
            self.oblivion.pop_first();
            let Some(instance) = self.instances.get(&key) else { continue };
            if instance.session.is_some() {
                continue;
            }
            let due = instance.since + OBLIVION;
            if due > now || durable.held.contains_key(&key) {
                self.oblivion.insert((due.max(now + OBLIVION), key));
            } else {
                self.instances.remove(&key);
            }
        }
    }

    /// The next general that had no instance for long enough to be forgotten.
    pub(crate) fn idle_general(&mut self, now: Timestamp) -> Option<GeneralIdx> {
        let &(at, general) = self.idle.first()?;
        (at <= now).then(|| self.idle.pop_first()).flatten()?;
        Some(general)
    }

    /// It has work still: looked at again later, unless it is served.
    pub(crate) fn idle_again(&mut self, durable: &Durable, general: GeneralIdx, now: Timestamp) {
        let is_served = self.pools.get(general).is_some_and(|pool| pool.members > 0);
        if !is_served && durable.registry.get(general).is_some() {
            self.idle.insert((now + limits::GENERAL_IDLE_MAX, general));
        }
    }

    /// Whether an instance of the general is connected, or was a while ago, or is to come when there is work. Nobody is known to have left before the plane started.
    pub(crate) fn was_there(&self, general: GeneralIdx, now: Timestamp) -> bool {
        let grace = crate::policy::THERE_GRACE;
        let pool = self.pools.get(general);
        self.has_just_begun(now)
            || pool.is_some_and(|pool| pool.members > 0 || now < pool.left + grace || now < pool.kept_until)
    }

    /// Whether the plane started so lately that not all may have dialled again.
    pub(crate) fn has_just_begun(&self, now: Timestamp) -> bool {
        now < self.began + crate::policy::THERE_GRACE
    }

    /// The stream to the instance that holds a lease, if it is open.
    pub(crate) fn session_of(&self, key: &InstanceKey) -> Option<SessionId> {
        self.instances.get(key)?.session
    }

    /// After how long a stream is looked at again: an idle one that gets work meanwhile is missed as early as any busy one.
    fn silence_look(&self) -> Duration {
        self.limits.heartbeat.min(self.limits.heartbeat_idle) * limits::HEARTBEATS_MISSED_MAX
    }

    fn silence_max(&self, durable: &Durable, key: &InstanceKey) -> Duration {
        let busy = durable.held.contains_key(key);
        let interval = if busy { self.limits.heartbeat } else { self.limits.heartbeat_idle };
        interval * limits::HEARTBEATS_MISSED_MAX
    }

    fn set_state(&mut self, key: &InstanceKey, state: InstanceState, now: Timestamp) {
        if let Some(instance) = self.instances.get_mut(key) {
            instance.state = state;
            instance.since = now;
        }
    }

    fn start_clock(&mut self, delivery: DeliveryId, token: Token, now: Timestamp, lease: Duration) {
        let until = now + lease;
        let clock = LeaseClock { token, deadline: until, lease_until: until, progress: 0, progress_at: now };
        self.deadlines.insert((clock.deadline, delivery));
        if let Some(older) = self.leases.insert(delivery, clock) {
            self.deadlines.remove(&(older.deadline, delivery));
        }
    }

    fn stop_clock(&mut self, delivery: DeliveryId) {
        if let Some(clock) = self.leases.remove(&delivery) {
            self.deadlines.remove(&(clock.deadline, delivery));
        }
    }

    fn rearm(
        &mut self,
        durable: &Durable,
        key: &InstanceKey,
        delivery: DeliveryId,
        token: Token,
        progress: Option<u64>,
        now: Timestamp,
    ) {
        let Some((_, known)) = durable.events.delivery(delivery) else { return };
        if known.token != token || known.lease().is_none_or(|lease| *lease.instance != *key) {
            return;
        }
        let deadline_max = durable.rule_of(delivery).deadline;
        let Some(clock) = self.leases.get_mut(&delivery) else { return };
        if progress.is_some_and(|progress| progress > clock.progress) {
            clock.progress = progress.unwrap_or_default();
            clock.progress_at = now;
        }
        let before = clock.deadline;
        clock.lease_until = now + self.limits.lease;
        clock.deadline = clock.lease_until.min(clock.progress_at + deadline_max);
        if before != clock.deadline {
            let after = clock.deadline;
            self.deadlines.remove(&(before, delivery));
            self.deadlines.insert((after, delivery));
        }
    }
}

/// What the simulator compares the indexes with.
impl Soft {
    /// Names the first thing in which the indexes differ from a scan of both states.
    ///
    /// # Errors
    /// With the difference, for a person.
    pub fn check(&self, durable: &Durable) -> Result<(), String> {
        self.check_pools(durable)?;
        if self.leases.len() != self.deadlines.len() {
            return Err(format!("{} lease clocks, {} deadlines", self.leases.len(), self.deadlines.len()));
        }
        for (delivery, clock) in &self.leases {
            if !self.deadlines.contains(&(clock.deadline, *delivery)) {
                return Err(format!("deadline of delivery {delivery} is not in the agenda"));
            }
            let known = durable.events.delivery(*delivery);
            if !known.is_some_and(|(_, known)| known.lease().is_some() && known.token == clock.token) {
                return Err(format!("delivery {delivery} has a lease clock and no lease"));
            }
        }
        Ok(())
    }
}
