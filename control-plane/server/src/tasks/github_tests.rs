//! What deliveries ask for, and who is not heard.

use serde_json::json;

use super::*;
use crate::ingest::github_trust;

fn labelled(change: impl FnOnce(&mut Value)) -> Found {
    let mut payload = json!({
        "action": "labeled",
        "label": { "name": "ai-help" },
        "issue": { "number": 7, "state": "open", "user": { "login": "zoe" }, "author_association": "NONE" },
        "repository": { "full_name": "o/n", "html_url": "https://github.com/o/n", "default_branch": "trunk" },
        "sender": { "login": "ada", "type": "User" },
    });
    change(&mut payload);
    look("issues", &payload, &TaskRules::default())
}

fn comment(body: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut payload = json!({
        "action": "created",
        "issue": { "number": 7, "state": "open", "title": "A title" },
        "comment": {
            "id": 99, "body": body, "html_url": "https://github.com/o/n/issues/7#issuecomment-99",
            "user": { "login": "ada", "type": "User" }, "author_association": "MEMBER",
        },
        "repository": { "full_name": "o/n", "html_url": "https://github.com/o/n", "default_branch": "trunk" },
        "sender": { "login": "ada", "type": "User" },
    });
    change(&mut payload);
    payload
}

fn on_pull_request(payload: &mut Value) {
    payload["issue"]["pull_request"] = json!({ "url": "https://api.github.com/repos/o/n/pulls/7" });
}

fn look(event: &str, payload: &Value, rules: &TaskRules) -> Found {
    let own: Logins = ["mindos"].into_iter().collect();
    find(event, payload, &github_trust::origin(payload, &own), &own, rules)
}

fn said(payload: &Value) -> Found {
    look("issue_comment", payload, &TaskRules::default())
}

fn task(found: Found) -> Task {
    match found {
        Found::Task(wanted) => wanted.task,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_label_asks_for_a_plan_once_whoever_sets_it() {
    let first = task(labelled(|_| {}));
    assert_eq!((first.mode, first.id(None).as_str()), (Mode::Plan, "o/n#7/plan"));
    assert_eq!((first.about.base_branch.as_deref(), first.trigger_user.as_str()), (Some("trunk"), "ada"));
    let again = task(labelled(|payload| payload["sender"]["login"] = json!("bob")));
    assert_eq!(first.id(None), again.id(None));
    assert_eq!(labelled(|payload| payload["label"]["name"] = json!("bug")), Found::Nothing);
    assert_eq!(labelled(|payload| payload["action"] = json!("unlabeled")), Found::Nothing);
    assert_eq!(labelled(on_pull_request), Found::Nothing);
    let other = TaskRules { label: "robots".to_owned(), ..TaskRules::default() };
    let mut payload = json!({ "action": "labeled", "label": { "name": "robots" }, "issue": { "number": 1 } });
    payload["repository"] = json!({ "full_name": "o/n" });
    payload["sender"] = json!({ "login": "ada" });
    assert!(matches!(look("issues", &payload, &other), Found::Task(_)));
}

#[test]
fn who_opens_an_issue_by_a_form_that_sets_the_label_has_to_be_trusted() {
    let by_author = |association: &str| {
        labelled(|payload| {
            payload["sender"]["login"] = json!("zoe");
            payload["issue"]["author_association"] = json!(association);
        })
    };
    assert_eq!(by_author("NONE"), Found::Ignored(Ignored::Association));
    assert_eq!(by_author("FIRST_TIME_CONTRIBUTOR"), Found::Ignored(Ignored::Association));
    assert!(matches!(by_author("OWNER"), Found::Task(_)));
}

#[test]
fn commands_are_the_first_word_and_stand_where_they_fit() {
    let of = |body: &str, pull_request: bool| {
        let found = said(&comment(body, |payload| {
            if pull_request {
                on_pull_request(payload)
            }
        }));
        match found {
            Found::Task(wanted) => wanted.task.id(None),
            Found::Ignored(ignored) => ignored.as_str().to_owned(),
            Found::Nothing => "nothing".to_owned(),
        }
    };
    for (body, pull_request, expected) in [
        ("/plan", false, "o/n#7/plan/99"),
        ("  /plan please", false, "o/n#7/plan/99"),
        ("/PLAN\nnow", false, "o/n#7/plan/99"),
        ("/quickfix", false, "o/n#7/quickfix/99"),
        ("/approve", false, "o/n#7/implement/99"),
        ("/approve", true, "o/n#7/implement/99"),
        ("/refine add a test", true, "o/n#7/refine/99"),
        ("/refine", true, "unfit"),
        ("/refine x", false, "unfit"),
        ("/plan", true, "unfit"),
        ("/planning", false, "nothing"),
        ("please /plan", false, "nothing"),
        ("> /plan", false, "nothing"),
        ("", false, "nothing"),
    ] {
        assert_eq!(of(body, pull_request), expected, "{body} {pull_request}");
    }
    let refine = task(said(&comment("/refine add\na test  ", on_pull_request)));
    assert_eq!(refine.about.refine_request.as_deref(), Some("add\na test"));
    assert_eq!((refine.about.pr_number, refine.about.comment_kind), (Some(7), Some(CommentKind::Issue)));
    assert_eq!(said(&comment("/plan", |payload| payload["action"] = json!("edited"))), Found::Nothing);
}

#[test]
fn only_people_who_may_write_are_heard() {
    let with = |change: fn(&mut Value)| said(&comment("/plan", change));
    for (change, expected) in [
        ((|p| p["comment"]["author_association"] = json!("NONE")) as fn(&mut Value), Ignored::Association),
        (|p| p["comment"]["author_association"] = json!("CONTRIBUTOR"), Ignored::Association),
        (|p| p["comment"]["author_association"] = Value::Null, Ignored::Association),
        (|p| p["sender"] = json!({ "login": "x[bot]", "type": "Bot" }), Ignored::Bot),
        (|p| p["comment"]["user"] = json!({ "login": "ci", "type": "Bot" }), Ignored::Bot),
        (|p| p["comment"]["user"]["login"] = json!("mindos"), Ignored::Own),
        (|p| p["sender"]["login"] = json!("mindos[bot]"), Ignored::Own),
        (|p| p["issue"]["state"] = json!("closed"), Ignored::Closed),
    ] {
        assert_eq!(with(change), Found::Ignored(expected), "{expected:?}");
    }
    // Who quotes us below a command is a person.
    assert!(matches!(said(&comment("/plan\n> <!-- mindos:general=x -->", |_| {})), Found::Task(_)));
}

#[test]
fn a_forks_pull_request_is_not_written_to_unless_that_is_allowed() {
    let mut payload = comment("/refine x", |_| {});
    payload["issue"] = Value::Null;
    payload["pull_request"] = json!({
        "number": 9, "title": "T", "state": "open",
        "head": { "ref": "theirs", "repo": { "id": 2 } }, "base": { "ref": "main", "repo": { "id": 1 } },
    });
    let event = "pull_request_review_comment";
    assert_eq!(look(event, &payload, &TaskRules::default()), Found::Ignored(Ignored::Fork));
    let allowed = TaskRules { allow_forks: true, ..TaskRules::default() };
    let Found::Task(wanted) = look(event, &payload, &allowed) else { panic!("not taken") };
    assert!(wanted.origin.fork);
    assert_eq!(wanted.task.about.pr_branch.as_deref(), Some("theirs"));
    assert_eq!(wanted.task.about.comment_kind, Some(CommentKind::Review));
    payload["pull_request"]["head"]["repo"]["id"] = json!(1);
    assert!(matches!(look(event, &payload, &TaskRules::default()), Found::Task(_)));
}

#[test]
fn no_payload_on_file_panics_and_none_asks_for_what_it_does_not() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/github-webhooks");
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "json") {
            continue;
        }
        let event = path.file_stem().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
        let payload: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(look(&event, &payload, &TaskRules::default()), Found::Nothing, "{}", path.display());
        read += 1;
    }
    assert!(read > 50, "{read}");
}
