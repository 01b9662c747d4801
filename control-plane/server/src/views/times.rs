//! When a record was decided, by its sequence: exact for the newest, to the second for older ones, in bounded memory.
//!
//! Times grow with sequences, so a mark stands only where the time changes. Invariant: marks are sorted by both.

use std::collections::VecDeque;

use mindos_model::{Seq, Timestamp};

/// Marks that are kept as they came; the oldest half of them is thinned out when there are more.
const EXACT_MAX: usize = 1 << 16;
/// Thinned marks; the oldest leave.
const COARSE_MAX: usize = 1 << 16;
/// Milliseconds between thinned marks, at least.
const COARSE_STEP: u64 = 1000;

/// Sequences and their times.
#[derive(Debug, Default)]
pub(crate) struct Times {
    coarse: VecDeque<(Seq, Timestamp)>,
    exact: VecDeque<(Seq, Timestamp)>,
}

impl Times {
    /// Notes the record that comes next.
    pub(crate) fn note(&mut self, seq: Seq, at: Timestamp) {
        if self.exact.back().is_some_and(|&(_, last)| last >= at) {
            return;
        }
        self.exact.push_back((seq, at));
        if self.exact.len() > EXACT_MAX {
            for mark in self.exact.drain(..EXACT_MAX / 2) {
                if self.coarse.back().is_none_or(|&(_, last)| mark.1.0 >= last.0 + COARSE_STEP) {
                    self.coarse.push_back(mark);
                }
            }
            let surplus = self.coarse.len().saturating_sub(COARSE_MAX);
            self.coarse.drain(..surplus);
        }
    }

    /// When the record was decided; `None` when it is older than all marks.
    pub(crate) fn at(&self, seq: Seq) -> Option<Timestamp> {
        let find = |marks: &VecDeque<(Seq, Timestamp)>| {
            let index = marks.partition_point(|&(first, _)| first <= seq).checked_sub(1)?;
            marks.get(index).map(|&(_, at)| at)
        };
        find(&self.exact).or_else(|| find(&self.coarse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_exact_and_older_ones_within_a_second() {
        let mut times = Times::default();
        let count = 200_000;
        (1..=count).for_each(|number| times.note(Seq(number * 3), Timestamp(number)));
        assert_eq!(times.at(Seq(1)), None);
        for number in [1, 1_000, 70_000, 150_000, count - 10, count] {
            for seq in [number * 3, number * 3 + 2] {
                let at = times.at(Seq(seq)).unwrap().0;
                let slack = if number > count - 30_000 { 0 } else { 1_000 };
                assert!(at <= number && at + slack >= number, "{seq}: {at}");
            }
        }
        assert!(times.exact.len() <= EXACT_MAX && times.coarse.len() < 1_000);
    }
}
