//! Sinks: where results leave to, and notices of work that was parked.
//!
//! ```text
//!  durable records --> Walk from the sink's cursor --> on, routes --> POST or publish, one at a time --> taken: cursor moves on
//!                                                                        | 5xx, 429, silence, no stream: again, later
//!                                                                        | 401, 403, 404: again, later; a notice only so often
//!                                                                        + refused for what it is: counted, passed over
//! ```
//! At least once and in the journal's order, for each sink; each place of `notify` is a sink too, for parked work. A sink begins with what comes after it was configured; its place is kept
//! while it stands in the settings file. Invariant: a sink that takes nothing holds up nobody; what leaves the journal before it came
//! back is counted as skipped.

mod cursor;
mod message;
#[cfg(feature = "nats")]
mod nats;
mod post;
mod road;
mod run;
pub mod settings;
mod state;
#[cfg(feature = "nats")]
mod subject;
mod tell;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use mindos_model::{Seq, TenantName};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::grpc::Context;
use crate::metrics::{Exposition, Kind};
use crate::notify::Paces;
use cursor::Cursor;
use mindos_outgoing::Outgoing;
pub(crate) use post::Post;
use run::Runner;
use settings::Sink;
use state::State;

/// Between two looks at the settings in force.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The sinks in force by name.
pub type Configured = Arc<ArcSwap<BTreeMap<String, Sink>>>;

/// How all sinks fare. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SinkStates(Arc<Mutex<BTreeMap<String, Arc<State>>>>);

impl SinkStates {
    fn read(&self) -> Vec<Arc<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The sinks of a tenant, or all, for people and programs. `end` is the last durable record.
    #[must_use]
    pub fn show(&self, whose: Option<&TenantName>, end: Seq) -> Value {
        self.of(whose).iter().map(|state| state.show(end)).collect()
    }

    fn of(&self, whose: Option<&TenantName>) -> Vec<Arc<State>> {
        let mut states = self.read();
        states.retain(|state| whose.is_none() || whose == state.whose.tenant());
        states
    }

    /// Writes the families of all sinks.
    pub fn expose(&self, end: Seq, into: &mut Exposition) {
        SinkStates::write(&self.read(), end, into);
    }

    /// Writes the families of a tenant's sinks.
    pub fn expose_of(&self, whose: &TenantName, end: Seq, into: &mut Exposition) {
        SinkStates::write(&self.of(Some(whose)), end, into);
    }

    fn write(states: &[Arc<State>], end: Seq, into: &mut Exposition) {
        use std::sync::atomic::Ordering::Relaxed;
        let mut family = |name, kind, help, read: &dyn Fn(&State) -> u64| {
            let mut family = into.family(name, kind, help);
            states.iter().for_each(|state| family.series(&[("sink", &state.name)], read(state)));
        };
        family("mindos_sink_up", Kind::Gauge, "Whether the last message to the sink was taken.", &|state| {
            u64::from(state.is_up())
        });
        let help = "Records that the sink has not passed yet.";
        family("mindos_sink_lag_records", Kind::Gauge, help, &|state| state.lag(end));
        family("mindos_sink_sent_total", Kind::Counter, "Messages that the sink took.", &|state| {
            state.sent.load(Relaxed)
        });
        let help = "Attempts to send that failed and are repeated.";
        family("mindos_sink_attempts_failed_total", Kind::Counter, help, &|state| state.attempts_failed.load(Relaxed));
        let help = "Messages that the sink refused for good, and notices that were passed over because it refuses its settings.";
        family("mindos_sink_refused_total", Kind::Counter, help, &|state| state.refused.load(Relaxed));
        let help = "Records that left the journal before the sink could take them.";
        family("mindos_sink_records_skipped_total", Kind::Counter, help, &|state| state.skipped.load(Relaxed));
    }
}

/// A sink at work.
struct Running {
    sink: Sink,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Keeps the sinks that are configured at work.
#[derive(Clone, Debug)]
pub struct Sinks {
    pub configured: Configured,
    pub states: SinkStates,
    /// Where cursors are kept.
    pub dir: PathBuf,
    pub client: Outgoing,
    /// How fast people were told lately.
    pub paces: Paces,
}

impl Sinks {
    /// Starts, changes and ends sinks as they are configured, until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        loop {
            let configured = self.configured.load_full();
            let names: Vec<String> = running.keys().cloned().collect();
            for name in names {
                if configured.get(&name) != running.get(&name).map(|running| &running.sink)
                    && let Some(Running { stop, task, .. }) = running.remove(&name)
                {
                    let _ = stop.send(true);
                    let _ = task.await;
                    if !configured.contains_key(&name) {
                        self.states.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                        run::forget(Cursor::new(&self.dir, &name, &context.plane_id), &name).await;
                    }
                }
            }
            for (name, sink) in &*configured {
                if !running.contains_key(name) {
                    running.insert(name.clone(), self.start(&context, name, sink));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = context.drained() => break,
            }
        }
        for Running { stop, task, .. } in running.into_values() {
            let _ = stop.send(true);
            let _ = task.await;
        }
    }

    fn start(&self, context: &Arc<Context>, name: &str, sink: &Sink) -> Running {
        let mut states = self.states.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry(name.to_owned()).or_insert_with(|| Arc::new(State::new(name, sink.whose.clone())));
        if state.whose != sink.whose {
            *state = Arc::new(State::new(name, sink.whose.clone()));
        }
        let (stop, stopped) = watch::channel(false);
        let runner = Runner {
            context: Arc::clone(context),
            client: self.client.clone(),
            paces: self.paces.clone(),
            sink: sink.clone(),
            state: Arc::clone(state),
            cursor: Cursor::new(&self.dir, name, &context.plane_id),
            stop: stopped,
            #[cfg(feature = "nats")]
            nats: nats::Connection::default(),
            events: HashMap::default(),
            order: VecDeque::new(),
            leases: HashMap::default(),
        };
        Running { sink: sink.clone(), stop, task: tokio::spawn(runner.run()) }
    }
}
