//! Notifiers: what people want to be told where they already are, as it happens.
//!
//! ```text
//!   records --> view --events--> queue of each kind of place --> pace --> HTTP --> Discord, Slack, a webhook
//!      |                           full: dropped, counted          ^      429: waits as told; failed: tried again, then counted
//!      +--> a sink for each place --parked work, from its cursor---+
//! ```
//! Invariants: nothing here makes the plane or an answer wait; a secret is in no log line; every queue has a bound; both ways share the
//! pace of their place. That an event came in is told as a courtesy: what happened while the process was down is not told afterwards. Work
//! that was set aside goes the way of results (see `sinks`) and is told of, later if need be.

mod discord;
mod notice;
mod pace;
mod place;
mod sender;
mod settings;
mod slack;
#[cfg(test)]
mod tests;
mod view;
mod webhook;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poll, Poll as Polled};

use arc_swap::ArcSwap;
use mindos_model::Seq;

use crate::metrics::{self, Exposition};
use mindos_outgoing::Outgoing;

pub use place::{Paces, Place, Places};
pub(crate) use sender::told;
pub use settings::{DiscordEnv, NotifySection};
pub use view::NotifyView;

use place::Kind;
use sender::{Counts, Sender};

/// The places in force, swapped when the settings change.
pub type Configured = Arc<ArcSwap<Places>>;

/// Makes the view that finds what is worth telling from `next` on, and the tasks that tell it until they are dropped.
#[must_use]
pub fn start(
    places: &Configured,
    paces: &Paces,
    outgoing: &Outgoing,
    next: Seq,
) -> (NotifyView, Vec<Task>, NoticeCounts) {
    let made = Kind::ALL.map(|kind| Sender::new(kind, places, paces, outgoing));
    let (senders, queues): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let counts = queues.iter().map(|queue| (queue.kind(), queue.counts())).collect();
    let tasks = senders.into_iter().map(|sender| Task(Box::pin(sender.run()))).collect();
    (NotifyView::new(Arc::clone(places), queues, next), tasks, NoticeCounts { places: Arc::clone(places), counts })
}

/// Tells what one notifier is to tell.
pub struct Task(Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Poll<'_>) -> Polled<()> {
        self.0.as_mut().poll(context)
    }
}

/// What became of notices, by notifier.
#[derive(Clone, Debug)]
pub struct NoticeCounts {
    places: Configured,
    counts: Vec<(Kind, Arc<Counts>)>,
}

impl NoticeCounts {
    /// Shows them, of places that are configured or were.
    pub fn expose(&self, into: &mut Exposition) {
        let places = self.places.load();
        let is_shown = |kind: Kind, counts: &Counts| {
            places.get(kind).is_some() || counts.read().iter().any(|(_, count)| *count > 0)
        };
        let shown: Vec<_> = self.counts.iter().filter(|(kind, counts)| is_shown(*kind, counts)).collect();
        if shown.is_empty() {
            return;
        }
        let help = "Notices by notifier and what became of them.";
        let mut family = into.family("mindos_notices_total", metrics::Kind::Counter, help);
        for (kind, counts) in shown {
            for (outcome, count) in counts.read() {
                family.series(&[("notifier", kind.as_str()), ("outcome", outcome)], count);
            }
        }
    }
}
