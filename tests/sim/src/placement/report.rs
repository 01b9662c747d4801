//! What was measured, as JSON.

use mindos_core::Drawing;

use super::{Figures, Setting, measure};

/// All ways of drawing, as one JSON object: once where agents take more than their models work on at a time, so that work waits
/// before the models, and once where they take just that, so that it waits at the plane.
#[must_use]
pub fn report(setting: Setting) -> String {
    let cases = [
        ("more_slots_than_the_model_works_on", setting),
        ("as_many_slots_as_the_model_works_on", Setting { slots: setting.parallel, ..setting }),
    ];
    let cases = cases.map(|(name, setting)| format!("\"{name}\": {}", case(setting)));
    let fail = setting.instances * 3 / 10;
    let many = measure(Setting { fail, load: (setting.load.0, setting.load.0), ..setting }, Drawing::BetterOfTwo);
    let share = f64::from(many.ejected_max) * 100.0 / f64::from(setting.instances);
    format!(
        "{{\n{},\n\"many_fail\": {{\"instances_failing\": {fail}, \"load_percent\": {}, \"largest_share_ejected_percent\": {share:.1}, \
         \"run\": {}}}\n}}",
        cases.join(",\n"),
        setting.load.0,
        json(&many)
    )
}

fn case(setting: Setting) -> String {
    let ways = [
        ("better_of_two", Drawing::BetterOfTwo),
        ("round_robin", Drawing::RoundRobin),
        ("least_loaded", Drawing::LeastLoaded),
    ];
    let measured: Vec<_> = ways.into_iter().map(|(name, drawing)| (name, measure(setting, drawing))).collect();
    let runs: Vec<_> = measured.iter().map(|(name, figures)| format!("    \"{name}\": {}", json(figures))).collect();
    let ratio = |of: usize, to: usize, which: fn(&Figures) -> [u64; 3]| {
        let [ours, theirs] = [of, to].map(|at| which(&measured[at].1));
        [0, 1, 2].map(|at| format!("{:.3}", ours[at] as f64 / (theirs[at] as f64).max(1.0))).join(", ")
    };
    let Setting { seed, instances, slots, parallel, work_ms, seconds, lanes, load, swing, slower, fail: _, failing } =
        setting;
    let largest = measured.iter().map(|(_, figures)| figures.ejected_max).max().unwrap_or(0);
    format!(
        "{{\n  \"setting\": {{\"seed\": {seed}, \"instances\": {instances}, \"slots\": {slots}, \"parallel\": {parallel}, \
         \"work_ms\": {work_ms}, \"seconds\": {seconds}, \"lanes\": {lanes}, \"load_percent\": [{}, {}], \
         \"swing_seconds\": {swing}, \"slow_instance_times\": {slower}, \"failing_percent\": {}, \
         \"failing_from_to_seconds\": [{}, {}]}},\n  \"milliseconds_at\": [\"p50\", \"p99\", \"p99.9\"],\n  \"runs\": {{\n{}\n  }},\n  \
         \"time_in_queue_against_round_robin\": [{}],\n  \"time_in_queue_against_least_loaded\": [{}],\n  \
         \"time_to_result_against_round_robin\": [{}],\n  \"time_to_result_against_least_loaded\": [{}],\n  \
         \"largest_share_ejected_percent\": {:.1}\n}}",
        load.0,
        load.1,
        failing.0,
        failing.1,
        failing.2,
        runs.join(",\n"),
        ratio(0, 1, |figures| figures.queue),
        ratio(0, 2, |figures| figures.queue),
        ratio(0, 1, |figures| figures.done),
        ratio(0, 2, |figures| figures.done),
        f64::from(largest) * 100.0 / f64::from(instances),
    )
}

fn json(figures: &Figures) -> String {
    let Figures {
        deliveries,
        settled,
        attempts_failed,
        queue,
        done,
        at_slow,
        at_failing,
        ejected_after,
        back_after,
        ejected_max,
    } = figures;
    let maybe = |value: &Option<u64>| value.map_or("null".to_owned(), |value| value.to_string());
    format!(
        "{{\"deliveries\": {deliveries}, \"settled\": {settled}, \"attempts_failed\": {attempts_failed}, \
         \"time_in_queue_ms\": {queue:?}, \"time_to_result_ms\": {done:?}, \"leases_at_slow\": {at_slow}, \
         \"leases_at_failing\": {at_failing}, \"ejected_after_ms\": {}, \"back_after_ms\": {}, \"ejected_max\": {ejected_max}}}",
        maybe(ejected_after),
        maybe(back_after)
    )
}
