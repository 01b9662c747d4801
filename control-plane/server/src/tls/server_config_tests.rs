use std::fs;
use std::path::Path;

use mindos_model::Timestamp;
use rustls::pki_types::PrivateKeyDer;

use super::super::authority::AGENT_LIFE_MAX;
use super::super::testing::{AGENT, Holder};
use super::*;

/// Writes a certificate of that authority and its key; returns the key.
fn put(authority: &Authority, dir: &Path, now: Timestamp) -> PrivateKeyDer<'static> {
    let (made, key) = authority.for_server(&["localhost".parse().unwrap()], now).unwrap();
    fs::write(dir.join("server.pem"), files::pem("CERTIFICATE", &made.chain[0])).unwrap();
    fs::write(dir.join("server.key"), files::pem("PRIVATE KEY", key.secret_der())).unwrap();
    key
}

fn from_files(dir: &Path, agent_ca: Option<PathBuf>) -> Result<Tls, TlsError> {
    let source = Source::Files { certificates: dir.join("server.pem"), key: dir.join("server.key") };
    let (trust_domain, authority) = (Arc::from("mindos.local"), dir.join("built-in"));
    Tls::start(
        TlsSettings { source, agent_ca, keda_ca: None, keda_names: Vec::new(), trust_domain, authority },
        Clock::start(Timestamp(0)),
    )
}

#[test]
fn files_that_change_are_taken_and_a_broken_pair_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = Authority::open(&dir.path().join("theirs"), Timestamp(1_795_176_000_000)).unwrap();
    let now = Timestamp(1_795_176_000_000);
    put(&theirs, dir.path(), now);
    let tls = from_files(dir.path(), None).unwrap();
    let digest = || tls.state.load().digest;
    let first = digest();
    assert!(!tls.look().unwrap() && tls.roots_for_clients().is_empty());

    put(&theirs, dir.path(), now + Duration::from_secs(60));
    assert!(tls.look().unwrap());
    let second = digest();
    assert!(second != first && *tls.replaced().borrow() == second);

    // A key that belongs to another certificate, then junk, then nothing: each is said once.
    let other = theirs.for_server(&["localhost".parse().unwrap()], now).unwrap().1;
    fs::write(dir.path().join("server.key"), files::pem("PRIVATE KEY", other.secret_der())).unwrap();
    let error = tls.look().unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("server.key"), "{error}");
    assert!(!tls.look().unwrap());
    for junk in ["", "junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        fs::write(dir.path().join("server.key"), junk).unwrap();
        assert!(tls.look().is_err(), "{junk}");
    }
    fs::remove_file(dir.path().join("server.key")).unwrap();
    assert!(matches!(tls.look(), Err(TlsError::File(FileError::Read { .. }))));
    assert_eq!(digest(), second);

    put(&theirs, dir.path(), now);
    assert!(tls.look().unwrap());
    assert_ne!(digest(), second);
}

#[test]
fn a_first_pair_must_be_good() {
    let dir = tempfile::tempdir().unwrap();
    assert!(from_files(dir.path(), None).is_err());
    let theirs = Authority::open(&dir.path().join("theirs"), Timestamp(1_795_176_000_000)).unwrap();
    put(&theirs, dir.path(), Timestamp(1_795_176_000_000));
    fs::write(dir.path().join("server.pem"), "").unwrap();
    let error = from_files(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("BEGIN CERTIFICATE"), "{error}");
}

#[test]
fn agents_of_an_external_authority_are_known_and_its_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let now = Clock::start(Timestamp(0)).now();
    let (first, second) =
        (Authority::open(&dir.path().join("a"), now).unwrap(), Authority::open(&dir.path().join("b"), now).unwrap());
    put(&first, dir.path(), now);
    let roots = dir.path().join("agents.pem");
    fs::copy(first.roots_path(), &roots).unwrap();
    let tls = from_files(dir.path(), Some(roots.clone())).unwrap();
    assert!(tls.authority().is_none() && !tls.issues_to_agents());
    assert!(!dir.path().join("built-in").exists());
    let holds = |authority: &Authority| {
        let agent = Holder::of(authority, AGENT, now, AGENT_LIFE_MAX);
        tls.verifier().agent(&agent.chain, unix(now)).is_ok()
    };
    assert_eq!((holds(&first), holds(&second)), (true, false));
    fs::copy(second.roots_path(), &roots).unwrap();
    assert!(tls.look().unwrap());
    assert_eq!((holds(&first), holds(&second)), (false, true));
    fs::write(&roots, "junk").unwrap();
    assert!(tls.look().unwrap_err().to_string().contains("agents.pem"));
    assert_eq!((holds(&first), holds(&second)), (false, true));
}

#[test]
fn a_certificate_of_the_authority_is_replaced_before_its_end_and_suits_clocks_an_hour_off() {
    let dir = tempfile::tempdir().unwrap();
    let tls = super::super::testing::tls(dir.path());
    let state = tls.state.load_full();
    let hour = 3_600_000;
    let (renew_at, now) = (state.renew_at.unwrap(), tls.now());
    // At any time between two replacements.
    assert!(renew_at.0 + hour < state.not_after.0 && now < renew_at);
    assert!(!tls.look().unwrap());
    tls.refresh().unwrap();
    assert_ne!(tls.state.load().digest, state.digest);
}
