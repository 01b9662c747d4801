use serde_json::json;

use super::*;

const FIRING: &[u8] = include_bytes!("../../../../tests/data/alertmanager/firing.json");
const MIXED: &[u8] = include_bytes!("../../../../tests/data/alertmanager/mixed.json");
const NAMELESS: &[u8] = include_bytes!("../../../../tests/data/alertmanager/without-fingerprint.json");

fn headers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::CONTENT_TYPE, "application/json".parse().unwrap())])
}

fn read(body: &[u8]) -> Result<Vec<IncomingEvent>, HookError> {
    normalise(&headers(), &Bytes::copy_from_slice(body))
}

fn extension<'a>(event: &'a IncomingEvent, name: &str) -> Option<&'a str> {
    match event.extensions.get(name)? {
        ExtensionValue::String(text) => Some(text),
        _ => None,
    }
}

#[test]
fn each_alert_is_an_event_in_a_lane_of_its_own() {
    let events = read(FIRING).unwrap();
    let [first, second] = &events[..] else { panic!("{events:?}") };
    assert_eq!(first.id, "b3c1e8f0a7d24c11.2026-01-31T11:00:00.123Z.firing");
    assert_eq!((first.r#type.as_str(), first.subject.as_deref()), ("com.prometheus.alert.firing", Some("HighLatency")));
    assert_eq!(
        (extension(first, "lane"), extension(first, "kind")),
        (Some("alert/b3c1e8f0a7d24c11"), Some("needs_attention"))
    );
    assert_eq!((extension(first, "repository"), extension(second, "repository")), (Some("tools/engine"), None));
    assert_eq!(extension(first, "externalurl"), Some("https://alertmanager.example.com"));
    assert_eq!(extension(second, "lane"), Some("alert/51d0f7aa90b3e2c4"));
    assert_eq!(first.time, Some("2026-01-31T11:00:00.123Z".parse().unwrap()));
    let data: Value = serde_json::from_slice(&first.data).unwrap();
    assert_eq!(data["labels"]["instance"], "web-1");
}

#[test]
fn what_is_resolved_follows_in_the_same_lane_and_needs_nobody() {
    let (fired, mixed) = (read(FIRING).unwrap(), read(MIXED).unwrap());
    assert_eq!(mixed[0].r#type, "com.prometheus.alert.resolved");
    assert_eq!(extension(&mixed[0], "kind"), None);
    assert_eq!(extension(&mixed[0], "lane"), extension(&fired[0], "lane"));
    assert_ne!(mixed[0].id, fired[0].id);
    // What still fires is told again, and is the same event.
    assert_eq!(mixed[1].id, fired[1].id);
    assert_eq!(mixed[0].time, Some("2026-01-31T11:20:00.5Z".parse().unwrap()));
}

#[test]
fn an_alert_without_a_fingerprint_is_named_by_its_labels() {
    let events = read(NAMELESS).unwrap();
    let lane = extension(&events[0], "lane").unwrap();
    assert_eq!((lane.len(), lane.starts_with("alert/")), ("alert/".len() + 32, true));
    assert_eq!(read(NAMELESS).unwrap()[0].id, events[0].id);
}

#[test]
fn what_is_not_version_4_is_refused_by_field() {
    let good: Value = serde_json::from_slice(FIRING).unwrap();
    let refused = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let error = read(bad.to_string().as_bytes()).unwrap_err();
        (error.http_status(), error.to_string())
    };
    for (pointer, value, field) in [
        ("/version", json!(4), "`version`"),
        ("/alerts", json!({}), "`alerts`"),
        ("/alerts", json!([]), "`alerts`"),
        ("/alerts/1", json!("x"), "`alerts[1].status`"),
        ("/alerts/1/status", json!("burning"), "`alerts[1].status`"),
        ("/alerts/1/labels", json!([]), "`alerts[1].labels`"),
        ("/alerts/0/startsAt", json!("yesterday"), "`alerts[0].startsAt`"),
    ] {
        let (status, error) = refused(pointer, value);
        assert!(status == 400 && error.contains(field), "{pointer}: {error}");
    }
    assert_eq!(refused("/alerts", Value::Array(vec![good["alerts"][0].clone(); ALERTS_MAX + 1])).0, 413);
    for end in 0..FIRING.len() - 2 {
        assert!(read(&FIRING[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn only_a_bearer_of_the_secret_may_send() {
    let tokens = Tokens::new("next", Some("old")).unwrap();
    let with = |value: &str| {
        let mut headers = headers();
        headers.insert("authorization", value.parse().unwrap());
        authorise(&headers, &tokens).is_ok()
    };
    assert!(with("Bearer next") && with("bearer old"));
    assert!(!with("Bearer other") && !with("next") && !with("Basic next") && !with("Bearer") && !with(""));
    assert!(authorise(&headers(), &tokens).is_err());
}
