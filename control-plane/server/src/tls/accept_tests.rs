use std::net::SocketAddr;
use std::sync::Mutex;

use mindos_model::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::super::authority::Authority;
use super::super::testing::{AGENT, Holder, client, echo, tls};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A port that repeats what is said there, and the agents that were seen.
async fn port(tls: &Arc<Tls>, name: PortName) -> (SocketAddr, Arc<Mutex<Vec<Option<Arc<AgentIdentity>>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let port = PortTls::new(tls, name).within(Duration::from_millis(300));
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let into = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (port, into) = (port.clone(), Arc::clone(&into));
            tokio::spawn(async move {
                let (mut stream, agent) = match port.accept(stream, peer).await {
                    Ok(shaken) => shaken,
                    Err(refused) => return refused.linger().await,
                };
                into.lock().unwrap().push(agent);
                let mut bytes = [0; 5];
                let _ = stream.read_exact(&mut bytes).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (at, seen)
}

fn ago(tls: &Tls, span: Duration) -> Timestamp {
    Timestamp(tls.now().0 - u64::try_from(span.as_millis()).unwrap())
}

#[tokio::test]
async fn an_agent_is_known_by_its_certificate_and_others_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let authority = tls.authority().unwrap();
    let (at, seen) = port(&tls, PortName::Agents).await;
    let roots = authority.roots();
    let agent = Holder::of(authority, AGENT, tls.now(), HOUR);
    assert_eq!(echo(at, client(&roots, Some(&agent))).await.as_deref(), Ok("hello"));
    let known = seen.lock().unwrap()[0].clone().unwrap();
    assert_eq!(known.identity.spiffe_id("mindos.local"), AGENT);
    assert_eq!(known.issuer.as_deref(), Some(&*format!("authority {}", authority.id())));
    assert!(known.not_after > tls.now());

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open(&elsewhere.path().join("authority"), tls.now()).unwrap();
    let cases = [
        (None, "CertificateRequired", Outcome::NoCertificate),
        (Some(Holder::of(&other, AGENT, tls.now(), HOUR)), "UnknownCA", Outcome::UnknownIssuer),
        (Some(Holder::of(authority, AGENT, ago(&tls, HOUR * 2), HOUR)), "CertificateExpired", Outcome::Expired),
        (Some(Holder::of(authority, AGENT, tls.now() + HOUR, HOUR)), "CertificateExpired", Outcome::NotYetValid),
        (Some(Holder::of(authority, &AGENT.replace("mindos.local", "evil"), tls.now(), HOUR)), "", Outcome::NoAgent),
        (Some(Holder::of(authority, "https://x/y", tls.now(), HOUR)), "", Outcome::NoAgent),
        (Some(server_of(authority, &tls)), "", Outcome::BadCertificate),
    ];
    for (agent, alert, outcome) in cases {
        let before = tls.handshakes().of(PortName::Agents, outcome);
        let error = echo(at, client(&roots, agent.as_ref())).await.unwrap_err();
        assert!(error.contains(alert), "{outcome:?}: {error}");
        assert_eq!(tls.handshakes().of(PortName::Agents, outcome), before + 1, "{outcome:?}: {error}");
    }
    assert_eq!((seen.lock().unwrap().len(), tls.handshakes().of(PortName::Agents, Outcome::Done)), (1, 1));
}

/// A certificate of the server, shown as a client's.
fn server_of(authority: &Authority, tls: &Tls) -> Holder {
    let (made, key) = authority.for_server(&["localhost".parse().unwrap()], tls.now()).unwrap();
    Holder { key: rcgen::KeyPair::try_from(&key).unwrap(), chain: made.chain }
}

#[tokio::test]
async fn whoever_is_kept_out_is_so_at_the_next_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let authority = tls.authority().unwrap();
    let (at, _) = port(&tls, PortName::Agents).await;
    let (one, two) = (Holder::of(authority, AGENT, tls.now(), HOUR), Holder::of(authority, AGENT, tls.now(), HOUR));
    let denied = super::super::testing::public(&one.key).digest();
    tls.denied().ask(move |agent| agent.key == denied);

    let error = echo(at, client(&authority.roots(), Some(&one))).await.unwrap_err();
    assert!(error.contains("CertificateRevoked"), "{error}");
    assert_eq!(echo(at, client(&authority.roots(), Some(&two))).await.as_deref(), Ok("hello"));
    assert_eq!(tls.handshakes().of(PortName::Agents, Outcome::Denied), 1);
}

#[tokio::test]
async fn whoever_goes_on_writing_hears_why_they_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let authority = tls.authority().unwrap();
    let (at, _) = port(&tls, PortName::Agents).await;
    let one = Holder::of(authority, AGENT, tls.now(), HOUR);
    tls.denied().ask(|_| true);

    // To the client its handshake is over before it is refused.
    let mut stream = super::super::testing::dial(at, client(&authority.roots(), Some(&one))).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.get_mut().0.write_all(b"as much as it wants").await.expect("the connection was reset");
    }
    let error = stream.read(&mut [0; 5]).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRevoked"), "{error}");
}

#[tokio::test]
async fn on_the_api_nobody_is_asked_for_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let authority = tls.authority().unwrap();
    let (at, seen) = port(&tls, PortName::Api).await;
    assert_eq!(echo(at, client(&authority.roots(), None)).await.as_deref(), Ok("hello"));
    assert_eq!(*seen.lock().unwrap(), [None]);
    // A client that trusts somebody else says so.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open(&elsewhere.path().join("authority"), tls.now()).unwrap();
    assert!(echo(at, client(&other.roots(), None)).await.is_err());
    let counted = async {
        while tls.handshakes().of(PortName::Api, Outcome::ByClient) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), counted).await.expect("the refusal was not counted");
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let roots = tls.authority().unwrap().roots();
    for name in [PortName::Api, PortName::Agents] {
        let (at, _) = port(&tls, name).await;
        let mut store = rustls::RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.clone()).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let older = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let error = echo(at, older).await.unwrap_err();
        assert!(error.contains("ProtocolVersion"), "{error}");
        assert_eq!(tls.handshakes().of(name, Outcome::Incompatible), 1);
    }
}

#[tokio::test]
async fn what_is_in_the_clear_is_answered_and_what_is_half_done_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let (at, _) = port(&tls, PortName::Api).await;
    for sent in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 30_000]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("dial it with https://\n"), "{answer}");
    }
    assert_eq!(tls.handshakes().of(PortName::Api, Outcome::Plain), 3);
    // Nothing, the beginning of a record, and a record that is never whole.
    for sent in [&b""[..], &[0x16, 3, 1], &[0x16, 3, 1, 0x02, 0x00, 1, 0]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{sent:?}");
    }
    assert_eq!(tls.handshakes().of(PortName::Api, Outcome::Late), 3);
    // What is no handshake at all ends at once.
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 5, 9, 9, 9, 9, 9]).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(tls.handshakes().of(PortName::Api, Outcome::Malformed), 1);
}

#[tokio::test]
async fn a_rotation_leaves_nobody_behind_until_the_former_root_is_retired() {
    let dir = tempfile::tempdir().unwrap();
    let tls = tls(dir.path());
    let authority = tls.authority().unwrap();
    let (at, _) = port(&tls, PortName::Agents).await;
    let (old_roots, old) = (authority.roots(), Holder::of(authority, AGENT, tls.now(), HOUR));
    let replaced = tls.replaced();

    authority.rotate(tls.now()).unwrap();
    tls.refresh().unwrap();
    assert!(replaced.has_changed().unwrap());
    let (both, new) = (authority.roots(), Holder::of(authority, AGENT, tls.now(), HOUR));
    assert_eq!(both.len(), 2);
    let only_new = [both[0].clone()];
    for (roots, agent) in [(&old_roots[..], &old), (&old_roots, &new), (&both, &old), (&both, &new), (&only_new, &new)]
    {
        assert_eq!(echo(at, client(roots, Some(agent))).await.as_deref(), Ok("hello"));
    }

    authority.retire().unwrap();
    tls.refresh().unwrap();
    assert_eq!(echo(at, client(&both, Some(&new))).await.as_deref(), Ok("hello"));
    assert!(echo(at, client(&both, Some(&old))).await.unwrap_err().contains("UnknownCA"));
    assert!(echo(at, client(&old_roots, Some(&new))).await.is_err());
}
