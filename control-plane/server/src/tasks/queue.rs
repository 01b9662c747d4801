//! The contract's queue: messages of RabbitMQ become tasks.
//!
//! ```text
//!  message --> read --> event, durable --> ack
//!                |          |
//!                |          +-- known already, also with other fields: ack, counted as a duplicate
//!                |          +-- no room now: held and tried again, others wait in the queue
//!                +-- cannot be taken: put into `<queue>.parked` with its reason, confirmed, and only then acknowledged
//! ```
//! Invariant: a message is acknowledged after its event, or its place among the parked, is durable; none is put back to be read at
//! once again; no more are held than `prefetch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use mindos_core::input::Entropy;
use mindos_core::output::Published;
use mindos_proto::rpc;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tonic::Code;
use tracing::{debug, info, warn};

use super::queue_settings::QueueSettings;
use super::settings::TaskSettings;
use super::task::{REQUEST_MAX, Task};
use crate::grpc::Context;
use crate::ingest::cloudevents::IncomingEvent;
use crate::ingest::github_trust::Origin;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};

/// The largest message that is read: its longest field, escaped, and the others.
const MESSAGE_MAX: usize = 6 * REQUEST_MAX + (64 << 10);
/// Parked messages that are kept; the oldest make room.
const PARKED_MAX: i64 = 10_000;
/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Between two looks at the settings in force.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// First wait after a failure; doubles up to the last, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A connection that stood for so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// Seconds between two signs of life.
const HEARTBEAT_S: u16 = 30;
/// Says why a message was parked.
const REASON_HEADER: &str = "x-mindos-reason";

/// The settings in force.
pub type Configured = Arc<ArcSwap<TaskSettings>>;

/// What became of messages.
#[derive(Debug, Default)]
pub struct Counts {
    /// Whether a queue is configured, and whether it is read.
    wanted: AtomicBool,
    up: AtomicBool,
    accepted: AtomicU64,
    duplicate: AtomicU64,
    parked: AtomicU64,
    waited: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let help = "Messages of the queue of tasks, by what became of them.";
        let mut family = into.family("mindos_task_messages_total", Kind::Counter, help);
        for (outcome, count) in [("accepted", &self.accepted), ("duplicate", &self.duplicate), ("parked", &self.parked)]
        {
            family.series(&[("outcome", outcome)], read(count));
        }
        let help = "Tries of messages of the queue of tasks that found no room and are repeated.";
        into.single("mindos_task_message_waits_total", Kind::Counter, help, read(&self.waited));
        let help = "Connections to the queue of tasks that failed or broke.";
        into.single("mindos_task_queue_failures_total", Kind::Counter, help, read(&self.failures));
        let help = "Whether the queue of tasks is being read, where one is configured.";
        let mut family = into.family("mindos_task_queue_up", Kind::Gauge, help);
        if self.wanted.load(Ordering::Relaxed) {
            family.series(&[], u64::from(self.up.load(Ordering::Relaxed)));
        }
    }
}

/// Why a connection is not used any longer.
#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    #[error("no connection within {} s", CONNECT_MAX.as_secs())]
    TooSlow,
    #[error("the server stopped sending messages: was the queue deleted?")]
    Cancelled,
    #[error("the server did not keep a parked message")]
    NotParked,
    #[error("a message was given up")]
    Lost(#[source] tokio::task::JoinError),
}

/// How reading ended.
enum Ended {
    /// The server drains.
    Drained,
    /// The settings say something else now.
    Changed,
}

/// Reads the queue that is configured.
#[derive(Clone, Debug)]
pub struct QueueReader {
    pub configured: Configured,
    pub counts: Arc<Counts>,
}

impl QueueReader {
    /// Reads until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let mut wait = RETRY_MIN;
        let mut chance = Entropy(u64::from(std::process::id()));
        loop {
            let queue = self.configured.load().queue.clone();
            self.counts.wanted.store(queue.is_some(), Ordering::Relaxed);
            let pause = match queue {
                None => LOOK_INTERVAL,
                Some(queue) => {
                    let began = Instant::now();
                    let read = self.read(&context, &queue).await;
                    self.counts.up.store(false, Ordering::Relaxed);
                    match read {
                        Ok(Ended::Drained) => return,
                        Ok(Ended::Changed) => {
                            wait = RETRY_MIN;
                            continue;
                        }
                        Err(error) => {
                            self.counts.failures.fetch_add(1, Ordering::Relaxed);
                            wait = if began.elapsed() >= GOOD_AFTER { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
                            let retry_in = wait / 2 + wait.mul_f64(chance.below(1000) as f64 / 2000.0);
                            let retry_in_ms = retry_in.as_millis() as u64;
                            warn!(error = %Chain(&error), ?queue, retry_in_ms, "queue of tasks is not read");
                            retry_in
                        }
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = context.drained() => return,
            }
        }
    }

    async fn read(&self, context: &Arc<Context>, queue: &QueueSettings) -> Result<Ended, QueueError> {
        let connected = tokio::select! {
            connected = tokio::time::timeout(CONNECT_MAX, connect(queue)) => connected,
            () = context.drained() => return Ok(Ended::Drained),
        };
        let (connection, channel) = connected.map_err(|_| QueueError::TooSlow)??;
        let options = BasicConsumeOptions::default();
        let tag = "mindos-tasks";
        let mut consumer =
            channel.basic_consume(queue.queue.as_str().into(), tag.into(), options, FieldTable::default()).await?;
        info!(?queue, "queue of tasks is read");
        self.counts.up.store(true, Ordering::Relaxed);
        let (stop, stopping) = watch::channel(false);
        let mut hands = JoinSet::new();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        let ended = loop {
            tokio::select! {
                biased;
                () = context.drained() => break Ended::Drained,
                _ = look.tick() => {
                    if self.configured.load().queue.as_ref() != Some(queue) {
                        break Ended::Changed;
                    }
                }
                Some(done) = hands.join_next(), if !hands.is_empty() => done.map_err(QueueError::Lost)??,
                message = consumer.next(), if hands.len() < usize::from(queue.prefetch) => {
                    let message = message.ok_or(QueueError::Cancelled)??;
                    let hand = Hand {
                        context: Arc::clone(context),
                        counts: Arc::clone(&self.counts),
                        queue: queue.clone(),
                        channel: channel.clone(),
                        stopping: stopping.clone(),
                    };
                    hands.spawn(hand.take(message));
                }
            }
        };
        // What is in hand is finished; what the server still sends goes back to the queue with the connection.
        let _ = channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await;
        stop.send_replace(true);
        let finish = async { while hands.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(queue.graceful, finish).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.close(200, "bye".into())).await;
        Ok(ended)
    }
}

async fn connect(queue: &QueueSettings) -> Result<(Connection, Channel), QueueError> {
    let QueueSettings { host, port, user, password, vhost, queue: name, prefetch, graceful: _, tenant: _ } = queue;
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: user.clone(), password: password.clone() },
            host: host.clone(),
            port: *port,
        },
        vhost: vhost.clone(),
        query: AMQPQueryString { heartbeat: Some(HEARTBEAT_S), ..AMQPQueryString::default() },
    };
    let properties = ConnectionProperties::default().with_connection_name("mindos-control-plane".into());
    let connection = Connection::connect_uri(uri, properties).await?;
    declare(&connection, name, FieldTable::default()).await?;
    let mut bounded = FieldTable::default();
    bounded.insert("x-max-length".into(), AMQPValue::LongLongInt(PARKED_MAX));
    declare(&connection, &queue.parked(), bounded).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(*prefetch, BasicQosOptions::default()).await?;
    Ok((connection, channel))
}

/// Makes a durable queue, unless there is one of that name already, of whatever kind.
async fn declare(connection: &Connection, name: &str, arguments: FieldTable) -> Result<(), QueueError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    // Asking for one that is not there costs the channel.
    let channel = connection.create_channel().await?;
    if channel.queue_declare(name.into(), passive, FieldTable::default()).await.is_ok() {
        channel.close(200, "bye".into()).await?;
        return Ok(());
    }
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, arguments).await?;
    Ok(channel.close(200, "bye".into()).await?)
}

/// Takes one message.
struct Hand {
    context: Arc<Context>,
    counts: Arc<Counts>,
    queue: QueueSettings,
    channel: Channel,
    /// Turns true when what finds no room is to go back to the queue.
    stopping: watch::Receiver<bool>,
}

impl Hand {
    async fn take(mut self, message: Delivery) -> Result<(), QueueError> {
        let incoming = match read(&message.data) {
            Ok(incoming) => incoming,
            Err(reason) => return self.park(message, &reason).await,
        };
        let mut wait = RETRY_MIN;
        loop {
            let error = match self.context.take_task(&self.queue.tenant, incoming.clone()).await {
                Ok(Published { event, duplicate, .. }) => {
                    debug!(%event, duplicate, id = incoming.id, "task taken from the queue");
                    return self.done(&message, duplicate).await;
                }
                Err(error) => error,
            };
            match Code::from_i32(error.code) {
                // Asked for before, in other words.
                Code::AlreadyExists => return self.done(&message, true).await,
                Code::InvalidArgument => return self.park(message, &error.message).await,
                _ => {}
            }
            self.counts.waited.fetch_add(1, Ordering::Relaxed);
            debug!(error = error.message, id = incoming.id, "task found no room");
            let delay = retry_delay(&error).map_or(wait, |delay| delay.max(wait));
            wait = (wait * 2).min(RETRY_MAX);
            let is_over = tokio::select! {
                () = tokio::time::sleep(delay.min(RETRY_MAX)) => false,
                // Once it has turned true, or nobody can turn it any more.
                _ = self.stopping.wait_for(|stop| *stop) => true,
            };
            if is_over {
                let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                message.nack(back).await?;
                return Ok(());
            }
        }
    }

    async fn done(&self, message: &Delivery, duplicate: bool) -> Result<(), QueueError> {
        message.ack(BasicAckOptions::default()).await?;
        let count = if duplicate { &self.counts.duplicate } else { &self.counts.accepted };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sets a message aside with its reason, for people.
    async fn park(&self, message: Delivery, reason: &str) -> Result<(), QueueError> {
        let parked = self.queue.parked();
        warn!(reason, queue = self.queue.queue, parked, bytes = message.data.len(), "message of the queue was parked");
        let mut headers = message.properties.headers().clone().unwrap_or_default();
        let reason: String = reason.chars().take(512).collect();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        if let Some(content_type) = message.properties.content_type() {
            properties = properties.with_content_type(content_type.clone());
        }
        if let Some(id) = message.properties.message_id() {
            properties = properties.with_message_id(id.clone());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            self.channel.basic_publish("".into(), parked.as_str().into(), options, &message.data, properties).await?;
        match sent.await? {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                return Err(QueueError::NotParked);
            }
        }
        message.ack(BasicAckOptions::default()).await?;
        self.counts.parked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn retry_delay(error: &rpc::Status) -> Option<Duration> {
    let delay = error.detail::<rpc::RetryInfo>()?.retry_delay?;
    Duration::try_from(delay).ok()
}

/// The event that a message asks for.
///
/// # Errors
/// Says why there is none, and repeats nothing of the message.
pub fn read(message: &[u8]) -> Result<IncomingEvent, String> {
    if message.len() > MESSAGE_MAX {
        return Err(format!("has {} bytes: expected at most {MESSAGE_MAX}", message.len()));
    }
    let value: Value = serde_json::from_slice(message).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("is not JSON: {reason} at line {}, column {}", error.line(), error.column())
    })?;
    let object = value.as_object().ok_or("is not a JSON object")?;
    let task = Task::read(object, None).map_err(|error| error.to_string())?;
    Ok(task.event(&Origin::default(), None))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_a_task_or_a_reason_that_repeats_nothing_of_it() {
        let message =
            json!({"repo_url": "https://github.com/o/n", "mode": "quickfix", "issue_id": 7, "trigger_user": "ada"});
        assert_eq!(read(message.to_string().as_bytes()).unwrap().id, "o/n#7/quickfix");
        for (message, begins) in [
            (&b"{\"repo_url\": \"hush"[..], "is not JSON: EOF while parsing a string at line 1"),
            (b"[1]", "is not a JSON object"),
            (b"\xff\xfe", "is not JSON"),
            (b"{}", "repo_url: is missing"),
        ] {
            let reason = read(message).unwrap_err();
            assert!(reason.starts_with(begins) && !reason.contains("hush"), "{reason}");
        }
        assert!(read(&vec![b' '; MESSAGE_MAX + 1]).unwrap_err().contains("expected at most"));
        let deep = "[".repeat(100_000);
        assert!(read(deep.as_bytes()).is_err(), "and the stack stands");
    }
}
