//! Values of random look under names that say what they are: `api_key = "..."` in all its forms.

use super::look::{is_uuid, looks_random};
use super::{DATA, PASSWORD_MIN, Setting, VALUE_MAX, VALUE_MIN, is_real};

/// Values of random look under names that say what they are.
pub(super) fn assigned(line: &str, setting: Setting) -> Vec<(usize, usize, &'static str)> {
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
pub(super) fn kind_of(name: &str) -> Option<&'static str> {
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
pub(super) fn snake(name: &str) -> String {
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
