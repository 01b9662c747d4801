//! The faults that a run can suffer, and how often each did.

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $word:literal),+ $(,)?) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name),+ }

        impl Fault {
            /// Every kind, in order.
            pub const ALL: &'static [Fault] = &[$(Fault::$name),+];

            /// The word for reports.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Fault::$name => $word),+ }
            }
        }
    };
}

faults! {
    /// The plane's process died.
    PlaneCrash = "plane_crash",
    /// A crash lost batches that were not synced.
    BatchLost = "batch_lost",
    /// A crash kept batches that were not known to be synced.
    BatchKept = "batch_kept_unacknowledged",
    /// A crash in the middle of a write of the real journal.
    TornWrite = "torn_write",
    /// The machine stayed up when the process died.
    ProcessKilled = "process_killed",
    RestartFromSnapshot = "restart_from_snapshot",
    RestartFromJournal = "restart_from_journal",
    /// The plane's clock stood elsewhere after a start.
    ClockMoved = "clock_moved",
    /// The plane got no turn for more than a second.
    PlaneStalled = "plane_stalled",
    /// A sync took longer than a second.
    SlowDisk = "slow_disk",
    /// Two batches were on their way and a third was wanted.
    WriterBusy = "two_batches_in_flight",
    SyncFailed = "sync_failed",
    DiskFull = "disk_full",
    /// Both ends of a stream saw its end.
    StreamCut = "stream_cut",
    /// Only the agent saw the end of the stream.
    HalfOpenAtPlane = "half_open_at_plane",
    /// Only the plane saw the end of the stream.
    HalfOpenAtAgent = "half_open_at_agent",
    /// Neither saw it: nothing goes through any more.
    Blackhole = "blackhole",
    DialFailed = "dial_failed",
    AgentCrash = "agent_crash",
    AgentDrain = "agent_drain",
    /// A message took longer than two seconds.
    LongDelay = "long_delay",
    LateResult = "late_result",
    DuplicateResult = "duplicate_result",
    ForeignResult = "foreign_result",
    UnknownToken = "unknown_token",
    NonsenseMessage = "message_of_unknown_stream",
    PublisherRetry = "publisher_retry",
    Republished = "republished",
    Conflict = "republished_with_other_content",
    GeneralHung = "general_hung",
    GeneralIgnoresStop = "general_ignores_stop",
    GeneralNotReady = "general_not_ready",
    /// An object was told of again.
    ObjectRepeated = "object_repeated",
    /// That an object went was told when it had been made again.
    ObjectStale = "object_stale",
    /// An object changed and nobody told.
    ObjectUntold = "object_untold",
    /// What stands no more was found when both sides were compared.
    ObjectPruned = "object_pruned",
    ClusterAgentAway = "cluster_agent_away",
}

/// How often each kind happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; Fault::ALL.len()]);

impl Default for Counts {
    fn default() -> Counts {
        Counts([0; Fault::ALL.len()])
    }
}

impl Counts {
    /// One more.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Counts) {
        self.0.iter_mut().zip(&other.0).for_each(|(count, more)| *count += more);
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|fault| (*fault, self.0[*fault as usize]))
    }
}
