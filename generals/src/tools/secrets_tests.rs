use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;

const SET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/secrets/lines.tsv");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/results/secrets.json");
const PRECISION_MIN: f64 = 0.95;
const RECALL_MIN: f64 = 0.9;

/// The labelled lines: label, path, kind, text. The mark in a secret is taken out, and `\n` is a line feed.
fn set() -> Vec<(bool, String, String, String)> {
    let text = fs::read_to_string(SET).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.splitn(4, '\t').collect();
        let [label, path, kind, text] = fields[..] else { panic!("not four fields: {line}") };
        assert!(["secret", "clean"].contains(&label), "{line}");
        let whole = text.replace('¦', "").replace("\\\\n", "\u{0}").replace("\\n", "\n").replace('\u{0}', "\\n");
        (label == "secret", path.to_owned(), kind.to_owned(), whole)
    };
    text.lines().map(row).collect()
}

#[test]
fn the_labelled_set_is_told_apart() {
    let set = set();
    let (mut right, mut wrong, mut missed) = (0u32, Vec::new(), Vec::new());
    let mut by_kind: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (secret, path, kind, text) in &set {
        let hits = scan(text.lines(), Setting::of(path), &[]);
        let counted = by_kind.entry(kind).or_default();
        counted.0 += 1;
        counted.1 += u32::from(!hits.is_empty());
        match (secret, hits.is_empty()) {
            (true, false) => right += 1,
            (true, true) => missed.push(format!("{path}: {kind}")),
            (false, false) => wrong.push(format!("{path}: {} in {kind}", hits[0].kind)),
            (false, true) => {}
        }
    }
    let secrets = set.iter().filter(|row| row.0).count() as u32;
    let clean = set.len() as u32 - secrets;
    let precision = f64::from(right) / f64::from(right + wrong.len() as u32);
    let recall = f64::from(right) / f64::from(secrets);
    let kinds: BTreeMap<&str, serde_json::Value> =
        by_kind.iter().map(|(kind, (lines, found))| (*kind, json!({"lines": lines, "found": found}))).collect();
    let result = json!({
        "lines": set.len(), "secrets": secrets, "clean": clean, "found": right, "wrongly_found": wrong, "missed": missed,
        "precision": (precision * 1000.0).round() / 1000.0, "recall": (recall * 1000.0).round() / 1000.0, "kinds": kinds,
    });
    if Path::new(RESULTS).parent().is_some_and(Path::is_dir) {
        fs::write(RESULTS, format!("{}\n", serde_json::to_string_pretty(&result).unwrap())).unwrap();
    }
    assert!(secrets >= 100 && clean >= 100 && set.len() >= 200);
    assert!(precision >= PRECISION_MIN && recall >= RECALL_MIN, "precision {precision}, recall {recall}: {wrong:?} {missed:?}");
}

#[test]
fn the_set_itself_holds_no_secret() {
    let text = fs::read_to_string(SET).unwrap();
    for line in text.lines() {
        let (label, rest) = line.split_once('\t').unwrap();
        assert!(label == "clean" || scan([rest], Setting::Generated, &[]).is_empty(), "{line}");
    }
}

#[test]
fn what_a_known_format_tells_is_said_to_be_known() {
    let value = "Qx7Rm2Kp9Ws4Tn6Yb3Vc8Zd5Lf1Hg0Jk7QwAs";
    let hits = scan([format!("token = \"ghp_{}\"", &value[..36]).as_str()], Setting::Code, &[]);
    assert_eq!(hits, [Hit { kind: "GitHub token".into(), line: 0, known: true }]);
    let hits = scan(["x", &format!("token = \"{value}\"")], Setting::Code, &[]);
    assert_eq!(hits, [Hit { kind: "secret value".into(), line: 1, known: false }]);
    let own = SecretPattern { name: "ours".into(), prefix: "zz_".into(), min: 10, max: None, letters: Letters::Any, also: String::new() };
    assert_eq!(scan([format!("zz_{value}").as_str()], Setting::Prose, &[own])[0].kind, "ours");
}

#[test]
fn names_are_taken_for_what_they_are() {
    for name in ["password", "dbPassword", "DB_PASSWORD", "api-key", "X_API_KEY", "clientSecret", "jwt.secret", "AUTH_TOKEN", "accessToken"] {
        assert!(kind_of(name).is_some(), "{name}");
    }
    for name in ["passwordHash", "token_url", "secretName", "tokenizer", "max_tokens", "public_key", "csrfToken", "compass", "keyboard", "path", "author"] {
        assert_eq!(kind_of(name), None, "{name}");
    }
    assert_eq!(snake("dbPassword-v2.X"), "db_password_v2_x");
}

#[test]
fn noise_is_survived() {
    let pieces = ["password", "=", ":", "\"", "'", "token", "eyJ", ".", "://", "@", "a:b", "é", "-----BEGIN ", "PRIVATE KEY-----", "Bearer ", "ghp_", "AKIA", "-us1", ":AA", "--", " ", "\\", "T3BlbkFJ", "aB3dE5gH7jK9mN1pQ3"];
    let settings = [Setting::Prose, Setting::Code, Setting::Bare, Setting::Generated];
    let mut seed = 11u64;
    for round in 0..20_000 {
        let mut text = String::new();
        for _ in 0..10 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        scan(text.lines(), settings[round % settings.len()], &[]);
    }
    let long = "password=\"".repeat(20_000);
    scan([long.as_str()], Setting::Bare, &[]);
}
