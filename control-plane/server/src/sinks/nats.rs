//! Messages to NATS JetStream: CloudEvents in binary mode, each acknowledged by the stream before the next one leaves.
//!
//! ```text
//!   no connection --connect--> connected --publish--> acknowledged, or known already: taken
//!        ^                                               | no stream, no answer, refused: again, later
//!        +----------------- dropped ---------------------+ larger than the stream takes: passed over
//! ```
//! Every message carries an id of its own in `Nats-Msg-Id`, so that one whose acknowledgement was lost is not stored twice within
//! the stream's window for duplicates. Invariant: a connection on which a message failed is not used again, so nothing that waited
//! in it leaves behind what came later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{ConnectOptions, Event, HeaderMap, ServerAddr};

use super::message::Message;
use super::road::Refused;
use super::subject::Subject;
use crate::logging::Chain;
use crate::secret::{SecretAt, Secrets};
use mindos_outgoing::{is_here, tls};

/// Servers of one sink.
const SERVERS_MAX: usize = 16;

/// Servers of NATS, and where messages go there.
#[derive(Clone, PartialEq, Eq)]
pub struct Nats {
    servers: Vec<Address>,
    pub(super) subject: Subject,
    login: Login,
    /// Only over TLS.
    tls: bool,
    /// Other servers that these name are used as well.
    discovers: bool,
}

/// A server as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    scheme: &'static str,
    host: String,
    port: u16,
}

#[derive(Clone, PartialEq, Eq)]
enum Login {
    Nobody,
    User {
        user: String,
        password: String,
    },
    Token(String),
    /// A credentials file: the user's JWT, and the seed of its key.
    Creds(String),
    /// The seed of a user's key.
    Nkey(String),
}

impl Login {
    fn creds(creds: String) -> Result<Login, &'static str> {
        // Its last line was taken as white space, and has to end.
        let creds = creds + "\n";
        match ConnectOptions::new().credentials(&creds) {
            Ok(_) => Ok(Login::Creds(creds)),
            Err(_) => Err(
                "is no credentials file: expected one as `nsc generate creds` writes it, with a user's JWT and seed",
            ),
        }
    }

    fn nkey(seed: String) -> Result<Login, &'static str> {
        match nkeys::KeyPair::from_seed(&seed).map(|key| key.key_pair_type()) {
            Ok(nkeys::KeyPairType::User) => Ok(Login::Nkey(seed)),
            Ok(_) => Err("is the seed of another kind of key: expected a user's, which begins with SU"),
            Err(_) => Err("is no seed: expected a user's, 58 letters and digits that begin with SU"),
        }
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nats { servers, subject, login: _, tls, discovers: _ } = self;
        let mut shown = f.debug_struct("Nats");
        shown.field("servers", servers).field("subject", subject).field("tls", tls).finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { scheme, host, port } = self;
        write!(f, "{scheme}://{host}:{port}")
    }
}

/// What the settings say of a sink of this kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct NatsSetting<'a> {
    /// Where they say it, such as `sinks.bus`.
    pub at: &'a str,
    pub url: &'a str,
    pub insecure: bool,
    pub subject: Option<&'a str>,
    pub user: Option<&'a str>,
    pub password: Option<&'a SecretAt>,
    pub token: Option<&'a SecretAt>,
    pub creds: Option<&'a SecretAt>,
    pub nkey: Option<&'a SecretAt>,
}

impl NatsSetting<'_> {
    /// Checks them.
    ///
    /// # Errors
    /// Names the field and what is accepted; never repeats what may be a secret.
    pub(super) fn check(self, secrets: Secrets) -> Result<Nats, String> {
        let NatsSetting { at, url, insecure, subject, user, password, token, creds, nkey } = self;
        let wrong = |field: &str, reason: &str| format!("`{at}.{field}`: {reason}");
        let servers: Result<Vec<Address>, _> = url.split(',').map(|one| address(one.trim(), insecure)).collect();
        let servers = servers.map_err(|reason| wrong("url", reason))?;
        if servers.len() > SERVERS_MAX {
            return Err(wrong("url", &format!("names {} servers: at most {SERVERS_MAX} are taken", servers.len())));
        }
        let tls = servers.iter().all(|server| server.scheme == "tls");
        if !tls && servers.iter().any(|server| server.scheme == "tls") {
            return Err(wrong("url", "mixes nats and tls: expected one of them for all servers"));
        }
        let subject = subject.ok_or_else(|| wrong("subject", "is needed for a sink on NATS"))?;
        let subject = Subject::parse(subject).map_err(|reason| wrong("subject", &reason))?;
        let password = SecretAt::read_if(password, &format!("{at}.password"), secrets)?;
        let token = SecretAt::read_if(token, &format!("{at}.token"), secrets)?;
        let creds = SecretAt::read_if(creds, &format!("{at}.creds"), secrets)?;
        let nkey = SecretAt::read_if(nkey, &format!("{at}.nkey"), secrets)?;
        let given = [
            ("user", user.is_some() || password.is_some()),
            ("token", token.is_some()),
            ("creds", creds.is_some()),
            ("nkey", nkey.is_some()),
        ];
        let mut given = given.iter().filter(|(_, given)| *given).map(|(field, _)| *field);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(wrong(second, &format!("stands beside `{first}`: expected one of them")));
        }
        let login = match (user, password) {
            (None, None) => match (token, creds, nkey) {
                (Some(token), ..) => Login::Token(token),
                // What stands for a secret that is not read has no form.
                (_, Some(creds), _) if secrets == Secrets::Assumed => Login::Creds(creds),
                (_, _, Some(seed)) if secrets == Secrets::Assumed => Login::Nkey(seed),
                (_, Some(creds), _) => Login::creds(creds).map_err(|reason| wrong("creds", reason))?,
                (_, _, Some(seed)) => Login::nkey(seed).map_err(|reason| wrong("nkey", reason))?,
                (None, None, None) => Login::Nobody,
            },
            (Some(user), Some(password)) => Login::User { user: user.to_owned(), password },
            (Some(_), None) => return Err(wrong("password", "is needed beside `user`")),
            (None, Some(_)) => return Err(wrong("user", "is needed beside `password`")),
        };
        Ok(Nats { servers, subject, login, tls, discovers: tls || insecure })
    }
}

fn address(text: &str, insecure: bool) -> Result<Address, &'static str> {
    const ACCEPTED: &str =
        "is not an address: expected one such as tls://nats.example.com:4222, or several with commas between";
    let uri: http::Uri = text.parse().map_err(|_| ACCEPTED)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(ACCEPTED) };
    if authority.as_str().contains('@') {
        return Err(
            "holds a user, a password or a token: give them as `user` and `password`, `token`, `creds` or `nkey`",
        );
    }
    if authority.host().is_empty() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(ACCEPTED);
    }
    let scheme = match scheme {
        "tls" => "tls",
        "nats" if insecure || is_here(authority.host()) => "nats",
        "nats" => {
            return Err(
                "is not tls: nats is taken for this machine only, as it sends everything in the clear, unless `insecure: true` stands beside it",
            );
        }
        _ => return Err(ACCEPTED),
    };
    Ok(Address { scheme, host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(4222) })
}

impl Nats {
    /// For people: the servers.
    fn origin(&self) -> String {
        self.servers.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
    }

    async fn connect(&self, timeout: Duration, said: &Said) -> Result<Context, String> {
        let Nats { servers, subject: _, login, tls: only_tls, discovers } = self;
        let addresses: Vec<ServerAddr> = servers
            .iter()
            .map(|server| server.to_string().parse())
            .collect::<Result<_, _>>()
            .map_err(|error: std::io::Error| format!("an address was not read: {error}"))?;
        let said = Arc::clone(said);
        let mut options = ConnectOptions::new()
            .name(concat!("mindos/", env!("CARGO_PKG_VERSION")))
            .connection_timeout(timeout)
            // Each server once: then this connection is given up, and the next message makes another.
            .max_reconnects(servers.len())
            .client_capacity(8)
            .require_tls(*only_tls)
            .event_callback(move |event| {
                let said = Arc::clone(&said);
                async move {
                    if let Event::ServerError(error) = event {
                        *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    }
                }
            });
        if !discovers {
            options = options.ignore_discovered_servers();
        }
        match tls().await {
            Some(config) => options = options.tls_client_config((*config).clone()),
            None if *only_tls => {
                return Err(
                    "no root certificates were found: install ca-certificates, or name a file of them in SSL_CERT_FILE"
                        .to_owned(),
                );
            }
            None => {}
        }
        options = match login {
            Login::Nobody => options,
            Login::User { user, password } => options.user_and_password(user.clone(), password.clone()),
            Login::Token(token) => options.token(token.clone()),
            Login::Nkey(seed) => options.nkey(seed.clone()),
            Login::Creds(creds) => {
                let read = options.credentials(creds);
                read.map_err(|_| "the credentials were not read".to_owned())?
            }
        };
        let connected = tokio::time::timeout(timeout, options.connect(addresses)).await;
        let client = connected
            .map_err(|_| format!("{} did not answer within {} ms", self.origin(), timeout.as_millis()))?
            .map_err(|error| format!("failed to connect to {}: {}", self.origin(), Chain(&error)))?;
        Ok(ContextBuilder::new().timeout(timeout).ack_timeout(timeout).max_ack_inflight(8).build(client))
    }
}

/// What the server complained of since it was last asked.
type Said = Arc<Mutex<Option<String>>>;

/// A connection that is made when it is needed.
#[derive(Default)]
pub(super) struct Connection {
    context: Option<Context>,
    said: Said,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("open", &self.context.is_some()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Publishes one message and waits until the stream has it. `key` tells it from every other message.
    pub(super) async fn send(
        &mut self,
        nats: &Nats,
        subject: String,
        key: &str,
        message: &Message,
        timeout: Duration,
    ) -> Result<(), Refused> {
        let later = |reason: String| Refused::Later { reason, wait: None };
        let open = self.context.take().filter(|context| context.client().connection_state() == State::Connected);
        let context = match open {
            Some(context) => context,
            None => nats.connect(timeout, &self.said).await.map_err(later)?,
        };
        let publish =
            PublishMessage::build().payload(message.data.to_string().into()).headers(headers(message)).message_id(key);
        let published = async { context.send_publish(subject.clone(), publish).await?.await };
        match published.await {
            Ok(_) => {
                self.context = Some(context);
                Ok(())
            }
            Err(error) => {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(judge(&error, said, &subject, &nats.origin(), timeout))
            }
        }
    }
}

/// What a failure means for the message.
fn judge(error: &PublishError, said: Option<String>, subject: &str, origin: &str, timeout: Duration) -> Refused {
    let answer = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    let for_good = match answer.map(jetstream::Error::error_code) {
        Some(code) => {
            matches!(code, ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
        }
        None => error.kind() == PublishErrorKind::MaxPayloadExceeded,
    };
    let mut reason = match error.kind() {
        PublishErrorKind::StreamNotFound => format!("no stream at {origin} takes `{subject}`: add one that does"),
        PublishErrorKind::TimedOut => {
            format!("{origin} did not acknowledge a message on `{subject}` within {} ms", timeout.as_millis())
        }
        _ => format!("{origin} did not take a message on `{subject}`: {}", Chain(error)),
    };
    if let Some(said) = said {
        reason = format!("{reason}; the server said: {said}");
    }
    if for_good { Refused::Message { reason } } else { Refused::Later { reason, wait: None } }
}

/// The attributes, as the CloudEvents binding for NATS has them in binary mode.
fn headers(message: &Message) -> HeaderMap {
    let Message { id, source, ty, subject, time, route, data: _ } = message;
    let time = time.to_string();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", Some("1.0")),
        ("ce-id", Some(&**id)),
        ("ce-source", Some(&**source)),
        ("ce-type", Some(&**ty)),
        ("ce-subject", Some(&**subject)),
        ("ce-time", Some(&*time)),
        ("ce-datacontenttype", Some("application/json")),
        ("ce-route", route.as_deref()),
    ] {
        if let Some(value) = value {
            headers.insert(name, percent(value));
        }
    }
    headers
}

/// Percent-encodes what the binding wants encoded: space, quote, percent, and all that is not visible ASCII.
fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => encoded.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_binding_is_encoded_as_it_says() {
        assert_eq!(percent("Euro \u{20ac} \u{1f600}"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(percent("a\"%\n"), "a%22%25%0A");
    }

    #[test]
    fn only_what_concerns_the_message_is_refused_for_good() {
        let of = |kind| {
            judge(
                &PublishError::new(kind),
                Some("Permissions Violation".to_owned()),
                "a.b",
                "nats://x:1",
                Duration::ZERO,
            )
        };
        assert!(matches!(of(PublishErrorKind::MaxPayloadExceeded), Refused::Message { .. }));
        for kind in [
            PublishErrorKind::StreamNotFound,
            PublishErrorKind::TimedOut,
            PublishErrorKind::BrokenPipe,
            PublishErrorKind::Other,
        ] {
            let Refused::Later { reason, .. } = of(kind) else { panic!("{kind:?}") };
            assert!(
                reason.contains("a.b") && reason.contains("nats://x:1") && reason.contains("Permissions"),
                "{reason}"
            );
        }
    }
}
