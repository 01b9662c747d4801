//! Webhooks that GitHub could not deliver come in after all: GitHub is asked for them, and really sends them again, into our webhook.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::github::{Fault, GitHub};
use crate::support::{Directory, Running};
use bytes::Bytes;
use http::{HeaderValue, Method};
use mindos_control_plane::catch_up::app_jwt::AppKey;
use mindos_model::Timestamp;
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_proto::event::v1::ListRequest;
use serde_json::Value;

const APP: &str = "Iv23liExample";
const SECRET: &str = "a secret of the webhook";
const LOST: usize = 6;
/// More than a page.
const LATER: usize = 105;
/// A look asks for one delivery a second.
const LONG: Duration = Duration::from_secs(60);

fn key() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catch_up/test_key.pem")
}

/// A real payload, of an issue of its own.
fn opened(number: usize) -> Bytes {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/github-webhooks/issues.opened.1.json");
    let mut payload: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    payload["issue"]["number"] = number.into();
    payload.to_string().into()
}

/// How often each id stands among the events.
async fn events(server: &Running) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = ListRequest { page_token, page_size: 100, ..ListRequest::default() };
        let page = server.events().await.list(request).await.unwrap().into_inner();
        for event in page.events {
            *found.entry(event.event.unwrap().id).or_default() += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

async fn metric(server: &Running, line: &str) -> u64 {
    let target = Target::parse(&server.api, false).unwrap().join("/metrics").unwrap();
    let request = Request { answer_max: 1 << 20, ..Request::new(Method::GET, target) };
    let answer = Outgoing::new().send(request).await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LONG, "{what}: not within {LONG:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// By delivery, what each attempt came to.
fn attempts(github: &GitHub) -> BTreeMap<String, Vec<u16>> {
    let mut attempts = BTreeMap::<String, Vec<u16>>::new();
    for (index, attempt) in github.attempts().into_iter().enumerate() {
        let before = attempts.entry(attempt.guid.clone()).or_default();
        assert_eq!(attempt.redelivery, !before.is_empty(), "attempt {index} on {}", attempt.guid);
        before.push(attempt.status_code);
    }
    attempts
}

#[tokio::test]
async fn webhooks_lost_in_an_outage_come_in_after_it_once_each() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, format!("github_secret: '{SECRET}'\n")).unwrap();
    let options = ["--settings", settings.to_str().unwrap()];
    let github = GitHub::start(APP, SECRET).await;
    let server = Running::with(&directory, &options).await;
    github.set_hook(&server.api);
    github.happen("before", "issues", opened(1)).await;
    server.stop().await;

    // The outage: nobody listens, and GitHub tries once.
    for number in 0..LOST {
        github.happen(&format!("lost-{number}"), "issues", opened(100 + number)).await;
    }
    let server = Running::with(&directory, &options).await;
    github.set_hook(&server.api);
    github.fail("stubborn", &[Fault::Lost, Fault::Lost]);
    github.fail("unheard", &[Fault::TimedOut]);
    github.fail("forged", &[Fault::Forged; 9]);
    for (number, guid) in ["stubborn", "unheard", "forged"].into_iter().enumerate() {
        github.happen(guid, "issues", opened(200 + number)).await;
    }
    for number in 0..LATER {
        github.happen(&format!("later-{number}"), "issues", opened(300 + number)).await;
    }
    let came = attempts(&github);
    assert!((0..LOST).all(|number| came[&format!("lost-{number}")] == [502]), "{came:?}");
    assert_eq!((&came["stubborn"], &came["unheard"], &came["forged"]), (&vec![502], &vec![504], &vec![401]));
    assert!((0..LATER).all(|number| came[&format!("later-{number}")] == [202]), "{came:?}");

    // The App is made known; GitHub wants it to wait, twice, in both of its ways.
    let reset = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 6;
    github.refuse(403, &[("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", reset.to_string())]);
    github.refuse(429, &[("retry-after", "3".to_owned())]);
    let app = format!(
        "github_secret: '{SECRET}'\ngithub_app: {{id: {APP}, private_key_file: '{}', api: '{}', every: 1s, look_back: 1h}}\n",
        key().display(),
        github.api
    );
    std::fs::write(&settings, app).unwrap();
    until("what was lost", async || {
        let found = events(&server).await;
        found.contains_key("stubborn") && (0..LOST).all(|number| found.contains_key(&format!("lost-{number}")))
    })
    .await;
    until("what never comes is given up", async || {
        metric(&server, "mindos_github_redeliveries_given_up_total").await == 1
    })
    .await;
    until("nothing is missing", async || metric(&server, "mindos_github_deliveries_missing").await == 0).await;
    // Some looks more, which find nothing to ask for.
    let looks = metric(&server, "mindos_github_catch_up_looks_total{outcome=\"done\"}").await;
    until("more looks", async || {
        metric(&server, "mindos_github_catch_up_looks_total{outcome=\"done\"}").await >= looks + 3
    })
    .await;

    let came = attempts(&github);
    assert!((0..LOST).all(|number| came[&format!("lost-{number}")] == [502, 202]), "{came:?}");
    assert_eq!(came["stubborn"], [502, 502, 202]);
    assert_eq!(came["unheard"], [504, 202]);
    assert_eq!(came["forged"], [401; 5]);
    assert!(came["before"] == [202] && (0..LATER).all(|number| came[&format!("later-{number}")] == [202]));
    let found = events(&server).await;
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    assert_eq!(found.len(), 1 + LOST + 2 + LATER, "{found:?}");
    assert!(!found.contains_key("forged"));
    let asked = u64::try_from(LOST).unwrap() + 2 + 1 + 4;
    assert_eq!(metric(&server, "mindos_github_redeliveries_asked_total").await, asked);
    assert_eq!(metric(&server, "mindos_github_catch_up_looks_total{outcome=\"failed\"}").await, 2);
    assert_eq!(github.tokens_refused(), 0);
    // Whoever was told to wait did.
    let requests = github.asked();
    let refused = github.refused();
    let after = |at: Instant| requests.iter().find(|(asked, _)| *asked > at).unwrap().0.duration_since(at);
    assert_eq!(refused.len(), 2);
    assert!(after(refused[1]) >= Duration::from_millis(2900), "came back after {:?}", after(refused[1]));
    let first = refused[0].elapsed().saturating_sub(after(refused[0]));
    let back = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - first;
    assert!(back.as_secs() >= reset - 1, "came back before the reset, {} s of {reset}", back.as_secs());
    assert!(requests.iter().any(|(_, path)| path.contains("cursor=v1_")), "no second page was read");
    assert!(requests.iter().all(|(_, path)| path.contains("/attempts") || path.contains("per_page=100")));
    server.stop().await;

    // Another outage, with the App known from the start on: what is past is not asked for anew.
    github.happen("lost-again", "issues", opened(900)).await;
    let before = attempts(&github);
    let server = Running::with(&directory, &options).await;
    github.set_hook(&server.api);
    until("what was lost again", async || events(&server).await.contains_key("lost-again")).await;
    until("a look after it", async || {
        metric(&server, "mindos_github_catch_up_looks_total{outcome=\"done\"}").await >= 2
    })
    .await;
    let mut expected = before;
    expected.insert("lost-again".to_owned(), vec![502, 202]);
    assert_eq!(attempts(&github), expected);
    assert_eq!(metric(&server, "mindos_github_redeliveries_asked_total").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_stub_takes_the_apps_own_tokens_alone_and_says_what_it_sent() {
    let github = GitHub::start(APP, SECRET).await;
    github.set_hook("http://127.0.0.1:9");
    github.happen("lost", "issues", opened(1)).await;
    let id = github.attempts()[0].id;
    let (client, api) = (Outgoing::new(), Target::parse(&github.api, false).unwrap());
    let ask = async |method: Method, path: &str, token: &str| {
        let mut request = Request::new(method, api.join(path).unwrap());
        request.answer_max = 1 << 20;
        request.headers.insert("accept", HeaderValue::from_static("application/vnd.github+json"));
        request.headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        request.headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let answer = client.send(request).await.unwrap();
        (answer.status.as_u16(), serde_json::from_slice::<Value>(&answer.body).unwrap())
    };
    let key = AppKey::read(&key()).unwrap();
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let good = key.token(APP, Timestamp(now));
    let list = "/app/hook/deliveries?per_page=100";
    let mut altered = good.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    let bad = [
        String::new(),
        "a.b.c".to_owned(),
        String::from_utf8(altered).unwrap(),
        key.token("another", Timestamp(now)),
        key.token(APP, Timestamp(now - 1_200_000)),
        key.token(APP, Timestamp(now + 1_200_000)),
    ];
    for token in &bad {
        assert_eq!(ask(Method::GET, list, token).await.0, 401, "{token}");
    }
    assert_eq!(github.tokens_refused(), bad.len() as u64);
    let (status, listed) = ask(Method::GET, list, &good).await;
    assert_eq!((status, listed.as_array().unwrap().len(), &listed[0]["guid"]), (200, 1, &"lost".into()));
    let (status, one) = ask(Method::GET, &format!("/app/hook/deliveries/{id}"), &good).await;
    assert_eq!((status, &one["request"]["headers"]["x-github-delivery"]), (200, &"lost".into()));
    assert_eq!(one["request"]["payload"]["issue"]["number"], 1);
    assert_eq!(ask(Method::GET, "/app/hook/deliveries/1", &good).await.0, 404);
    assert_eq!(ask(Method::POST, "/app/hook/deliveries/1/attempts", &good).await.0, 404);
}
