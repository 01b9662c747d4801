//! Under which licence things are: files that hold one, fields that name one, headers that point to one.

use serde_json::json;

use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{FileChange, FileKind};
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::clipped;

const NAME_MAX: usize = 120;

pub(super) const LICENCES: Analysis = Analysis {
    name: "licences",
    thresholds: &[],
    words: &[],
    codes: &["licence.file", "licence.field", "licence.header", "licence.copyleft"],
    run,
};

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    for file in &change.files {
        if is_licence(&file.path) {
            whole(file, evidence, findings);
        } else if let Some(find) = field(&file.path) {
            let (old, new) = (first(file.removed(), find), first(file.added(), find));
            named(file, "licence.field", old, new, findings);
        } else {
            let (old, new) = (first(file.removed(), spdx), first(file.added(), spdx));
            // A header that comes with its file says nothing that stands out, unless the licence reaches into others.
            if old.is_some() || new.as_ref().is_some_and(|(_, name)| is_copyleft(name)) {
                named(file, "licence.header", old, new, findings);
            }
        }
    }
}

/// The first line that names a licence.
fn first<'a>(
    mut lines: impl Iterator<Item = (u32, &'a str)>,
    find: fn(&str) -> Option<String>,
) -> Option<(u32, String)> {
    lines.find_map(|(number, line)| Some((number, find(line)?)))
}

/// A file that holds a licence.
fn whole(file: &FileChange, evidence: &Evidence<'_>, findings: &mut Findings) {
    let sides = file.sides(evidence.tree);
    let of = |state: &Option<crate::change::State>| state.as_ref().and_then(|state| licence_of(&state.text));
    let (old, new) = (of(&sides.old), of(&sides.new));
    let path = clipped(&file.path, NAME_MAX);
    let told = |name: Option<&'static str>| name.unwrap_or("an unknown licence");
    let (severity, text) = match file.kind {
        FileKind::Added => (Severity::Notice, format!("{path} is added: {}.", told(new))),
        FileKind::Removed => (Severity::Warning, format!("{path} is removed: {}.", told(old))),
        FileKind::Renamed if file.hunks.is_empty() => return,
        FileKind::Modified | FileKind::Renamed if old != new => {
            (Severity::Warning, format!("{path} changes from {} to {}.", told(old), told(new)))
        }
        FileKind::Modified | FileKind::Renamed => (Severity::Notice, format!("{path} is edited; it stays {}.", told(new))),
    };
    let data = json!({"path": path, "from": old, "to": new, "how": file.kind.word()});
    findings.add_at(Place::file(&file.path), severity, "licence.file", text, data);
    if let Some(name) = new.filter(|name| old != new && is_copyleft(name)) {
        copyleft(Place::file(&file.path), name, findings);
    }
}

fn named(
    file: &FileChange,
    code: &'static str,
    old: Option<(u32, String)>,
    new: Option<(u32, String)>,
    findings: &mut Findings,
) {
    let (from, to) = (old.as_ref().map(|it| it.1.as_str()), new.as_ref().map(|it| it.1.as_str()));
    if from == to {
        return;
    }
    let path = clipped(&file.path, NAME_MAX);
    let told = |name: Option<&str>| name.map_or_else(|| "none".to_owned(), |name| clipped(name, NAME_MAX));
    let text = format!("The licence that {path} names changes from {} to {}.", told(from), told(to));
    let line = new.as_ref().or(old.as_ref()).map(|it| it.0);
    let place = Place { path: file.path.clone(), line };
    let severity = if from.is_some() { Severity::Warning } else { Severity::Notice };
    let data = json!({"path": path, "from": from.map(|it| clipped(it, NAME_MAX)), "to": to.map(|it| clipped(it, NAME_MAX))});
    findings.add_at(place.clone(), severity, code, text, data);
    if let Some(name) = to.filter(|name| is_copyleft(name)) {
        copyleft(place, &clipped(name, NAME_MAX), findings);
    }
}

fn copyleft(place: Place, name: &str, findings: &mut Findings) {
    let text = format!("{name} asks those who pass the work on to pass on its source.");
    findings.add_at(place, Severity::Warning, "licence.copyleft", text, json!({"licence": name}));
}

fn is_licence(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
    let stem = name.split(['.', '-']).next().unwrap_or_default();
    let code = ["rs", "py", "js", "ts", "go", "java", "c", "h", "rb", "cs", "json", "html"];
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["license", "licence", "copying", "unlicense", "notice"].contains(&stem) && !code.contains(&extension)
}

/// What reads the licence off a line, for files that have a field for it.
fn field(path: &str) -> Option<fn(&str) -> Option<String>> {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        "Cargo.toml" | "pyproject.toml" | "setup.cfg" => Some(|line| {
            let (name, value) = line.split_once('=')?;
            let is_field = ["license", "license-expression"].contains(&name.trim());
            is_field.then(|| quoted(value)).flatten()
        }),
        "package.json" | "composer.json" => Some(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "\"license\"").then(|| quoted(value)).flatten()
        }),
        "setup.py" => Some(|line| {
            let value = line.trim().strip_prefix("license")?.trim_start().strip_prefix('=')?;
            quoted(value)
        }),
        _ if name.ends_with(".gemspec") => Some(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().ends_with(".license").then(|| quoted(value)).flatten()
        }),
        _ => None,
    }
}

/// The text in the first quotes; of `setup.cfg`, which has none, the whole.
fn quoted(value: &str) -> Option<String> {
    let value = value.trim().trim_end_matches(',');
    let inner = match value.find(['"', '\'']) {
        Some(at) => {
            let quote = value[at..].chars().next()?;
            value[at + 1..].split(quote).next()?
        }
        None => value,
    };
    (!inner.is_empty()).then(|| inner.to_owned())
}

fn spdx(line: &str) -> Option<String> {
    let (_, name) = line.split_once("SPDX-License-Identifier:")?;
    let name = name.trim().trim_end_matches("*/").trim_end_matches("-->").trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The licence that a text is, by words that stand in it alone.
fn licence_of(text: &str) -> Option<&'static str> {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let has = |words: &str| text.contains(words);
    let known = match () {
        () if has("gnu affero general public license") => "AGPL-3.0",
        () if has("gnu lesser general public license") => "LGPL",
        () if has("gnu general public license") && has("version 3") => "GPL-3.0",
        () if has("gnu general public license") => "GPL-2.0",
        () if has("mozilla public license") => "MPL-2.0",
        () if has("apache license") => "Apache-2.0",
        () if has("business source license") => "BUSL-1.1",
        () if has("server side public license") => "SSPL-1.0",
        () if has("eclipse public license") => "EPL-2.0",
        () if has("permission is hereby granted, free of charge") => "MIT",
        () if has("redistributions in binary form") && has("neither the name") => "BSD-3-Clause",
        () if has("redistributions in binary form") => "BSD-2-Clause",
        () if has("permission to use, copy, modify, and/or distribute") => "ISC",
        () if has("this is free and unencumbered software") => "Unlicense",
        () => return None,
    };
    Some(known)
}

/// Whether a licence reaches into the work of who uses it, or closes it to some.
fn is_copyleft(name: &str) -> bool {
    let name = name.to_uppercase();
    ["GPL", "SSPL", "BUSL", "CC-BY-NC", "CC-BY-SA", "OSL-", "EUPL"].iter().any(|one| name.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_known_by_their_words() {
        assert_eq!(licence_of("MIT License\n\nPermission is hereby\n granted, free of charge, to"), Some("MIT"));
        assert_eq!(licence_of("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007"), Some("GPL-3.0"));
        assert_eq!(licence_of("hello"), None);
        assert!(is_licence("LICENSE") && is_licence("a/LICENSE-MIT") && is_licence("COPYING.txt") && !is_licence("license.rs"));
        assert_eq!(spdx("// SPDX-License-Identifier: MIT */").as_deref(), Some("MIT"));
        let of = |path: &str, line: &str| field(path).unwrap()(line);
        assert_eq!(of("Cargo.toml", "license = \"MIT OR Apache-2.0\"").as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(of("package.json", "  \"license\": \"ISC\",").as_deref(), Some("ISC"));
        assert_eq!(of("pyproject.toml", "license = {text = \"GPL-3.0\"}").as_deref(), Some("GPL-3.0"));
        assert_eq!(of("setup.py", "    license='BSD',").as_deref(), Some("BSD"));
        assert_eq!(of("Cargo.toml", "license-file = \"x\""), None);
    }
}
