//! What modules of TypeScript and JavaScript export.

use super::Items;
use super::reader::{add, bare, deeper, name, signature};

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", true);
    let raw: Vec<&str> = text.lines().collect();
    let mut items = Items::new();
    let mut depth = 0i32;
    // An exported class, interface or enum whose members are read.
    let mut within: Option<(String, bool)> = None;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        if depth == 0 {
            within = None;
            if let Some(rest) = trimmed.strip_prefix("export ") {
                within = match rest.starts_with('*') {
                    // From where is what tells one from another.
                    true => {
                        let whole = raw.get(index).map_or("", |line| line.trim().trim_end_matches(';'));
                        add(&mut items, whole.to_owned(), "export *".to_owned(), index);
                        None
                    }
                    false => exported(rest, index, &lines, &mut items),
                };
            } else if let Some(rest) = trimmed.strip_prefix("module.exports").or_else(|| trimmed.strip_prefix("exports")) {
                common(rest, index, &lines, &mut items);
            }
        } else if depth == 1
            && let Some((owner, is_enum)) = &within
        {
            member(owner, *is_enum, trimmed, index, &lines, &mut items);
        }
        depth = (depth + deeper(line)).max(0);
    }
    items
}

fn exported(rest: &str, index: usize, lines: &[String], items: &mut Items) -> Option<(String, bool)> {
    let (rest, default) = match rest.strip_prefix("default ") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    if rest.starts_with('{') || rest.starts_with("type {") {
        let whole = signature(lines, index, &[';']);
        let inner = whole.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inner, _)| inner);
        for part in inner.split(',') {
            let part = part.trim().trim_start_matches("type ");
            let offered = part.rsplit_once(" as ").map_or(part, |(_, name)| name).trim();
            if !offered.is_empty() {
                add(items, offered.to_owned(), "export".to_owned(), index);
            }
        }
        return None;
    }
    let mut words = rest;
    for word in ["declare ", "abstract ", "async "] {
        words = words.strip_prefix(word).unwrap_or(words);
    }
    let (word, after) = words.split_once([' ', '(']).unwrap_or((words, ""));
    let after = after.trim_start_matches(['*', ' ']);
    let key = |name: &str| if default { "default".to_owned() } else { name.to_owned() };
    match word {
        "function" | "function*" => {
            add(items, key(name(after).unwrap_or("default")), signature(lines, index, &['{', ';']), index);
            None
        }
        "const" if after.starts_with("enum ") => {
            let name = name(&after[5..])?;
            add(items, key(name), format!("enum {name}"), index);
            Some((key(name), true))
        }
        "const" | "let" | "var" => {
            let offered = name(after)?;
            let head = signature(lines, index, &['=', ';']);
            // Of a function in an arrow, its parameters are part of the promise.
            let whole = signature(lines, index, &['{', ';']);
            let arrow = whole.split_once("=>").map(|(before, _)| before.to_owned());
            add(items, key(offered), arrow.unwrap_or(head).trim().to_owned(), index);
            None
        }
        "class" | "interface" | "enum" | "namespace" => {
            let offered = name(after).unwrap_or("default");
            add(items, key(offered), signature(lines, index, &['{']), index);
            Some((key(offered), word == "enum"))
        }
        "type" => {
            add(items, key(name(after)?), signature(lines, index, &[';']), index);
            None
        }
        _ if default => {
            add(items, "default".to_owned(), "export default".to_owned(), index);
            None
        }
        _ => None,
    }
}

/// `module.exports = { a, b: c }`, `exports.a = ..`.
fn common(rest: &str, index: usize, lines: &[String], items: &mut Items) {
    if let Some(name) = rest.strip_prefix('.').and_then(name) {
        add(items, name.to_owned(), "exports".to_owned(), index);
        return;
    }
    let Some(value) = rest.trim_start().strip_prefix('=') else { return };
    if !value.trim_start().starts_with('{') {
        add(items, "default".to_owned(), "module.exports".to_owned(), index);
        return;
    }
    let whole = signature(lines, index, &[';']);
    let inner = whole.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap_or(rest));
    for part in inner.split(',') {
        if let Some(name) = name(part.trim_start_matches('.').trim()) {
            add(items, name.to_owned(), "exports".to_owned(), index);
        }
    }
}

fn member(owner: &str, is_enum: bool, trimmed: &str, index: usize, lines: &[String], items: &mut Items) {
    let hidden = ["private ", "protected ", "#", "_", "static _", "@", "}", "*", "//", "return", "if "];
    if trimmed.is_empty() || hidden.iter().any(|start| trimmed.starts_with(start)) {
        return;
    }
    let mut rest = trimmed;
    for word in ["public ", "static ", "readonly ", "abstract ", "async ", "override ", "get ", "set ", "declare "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let Some(offered) = name(rest) else { return };
    let behind = rest[offered.len()..].trim_start();
    let fits = behind.starts_with(['(', ':', '?', '<', '!']) || (is_enum && (behind.is_empty() || behind.starts_with([',', '='])));
    if fits && (offered != "constructor" || behind.starts_with('(')) {
        let ends: &[char] = if is_enum { &[',', '}'] } else { &['{', ';', '=', '\n'] };
        add(items, format!("{owner}.{offered}"), signature(lines, index, ends).trim_end_matches(',').to_owned(), index);
    }
}
