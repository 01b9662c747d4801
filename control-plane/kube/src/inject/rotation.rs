//! How the injector's certificate is replaced without an admission that fails.
//!
//! ```text
//!              a third of its life is left          the API servers know the next root, and some time went by
//!   Steady ---------------------------> Announced ------------------------------------------------------> Switched
//!     ^        next pair is made           both roots are published             the next is the current one  |
//!     +------------------------------------------------------------------------------------------------------+
//!                                   some time later the former root is published no more
//! ```
//! All of it is one Secret, which replicas replace only as they have read it; so whoever is first takes the step, and all others find it taken.
//! Invariant: what is served was signed by a root that had been published before, but for the very first and where the last one had ended.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use super::certificate::{CertificateError, Pair};

/// Longest wait between steps: API servers hear of a new root within seconds, and other replicas look more often than this.
const SETTLE_MAX: u64 = 600;
const SETTLE_MIN: u64 = 2;
/// Says in the Secret's annotations since when it is as it is, in seconds since the epoch.
pub(super) const SINCE: &str = "mindos.io/since";

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) current: Pair,
    pub(super) next: Option<Pair>,
    /// The root before, still published.
    pub(super) former: Option<String>,
    /// Since when it is like this, in seconds since the epoch.
    pub(super) since: u64,
}

/// What certificates are made by.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// In order.
    pub(super) names: Vec<String>,
    /// In seconds.
    pub(super) life: u64,
}

impl Policy {
    /// How long each step is left to settle, in seconds.
    pub(super) fn settle(&self) -> u64 {
        (self.life / 12).clamp(SETTLE_MIN, SETTLE_MAX)
    }
}

impl Material {
    /// Roots to publish, in PEM.
    pub(super) fn bundle(&self) -> String {
        let Material { current, next, former, since: _ } = self;
        let roots = std::iter::once(&current.root).chain(next.iter().map(|next| &next.root)).chain(former);
        let mut bundle = String::new();
        for root in roots {
            bundle.push_str(root.trim_end());
            bundle.push('\n');
        }
        bundle
    }

    /// As the Secret has it.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let Material { current, next, former, since: _ } = self;
        let mut data = BTreeMap::new();
        let mut put = |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        put("ca.crt", &self.bundle());
        put("tls.crt", &current.chain);
        put("tls.key", &current.key);
        put("root.crt", &current.root);
        if let Some(next) = next {
            put("next.crt", &next.chain);
            put("next.key", &next.key);
            put("next-root.crt", &next.root);
        }
        if let Some(former) = former {
            put("former-root.crt", former);
        }
        data
    }

    /// From what the Secret has. A next pair that is damaged is as good as none.
    pub(super) fn read(data: &BTreeMap<String, ByteString>, since: u64) -> Result<Material, CertificateError> {
        let text = |key: &str| {
            let ByteString(bytes) = data.get(key)?;
            String::from_utf8(bytes.clone()).ok()
        };
        let pair = |root: &str, chain: &str, key: &str| {
            let missing = |name: &str| CertificateError::Read(format!("there is no `{name}`"));
            let found = |name: &str| text(name).ok_or_else(|| missing(name));
            Pair::read(found(root)?, found(chain)?, found(key)?)
        };
        let current = pair("root.crt", "tls.crt", "tls.key")?;
        let next = pair("next-root.crt", "next.crt", "next.key").ok();
        Ok(Material { current, next, former: text("former-root.crt"), since })
    }

    /// Whether API servers that believe these roots believe the next certificate.
    fn next_is_among(&self, published: &str) -> bool {
        self.next.as_ref().is_some_and(|next| published.contains(next.root.trim_end()))
    }
}

/// The next step that is due, if one is. `published` are the roots that the webhook configuration was seen with.
pub(super) fn step(
    held: Option<&Material>,
    published: &str,
    now: u64,
    policy: &Policy,
    make: impl FnOnce() -> Result<Pair, CertificateError>,
) -> Result<Option<Material>, CertificateError> {
    let Some(held) = held else {
        return Ok(Some(Material { current: make()?, next: None, former: None, since: now }));
    };
    let Material { current, next, former, since } = held;
    let settled = now >= since.saturating_add(policy.settle());
    if current.not_after <= now.saturating_add(policy.settle()) {
        // Nobody believes it any more, or will not soon: the next one at once.
        let current = match next {
            Some(next) if next.not_after > now.saturating_add(policy.life / 3) => next.clone(),
            _ => make()?,
        };
        let former = Some(held.current.root.clone());
        return Ok(Some(Material { current, next: None, former, since: now }));
    }
    if let Some(next) = next {
        let switched = Material { current: next.clone(), next: None, former: Some(current.root.clone()), since: now };
        return Ok((settled && held.next_is_among(published)).then_some(switched));
    }
    if former.is_some() {
        return Ok(settled.then(|| Material { former: None, since: now, ..held.clone() }));
    }
    let is_due = current.not_after <= now.saturating_add(policy.life / 3) || current.names != policy.names;
    Ok(if is_due { Some(Material { next: Some(make()?), since: now, ..held.clone() }) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: u64 = 12_000;

    fn policy() -> Policy {
        Policy { names: vec!["a".to_owned()], life: LIFE }
    }

    fn pair(number: u64, now: u64) -> Pair {
        let text = |what: &str| format!("{what} {number}\n");
        Pair {
            root: text("root"),
            chain: text("chain"),
            key: text("key"),
            not_after: now + LIFE,
            names: vec!["a".to_owned()],
        }
    }

    #[test]
    fn a_certificate_is_replaced_only_by_one_whose_root_had_been_published() {
        let (mut held, mut published, mut made) = (None::<Material>, String::new(), 0);
        let (mut switches, mut served) = (0, String::new());
        for now in (0..20 * LIFE).step_by(100) {
            let next = step(held.as_ref(), &published, now, &policy(), || {
                made += 1;
                Ok(pair(made, now))
            });
            if let Some(next) = next.unwrap() {
                if let Some(held) = &held
                    && next.current.chain != served
                {
                    switches += 1;
                    assert!(published.contains(next.current.root.trim_end()), "{now}: {published}");
                    assert!(next.bundle().contains(&held.current.root), "{now}: the former root is published on");
                }
                served.clone_from(&next.current.chain);
                held = Some(next);
            }
            let held = held.as_ref().unwrap();
            assert!(held.current.not_after > now, "{now}");
            // Published after every other turn alone: some are missed.
            if now % 200 == 0 {
                published = held.bundle();
            }
        }
        // Each lives two thirds of its life and what it takes to settle.
        assert!((25..=30).contains(&switches), "{switches}");
        assert_eq!(made, switches + 1 + u64::from(held.unwrap().next.is_some()));
    }

    #[test]
    fn nothing_is_switched_while_the_next_root_is_not_published() {
        let held = Material { current: pair(1, 0), next: Some(pair(2, 0)), former: None, since: 0 };
        assert_eq!(step(Some(&held), "root 1\n", LIFE / 2, &policy(), || panic!("none is made")).unwrap(), None);
        // Until it ends.
        let after = step(Some(&held), "root 1\n", LIFE + 1, &policy(), || Ok(pair(3, LIFE))).unwrap().unwrap();
        assert_eq!((after.current.chain.as_str(), after.next), ("chain 3\n", None));
    }

    #[test]
    fn other_names_are_a_reason_to_rotate() {
        let held = Material { current: pair(1, 0), next: None, former: None, since: 0 };
        let policy = Policy { names: vec!["b".to_owned()], ..policy() };
        assert!(step(Some(&held), "", 1, &policy, || Ok(pair(2, 0))).unwrap().unwrap().next.is_some());
    }

    #[test]
    fn a_secret_reads_back() {
        let made = |life| Pair::make(&["a".to_owned()], 1_795_176_000, life).unwrap();
        let former = Some(made(5).root);
        let material = Material { current: made(60), next: Some(made(90)), former, since: 7 };
        let mut data = material.data();
        assert_eq!(Material::read(&data, 7).unwrap(), material);
        assert_eq!(String::from_utf8(data["ca.crt"].0.clone()).unwrap().matches("BEGIN CERTIFICATE").count(), 3);
        data.remove("next.key");
        assert_eq!(Material::read(&data, 7).unwrap().next, None);
        data.remove("tls.key");
        assert!(Material::read(&data, 7).unwrap_err().to_string().contains("tls.key"));
    }
}
