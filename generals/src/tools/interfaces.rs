//! What others build on and a change takes away or alters: public items of code, operations and fields of described interfaces.
//!
//! ```text
//!  file before --> public items --+
//!                                 +--> removed, altered, added; what only moved to another file is none of these
//!  file after  --> public items --+
//! ```
//! Items are read by line, not by a compiler: what is told is what to look at, with its place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::files::{is_generated, is_test};
use crate::Profile;
use crate::analysis::Analysis;
use crate::change::{FileChange, State, differences};
use crate::evidence::Evidence;
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count};

mod go;
mod java;
mod openapi;
mod proto;
mod python;
mod reader;
mod rust;
mod script;

const NAME_MAX: usize = 120;
const SIGNATURE_MAX: usize = 200;
/// Most items read of one file.
const ITEMS_MAX: usize = 20_000;

pub(super) const INTERFACES: Analysis = Analysis {
    name: "interfaces",
    thresholds: &[],
    words: &[],
    codes: &["api.removed", "api.changed", "api.added", "api.moved"],
    run,
};

/// A thing that others can use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    /// What it promises, on one line.
    signature: String,
    /// Its line in the text, counted from 0.
    line: usize,
}

type Items = BTreeMap<String, Item>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Language {
    Rust,
    Script,
    Python,
    Go,
    Java,
    Proto,
    OpenApi,
}

impl Language {
    fn of(path: &str, text: &str) -> Option<Language> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        Some(match extension {
            "rs" => Language::Rust,
            "ts" | "tsx" | "mts" | "cts" | "js" | "jsx" | "mjs" | "cjs" => Language::Script,
            "py" | "pyi" => Language::Python,
            "go" => Language::Go,
            "java" => Language::Java,
            "proto" => Language::Proto,
            "yaml" | "yml" | "json" if openapi::is_described(text) => Language::OpenApi,
            _ => return None,
        })
    }

    fn items(self, text: &str, whole: bool) -> Items {
        let mut items = match self {
            Language::Rust => rust::items(text),
            Language::Script => script::items(text),
            Language::Python => python::items(text),
            Language::Go => go::items(text),
            Language::Java => java::items(text),
            Language::Proto => proto::items(text),
            // Of a part of a document nobody knows what it belongs to.
            Language::OpenApi if !whole => Items::new(),
            Language::OpenApi => openapi::items(text),
        };
        while items.len() > ITEMS_MAX {
            items.pop_last();
        }
        items
    }

    /// Whether what it describes is meant for others, whoever they are.
    fn is_contract(self) -> bool {
        matches!(self, Language::Proto | Language::OpenApi)
    }
}

struct Difference<'a> {
    file: &'a FileChange,
    language: Language,
    name: String,
    before: Option<(Item, u32)>,
    after: Option<(Item, u32)>,
}

fn run(_: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    let mut all: Vec<Difference<'_>> = Vec::new();
    for file in &change.files {
        if is_generated(&file.path) || is_test(&file.path) || file.binary || file.path.split('/').any(|it| it == "internal") {
            continue;
        }
        let sides = file.sides(evidence.tree);
        let sample = sides.new.as_ref().or(sides.old.as_ref()).map_or("", |state| state.text.as_str());
        let Some(language) = Language::of(&file.path, sample) else { continue };
        let read = |state: &Option<State>| state.as_ref().map_or_else(Items::new, |state| language.items(&state.text, state.whole()));
        let (old, new) = (read(&sides.old), read(&sides.new));
        // Lines moved, and nothing else, is no difference.
        let plain = |items: &Items| -> BTreeMap<String, String> {
            items.iter().map(|(name, item)| (name.clone(), item.signature.clone())).collect()
        };
        for (name, _, _) in differences(&plain(&old), &plain(&new)) {
            let at = |items: &Items, state: &Option<State>| {
                let item = items.get(name)?.clone();
                let number = state.as_ref()?.number(item.line);
                Some((item, number))
            };
            let (before, after) = (at(&old, &sides.old), at(&new, &sides.new));
            all.push(Difference { file, language, name: name.clone(), before, after });
        }
    }
    tell(&all, findings);
}

fn tell(all: &[Difference<'_>], findings: &mut Findings) {
    // What goes here and comes elsewhere as it was has moved.
    let came: BTreeSet<(Language, &str, &str)> = all
        .iter()
        .filter(|it| it.before.is_none())
        .filter_map(|it| Some((it.language, it.name.as_str(), it.after.as_ref()?.0.signature.as_str())))
        .collect();
    let went: BTreeSet<(Language, &str, &str)> = all
        .iter()
        .filter(|it| it.after.is_none())
        .filter_map(|it| Some((it.language, it.name.as_str(), it.before.as_ref()?.0.signature.as_str())))
        .collect();
    let (mut added, mut moved) = (Vec::new(), Vec::new());
    for it in all {
        let path = clipped(&it.file.path, NAME_MAX);
        let name = clipped(&it.name, NAME_MAX);
        let signature = |side: &Option<(Item, u32)>| side.as_ref().map(|(item, _)| clipped(&item.signature, SIGNATURE_MAX));
        let key = |side: &(Item, u32)| (it.language, it.name.clone(), side.0.signature.clone());
        let data = json!({"name": name, "path": path, "from": signature(&it.before), "to": signature(&it.after)});
        match (&it.before, &it.after) {
            (Some(before), None) => {
                let (language, item, signature) = key(before);
                if came.contains(&(language, item.as_str(), signature.as_str())) {
                    moved.push(name);
                    continue;
                }
                let text = format!("{name} is no longer offered by {path}.");
                findings.add_at(Place::line(&it.file.path, before.1), Severity::Warning, "api.removed", text, data);
            }
            (Some(_), Some(after)) => {
                let severity = if it.language.is_contract() { Severity::Warning } else { Severity::Notice };
                let text = format!("{name} in {path} promises something else.");
                findings.add_at(Place::line(&it.file.path, after.1), severity, "api.changed", text, data);
            }
            (None, Some(after)) => {
                let (language, item, signature) = key(after);
                if !went.contains(&(language, item.as_str(), signature.as_str())) {
                    added.push(name);
                }
            }
            (None, None) => {}
        }
    }
    for (list, code, words) in [(moved, "api.moved", "moved to another file"), (added, "api.added", "offered for the first time")] {
        if !list.is_empty() {
            let number = list.len() as u64;
            let named: Vec<String> = list.into_iter().take(8).collect();
            let text = format!("{} {words}: {}.", count(number, "item"), named.join(", "));
            findings.add(Severity::Info, code, text, json!({"names": named, "number": number}));
        }
    }
}

#[cfg(test)]
#[path = "interfaces/tests.rs"]
mod tests;
