use std::sync::Arc;

use rcgen::{KeyPair, SigningKey};

use super::super::server_config::Tls;
use super::super::testing::{AGENT, Holder, request, tls};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = RENEW_LATE_MAX;

struct Plane {
    tls: Arc<Tls>,
    challenges: Challenges,
    _dir: tempfile::TempDir,
}

impl Plane {
    fn new() -> Plane {
        let dir = tempfile::tempdir().unwrap();
        Plane { tls: tls(dir.path()), challenges: Challenges::new().unwrap(), _dir: dir }
    }

    /// An agent whose certificate was made so long ago.
    fn agent(&self, ago: Duration) -> Holder {
        let at = Timestamp(self.tls.now().0 - u64::try_from(ago.as_millis()).unwrap());
        Holder::of(self.tls.authority().unwrap(), AGENT, at, HOUR)
    }

    fn renew(&self, agent: &Holder, next: &KeyPair) -> Result<(AgentIdentity, PublicKey), RenewRefusal> {
        self.signed_by(&agent.chain, &agent.key, next)
    }

    fn signed_by(
        &self,
        chain: &[CertificateDer<'static>],
        key: &KeyPair,
        next: &KeyPair,
    ) -> Result<(AgentIdentity, PublicKey), RenewRefusal> {
        let now = self.tls.now();
        let (challenge, request) = (self.challenges.make(now).unwrap(), request(next));
        let signature = key.sign(&signed(&challenge, &request)).unwrap();
        let renewal = Renewal { certificates: chain, request: &request, challenge: &challenge, signature: &signature };
        judge(renewal, &self.tls.verifier(), &self.challenges, now)
    }
}

#[test]
fn a_certificate_is_renewed_while_it_is_good_and_for_a_day_after() {
    let plane = Plane::new();
    let next = KeyPair::generate().unwrap();
    for ago in [Duration::ZERO, HOUR * 2, DAY + HOUR - Duration::from_secs(5)] {
        let agent = plane.agent(ago);
        let (who, key) = plane.renew(&agent, &next).unwrap();
        assert_eq!(who.identity.spiffe_id("mindos.local"), AGENT);
        assert_eq!(key, super::super::testing::public(&next));
        // The same key will do.
        plane.renew(&agent, &agent.key).unwrap();
    }
    assert_eq!(plane.renew(&plane.agent(DAY + HOUR + Duration::from_secs(5)), &next), Err(RenewRefusal::Late));
}

#[test]
fn a_certificate_of_others_or_without_its_key_is_not_renewed() {
    let (plane, other) = (Plane::new(), Plane::new());
    let (next, thief) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let agent = plane.agent(Duration::ZERO);
    assert_eq!(plane.signed_by(&agent.chain, &thief, &next), Err(RenewRefusal::Signature));
    // Expired or not: another authority is another authority.
    for ago in [Duration::ZERO, HOUR * 2] {
        assert_eq!(plane.renew(&other.agent(ago), &next), Err(RenewRefusal::Certificate));
    }
    // The server's own certificate is no agent's, and a root is none either.
    let authority = plane.tls.authority().unwrap();
    let (made, key) = authority.for_server(&["localhost".parse().unwrap()], plane.tls.now()).unwrap();
    let key = KeyPair::try_from(&key).unwrap();
    assert_eq!(plane.signed_by(&made.chain, &key, &next), Err(RenewRefusal::Certificate));
    assert!(plane.signed_by(&authority.roots(), &thief, &next).is_err());
    assert_eq!(plane.signed_by(&[], &thief, &next), Err(RenewRefusal::Chain { found: 0 }));
    let many = vec![agent.chain[0].clone(); CHAIN_MAX + 1];
    assert_eq!(plane.signed_by(&many, &agent.key, &next), Err(RenewRefusal::Chain { found: CHAIN_MAX + 1 }));
    let junk = [CertificateDer::from(vec![0x30; 100])];
    assert_eq!(plane.signed_by(&junk, &agent.key, &next), Err(RenewRefusal::Certificate));
}

#[test]
fn a_signature_counts_for_one_challenge_and_one_request() {
    let plane = Plane::new();
    let (agent, next) = (plane.agent(Duration::ZERO), KeyPair::generate().unwrap());
    let now = plane.tls.now();
    let (challenge, other) = (plane.challenges.make(now).unwrap(), plane.challenges.make(now).unwrap());
    let (request, swapped) = (request(&next), request(&KeyPair::generate().unwrap()));
    let signature = agent.key.sign(&signed(&challenge, &request)).unwrap();
    let judged = |challenge: &[u8], request: &[u8], at: Timestamp| {
        let renewal = Renewal { certificates: &agent.chain, request, challenge, signature: &signature };
        judge(renewal, &plane.tls.verifier(), &plane.challenges, at).map(|_| ())
    };
    assert_eq!(judged(&challenge, &request, now), Ok(()));
    assert_eq!(judged(&other, &request, now), Err(RenewRefusal::Signature));
    assert_eq!(judged(&challenge, &swapped, now), Err(RenewRefusal::Signature));
    assert_eq!(judged(&challenge, &request, now + Duration::from_secs(61)), Err(RenewRefusal::Challenge));
    assert_eq!(judged(b"junk", &request, now), Err(RenewRefusal::Challenge));
}

#[test]
fn whoever_is_kept_out_renews_nothing() {
    let plane = Plane::new();
    let (agent, next) = (plane.agent(HOUR * 2), KeyPair::generate().unwrap());
    let (old, new) =
        (super::super::testing::public(&agent.key).digest(), super::super::testing::public(&next).digest());
    plane.renew(&agent, &next).unwrap();
    plane.tls.denied().ask(move |who| who.key == new);
    assert_eq!(plane.renew(&agent, &next), Err(RenewRefusal::Denied));
    let (other, agent) = (Plane::new(), agent);
    let agent = Holder { chain: certify(&other, &agent.key), key: agent.key };
    other.renew(&agent, &next).unwrap();
    other.tls.denied().ask(move |who| who.key == old);
    assert_eq!(other.renew(&agent, &next), Err(RenewRefusal::Denied));
}

fn certify(plane: &Plane, key: &KeyPair) -> Vec<CertificateDer<'static>> {
    let (authority, key) = (plane.tls.authority().unwrap(), super::super::testing::public(key));
    authority.for_agent(AGENT, &key, plane.tls.now(), HOUR).unwrap().chain
}

#[test]
fn a_retired_root_renews_nothing() {
    let plane = Plane::new();
    let (agent, next) = (plane.agent(HOUR * 2), KeyPair::generate().unwrap());
    let authority = plane.tls.authority().unwrap();
    authority.rotate(plane.tls.now()).unwrap();
    plane.tls.refresh().unwrap();
    plane.renew(&agent, &next).unwrap();
    plane.renew(&plane.agent(Duration::ZERO), &next).unwrap();
    authority.retire().unwrap();
    plane.tls.refresh().unwrap();
    assert_eq!(plane.renew(&agent, &next), Err(RenewRefusal::Certificate));
}
