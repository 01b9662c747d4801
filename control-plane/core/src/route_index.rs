//! Which routes of a table may concern an event, found by its kind and type and not by trying all.
//!
//! Invariant: the first route that is found is the first of the table that fits. What the lookup costs grows with the routes
//! that name the event's kind or type or none at all, and with the number of different lengths of the patterns, never with the
//! routes for other kinds.

use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::route::RouteTable;

/// Places of a table's routes by what they ask of kind and type.
#[derive(Clone, Debug, Default)]
pub struct RouteIndex {
    // Hashed, because every event passes here; nobody iterates them. The keys are the table's, not the events'.
    whole: HashMap<Arc<str>, Vec<u32>, FixedState>,
    beginnings: HashMap<Arc<str>, Vec<u32>, FixedState>,
    /// Lengths of the beginnings, each once, ascending.
    lengths: Vec<usize>,
    /// Of routes for every kind.
    any: Vec<u32>,
    conditional: bool,
}

/// What of an event the index looks at.
#[derive(Clone, Copy, Debug)]
pub struct Looked<'a> {
    pub kind: &'a str,
    pub ty: &'a str,
    pub subject: Option<&'a str>,
}

impl RouteIndex {
    /// The index of a table.
    #[must_use]
    pub fn new(table: &RouteTable) -> RouteIndex {
        let mut index = RouteIndex::default();
        for (place, route) in (0..).zip(&table.routes) {
            index.conditional |= route.matches.condition.is_some();
            if route.matches.kinds.is_empty() {
                index.any.push(place);
            }
            for pattern in &route.matches.kinds {
                let text = pattern.as_str();
                let places = match text.strip_suffix('*') {
                    None => index.whole.entry(Arc::from(text)).or_default(),
                    Some(beginning) => {
                        if let Err(at) = index.lengths.binary_search(&beginning.len()) {
                            index.lengths.insert(at, beginning.len());
                        }
                        index.beginnings.entry(Arc::from(beginning)).or_default()
                    }
                };
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        index
    }

    /// Whether any route has a condition.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        self.conditional
    }

    /// Place of the first route that fits. `holds` is asked for the conditions of those that fit otherwise, in order, until
    /// one holds.
    pub fn first(&self, table: &RouteTable, looked: Looked<'_>, mut holds: impl FnMut(u32) -> bool) -> Option<u32> {
        let Looked { kind, ty, subject } = looked;
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        lists.push(&self.any);
        let texts = if kind == ty { &[kind][..] } else { &[kind, ty][..] };
        for text in texts {
            if let Some(places) = self.whole.get(*text) {
                lists.push(places);
            }
            for len in self.lengths.iter().take_while(|len| **len <= text.len()) {
                if let Some(places) = text.get(..*len).and_then(|beginning| self.beginnings.get(beginning)) {
                    lists.push(places);
                }
            }
        }
        loop {
            let place = *lists.iter().filter_map(|list| list.first()).min()?;
            for list in &mut lists {
                if list.first() == Some(&place) {
                    *list = &list[1..];
                }
            }
            let matches = &table.routes[place as usize].matches;
            // Its kinds fit, or it would not stand in these lists.
            if matches.fits_subject(subject) && (matches.condition.is_none() || holds(place)) {
                return Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_model::Strategy;

    use super::*;
    use crate::input::Entropy;
    use crate::route::{Match, Pattern, Route, Targets};

    fn table(matches: Vec<Match>) -> RouteTable {
        let route = |(place, matches): (usize, Match)| {
            Route::new(format!("r{place}").parse().unwrap(), matches, Targets::default(), Strategy::Broadcast)
        };
        RouteTable { routes: matches.into_iter().enumerate().map(route).collect(), trust: None }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    #[test]
    fn what_the_index_finds_is_what_trying_all_finds() {
        let words = ["a", "ab", "abc", "b", "bc", "a*", "ab*", "b*", "*", "c*"];
        let texts = ["a", "ab", "abc", "abcd", "b", "bc", "bcd", "c", "d", "é"];
        let mut entropy = Entropy(11);
        for _ in 0..2_000 {
            let some = |entropy: &mut Entropy| {
                let picked = |entropy: &mut Entropy| words[entropy.below(words.len() as u64) as usize];
                (0..entropy.below(3)).map(|_| picked(entropy)).collect::<Vec<_>>()
            };
            let routes = (0..1 + entropy.below(12)).map(|_| Match {
                kinds: patterns(&some(&mut entropy)),
                subjects: patterns(&some(&mut entropy)),
                condition: (entropy.below(3) == 0).then(|| "x".into()),
            });
            let table = table(routes.collect());
            let index = RouteIndex::new(&table);
            for _ in 0..20 {
                let text = |entropy: &mut Entropy| texts[entropy.below(texts.len() as u64) as usize];
                let (kind, ty, subject) = (text(&mut entropy), text(&mut entropy), text(&mut entropy));
                let seed = entropy.draw();
                let holds = |place: u32| seed >> (place % 64) & 1 == 1;
                let tried = table.routes.iter().zip(0..).find(|(route, place)| {
                    route.matches.fits(kind, ty, Some(subject)) && (route.matches.condition.is_none() || holds(*place))
                });
                let looked = Looked { kind, ty, subject: Some(subject) };
                assert_eq!(index.first(&table, looked, holds), tried.map(|(_, place)| place), "{table:?} {looked:?}");
            }
        }
    }

    #[test]
    fn conditions_are_asked_in_order_and_only_until_one_holds() {
        let with = |kinds: &[&str], condition: Option<&str>| Match {
            kinds: patterns(kinds),
            subjects: Vec::new(),
            condition: condition.map(Arc::from),
        };
        let table = table(vec![
            with(&["other"], Some("0")),
            with(&[], Some("1")),
            with(&["k*"], Some("2")),
            with(&["kind"], Some("3")),
            with(&[], None),
        ]);
        let mut asked = Vec::new();
        let looked = Looked { kind: "kind", ty: "type", subject: None };
        let found = RouteIndex::new(&table).first(&table, looked, |place| {
            asked.push(place);
            place == 2
        });
        assert_eq!((found, asked), (Some(2), vec![1, 2]));
    }
}
