//! Whom and what to be careful with: strangers, forks, bots, credentials in texts, files that hold power.

use std::collections::BTreeMap;

use serde_json::json;

use super::Analysis;
use crate::report::{Findings, Severity, nothing};
use crate::text::{clipped, count, path_fits};
use crate::tools::secrets;
use crate::Profile;
use crate::evidence::Evidence;

const NAME_MAX: usize = 80;

pub(super) const TRUST: Analysis = Analysis {
    name: "trust",
    thresholds: &[],
    words: &[],
    codes: &["trust.fork", "trust.stranger", "trust.known", "trust.bot", "trust.permissions", "trust.maintainer_edits"],
    run: trust,
};

fn trust(_: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    if let (Some(head), Some(base)) =
        (event.number("pull_request.head.repo.id"), event.number("pull_request.base.repo.id"))
        && head != base
    {
        let from = clipped(event.text("pull_request.head.repo.full_name").unwrap_or("another repository"), NAME_MAX);
        let text = format!("The change comes from a fork, {from}.");
        findings.add(Severity::Warning, "trust.fork", text, json!({"fork": from}));
    } else if event.at("pull_request.head").is_some() && event.at("pull_request.head.repo").is_none() {
        let text = "The repository the change comes from is unknown or deleted; take it for a fork.".to_owned();
        findings.add(Severity::Warning, "trust.fork", text, json!({"fork": null}));
    }
    let places = [
        "comment.author_association",
        "review.author_association",
        "pull_request.author_association",
        "issue.author_association",
    ];
    if let Some(association) = places.iter().find_map(|path| event.text(path)) {
        let association = clipped(association, NAME_MAX);
        let data = json!({"association": association});
        match association.as_str() {
            "OWNER" | "MEMBER" | "COLLABORATOR" => {
                let text = format!("The author is known to the repository ({association}).");
                findings.add(Severity::Info, "trust.known", text, data);
            }
            _ => {
                let text = format!("The author has no standing in the repository ({association}).");
                findings.add(Severity::Notice, "trust.stranger", text, data);
            }
        }
    }
    let actor = event.actor().unwrap_or_default();
    if event.text("sender.type") == Some("Bot") || actor.ends_with("[bot]") {
        let actor = clipped(actor, NAME_MAX);
        let text = format!("{actor} is a bot.");
        findings.add(Severity::Notice, "trust.bot", text, json!({"actor": actor}));
    }
    permissions(event, findings);
}

/// An app installation that may write.
fn permissions(event: &Evidence<'_>, findings: &mut Findings) {
    let Some(granted) = event.at("installation.permissions").and_then(|it| it.as_object()) else { return };
    let strong = |level: &str| matches!(level, "write" | "admin");
    let writes: Vec<String> = granted
        .iter()
        .filter(|(_, level)| level.as_str().is_some_and(strong))
        .map(|(name, _)| clipped(name, NAME_MAX))
        .take(30)
        .collect();
    if !writes.is_empty() {
        let all = event.text("installation.repository_selection") == Some("all");
        let reach = if all { "all repositories" } else { "selected repositories" };
        let text = format!("The app may write {} in {reach}.", writes.join(", "));
        let severity = if all { Severity::Warning } else { Severity::Notice };
        findings.add(severity, "trust.permissions", text, json!({"writes": writes, "all_repositories": all}));
    }
}

pub(super) const SECRETS: Analysis =
    Analysis { name: "secrets", thresholds: &[], words: &[], codes: &["secrets.found", "secrets.none"], run: in_texts };

/// Says what kind of credential stands where, never the credential.
fn in_texts(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let writings = event.writings();
    let mut found: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for &(place, text) in &writings {
        for (kind, times) in secrets::in_text(text, &profile.secrets) {
            *found.entry((kind, place)).or_default() += times;
        }
    }
    for ((kind, place), times) in &found {
        let text = format!("What looks like a credential ({kind}) stands in a {place}, {}.", count(*times, "time"));
        findings.add(Severity::Critical, "secrets.found", text, json!({"kind": kind, "place": place, "times": times}));
    }
    if found.is_empty() && !writings.is_empty() {
        let number = writings.len() as u64;
        let text = format!("No known form of credential in {}.", count(number, "text"));
        findings.add(Severity::Info, "secrets.none", text, json!({"texts": number}));
    }
}

pub(super) const PATHS: Analysis = Analysis {
    name: "paths",
    thresholds: &[],
    words: &["sensitive_paths"],
    codes: &["paths.sensitive", "paths.plain", "paths.unlisted"],
    run: paths,
};

fn paths(profile: &Profile, event: &Evidence<'_>, findings: &mut Findings) {
    let files = event.files();
    if files.is_empty() {
        if event.is_change() {
            let text =
                "The event does not list the changed files; look for workflows, build files and lock files among them.";
            findings.add(Severity::Info, "paths.unlisted", text.to_owned(), nothing());
        }
        return;
    }
    let sensitive: Vec<String> = files
        .iter()
        .filter(|touch| path_fits(touch.path, profile.words("sensitive_paths")))
        .map(|touch| format!("{} ({})", clipped(touch.path, NAME_MAX), touch.how))
        .take(20)
        .collect();
    if sensitive.is_empty() {
        let text = format!("None of {} is one of the sensitive kinds.", count(files.len() as u64, "file"));
        findings.add(Severity::Info, "paths.plain", text, json!({"files": files.len()}));
    } else {
        let text = format!("Touched with power over build or access: {}.", sensitive.join(", "));
        findings.add(Severity::Warning, "paths.sensitive", text, json!({"files": sensitive}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    fn event(text: &str) -> Event {
        Event { data: json!({"comment": {"body": text}, "issue": {"number": 1}}), ..Event::default() }
    }

    fn kinds(text: &str) -> Vec<String> {
        let profile = Profile::stock("security-general").unwrap();
        let report = crate::analyse(&profile, &event(text), mindos_model::Timestamp(0));
        assert!(!serde_json::to_string(&report).unwrap().contains("ZQ7XK2MB"), "a secret was repeated");
        let found = report.findings.iter().filter(|finding| finding.code == "secrets.found");
        found.map(|finding| finding.data["kind"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn credentials_are_found_and_never_repeated() {
        const VALUE: &str = "ZQ7XK2MB9TD4WR6PZQ8XN3VC5HJ1LFZY0GKQ";
        assert_eq!(kinds(&format!("token ghp_{VALUE} here")), ["GitHub token"]);
        assert_eq!(kinds(&format!("AKIA{}", &VALUE[..16])), ["AWS access key"]);
        assert_eq!(kinds(&format!("-----BEGIN RSA PRIVATE KEY-----\n{VALUE}")), ["private key"]);
        assert_eq!(kinds(&format!("postgres://app:{}@db/x", &VALUE[..9])), ["password in a URL"]);
    }

    #[test]
    fn what_only_resembles_a_credential_is_left_alone() {
        for text in [
            "ghp_short",
            "the prefix ghp_ alone",
            "xAKIAZZZZ",
            "https://host:8080/a@b",
            "a://u:$PASS@h",
            "see x://@",
            "é://",
        ] {
            assert_eq!(kinds(text), Vec::<String>::new(), "{text}");
        }
    }
}
