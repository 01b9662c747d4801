//! What was asked for on GitHub, counted: taken, known already, or why it was not done.

use std::sync::atomic::{AtomicU64, Ordering};

use super::github::Ignored;
use crate::metrics::{Exposition, Kind};

/// Counts of tasks that deliveries of GitHub ask for.
#[derive(Debug, Default)]
pub struct TaskCounts {
    taken: AtomicU64,
    duplicate: AtomicU64,
    ignored: [AtomicU64; Ignored::ALL.len()],
}

impl TaskCounts {
    /// A task was taken, or was there already.
    pub fn taken(&self, duplicate: bool) {
        let count = if duplicate { &self.duplicate } else { &self.taken };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was asked for is not done.
    pub fn ignored(&self, why: Ignored) {
        if let Some(place) = Ignored::ALL.iter().position(|one| *one == why) {
            self.ignored[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Tasks asked for on GitHub, by what became of it.";
        let mut family = into.family("mindos_tasks_asked_total", Kind::Counter, help);
        family.series(&[("outcome", "taken")], self.taken.load(Ordering::Relaxed));
        family.series(&[("outcome", "duplicate")], self.duplicate.load(Ordering::Relaxed));
        for (why, count) in Ignored::ALL.iter().zip(&self.ignored) {
            family.series(&[("outcome", why.as_str())], count.load(Ordering::Relaxed));
        }
    }
}
