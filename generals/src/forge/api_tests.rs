use std::collections::HashMap;
use std::sync::Arc;

use mindos_model::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Status, headers, body.
type Given = (u16, String, String);
/// What a path is answered with.
type Answers = HashMap<String, Vec<Given>>;

/// A server that answers by path, each answer once and the last one for good, and keeps what it was asked.
struct Stub {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    async fn start(answers: Answers) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, answers, own) = (asked.clone(), Arc::new(Mutex::new(answers)), url.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, answers, own) = (kept.clone(), answers.clone(), own.clone());
                tokio::spawn(async move {
                    let mut bytes = vec![0; 16 << 10];
                    let mut read = 0;
                    while !bytes[..read].windows(4).any(|four| four == b"\r\n\r\n") {
                        match stream.read(&mut bytes[read..]).await {
                            Ok(more @ 1..) => read += more,
                            _ => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    kept.lock().unwrap().push(head);
                    let (status, headers, body) = {
                        let mut answers = answers.lock().unwrap();
                        match answers.get_mut(&path) {
                            Some(list) if list.len() > 1 => list.remove(0),
                            Some(list) => list[0].clone(),
                            None => (404, String::new(), "{}".to_owned()),
                        }
                    };
                    let headers = headers.replace("SELF", &own);
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Stub { url, asked }
    }

    fn forge(&self) -> Forge {
        Forge::new(Outgoing::new(), access(&self.url)).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

fn access(url: &str) -> RepositoryAccess {
    RepositoryAccess {
        repository: "o/r".to_owned(),
        api_url: url.to_owned(),
        clone_url: format!("{url}/o/r.git"),
        token: Secret::new("the-token"),
        author: "mindos[bot]".to_owned(),
    }
}

fn ok(body: &str) -> Vec<Given> {
    vec![(200, String::new(), body.to_owned())]
}

fn answers(list: Vec<(&str, Vec<Given>)>) -> Answers {
    list.into_iter().map(|(path, list)| (format!("/repos/o/r{path}"), list)).collect()
}

const PULL: &str = r#"{"number": 7, "title": "t", "body": null, "state": "open", "draft": true, "user": {"login": "ann"},
    "base": {"ref": "trunk", "sha": "b1"}, "head": {"ref": "x", "sha": "h1", "repo": {"full_name": "ann/r"}}, "labels": [{"name": "bug"}]}"#;

#[tokio::test]
async fn a_pull_request_is_read_with_all_its_pages() {
    let page = |from: usize, to: usize| {
        let files: Vec<String> = (from..to)
            .map(|it| format!(r#"{{"filename": "f{it}", "status": "modified", "additions": 1, "deletions": 0, "patch": "@@ -0,0 +1 @@\n+x"}}"#))
            .collect();
        format!("[{}]", files.join(","))
    };
    let next = "Link: <http://x/?page=2>; rel=\"next\"\r\n".to_owned();
    let stub = Stub::start(answers(vec![
        ("/pulls/7", ok(PULL)),
        ("/pulls/7/files?per_page=100&page=1", vec![(200, next, page(0, 100))]),
        ("/pulls/7/files?per_page=100&page=2", ok(&page(100, 103))),
        ("/pulls/7/commits?per_page=100&page=1", ok(r#"[{"sha": "c1", "parents": [{"sha": "b1"}], "commit": {"message": "fix: a", "author": {"name": "Ann", "date": "2026-01-02T03:04:05Z"}}, "author": null}]"#)),
    ]))
    .await;
    let forge = stub.forge();
    let change = forge.change(7).await.unwrap();
    assert_eq!((change.files.len(), change.cut, &*change.base, &*change.head), (103, false, "b1", "h1"));
    assert_eq!(
        (change.number, &*change.commits[0].author, change.commits[0].offset_minutes),
        (Some(7), "Ann", Some(0))
    );
    assert_eq!(change.size(), (103, 0));
    let pull = forge.pull_request(7).await.unwrap();
    assert!(pull.draft && pull.is_of_fork("o/r") && pull.labels == ["bug"] && pull.body.is_empty());
    let asked = stub.asked.lock().unwrap().join("\n");
    assert!(asked.contains("authorization: Bearer the-token") && asked.contains("application/vnd.github+json"));
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let tagged = (200, "ETag: \"v1\"\r\n".to_owned(), r#"{"number": 3, "title": "kept"}"#.to_owned());
    let stub = Stub::start(answers(vec![("/issues/3", vec![tagged, (304, String::new(), String::new())])])).await;
    let forge = stub.forge();
    assert_eq!(forge.issue(3).await.unwrap().title, "kept");
    assert_eq!(forge.issue(3).await.unwrap().title, "kept");
    let asked = stub.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2);
    assert!(!asked[0].contains("if-none-match") && asked[1].contains("if-none-match: \"v1\""), "{asked:?}");
}

#[tokio::test]
async fn content_is_read_as_bytes_and_paths_are_one_part() {
    let stub = Stub::start(answers(vec![
        ("/contents/a%2Fb%20c.txt?ref=x%2Fy", ok(r#"{"type": "file", "size": 2, "encoding": "base64", "content": "aGk=\n"}"#)),
        ("/contents/big?ref=x", ok(r#"{"type": "file", "size": 9999999, "encoding": "none", "content": ""}"#)),
        ("/contents/large?ref=x", ok(r#"{"type": "file", "size": 900000, "encoding": "none", "content": "", "sha": "b0"}"#)),
        ("/git/blobs/b0", ok(r#"{"encoding": "base64", "content": "eW8="}"#)),
        ("/contents/folder?ref=x", ok("[]")),
        ("/contents/CODEOWNERS?ref=x", ok(r#"{"type": "file", "size": 7, "encoding": "base64", "content": "KiBAYW5u"}"#)),
        ("/git/trees/x?recursive=1", ok(r#"{"truncated": false, "tree": [{"path": "a", "type": "tree"}, {"path": "large", "type": "blob", "size": 2}, {"path": "gone", "type": "blob", "size": 2}]}"#)),
    ]))
    .await;
    let forge = stub.forge();
    assert_eq!(forge.content("a/b c.txt", "x/y").await.unwrap().as_deref(), Some(&b"hi"[..]));
    assert_eq!(forge.content("none", "x").await.unwrap(), None);
    assert!(matches!(forge.content("big", "x").await, Err(ForgeFailure::TooLarge { .. })));
    assert_eq!(forge.content("large", "x").await.unwrap().as_deref(), Some(&b"yo"[..]));
    assert!(matches!(forge.content("folder", "x").await, Err(ForgeFailure::Refused { .. })));
    assert_eq!(forge.owners("x").await.unwrap().of("any"), ["@ann"]);
    let mut tree = forge.tree("x").await.unwrap();
    assert_eq!(tree.len(), 2);
    assert_eq!(forge.read_into(&mut tree, ["large".to_owned(), "gone".to_owned()]).await.unwrap(), 1);
    assert_eq!(tree.text("large").as_deref(), Some("yo"));
}

#[tokio::test]
async fn comparisons_comments_and_labels_are_read() {
    let commit = r#"{"sha": "c2", "parents": [], "commit": {"message": "m"}, "files": [{"filename": "a", "status": "added", "additions": 1, "patch": "@@ -0,0 +1 @@\n+x"}]}"#;
    let stub = Stub::start(answers(vec![
        ("/compare/b1...h1?per_page=100&page=1", ok(r#"{"merge_base_commit": {"sha": "m1"}, "files": [], "commits": [{"sha": "c1", "commit": {"message": "m"}}]}"#)),
        ("/commits/c2", ok(commit)),
        ("/issues/3/comments?per_page=100&page=1", ok(r#"[{"id": 5, "user": {"login": "ann"}, "body": "hi", "author_association": "OWNER"}]"#)),
        ("/pulls/3/comments?per_page=100&page=1", ok(r#"[{"id": 6, "path": "a", "line": 4, "body": "x"}, {"id": 7, "path": "a", "line": null}]"#)),
        ("/labels?per_page=100&page=1", ok(r#"[{"name": "bug", "description": null}]"#)),
        ("", ok(r#"{"default_branch": "trunk"}"#)),
    ]))
    .await;
    let forge = stub.forge();
    let change = forge.compare("b1", "h1").await.unwrap();
    assert_eq!((&*change.base, change.commits.len()), ("m1", 1));
    let made = forge.compare(NOTHING, "c2").await.unwrap();
    assert_eq!((made.files.len(), made.commits[0].touched.len(), &*made.base), (1, 1, ""));
    assert_eq!(forge.comments(3).await.unwrap()[0].association, "OWNER");
    let places: Vec<_> = forge.line_comments(3).await.unwrap().into_iter().map(|it| it.place.unwrap().1).collect();
    assert_eq!(places, [Some(4), None]);
    assert_eq!(forge.labels().await.unwrap()[0].name, "bug");
    assert_eq!(forge.default_branch().await.unwrap(), "trunk");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let with = |status, headers: &str, body: &str| vec![(status, headers.to_owned(), body.to_owned())];
    let stub = Stub::start(answers(vec![
        ("/issues/1", with(403, "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 99999999999\r\n", "{}")),
        ("/issues/2", with(403, "Retry-After: 30\r\n", "{}")),
        ("/issues/3", with(403, "", r#"{"message": "You have exceeded a secondary rate limit"}"#)),
        ("/issues/4", with(403, "", r#"{"message": "Resource not accessible by integration"}"#)),
        ("/issues/5", with(401, "", "{}")),
        ("/issues/6", with(422, "", "{}")),
        ("/issues/7", with(200, "", "no json")),
        (
            "/issues/8",
            vec![(502, String::new(), String::new()), (200, String::new(), r#"{"title": "came"}"#.to_owned())],
        ),
        ("/issues/10", with(301, "Location: http://127.0.0.1:1/else\r\n", "")),
    ]))
    .await;
    let forge = stub.forge();
    let far = Timestamp(99_999_999_999_000);
    assert_eq!(forge.issue(1).await.unwrap_err(), ForgeFailure::RateLimited { until: far });
    let Err(ForgeFailure::RateLimited { until }) = forge.issue(2).await else { panic!() };
    assert!(until > now() + Duration::from_secs(25) && until < now() + Duration::from_secs(35));
    assert!(matches!(forge.issue(3).await, Err(ForgeFailure::RateLimited { .. })));
    assert!(matches!(forge.issue(4).await, Err(ForgeFailure::Unauthorised { status: 403, .. })));
    assert!(matches!(forge.issue(5).await, Err(ForgeFailure::Unauthorised { status: 401, .. })));
    assert!(matches!(forge.issue(6).await, Err(ForgeFailure::Refused { status: 422, .. })));
    assert!(matches!(forge.issue(7).await, Err(ForgeFailure::Invalid { .. })));
    assert_eq!(forge.issue(8).await.unwrap().title, "came", "tried again");
    assert_eq!(forge.issue(9).await.unwrap_err(), ForgeFailure::NotFound { what: "issue #9".to_owned() });
    assert!(matches!(forge.issue(10).await, Err(ForgeFailure::Refused { status: 301, .. })), "not followed elsewhere");
    let nobody = Forge::new(Outgoing::new(), access("http://127.0.0.1:1")).unwrap();
    let unreached = nobody.issue(1).await.unwrap_err();
    assert!(matches!(unreached, ForgeFailure::Unreachable { .. }));
    assert!(!format!("{unreached:?} {nobody:?} {:?}", nobody.access).contains("the-token"));
}

#[tokio::test]
async fn a_repository_that_was_renamed_is_followed_on_its_server_alone() {
    let mut all = answers(vec![(
        "/issues/1",
        vec![(301, "Location: SELF/repositories/1/issues/1\r\n".to_owned(), String::new())],
    )]);
    all.insert("/repositories/1/issues/1".to_owned(), ok(r#"{"title": "moved"}"#));
    let stub = Stub::start(all).await;
    assert_eq!(stub.forge().issue(1).await.unwrap().title, "moved");
    assert_eq!(stub.asked(), ["/repos/o/r/issues/1", "/repositories/1/issues/1"]);
}

#[test]
fn access_that_cannot_be_used_is_refused_by_its_member() {
    let refused = |change: fn(&mut RepositoryAccess)| {
        let mut access = access("http://127.0.0.1:1");
        change(&mut access);
        match Forge::new(Outgoing::new(), access) {
            Err(ForgeFailure::Access { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    for repository in ["o", "o/", "/r", "o/r/x", "o/../r", "o/r?x", ""] {
        let mut access = access("http://127.0.0.1:1");
        access.repository = repository.to_owned();
        assert!(Forge::new(Outgoing::new(), access).is_err(), "{repository}");
    }
    assert_eq!(refused(|it| it.api_url = "http://example.com".to_owned()), "api_url");
    assert_eq!(refused(|it| it.clone_url = "file:///etc".to_owned()), "clone_url");
    assert_eq!(refused(|it| it.clone_url = "https://u:p@x/y.git".to_owned()), "clone_url");
    assert_eq!(refused(|it| it.token = Secret::new("a\nb")), "token");
}

#[test]
fn kept_answers_are_bounded() {
    let mut kept = Kept::default();
    let page = |bytes: usize| Page { body: Bytes::from(vec![0; bytes]), more: false };
    for number in 0..200 {
        kept.keep(&number.to_string(), HeaderValue::from_static("v"), &page(100 << 10));
    }
    assert!(kept.answers.len() <= KEPT_MAX && kept.bytes <= KEPT_BYTES_MAX && kept.answers.contains_key("199"));
    kept.keep("big", HeaderValue::from_static("v"), &page(KEPT_BYTES_MAX));
    assert!(!kept.answers.contains_key("big"));
    kept.keep("199", HeaderValue::from_static("w"), &page(1));
    assert_eq!(kept.order.iter().filter(|one| *one == "199").count(), 1);
}
