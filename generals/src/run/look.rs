//! What a model may look up: files of the repository at the head of the change. All of it reads; all of it is data.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::change::Tree;
use crate::model::{Schema, ToolSpec};
use crate::profile::Lookup;

/// Longest output of one look, in bytes.
const OUTPUT_MAX: usize = 16 * 1024;
/// Most lines of a file in one look.
const LINES_MAX: usize = 400;
/// Most names in one look.
const NAMES_MAX: usize = 300;
/// Most places that a search gives.
const PLACES_MAX: usize = 60;
/// Most bytes that a search looks through.
const SEARCHED_MAX: usize = 64 << 20;
/// Longest text searched for, in bytes.
const WANTED_MAX: usize = 200;

/// The tools as a model is told of them.
pub(super) fn specs(tools: &[Lookup]) -> Vec<ToolSpec> {
    let text = |about: &str| json!({"type": "string", "description": about});
    let number = |about: &str| json!({"type": "integer", "minimum": 1, "description": about});
    let spec = |tool: &Lookup| {
        let (description, properties, required) = match tool {
            Lookup::ReadFile => (
                "Lines of a file of the repository, at the head of the change.",
                json!({"path": text("path from the root"), "start": number("first line, 1 by default"), "end": number("last line")}),
                json!(["path"]),
            ),
            Lookup::ListFiles => (
                "Names of the files below a folder, with their sizes in bytes.",
                json!({"folder": text("path from the root; empty for all")}),
                json!([]),
            ),
            Lookup::Search => (
                "Lines that hold a text, letter by letter, without regard to case.",
                json!({"text": text("what to look for, 2 to 200 bytes"), "folder": text("only below this folder")}),
                json!(["text"]),
            ),
        };
        let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let parameters = Schema::new(schema).expect("a fixed schema, which a test reads");
        ToolSpec { name: tool.name().to_owned(), description: description.to_owned(), parameters }
    };
    tools.iter().map(spec).collect()
}

/// The output of a look; what is wrong with it is an output too.
pub(super) fn look(tools: &[Lookup], tree: &Tree, name: &str, arguments: &Value) -> String {
    let Some(tool) = tools.iter().find(|tool| tool.name() == name) else {
        let known: Vec<&str> = tools.iter().map(|tool| tool.name()).collect();
        return format!("there is no such tool; there are {}", known.join(", "));
    };
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| arguments.get(name).and_then(Value::as_u64).and_then(|it| usize::try_from(it).ok());
    let mut output = match tool {
        Lookup::ReadFile => read(tree, text("path").trim_start_matches("./"), number("start"), number("end")),
        Lookup::ListFiles => list(tree, text("folder")),
        Lookup::Search => search(tree, text("text"), text("folder")),
    };
    if output.len() > OUTPUT_MAX {
        let mut end = OUTPUT_MAX;
        while !output.is_char_boundary(end) {
            end -= 1;
        }
        output.truncate(end);
        output.push_str("\n(cut)");
    }
    output
}

fn read(tree: &Tree, path: &str, start: Option<usize>, end: Option<usize>) -> String {
    let Some(text) = tree.text(path) else {
        return if tree.has(path) { "the file is no text, or too long".to_owned() } else { "there is no such file".to_owned() };
    };
    let start = start.unwrap_or(1).max(1);
    let last = end.unwrap_or(usize::MAX).min(start.saturating_add(LINES_MAX - 1));
    let mut shown = String::new();
    let mut lines = 0;
    for (at, line) in text.lines().enumerate() {
        lines = at + 1;
        if (start..=last).contains(&lines) && shown.len() <= OUTPUT_MAX {
            let _ = writeln!(shown, "{lines}: {line}");
        }
    }
    if shown.is_empty() { format!("the file has {lines} lines") } else { shown }
}

fn below<'a>(tree: &'a Tree, folder: &str) -> impl Iterator<Item = &'a str> {
    let folder = folder.trim_start_matches("./").trim_matches('/').to_owned();
    tree.paths().filter(move |path| {
        folder.is_empty() || path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
    })
}

fn list(tree: &Tree, folder: &str) -> String {
    let mut names = String::new();
    let mut number = 0;
    for path in below(tree, folder) {
        number += 1;
        if number <= NAMES_MAX {
            let _ = writeln!(names, "{path} {}", tree.size(path).unwrap_or(0));
        }
    }
    match number {
        0 => "there is no such folder".to_owned(),
        number if number > NAMES_MAX => format!("{names}and {} more", number - NAMES_MAX),
        _ => names,
    }
}

fn search(tree: &Tree, wanted: &str, folder: &str) -> String {
    if !(2..=WANTED_MAX).contains(&wanted.len()) {
        return "`text` has to be 2 to 200 bytes".to_owned();
    }
    let wanted = wanted.to_lowercase();
    let (mut found, mut places, mut searched) = (String::new(), 0, 0);
    for path in below(tree, folder) {
        let Some(text) = tree.text(path) else { continue };
        searched += text.len();
        if searched > SEARCHED_MAX {
            found.push_str("(not all files were looked through)\n");
            break;
        }
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.to_lowercase().contains(&wanted)) {
            let line: String = line.chars().take(200).collect();
            let _ = writeln!(found, "{path}:{}: {line}", at + 1);
            places += 1;
            if places == PLACES_MAX {
                found.push_str("(and perhaps more)\n");
                return found;
            }
        }
    }
    if found.is_empty() { "nothing holds it".to_owned() } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::of_listing("abc", [], false);
        tree.hold("src/a.rs", "fn a() {}\nfn Bee() {}\n");
        tree.hold("src/b/c.rs", "// bee\n");
        tree
    }

    #[test]
    fn looks_read_and_stay_within_the_tree() {
        let all = [Lookup::ReadFile, Lookup::ListFiles, Lookup::Search];
        assert_eq!(specs(&all).len(), 3);
        let look = |name: &str, arguments: Value| look(&all, &tree(), name, &arguments);
        assert_eq!(look("read_file", json!({"path": "src/a.rs", "start": 2})), "2: fn Bee() {}\n");
        assert_eq!(look("read_file", json!({"path": "src/a.rs", "start": 9})), "the file has 2 lines");
        assert_eq!(look("read_file", json!({"path": "../../etc/passwd"})), "there is no such file");
        assert_eq!(look("list_files", json!({"folder": "src/b"})), "src/b/c.rs 7\n");
        assert_eq!(look("search", json!({"text": "BEE"})), "src/a.rs:2: fn Bee() {}\nsrc/b/c.rs:1: // bee\n");
        assert_eq!(look("search", json!({"text": "x"})), "`text` has to be 2 to 200 bytes");
        assert_eq!(look("shell", json!("rm")), "there is no such tool; there are read_file, list_files, search");
        assert_eq!(look("read_file", json!("text")), "there is no such file");
    }
}
