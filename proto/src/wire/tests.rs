use std::collections::BTreeMap;

use prost::Message;

use super::*;
use crate::agent::v1::control_message::Message as Control;
use crate::agent::v1::{Assign, ConnectResponse, ControlMessage};
use crate::cloudevents::v1::CloudEvent;
use crate::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use crate::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use crate::event::v1::{PublishRequest, PublishStreamRequest};

#[test]
fn a_mirrored_assign_has_the_bytes_of_the_generated_one() {
    let event = event("1");
    let wire = AssignWire {
        delivery_id: "d42.1".into(),
        token: Some(Token { epoch: 1, term: 3 }),
        general: "security-general".into(),
        event: event.encode_to_vec().into(),
        lease: Some(prost_types::Duration { seconds: 25, nanos: 0 }),
        attempt: 2,
        lane: "octocat/hello-world/pr/7".into(),
        lane_place: 9,
        mode: Mode::Shadow.into(),
        ceilings: Some(Ceilings { cost_micros: Some(5), tokens: Some(0), calls: None, time: None }),
        event_ref: "blob:sha256:00".into(),
        traceparent: "00-1-2-01".into(),
        tracestate: "a=b".into(),
        deadline: Some(prost_types::Timestamp { seconds: 1_795_176_000, nanos: 5 }),
        checkpoint: Bytes::from_static(b"step 3"),
        event_seq: 42,
        route: "pr-created".into(),
    };

    assert_eq!(wire.encode_to_vec(), assign(event).encode_to_vec());
}

#[test]
fn an_assign_without_an_event_has_none_in_its_mirror() {
    let generated = Assign { event: None, ..assign(event("1")) };
    let mirrored = AssignWire::decode(&*generated.encode_to_vec()).unwrap();
    assert!(mirrored.event.is_empty());
    assert_eq!(mirrored.encode_to_vec(), generated.encode_to_vec());
}

#[test]
fn every_control_message_passes_through_its_mirror_unchanged() {
    let variants = vec![
        Control::Welcome(Welcome { session: "s".into(), ..Default::default() }),
        Control::Assign(assign(event("2"))),
        Control::Extended(Extended { delivery_id: "d1.1".into(), ..Default::default() }),
        Control::Lost(Lost { delivery_id: "d1.2".into(), ..Default::default() }),
        Control::Cancel(Cancel { delivery_id: "d1.3".into(), ..Default::default() }),
        Control::Settled(Settled { delivery_id: "d1.4".into(), ..Default::default() }),
        Control::Reconciled(Reconciled { request: 1, ..Default::default() }),
        Control::Configure(Configure { version: 2, ..Default::default() }),
        Control::Drain(Drain { reconnect: true, ..Default::default() }),
        Control::Call(Call { call_id: 3, ..Default::default() }),
        Control::Reconcile(Reconcile { request: 4, ..Default::default() }),
    ];
    for variant in &variants {
        // Without `_`, so that a variant added to the .proto file breaks the build here.
        match variant {
            Control::Welcome(_) | Control::Assign(_) | Control::Extended(_) | Control::Lost(_) => {}
            Control::Cancel(_) | Control::Settled(_) | Control::Reconciled(_) | Control::Configure(_) => {}
            Control::Drain(_) | Control::Call(_) | Control::Reconcile(_) => {}
        }
    }
    let messages: Vec<_> = variants.into_iter().map(|message| ControlMessage { message: Some(message) }).collect();
    let frame = ConnectResponse { first_number: 17, messages };

    let mirrored = ConnectResponseWire::decode(&*frame.encode_to_vec()).unwrap();

    assert!(mirrored.messages.iter().all(|message| message.message.is_some()));
    assert_eq!(mirrored.encode_to_vec(), frame.encode_to_vec());
    assert_eq!(ConnectResponse::decode(&*mirrored.encode_to_vec()).unwrap(), frame);
}

#[test]
fn publish_requests_pass_through_their_mirrors_unchanged() {
    let one = PublishRequest { event: Some(event("3")), explain: true };
    let mirrored = PublishRequestWire::decode(&*one.encode_to_vec()).unwrap();
    assert_eq!(CloudEvent::decode(mirrored.event.clone()).unwrap(), event("3"));
    assert_eq!(mirrored.encode_to_vec(), one.encode_to_vec());

    let batch = PublishStreamRequest { batch: 7, events: vec![event("4"), event("5")], explain: true };
    let mirrored = PublishStreamRequestWire::decode(&*batch.encode_to_vec()).unwrap();
    assert_eq!(mirrored.events.len(), 2);
    assert_eq!(mirrored.encode_to_vec(), batch.encode_to_vec());
}

#[test]
fn decoding_a_mirror_shares_the_bytes_of_the_frame() {
    let encoded = Bytes::from(PublishRequest { event: Some(event("6")), explain: false }.encode_to_vec());
    let frame = encoded.as_ptr_range();

    let mirrored = PublishRequestWire::decode(encoded.clone()).unwrap();

    assert!(frame.contains(&mirrored.event.as_ptr()));
}

/// Every field set, and none left to `..`, so that a field added to the .proto file breaks the build here.
fn assign(event: CloudEvent) -> Assign {
    Assign {
        delivery_id: "d42.1".into(),
        token: Some(Token { epoch: 1, term: 3 }),
        general: "security-general".into(),
        event: Some(event),
        lease: Some(prost_types::Duration { seconds: 25, nanos: 0 }),
        attempt: 2,
        lane: "octocat/hello-world/pr/7".into(),
        lane_place: 9,
        mode: Mode::Shadow.into(),
        ceilings: Some(Ceilings { cost_micros: Some(5), tokens: Some(0), calls: None, time: None }),
        event_ref: "blob:sha256:00".into(),
        traceparent: "00-1-2-01".into(),
        tracestate: "a=b".into(),
        deadline: Some(prost_types::Timestamp { seconds: 1_795_176_000, nanos: 5 }),
        checkpoint: Bytes::from_static(b"step 3"),
        event_seq: 42,
        route: "pr-created".into(),
    }
}

pub(super) fn event(id: &str) -> CloudEvent {
    let text = |text: &str| CloudEventAttributeValue { attr: Some(Attr::CeString(text.into())) };
    CloudEvent {
        id: id.into(),
        source: "https://github.com/octocat/hello-world".into(),
        spec_version: "1.0".into(),
        r#type: "com.github.pull_request.opened".into(),
        attributes: BTreeMap::from([("subject".into(), text("7")), ("actor".into(), text("octocat"))]),
        data: Some(Data::BinaryData(Bytes::from_static(b"{}"))),
    }
}
