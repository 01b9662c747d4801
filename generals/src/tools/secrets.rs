//! Credentials in texts and in added lines: known formats, and values of random look under names that say what they are.
//!
//! ```text
//!  known prefix + letters --+
//!  private key block -------+--> no placeholder, no example, no known test key --> a hit
//!  password in a URL -------+
//!  name = "random value" ---+
//! ```
//! Formats, names and placeholders are data (`secrets.json`). Invariant: what is found is told by its kind and place, never repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::json;

use super::files::{is_generated, is_prose, is_test};
use crate::Profile;
use crate::analysis::Analysis;
use crate::evidence::Evidence;
use crate::profile::{Letters, SecretPattern};
use crate::report::{Findings, Place, Severity};
use crate::text::{clipped, count};

mod look;

use look::{entropy, is_uuid, looks_random};

/// Longest line that is looked at for values under names; longer ones are made by programs.
const LINE_MAX: usize = 1000;
/// Longest line that is looked at for formats.
const FORMAT_LINE_MAX: usize = 100_000;
/// Fewest letters of a password and of another value under a name.
const PASSWORD_MIN: usize = 8;
const VALUE_MIN: usize = 16;
const VALUE_MAX: usize = 500;
/// Fewest bits a letter that a value of random look has.
const ENTROPY_MIN: f64 = 3.0;
const NAME_MAX: usize = 120;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    formats: Vec<SecretPattern>,
    /// What names of secrets hold.
    names: Vec<String>,
    /// What names end with that are of something about a secret.
    endings: Vec<String>,
    /// What values hold that stand for others.
    placeholders: Vec<String>,
    /// What values under names hold that are words.
    words: Vec<String>,
    /// Values that documentation and tests of the world use.
    known: Vec<String>,
}

static DATA: LazyLock<Data> =
    LazyLock::new(|| serde_json::from_str(include_str!("secrets.json")).expect("secrets.json is one of ours"));

/// A credential in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) kind: String,
    /// The line, counted from 0.
    pub(crate) line: usize,
    /// Whether a known format tells it, and not its look alone.
    pub(crate) known: bool,
}

/// Where a text stands, as far as it decides what is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Prose of a person: values need quotes.
    #[default]
    Prose,
    /// Code: values need quotes.
    Code,
    /// Settings, scripts and variables: values stand bare.
    Bare,
    /// Made by programs: formats alone.
    Generated,
}

impl Setting {
    pub(crate) fn of(path: &str) -> Setting {
        let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let bare = [
            "env",
            "properties",
            "ini",
            "cfg",
            "conf",
            "config",
            "yaml",
            "yml",
            "toml",
            "sh",
            "bash",
            "zsh",
            "tfvars",
            "tf",
            "hcl",
            "npmrc",
            "netrc",
            "pypirc",
            "service",
            "envrc",
        ];
        let generated = ["svg", "lock", "sum", "map", "snap", "ipynb", "csv", "pem", "crt", "patch", "diff"];
        if is_generated(path) || generated.contains(&extension) && extension != "pem" {
            Setting::Generated
        } else if bare.contains(&extension)
            || name.starts_with(".env")
            || ["dockerfile", "credentials", "config"].contains(&name.as_str())
            || extension.starts_with("env")
        {
            Setting::Bare
        } else if is_prose(path) || extension == "txt" {
            Setting::Prose
        } else {
            Setting::Code
        }
    }
}

/// The credentials in a text of several lines. `more` are formats of a profile's own.
pub(crate) fn scan<'a>(lines: impl IntoIterator<Item = &'a str>, setting: Setting, more: &[SecretPattern]) -> Vec<Hit> {
    let lines: Vec<&str> = lines.into_iter().collect();
    let mut hits = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let mut line = line.trim_end_matches('\r');
        if line.len() > FORMAT_LINE_MAX {
            line = crate::change::log::clip(line, FORMAT_LINE_MAX);
        }
        let mut kinds: BTreeSet<(String, bool)> = BTreeSet::new();
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for pattern in DATA.formats.iter().chain(more) {
            for (start, end) in occurrences(line, pattern) {
                // `sk-` begins `sk-ant-` too: what was told already is not told again.
                if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                    spans.push((start, end));
                    kinds.insert((pattern.name.clone(), true));
                }
            }
        }
        for (start, end, kind) in structured(line) {
            if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                spans.push((start, end));
                kinds.insert((kind.to_owned(), true));
            }
        }
        if is_key_block(line, lines.get(number + 1).copied()) {
            kinds.insert(("private key".to_owned(), true));
        }
        if setting != Setting::Generated && line.len() <= LINE_MAX {
            for (start, end, kind) in assigned(line, setting) {
                if !spans.iter().any(|(from, to)| start < *to && end > *from) {
                    spans.push((start, end));
                    kinds.insert((kind.to_owned(), false));
                }
            }
        }
        hits.extend(kinds.into_iter().map(|(kind, known)| Hit { kind, line: number, known }));
    }
    hits
}

pub(super) const ADDED: Analysis =
    Analysis { name: "secrets", thresholds: &[], words: &[], codes: &["secrets.added", "secrets.none_added"], run };

fn run(profile: &Profile, evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(change) = evidence.change else { return };
    let (mut lines, mut found) = (0u64, 0u64);
    for file in &change.files {
        let added: Vec<(u32, &str)> = file.added().collect();
        lines += added.len() as u64;
        for hit in scan(added.iter().map(|(_, line)| *line), Setting::of(&file.path), &profile.secrets) {
            found += 1;
            let name = clipped(&file.path, NAME_MAX);
            let number = added[hit.line].0;
            let test = is_test(&file.path);
            let severity = match (hit.known, test) {
                (true, false) => Severity::Critical,
                (true, true) | (false, false) => Severity::Warning,
                (false, true) => Severity::Notice,
            };
            let text = format!("What looks like a credential ({}) is added in {name}, line {number}.", hit.kind);
            let data =
                json!({"kind": hit.kind, "path": name, "line": number, "known_format": hit.known, "in_tests": test});
            findings.add_at(Place::line(&file.path, number), severity, "secrets.added", text, data);
        }
    }
    if found == 0 && lines > 0 {
        let text = format!("No credential in {}.", count(lines, "added line"));
        findings.add(Severity::Info, "secrets.none_added", text, json!({"lines": lines}));
    }
}

/// How often each kind of credential stands in the texts of an event.
pub(crate) fn in_text(text: &str, more: &[SecretPattern]) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for hit in scan(text.lines(), Setting::Prose, more) {
        *kinds.entry(hit.kind).or_default() += 1;
    }
    kinds
}

/// Where a format occurs.
fn occurrences(line: &str, pattern: &SecretPattern) -> Vec<(usize, usize)> {
    if pattern.prefix.is_empty() {
        return Vec::new();
    }
    let bytes = line.as_bytes();
    let accepted = |byte: u8| {
        let letter = match pattern.letters {
            Letters::Any => byte.is_ascii_alphanumeric(),
            Letters::Hex => byte.is_ascii_hexdigit(),
            Letters::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        };
        letter || pattern.also.as_bytes().contains(&byte)
    };
    let found = line.match_indices(&pattern.prefix).filter_map(|(at, _)| {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let begin = at + pattern.prefix.len();
        let mut length = bytes[begin..].iter().take_while(|byte| accepted(**byte)).count();
        let next = bytes.get(begin + length).copied();
        // A run that goes on with other letters is something longer.
        let ends = !next.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        length = length.min(pattern.max.unwrap_or(usize::MAX).saturating_add(1));
        let begins = !pattern.prefix.as_bytes()[0].is_ascii_alphanumeric()
            || !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let value = &line[begin..begin + length];
        let fits = begins && ends && length >= pattern.min && pattern.max.is_none_or(|max| length <= max);
        (fits && (pattern.min == 0 || is_real(value))).then_some((at, begin + length))
    });
    found.collect()
}

/// Whether a value is one, and does not stand for one.
fn is_real(value: &str) -> bool {
    let lower = value.to_lowercase();
    let holds = |words: &[String]| words.iter().any(|word| lower.contains(word.as_str()));
    let letters: Vec<char> = value.chars().collect();
    let run = letters.windows(5).any(|five| five.iter().all(|letter| letter == &five[0]));
    !run && entropy(value) >= ENTROPY_MIN.min(max_entropy(value) * 0.72)
        && !holds(&DATA.placeholders)
        && !DATA.known.iter().any(|known| known.contains(value) || value.contains(known.as_str()))
}

/// The most bits a letter that a text of this length can have.
fn max_entropy(value: &str) -> f64 {
    (value.len().max(1) as f64).log2()
}

/// Credentials told by how they are built.
fn structured(line: &str) -> Vec<(usize, usize, &'static str)> {
    let mut found = Vec::new();
    let word = |byte: u8, also: &[u8]| byte.is_ascii_alphanumeric() || also.contains(&byte);
    let bytes = line.as_bytes();
    let run = |from: usize, also: &[u8]| bytes[from..].iter().take_while(|byte| word(**byte, also)).count();
    // A signed web token: three parts, of which the first two are JSON.
    for (at, _) in line.match_indices("eyJ") {
        if at > 0 && word(bytes[at - 1], b"-_") {
            continue;
        }
        let head = run(at, b"-_");
        let body_at = at + head + 1;
        if bytes.get(at + head) != Some(&b'.') || !line[body_at..].starts_with("eyJ") {
            continue;
        }
        let body = run(body_at, b"-_");
        let tail_at = body_at + body + 1;
        if bytes.get(body_at + body) == Some(&b'.') && tail_at < bytes.len() {
            let tail = run(tail_at, b"-_");
            if head >= 16 && body >= 16 && tail >= 20 && is_real(&line[tail_at..tail_at + tail]) {
                found.push((at, tail_at + tail, "JSON web token"));
            }
        }
    }
    // A bot of Telegram: digits, `:AA`, 33 letters.
    for (at, _) in line.match_indices(":AA") {
        let digits = bytes[..at].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let letters = run(at + 1, b"-_");
        if (8..=10).contains(&digits) && letters == 35 && is_real(&line[at + 1..at + 1 + letters]) {
            found.push((at - digits, at + 1 + letters, "Telegram bot token"));
        }
    }
    // Mailchimp: 32 hexadecimal digits and the data centre.
    for (at, _) in line.match_indices("-us") {
        let hex = bytes[..at].iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let digits = bytes[at + 3..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if hex == 32 && (1..=2).contains(&digits) && is_real(&line[at - hex..at]) {
            found.push((at - hex, at + 3 + digits, "Mailchimp key"));
        }
    }
    // OpenAI's older keys hold this in their middle.
    for (at, _) in line.match_indices("T3BlbkFJ") {
        let before = bytes[..at].iter().rev().take_while(|byte| word(**byte, b"-_")).count();
        let after = run(at, b"-_");
        if line[at - before..].starts_with("sk-") && before >= 20 && after >= 24 {
            found.push((at - before, at + after, "OpenAI key"));
        }
    }
    found.extend(passwords_in_urls(line));
    found.extend(headers(line));
    found
}

/// `scheme://name:password@host`, where the password is more than a placeholder.
fn passwords_in_urls(line: &str) -> Vec<(usize, usize, &'static str)> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("://") {
        let begin = at + 3;
        let rest = &line[begin..];
        let end = rest.find(|letter: char| {
            letter.is_whitespace() || matches!(letter, '/' | '"' | '\'' | '<' | '>' | ')' | '`' | '?')
        });
        let authority = &rest[..end.unwrap_or(rest.len())];
        let Some((credentials, host)) = authority.rsplit_once('@') else { continue };
        let Some((user, password)) = credentials.split_once(':') else { continue };
        let plain = password.to_lowercase();
        let host_bare = host.split(':').next().unwrap_or_default();
        let stands_for = plain == user.to_lowercase()
            || plain.starts_with(['$', '*', '{', '[', '%'])
            || (!looks_random(password, PASSWORD_MIN, false)
                && DATA.words.iter().any(|word| plain.contains(word.as_str())))
            || ["pass", "pwd", "pw", "xxx", "abc", "123", "1234", "12345", "123456", "bar", "baz", "postgres", "mysql"]
                .contains(&plain.as_str())
            || DATA.placeholders.iter().any(|word| plain.contains(word.as_str()))
            || ["example.com", "example.org", "example.net", "host", "hostname"]
                .iter()
                .any(|one| host_bare == *one || host_bare.ends_with(&format!(".{one}")));
        if !host.is_empty() && password.len() >= 4 && !stands_for {
            found.push((begin, begin + authority.len(), "password in a URL"));
        }
    }
    found
}

/// `Authorization: Bearer ...` and `Basic ...` with a value.
fn headers(line: &str) -> Vec<(usize, usize, &'static str)> {
    let mut found = Vec::new();
    let lower = line.to_ascii_lowercase();
    for (scheme, kind) in [("bearer ", "bearer token"), ("basic ", "basic credentials")] {
        for (at, _) in lower.match_indices(scheme) {
            let begin = at + scheme.len();
            let length = line.as_bytes()[begin..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || b"-_.+/=~".contains(byte))
                .count();
            let value = &line[begin..begin + length];
            let named = lower[..at].contains("authorization");
            let real = match scheme {
                "bearer " => length >= 20 && looks_random(value, VALUE_MIN, false),
                _ => named && is_pair(value),
            };
            if (named || length >= 32) && real && is_real(value) {
                found.push((begin, begin + length, kind));
            }
        }
    }
    found
}

/// Whether a text is base64 of `user:password`.
fn is_pair(value: &str) -> bool {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(value);
    let Some(text) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else { return false };
    let Some((user, password)) = text.split_once(':') else { return false };
    let lower = password.to_lowercase();
    password.len() >= 6
        && user != password
        && text.chars().all(|letter| letter.is_ascii_graphic())
        && !DATA.placeholders.iter().chain(&DATA.words).any(|word| lower.contains(word.as_str()))
}

/// Whether a private key begins here: its head, and behind it on the same line or the next what a key is made of.
fn is_key_block(line: &str, next: Option<&str>) -> bool {
    let head = line.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
    let Some((kind, behind)) = head else { return false };
    if !kind.ends_with("PRIVATE KEY") && kind != "PGP PRIVATE KEY BLOCK" {
        return false;
    }
    // In a text of code, line feeds are written out.
    let start = |text: &'_ str| -> String {
        text.replace("\\r", "").replace("\\n", "").trim_start_matches(['"', '\'', '+', ' ', '\t', '`']).to_owned()
    };
    let is_body = |text: &str| {
        let text = start(text);
        let run = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)).count();
        let marks = ["Proc-Type:", "Version:", "DEK-Info:", "Comment:"];
        (run >= 32 && is_real(&text[..run])) || marks.iter().any(|mark| text.starts_with(mark))
    };
    let ends_here = start(behind).trim_end_matches(['"', '\'', ',', '\\', '+', ' ', '`', '(']).is_empty();
    // Behind the head of a block of PGP stands an empty line.
    let blank = |text: &str| text.trim().is_empty() && kind.starts_with("PGP");
    is_body(behind) || (ends_here && next.is_some_and(|next| is_body(next) || blank(next)))
}

/// Values of random look under names that say what they are.
fn assigned(line: &str, setting: Setting) -> Vec<(usize, usize, &'static str)> {
    let mut found = Vec::new();
    let bytes = line.as_bytes();
    for at in 0..bytes.len() {
        // Behind a name in quotes, a comma gives it its value: `define('NAME', 'value')`.
        let pair = bytes[at] == b',' && at > 0 && matches!(bytes[at - 1], b'"' | b'\'');
        let option = bytes[at] == b' ' && setting != Setting::Code;
        if !matches!(bytes[at], b'=' | b':') && !pair && !option {
            continue;
        }
        // `::` of paths, and the first half of `:=`, `==` and `=>`.
        if matches!(bytes.get(at + 1), Some(b':' | b'=')) || (bytes[at] == b':' && at > 0 && bytes[at - 1] == b':') {
            continue;
        }
        let Some(name) = name_before(line, at) else { continue };
        // A blank divides only an option of a command from its value.
        if bytes[at] == b' ' && !name.starts_with("--") {
            continue;
        }
        let Some(kind) = kind_of(name) else { continue };
        let setting = if pair { Setting::Code } else { setting };
        let Some((start, end)) = value_behind(line, at + 1, setting) else { continue };
        let value = &line[start..end];
        if is_secret_value(value, kind) {
            found.push((start, end, kind));
        }
    }
    found
}

/// The name that a value is given to: what stands before, past blanks, quotes and a type.
fn name_before(line: &str, at: usize) -> Option<&str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let bytes = line.as_bytes();
    let word_before = |mut end: usize| -> Option<(usize, usize)> {
        while end > 0
            && matches!(
                bytes[end - 1],
                b' ' | b'\t' | b'"' | b'\'' | b'`' | b']' | b')' | b':' | b'=' | b'!' | b'?' | b'&'
            )
        {
            end -= 1;
        }
        let start = end - bytes[..end].iter().rev().take_while(|byte| is_name(**byte)).count();
        (start < end).then_some((start, end))
    };
    let (start, end) = word_before(at)?;
    let name = &line[start..end];
    if kind_of(name).is_some() {
        return Some(name);
    }
    // `name: type = value`, `name string = value`, `type` being one word or a reference to it.
    let types =
        ["str", "string", "String", "char", "static", "Secret", "const", "Option", "bytes", "byte", "text", "varchar"];
    if bytes[at] == b'=' && types.contains(&name) {
        let mut before = start;
        while before > 0 && matches!(bytes[before - 1], b'&' | b'*' | b'\'' | b'<' | b' ') {
            before -= 1;
        }
        let (start, end) = word_before(before)?;
        let name = &line[start..end];
        if name == "static" {
            let (start, end) = word_before(start)?;
            return Some(&line[start..end]);
        }
        return Some(name);
    }
    Some(name)
}

/// What kind of credential a name is of, if any.
fn kind_of(name: &str) -> Option<&'static str> {
    let plain = snake(name);
    let parts: Vec<&str> = plain.split('_').filter(|part| !part.is_empty()).collect();
    let last = parts.last()?;
    let two = if parts.len() > 1 { parts[parts.len() - 2..].join("_") } else { String::new() };
    if DATA.endings.iter().any(|ending| ending == last || *ending == two)
        || parts.iter().any(|part| ["public", "csrf", "xsrf", "fake", "mock", "dummy", "example"].contains(part))
    {
        return None;
    }
    let named = DATA.names.iter().any(|word| match word.contains('_') {
        true => plain == *word || plain.ends_with(&format!("_{word}")) || plain.contains(&format!("{word}_")),
        false => parts.contains(&word.as_str()) || (word.len() >= 6 && last.ends_with(word.as_str())),
    });
    if !named {
        return None;
    }
    let is_password = parts.iter().any(|part| {
        matches!(*part, "password" | "passwd" | "pwd" | "passphrase" | "pass") || part.ends_with("password")
    });
    Some(if is_password { "password" } else { "secret value" })
}

/// `camelCase`, `kebab-case` and `dotted.names` as `snake_case`.
fn snake(name: &str) -> String {
    let mut plain = String::with_capacity(name.len() + 4);
    let mut before = '_';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            plain.push('_');
        }
        plain.push(if matches!(letter, '-' | '.') { '_' } else { letter.to_ascii_lowercase() });
        before = letter;
    }
    plain
}

/// Where the value begins and ends that stands behind a sign of assignment.
fn value_behind(line: &str, from: usize, setting: Setting) -> Option<(usize, usize)> {
    let bytes = line.as_bytes();
    let mut at = from;
    while at < bytes.len() && matches!(bytes[at], b' ' | b'\t' | b'>' | b'(') {
        at += 1;
    }
    // Letters before a quote say what kind of text it is.
    let mark = bytes[at..].iter().take(3).position(|byte| matches!(byte, b'"' | b'\'' | b'`'));
    if let Some(mark) = mark
        && bytes[at..at + mark].iter().all(|byte| matches!(byte, b'r' | b'b' | b'f' | b'u' | b'@' | b'#' | b'\\'))
    {
        let quote = bytes[at + mark];
        let start = at + mark + 1;
        let length = bytes[start..].iter().position(|byte| *byte == quote)?;
        let value = &line[start..start + length];
        // An escaped quote within a quoted text ends with the backslash before it.
        return Some((start, start + value.trim_end_matches('\\').len()));
    }
    if setting != Setting::Bare && !(setting == Setting::Prose && from > 1) {
        // In a text within quotes, such as a connection string, the value ends with a semicolon.
        let inside = line[..from].matches('"').count() % 2 == 1 && line[..from].contains(';');
        if !inside {
            return None;
        }
    }
    let length = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'`' | b';' | b',' | b')'))
        .count();
    (length > 0).then_some((at, at + length))
}

fn is_secret_value(value: &str, kind: &str) -> bool {
    if value.len() > VALUE_MAX || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    const STARTS: [&str; 9] = ["arn:", "vault:", "sha256:", "sha384-", "sha512-", "ENC[", "AQICA", "ssh-", "pk_"];
    const SIGNS: [char; 11] = ['$', '/', '.', '@', '!', '<', '[', '{', '%', '&', '*'];
    let elsewhere = value.contains("://") || value.contains("::") || value.contains("->") || value.contains('(');
    let refers = elsewhere || value.starts_with(SIGNS) || STARTS.iter().any(|start| value.starts_with(start));
    if kind == "password" {
        // A password may begin with a sign; what is hashed or names a variable is none.
        const OTHERS: [&str; 14] =
            ["$2a$", "$2b$", "$2y$", "$argon2", "$5$", "$6$", "$1$", "{", "${", "$(", "%(", "/", "<", "."];
        let variable =
            value.starts_with('$') && value[1..].bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let other = variable || elsewhere || OTHERS.iter().chain(&STARTS).any(|start| value.starts_with(start));
        let lower = value.to_lowercase();
        return !other
            && looks_random(value, PASSWORD_MIN, true)
            && is_real(value)
            && !DATA.words.iter().any(|word| lower.contains(word.as_str()));
    }
    if refers || !is_real(value) {
        return false;
    }
    let lower = value.to_lowercase();
    if is_uuid(value) {
        return true;
    }
    let words = DATA.words.iter().any(|word| word.len() >= 5 && lower.contains(word.as_str()));
    !words && looks_random(value, VALUE_MIN, false)
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
