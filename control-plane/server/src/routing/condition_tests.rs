use std::collections::BTreeMap;

use mindos_core::route::{Match, Pattern, Route, RouteTable, Targets};
use mindos_model::{Seq, Strategy, TenantName};

use super::super::judge::More;
use super::super::{Facts, Judge, Judges};
use super::*;
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::accept_incoming;

fn event(data: &str) -> mindos_core::input::NewEvent {
    let mut extensions = BTreeMap::new();
    for (name, value) in [("actor", "ada"), ("repository", "acme/api"), ("team", "blue")] {
        extensions.insert(name.to_owned(), ExtensionValue::String(value.to_owned()));
    }
    extensions.insert("urgent".to_owned(), ExtensionValue::Boolean(true));
    extensions.insert("size".to_owned(), ExtensionValue::Integer(7));
    let incoming = IncomingEvent {
        id: "1".to_owned(),
        source: "/here".to_owned(),
        r#type: "com.example.changed".to_owned(),
        datacontenttype: Some("application/json".to_owned()),
        extensions,
        data: data.as_bytes().to_vec().into(),
        ..IncomingEvent::default()
    };
    accept_incoming(&TenantName::default_tenant(), incoming).unwrap()
}

const DATA: &str = r#"{"title": "fix: login", "additions": 40, "ratio": 0.5, "draft": false, "owner": null,
    "labels": [{"name": "bug"}, {"name": "p1"}],
    "commits": [{"modified": ["src/a.rs", "docs/b.md"]}, {"modified": []}]}"#;

fn table(conditions: &[&str]) -> RouteTable {
    let route = |name: String, condition: Option<&str>| {
        let matches = Match { condition: condition.map(Arc::from), ..Match::default() };
        Route::new(name.parse().unwrap(), matches, Targets::default(), Strategy::RoundRobin)
    };
    let mut routes: Vec<Route> =
        conditions.iter().enumerate().map(|(place, text)| route(format!("r{place}"), Some(text))).collect();
    routes.push(route("default".to_owned(), None));
    RouteTable { routes, trust: None }
}

/// What the one condition comes to for the event with this payload.
fn verdict(condition: &str, data: &str) -> Verdict {
    Condition::compile(condition).unwrap_or_else(|error| panic!("{condition}: {error}"));
    let judge = Judge::new(Arc::new(table(&[condition])), Seq(1));
    let mut why = None;
    let event = event(data);
    let (first, judged) = judge.route(&Facts::from(&event), |_, reason| why = Some(reason.to_owned()));
    assert_eq!(judged.failed, u32::from(why.is_some()));
    match (why, first) {
        (Some(reason), _) => Verdict::Failed(reason),
        (None, Some(0)) => Verdict::Holds,
        (None, _) => Verdict::DoesNot,
    }
}

#[test]
fn what_an_event_says_can_be_asked() {
    for condition in [
        "type == 'com.example.changed' && source == '/here' && id == '1'",
        "subject == '' && kind.startsWith('com.') && lane == '/here'",
        "actor in ['ada', 'bob'] && repository.endsWith('/api')",
        "attributes.team == 'blue' && attributes.urgent && attributes.size > 6",
        "data.title.matches('^(fix|feat): ') && data.additions + 2 == 42 && data.ratio < 1.0",
        "data['title'].contains('login') && !data.draft && data.owner == null",
        "data.labels.exists(l, l.name == 'p1') && data.labels.size() == 2",
        "data.labels.map(l, l.name) == ['bug', 'p1'] && data.labels.exists_one(l, l.name == 'bug')",
        "data.labels.filter(l, l.name != 'bug').all(l, l.name == 'p1')",
        "data.commits.exists(c, c.modified.exists(f, f.startsWith('docs/')))",
        "has(data.title) && !has(data.missing) && string(data.additions) + '!' == '40!'",
        "size(data.commits[0].modified) == 2",
    ] {
        assert_eq!(verdict(condition, DATA), Verdict::Holds, "{condition}");
        assert_eq!(verdict(&format!("!({condition})"), DATA), Verdict::DoesNot, "{condition}");
    }
}

#[test]
fn what_cannot_be_evaluated_does_not_hold_and_says_why() {
    for (condition, data, why) in [
        ("data.missing == 1", DATA, "missing"),
        ("data.title > 3", DATA, ""),
        ("data.title", DATA, "bool"),
        ("data.title == 'x'", "not json", "null"),
        ("1 / (data.additions - 40) == 0", DATA, ""),
        ("data.additions + 9223372036854775807 > 0", DATA, "range"),
    ] {
        let Verdict::Failed(reason) = verdict(condition, data) else { panic!("{condition} was evaluated") };
        assert!(reason.to_lowercase().contains(why), "{condition}: {reason}");
    }
}

#[test]
fn what_is_not_accepted_is_named_with_what_is() {
    for (text, message) in [
        ("typo == 'x'", "`typo` is not known: expected one of type,"),
        ("type == 'x' &&", "line 1"),
        ("type.reverse() == 'x'", "function `reverse` is not known: expected one of has,"),
        ("type.matches(data.pattern)", "in quotes"),
        ("type.matches('(')", "pattern `(`"),
        ("type.matches('(a{1000}){1000}')", "takes more than"),
        ("[type, kind].exists(t, t == 'x')", "constants only"),
        ("", "expected 1 to 4096"),
        ("A{} == 1", "`A`"),
    ] {
        let error = Condition::compile(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    assert!(Condition::compile(&"(".repeat(4000)).is_err());
    assert!(Condition::compile(&vec!["1"; 2000].join("+")).is_err());
    assert!(Condition::compile(&format!("data{}", ".a".repeat(2000))).is_err());
    assert!(Condition::compile(&vec!["type == 'some.type'"; 60].join(" || ")).is_ok(), "long is not deep");
}

#[test]
fn a_loop_without_an_end_in_sight_is_ended() {
    let items = format!("{{\"items\": [{}1]}}", "1,".repeat(20_000));
    let began = Instant::now();
    for condition in [
        "data.items.all(a, data.items.all(b, data.items.all(c, a + b + c > 0)))",
        "data.items.map(a, data.items.map(b, a + b)).size() > 0",
        "data.items.filter(a, data.items.exists(b, b > 1)).size() == 0",
        "data.items.exists_one(a, data.items.exists_one(b, b > 1))",
        "!data.items.exists(a, data.items.exists(b, b > 1))",
    ] {
        let Verdict::Failed(reason) = verdict(condition, &items) else { panic!("{condition} was evaluated") };
        assert!(reason.contains("took more than"), "{reason}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // The next one has all its steps and its time again.
    assert_eq!(verdict("data.items.all(a, a == 1)", "{\"items\": [1, 1, 1]}"), Verdict::Holds);
}

#[test]
fn what_takes_long_is_put_off_and_bounded_for_all_conditions_together() {
    let slow = [
        "data.items.all(a, data.items.all(b, a + b > 0))",
        "data.text.matches('[ab]*a[ab]{1000}c')",
        "data.items.exists(a, data.text.matches('(x+x+)+y.{300}') && a == 2)",
        "data.text.matches('(a|aa|aaa|a?){100}c$')",
    ];
    let conditions: Vec<&str> = (0..1000).map(|place| slow[place % slow.len()]).collect();
    let judges = Judges::default();
    judges.learn(&TenantName::default_tenant(), Arc::new(table(&conditions)), Seq(1));
    let text = "ab".repeat(15_000);
    let items = vec!["1"; 20_000].join(",");
    let mut event = event(&format!("{{\"text\": \"{text}\", \"items\": [{items}]}}"));
    // Reading the payload is not what is bounded here.
    let _ = judges.judge(&mut event);

    let began = Instant::now();
    let more = judges.judge(&mut event);
    let quick = began.elapsed();
    let began = Instant::now();
    judges.judge_slowly(&mut event);
    let full = began.elapsed();

    assert_eq!(more, More::Time);
    assert!(quick < Duration::from_millis(200) && full < Duration::from_secs(3), "{quick:?} {full:?}");
    let judged = event.judged.unwrap();
    assert!(judged.holds.is_none() && judged.failed > 900, "none of them holds: {judged:?}");
}

#[test]
fn many_conditions_that_cost_little_are_judged_at_once() {
    let conditions: Vec<String> =
        (0..500).map(|place| format!("actor == 'a{place}' || type.matches('^x{place}')")).collect();
    let judges = Judges::default();
    judges.learn(
        &TenantName::default_tenant(),
        Arc::new(table(&conditions.iter().map(String::as_str).collect::<Vec<_>>())),
        Seq(1),
    );
    let mut event = event(DATA);
    assert_eq!(judges.judge(&mut event), More::Nothing);
    assert_eq!(event.judged.unwrap().failed, 0);
}

#[test]
fn conditions_of_other_kinds_are_not_evaluated() {
    let mut table = table(&["data.missing", "type != ''"]);
    table.routes[0].matches.kinds = vec![Pattern::new("other").unwrap()];
    let judge = Judge::new(Arc::new(table), Seq(7));
    let event = event(DATA);

    let (first, judged) = judge.route(&Facts::from(&event), |_, reason| panic!("{reason}"));

    assert_eq!((first, judged.table, judged.holds, judged.failed), (Some(1), Seq(7), Some(1), 0));
}

#[test]
fn conditions_and_guards_tell_real_payloads_apart() {
    use crate::ingest::event::accept_github;
    use crate::ingest::github::normalise;

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/github-webhooks");
    let judge = Judge::new(
        Arc::new(table(&[
            "type.startsWith('com.github.pull_request.') && data.pull_request.commits >= 1 && !data.pull_request.merged",
            "type.matches('^com[.]github[.](check|installation|workflow)') && data.action in ['completed', 'created']",
            "data.issue.labels.exists(l, l.name == 'bug')",
            "actor == 'Codertocat' && has(data.comment)",
        ])),
        Seq(1),
    );
    let mut routed = BTreeMap::new();
    let (mut bots, mut forks, mut associations, mut files) = (0, 0, 0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "json") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
        let mut headers = http::HeaderMap::new();
        headers.insert("X-GitHub-Event", name.parse().unwrap());
        headers.insert("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958".parse().unwrap());
        headers.insert("Content-Type", "application/json".parse().unwrap());
        let delivery = normalise(&headers, &std::fs::read(&path).unwrap().into(), None).unwrap();
        let event = accept_github(&TenantName::default_tenant(), delivery).unwrap();
        let (first, _) =
            judge.route(&Facts::from(&event), |_, reason| assert!(!reason.contains("panicked"), "{reason}"));
        *routed.entry(first.unwrap()).or_insert(0) += 1;
        let trust = event.trust.unwrap_or_default();
        bots += u32::from(trust.bot);
        forks += u32::from(trust.fork);
        associations += u32::from(trust.association.is_some());
        files += 1;
    }
    assert!([0, 2, 3, 4].iter().all(|place| routed.contains_key(place)), "{routed:?}");
    // None of these comes from a bot or a fork, and most say what their author is.
    assert!(bots == 0 && forks == 0 && associations > 10, "{bots} {forks} {associations} of {files}");
}
