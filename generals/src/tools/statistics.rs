//! The change in figures: its size without what programs wrote, its languages, and where most of it happens.

use std::collections::BTreeMap;

use serde_json::json;

use super::files::{is_generated, language};
use crate::Profile;
use crate::analysis::Analysis;
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count};

const NAME_MAX: usize = 120;
/// A file is a hotspot when it has so many of the changed lines, and this share of them in percent.
const HOT_LINES: u64 = 100;
const HOT_SHARE: u64 = 40;

pub(super) const STATISTICS: Analysis = Analysis {
    name: "statistics",
    thresholds: &[],
    words: &[],
    codes: &["diff.statistics", "diff.hotspot", "diff.again", "diff.binary", "diff.cut"],
    run,
};

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    let (mut by_language, mut generated) = (BTreeMap::<&str, u64>::new(), 0u64);
    let (mut added, mut removed) = (0u64, 0u64);
    for file in &change.files {
        let lines = file.additions.saturating_add(file.deletions);
        if is_generated(&file.path) {
            generated = generated.saturating_add(lines);
            continue;
        }
        added = added.saturating_add(file.additions);
        removed = removed.saturating_add(file.deletions);
        *by_language.entry(language(&file.path).unwrap_or("other")).or_default() += lines;
    }
    let written = added.saturating_add(removed);
    let mut languages: Vec<(&str, u64)> = by_language.into_iter().filter(|(_, lines)| *lines > 0).collect();
    languages.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    let listed: Vec<String> = languages.iter().take(4).map(|(name, lines)| format!("{name} {lines}")).collect();
    let mut text = format!("{}, +{added} -{removed} written by hand", count(change.files.len() as u64, "file"));
    if !listed.is_empty() {
        text.push_str(&format!(" ({})", listed.join(", ")));
    }
    if generated > 0 {
        text.push_str(&format!(", {} in generated or locked files", count(generated, "line")));
    }
    text.push('.');
    let languages: BTreeMap<&str, u64> = languages.into_iter().collect();
    let data = json!({"files": change.files.len(), "additions": added, "deletions": removed, "generated_lines": generated, "languages": languages});
    findings.add(Severity::Info, "diff.statistics", text, data);
    for file in change.files.iter().filter(|file| !is_generated(&file.path)) {
        let lines = file.additions.saturating_add(file.deletions);
        if lines >= HOT_LINES && change.files.len() > 1 && lines.saturating_mul(100) >= written.saturating_mul(HOT_SHARE) {
            let name = clipped(&file.path, NAME_MAX);
            let share = lines.saturating_mul(100) / written.max(1);
            let text = format!("{name} holds {lines} of {written} lines, {share} %.");
            let data = json!({"path": name, "lines": lines, "share": share});
            findings.add_at(Place::file(&file.path), Severity::Notice, "diff.hotspot", text, data);
        }
    }
    again(evidence, findings);
    let binary: Vec<String> =
        change.files.iter().filter(|file| file.binary).map(|file| clipped(&file.path, NAME_MAX)).collect();
    if !binary.is_empty() {
        let named = binary.iter().take(8).cloned().collect::<Vec<_>>();
        let text = format!("{} cannot be read as lines: {}.", count(binary.len() as u64, "file"), named.join(", "));
        findings.add(Severity::Notice, "diff.binary", text, json!({"files": named, "number": binary.len()}));
    }
    let short = change.files.iter().filter(|file| file.cut).count() as u64;
    if change.cut || short > 0 {
        let text = format!("Not all of it was looked at: {} came without all lines.", count(short, "file"));
        findings.add(Severity::Notice, "diff.cut", text, json!({"files": short, "more_files": change.cut}));
    }
}

/// Files that several commits of the change had to touch.
fn again(evidence: &Evidence<'_>, findings: &mut Findings) {
    let commits = evidence.history();
    let mut touched: BTreeMap<&str, u64> = BTreeMap::new();
    for commit in commits.iter().filter(|commit| !commit.is_merge()) {
        for file in &commit.touched {
            *touched.entry(file.path.as_str()).or_default() += 1;
        }
    }
    let mut hot: Vec<(u64, &str)> =
        touched.into_iter().filter(|(_, times)| *times >= 3).map(|(path, times)| (times, path)).collect();
    hot.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.cmp(right.1)));
    for (times, path) in hot.into_iter().take(5) {
        let name = clipped(path, NAME_MAX);
        let text = format!("{name} is changed by {}.", count(times, "commit"));
        findings.add_at(Place::file(path), Severity::Notice, "diff.again", text, json!({"path": name, "commits": times}));
    }
}
