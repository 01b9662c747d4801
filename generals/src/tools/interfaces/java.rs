//! Public members of classes of Java.

use super::Items;
use super::reader::{add, bare, deeper, name, signature};

const KINDS: [&str; 5] = ["class", "interface", "enum", "record", "@interface"];

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", true);
    let mut items = Items::new();
    // Classes around the line: the depth of each, its name, and whether all in it is public.
    let mut stack: Vec<(i32, String, bool)> = Vec::new();
    let mut pending: Option<(String, bool)> = None;
    let mut depth = 0i32;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        while stack.last().is_some_and(|(outer, _, _)| depth <= *outer) {
            stack.pop();
        }
        let own = stack.last().is_none_or(|(outer, _, _)| depth == outer + 1);
        let open = stack.last().is_some_and(|(_, _, open)| *open);
        let words: Vec<&str> = trimmed.split_whitespace().collect();
        let public = words.contains(&"public") || words.contains(&"protected");
        let opens = deeper(line) > 0 || !trimmed.ends_with([';', '}']);
        let signed = pending.is_none();
        if signed && own && let Some(at) = words.iter().position(|word| KINDS.contains(word)) {
            let offered = words.get(at + 1).and_then(|word| name(word)).unwrap_or("");
            let hidden = !public && !open && !stack.is_empty();
            let key = path(&stack, offered);
            if (public || open) && !offered.is_empty() {
                add(&mut items, key, signature(&lines, index, &['{', ';']), index);
            }
            if opens && !offered.is_empty() {
                let all = words[at] == "interface" && !hidden;
                pending = Some((offered.to_owned(), all));
            }
        } else if signed && own && (public || open) && !trimmed.starts_with(['@', '}', '*']) && !words.contains(&"private") {
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
            && let Some((name, all)) = pending.take()
        {
            stack.push((depth, name, all));
        }
        depth = (depth + deeper(line)).max(0);
    }
    items
}

fn path(stack: &[(i32, String, bool)], offered: &str) -> String {
    stack.iter().map(|(_, name, _)| name.as_str()).chain([offered]).collect::<Vec<_>>().join(".")
}
