//! The paths of the GitLens contract on a listener that the network reaches: refused unless the settings name the caller's range.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::support::{Directory, PATIENCE, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An address of this machine that is not loopback. Asks the system for a route; nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this test needs an address that is not loopback");
    socket.local_addr().unwrap().ip()
}

async fn get(at: SocketAddr) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET /stats HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_listener_on_the_network_answers_whom_the_settings_name() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    std::fs::write(&settings, "gitlens: {sources: {aggregator: ['198.51.100.7']}}").unwrap();
    let settings_at = settings.to_str().unwrap();
    let options =
        ["--aggregator-address", "0.0.0.0:0", "--aggregator-plaintext", "--tls", "off", "--settings", settings_at];
    let server = Running::with(&directory, &options).await;
    let port = server.aggregator.unwrap().port();
    let (here, there) = (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::new(own_address(), port));

    // With a listener on the network this machine is let in by nothing but its address, like any other.
    assert_eq!(get(here).await.0, 403);
    assert_eq!(get(there).await, (403, r#"{"error":"Forbidden"}"#.to_owned()));

    // Taken while it runs.
    std::fs::write(&settings, format!("gitlens: {{sources: {{aggregator: ['{}']}}}}", there.ip())).unwrap();
    let taken = async {
        while get(there).await.0 != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("the settings were not taken");
    server.stop().await;
}

#[tokio::test]
async fn the_clear_is_not_opened_to_nobody_in_particular() {
    let directory = Directory::new();
    let options = ["--aggregator-address", "0.0.0.0:0", "--aggregator-plaintext", "--tls", "off"];
    let error = Running::refused(&directory, &options).await.to_string();
    assert!(error.contains("--aggregator-plaintext") && error.contains("gitlens.sources.aggregator"), "{error}");
}
