//! What is found to be ours, and what is found to be said of it, from records alone.

use bytes::Bytes;
use mindos_core::record::{FeedbackVerdict, Payload};
use mindos_model::{EffectId, GeneralType, TenantName, Token};
use serde_json::json;

use super::*;
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::encode;
use crate::views::testing::{Records, general};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
const MERGE: &str = "fedcba9876543210fedcba9876543210fedcba98";

struct Rig {
    view: FeedbackView,
    records: Records,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(BlobStore::open(&dir.path().join("blobs"), 1 << 20).unwrap());
        let own = OwnLogins::default();
        own.set(&["mindos[bot]".to_owned()]);
        let view = FeedbackView::open(&dir.path().join("feedback.db"), blobs, own).unwrap();
        Rig { view, records: Records::default(), _dir: dir }
    }

    fn tell(&mut self, record: Record) -> Seq {
        let seq = self.records.push(record);
        let entry = self.records.entries().pop().unwrap();
        self.view.apply(&entry).unwrap();
        seq
    }

    /// An effect that was carried out for a delivery.
    fn wrote(&mut self, delivery: Option<DeliveryId>, kind: &str, target: &str, outcome: EffectOutcome) {
        let intended = EffectIntended {
            tenant: TenantName::default_tenant(),
            event: Seq(1),
            delivery,
            token: Token::new(1, 1),
            general: general("eu", "coding-general"),
            general_type: GeneralType::new("coding-general").unwrap(),
            ordinal: 0,
            of: 1,
            key: "k".into(),
            kind: kind.into(),
            target: target.into(),
            parameters: Payload { salt: [0; 16], bytes: Bytes::from_static(b"{}") },
            first: None,
            overflow: false,
        };
        let effect = EffectId(self.tell(Record::EffectIntended(Box::new(intended))));
        self.tell(Record::EffectEnded(Box::new(EffectEnded {
            tenant: TenantName::default_tenant(),
            effect,
            kind: kind.into(),
            outcome,
            from: "".into(),
        })));
    }

    fn github(&mut self, repository: &str, ty: &str, data: &Value) {
        let event = IncomingEvent {
            id: "1".to_owned(),
            source: "https://github.com".to_owned(),
            r#type: ty.to_owned(),
            datacontenttype: Some("application/json".to_owned()),
            extensions: [("repository".to_owned(), ExtensionValue::String(repository.to_owned()))].into(),
            data: data.to_string().into(),
            ..IncomingEvent::default()
        };
        let seq = self.records.event(repository, "x", &[]);
        let mut entry = self.records.entries().pop().unwrap();
        if let Record::EventAccepted(accepted) = &mut entry.record {
            accepted.ty = ty.into();
            accepted.payload.bytes = encode(event).into();
        }
        assert_eq!(entry.seq, seq);
        self.view.apply(&entry).unwrap();
    }

    fn said(&self) -> Vec<(String, String, FeedbackVerdict)> {
        let pending = self.view.index.pending(100).unwrap();
        pending.into_iter().map(|word| (word.delivery.to_string(), word.id, word.verdict)).collect()
    }
}

fn done(observed: Value) -> EffectOutcome {
    EffectOutcome::Done { observed: observed.to_string().into() }
}

fn delivery(event: u64) -> DeliveryId {
    DeliveryId::new(Seq(event), 1)
}

#[test]
fn a_pull_request_of_ours_is_followed_from_its_effect_to_its_merge_and_its_revert() {
    let mut rig = Rig::new();
    rig.wrote(Some(delivery(1)), "branch", "o/n", done(json!({"sha": SHA, "branch": "ai-agent/issue-7"})));
    rig.wrote(Some(delivery(1)), "pull_request", "o/n", done(json!({"number": 9, "id": 5, "sha": SHA})));
    let closed = |merged: bool| {
        json!({
            "action": "closed", "sender": {"login": "ada"}, "repository": {"full_name": "o/n"},
            "pull_request": {"number": 9, "merged": merged, "merge_commit_sha": MERGE, "closed_at": "2026-11-29T10:00:00Z"},
        })
    };
    rig.github("o/n", "com.github.pull_request.closed", &closed(true));
    assert_eq!(rig.said(), [("d1.1".to_owned(), "pull/o/n#9/merged".to_owned(), FeedbackVerdict::Accepted)]);
    // GitHub sends it again: the same word.
    rig.github("o/n", "com.github.pull_request.closed", &closed(true));
    assert_eq!(rig.said().len(), 1);
    for (sha, by) in [(SHA, "1"), (MERGE, "2")] {
        let push = json!({
            "ref": "refs/heads/main", "sender": {"login": "bob"}, "repository": {"full_name": "o/n", "default_branch": "main"},
            "commits": [{"id": by.repeat(40), "message": format!("Revert it\n\nThis reverts commit {sha}.")}],
        });
        rig.github("o/n", "com.github.push", &push);
    }
    let reverted = rig.said().into_iter().filter(|(_, _, verdict)| *verdict == FeedbackVerdict::Reverted).count();
    assert_eq!(reverted, 2, "our commit, and the merge of our pull request: {:?}", rig.said());
}

#[test]
fn what_is_not_ours_or_is_said_in_another_place_says_nothing() {
    let mut rig = Rig::new();
    // Of nobody's work, not carried out, or of a comment whose id is not known.
    rig.wrote(None, "pull_request", "o/n", done(json!({"number": 1})));
    rig.wrote(Some(delivery(1)), "pull_request", "o/n", EffectOutcome::DryRun { would: r#"{"number": 2}"#.into() });
    rig.wrote(Some(delivery(1)), "pull_request", "o/n", EffectOutcome::Failed { message: "no".into() });
    rig.wrote(Some(delivery(1)), "comment", "o/n#7", done(json!({"url": "x"})));
    rig.wrote(Some(delivery(1)), "review", "o/n#7", done(json!({"id": 77})));
    for number in [1, 2, 3] {
        let closed = json!({
            "action": "closed", "sender": {"login": "ada"}, "repository": {"full_name": "o/n"},
            "pull_request": {"number": number, "merged": true},
        });
        rig.github("o/n", "com.github.pull_request.closed", &closed);
    }
    let resolved = json!({
        "action": "resolved", "sender": {"login": "ada"}, "repository": {"full_name": "else/where"},
        "thread": {"comments": [{"id": 5, "pull_request_review_id": 77}]},
    });
    // A review of that id, in a repository that somebody else owns: ids come from who sends the webhook.
    rig.github("else/where", "com.github.pull_request_review_thread.resolved", &resolved);
    assert!(rig.said().is_empty(), "{:?}", rig.said());
    rig.github("o/n", "com.github.pull_request_review_thread.resolved", &resolved);
    assert_eq!(rig.said().len(), 1);
}

#[test]
fn a_comment_edited_in_place_is_the_work_of_the_newest_delivery_and_a_start_goes_on() {
    let mut rig = Rig::new();
    for event in [1, 2] {
        rig.wrote(Some(delivery(event)), "comment", "o/n#7", done(json!({"id": 17, "number": 7})));
    }
    let comment = Wrote::Comment { id: 17 };
    assert_eq!(whose(&rig.view, &TenantName::default_tenant(), &comment), Some(delivery(2)));
    rig.view.upkeep(true).unwrap();
    let next = rig.view.next();
    // What was not committed is read again.
    rig.wrote(Some(delivery(3)), "comment", "o/n#7", done(json!({"id": 17, "number": 7})));
    rig.view.recover().unwrap();
    assert_eq!(rig.view.next(), next);
    assert_eq!(whose(&rig.view, &TenantName::default_tenant(), &comment), Some(delivery(2)));
    rig.view.reset().unwrap();
    assert_eq!((rig.view.next(), whose(&rig.view, &TenantName::default_tenant(), &comment)), (Seq(1), None));
}
