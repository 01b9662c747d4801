//! The coding agent as a program: a task in, a report with intents out. The repository is real git over HTTP, checks and commands run in the
//! sandbox, the model is scripted.

mod stand;

use serde_json::{Value, json};
use stand::{AUTHOR, Ran, Stand};

const PLAN: &str = "## Summary\nMake it 2.\n## Files to Modify\n- `src/value.py`\n## Implementation Steps\n1. Change it.\n\
                    ## Potential Risks\nNone.\n## Testing Strategy\nRun the check.\n";
const CHECK: &str = "#!/bin/sh\ngrep -q 'value = 2' src/value.py || { echo 'value is not 2'; exit 1; }\n";

fn repository() -> Stand {
    let stand = Stand::with(&[
        ("src/value.py", "# the value\nvalue = 1\n"),
        ("src/other.py", "other = 0\n"),
        ("check.sh", CHECK),
        (".mindos.yaml", "coding: {checks: [sh check.sh]}\n"),
        (".github/workflows/ci.yml", "on: push\n"),
    ]);
    stand.issue(7, "The value is wrong", "It should be 2, not 1: see `value`.");
    stand
}

fn planned(stand: &Stand, author: &str) {
    stand.commit("ai-agent/issue-7", &[("note", "of a plan\n")]);
    stand.pull(
        8,
        "ai-agent/issue-7",
        author,
        &format!("# t\n<!-- ai-agent:plan -->\n{PLAN}\n<!-- ai-agent:plan-end -->\n"),
    );
    stand.on_base(".mindos.yaml", "coding: {checks: [sh check.sh]}\n");
}

fn keys(ran: &Ran) -> Vec<String> {
    ran.effects().iter().map(|effect| effect["key"].as_str().unwrap().to_owned()).collect()
}

fn ended(ran: &Ran, why: &str) {
    assert!(ran.report.is_none() && ran.errors.contains(why), "{}\n{:?}", ran.errors, ran.report);
}

#[test]
fn an_issue_becomes_a_plan_and_a_plan_that_lacks_a_heading_is_asked_for_once_more() {
    let stand = repository();
    stand.model_says(PLAN.replace("## Potential Risks\nNone.\n", ""));
    stand.model_says(PLAN);
    let ran = stand.run(json!({"mode": "plan", "issue_id": 7}), true, &[]);
    assert_eq!(ran.kinds(), ["branch", "pull_request", "comment", "labels"]);
    assert_eq!(keys(&ran), ["plan:o/r#7:branch", "plan:o/r#7:pull_request", "plan:o/r#7:comment", "plan:o/r#7:labels"]);
    let effects = ran.effects();
    let branch = &effects[0]["parameters"];
    assert_eq!(
        (&branch["branch"], &branch["base"], &branch["files"]),
        (&json!("ai-agent/issue-7"), &json!("trunk"), &json!([]))
    );
    assert_eq!(branch["base_commit"].as_str().unwrap().len(), 40);
    let request = &effects[1]["parameters"];
    assert_eq!(
        (&request["title"], &request["draft"]),
        (&json!("[AI Agent] Fix issue #7: The value is wrong"), &json!(true))
    );
    let body = request["body"].as_str().unwrap();
    for part in [
        "The value is wrong",
        "/approve",
        "## Summary",
        "## Files to Modify",
        "## Implementation Steps",
        "## Potential Risks",
        "## Testing Strategy",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(effects[2]["parameters"]["body"].as_str().unwrap().contains("${effects.1.url}"));
    assert_eq!(effects[3]["target"], "o/r#${effects.1.number}");
    // The question holds what was selected, behind a fence.
    let asked = stand.asked();
    assert_eq!(asked.len(), 2);
    let question = asked[0]["messages"].to_string();
    assert!(question.contains("# the value\\nvalue = 1") && question.contains("kind=\\\"issue\\\""), "{question}");
    assert!(asked[1]["messages"].to_string().contains("Potential Risks"));
    let report = ran.report.as_ref().unwrap();
    assert_eq!((&report["model"], &report["usage"][0]["calls"]), (&json!("openai:scripted"), &json!(2)));
    assert!(stand.left().is_empty());
}

#[test]
fn without_a_model_what_was_selected_is_told_and_nothing_is_made() {
    let stand = repository();
    let ran = stand.run(json!({"mode": "plan", "issue_id": "7"}), false, &[]);
    assert_eq!(ran.kinds(), ["comment"]);
    let body = ran.effects()[0]["parameters"]["body"].as_str().unwrap().to_owned();
    assert!(body.contains("No model was asked") && body.contains("| `src/value.py` |"), "{body}");
    assert_eq!(ran.report.unwrap()["model"], "none");
    assert!(stand.left().is_empty());
}

#[test]
fn a_quick_fix_runs_the_checks_and_corrects_itself_once() {
    let stand = repository();
    stand.edits(json!([{"path": "src/value.py", "search": "value = 1", "replace": "value = 3"}]));
    stand.edits(json!([{"path": "src/value.py", "search": "value = 3", "replace": "value = 2"}]));
    let ran = stand.run(json!({"mode": "quickfix", "issue_id": 7}), true, &[]);
    assert_eq!(ran.kinds(), ["branch", "pull_request", "comment", "labels"]);
    let effects = ran.effects();
    let branch = &effects[0]["parameters"];
    assert_eq!(branch["branch"], "ai-agent/quickfix-issue-7");
    // The check fails before the change as well, so it does not judge it; nothing is corrected for it.
    assert_eq!(
        branch["files"],
        json!([{"path": "src/value.py", "mode": "100644", "content": "# the value\nvalue = 3\n"}])
    );
    let body = effects[1]["parameters"]["body"].as_str().unwrap();
    assert!(body.contains("- `sh check.sh`: failed, and failed before the change as well"), "{body}");
    assert_eq!(effects[1]["parameters"]["title"], "[AI Agent QuickFix] Fix issue #7: The value is wrong");
    assert_eq!(
        (&effects[1]["parameters"]["draft"], &effects[2]["parameters"]["body"]),
        (&json!(false), &json!("QuickFix applied. PR: #${effects.1.number}"))
    );

    let stand = Stand::with(&[
        ("src/value.py", "value = 2\n"),
        ("check.sh", CHECK),
        (".mindos.yaml", "coding: {checks: [sh check.sh]}\n"),
    ]);
    stand.issue(7, "A value is missing", "There should be another value.");
    stand.edits(json!([{"path": "src/value.py", "content": "value = 3\nmore = 1\n"}]));
    stand.edits(json!([{"path": "src/value.py", "search": "value = 3", "replace": "value = 2"}]));
    let ran = stand.run(json!({"mode": "quickfix", "issue_id": 7}), true, &[]);
    let files = &ran.effects()[0]["parameters"]["files"];
    assert_eq!(files, &json!([{"path": "src/value.py", "mode": "100644", "content": "value = 2\nmore = 1\n"}]));
    let body = ran.effects()[1]["parameters"]["body"].as_str().unwrap().to_owned();
    assert!(
        body.contains("- `sh check.sh`: passed")
            && body.contains("corrected once")
            && !body.contains("without a sandbox"),
        "{body}"
    );
    let asked = stand.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[1]["messages"].to_string().contains("value is not 2"), "the output of the check is shown");
    assert!(stand.left().is_empty());
}

#[test]
fn an_approved_plan_is_implemented_on_its_branch_and_checked_as_the_base_says() {
    let stand = repository();
    planned(&stand, AUTHOR);
    // What the branch says of checks is not asked.
    stand.commit("ai-agent/issue-7", &[(".mindos.yaml", "coding: {checks: [sh -c evil]}\n")]);
    stand.edits(json!([{"path": "src/value.py", "search": "value = 1", "replace": "value = 2"}]));
    let ran = stand.run(json!({"mode": "implement", "issue_id": 7, "pr_number": 8, "comment_id": 99}), true, &[]);
    assert_eq!(ran.kinds(), ["branch", "labels", "comment"]);
    assert_eq!(keys(&ran), ["implement:o/r#8:branch:99", "implement:o/r#8:labels:99", "implement:o/r#8:comment:99"]);
    let effects = ran.effects();
    let branch = &effects[0]["parameters"];
    assert_eq!((&branch["branch"], &branch["onto"]), (&json!("ai-agent/issue-7"), &json!("existing")));
    assert_eq!(effects[1]["parameters"], json!({"add": ["ai-agent", "implemented"], "remove": ["plan-pending"]}));
    let comment = effects[2]["parameters"]["body"].as_str().unwrap();
    assert!(comment.contains("- `sh check.sh`: passed") && !comment.contains("evil"), "{comment}");
    assert!(stand.asked()[0]["messages"].to_string().contains("Make it 2."), "the plan is shown");
}

#[test]
fn only_a_plan_of_our_own_is_implemented() {
    let stand = repository();
    let task = json!({"mode": "implement", "pr_number": 8, "comment_id": 99});
    planned(&stand, "somebody");
    ended(&stand.run(task.clone(), true, &[]), "is not one of ours");
    stand.pull(8, "ai-agent/issue-7", AUTHOR, "no plan");
    ended(&stand.run(task.clone(), true, &[]), "holds no plan");
    stand.pull(8, "trunk", AUTHOR, "");
    ended(&stand.run(task, true, &[]), "comes from the default branch");
    // By the issue alone it is found where our own comment links it.
    planned(&stand, AUTHOR);
    let comment =
        |login: &str, url: &str| json!({"id": 1, "user": {"login": login}, "body": format!("A plan is ready: {url}")});
    stand.answer("/issues/7/comments", json!([comment("somebody", "http://h/o/r/pull/9")]));
    ended(&stand.run(json!({"mode": "implement", "issue_id": 7}), true, &[]), "no plan of ours is linked");
    stand.answer(
        "/issues/7/comments",
        json!([comment(AUTHOR, "http://h/o/r/pull/8"), comment("somebody", "http://h/o/r/pull/9")]),
    );
    stand.edits(json!([{"path": "src/value.py", "search": "value = 1", "replace": "value = 2"}]));
    let ran = stand.run(json!({"mode": "implement", "issue_id": 7}), true, &[]);
    assert_eq!(ran.effects()[1]["target"], "o/r#8");
    assert!(stand.left().is_empty());
}

#[test]
fn a_pull_request_is_refined_as_asked() {
    let stand = repository();
    stand.commit("feature", &[("src/new.py", "new = 1\n")]);
    stand.pull(9, "feature", "somebody", "text");
    stand.answer(
        "/pulls/9/files",
        json!([{"filename": "src/new.py", "status": "added", "additions": 1, "deletions": 0, "sha": "1"}]),
    );
    let task = json!({
        "mode": "refine", "pr_number": "9", "pr_branch": "feature", "comment_id": "99", "refine_request": "call it newer"
    });
    for field in ["pr_number", "comment_id"] {
        let mut less = task.clone();
        less.as_object_mut().unwrap().remove(field);
        ended(&stand.run(less, true, &[]), &format!("`{field}` is missing"));
    }
    let mut other = task.clone();
    other["pr_branch"] = json!("another");
    ended(&stand.run(other, true, &[]), "`pr_branch` is another");
    stand.edits(json!([{"path": "src/new.py", "content": "newer = 1\n"}, {"path": "src/other.py", "delete": true}]));
    let ran = stand.run(task, true, &[]);
    assert_eq!(ran.kinds(), ["branch", "reaction", "comment"]);
    let effects = ran.effects();
    let files = json!([{"path": "src/new.py", "mode": "100644", "content": "newer = 1\n"}, {"path": "src/other.py", "delete": true}]);
    assert_eq!((&effects[0]["parameters"]["branch"], &effects[0]["parameters"]["files"]), (&json!("feature"), &files));
    assert_eq!(effects[1]["parameters"], json!({"content": "rocket", "comment_id": 99, "comment_kind": "issue"}));
    assert!(stand.asked()[0]["messages"].to_string().contains("call it newer"));
    assert!(stand.left().is_empty());
}

#[test]
fn edits_that_may_not_be_made_are_refused_and_leave_nothing() {
    let hostile: [Value; 4] = [
        json!([{"path": ".github/workflows/ci.yml", "content": "on: [push]\njobs: {}\n"}]),
        json!([{"path": "../outside", "content": "x"}]),
        json!([{"path": ".git/hooks/post-checkout", "content": "#!/bin/sh\ntouch /tmp/ran\n"}]),
        json!([{"path": "src/value.py", "search": "not there", "replace": "x"}]),
    ];
    for edits in hostile {
        let stand = repository();
        stand.edits(edits.clone());
        stand.edits(edits);
        ended(&stand.run(json!({"mode": "quickfix", "issue_id": 7}), true, &[]), "cannot be applied");
        assert_eq!(stand.asked().len(), 2, "it was asked once more");
        assert!(stand.left().is_empty() && !stand.folder.path().join("workspace/outside").exists());
    }
}

#[test]
fn a_failure_at_any_step_leaves_nothing_behind() {
    let stand = repository();
    ended(&stand.run(json!({"mode": "plan", "issue_id": 404}), true, &[]), "there is no issue #404");
    // The model has nothing to say.
    ended(&stand.run(json!({"mode": "plan", "issue_id": 7}), true, &[]), "nothing is left to say");
    stand.model_says("no plan");
    stand.model_says("no plan still");
    ended(&stand.run(json!({"mode": "plan", "issue_id": 7}), true, &[]), "the model's plan lacks Summary");
    ended(
        &stand.run(json!({"mode": "plan", "issue_id": 7, "repository": "o/other"}), true, &[]),
        "access was given to o/r",
    );
    ended(&stand.run(json!({"mode": "tidy"}), true, &[]), "`mode` is `tidy`: expected plan, quickfix");
    assert!(stand.left().is_empty());
}

#[test]
fn a_command_edits_in_the_sandbox_and_only_its_files_count() {
    let stand = repository();
    let script = "#!/bin/sh\ncase \"$1\" in *'The value is wrong'*) ;; *) exit 9;; esac\n\
                  sed -i 's/value = 1/value = 2/' src/value.py\n\
                  printf 'home %s\\nkey %s\\n' \"$HOME\" \"$OPENAI_API_KEY\" > made\n\
                  git commit -qam mine --author 'x <x@x>' 2>/dev/null\n\
                  printf '[core]\\n fsmonitor = touch ran\\n' >> .git/config\n";
    let work = stand.folder.path().join("tools");
    std::fs::create_dir_all(&work).unwrap();
    std::fs::write(work.join("edit.sh"), script).unwrap();
    let editor = format!("sh {}/edit.sh {{task}}", work.display());
    let read = work.display().to_string();
    let ran =
        stand.run(json!({"mode": "quickfix", "issue_id": 7}), false, &["--editor", &editor, "--sandbox-read", &read]);
    let files = json!([
        {"path": "made", "mode": "100644", "content": "home /home/agent\nkey \n"},
        {"path": "src/value.py", "mode": "100644", "content": "# the value\nvalue = 2\n"},
    ]);
    assert_eq!(ran.effects()[0]["parameters"]["files"], files);
    let report = ran.report.unwrap();
    assert_eq!(
        (&report["model"], &report["effects"][0]["parameters"]["author"]["name"]),
        (&json!("command:sh"), &json!("AI Coding Agent"))
    );
    assert!(report["effects"][1]["parameters"]["body"].as_str().unwrap().contains("- `sh check.sh`: passed"));
    assert!(stand.left().is_empty());
    std::fs::write(
        work.join("edit.sh"),
        "#!/bin/sh\nmkdir -p .github/workflows; echo 'on: push' > .github/workflows/x.yml\n",
    )
    .unwrap();
    ended(
        &stand.run(json!({"mode": "quickfix", "issue_id": 7}), false, &["--editor", &editor, "--sandbox-read", &read]),
        "is a workflow of the forge",
    );
    std::fs::write(work.join("edit.sh"), "#!/bin/sh\necho went wrong; exit 4\n").unwrap();
    ended(
        &stand.run(json!({"mode": "quickfix", "issue_id": 7}), false, &["--editor", &editor, "--sandbox-read", &read]),
        "went wrong",
    );
    assert!(stand.left().is_empty());
}

#[test]
fn a_crate_is_checked_by_cargo_in_the_sandbox() {
    let stand = Stand::with(&[
        ("Cargo.toml", "[package]\nname = \"value\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("src/lib.rs", "pub fn value() -> u32 {\n    2\n}\n\n#[test]\nfn is_two() {\n    assert_eq!(value(), 2);\n}\n"),
    ]);
    stand.issue(7, "The value should be computed", "See `value` in src/lib.rs.");
    stand.edits(json!([{"path": "src/lib.rs", "search": "    2\n", "replace": "    1 + 1\n"}]));
    let ran = stand.run(json!({"mode": "quickfix", "issue_id": 7}), true, &[]);
    let effects = ran.effects();
    let body = effects[1]["parameters"]["body"].as_str().unwrap();
    assert!(
        body.contains("- `cargo check --all-targets`: passed") && body.contains("- `cargo test`: passed"),
        "{body}"
    );
    assert_eq!(
        effects[0]["parameters"]["files"].as_array().unwrap().len(),
        1,
        "what cargo built is no part of the change"
    );
}

#[test]
fn the_same_task_twice_wants_the_same_effects() {
    let stand = repository();
    let run = || {
        stand.edits(json!([{"path": "src/value.py", "search": "value = 1", "replace": "value = 2"}]));
        let mut effects = stand.run(json!({"mode": "quickfix", "issue_id": 7}), true, &["--check", "true"]).effects();
        // How long a check took is told in seconds, and may differ.
        effects[1]["parameters"]["body"] = Value::Null;
        effects
    };
    assert_eq!(run(), run());
}
