//! The change itself: its size, how it is described, where it comes from and how far it reaches.

use std::collections::BTreeSet;

use serde_json::json;

use super::Analysis;
use crate::report::{Findings, Severity, nothing};
use crate::text::{clipped, count, mentions};
use crate::Profile;
use crate::evidence::Evidence;

const NAME_MAX: usize = 80;

pub(super) const SIZE: Analysis = Analysis {
    name: "size",
    thresholds: &["small_lines", "medium_lines", "large_lines", "lines_per_minute"],
    words: &[],
    codes: &["size.small", "size.medium", "size.large", "size.huge", "size.unknown"],
    run: size,
};

fn size(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if !event.is_change() {
        return;
    }
    let Some((additions, deletions)) = event.lines() else {
        return findings.add(
            Severity::Info,
            "size.unknown",
            "The event does not carry the size of the change.".to_owned(),
            nothing(),
        );
    };
    let lines = additions.saturating_add(deletions);
    let files = event.files_number().unwrap_or(0);
    let minutes = lines.div_ceil(profile.threshold("lines_per_minute").max(1)).max(1);
    let (code, severity, word) = if lines <= profile.threshold("small_lines") {
        ("size.small", Severity::Info, "small")
    } else if lines <= profile.threshold("medium_lines") {
        ("size.medium", Severity::Info, "medium")
    } else if lines <= profile.threshold("large_lines") {
        ("size.large", Severity::Notice, "large")
    } else {
        ("size.huge", Severity::Warning, "huge")
    };
    findings.add(
        severity,
        code,
        format!(
            "The change is {word}: {} changed ({additions} added, {deletions} removed) in {}, about {minutes} min to read.",
            count(lines, "line"),
            count(files, "file")
        ),
        json!({"lines": lines, "additions": additions, "deletions": deletions, "files": files, "class": word, "minutes": minutes}),
    );
}

pub(super) const DESCRIPTION: Analysis = Analysis {
    name: "description",
    thresholds: &["title_min", "title_max", "description_min"],
    words: &["vague_titles"],
    codes: &[
        "title.missing",
        "title.short",
        "title.long",
        "title.vague",
        "description.missing",
        "description.short",
        "description.template",
        "description.good",
    ],
    run: description,
};

fn description(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if !event.is_change() && event.at("issue").is_none() {
        return;
    }
    let mut add = |severity, code, text: String| findings.add(severity, code, text, nothing());
    match event.title() {
        None => add(Severity::Notice, "title.missing", "It has no title.".to_owned()),
        Some(title) => {
            let letters = title.trim().chars().count() as u64;
            let bare = title.trim().trim_end_matches('.').to_lowercase();
            if profile.words("vague_titles").contains(&bare) {
                add(Severity::Notice, "title.vague", "The title does not say what it is about.".to_owned());
            } else if letters < profile.threshold("title_min") {
                add(Severity::Notice, "title.short", format!("The title has only {}.", count(letters, "letter")));
            } else if letters > profile.threshold("title_max") {
                add(Severity::Notice, "title.long", format!("The title has {}.", count(letters, "letter")));
            }
        }
    }
    let Some(body) = event.description() else {
        return add(Severity::Notice, "description.missing", "It has no description.".to_owned());
    };
    let open_boxes = body.matches("- [ ]").count() as u64;
    let letters = body.trim().chars().count() as u64;
    if body.contains("<!--") || open_boxes > 0 {
        let boxes = if open_boxes > 0 { format!(" ({} not ticked)", count(open_boxes, "item")) } else { String::new() };
        add(
            Severity::Notice,
            "description.template",
            format!("The description still holds parts of a template{boxes}."),
        );
    }
    if letters < profile.threshold("description_min") {
        add(Severity::Notice, "description.short", format!("The description has only {}.", count(letters, "letter")));
    } else {
        add(Severity::Info, "description.good", format!("The description has {}.", count(letters, "letter")));
    }
}

pub(super) const BRANCH: Analysis = Analysis {
    name: "branch",
    thresholds: &[],
    words: &["branch_prefixes", "default_branches"],
    codes: &["branch.unprefixed", "branch.default", "branch.prefixed"],
    run: branch,
};

fn branch(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let Some(head) = event.head() else { return };
    let name = clipped(head, NAME_MAX);
    let data = json!({"branch": name});
    let same_repository =
        event.text("pull_request.head.repo.full_name") == event.text("pull_request.base.repo.full_name");
    if profile.words("default_branches").iter().any(|one| one == head) && same_repository {
        let text = format!("The change comes from the branch {name}, on which others build.");
        findings.add(Severity::Warning, "branch.default", text, data);
    } else if profile.words("branch_prefixes").iter().any(|prefix| head.starts_with(prefix.as_str())) {
        let text = format!("The branch {name} says by its prefix what kind of change it is.");
        findings.add(Severity::Info, "branch.prefixed", text, data);
    } else {
        let text = format!("The branch name {name} does not tell the kind of change.");
        findings.add(Severity::Info, "branch.unprefixed", text, data);
    }
}

pub(super) const SHAPE: Analysis = Analysis {
    name: "shape",
    thresholds: &["wide_files", "many_commits", "scattered_directories"],
    words: &["interface_words"],
    codes: &[
        "shape.breadth",
        "shape.wide",
        "shape.stacked",
        "shape.commits",
        "shape.directories",
        "shape.scattered",
        "shape.interface",
    ],
    run: shape,
};

fn shape(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let limit = |name: &str| profile.threshold(name);
    if let Some(files) = event.files_number().filter(|_| event.is_change()) {
        let (additions, deletions) = event.lines().unwrap_or_default();
        let lines = additions.saturating_add(deletions);
        let per_file = lines / files.max(1);
        let wide = files > limit("wide_files");
        let (code, severity) = if wide { ("shape.wide", Severity::Warning) } else { ("shape.breadth", Severity::Info) };
        let word = if wide { "wide" } else { "contained" };
        findings.add(
            severity,
            code,
            format!("Its reach is {word}: {}, {} each on average.", count(files, "file"), count(per_file, "line")),
            json!({"files": files, "lines": lines, "lines_per_file": per_file}),
        );
    }
    if let Some(commits) = event.number("pull_request.commits")
        && commits > limit("many_commits")
    {
        let text = format!("It is made of {}.", count(commits, "commit"));
        findings.add(Severity::Notice, "shape.commits", text, json!({"commits": commits}));
    }
    if let (Some(base), Some(default)) =
        (event.text("pull_request.base.ref"), event.text("pull_request.base.repo.default_branch"))
        && base != default
    {
        let (base, default) = (clipped(base, NAME_MAX), clipped(default, NAME_MAX));
        let text = format!("It goes into {base}, not into the default branch {default}.");
        findings.add(Severity::Notice, "shape.stacked", text, json!({"base": base, "default": default}));
    }
    directories(event, limit("scattered_directories"), findings);
    let interface = profile.words("interface_words");
    let texts: Vec<&str> = [event.title(), event.description()].into_iter().flatten().collect();
    let named: Vec<&str> = interface
        .iter()
        .filter(|word| texts.iter().any(|text| mentions(text, word)))
        .map(String::as_str)
        .take(10)
        .collect();
    if !named.is_empty() && event.is_change() {
        let text = format!("Title or description speak of {}.", named.join(", "));
        findings.add(Severity::Notice, "shape.interface", text, json!({"words": named}));
    }
}

fn directories(event: &Evidence<'_>, scattered: u64, findings: &mut Findings) {
    let files = event.files();
    if files.is_empty() {
        return;
    }
    let tops: BTreeSet<&str> =
        files.iter().map(|touch| touch.path.split_once('/').map_or("(root)", |(top, _)| top)).collect();
    let number = tops.len() as u64;
    let names: Vec<String> = tops.iter().take(8).map(|top| clipped(top, NAME_MAX)).collect();
    let (code, severity) =
        if number > scattered { ("shape.scattered", Severity::Notice) } else { ("shape.directories", Severity::Info) };
    findings.add(
        severity,
        code,
        format!(
            "The {} touches {} in {}: {}.",
            event.noun(),
            count(files.len() as u64, "file"),
            count(number, "top-level directory"),
            names.join(", ")
        ),
        json!({"files": files.len(), "directories": number, "names": names}),
    );
}
