use std::fs;

use serde_json::json;

use super::*;

const PAYLOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/gitlab-webhooks");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ingest/gitlab_golden.txt");

fn headers(more: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("x-gitlab-event", "Push Hook".parse().unwrap());
    for (name, value) in more {
        headers.insert(*name, value.parse().unwrap());
    }
    headers
}

fn of(payload: &Value) -> IncomingEvent {
    normalise(&headers(&[]), &Bytes::from(serde_json::to_vec(payload).unwrap())).unwrap()
}

/// The recorded reading of every payload. `MINDOS_BLESS=1` writes it anew, for a person to read.
#[test]
fn every_payload_reads_as_recorded() {
    let mut files: Vec<_> = fs::read_dir(PAYLOADS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "json"));
    files.sort();
    let mut lines = vec!["# file | type | source | subject | time | lane | kind | repository | actor".to_owned()];
    for path in &files {
        let body = Bytes::from(fs::read(path).unwrap());
        let it = normalise(&headers(&[]), &body).unwrap();
        assert_eq!(it.data, body);
        let extension = |name: &str| match it.extensions.get(name) {
            Some(ExtensionValue::String(text)) => text.clone(),
            _ => "-".to_owned(),
        };
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let time = it.time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let subject = it.subject.clone().unwrap_or_else(|| "-".to_owned());
        let own = ["lane", "kind", "repository", "actor"].map(extension);
        lines.push([&[name, it.r#type.clone(), it.source.clone(), subject, time], &own[..]].concat().join(" | "));
    }
    let actual = lines.join("\n") + "\n";
    if std::env::var_os("MINDOS_BLESS").is_some() {
        fs::write(GOLDEN, &actual).unwrap();
    }
    let recorded = fs::read_to_string(GOLDEN).unwrap();
    for (got, wanted) in actual.lines().zip(recorded.lines()) {
        assert_eq!(got, wanted);
    }
    assert_eq!((actual.lines().count(), lines.len()), (recorded.lines().count(), 25));
}

#[test]
fn a_retry_has_the_id_of_the_first_and_what_it_set_off_has_another() {
    let id = |more: &[(&'static str, &str)], body: &'static str| {
        normalise(&headers(more), &Bytes::from_static(body.as_bytes())).map(|event| event.id)
    };
    let (one, two) = (r#"{"object_kind": "push"}"#, r#"{"object_kind": "issue"}"#);
    let uuid = [("x-gitlab-event-uuid", "u1")];
    assert_eq!(id(&[("idempotency-key", "k1")], one).unwrap(), "k1");
    assert_eq!(id(&uuid, one), id(&uuid, one));
    assert!(id(&uuid, one).unwrap().starts_with("u1."));
    assert_ne!(id(&uuid, one), id(&uuid, two));
    assert_eq!(id(&[], one), id(&[], one));
    let error = id(&[("idempotency-key", &"k".repeat(200))], one).unwrap_err();
    assert_eq!((error.http_status(), error.to_string().contains("Idempotency-Key")), (400, true));
}

#[test]
fn the_token_opens_and_nothing_else() {
    let tokens = Tokens::new("next", Some("old")).unwrap();
    let with = |token: &str| authorise(&headers(&[("x-gitlab-token", token)]), &tokens);
    assert_eq!((with("next"), with("old")), (Ok(()), Ok(())));
    let error = with("other").unwrap_err();
    assert_eq!(error.http_status(), 401);
    assert!(authorise(&headers(&[]), &tokens).is_err());
}

#[test]
fn fields_of_other_types_are_read_past() {
    for payload in [
        json!({"object_kind": "merge_request", "object_attributes": 7, "project": [], "user": "x"}),
        json!({"object_kind": "merge_request", "object_attributes": {"iid": "7", "action": {"a": 1}}}),
        json!({"object_kind": "push", "ref": 1, "project": {"path_with_namespace": "a/b"}}),
        json!({"event_name": "project_create"}),
    ] {
        assert!(of(&payload).r#type.starts_with("com.gitlab."), "{payload}");
    }
    for payload in [json!({}), json!({"object_kind": 1.5}), json!({"object_kind": "a b"})] {
        let error = normalise(&headers(&[]), &Bytes::from(payload.to_string())).unwrap_err();
        assert!(error.to_string().contains("object_kind"), "{error}");
    }
    let mut none = headers(&[]);
    none.remove("x-gitlab-event");
    assert!(normalise(&none, &Bytes::from_static(b"{}")).unwrap_err().to_string().contains(EVENT));
}
