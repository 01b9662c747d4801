//! The way to users: readiness to merge, releases, deployments, and the words that go with them.

use serde_json::json;

use super::Analysis;
use crate::change::Conventional;
use crate::event::Topic;
use crate::report::{Findings, Severity, nothing};
use crate::text::{clipped, count, mentions, path_fits};
use crate::Profile;
use crate::evidence::Evidence;

const NAME_MAX: usize = 80;

pub(super) const READINESS: Analysis = Analysis {
    name: "readiness",
    thresholds: &[],
    words: &["release_branches"],
    codes: &[
        "merge.release_branch",
        "merge.other_branch",
        "merge.done",
        "merge.abandoned",
        "merge.blocked",
        "merge.clear",
        "push.release_branch",
        "push.tag",
        "push.tag_deleted",
    ],
    run: readiness,
};

fn is_release_branch(profile: &Profile, name: &str) -> bool {
    profile.words("release_branches").iter().any(|one| match one.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == one,
    })
}

fn readiness(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if event.topic() == Topic::Push {
        return pushed(profile, event, findings);
    }
    let Some(base) = event.text("pull_request.base.ref") else { return };
    let target = clipped(base, NAME_MAX);
    let data = json!({"base": target});
    if is_release_branch(profile, base) {
        let text = format!("Its target {target} is a branch that is released from.");
        findings.add(Severity::Info, "merge.release_branch", text, data.clone());
    } else {
        let text = format!("Its target {target} is not a branch that is released from.");
        findings.add(Severity::Info, "merge.other_branch", text, data.clone());
    }
    if event.flag("pull_request.merged") == Some(true) || event.at("pull_request.merged_at").is_some() {
        let commit = clipped(event.text("pull_request.merge_commit_sha").unwrap_or("an unnamed commit"), 12);
        let text = format!("It is merged, as {commit}.");
        let data = json!({"base": target, "commit": commit});
        return findings.add(Severity::Notice, "merge.done", text, data);
    }
    if event.text("pull_request.state") == Some("closed") {
        return findings.add(Severity::Info, "merge.abandoned", "It is closed without being merged.".to_owned(), data);
    }
    let mut against: Vec<String> = Vec::new();
    if event.flag("pull_request.draft") == Some(true) {
        against.push("it is a draft".to_owned());
    }
    if event.flag("pull_request.mergeable") == Some(false) {
        against.push("it conflicts with its target".to_owned());
    }
    match event.text("pull_request.mergeable_state") {
        None | Some("clean" | "unknown" | "has_hooks") => {}
        Some(state) => against.push(format!("GitHub calls it {}", clipped(state, NAME_MAX))),
    }
    if against.is_empty() {
        let text = "Nothing in the event stands against merging it.".to_owned();
        findings.add(Severity::Info, "merge.clear", text, data);
    } else {
        let text = format!("Against merging it: {}.", against.join("; "));
        findings.add(Severity::Notice, "merge.blocked", text, json!({"against": against}));
    }
}

fn pushed(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let Some(name) = event.text("ref") else { return };
    let deleted = event.flag("deleted") == Some(true);
    if let Some(tag) = name.strip_prefix("refs/tags/") {
        let tag = clipped(tag, NAME_MAX);
        let (code, word) = if deleted { ("push.tag_deleted", "deleted") } else { ("push.tag", "pushed") };
        findings.add(Severity::Notice, code, format!("Tag {tag} is {word}."), json!({"tag": tag}));
    } else if let Some(branch) = name.strip_prefix("refs/heads/")
        && is_release_branch(profile, branch)
    {
        let branch = clipped(branch, NAME_MAX);
        let text = format!("The push goes straight to {branch}, a branch that is released from.");
        findings.add(Severity::Notice, "push.release_branch", text, json!({"branch": branch}));
    }
}

pub(super) const DEPLOYMENT: Analysis = Analysis {
    name: "deployment",
    thresholds: &[],
    words: &["production_names"],
    codes: &["deployment.failed", "deployment.succeeded", "deployment.under_way", "deployment.production"],
    run: deployment,
};

fn deployment(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if event.topic() != Topic::Deployment {
        return;
    }
    let name = event.text("deployment_status.environment").or_else(|| event.text("deployment.environment"));
    let place = clipped(name.unwrap_or("an unnamed environment"), NAME_MAX);
    let commit = clipped(event.text("deployment.sha").unwrap_or("an unnamed commit"), 12);
    let data = json!({"environment": place, "commit": commit});
    let state = event.text("deployment_status.state").unwrap_or("pending");
    let (severity, code, word) = match state {
        "success" => (Severity::Info, "deployment.succeeded", "succeeded"),
        "failure" | "error" => (Severity::Critical, "deployment.failed", "failed"),
        _ => (Severity::Info, "deployment.under_way", "is under way"),
    };
    findings.add(severity, code, format!("The deployment of {commit} to {place} {word}."), data.clone());
    let production = event.flag("deployment.production_environment") == Some(true)
        || profile.words("production_names").iter().any(|one| place.eq_ignore_ascii_case(one));
    if production {
        findings.add(Severity::Notice, "deployment.production", format!("{place} is what users see."), data);
    }
}

pub(super) const RELEASE: Analysis = Analysis {
    name: "release",
    thresholds: &[],
    words: &[],
    codes: &[
        "release.draft",
        "release.prerelease",
        "release.full",
        "release.no_version",
        "release.no_notes",
        "release.no_assets",
        "release.deleted",
    ],
    run: release,
};

fn release(_: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if event.topic() != Topic::Release {
        return;
    }
    let tag = clipped(event.text("release.tag_name").unwrap_or_default(), NAME_MAX);
    let data = json!({"tag": tag});
    if event.action() == Some("deleted") {
        return findings.add(Severity::Warning, "release.deleted", format!("Release {tag} is deleted."), data);
    }
    let (code, word) = match (event.flag("release.draft"), event.flag("release.prerelease")) {
        (Some(true), _) => ("release.draft", "a draft"),
        (_, Some(true)) => ("release.prerelease", "a pre-release"),
        _ => ("release.full", "a full release"),
    };
    findings.add(Severity::Info, code, format!("{tag} is {word}."), data.clone());
    if !is_version(&tag) {
        let text = format!("The tag {tag} is not a version of three numbers.");
        findings.add(Severity::Notice, "release.no_version", text, data.clone());
    }
    if event.text("release.body").is_none() {
        findings.add(Severity::Notice, "release.no_notes", "It has no release notes.".to_owned(), data.clone());
    }
    if event.at("release.assets").is_some() && event.list("release.assets").is_empty() {
        findings.add(Severity::Info, "release.no_assets", "It carries no files of its own.".to_owned(), data);
    }
}

/// `1.2.3`, with an optional `v` before and a pre-release or build behind.
fn is_version(tag: &str) -> bool {
    let numbers = tag.strip_prefix('v').unwrap_or(tag);
    let end = numbers.find(['-', '+']).unwrap_or(numbers.len());
    let parts: Vec<&str> = numbers[..end].split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() == 3 && parts.iter().all(is_number)
}

pub(super) const DOCS: Analysis = Analysis {
    name: "docs",
    thresholds: &["documented_lines"],
    words: &["docs_paths", "changelog_paths", "docs_words"],
    codes: &["docs.touched", "docs.untouched", "docs.only", "docs.no_changelog", "docs.mentioned", "docs.unmentioned"],
    run: docs,
};

fn docs(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let files = event.files();
    if !files.is_empty() {
        let docs: Vec<String> = files
            .iter()
            .filter(|touch| path_fits(touch.path, profile.words("docs_paths")))
            .map(|touch| clipped(touch.path, NAME_MAX))
            .collect();
        let number = docs.len() as u64;
        let named = docs.iter().take(8).cloned().collect::<Vec<_>>();
        let data = json!({"docs": named, "docs_files": number, "files": files.len()});
        if docs.is_empty() {
            let text = format!("No documentation among {}.", count(files.len() as u64, "changed file"));
            findings.add(Severity::Notice, "docs.untouched", text, data);
        } else if docs.len() == files.len() {
            let text = format!("Only documentation changes: {}.", named.join(", "));
            findings.add(Severity::Info, "docs.only", text, data);
        } else {
            let text =
                format!("{} of documentation among {}: {}.", count(number, "file"), files.len(), named.join(", "));
            findings.add(Severity::Info, "docs.touched", text, data);
        }
        if !files.iter().any(|touch| path_fits(touch.path, profile.words("changelog_paths"))) {
            findings.add(Severity::Info, "docs.no_changelog", "The changelog is not touched.".to_owned(), nothing());
        }
        return;
    }
    if !event.is_change() {
        return;
    }
    let texts: Vec<&str> = [event.title(), event.description()].into_iter().flatten().collect();
    if profile.words("docs_words").iter().any(|word| texts.iter().any(|text| mentions(text, word))) {
        let text = "Title or description speak of documentation.".to_owned();
        findings.add(Severity::Info, "docs.mentioned", text, nothing());
    } else if event.number("pull_request.additions").unwrap_or(0) > profile.threshold("documented_lines") {
        let text = "Neither title nor description speak of documentation.".to_owned();
        findings.add(Severity::Notice, "docs.unmentioned", text, nothing());
    }
}

/// The word lists that [`section`] reads.
pub(crate) const SECTION_WORDS: &[&str] = &["section.fixed", "section.added", "section.removed", "section.security"];

/// The section of a changelog that a title belongs in, by its kind or its first word.
pub(crate) fn section(profile: &Profile, title: &Conventional) -> &'static str {
    let fits = |words: &str| profile.words(words).iter().any(|word| *word == title.kind || *word == title.first);
    let sections = [
        ("section.fixed", "Fixed"),
        ("section.added", "Added"),
        ("section.removed", "Removed"),
        ("section.security", "Security"),
    ];
    sections.iter().find(|(words, _)| fits(words)).map_or("Changed", |(_, name)| name)
}

pub(super) const CHANGELOG: Analysis = Analysis {
    name: "changelog",
    thresholds: &[],
    words: SECTION_WORDS,
    codes: &["changelog.entry"],
    run: changelog,
};

/// Drafts an entry from the title: its section by the prefix or first word, its text without the prefix.
fn changelog(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if !event.is_change() || event.topic() == Topic::ReviewComment {
        return;
    }
    let (Some(title), Some(number)) = (event.title(), event.subject_number()) else { return };
    let read = Conventional::of(title);
    let (section, text, breaking) = (section(profile, &read), read.sentence(), read.breaking);
    let mark = if breaking { "**Breaking:** " } else { "" };
    let entry = format!("- {mark}{text} (#{number})");
    findings.add(
        Severity::Info,
        "changelog.entry",
        format!("Draft for the changelog, under {section}: {entry}"),
        json!({"section": section, "entry": entry, "breaking": breaking}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    #[test]
    fn versions_have_three_numbers() {
        for tag in ["0.0.1", "v1.2.3", "1.2.3-rc.1", "1.2.3+b"] {
            assert!(is_version(tag), "{tag}");
        }
        for tag in ["", "v1", "1.2", "1.2.x", "1..3", "simple-tag", "1.2.3.4"] {
            assert!(!is_version(tag), "{tag}");
        }
    }

    #[test]
    fn changelog_entries_are_drafted_from_titles() {
        let profile = Profile::stock("documentation-general").unwrap();
        let entry = |title: &str| {
            let data = json!({"pull_request": {"number": 7, "title": title}});
            let report = crate::analyse(&profile, &Event { data, ..Event::default() }, mindos_model::Timestamp(0));
            let finding = report.findings.iter().find(|finding| finding.code == "changelog.entry").unwrap();
            format!("{} {}", finding.data["section"].as_str().unwrap(), finding.data["entry"].as_str().unwrap())
        };
        assert_eq!(entry("fix(core): lose nothing."), "Fixed - Lose nothing (#7)");
        assert_eq!(entry("feat!: élan"), "Added - **Breaking:** Élan (#7)");
        assert_eq!(entry("Remove the old path"), "Removed - Remove the old path (#7)");
        assert_eq!(
            entry("Update the README with new information."),
            "Changed - Update the README with new information (#7)"
        );
        assert_eq!(entry("a\nb: c"), "Changed - A b: c (#7)");
    }
}
