//! A server that answers as it is told, for tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is done with one request.
#[derive(Clone)]
pub(crate) enum Act {
    /// Bytes, and the end of the connection.
    Say(String),
    /// Bytes, and silence until the client is gone.
    Stall(String),
    /// Waits until it is let go, then as `Say`.
    Held(String),
}

/// Requests that came, and how it is with the connections.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) origin: String,
    seen: Arc<Mutex<Seen>>,
    open: watch::Receiver<usize>,
    release: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Seen {
    acts: VecDeque<Act>,
    requests: Vec<(String, Value)>,
    most_open: usize,
}

impl Server {
    /// Answers one request after the other with these; with the last one for ever.
    pub(crate) async fn new(acts: impl IntoIterator<Item = Act>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (opened, open) = watch::channel(0);
        let (release, held) = watch::channel(false);
        let server = Server {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            seen: Arc::new(Mutex::new(Seen { acts: acts.into_iter().collect(), ..Seen::default() })),
            open,
            release: Arc::new(release),
        };
        let (seen, opened) = (server.seen.clone(), Arc::new(opened));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone(), opened.clone(), held.clone()));
            }
        });
        server
    }

    /// The requests so far, as `METHOD path` and body.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }

    /// Most requests that were in work at the same time.
    pub(crate) fn most_open(&self) -> usize {
        self.seen.lock().unwrap().most_open
    }

    /// Waits until so many requests are in work.
    pub(crate) async fn open(&self, count: usize) {
        let mut open = self.open.clone();
        let waited = tokio::time::timeout(Duration::from_secs(20), open.wait_for(|open| *open == count)).await;
        waited.expect("as many requests in work").unwrap();
    }

    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Seen>>,
    opened: Arc<watch::Sender<usize>>,
    mut held: watch::Receiver<bool>,
) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let act = {
        let mut seen = seen.lock().unwrap();
        seen.requests.push((head, serde_json::from_slice(&body).unwrap_or_default()));
        match seen.acts.len() {
            0 => return,
            1 => seen.acts[0].clone(),
            _ => seen.acts.pop_front().unwrap(),
        }
    };
    opened.send_modify(|open| *open += 1);
    {
        let mut seen = seen.lock().unwrap();
        seen.most_open = seen.most_open.max(*opened.borrow());
    }
    let mut rest = [0; 64];
    match act {
        Act::Say(bytes) => drop(stream.write_all(bytes.as_bytes()).await),
        Act::Stall(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            while let Ok(1..) = stream.read(&mut rest).await {}
        }
        Act::Held(bytes) => {
            let gone = async { while let Ok(1..) = stream.read(&mut rest).await {} };
            tokio::select! {
                _ = held.wait_for(|held| *held) => {}
                () = gone => {}
            }
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    }
    opened.send_modify(|open| *open -= 1);
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    while bytes.len() < head + length {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
    let line = String::from_utf8_lossy(&bytes[..head]).lines().next().unwrap_or_default().replace(" HTTP/1.1", "");
    Some((line, bytes[head..].to_vec()))
}

/// An answer with a status, headers and a body.
pub(crate) fn status(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Say(format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"))
}

/// The head of an answer that lasts until the connection ends; what breaks it off cannot be told from its end.
pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n";

/// A stream of OpenAI's with a text and its usage.
pub(crate) fn says(text: &str, input: u64, output: u64) -> Act {
    let text = Value::from(text);
    Act::Say(format!(
        "{STREAM}data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}\n\ndata: [DONE]\n\n"
    ))
}
