//! What speaks for a change: reviews, tests, checks.

use serde_json::json;

use super::Analysis;
use crate::event::Topic;
use crate::report::{Findings, Severity, nothing};
use crate::text::{clipped, count, mentions, path_fits};
use crate::Profile;
use crate::evidence::Evidence;

const NAME_MAX: usize = 80;

pub(super) const REVIEW: Analysis = Analysis {
    name: "review",
    thresholds: &[],
    words: &[],
    codes: &[
        "review.draft",
        "review.nobody_asked",
        "review.asked",
        "review.self",
        "review.approved",
        "review.changes_requested",
        "review.commented",
        "review.stale",
    ],
    run: review,
};

fn review(_: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if !event.is_change() || event.topic() == Topic::Plain {
        return;
    }
    if event.flag("pull_request.draft") == Some(true) {
        findings.add(Severity::Info, "review.draft", "It is a draft.".to_owned(), nothing());
    }
    if event.topic() == Topic::Review {
        return state(event, findings);
    }
    let people = event.list("pull_request.requested_reviewers").iter().filter_map(|it| it.get("login")?.as_str());
    let teams = event.list("pull_request.requested_teams").iter().filter_map(|it| it.get("slug")?.as_str());
    let asked: Vec<String> = people.chain(teams).take(20).map(|name| clipped(name, NAME_MAX)).collect();
    let open = event.text("pull_request.state").is_none_or(|state| state == "open");
    if !asked.is_empty() {
        let text = format!("Review is asked of {}.", asked.join(", "));
        findings.add(Severity::Info, "review.asked", text, json!({"asked": asked}));
    } else if open && event.at("pull_request.requested_reviewers").is_some() {
        findings.add(Severity::Notice, "review.nobody_asked", "Nobody is asked for a review.".to_owned(), nothing());
    }
}

fn state(event: &Evidence<'_>, findings: &mut Findings) {
    let by = clipped(event.text("review.user.login").unwrap_or("an unnamed person"), NAME_MAX);
    let data = json!({"reviewer": by});
    let (severity, code, text) = match event.text("review.state").unwrap_or_default().to_lowercase().as_str() {
        "approved" => (Severity::Info, "review.approved", format!("{by} approved.")),
        "changes_requested" => (Severity::Warning, "review.changes_requested", format!("{by} asks for changes.")),
        _ => (Severity::Info, "review.commented", format!("{by} commented without a verdict.")),
    };
    findings.add(severity, code, text, data.clone());
    if event.text("review.user.login").is_some()
        && event.text("review.user.login") == event.text("pull_request.user.login")
    {
        let text = format!("{by} is also the author, so this review is not a second pair of eyes.");
        findings.add(Severity::Notice, "review.self", text, data);
    }
    if let (Some(seen), Some(head)) = (event.text("review.commit_id"), event.text("pull_request.head.sha"))
        && seen != head
    {
        let text = "The review is of an older commit than the head of the branch.".to_owned();
        findings.add(
            Severity::Warning,
            "review.stale",
            text,
            json!({"reviewed": clipped(seen, NAME_MAX), "head": clipped(head, NAME_MAX)}),
        );
    }
}

pub(super) const TESTS: Analysis = Analysis {
    name: "tests",
    thresholds: &["untested_lines"],
    words: &["test_paths", "code_paths", "test_words"],
    codes: &[
        "tests.touched",
        "tests.untouched",
        "tests.no_code",
        "tests.unlisted",
        "tests.unmentioned",
        "tests.mentioned",
    ],
    run: tests,
};

fn tests(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let files = event.files();
    if !files.is_empty() {
        let tests = files.iter().filter(|touch| path_fits(touch.path, profile.words("test_paths"))).count() as u64;
        let code = files
            .iter()
            .filter(|touch| {
                path_fits(touch.path, profile.words("code_paths"))
                    && !path_fits(touch.path, profile.words("test_paths"))
            })
            .count() as u64;
        let data =
            json!({"test_files": tests, "code_files": code, "files": files.len(), "counted": count(code, "code file")});
        return match (code, tests) {
            (0, 0) => {
                findings.add(
                    Severity::Info,
                    "tests.no_code",
                    format!("The {} touches no code and no tests.", event.noun()),
                    data,
                );
            }
            (code, 0) => {
                let text = format!("The {} touches {} and no test.", event.noun(), count(code, "code file"));
                findings.add(Severity::Warning, "tests.untouched", text, data);
            }
            (code, tests) => {
                let counted = (count(code, "code file"), count(tests, "test file"));
                let text = format!("The {} touches {} and {}.", event.noun(), counted.0, counted.1);
                findings.add(Severity::Info, "tests.touched", text, data);
            }
        };
    }
    if !event.is_change() {
        return;
    }
    findings.add(
        Severity::Info,
        "tests.unlisted",
        "The event does not list the changed files, so whether tests changed is not known from it.".to_owned(),
        nothing(),
    );
    let texts: Vec<&str> = [event.title(), event.description()].into_iter().flatten().collect();
    let mentioned = profile.words("test_words").iter().any(|word| texts.iter().any(|text| mentions(text, word)));
    let additions = event.number("pull_request.additions").unwrap_or(0);
    if mentioned {
        findings.add(Severity::Info, "tests.mentioned", "Title or description speak of tests.".to_owned(), nothing());
    } else if additions > profile.threshold("untested_lines") {
        let text = format!("{} and no word on tests.", count(additions, "added line"));
        findings.add(Severity::Notice, "tests.unmentioned", text, json!({"additions": additions}));
    }
}

pub(super) const CHECKS: Analysis = Analysis {
    name: "checks",
    thresholds: &[],
    words: &[],
    codes: &["checks.failed", "checks.passed", "checks.inconclusive", "checks.running", "checks.annotated"],
    run: checks,
};

fn checks(_: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let (member, unnamed) = match event.topic() {
        Topic::CheckRun => ("check_run", "(unnamed)"),
        Topic::WorkflowRun => ("workflow_run", "(unnamed workflow)"),
        _ => return,
    };
    let name = clipped(event.text(&format!("{member}.name")).unwrap_or(unnamed), NAME_MAX);
    let status = event.text(&format!("{member}.status")).unwrap_or("unknown");
    let Some(conclusion) = event.text(&format!("{member}.conclusion")) else {
        let status = clipped(status, NAME_MAX);
        let text = format!("Check {name} has not concluded (status {status}).");
        return findings.add(Severity::Info, "checks.running", text, json!({"check": name, "status": status}));
    };
    let (severity, code) = match conclusion {
        "failure" | "timed_out" | "startup_failure" => (Severity::Warning, "checks.failed"),
        "success" => (Severity::Info, "checks.passed"),
        _ => (Severity::Notice, "checks.inconclusive"),
    };
    let conclusion = clipped(conclusion, NAME_MAX);
    let text = format!("Check {name} concluded {conclusion}.");
    findings.add(severity, code, text, json!({"check": name, "conclusion": conclusion}));
    if let Some(notes) = event.number("check_run.output.annotations_count").filter(|&notes| notes > 0) {
        let text = format!("It left {}.", count(notes, "annotation"));
        findings.add(Severity::Notice, "checks.annotated", text, json!({"check": name, "annotations": notes}));
    }
}
