//! What a change does to what the work rests on: manifests read before and after, and what came, went, or took a large step.

use std::collections::BTreeMap;

use serde_json::json;

use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{FileChange, State, differences};
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count};

mod manifest;

use manifest::{Kind, Needed};

const NAME_MAX: usize = 100;

pub(super) const DEPENDENCIES: Analysis = Analysis {
    name: "dependencies",
    thresholds: &[],
    words: &[],
    codes: &[
        "dependencies.added",
        "dependencies.removed",
        "dependencies.major",
        "dependencies.changed",
        "dependencies.source",
        "dependencies.locked",
    ],
    run,
};

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    for file in &change.files {
        let Some(kind) = Kind::of(&file.path) else { continue };
        let sides = file.sides(evidence.tree);
        let read = |state: &Option<State>| state.as_ref().map_or_else(BTreeMap::new, |state| kind.read(&state.text, state.whole()));
        let (old, new) = (read(&sides.old), read(&sides.new));
        let changed = differences(&old, &new);
        if changed.is_empty() {
            continue;
        }
        if kind.is_lock() {
            locked(file, &changed, findings);
            continue;
        }
        for (name, before, after) in changed {
            one(file, &sides.old, &sides.new, name, before, after, findings);
        }
    }
}

type Changed<'a> = (&'a String, Option<&'a Needed>, Option<&'a Needed>);

fn one(
    file: &FileChange,
    old: &Option<State>,
    new: &Option<State>,
    name: &str,
    before: Option<&Needed>,
    after: Option<&Needed>,
    findings: &mut Findings,
) {
    let (shown, path) = (clipped(name, NAME_MAX), clipped(&file.path, NAME_MAX));
    let version = |needed: Option<&Needed>| needed.map(|it| clipped(&it.version, NAME_MAX));
    let line = after.and_then(|it| Some(new.as_ref()?.number(it.line)));
    let line = line.or_else(|| before.and_then(|it| Some(old.as_ref()?.number(it.line))));
    let place = Place { path: file.path.clone(), line };
    let data = json!({"name": shown, "path": path, "from": version(before), "to": version(after), "for_development": after.or(before).is_some_and(|it| it.development)});
    let of = |needed: &Needed| if needed.version.is_empty() { String::new() } else { format!(" {}", clipped(&needed.version, NAME_MAX)) };
    let (severity, code, text) = match (before, after) {
        (None, Some(after)) => {
            let text = format!("{path} comes to need {shown}{}.", of(after));
            (Severity::Notice, "dependencies.added", text)
        }
        (Some(before), None) => {
            let text = format!("{path} no longer needs {shown}{}.", of(before));
            (Severity::Info, "dependencies.removed", text)
        }
        (Some(before), Some(after)) => {
            let text = format!("{path} needs {shown}{} instead of{}.", of(after), of(before));
            match is_major(&before.version, &after.version) {
                true => (Severity::Warning, "dependencies.major", text),
                false => (Severity::Info, "dependencies.changed", text),
            }
        }
        (None, None) => return,
    };
    findings.add_at(place.clone(), severity, code, text, data.clone());
    if let Some(after) = after.filter(|after| after.foreign && !before.is_some_and(|before| before.foreign)) {
        let text = format!("{shown} in {path} does not come from the registry:{}.", of(after));
        findings.add_at(place, Severity::Warning, "dependencies.source", text, data);
    }
}

/// A lock file says much: it is told in one sentence.
fn locked(file: &FileChange, changed: &[Changed<'_>], findings: &mut Findings) {
    let added = changed.iter().filter(|(_, before, _)| before.is_none()).count() as u64;
    let removed = changed.iter().filter(|(_, _, after)| after.is_none()).count() as u64;
    let moved = changed.len() as u64 - added - removed;
    let majors: Vec<String> = changed
        .iter()
        .filter_map(|(name, before, after)| {
            let (before, after) = ((*before)?, (*after)?);
            is_major(&before.version, &after.version)
                .then(|| format!("{} {} to {}", clipped(name, NAME_MAX), clipped(&before.version, 40), clipped(&after.version, 40)))
        })
        .collect();
    let large = if majors.is_empty() { String::new() } else { format!("; in large steps: {}", majors.iter().take(8).cloned().collect::<Vec<_>>().join(", ")) };
    let path = clipped(&file.path, NAME_MAX);
    let text = format!("{path} locks {}: {added} added, {removed} removed, {moved} moved{large}.", count(changed.len() as u64, "other version"));
    let severity = if majors.is_empty() { Severity::Info } else { Severity::Notice };
    let data = json!({"path": path, "added": added, "removed": removed, "moved": moved, "major": majors.iter().take(25).collect::<Vec<_>>()});
    findings.add_at(Place::file(&file.path), severity, "dependencies.locked", text, data);
}

/// Whether two versions differ in the number that stands for breaking changes: the first, or the first that is not 0.
fn is_major(before: &str, after: &str) -> bool {
    let leading = |version: &str| -> Option<Vec<u64>> {
        let begin = version.find(|letter: char| letter.is_ascii_digit())?;
        let numbers: Vec<u64> = version[begin..]
            .split(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .next()?
            .split('.')
            .map_while(|part| part.parse().ok())
            .take(3)
            .collect();
        let telling = numbers.iter().position(|number| *number != 0).unwrap_or(numbers.len().saturating_sub(1));
        (!numbers.is_empty()).then(|| numbers[..=telling.min(numbers.len() - 1)].to_vec())
    };
    match (leading(before), leading(after)) {
        (Some(before), Some(after)) => before != after,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_steps_are_told_from_small_ones() {
        for (before, after) in [("1.2.3", "2.0"), ("^0.4", "^0.5"), ("~=1.0", "~=3.1"), ("v1.9.0", "v2.0.0"), ("0.0.1", "0.0.2"), ("2", "1")] {
            assert!(is_major(before, after), "{before} {after}");
        }
        for (before, after) in [("1.2.3", "1.3"), ("0.4.1", "0.4.9"), ("*", "2"), ("", ""), ("1.0-rc.1", "1.0")] {
            assert!(!is_major(before, after), "{before} {after}");
        }
    }
}
