//! Effects over the API: what results want done outside is taken in, shown, and decided about.

use std::sync::Arc;

use crate::support::{Agent, Directory, PATIENCE, Running, event};
use bytes::Bytes;
use mindos_core::effect::{EffectOutcome, EffectReport, Intent};
use mindos_core::input::Input;
use mindos_core::record::Payload;
use mindos_model::{EffectId, GeneralName, Seq, TenantName};
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::{self as agent, SettleVerdict};
use mindos_proto::delivery::v1::{self as delivery, DeliveryStatus, ParkReason};
use mindos_proto::effect::v1::effect_service_client::EffectServiceClient;
use mindos_proto::effect::v1::*;
use tonic::Code;
use tonic::transport::Channel;

const TARGET: &str = "octocat/hello-world#7";

async fn effects(server: &Running) -> EffectServiceClient<Channel> {
    EffectServiceClient::new(server.channel().await)
}

fn wanted(key: &str, target: &str, parameters: &str) -> delivery::Effect {
    delivery::Effect {
        key: key.to_owned(),
        kind: "comment".to_owned(),
        target: target.to_owned(),
        parameters_json: parameters.to_owned(),
        ..Default::default()
    }
}

/// Work is done, and wants this done outside.
async fn succeed(agent: &mut Agent, assign: &agent::Assign, effects: Vec<delivery::Effect>) -> agent::Settled {
    let outcome = Some(agent::result::Outcome::Succeeded(delivery::Succeeded {}));
    let (delivery_id, token) = (assign.delivery_id.clone(), assign.token);
    agent.say(Up::Result(agent::Result { delivery_id, token, outcome, effects, ..Default::default() })).await;
    agent.settled().await
}

async fn list(server: &Running, filter: EffectFilter) -> Vec<Effect> {
    let request = ListEffectsRequest { filter: Some(filter), ..Default::default() };
    effects(server).await.list_effects(request).await.unwrap().into_inner().effects
}

async fn get(server: &Running, id: &str) -> Result<Effect, tonic::Status> {
    let request = GetEffectRequest { effect_id: id.to_owned() };
    Ok(effects(server).await.get_effect(request).await?.into_inner().effect.unwrap())
}

/// The effect once it stands so.
async fn stands(server: &Running, id: &str, status: EffectStatus) -> Effect {
    let stands = async {
        loop {
            let found = get(server, id).await.unwrap();
            if found.status() == status {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stands).await.expect("it does not come to stand so")
}

async fn report(server: &Running, id: &str, report: EffectReport) {
    let effect: EffectId = id.parse().unwrap();
    server.plane.send(&mut vec![Input::Effect { effect, report }]).await.unwrap();
}

fn done(number: u32) -> EffectReport {
    EffectReport::Ended(EffectOutcome::Done { observed: Arc::from(format!("{{\"number\":{number}}}")) })
}

fn failed() -> EffectReport {
    EffectReport::Ended(EffectOutcome::Failed { message: Arc::from("the base branch is gone") })
}

#[tokio::test]
async fn effects_of_a_result_are_named_shown_tried_again_and_cancelled() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let (mut agent, assign) = server.leased("b1", 1).await;
    let wants = vec![
        wanted("d/0", TARGET, r#"{"body":"hi"}"#),
        wanted("d/1", "octocat/hello-world#8", ""),
        wanted("d/2", "octocat/other", ""),
    ];

    let settled = succeed(&mut agent, &assign, wants.clone()).await;

    assert_eq!((settled.verdict(), settled.effect_ids.len()), (SettleVerdict::Settled, 3));
    let [first, second, third] = &settled.effect_ids[..] else { panic!("three were wanted") };
    // Said once more it is the same answer.
    assert_eq!(succeed(&mut agent, &assign, wants).await.effect_ids, settled.effect_ids);
    let of_delivery = EffectFilter { delivery_id: assign.delivery_id.clone(), ..Default::default() };
    let shown = list(&server, of_delivery.clone()).await;
    let ids: Vec<_> = shown.iter().rev().map(|effect| effect.effect_id.clone()).collect();
    assert_eq!(ids, settled.effect_ids);
    let standing: Vec<_> = shown.iter().rev().map(|effect| (effect.due, effect.behind.as_str())).collect();
    assert_eq!(standing, [(true, ""), (false, first.as_str()), (false, first.as_str())]);
    let of_repository = EffectFilter { target: "octocat/hello-world".to_owned(), ..Default::default() };
    assert_eq!(list(&server, of_repository).await.len(), 2);
    let one = get(&server, first).await.unwrap();
    assert_eq!((one.parameters_json.as_str(), one.redacted), (r#"{"body":"hi"}"#, false));
    assert_eq!((one.general_type.as_str(), one.position, one.target.as_str()), ("general-purpose-general", 0, TARGET));
    let request = delivery::GetRequest { delivery_id: assign.delivery_id.clone(), ..Default::default() };
    let delivery = server.deliveries().await.get(request).await.unwrap().into_inner().delivery.unwrap();
    let named: Vec<_> = delivery.effects.iter().map(|effect| effect.effect_id.clone()).collect();
    assert_eq!(named, settled.effect_ids);

    let request = WatchEffectsRequest { filter: Some(of_delivery.clone()), from_seq: 1 };
    let mut watch = effects(&server).await.watch_effects(request).await.unwrap().into_inner();
    let until = server.plane.now() + std::time::Duration::from_secs(3600);
    report(&server, first, EffectReport::Defer { until, counted: false, why: Arc::from("limit") }).await;
    report(&server, first, done(1)).await;
    stands(&server, first, EffectStatus::Done).await;
    report(&server, second, failed()).await;
    let stuck = stands(&server, second, EffectStatus::Failed).await;
    assert_eq!(stuck.message, "the base branch is gone");
    let failed_ones = EffectFilter { statuses: vec![EffectStatus::Failed.into()], ..Default::default() };
    assert_eq!(list(&server, failed_ones.clone()).await.len(), 1);

    let retry = |id: &str| RetryEffectRequest { effect_id: id.to_owned() };
    let again = effects(&server).await.retry_effect(retry(second)).await.unwrap().into_inner().effect.unwrap();
    assert_eq!((again.status(), again.due), (EffectStatus::Waiting, true));
    let refused = effects(&server).await.retry_effect(retry(second)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = effects(&server).await.retry_effect(retry(first)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, format!("effect {first} is done: it cannot be tried again any more").as_str())
    );
    let cancel = |id: &str| CancelEffectRequest { effect_id: id.to_owned() };
    let cancelled = effects(&server).await.cancel_effect(cancel(second)).await.unwrap().into_inner().effect_ids;
    assert_eq!(cancelled, [second.clone(), third.clone()]);
    assert!(effects(&server).await.cancel_effect(cancel(third)).await.unwrap().into_inner().effect_ids.is_empty());
    assert_eq!(effects(&server).await.cancel_effect(cancel(first)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(get(&server, "e999999").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get(&server, "d1.1").await.unwrap_err().code(), Code::InvalidArgument);

    let mut seen = Vec::new();
    while seen.len() < 9 {
        let next = tokio::time::timeout(PATIENCE, watch.message()).await.expect("nothing came").unwrap().unwrap();
        seen.extend(next.effect.map(|effect| (effect.position, effect.status(), effect.seq)));
    }
    let statuses: Vec<_> = seen.iter().map(|(position, status, _)| (*position, *status)).collect();
    use EffectStatus::{Cancelled, Done, Failed, Waiting};
    assert_eq!(
        statuses,
        [
            (0, Waiting),
            (1, Waiting),
            (2, Waiting),
            (0, Waiting),
            (0, Done),
            (1, Failed),
            (1, Waiting),
            (1, Cancelled),
            (2, Cancelled)
        ]
    );
    assert!(seen.windows(2).all(|pair| pair[0].2 < pair[1].2));

    // All of it is there after a restart, from the history.
    let before = list(&server, EffectFilter::default()).await;
    server.stop().await;
    let server = Running::start(&directory).await;
    assert_eq!(list(&server, EffectFilter::default()).await, before);
    let ended = get(&server, first).await.unwrap();
    assert_eq!((ended.observed_json.as_str(), ended.parameters_json.as_str()), (r#"{"number":1}"#, r#"{"body":"hi"}"#));
    assert!(list(&server, failed_ones).await.is_empty());
    // Page by page.
    let mut request = ListEffectsRequest { page_size: 2, ..Default::default() };
    let mut paged = Vec::new();
    loop {
        let page = effects(&server).await.list_effects(request.clone()).await.unwrap().into_inner();
        paged.extend(page.effects);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(paged, before);
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_is_known_is_the_effect_that_had_it_first() {
    let server = Running::alone(&[]).await;
    let (mut agent, assign) = server.leased("b1", 2).await;
    let first = succeed(&mut agent, &assign, vec![wanted("mine", TARGET, "")]).await.effect_ids;
    server.publish(event("e2", "two")).await.unwrap();
    let assign = agent.assignment().await;

    let second = succeed(&mut agent, &assign, vec![wanted("mine", TARGET, ""), wanted("other", TARGET, "")]).await;

    assert_eq!(second.effect_ids[0], first[0]);
    let repeated = EffectFilter { statuses: vec![EffectStatus::Repeated.into()], ..Default::default() };
    let repeated = list(&server, repeated).await;
    assert_eq!((repeated.len(), repeated[0].repeats.as_str()), (1, first[0].as_str()));
    assert_eq!(get(&server, &second.effect_ids[1]).await.unwrap().behind, first[0]);
}

#[tokio::test]
async fn an_intent_that_makes_no_sense_is_a_poison_failure_that_names_it_and_the_stream_goes_on() {
    let server = Running::alone(&[]).await;
    let (mut agent, assign) = server.leased("b1", 2).await;

    let settled = succeed(&mut agent, &assign, vec![wanted("k", TARGET, "{}"), wanted("k", TARGET, "[]")]).await;

    assert_eq!((settled.verdict(), settled.effect_ids.len()), (SettleVerdict::Settled, 0));
    let request = delivery::GetRequest { delivery_id: assign.delivery_id.clone(), ..Default::default() };
    let parked = server.deliveries().await.get(request).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((parked.status(), parked.park_reason()), (DeliveryStatus::Parked, ParkReason::Poison));
    let message = &parked.attempts[0].message;
    assert!(message.contains("effects[1].parameters_json: is no JSON object"), "{message}");
    assert!(list(&server, EffectFilter::default()).await.is_empty());
    // The same stream takes more work.
    server.publish(event("e2", "two")).await.unwrap();
    let assign = agent.assignment().await;
    assert_eq!(succeed(&mut agent, &assign, vec![wanted("k", TARGET, "{}")]).await.effect_ids.len(), 1);
}

#[tokio::test]
async fn effects_of_another_tenant_are_not_there() {
    let server = Running::alone(&[]).await;
    server.publish(event("e1", "one")).await.unwrap();
    let parameters = Payload { salt: [0; 16], bytes: Bytes::from_static(b"{}") };
    let text = |text: &str| Arc::<str>::from(text);
    let intents = vec![Intent { key: text("k"), kind: text("reaction"), target: text(TARGET), parameters }];
    let part = GeneralName::new("intake").unwrap();
    let intend =
        |tenant: TenantName| Input::Intend { tenant, event: Seq(1), part: part.clone(), intents: intents.clone() };
    let acme = TenantName::new("acme").unwrap();
    server.plane.send(&mut vec![intend(acme), intend(TenantName::default_tenant())]).await.unwrap();
    let own = tokio::time::timeout(PATIENCE, async {
        loop {
            let own = list(&server, EffectFilter::default()).await;
            if !own.is_empty() {
                return own;
            }
        }
    });
    let own = own.await.unwrap();
    assert_eq!(own.len(), 1);
    let general = own[0].general.clone().unwrap();
    assert_eq!((general.cluster.as_str(), general.name.as_str(), own[0].delivery_id.as_str()), ("plane", "intake", ""));
    let own: EffectId = own[0].effect_id.parse().unwrap();
    let other = EffectId(Seq(own.0.0 - 1)).to_string();

    assert_eq!(get(&server, &other).await.unwrap_err().code(), Code::NotFound);
    let retry = RetryEffectRequest { effect_id: other.clone() };
    assert_eq!(effects(&server).await.retry_effect(retry).await.unwrap_err().code(), Code::NotFound);
    let cancel = CancelEffectRequest { effect_id: other };
    assert_eq!(effects(&server).await.cancel_effect(cancel).await.unwrap_err().code(), Code::NotFound);
}
