//! Exported names of a package of Go.

use super::Items;
use super::reader::{add, bare, deeper, name, signature};

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", false);
    let mut items = Items::new();
    if lines.iter().any(|line| line.trim() == "package main") {
        return items;
    }
    let mut depth = 0i32;
    // The exported type whose fields or methods are read.
    let mut within: Option<String> = None;
    // `const (` and the like.
    let mut group: Option<&str> = None;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        if depth == 0 {
            within = None;
            if group.is_some() && trimmed.starts_with(')') {
                group = None;
            } else if let Some(word) = group {
                if let Some(offered) = name(trimmed).filter(|name| is_exported(name)) {
                    let ends: &[char] = if word == "type" { &['{', '\n'] } else { &['=', '\n'] };
                    add(&mut items, offered.to_owned(), format!("{word} {}", signature(&lines, index, ends)), index);
                    within = (word == "type").then(|| offered.to_owned());
                }
            } else if let Some(word) = ["const", "var", "type"].into_iter().find(|word| trimmed.strip_prefix(word).is_some_and(|rest| rest.trim() == "(")) {
                group = Some(word);
            } else if let Some(rest) = trimmed.strip_prefix("func ") {
                function(rest, index, &lines, &mut items);
            } else if let Some((word, rest)) = trimmed.split_once(' ')
                && ["const", "var", "type"].contains(&word)
                && let Some(offered) = name(rest).filter(|name| is_exported(name))
            {
                let ends: &[char] = if word == "type" { &['{', '\n'] } else { &['=', '\n'] };
                add(&mut items, offered.to_owned(), signature(&lines, index, ends), index);
                within = (word == "type").then(|| offered.to_owned());
            }
        } else if depth == 1
            && let Some(owner) = &within
            && let Some(offered) = name(trimmed).filter(|name| is_exported(name))
        {
            // Tags of a field are part of what others read, and blanks only align it.
            add(&mut items, format!("{owner}.{offered}"), signature(&lines, index, &['\n', '{']), index);
        }
        depth = (depth + deeper(line)).max(0);
    }
    items
}

fn function(rest: &str, index: usize, lines: &[String], items: &mut Items) {
    let (owner, rest) = match rest.strip_prefix('(') {
        Some(receiver) => {
            let Some((receiver, rest)) = receiver.split_once(')') else { return };
            let of = receiver.rsplit([' ', '*']).next().unwrap_or_default();
            (Some(of.split('[').next().unwrap_or_default()), rest)
        }
        None => (None, rest),
    };
    let Some(offered) = name(rest).filter(|name| is_exported(name)) else { return };
    if owner.is_some_and(|owner| !is_exported(owner)) {
        return;
    }
    let key = owner.map_or_else(|| offered.to_owned(), |owner| format!("{owner}.{offered}"));
    // A result may be an interface or struct in brackets of its own: the first bracket behind the parameters ends it.
    add(items, key, signature(lines, index, &['{', '\n']), index);
}

fn is_exported(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_uppercase())
}
