//! The commits of a push or change: what kinds they are, whose, how much they move, and at which hours.

use std::collections::BTreeMap;

use serde_json::json;

use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{Commit, Conventional};
use crate::evidence::Evidence;
use crate::report::{Findings, Severity};
use crate::text::{clipped, count};

const NAME_MAX: usize = 80;
/// Hours of the day, by the author's own clock, that count as night: from the first up to the second.
const NIGHT: (u64, u64) = (22, 6);

pub(super) const HISTORY: Analysis = Analysis {
    name: "history",
    thresholds: &[],
    words: &[],
    codes: &[
        "history.kinds",
        "history.unconventional",
        "history.reverts",
        "history.fixups",
        "history.authors",
        "history.churn",
        "history.hours",
    ],
    run,
};

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let history = evidence.history();
    let commits: Vec<&Commit> = history.iter().filter(|commit| !commit.is_merge()).collect();
    if commits.is_empty() {
        return;
    }
    kinds(&commits, findings);
    let reverts: Vec<String> = commits.iter().filter(|it| is_revert(it)).map(|it| named(it)).collect();
    if !reverts.is_empty() {
        let number = reverts.len() as u64;
        let reverts: Vec<String> = reverts.into_iter().take(5).collect();
        let text = format!("{} of earlier work: {}.", count(number, "revert"), reverts.join("; "));
        findings.add(Severity::Notice, "history.reverts", text, json!({"commits": reverts, "number": number}));
    }
    let fixups: Vec<String> = commits.iter().filter(|it| is_unfinished(it.title())).map(|it| named(it)).collect();
    if !fixups.is_empty() {
        let number = fixups.len() as u64;
        let fixups: Vec<String> = fixups.into_iter().take(5).collect();
        let text = format!("{} to be folded into others: {}.", count(number, "commit"), fixups.join("; "));
        findings.add(Severity::Notice, "history.fixups", text, json!({"commits": fixups, "number": number}));
    }
    authors(&commits, findings);
    churn(&commits, findings);
    hours(&commits, findings);
}

fn named(commit: &Commit) -> String {
    let sha: String = commit.sha.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{sha} {}", clipped(commit.title(), NAME_MAX)).trim().to_owned()
}

pub(super) fn is_revert(commit: &Commit) -> bool {
    commit.title().starts_with("Revert \"") || commit.title().starts_with("revert: ") || commit.message.contains("\nThis reverts commit ")
}

/// Whether a title says that its commit is not meant to stay.
fn is_unfinished(title: &str) -> bool {
    let lower = title.to_lowercase();
    let marked = ["fixup!", "squash!", "amend!"].iter().any(|mark| lower.starts_with(mark));
    marked || lower == "wip" || lower.starts_with("wip:") || lower.starts_with("wip ") || lower.starts_with("[wip]")
}

fn kinds(commits: &[&Commit], findings: &mut Findings) {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut breaking = 0u64;
    for commit in commits {
        let read = Conventional::of(&commit.message);
        breaking += u64::from(read.breaking);
        if read.is_conventional() {
            *kinds.entry(read.kind).or_default() += 1;
        }
    }
    let (told, total) = (kinds.values().sum::<u64>(), commits.len() as u64);
    if told == 0 {
        return;
    }
    let listed: Vec<String> = kinds.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
    let mark = if breaking > 0 { format!("; {breaking} say that they break something") } else { String::new() };
    let severity = if breaking > 0 { Severity::Notice } else { Severity::Info };
    let text = format!("Kinds of its {}: {}{mark}.", count(total, "commit"), listed.join(", "));
    findings.add(severity, "history.kinds", text, json!({"kinds": kinds, "commits": total, "breaking": breaking}));
    // Where the form is kept mostly, what does not keep it stands out.
    let other = total - told;
    if other > 0 && told > other {
        let text = format!("{} without a kind before the title, where the others have one.", count(other, "commit"));
        findings.add(Severity::Notice, "history.unconventional", text, json!({"commits": other}));
    }
}

fn authors(commits: &[&Commit], findings: &mut Findings) {
    let mut authors: BTreeMap<&str, u64> = BTreeMap::new();
    for commit in commits.iter().filter(|commit| !commit.author.is_empty()) {
        *authors.entry(commit.author.as_str()).or_default() += 1;
    }
    if authors.len() < 2 {
        return;
    }
    let mut ranked: Vec<(u64, &str)> = authors.into_iter().map(|(name, number)| (number, name)).collect();
    ranked.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    let listed: Vec<String> =
        ranked.iter().take(5).map(|(number, name)| format!("{} {number}", clipped(name, NAME_MAX))).collect();
    let text = format!("Commits by author: {}.", listed.join(", "));
    findings.add(Severity::Info, "history.authors", text, json!({"authors": listed, "number": ranked.len()}));
}

fn churn(commits: &[&Commit], findings: &mut Findings) {
    let (mut added, mut removed, mut known) = (0u64, 0u64, false);
    for (more, fewer) in commits.iter().flat_map(|commit| &commit.touched).filter_map(|file| file.lines) {
        known = true;
        added = added.saturating_add(more);
        removed = removed.saturating_add(fewer);
    }
    if known {
        let each = added.saturating_add(removed) / commits.len() as u64;
        let text = format!("Its commits move +{added} -{removed}, {} each on average.", count(each, "line"));
        findings.add(Severity::Info, "history.churn", text, json!({"additions": added, "deletions": removed, "each": each}));
    }
}

/// When it was written, by each author's own clock.
fn hours(commits: &[&Commit], findings: &mut Findings) {
    let times: Vec<(u64, u64)> = commits
        .iter()
        .filter_map(|commit| {
            let local = i64::try_from(commit.authored?.0 / 60_000).ok()? + i64::from(commit.offset_minutes?);
            let local = u64::try_from(local).ok()?;
            // The first of January 1970 was a Thursday; Monday is 0.
            Some((local / 60 % 24, (local / 1440 + 3) % 7))
        })
        .collect();
    if times.is_empty() {
        return;
    }
    let night = times.iter().filter(|(hour, _)| *hour >= NIGHT.0 || *hour < NIGHT.1).count() as u64;
    let weekend = times.iter().filter(|(_, day)| *day >= 5).count() as u64;
    let total = times.len() as u64;
    if night + weekend > 0 {
        let text = format!(
            "Of {}, {night} were written at night and {weekend} on a weekend, by the author's clock.",
            count(total, "commit")
        );
        findings.add(Severity::Info, "history.hours", text, json!({"commits": total, "night": night, "weekend": weekend}));
    }
}
