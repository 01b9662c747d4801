//! Where an event goes when none of its route's generals is there.
//!
//! Asked only of routes with such a policy. Unknown is not dead: a general counts as there for a while after its last stream was lost,
//! and after the plane started. Invariant: what this decides stands in the record of the event.

use mindos_model::{GeneralType, RouteName};

use crate::decide::Context;
use crate::durable::Durable;
use crate::output::Rejection;
use crate::policy::FALL_BACKS_MAX;
use crate::registry::GeneralIdx;
use crate::route::NoGeneral;
use crate::routing::{RouteIdx, Rule};

/// The way of an event.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) route: RouteIdx,
    /// The general of another type, where there is none of the route's own.
    pub(crate) general: Option<GeneralIdx>,
    /// The route that matched, where the event goes another way.
    pub(crate) from: Option<RouteName>,
}

impl Way {
    /// By the route that matched.
    pub(crate) fn straight(route: RouteIdx) -> Way {
        Way { route, general: None, from: None }
    }
}

impl Durable {
    pub(crate) fn way(&self, matched: RouteIdx, context: Context<'_>) -> Result<Way, Rejection> {
        let mut way = Way::straight(matched);
        let name = || Some(self.routing.rule(matched).route.name.clone());
        // Routes that fall back to each other end where the last one stands.
        for _ in 0..FALL_BACKS_MAX {
            let rule = self.routing.rule(way.route);
            if rule.route.policy.no_general == NoGeneral::Wait || self.somebody_is_there(rule, context) {
                break;
            }
            match &rule.route.policy.no_general {
                NoGeneral::Wait => break,
                NoGeneral::Refuse => return Err(Rejection::NoGeneral { route: rule.route.name.clone() }),
                NoGeneral::FallBackRoute(other) => {
                    let Some(other) = self.routing.find(&rule.tenant, other) else { break };
                    (way.route, way.from) = (other, name());
                }
                NoGeneral::FallBackType(ty) => {
                    way.general = self.least_of_type(rule, ty, context);
                    if way.general.is_some() {
                        way.from = name();
                    }
                    break;
                }
            }
        }
        Ok(way)
    }

    fn somebody_is_there(&self, rule: &Rule, context: Context<'_>) -> bool {
        let is_there = |general: &GeneralIdx| {
            let Context { soft, now, .. } = context;
            // Who carries a label that another instance of it does not may not have dialled again yet.
            self.counts_as_there(*general, context)
                && (soft.has_just_begun(now)
                    || soft.warms_up(*general, now)
                    || self.may_carry(rule, *general, soft, now))
        };
        rule.members.iter().any(is_there)
    }

    fn counts_as_there(&self, general: GeneralIdx, context: Context<'_>) -> bool {
        self.registry.may_be_given(general) && context.soft.was_there(general, context.now)
    }

    fn least_of_type(&self, rule: &Rule, ty: &GeneralType, context: Context<'_>) -> Option<GeneralIdx> {
        let of_type = self.registry.iter().filter(|(_, known)| known.ty == *ty && known.key.tenant == rule.tenant);
        let there = of_type.map(|(idx, _)| idx).filter(|idx| self.counts_as_there(*idx, context));
        // Another type will do, another place will not.
        let may = |idx: &GeneralIdx| {
            self.keeps_out(rule, *idx).is_none() && self.may_carry(rule, *idx, context.soft, context.now)
        };
        let there = there.filter(may);
        let load = |idx: GeneralIdx| context.soft.pool(idx).map(|pool| pool.load).unwrap_or_default();
        there.reduce(|least, next| if load(next).is_below(load(least)) { next } else { least })
    }
}
