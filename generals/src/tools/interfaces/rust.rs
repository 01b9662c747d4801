//! Public items of Rust.

use super::Items;
use super::reader::{add, bare, deeper, name, signature};

/// What the lines at a depth belong to.
struct Context {
    depth: i32,
    kind: Kind,
    name: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Whose `pub` items are public.
    Open,
    /// A public enum: its variants are public.
    Variants,
    /// A public trait: all its items are public.
    Trait,
    /// A public struct: its `pub` fields are public.
    Fields,
    /// Nothing in it is public.
    Closed,
}

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", false);
    let mut items = Items::new();
    let mut stack: Vec<Context> = Vec::new();
    let mut depth = 0i32;
    let mut test = false;
    // An item whose bracket has not come yet.
    let mut pending: Option<(Kind, String)> = None;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        while stack.last().is_some_and(|context| depth <= context.depth) {
            stack.pop();
        }
        let context = stack.last();
        let kind = context.map_or(Kind::Open, |it| it.kind);
        // Deeper than the context's own lines is a body.
        let own = context.map_or(depth == 0, |it| depth == it.depth + 1);
        let path = |name: &str| match context {
            Some(context) if !context.name.is_empty() => format!("{}::{name}", context.name),
            _ => name.to_owned(),
        };
        if pending.is_none() {
            if trimmed.starts_with("#[cfg(test)]") {
                test = true;
            } else if own && !trimmed.is_empty() && !trimmed.starts_with('#') {
                pending = match std::mem::take(&mut test) {
                    true => Some((Kind::Closed, String::new())),
                    false => one(trimmed, index, kind, &lines, &path, &mut items),
                };
            }
        }
        let change = deeper(line);
        if change > 0
            && let Some((kind, name)) = pending.take()
        {
            stack.push(Context { depth, kind, name });
        } else if line.contains('{') || trimmed.ends_with(';') || trimmed.ends_with('}') {
            pending = None;
        }
        depth += change;
    }
    items
}

fn one(
    trimmed: &str,
    index: usize,
    kind: Kind,
    lines: &[String],
    path: &dyn Fn(&str) -> String,
    items: &mut Items,
) -> Option<(Kind, String)> {
    if kind == Kind::Closed {
        return None;
    }
    if kind == Kind::Variants {
        let variant = name(trimmed).filter(|name| name.starts_with(|letter: char| letter.is_uppercase()))?;
        add(items, path(variant), signature(lines, index, &['{', ',', '}']), index);
        return None;
    }
    if trimmed.strip_prefix("unsafe ").unwrap_or(trimmed).starts_with("impl") {
        // The methods of a type go by its name; those of a trait are promised by the trait.
        let head = signature(lines, index, &['{', ';']);
        if head.contains(" for ") {
            return Some((Kind::Closed, String::new()));
        }
        let of = of_impl(&head);
        return Some((Kind::Open, of.split(['<', ' ']).next().unwrap_or_default().to_owned()));
    }
    let public = trimmed.strip_prefix("pub ");
    if public.is_none() && kind != Kind::Trait {
        // What is public in a module of ours may be offered elsewhere.
        let module = trimmed.strip_prefix("mod ").or_else(|| trimmed.split_once(") mod ").map(|(_, rest)| rest));
        if let Some(name) = module.and_then(name) {
            return Some((Kind::Open, path(name)));
        }
        const HIDDEN: [&str; 9] =
            ["fn ", "struct ", "enum ", "trait ", "union ", "unsafe ", "async ", "const fn ", "macro_rules!"];
        let own = trimmed.strip_prefix("pub(").and_then(|rest| rest.split_once(") ")).map_or(trimmed, |(_, rest)| rest);
        let hidden = trimmed.contains('{') || HIDDEN.iter().any(|word| own.starts_with(word));
        return hidden.then(|| (Kind::Closed, String::new()));
    }
    let rest = public.unwrap_or(trimmed);
    let mut words = rest;
    const MARKS: [&str; 5] = ["default ", "unsafe ", "async ", "extern \"\" ", "safe "];
    while let Some(shorter) = MARKS.iter().find_map(|mark| words.strip_prefix(mark)) {
        words = shorter;
    }
    let (word, after) = words.split_once([' ', '<'])?;
    let (word, after) = if word == "const" && after.starts_with("fn ") { ("fn", &after[3..]) } else { (word, after) };
    let (word, after) = if word == "const" && after.starts_with("unsafe fn ") { ("fn", &after[10..]) } else { (word, after) };
    match word {
        "fn" => {
            add(items, path(name(after)?), signature(lines, index, &['{', ';']), index);
            Some((Kind::Closed, String::new()))
        }
        "struct" | "union" => {
            let name = name(after)?;
            add(items, path(name), signature(lines, index, &['{', ';']), index);
            Some((Kind::Fields, path(name)))
        }
        "enum" => {
            let name = name(after)?;
            add(items, path(name), signature(lines, index, &['{', ';']), index);
            Some((Kind::Variants, path(name)))
        }
        "trait" => {
            let name = name(after)?;
            add(items, path(name), signature(lines, index, &['{', ';']), index);
            Some((Kind::Trait, path(name)))
        }
        "type" => {
            add(items, path(name(after)?), signature(lines, index, &[';']), index);
            None
        }
        "const" | "static" => {
            let after = after.strip_prefix("mut ").unwrap_or(after);
            add(items, path(name(after)?), signature(lines, index, &['=', ';']), index);
            None
        }
        "mod" => {
            let name = name(after)?;
            add(items, path(name), format!("pub mod {name}"), index);
            Some((Kind::Open, path(name)))
        }
        "use" => {
            let whole = signature(lines, index, &[';']);
            for name in used(whole.trim_start_matches("pub use ")) {
                add(items, path(&name), "pub use".to_owned(), index);
            }
            None
        }
        _ if kind == Kind::Fields => {
            add(items, path(name(rest)?), signature(lines, index, &[',', '}']), index);
            None
        }
        _ => None,
    }
}

/// `impl<T: A<B>> Type<T>` without what stands before the type.
fn of_impl(head: &str) -> &str {
    let rest = head.trim_start_matches("impl").trim_start();
    let Some(inner) = rest.strip_prefix('<') else { return rest };
    let mut depth = 1;
    let end = inner.char_indices().find(|(_, letter)| {
        depth += i32::from(*letter == '<') - i32::from(*letter == '>');
        depth == 0
    });
    end.map_or("", |(at, _)| inner[at + 1..].trim())
}

/// The names that a `use` offers: `a::{B, c::D as E}` offers `B` and `E`.
fn used(text: &str) -> Vec<String> {
    text.split(['{', '}', ','])
        .filter(|part| !part.trim().is_empty() && !part.trim().ends_with("::"))
        .map(|part| {
            let part = part.trim();
            let last = part.rsplit_once(" as ").map_or_else(|| part.rsplit("::").next().unwrap_or(part), |(_, name)| name);
            last.trim().to_owned()
        })
        .collect()
}
