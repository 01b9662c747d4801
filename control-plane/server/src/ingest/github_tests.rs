use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::*;

const PAYLOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/github-webhooks");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ingest/github_golden.txt");

fn payload_files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(PAYLOADS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "json"));
    files.sort();
    files.iter().map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

fn headers(event: &str, content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EVENT, event.parse().unwrap());
    headers.insert(DELIVERY, "72d3162e-cc78-11e3-81ab-4c9367dc0958".parse().unwrap());
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    headers
}

fn of(event: &str, payload: &Value) -> Normalised {
    let body = Bytes::from(serde_json::to_vec(payload).unwrap());
    normalise(&headers(event, "application/json"), &body, None).unwrap()
}

fn sign(secret: &str, body: &[u8]) -> String {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// The recorded reading of every real payload. `MINDOS_BLESS=1` writes it anew, for a person to read.
#[test]
fn every_real_payload_reads_as_recorded() {
    let mut lines = vec!["# file | type | source | subject | time | lane | kind | actor".to_owned()];
    for (name, body) in payload_files() {
        let event = name.split('.').next().unwrap();
        let it = normalise(&headers(event, "application/json"), &Bytes::from(body), None).unwrap();
        let time = it.time.map(|time| time.to_string());
        let unset = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let kind = if it.routed { it.kind.unwrap_or("-") } else { "(not routed)" };
        let columns =
            [name, it.r#type, it.source, unset(&it.subject), unset(&time), it.lane, kind.to_owned(), unset(&it.actor)];
        lines.push(columns.join(" | "));
    }
    let actual = lines.join("\n") + "\n";
    if std::env::var_os("MINDOS_BLESS").is_some() {
        fs::write(GOLDEN, &actual).unwrap();
    }
    let recorded = fs::read_to_string(GOLDEN).unwrap();
    for (line, (got, wanted)) in actual.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", line + 1);
    }
    assert_eq!(actual.lines().count(), recorded.lines().count());
    assert_eq!(lines.len(), 84);
}

#[test]
fn a_closed_pull_request_is_merged_only_when_it_says_so() {
    let body = fs::read(format!("{PAYLOADS}/pull_request.closed.2.json")).unwrap();
    let mut payload: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(of("pull_request", &payload).kind, None);
    payload["pull_request"]["merged"] = json!(true);
    assert_eq!(of("pull_request", &payload).kind, Some("pr_merged"));
    payload["pull_request"]["merged"] = json!("true");
    assert_eq!(of("pull_request", &payload).kind, None);
}

#[test]
fn everything_said_in_a_pull_request_shares_its_lane() {
    let repository = json!({"id": 1, "full_name": "o/r", "url": "https://api.github.com/repos/o/r"});
    let pull = json!({"number": 7});
    for (event, payload) in [
        ("pull_request", json!({"number": 7, "repository": repository})),
        ("pull_request_review", json!({"pull_request": pull, "repository": repository})),
        ("pull_request_review_comment", json!({"pull_request": pull, "repository": repository})),
        ("pull_request_review_thread", json!({"pull_request": pull, "repository": repository})),
        ("issue_comment", json!({"issue": {"number": 7, "pull_request": {}}, "repository": repository})),
        ("check_run", json!({"check_run": {"id": 3, "pull_requests": [pull]}, "repository": repository})),
        ("workflow_run", json!({"workflow_run": {"id": 3, "pull_requests": [pull]}, "repository": repository})),
    ] {
        assert_eq!(of(event, &payload).lane, "o/r/pr/7", "{event}");
    }
    let comment = json!({"issue": {"number": 7, "pull_request": null}, "repository": repository});
    assert_eq!(of("issue_comment", &comment).lane, "o/r/issue/7");
    let push = json!({"ref": "refs/heads/a/b", "repository": repository});
    assert_eq!(of("push", &push).lane, "o/r/refs/heads/a/b");
}

#[test]
fn a_check_of_several_or_foreign_pull_requests_has_a_lane_of_its_own() {
    let check = |pulls: Value| {
        let repository = json!({"id": 1, "full_name": "o/r"});
        of("check_run", &json!({"check_run": {"id": 3, "pull_requests": pulls}, "repository": repository})).lane
    };
    let here = json!({"number": 7, "base": {"repo": {"id": 1}}});
    let parent = json!({"number": 9000, "base": {"repo": {"id": 2}}});
    assert_eq!(check(json!([])), "3");
    assert_eq!(check(json!([here, here])), "3");
    assert_eq!(check(json!([parent])), "3");
    assert_eq!(check(json!([parent, here])), "o/r/pr/7");
}

#[test]
fn only_a_concluded_failure_needs_attention() {
    for (event, action, conclusion, kind) in [
        ("check_run", "completed", "failure", Some("needs_attention")),
        ("check_run", "completed", "timed_out", Some("needs_attention")),
        ("check_run", "completed", "startup_failure", Some("needs_attention")),
        ("workflow_run", "completed", "startup_failure", Some("needs_attention")),
        ("check_run", "completed", "cancelled", None),
        ("check_run", "completed", "success", None),
        ("check_run", "rerequested", "failure", None),
        ("workflow_run", "requested", "failure", None),
        ("check_suite", "completed", "failure", None),
    ] {
        let payload = json!({"action": action, event: {"id": 1, "conclusion": conclusion}});
        assert_eq!(of(event, &payload).kind, kind, "{event} {action} {conclusion}");
    }
}

#[test]
fn an_empty_object_still_becomes_an_event() {
    let it = of("something_unheard_of", &json!({}));
    assert_eq!((it.r#type.as_str(), it.source.as_str()), ("com.github.something_unheard_of", "https://github.com"));
    assert_eq!((it.lane.as_str(), it.subject, it.kind, it.routed), ("https://github.com", None, None, true));
    let it = of(
        "discussion",
        &json!({"action": "bad action!", "discussion": {"number": 4}, "repository": {
        "name": "r", "owner": {"name": "o"}}}),
    );
    assert_eq!((it.r#type.as_str(), it.subject.as_deref()), ("com.github.discussion", Some("4")));
    assert_eq!((it.source.as_str(), it.repository.as_deref()), ("https://github.com/o/r", Some("o/r")));
}

#[test]
fn a_ping_is_not_routed() {
    let it = of("ping", &json!({"zen": "Design for failure.", "hook_id": 5}));
    assert_eq!((it.routed, it.kind, it.subject.as_deref()), (false, None, Some("5")));
}

#[test]
fn a_form_is_verified_as_sent_and_read_as_its_payload() {
    let body = Bytes::from_static(b"a=1&payload=%7B%22action%22%3A%22opened%22%2C%22z%22%3A%22a+b%C3%A9%22%7D&b=2");
    let mut headers = headers("issues", "application/x-www-form-urlencoded");
    headers.insert(SIGNATURE, sign("s", &body).parse().unwrap());
    let it = normalise(&headers, &body, Some(&Secrets::new("s", None).unwrap())).unwrap();
    assert_eq!(it.data, r#"{"action":"opened","z":"a bé"}"#);
    assert_eq!(it.kind, Some("needs_attention"));
    for bad in ["x=1", "payload=%7", "payload=%zz", "payload=%ff", ""] {
        let refused = normalise(&headers, &Bytes::from_static(bad.as_bytes()), None);
        assert_eq!(refused, Err(GithubError::MissingPayloadField), "{bad}");
    }
}

#[test]
fn either_secret_verifies_and_no_other() {
    let body = Bytes::from_static(b"{}");
    let secrets = Secrets::new("new", Some(b"old".to_vec())).unwrap();
    let with = |signature: Option<String>| {
        let mut headers = headers("push", "application/json");
        if let Some(signature) = signature {
            headers.insert(SIGNATURE, signature.parse().unwrap());
        }
        normalise(&headers, &body, Some(&secrets)).map_err(|error| (error.http_status(), error))
    };
    assert!(with(Some(sign("new", &body))).is_ok());
    assert!(with(Some(sign("old", &body))).is_ok());
    assert_eq!(with(Some(sign("other", &body))), Err((401, GithubError::BadSignature)));
    assert_eq!(with(Some(sign("new", b"{ }"))), Err((401, GithubError::BadSignature)));
    assert_eq!(with(None), Err((401, GithubError::MissingHeader { name: SIGNATURE })));
    assert_eq!(with(Some("sha1=ab".to_owned())).unwrap_err().0, 401);
}

#[test]
fn refusals_name_what_is_wrong() {
    let refuse = |headers: &HeaderMap, body: &'static str| {
        normalise(headers, &Bytes::from_static(body.as_bytes()), None).unwrap_err()
    };
    let good = headers("push", "application/json; charset=utf-8");
    assert_eq!(refuse(&good, "[]"), GithubError::NotAnObject);
    let GithubError::BadJson { line, column, .. } = refuse(&good, "{\"a\":\n nope}") else { panic!() };
    assert_eq!((line, column), (2, 3));
    assert!(refuse(&good, "").to_string().contains("line 1, column 0"));
    let mut without = good.clone();
    without.remove(EVENT);
    assert_eq!(refuse(&without, "{}"), GithubError::MissingHeader { name: EVENT });
    without.insert(EVENT, "a b".parse().unwrap());
    assert!(matches!(refuse(&without, "{}"), GithubError::BadHeader { name: EVENT, .. }));
    let mut without = good.clone();
    without.remove(DELIVERY);
    assert_eq!(refuse(&without, "{}"), GithubError::MissingHeader { name: DELIVERY });
    let text = headers("push", "text/plain");
    assert_eq!(refuse(&text, "{}").http_status(), 415);
}

/// A small generator, so that the same damage is done on every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

/// Replaces the `index`th node below `value`, counted in depth-first order.
fn replace(value: &mut Value, index: &mut usize, with: &Value) {
    if *index == 0 {
        *value = with.clone();
    }
    *index = index.wrapping_sub(1);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, index, with)),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, index, with)),
        _ => {}
    }
}

#[test]
fn any_member_of_a_payload_may_be_anything() {
    let long = "x".repeat(5000);
    let odd = [json!(null), json!([]), json!({}), json!(""), json!(-1), json!(1e300), json!(true), json!(long)];
    let mut chance = Chance(7);
    for (name, body) in payload_files() {
        let event = name.split('.').next().unwrap();
        let payload: Value = serde_json::from_slice(&body).unwrap();
        for with in &odd {
            // The first members of the tree and a sample of the rest.
            for _ in 0..12 {
                let mut changed = payload.clone();
                replace(&mut changed, &mut (1 + chance.below(400)), with);
                let it = of(event, &changed);
                assert!(it.r#type.starts_with("com.github.") && !it.source.is_empty() && !it.lane.is_empty());
            }
        }
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut chance = Chance(11);
    for (name, body) in payload_files() {
        let event = name.split('.').next().unwrap();
        for content_type in ["application/json", "application/x-www-form-urlencoded"] {
            for _ in 0..20 {
                let mut damaged = body.clone();
                damaged.truncate(chance.below(damaged.len()));
                for _ in 0..chance.below(8) {
                    if !damaged.is_empty() {
                        let at = chance.below(damaged.len());
                        damaged[at] = chance.below(256) as u8;
                    }
                }
                let _ = normalise(&headers(event, content_type), &Bytes::from(damaged), None);
            }
        }
    }
    let deep = Bytes::from("[".repeat(1_000_000));
    assert!(matches!(normalise(&headers("push", "application/json"), &deep, None), Err(GithubError::BadJson { .. })));
}
