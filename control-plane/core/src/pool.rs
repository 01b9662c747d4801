//! Pools: the members of each general, which of them may take work, and which generals have one that may.
//!
//! Invariants: a member is in its general's free list if and only if it may take work and has a free slot; a general is
//! listed as free if and only if it may begin work and its free list is not empty; of the members that could serve at most a
//! tenth (one of fewer than twenty) is ejected by its breaker, and never the last one that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, Timestamp, limits};

use crate::breaker::{BreakerState, Ended};
use crate::durable::Durable;
use crate::input::{ModelLoad, ReportedLoad};
use crate::member::{Kept, Member, Profile, Standing};
use crate::output::InstanceState;
use crate::policy::THERE_GRACE;
use crate::record::{InstanceKey, Labels, Load};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;
use crate::score::{Mean, Pressure, Weight, speed_of, weigh};
use crate::soft::Soft;

/// The members of a general.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) free: Vec<MemberIdx>,
    pub(crate) members: u32,
    pub(crate) load: Load,
    /// Those that are not drawn from for another reason than want of a slot.
    pub(crate) aside: Vec<MemberIdx>,
    /// Those whose next delivery shows whether they are well.
    pub(crate) trials: Vec<MemberIdx>,
    /// The member that got work last.
    pub(crate) last: MemberIdx,
    pub(crate) mean: Mean,
    /// Tokens a second of a request in work, over all members; 0 when not known.
    speed: u32,
    serving: u32,
    limited: u32,
    pub(crate) ejected: u32,
    /// When the last member left; zero before.
    pub(crate) left: Timestamp,
    /// Until when somebody scales it, so that it is there when it is empty too; zero where nobody does.
    pub(crate) kept_until: Timestamp,
    /// What routes pick members by: mostly they are all alike.
    profiles: BTreeMap<Arc<Profile>, Alike>,
}

/// Members with one profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Alike {
    connected: u32,
    /// Those that would serve but for their breakers and limits.
    able: u32,
    /// When the last one left; zero before.
    left: Timestamp,
}

/// Profiles of a pool beyond which those that nobody has any more are forgotten.
const PROFILES_SPARE: usize = 16;

pub(crate) type MemberIdx = u32;

/// All pools, at the places of their generals in the registry: every lease and result passes here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools(Vec<Option<Box<Pool>>>);

impl Pools {
    pub(crate) fn get(&self, general: GeneralIdx) -> Option<&Pool> {
        self.0.get(general.0 as usize)?.as_deref()
    }

    fn get_mut(&mut self, general: GeneralIdx) -> Option<&mut Pool> {
        self.0.get_mut(general.0 as usize)?.as_deref_mut()
    }

    /// The pool of a general; an empty one when there was none.
    fn of(&mut self, general: GeneralIdx) -> &mut Pool {
        let at = general.0 as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at].get_or_insert_default()
    }

    /// Says until when somebody scales the pool.
    pub(crate) fn keep(&mut self, general: GeneralIdx, until: Timestamp) {
        self.of(general).kept_until = until;
    }

    pub(crate) fn remove(&mut self, general: GeneralIdx) {
        if let Some(pool) = self.0.get_mut(general.0 as usize) {
            *pool = None;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (GeneralIdx, &Pool)> {
        (0..).map(GeneralIdx).zip(&self.0).filter_map(|(general, pool)| Some((general, pool.as_deref()?)))
    }
}

impl Pool {
    /// Members that would serve but for their breakers and limits.
    pub(crate) fn able(&self) -> u32 {
        self.serving + self.limited + self.ejected
    }

    /// Whether some member that would serve, but for its breaker and limits, is of such a profile.
    pub(crate) fn is_able(&self, fits: impl Fn(&Profile) -> bool) -> bool {
        self.profiles.iter().any(|(profile, alike)| alike.able > 0 && fits(profile))
    }

    /// Whether some member is of such a profile.
    pub(crate) fn has(&self, fits: impl Fn(&Profile) -> bool) -> bool {
        self.profiles.iter().any(|(profile, alike)| alike.connected > 0 && fits(profile))
    }

    /// Whether some member is of such a profile, or was a while ago: unknown is not dead.
    pub(crate) fn had(&self, now: Timestamp, fits: impl Fn(&Profile) -> bool) -> bool {
        let is_there = |alike: &Alike| alike.connected > 0 || now < alike.left + THERE_GRACE;
        self.profiles.iter().any(|(profile, alike)| is_there(alike) && fits(profile))
    }

    /// Labels that members told, each set once.
    pub(crate) fn labels(&self) -> Vec<Labels> {
        let connected = self.profiles.iter().filter(|(_, alike)| alike.connected > 0);
        let mut labels: Vec<_> = connected.map(|(profile, _)| profile.labels.clone()).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// Counts a new member, and returns the profile that all of its kind share.
    fn came(&mut self, profile: Arc<Profile>) -> Arc<Profile> {
        if self.profiles.len() > PROFILES_SPARE {
            self.profiles.retain(|_, alike| alike.connected > 0);
        }
        let shared = self.profiles.get_key_value(&profile).map(|(known, _)| known.clone()).unwrap_or(profile);
        self.profiles.entry(shared.clone()).or_default().connected += 1;
        shared
    }

    fn went(&mut self, profile: &Arc<Profile>, now: Timestamp) {
        if let Some(alike) = self.profiles.get_mut(profile) {
            alike.connected -= 1;
            alike.left = now;
        }
    }

    /// Whether all that would serve wait for a reset.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited > 0 && self.serving == 0
    }

    fn ejected_max(&self) -> u32 {
        (self.able() / 10).max(1)
    }

    fn may_eject(&self) -> bool {
        self.ejected < self.ejected_max() && self.serving > 1
    }

    fn has_too_many_ejected(&self) -> bool {
        self.ejected > self.ejected_max() || (self.ejected > 0 && self.serving == 0)
    }

    fn count(&mut self, standing: Standing) -> Option<&mut u32> {
        match standing {
            Standing::Unable => None,
            Standing::Serving => Some(&mut self.serving),
            Standing::Limited => Some(&mut self.limited),
            Standing::Ejected => Some(&mut self.ejected),
        }
    }

    /// Counts a member elsewhere. Says whether it was the first of its profile that is able, or the last one.
    fn moved(&mut self, profile: &Arc<Profile>, from: Standing, to: Standing) -> bool {
        if let Some(count) = self.count(from) {
            *count -= 1;
        }
        if let Some(count) = self.count(to) {
            *count += 1;
        }
        let (was_able, is_able) = (from != Standing::Unable, to != Standing::Unable);
        let Some(alike) = self.profiles.get_mut(profile).filter(|_| was_able != is_able) else { return false };
        alike.able = if is_able { alike.able + 1 } else { alike.able - 1 };
        alike.able == u32::from(is_able)
    }
}

impl Soft {
    pub(crate) fn member(&self, idx: MemberIdx) -> &Member {
        self.members[idx as usize].as_ref().expect("lists name members that are there")
    }

    pub(crate) fn pool(&self, general: GeneralIdx) -> Option<&Pool> {
        self.pools.get(general)
    }

    pub(crate) fn weight(&self, pool: &Pool, idx: MemberIdx, now: Timestamp) -> Weight {
        let member = self.member(idx);
        weigh(member.load, member.pace, pool.mean, member.pressure, now)
    }

    pub(crate) fn member_named(&self, durable: &Durable, key: &InstanceKey, general: &str) -> Option<MemberIdx> {
        let members = &self.instances.get(key)?.members;
        let named = |idx: &GeneralIdx| durable.registry.get(*idx).is_some_and(|g| g.key.name.as_str() == general);
        members.iter().find(|(idx, _)| named(idx)).map(|(_, member)| *member)
    }

    pub(crate) fn refresh_instance(&mut self, durable: &Durable, key: &InstanceKey, now: Timestamp) {
        let Some(instance) = self.instances.get(key) else { return };
        let is_open = instance.state == InstanceState::Ready && durable.registry.instance_holds(key).is_none();
        let members: Vec<_> = instance.members.iter().map(|(_, idx)| *idx).collect();
        for idx in members {
            self.change(durable, idx, now, |member| member.is_open = is_open);
        }
    }

    pub(crate) fn refresh_general(&mut self, durable: &Durable, general: GeneralIdx) {
        let may = self.may_take(durable, general);
        if self.set_free(durable, general, may) && may {
            self.woken.push(general);
        }
    }

    /// A general has another share of its slots free, or another instance: replays may wait for just that.
    pub(crate) fn wake_shadows_of(&mut self, durable: &Durable, general: GeneralIdx) {
        if durable.has_shadows_ready(general) && self.shadows_woken.last() != Some(&general) {
            self.shadows_woken.push(general);
        }
    }

    fn may_take(&self, durable: &Durable, general: GeneralIdx) -> bool {
        let has_free = self.pools.get(general).is_some_and(|pool| !pool.free.is_empty());
        has_free
            && durable.registry.get(general).is_some()
            && durable.registry.may_begin(general)
            && self.rate_paused(durable, general).is_none()
    }

    /// Lists the general among those that may take work, or not. Says whether that is a change.
    pub(crate) fn set_free(&mut self, durable: &Durable, general: GeneralIdx, may: bool) -> bool {
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

    /// A lease was given to an instance.
    pub(crate) fn leased(
        &mut self,
        durable: &Durable,
        delivery: DeliveryId,
        general: GeneralIdx,
        key: &InstanceKey,
        now: Timestamp,
    ) {
        let Some(idx) = self.member_of(key, general) else { return };
        if let Some(pool) = self.pools.get_mut(general) {
            pool.last = idx;
        }
        self.change(durable, idx, now, |member| {
            member.load.open = member.load.open.saturating_add(1);
            member.breaker.leased(delivery);
        });
    }

    /// A lease of an instance ended, `took` after it was given.
    pub(crate) fn released(
        &mut self,
        durable: &Durable,
        (delivery, general): (DeliveryId, GeneralIdx),
        key: &InstanceKey,
        (ended, took): (Ended, Duration),
        now: Timestamp,
    ) {
        let member = self.member_of(key, general);
        if let Some(idx) = member {
            let pool = self.pools.of(general);
            let (may_eject, mean) = (pool.may_eject(), pool.mean);
            if ended == Ended::Good {
                pool.mean.note(took, now);
            }
            self.change(durable, idx, now, |member| {
                member.load.open = member.load.open.saturating_sub(1);
                member.pace.note(took, ended, mean, now);
                member.breaker.ended(delivery, ended, may_eject, now);
            });
        } else if let Some(instance) = self.instances.get_mut(key)
            && let Some(kept) = instance.kept.iter_mut().find(|kept| kept.general == general)
        {
            // Whether the pool can do without it is seen when it is back.
            kept.breaker.ended(delivery, ended, true, now);
        }
        if let Ended::Limited(until) = ended {
            self.limited(durable, general, member, until, now);
        }
    }

    /// Takes in what an agent reports of one of its generals.
    pub(crate) fn reported(&mut self, durable: &Durable, idx: MemberIdx, load: &ReportedLoad, now: Timestamp) {
        let Some(member) = self.members[idx as usize].as_mut() else { return };
        member.reported = load.clone();
        let Some(model) = load.model.as_deref() else { return };
        let general = member.general;
        let pool = self.pools.of(general);
        if let Some(speed) = speed_of(model) {
            pool.speed = if pool.speed == 0 { speed } else { (pool.speed / 8 * 7).saturating_add(speed / 8).max(1) };
        }
        member.pressure = Pressure::of(model, member.load.open, pool.speed, now);
        let ModelLoad { limit_remaining, limit_resets_at, .. } = *model;
        if let (Some(0), Some(until)) = (limit_remaining, limit_resets_at) {
            self.limited(durable, general, Some(idx), until, now);
        }
    }

    /// Penalties that are over, slots that come back, limits that were reset.
    pub(crate) fn come_back(&mut self, durable: &Durable, now: Timestamp) {
        while let Some(&(at, idx)) = self.comebacks.first() {
            if at > now {
                break;
            }
            self.comebacks.pop_first();
            if let Some(member) = self.members[idx as usize].as_mut() {
                member.due = None;
            }
            self.change(durable, idx, now, |member| member.pass(now));
        }
        self.rates_reset(durable, now);
    }

    fn member_of(&self, key: &InstanceKey, general: GeneralIdx) -> Option<MemberIdx> {
        let instance = self.instances.get(key)?;
        instance.members.iter().find(|(of, _)| *of == general).map(|(_, idx)| *idx)
    }

    pub(crate) fn add(&mut self, durable: &Durable, mut member: Member, now: Timestamp) -> MemberIdx {
        let general = member.general;
        member.profile = self.pools.of(general).came(member.profile);
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
        let pool = self.pools.of(general);
        pool.members += 1;
        pool.load.open += load.open;
        pool.load.capacity += load.capacity;
        self.change(durable, idx, now, |_| {});
        self.wake_shadows_of(durable, general);
        idx
    }

    pub(crate) fn remove(&mut self, durable: &Durable, idx: MemberIdx, now: Timestamp) -> Option<Kept> {
        let member = self.members[idx as usize].take()?;
        self.vacant.push(idx);
        let Member { general, breaker, pace, paused_until, profile, .. } = member;
        let kept = Kept { general, breaker, pace, paused_until };
        if let Some(at) = member.due {
            self.comebacks.remove(&(at, idx));
        }
        let Some(pool) = self.pools.get_mut(general) else { return Some(kept) };
        pool.members -= 1;
        pool.load.open -= member.load.open;
        pool.load.capacity -= member.load.capacity;
        let is_last = pool.moved(&profile, member.standing, Standing::Unable);
        pool.went(&profile, now);
        if is_last && (pool.able() == 0 || is_picked_over(durable, general)) {
            self.moved.push(general);
        }
        if member.is_aside {
            pool.aside.retain(|listed| *listed != idx);
        }
        if member.is_on_trial {
            pool.trials.retain(|listed| *listed != idx);
        }
        if let Some(at) = member.free_at {
            unlist(pool, &mut self.members, at);
        }
        let (none_free, none_left) = (pool.free.is_empty(), pool.members == 0);
        if none_free {
            self.set_free(durable, general, false);
        }
        if none_left {
            if let Some(pool) = self.pools.get_mut(general) {
                pool.left = now;
            }
            self.idle.insert((now + limits::GENERAL_IDLE_MAX, general));
        }
        self.wake_shadows_of(durable, general);
        self.keep_serving(durable, general, now);
        Some(kept)
    }

    /// Changes a member and puts it where it belongs.
    pub(crate) fn change(
        &mut self,
        durable: &Durable,
        idx: MemberIdx,
        now: Timestamp,
        change: impl FnOnce(&mut Member),
    ) {
        let Some(member) = self.members[idx as usize].as_mut() else { return };
        let (before, stood) = (member.load, member.standing);
        change(member);
        let (general, load, free_at) = (member.general, member.load, member.free_at);
        let is_free = member.is_free();
        let pool = self.pools.of(general);
        pool.load.open = pool.load.open + load.open - before.open;
        pool.load.capacity = pool.load.capacity + load.capacity - before.capacity;
        let due = member.next_due();
        if due != member.due {
            member.due.map(|at| self.comebacks.remove(&(at, idx)));
            due.map(|at| self.comebacks.insert((at, idx)));
            member.due = due;
        }
        let is_on_trial = is_free && member.breaker.wants_trial();
        if is_on_trial != member.is_on_trial {
            member.is_on_trial = is_on_trial;
            list(&mut pool.trials, idx, is_on_trial);
        }
        let is_aside = member.excluded(false).is_some();
        if is_aside != member.is_aside {
            member.is_aside = is_aside;
            list(&mut pool.aside, idx, is_aside);
        }
        member.standing = member.stands();
        let moved = member.standing != stood;
        if moved {
            let able = pool.able();
            let is_only = pool.moved(&member.profile, stood, member.standing);
            if (able == 0) != (pool.able() == 0) || is_only && is_picked_over(durable, general) {
                self.moved.push(general);
            }
        }
        match (is_free, free_at) {
            (true, None) => {
                member.free_at = Some(u32::try_from(pool.free.len()).expect("fewer members than 2^32"));
                pool.free.push(idx);
                let is_first = pool.free.len() == 1;
                if is_first {
                    self.refresh_general(durable, general);
                } else if is_picked_over(durable, general) {
                    // Those with a slot may have been too old for what waits.
                    self.woken.push(general);
                } else {
                    self.wake_shadows_of(durable, general);
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
        if load.open < before.open || load.capacity > before.capacity {
            self.wake_shadows_of(durable, general);
        }
        if moved {
            self.keep_serving(durable, general, now);
        }
    }

    /// Lets ejected members back in for as long as too many are: first those whose penalty is over soonest.
    fn keep_serving(&mut self, durable: &Durable, general: GeneralIdx, now: Timestamp) {
        let Some(pool) = self.pools.get(general).filter(|pool| pool.has_too_many_ejected()) else { return };
        let soonest = |idx: &&MemberIdx| match self.member(**idx).breaker.state() {
            BreakerState::Open { until } => (until, **idx),
            BreakerState::Closed | BreakerState::Trial { .. } | BreakerState::Reentry { .. } => (Timestamp(0), **idx),
        };
        let ejected = pool.aside.iter().filter(|idx| self.member(**idx).standing == Standing::Ejected);
        let back = ejected.min_by_key(soonest).copied();
        let back = back.expect("those counted as ejected are listed as set aside");
        // Changes its standing, so that the rest is looked at again.
        self.change(durable, back, now, |member| member.breaker.readmit(now));
    }

    /// Compares the members and their indexes with a scan of both states.
    pub(crate) fn check_pools(&self, durable: &Durable) -> Result<(), String> {
        for (idx, member) in self.members.iter().enumerate().filter_map(|(idx, m)| Some((idx, m.as_ref()?))) {
            let held = durable.held.get(&member.instance);
            let open = held.map_or(0, |held| held.values().filter(|of| **of == member.general).count());
            if open != member.load.open as usize {
                return Err(format!("{} holds {open} leases, {} are counted", member.instance, member.load.open));
            }
            let idx = idx as MemberIdx;
            let Some(pool) = self.pools.get(member.general) else { continue };
            let trial = member.is_free() && member.breaker.wants_trial();
            for (what, is, listed) in [
                ("free", member.is_free(), pool.free.contains(&idx)),
                ("set aside", member.excluded(false).is_some(), pool.aside.contains(&idx)),
                ("on trial", trial, pool.trials.contains(&idx)),
            ] {
                if is != listed {
                    return Err(format!("{} is {what}: {is}, listed as {what}: {listed}", member.instance));
                }
            }
            let due = member.next_due();
            if due != member.due || due.is_some_and(|at| !self.comebacks.contains(&(at, idx))) {
                return Err(format!("{} comes back at {due:?}, listed at {:?}", member.instance, member.due));
            }
        }
        for (general, pool) in self.pools.iter() {
            if self.may_take(durable, general) != self.free.contains(&general) {
                return Err(format!("general {} may take work or not, listed otherwise", general.0));
            }
            let count = |standing| {
                let members = self.members.iter().flatten().filter(|member| member.general == general);
                members.filter(|member| member.stands() == standing).count() as u32
            };
            let counted = (count(Standing::Serving), count(Standing::Limited), count(Standing::Ejected));
            if counted != (pool.serving, pool.limited, pool.ejected) {
                return Err(format!("general {} has other members than counted: {counted:?}, {pool:?}", general.0));
            }
            let mut alike = BTreeMap::<&Arc<Profile>, (u32, u32)>::new();
            for member in self.members.iter().flatten().filter(|member| member.general == general) {
                let (connected, able) = alike.entry(&member.profile).or_default();
                *connected += 1;
                *able += u32::from(member.stands() != Standing::Unable);
            }
            let listed = pool.profiles.iter().map(|(profile, of)| (profile, (of.connected, of.able)));
            let listed: BTreeMap<_, _> = listed.filter(|(_, (connected, _))| *connected > 0).collect();
            if listed != alike {
                return Err(format!("general {} has profiles {alike:?}, listed {listed:?}", general.0));
            }
            let (serving, limited, ejected) = counted;
            let able = serving + limited + ejected;
            if ejected > (able / 10).max(1) || (ejected > 0 && serving == 0) {
                return Err(format!(
                    "{ejected} of {able} members of general {} are ejected, {serving} serve",
                    general.0
                ));
            }
        }
        self.check_rates()
    }
}

/// Whether some route does not take every instance of the general.
fn is_picked_over(durable: &Durable, general: GeneralIdx) -> bool {
    durable.registry.get(general).is_some_and(|known| known.is_picked_over)
}

fn list(list: &mut Vec<MemberIdx>, idx: MemberIdx, listed: bool) {
    if listed {
        list.push(idx);
    } else {
        list.retain(|other| *other != idx);
    }
}

/// Takes the member at `at` out of the free list; the last one takes its place.
fn unlist(pool: &mut Pool, members: &mut [Option<Member>], at: u32) {
    pool.free.swap_remove(at as usize);
    if let Some(moved) = pool.free.get(at as usize) {
        members[*moved as usize].as_mut().expect("lists name members that are there").free_at = Some(at);
    }
}
