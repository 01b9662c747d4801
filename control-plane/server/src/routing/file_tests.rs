use mindos_proto::route::v1::{CoalescePolicy, GuardAction, Strategy};
use prost_reflect::ReflectMessage;
use serde_json::Value;

use super::*;

const FILE: &str = "\
# yaml-language-server: $schema=routes.schema.json
guards: {bots: drop, hops_max: 5}
own_logins: ['mindos[bot]']
routes:
  - name: large-changes
    match:
      kinds: [pr_created, com.github.pull_request.*]
      expr: data.pull_request.additions > 500
    targets: {types: [security-general], labels: {tier: gold}, regions: [eu-west-1]}
    strategy: load_balanced
    count: 2
    coalesce: latest
    deadline: 10m
    max_block: 1.5s
    guards:
      forks: park
      association: [MEMBER, OWNER]
    degrade:
      - {from: security-general, to: small-general}
      - {to: tiny}
    version_min: '1.4'
    residency: [eu-west-1, eu-central-1]
    affinity:
      require: {labels: {gpu: a100}}
      prefer:
        - {weight: 40, regions: [eu-west-1]}
        - {weight: 10, labels: {tier: gold}}
  - name: default
    targets: {types: [general-purpose-general]}
    strategy: round_robin
";

#[test]
fn a_file_is_read_and_written_back() {
    let table = parse(FILE).unwrap();
    let route = &table.routes[0];
    assert_eq!((route.strategy(), route.coalesce(), route.count), (Strategy::LoadBalanced, CoalescePolicy::Latest, 2));
    assert_eq!(route.max_block.map(|span| (span.seconds, span.nanos)), Some((1, 500_000_000)));
    assert_eq!(route.guards.as_ref().unwrap().forks(), GuardAction::Park);
    assert_eq!(table.guards.as_ref().unwrap().hops_max, 5);

    let written = to_yaml(&table);

    assert!(written.starts_with("# yaml-language-server: $schema=routes.schema.json\n"), "{written}");
    assert!(written.contains("deadline: 10m") && written.contains("max_block: 1500ms"), "{written}");
    assert_eq!(parse(&written), Ok(table));
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_is_accepted() {
    let cases = [
        ("strategy: load_balanced", "strategy: load_balancd", 10, "broadcast, round_robin, load_balanced"),
        ("count: 2", "count: two", 11, "a whole number"),
        ("count: 2", "cuont: 2", 11, "`cuont` is not known: expected one of name, match"),
        ("count: 2", "count: 99", 11, "1 to 64"),
        ("deadline: 10m", "deadline: 10 minutes", 13, "a span of time such as 90s"),
        ("deadline: 10m", "deadline: 25h", 13, "1 s to 24 h"),
        ("additions > 500", "additions >", 8, "match.expr"),
        ("data.pull_request.additions", "dat.pull_request.additions", 8, "expected one of type, source"),
        ("forks: park", "forks: parked", 16, "allow, park, drop"),
        ("[MEMBER, OWNER]", "[MEMBERS]", 17, "OWNER, MEMBER, COLLABORATOR"),
        ("{to: tiny}", "{to: Tiny General}", 20, "routes[0].degrade[1].to: `Tiny General`"),
        ("{to: tiny}", "{from: tiny}", 20, "the name or type of a general"),
        ("version_min: '1.4'", "version_min: latest", 21, "one to three numbers, such as 1.4"),
        ("version_min: '1.4'", "version_min: 1.4-rc.1", 21, "one to three numbers"),
        ("{to: tiny}", "{two: tiny}", 20, "expected one of from, to"),
        ("hops_max: 5", "hops_max: 5000", 2, "1 to 1000"),
        ("[eu-west-1, eu-central-1]", "[eu-central-1]", 22, "none of them is in targets.regions"),
        ("[eu-west-1, eu-central-1]", "[EU West]", 22, "residency"),
        ("require: {labels: {gpu: a100}}", "require: {regions: [us-east-1]}", 24, "none of them is in residency"),
        (
            "require: {labels: {gpu: a100}}",
            "require: {label: {gpu: a100}}",
            24,
            "expected one of clusters, regions, labels",
        ),
        ("weight: 40", "weight: 0", 26, "routes[0].affinity.prefer[0].weight: 0 is out of range: expected 1 to 100"),
        ("weight: 10, labels: {tier: gold}", "weight: 101, clusters: [c1]", 27, "expected 1 to 100"),
        ("weight: 10, labels: {tier: gold}", "weight: 10", 27, "names no place"),
        ("weight: 10, labels: {tier: gold}", "weight: 10, clusters: [C 1]", 27, "affinity.prefer[1].clusters"),
        ("  - name: default\n", "  - name: large-changes\n", 28, "stands twice"),
        ("types: [general-purpose-general]", "{}", 29, ""),
        ("    strategy: round_robin\n", "    strategy: round_robin\n    match: {kinds: [x]}\n", 5, "match everything"),
    ];
    for (was, is, line, what) in cases {
        assert!(FILE.contains(was), "{was}");
        let error = parse(&FILE.replacen(was, is, 1)).unwrap_err();
        assert_eq!(error.line, Some(line), "{is}: {error}");
        assert!(error.message.contains(what), "{is}: {error}");
    }
}

#[test]
fn the_published_schema_is_that_of_the_definition() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/routes.schema.json");
    let published = std::fs::read_to_string(path).unwrap_or_default();
    let written = format!("{:#}\n", schema());
    if std::env::var_os("MINDOS_BLESS").is_some() {
        std::fs::write(path, &written).unwrap();
    } else {
        assert_eq!(published, written, "write it again with MINDOS_BLESS=1");
    }
}

#[test]
fn the_schema_has_every_field_and_says_what_it_is() {
    fn same(schema: &Value, of: &MessageDescriptor) {
        for field in of.fields() {
            let mut found = &schema["properties"][field.name()];
            assert!(found["description"].as_str().is_some_and(|text| text.len() > 10), "{}", field.full_name());
            if field.is_list() {
                found = &found["items"];
            }
            match field.kind() {
                Kind::Message(of) if !field.is_map() && !is_span(&field) => same(found, &of),
                _ => {}
            }
        }
        assert_eq!(schema["properties"].as_object().unwrap().len(), of.fields().count());
    }
    same(&schema(), &table());
    assert_eq!(dynamic(&RouteTable::default()).descriptor(), table());
}
