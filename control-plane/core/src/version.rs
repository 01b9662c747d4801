//! Versions of agents, as far as routes and replays compare them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Up to three numbers, of which those left out are 0. What is marked as a preview stands before its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    numbers: [u32; 3],
    is_release: bool,
}

/// A text that is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not accepted: expected one to three numbers, such as 1.4 or 1.4.2")]
pub struct NotAVersion {
    text: String,
}

impl Version {
    /// Whether it is one that a route may ask for: previews differ in what no number says.
    #[must_use]
    pub fn is_release(self) -> bool {
        self.is_release
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Version, NotAVersion> {
        let wrong = || NotAVersion { text: text.chars().take(80).collect() };
        let (known, _) = text.split_once('+').unwrap_or((text, ""));
        let (known, preview) = known.split_once('-').map_or((known, false), |(known, _)| (known, true));
        let mut numbers = [0; 3];
        for (place, part) in known.split('.').enumerate() {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = Some(part).filter(|_| is_number).and_then(|part| part.parse().ok());
            *numbers.get_mut(place).ok_or_else(wrong)? = number.ok_or_else(wrong)?;
        }
        Ok(Version { numbers, is_release: !preview })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}{}", if self.is_release { "" } else { "-pre" })
    }
}

/// Whether a version is this one or a later one. Tells previews of one release apart, as semantic versioning does; a text that is no
/// version is neither.
pub(crate) fn is_at_least(version: &str, least: &str) -> bool {
    let (Ok(is), Ok(wanted)) = (version.parse::<Version>(), least.parse::<Version>()) else { return false };
    is.cmp(&wanted).then_with(|| by_parts(preview(version), preview(least))) != Ordering::Less
}

/// What stands behind the numbers.
fn preview(version: &str) -> &str {
    let (known, _) = version.split_once('+').unwrap_or((version, ""));
    known.split_once('-').map_or("", |(_, preview)| preview)
}

fn by_parts(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let (left, right) = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => (left, right),
        };
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            // A number comes before a word.
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => left.cmp(right),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let of = |text: &str| text.parse::<Version>().unwrap();
        assert!(of("1.10") > of("1.9.9") && of("2") > of("1.99.99") && of("1.2") == of("1.2.0"));
        assert!(of("1.2.0-rc.1") < of("1.2.0") && of("1.2.0-rc.1") > of("1.1.9") && of("1.2.0+build.5") == of("1.2.0"));
        assert_eq!(of("1.2").to_string(), "1.2.0");
        for text in ["", "v1", "1.", "1.2.3.4", "1.x", "-1", "99999999999", "1.+2"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn previews_of_one_release_are_told_apart() {
        let ordered =
            ["0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-rc.1", "1.0.0", "1.2", "1.10", "2"];
        for pair in ordered.windows(2) {
            assert!(is_at_least(pair[1], pair[0]) && !is_at_least(pair[0], pair[1]), "{pair:?}");
        }
        assert!(is_at_least("1.0", "1.0.0") && is_at_least("1.0.0", "1.0") && is_at_least("1.4.0+b2", "1.4"));
        assert!(!is_at_least("1.4.0+b2", "1.4.1") && !is_at_least("v1.4", "1.4") && !is_at_least("", "0"));
    }
}
