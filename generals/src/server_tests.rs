use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Serves a general on a free port while `test` runs, then stops it and waits for its end.
fn while_serving<F: Future<Output = ()>>(body_max: usize, test: impl FnOnce(SocketAddr) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let served = Served::without_model(crate::Profile::stock("code-review-general").unwrap());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = bind(Config { served, listen, body_max, drain: Duration::from_secs(10) }).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        test(address).await;
        drop(stop);
        serving.await.unwrap();
    });
}

/// Sends `request` as it is and reads to the end.
async fn send(address: SocketAddr, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /process HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

#[test]
fn the_contracts_three_paths_answer_as_promised() {
    while_serving(BODY_MAX, |address| async move {
        let health = send(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(health, (200, json!({"status": "healthy", "general": "code-review-general"})));
        let ready = send(address, b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(ready, (200, json!({"status": "ready", "general": "code-review-general"})));
        let body = r#"{"event_type":"pr_created","job_id":"j","data":{"pull_request":{"number":1,"body":null}}}"#;
        let (status, report) = send(address, &post("", body)).await;
        assert_eq!((status, &report["status"]), (200, &json!("processed")));
        assert_eq!((&report["general"], &report["event_type"]), (&json!("code-review-general"), &json!("pr_created")));
        assert!(report["timestamp"].as_str().unwrap().ends_with('Z') && report["analysis"].is_string());
        assert!(!report["recommendations"].as_array().unwrap().is_empty());
        assert_eq!((&report["model"], &report["statement"]), (&json!("none"), &json!(crate::NO_MODEL)));
        assert_eq!(
            (&report["usage"], &report["effects"]),
            (&json!([]), &json!([])),
            "no repository, so nothing to write on"
        );
    });
}

#[test]
fn a_binary_cloud_event_is_taken_too() {
    while_serving(BODY_MAX, |address| async move {
        let headers = "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: com.github.push\r\n\
                       content-type: application/json\r\n";
        let (status, report) = send(address, &post(headers, r#"{"ref":"refs/heads/a","commits":[]}"#)).await;
        assert_eq!((status, &report["event_type"]), (200, &json!("com.github.push")));
    });
}

#[test]
fn who_takes_lines_hears_how_far_a_run_is() {
    while_serving(BODY_MAX, |address| async move {
        let body = r#"{"event_type":"pr_created","data":{"pull_request":{"number":1}},"checkpoint":"bm9pc2U="}"#;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&post("accept: application/json, application/x-ndjson\r\n", body)).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("content-type: application/x-ndjson\r\n"), "{answer}");
        let lines: Vec<Value> = answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lines: Vec<Value> = lines.into_iter().filter(Value::is_object).collect();
        assert!(lines.len() > 1 && lines[0]["progress"]["note"].is_string(), "{answer}");
        let last = lines.last().unwrap();
        assert_eq!((&last["status"], &last["body"]["status"]), (&json!(200), &json!("processed")));
    });
}

#[test]
fn bad_input_is_refused_by_name() {
    while_serving(100, |address| async move {
        let (status, error) = send(address, &post("", r#"{"event_type":"x"}"#)).await;
        assert_eq!((status, &error["field"]), (400, &json!("data")));
        assert_eq!(send(address, &post("", "{")).await.0, 400);
        let (status, error) = send(address, &post("", &" ".repeat(101))).await;
        assert_eq!((status, &error["field"]), (413, &json!("body")));
        let chunked = format!(
            "POST /process HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n80\r\n{}\r\n0\r\n\r\n",
            " ".repeat(128)
        );
        assert_eq!(send(address, chunked.as_bytes()).await.0, 413);
        let get = send(address, b"GET /process HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(get.0, 405);
        let other = send(address, b"GET /else HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(other.0, 404);
        assert_eq!(send(address, b"\x16\x03\x01 garbage\r\n\r\n").await.0, 400);
        let health = send(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(health.0, 200);
    });
}

#[test]
fn a_stopped_server_ends_its_idle_connections() {
    while_serving(BODY_MAX, |address| async move {
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        // Left open: `while_serving` would not return if stopping waited for it.
        std::mem::forget(idle);
    });
}
