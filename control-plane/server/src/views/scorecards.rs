//! Scorecards: what came of each side of a comparison, folded from leases that say what they compare.
//!
//! Read from the journal when somebody asks, for a window of time: nothing is kept meanwhile, and no restart loses anything. Invariant:
//! memory is bounded by [`CARDS_MAX`], [`OPEN_MAX`] and [`VOICES_MAX`], whatever the window is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mindos_core::budget::Amount;
use mindos_core::feedback::{Feedback, FeedbackVerdict};
use mindos_core::record::{Entry, GeneralKey, Record, Role, Usage, Variant};
use mindos_model::{DeliveryId, RouteName, TenantName, Timestamp};

/// Cards of one answer.
pub const CARDS_MAX: usize = 1000;
/// Leases that are open at a time and counted.
const OPEN_MAX: usize = 1 << 18;
/// Voices of which the last word is remembered; those beyond are counted each time.
const VOICES_MAX: usize = 1 << 18;
/// Buckets of a quarter of a doubling, in milliseconds: enough for 49 days.
const BUCKETS: usize = 128;

/// What a card is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Side {
    pub route: RouteName,
    pub role: Role,
    pub arm: Arc<str>,
    pub general: Arc<GeneralKey>,
    pub version: Arc<str>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Card {
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub cost_micros: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub accepted: u64,
    pub dismissed: u64,
    pub reverted: u64,
    took: Box<[u32; BUCKETS]>,
}

impl Default for Card {
    fn default() -> Card {
        Card {
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            cost_micros: 0,
            input_tokens: 0,
            output_tokens: 0,
            accepted: 0,
            dismissed: 0,
            reverted: 0,
            took: Box::new([0; BUCKETS]),
        }
    }
}

impl Card {
    /// The time that so many in a hundred results did not take longer than, rounded up to its bucket's end; unset without a result.
    #[must_use]
    pub fn took_ms(&self, percent: u64) -> Option<u64> {
        let count: u64 = self.took.iter().map(|count| u64::from(*count)).sum();
        let mut left = (count * percent).div_ceil(100).max(1);
        for (bucket, count) in self.took.iter().enumerate().filter(|_| count > 0) {
            left = left.saturating_sub(u64::from(*count));
            if left == 0 {
                return Some(end(bucket));
            }
        }
        None
    }

    fn used(&mut self, used: Used) {
        // From outside, so of any size.
        self.cost_micros = self.cost_micros.saturating_add(used.cost_micros);
        self.input_tokens = self.input_tokens.saturating_add(used.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(used.output_tokens);
    }

    fn voices(&mut self, verdict: FeedbackVerdict) -> &mut u64 {
        match verdict {
            FeedbackVerdict::Accepted => &mut self.accepted,
            FeedbackVerdict::Dismissed => &mut self.dismissed,
            FeedbackVerdict::Reverted => &mut self.reverted,
        }
    }
}

/// What the work of a lease used.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cost_micros: u64,
    input_tokens: u64,
    output_tokens: u64,
}

impl Used {
    fn of(usage: &[Usage]) -> Used {
        usage.iter().fold(Used::default(), |sum, usage| Used {
            cost_micros: sum.cost_micros.saturating_add(usage.cost_micros),
            input_tokens: sum.input_tokens.saturating_add(usage.input_tokens),
            output_tokens: sum.output_tokens.saturating_add(usage.output_tokens),
        })
    }

    fn max(self, other: Used) -> Used {
        Used {
            cost_micros: self.cost_micros.max(other.cost_micros),
            input_tokens: self.input_tokens.max(other.input_tokens),
            output_tokens: self.output_tokens.max(other.output_tokens),
        }
    }
}

/// A lease that is counted when it ends.
#[derive(Debug)]
struct Open {
    side: Side,
    /// What its general reported last, in sums.
    reported: Used,
}

fn bucket(ms: u64) -> usize {
    if ms < 4 {
        return ms as usize;
    }
    let exponent = 63 - ms.leading_zeros();
    let quarter = (ms >> (exponent - 2)) & 3;
    (4 * (exponent as usize - 1) + quarter as usize).min(BUCKETS - 1)
}

fn end(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (exponent, quarter) = (bucket / 4 + 1, bucket as u64 % 4);
    ((4 + quarter + 1) << (exponent - 2)) - 1
}

/// Cards as they are folded.
#[derive(Debug)]
pub struct Scorecards {
    tenant: TenantName,
    route: Option<RouteName>,
    since: Timestamp,
    cards: BTreeMap<Side, Card>,
    open: HashMap<DeliveryId, Open>,
    said: HashMap<[u8; 16], FeedbackVerdict>,
    /// Leases and voices that found no room.
    pub left_out: u64,
}

impl Scorecards {
    /// Cards of one route, or of all; what is before `since` is not counted.
    #[must_use]
    pub fn new(tenant: TenantName, route: Option<RouteName>, since: Timestamp) -> Scorecards {
        let (cards, open, said) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Scorecards { tenant, route, since, cards, open, said, left_out: 0 }
    }

    /// Takes in a record.
    pub fn fold(&mut self, entry: &Entry) {
        if entry.at < self.since {
            return;
        }
        match &entry.record {
            Record::DeliveryLeased(leased) => {
                let Some(variant) = &leased.variant else { return };
                let Some(side) = self.side(&leased.general, variant) else { return };
                if self.open.len() >= OPEN_MAX || !self.has_room(&side) {
                    self.left_out += 1;
                    return;
                }
                self.open.insert(leased.delivery, Open { side, reported: Used::default() });
            }
            Record::LeaseExtended(extended) => {
                if let Some(open) = self.open.get_mut(&extended.delivery) {
                    open.reported = open.reported.max(Used::of(&extended.usage));
                }
            }
            Record::AttemptEnded(ended) => {
                if let Some(card) = self.ended(ended.delivery, &ended.usage, ended.charged) {
                    card.failed += 1;
                }
            }
            Record::DeliverySettled(settled) => {
                let Some(card) = self.ended(settled.delivery, &settled.usage, settled.charged) else { return };
                card.succeeded += 1;
                let count = &mut card.took[bucket(settled.took_ms)];
                *count = count.saturating_add(1);
            }
            Record::DeliveryCancelled(cancelled) => {
                if let Some(card) = self.ended(cancelled.delivery, &[], cancelled.charged.as_deref().copied()) {
                    card.cancelled += 1;
                }
            }
            Record::EventAccepted(event) => {
                if let Some(feedback) = event.feedback() {
                    self.heard(feedback);
                }
            }
            _ => {}
        }
    }

    fn side(&self, general: &Arc<GeneralKey>, variant: &Variant) -> Option<Side> {
        let Variant { route, role, arm, version } = variant;
        let is_meant = general.tenant == self.tenant && self.route.as_ref().is_none_or(|wanted| wanted == route);
        is_meant.then(|| Side {
            route: route.clone(),
            role: *role,
            arm: arm.clone(),
            general: general.clone(),
            version: version.clone(),
        })
    }

    fn has_room(&self, side: &Side) -> bool {
        self.cards.len() < CARDS_MAX || self.cards.contains_key(side)
    }

    /// A lease ended: what it used is on its card, and what its budgets were charged where that is more.
    fn ended(&mut self, delivery: DeliveryId, usage: &[Usage], charged: Option<Amount>) -> Option<&mut Card> {
        let Open { side, reported } = self.open.remove(&delivery)?;
        if !self.has_room(&side) {
            self.left_out += 1;
            return None;
        }
        let used = reported.max(Used::of(usage));
        let cost_micros = used.cost_micros.max(charged.map_or(0, |charged| charged.micros));
        let card = self.cards.entry(side).or_default();
        card.used(Used { cost_micros, ..used });
        Some(card)
    }

    fn heard(&mut self, feedback: &Feedback) {
        let Feedback { delivery: _, verdict, voice, general, variant } = feedback;
        let Some(side) = self.side(general, variant) else { return };
        if !self.has_room(&side) {
            self.left_out += 1;
            return;
        }
        let before = match self.said.len() < VOICES_MAX || self.said.contains_key(voice) {
            true => self.said.insert(*voice, *verdict),
            false => None,
        };
        let card = self.cards.entry(side).or_default();
        if let Some(before) = before {
            let count = card.voices(before);
            *count = count.saturating_sub(1);
        }
        *card.voices(*verdict) += 1;
    }

    /// The cards in order.
    pub fn cards(&self) -> impl Iterator<Item = (&Side, &Card)> {
        self.cards.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::testing::{Records, general};
    use mindos_core::record::{About, AttemptEnded, CancelReason, Cause, DeliveryCancelled, LeaseExtended, Next};
    use mindos_model::{Seq, Token};

    #[test]
    fn times_fall_into_buckets_a_quarter_of_a_doubling_wide() {
        for ms in [0, 1, 3, 4, 5, 7, 8, 9, 100, 1000, 30_000, 3_600_000, u64::from(u32::MAX)] {
            let end = end(bucket(ms));
            assert!((ms..=ms + ms / 4).contains(&end), "{ms} {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    fn variant(role: Role) -> Variant {
        Variant { route: "r".parse().unwrap(), role, arm: "".into(), version: "1.2".into() }
    }

    /// The records with a variant on every lease, by its delivery.
    fn folded(records: &Records, since: u64, role: impl Fn(DeliveryId) -> Role) -> Scorecards {
        let mut cards = Scorecards::new(TenantName::default_tenant(), None, Timestamp(since));
        for mut entry in records.entries() {
            if let Record::DeliveryLeased(leased) = &mut entry.record {
                leased.variant = Some(Box::new(variant(role(leased.delivery))));
            }
            cards.fold(&entry);
        }
        cards
    }

    #[test]
    fn each_end_of_a_lease_counts_once_on_its_side() {
        let (records, of) = (Records::default(), general("eu", "g"));
        let role = |delivery: DeliveryId| if delivery.ordinal == 1 { Role::Live } else { Role::Shadow };
        let event = records.event("o/r", "job", &[&of, &of]);
        let (live, shadow) = (DeliveryId::new(event, 1), DeliveryId::new(event, 2));
        records.leased(live, &of, 1);
        records.leased(shadow, &of, 1);
        records.settled(live);
        records.failed(shadow, true, Next::Wait { not_before: Timestamp(0) });
        // It comes to nothing: its attempt was counted.
        let (reason, why, by) = (CancelReason::ShadowFailed, Arc::from(""), Arc::from(""));
        let cancelled = DeliveryCancelled { delivery: shadow, reason, why, by, charged: None, unanswered: false };
        records.push(Record::DeliveryCancelled(Box::new(cancelled)));

        let cards = folded(&records, 0, role);
        let found: Vec<_> = cards.cards().collect();

        let counts = |card: &Card| (card.succeeded, card.failed, card.cancelled, card.cost_micros);
        assert_eq!(
            found.iter().map(|(side, card)| (side.role, counts(card))).collect::<Vec<_>>(),
            [(Role::Live, (1, 0, 0, 7)), (Role::Shadow, (0, 1, 0, 0)),]
        );
        assert_eq!((found[0].1.took_ms(50), found[0].1.took_ms(90), found[1].1.took_ms(50)), (Some(4), Some(4), None));
        assert_eq!(folded(&records, u64::MAX, role).cards().count(), 0);
    }

    #[test]
    fn what_ends_without_a_result_costs_what_was_reported_or_charged() {
        let (records, of) = (Records::default(), general("eu", "g"));
        let event = records.event("o/r", "job", &[&of, &of, &of]);
        let ids = [1, 2, 3].map(|ordinal| DeliveryId::new(event, ordinal));
        let amount = |micros| Amount { micros, tokens: 0, time_ms: 0 };
        let cancelled = |delivery, charged: Option<u64>| {
            let (reason, charged) = (CancelReason::Requested, charged.map(|micros| Box::new(amount(micros))));
            let (why, by, unanswered) = (Arc::from(""), Arc::from(""), false);
            let cancelled = DeliveryCancelled { delivery, reason, why, by, charged, unanswered };
            Record::DeliveryCancelled(Box::new(cancelled))
        };
        for id in ids {
            records.leased(id, &of, 1);
        }
        // Reported twice, in sums, and charged a little more at its end.
        for (cost_micros, output_tokens) in [(20, 5), (30, 9)] {
            let usage = vec![Usage { cost_micros, output_tokens, ..Usage::default() }];
            let (delivery, token) = (ids[0], Token::default());
            let extended = LeaseExtended { delivery, token, checkpoint: None, usage, reserved: None, spent: None };
            records.push(Record::LeaseExtended(Box::new(extended)));
        }
        records.push(cancelled(ids[0], Some(34)));
        // Never reported, under a budget and under none.
        records.push(cancelled(ids[1], Some(100)));
        records.push(cancelled(ids[2], None));
        // Its lease lapses, and it is charged all that it had.
        records.leased(ids[2], &of, 2);
        records.push(Record::AttemptEnded(Box::new(AttemptEnded {
            delivery: ids[2],
            token: Token::new(1, 2),
            cause: Cause::Lapsed,
            message: "".into(),
            counted: true,
            next: Next::Wait { not_before: Timestamp(0) },
            usage: Vec::new(),
            charged: Some(amount(500)),
            over: None,
        })));

        let cards = folded(&records, 0, |_| Role::Live);

        let (_, card) = cards.cards().next().unwrap();
        assert_eq!((card.cancelled, card.failed, card.cost_micros, card.output_tokens), (3, 1, 634, 9));
    }

    #[test]
    fn the_last_word_of_a_voice_counts() {
        let (records, of) = (Records::default(), general("eu", "g"));
        let say = |voice: u8, verdict| {
            let event = records.event("o/r", "said", &[]);
            let feedback = Feedback {
                delivery: DeliveryId::new(Seq(1), 1),
                verdict,
                voice: [voice; 16],
                general: of.clone(),
                variant: variant(Role::Live),
            };
            let mut entry = records.entries()[event.0 as usize - 1].clone();
            let Record::EventAccepted(accepted) = &mut entry.record else { panic!("it is another record") };
            accepted.about = Some(Box::new(About::Feedback(feedback)));
            entry
        };
        let mut cards = Scorecards::new(TenantName::default_tenant(), None, Timestamp(0));
        for entry in [
            say(1, FeedbackVerdict::Accepted),
            say(1, FeedbackVerdict::Reverted),
            say(2, FeedbackVerdict::Accepted),
            say(2, FeedbackVerdict::Accepted),
        ] {
            cards.fold(&entry);
        }
        let (_, card) = cards.cards().next().unwrap();
        assert_eq!((card.accepted, card.dismissed, card.reverted), (1, 0, 1));
    }
}
