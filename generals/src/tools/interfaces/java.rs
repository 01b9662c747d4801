//! Public members of classes of Java.

use super::Items;
use super::reader::{add, bare, deeper, name, signature};

const KINDS: [&str; 5] = ["class", "interface", "enum", "record", "@interface"];

/// A class that a line stands in.
struct Around {
    depth: i32,
    name: String,
    /// Whether all in it is public, as in an interface.
    all: bool,
    /// Whether others can reach it.
    seen: bool,
}

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", false);
    let mut items = Items::new();
    let mut stack: Vec<Around> = Vec::new();
    let mut pending: Option<Around> = None;
    let mut depth = 0i32;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        while stack.last().is_some_and(|around| depth <= around.depth) {
            stack.pop();
        }
        let own = stack.last().is_none_or(|around| depth == around.depth + 1) && pending.is_none();
        let open = stack.last().is_some_and(|around| around.all);
        let seen = stack.last().is_none_or(|around| around.seen);
        let words: Vec<&str> = trimmed.split_whitespace().collect();
        let kind = words.iter().position(|word| KINDS.contains(word));
        let marks = &words[..kind.unwrap_or(words.len())];
        let public = open || marks.contains(&"public") || marks.contains(&"protected");
        if own && let Some((at, offered)) = kind.and_then(|at| Some((at, name(words.get(at + 1)?)?))) {
            if public && seen {
                add(&mut items, path(&stack, offered), signature(&lines, index, &['{', ';']), index);
            }
            if deeper(line) > 0 || !trimmed.ends_with([';', '}']) {
                let all = matches!(words[at], "interface" | "@interface");
                pending = Some(Around { depth, name: offered.to_owned(), all, seen: seen && public });
            }
        } else if own && public && seen && !trimmed.starts_with(['@', '}', '*']) && !marks.contains(&"private") {
            let head = signature(&lines, index, &['{', ';', '=']);
            let before = head.split('(').next().unwrap_or_default();
            if let Some(offered) = before.split_whitespace().last().and_then(name)
                && words.len() > 1
            {
                add(&mut items, path(&stack, offered), head.clone(), index);
            }
        }
        // The bracket of a class may stand on a later line.
        if deeper(line) > 0
            && let Some(around) = pending.take()
        {
            stack.push(Around { depth, ..around });
        }
        depth = (depth + deeper(line)).max(0);
    }
    items
}

fn path(stack: &[Around], offered: &str) -> String {
    stack.iter().map(|around| around.name.as_str()).chain([offered]).collect::<Vec<_>>().join(".")
}
