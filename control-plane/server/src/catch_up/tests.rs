use std::path::Path as FilePath;
use std::sync::Mutex;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::app_jwt::AppKey;
use super::*;
use mindos_outgoing::Target;

/// A GitHub with a list of attempts, newest first, two to a page.
#[derive(Debug, Default)]
struct Fake {
    attempts: Mutex<Vec<Value>>,
    asked: Mutex<Vec<u64>>,
    /// Answers to asking, taken from the end; 202 when there are none.
    refusals: Mutex<Vec<u16>>,
    base: Mutex<String>,
    told: tokio::sync::Notify,
}

impl Fake {
    fn attempt(&self, id: u64, guid: &str, at: Timestamp, status: u16) {
        let attempt = json!({ "id": id, "guid": guid, "delivered_at": at.to_string(), "redelivery": false,
            "status": "x", "status_code": status, "event": "push", "action": null });
        self.attempts.lock().unwrap().insert(0, attempt);
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

type Shared = State<Arc<Fake>>;

fn authorised(headers: &HeaderMap) -> bool {
    let value = headers[header::AUTHORIZATION].to_str().unwrap();
    value.strip_prefix("Bearer ").is_some_and(|token| token.split('.').count() == 3)
}

async fn list(
    State(fake): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    assert!(authorised(&headers));
    assert_eq!(query["per_page"], "100");
    let from: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let attempts = fake.attempts.lock().unwrap();
    let page: Vec<Value> = attempts.iter().skip(from).take(2).cloned().collect();
    let base = fake.base.lock().unwrap();
    let link = format!("<{base}/app/hook/deliveries?per_page=100&cursor={}>; rel=\"next\"", from + 2);
    let more = from + 2 < attempts.len();
    ([("link", if more { link } else { String::new() })], Json(page))
}

async fn redeliver(State(fake): Shared, Path(id): Path<u64>, headers: HeaderMap) -> impl IntoResponse {
    assert!(authorised(&headers));
    if let Some(refusal) = fake.refusals.lock().unwrap().pop() {
        return (StatusCode::from_u16(refusal).unwrap(), [("retry-after", "7")], Json(json!({})));
    }
    fake.asked.lock().unwrap().push(id);
    fake.told.notify_one();
    (StatusCode::ACCEPTED, [("retry-after", "0")], Json(json!({})))
}

struct World {
    fake: Arc<Fake>,
    app: App,
    catch_up: CatchUp,
    now: Timestamp,
}

async fn world() -> World {
    let fake = Arc::new(Fake::default());
    let router = Router::new()
        .route("/api/v3/app/hook/deliveries", get(list))
        .route("/api/v3/app/hook/deliveries/{id}/attempts", post(redeliver))
        .with_state(Arc::clone(&fake));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/api/v3", listener.local_addr().unwrap());
    fake.base.lock().unwrap().clone_from(&base);
    tokio::spawn(async { axum::serve(listener, router).await });
    let key = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/catch_up/test_key.pem");
    let app = App {
        id: "7".to_owned(),
        key: AppKey::read(&key).unwrap(),
        api: Target::parse(&base, false).unwrap(),
        api_url: base,
        every: Duration::from_secs(300),
        look_back: Duration::from_secs(3600),
    };
    let clock = Clock::start(Timestamp(0));
    let catch_up = CatchUp { pace: Duration::ZERO, ..CatchUp::new(Outgoing::new(), clock) };
    World { fake, app, catch_up, now: clock.now() }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_no_attempt_got_through_is_asked_for_once_the_oldest_first() {
    let World { fake, app, mut catch_up, now } = world().await;
    fake.attempt(1, "too-old", now - MINUTE * 200, 502);
    fake.attempt(2, "older", now - MINUTE * 30, 502);
    fake.attempt(3, "came", now - MINUTE * 20, 202);
    fake.attempt(4, "came-later", now - MINUTE * 19, 500);
    fake.attempt(5, "newer", now - MINUTE * 10, 503);
    fake.attempt(6, "came-later", now - MINUTE * 5, 202);
    fake.attempt(7, "on-its-way", now, 502);

    catch_up.look(&app).await.unwrap();
    assert_eq!(fake.asked(), [2, 5]);
    // The attempts that were asked for do not show yet: nobody is asked twice at once.
    catch_up.look(&app).await.unwrap();
    assert_eq!(fake.asked(), [2, 5]);

    fake.attempt(8, "older", now, 202);
    fake.attempt(9, "newer", now - YOUNG, 500);
    catch_up.look(&app).await.unwrap();
    assert_eq!(fake.asked(), [2, 5, 9]);
    assert_eq!(catch_up.missing.keys().collect::<Vec<_>>(), ["newer", "on-its-way"]);
    let mut metrics = Exposition::default();
    catch_up.counts().expose(&mut metrics);
    assert!(metrics.into_text().contains("mindos_github_redeliveries_asked_total 3"));
}

#[tokio::test]
async fn after_five_attempts_a_delivery_is_given_up() {
    let World { fake, app, mut catch_up, now } = world().await;
    for attempt in 1..=6 {
        fake.attempt(attempt, "never", now - MINUTE * 30 + MINUTE * u32::try_from(attempt).unwrap(), 500);
        catch_up.look(&app).await.unwrap();
    }
    assert_eq!(fake.asked(), [1, 2, 3, 4]);
    assert_eq!(catch_up.counts.given_up.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refusal_ends_the_look_and_says_when_to_come_again() {
    let World { fake, app, mut catch_up, now } = world().await;
    fake.attempt(1, "gone", now - MINUTE * 30, 502);
    fake.attempt(2, "limited", now - MINUTE * 20, 502);
    fake.refusals.lock().unwrap().extend([429, 404]);
    match catch_up.look(&app).await {
        Err(CatchUpError::Refused { status: StatusCode::TOO_MANY_REQUESTS, wait }) => {
            assert_eq!(wait, Duration::from_secs(7));
        }
        other => panic!("{other:?}"),
    }
    assert!(fake.asked().is_empty());
    // What GitHub does not know any more is given up; the rest is asked for at the next look.
    catch_up.look(&app).await.unwrap();
    assert_eq!(fake.asked(), [2]);
}

#[tokio::test]
async fn nobody_is_asked_before_an_app_is_configured() {
    let World { fake, app, catch_up, now } = world().await;
    fake.attempt(1, "missing", now - MINUTE, 502);
    let (drain, draining) = watch::channel(false);
    let configured = Arc::new(ArcSwapOption::empty());
    let task = tokio::spawn(catch_up.run(Arc::clone(&configured), draining));
    tokio::task::yield_now().await;
    assert!(fake.asked().is_empty());
    configured.store(Some(Arc::new(app)));
    fake.told.notified().await;
    assert_eq!(fake.asked(), [1]);
    drain.send(true).unwrap();
    task.await.unwrap();
}

#[test]
fn the_next_page_is_that_of_the_header() {
    let of = |link: &str| next_page(&HeaderMap::from_iter([(header::LINK, link.parse().unwrap())]));
    let link = "<https://api.github.com/app/hook/deliveries?per_page=100&cursor=v1_9>; rel=\"next\", <https://x/app/hook/deliveries?first>; rel=\"first\"";
    assert_eq!(of(link).as_deref(), Some("/app/hook/deliveries?per_page=100&cursor=v1_9"));
    assert_eq!(of("<https://x/y>; rel=\"prev\""), None);
}
