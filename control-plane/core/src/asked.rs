//! Asked routes: where the publisher of an event says itself whom it concerns, and by which strategy.
//!
//! Such a route stands beside the table under a name of its own and matches nothing: only events that bring it take it. It
//! is recorded once, before the first event that brings it, and its place is given to another one when no work is open
//! under it. Invariants: no table has a name that begins as theirs do; there are at most
//! [`ASKED_MAX`], and as many for replays as [`REPLAYED_MAX`].

use std::sync::Arc;

use crate::durable::{Change, Durable};
use crate::input::NewEvent;
use crate::output::Rejection;
use crate::record::{Record, RouteAsked};
use crate::replay::is_replay_route;
use crate::route::{Route, RouteError};

/// How the names of asked routes begin.
pub const ASKED_PREFIX: &str = "asked.";
/// Asked routes at a time: each has a queue that its generals look at.
pub const ASKED_MAX: usize = 64;
/// How many routes of replays are kept besides.
const REPLAYED_MAX: usize = 16;

impl Durable {
    /// What must be recorded before the event that brings this route is decided: nothing, when the route is known.
    ///
    /// # Errors
    /// When the route is not one that may be asked for, or too many are.
    pub(crate) fn asked(&self, event: &NewEvent, route: &Arc<Route>) -> Result<Option<Record>, Rejection> {
        let name = &route.name;
        if !name.as_str().starts_with(ASKED_PREFIX) || route.matches != crate::route::Match::default() {
            return Err(RouteError::NotAsked { name: name.clone() }.into());
        }
        route.check(0)?;
        if let Some(known) = self.routing.find(&event.tenant, name) {
            return match self.routing.rule(known).route == *route {
                true => Ok(None),
                false => Err(RouteError::Duplicate { index: 0, name: name.clone() }.into()),
            };
        }
        let asked = || self.routing.iter().map(|(_, rule)| rule).filter(|rule| is_asked(&rule.route));
        // Replays may wait for a day: they have places of their own number, so that they keep nobody else out.
        let is_replay = is_replay_route(name.as_str());
        let max = if is_replay { REPLAYED_MAX } else { ASKED_MAX };
        let alike = || asked().filter(|rule| is_replay_route(rule.route.name.as_str()) == is_replay);
        let replaces = if alike().count() < max {
            None
        } else {
            let idle = alike().find(|rule| rule.events == 0 && rule.holds.is_none());
            let idle = idle.ok_or(Rejection::AskedRoutesFull { max })?;
            Some((idle.tenant.clone(), idle.route.name.clone()))
        };
        let record = RouteAsked { tenant: event.tenant.clone(), route: route.clone(), replaces };
        Ok(Some(Record::RouteAsked(Box::new(record))))
    }

    pub(crate) fn route_asked(&mut self, record: &RouteAsked) -> Change {
        let RouteAsked { tenant, route, replaces } = record;
        if let Some((of, name)) = replaces {
            let idx = self.routing.find(of, name).expect("records name routes applied before them");
            assert_eq!(self.routing.rule(idx).events, 0, "route {name} gave its place away with work open");
            self.routing.rename(idx, tenant, &route.name);
        }
        let idx = self.routing.put(tenant, route.clone(), &mut self.registry, &self.hasher);
        self.routing.rule_mut(idx).tenant_idx = self.tenants.place(tenant);
        self.all_opened()
    }
}

pub(crate) fn is_asked(route: &Route) -> bool {
    route.name.as_str().starts_with(ASKED_PREFIX)
}
