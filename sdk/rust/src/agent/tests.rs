//! What is written by hand equals what the generated code writes, and what is read by hand what it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mindos_model::{BootId, ClusterName, FailureKind, GeneralName, InstanceId, Seq, Timestamp};
use mindos_proto::agent::v1 as proto;
use mindos_proto::agent::v1::agent_message::Message as UpMessage;
use mindos_proto::agent::v1::control_message::Message as DownMessage;
use mindos_proto::{convert, delivery::v1 as delivery};
use mindos_sidecar_core::{
    Assign, CancelReason, Ceilings, Config, Down, Extend, GeneralIndex, Hello, Load, Outcome, Progress, SettledVerdict,
    Up, Usage, Verdict,
};
use prost::Message;

use super::decode::{self, Read};
use super::encode::{Frames, Sender};
use super::*;

const D1: DeliveryId = DeliveryId { event: Seq(42), ordinal: 1 };
const T1: Token = Token { epoch: 1, term: 3 };

fn config() -> Config {
    let general = crate::general_config("a", 2).unwrap();
    let (cluster, instance) = (ClusterName::new("c1").unwrap(), InstanceId::new("i1").unwrap());
    Config::new(cluster, instance, BootId::new("b1").unwrap(), vec![general], 1)
}

fn written(messages: Vec<Up<Body>>) -> proto::ConnectRequest {
    let (config, identity) = (config(), Identity::default());
    let mut frames = Frames::default();
    for message in messages {
        frames.put(message, Sender { config: &config, identity: &identity });
    }
    proto::ConnectRequest::decode(frames.take().unwrap()).unwrap()
}

fn succeeded(body: Body) -> Up<Body> {
    Up::Result { delivery: D1, token: T1, finish: Finish { outcome: Outcome::Succeeded, body } }
}

#[test]
fn results_written_by_hand_are_read_by_the_generated_code() {
    for len in [0, 1, 100, 127, 128, 16_000, 16_383, 17_000, 256 * 1024] {
        let output = Bytes::from(vec![7; len]);
        let body = Body { output: output.clone(), content_type: "text/plain".into(), ..Body::default() };
        let frame = written(vec![Up::Accept { delivery: D1, token: T1 }, succeeded(body)]);
        assert_eq!((frame.first_number, frame.messages.len()), (1, 2));
        let (delivery_id, token) = (D1.to_string(), Some(T1.into()));
        let accept = proto::Accept { delivery_id: delivery_id.clone(), token };
        assert_eq!(frame.messages[0].message, Some(UpMessage::Accept(accept)));
        let result = proto::Result {
            delivery_id,
            token,
            outcome: Some(proto::result::Outcome::Succeeded(delivery::Succeeded {})),
            output,
            output_content_type: "text/plain".into(),
            ..Default::default()
        };
        assert_eq!(frame.messages[1].message, Some(UpMessage::Result(result)), "{len}");
    }
}

#[test]
fn effects_go_along_where_there_is_nothing_else() {
    let body = Body { effects: vec![crate::Effect::new("labels", "o/r#7", "{}")], ..Body::default() };

    let frame = written(vec![succeeded(body)]);

    let Some(UpMessage::Result(result)) = &frame.messages[0].message else { panic!("{frame:?}") };
    let effects: Vec<_> = result.effects.iter().map(|it| (it.key.as_str(), it.kind.as_str())).collect();
    assert_eq!(effects, [("d42.1/0", "labels")]);
}

#[test]
fn frames_are_numbered_without_gaps_until_the_next_stream() {
    let (config, identity) = (config(), Identity::default());
    let sender = Sender { config: &config, identity: &identity };
    let mut frames = Frames::default();
    let mut numbers = Vec::new();
    for count in [1, 3, 2] {
        for _ in 0..count {
            frames.put(Up::Accept { delivery: D1, token: T1 }, sender);
        }
        numbers.push(proto::ConnectRequest::decode(frames.take().unwrap()).unwrap().first_number);
    }
    assert_eq!(numbers, [1, 2, 5]);
    assert_eq!(frames.take(), None);
    frames.restart();
    frames.put(Up::Accept { delivery: D1, token: T1 }, sender);
    assert_eq!(proto::ConnectRequest::decode(frames.take().unwrap()).unwrap().first_number, 1);
}

#[test]
fn every_message_up_has_its_own_form() {
    let failed = Outcome::Failed {
        kind: FailureKind::RateLimited { until: Timestamp(5000) },
        message: Arc::from("é".repeat(3000)),
    };
    let finish = Finish {
        outcome: failed,
        body: Body { usage: vec![Usage { calls: 2, ..Usage::default() }], ..Body::default() },
    };
    let wanted = Some(Ceilings { cost_micros: Some(900), ..Ceilings::default() });
    let progress = Progress { note: "é".repeat(200), usage: vec![], checkpoint: vec![1], wanted };
    let frame = written(vec![
        Up::Hello(Hello { last_session: Some(Arc::from("s")), claims: vec![(D1, T1)] }),
        Up::Grant { capacities: vec![(GeneralIndex(0), 2)], last_assign: 9 },
        Up::Decline { delivery: D1, token: T1, retry_at: Timestamp(5000), message: Arc::from("full") },
        Up::Extend(Extend { delivery: D1, token: T1, progress: Some(Arc::new(progress)) }),
        Up::Result { delivery: D1, token: T1, finish },
        Up::Heartbeat { loads: vec![Load::default()], leases: 3 },
        Up::Reconcile { request: 4, claims: vec![(D1, T1)], last_assign: 9 },
        Up::Reconciled { request: 5, verdicts: vec![(D1, T1, Verdict::Unknown)] },
        Up::Draining { deadline: Timestamp(5000), generals: vec![GeneralIndex(0)] },
    ]);
    let messages: Vec<_> = frame.messages.into_iter().map(|message| message.message.unwrap()).collect();
    let [
        UpMessage::Hello(hello),
        UpMessage::Grant(grant),
        UpMessage::Decline(decline),
        UpMessage::Extend(extend),
        UpMessage::Result(result),
        UpMessage::Heartbeat(heartbeat),
        UpMessage::Reconcile(reconcile),
        UpMessage::Reconciled(reconciled),
        UpMessage::Draining(draining),
    ] = &messages[..]
    else {
        panic!("{messages:?}")
    };
    assert_eq!(
        (&*hello.cluster, &*hello.generals[0].name, &*hello.last_session, hello.claims.len()),
        ("c1", "a", "s", 1)
    );
    assert_eq!((&*grant.generals[0].general, grant.generals[0].capacity, grant.last_assign), ("a", 2, 9));
    assert_eq!(decline.failure.as_ref().unwrap().kind(), delivery::FailureKind::RateLimited);
    assert_eq!((extend.progress.len(), &extend.checkpoint[..]), (256, &[1][..]));
    // In all: said again after a reconnect it is the same.
    assert_eq!((extend.wanted, extend.ceilings_wanted.unwrap().cost_micros), (None, Some(900)));
    let Some(proto::result::Outcome::Failure(failure)) = &result.outcome else { panic!() };
    assert_eq!((failure.message.len(), failure.retry_at.unwrap().seconds, result.usage[0].calls), (4096, 5, 2));
    assert_eq!((&*heartbeat.loads[0].general, heartbeat.leases), ("a", 3));
    assert_eq!(
        (reconcile.request, reconciled.request, reconciled.verdicts[0].verdict()),
        (4, 5, proto::Verdict::Unknown)
    );
    assert_eq!(draining.generals, ["a"]);
}

fn read(message: DownMessage) -> Result<Read, String> {
    let messages = vec![proto::ControlMessage { message: Some(message) }];
    let frame = Bytes::from(proto::ConnectResponse { first_number: 7, messages }.encode_to_vec());
    let mut read = None;
    let general = |name: &str| (name == "a").then_some(GeneralIndex(0));
    let mut events = decode::Events::default();
    let counted = decode::frame(&frame, |message| read = Some(decode::message(&frame, message, &mut events, general)));
    assert_eq!(counted.map_err(|error| error.to_string())?, (7, 1));
    read.unwrap().map_err(|error| error.to_string())
}

#[test]
fn messages_down_are_read_as_they_were_meant() {
    let (delivery_id, token) = (D1.to_string(), Some(T1.into()));
    let lease = Some(convert::span(Duration::from_secs(9)));
    let extended = proto::Extended { delivery_id: delivery_id.clone(), token, lease, ceilings: None };
    let expected = Down::Extended { delivery: D1, token: T1, lease: Some(Duration::from_secs(9)) };
    assert_eq!(read(DownMessage::Extended(extended)), Ok(Read::Core(expected)));

    for (verdict, expected) in [
        (proto::SettleVerdict::Settled, SettledVerdict::Settled),
        (proto::SettleVerdict::RefusedStale, SettledVerdict::Refused),
        (proto::SettleVerdict::Unspecified, SettledVerdict::Unknown),
    ] {
        let (delivery_id, effect_ids) = (delivery_id.clone(), vec!["e".into()]);
        let settled = proto::Settled { delivery_id, token, verdict: verdict.into(), effect_ids };
        let expected = Down::Settled { delivery: D1, token: T1, verdict: expected };
        assert_eq!(read(DownMessage::Settled(settled)), Ok(Read::Core(expected)));
    }

    let reason = delivery::CancelReason::Superseded.into();
    let cancel = proto::Cancel { delivery_id, token, reason, ..Default::default() };
    let grace = Duration::from_secs(10);
    let expected = Down::Cancel { delivery: D1, token: T1, reason: CancelReason::Superseded, grace };
    assert_eq!(read(DownMessage::Cancel(cancel)), Ok(Read::Core(expected)));

    let drain = proto::Drain { generals: vec!["a".into()], ..Default::default() };
    let expected = Down::Drain { generals: vec![GeneralName::new("a").unwrap()], reconnect: false };
    assert_eq!(read(DownMessage::Drain(drain)), Ok(Read::Core(expected)));
}

#[test]
fn an_assignment_stays_encoded_until_it_is_asked() {
    let event = crate::Event::new("s", "1", "t").into_message();
    let assign = proto::Assign {
        delivery_id: D1.to_string(),
        token: Some(T1.into()),
        general: "a".into(),
        event: Some(event.clone()),
        attempt: 2,
        deadline: Some(convert::time(Timestamp(77_000))),
        ..Default::default()
    };
    let Ok(Read::Core(Down::Assign(Assign { delivery, token, general, lease, deadline, work }))) =
        read(DownMessage::Assign(assign.clone()))
    else {
        panic!()
    };
    assert_eq!((delivery, token, general, lease, deadline), (D1, T1, GeneralIndex(0), None, Some(Timestamp(77_000))));
    let decoded = work.detached().decode().unwrap();
    assert_eq!((decoded.attempt, super::event(decoded.event).unwrap()), (2, event));

    let elsewhere = proto::Assign { general: "b".into(), ..assign };
    assert!(matches!(read(DownMessage::Assign(elsewhere)), Ok(Read::Refuse { delivery: D1, token: T1, .. })));
}

#[test]
fn an_event_that_came_before_in_the_frame_is_put_in() {
    let event = |id: &str| crate::Event::new("s", id, "t").into_message();
    let assign = |seq: u64, ordinal: u32, event: Option<_>| proto::ControlMessage {
        message: Some(DownMessage::Assign(proto::Assign {
            delivery_id: DeliveryId::new(mindos_model::Seq(seq), ordinal).to_string(),
            token: Some(T1.into()),
            // Also an assignment that nobody here can do brings its event.
            general: if ordinal == 1 { "b" } else { "a" }.into(),
            event,
            event_seq: seq,
            ..Default::default()
        })),
    };
    let first = [assign(5, 1, Some(event("5"))), assign(6, 1, Some(event("6")))];
    let messages = first.into_iter().chain([assign(5, 2, None), assign(6, 2, None), assign(7, 2, None)]).collect();
    let frame = Bytes::from(proto::ConnectResponse { first_number: 1, messages }.encode_to_vec());
    let mut events = decode::Events::default();
    let mut read = Vec::new();
    let general = |name: &str| (name == "a").then_some(GeneralIndex(0));
    decode::frame(&frame, |message| read.push(decode::message(&frame, message, &mut events, general))).unwrap();

    for (place, id) in [(2, "5"), (3, "6")] {
        let Ok(Read::Core(Down::Assign(Assign { work, .. }))) = &read[place] else { panic!() };
        for work in [work.clone(), work.detached()] {
            assert_eq!(super::event(work.decode().unwrap().event).unwrap(), event(id));
        }
    }
    assert!(read[4].is_err());
}

#[test]
fn messages_that_name_no_lease_are_refused() {
    assert!(read(DownMessage::Assign(proto::Assign::default())).is_err());
    assert!(read(DownMessage::Settled(proto::Settled::default())).is_err());
    let lost = proto::Lost { delivery_id: "d0.1".into(), token: Some(T1.into()), ..Default::default() };
    assert!(read(DownMessage::Lost(lost)).is_err());
}

#[test]
fn frames_with_flipped_bytes_never_panic() {
    let assign = proto::Assign {
        delivery_id: D1.to_string(),
        token: Some(T1.into()),
        general: "a".into(),
        event: Some(mindos_proto::cloudevents::v1::CloudEvent { attributes: BTreeMap::new(), ..Default::default() }),
        lease: Some(convert::span(Duration::from_secs(9))),
        ..Default::default()
    };
    let settled = proto::Settled { delivery_id: D1.to_string(), token: Some(T1.into()), ..Default::default() };
    let welcome =
        proto::Welcome { session: "1".into(), intervals: Some(proto::Intervals::default()), ..Default::default() };
    let messages = [DownMessage::Assign(assign), DownMessage::Settled(settled), DownMessage::Welcome(welcome)];
    let messages = messages.into_iter().map(|message| proto::ControlMessage { message: Some(message) }).collect();
    let good = proto::ConnectResponse { first_number: 1, messages }.encode_to_vec();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let frame = Bytes::from(bad);
            let mut events = decode::Events::default();
            let _ = decode::frame(&frame, |message| {
                let _ = decode::message(&frame, message, &mut events, |_| Some(GeneralIndex(0)));
            });
        }
    }
}
