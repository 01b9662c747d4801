//! Messages, fields, values and calls of a file of protocol buffers.

use super::Items;
use super::reader::{add, bare, name, signature};

pub(super) fn items(text: &str) -> Items {
    let lines = bare(text, "//", true);
    let mut items = Items::new();
    // What the line stands in; a `oneof` is transparent and has no name.
    let mut stack: Vec<String> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        let path = |offered: &str| {
            let outer = stack.iter().filter(|name| !name.is_empty()).map(String::as_str);
            outer.chain([offered]).collect::<Vec<_>>().join(".")
        };
        let (word, rest) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        let mut opened = String::new();
        match word {
            "message" | "enum" | "service" => {
                if let Some(offered) = name(rest) {
                    add(&mut items, path(offered), word.to_owned(), index);
                    opened = offered.to_owned();
                }
            }
            "rpc" => {
                if let Some(offered) = name(rest) {
                    add(&mut items, path(offered), signature(&lines, index, &['{', ';']), index);
                }
            }
            "syntax" | "package" | "import" | "option" | "reserved" | "extensions" | "oneof" | "extend" | "" => {}
            _ if !stack.is_empty() && trimmed.contains('=') => {
                // `repeated Type name = 1 [..];`, `VALUE = 1;`
                let (before, after) = trimmed.split_once('=').expect("has just been seen");
                let number: String = after.trim_start().chars().take_while(|it| it.is_ascii_digit() || *it == '-').collect();
                let words: Vec<&str> = before.split_whitespace().collect();
                if let (Some(offered), false) = (words.last(), number.is_empty()) {
                    let kind = words[..words.len() - 1].join(" ");
                    add(&mut items, path(offered), format!("{kind} = {number}").trim().to_owned(), index);
                }
            }
            _ => {}
        }
        for letter in trimmed.chars() {
            match letter {
                '{' => stack.push(std::mem::take(&mut opened)),
                '}' => drop(stack.pop()),
                _ => {}
            }
        }
        if stack.len() > 64 {
            return items;
        }
    }
    items
}
