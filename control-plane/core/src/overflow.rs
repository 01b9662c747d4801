//! Overflow: the deliveries of a queue that are parked for want of room, lane by lane.
//!
//! Within a lane they come back in the order of their places, so only a lane's first one is ever a candidate. Invariant:
//! `firsts` holds the first of every lane that has any, so who looks for the next one meets each lane once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mindos_model::{DeliveryId, Seq};

type Place = (Seq, DeliveryId);

#[derive(Clone, Debug, Default)]
pub(crate) struct Overflow {
    by_lane: BTreeSet<(Arc<str>, Seq, DeliveryId)>,
    firsts: BTreeMap<Place, Arc<str>>,
}

impl Overflow {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_lane.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_lane.len()
    }

    pub(crate) fn insert(&mut self, lane: &Arc<str>, place: Seq, delivery: DeliveryId) {
        let first = self.first_from(lane, None);
        self.by_lane.insert((lane.clone(), place, delivery));
        if first.is_none_or(|first| (place, delivery) < first) {
            first.map(|first| self.firsts.remove(&first));
            self.firsts.insert((place, delivery), lane.clone());
        }
    }

    /// Says whether it was there.
    pub(crate) fn remove(&mut self, lane: &str, place: Seq, delivery: DeliveryId) -> bool {
        let lane: Arc<str> = Arc::from(lane);
        let was_there = self.by_lane.remove(&(lane.clone(), place, delivery));
        if self.firsts.remove(&(place, delivery)).is_some()
            && let Some(next) = self.first_from(&lane, None)
        {
            self.firsts.insert(next, lane);
        }
        was_there
    }

    /// The deliveries to let back in, oldest first and at most `max`, each with its place. `room` says for how many more a
    /// lane has room.
    ///
    /// Looks at no more lanes than are full and than get some back; of full ones there are at most as many as a full queue
    /// has room for full lanes.
    pub(crate) fn fitting(&self, max: usize, room: impl Fn(&str) -> u32) -> Vec<(Seq, DeliveryId)> {
        let mut fitting = Vec::new();
        let mut firsts = self.firsts.iter().peekable();
        // Those behind one that is let back in, with the room that their lanes have left.
        let mut behind: BTreeMap<Place, (&Arc<str>, u32)> = BTreeMap::new();
        while fitting.len() < max {
            let is_behind = match (firsts.peek(), behind.first_key_value()) {
                (None, None) => break,
                (Some((first, _)), Some((next, _))) => next < first,
                (first, _) => first.is_none(),
            };
            let found = if is_behind {
                behind.pop_first()
            } else {
                firsts.next().map(|(place, lane)| (*place, (lane, room(lane))))
            };
            let Some((place, (lane, room))) = found.filter(|(_, (_, room))| *room > 0) else { continue };
            fitting.push(place);
            if let Some(next) = self.first_from(lane, Some(place)) {
                behind.insert(next, (lane, room - 1));
            }
        }
        fitting
    }

    /// All of them, in no order that matters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Seq, DeliveryId)> + '_ {
        self.by_lane.iter().map(|(_, place, delivery)| (*place, *delivery))
    }

    /// The lane's first one, or the first behind another one.
    fn first_from(&self, lane: &Arc<str>, after: Option<Place>) -> Option<Place> {
        use std::ops::Bound;
        let start = match after {
            Some((place, delivery)) => Bound::Excluded((lane.clone(), place, delivery)),
            None => Bound::Included((lane.clone(), Seq::ZERO, DeliveryId::new(Seq::ZERO, 0))),
        };
        let next = self.by_lane.range((start, Bound::Unbounded)).next();
        next.filter(|(of, ..)| of == lane).map(|(_, place, delivery)| (*place, *delivery))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> Place {
        (Seq(seq), DeliveryId::new(Seq(seq), 1))
    }

    fn overflow(places: &[(&str, u64)]) -> Overflow {
        let mut overflow = Overflow::default();
        for (lane, seq) in places {
            overflow.insert(&Arc::from(*lane), Seq(*seq), place(*seq).1);
        }
        overflow
    }

    #[test]
    fn a_full_lane_hides_no_other_however_long_it_is() {
        let mut overflow = overflow(&[("free", 9_000)]);
        let full: Arc<str> = "full".into();
        for seq in 1..=1_000 {
            overflow.insert(&full, Seq(seq), place(seq).1);
        }
        let asked = std::cell::Cell::new(0);
        let room = |lane: &str| {
            asked.set(asked.get() + 1);
            u32::from(lane == "free")
        };

        assert_eq!(overflow.fitting(64, room), [place(9_000)]);
        assert_eq!(asked.get(), 2, "each lane once");
    }

    #[test]
    fn the_oldest_come_first_over_all_lanes() {
        let mut overflow = overflow(&[("b", 2), ("a", 1), ("a", 3), ("b", 4), ("a", 5), ("c", 6)]);
        let room = |lane: &str| if lane == "a" { 2 } else { 9 };

        assert_eq!(overflow.fitting(9, room), [place(1), place(2), place(3), place(4), place(6)]);
        assert_eq!(overflow.fitting(3, room), [place(1), place(2), place(3)]);

        assert!(overflow.remove("a", Seq(1), place(1).1) && !overflow.remove("a", Seq(1), place(1).1));
        overflow.remove("a", Seq(5), place(5).1);
        assert_eq!(overflow.fitting(9, room), [place(2), place(3), place(4), place(6)]);
        assert_eq!(overflow.len(), 4);
    }
}
