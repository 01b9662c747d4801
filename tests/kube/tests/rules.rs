//! The CEL rules of the definitions, by samples: no server that can be had here knows them.

use std::collections::BTreeSet;

use mindos_kube_tests::rules::{Rule, default, refused, rules, schemas};
use mindos_kube_tests::samples::{Case, cases, holds};
use serde_json::{Value, json};

fn judged(schema: &Value, case: &Case) -> (Value, Vec<Rule>) {
    let object = |spec: &Value| {
        let mut object = json!({"metadata": {"name": "sample"}, "spec": spec});
        default(schema, &mut object);
        object
    };
    let (new, old) = (object(&case.spec), case.old.as_ref().map(object));
    let refused = refused(schema, "", &new, old.as_ref()).unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
    (new, refused)
}

#[test]
fn samples_are_accepted_and_refused_by_the_rules_that_they_name() {
    let schemas = schemas().unwrap();
    let mut broken = BTreeSet::new();
    for (kind, (accepted, not)) in cases().unwrap() {
        let schema = &schemas[&kind];
        for case in &accepted {
            let (object, refused) = judged(schema, case);
            assert_eq!(refused, [], "{kind}: {case:?}");
            let becomes = case.becomes.clone().unwrap_or(json!({}));
            assert!(holds(&object["spec"], &becomes), "{kind}: {object} is not {becomes}");
        }
        for case in not.iter().filter(|case| !case.is_refused_by_schema()) {
            let (_, refused) = judged(schema, case);
            let said: Vec<_> = refused.iter().map(|rule| rule.message.clone()).collect();
            assert_eq!(said, [case.rule.clone().unwrap_or_default()], "{kind}: {case:?}");
            broken.extend(refused.into_iter().map(|rule| (kind.clone(), rule.rule)));
        }
    }
    // Each rule there is has been broken, so that each can be.
    for (kind, schema) in &schemas {
        let mut all = Vec::new();
        rules(schema, "", &mut all);
        for rule in all {
            assert!(!rule.message.is_empty(), "{kind}: the rule `{}` says nothing", rule.rule);
            assert!(!rule.path.contains("[]") || !rule.rule.contains("oldSelf"), "{kind}: {rule:?} is never asked");
            assert!(broken.contains(&(kind.clone(), rule.rule.clone())), "{kind}: no sample breaks {rule:?}");
        }
    }
}

#[test]
fn a_rule_that_is_no_expression_or_no_judgement_is_told() {
    for rule in ["self.a ==", "self.a", "self.none == 1"] {
        let schema = json!({"x-kubernetes-validations": [{"rule": rule, "message": "m"}]});
        let error = refused(&schema, ".spec", &json!({"a": 1}), None).expect_err(rule);
        assert!(format!("{error:#}").contains(".spec"), "{error:#}");
    }
}
