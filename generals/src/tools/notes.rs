//! Release notes from commits: what each announces, sorted by the profile's words, and how much of a step it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::history::is_revert;
use crate::Profile;
use crate::analysis::{Analysis, SECTION_WORDS, section};
use crate::change::Conventional;
use crate::evidence::Evidence;
use crate::report::{Findings, Severity};
use crate::text::count;

/// Most entries of a draft.
const ENTRIES_MAX: usize = 200;
const ORDER: [&str; 5] = ["Security", "Removed", "Added", "Changed", "Fixed"];
/// Kinds that users do not see.
const INTERNAL: [&str; 6] = ["test", "ci", "chore", "style", "build", "refactor"];

pub(super) const NOTES: Analysis =
    Analysis { name: "notes", thresholds: &[], words: SECTION_WORDS, codes: &["notes.draft"], run };

fn run(profile: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let history = evidence.history();
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let (mut breaking, mut features, mut entries) = (0u64, 0u64, 0usize);
    for commit in history.iter().filter(|commit| !commit.is_merge() && !is_revert(commit)) {
        let read = Conventional::of(&commit.message);
        let marked = ["fixup!", "squash!", "amend!"].iter().any(|mark| read.text.starts_with(mark));
        if read.text.is_empty() || marked || (INTERNAL.contains(&read.kind.as_str()) && !read.breaking) {
            continue;
        }
        breaking += u64::from(read.breaking);
        let section = section(profile, &read);
        features += u64::from(section == "Added");
        let mark = if read.breaking { "**Breaking:** " } else { "" };
        let scope = if read.scope.is_empty() { String::new() } else { format!("{}: ", read.scope) };
        let entry = format!("- {mark}{scope}{}", read.sentence());
        if seen.insert(entry.clone()) && entries < ENTRIES_MAX {
            entries += 1;
            sections.entry(section).or_default().push(entry);
        }
    }
    // One entry is what the title says already.
    if entries < 2 {
        return;
    }
    let mut markdown = String::new();
    for name in ORDER {
        if let Some(entries) = sections.get(name) {
            markdown.push_str(&format!("### {name}\n\n{}\n\n", entries.join("\n")));
        }
    }
    let bump = match (breaking, features) {
        (1.., _) => "major",
        (0, 1..) => "minor",
        (0, 0) => "patch",
    };
    let listed: Vec<String> =
        ORDER.iter().filter_map(|name| Some(format!("{name} {}", sections.get(name)?.len()))).collect();
    let text =
        format!("Draft of release notes with {}: {}; a {bump} step.", count(entries as u64, "entry"), listed.join(", "));
    let data = json!({"markdown": markdown.trim_end(), "entries": entries, "bump": bump, "breaking": breaking});
    findings.add(Severity::Info, "notes.draft", text, data);
}
