//! What the simulator compares the indexes of effects with: a scan of all that is open.

use std::collections::{BTreeMap, BTreeSet};

use mindos_model::{EffectId, Seq, limits};

use super::state::{Effects, Phase, series_of};

macro_rules! same {
    ($found:expr, $listed:expr, $what:literal) => {{
        let (found, listed) = ($found, $listed);
        if found != listed {
            return Err(format!("{}: a scan finds {found:?}, listed is {listed:?}", $what));
        }
    }};
}

impl Effects {
    /// Names the first thing in which an index differs from a scan.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (mut targets, mut events) = (BTreeMap::<_, BTreeSet<_>>::new(), BTreeSet::new());
        let (mut later, mut releases) = (BTreeSet::new(), BTreeSet::new());
        for (effect, open) in &self.open {
            let stuck = self.is_stuck(*effect, open);
            if stuck != open.stuck {
                return Err(format!("effect {effect} is listed with stuck={}, a scan finds {stuck}", open.stuck));
            }
            if !stuck {
                targets.entry((open.tenant.clone(), open.target.clone())).or_default().insert(*effect);
            }
            events.insert((open.event, *effect));
            match open.phase {
                Phase::Waiting { not_before } if not_before > self.fired => later.insert((not_before, *effect)),
                Phase::Failed { since } if since + limits::EFFECT_BLOCK_MAX > self.fired => {
                    releases.insert((since + limits::EFFECT_BLOCK_MAX, *effect))
                }
                Phase::Waiting { .. } | Phase::Failed { .. } => false,
            };
            let series = self.series.get(&series_of(*effect, open.ordinal));
            let own = series.and_then(|series| series.places.get(open.ordinal as usize));
            if own.is_none_or(|place| place.effect != *effect) {
                return Err(format!("effect {effect} does not stand in its series"));
            }
        }
        same!(&targets, &self.targets, "order on targets");
        same!(&events, &self.events, "open effects by event");
        same!(&later, &self.later, "effects put off");
        same!(&releases, &self.releases, "failed effects that hold up their targets");
        let due: BTreeSet<_> = self.open.iter().filter(|(id, open)| self.is_due(**id, open)).map(|(id, _)| *id).collect();
        same!(&due, &self.due, "effects that are due");
        let (mut kept, mut repeats) = (BTreeMap::new(), BTreeSet::new());
        for (first, series) in &self.series {
            let places = series.places.len();
            *kept.entry(series.tenant.clone()).or_default() += places;
            let end = EffectId(Seq(first.0.0 + places as u64));
            if places >= series.of as usize && self.open.range(first..&end).next().is_none() {
                return Err(format!("series {first} is kept with nothing open in it"));
            }
            let repeated = series.places.iter().zip(first.0.0..).filter(|(place, own)| place.effect.0.0 != *own);
            repeats.extend(repeated.filter(|(place, _)| self.is_open(place.effect)).map(|(p, _)| (p.effect, *first)));
        }
        same!(&kept, &self.kept, "places in series by tenant");
        same!(&repeats, &self.repeats, "open effects that series repeat");
        Ok(())
    }
}
