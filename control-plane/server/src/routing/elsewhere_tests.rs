use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::input::NewEvent;
use mindos_core::route::{Match, Route, RouteTable, Targets};
use mindos_model::{Seq, Strategy, TenantName};

use super::super::Judges;
use super::super::judge::More;
use super::*;
use crate::blobs::Announced;
use crate::ingest::cloudevents::{ExtensionValue, IncomingEvent};
use crate::ingest::event::accept_incoming;

struct World {
    _dir: tempfile::TempDir,
    blobs: BlobStore,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path(), 100 << 20).unwrap();
        World { _dir: dir, blobs }
    }

    fn put(&self, bytes: &[u8]) -> String {
        let mut writer = self.blobs.begin(Announced::default()).unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap().blob.to_string()
    }
}

fn event(dataref: &str) -> NewEvent {
    let incoming = IncomingEvent {
        id: "1".to_owned(),
        source: "/here".to_owned(),
        r#type: "com.example.changed".to_owned(),
        datacontenttype: Some("application/json".to_owned()),
        extensions: BTreeMap::from([("dataref".to_owned(), ExtensionValue::String(dataref.to_owned()))]),
        ..IncomingEvent::default()
    };
    accept_incoming(&TenantName::default_tenant(), incoming).unwrap()
}

fn judges(condition: &str) -> Judges {
    let route = |name: &str, condition: Option<&str>| {
        let matches = Match { condition: condition.map(Arc::from), ..Match::default() };
        Route::new(name.parse().unwrap(), matches, Targets::default(), Strategy::RoundRobin)
    };
    let routes = vec![route("r", Some(condition)), route("default", None)];
    let judges = Judges::default();
    judges.learn(&TenantName::default_tenant(), Arc::new(RouteTable { routes, trust: None }), Seq(1));
    judges
}

/// What is judged once it was looked for: the place that holds and how many failed.
fn judged(world: &World, condition: &str, dataref: &str) -> (Option<u32>, u32) {
    let (judges, mut event) = (judges(condition), event(dataref));
    assert_eq!(judges.judge(&mut event), More::Data);
    let before = event.judged.unwrap();
    assert_eq!((before.holds, before.failed), (None, 1), "nothing is made of data that nobody saw");
    assert_eq!(judges.counts().0, 0);
    judges.judge_reading(&mut event, &world.blobs);
    let judged = event.judged.unwrap();
    assert_eq!(judges.counts().0, u64::from(judged.failed));
    (judged.holds, judged.failed)
}

#[test]
fn conditions_see_data_in_a_blob() {
    let world = World::new();
    let padding = "x".repeat(1 << 20);
    let dataref = world.put(format!(r#"{{"size": 7, "padding": "{padding}"}}"#).as_bytes());
    assert_eq!(judged(&world, "data.size == 7", &dataref), (Some(0), 0));
    assert_eq!(judged(&world, "data.size == 8", &dataref), (None, 0));
    assert_eq!(judged(&world, "!has(data.other)", &dataref), (Some(0), 0));
    // What no condition asks for is not read.
    for condition in ["type == 'com.example.other' && data.size == 7", "id == '1'"] {
        assert_eq!(judges(condition).judge(&mut event(&dataref)), More::Nothing, "{condition}");
    }
}

#[test]
fn what_cannot_be_seen_fails_and_is_counted_by_its_reason() {
    let world = World::new();
    let absent = format!("blob:sha256:{}", "0".repeat(64));
    let large = world.put(&vec![b' '; usize::try_from(READ_MAX).unwrap() + 1]);
    let largest = [&b"{}"[..], &vec![b' '; usize::try_from(READ_MAX).unwrap() - 2]].concat();
    assert_eq!(judged(&world, "!has(data.size)", &world.put(&largest)), (Some(0), 0));
    for (dataref, reason) in [(&*large, "too_large"), (&*absent, "missing"), ("https://example.com/1", "foreign")] {
        // A condition that would hold for no data at all does not.
        let (judges, mut event) = (judges("!has(data.size)"), event(dataref));
        assert_eq!(judges.judge(&mut event), More::Data);
        judges.judge_reading(&mut event, &world.blobs);
        let judged = event.judged.unwrap();
        assert_eq!((judged.holds, judged.failed), (None, 1), "{reason}");
        let mut shown = Exposition::default();
        judges.expose(&mut shown);
        let line = format!("mindos_route_data_unread_total{{reason=\"{reason}\"}} 1\n");
        assert!(shown.into_text().contains(&line), "{reason}");
    }
}
