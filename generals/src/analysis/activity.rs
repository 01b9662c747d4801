//! What happened, in numbers: commits of a push, times between events, and what an unknown event holds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Analysis;
use crate::Profile;
use crate::event::Topic;
use crate::evidence::Evidence;
use crate::report::{Findings, Severity};
use crate::text::{clipped, count, span};

const NAME_MAX: usize = 80;

pub(super) const COMMITS: Analysis = Analysis {
    name: "commits",
    thresholds: &["hot_file_commits"],
    words: &[],
    codes: &[
        "push.created",
        "push.deleted",
        "push.forced",
        "push.commits",
        "push.files",
        "push.hot_files",
        "push.not_distinct",
        "push.empty",
        "change.numbers",
    ],
    run: commits,
};

fn commits(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if event.topic() != Topic::Push {
        return change_numbers(event, findings);
    }
    let name = clipped(event.text("ref").unwrap_or("an unnamed ref"), NAME_MAX);
    for (flag, code, word, severity) in [
        ("created", "push.created", "created", Severity::Info),
        ("deleted", "push.deleted", "deleted", Severity::Notice),
        ("forced", "push.forced", "rewritten by force", Severity::Warning),
    ] {
        if event.flag(flag) == Some(true) {
            findings.add(severity, code, format!("{name} was {word}."), json!({"ref": name}));
        }
    }
    let commits = event.history();
    if commits.is_empty() {
        return findings.add(Severity::Info, "push.empty", "No commits came with it.".to_owned(), json!({"ref": name}));
    }
    let authors: BTreeSet<&str> = commits.iter().map(|it| it.author.as_str()).filter(|it| !it.is_empty()).collect();
    let listed = event.commits().iter();
    let distinct = listed.filter(|it| it.get("distinct") == Some(&Value::Bool(true))).count() as u64;
    let merges = commits.iter().filter(|it| it.is_merge()).count() as u64;
    let total = commits.len() as u64;
    let counted = format!("{} by {}", count(total, "commit"), count(authors.len() as u64, "author"));
    findings.add(
        Severity::Info,
        "push.commits",
        format!(
            "{}, {distinct} of them new here, {} by their message, {}.",
            count(total, "commit"),
            count(merges, "merge"),
            count(authors.len() as u64, "author")
        ),
        json!({"commits": total, "distinct": distinct, "merges": merges, "authors": authors.len(), "counted": counted}),
    );
    if distinct == 0 {
        let text = "All its commits were in the repository before.".to_owned();
        findings.add(Severity::Info, "push.not_distinct", text, json!({"commits": total}));
    }
    files(profile, event, findings);
}

fn files(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let files = event.files();
    if files.is_empty() {
        return;
    }
    let of = |how: &str| files.iter().filter(|touch| touch.how == how).count() as u64;
    let (added, modified, removed) = (of("added"), of("modified"), of("removed"));
    findings.add(
        Severity::Info,
        "push.files",
        format!("Files: {added} added, {modified} modified, {removed} removed."),
        json!({"added": added, "modified": modified, "removed": removed}),
    );
    let mut touched: BTreeMap<&str, u64> = BTreeMap::new();
    let commits = event.history();
    for commit in commits.iter() {
        let in_commit: BTreeSet<&str> = commit.touched.iter().map(|it| it.path.as_str()).collect();
        for path in in_commit {
            *touched.entry(path).or_default() += 1;
        }
    }
    let mut hot: Vec<(u64, &str)> = touched
        .into_iter()
        .filter(|(_, times)| *times >= profile.threshold("hot_file_commits"))
        .map(|(path, times)| (times, path))
        .collect();
    hot.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    if !hot.is_empty() {
        let named: Vec<String> =
            hot.iter().take(5).map(|(times, path)| format!("{} ({times})", clipped(path, NAME_MAX))).collect();
        let text = format!("Files changed in several of the commits: {}.", named.join(", "));
        findings.add(Severity::Notice, "push.hot_files", text, json!({"files": named}));
    }
}

fn change_numbers(event: &Evidence<'_>, findings: &mut Findings) {
    let names = ["commits", "additions", "deletions", "changed_files", "comments", "review_comments"];
    let numbers: Map<String, Value> = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), event.number(&format!("pull_request.{name}"))?.into())))
        .collect();
    if !numbers.is_empty() {
        let listed: Vec<String> =
            numbers.iter().map(|(name, number)| format!("{} {number}", name.replace('_', " "))).collect();
        findings.add(
            Severity::Info,
            "change.numbers",
            format!("Its numbers: {}.", listed.join(", ")),
            Value::Object(numbers),
        );
    }
}

pub(super) const TIMINGS: Analysis = Analysis {
    name: "timings",
    thresholds: &["slow_check_seconds", "slow_merge_seconds", "slow_review_seconds"],
    words: &[],
    codes: &["time.measured", "time.slow_check", "time.slow_merge", "time.slow_review"],
    run: timings,
};

/// What is measured: its name, from where to where, and which threshold it is held against.
const MEASURES: [(&str, &str, &str, &str); 13] = [
    ("from opening to merge", "pull_request.created_at", "pull_request.merged_at", "merge"),
    ("from opening to close", "pull_request.created_at", "pull_request.closed_at", ""),
    ("from opening to this event", "pull_request.created_at", "pull_request.updated_at", ""),
    ("from opening to this review", "pull_request.created_at", "review.submitted_at", "review"),
    ("from opening to this comment", "pull_request.created_at", "comment.created_at", ""),
    ("from opening of the issue to its close", "issue.created_at", "issue.closed_at", ""),
    ("from opening of the issue to its last change", "issue.created_at", "issue.updated_at", ""),
    ("from opening of the issue to this comment", "issue.created_at", "comment.created_at", ""),
    ("of the check", "check_run.started_at", "check_run.completed_at", "check"),
    ("of the workflow run so far", "workflow_run.created_at", "workflow_run.updated_at", "check"),
    ("from the deployment to this status", "deployment.created_at", "deployment_status.created_at", ""),
    ("from the tagged commit to the release", "release.created_at", "release.published_at", ""),
    ("from the newest commit to the push", "head_commit.timestamp", "repository.pushed_at", ""),
];

fn timings(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    for (name, from, to, kind) in MEASURES {
        // A pull request that was merged was closed at the same moment.
        if name == "from opening to close" && event.at("pull_request.merged_at").is_some() {
            continue;
        }
        // `pushed_at` tells of this push only in a push.
        if to == "repository.pushed_at" && event.topic() != Topic::Push {
            continue;
        }
        let Some(seconds) = event.between(from, to) else { continue };
        let data = json!({"measure": name, "seconds": seconds, "span": span(seconds)});
        findings.add(Severity::Info, "time.measured", format!("Time {name}: {}.", span(seconds)), data.clone());
        let (code, limit) = match kind {
            "check" => ("time.slow_check", "slow_check_seconds"),
            "merge" => ("time.slow_merge", "slow_merge_seconds"),
            "review" => ("time.slow_review", "slow_review_seconds"),
            _ => continue,
        };
        if seconds > profile.threshold(limit) {
            let text = format!("That is longer than {}.", span(profile.threshold(limit)));
            findings.add(Severity::Notice, code, text, data);
        }
    }
}

pub(super) const INVENTORY: Analysis = Analysis {
    name: "inventory",
    thresholds: &[],
    words: &[],
    codes: &["inventory.people", "inventory.where", "inventory.size"],
    run: inventory,
};

fn inventory(_: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let mut people = BTreeSet::new();
    let mut nodes = 0;
    walk(&event.data, 0, &mut nodes, &mut people);
    if !people.is_empty() {
        let named: Vec<String> = people.iter().take(10).map(|name| clipped(name, NAME_MAX)).collect();
        let text = format!("Accounts in it: {}.", named.join(", "));
        findings.add(Severity::Info, "inventory.people", text, json!({"accounts": named, "number": people.len()}));
    }
    let places = [
        "comment.html_url",
        "review.html_url",
        "pull_request.html_url",
        "issue.html_url",
        "check_run.html_url",
        "workflow_run.html_url",
        "release.html_url",
        "compare",
        "repository.html_url",
    ];
    // The comparison with a ref that is gone leads nowhere.
    let places = if event.flag("deleted") == Some(true) { &places[places.len() - 1..] } else { &places[..] };
    if let Some(url) = places.iter().find_map(|path| event.text(path)).filter(|url| url.starts_with("https://")) {
        let url = clipped(url, 300);
        findings.add(Severity::Info, "inventory.where", format!("To be seen at {url}."), json!({"url": url}));
    }
    let text = format!("The payload holds {}.", count(nodes, "value"));
    findings.add(Severity::Info, "inventory.size", text, json!({"values": nodes}));
}

/// Counts values and collects logins; no deeper than any JSON that was read can be.
fn walk<'a>(value: &'a Value, depth: usize, nodes: &mut u64, people: &mut BTreeSet<&'a str>) {
    *nodes += 1;
    if depth > 128 {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "login"
                    && people.len() < 100
                    && let Some(login) = member.as_str()
                {
                    people.insert(login);
                }
                walk(member, depth + 1, nodes, people);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, depth + 1, nodes, people)),
        _ => {}
    }
}
