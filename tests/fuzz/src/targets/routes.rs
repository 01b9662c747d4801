//! Routes files and the conditions in them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use mindos_control_plane::ingest::cloudevents::IncomingEvent;
use mindos_control_plane::ingest::event::accept_incoming;
use mindos_control_plane::routing::condition::Condition;
use mindos_control_plane::routing::{Facts, Judge, file};
use mindos_core::input::NewEvent;
use mindos_core::route::{Match, Route, RouteTable, Targets};
use mindos_model::{Seq, Strategy, TenantName};

/// What is taken is written back, and means the same.
pub(super) fn file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match file::parse(text) {
        Ok(table) => {
            let written = file::to_yaml(&table);
            assert_eq!(file::parse(&written).as_ref(), Ok(&table), "{written}");
        }
        Err(error) => assert!(!error.message.is_empty()),
    }
}

pub(super) fn file_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "routes:\n  - name: a\n    match: {kinds: [pr_*], subjects: ['x*'], expr: 'data.n > 1'}\n    targets: {types: [t], \
         labels: {k: v}, regions: [eu]}\n    strategy: load_balanced\n    count: 2\n    deadline: 10m\n    guards: {forks: park, \
         association: [MEMBER], hops_max: 3}\n  - {name: b, targets: {types: [t]}, strategy: round_robin}\n",
        "{\"own_logins\": [\"me\"], \"guards\": {\"bots\": \"drop\"}, \"routes\": [{\"name\": \"a\", \"strategy\": \"broadcast\", \
         \"targets\": {\"names\": [\"g\"]}, \"max_block\": \"1.5s\", \"paused\": true}], \"digest\": null}",
    ];
    texts.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

static EVENTS: LazyLock<Vec<NewEvent>> = LazyLock::new(|| {
    let payloads = crate::payloads();
    let some = payloads.into_iter().step_by(40).filter(|(_, body)| body.len() < 200_000);
    let event = |(name, body): (String, Vec<u8>)| {
        let incoming = IncomingEvent {
            id: "1".to_owned(),
            source: "/fuzz".to_owned(),
            r#type: name,
            extensions: BTreeMap::new(),
            data: body.into(),
            ..IncomingEvent::default()
        };
        accept_incoming(&TenantName::default_tenant(), incoming).expect("a real payload is an event")
    };
    some.map(event).collect()
});

/// What compiles ends, over any payload.
pub(super) fn condition(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if Condition::compile(text).is_err() {
        return;
    }
    let route = |name: &str, condition: Option<&str>| {
        let matches = Match { condition: condition.map(Arc::from), ..Match::default() };
        Route::new(name.parse().expect("a name"), matches, Targets::default(), Strategy::RoundRobin)
    };
    let table = RouteTable { routes: vec![route("a", Some(text)), route("b", None)], ..RouteTable::stock() };
    let judge = Judge::new(Arc::new(table), Seq(1));
    for event in EVENTS.iter() {
        let (first, judged) = judge.route(&Facts::from(event), |_, reason| {
            assert!(!reason.contains("panicked"), "{text}: {reason}");
        });
        assert_eq!((first == Some(0), first.is_some()), (judged.holds == Some(0), true));
    }
}

pub(super) fn condition_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "type == 'push' && source.startsWith('/') || subject in ['a', 'b']",
        "data.commits.exists(c, c.modified.exists(f, f.endsWith('.md'))) && size(data.commits) < 3",
        "data.pull_request.labels.map(l, l.name).filter(n, n.matches('^(p1|bug)$')).size() > 0",
        "has(data.sender) && data.sender.login + '!' != 'x!' && data.number * 2 - 1 >= 3 ? true : false",
        "attributes.size() == 0 && data['action'] == \"opened\" && -1 < 1u && 1.5e3 > 2.0",
        "data.commits.all(c, c.distinct) && data.commits.exists_one(c, c.id == '1')",
    ];
    texts.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}
