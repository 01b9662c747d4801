//! A replay: every webhook of a folder published as GitHub would, then waited for until all it led to is settled.

use std::time::{Duration, Instant};

use mindos_proto::delivery::v1::{Delivery, DeliveryFilter, DeliveryStatus};
use mindos_proto::event::v1::{self as event, Event, get_request};
use serde_json::Value;

use super::github::Webhook;
use crate::client::Client;
use crate::commands::deliveries::fetch;
use crate::commands::filter::PageArgs;
use crate::commands::ledger::{Verdict, verify_online};
use crate::failure::Failure;
use crate::render::Progress;
use crate::site::Site;
use crate::web::Web;

/// How often it is looked what is left.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Most events asked about at once, as the API allows.
const SEQS_MAX: usize = 10_000;
/// How often a webhook that was not answered is sent again.
const TRIES_MAX: usize = 60;

/// What a replay led to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) webhooks: usize,
    /// Webhooks that had been accepted before.
    pub(crate) duplicates: usize,
    /// The events, each once.
    pub(crate) events: Vec<Event>,
    pub(crate) deliveries: Vec<Delivery>,
    /// From the first webhook sent to the last one answered.
    pub(crate) publishing: Duration,
    /// From the first webhook sent to the last delivery settled.
    pub(crate) settling: Duration,
    pub(crate) ledger: Verdict,
}

/// Publishes, waits, and checks the ledger.
pub(crate) async fn run(
    client: &Client,
    server: &str,
    webhooks: &[Webhook],
    secret: &str,
    timeout: Duration,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let mut web = Web::new(&Site::plain(server))?;
    let mut progress = Progress::new();
    let mut seqs = Vec::new();
    let mut duplicates = 0;
    for (at, webhook) in webhooks.iter().enumerate() {
        progress.show(&format!("{at} of {} webhooks published", webhooks.len()));
        let answer = publish(&mut web, webhook, secret).await?;
        duplicates += usize::from(answer.duplicate);
        seqs.push(answer.seq);
    }
    let publishing = started.elapsed();
    seqs.sort_unstable();
    seqs.dedup();
    let mut events = Vec::new();
    for seq in &seqs {
        let request = event::GetRequest { key: Some(get_request::Key::Seq(*seq)) };
        events.extend(patiently(async || client.events().get(request.clone()).await, client).await?.event);
    }
    let planned: usize = events.iter().map(|event| event.deliveries.len()).sum();
    let deliveries = settled(client, &seqs, planned, started + timeout, &mut progress).await?;
    let settling = started.elapsed();
    progress.clear();
    let ledger = verify_online(client, 0, 0).await?;
    Ok(Outcome { webhooks: webhooks.len(), duplicates, events, deliveries, publishing, settling, ledger })
}

/// What the control plane said to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    seq: u64,
    duplicate: bool,
}

/// Sends a webhook until it is answered: it has an id of its own, so sending it again is harmless.
async fn publish(web: &mut Web, webhook: &Webhook, secret: &str) -> Result<Answer, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match web.post("/webhooks/github", &webhook.headers(secret), webhook.body.clone()).await {
            Ok((status, body)) if status.is_success() => return read_answer(&webhook.file, &body),
            Ok((status, body)) => {
                let text = String::from_utf8_lossy(&body);
                let failure = Failure::refused(format!("{} was answered {status}: {}", webhook.file, text.trim()));
                if !(status.is_server_error() || status.as_u16() == 429) {
                    return Err(failure);
                }
                failure
            }
            Err(failure) => failure,
        };
        if tries == TRIES_MAX {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn read_answer(file: &str, body: &[u8]) -> Result<Answer, Failure> {
    let bad = || Failure::world(format!("the answer to {file} names no event: {}", String::from_utf8_lossy(body)));
    let value: Value = serde_json::from_slice(body).map_err(|_| bad())?;
    let seq = &value["event"];
    let seq = seq.as_u64().filter(|seq| *seq > 0).ok_or_else(bad)?;
    Ok(Answer { seq, duplicate: value["duplicate"].as_bool().unwrap_or(false) })
}

/// Asks again while the control plane is away, because it is started again.
async fn patiently<T>(
    ask: impl AsyncFn() -> Result<tonic::Response<T>, tonic::Status>,
    client: &Client,
) -> Result<T, Failure> {
    let mut tries = 0;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            // A view may lag a little behind what was accepted.
            Err(status)
                if tries < TRIES_MAX && (Client::is_passing(&status) || status.code() == tonic::Code::NotFound) =>
            {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(status) => return Err(client.failed()(status)),
        }
    }
}

/// All deliveries of the events, once none of them waits or is leased, or as they are at the deadline.
async fn settled(
    client: &Client,
    seqs: &[u64],
    planned: usize,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<Vec<Delivery>, Failure> {
    loop {
        let over = Instant::now() >= deadline;
        let mut deliveries = Vec::new();
        let mut failed = None;
        for chunk in seqs.chunks(SEQS_MAX) {
            let filter = DeliveryFilter { event_seqs: chunk.to_vec(), ..Default::default() };
            match fetch(client, &filter, PageArgs { limit: 0 }, false).await {
                Ok(found) => deliveries.extend(found),
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            Some(failure) if over => return Err(failure),
            Some(_) => {}
            None => {
                let is_open = |delivery: &&Delivery| {
                    matches!(
                        delivery.status(),
                        DeliveryStatus::Waiting | DeliveryStatus::Leased | DeliveryStatus::Unspecified
                    )
                };
                let open = deliveries.iter().filter(is_open).count();
                if (open == 0 && deliveries.len() >= planned) || over {
                    return Ok(deliveries);
                }
                progress.show(&format!("{} of {planned} deliveries settled", deliveries.len() - open));
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_its_event() {
        let answer = |text: &str| read_answer("f", text.as_bytes()).unwrap();
        assert_eq!(answer(r#"{"event": 7}"#), Answer { seq: 7, duplicate: false });
        assert_eq!(answer(r#"{"event": 7, "duplicate": true}"#), Answer { seq: 7, duplicate: true });
        assert!(read_answer("f", b"ok").is_err());
    }
}
