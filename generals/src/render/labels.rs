//! Labels: those that the profile allows, or that the repository has and that command nothing.

use serde_json::json;

use crate::Profile;
use crate::intent::Intent;
use crate::report::Finding;
use crate::run::Answer;

/// Most labels that one run puts on.
const ADDED_MAX: usize = 3;
/// Parts of names of labels by which people, this system or others set things in motion. Put on by a run only where the profile names them.
const COMMANDING: [&str; 22] = [
    "ai-", "mindos", "plan", "approve", "merge", "lgtm", "deploy", "release", "publish", "ship", "test", "ci", "run", "skip", "bypass",
    "trust", "safe", "allow", "hold", "automation", "bot", "backport",
];

/// What labels are chosen from.
pub(crate) struct Labelled<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) findings: &'a [Finding],
    pub(crate) answer: Option<&'a Answer>,
    /// Labels of the repository, as far as they are known.
    pub(crate) repository: &'a [String],
    /// Labels that it carries already.
    pub(crate) carried: &'a [&'a str],
}

/// What labels of priority begin with: of those that the profile names, a subject carries one.
const PRIORITY: &str = "priority: ";

/// The labels to put on, if any. None is taken off but a priority that another one replaces.
pub(crate) fn labels(labelled: &Labelled<'_>, target: &str) -> Option<Intent> {
    let Labelled { profile, findings, answer, repository, carried } = *labelled;
    let mut wanted: Vec<String> = Vec::new();
    match answer {
        Some(answer) => {
            wanted.extend(answer.labels.iter().cloned());
            if let Some(level) = answer.priority {
                let forms = [format!("{PRIORITY}{level}"), format!("priority/{level}"), format!("priority:{level}")];
                wanted.extend(forms);
            }
        }
        None => {
            let suggested = findings.iter().filter(|finding| finding.code == "labels.suggested");
            wanted.extend(suggested.filter_map(|finding| Some(finding.data.get("label")?.as_str()?.to_owned())));
            let urgency = findings.iter().find(|finding| finding.code.starts_with("urgency."));
            wanted.extend(urgency.and_then(|finding| Some(format!("{PRIORITY}{}", finding.data.get("level")?.as_str()?))));
        }
    }
    let mut add: Vec<&str> = Vec::new();
    for name in &wanted {
        let same = |known: &&str| known.eq_ignore_ascii_case(name);
        let by_profile = profile.labels.iter().map(String::as_str).find(same);
        let by_repository = || repository.iter().map(String::as_str).find(same).filter(|name| !commands(name));
        // In the spelling of the list that it is from, never in the model's.
        let Some(label) = by_profile.or_else(by_repository) else { continue };
        if !carried.iter().any(|known| known.eq_ignore_ascii_case(label)) && !add.contains(&label) && add.len() < ADDED_MAX {
            add.push(label);
        }
    }
    let chosen = wanted.iter().find(|name| name.starts_with(PRIORITY) && profile.labels.contains(name));
    let remove: Vec<&str> = match chosen {
        Some(chosen) => {
            let ours = |label: &&str| label.starts_with(PRIORITY) && *label != chosen && profile.labels.iter().any(|it| it == label);
            carried.iter().copied().filter(ours).collect()
        }
        None => Vec::new(),
    };
    let changes = !add.is_empty() || !remove.is_empty();
    changes.then(|| Intent::new("labels", target, json!({"add": add, "remove": remove})))
}

/// Whether a label's name sounds as if something happened by it.
fn commands(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = || name.split(|letter: char| !letter.is_alphanumeric());
    COMMANDING.iter().any(|part| match *part {
        // Short ones only as words.
        "ci" | "run" | "bot" | "plan" | "ship" | "test" | "safe" | "hold" | "skip" => words().any(|word| word == *part),
        part => name.contains(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(wanted: &[&str], repository: &[&str], carried: &[&str]) -> Vec<String> {
        let profile = Profile { labels: vec!["bug".into(), "ai-help".into()], ..Profile::stock("triage").unwrap() };
        let answer = Answer { labels: wanted.iter().map(|it| (*it).to_owned()).collect(), ..Answer::default() };
        let repository: Vec<String> = repository.iter().map(|it| (*it).to_owned()).collect();
        let labelled = Labelled { profile: &profile, findings: &[], answer: Some(&answer), repository: &repository, carried };
        let intent = labels(&labelled, "o/r#1");
        intent.map(|it| serde_json::from_value(it.parameters["add"].clone()).unwrap()).unwrap_or_default()
    }

    #[test]
    fn a_priority_takes_the_place_of_another() {
        let profile = Profile::stock("priority").unwrap();
        let answer = Answer { priority: Some("high"), ..Answer::default() };
        let carried = ["priority: low", "priority: mine", "bug"];
        let labelled = Labelled { profile: &profile, findings: &[], answer: Some(&answer), repository: &[], carried: &carried };
        let parameters = labels(&labelled, "o/r#1").unwrap().parameters;
        assert_eq!(parameters, json!({"add": ["priority: high"], "remove": ["priority: low"]}));
    }

    #[test]
    fn labels_come_from_the_lists_and_command_nothing() {
        assert_eq!(added(&["BUG", "nonsense", "area: parser"], &["Area: Parser", "x"], &[]), ["bug", "Area: Parser"]);
        assert_eq!(added(&["bug"], &[], &["Bug"]), [""; 0]);
        for label in ["automerge", "approved", "safe-to-test", "ok to test", "deploy/prod", "ai-plan", "run ci", "LGTM"] {
            assert_eq!(added(&[label], &[label], &[]), [""; 0], "{label}");
        }
        // A profile may say otherwise.
        assert_eq!(added(&["ai-help"], &["ai-help"], &[]), ["ai-help"]);
        assert_eq!(added(&["a", "b", "c", "d"], &["a", "b", "c", "d"], &[]).len(), ADDED_MAX);
    }
}
