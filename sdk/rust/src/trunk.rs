//! Connections that many streams of one agent share: those of a cluster agent, which speaks for generals in other pods.
//!
//! ```text
//!   stream --+
//!   stream --+--> strand, one connection --> control plane
//!   stream --+
//! ```
//! Invariant: a strand takes on no stream when it is older than [`YOUNG`], has [`STREAMS_MAX`] or broke, so that a stream leaves by itself
//! before the control plane ends the connection for its age. One dial is under way at a time, and one that failed answers for all that
//! ask within [`PAUSE`]: thousands of streams that come back dial as if they were one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::dial::{AddressError, Channel, Dialer};
use crate::identity::{Member, Signals};

/// Streams of one connection. A control plane takes 4096, and calls want room beside them.
const STREAMS_MAX: usize = 3500;
/// How old a connection may be to take on another stream. A stream stands for up to 30 min and the control plane ends a connection at 36 min.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// How long nobody dials after a dial that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// The shared connections of an agent. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Trunk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    signals: Signals,
    calls: Channel,
    strands: Mutex<Vec<Weak<Strand>>>,
    /// Held by who dials; when the last dial failed, and why.
    dialling: tokio::sync::Mutex<Option<(Instant, Status)>>,
    takeovers: Arc<AtomicU64>,
    /// Until when streams may be opened; unset is for ever.
    open_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Strand {
    channel: Channel,
    since: Instant,
    broken: AtomicBool,
    takeovers: Arc<AtomicU64>,
}

/// A stream's place on a connection, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Strand>);

impl Trunk {
    /// Connections with the certificate that `member` has when they are made. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn of(member: &Member) -> Result<Trunk, AddressError> {
        Trunk::new(member.dialer(), member.signals())
    }

    /// Connections to an address in the clear, where nobody is asked who he is. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn anonymous(control_plane: &str) -> Result<Trunk, AddressError> {
        Trunk::new(Dialer::new(control_plane)?, Signals::default())
    }

    fn new(dialer: Dialer, signals: Signals) -> Result<Trunk, AddressError> {
        // What TLS needs is read once and not for each connection.
        let dialer = dialer.settled()?;
        let calls = dialer.channel()?;
        let shared = Shared {
            dialer,
            signals,
            calls,
            strands: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            takeovers: Arc::default(),
            open_until: Mutex::default(),
        };
        Ok(Trunk { shared: Arc::new(shared) })
    }

    /// A channel for calls beside the streams; dials when first used, and again after a break, with the certificate of the moment.
    #[must_use]
    pub fn calls(&self) -> Channel {
        self.shared.calls.clone()
    }

    /// How many streams have a place, and how many connections that takes.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let strands = self.strands();
        let counts = strands.iter().map(Weak::strong_count).filter(|count| *count > 0);
        counts.fold((0, 0), |(streams, connections), count| (streams + count, connections + 1))
    }

    /// How many streams have ended because somebody else opened a newer one of the same instance.
    #[must_use]
    pub fn takeovers(&self) -> u64 {
        self.shared.takeovers.load(Ordering::Relaxed)
    }

    /// Opens no stream after `until`, unless this is said again: for an agent that others may take the place of while it is halted.
    pub fn open_until(&self, until: Instant) {
        *self.shared.open_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub(crate) fn signals(&self) -> Signals {
        self.shared.signals.clone()
    }

    /// A place for a stream on a connection that stands.
    pub(crate) async fn seat(&self) -> Result<Seat, Status> {
        let until = *self.shared.open_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| until < Instant::now()) {
            return Err(Status::unavailable("another agent may be at work"));
        }
        if let Some(seat) = self.free() {
            return Ok(seat);
        }
        let mut failed = self.shared.dialling.lock().await;
        if let Some(seat) = self.free() {
            return Ok(seat);
        }
        if let Some((_, status)) = failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(status.clone());
        }
        match self.shared.dialer.connect().await {
            Ok(channel) => {
                *failed = None;
                Ok(self.enter(channel))
            }
            Err(error) => {
                let status = Status::unavailable(crate::error::chain(&error));
                *failed = Some((Instant::now(), status.clone()));
                Err(status)
            }
        }
    }

    fn enter(&self, channel: Channel) -> Seat {
        let (broken, takeovers) = (AtomicBool::new(false), self.shared.takeovers.clone());
        let strand = Arc::new(Strand { channel, since: Instant::now(), broken, takeovers });
        let mut strands = self.strands();
        strands.retain(|strand| strand.strong_count() > 0);
        strands.push(Arc::downgrade(&strand));
        Seat(strand)
    }

    fn free(&self) -> Option<Seat> {
        let strands = self.strands();
        let mut roomy = strands.iter().filter(|strand| (1..STREAMS_MAX).contains(&strand.strong_count()));
        roomy.find_map(|strand| {
            let strand = strand.upgrade()?;
            let fits = strand.since.elapsed() < YOUNG && !strand.broken.load(Ordering::Relaxed);
            fits.then_some(Seat(strand))
        })
    }

    fn strands(&self) -> MutexGuard<'_, Vec<Weak<Strand>>> {
        self.shared.strands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(crate) fn channel(&self) -> Channel {
        self.0.channel.clone()
    }

    /// A stream has ended like this: where that may be for its connection, nobody else is put there.
    pub(crate) fn ended(&self, status: &Status) {
        if status.code() == Code::Aborted {
            self.0.takeovers.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled) {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk() -> Trunk {
        Trunk::anonymous("http://127.0.0.1:1").unwrap()
    }

    #[tokio::test]
    async fn streams_share_a_connection_until_it_is_full_or_broken() {
        let trunk = trunk();
        let mut seats = vec![trunk.enter(trunk.calls())];
        while let Some(seat) = trunk.free() {
            seats.push(seat);
        }
        assert_eq!(trunk.load(), (STREAMS_MAX, 1));
        seats.truncate(2);
        assert_eq!(trunk.load(), (2, 1));
        seats[0].ended(&Status::aborted("a newer stream of this instance took over"));
        assert!(trunk.free().is_some());
        assert_eq!(trunk.takeovers(), 1);
        seats[0].ended(&Status::unavailable("broken pipe"));
        assert!(trunk.free().is_none());
        drop(seats);
        assert_eq!(trunk.load(), (0, 0));
    }

    #[tokio::test]
    async fn nothing_is_opened_by_who_may_have_been_replaced() {
        let trunk = trunk();
        let _seat = trunk.enter(trunk.calls());
        trunk.open_until(Instant::now() + Duration::from_secs(60));
        assert!(trunk.seat().await.is_ok());
        trunk.open_until(Instant::now() - Duration::from_millis(1));
        assert!(trunk.seat().await.unwrap_err().message().contains("another agent"));
    }

    #[tokio::test]
    async fn a_dial_that_failed_answers_for_all_that_ask_at_once() {
        let trunk = trunk();
        let (one, other) = tokio::join!(trunk.seat(), trunk.seat());
        let (one, other) = (one.unwrap_err(), other.unwrap_err());
        assert_eq!((one.code(), one.message()), (Code::Unavailable, other.message()));
        assert_eq!(trunk.load(), (0, 0));
    }
}
