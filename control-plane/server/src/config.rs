//! Configuration: one flag and one environment variable for each value, checked before anything starts.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use mindos_core::route::Pattern;
use mindos_core::{Limits, WEIGHT_MAX, Weights};
use mindos_model::{TenantName, limits};

use crate::amount;
use crate::logging::LogFormat;
use crate::notify::DiscordEnv;
use crate::secure::{AccessMode, Listeners, SecureConfig, SecureError, TlsMode};
use crate::settings::{Environment, WebhookConfig};
use crate::surface::keda::{KedaConfig, KedaError};
use crate::surface::platform::PlatformConfig;
use crate::surface::{SurfaceAt, SurfaceName, address_of};
use crate::tasks::queue_settings::RabbitConfig;

/// What the control plane is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Directory that holds the journal and everything derived from it.
    #[arg(long, env = "MINDOS_DATA_DIR", default_value = "mindos-data", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address of the API: gRPC and HTTP for people and programs.
    #[arg(long, env = "MINDOS_LISTEN", default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Address that agents dial.
    #[arg(long, env = "MINDOS_AGENT_LISTEN", default_value = "127.0.0.1:8091", value_name = "ADDRESS")]
    pub agent_listen: SocketAddr,

    /// Address of the paths of the earlier aggregator. 127.0.0.1:8086 when not given, and then not insisted on.
    #[arg(long, env = "MINDOS_AGGREGATOR_ADDRESS", value_name = "ADDRESS")]
    pub aggregator_address: Option<SocketAddr>,

    /// Serves a surface of another system on an address of its own: `keda` is KEDA's external scaler, `platform`
    /// takes runs of code and documentation. May be given again.
    #[arg(long = "surface", env = "MINDOS_SURFACES", value_delimiter = ',', value_name = "NAME=ADDRESS")]
    pub surfaces: Vec<SurfaceAt>,

    /// Who may ask as KEDA.
    #[command(flatten)]
    pub keda: KedaConfig,

    /// Runs that are asked for by the platform's paths.
    #[command(flatten)]
    pub platform: PlatformConfig,

    /// Port of the aggregator's paths instead of that of their address, by the name that the earlier system had for it.
    #[arg(long, env = "GITLENS_AGGREGATOR_PORT", value_name = "PORT")]
    pub aggregator_port: Option<u16>,

    /// Port of the API instead of that of its address, by the name that the earlier system had for it.
    #[arg(long, env = "MINDOS_PORT", value_name = "PORT", value_parser = Port::read)]
    pub port: Option<Port>,

    /// Channel of Discord in which events are told of.
    #[arg(long, env = "PRS_CHANNEL_ID", value_name = "ID")]
    pub prs_channel_id: Option<String>,

    /// Token of the bot that tells Discord.
    #[arg(long, env = "DISCORD_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = Secret::read)]
    pub discord_token: Option<Secret>,

    /// How callers are let in, and how the API and the agents' port are encrypted.
    #[command(flatten)]
    pub secure: SecureConfig,

    /// Threads for the network, 1 to 64. One is best for one stream of work; more serve many connections.
    #[arg(long, env = "MINDOS_NET_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT")]
    pub net_threads: u16,

    /// Connections at a time, on all ports together, 1 to 1,000,000. When there are as many, idle ones of whoever has the most give way
    /// to further ones.
    #[arg(long, env = "MINDOS_CONNECTIONS_MAX", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "COUNT")]
    pub connections_max: u32,

    /// Memory for payloads of events, such as `256MiB`. Others are read from the journal.
    #[arg(long, env = "MINDOS_PAYLOAD_CACHE", default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub payload_cache: u64,

    /// Inputs that may wait for the plane, 1024 to 10,000,000.
    #[arg(long, env = "MINDOS_INBOX_MAX", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1024..=10_000_000), value_name = "COUNT")]
    pub inbox_max: u32,

    /// Memory for inputs that wait for the plane, such as `64MiB`.
    #[arg(long, env = "MINDOS_INBOX_BYTES", default_value = "64MiB", value_parser = bytes, value_name = "BYTES")]
    pub inbox_bytes: u64,

    /// Messages that may wait for the stream of one agent, 64 to 10,000,000.
    #[arg(long, env = "MINDOS_OUTBOX_MAX", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(64..=10_000_000), value_name = "COUNT")]
    pub outbox_max: u32,

    /// How long messages may wait for a stream that takes none, such as `30s`.
    #[arg(long, env = "MINDOS_OUTBOX_STALL", default_value = "30s", value_parser = span, value_name = "TIME")]
    pub outbox_stall: Duration,

    /// Room for the journal on the disk, such as `64GiB`. At 90 % of it events are refused.
    #[arg(long, env = "MINDOS_JOURNAL_QUOTA", default_value = "64GiB", value_parser = bytes, value_name = "BYTES")]
    pub journal_quota: u64,

    /// Size of a file of the journal, such as `64MiB`.
    #[arg(long, env = "MINDOS_SEGMENT_BYTES", default_value = "64MiB", value_parser = bytes, value_name = "BYTES")]
    pub segment_bytes: u64,

    /// The ledger is signed once this many records are not, 1 to 1,000,000.
    #[arg(long, env = "MINDOS_CHECKPOINT_RECORDS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "COUNT")]
    pub checkpoint_records: u64,

    /// Or once this time has passed and there are any, such as `60s`; 1s to 1h.
    #[arg(long, env = "MINDOS_CHECKPOINT_INTERVAL", default_value = "60s", value_parser = checkpoint_span, value_name = "TIME")]
    pub checkpoint_interval: Duration,

    /// Checks every record of the journal at the start, and not only the last file.
    #[arg(long, env = "MINDOS_CHECK_ALL")]
    pub check_all: bool,

    /// Deliveries that may wait in one lane, from 1.
    #[arg(long, env = "MINDOS_LANE_BACKLOG_MAX", default_value_t = limits::LANE_BACKLOG_MAX, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub lane_backlog_max: u32,

    /// Deliveries that may wait for one general, or for one of a route's, from 1.
    #[arg(long, env = "MINDOS_QUEUE_BACKLOG_MAX", default_value_t = limits::QUEUE_BACKLOG_MAX, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub queue_backlog_max: u32,

    /// Deliveries of one tenant that may be open, waiting and parked ones included, from 1.
    #[arg(long, env = "MINDOS_TENANT_BACKLOG_MAX", default_value_t = limits::TENANT_BACKLOG_MAX, value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub tenant_backlog_max: u64,

    /// Share of a repository's work in what a general starts, beside other repositories: a pattern that may end in `*`, and 1 to 100;
    /// the first that fits counts, and 1 where none does. Where events name no repository their source is meant.
    #[arg(long, env = "MINDOS_REPOSITORY_WEIGHTS", value_delimiter = ',', value_parser = repository_weight, value_name = "PATTERN=WEIGHT")]
    pub repository_weights: Vec<(Pattern, u32)>,

    /// Share of a tenant in the turns of the plane, beside other tenants: its name, and 1 to 100; 1 where it is not named.
    #[arg(long, env = "MINDOS_TENANT_WEIGHTS", value_delimiter = ',', value_parser = tenant_weight, value_name = "TENANT=WEIGHT")]
    pub tenant_weights: Vec<(TenantName, u32)>,

    /// What is set aside for a lease where too little was seen to estimate it, such as `cost=0.05,tokens=20000,time=60s` (those are the
    /// defaults of parts that are left out).
    #[arg(long, env = "MINDOS_RESERVATION_START", value_parser = amount::parts, value_name = "PARTS")]
    pub reservation_start: Option<amount::Parts>,

    /// What is set aside for a lease of a general that cannot be stopped in mid-run, such as `cost=1,tokens=200000,time=10m` (those are
    /// the defaults of parts that are left out).
    #[arg(long, env = "MINDOS_RESERVATION_MAX", value_parser = amount::parts, value_name = "PARTS")]
    pub reservation_max: Option<amount::Parts>,

    /// Deliveries that may be open in all, from 1.
    #[arg(long, env = "MINDOS_OPEN_MAX", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub open_max: u64,

    /// How long a lease runs unless it is extended, 1 s to 1 h, such as `25s`.
    #[arg(long, env = "MINDOS_LEASE", default_value = "25s", value_parser = span, value_name = "TIME")]
    pub lease: Duration,

    /// How often an agent with work reports, 100 ms to 5 min.
    #[arg(long, env = "MINDOS_HEARTBEAT", default_value = "5s", value_parser = span, value_name = "TIME")]
    pub heartbeat: Duration,

    /// How often an idle agent reports, 100 ms to 5 min.
    #[arg(long, env = "MINDOS_HEARTBEAT_IDLE", default_value = "15s", value_parser = span, value_name = "TIME")]
    pub heartbeat_idle: Duration,

    /// How long a stop waits for what is on its way, such as `10s`.
    #[arg(long, env = "MINDOS_STOP_TIMEOUT", default_value = "10s", value_parser = span, value_name = "TIME")]
    pub stop_timeout: Duration,

    /// How long the history is kept, such as `30d`.
    #[arg(long, env = "MINDOS_HISTORY_KEEP", default_value = "30d", value_parser = span, value_name = "TIME")]
    pub history_keep: Duration,

    /// Room for the history on the disk, such as `20GiB`.
    #[arg(long, env = "MINDOS_HISTORY_BYTES", default_value = "20GiB", value_parser = bytes, value_name = "BYTES")]
    pub history_bytes: u64,

    /// How long records are kept in the journal, such as `7d`. What open work needs stays in any case.
    #[arg(long, env = "MINDOS_JOURNAL_KEEP", default_value = "7d", value_parser = span, value_name = "TIME")]
    pub journal_keep: Duration,

    /// The oldest records leave while the journal takes more than this, such as `40GiB`.
    #[arg(long, env = "MINDOS_JOURNAL_KEEP_BYTES", default_value = "40GiB", value_parser = bytes, value_name = "BYTES")]
    pub journal_keep_bytes: u64,

    /// Room for blobs on the disk, such as `20GiB`.
    #[arg(long, env = "MINDOS_BLOB_QUOTA", default_value = "20GiB", value_parser = bytes, value_name = "BYTES")]
    pub blob_quota: u64,

    /// Records after the newest snapshot that make another, from 1000: what a start replays.
    #[arg(long, env = "MINDOS_SNAPSHOT_TAIL", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..), value_name = "COUNT")]
    pub snapshot_tail: u64,

    /// Between two snapshots, at least, such as `10s`.
    #[arg(long, env = "MINDOS_SNAPSHOT_INTERVAL", default_value = "10s", value_parser = span, value_name = "TIME")]
    pub snapshot_interval: Duration,

    /// Between two looks for what may leave the disk, such as `30s`.
    #[arg(long, env = "MINDOS_UPKEEP_INTERVAL", default_value = "30s", value_parser = span, value_name = "TIME")]
    pub upkeep_interval: Duration,

    /// How webhooks are let in.
    #[command(flatten)]
    pub webhooks: WebhookConfig,

    /// Where the queue of tasks is.
    #[command(flatten)]
    pub rabbitmq: RabbitConfig,

    /// File with settings that are read again when it changes: docs/runbook.md lists them.
    #[arg(long, env = "MINDOS_SETTINGS", value_name = "FILE")]
    pub settings: Option<PathBuf>,

    /// What is logged, such as `info` or `info,mindos_control_plane=debug`.
    #[arg(long, env = "MINDOS_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How log lines are written: `human` or `json`.
    #[arg(long, env = "MINDOS_LOG_FORMAT", default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Where the aggregator's paths are unless something else is said.
const AGGREGATOR: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8086));

/// A port by an old name. In a cluster that has a service called `mindos` the variable of that name holds a URL, and means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(Option<u16>);

impl Port {
    /// The number, where it is one.
    pub(crate) fn number(&self) -> Option<u16> {
        self.0
    }

    pub(crate) fn read(text: &str) -> Result<Port, String> {
        if text.starts_with("tcp://") {
            return Ok(Port(None));
        }
        text.parse().map(|port| Port(Some(port))).map_err(|_| "expected a port, 0 to 65535".to_owned())
    }
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub(crate) fn show(&self) -> &str {
        &self.0
    }

    pub(crate) fn read(text: &str) -> Result<Secret, String> {
        Ok(Secret(text.trim().to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// A setting that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Keda(#[from] KedaError),
    #[error("--surface names {name} more than once: expected one address")]
    SurfaceTwice { name: SurfaceName },
    #[error("--{option} is {found}: expected {accepted}")]
    Range { option: &'static str, found: String, accepted: &'static str },
}

impl Config {
    /// Checks what single options cannot say.
    ///
    /// # Errors
    /// Names the option and what it accepts.
    pub fn check(&self) -> Result<(), ConfigError> {
        let listeners = self.listeners();
        self.secure.check(&listeners)?;
        let is_open = self.secure.access_mode(&listeners) == AccessMode::Open;
        let has_tls = self.secure.tls_mode(&listeners) != TlsMode::Off;
        self.keda.check(listeners.keda, is_open, has_tls)?;
        for (place, surface) in self.surfaces.iter().enumerate() {
            if self.surfaces[..place].iter().any(|other| other.name == surface.name) {
                return Err(ConfigError::SurfaceTwice { name: surface.name });
            }
        }
        let beats = (Duration::from_millis(100), Duration::from_secs(300), "100ms to 5m");
        let spans = [
            ("lease", self.lease, (Duration::from_secs(1), Duration::from_secs(3600), "1s to 1h")),
            ("heartbeat", self.heartbeat, beats),
            ("heartbeat-idle", self.heartbeat_idle, beats),
        ];
        for (option, found, (min, max, accepted)) in spans {
            if found < min || found > max {
                return Err(ConfigError::Range { option, found: format!("{found:?}"), accepted });
            }
        }
        for (option, found, min, accepted) in [
            ("segment-bytes", self.segment_bytes, 1 << 20, "at least 1MiB"),
            ("journal-quota", self.journal_quota, 4 << 20, "at least 4MiB"),
            ("inbox-bytes", self.inbox_bytes, 8 << 20, "at least 8MiB"),
        ] {
            if found < min {
                return Err(ConfigError::Range { option, found: found.to_string(), accepted });
            }
        }
        Ok(())
    }

    /// All addresses, for what depends on who can reach them.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        Listeners {
            api: self.api_address(),
            agents: self.agent_listen,
            aggregator: self.aggregator(),
            keda: address_of(&self.surfaces, SurfaceName::Keda),
            platform: self.platform.at(address_of(&self.surfaces, SurfaceName::Platform)),
            platform_is_plain: self.platform.platform_plaintext,
        }
    }

    /// Where the API listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        let mut address = self.listen;
        let port = self.port.and_then(|Port(port)| port);
        address.set_port(port.unwrap_or(address.port()));
        address
    }

    /// Where the aggregator's paths are.
    #[must_use]
    pub fn aggregator(&self) -> SocketAddr {
        let mut address = self.aggregator_address.unwrap_or(AGGREGATOR);
        address.set_port(self.aggregator_port.unwrap_or(address.port()));
        address
    }

    /// Whether the aggregator's paths were asked for, so that the start fails without them.
    #[must_use]
    pub fn insists_on_aggregator(&self) -> bool {
        self.aggregator_address.is_some() || self.aggregator_port.is_some()
    }

    /// What the environment says by names of earlier systems: of Discord, and of the queue of tasks.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let token = self.discord_token.as_ref().map(|Secret(token)| token.clone());
        let discord = DiscordEnv { token, prs_channel: self.prs_channel_id.clone() };
        Environment { discord, rabbitmq: self.rabbitmq.clone() }
    }

    /// Bounds and intervals of the plane.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            reservation_start: self.reservation_start.unwrap_or_default().or(default.reservation_start),
            reservation_max: self.reservation_max.unwrap_or_default().or(default.reservation_max),
            lane_backlog_max: self.lane_backlog_max,
            queue_backlog_max: self.queue_backlog_max,
            tenant_backlog_max: self.tenant_backlog_max,
            open_max: self.open_max,
            lease: self.lease,
            heartbeat: self.heartbeat,
            heartbeat_idle: self.heartbeat_idle,
            weights: Weights {
                repositories: self.repository_weights.clone(),
                tenants: self.tenant_weights.iter().cloned().collect(),
            },
            ..default
        }
    }
}

fn repository_weight(text: &str) -> Result<(Pattern, u32), String> {
    let (pattern, weight) = weighted(text, "octo/*=3")?;
    Ok((Pattern::new(pattern).map_err(|error| error.to_string())?, weight))
}

fn tenant_weight(text: &str) -> Result<(TenantName, u32), String> {
    let (name, weight) = weighted(text, "acme=3")?;
    Ok((name.parse().map_err(|error| format!("{error}"))?, weight))
}

fn weighted<'a>(text: &'a str, example: &str) -> Result<(&'a str, u32), String> {
    let wrong = || format!("expected a name and a weight of 1 to {WEIGHT_MAX}, such as {example}");
    let (name, weight) = text.rsplit_once('=').ok_or_else(wrong)?;
    let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
    Ok((name, weight.ok_or_else(wrong)?))
}

/// Reads a size such as `64MiB`; without a unit it is in bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("expected a number with B, KiB, MiB, GiB or TiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number, such as 64MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
}

/// Reads the time between two checkpoints.
fn checkpoint_span(text: &str) -> Result<Duration, String> {
    let span = span(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    if range.contains(&span) { Ok(span) } else { Err("expected 1s to 1h".to_owned()) }
}

/// Reads a span such as `25s`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("expected a number with ms, s, m, h or d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number, such as 25s".to_owned())?;
    let millis = number.checked_mul(millis).ok_or_else(|| "is too long".to_owned())?;
    Ok(Duration::from_millis(millis))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    fn config(arguments: &[&str]) -> Config {
        Command::parse_from([&["test"], arguments].concat()).config
    }

    #[test]
    fn the_defaults_are_accepted() {
        let config = config(&[]);
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.limits().lease, limits::LEASE);
        assert_eq!(config.payload_cache, 256 << 20);
    }

    #[test]
    fn units_are_read() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "MiB", "64MB", "-1", "99999999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(span("25").is_err() && span("1.5s").is_err());
        assert!(config(&["--lease", "2h"]).check().is_err());
        let set = config(&["--reservation-start", "cost=0.02,tokens=9", "--reservation-max", "time=20m"]).limits();
        assert_eq!((set.reservation_start.micros, set.reservation_start.tokens), (20_000, 9));
        assert_eq!(set.reservation_start.time_ms, Limits::default().reservation_start.time_ms);
        assert_eq!((set.reservation_max.micros, set.reservation_max.time_ms), (1_000_000, 1_200_000));
        assert_eq!(config(&["--port", "7"]).api_address().port(), 7);
        assert_eq!(config(&["--port", "tcp://10.0.0.1:8090"]).api_address().port(), 8090);
        assert_eq!(config(&["--aggregator-port", "7"]).aggregator().to_string(), "127.0.0.1:7");
    }
}
