//! Feedback: what people made of results, and what that has to do with who gets the next work.
//!
//! ```text
//!  feedback --> tally of (general, version) --> opinion, -1000 to 1000 --> factor on load or score, within the route's weight
//! ```
//! One voice counts once for a delivery: what the same source says of it later takes the place of what it said before. Only results
//! that counted are weighed, not those of shadows and replays. Invariants: everything here is a fold over records with a bound on its
//! size; no opinion moves a choice by more than the route's weight, and a share of choices, the route's floor, is made without it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use mindos_model::DeliveryId;

use crate::durable::Durable;
use crate::input::Entropy;
use crate::record::{Choice, DedupeKey, GeneralKey, Load};
use crate::replay::{Role, Variant};
use crate::routing::RouteIdx;

/// Generals that opinions are kept of; those that come later are weighed as unknown.
pub const OPINIONS_MAX: usize = 4096;
/// Versions of one general that opinions are kept of: the newest.
pub const VERSIONS_MAX: usize = 8;
/// Voices that are remembered, so that none counts twice; the oldest is forgotten first.
pub const VOICES_MAX: usize = 16_384;
/// Voices in a tally before half of them are forgotten.
const TALLY_MAX: u32 = 512;
/// How many voices without an opinion every tally begins with, so that the first few do not decide.
const DOUBT: i64 = 8;
/// What stands for "as all others", in thousandths.
const NEUTRAL: u64 = 1000;

/// What somebody made of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FeedbackVerdict {
    /// It was taken over.
    Accepted,
    /// It was looked at and not used.
    Dismissed,
    /// It was used and taken back later.
    Reverted,
}

/// That somebody made something of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    pub delivery: DeliveryId,
    pub verdict: FeedbackVerdict,
    /// Start of the SHA-256 of tenant, source and delivery: who said it of what.
    pub voice: DedupeKey,
    /// Who did the work.
    pub general: Arc<GeneralKey>,
    /// On which side of a comparison the work stood.
    pub variant: Variant,
}

/// How a route lets feedback weigh its choices, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackRule {
    /// The most by which an opinion makes a load or score count for more or less.
    pub weight: u32,
    /// The share of choices that is made without opinions.
    pub floor: u32,
}

/// What feedback had to do with a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weighing {
    /// The choice was one of those made without.
    pub left_out: bool,
    /// Factors on the loads of the generals weighed, in thousandths, in their order; empty where all are 1000.
    pub generals: Vec<u32>,
    /// Factors on the scores of the instances weighed, as above.
    pub instances: Vec<u32>,
}

/// Voices counted, older ones for less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voices {
    pub accepted: u32,
    pub dismissed: u32,
    pub reverted: u32,
}

impl Voices {
    fn of(&mut self, verdict: FeedbackVerdict) -> &mut u32 {
        match verdict {
            FeedbackVerdict::Accepted => &mut self.accepted,
            FeedbackVerdict::Dismissed => &mut self.dismissed,
            FeedbackVerdict::Reverted => &mut self.reverted,
        }
    }

    fn count(self) -> u32 {
        self.accepted + self.dismissed + self.reverted
    }

    fn add(&mut self, verdict: FeedbackVerdict) {
        if self.count() >= TALLY_MAX {
            let Voices { accepted, dismissed, reverted } = *self;
            *self = Voices { accepted: accepted / 2, dismissed: dismissed / 2, reverted: reverted / 2 };
        }
        *self.of(verdict) += 1;
    }

    fn plus(self, other: Voices) -> Voices {
        Voices {
            accepted: self.accepted + other.accepted,
            dismissed: self.dismissed + other.dismissed,
            reverted: self.reverted + other.reverted,
        }
    }

    /// From -1000, all against, to 1000, all for; nearer to 0 the fewer there are.
    fn opinion(self) -> i64 {
        let (good, bad) = (i64::from(self.accepted), i64::from(self.dismissed) + i64::from(self.reverted));
        (good - bad) * 1000 / (good + bad + DOUBT)
    }

    /// What a load or score counts, in thousandths: the less the better.
    fn factor(self, weight: u32) -> u32 {
        let moved = i64::from(weight) * self.opinion() / 1000;
        u32::try_from(NEUTRAL as i64 - moved).unwrap_or(NEUTRAL as u32)
    }
}

/// What is remembered of feedback.
#[derive(Clone, Debug)]
pub(crate) struct Opinions {
    /// By general, with the version that was heard of last behind.
    of: BTreeMap<Arc<GeneralKey>, Vec<(Arc<str>, Voices)>>,
    // Hashed, because its keys come from outside; nobody iterates it.
    said: HashMap<DedupeKey, FeedbackVerdict, FixedState>,
    order: VecDeque<DedupeKey>,
}

impl Opinions {
    pub(crate) fn new(hasher: FixedState) -> Opinions {
        Opinions { of: BTreeMap::new(), said: HashMap::with_hasher(hasher), order: VecDeque::new() }
    }

    /// Takes in what somebody said. Of a general that is gone nothing is counted: nobody would take it out again.
    pub(crate) fn hear(&mut self, feedback: &Feedback, is_there: bool) {
        let Feedback { delivery: _, verdict, voice, general, variant } = feedback;
        if variant.role != Role::Live {
            return;
        }
        let before = self.note(*voice, *verdict);
        if before == Some(*verdict) || !is_there {
            return;
        }
        let Some(voices) = self.voices_mut(general, &variant.version) else { return };
        if let Some(before) = before {
            let count = voices.of(before);
            *count = count.saturating_sub(1);
        }
        voices.add(*verdict);
    }

    /// Remembers what was said last; returns what was said before.
    pub(crate) fn note(&mut self, voice: DedupeKey, verdict: FeedbackVerdict) -> Option<FeedbackVerdict> {
        let before = self.said.insert(voice, verdict);
        if before.is_none() {
            self.order.push_back(voice);
            if self.order.len() > VOICES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.said.remove(&oldest);
            }
        }
        before
    }

    fn voices_mut(&mut self, general: &Arc<GeneralKey>, version: &Arc<str>) -> Option<&mut Voices> {
        if self.of.len() >= OPINIONS_MAX && !self.of.contains_key(general) {
            return None;
        }
        let versions = self.of.entry(general.clone()).or_default();
        let known = match versions.iter().position(|(known, _)| known == version) {
            Some(at) => versions.remove(at),
            None => {
                if versions.len() == VERSIONS_MAX {
                    versions.remove(0);
                }
                (version.clone(), Voices::default())
            }
        };
        versions.push(known);
        versions.last_mut().map(|(_, voices)| voices)
    }

    pub(crate) fn put(&mut self, general: &Arc<GeneralKey>, version: &Arc<str>, voices: Voices) {
        if let Some(place) = self.voices_mut(general, version) {
            *place = voices;
        }
    }

    pub(crate) fn forget(&mut self, general: &GeneralKey) {
        self.of.remove(general);
    }

    /// All that is kept, in one order only.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<GeneralKey>, &Arc<str>, Voices)> {
        self.of
            .iter()
            .flat_map(|(general, versions)| versions.iter().map(move |(version, voices)| (general, version, *voices)))
    }

    /// Voices in the order in which they were first heard.
    pub(crate) fn said(&self) -> impl Iterator<Item = (DedupeKey, FeedbackVerdict)> + '_ {
        self.order.iter().filter_map(|voice| Some((*voice, *self.said.get(voice)?)))
    }

    fn of_general(&self, general: &GeneralKey) -> Voices {
        let versions = self.of.get(general).into_iter().flatten();
        versions.fold(Voices::default(), |sum, (_, voices)| sum.plus(*voices))
    }

    fn of_version(&self, general: &GeneralKey, version: &str) -> Voices {
        let mut versions = self.of.get(general).into_iter().flatten();
        versions.find(|(known, _)| **known == *version).map(|(_, voices)| *voices).unwrap_or_default()
    }
}

impl Load {
    /// Orders by share of slots that would be taken with one more, each times its factor.
    pub(crate) fn is_below_weighed(self, factor: u32, other: Load, other_factor: u32) -> bool {
        let cost = |load: Load, factor: u32| (u128::from(load.open) + 1) * u128::from(factor);
        cost(self, factor) * u128::from(other.capacity) < cost(other, other_factor) * u128::from(self.capacity)
    }

    /// By the factors where there are some, else as [`Load::is_below`].
    pub(crate) fn is_less(self, factor: Option<u32>, other: Load, other_factor: Option<u32>) -> bool {
        match (factor, other_factor) {
            (Some(factor), Some(other_factor)) => self.is_below_weighed(factor, other, other_factor),
            (Some(_) | None, _) => self.is_below(other),
        }
    }
}

impl Durable {
    /// The weight of opinions in this choice; `None` where the route asks for none, or the choice is one of those made without.
    pub(crate) fn opinion_weight(&self, route: RouteIdx, entropy: &mut Entropy, choice: &mut Choice) -> Option<u32> {
        let FeedbackRule { weight, floor } = self.routing.rule(route).route.policy.feedback?;
        let left_out = entropy.below(NEUTRAL) < u64::from(floor);
        choice.feedback = Some(Box::new(Weighing { left_out, ..Weighing::default() }));
        (!left_out).then_some(weight)
    }

    pub(crate) fn general_factor(&self, general: &GeneralKey, weight: u32) -> u32 {
        self.opinions.of_general(general).factor(weight)
    }

    pub(crate) fn version_factor(&self, general: &GeneralKey, version: &str, weight: u32) -> u32 {
        self.opinions.of_version(general, version).factor(weight)
    }
}

impl Weighing {
    /// As it is recorded: without factors where none differs.
    pub(crate) fn tidy(&mut self) {
        for factors in [&mut self.generals, &mut self.instances] {
            if factors.iter().all(|factor| u64::from(*factor) == NEUTRAL) {
                factors.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindos_model::Seq;

    fn general(name: &str) -> Arc<GeneralKey> {
        let tenant = mindos_model::TenantName::default_tenant();
        Arc::new(GeneralKey { tenant, cluster: "c1".parse().unwrap(), name: name.parse().unwrap() })
    }

    fn said(number: u32, verdict: FeedbackVerdict, version: &str) -> Feedback {
        let mut voice = [0; 16];
        voice[..4].copy_from_slice(&number.to_le_bytes());
        let route = "r".parse().unwrap();
        let variant = Variant { route, role: Role::Live, arm: "".into(), version: version.into() };
        let delivery = DeliveryId::new(Seq(u64::from(number)), 1);
        Feedback { delivery, verdict, voice, general: general("g"), variant }
    }

    fn heard(all: impl IntoIterator<Item = Feedback>) -> Opinions {
        let mut opinions = Opinions::new(FixedState::with_seed(0));
        all.into_iter().for_each(|feedback| opinions.hear(&feedback, true));
        opinions
    }

    #[test]
    fn one_voice_counts_once_and_by_what_it_said_last() {
        use FeedbackVerdict::{Accepted, Reverted};
        let opinions = heard([said(1, Accepted, "1"), said(1, Accepted, "1"), said(2, Accepted, "1")]);
        assert_eq!(opinions.of_general(&general("g")), Voices { accepted: 2, ..Voices::default() });
        let opinions = heard([said(1, Accepted, "1"), said(2, Accepted, "1"), said(1, Reverted, "1")]);
        assert_eq!(opinions.of_general(&general("g")), Voices { accepted: 1, reverted: 1, dismissed: 0 });
    }

    #[test]
    fn what_shadows_and_replays_did_weighs_nothing() {
        for role in [Role::Shadow, Role::Replay] {
            let mut feedback = said(1, FeedbackVerdict::Accepted, "1");
            feedback.variant.role = role;
            assert_eq!(heard([feedback]).iter().count(), 0);
        }
    }

    #[test]
    fn no_number_of_voices_moves_a_factor_beyond_the_weight() {
        for (verdict, least, most) in [(FeedbackVerdict::Accepted, 700, 999), (FeedbackVerdict::Dismissed, 1001, 1300)]
        {
            let mut factors = Vec::new();
            let mut opinions = Opinions::new(FixedState::with_seed(0));
            for number in 0..2000 {
                opinions.hear(&said(number, verdict, "1"), true);
                factors.push(opinions.of_general(&general("g")).factor(300));
            }
            assert!(factors.iter().all(|factor| (least..=most).contains(factor)), "{verdict:?}");
            assert!(opinions.of_general(&general("g")).count() <= TALLY_MAX);
        }
        // The first voice moves it by a ninth of the weight.
        assert_eq!(Voices { accepted: 1, ..Voices::default() }.factor(300), 967);
        assert_eq!(Voices::default().factor(300), 1000);
    }

    #[test]
    fn opinions_and_voices_stay_within_their_bounds() {
        let mut opinions = Opinions::new(FixedState::with_seed(0));
        for number in 0..VOICES_MAX as u32 + 10 {
            opinions.hear(&said(number, FeedbackVerdict::Accepted, &format!("1.{}", number % 20)), true);
        }
        assert_eq!(opinions.iter().count(), VERSIONS_MAX);
        assert_eq!((opinions.order.len(), opinions.said.len()), (VOICES_MAX, VOICES_MAX));
        for number in 0..=OPINIONS_MAX {
            opinions.put(&general(&format!("g{number}")), &"1".into(), Voices::default());
        }
        assert_eq!(opinions.of.len(), OPINIONS_MAX);
    }

    #[test]
    fn an_idle_general_of_good_repute_goes_before_an_idle_one() {
        let idle = Load { open: 0, capacity: 4 };
        assert!(idle.is_below_weighed(900, idle, 1000) && !idle.is_below_weighed(1000, idle, 1000));
        // Within the weight: twice the load outweighs any opinion of 300 thousandths.
        assert!(!Load { open: 1, capacity: 4 }.is_below_weighed(700, idle, 1000));
    }
}
