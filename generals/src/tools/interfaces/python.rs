//! Public names of a module of Python: functions, classes and their methods.

use super::Items;
use super::reader::{add, bare, name, signature};

pub(super) fn items(text: &str) -> Items {
    let lines = bare(&without_blocks(text), "#", true);
    let mut items = Items::new();
    // The class whose methods are read, and the blanks before its own lines.
    let mut class: Option<(String, Option<usize>)> = None;
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.is_empty() {
            continue;
        }
        let blanks = line.len() - trimmed.len();
        match &mut class {
            Some(_) if blanks == 0 => class = None,
            Some((_, own)) => {
                own.get_or_insert(blanks);
            }
            None => {}
        }
        let rest = trimmed.strip_prefix("async ").unwrap_or(trimmed);
        if let Some(offered) = rest.strip_prefix("class ").and_then(name) {
            if blanks == 0 && !offered.starts_with('_') {
                add(&mut items, offered.to_owned(), signature(&lines, index, &[':']), index);
                class = Some((offered.to_owned(), None));
            }
        } else if let Some(offered) = rest.strip_prefix("def ").and_then(name) {
            let public = !offered.starts_with('_') || offered == "__init__" || offered == "__call__";
            let key = match &class {
                _ if !public => None,
                Some((class, own)) if *own == Some(blanks) => Some(format!("{class}.{offered}")),
                None if blanks == 0 => Some(offered.to_owned()),
                _ => None,
            };
            if let Some(key) = key {
                add(&mut items, key, signature(&lines, index, &[':']), index);
            }
        }
    }
    items
}

/// The text with what stands between triple quotes blanked, line for line.
fn without_blocks(text: &str) -> String {
    let mut open: Option<&str> = None;
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let mut rest = line;
        loop {
            match open {
                Some(mark) => match rest.split_once(mark) {
                    Some((_, after)) => {
                        open = None;
                        rest = after;
                    }
                    None => break,
                },
                None => {
                    let first = ["\"\"\"", "'''"].into_iter().filter_map(|mark| Some((rest.find(mark)?, mark))).min();
                    match first {
                        Some((at, mark)) => {
                            plain.push_str(&rest[..at]);
                            open = Some(mark);
                            rest = &rest[at + 3..];
                        }
                        None => {
                            plain.push_str(rest);
                            break;
                        }
                    }
                }
            }
        }
        plain.push('\n');
    }
    plain
}
