//! What the encoding of access promises beyond what holds for all kinds.

use std::sync::Arc;

use mindos_core::access::{AccessRecord, JoinRefusal};
use mindos_core::record::{Entry, Record};
use mindos_core::snapshot::Item;
use mindos_model::Seq;
use mindos_proto::journal::v1 as pb;
use prost::Message;

use super::samples::{self, KINDS};
use super::{DecodeError, Names, access_samples, decode, encode, state};
use crate::fault::Random;

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(entry, &mut bytes);
    bytes
}

/// Where a change of configuration was asked from.
fn from_of(record: &mut Record) -> Option<&mut Arc<str>> {
    match record {
        Record::GeneralRemoved(record) => Some(&mut record.from),
        Record::HoldChanged(record) => Some(&mut record.from),
        Record::RoutesApplied(record) => Some(&mut record.from),
        Record::UpgradeFinalized(record) => Some(&mut record.from),
        Record::BudgetSet(record) => Some(&mut record.from),
        Record::BudgetRemoved(record) => Some(&mut record.from),
        Record::BudgetAcknowledged(record) => Some(&mut record.from),
        _ => None,
    }
}

#[test]
fn where_a_change_was_asked_from_comes_back_and_takes_no_byte_where_it_is_not_known() {
    let (mut names, mut random) = (Names::default(), Random::new(31));
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..20 * KINDS {
        let mut entry = samples::entry(&mut random, number % KINDS, Seq(9));
        let plain = encoded(&entry).len();
        let Some(from) = from_of(&mut entry.record) else { continue };
        *from = Arc::from("192.0.2.7:443");
        seen.insert(entry.record.kind());

        let bytes = encoded(&entry);

        assert_eq!(decode(&mut names, Seq(9), &bytes, None).unwrap().as_ref(), Some(&entry));
        assert!(bytes.len() >= plain + "192.0.2.7:443".len() + 2);
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}

#[test]
fn nobody_may_pass_over_a_record_of_access() {
    for kind in 0..access_samples::KINDS {
        let entry = access_samples::entry(&mut Random::new(kind), kind, Seq(9));
        assert_eq!(pb::Entry::decode(&*encoded(&entry)).unwrap().oldest_reader, 0);
    }
}

#[test]
fn every_field_that_is_missing_or_of_another_length_is_named() {
    let (mut names, seq) = (Names::default(), Seq(9));
    let mut refused = |record: pb::entry::Record| {
        let bytes = pb::Entry { seq: 9, at_ms: 1, oldest_reader: 0, record: Some(record) }.encode_to_vec();
        match decode(&mut names, seq, &bytes, None).unwrap_err() {
            DecodeError::Malformed { seq: Seq(9), invalid } => invalid.field,
            other => panic!("{other}"),
        }
    };
    let token = || pb::JoinToken {
        hash: vec![1; 32].into(),
        cluster: "eu".to_owned(),
        holder: Some(pb::join_token::Holder::AnyGeneral(true)),
        ..Default::default()
    };
    let join = |token| pb::entry::Record::JoinTokenCreated(pb::JoinTokenCreated { token, from: String::new() });
    assert_eq!(refused(join(None)), "token");
    assert_eq!(refused(join(Some(pb::JoinToken { hash: vec![1; 31].into(), ..token() }))), "token.hash");
    assert_eq!(refused(join(Some(pb::JoinToken { cluster: String::new(), ..token() }))), "cluster");
    assert_eq!(refused(join(Some(pb::JoinToken { holder: None, ..token() }))), "token.holder");
    let untrue = Some(pb::join_token::Holder::ClusterAgent(false));
    assert_eq!(refused(join(Some(pb::JoinToken { holder: untrue, ..token() }))), "token.holder");
    assert_eq!(refused(join(Some(pb::JoinToken { namespace: "A".to_owned(), ..token() }))), "namespace");
    let bound = pb::RoleBinding { scope: "*".to_owned(), role: 9, ..Default::default() };
    let subject = Some(pb::Subject { subject: Some(pb::subject::Subject::Group("g".to_owned())) });
    let bind = |binding| {
        pb::entry::Record::RoleBound(pb::RoleBound { binding: Some(binding), by: String::new(), from: String::new() })
    };
    assert_eq!(refused(bind(bound.clone())), "subject");
    assert_eq!(refused(bind(pb::RoleBinding { subject: subject.clone(), ..bound.clone() })), "role");
    assert_eq!(refused(bind(pb::RoleBinding { scope: String::new(), subject, ..bound })), "scope");
    let signed = pb::CheckpointSigned { link: vec![0; 32].into(), key: vec![0; 8].into(), ..Default::default() };
    assert_eq!(refused(pb::entry::Record::CheckpointSigned(signed)), "signature");
    assert_eq!(refused(pb::entry::Record::AgentJoined(pb::AgentJoined::default())), "identity");
}

#[test]
fn snapshots_keep_every_piece_of_access() {
    let (mut names, mut random) = (Names::default(), Random::new(32));
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let item = access_samples::item(&mut random);
        kinds.insert(format!("{item:?}").chars().take(10).collect::<String>());
        let item = Item::Access(item);
        let mut bytes = Vec::new();
        state::encode(&item, &mut bytes);
        let mut back = Vec::new();
        state::decode(&mut names, &bytes, &mut |item| back.push(item)).unwrap();
        assert_eq!(back, [item]);
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

#[test]
fn every_reason_for_a_refusal_comes_back() {
    let mut names = Names::default();
    for (number, reason) in (1..).zip(JoinRefusal::ALL) {
        let mut entry = access_samples::entry(&mut Random::new(1), 6, Seq(9));
        let Record::Access(record) = &mut entry.record else { panic!("another kind") };
        let AccessRecord::JoinRefused { refused, .. } = record.as_mut() else { panic!("another kind") };
        refused.reason = reason;

        let bytes = encoded(&entry);

        assert_eq!(decode(&mut names, Seq(9), &bytes, None).unwrap().as_ref(), Some(&entry));
        assert_eq!(reason.as_str().parse::<JoinRefusal>(), Ok(reason));
        let Some(pb::entry::Record::JoinRefused(message)) = pb::Entry::decode(&*bytes).unwrap().record else {
            panic!("another kind")
        };
        assert_eq!(message.reason, number);
    }
}
