//! A few seeds as a test; `sim --seeds 10000` runs many.

use mindos_sim::{Options, run, script};

#[test]
fn one_seed_run_twice_gives_equal_bytes() {
    for seed in [1, 2, 3] {
        let options = Options { inputs_min: 500, hash_all: true, ..Options::default() };
        let (one, other) = (run(seed, options).unwrap(), run(seed, options).unwrap());
        assert_eq!((one.hash, one.inputs, one.records), (other.hash, other.inputs, other.records), "seed {seed}");
        assert_ne!(one.hash, run(seed + 100, options).unwrap().hash);
    }
}

#[test]
fn invariants_hold_on_the_real_journal() {
    for seed in 0..3 {
        let options = Options { inputs_min: 500, real_journal: Some(true), ..Options::default() };
        let report = run(seed, options).unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.broken));
        assert!(report.real_journal && report.inputs >= 500);
    }
}

#[test]
fn the_inputs_of_a_seed_can_be_run_as_a_story() {
    let options = Options { inputs_min: 500, record: true, ..Options::default() };
    let report = run(5, options).unwrap_or_else(|failure| panic!("{}", failure.broken));

    let ran = script::run(&report.script).unwrap();

    assert_eq!(ran.broken, None);
    assert!(ran.text.contains("DeliverySettled"), "it does more than nothing");
}
