//! What an attacker got for its trouble.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Counts of one attack.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections that were opened.
    pub(super) opened: AtomicU64,
    /// Connections that the server did not take.
    pub(super) refused: AtomicU64,
    /// Connections that the server ended.
    pub(super) ended: AtomicU64,
    /// Requests or frames that were sent.
    pub(super) sent: AtomicU64,
    held: AtomicU64,
    held_most: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
}

pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

impl Tally {
    /// One answer, by its code.
    pub(super) fn answer(&self, code: &str, count: u64) {
        let mut answers = self.answers.lock().expect("nobody panics with it");
        if answers.len() < 100 || answers.contains_key(code) {
            *answers.entry(code.to_owned()).or_default() += count;
        }
    }

    /// A connection that is held from here on.
    pub(super) fn hold(&self) {
        add(&self.opened, 1);
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        self.held_most.fetch_max(held, Ordering::Relaxed);
    }

    /// The server ended a connection that was held.
    pub(super) fn lose(&self) {
        add(&self.ended, 1);
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> Value {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tally { opened, refused, ended, sent, held, held_most, answers } = self;
        json!({
            "connections_opened": read(opened),
            "connections_refused": read(refused),
            "connections_ended_by_server": read(ended),
            "connections_held_most": read(held_most),
            "connections_held_at_end": read(held),
            "sent": read(sent),
            "answers": *answers.lock().expect("nobody panics with it"),
        })
    }
}
