//! Every real payload through each general that the stock table delivers it to, without a model: a finding, or an honest "nothing to say".

use std::path::Path;
use std::sync::Arc;

use mindos_model::Timestamp;
use mindos_outgoing::Outgoing;
use mindos_sdk::Ceilings;
use serde_json::Value;

use super::{Brain, Run, Steps};
use crate::model::Meter;
use crate::report::Severity;
use crate::{Event, Profile, Report};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The kind of a payload, by the same rules as the control plane's.
fn kind(rules: &Value, name: &str, payload: &Value) -> Option<String> {
    let event = name.split('.').next().unwrap();
    let action = payload.get("action").and_then(Value::as_str);
    let fits = |rule: &&Value| {
        let in_list = |list: Option<&Value>, it: Option<&str>| {
            list.and_then(Value::as_array).is_none_or(|list| list.iter().any(|one| one.as_str() == it))
        };
        let holds = |(path, values): (&String, &Value)| {
            let at = path.split('.').try_fold(payload, |value, key| value.get(key));
            values.as_array().is_some_and(|values| at.is_some_and(|at| values.contains(at)))
        };
        rule["event"] == event
            && in_list(rule.get("actions"), action)
            && rule.get("where").and_then(Value::as_object).is_none_or(|places| places.iter().all(holds))
    };
    rules["rules"].as_array().unwrap().iter().find(fits).map(|rule| rule["kind"].as_str().unwrap().to_owned())
}

/// Whom the stock table delivers a kind to.
fn generals(kind: Option<&str>) -> &'static [&'static str] {
    match kind {
        Some("pr_created") => &["architecture-general", "security-general", "code-review-general"],
        Some("needs_attention") => &["triage-general", "priority-general"],
        Some("review_started" | "review_submitted") => &["code-review-general", "quality-assurance-general"],
        Some("pr_merged") => &["deployment-general", "documentation-general"],
        Some("commit_graph") => &["analytics-general", "metrics-general"],
        _ => &["general-purpose-general"],
    }
}

fn report(general: &str, kind: Option<&str>, name: &str, payload: &Value) -> Report {
    let meter = Meter::own(Ceilings::default());
    let event_type = kind.map_or_else(|| format!("com.github.{name}"), str::to_owned);
    let run = Run {
        profile: Arc::new(Profile::stock(general).unwrap()),
        event: Arc::new(Event { event_type, data: payload.clone(), ..Event::default() }),
        outgoing: Outgoing::new(),
        access: None,
        brain: Brain::none(),
        steps: Steps::alone(meter.clone(), 1),
        meter,
        hands: crate::coding::Hands::default(),
        now: Timestamp(0),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run.go()).unwrap_or_else(|failure| panic!("{name} / {general}: {failure}"))
}

/// `MINDOS_BLESS=1` writes the summary anew, for a person to read.
#[test]
fn every_payload_gives_a_finding_or_an_honest_nothing_to_say() {
    let root = Path::new(ROOT);
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let rules = read(&root.join("control-plane/server/src/ingest/github_kinds.json"));
    let folder = root.join("tests/data/github-webhooks");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    let mut summary = String::new();
    for file in &names {
        let payload = read(&folder.join(file));
        let kind = kind(&rules, file, &payload);
        for general in generals(kind.as_deref()) {
            let report = report(general, kind.as_deref(), file.trim_end_matches(".json"), &payload);
            assert_eq!((report.status, &*report.model), ("processed", "none"));
            assert!(report.statement.ends_with("no model was asked."), "{file} / {general}: {}", report.statement);
            assert!(report.usage.is_empty() && report.answer.is_none());
            let grave = report.findings.iter().filter(|finding| finding.severity > Severity::Info).count();
            let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code).collect();
            assert!(!codes.is_empty() || !report.recommendations.is_empty(), "{file} / {general}");
            let effects: Vec<String> = report.effects.iter().map(|it| format!("{} {}", it.kind, it.target)).collect();
            let said = if grave == 0 { "nothing to say".to_owned() } else { format!("{grave} to look at") };
            for comment in report.effects.iter().filter(|it| it.kind == "comment") {
                let body = comment.parameters["body"].as_str().unwrap();
                assert!(body.contains("no model was asked"), "{file} / {general}: {body}");
                assert_eq!(body.contains(": nothing to say"), grave == 0, "{file} / {general}: {body}");
            }
            summary.push_str(&format!("{file} / {general}: {said}; {}; {}\n", codes.join(" "), effects.join(", ")));
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/payloads.txt");
    if std::env::var_os("MINDOS_BLESS").is_some() {
        std::fs::write(&golden, &summary).unwrap();
    }
    let recorded = std::fs::read_to_string(&golden).unwrap();
    for (line, (got, wanted)) in summary.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", line + 1);
    }
    assert_eq!(summary.lines().count(), recorded.lines().count());
}
