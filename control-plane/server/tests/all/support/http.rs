//! Plain HTTP against a server, one connection for each request.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{PATIENCE, Running};

/// Sends a request as it is, and returns status and body.
pub async fn send(server: &Running, request: &[u8]) -> (u16, String) {
    send_to(server.api.strip_prefix("http://").unwrap().parse().unwrap(), request).await
}

/// As [`send`], to any listener.
pub async fn send_to(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub async fn get(server: &Running, path: &str) -> (u16, String) {
    get_at(server.api.strip_prefix("http://").unwrap().parse().unwrap(), path).await
}

/// Asks another listener than that of the API.
pub async fn get_at(address: SocketAddr, path: &str) -> (u16, String) {
    send_to(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
}

pub async fn post(server: &Running, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    send(server, &[head.as_bytes(), body].concat()).await
}
