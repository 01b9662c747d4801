//! A port whose callers have to say who they are: who serves them.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;

use super::doorkeeper::Doorkeeper;
use super::handshakes::Handshakes;
use super::*;

/// Says where it runs.
fn place() -> &'static str {
    match porch::here() {
        porch::Place::Porch => "porch",
        porch::Place::Large => "large",
        porch::Place::Inside => "inside",
    }
}

/// Takes a body and says in which thread.
async fn takes(body: bytes::Bytes) -> String {
    format!("{} bytes in {}", body.len(), std::thread::current().name().unwrap_or("none"))
}

/// Says where it is read, a part for each time it is asked to go on.
fn places(parts: mpsc::UnboundedReceiver<()>) -> Body {
    let parts = tokio_stream::wrappers::UnboundedReceiverStream::new(parts);
    Body::from_stream(parts.map(|()| Ok::<_, std::io::Error>(place())))
}

/// Lets in whoever shows anything.
async fn lets_in(request: Request, next: Next) -> Response {
    if request.headers().contains_key(http::header::AUTHORIZATION) {
        request.extensions().get::<Connection>().unwrap().let_in().await;
    }
    next.run(request).await
}

struct Served {
    at: SocketAddr,
    /// Has the answer at `/places` go on.
    go_on: mpsc::UnboundedSender<()>,
    _drain: watch::Sender<bool>,
}

async fn serve(asks: bool) -> Served {
    let (go_on, parts) = mpsc::unbounded_channel();
    let parts = Arc::new(std::sync::Mutex::new(Some(parts)));
    let router = Router::new()
        .route("/", get(async || place()).post(std::future::pending::<&str>))
        .route("/takes", post(takes))
        .route("/places", get(move || std::future::ready(places(parts.lock().unwrap().take().unwrap()))))
        .layer(from_fn(lets_in));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let outside = Outside::start().unwrap();
    let porch = outside.porch().clone();
    let doors = Doors {
        keeper: Arc::new(Doorkeeper::new(16)),
        handshakes: Arc::new(Handshakes::start().unwrap()),
        outside,
        limits: Arc::new(ArcSwap::from_pointee(Limits::default())),
    };
    let (grpc, http) = (router.clone(), Some(router));
    let port = Port { listener, grpc, http, connections_max: 16, tls: None, doors, asks, inside: Handle::current() };
    let (drain, draining) = watch::channel(false);
    porch.spawn(port.serve(draining));
    Served { at, go_on, _drain: drain }
}

fn ask(path: &str, shows: bool) -> http::Request<Empty<bytes::Bytes>> {
    let mut request = http::Request::get(format!("http://mindos{path}")).header("host", "mindos");
    if shows {
        request = request.header("authorization", "Bearer x");
    }
    request.body(Empty::new()).unwrap()
}

async fn text(answer: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn strangers_are_served_on_the_porch_and_who_was_let_in_inside() {
    let served = serve(true).await;
    let stream = TcpStream::connect(served.at).await.unwrap();
    let (mut one, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let stream = TcpStream::connect(served.at).await.unwrap();
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (shows, expected) in [(false, "porch"), (true, "inside"), (false, "inside")] {
        assert_eq!(text(one.send_request(ask("/", shows)).await.unwrap()).await, expected, "HTTP/1.1, {shows}");
        assert_eq!(text(two.send_request(ask("/", shows)).await.unwrap()).await, expected, "HTTP/2, {shows}");
    }
}

#[tokio::test]
async fn an_answer_that_goes_on_for_long_does_so_inside() {
    let served = serve(true).await;
    let stream = TcpStream::connect(served.at).await.unwrap();
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut answer = two.send_request(ask("/places", true)).await.unwrap().into_body();
    for _ in 0..3 {
        served.go_on.send(()).unwrap();
        let part = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(part, "inside");
    }
}

#[tokio::test]
async fn where_nobody_is_asked_nobody_is_a_stranger() {
    let served = serve(false).await;
    let stream = TcpStream::connect(served.at).await.unwrap();
    let (mut one, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(one.send_request(ask("/", false)).await.unwrap()).await, "inside");
}

#[tokio::test]
async fn a_large_body_is_read_in_a_thread_that_stands_back_and_what_comes_after_it_inside() {
    type Either = http_body_util::Either<Empty<bytes::Bytes>, Full<bytes::Bytes>>;
    let served = serve(true).await;
    let here = std::thread::current().name().unwrap_or("none").to_owned();
    let whole = |length: usize| {
        let request = http::Request::post("http://mindos/takes").header("host", "mindos");
        request.body(Either::Right(Full::new(bytes::Bytes::from(vec![0; length])))).unwrap()
    };
    for (length, expected) in [(1, &*here), (32 << 10, &here), (40 << 10, "large-bodies"), (1, &here)] {
        let expected = format!("{length} bytes in {expected}");
        let stream = TcpStream::connect(served.at).await.unwrap();
        let (mut one, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let stream = TcpStream::connect(served.at).await.unwrap();
        let (mut two, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let known = || ask("/", true).map(Either::Left);
        for _ in 0..2 {
            assert_eq!(text(one.send_request(known()).await.unwrap()).await, "inside", "HTTP/1.1");
            assert_eq!(text(one.send_request(whole(length)).await.unwrap()).await, expected, "HTTP/1.1");
            assert_eq!(text(two.send_request(known()).await.unwrap()).await, "inside", "HTTP/2");
            assert_eq!(text(two.send_request(whole(length)).await.unwrap()).await, expected, "HTTP/2");
        }
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn whoever_sends_more_than_there_is_a_window_for_is_kept_out() {
    let served = serve(false).await;
    let mut stream = TcpStream::connect(served.at).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    // POST / of mindos, by the static table.
    sent.extend(frame(1, 4, 1, b"\x83\x86\x84\x41\x06mindos"));
    // A stream begins with a window of 64 KiB, until it is agreed on another: that is never acknowledged here.
    for _ in 0..5 {
        sent.extend(frame(0, 0, 1, &[0; 16 << 10]));
    }
    stream.write_all(&sent).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await.expect("it stands");

    let mut next = TcpStream::connect(served.at).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), next.read(&mut [0; 1])).await.expect("it was let in");
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
}
