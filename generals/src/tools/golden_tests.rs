//! Every tool over a change of several languages, made by `git` in a repository of its own, against findings that a person has read.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::change::{Change, Tree, log, parse};
use crate::{Event, Profile, examine};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/changes");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/findings.txt");

fn git(directory: &Path, day: u32, arguments: &[&str]) -> Vec<u8> {
    let date = format!("2026-01-{day:02}T23:30:00 +0100");
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Ann",
            "-c",
            "user.email=ann@x",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn change(directory: &Path) -> Change {
    let (files, cut) = parse(&git(directory, 1, &["diff", "-M", "HEAD~4", "HEAD"])).unwrap();
    let (commits, _) = log::parse(&git(directory, 1, &["log", "-z", "--numstat", "-M", log::FORMAT, "HEAD~4..HEAD"]));
    Change { repository: "o/r".into(), files, commits, cut, ..Change::default() }
}

/// A repository whose fixtures went from `before` to `after`, in four commits.
fn repository() -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let directory = made.path();
    git(directory, 1, &["init", "-q"]);
    copy(&Path::new(FIXTURES).join("before"), directory);
    git(directory, 1, &["add", "."]);
    git(directory, 1, &["commit", "-qm", "start"]);
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != ".git") {
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    copy(&Path::new(FIXTURES).join("after"), directory);
    // Made here, so that the file in the repository holds no line that looks like a credential.
    let secret = ["ghp", "_Qx7Rm2Kp9Ws4Tn6Yb3Vc8Zd5Lf1Hg0Jk7QwA"].concat();
    fs::write(directory.join("py/settings.py"), format!("DEBUG = True\nTOKEN = \"{secret}\"\n")).unwrap();
    for (day, message, paths) in [
        (2, "feat(web)!: load takes a flag", "web"),
        (3, "fix: trim before parsing", "rust"),
        (4, "fixup! fix: trim before parsing", "py"),
        (5, "Revert \"add a store\"\n\nThis reverts commit 0000.", "."),
    ] {
        git(directory, day, &["add", "-A", paths]);
        git(directory, day, &["commit", "-qm", message]);
    }
    made
}

#[test]
fn findings_are_as_recorded() {
    let made = repository();
    let change = change(made.path());
    let tree = Tree::of_directory(made.path(), "head").unwrap();
    let stock = Profile::stock("quality-assurance-general").unwrap();
    let documentation = Profile::stock("documentation-general").unwrap();
    let mut actual = String::new();
    for tool in super::ALL {
        let mut profile = stock.clone();
        profile.words.extend(documentation.words.clone());
        profile.analyses.clear();
        profile.tools = vec![tool.name.to_owned()];
        actual.push_str(&format!("## {}\n", tool.name));
        for finding in examine(&profile, &Event::default(), Some(&change), Some(&tree)) {
            assert!(tool.codes.contains(&finding.code), "{} does not declare {}", tool.name, finding.code);
            let place = finding.place.as_ref().map(|place| {
                let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
                format!(" {}{line}", place.path)
            });
            actual.push_str(&format!(
                "{:?} {}{}: {}\n",
                finding.severity,
                finding.code,
                place.unwrap_or_default(),
                finding.text
            ));
            assert!(
                !finding.text.contains("Qx7Rm2") && !finding.data.to_string().contains("Qx7Rm2"),
                "a secret was repeated"
            );
        }
    }
    if std::env::var_os("MINDOS_BLESS").is_some() {
        fs::write(GOLDEN, &actual).unwrap();
    }
    let recorded = fs::read_to_string(GOLDEN).unwrap();
    for (line, (got, wanted)) in actual.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", line + 1);
    }
    assert_eq!(actual.lines().count(), recorded.lines().count());
}

/// What is computed from the hunks alone names the same items, if not always the same lines.
#[test]
fn without_a_tree_the_hunks_are_enough_for_most() {
    let made = repository();
    let change = change(made.path());
    let mut profile = Profile::stock("architecture-general").unwrap();
    profile.analyses.clear();
    profile.tools = vec!["interfaces".into(), "dependencies".into()];
    let findings = examine(&profile, &Event::default(), Some(&change), None);
    let has = |code: &str, name: &str| findings.iter().any(|it| it.code == code && it.data["name"] == name);
    for (code, name) in [
        ("api.removed", "gone"),
        ("api.changed", "parse"),
        ("api.removed", "User.email"),
        ("api.changed", "Client.fetch"),
        ("api.changed", "Store.Get"),
        ("dependencies.major", "rand"),
        ("dependencies.added", "fork"),
        ("dependencies.removed", "old"),
        ("dependencies.major", "react"),
        ("dependencies.major", "django"),
    ] {
        assert!(
            has(code, name),
            "{code} {name} not in {:?}",
            findings.iter().map(|it| (it.code, &it.data["name"])).collect::<Vec<_>>()
        );
    }
}

#[test]
fn every_stock_general_examines_a_change() {
    let made = repository();
    let change = change(made.path());
    let tree = Tree::of_directory(made.path(), "head").unwrap();
    for name in Profile::types() {
        let profile = Profile::stock(name).unwrap();
        assert!(!profile.tools.is_empty(), "{name} has no tool");
        let data = serde_json::json!({"pull_request": {"number": 7, "title": "feat: a change"}});
        let event = Event { event_type: "pr_created".into(), data, ..Event::default() };
        let found = examine(&profile, &event, Some(&change), Some(&tree));
        assert!(!found.is_empty() && found.len() <= 100, "{name}");
        assert!(
            !found.iter().any(|it| ["tests.unlisted", "paths.unlisted", "size.unknown"].contains(&it.code)),
            "{name}"
        );
        assert_eq!(found, examine(&profile, &event, Some(&change), Some(&tree)), "{name} is not deterministic");
    }
}

/// A real diff with bytes of it changed, doubled and taken away: whatever is still a diff is examined.
#[test]
fn a_damaged_change_makes_no_tool_panic() {
    let made = repository();
    let diff = git(made.path(), 1, &["diff", "-M", "HEAD~4", "HEAD"]);
    let tree = Tree::of_directory(made.path(), "head").unwrap();
    let mut profile = Profile::stock("quality-assurance-general").unwrap();
    profile.words.extend(Profile::stock("documentation-general").unwrap().words);
    profile.tools = super::ALL.iter().map(|tool| tool.name.to_owned()).collect();
    let mut seed = 5u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut examined = 0;
    for round in 0..150 {
        let mut bytes = diff.clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len() - 64);
            match next(4) {
                0 => bytes[at] = b"{}()<>\"'=:/-+ \n9\xff"[next(17)],
                1 => drop(bytes.drain(at..at + next(40))),
                2 => {
                    let part = bytes[at..at + next(60)].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => drop(bytes.splice(at..at, *b"4294967295")),
            }
        }
        let Ok((files, cut)) = parse(&bytes) else { continue };
        examined += 1;
        let change = Change { files, cut, ..Change::default() };
        for file in &change.files {
            let _ = (file.now(u32::MAX), file.nearest(crate::change::Side::Right, 7));
        }
        let found = examine(&profile, &Event::default(), Some(&change), (round % 2 == 0).then_some(&tree));
        assert!(found.len() <= 100);
    }
    assert!(examined > 20, "{examined}");
}
