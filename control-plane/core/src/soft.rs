//! The soft state: what is only observed. Streams, slots, load, lease deadlines; never stored, empty after a start.
//!
//! It changes in `observe`, before an input is decided, and in `follow`, after a record is applied, which keeps the
//! indexes of free slots and deadlines. `decide` only reads it.
//!
//! Invariants: a member is in its general's free list if and only if it may take work and has a free slot; every open
//! lease whose assignment has left has one deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::{BootId, DeliveryId, Timestamp, Token, limits};

use crate::durable::{Change, Durable};
use crate::input::{AgentMessage, Extend, Hello, Input, ReportedLoad, SessionId};
use crate::output::InstanceState;
use crate::plane::Limits;
use crate::record::{InstanceKey, Load};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;

/// What an instance may do for one general.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Arc<InstanceKey>,
    pub(crate) boot: BootId,
    pub(crate) session: SessionId,
    pub(crate) general: GeneralIdx,
    pub(crate) load: Load,
    pub(crate) reported: ReportedLoad,
    /// Neither draining nor held.
    pub(crate) is_open: bool,
    /// Its general stops at the ceilings that it is given.
    pub(crate) keeps_ceilings: bool,
    free_at: Option<u32>,
}

/// The members of a general.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) free: Vec<MemberIdx>,
    pub(crate) members: u32,
    pub(crate) load: Load,
}

pub(crate) type MemberIdx = u32;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) instance: Arc<InstanceKey>,
    last_heard: Timestamp,
    /// The older stream of the same instance, to be closed.
    pub(crate) replaced: Option<SessionId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) boot: BootId,
    pub(crate) version: Arc<str>,
    pub(crate) state: InstanceState,
    pub(crate) since: Timestamp,
    pub(crate) session: Option<SessionId>,
    pub(crate) members: Vec<(GeneralIdx, MemberIdx)>,
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
    pub(crate) instances: BTreeMap<Arc<InstanceKey>, Instance>,
    members: Vec<Option<Member>>,
    vacant: Vec<MemberIdx>,
    pools: BTreeMap<GeneralIdx, Pool>,
    /// Generals with a free slot that may begin work.
    pub(crate) free: BTreeSet<GeneralIdx>,
    /// The same by the routes that could choose them.
    free_of: BTreeMap<RouteIdx, BTreeSet<GeneralIdx>>,
    /// Generals whose work may move since the plane looked last.
    pub(crate) woken: Vec<GeneralIdx>,
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
            instances: BTreeMap::new(),
            members: Vec::new(),
            vacant: Vec::new(),
            pools: BTreeMap::new(),
            free: BTreeSet::new(),
            free_of: BTreeMap::new(),
            woken: Vec::new(),
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
                    state: InstanceState::Unknown,
                    since: now,
                    session: None,
                    members: Vec::new(),
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
            Input::Publish { .. }
            | Input::Cancel { .. }
            | Input::Redrive { .. }
            | Input::Hold { .. }
            | Input::ApplyRoutes { .. }
            | Input::RemoveGeneral { .. }
            | Input::Budget { .. }
            | Input::FinalizeUpgrade { .. }
            | Input::Query { .. }
            | Input::Carry { .. }
            | Input::DropPrefix { .. }
            | Input::Truncated { .. } => {}
        }
    }

    fn hello(&mut self, durable: &Durable, hello: &Hello, now: Timestamp) {
        let Hello { session, key, boot, version, region: _, cluster_labels: _, generals, keeps_ceilings, held } = hello;
        let replaced = self.instances.get(key).and_then(|instance| instance.session);
        if let Some(older) = replaced {
            self.closed(durable, older, now);
        }
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
            let member = Member {
                instance: key.clone(),
                boot: boot.clone(),
                session: *session,
                general,
                load: Load { open: u32::try_from(open).unwrap_or(u32::MAX), capacity: named.slots },
                reported: ReportedLoad::default(),
                is_open: durable.registry.instance_holds(key).is_none(),
                keeps_ceilings: *keeps_ceilings,
                free_at: None,
            };
            members.push((general, self.add(durable, member)));
        }
        self.sessions.insert(*session, Session { instance: key.clone(), last_heard: now, replaced });
        self.silences.insert((now + self.silence_look(), *session));
        let instance = Instance {
            boot: boot.clone(),
            version: version.clone(),
            state: InstanceState::Ready,
            since: now,
            session: Some(*session),
            members,
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
                    self.change(durable, idx, |member| member.load.capacity = *capacity);
                }
            }
            AgentMessage::Accept { delivery, token } => self.rearm(durable, &key, *delivery, *token, None, now),
            AgentMessage::Extend(extend) => {
                let Extend { delivery, token, progress, checkpoint: _, usage: _, wanted: _ } = extend.as_ref();
                self.rearm(durable, &key, *delivery, *token, Some(*progress), now);
            }
            AgentMessage::Heartbeat { loads } => {
                for (general, load) in loads {
                    let idx = self.member_named(durable, &key, general.as_str());
                    if let Some(member) = idx.and_then(|idx| self.members[idx as usize].as_mut()) {
                        member.reported = load.clone();
                    }
                }
            }
            AgentMessage::Draining => {
                self.set_state(&key, InstanceState::Draining, now);
                self.refresh_instance(durable, &key);
            }
            AgentMessage::Decline { .. } | AgentMessage::Result(_) | AgentMessage::Reconcile { .. } => {}
        }
    }

    /// A stream is gone: new work stops at once; leases run on.
    pub(crate) fn closed(&mut self, durable: &Durable, session: SessionId, now: Timestamp) {
        let Some(Session { instance: key, .. }) = self.sessions.remove(&session) else { return };
        let Some(instance) = self.instances.get_mut(&key) else { return };
        if instance.session != Some(session) {
            return;
        }
        instance.session = None;
        instance.state = InstanceState::Unknown;
        instance.since = now;
        for (_, idx) in std::mem::take(&mut instance.members) {
            self.remove(durable, idx, now);
        }
        self.oblivion.insert((now + OBLIVION, key));
    }

    /// Keeps free slots and deadlines in step with a record.
    pub(crate) fn follow(&mut self, durable: &Durable, change: Change, now: Timestamp) {
        match change {
            Change::Nothing => {}
            Change::Leased { general, instance } => self.tally(durable, &instance, general, 1),
            Change::Released { delivery, general, instance } => {
                self.stop_clock(delivery);
                self.tally(durable, &instance, general, -1);
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
                    self.woken.push(general);
                }
            }
            Change::Instance(key) => self.refresh_instance(durable, &key),
            Change::Removed(general) => {
                self.pools.remove(&general);
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
        // Turns come often while there is anything to time: a gap between two of them means a stall.
        let is_timing = !self.leases.is_empty() || !self.sessions.is_empty();
        let tick = is_timing.then(|| self.last_turn + limits::STALL / 2);
        [lease, silence, oblivion, idle, tick].into_iter().flatten().min()
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
        let is_served = self.pools.get(&general).is_some_and(|pool| pool.members > 0);
        if !is_served && durable.registry.get(general).is_some() {
            self.idle.insert((now + limits::GENERAL_IDLE_MAX, general));
        }
    }

    pub(crate) fn member(&self, idx: MemberIdx) -> &Member {
        self.members[idx as usize].as_ref().expect("lists name members that are there")
    }

    pub(crate) fn pool(&self, general: GeneralIdx) -> Option<&Pool> {
        self.pools.get(&general)
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

    fn member_named(&self, durable: &Durable, key: &InstanceKey, general: &str) -> Option<MemberIdx> {
        let members = &self.instances.get(key)?.members;
        let named = |idx: &GeneralIdx| durable.registry.get(*idx).is_some_and(|g| g.key.name.as_str() == general);
        members.iter().find(|(idx, _)| named(idx)).map(|(_, member)| *member)
    }

    fn set_state(&mut self, key: &InstanceKey, state: InstanceState, now: Timestamp) {
        if let Some(instance) = self.instances.get_mut(key) {
            instance.state = state;
            instance.since = now;
        }
    }

    fn refresh_instance(&mut self, durable: &Durable, key: &InstanceKey) {
        let Some(instance) = self.instances.get(key) else { return };
        let is_open = instance.state == InstanceState::Ready && durable.registry.instance_holds(key).is_none();
        let members: Vec<_> = instance.members.iter().map(|(_, idx)| *idx).collect();
        for idx in members {
            self.change(durable, idx, |member| member.is_open = is_open);
        }
    }

    fn refresh_general(&mut self, durable: &Durable, general: GeneralIdx) {
        let has_free = self.pools.get(&general).is_some_and(|pool| !pool.free.is_empty());
        let may = has_free && durable.registry.get(general).is_some() && durable.registry.may_begin(general);
        if self.set_free(durable, general, may) && may {
            self.woken.push(general);
        }
    }

    /// Lists the general among those that may take work, or not. Says whether that is a change.
    fn set_free(&mut self, durable: &Durable, general: GeneralIdx, may: bool) -> bool {
        let changed = if may { self.free.insert(general) } else { self.free.remove(&general) };
        if changed {
            for route in durable.registry.get(general).into_iter().flat_map(|general| &general.routes) {
                let of = self.free_of.entry(*route).or_default();
                if may {
                    of.insert(general)
                } else {
                    of.remove(&general)
                };
            }
        }
        changed
    }

    /// Generals with a free slot that a route could choose.
    pub(crate) fn free_of(&self, route: RouteIdx) -> Option<&BTreeSet<GeneralIdx>> {
        self.free_of.get(&route)
    }

    fn tally(&mut self, durable: &Durable, key: &InstanceKey, general: GeneralIdx, by: i32) {
        let Some(instance) = self.instances.get(key) else { return };
        let Some((_, idx)) = instance.members.iter().find(|(of, _)| *of == general) else { return };
        self.change(durable, *idx, |member| member.load.open = member.load.open.saturating_add_signed(by));
    }

    fn add(&mut self, durable: &Durable, member: Member) -> MemberIdx {
        let general = member.general;
        let load = member.load;
        let idx = match self.vacant.pop() {
            Some(idx) => {
                self.members[idx as usize] = Some(member);
                idx
            }
            None => {
                self.members.push(Some(member));
                MemberIdx::try_from(self.members.len() - 1).expect("fewer members than 2^32")
            }
        };
        let pool = self.pools.entry(general).or_default();
        pool.members += 1;
        pool.load.open += load.open;
        pool.load.capacity += load.capacity;
        self.change(durable, idx, |_| {});
        idx
    }

    fn remove(&mut self, durable: &Durable, idx: MemberIdx, now: Timestamp) {
        let Some(member) = self.members[idx as usize].take() else { return };
        self.vacant.push(idx);
        let Some(pool) = self.pools.get_mut(&member.general) else { return };
        pool.members -= 1;
        pool.load.open -= member.load.open;
        pool.load.capacity -= member.load.capacity;
        if let Some(at) = member.free_at {
            unlist(pool, &mut self.members, at);
        }
        let (none_free, none_left) = (pool.free.is_empty(), pool.members == 0);
        if none_free {
            self.set_free(durable, member.general, false);
        }
        if none_left {
            self.idle.insert((now + limits::GENERAL_IDLE_MAX, member.general));
        }
    }

    /// Changes a member and puts it where it belongs.
    fn change(&mut self, durable: &Durable, idx: MemberIdx, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.members[idx as usize].as_mut() else { return };
        let before = member.load;
        change(member);
        let (general, load, free_at) = (member.general, member.load, member.free_at);
        let is_free = member.is_open && load.open < load.capacity;
        let pool = self.pools.entry(general).or_default();
        pool.load.open = pool.load.open + load.open - before.open;
        pool.load.capacity = pool.load.capacity + load.capacity - before.capacity;
        match (is_free, free_at) {
            (true, None) => {
                member.free_at = Some(u32::try_from(pool.free.len()).expect("fewer members than 2^32"));
                pool.free.push(idx);
                if pool.free.len() == 1 {
                    self.refresh_general(durable, general);
                }
            }
            (false, Some(at)) => {
                member.free_at = None;
                unlist(pool, &mut self.members, at);
                if pool.free.is_empty() {
                    self.set_free(durable, general, false);
                }
            }
            (true, Some(_)) | (false, None) => {}
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

/// Takes the member at `at` out of the free list; the last one takes its place.
fn unlist(pool: &mut Pool, members: &mut [Option<Member>], at: u32) {
    pool.free.swap_remove(at as usize);
    if let Some(moved) = pool.free.get(at as usize) {
        members[*moved as usize].as_mut().expect("lists name members that are there").free_at = Some(at);
    }
}

/// What the simulator compares the indexes with.
impl Soft {
    /// Names the first thing in which the indexes differ from a scan of both states.
    ///
    /// # Errors
    /// With the difference, for a person.
    pub fn check(&self, durable: &Durable) -> Result<(), String> {
        for (idx, member) in self.members.iter().enumerate().filter_map(|(idx, m)| Some((idx, m.as_ref()?))) {
            let held = durable.held.get(&member.instance);
            let open = held.map_or(0, |held| held.values().filter(|of| **of == member.general).count());
            if open != member.load.open as usize {
                return Err(format!("{} holds {open} leases, {} are counted", member.instance, member.load.open));
            }
            let is_free = member.is_open && member.load.open < member.load.capacity;
            let listed = self.pools.get(&member.general).is_some_and(|pool| pool.free.contains(&(idx as u32)));
            if is_free != listed {
                return Err(format!("{} is free: {is_free}, listed as free: {listed}", member.instance));
            }
        }
        for (general, pool) in &self.pools {
            let may = !pool.free.is_empty()
                && durable.registry.get(*general).is_some()
                && durable.registry.may_begin(*general);
            if may != self.free.contains(general) {
                return Err(format!("general {} may take work: {may}, listed otherwise", general.0));
            }
        }
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
