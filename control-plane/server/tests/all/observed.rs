//! What operators look at fits what the server shows: every metric that the dashboard and the alert rules name is there, with the labels
//! that they ask for. That a real Prometheus takes all of it is shown by `.ci/observed.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::{Agent, Directory, Running, event};
use http::Method;
use mindos_outgoing::{Outgoing, Request, Target};
use serde_json::Value;

fn deploy(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)).unwrap()
}

/// Every expression of the dashboard.
fn of_dashboard() -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("expr").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| walk(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&deploy("grafana/mindos.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut found = Vec::new();
    walk(&dashboard, &mut found);
    found
}

fn of_alerts() -> Vec<String> {
    let alerts: Value = serde_norway::from_str(&deploy("prometheus/alerts.yaml")).unwrap();
    let rules = alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut names = BTreeSet::new();
    rules
        .map(|rule| {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name), "{name} is there twice");
            assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
            for text in ["summary", "description"] {
                assert!(rule["annotations"][text].as_str().is_some_and(|text| !text.is_empty()), "{name}: {text}");
            }
            rule["expr"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// The metrics that an expression names, with the labels that it selects by.
fn metrics(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_part) {
        let word = &rest[start..];
        let end = word.find(|character| !is_part(character)).unwrap_or(word.len());
        let (name, behind) = word.split_at(end);
        rest = behind;
        if name.starts_with("mindos_") || name.starts_with("process_") {
            let mut labels = Vec::new();
            if let Some(inside) = behind.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                labels.extend(
                    inside.0.split(',').map(|matcher| matcher.split(['=', '!']).next().unwrap().trim().to_owned()),
                );
                rest = inside.1;
            }
            found.push((name.to_owned(), labels));
        }
    }
    found
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alerts_is_there() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut agent = Agent::ready(&server, "b1", 1).await;
    server.publish(event("e1", "x")).await.unwrap();
    let assign = agent.assignment().await;
    agent.succeed(&assign, "done").await;
    agent.settled().await;
    let target = Target::parse(&server.api, false).unwrap().join("/metrics").unwrap();
    let answer =
        Outgoing::new().send(Request { answer_max: 1 << 20, ..Request::new(Method::GET, target) }).await.unwrap();
    let scrape = String::from_utf8(answer.body.to_vec()).unwrap();
    server.stop().await;

    let mut kinds = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert!(kinds.insert(name, kind).is_none(), "{name} has two headings");
            // These are named as an earlier system named them.
            if name.starts_with("mindos_llm_") {
                continue;
            }
            assert_eq!(
                kind == "counter",
                name.ends_with("_total") || name == "mindos_journal_durable_seq",
                "{name} is a {kind}"
            );
        }
    }
    let expressions = [of_dashboard(), of_alerts()].concat();
    assert!(expressions.len() > 40);
    for expression in &expressions {
        let named = metrics(expression);
        assert!(!named.is_empty(), "{expression} names no metric");
        for (name, labels) in named {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let family = family.filter(|family| kinds.get(family) == Some(&"histogram")).unwrap_or(&name);
            assert!(kinds.contains_key(family), "{name} of `{expression}` is not shown");
            let open = format!("{family}{{");
            for label in labels {
                let with = |line: &str| line.starts_with(&open) && line.contains(&format!("{label}=\""));
                let is_there = scrape.lines().any(with) || !scrape.lines().any(|line| line.starts_with(&open));
                assert!(is_there, "{name} has no label {label}");
            }
        }
    }
}

#[test]
fn expressions_are_taken_apart() {
    let found = metrics("sum by (le) (rate(mindos_a_bucket{x=\"1\", y!=\"2\"}[5m])) / process_b");
    let labels = vec!["x".to_owned(), "y".to_owned()];
    assert_eq!(found, [("mindos_a_bucket".to_owned(), labels), ("process_b".to_owned(), Vec::new())]);
}
