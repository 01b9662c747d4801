//! Effects against a GitHub that remembers: what is there in the end is what counts.

use std::sync::Arc;

use mindos_model::{Secret, TenantName, Timestamp};
use mindos_outgoing::Outgoing;
use serde_json::{Value, json};

use super::accounts::{Account, Need};
use super::mark::effect_hash;
use super::pace::Lanes;
use super::rest::ForgeError;
use super::settings::{EffectSettings, EffectsSection, GithubSection};
use super::wanted::{EffectFailure, Kind, Outcome, Repository, Subject, Wanted};
use super::{Invalid, carry_out};
use crate::catch_up::app_jwt::AppKey;
use crate::clock::Clock;
use crate::secret::Secrets;

#[path = "../../tests/all/forge/mod.rs"]
mod forge;

use forge::{Fault, Forge, MOMENT, OWN, TOKEN};

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catch_up/test_key.pem");

struct World {
    forge: Forge,
    account: Account,
    dry_run: bool,
}

/// GitHub, and an account on it that writes with a token, as fast as it can.
async fn world() -> World {
    world_with("").await
}

async fn world_with(more: &str) -> World {
    let forge = Forge::start().await;
    let section = format!("{{api: '{}', token_file: /t, writes_per_second: 1000{more}}}", forge.url);
    let section: GithubSection = serde_norway::from_str(&section).unwrap();
    let own = TenantName::default_tenant();
    let settings = EffectSettings::new(&EffectsSection::default(), &section, None, &own, Secrets::Assumed).unwrap();
    let mut github = (*settings.github.unwrap()).clone();
    github.credentials = Some(super::settings::Credentials::Token(Secret::new(TOKEN)));
    let mut account = Account::new(Arc::new(github), Outgoing::new(), Lanes::default(), Clock::start(Timestamp(0)));
    account.rest.timeout = MOMENT;
    World { forge, account, dry_run: false }
}

/// The same with an App.
async fn world_of_app() -> World {
    let mut world = world().await;
    let mut github = (*world.account.github).clone();
    let key = AppKey::read(std::path::Path::new(KEY)).unwrap();
    github.credentials = Some(super::settings::Credentials::App { id: "7".to_owned(), key });
    world.account = Account::new(Arc::new(github), Outgoing::new(), Lanes::default(), Clock::start(Timestamp(0)));
    world.account.rest.timeout = MOMENT;
    world
}

fn wanted(key: &str, kind: Kind, target: &str, parameters: Value) -> Wanted {
    Wanted {
        id: "e1".to_owned(),
        general: "code-general".to_owned(),
        hash: effect_hash("plane", &TenantName::default_tenant(), key),
        kind,
        target: Subject::read(target).unwrap(),
        parameters,
        at: Timestamp(1_795_176_000_123),
    }
}

impl World {
    async fn try_one(&self, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
        let forge = self.account.forge(&wanted.target.repository, Need::Carry(wanted.kind), self.dry_run).await?;
        carry_out(&forge, wanted).await
    }

    /// Carries something out, and says what was done and observed.
    async fn done(&self, wanted: &Wanted) -> (String, Value) {
        match self.try_one(wanted).await.unwrap() {
            Outcome::Done(observed) => (observed["action"].as_str().unwrap().to_owned(), observed),
            Outcome::Would(would) => panic!("{would}"),
        }
    }

    /// As [`World::done`], twice: the second time nothing is written, and the same is observed.
    async fn twice(&self, wanted: &Wanted) -> (String, Value) {
        let first = self.done(wanted).await;
        let writes = self.forge.writes();
        let (action, observed) = self.done(wanted).await;
        assert_eq!((action.as_str(), self.forge.writes()), ("found", writes), "{observed}");
        for member in ["id", "number", "url", "sha"] {
            assert_eq!(observed[member], first.1[member], "{member}");
        }
        first
    }

    /// The first try's write takes place and its end is not seen; the second finds it.
    async fn found_after(&self, fault: Fault, request: &str, wanted: &Wanted) -> Value {
        self.forge.fault(request, fault);
        match self.try_one(wanted).await {
            Err(EffectFailure::Forge(ForgeError::Transient { unclear: true, .. })) => {}
            other => panic!("{request}: {other:?}"),
        }
        let (_, observed) = self.done(wanted).await;
        assert!(self.forge.state().faults.is_empty());
        observed
    }
}

fn comment(key: &str, body: &str) -> Wanted {
    wanted(key, Kind::Comment, "octo/hello#2", json!({ "body": body }))
}

#[tokio::test]
async fn a_sticky_comment_is_written_once_and_edited_in_place() {
    let world = world().await;
    world.forge.say(2, "ada", "hello <!-- mindos:general=code-general effect=x -->");
    let (action, observed) = world.twice(&comment("a", "first @ada")).await;
    assert_eq!((action.as_str(), &observed["number"]), ("created", &json!(2)));
    for push in ["second", "third", "fourth", "fifth"] {
        let (action, again) = world.twice(&comment(push, push)).await;
        assert_eq!((action.as_str(), &again["id"]), ("edited", &observed["id"]));
    }
    let comments = world.forge.comments(2);
    assert_eq!(comments.len(), 2, "a mark of somebody else counts for nothing: {comments:?}");
    assert!(comments[1].contains("fifth") && comments[1].starts_with("<!-- mindos:general=code-general effect="));
    // Another name is another comment; one that is not sticky is nobody's to edit.
    let named = wanted("n", Kind::Comment, "octo/hello#2", json!({ "body": "n", "name": "plan" }));
    assert_eq!(world.twice(&named).await.0, "created");
    for key in ["o1", "o2"] {
        let once = wanted(key, Kind::Comment, "octo/hello#2", json!({ "body": "once", "sticky": false }));
        assert_eq!(world.twice(&once).await.0, "created");
    }
    assert_eq!(world.done(&comment("a6", "sixth")).await.1["id"], observed["id"]);
    assert_eq!(world.forge.comments(2).len(), 5);
}

#[tokio::test]
async fn a_comment_is_found_behind_many_pages() {
    let world = world().await;
    (0..250).for_each(|at| world.forge.say(2, "ada", &format!("comment {at}")));
    assert_eq!(world.twice(&comment("a", "ours")).await.0, "created");
    assert_eq!(world.done(&comment("b", "ours again")).await.0, "edited");
    assert_eq!(world.forge.comments(2).len(), 251);
}

#[tokio::test]
async fn a_review_stands_at_its_lines_and_the_rest_in_its_body() {
    let world = world().await;
    let comments = json!([
        { "path": "src/lib.rs", "line": 2, "body": "in the diff @ada" },
        { "path": "src/lib.rs", "line": 90, "body": "far away" },
        { "path": "logo.png", "line": 1, "body": "no patch" },
        { "path": "other.rs", "start_line": 3, "line": 4, "body": "no such file" },
    ]);
    let parameters = json!({ "body": "a look", "commit": "a".repeat(40), "comments": comments });
    let review = wanted("r", Kind::Review, "octo/hello#2", parameters);
    let (action, observed) = world.twice(&review).await;
    assert_eq!(
        (action.as_str(), &observed["comments_at_lines"], &observed["comments_in_body"]),
        ("created", &json!(1), &json!(3))
    );
    let state = world.forge.state();
    let reviews = &state.issues[&2].pull.as_ref().unwrap().reviews;
    assert_eq!(reviews.len(), 1);
    let body = reviews[0]["body"].as_str().unwrap();
    assert!(body.contains("`src/lib.rs:90`\n\nfar away") && body.contains("`other.rs:3-4`"), "{body}");
    assert!(reviews[0]["comments"][0]["body"].as_str().unwrap().contains("mindos:general="));
    assert!(!reviews[0].to_string().contains("@ada"));
}

#[tokio::test]
async fn a_line_that_github_sees_otherwise_goes_into_the_body() {
    let world = world().await;
    // The patch says that line 7 is there; GitHub does not let it be commented on.
    world.forge.state().issues.get_mut(&2).unwrap().pull.as_mut().unwrap().files[0].1 =
        Some("@@ -1 +1,9 @@".to_owned());
    let comments = json!([{ "path": "src/lib.rs", "line": 7, "body": "here" }]);
    let review = wanted("r", Kind::Review, "octo/hello#2", json!({ "comments": comments }));
    let (_, observed) = world.twice(&review).await;
    assert_eq!((&observed["comments_at_lines"], &observed["comments_in_body"]), (&json!(0), &json!(1)));
    assert_eq!(world.forge.state().issues[&2].pull.as_ref().unwrap().reviews.len(), 1);
}

#[tokio::test]
async fn a_verdict_on_an_own_pull_request_is_said_in_words_and_approving_takes_leave() {
    let world = world().await;
    world.forge.state().issues.get_mut(&2).unwrap().user = OWN.to_owned();
    let review = wanted("r", Kind::Review, "octo/hello#2", json!({ "body": "no", "verdict": "request_changes" }));
    assert_eq!(world.twice(&review).await.0, "created");
    let said = world.forge.state().issues[&2].pull.as_ref().unwrap().reviews[0].clone();
    assert_eq!(said["event"], "COMMENT");
    assert!(said["body"].as_str().unwrap().contains("Changes are requested"));
    let approve = wanted("p", Kind::Review, "octo/hello#2", json!({ "verdict": "approve" }));
    let refused = world.try_one(&approve).await.unwrap_err();
    assert!(refused.to_string().starts_with("verdict: reviews may not approve here"), "{refused}");
    let world = world_with(", approve: true").await;
    assert_eq!(world.twice(&approve).await.0, "created");
}

#[tokio::test]
async fn a_check_is_found_by_its_id_and_has_all_its_annotations() {
    let world = world().await;
    let sha = world.forge.state().refs["heads/feature"].clone();
    let annotation = |line| json!({ "path": "a", "start_line": line, "level": "warning", "message": "m" });
    let annotations: Vec<_> = (1..=120).map(annotation).collect();
    let parameters =
        json!({ "name": "mindos", "conclusion": "neutral", "title": "t", "summary": "s", "annotations": annotations });
    let check = wanted("c", Kind::Check, &format!("octo/hello@{sha}"), parameters);
    // Cut off after the first fifty.
    world.forge.fault("PATCH /repos/octo/hello/check-runs", Fault::Refused(500, vec![], json!({})));
    assert!(matches!(world.try_one(&check).await, Err(EffectFailure::Forge(ForgeError::Transient { .. }))));
    assert_eq!(world.done(&check).await.0, "found");
    world.twice(&check).await;
    let state = world.forge.state();
    assert_eq!((state.checks.len(), &state.checks[0]["output"]["annotations_count"]), (1, &json!(120)));
}

#[tokio::test]
async fn labels_are_made_added_and_removed_where_that_changes_something() {
    let world = world().await;
    world.forge.state().labels.extend(["Bug".to_owned(), "old".to_owned()]);
    world.forge.state().issues.get_mut(&1).unwrap().labels.extend(["Bug".to_owned(), "old".to_owned()]);
    let parameters = json!({ "add": ["bug", "ai-agent", "plan pending/ü"], "remove": ["old", "never there"] });
    let (action, observed) = world.twice(&wanted("l", Kind::Labels, "octo/hello#1", parameters)).await;
    assert_eq!((action.as_str(), &observed["added"]), ("changed", &json!(["ai-agent", "plan pending/ü"])));
    let labels: Vec<_> = world.forge.state().issues[&1].labels.iter().cloned().collect();
    assert_eq!(labels, ["Bug", "ai-agent", "plan pending/ü"]);
}

#[tokio::test]
async fn a_reaction_is_given_once() {
    let world = world().await;
    let reaction = wanted("r", Kind::Reaction, "octo/hello#1", json!({ "content": "rocket" }));
    assert_eq!(world.twice(&reaction).await.0, "created");
    assert_eq!(world.forge.state().issues[&1].reactions, [(OWN.to_owned(), "rocket".to_owned())]);
    for (kind, path) in [("issue", "issues/comments/77"), ("review", "pulls/comments/77")] {
        let parameters = json!({ "content": "eyes", "comment_id": "77", "comment_kind": kind });
        assert_eq!(world.twice(&wanted(kind, Kind::Reaction, "octo/hello#1", parameters)).await.0, "created");
        assert_eq!(world.forge.state().reactions[path], [(OWN.to_owned(), "eyes".to_owned())]);
    }
}

#[tokio::test]
async fn an_issue_is_made_once() {
    let world = world().await;
    let issue =
        wanted("i", Kind::Issue, "octo/hello", json!({ "title": "flaky\ntest", "body": "it is", "labels": ["ci"] }));
    let (action, observed) = world.twice(&issue).await;
    assert_eq!(action, "created");
    let state = world.forge.state();
    assert_eq!(state.issues[&observed["number"].as_u64().unwrap()].title, "flaky test");
    assert_eq!(state.issues.len(), 3);
}

fn branch(key: &str, files: Value) -> Wanted {
    let parameters = json!({ "branch": "ai-agent/issue-1", "message": format!("{key} for ada"), "files": files });
    wanted(key, Kind::Branch, "octo/hello", parameters)
}

#[tokio::test]
async fn a_branch_is_made_once_and_brought_to_what_is_wanted_next() {
    let world = world().await;
    let files = json!([{ "path": "a.txt", "content": "one" }, { "path": "README.md", "delete": true }, { "path": "gone", "delete": true }]);
    let (action, observed) = world.twice(&branch("first", files)).await;
    assert_eq!((action.as_str(), &observed["branch"]), ("created", &json!("ai-agent/issue-1")));
    assert_eq!(
        (world.forge.file("ai-agent/issue-1", "a.txt").as_deref(), world.forge.file("ai-agent/issue-1", "README.md")),
        (Some("one"), None)
    );
    let commit = world.forge.state().commits[observed["sha"].as_str().unwrap()].clone();
    assert_eq!(
        commit["committer"],
        json!({ "name": OWN, "email": format!("{OWN}@users.noreply.github.com"), "date": "2026-11-20T12:00:00Z" })
    );
    // What is wanted next stands beside what the base has, and what is not wanted any more is gone.
    let (action, _) = world.twice(&branch("second", json!([{ "path": "b.txt", "content_base64": "dHdv" }]))).await;
    assert_eq!(action, "committed");
    assert_eq!(world.forge.file("ai-agent/issue-1", "b.txt").as_deref(), Some("two"));
    assert_eq!(
        (world.forge.file("ai-agent/issue-1", "a.txt"), world.forge.file("ai-agent/issue-1", "README.md").as_deref()),
        (None, Some("hello\n"))
    );
    // The base goes on, and the branch takes that in.
    world.forge.push("main", "ada", "c.txt", "three", "2026-11-20T13:00:00Z");
    assert_eq!(world.twice(&branch("third", json!([{ "path": "b.txt", "content": "2" }]))).await.0, "committed");
    assert_eq!(world.forge.file("ai-agent/issue-1", "c.txt").as_deref(), Some("three"));
    assert_eq!(world.forge.log("ai-agent/issue-1"), ["third for ada", "second for ada", "first for ada", "first"]);
    // The same once more by another effect changes nothing.
    assert_eq!(world.done(&branch("fourth", json!([{ "path": "b.txt", "content": "2" }]))).await.0, "found");
}

#[tokio::test]
async fn a_branch_with_work_of_others_and_the_default_branch_are_left_alone() {
    let world = world().await;
    let files = json!([{ "path": "a.txt", "content": "one" }]);
    world.done(&branch("first", files.clone())).await;
    world.forge.push("ai-agent/issue-1", "ada", "x", "mine", "2026-11-20T12:30:00Z");
    let tip = world.forge.state().refs["heads/ai-agent/issue-1"].clone();
    // Our own commit is found below hers.
    assert_eq!(world.done(&branch("first", files.clone())).await.0, "found");
    let refused = world.try_one(&branch("second", files.clone())).await.unwrap_err().to_string();
    assert!(refused.contains("is not of ours"), "{refused}");
    assert_eq!(world.forge.state().refs["heads/ai-agent/issue-1"], tip);
    let main = json!({ "branch": "main", "message": "m", "files": files, "onto": "existing" });
    let refused = world.try_one(&wanted("m", Kind::Branch, "octo/hello", main)).await.unwrap_err();
    assert!(refused.to_string().contains("default branch"), "{refused}");
}

#[tokio::test]
async fn a_commit_goes_onto_a_branch_of_others_unless_they_changed_the_same() {
    let world = world().await;
    let base = world.forge.push("feature", "ada", "x", "hers", "2026-11-20T11:00:00Z");
    let onto = |key: &str, path: &str, base: &str| {
        let files = json!([{ "path": path, "content": key }]);
        let parameters =
            json!({ "branch": "feature", "message": key, "files": files, "onto": "existing", "base_commit": base });
        wanted(key, Kind::Branch, "octo/hello", parameters)
    };
    world.forge.push("feature", "ada", "y", "hers too", "2026-11-20T11:30:00Z");
    assert_eq!(world.twice(&onto("one", "z", &base)).await.0, "committed");
    assert_eq!(world.forge.log("feature"), ["one", "y by ada", "x by ada", "first"]);
    let refused = world.try_one(&onto("two", "y", &base)).await.unwrap_err().to_string();
    assert!(refused.contains("`y` was changed on `feature`"), "{refused}");
    let none = json!({ "branch": "none", "message": "m", "allow_empty": true, "onto": "existing" });
    let refused = world.try_one(&wanted("n", Kind::Branch, "octo/hello", none)).await.unwrap_err().to_string();
    assert!(refused.contains("there is no branch `none`"), "{refused}");
}

#[tokio::test]
async fn an_empty_commit_is_made_where_it_is_allowed_and_once() {
    let world = world().await;
    let empty = |key: &str| {
        let parameters = json!({ "branch": "ai-agent/issue-9", "message": "plan", "allow_empty": true });
        wanted(key, Kind::Branch, "octo/hello", parameters)
    };
    assert_eq!(world.twice(&empty("one")).await.0, "created");
    assert_eq!(world.done(&empty("two")).await.0, "found", "the branch is there already");
    assert_eq!(world.forge.log("ai-agent/issue-9"), ["plan", "first"]);
    let same = branch("same", json!([{ "path": "README.md", "content": "hello\n" }]));
    assert!(world.try_one(&same).await.unwrap_err().to_string().contains("nothing to commit"));
}

#[tokio::test]
async fn a_pull_request_is_made_once_and_edited_while_it_is_open() {
    let world = world().await;
    world.done(&branch("b", json!([{ "path": "a", "content": "x" }]))).await;
    let pull = |key: &str, body: &str| {
        let parameters = json!({ "head": "ai-agent/issue-1", "title": "[AI Agent] Fix", "body": body, "draft": true });
        wanted(key, Kind::PullRequest, "octo/hello", parameters)
    };
    let (action, first) = world.twice(&pull("p", "plan")).await;
    assert_eq!(action, "created");
    let number = first["number"].as_u64().unwrap();
    let (action, second) = world.twice(&pull("q", "other plan")).await;
    assert_eq!((action.as_str(), &second["number"]), ("edited", &first["number"]));
    assert!(world.forge.state().issues[&number].body.ends_with("other plan"));
    assert!(world.forge.state().issues[&number].pull.as_ref().unwrap().draft);
    // Somebody closes it: the effect that made it is done, another one makes another.
    world.forge.state().issues.get_mut(&number).unwrap().open = false;
    assert_eq!(world.done(&pull("q", "other plan")).await.0, "found");
    world.forge.state().no_drafts = true;
    let (action, third) = world.twice(&pull("r", "third")).await;
    assert_eq!(action, "created");
    assert!(third["number"] != first["number"]);
    // One of somebody else is theirs to word.
    let theirs = json!({ "head": "feature", "title": "t", "body": "b" });
    let (action, observed) = world.done(&wanted("s", Kind::PullRequest, "octo/hello", theirs)).await;
    assert_eq!((action.as_str(), &observed["number"]), ("found", &json!(2)));
    assert_eq!(world.forge.state().issues[&2].title, "broken");
}

#[tokio::test]
async fn a_write_whose_end_nobody_saw_is_found_and_not_made_again() {
    for fault in [Fault::Silent, Fault::Cut, Fault::Gateway] {
        let world = world().await;
        let path = "/repos/octo/hello";
        let post = |rest: &str| format!("POST {path}/{rest}");
        world.found_after(fault.clone(), &post("issues/2/comments"), &comment("a", "text")).await;
        world.found_after(fault.clone(), &format!("PATCH {path}/issues/comments"), &comment("b", "text 2")).await;
        let once = wanted("o", Kind::Comment, "octo/hello#1", json!({ "body": "once", "sticky": false }));
        world.found_after(fault.clone(), &post("issues/1/comments"), &once).await;
        let review = wanted("r", Kind::Review, "octo/hello#2", json!({ "body": "look" }));
        world.found_after(fault.clone(), &post("pulls/2/reviews"), &review).await;
        let sha = world.forge.state().refs["heads/main"].clone();
        let check = json!({ "name": "n", "conclusion": "success", "title": "t", "summary": "s" });
        world
            .found_after(
                fault.clone(),
                &post("check-runs"),
                &wanted("c", Kind::Check, &format!("octo/hello@{sha}"), check),
            )
            .await;
        let labels = wanted("l", Kind::Labels, "octo/hello#1", json!({ "add": ["x"] }));
        world.found_after(fault.clone(), &post("labels"), &labels).await;
        let reaction = wanted("e", Kind::Reaction, "octo/hello#1", json!({ "content": "eyes" }));
        world.found_after(fault.clone(), &post("issues/1/reactions"), &reaction).await;
        let issue = wanted("i", Kind::Issue, "octo/hello", json!({ "title": "t" }));
        world.found_after(fault.clone(), &format!("POST {path}/issues"), &issue).await;
        for (key, step) in [("b1", "git/trees"), ("b2", "git/commits"), ("b3", "git/refs")] {
            let parameters = json!({ "branch": key, "message": key, "files": [{ "path": key, "content": "x" }] });
            let wanted = wanted(key, Kind::Branch, "octo/hello", parameters);
            world.found_after(fault.clone(), &post(step), &wanted).await;
            assert_eq!(world.forge.log(key), [key, "first"]);
        }
        let parameters = json!({ "branch": "b1", "message": "more", "files": [{ "path": "y", "content": "y" }], "onto": "existing" });
        let more = wanted("more", Kind::Branch, "octo/hello", parameters);
        world.found_after(fault.clone(), &format!("PATCH {path}/git/refs"), &more).await;
        assert_eq!(world.forge.log("b1"), ["more", "b1", "first"]);
        let pull = wanted("p", Kind::PullRequest, "octo/hello", json!({ "head": "b1", "title": "t" }));
        world.found_after(fault.clone(), &post("pulls"), &pull).await;

        let state = world.forge.state();
        assert_eq!((state.issues[&2].comments.len(), state.issues[&1].comments.len()), (1, 1));
        assert_eq!(state.issues[&2].pull.as_ref().unwrap().reviews.len(), 1);
        assert_eq!((state.checks.len(), state.issues[&1].reactions.len(), state.issues.len()), (1, 1, 4));
    }
}

#[tokio::test]
async fn the_same_effect_gives_the_same_commit() {
    let world = world().await;
    let files = json!([{ "path": "a", "content": "x" }]);
    // The ref is not made, so nobody finds the commit: it is made again, and is the same.
    world.forge.fault("POST /repos/octo/hello/git/refs", Fault::Refused(503, vec![], json!({})));
    assert!(world.try_one(&branch("b", files.clone())).await.is_err());
    let commits = world.forge.state().commits.len();
    world.done(&branch("b", files)).await;
    assert_eq!(world.forge.state().commits.len(), commits);
}

#[tokio::test]
async fn a_limit_is_told_with_its_time_and_holds_the_whole_installation_up() {
    let world = world().await;
    let limited = Fault::Refused(
        403,
        vec![("retry-after", "90".to_owned())],
        json!({ "message": "You have exceeded a secondary rate limit" }),
    );
    world.forge.fault("POST /repos/octo/hello/issues/2/comments", limited);
    let now = world.account.rest.clock.now();
    let until = |result: Result<Outcome, EffectFailure>| match result {
        Err(EffectFailure::Forge(ForgeError::Limited { until, .. })) => until.since(now).as_secs(),
        other => panic!("{other:?}"),
    };
    assert!((89..=92).contains(&until(world.try_one(&comment("a", "x")).await)));
    let requests = world.forge.state().requests.len();
    assert!((89..=92).contains(&until(world.try_one(&comment("a", "x")).await)));
    assert_eq!(world.forge.state().requests.len(), requests, "nothing is asked until then");
    assert!(world.forge.comments(2).is_empty());
}

#[tokio::test]
async fn refusals_are_told_in_githubs_words_and_by_their_kind() {
    let world = world().await;
    let on = |status: u16| Fault::Refused(status, vec![], json!({ "message": "as GitHub says" }));
    for (status, kind) in
        [(401, "credentials"), (404, "knows nothing"), (410, "with 410"), (403, "with 403"), (422, "with 422")]
    {
        world.forge.fault("POST /repos/octo/hello/issues/2/comments", on(status));
        let error = world.try_one(&comment("a", "x")).await.unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("as GitHub says"), "{status}: {error}");
        assert!(!error.contains(TOKEN), "{error}");
    }
    let nowhere = wanted("n", Kind::Comment, "octo/hello#99", json!({ "body": "x" }));
    assert!(matches!(world.try_one(&nowhere).await, Err(EffectFailure::Forge(ForgeError::NotFound { .. }))));
    let wrong = wanted("w", Kind::Comment, "octo/hello#2", json!({ "body": "x", "colour": 1 }));
    let Err(EffectFailure::Invalid(Invalid { field, .. })) = world.try_one(&wrong).await else {
        panic!("it was taken")
    };
    assert_eq!(field, "colour");
    assert_eq!(world.forge.writes(), 0);
}

#[tokio::test]
async fn a_dry_run_reads_says_what_it_would_do_and_writes_nothing() {
    let world = World { dry_run: true, ..world().await };
    world.forge.say(2, OWN, "<!-- mindos:general=code-general effect=old -->\nold");
    let sha = world.forge.state().refs["heads/main"].clone();
    let check = json!({ "name": "n", "conclusion": "success", "title": "t", "summary": "s" });
    for (wanted, would) in [
        (comment("a", "new"), "edit"),
        (wanted("o", Kind::Comment, "octo/hello#1", json!({ "body": "x" })), "create"),
        (wanted("r", Kind::Review, "octo/hello#2", json!({ "body": "x" })), "create"),
        (wanted("c", Kind::Check, &format!("octo/hello@{sha}"), check), "create"),
        (wanted("l", Kind::Labels, "octo/hello#1", json!({ "add": ["x"] })), "change"),
        (wanted("e", Kind::Reaction, "octo/hello#1", json!({ "content": "eyes" })), "create"),
        (wanted("i", Kind::Issue, "octo/hello", json!({ "title": "t" })), "create"),
        (branch("b", json!([{ "path": "a", "content": "x" }])), "create"),
        (wanted("p", Kind::PullRequest, "octo/hello", json!({ "head": "new", "title": "t" })), "create"),
    ] {
        match world.try_one(&wanted).await.unwrap() {
            Outcome::Would(what) => assert_eq!(what["action"], would, "{:?}", wanted.kind),
            done => panic!("{:?}: {done:?}", wanted.kind),
        }
    }
    assert_eq!(world.forge.writes(), 0);
}

#[tokio::test]
async fn an_apps_tokens_reach_one_repository_with_the_permissions_of_the_kind_and_are_kept() {
    let world = world_of_app().await;
    assert_eq!(world.twice(&comment("a", "x")).await.0, "created");
    let labels = wanted("l", Kind::Labels, "octo/hello#1", json!({ "add": ["x"] }));
    world.twice(&labels).await;
    world.done(&branch("b", json!([{ "path": "a", "content": "x" }]))).await;
    let asked: Vec<Value> = world.forge.state().tokens.values().cloned().collect();
    let talk = json!({ "repositories": ["hello"], "permissions": { "issues": "write", "pull_requests": "write" } });
    let push = json!({ "repositories": ["hello"], "permissions": { "contents": "write" } });
    assert_eq!(asked, [talk.clone(), talk, push], "one for each kind, and no more than that");
    let asked_app = world.forge.state().requests.iter().filter(|request| request.contains("/installation")).count();
    assert_eq!(asked_app, 1 + 3);

    // A token that GitHub does not take any more is forgotten, and the next one is new.
    world.forge.state().tokens.clear();
    assert!(matches!(
        world.try_one(&comment("a", "x")).await,
        Err(EffectFailure::Forge(ForgeError::Unauthorised { .. }))
    ));
    world.account.forget(&Repository::read("octo/hello").unwrap());
    assert_eq!(world.done(&comment("a", "x")).await.0, "found");

    let elsewhere = wanted("x", Kind::Comment, "octo/other#1", json!({ "body": "x" }));
    let error = world.try_one(&elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("the App is not installed at octo/other"), "{error}");
}

#[tokio::test]
async fn an_app_that_was_granted_less_asks_for_less() {
    let world = world_of_app().await;
    world.forge.state().permissions = json!({ "contents": "read", "pull_requests": "write" });
    world.done(&comment("a", "x")).await;
    let asked: Vec<Value> = world.forge.state().tokens.values().cloned().collect();
    assert_eq!(asked[0]["permissions"], json!({ "pull_requests": "write" }));
    let sha = "a".repeat(40);
    let check = json!({ "name": "n", "conclusion": "success", "title": "t", "summary": "s" });
    let refused = world.try_one(&wanted("c", Kind::Check, &format!("octo/hello@{sha}"), check)).await.unwrap_err();
    assert!(refused.to_string().contains("granted none of checks: write"), "{refused}");
}

#[tokio::test]
async fn a_general_reads_with_a_token_of_its_own_that_can_be_revoked() {
    let world = world_of_app().await;
    let repository = Repository::read("octo/hello").unwrap();
    let (one, two) =
        (world.account.reader(&repository).await.unwrap(), world.account.reader(&repository).await.unwrap());
    assert!(one.secret != two.secret && one.expires.is_some());
    let asked = world.forge.state().tokens[one.secret.expose()].clone();
    let all_read = asked["permissions"].as_object().unwrap().values().all(|level| level == "read");
    assert!(all_read && asked["repositories"] == json!(["hello"]), "{asked}");
    assert_eq!(world.account.clone_url(&repository, &one.secret).await.unwrap(), "https://forge/octo/hello.git");
    world.account.revoke(&one).await.unwrap();
    assert!(
        world.forge.state().revoked.contains(one.secret.expose())
            && !world.forge.state().revoked.contains(two.secret.expose())
    );
    world.account.revoke(&one).await.unwrap();
    // With a plain token generals read only where a token for that is given.
    let world = super::tests::world().await;
    assert!(world.account.reader(&repository).await.unwrap_err().to_string().contains("github.read_token_file"));
}
