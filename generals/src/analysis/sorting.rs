//! Where an event belongs and how soon it wants somebody: labels, relations, age, urgency.

use std::collections::BTreeSet;

use serde_json::json;

use super::Analysis;
use crate::event::Topic;
use crate::report::{Findings, Severity};
use crate::text::{clipped, count, mentions, path_fits, references, span};
use crate::Profile;
use crate::evidence::Evidence;

const NAME_MAX: usize = 80;
const DAY: u64 = 86_400;

pub(super) const LABELS: Analysis = Analysis {
    name: "labels",
    thresholds: &[],
    words: &[],
    codes: &["labels.suggested", "labels.none", "labels.carried"],
    run: labels,
};

/// Texts to sort by: title, description, and what is just being said.
fn texts<'a>(event: &'a Evidence<'_>) -> Vec<&'a str> {
    let said = ["comment.body", "review.body", "check_run.output.title", "check_run.name", "workflow_run.name"];
    let said = said.iter().filter_map(|path| event.text(path));
    [event.title(), event.description()].into_iter().flatten().chain(said).collect()
}

fn labels(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let texts = texts(event);
    let files = event.files();
    if texts.is_empty() && files.is_empty() {
        return;
    }
    let carried = event.labels();
    if !carried.is_empty() {
        let named: Vec<String> = carried.iter().take(20).map(|label| clipped(label, NAME_MAX)).collect();
        let text = format!("It carries {}.", named.join(", "));
        findings.add(Severity::Info, "labels.carried", text, json!({"labels": named}));
    }
    let mut any = false;
    let labels: BTreeSet<&str> = profile
        .words
        .keys()
        .filter_map(|list| list.strip_prefix("label.").or_else(|| list.strip_prefix("label_paths.")))
        .collect();
    for label in labels {
        if carried.iter().any(|one| one.eq_ignore_ascii_case(label)) {
            continue;
        }
        let words = profile.words(&format!("label.{label}"));
        let said = words.iter().filter(|word| texts.iter().any(|text| mentions(text, word)));
        let reasons: Vec<&str> = said.map(String::as_str).take(5).collect();
        let paths = profile.words(&format!("label_paths.{label}"));
        // One file among many says little; half of them say what it is about.
        let touched = files.iter().filter(|file| path_fits(file.path, paths)).count() as u64;
        let by_files = touched > 0 && touched.saturating_mul(2) >= files.len() as u64;
        if reasons.is_empty() && !by_files {
            continue;
        }
        any = true;
        let mut because = Vec::new();
        if !reasons.is_empty() {
            because.push(format!("it speaks of {}", reasons.join(", ")));
        }
        if by_files {
            because.push(format!("it touches {} of that kind", count(touched, "file")));
        }
        let text = format!("The label {label} would fit: {}.", because.join("; "));
        let data = json!({"label": label, "because": reasons, "files": if by_files { touched } else { 0 }});
        findings.add(Severity::Notice, "labels.suggested", text, data);
    }
    if !any && carried.is_empty() {
        let text = "No keyword tells which label would fit.".to_owned();
        findings.add(Severity::Info, "labels.none", text, json!({}));
    }
}

pub(super) const RELATED: Analysis = Analysis {
    name: "related",
    thresholds: &[],
    words: &["duplicate_words"],
    codes: &["related.duplicate", "related.references", "related.unassigned"],
    run: related,
};

fn related(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let mut numbers: Vec<u64> = Vec::new();
    let mut duplicate = false;
    for text in texts(event) {
        duplicate |= profile.words("duplicate_words").iter().any(|word| mentions(text, word));
        for number in references(text, 20) {
            if Some(number) != event.subject_number() && !numbers.contains(&number) && numbers.len() < 20 {
                numbers.push(number);
            }
        }
    }
    let listed = numbers.iter().map(|number| format!("#{number}")).collect::<Vec<_>>().join(", ");
    if duplicate {
        let of = if listed.is_empty() { String::new() } else { format!(", perhaps of {listed}") };
        let text = format!("Its words say that it may be a duplicate{of}.");
        findings.add(Severity::Notice, "related.duplicate", text, json!({"numbers": numbers}));
    } else if !numbers.is_empty() {
        findings.add(
            Severity::Info,
            "related.references",
            format!("It refers to {listed}."),
            json!({"numbers": numbers}),
        );
    }
    let open = event.text("issue.state") == Some("open");
    if event.topic() == Topic::Issue
        && open
        && event.list("issue.assignees").is_empty()
        && event.at("issue.assignee").is_none()
    {
        findings.add(Severity::Notice, "related.unassigned", "Nobody is assigned.".to_owned(), json!({}));
    }
}

pub(super) const AGE: Analysis =
    Analysis { name: "age", thresholds: &["stale_days"], words: &[], codes: &["age.stale", "age.fresh"], run: age };

fn age(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let pairs = [("issue.created_at", "issue.updated_at"), ("pull_request.created_at", "pull_request.updated_at")];
    let Some(seconds) = pairs.iter().find_map(|(from, to)| event.between(from, to)) else { return };
    let data = json!({"seconds": seconds, "days": seconds / DAY});
    let open =
        [event.text("issue.state"), event.text("pull_request.state")].into_iter().flatten().all(|it| it == "open");
    if open && seconds > profile.threshold("stale_days").saturating_mul(DAY) {
        let text = format!("It was opened {} before this event and is still open.", span(seconds));
        findings.add(Severity::Notice, "age.stale", text, data);
    } else {
        findings.add(Severity::Info, "age.fresh", format!("It was opened {} before this event.", span(seconds)), data);
    }
}

pub(super) const URGENCY: Analysis = Analysis {
    name: "urgency",
    thresholds: &[
        "urgent_points",
        "high_points",
        "normal_points",
        "label_points",
        "word_points",
        "failure_points",
        "default_branch_points",
        "deployment_points",
        "discussion_points",
        "discussion_comments",
    ],
    words: &["urgent_labels", "urgent_words", "calm_words", "default_branches"],
    codes: &["urgency.urgent", "urgency.high", "urgency.normal", "urgency.low"],
    run: urgency,
};

/// Adds up points, each with its reason.
fn urgency(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let mut reasons: Vec<(u64, String)> = Vec::new();
    let points = |name: &str| profile.threshold(name);
    let in_list = |list: &str, text: &str| profile.words(list).iter().find(|word| mentions(text, word)).cloned();
    if let Some(label) = event.labels().iter().find_map(|label| in_list("urgent_labels", label)) {
        reasons.push((points("label_points"), format!("it carries a label with \"{label}\"")));
    }
    let texts = texts(event);
    let mut words: Vec<String> = texts.iter().filter_map(|text| in_list("urgent_words", text)).collect();
    words.sort();
    words.dedup();
    if !words.is_empty() {
        reasons.push((points("word_points"), format!("it speaks of {}", words.join(", "))));
    }
    let conclusion = event.text("check_run.conclusion").or_else(|| event.text("workflow_run.conclusion"));
    if let Some(failed @ ("failure" | "timed_out" | "startup_failure")) = conclusion {
        reasons.push((points("failure_points"), format!("a check concluded {failed}")));
        let branch = event.text("check_run.check_suite.head_branch").or_else(|| event.text("workflow_run.head_branch"));
        if let Some(branch) = branch.filter(|branch| profile.words("default_branches").iter().any(|one| one == branch))
        {
            reasons.push((points("default_branch_points"), format!("it is the branch {branch} that fails")));
        }
    }
    if matches!(event.text("deployment_status.state"), Some("failure" | "error")) {
        reasons.push((points("deployment_points"), "a deployment failed".to_owned()));
    }
    // A profile that names no such files has no points for them.
    let urgent: Vec<String> = event
        .files()
        .iter()
        .filter(|file| path_fits(file.path, profile.words("urgent_paths")))
        .map(|file| clipped(file.path, NAME_MAX))
        .take(3)
        .collect();
    if let (false, Some(points)) = (urgent.is_empty(), profile.thresholds.get("path_points")) {
        reasons.push((*points, format!("it touches {}", urgent.join(", "))));
    }
    let comments = event.number("issue.comments").or_else(|| event.number("pull_request.comments")).unwrap_or(0);
    if comments >= points("discussion_comments") {
        reasons.push((points("discussion_points"), format!("it has {}", count(comments, "comment"))));
    }
    let mut total = reasons.iter().fold(0u64, |sum, (points, _)| sum.saturating_add(*points));
    let mut calm: Vec<String> = texts.iter().filter_map(|text| in_list("calm_words", text)).collect();
    calm.sort();
    calm.dedup();
    let closed = [event.text("issue.state"), event.text("pull_request.state")].contains(&Some("closed"));
    if closed {
        total = 0;
    } else if !calm.is_empty() {
        total /= 2;
    }
    let (severity, code, level) = if total >= points("urgent_points") {
        (Severity::Critical, "urgency.urgent", "urgent")
    } else if total >= points("high_points") {
        (Severity::Warning, "urgency.high", "high")
    } else if total >= points("normal_points") {
        (Severity::Notice, "urgency.normal", "normal")
    } else {
        (Severity::Info, "urgency.low", "low")
    };
    let listed: Vec<String> = reasons.iter().map(|(points, reason)| format!("{reason} (+{points})")).collect();
    let mut because = if listed.is_empty() { "nothing in it asks for haste".to_owned() } else { listed.join("; ") };
    if closed {
        because.push_str("; but it is closed (0)");
    } else if !calm.is_empty() {
        because.push_str(&format!("; but it speaks of {} (halved)", calm.join(", ")));
    }
    findings.add(
        severity,
        code,
        format!("Urgency: {level}, {}: {because}.", count(total, "point")),
        json!({"level": level, "points": total, "reasons": listed}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    fn level(data: serde_json::Value) -> String {
        let profile = Profile::stock("priority-general").unwrap();
        let report = crate::analyse(&profile, &Event { data, ..Event::default() }, mindos_model::Timestamp(0));
        let finding = report.findings.iter().find(|finding| finding.code.starts_with("urgency.")).unwrap();
        finding.data["level"].as_str().unwrap().to_owned()
    }

    #[test]
    fn urgency_follows_from_what_the_event_says() {
        assert_eq!(level(json!({"issue": {"title": "Typo in the README", "state": "open"}})), "low");
        let outage = json!({"title": "Outage: data loss", "state": "open", "labels": [{"name": "P0"}]});
        assert_eq!(level(json!({"issue": outage})), "urgent");
        let run = json!({"conclusion": "failure", "check_suite": {"head_branch": "main"}});
        assert_eq!(level(json!({"check_run": run})), "high");
        assert_eq!(level(json!({"check_run": {"conclusion": "success"}})), "low");
        let closed = json!({"title": "Outage: data loss", "state": "closed", "labels": [{"name": "P0"}]});
        assert_eq!(level(json!({"issue": closed})), "low");
    }
}
