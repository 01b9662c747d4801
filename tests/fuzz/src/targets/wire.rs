//! What comes by gRPC: events, requests to publish, and both directions of the agent stream.

use std::sync::LazyLock;

use mindos_control_plane::ingest::{cloudevents as ce, event as ingest, github as gh};
use mindos_model::{TenantName, Timestamp};
use mindos_proto::agent::v1::{self as agent, agent_message, control_message};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::event::v1::{PublishRequest, PublishStreamRequest};
use mindos_proto::wire::{ConnectResponseWire, ControlWire, PublishRequestWire, PublishStreamRequestWire};
use mindos_proto::{convert, delivery::v1 as delivery};
use prost::Message;

use crate::{payloads, request};

static TENANT: LazyLock<TenantName> = LazyLock::new(|| "default".parse().expect("a good name"));

/// What decodes once decodes again from its own encoding, to the same.
fn again<M: Message + Default + PartialEq>(message: &M) {
    let encoded = message.encode_to_vec();
    let decoded = M::decode(encoded.as_slice()).expect("its own encoding decodes");
    // A float that is no number differs from itself; its bytes do not.
    assert_eq!(decoded.encode_to_vec(), encoded, "encoded again");
}

pub(super) fn event(input: &[u8]) {
    let Ok(accepted) = ingest::accept(&TENANT, input, true) else { return };
    let event = CloudEvent::decode(input).expect("an accepted event decodes");
    assert_eq!(event.id, *accepted.id, "id");
    assert_eq!(event.source, *accepted.source, "source");
    assert_eq!(event.r#type, *accepted.ty, "type");
    again(&event);
}

pub(super) fn event_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = payloads()
        .iter()
        .map(|(event, body)| {
            let text = request::write(
                &[("X-GitHub-Event", event), ("X-GitHub-Delivery", "1"), ("Content-Type", "application/json")],
                body,
            );
            let (headers, body) = request::parse(&text);
            let delivery = gh::normalise(&headers, &body, None).expect("a real payload is taken");
            ingest::encode(ingest::github_event(delivery))
        })
        .collect();
    let text = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","n":7,"ok":true,"data":"hello"}"#;
    let (headers, body) = request::parse(&request::write(&[("content-type", "application/cloudevents+json")], text));
    seeds.extend(ce::receive(&headers, &body).expect("an event is taken").events.into_iter().map(ingest::encode));
    seeds
}

pub(super) fn publish(input: &[u8]) {
    if let Ok(one) = PublishRequestWire::decode(input) {
        event(&one.event);
    }
    if let Ok(batch) = PublishStreamRequestWire::decode(input) {
        batch.events.iter().for_each(|one| event(one));
    }
    // The mirror and the generated message agree on what they both take.
    if let Ok(batch) = PublishStreamRequest::decode(input) {
        let mirror = PublishStreamRequestWire::decode(input).expect("the mirror takes what the message takes");
        assert_eq!((mirror.batch, mirror.events.len()), (batch.batch, batch.events.len()), "mirror");
        again(&batch);
    }
}

pub(super) fn publish_seeds() -> Vec<Vec<u8>> {
    let events: Vec<_> =
        event_seeds().iter().map(|bytes| CloudEvent::decode(bytes.as_slice()).expect("encoded above")).collect();
    let one = PublishRequest { event: events.first().cloned(), explain: true };
    let batch = PublishStreamRequest { batch: 1, events: events[..8].to_vec(), explain: false };
    vec![one.encode_to_vec(), batch.encode_to_vec()]
}

pub(super) fn connect(input: &[u8]) {
    use agent_message::Message as Up;
    let Ok(frame) = agent::ConnectRequest::decode(input) else { return };
    again(&frame);
    for message in frame.messages.into_iter().filter_map(|message| message.message) {
        let lease = match message {
            Up::Accept(accept) => convert::lease(&accept.delivery_id, accept.token),
            Up::Extend(extend) => convert::lease(&extend.delivery_id, extend.token),
            Up::Decline(decline) => {
                if let Some(failure) = &decline.failure {
                    let _ = convert::failure_kind(failure, Timestamp(1_700_000_000_000));
                }
                convert::lease(&decline.delivery_id, decline.token)
            }
            Up::Result(result) => {
                if let Some(span) = &result.duration {
                    let _ = convert::duration(span, "duration");
                }
                convert::lease(&result.delivery_id, result.token)
            }
            Up::Draining(draining) => {
                if let Some(deadline) = &draining.deadline {
                    let _ = convert::timestamp(deadline, "deadline");
                }
                continue;
            }
            _ => continue,
        };
        if let Ok((delivery, token)) = lease {
            assert_eq!(delivery.to_string().parse(), Ok(delivery), "a delivery id has one spelling");
            assert!(token.epoch > 0 && token.term > 0, "tokens count from 1");
        }
    }
}

pub(super) fn connect_seeds() -> Vec<Vec<u8>> {
    use agent_message::Message as Up;
    let id = || "d42.1".to_owned();
    let token = Some(delivery::Token { epoch: 1, term: 3 });
    let failure = delivery::Failure {
        kind: 3,
        retry_at: Some(convert::time(Timestamp(1_700_000_100_000))),
        message: "wait".to_owned(),
        budget: String::new(),
    };
    let general = agent::ServedGeneral {
        r#type: "triage-general".to_owned(),
        name: "triage".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        slots: 4,
    };
    let hello = agent::Hello {
        protocol_min: 1,
        protocol_max: 1,
        cluster: "dev".to_owned(),
        instance_id: "dev-0".to_owned(),
        boot_id: "b1".to_owned(),
        generals: vec![general],
        claims: vec![agent::LeaseClaim { delivery_id: id(), token }],
        ..agent::Hello::default()
    };
    let result = agent::Result {
        delivery_id: id(),
        token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        output: "done".into(),
        usage: vec![delivery::Usage { model: "m".to_owned(), input_tokens: 10, ..delivery::Usage::default() }],
        effects: vec![delivery::Effect {
            key: "k".to_owned(),
            kind: "comment".to_owned(),
            ..delivery::Effect::default()
        }],
        duration: Some(convert::span(std::time::Duration::from_millis(1500))),
        ..agent::Result::default()
    };
    let load = agent::GeneralLoad {
        general: "triage".to_owned(),
        in_flight: 2,
        latency: Some(convert::span(std::time::Duration::from_millis(80))),
        models: vec![agent::ModelLoad { model: "m".to_owned(), cache_use: Some(0.5), ..agent::ModelLoad::default() }],
        ..agent::GeneralLoad::default()
    };
    let messages = [
        Up::Hello(hello),
        Up::Grant(agent::Grant {
            generals: vec![agent::GeneralGrant { general: "triage".to_owned(), capacity: 4 }],
            last_assign: 0,
        }),
        Up::Accept(agent::Accept { delivery_id: id(), token }),
        Up::Decline(agent::Decline { delivery_id: id(), token, failure: Some(failure) }),
        Up::Extend(agent::Extend { delivery_id: id(), token, progress: "half".to_owned(), ..agent::Extend::default() }),
        Up::Result(result),
        Up::Heartbeat(agent::Heartbeat { loads: vec![load], leases: 1 }),
        Up::Reconcile(agent::Reconcile {
            request: 1,
            claims: vec![agent::LeaseClaim { delivery_id: id(), token }],
            last_assign: 3,
        }),
        Up::Draining(agent::Draining {
            deadline: Some(convert::time(Timestamp(1_700_000_000_000))),
            ..agent::Draining::default()
        }),
    ];
    let messages: Vec<_> = messages.into_iter().map(|message| agent::AgentMessage { message: Some(message) }).collect();
    let mut seeds: Vec<_> = messages
        .iter()
        .map(|message| agent::ConnectRequest { first_number: 1, messages: vec![message.clone()] }.encode_to_vec())
        .collect();
    seeds.push(agent::ConnectRequest { first_number: 1, messages }.encode_to_vec());
    seeds
}

pub(super) fn assign(input: &[u8]) {
    if let Ok(frame) = ConnectResponseWire::decode(input) {
        for message in &frame.messages {
            if let Some(ControlWire::Assign(assign)) = &message.message {
                let _ = convert::lease(&assign.delivery_id, assign.token);
            }
        }
    }
    if let Ok(frame) = agent::ConnectResponse::decode(input) {
        let mirror = ConnectResponseWire::decode(input).expect("the mirror takes what the message takes");
        assert_eq!(mirror.messages.len(), frame.messages.len(), "mirror");
        again(&frame);
    }
}

pub(super) fn assign_seeds() -> Vec<Vec<u8>> {
    use control_message::Message as Down;
    let token = Some(delivery::Token { epoch: 1, term: 3 });
    let assigns = event_seeds().into_iter().map(|event| {
        Down::Assign(agent::Assign {
            delivery_id: "d42.1".to_owned(),
            token,
            general: "triage".to_owned(),
            event: Some(CloudEvent::decode(event.as_slice()).expect("encoded above")),
            attempt: 1,
            lane: "octocat/hello-world/pr/1".to_owned(),
            deadline: Some(convert::time(Timestamp(1_700_000_000_000))),
            ..agent::Assign::default()
        })
    });
    let others = [
        Down::Lost(agent::Lost { delivery_id: "d42.1".to_owned(), token, message: "lapsed".to_owned() }),
        Down::Settled(agent::Settled { delivery_id: "d42.1".to_owned(), token, verdict: 1, effect_ids: vec![] }),
        Down::Drain(agent::Drain { reconnect: true, ..agent::Drain::default() }),
        Down::Welcome(agent::Welcome { session: "s".to_owned(), epoch: 1, protocol: 1, ..agent::Welcome::default() }),
    ];
    assigns
        .chain(others)
        .map(|message| {
            let messages = vec![agent::ControlMessage { message: Some(message) }];
            agent::ConnectResponse { first_number: 1, messages }.encode_to_vec()
        })
        .collect()
}
