//! What the encoding promises: all comes back, noise is an error, old bytes keep their meaning.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::record::{Entry, Holds, Record};
use mindos_core::snapshot::Item;
use mindos_model::{Priority, Seq, Token};
use mindos_proto::journal::v1 as pb;
use prost::Message;

use super::samples::{self, KINDS};
use super::{DecodeError, Names, decode, encode, message, state, words};
use crate::fault::Random;

/// Bytes of every kind as this release writes them. A change here makes old journals unreadable: add a field or a kind instead.
const GOLDEN: &str = include_str!("golden.txt");

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(entry, &mut bytes);
    bytes
}

fn decoded(names: &mut Names, entry: &Entry, bytes: &[u8]) -> Result<Option<Entry>, DecodeError> {
    decode(names, entry.seq, bytes, entry.record.payload().cloned())
}

#[test]
fn every_kind_comes_back() {
    let mut names = Names::default();
    let mut random = Random::new(1);
    for number in 0..400 * KINDS {
        let entry = samples::entry(&mut random, number % KINDS, Seq(1 + number));

        let back = decoded(&mut names, &entry, &encoded(&entry)).unwrap().unwrap();

        assert_eq!(back, entry);
    }
}

#[test]
fn kinds_written_by_hand_are_those_of_the_messages() {
    let mut names = Names::default();
    let mut random = Random::new(2);
    for number in 0..400 * KINDS {
        let entry = samples::entry(&mut random, number % KINDS, Seq(1 + number));

        let by_message = message(&entry).encode_to_vec();

        assert_eq!(encoded(&entry), by_message, "{entry:?}");
        // And the messages read what is written by hand.
        let kind = pb::Entry::decode(&*encoded(&entry)).unwrap().record.unwrap();
        let record = super::read::from_message(&mut names, kind, entry.record.payload().cloned()).unwrap();
        assert_eq!(record, entry.record);
    }
}

/// The reason that somebody gave for it.
fn why_of(record: &mut Record) -> Option<&mut Arc<str>> {
    match record {
        Record::DeliveryCancelled(record) => Some(&mut record.why),
        Record::CancelRequested(record) => Some(&mut record.why),
        Record::DeliveryRedriven(record) => Some(&mut record.why),
        Record::HoldChanged(record) => Some(&mut record.why),
        _ => None,
    }
}

#[test]
fn a_reason_that_was_given_comes_back_and_stands_in_the_message() {
    let (mut names, mut random) = (Names::default(), Random::new(7));
    let mut seen = BTreeSet::new();
    for number in 0..20 * KINDS {
        let mut entry = samples::entry(&mut random, number % KINDS, Seq(1 + number));
        let Some(why) = why_of(&mut entry.record) else { continue };
        *why = Arc::from("no longer wanted");
        seen.insert(entry.record.kind());

        let bytes = encoded(&entry);

        assert_eq!(decoded(&mut names, &entry, &bytes).unwrap().as_ref(), Some(&entry));
        let shown = match message(&entry).record.unwrap() {
            pb::entry::Record::DeliveryCancelled(shown) => shown.message,
            pb::entry::Record::CancelRequested(shown) => shown.message,
            pb::entry::Record::DeliveryRedriven(shown) => shown.message,
            pb::entry::Record::HoldChanged(shown) => shown.reason,
            other => panic!("another kind: {other:?}"),
        };
        assert_eq!(shown, "no longer wanted");
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_refused_token_comes_back_whatever_it_was() {
    let mut random = Random::new(5);
    let refused = (0..).map(|kind| samples::entry(&mut random, kind, Seq(9))).take(KINDS as usize);
    let mut entry = refused.into_iter().find(|entry| entry.record.kind() == "ResultRefused").unwrap();
    for (epoch, term) in [(0, 0), (0, 7), (7, 0), (7, 7), (u32::MAX, u32::MAX)] {
        let Record::ResultRefused(record) = &mut entry.record else { panic!("another kind") };
        (record.presented, record.current) = (Token::new(epoch, term), Token::new(term, epoch));

        assert_eq!(decoded(&mut Names::default(), &entry, &encoded(&entry)).unwrap().as_ref(), Some(&entry));
    }
}

#[test]
fn every_set_of_holds_comes_back() {
    for number in 0..8_u8 {
        let holds = Holds { paused: number & 1 > 0, cordoned: number & 2 > 0, draining: number & 4 > 0 };

        let (first, besides) = words::of_holds(holds);

        assert_eq!(words::holds(first, &besides), Ok(holds));
        // Readers from before there were several see the strongest.
        assert_eq!(besides.len() + usize::from(first != 0), number.count_ones() as usize);
    }
    assert!(words::holds(1, &[9]).is_err());
}

#[test]
fn every_snapshot_item_comes_back() {
    let mut names = Names::default();
    let mut random = Random::new(3);
    for _ in 0..4000 {
        let item = samples::item(&mut random);
        let mut bytes = Vec::new();
        state::encode(&item, &mut bytes);

        let mut read = Vec::new();
        state::decode(&mut names, &bytes, &mut |item| read.push(item)).unwrap();
        assert_eq!(read, [item]);
    }
}

#[test]
fn every_priority_comes_back_and_the_normal_one_takes_no_byte() {
    let mut names = Names::default();
    let mut random = Random::new(6);
    let (mut accepted, mut routes) = (0, 0);
    for number in 0..8 * KINDS {
        let mut entry = samples::entry(&mut random, number % KINDS, Seq(1 + number));
        let plain = encoded(&entry).len();
        for priority in Priority::ALL {
            match &mut entry.record {
                Record::EventAccepted(record) => (record.priority, accepted) = (*priority, accepted + 1),
                Record::RoutesApplied(record) => {
                    let table = std::sync::Arc::make_mut(&mut record.table);
                    table.routes.iter_mut().for_each(|route| (route.priority, routes) = (*priority, routes + 1));
                }
                _ => {}
            }
            let bytes = encoded(&entry);
            assert_eq!(bytes, message(&entry).encode_to_vec());
            assert_eq!(decoded(&mut names, &entry, &bytes).unwrap().as_ref(), Some(&entry));
            assert!(*priority != Priority::Normal || bytes.len() == plain);
        }
    }
    assert!(accepted > 0 && routes > 0);
    while accepted > 0 {
        let Item::Event(mut event) = samples::item(&mut random) else { continue };
        accepted -= 1;
        (event.priority, event.source) = (Priority::ALL[accepted % 3], Some("/here".into()));
        let item = Item::Event(event);
        let mut bytes = Vec::new();
        state::encode(&item, &mut bytes);
        let mut read = Vec::new();
        state::decode(&mut names, &bytes, &mut |item| read.push(item)).unwrap();
        assert_eq!(read, [item]);
    }
}

#[test]
fn noise_is_an_error_and_never_a_panic() {
    let mut names = Names::default();
    let mut random = Random::new(4);
    for number in 0..20_000 {
        let entry = samples::entry(&mut random, number % KINDS, Seq(1 + number));
        let mut bytes = encoded(&entry);
        match random.below(3) {
            0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            1 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            _ => bytes = (0..random.below(200)).map(|_| random.bits() as u8).collect(),
        }
        let _ = decoded(&mut names, &entry, &bytes);
        let _ = state::decode(&mut names, &bytes, &mut drop);
    }
}

#[test]
fn an_unknown_kind_stops_the_reader_unless_it_may_be_passed_over() {
    let mut names = Names::default();
    let unknown = |oldest_reader| {
        let mut bytes = pb::Entry { seq: 7, at_ms: 8, oldest_reader: 0, record: None }.encode_to_vec();
        // A kind that this release does not have, and behind it what says who may pass over it.
        bytes.extend([0xa2, 0x06, 3, 1, 2, 3]);
        bytes.extend(pb::Entry { oldest_reader, ..Default::default() }.encode_to_vec());
        bytes
    };

    let stopped = decode(&mut names, Seq(7), &unknown(0), None).unwrap_err();
    assert!(matches!(stopped, DecodeError::UnknownKind { seq: Seq(7) }), "{stopped}");
    let later = decode(&mut names, Seq(7), &unknown(2), None).unwrap_err();
    assert!(matches!(later, DecodeError::UnknownKind { seq: Seq(7) }), "{later}");
    assert!(decode(&mut names, Seq(7), &unknown(1), None).unwrap().is_none());
}

#[test]
fn a_record_at_another_place_is_refused() {
    let mut names = Names::default();
    for kind in 0..KINDS {
        let entry = samples::entry(&mut Random::new(5), kind, Seq(5));

        let refused = decode(&mut names, Seq(6), &encoded(&entry), entry.record.payload().cloned()).unwrap_err();

        assert!(matches!(refused, DecodeError::WrongPlace { seq: Seq(6), says: Seq(5) }), "{refused}");
    }
}

#[test]
fn what_this_release_writes_does_not_move() {
    let mut names = Names::default();
    let mut written = String::new();
    for kind in 0..KINDS {
        let entry = samples::entry(&mut Random::new(kind), kind, Seq(100 + kind));
        let hex = encoded(&entry).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(written, "{} {hex}", entry.record.kind()).unwrap();
    }
    // Reading it comes first: it is what matters.
    for (kind, line) in (0..KINDS).zip(GOLDEN.lines()) {
        let entry = samples::entry(&mut Random::new(kind), kind, Seq(100 + kind));
        let hex = line.split_once(' ').unwrap().1;
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert_eq!(decoded(&mut names, &entry, &bytes).unwrap().unwrap(), entry);
    }
    assert_eq!(written, GOLDEN);
}
