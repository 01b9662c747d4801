//! Manifests and lock files of six ecosystems, read by line, so that a fragment can be read as well as a whole file.

use std::collections::BTreeMap;

use serde_json::Value;

/// Most entries of one file.
const ENTRIES_MAX: usize = 20_000;

/// What is needed of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Needed {
    /// The version or range, or where it comes from.
    pub(super) version: String,
    pub(super) development: bool,
    /// Whether it comes from elsewhere than the registry.
    pub(super) foreign: bool,
    /// Its line in the text, counted from 0. Takes no part in comparisons.
    pub(super) line: usize,
}

impl PartialEq for Needed {
    fn eq(&self, other: &Needed) -> bool {
        (&self.version, self.foreign) == (&other.version, other.foreign)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cargo,
    CargoLock,
    Npm,
    NpmLock,
    Requirements,
    Pyproject,
    GoMod,
    Maven,
}

type Found = BTreeMap<String, Needed>;

impl Kind {
    pub(super) fn of(path: &str) -> Option<Kind> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.split('/').any(|folder| folder == "node_modules") {
            return None;
        }
        Some(match name {
            "Cargo.toml" => Kind::Cargo,
            "Cargo.lock" => Kind::CargoLock,
            "package.json" => Kind::Npm,
            "package-lock.json" | "npm-shrinkwrap.json" => Kind::NpmLock,
            "pyproject.toml" => Kind::Pyproject,
            "go.mod" => Kind::GoMod,
            "pom.xml" => Kind::Maven,
            _ if name.starts_with("requirements") && name.ends_with(".txt") => Kind::Requirements,
            _ => return None,
        })
    }

    pub(super) fn is_lock(self) -> bool {
        matches!(self, Kind::CargoLock | Kind::NpmLock)
    }

    /// What a text needs. `whole` says whether it is all of the file: a part may begin within a section.
    pub(super) fn read(self, text: &str, whole: bool) -> Found {
        let mut found = match self {
            Kind::Cargo => cargo(text, whole),
            Kind::CargoLock => cargo_lock(text),
            Kind::Npm => npm(text, whole),
            Kind::NpmLock => npm_lock(text),
            Kind::Requirements => requirements(text),
            Kind::Pyproject => pyproject(text, whole),
            Kind::GoMod => go_mod(text, whole),
            Kind::Maven => maven(text),
        };
        while found.len() > ENTRIES_MAX {
            found.pop_last();
        }
        found
    }
}

/// `name = "1"`, `name = { version = "1" }` and `[dependencies.name]`.
fn cargo(text: &str, whole: bool) -> Found {
    const KEYS: [&str; 24] = [
        "name", "version", "edition", "rust-version", "license", "description", "publish", "resolver", "authors", "readme", "repository",
        "homepage", "documentation", "path", "members", "default", "features", "build", "links", "exclude", "include", "harness",
        "default-features", "optional",
    ];
    let mut found = Found::new();
    // Of a part, nobody knows which section it begins in.
    let mut section: Option<String> = if whole { Some(String::new()) } else { None };
    for (index, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.starts_with('[') {
            let name = line.trim_matches(['[', ']']).to_owned();
            let parts: Vec<&str> = name.rsplitn(2, '.').collect();
            if let [one, before] = parts[..]
                && is_needs(before)
            {
                found.insert(one.trim_matches('"').to_owned(), Needed { line: index, development: before.contains("dev-"), ..Needed::default() });
            }
            section = Some(name);
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim().trim_matches('"'), value.trim());
        let (name, dotted) = name.split_once('.').map_or((name, None), |(name, member)| (name, Some(member)));
        match section.as_deref() {
            // Within `[dependencies.name]`.
            Some(section) if section.rsplit_once('.').is_some_and(|(before, _)| is_needs(before)) && !is_needs(section) => {
                let (before, one) = section.rsplit_once('.').expect("has just been split");
                let needed = found.entry(one.trim_matches('"').to_owned()).or_default();
                needed.development = before.contains("dev-");
                match name {
                    "version" => needed.version = unquoted(value),
                    "git" | "path" => {
                        needed.version = format!("{name} {}", unquoted(value));
                        needed.foreign = name == "git";
                    }
                    _ => {}
                }
            }
            Some(section) if !is_needs(section) => {}
            None if KEYS.contains(&name) || !(value.starts_with('{') || is_version(&unquoted(value))) => {}
            section => {
                let development = section.is_some_and(|section| section.contains("dev-"));
                let (version, foreign) = match dotted {
                    Some("workspace") => ("of the workspace".to_owned(), false),
                    Some(_) => continue,
                    None => cargo_value(value),
                };
                found.insert(name.to_owned(), Needed { version, development, foreign, line: index });
            }
        }
    }
    found
}

fn is_needs(section: &str) -> bool {
    let last = section.rsplit('.').next().unwrap_or_default();
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
}

fn cargo_value(value: &str) -> (String, bool) {
    if !value.starts_with('{') {
        return (unquoted(value), false);
    }
    let member = |name: &str| {
        value.trim_matches(['{', '}']).split(',').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            (key.trim() == name).then(|| unquoted(value.trim()))
        })
    };
    if let Some(git) = member("git") {
        return (format!("git {git}"), true);
    }
    if let Some(version) = member("version") {
        return (version, false);
    }
    match member("path") {
        Some(path) => (format!("path {path}"), false),
        None if value.contains("workspace") => ("of the workspace".to_owned(), false),
        None => (String::new(), false),
    }
}

/// Pairs of `name = ".."` and `version = ".."`.
fn cargo_lock(text: &str) -> Found {
    let mut found = Found::new();
    let mut name: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = Some(unquoted(value));
        } else if let Some(value) = line.strip_prefix("version = ")
            && let Some(name) = name.take()
        {
            joined(&mut found, name, unquoted(value), index);
        }
    }
    found
}

/// Adds a version to those that are locked of a name.
fn joined(found: &mut Found, name: String, version: String, line: usize) {
    let needed = found.entry(name).or_insert_with(|| Needed { line, ..Needed::default() });
    if !needed.version.is_empty() {
        needed.version.push_str(", ");
    }
    needed.version.push_str(&version);
}

fn npm(text: &str, whole: bool) -> Found {
    const SECTIONS: [&str; 4] = ["dependencies", "devDependencies", "peerDependencies", "optionalDependencies"];
    const KEYS: [&str; 14] = [
        "name", "version", "description", "main", "module", "types", "license", "author", "homepage", "type", "node", "npm", "private",
        "packageManager",
    ];
    let mut found = Found::new();
    let line_of = |name: &str| text.lines().position(|line| line.trim_start().starts_with(&format!("\"{name}\""))).unwrap_or(0);
    if whole && let Ok(Value::Object(all)) = serde_json::from_str::<Value>(text) {
        for section in SECTIONS {
            for (name, version) in all.get(section).and_then(Value::as_object).into_iter().flatten() {
                let version = version.as_str().unwrap_or_default().to_owned();
                let needed = Needed { foreign: is_foreign(&version), development: section == "devDependencies", line: line_of(name), version };
                found.insert(name.clone(), needed);
            }
        }
        return found;
    }
    let mut section: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim().trim_end_matches(',');
        if line.starts_with('}') {
            section = Some(String::new());
            continue;
        }
        let Some((name, value)) = line.split_once("\":") else { continue };
        let (name, value) = (name.trim_start_matches('"'), value.trim());
        if value.starts_with('{') {
            section = Some(name.to_owned());
            continue;
        }
        let version = unquoted(value);
        let known = section.as_deref().is_none_or(|section| SECTIONS.contains(&section));
        let shaped = is_version(&version) || is_foreign(&version) || version == "latest";
        if known && value.starts_with('"') && shaped && !KEYS.contains(&name) {
            let development = section.as_deref() == Some("devDependencies");
            found.insert(name.to_owned(), Needed { foreign: is_foreign(&version), version, development, line: index });
        }
    }
    found
}

fn npm_lock(text: &str) -> Found {
    let mut found = Found::new();
    let mut name: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some((key, rest)) = line.strip_prefix('"').and_then(|line| line.split_once("\":"))
            && rest.trim().starts_with('{')
        {
            // Whole locks name packages by their folder; older ones by their name alone.
            let last = key.rsplit("node_modules/").next().unwrap_or(key);
            name = (!last.is_empty() && !["packages", "dependencies", "requires", "engines", "bin"].contains(&last)).then(|| last.to_owned());
        } else if let Some(value) = line.strip_prefix("\"version\":")
            && let Some(name) = name.take()
        {
            joined(&mut found, name, unquoted(value.trim().trim_end_matches(',')), index);
        }
    }
    found
}

/// `name==1`, `name[extra]>=1 ; marker`, `name @ url`.
fn requirement(line: &str) -> Option<(String, Needed)> {
    let line = line.split(" #").next().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !line.starts_with(|letter: char| letter.is_ascii_alphanumeric()) || line.contains("://") && !line.contains('@') {
        return None;
    }
    let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim();
    let rest = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?.1.trim(),
        None => rest,
    };
    let foreign = rest.starts_with('@');
    if !rest.is_empty() && !foreign && !rest.starts_with(['=', '>', '<', '~', '!', '(']) {
        return None;
    }
    let version = rest.split(" --").next().unwrap_or_default().trim().trim_matches(['(', ')']).to_owned();
    // Names of Python are the same in either case and with any of these signs.
    let name = name.to_lowercase().replace(['_', '.'], "-");
    Some((name, Needed { version, foreign, ..Needed::default() }))
}

fn requirements(text: &str) -> Found {
    let lines = text.lines().enumerate();
    lines.filter_map(|(line, text)| requirement(text).map(|(name, needed)| (name, Needed { line, ..needed }))).collect()
}

fn pyproject(text: &str, whole: bool) -> Found {
    let mut found = Found::new();
    let mut section: Option<String> = if whole { Some(String::new()) } else { None };
    let mut within = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') && line.ends_with(']') && !line.contains('"') {
            section = Some(line.trim_matches(['[', ']']).to_owned());
            within = false;
            continue;
        }
        let here = section.as_deref();
        let optional = here.is_some_and(|it| it == "project.optional-dependencies" || it == "dependency-groups");
        if let Some((name, value)) = line.split_once('=')
            && !line.starts_with(['"', '\''])
        {
            let (name, value) = (name.trim(), value.trim());
            if here.is_some_and(|it| it.starts_with("tool.poetry") && it.ends_with("dependencies")) {
                if name != "python" {
                    let (version, foreign) = cargo_value(value);
                    let development = here.is_some_and(|it| it.contains("dev"));
                    found.insert(name.to_lowercase().replace('_', "-"), Needed { version, foreign, development, line: index });
                }
                continue;
            }
            within = value.starts_with('[') && (optional || (here == Some("project") && name == "dependencies") || (here.is_none() && name == "dependencies") || (here == Some("build-system") && name == "requires"));
            if within {
                array(value, index, optional, &mut found);
                within = !value.contains(']') || value.ends_with('[');
            }
            continue;
        }
        // In a part, a line of its own in quotes is one of a list.
        if within || (here.is_none() && line.starts_with(['"', '\''])) {
            array(line, index, optional, &mut found);
            within &= !line.starts_with(']');
        }
    }
    found
}

/// The texts in quotes on a line, as requirements.
fn array(line: &str, index: usize, development: bool, found: &mut Found) {
    let mut rest = line;
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = rest.as_bytes()[at] as char;
        let Some(end) = rest[at + 1..].find(quote) else { return };
        if let Some((name, needed)) = requirement(&rest[at + 1..at + 1 + end]) {
            found.insert(name, Needed { line: index, development, ..needed });
        }
        rest = &rest[at + 2 + end..];
    }
}

fn go_mod(text: &str, whole: bool) -> Found {
    let mut found = Found::new();
    let mut block: Option<&str> = if whole { None } else { Some("require") };
    for (index, line) in text.lines().enumerate() {
        let (line, comment) = line.split_once("//").unwrap_or((line, ""));
        let line = line.trim();
        let (directive, rest) = match (line.split_once(' '), block) {
            (Some((word @ ("require" | "replace" | "exclude" | "retract"), "(")), _) => {
                block = Some(word);
                continue;
            }
            (Some((word @ ("require" | "replace"), rest)), _) => (word, rest),
            (Some(("module" | "go" | "toolchain" | "exclude" | "retract", _)), _) => continue,
            (_, _) if line == ")" => {
                block = None;
                continue;
            }
            (_, Some(word)) => (word, line),
            (_, None) => continue,
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (directive, &words[..]) {
            ("require", [name, version]) if name.contains('.') || name.contains('/') => {
                let development = comment.contains("indirect");
                found.insert((*name).to_owned(), Needed { version: (*version).to_owned(), development, foreign: false, line: index });
            }
            ("replace" | "require", _) if rest.contains("=>") => {
                let name = words.first().copied().unwrap_or_default();
                let to = rest.split_once("=>").map_or("", |(_, to)| to.trim());
                found.insert(format!("{name} (replaced)"), Needed { version: to.to_owned(), development: false, foreign: true, line: index });
            }
            _ => {}
        }
    }
    found
}

fn maven(text: &str) -> Found {
    let mut found = Found::new();
    let tag = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim().to_owned())
    };
    let (mut group, mut artifact, mut begin) = (None, None, 0);
    let mut version = String::new();
    let mut test = false;
    for (index, line) in text.lines().enumerate() {
        if line.contains("<dependency>") || line.contains("<plugin>") || line.contains("<parent>") {
            (group, artifact, version, test, begin) = (None, None, String::new(), false, index);
        }
        group = tag(line, "groupId").or(group);
        artifact = tag(line, "artifactId").or(artifact);
        if let Some(found) = tag(line, "version") {
            (version, begin) = (found, index);
        }
        test |= tag(line, "scope").as_deref() == Some("test");
        if (line.contains("</dependency>") || line.contains("</plugin>") || line.contains("</parent>"))
            && let Some(artifact) = artifact.take()
        {
            let name = group.take().map_or(artifact.clone(), |group| format!("{group}:{artifact}"));
            let needed = Needed { version: std::mem::take(&mut version), development: test, foreign: false, line: begin };
            found.insert(name, needed);
        }
    }
    found
}

fn unquoted(value: &str) -> String {
    value.trim().trim_end_matches(',').trim().trim_matches(['"', '\'']).to_owned()
}

/// Whether a text looks like a version or a range of them.
fn is_version(text: &str) -> bool {
    let bare = text.trim_start_matches(['^', '~', '=', '>', '<', ' ', 'v']);
    text == "*" || (bare.starts_with(|letter: char| letter.is_ascii_digit()) && text.len() <= 80 && !text.contains('/'))
}

fn is_foreign(version: &str) -> bool {
    ["git", "http:", "https:", "file:", "github:", "link:", "ssh:"].iter().any(|start| version.starts_with(start))
        || (version.contains('/') && !version.starts_with("npm:") && !version.starts_with("workspace:"))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
