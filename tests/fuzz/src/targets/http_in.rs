//! What comes by HTTP: webhooks, CloudEvents, and the requests that generals get.

use std::sync::LazyLock;

use mindos_control_plane::ingest::github_trust::Logins;
use mindos_control_plane::ingest::{cloudevents as ce, event, github as gh};
use mindos_control_plane::surface::gitlens;
use mindos_control_plane::tasks::github::{self as tasks, Found};
use mindos_control_plane::tasks::queue;
use mindos_control_plane::tasks::settings::TaskRules;
use mindos_generals::{Profile, analyse, decode};
use mindos_model::{TenantName, Timestamp};
use mindos_proto::cloudevents::v1::CloudEvent;
use prost::Message;

use crate::{payloads, request};

static TENANT: LazyLock<TenantName> = LazyLock::new(|| "default".parse().expect("a good name"));

static OWN: LazyLock<Logins> = LazyLock::new(|| ["mindos"].into_iter().collect());

/// What was accepted goes to agents as it is, so it has to decode.
fn accepted(event: mindos_core::input::NewEvent) {
    let stored = CloudEvent::decode(event.payload.bytes.as_ref()).expect("an accepted event decodes");
    assert_eq!(stored.id, *event.id, "id as stored");
    assert_eq!(stored.source, *event.source, "source as stored");
    assert_eq!(stored.r#type, *event.ty, "type as stored");
    assert!(!event.lane.is_empty() && !event.kind.is_empty(), "lane and kind are never empty");
}

pub(super) fn github(input: &[u8]) {
    let (headers, body) = request::parse(input);
    let Ok(delivery) = gh::normalise(&headers, &body, None) else { return };
    assert_eq!(gh::normalise(&headers, &body, None).as_ref(), Ok(&delivery), "the same again");
    if let Ok(gh::Delivered { delivery, event, payload }) = gh::read(&headers, &body, None, &OWN) {
        let rules = TaskRules::default();
        if let Found::Task(wanted) = tasks::find(&event, &payload, &delivery.origin, &OWN, &rules) {
            let task = event::accept_incoming(&TENANT, wanted.task.event(&wanted.origin, None));
            accepted(task.expect("a task is an event"));
        }
    }
    if let Ok(event) = event::accept_github(&TENANT, delivery) {
        accepted(event);
    }
}

/// Messages of the queue of tasks.
pub(super) fn task(input: &[u8]) {
    if let Ok(incoming) = queue::read(input) {
        accepted(event::accept_incoming(&TENANT, incoming).expect("a task is an event"));
    }
}

pub(super) fn task_seeds() -> Vec<Vec<u8>> {
    let refine = br#"{"repo_url":"https://github.com/o/n.git","mode":"refine","pr_number":"7","pr_branch":"b/c","comment_id":"9","comment_kind":"review","refine_request":"x","comment_url":"u","base_branch":"main","pr_title":"t","trigger_user":"a"}"#;
    let plan =
        br#"{"repo_url":"http://h:1/o/n/","mode":"plan_approval","issue_id":7,"trigger_user":"a","pr_number":null}"#;
    vec![refine.to_vec(), plan.to_vec()]
}

pub(super) fn github_seeds() -> Vec<Vec<u8>> {
    let headers = |event| {
        [
            ("X-GitHub-Event", event),
            ("X-GitHub-Delivery", "0b4f7a10-8e5c-4d53-a2b7-3c1d5f1f9d01"),
            ("Content-Type", "application/json"),
        ]
    };
    let payloads = payloads();
    let mut seeds: Vec<_> = payloads.iter().map(|(event, body)| request::write(&headers(event), body)).collect();
    let command = br#"{"action":"created","issue":{"number":7,"state":"open"},"comment":{"id":9,"body":"/plan x","user":{"login":"a"},"author_association":"OWNER"},"repository":{"full_name":"o/n"},"sender":{"login":"a"}}"#;
    seeds.push(request::write(&headers("issue_comment"), command));
    let form =
        [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "1"), ("Content-Type", "application/x-www-form-urlencoded")];
    seeds.push(request::write(&form, b"payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D&x=1"));
    seeds
}

pub(super) fn gitlens(input: &[u8]) {
    let (headers, body) = request::parse(input);
    for incoming in gitlens::decode(&headers, &body, Timestamp(1_795_176_000_000)) {
        if let Ok(event) = event::accept_incoming(&TENANT, incoming) {
            accepted(event);
        }
    }
}

pub(super) fn gitlens_seeds() -> Vec<Vec<u8>> {
    let event = br#"{"type":"pr_created","timestamp":"2026-11-20T18:00:00.123Z","repository":"o/r","user":"a","metadata":{"pr_number":7,"branch":"b"}}"#;
    let webhook = br#"{"event_type":"pr_merged","repository":{"full_name":"o/r"},"sender":{"login":"a"},"pull_request":{"number":7,"title":"t","body":"b","head":{"sha":"s","ref":"r"}}}"#;
    let asked = [
        br#"{"event":"#.as_slice(),
        event,
        br#","target_clusters":["eu"],"llm_generals":[],"distribution_strategy":"broadcast"}"#,
    ]
    .concat();
    let bodies = [event.to_vec(), webhook.to_vec(), asked];
    bodies.iter().map(|body| request::write(&[("x-github-delivery", "1")], body)).collect()
}

pub(super) fn cloudevents(input: &[u8]) {
    let (headers, body) = request::parse(input);
    let Ok(received) = ce::receive(&headers, &body) else { return };
    for incoming in received.events {
        if let Ok(event) = event::accept_incoming(&TENANT, incoming) {
            accepted(event);
        }
    }
}

pub(super) fn cloudevents_seeds() -> Vec<Vec<u8>> {
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "42"),
        ("ce-source", "/ci/pipeline"),
        ("ce-type", "com.example.build.failed"),
        ("ce-subject", "build%2042"),
        ("ce-time", "2026-11-20T18:00:00.5Z"),
        ("ce-lane", "octocat/hello-world/pr/1"),
        ("content-type", "application/json"),
    ];
    let one = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"x","time":"2026-11-20T18:00:00+01:00","n":7,"ok":true,"datacontenttype":"text/plain","data":"hello"}"#;
    let base64 = br#"{"specversion":"1.0","id":"2","source":"s","type":"t","dataschema":"https://example.org/s","data_base64":"aGVsbG8="}"#;
    let batch = [b"[".as_slice(), one, b",", base64, b"]"].concat();
    vec![
        request::write(&binary, br#"{"state":"failed","steps":[1,2,3]}"#),
        request::write(&[("content-type", "application/cloudevents+json; charset=utf-8")], one),
        request::write(&[("content-type", "application/cloudevents+json")], base64),
        request::write(&[("content-type", "application/cloudevents-batch+json")], &batch),
    ]
}

static PROFILES: LazyLock<Vec<Profile>> =
    LazyLock::new(|| Profile::types().map(|name| Profile::stock(name).expect("a stock profile is good")).collect());

pub(super) fn general(input: &[u8]) {
    let (headers, body) = request::parse(input);
    let Ok(event) = decode(&headers, &body) else { return };
    for profile in PROFILES.iter() {
        let report = analyse(profile, &event, Timestamp(1_700_000_000_000));
        let bytes = serde_json::to_vec(&report).expect("a report is JSON").len();
        assert!(bytes <= 256 << 10, "{}: a report of {bytes} bytes does not fit inline", report.general);
    }
}

pub(super) fn general_seeds() -> Vec<Vec<u8>> {
    let json = [("content-type", "application/json")];
    let mut seeds: Vec<_> = payloads()
        .into_iter()
        .map(|(event, body)| {
            let head = format!(
                r#"{{"event_type":"com.github.{event}","job_id":"d1.1","timestamp":"2026-11-20T18:00:00Z","data":"#
            );
            request::write(&json, &[head.as_bytes(), &body, b",\"general_info\":{}}"].concat())
        })
        .collect();
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "s"),
        ("ce-type", "t"),
        ("content-type", "text/plain"),
    ];
    seeds.push(request::write(&binary, b"a plain text"));
    seeds.push(request::write(
        &json,
        br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"commits":[]}}"#,
    ));
    seeds
}
