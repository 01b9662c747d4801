//! Guards and what they did, as numbers and messages.

use std::sync::Arc;

use mindos_core::guard::{Guard, GuardAction, Guarded, Guards, TrustRules};
use mindos_core::record::Judgement;
use mindos_proto::convert::Invalid;
use mindos_proto::journal::v1 as pb;
use mindos_proto::route::v1 as route_pb;

/// What a record says of a judgement: guard, action, conditions that failed.
pub(crate) fn of_judgement(judgement: Option<&Judgement>) -> (i32, i32, u32) {
    let Some(Judgement { guarded, conditions_failed }) = judgement else { return (0, 0, 0) };
    let (guard, action) = guarded.map_or((0, 0), |Guarded { guard, action }| {
        let guard = match guard {
            Guard::Hops => pb::Guard::Hops,
            Guard::Echo => pb::Guard::Echo,
            Guard::Bot => pb::Guard::Bot,
            Guard::Fork => pb::Guard::Fork,
            Guard::Association => pb::Guard::Association,
        };
        (guard as i32, of_action(Some(action)))
    });
    (guard, action, *conditions_failed)
}

/// The other way; `None` if nothing is said.
pub(crate) fn judgement(guard: i32, action: i32, conditions_failed: u32) -> Result<Option<Box<Judgement>>, Invalid> {
    if (guard, action, conditions_failed) == (0, 0, 0) {
        return Ok(None);
    }
    let unknown = |field, value| Invalid::new(field, format_args!("value {value} is not known"));
    let guard = match pb::Guard::try_from(guard).map_err(|_| unknown("guard", guard))? {
        pb::Guard::Unspecified => None,
        pb::Guard::Hops => Some(Guard::Hops),
        pb::Guard::Echo => Some(Guard::Echo),
        pb::Guard::Bot => Some(Guard::Bot),
        pb::Guard::Fork => Some(Guard::Fork),
        pb::Guard::Association => Some(Guard::Association),
    };
    let guarded = match (guard, self::action(action, "guard_action")?) {
        (None, None) => None,
        (Some(guard), Some(action @ (GuardAction::Park | GuardAction::Drop))) => Some(Guarded { guard, action }),
        _ => return Err(Invalid::new("guard_action", "does not go with the guard")),
    };
    Ok(Some(Box::new(Judgement { guarded, conditions_failed })))
}

fn of_action(action: Option<GuardAction>) -> i32 {
    let action = match action {
        None => route_pb::GuardAction::Unspecified,
        Some(GuardAction::Allow) => route_pb::GuardAction::Allow,
        Some(GuardAction::Park) => route_pb::GuardAction::Park,
        Some(GuardAction::Drop) => route_pb::GuardAction::Drop,
    };
    action as i32
}

fn action(number: i32, field: &str) -> Result<Option<GuardAction>, Invalid> {
    let action = route_pb::GuardAction::try_from(number);
    Ok(match action.map_err(|_| Invalid::new(field, format_args!("value {number} is not known")))? {
        route_pb::GuardAction::Unspecified => None,
        route_pb::GuardAction::Allow => Some(GuardAction::Allow),
        route_pb::GuardAction::Park => Some(GuardAction::Park),
        route_pb::GuardAction::Drop => Some(GuardAction::Drop),
    })
}

/// Guards as the API and the journal write them.
#[must_use]
pub fn guards_to_message(guards: &Guards) -> route_pb::RouteGuards {
    let Guards { forks, bots, echoes, association, hops_max } = guards;
    route_pb::RouteGuards {
        forks: of_action(*forks),
        bots: of_action(*bots),
        echoes: of_action(*echoes),
        association: association.iter().map(ToString::to_string).collect(),
        hops_max: hops_max.unwrap_or(0),
    }
}

/// Guards read back; the words of `association` are checked with the table.
///
/// # Errors
/// Names the field.
pub fn guards_from_message(guards: route_pb::RouteGuards) -> Result<Guards, Invalid> {
    let route_pb::RouteGuards { forks, bots, echoes, association, hops_max } = guards;
    Ok(Guards {
        forks: action(forks, "guards.forks")?,
        bots: action(bots, "guards.bots")?,
        echoes: action(echoes, "guards.echoes")?,
        association: association.into_iter().map(Arc::from).collect(),
        hops_max: (hops_max > 0).then_some(hops_max),
    })
}

/// What a table says of trust, as its two fields.
#[must_use]
pub fn trust_to_message(trust: Option<&TrustRules>) -> (Option<route_pb::RouteGuards>, Vec<String>) {
    let Some(TrustRules { guards, own_logins }) = trust else { return (None, Vec::new()) };
    let guards = (*guards != Guards::default()).then(|| guards_to_message(guards));
    (guards, own_logins.iter().map(ToString::to_string).collect())
}

/// The other way; `None` where the table says nothing of trust.
///
/// # Errors
/// Names the field.
pub fn trust_from_message(
    guards: Option<route_pb::RouteGuards>,
    own_logins: Vec<String>,
) -> Result<Option<Arc<TrustRules>>, Invalid> {
    let guards = guards.map(guards_from_message).transpose()?.unwrap_or_default();
    let rules = TrustRules { guards, own_logins: own_logins.into_iter().map(Arc::from).collect() };
    Ok((rules != TrustRules::default()).then(|| Arc::new(rules)))
}

#[cfg(test)]
mod tests {
    use mindos_core::record::{Entry, Record};
    use mindos_model::{ParkReason, Seq};

    use super::*;
    use crate::encode::{Names, decode, encode, message, samples};
    use crate::fault::Random;

    fn guards(random: &mut Random) -> Guards {
        let actions = [None, Some(GuardAction::Allow), Some(GuardAction::Park), Some(GuardAction::Drop)];
        let mut action = || actions[random.below(4) as usize];
        let (forks, bots, echoes) = (action(), action(), action());
        let association = (0..random.below(3)).map(|_| "MEMBER".into()).collect();
        Guards { forks, bots, echoes, association, hops_max: random.chance(50).then_some(7) }
    }

    fn comes_back(entry: &Entry) {
        let mut bytes = Vec::new();
        encode(entry, &mut bytes);
        let back = decode(&mut Names::default(), entry.seq, &bytes, entry.record.payload().cloned()).unwrap();
        assert_eq!(back.as_ref(), Some(entry));
        assert_eq!(bytes, prost::Message::encode_to_vec(&message(entry)), "by hand as by message");
    }

    #[test]
    fn judgements_come_back() {
        let mut random = Random::new(3);
        for guard in [Guard::Hops, Guard::Echo, Guard::Bot, Guard::Fork, Guard::Association] {
            for action in [GuardAction::Park, GuardAction::Drop] {
                let mut entry = samples::entry(&mut random, 1, Seq(9));
                let Record::EventAccepted(accepted) = &mut entry.record else { panic!("another kind") };
                let guarded = Some(Guarded { guard, action });
                accepted.judgement = Some(Box::new(Judgement { guarded, conditions_failed: random.below(2) as u32 }));
                for planned in &mut accepted.deliveries {
                    planned.parked = Some(ParkReason::Guarded);
                }
                comes_back(&entry);
            }
        }
        assert!(judgement(1, 1, 0).is_err() && judgement(0, 2, 0).is_err() && judgement(99, 2, 0).is_err());
    }

    #[test]
    fn conditions_and_guards_of_a_table_come_back() {
        let mut random = Random::new(4);
        for _ in 0..200 {
            let mut entry = samples::applied_routes(&mut random, Seq(9));
            let Record::RoutesApplied(applied) = &mut entry.record else { panic!("another kind") };
            let table = Arc::make_mut(&mut applied.table);
            let rules = TrustRules { guards: guards(&mut random), own_logins: vec!["mindos[bot]".into()] };
            table.trust = random.chance(50).then(|| Arc::new(rules));
            for route in &mut table.routes {
                route.guards = random.chance(50).then(|| Box::new(guards(&mut random)));
                route.matches.condition = random.chance(50).then(|| "data.size > 3".into());
            }
            comes_back(&entry);
        }
    }
}
