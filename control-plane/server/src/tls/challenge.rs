//! Challenges: something fresh to sign, of which nothing is kept.
//!
//! ```text
//!   8 bytes  when it was made, in milliseconds since the epoch, by the plane's clock
//!  16 bytes  chance
//!  32 bytes  HMAC-SHA256 of both, under a key that the process made for itself
//! ```
//! Invariant: what passes was made by this process within [`CHALLENGE_LIFE`].

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use mindos_model::Timestamp;
use sha2::Sha256;

/// How long a challenge is good.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(60);
const SIGNED: usize = 24;
/// Bytes of a challenge.
pub const CHALLENGE_LEN: usize = SIGNED + 32;

/// Makes challenges, and knows its own.
pub struct Challenges {
    key: [u8; 32],
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenges")
    }
}

impl Challenges {
    /// With a key of its own.
    ///
    /// # Errors
    /// When the system has no chance to give.
    pub fn new() -> Result<Challenges, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Challenges { key })
    }

    /// A challenge.
    ///
    /// # Errors
    /// When the system has no chance to give.
    pub fn make(&self, now: Timestamp) -> Result<Vec<u8>, getrandom::Error> {
        let mut challenge = now.0.to_be_bytes().to_vec();
        challenge.resize(SIGNED, 0);
        getrandom::fill(&mut challenge[8..])?;
        let code = self.mac(&challenge).finalize().into_bytes();
        challenge.extend_from_slice(&code);
        Ok(challenge)
    }

    /// Whether it is one of ours and still good.
    #[must_use]
    pub fn holds(&self, challenge: &[u8], now: Timestamp) -> bool {
        if challenge.len() != CHALLENGE_LEN {
            return false;
        }
        let (signed, code) = challenge.split_at(SIGNED);
        let made = signed.first_chunk().map_or(Timestamp(0), |bytes| Timestamp(u64::from_be_bytes(*bytes)));
        self.mac(signed).verify_slice(code).is_ok() && now.since(made) <= CHALLENGE_LIFE
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(signed);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    #[test]
    fn a_challenge_is_good_for_a_minute_and_for_its_maker() {
        let (one, other) = (Challenges::new().unwrap(), Challenges::new().unwrap());
        let made = one.make(NOW).unwrap();
        assert!(one.holds(&made, NOW) && one.holds(&made, NOW + CHALLENGE_LIFE));
        assert!(!one.holds(&made, NOW + CHALLENGE_LIFE + Duration::from_millis(1)));
        assert!(!other.holds(&made, NOW));
        assert_ne!(made, one.make(NOW).unwrap());
        for at in 0..made.len() {
            let mut bad = made.clone();
            bad[at] ^= 1;
            assert!(!one.holds(&bad, NOW) && !one.holds(&made[..at], NOW), "{at}");
        }
        assert!(!one.holds(&[&made[..], &[0]].concat(), NOW));
    }
}
