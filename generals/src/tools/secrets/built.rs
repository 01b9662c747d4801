//! Credentials told by how they are built: web tokens, tokens of bots, passwords in addresses, headers, blocks of keys.

use super::look::looks_random;
use super::{DATA, PASSWORD_MIN, VALUE_MIN, is_real};

/// Credentials told by how they are built.
pub(super) fn structured(line: &str) -> Vec<(usize, usize, &'static str)> {
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
pub(super) fn is_key_block(line: &str, next: Option<&str>) -> bool {
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
