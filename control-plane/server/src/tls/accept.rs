//! A handshake: from a connection that was accepted to one whose peer is known.
//!
//! Invariant: it ends within its time, whatever the peer does or leaves undone, and whoever is refused can hear why.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::counts::{Outcome, PortName};
use super::identity::AgentIdentity;
use super::live::{self, Standing};
use super::server_config::Tls;
use crate::net::Connection;

/// How long a handshake may take, from the first byte on.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long whoever was refused has to read why: some ways there and back.
const LINGER: Duration = Duration::from_secs(1);
/// What is taken meanwhile of what they go on to send, in reads of at most 4 KiB.
const LINGER_READS: usize = 16;
/// What a connection may hold that is encrypted and not sent. As large as what HTTP/2 hands over at once for most frames; empty
/// when idle.
const BUFFER_MAX: usize = 64 << 10;
/// First byte of a handshake.
const HANDSHAKE: u8 = 0x16;
/// Refusals in the log of a port: one in this many milliseconds.
const LOG_PAUSE_MS: u64 = 1000;

const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 48\r\n\r\n\
    this port speaks TLS 1.3: dial it with https://\n";
const _: () = assert!(PLAIN.as_bytes()[PLAIN.len() - 49] == b'\n');

/// TLS on one port.
#[derive(Clone, Debug)]
pub struct PortTls {
    tls: Arc<Tls>,
    name: PortName,
    timeout: Duration,
    logged: Arc<AtomicU64>,
}

impl PortTls {
    /// TLS on that port; on the agents' only with a certificate.
    #[must_use]
    pub fn new(tls: &Arc<Tls>, name: PortName) -> PortTls {
        PortTls { tls: Arc::clone(tls), name, timeout: HANDSHAKE_TIMEOUT, logged: Arc::default() }
    }

    /// The same with another time for a handshake.
    #[must_use]
    pub fn within(self, timeout: Duration) -> PortTls {
        PortTls { timeout, ..self }
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The connection, when that failed: it is counted and logged, and has to be closed.
    pub async fn accept(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Option<Arc<AgentIdentity>>), Refused> {
        let shaken = tokio::time::timeout(self.timeout, async {
            match speaks_tls(&stream).await {
                Ok(true) => {}
                Ok(false) => {
                    let _ = stream.write_all(PLAIN.as_bytes()).await;
                    return Err((None, stream));
                }
                Err(error) => return Err((Some(error), stream)),
            }
            let config = self.tls.config(self.name);
            let acceptor = TlsAcceptor::from(config);
            let limit = |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(BUFFER_MAX));
            let shaken = acceptor.accept_with(stream, limit).into_fallible().await;
            shaken.map_err(|(error, stream)| (Some(error), stream))
        });
        let (outcome, shaken) = match shaken.await {
            Ok(Ok(stream)) => (Outcome::Done, Ok(stream)),
            Ok(Err((None, stream))) => (Outcome::Plain, Err(Refused(Some(stream)))),
            Ok(Err((Some(error), stream))) => {
                debug!(%error, %peer, port = self.name.as_str(), "handshake failed");
                (Outcome::of(&error), Err(Refused(Some(stream))))
            }
            Err(_) => (Outcome::Late, Err(Refused(None))),
        };
        self.tls.handshakes().count(self.name, outcome);
        self.log(peer, outcome);
        let stream = shaken?;
        // Nobody on another port is an agent: there none is asked for a certificate, or it is KEDA's.
        let is_agents = self.name == PortName::Agents;
        let agent = is_agents.then(|| self.tls.agent_of(stream.get_ref().1)).flatten();
        Ok((stream, agent.map(Arc::new)))
    }

    /// Enters a connection of an agent among those that stand, with the time until which it may; `None` for any other.
    #[must_use]
    pub fn enter(&self, connection: &Connection) -> Option<(Standing, Instant)> {
        let agent = connection.identity.as_ref()?;
        let standing = self.tls.live().enter(agent, connection);
        let chance = getrandom::u64().unwrap_or_default();
        let until = Instant::now() + live::may_stand(agent, self.tls.now(), chance);
        // Kept out since the handshake: a sweep may have passed before it was entered.
        if self.tls.denied().holds(agent) {
            connection.cut();
        }
        Some((standing, until))
    }

    /// Says that somebody was turned away, once in a while.
    fn log(&self, peer: SocketAddr, outcome: Outcome) {
        if !outcome.is_telling() {
            return;
        }
        let now = self.tls.now().0;
        let last = self.logged.load(Ordering::Relaxed);
        let is_due = now >= last.saturating_add(LOG_PAUSE_MS);
        if is_due && self.logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let count = self.tls.handshakes().of(self.name, outcome);
            warn!(%peer, port = self.name.as_str(), result = outcome.as_str(), count, "handshake was refused");
        }
    }
}

/// A connection without a handshake. `None` where it is closed already.
#[derive(Debug)]
pub struct Refused(Option<TcpStream>);

impl Refused {
    /// Closes it when its peer has, or when it has had the time to read what was said last. Closed at once it would be reset by what its
    /// peer goes on to send, and writing would fail there before the reason is read.
    pub async fn linger(self) {
        let Some(mut stream) = self.0 else { return };
        let read = async {
            stream.shutdown().await?;
            let mut taken = [0; 4096];
            for _ in 0..LINGER_READS {
                if stream.read(&mut taken).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(LINGER, read).await;
    }
}

/// Whether the first byte is that of a handshake. It stays where it is.
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == HANDSHAKE),
    }
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
