//! Where the queue of the contract is: by its environment names, and by the settings file, whose word goes before.
//!
//! The queue is read where `tasks.rabbitmq` stands in the settings or `RABBITMQ_HOST` is set. Invariant: the password is in no error
//! and no log line.

use std::time::Duration;

use mindos_model::TenantName;
use serde::Deserialize;

use crate::config::{Port, Secret, span};
use crate::secret::{SecretAt, Secrets};

/// Messages held at a time, at most and unless the settings say otherwise.
const PREFETCH_MAX: u16 = 256;
const PREFETCH: u16 = 8;
/// The longest name of a queue, in bytes: AMQP has 255, and `.parked` is added.
const QUEUE_MAX: usize = 240;
/// What is added to the queue's name for messages that cannot be taken.
const PARKED: &str = ".parked";
/// How long what is in hand may take when the server ends, unless said otherwise.
const GRACEFUL: Duration = Duration::from_secs(300);

/// What the environment says of the queue, by the names of the contract.
#[derive(Clone, Default, clap::Args)]
pub struct RabbitConfig {
    /// Host of the RabbitMQ whose queue of tasks is read; none is when not given here nor in the settings.
    #[arg(long, env = "RABBITMQ_HOST", value_name = "HOST")]
    pub rabbitmq_host: Option<String>,

    /// Its port; 5672 when not given.
    #[arg(long, env = "RABBITMQ_PORT", value_name = "PORT", value_parser = Port::read)]
    pub rabbitmq_port: Option<Port>,

    /// User there; `admin` when not given.
    #[arg(long, env = "RABBITMQ_USER", value_name = "USER")]
    pub rabbitmq_user: Option<String>,

    /// Password of the user; `password` when not given.
    #[arg(long, env = "RABBITMQ_PASSWORD", hide_env_values = true, value_name = "PASSWORD", value_parser = Secret::read)]
    pub rabbitmq_password: Option<Secret>,

    /// Virtual host; `/` when not given.
    #[arg(long, env = "RABBITMQ_VHOST", value_name = "VHOST")]
    pub rabbitmq_vhost: Option<String>,

    /// Name of the queue; `agent-tasks` when not given.
    #[arg(long, env = "RABBITMQ_QUEUE", value_name = "QUEUE")]
    pub rabbitmq_queue: Option<String>,

    /// Speaks to that host although it is another machine: AMQP is not encrypted here, so it takes a network that is.
    #[arg(long, env = "MINDOS_RABBITMQ_INSECURE")]
    pub rabbitmq_insecure: bool,

    /// Seconds that tasks in hand may take to become durable when the server ends; 300 when not given.
    #[arg(long, env = "RABBITMQ_GRACEFUL_TIMEOUT", value_name = "SECONDS")]
    pub rabbitmq_graceful_timeout: Option<u32>,
}

impl std::fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RabbitConfig {
            rabbitmq_host,
            rabbitmq_port: _,
            rabbitmq_user: _,
            rabbitmq_password,
            rabbitmq_vhost: _,
            rabbitmq_queue,
            rabbitmq_insecure: _,
            rabbitmq_graceful_timeout: _,
        } = self;
        f.debug_struct("RabbitConfig")
            .field("rabbitmq_host", rabbitmq_host)
            .field("rabbitmq_queue", rabbitmq_queue)
            .field("rabbitmq_password", &rabbitmq_password.is_some())
            .finish_non_exhaustive()
    }
}

/// The queue as the settings file has it.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSection {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<SecretAt>,
    vhost: Option<String>,
    queue: Option<String>,
    prefetch: Option<u16>,
    graceful_timeout: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    insecure: bool,
}

/// Where the queue is, checked.
#[derive(Clone, PartialEq)]
pub struct QueueSettings {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub vhost: String,
    pub queue: String,
    /// Messages held at a time.
    pub prefetch: u16,
    /// How long what is in hand may take when the server ends.
    pub graceful: Duration,
    /// Whose tasks they are.
    pub tenant: TenantName,
}

impl std::fmt::Debug for QueueSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let QueueSettings { host, port, user: _, password: _, vhost, queue, prefetch, graceful: _, tenant } = self;
        f.debug_struct("QueueSettings")
            .field("at", &format_args!("{host}:{port}{vhost}"))
            .field("queue", queue)
            .field("prefetch", prefetch)
            .field("tenant", tenant)
            .finish_non_exhaustive()
    }
}

impl QueueSettings {
    /// Checks what file and environment say; `None` where neither wants a queue.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(
        section: Option<&QueueSection>,
        base: &RabbitConfig,
        secrets: Secrets,
    ) -> Result<Option<QueueSettings>, String> {
        let RabbitConfig {
            rabbitmq_host,
            rabbitmq_port,
            rabbitmq_user,
            rabbitmq_password,
            rabbitmq_vhost,
            rabbitmq_queue,
            rabbitmq_insecure,
            rabbitmq_graceful_timeout,
        } = base;
        let none = QueueSection::default();
        let section = match (section, rabbitmq_host) {
            (None, None) => return Ok(None),
            (section, _) => section.unwrap_or(&none),
        };
        let QueueSection { host, port, user, password, vhost, queue, prefetch, graceful_timeout, tenant, insecure } =
            section;
        let at = |field: &str, reason: &str| format!("`tasks.rabbitmq.{field}`: {reason}");
        let text = |field: &str, said: &Option<String>, base: &Option<String>, stock: &str| {
            let text = said.clone().or_else(|| base.clone()).unwrap_or_else(|| stock.to_owned());
            let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
            fits.then_some(text).ok_or_else(|| at(field, "expected 1 to 255 bytes without control characters"))
        };
        let password = match password {
            Some(at) => at.read("tasks.rabbitmq.password", secrets)?,
            None => rabbitmq_password.as_ref().map_or("password", Secret::show).to_owned(),
        };
        let queue = text("queue", queue, rabbitmq_queue, "agent-tasks")?;
        if queue.len() > QUEUE_MAX || queue.starts_with("amq.") {
            return Err(at("queue", &format!("expected at most {QUEUE_MAX} bytes that do not begin with `amq.`")));
        }
        let prefetch = prefetch.unwrap_or(PREFETCH);
        if !(1..=PREFETCH_MAX).contains(&prefetch) {
            return Err(at("prefetch", &format!("expected 1 to {PREFETCH_MAX}")));
        }
        let graceful = match graceful_timeout {
            Some(said) => span(said).map_err(|error| at("graceful_timeout", &error))?,
            None => rabbitmq_graceful_timeout.map_or(GRACEFUL, |seconds| Duration::from_secs(seconds.into())),
        };
        let tenant = tenant.as_deref().map(str::parse).transpose();
        let tenant: Option<TenantName> = tenant.map_err(|error| at("tenant", &format!("{error}")))?;
        let port = port.or_else(|| rabbitmq_port.as_ref().and_then(Port::number)).unwrap_or(5672);
        if port == 0 {
            return Err(at("port", "expected 1 to 65535"));
        }
        let host = text("host", host, rabbitmq_host, "localhost")?;
        if !(*insecure || *rabbitmq_insecure || mindos_outgoing::is_here(&host)) {
            let accepted = "is another machine, and AMQP is not encrypted: expected this one, or `insecure: true` beside it \
                            (--rabbitmq-insecure) where the network is";
            return Err(at("host", accepted));
        }
        Ok(Some(QueueSettings {
            host,
            port,
            user: text("user", user, rabbitmq_user, "admin")?,
            password,
            vhost: text("vhost", vhost, rabbitmq_vhost, "/")?,
            queue,
            prefetch,
            graceful,
            tenant: tenant.unwrap_or_else(TenantName::default_tenant),
        }))
    }

    /// Where messages are put that cannot be taken.
    #[must_use]
    pub fn parked(&self) -> String {
        format!("{}{PARKED}", self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_names_and_defaults_hold_and_the_file_goes_before_them() {
        let none = RabbitConfig::default();
        assert_eq!(QueueSettings::new(None, &none, Secrets::Read).unwrap(), None);
        let section = QueueSection::default();
        let stock = QueueSettings::new(Some(&section), &none, Secrets::Read).unwrap().unwrap();
        assert_eq!((stock.host.as_str(), stock.port, stock.vhost.as_str()), ("localhost", 5672, "/"));
        assert_eq!((stock.user.as_str(), stock.password.as_str()), ("admin", "password"));
        assert_eq!((stock.queue.as_str(), stock.parked().as_str()), ("agent-tasks", "agent-tasks.parked"));
        assert_eq!((stock.graceful, stock.tenant.as_str()), (Duration::from_secs(300), "default"));
        assert!(!format!("{stock:?}").contains("password"));

        let base = RabbitConfig {
            rabbitmq_host: Some("mq".to_owned()),
            rabbitmq_insecure: true,
            rabbitmq_queue: Some("theirs".to_owned()),
            rabbitmq_graceful_timeout: Some(5),
            ..none
        };
        let from_environment = QueueSettings::new(None, &base, Secrets::Read).unwrap().unwrap();
        assert_eq!((from_environment.host.as_str(), from_environment.queue.as_str()), ("mq", "theirs"));
        let section: QueueSection = serde_norway::from_str("{queue: ours, prefetch: 2, graceful_timeout: 1s}").unwrap();
        let both = QueueSettings::new(Some(&section), &base, Secrets::Read).unwrap().unwrap();
        assert_eq!((both.host.as_str(), both.queue.as_str(), both.prefetch), ("mq", "ours", 2));
        assert_eq!(both.graceful, Duration::from_secs(1));
        let elsewhere =
            QueueSettings::new(Some(&section), &RabbitConfig { rabbitmq_insecure: false, ..base }, Secrets::Read);
        assert!(elsewhere.unwrap_err().contains("insecure: true"), "a password does not leave in the clear unasked");
    }
}
