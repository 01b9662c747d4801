//! What notifiers promise: the form of each place, a bound, and that failures are told apart.

use std::time::Duration;

use mindos_core::record::{DeliveryParked, Record};
use mindos_model::{DeliveryId, ParkReason, Seq};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::secret::Secrets;
use crate::views::follow::View;
use crate::views::testing::{Records, general};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// A place on this machine that answers with these in turn, the last one for good; gives what it is told.
async fn place(answers: &'static [&'static str]) -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (told, requests) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut answers = answers.iter().chain(std::iter::repeat(answers.last().unwrap()));
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let (head, body) = loop {
                stream.read_buf(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if let Ok(body) = serde_json::from_str(body) {
                    break (head.to_owned(), body);
                }
            };
            told.send((head, body)).await.unwrap();
            stream.write_all(answers.next().unwrap().as_bytes()).await.unwrap();
        }
    });
    (address, requests)
}

fn places(section: Value, env: &DiscordEnv) -> Result<Places, String> {
    let section: NotifySection = serde_json::from_value(section).map_err(|error| error.to_string())?;
    section.places(env, Secrets::Read)
}

fn start(section: Value, env: &DiscordEnv) -> (NotifyView, NoticeCounts) {
    start_with(&Arc::new(ArcSwap::from_pointee(places(section, env).unwrap())))
}

fn start_with(configured: &Configured) -> (NotifyView, NoticeCounts) {
    let (view, tasks, counts) = super::start(configured, &Paces::default(), &Outgoing::new(), Seq(1));
    tasks.into_iter().for_each(|task| drop(tokio::spawn(task)));
    (view, counts)
}

fn follow(view: &mut NotifyView, records: &Records) {
    let next = View::next(view);
    records.entries().iter().filter(|entry| entry.seq >= next).for_each(|entry| view.apply(entry).unwrap());
}

/// An event that is told of, and its delivery, of which only sinks tell.
fn accept(records: &Records) {
    let event = records.event("o/a", "pr_created", &[&general("eu", "security")]);
    let delivery = DeliveryId::new(event, 1);
    records.push(Record::DeliveryParked(DeliveryParked { delivery, reason: ParkReason::Blocked, over: None }));
}

fn count(counts: &NoticeCounts, outcome: &str) -> u64 {
    counts
        .counts
        .iter()
        .flat_map(|(_, counts)| counts.read())
        .filter(|(word, _)| *word == outcome)
        .map(|(_, n)| n)
        .sum()
}

#[tokio::test]
async fn a_webhook_is_told_of_events_under_a_signature() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let (url, mut told) = place(&[OK]).await;
    let section = json!({"webhook": {"url": format!("{url}/hook"), "secret": {"file": secret}}});
    let (mut view, counts) = start(section, &DiscordEnv::default());
    let records = Records::default();
    accept(&records);

    follow(&mut view, &records);

    let (head, event) = told.recv().await.unwrap();
    assert!(head.starts_with("POST /hook HTTP/1.1") && head.contains("x-mindos-signature: sha256="), "{head}");
    assert_eq!((&event["notice"], &event["title"]), (&json!("event"), &json!("GitLens: Pr Created")));
    assert_eq!(event["event"]["repository"], "o/a");
    assert_eq!(count(&counts, "dropped"), 0);
}

#[tokio::test]
async fn who_is_told_to_wait_waits_and_who_is_refused_goes_on() {
    const LIMITED: &str = "HTTP/1.1 429 Slow\r\nRetry-After: 0.05\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    const REFUSED: &str = "HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let (url, mut told) = place(&[LIMITED, OK, REFUSED, OK]).await;
    let section = json!({"discord": {"channels": {"prs": "1", "alerts": "2"}, "api": url}});
    let env = DiscordEnv { token: Some("t0ken".to_owned()), prs_channel: None };
    let (mut view, counts) = start(section, &env);
    let records = Records::default();
    (0..3).for_each(|_| accept(&records));

    follow(&mut view, &records);

    let mut paths = Vec::new();
    for _ in 0..4 {
        let (head, body) = told.recv().await.unwrap();
        assert!(head.contains("authorization: Bot t0ken") && body["embeds"][0]["color"].is_number(), "{head}");
        paths.push(head.split(' ').nth(1).unwrap().to_owned());
    }
    assert_eq!(paths, ["/channels/1/messages"; 4]);
    let done = async {
        while count(&counts, "sent") < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    assert_eq!((count(&counts, "failed"), count(&counts, "rate_limited")), (1, 1));
}

#[tokio::test]
async fn a_place_that_takes_nothing_costs_its_own_notices_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (mut view, counts) = start(json!({"webhook": {"url": url}}), &DiscordEnv::default());
    let records = Records::default();
    for kind in ["push_of_no_interest", "pr_merged"] {
        (0..300).for_each(|_| _ = records.event("o/a", kind, &[&general("eu", "security")]));
    }

    // Nothing here waits, although nobody answers.
    follow(&mut view, &records);

    assert_eq!(View::next(&view), Seq(601));
    assert_eq!(count(&counts, "dropped"), 300 - 256);
}

#[test]
fn settings_are_checked_and_secrets_are_not_shown() {
    let parse = |section: Value, token: Option<&str>| {
        places(section, &DiscordEnv { token: token.map(str::to_owned), prs_channel: None })
    };
    for (section, named) in [
        (json!({"discord": {"channels": {"prs": "#prs"}}}), "notify.discord.channels.prs"),
        (json!({"discord": {"channels": {"prs": "1"}, "burst": 0}}), "notify.discord.burst"),
        (json!({"slack": {"per_minute": 7}}), "url"),
        (json!({"slack": {"url": {"env": "NO_SUCH_VARIABLE_HERE"}, "per_minute": 7}}), "NO_SUCH_VARIABLE_HERE"),
        (json!({"webhook": {"url": "http://example.com/"}}), "notify.webhook.url"),
        (json!({"webhook": {"url": "https://x/", "secret": {"file": "/none", "env": "A"}}}), "notify.webhook.secret"),
        (json!({"webhook": {"url": "https://x/", "per_hour": 7}}), "unknown field `per_hour`"),
    ] {
        let error = parse(section, Some("t")).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    // Without a token or a channel nothing is posted, and nothing fails.
    assert!(parse(json!({"discord": {"channels": {"prs": "1"}}}), None).unwrap().is_empty());
    assert!(parse(json!({"discord": {}}), Some("t")).unwrap().is_empty());
    let made = parse(json!({"discord": {"channels": {"prs": "1"}, "per_minute": 7}}), Some("t0ken")).unwrap();
    assert_eq!(made.0[0].pace, super::pace::Pace { per_minute: 7, burst: 10 });
    assert!(!format!("{made:?}").contains("t0ken"), "{made:?}");
}

#[tokio::test]
async fn a_change_of_the_settings_holds_for_what_waits() {
    const DOWN: &str = "HTTP/1.1 503 Down\r\nRetry-After: 0.05\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (old, mut told_old) = place(&[DOWN]).await;
    let (new, mut told_new) = place(&[OK]).await;
    let of = |url: &str| places(json!({"webhook": {"url": url}}), &DiscordEnv::default()).unwrap();
    let configured: Configured = Arc::default();
    let (mut view, counts) = start_with(&configured);
    let records = Records::default();

    // Nobody is configured: nothing waits.
    accept(&records);
    follow(&mut view, &records);
    configured.store(Arc::new(of(&old)));
    accept(&records);
    follow(&mut view, &records);
    told_old.recv().await.unwrap();
    configured.store(Arc::new(of(&new)));

    assert_eq!(told_new.recv().await.unwrap().1["notice"], "event");
    assert!(told_new.try_recv().is_err());
    // What is not configured any more is told nothing.
    configured.store(Arc::default());
    accept(&records);
    follow(&mut view, &records);
    let done = async {
        while count(&counts, "sent") < 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    assert_eq!((count(&counts, "failed"), count(&counts, "dropped")), (0, 0));
}

#[test]
fn parked_work_has_a_form_in_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "https://hooks.example/T0KEN").unwrap();
    let section = json!({
        "discord": {"channels": {"prs": "1", "alerts": "2"}, "token": {"file": secret}},
        "slack": {"url": {"file": secret}},
        "webhook": {"url": "https://x/", "secret": {"file": secret}},
    });
    let places = places(section, &DiscordEnv::default()).unwrap();
    let names: Vec<String> = places.iter().map(Place::sink).collect();
    assert_eq!(names, ["notify.discord", "notify.slack", "notify.webhook"]);
    let parked = |reason| {
        let delivery = DeliveryId::new(Seq(7), 1);
        let told = |place: &Place| place.parked(delivery, reason, "<!channel> broke", mindos_model::Timestamp(0));
        places.iter().filter_map(told).collect::<Vec<_>>()
    };
    // Work that waits for room comes back by itself.
    assert!(parked(ParkReason::BacklogFull).is_empty());
    let [discord, slack, webhook] = &parked(ParkReason::Poison)[..] else { panic!("one for each place") };
    let body = |request: &mindos_outgoing::Request| serde_json::from_slice::<Value>(&request.body).unwrap();
    let embed = &body(discord)["embeds"][0];
    assert_eq!(
        (&embed["title"], &embed["description"]),
        (&json!("Mind OS: Work Parked"), &json!("`d7.1` was parked: poison\n<!channel> broke"))
    );
    assert_eq!(body(slack)["text"], "*Mind OS: Work Parked*\n`d7.1` was parked: poison\n&lt;!channel&gt; broke");
    assert_eq!((&body(webhook)["notice"], &body(webhook)["reason"]), (&json!("parked"), &json!("poison")));
    assert!(webhook.headers["x-mindos-signature"].to_str().unwrap().starts_with("sha256="));
}
