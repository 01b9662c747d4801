//! Overload at the door: quotas, caps and priorities, over HTTP and gRPC, each answered in a way that programs can follow, and counted.

use crate::support::{Agent, Directory, PATIENCE, Running, event};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use mindos_proto::rpc::{ErrorInfo, QuotaFailure, RetryInfo, Status};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// Sends a request as it is, and returns head and body.
async fn http(server: &Running, request: &str) -> (String, String) {
    let address = server.api.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

async fn post(server: &Running, id: &str, source: &str) -> (String, String) {
    let body = format!(r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"t"}}"#);
    let head =
        "POST /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/cloudevents+json\r\n";
    http(server, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await
}

async fn metrics(server: &Running) -> String {
    http(server, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.1
}

/// What a call was refused with, in the form that has details.
fn details(status: &tonic::Status) -> Status {
    Status::decode(status.details()).unwrap()
}

fn with(mut event: CloudEvent, name: &str, value: &str) -> CloudEvent {
    let value = CloudEventAttributeValue { attr: Some(Attr::CeString(value.to_owned())) };
    event.attributes.insert(name.to_owned(), value);
    event
}

#[tokio::test]
async fn a_storm_is_refused_by_the_name_of_its_quota_and_counted() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, "quotas: [{name: storms, source: '/storm*', events: 3, per: 1h}]\n").unwrap();
    let server = Running::with(&directory, &["--settings", settings.to_str().unwrap()]).await;

    for id in 0..3 {
        let (head, body) = post(&server, &id.to_string(), "/storm").await;
        assert!(head.starts_with("http/1.1 202"), "{head} {body}");
    }
    let (head, body) = post(&server, "3", "/storm").await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: 1"), "{head}");
    assert!(body.contains("QUOTA_EXCEEDED") && body.contains("storms") && body.contains("retryDelay"), "{body}");
    // Other sources, and the same one under another name, go on.
    assert!(post(&server, "1", "/calm").await.0.starts_with("http/1.1 202"));
    assert!(post(&server, "1", "/storm/2").await.0.starts_with("http/1.1 202"));

    let storm = CloudEvent { source: "/storm".to_owned(), ..event("9", "x") };
    let refused = server.publish(storm).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let refused = details(&refused);
    let info = refused.detail::<ErrorInfo>().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["quota"].as_str()), ("QUOTA_EXCEEDED", "storms"));
    // A third of an hour, less what has passed.
    let retry = refused.detail::<RetryInfo>().unwrap().retry_delay.unwrap();
    assert!((1100..=1200).contains(&retry.seconds), "{retry:?}");
    assert_eq!(refused.detail::<QuotaFailure>().unwrap().violations[0].subject, "quota:storms");

    let metrics = metrics(&server).await;
    for line in [
        "mindos_admission_events_total{verdict=\"accepted\"} 5",
        "mindos_admission_events_total{verdict=\"quota_exceeded\"} 2",
        "mindos_quota_refused_total{quota=\"storms\"} 2",
        "mindos_quota_sources 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_at_its_cap_is_told_so_and_when_to_try_again() {
    let directory = Directory::new();
    let server = Running::with(&directory, &["--tenant-backlog-max", "2"]).await;

    assert!(post(&server, "1", "/s").await.0.starts_with("http/1.1 202"));
    assert!(server.publish(event("2", "x")).await.is_ok());
    let (head, body) = post(&server, "3", "/s").await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: 1"), "{head}");
    assert!(body.contains("TENANT_FULL") && body.contains("tenant default"), "{body}");
    let refused = server.publish(event("4", "x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(details(&refused).detail::<RetryInfo>().is_some());
    assert_eq!(server.publish(event("2", "other")).await.unwrap_err().code(), Code::AlreadyExists);
    assert!(server.publish(event("2", "x")).await.unwrap().duplicate);

    let urgent = server.publish(with(event("5", "x"), "priority", "urgent")).await.unwrap_err();
    assert_eq!(urgent.code(), Code::InvalidArgument);
    assert!(urgent.message().contains("priority") && urgent.message().contains("low, normal or high"), "{urgent}");

    let metrics = metrics(&server).await;
    for (verdict, count) in [("accepted", 2), ("tenant_full", 2), ("conflict", 1), ("duplicate", 1), ("invalid", 1)] {
        let line = format!("mindos_admission_events_total{{verdict=\"{verdict}\"}} {count}");
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    server.stop().await;
}

/// High goes before low, and of what waits most payloads are not in memory: they are read back as they go out.
#[tokio::test]
async fn payloads_that_left_memory_are_read_back_in_the_order_of_priorities() {
    const EVENTS: usize = 64;
    let directory = Directory::new();
    let server = Running::with(&directory, &["--payload-cache", "1MiB"]).await;
    let text = |number: usize| format!("{number}:{}", "x".repeat(64 * 1024));
    for number in 0..EVENTS {
        let priority = if number % 2 == 0 { "low" } else { "high" };
        let event = with(event(&number.to_string(), &text(number)), "lane", &format!("l{number}"));
        server.publish(with(event, "priority", priority)).await.unwrap();
    }
    let cached = metrics(&server).await;
    let line = cached.lines().find(|line| line.starts_with("mindos_payload_cache_bytes")).unwrap();
    let bytes: usize = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(bytes <= 1 << 20 && bytes > 1 << 19, "{line}");

    let mut agent = Agent::ready(&server, "b1", 1).await;
    let mut order = Vec::new();
    for _ in 0..EVENTS {
        let assign = agent.assignment().await;
        let Some(event) = &assign.event else { panic!("{assign:?}") };
        let Some(Data::TextData(data)) = &event.data else { panic!("{event:?}") };
        let number: usize = event.id.parse().unwrap();
        assert_eq!(*data, text(number));
        order.push(number);
        agent.succeed(&assign, "ok").await;
        agent.settled().await;
    }
    // While both wait, 16 to 1.
    let low = order[..17].iter().filter(|number| *number % 2 == 0).count();
    assert!((1..=2).contains(&low), "{order:?}");
    assert!(order[..40].iter().any(|number| number % 2 == 0) && order[40..].iter().all(|number| number % 2 == 0));
    server.stop().await;
}
