//! The agent: its state, and the turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{DeliveryId, Timestamp, Token};

use crate::backoff::Chance;
use crate::config::{Config, ConfigError};
use crate::drain::Drain;
use crate::lease::Lease;
use crate::message::{Down, Intervals, Up};
use crate::recent::Recent;
use crate::stream::Stream;

/// Place of a general in [`Config::generals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GeneralIndex(pub u16);

impl GeneralIndex {
    pub(crate) fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<W, O> {
    /// Put it on the stream, behind what was sent before.
    Send(Up<O>),
    /// Hand the work to the general; say [`Agent::general_finished`] when it has ended, also after a `Stop`.
    Start { general: GeneralIndex, delivery: DeliveryId, token: Token, work: W },
    /// Ask the general to stop, and end it by force when `grace` is over.
    Stop { delivery: DeliveryId, token: Token, grace: Duration },
    /// Close the stream if it is open, and dial after this long.
    Reconnect { after: Duration },
    /// Nothing is left to do: send what was given to send, close the stream and end.
    Exit,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: u64,
    pub assigned: u64,
    pub started: u64,
    pub declined: u64,
    /// Assignments that were here already.
    pub repeated: u64,
    pub finished: u64,
    /// Results sent again on a later stream.
    pub resent: u64,
    pub settled: u64,
    pub refused: u64,
    pub extends: u64,
    /// Leases that ran out by this side's count.
    pub lapsed: u64,
    /// Leases that the plane took away.
    pub lost: u64,
    pub cancelled: u64,
    pub overdue: u64,
    pub handed_back: u64,
}

/// The agent side of one stream after another.
#[derive(Debug)]
pub struct Agent<W, O> {
    pub(crate) config: Config,
    pub(crate) generals: Vec<General>,
    pub(crate) leases: BTreeMap<DeliveryId, Lease<O>>,
    /// Taken on in this turn, to be accepted at its end.
    pub(crate) taken: Vec<(DeliveryId, Token)>,
    /// Work that was told to stop and forgotten, until it has ended; it fills a slot.
    pub(crate) leftovers: BTreeMap<(DeliveryId, Token), GeneralIndex>,
    pub(crate) agenda: BTreeSet<(Timestamp, DeliveryId)>,
    pub(crate) recent: Recent,
    pub(crate) running: usize,
    pub(crate) unsettled: usize,
    pub(crate) intervals: Intervals,
    pub(crate) stream: Stream,
    pub(crate) failures: u32,
    pub(crate) last_session: Option<Arc<str>>,
    pub(crate) last_assign: u64,
    pub(crate) reconciles: u64,
    /// When the last result was settled; results that wait for long after it are asked about.
    pub(crate) doubt_from: Timestamp,
    pub(crate) drain: Drain,
    pub(crate) chance: Chance,
    pub(crate) counts: Counts,
    pub(crate) actions: Vec<Action<W, O>>,
}

#[derive(Clone, Debug)]
pub(crate) struct General {
    pub(crate) slots: u32,
    pub(crate) ready: bool,
    /// The plane wants it to leave; holds for one stream.
    pub(crate) draining: bool,
    /// What the plane knows to be free, on this stream.
    pub(crate) granted: Option<u32>,
    /// Taken, working or stopping, under a lease.
    pub(crate) running: u32,
    /// Told to stop and forgotten, but not ended yet.
    pub(crate) leftover: u32,
    /// Moving average, in microseconds.
    pub(crate) latency_us: u64,
}

impl<W, O: Clone + Default> Agent<W, O> {
    /// An agent without a stream; dial, then say [`Agent::connected`]. No general is ready yet.
    ///
    /// # Errors
    /// Says which general is named twice, has no slots, or that there are none or too many.
    pub fn new(config: Config) -> Result<Agent<W, O>, ConfigError> {
        config.check()?;
        let generals = config.generals.iter().map(|general| General {
            slots: general.slots,
            ready: false,
            draining: false,
            granted: None,
            running: 0,
            leftover: 0,
            latency_us: 0,
        });
        Ok(Agent {
            generals: generals.collect(),
            leases: BTreeMap::new(),
            taken: Vec::new(),
            leftovers: BTreeMap::new(),
            agenda: BTreeSet::new(),
            recent: Recent::default(),
            running: 0,
            unsettled: 0,
            intervals: Intervals::default(),
            stream: Stream::Down,
            failures: 0,
            last_session: None,
            last_assign: 0,
            reconciles: 0,
            doubt_from: Timestamp(0),
            drain: Drain::No,
            chance: Chance(config.seed),
            counts: Counts::default(),
            actions: Vec::new(),
            config,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How often what happened since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Deliveries that generals work on under a lease.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Results that are not settled yet.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Leases held, those with a result on its way too.
    pub fn claims(&self) -> impl Iterator<Item = (DeliveryId, Token)> + '_ {
        self.leases.iter().map(|(delivery, lease)| (*delivery, lease.token))
    }

    /// Work that the generals do at this moment: running under a lease, or stopping after it.
    pub fn work(&self) -> impl Iterator<Item = (DeliveryId, Token)> + '_ {
        let running = self.leases.iter().filter(|(_, lease)| lease.is_running());
        running.map(|(delivery, lease)| (*delivery, lease.token)).chain(self.leftovers.keys().copied())
    }

    /// Whether `Welcome` has come on the stream that is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stream, Stream::Open { .. })
    }

    /// Where the general of this name stands.
    #[must_use]
    pub fn general(&self, name: &str) -> Option<GeneralIndex> {
        let at = self.config.generals.iter().position(|general| general.name.as_str() == name)?;
        u16::try_from(at).ok().map(GeneralIndex)
    }

    /// Moves what there is to do into `into`, in order.
    pub fn take_actions(&mut self, into: &mut Vec<Action<W, O>>) {
        into.append(&mut self.actions);
    }

    /// A message has come down the open stream; `number` counts them on it from 1.
    pub fn received(&mut self, number: u64, message: Down<W>, now: Timestamp) {
        match (&self.stream, message) {
            (Stream::Down, _) => {}
            (Stream::Greeting { sent }, Down::Welcome(welcome)) => {
                let sent = *sent;
                self.welcomed(welcome, sent, now);
            }
            // The plane breaks the protocol: begin anew.
            (Stream::Greeting { .. }, _) | (Stream::Open { .. }, Down::Welcome(_)) => self.stream_lost(now),
            (Stream::Open { .. }, Down::Assign(assign)) => {
                self.last_assign = number;
                self.assigned(assign, now);
            }
            (Stream::Open { .. }, Down::Extended { delivery, token, lease }) => self.extended(delivery, token, lease),
            (Stream::Open { .. }, Down::Lost { delivery, token }) => self.lost(delivery, token),
            (Stream::Open { .. }, Down::Cancel { delivery, token, reason, grace }) => {
                self.cancel(delivery, token, reason, grace, now);
            }
            (Stream::Open { .. }, Down::Settled { delivery, token, verdict }) => {
                self.doubt_from = now;
                self.settled(delivery, token, verdict);
            }
            (Stream::Open { .. }, Down::Reconciled { verdicts }) => {
                for (delivery, token, verdict) in verdicts {
                    // When the claim was made is not remembered, so it prolongs nothing.
                    self.judged(delivery, token, verdict, Timestamp(0), now);
                }
            }
            (Stream::Open { .. }, Down::Reconcile { request, claims }) => self.reconcile_wanted(request, claims),
            (Stream::Open { .. }, Down::Drain { generals, reconnect }) => self.drain_wanted(&generals, reconnect, now),
        }
    }

    /// A general became ready, or stopped being so.
    pub fn ready(&mut self, general: GeneralIndex, ready: bool) {
        if let Some(general) = self.generals.get_mut(general.at()) {
            general.ready = ready;
            self.regrant();
        }
    }

    /// Ends a turn: sends what was collected and does what is due.
    pub fn tick(&mut self, now: Timestamp) {
        self.accept_taken(now);
        self.leases_due(now);
        self.stream_due(now);
        self.drain_due(now);
    }

    /// When [`Agent::tick`] has something to do next, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let lease = self.agenda.first().map(|(due, _)| *due);
        [lease, self.drain.next_due(), self.stream_next_due()].into_iter().flatten().min()
    }

    /// Sends while the stream is open; everything that must not get lost is sent again from the state when the next one opens.
    pub(crate) fn send(&mut self, message: Up<O>) {
        if self.is_open() {
            self.actions.push(Action::Send(message));
        }
    }
}
