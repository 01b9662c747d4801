//! Links within the repository that lead nowhere: those that a change writes, and those it leaves behind.

use std::collections::BTreeSet;

use serde_json::json;

use super::files::is_markdown;
use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{FileKind, Tree};
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::clipped;

const NAME_MAX: usize = 160;
/// Most files that are searched for links to what is gone.
const SEARCHED_MAX: usize = 300;

pub(super) const LINKS: Analysis = Analysis {
    name: "links",
    thresholds: &[],
    words: &[],
    codes: &["links.broken", "links.left_behind", "links.anchor"],
    run,
};

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let (Some(change), Some(tree)) = (evidence.change, evidence.tree) else { return };
    let mut seen: BTreeSet<(String, u32, String)> = BTreeSet::new();
    for file in change.files.iter().filter(|file| is_markdown(&file.path) && file.kind != FileKind::Removed) {
        let added: BTreeSet<u32> = file.added().map(|(number, _)| number).collect();
        let Some(new) = file.sides(Some(tree)).new else { continue };
        for (index, target) in links(&new.text) {
            let number = new.number(index);
            if !added.contains(&number) || !seen.insert((file.path.clone(), number, target.clone())) {
                continue;
            }
            let place = Place::line(&file.path, number);
            let (path, target_shown) = (clipped(&file.path, NAME_MAX), clipped(&target, NAME_MAX));
            match resolve(&file.path, &target, tree) {
                Found::Nothing => {
                    let text = format!("The link to {target_shown} in {path}, line {number}, leads to no file.");
                    let data = json!({"path": path, "line": number, "target": target_shown});
                    findings.add_at(place, Severity::Warning, "links.broken", text, data);
                }
                Found::NoAnchor => {
                    let text = format!("The link to {target_shown} in {path}, line {number}, names no heading there.");
                    let data = json!({"path": path, "line": number, "target": target_shown});
                    findings.add_at(place, Severity::Notice, "links.anchor", text, data);
                }
                Found::Fine => {}
            }
        }
    }
    let gone: BTreeSet<&str> = change
        .files
        .iter()
        .filter_map(|file| match file.kind {
            FileKind::Removed => Some(file.path.as_str()),
            FileKind::Renamed => file.old_path.as_deref(),
            FileKind::Added | FileKind::Modified => None,
        })
        .filter(|path| !tree.has(path))
        .collect();
    if gone.is_empty() {
        return;
    }
    for path in tree.paths().filter(|path| is_markdown(path)).take(SEARCHED_MAX) {
        let Some(text) = tree.text(path) else { continue };
        for (index, target) in links(&text) {
            let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
            let leads = joined(path, target.split(['#', '?']).next().unwrap_or_default());
            if let Some(leads) = leads.filter(|leads| gone.contains(leads.as_str()))
                && seen.insert((path.to_owned(), number, target.clone()))
            {
                let (shown, leads) = (clipped(path, NAME_MAX), clipped(&leads, NAME_MAX));
                let text = format!("{shown}, line {number}, still links to {leads}, which is gone.");
                let data = json!({"path": shown, "line": number, "target": leads});
                findings.add_at(Place::line(path, number), Severity::Warning, "links.left_behind", text, data);
            }
        }
    }
}

enum Found {
    Fine,
    Nothing,
    NoAnchor,
}

/// What a link leads to.
fn resolve(from: &str, target: &str, tree: &Tree) -> Found {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = path.split('?').next().unwrap_or_default();
    let leads = if path.is_empty() { Some(from.to_owned()) } else { joined(from, &decoded(path)) };
    // What leads out of the repository is not ours to judge.
    let Some(leads) = leads else { return Found::Fine };
    if !tree.has(&leads) {
        let folder = tree.has_folder(&leads) || leads.is_empty();
        // A tree that was cut may lack what is there.
        return if folder || tree.cut { Found::Fine } else { Found::Nothing };
    }
    match anchor {
        Some(anchor) if !anchor.is_empty() && is_markdown(&leads) && !is_line(anchor) => match tree.text(&leads) {
            Some(text) if !anchors(&text).contains(&decoded(anchor).to_lowercase()) => Found::NoAnchor,
            _ => Found::Fine,
        },
        _ => Found::Fine,
    }
}

/// `L10` and `L10-L20`, as the forge has it for lines.
fn is_line(anchor: &str) -> bool {
    anchor.starts_with('L') && anchor[1..].starts_with(|letter: char| letter.is_ascii_digit())
}

/// The targets of links within the repository, each with its line counted from 0. What stands in code is left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| bare.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => {
                fence = Some(mark);
                continue;
            }
            (Some(open), Some(mark)) if open == mark => {
                fence = None;
                continue;
            }
            (Some(_), _) => continue,
            (None, None) => {}
        }
        let line = without_code(line);
        for (at, _) in line.match_indices("](") {
            let rest = line[at + 2..].trim_start();
            let target = match rest.strip_prefix('<') {
                Some(rest) => rest.split('>').next(),
                // A bracket within a target is closed within it.
                None => Some(&rest[..closing(rest)]).map(|inner| inner.split_whitespace().next().unwrap_or_default()),
            };
            found.extend(target.map(|target| (index, target.to_owned())));
        }
        // `[name]: target`
        if let Some((name, rest)) = bare.split_once("]: ")
            && name.starts_with('[')
            && !name.starts_with("[^")
        {
            let target = rest.split_whitespace().next().unwrap_or_default();
            found.push((index, target.trim_matches(['<', '>']).to_owned()));
        }
        for attribute in ["href=\"", "src=\""] {
            for (at, _) in line.match_indices(attribute) {
                let target = line[at + attribute.len()..].split('"').next().unwrap_or_default();
                found.push((index, target.to_owned()));
            }
        }
    }
    found.retain(|(_, target)| is_inside(target));
    found
}

/// Where a target in brackets ends.
fn closing(rest: &str) -> usize {
    let mut depth = 0i32;
    for (at, letter) in rest.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return at,
            ')' => depth -= 1,
            _ => {}
        }
    }
    rest.len()
}

/// A line with what stands between backticks blanked.
fn without_code(line: &str) -> String {
    let mut inside = false;
    if line.matches('`').count() % 2 == 1 {
        return line.to_owned();
    }
    line.chars()
        .map(|letter| {
            if letter == '`' {
                inside = !inside;
            }
            if inside { ' ' } else { letter }
        })
        .collect()
}

/// Whether a target is a place in the repository: relative, or from its root.
fn is_inside(target: &str) -> bool {
    let scheme = target.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':'));
    !target.is_empty() && !scheme && !target.starts_with("//") && !target.contains(['{', '}', '$', '<', '>']) && target.len() <= 1000
}

/// A path as seen from a file; `None` where it leads out of the repository.
fn joined(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.rsplit_once('/').map_or(Vec::new(), |(folders, _)| folders.split('/').collect()),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A target with its `%20` and the like as letters.
fn decoded(target: &str) -> String {
    let bytes = target.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The anchors of a text in Markdown: its headings as the forge makes them, and those given by hand.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut fenced = false;
    let mut before = "";
    for line in text.lines() {
        if line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let underlined = !line.trim().is_empty() && line.trim().bytes().all(|byte| byte == b'=' || byte == b'-');
        let heading = match line.trim_start().strip_prefix('#') {
            Some(rest) => Some(rest.trim_start_matches('#').trim()),
            None if underlined && !before.trim().is_empty() => Some(before.trim()),
            None => None,
        };
        if let Some(heading) = heading {
            let slug = slug(heading);
            let mut unique = slug.clone();
            for number in 1..1000 {
                if found.insert(unique.clone()) {
                    break;
                }
                unique = format!("{slug}-{number}");
            }
        }
        for attribute in ["id=\"", "name=\""] {
            for (at, _) in line.match_indices(attribute) {
                let name = line[at + attribute.len()..].split('"').next().unwrap_or_default();
                found.insert(name.to_lowercase());
            }
        }
        if let Some((_, rest)) = line.split_once("{#") {
            found.insert(rest.split('}').next().unwrap_or_default().to_lowercase());
        }
        before = line;
    }
    found
}

/// A heading as an anchor: in small letters, blanks as hyphens, without other signs, and a link as its text.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading.trim_end_matches('#').trim();
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_off_prose_and_not_off_code() {
        let text = "[a](b.md) ![i](img/x%20y.png \"t\") `[no](code.md)`\n```\n[no](fence.md)\n```\n[r]: ../c.md\n[^1]: note\n\
                    <a href=\"d.md#x\">\n[w](https://x/y) [m](mailto:a@b) [q](<e f.md>) [p](g(1).md) [#](#here)\n";
        let targets: Vec<String> = links(text).into_iter().map(|(_, target)| target).collect();
        assert_eq!(targets, ["b.md", "img/x%20y.png", "../c.md", "d.md#x", "e f.md", "g(1).md", "#here"]);
    }

    #[test]
    fn paths_are_joined_within_the_repository() {
        assert_eq!(joined("docs/a.md", "../b/./c.md").as_deref(), Some("b/c.md"));
        assert_eq!(joined("a.md", "../x"), None);
        assert_eq!(joined("docs/a.md", "/x").as_deref(), Some("x"));
        assert_eq!(decoded("a%20b%zz%"), "a b%zz%");
    }

    #[test]
    fn headings_become_anchors() {
        let found = anchors("# Hello, World!\n## `code` & [more](x)\n# Hello, World!\nUnder\n-----\n```\n# no\n```\n<a name=\"Own\">\n");
        let expected = ["hello-world", "code--more", "hello-world-1", "under", "own"];
        assert_eq!(found, expected.map(str::to_owned).into());
    }
}
