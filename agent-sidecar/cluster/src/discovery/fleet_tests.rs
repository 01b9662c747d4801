use serde_json::{Value, json};

use super::*;
use crate::discovery::{pod, service};

const LABELLED: SourceId = SourceId(1);
const OTHER: SourceId = SourceId(2);
const SERVICES: SourceId = SourceId(9);

fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Rules { slots: 2, drain_grace: Duration::from_secs(20) });
    fleet.open();
    fleet
}

fn key(name: &str) -> Key {
    (Arc::from("agents"), Arc::from(name))
}

fn id(name: &str) -> InstanceId {
    instance_id(&key(name)).unwrap()
}

/// A pod of the contract, changed.
fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut object = pod::tests::contract(name, "triage");
    change(&mut object);
    pod::tests::read(object)
}

fn ready(name: &str) -> Pod {
    pod(name, |_| {})
}

fn unready(object: &mut Value) {
    object["status"]["conditions"][0]["status"] = json!("False");
}

fn deleted(object: &mut Value) {
    object["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
}

/// A fleet with one pod that is served.
fn serving(name: &str) -> Fleet {
    let mut fleet = fleet();
    fleet.pod(LABELLED, ready(name));
    assert!(matches!(&fleet.turn()[..], [Command::Start { .. }]));
    fleet
}

fn words(commands: &[Command]) -> Vec<String> {
    let word = |command: &Command| match command {
        Command::Start { id, target, .. } => format!("start {id} {} at {}", target.ty, target.address),
        Command::Ready { id, ready } => format!("ready {id} {ready}"),
        Command::Leave { id, grace } => format!("leave {id} {}s", grace.as_secs()),
    };
    commands.iter().map(word).collect()
}

#[test]
fn a_pod_becomes_an_instance_when_it_is_ready() {
    let mut fleet = fleet();
    fleet.pod(LABELLED, pod("p", unready));
    assert_eq!(fleet.turn(), []);
    fleet.pod(LABELLED, ready("p"));
    let commands = fleet.turn();
    assert_eq!(words(&commands), ["start p.agents triage-general at 10.0.0.7:8080"]);
    let [Command::Start { target, labels, .. }] = &commands[..] else { unreachable!() };
    assert_eq!((target.slots, &*target.uid), (2, "uid-p"));
    assert_eq!(labels.get("kubernetes.io/hostname").map(String::as_str), Some("n1"));
    fleet.pod(LABELLED, ready("p"));
    assert_eq!(fleet.turn(), [], "the same again is nothing new");
}

#[test]
fn an_unready_pod_gets_nothing_new_and_keeps_its_instance() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, pod("p", unready));
    assert_eq!(words(&fleet.turn()), ["ready p.agents false"]);
    assert_eq!((fleet.counts().instances, fleet.counts().ready), (1, 0));
    fleet.pod(LABELLED, ready("p"));
    assert_eq!(words(&fleet.turn()), ["ready p.agents true"]);
}

#[test]
fn a_pod_that_terminates_is_drained_within_its_grace_and_is_no_instance_when_it_is_gone() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, pod("p", deleted));
    assert_eq!(words(&fleet.turn()), ["leave p.agents 29s"]);
    fleet.pod_gone(LABELLED, &key("p"));
    assert_eq!(fleet.turn(), []);
    fleet.ended(&id("p"));
    assert_eq!(fleet.turn(), []);
    assert_eq!(fleet.counts(), Counts::default());
}

#[test]
fn a_pod_that_comes_back_waits_for_its_instance_to_end() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, pod("p", deleted));
    fleet.turn();
    fleet.pod_gone(LABELLED, &key("p"));
    fleet.pod(LABELLED, pod("p", |object| object["metadata"]["uid"] = json!("another")));
    assert_eq!(fleet.turn(), []);
    fleet.ended(&id("p"));
    assert_eq!(words(&fleet.turn()), ["start p.agents triage-general at 10.0.0.7:8080"]);
}

#[test]
fn another_pod_of_the_same_name_takes_the_place_of_one_that_was_not_seen_to_go() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, pod("p", |object| object["metadata"]["uid"] = json!("another")));
    assert_eq!(words(&fleet.turn()), ["leave p.agents 1s"]);
}

#[test]
fn what_changes_how_it_is_served_begins_it_anew() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, pod("p", |object| object["metadata"]["annotations"] = json!({"mindos.io/slots": "7"})));
    assert_eq!(words(&fleet.turn()), ["leave p.agents 20s"]);
    fleet.ended(&id("p"));
    let commands = fleet.turn();
    let [Command::Start { target, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(target.slots, 7);
}

#[test]
fn a_pod_with_a_sidecar_is_left_to_it() {
    let mut fleet = fleet();
    fleet.pod(LABELLED, pod("p", |object| object["spec"]["initContainers"] = json!([{"name": "mindos-sidecar"}])));
    assert_eq!(fleet.turn(), []);
    assert_eq!(fleet.counts().refused, 0);
}

#[test]
fn a_list_that_is_read_again_removes_what_it_does_not_name_and_nothing_else() {
    let mut fleet = serving("p");
    fleet.pod(LABELLED, ready("q"));
    fleet.pod(OTHER, ready("r"));
    fleet.turn();
    fleet.relist(LABELLED);
    fleet.pod(LABELLED, ready("q"));
    assert_eq!(fleet.turn(), [], "nothing goes before the list is complete");
    fleet.relist_done(LABELLED);
    assert_eq!(words(&fleet.turn()), ["leave p.agents 1s"]);
    assert_eq!(fleet.counts().pods, 2);
}

#[test]
fn a_list_that_broke_off_removes_nothing() {
    let mut fleet = serving("p");
    fleet.relist(LABELLED);
    assert_eq!(fleet.turn(), []);
    fleet.relist(LABELLED);
    fleet.pod(LABELLED, ready("p"));
    fleet.relist_done(LABELLED);
    assert_eq!(fleet.turn(), []);
}

#[test]
fn a_pod_is_there_for_as_long_as_one_watch_tells_of_it() {
    let mut fleet = serving("p");
    fleet.pod(OTHER, ready("p"));
    fleet.pod_gone(LABELLED, &key("p"));
    assert_eq!(fleet.turn(), []);
    fleet.source_gone(OTHER);
    assert_eq!(words(&fleet.turn()), ["leave p.agents 1s"]);
}

#[test]
fn a_service_speaks_for_pods_that_say_nothing_themselves() {
    let silent = |object: &mut Value| object["metadata"]["labels"] = json!({"tier": "gold", "x": "y"});
    let mut fleet = fleet();
    fleet.pod(OTHER, pod("p", silent));
    assert_eq!(fleet.turn(), []);
    let named = |name: &str, short: &str| {
        let mut object = service::tests::contract(name, short, json!({"tier": "gold"}));
        object["metadata"]["annotations"] = json!({"mindos.io/slots": "5"});
        object["spec"]["ports"] = json!([{"port": 80, "targetPort": 9000}]);
        service::tests::read(object)
    };
    fleet.service(SERVICES, named("b", "review"));
    let commands = fleet.turn();
    assert_eq!(words(&commands), ["start p.agents review-general at 10.0.0.7:9000"]);
    let [Command::Start { target, .. }] = &commands[..] else { unreachable!() };
    assert_eq!(target.slots, 5);
    assert_eq!(fleet.selectors().0.into_iter().collect::<Vec<_>>(), [(Arc::from("agents"), "tier=gold".to_owned())]);

    fleet.service(SERVICES, named("a", "triage"));
    assert_eq!(words(&fleet.turn()), ["leave p.agents 20s"], "the first by name speaks");
    fleet.ended(&id("p"));
    assert_eq!(words(&fleet.turn()), ["start p.agents triage-general at 10.0.0.7:9000"]);
    fleet.service_gone(&key("a"));
    fleet.service_gone(&key("b"));
    assert_eq!(words(&fleet.turn()), ["leave p.agents 20s"]);
    assert!(fleet.selectors().0.is_empty());
}

#[test]
fn what_a_pod_says_itself_goes_before_its_service() {
    let mut fleet = serving("p");
    let service = service::tests::contract("s", "review", json!({"app": "llm-general"}));
    fleet.service(SERVICES, service::tests::read(service));
    assert_eq!(fleet.turn(), []);
}

#[test]
fn services_that_a_new_list_does_not_name_are_gone() {
    let mut fleet = fleet();
    for name in ["a", "b"] {
        fleet.service(SERVICES, service::tests::read(service::tests::contract(name, "triage", json!({"x": name}))));
    }
    fleet.relist_services(SERVICES);
    fleet.service(SERVICES, service::tests::read(service::tests::contract("b", "triage", json!({"x": "b"}))));
    fleet.relist_services_done(SERVICES, |namespace| namespace == "elsewhere");
    assert_eq!(fleet.counts().services, 2);
    fleet.relist_services(SERVICES);
    fleet.service(SERVICES, service::tests::read(service::tests::contract("b", "triage", json!({"x": "b"}))));
    fleet.relist_services_done(SERVICES, |_| true);
    assert_eq!(fleet.counts().services, 1);
}

#[test]
fn nothing_begins_before_services_and_zones_are_known() {
    let mut fleet = Fleet::new(Rules { slots: 1, drain_grace: Duration::ZERO });
    fleet.pod(LABELLED, ready("p"));
    assert_eq!(fleet.turn(), []);
    fleet.node("n1", Some("eu-west-1a"));
    fleet.open();
    let commands = fleet.turn();
    let [Command::Start { labels, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(labels.get("topology.kubernetes.io/zone").map(String::as_str), Some("eu-west-1a"));
    fleet.node("n1", Some("eu-west-1b"));
    fleet.pod(LABELLED, ready("p"));
    assert_eq!(fleet.turn(), [], "a node that moved ends nothing");
}

#[test]
fn what_is_not_accepted_is_told_once_and_forgotten_when_it_is_mended() {
    let mut fleet = fleet();
    let bad = |object: &mut Value| object["metadata"]["annotations"] = json!({"mindos.io/slots": "many"});
    fleet.pod(LABELLED, pod("p", bad));
    assert_eq!(fleet.turn(), []);
    let told = fleet.take_refusals();
    assert!(matches!(&told[..], [("pod", at, RoleError::Slots(_))] if *at == key("p")), "{told:?}");
    fleet.pod(
        LABELLED,
        pod("p", |object| {
            bad(object);
            unready(object);
        }),
    );
    fleet.turn();
    assert!(fleet.take_refusals().is_empty());
    assert_eq!(fleet.counts().refused, 1);
    fleet.pod(LABELLED, ready("p"));
    assert_eq!(words(&fleet.turn()), ["start p.agents triage-general at 10.0.0.7:8080"]);
    assert_eq!(fleet.counts().refused, 0);
}

#[test]
fn a_long_name_is_cut_and_stays_one_of_its_own() {
    let long = "a".repeat(253);
    let one = instance_id(&key(&long)).unwrap();
    let other = instance_id(&key(&format!("{}b", &long[..252]))).unwrap();
    assert!(one.as_str().len() <= InstanceId::MAX && one.as_str().ends_with(".agents") && one != other);
    assert_eq!(id("p").as_str(), "p.agents");
}

#[test]
fn too_many_selectors_are_counted_and_left_out() {
    let mut fleet = fleet();
    for number in 0..SELECTORS_MAX + 3 {
        let name = format!("s{number:04}");
        fleet.service(SERVICES, service::tests::read(service::tests::contract(&name, "triage", json!({"x": name}))));
    }
    let (selectors, left_out) = fleet.selectors();
    assert_eq!((selectors.len(), left_out), (SELECTORS_MAX, 3));
}
