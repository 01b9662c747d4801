//! The surfaces beside the main stream of work: ledger, blobs, HTTP, metrics, retention.

use std::time::{Duration, Instant};

use crate::support::http::{self, get, post};
use crate::support::{Directory, PATIENCE, Running, event};
use mindos_proto::blob::v1::blob_service_client::BlobServiceClient;
use mindos_proto::blob::v1::put_request::Part;
use mindos_proto::blob::v1::{GetRequest, PutHeader, PutRequest, StatRequest};
use mindos_proto::delivery::v1::{CancelRequest, cancel_request};
use mindos_proto::journal::v1::Entry;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::ledger::v1::{TailRequest, VerifyRequest, VerifyResponse};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Code;

const STRUCTURED: &str = "content-type: application/cloudevents+json\r\n";

#[tokio::test]
async fn events_over_http_are_answered_once_and_conflicts_are_said() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let body = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    let (code, first) = post(&server, "/events", STRUCTURED, body).await;
    assert_eq!(code, 202, "{first}");
    let (code, again) = post(&server, "/events", STRUCTURED, body).await;
    let repeated = first.replace("\"duplicate\":false", "\"duplicate\":true");
    assert_eq!((code, &again), (202, &repeated));
    // Also when nothing of it is open any more.
    let id = first.split('"').find(|word| word.starts_with('d') && word.ends_with(".1")).unwrap().to_owned();
    let target = Some(cancel_request::Target::DeliveryId(id));
    let cancel = CancelRequest { target, ..CancelRequest::default() };
    assert_eq!(server.deliveries().await.cancel(cancel).await.unwrap().into_inner().cancelled, 1);
    assert_eq!(post(&server, "/events", STRUCTURED, body).await, (202, repeated));
    let open = br#"{"specversion":"1.0","id":"2","source":"/s","type":"t","data":{"a":1}}"#;
    assert_eq!(post(&server, "/events", STRUCTURED, open).await.0, 202);
    let other = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":2}}"#;
    assert_eq!(post(&server, "/events", STRUCTURED, other).await.0, 409);
    assert_eq!(post(&server, "/events", STRUCTURED, b"{").await.0, 400);
    assert_eq!(post(&server, "/events", "content-type: application/cloudevents+avro\r\n", b"x").await.0, 415);
    let announced = "POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n";
    assert_eq!(http::send(&server, announced.as_bytes()).await.0, 413);
    assert_eq!(get(&server, "/events").await.0, 405);
    // Without a secret nothing is taken.
    let (code, body) = post(&server, "/webhooks/github", "content-type: application/json\r\n", b"{}").await;
    assert_eq!(code, 503);
    assert!(body.contains("MINDOS_GITHUB_SECRET"), "{body}");
    assert_eq!((get(&server, "/healthz").await.0, get(&server, "/readyz").await.0), (200, 200));
    let (code, metrics) = get(&server, "/metrics").await;
    assert_eq!(code, 200);
    assert!(metrics.lines().any(|line| line == "mindos_open_deliveries{status=\"waiting\"} 1"), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn the_ledger_shows_a_chain_that_verifies() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    for number in 0..10 {
        server.publish(event(&number.to_string(), "data")).await.unwrap();
    }
    let mut ledger = LedgerServiceClient::new(server.channel().await);
    let request = TailRequest { include_payload: true, ..TailRequest::default() };
    let mut tail = ledger.tail(request).await.unwrap().into_inner();
    let mut entries = Vec::new();
    while let Some(response) = tail.message().await.unwrap() {
        entries.extend(response.entries);
    }
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
    assert_eq!(entries.iter().filter(|entry| entry.kind == "event_accepted").count(), 10);
    for pair in entries.windows(2) {
        let parts: [&[u8]; 4] = [&[1], &pair[0].link, &pair[1].seq.to_le_bytes(), &pair[1].leaf];
        assert_eq!(Sha256::digest(parts.concat()).as_slice(), &pair[1].link[..]);
    }
    let limited = TailRequest { from_seq: 3, limit: 2, kinds: vec!["event_accepted".into()], ..TailRequest::default() };
    let mut tail = ledger.tail(limited).await.unwrap().into_inner();
    let some = tail.message().await.unwrap().unwrap();
    assert!(some.entries.len() == 2 && some.entries.iter().all(|entry| entry.payload.is_empty()));
    assert!(some.entries[0].entry.as_ref().is_some_and(|entry: &Entry| entry.encoded_len() > 0));
    let unknown = TailRequest { kinds: vec!["nothing".into()], ..TailRequest::default() };
    assert_eq!(ledger.tail(unknown).await.unwrap_err().code(), Code::InvalidArgument);

    let verified = verify(&mut ledger).await;
    let last = entries.last().unwrap();
    assert_eq!((verified.through_seq, verified.checked), (last.seq, last.seq));
    assert_eq!(verified.link, last.link);
    assert!(verified.done && verified.damage.is_none());

    // A tail that follows sees what comes.
    let follow = TailRequest { from_seq: last.seq + 1, follow: true, ..TailRequest::default() };
    let mut tail = ledger.tail(follow).await.unwrap().into_inner();
    server.publish(event("later", "data")).await.unwrap();
    let response = tokio::time::timeout(PATIENCE, tail.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(response.entries[0].seq, last.seq + 1);
    server.stop().await;
}

async fn verify(ledger: &mut LedgerServiceClient<tonic::transport::Channel>) -> VerifyResponse {
    let mut verify = ledger.verify(VerifyRequest::default()).await.unwrap().into_inner();
    let mut last = None;
    while let Some(response) = verify.message().await.unwrap() {
        last = Some(response);
    }
    last.unwrap()
}

#[tokio::test]
async fn a_blob_comes_back_as_it_was_put_also_after_a_restart() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).take(700_000).collect();
    let address =
        format!("blob:sha256:{}", Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let parts = |address: &str, length: u64, bytes: &[u8]| {
        let header = PutHeader { r#ref: address.to_owned(), length, content_type: "text/plain".into() };
        let header = PutRequest { part: Some(Part::Header(header)) };
        let chunks = bytes.chunks(256 << 10).map(|chunk| PutRequest { part: Some(Part::Chunk(chunk.to_vec().into())) });
        tokio_stream::iter([header].into_iter().chain(chunks).collect::<Vec<_>>())
    };
    let mut blobs = BlobServiceClient::new(server.channel().await);
    let put = blobs.put(parts("", 0, &bytes)).await.unwrap().into_inner();
    assert_eq!((put.r#ref.as_str(), put.length, put.existed), (address.as_str(), 700_000, false));
    assert!(blobs.put(parts(&address, 700_000, &[])).await.unwrap().into_inner().existed);
    let wrong = blobs.put(parts(&address, 3, b"abc")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    server.stop().await;

    let server = Running::start(&directory).await;
    let mut blobs = BlobServiceClient::new(server.channel().await);
    let stat = blobs.stat(StatRequest { r#ref: address.clone() }).await.unwrap().into_inner();
    assert_eq!((stat.length, stat.content_type.as_str()), (700_000, "text/plain"));
    let mut got = Vec::new();
    let mut parts = blobs.get(GetRequest { r#ref: address.clone(), offset: 1000 }).await.unwrap().into_inner();
    while let Some(part) = parts.message().await.unwrap() {
        got.extend_from_slice(&part.chunk);
    }
    assert_eq!(got, bytes[1000..]);
    let none = address.replace(&address[12..16], "0000");
    assert_eq!(blobs.stat(StatRequest { r#ref: none }).await.unwrap_err().code(), Code::NotFound);

    // Agents reach it beside their stream.
    let agents = tonic::transport::Endpoint::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let stat = BlobServiceClient::new(agents).stat(StatRequest { r#ref: address }).await.unwrap().into_inner();
    assert_eq!(stat.length, 700_000);
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_much_leaves_and_open_work_keeps_its_payloads() {
    let directory = Directory::new();
    let options = ["--journal-keep-bytes", "1MiB", "--upkeep-interval", "100ms", "--snapshot-interval", "100ms"];
    let server = Running::with(&directory, &options).await;
    let data = "x".repeat(200_000);
    let mut deliveries = server.deliveries().await;
    for number in 0..60 {
        let published = server.publish(event(&number.to_string(), &data)).await.unwrap();
        if number % 10 > 0 {
            let delivery = published.deliveries[0].delivery_id.clone();
            let request =
                CancelRequest { target: Some(cancel_request::Target::DeliveryId(delivery)), ..Default::default() };
            deliveries.cancel(request).await.unwrap();
        }
    }
    // Six are open: their payloads are carried, and the beginning leaves.
    let began = Instant::now();
    let mut ledger = LedgerServiceClient::new(server.channel().await);
    let first = loop {
        let request = TailRequest { limit: 1, ..TailRequest::default() };
        let mut tail = ledger.tail(request).await.unwrap().into_inner();
        let first = tail.message().await.unwrap().unwrap().entries[0].seq;
        if first > 1 {
            break first;
        }
        assert!(began.elapsed() < PATIENCE, "nothing was dropped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let gone = ledger.tail(TailRequest { from_seq: first - 1, ..TailRequest::default() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::OutOfRange);
    let verified = verify(&mut ledger).await;
    assert!(verified.damage.is_none() && verified.done);
    server.stop().await;

    // It starts again without its beginning, and still knows what was published.
    let server = Running::with(&directory, &options).await;
    let again = server.publish(event("0", &data)).await.unwrap();
    assert!(again.duplicate);
    server.stop().await;
}
