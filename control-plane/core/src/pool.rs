//! Pools: the members of each general, which of them may take work, and which generals have one that may.
//!
//! Invariant: a member is in its general's free list if and only if it may take work and has a free slot; a general is
//! listed as free if and only if it may begin work and its free list is not empty.

use std::collections::BTreeSet;
use std::sync::Arc;

use mindos_model::{BootId, Timestamp, limits};

use crate::durable::Durable;
use crate::input::{ReportedLoad, SessionId};
use crate::output::InstanceState;
use crate::record::{InstanceKey, Load};
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;
use crate::soft::Soft;

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
    pub(crate) free_at: Option<u32>,
}

/// The members of a general.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) free: Vec<MemberIdx>,
    pub(crate) members: u32,
    pub(crate) load: Load,
}

pub(crate) type MemberIdx = u32;

impl Soft {
    pub(crate) fn member(&self, idx: MemberIdx) -> &Member {
        self.members[idx as usize].as_ref().expect("lists name members that are there")
    }

    pub(crate) fn pool(&self, general: GeneralIdx) -> Option<&Pool> {
        self.pools.get(&general)
    }

    pub(crate) fn member_named(&self, durable: &Durable, key: &InstanceKey, general: &str) -> Option<MemberIdx> {
        let members = &self.instances.get(key)?.members;
        let named = |idx: &GeneralIdx| durable.registry.get(*idx).is_some_and(|g| g.key.name.as_str() == general);
        members.iter().find(|(idx, _)| named(idx)).map(|(_, member)| *member)
    }

    pub(crate) fn refresh_instance(&mut self, durable: &Durable, key: &InstanceKey) {
        let Some(instance) = self.instances.get(key) else { return };
        let is_open = instance.state == InstanceState::Ready && durable.registry.instance_holds(key).is_none();
        let members: Vec<_> = instance.members.iter().map(|(_, idx)| *idx).collect();
        for idx in members {
            self.change(durable, idx, |member| member.is_open = is_open);
        }
    }

    pub(crate) fn refresh_general(&mut self, durable: &Durable, general: GeneralIdx) {
        let has_free = self.pools.get(&general).is_some_and(|pool| !pool.free.is_empty());
        let may = has_free && durable.registry.get(general).is_some() && durable.registry.may_begin(general);
        if self.set_free(durable, general, may) && may {
            self.woken.push(general);
        }
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

    pub(crate) fn tally(&mut self, durable: &Durable, key: &InstanceKey, general: GeneralIdx, by: i32) {
        let Some(instance) = self.instances.get(key) else { return };
        let Some((_, idx)) = instance.members.iter().find(|(of, _)| *of == general) else { return };
        self.change(durable, *idx, |member| member.load.open = member.load.open.saturating_add_signed(by));
    }

    pub(crate) fn add(&mut self, durable: &Durable, member: Member) -> MemberIdx {
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

    pub(crate) fn remove(&mut self, durable: &Durable, idx: MemberIdx, now: Timestamp) {
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
    pub(crate) fn change(&mut self, durable: &Durable, idx: MemberIdx, change: impl FnOnce(&mut Member)) {
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

    /// Compares the members and their indexes with a scan of both states.
    pub(crate) fn check_pools(&self, durable: &Durable) -> Result<(), String> {
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
        Ok(())
    }
}

/// Takes the member at `at` out of the free list; the last one takes its place.
fn unlist(pool: &mut Pool, members: &mut [Option<Member>], at: u32) {
    pool.free.swap_remove(at as usize);
    if let Some(moved) = pool.free.get(at as usize) {
        members[*moved as usize].as_mut().expect("lists name members that are there").free_at = Some(at);
    }
}
