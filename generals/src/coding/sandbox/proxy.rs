//! The one way out of a sandbox: an HTTP proxy that reaches the places it was told, and no others.
//!
//! It listens on a unix socket that is shown to the sandbox alone. `CONNECT host:port` is for TLS; a request with an absolute
//! address is for plain HTTP, which a model server on this machine may speak. Invariant: the place is compared by name and port as
//! configured, before anything is resolved, so a name that points elsewhere opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bytes of the head of a request.
const HEAD_MAX: usize = 16 << 10;
/// How long the head may take, and a connection to stand.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place: expected host:port or an address such as https://example.com")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    /// Reads `host:port`, or the place of an http or https address.
    fn from_str(text: &str) -> Result<Place, PlaceError> {
        let wrong = || PlaceError(text.chars().take(100).collect());
        let (rest, default) = match text.split_once("://") {
            Some(("http", rest)) => (rest, Some(80)),
            Some(("https", rest)) => (rest, Some(443)),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(wrong());
        }
        let bracket = authority.rfind(']').unwrap_or(0);
        let (host, port) = match authority[bracket..].rfind(':') {
            Some(colon) => {
                (&authority[..bracket + colon], Some(authority[bracket + colon + 1..].parse().map_err(|_| wrong())?))
            }
            None => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':');
        match port {
            Some(port) if port > 0 && !host.is_empty() && host.chars().all(plain) => Ok(Place { host, port }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A proxy at work; ends when dropped.
pub(super) struct Proxy {
    pub(super) socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Proxy {
    pub(super) fn start(folder: &Path, places: Vec<Place>) -> std::io::Result<Proxy> {
        let socket = folder.join("proxy.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let (places, room) = (Arc::new(places), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let task = tokio::spawn(async move {
            // Connections end with the proxy.
            let mut open = tokio::task::JoinSet::new();
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                let Ok((inner, _)) = listener.accept().await else { continue };
                while open.try_join_next().is_some() {}
                let places = Arc::clone(&places);
                open.spawn(async move {
                    let _ = serve(inner, &places).await;
                    drop(permit);
                });
            }
        });
        Ok(Proxy { socket, task })
    }
}

async fn serve(mut inner: UnixStream, places: &[Place]) -> std::io::Result<()> {
    let Ok(Some((head, behind))) = timeout(PATIENCE, head(&mut inner)).await.unwrap_or(Ok(None)) else {
        return refuse(&mut inner, "400 Bad Request", "not a request that this proxy understands").await;
    };
    let Some(asked) = understand(&head) else {
        return refuse(
            &mut inner,
            "400 Bad Request",
            "expected CONNECT host:port, or an address that begins with http://",
        )
        .await;
    };
    if !places.contains(&asked.place) {
        return refuse(&mut inner, "403 Forbidden", &format!("{} is not reached from this sandbox", asked.place)).await;
    }
    let to = (asked.place.host.as_str(), asked.place.port);
    let Ok(Ok(mut outer)) = timeout(PATIENCE, TcpStream::connect(to)).await else {
        return refuse(&mut inner, "502 Bad Gateway", &format!("{} is not there", asked.place)).await;
    };
    match asked.forward {
        None => inner.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
        Some(head) => outer.write_all(head.as_bytes()).await?,
    }
    outer.write_all(&behind).await?;
    copy_bidirectional(&mut inner, &mut outer).await?;
    Ok(())
}

async fn refuse(inner: &mut UnixStream, status: &str, why: &str) -> std::io::Result<()> {
    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{why}", why.len());
    inner.write_all(answer.as_bytes()).await
}

/// The head of the request, with its last line's end, and what came behind it; none when it is too long or broken off.
async fn head(inner: &mut UnixStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let behind = bytes.split_off(end + 4);
            return Ok(String::from_utf8(bytes).ok().map(|head| (head, behind)));
        }
        if bytes.len() >= HEAD_MAX || inner.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

struct Asked {
    place: Place,
    /// The head to send on; none for a tunnel.
    forward: Option<String>,
}

fn understand(head: &str) -> Option<Asked> {
    let (line, headers) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") {
        return None;
    }
    if method == "CONNECT" {
        return (!target.contains("://"))
            .then(|| target.parse().ok())
            .flatten()
            .map(|place| Asked { place, forward: None });
    }
    let rest = target.strip_prefix("http://")?;
    let place = target.parse().ok()?;
    let path = rest.find(['/', '?']).map_or("/", |at| &rest[at..]);
    let slash = if path.starts_with('/') { "" } else { "/" };
    // One request each: a second one could mean another place.
    let kept = headers.split("\r\n").filter(|header| {
        let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !header.is_empty()
            && !matches!(name.as_str(), "connection" | "proxy-connection" | "keep-alive" | "proxy-authorization")
    });
    let headers: String = kept.map(|header| format!("{header}\r\n")).collect();
    Some(Asked {
        place,
        forward: Some(format!("{method} {slash}{path} {version}\r\n{headers}Connection: close\r\n\r\n")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_addresses() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        assert_eq!(place("https://API.example.com/v1").unwrap(), "api.example.com:443");
        assert_eq!(place("http://localhost:11434").unwrap(), "localhost:11434");
        assert_eq!(place("example.com:8080").unwrap(), "example.com:8080");
        assert_eq!(place("http://[::1]:80/x").unwrap(), "[::1]:80");
        for wrong in ["", "example.com", "ftp://a", "https://user@a", "a:0", "a:99999", "a b:1", "http://:80"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_sent_on_to_the_place_alone() {
        let asked = understand(
            "POST http://localhost:11434/v1/x?y HTTP/1.1\r\nHost: elsewhere\r\nConnection: keep-alive\r\n\r\n",
        );
        let asked = asked.unwrap();
        assert_eq!(asked.place.to_string(), "localhost:11434");
        assert_eq!(asked.forward.unwrap(), "POST /v1/x?y HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n");
        assert!(understand("CONNECT a:443 HTTP/1.1\r\n\r\n").unwrap().forward.is_none());
        for wrong in
            ["GET / HTTP/1.1\r\n\r\n", "GET https://a/ HTTP/1.1\r\n\r\n", "CONNECT a HTTP/1.1\r\n\r\n", "x\r\n\r\n"]
        {
            assert!(understand(wrong).is_none(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn only_named_places_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut word = [0; 4];
            peer.read_exact(&mut word).await.unwrap();
            peer.write_all(b"pong").await.unwrap();
        });
        let proxy = Proxy::start(folder.path(), vec![Place { host: "localhost".into(), port }]).unwrap();
        let ask = async |head: String| {
            let mut stream = UnixStream::connect(&proxy.socket).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        };
        // The same machine under another name is another place.
        let other = ask(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n")).await;
        assert!(other.starts_with("HTTP/1.1 403 "), "{other}");
        let named = ask(format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\nping")).await;
        assert!(named.starts_with("HTTP/1.1 200 ") && named.ends_with("pong"), "{named}");
    }
}
