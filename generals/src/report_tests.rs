use std::fs;
use std::path::Path;

use super::*;

const PAYLOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/github-webhooks");

fn event(file: &str) -> Event {
    let body = fs::read(Path::new(PAYLOADS).join(file)).unwrap();
    let event_type = file.split('.').next().unwrap().to_owned();
    Event { event_type, data: serde_json::from_slice(&body).unwrap(), ..Event::default() }
}

fn report(general: &str, event: &Event) -> Report {
    analyse(&Profile::stock(general).unwrap(), event, Timestamp(0))
}

fn finding(general: &str, file: &str, code: &str) -> Finding {
    let report = report(general, &event(file));
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    report.findings.iter().find(|one| one.code == code).unwrap_or_else(|| panic!("{code} not in {codes:?}")).clone()
}

fn files() -> Vec<String> {
    let entries = fs::read_dir(PAYLOADS).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = entries.filter(|name| name.ends_with(".json")).collect();
    files.sort();
    files
}

#[test]
fn every_general_has_something_to_say_on_every_payload() {
    for general in Profile::types() {
        for file in files() {
            let report = report(general, &event(&file));
            assert_eq!((report.status, &*report.model), ("processed", "none"));
            assert!(report.analysis.len() > 40 && !report.recommendations.is_empty(), "{general} {file}");
            assert!(
                !report.recommendations.iter().any(|text| text.contains('?') || text.contains('{')),
                "{general} {file}: {:?}",
                report.recommendations
            );
            assert_eq!(report, self::report(general, &event(&file)), "not deterministic: {general} {file}");
        }
    }
}

/// The recorded reports of one payload of each kind. `MINDOS_BLESS=1` writes them anew, for a person to read.
#[test]
fn reports_read_as_recorded() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/reports.txt");
    let mut actual = String::new();
    for file in [
        "pull_request.opened.4.json",
        "pull_request.review_requested.json",
        "pull_request_review.submitted.1.json",
        "push.5.json",
        "push.7.json",
        "issues.opened.1.json",
        "issues.labeled.1.json",
        "check_run.completed.1.json",
        "workflow_run.requested.2.json",
        "release.published.1.json",
        "deployment_status.created.3.json",
        "installation.created.1.json",
    ] {
        for general in Profile::types() {
            let report = report(general, &event(file));
            actual.push_str(&format!("## {file} / {general}\n{}\n", report.analysis));
            for advice in &report.recommendations {
                actual.push_str(&format!("- {advice}\n"));
            }
        }
    }
    if std::env::var_os("MINDOS_BLESS").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &actual).unwrap();
    }
    let recorded = fs::read_to_string(&golden).unwrap();
    for (line, (got, wanted)) in actual.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", line + 1);
    }
    assert_eq!(actual.lines().count(), recorded.lines().count());
}

#[test]
fn figures_are_those_of_the_payload() {
    let size = finding("code-review-general", "pull_request.opened.4.json", "size.small");
    assert_eq!((&size.data["lines"], &size.data["files"]), (&json!(2), &json!(1)));
    let commits = finding("analytics-general", "push.5.json", "push.commits");
    assert_eq!(
        commits.data,
        json!({"commits": 1, "distinct": 1, "merges": 0, "authors": 1, "counted": "1 commit by 1 author"})
    );
    let check = finding("quality-assurance-general", "check_run.completed.1.json", "checks.failed");
    assert_eq!(check.data["conclusion"], "failure");
    let known = finding("security-general", "pull_request.opened.4.json", "trust.known");
    assert_eq!(known.data["association"], "OWNER");
    let entry = finding("documentation-general", "pull_request.closed.2.json", "changelog.entry");
    assert_eq!(entry.data["entry"], "- Update the README with new information (#2)");
    let production = finding("deployment-general", "deployment_status.created.3.json", "deployment.production");
    assert_eq!(production.data["environment"], "production");
    let closing = report("metrics-general", &event("pull_request.closed.2.json"));
    let seconds: Vec<_> =
        closing.findings.iter().filter(|it| it.code == "time.measured").map(|it| &it.data["seconds"]).collect();
    assert_eq!(seconds[0], &json!(45));
    let label = finding("triage-general", "issues.opened.1.json", "labels.suggested");
    assert!(["bug", "documentation"].contains(&label.data["label"].as_str().unwrap()));
}

#[test]
fn a_fork_a_bot_and_a_review_of_old_commits_are_noticed() {
    let mut it = event("pull_request.opened.4.json");
    it.data["pull_request"]["head"]["repo"]["id"] = json!(1);
    it.data["sender"]["type"] = json!("Bot");
    let codes: Vec<_> = report("security-general", &it).findings.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&"trust.fork") && codes.contains(&"trust.bot"), "{codes:?}");
    it.data["pull_request"]["head"]["repo"] = json!(null);
    let codes: Vec<_> = report("security-general", &it).findings.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&"trust.fork"), "{codes:?}");
    let mut it = event("pull_request_review.submitted.1.json");
    it.data["review"]["commit_id"] = json!("0000");
    let codes: Vec<_> = report("code-review-general", &it).findings.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&"review.stale"), "{codes:?}");
}

#[test]
fn a_plain_event_of_the_aggregator_is_understood() {
    let data = json!({"type": "pr_created", "repository": "o/r", "user": "ann", "metadata": {
        "pr_number": 7, "title": "fix: lose nothing", "branch": "fix/x", "description": "see #3"}});
    let it = Event { event_type: "pr_created".into(), data, ..Event::default() };
    let report = report("code-review-general", &it);
    assert!(report.analysis.starts_with(
        "Code review: pr_created, pull request #7 \"fix: lose nothing\" on branch fix/x. In o/r, by ann."
    ));
    assert!(report.findings.iter().any(|finding| finding.code == "branch.prefixed"));
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
fn no_payload_makes_a_general_panic() {
    let long = "x y ".repeat(20_000);
    let odd =
        [json!(long), json!(null), json!([]), json!({}), json!("é\u{0}{a}"), json!(u64::MAX), json!(-1), json!([[1]])];
    let profiles: Vec<Profile> = Profile::types().map(|name| Profile::stock(name).unwrap()).collect();
    let mut step = 0;
    for file in files() {
        let whole = event(&file);
        for with in &odd {
            for index in 0..6 {
                step += 37;
                let mut it = whole.clone();
                let mut at = if index == 0 { step % 20 } else { step % 500 };
                replace(&mut it.data, &mut at, with);
                let profile = &profiles[step % profiles.len()];
                let report = analyse(profile, &it, Timestamp(u64::MAX));
                assert!(serde_json::to_string(&report).unwrap().len() < 64_000);
            }
        }
    }
}
