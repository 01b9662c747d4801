//! How a value looks: random, or like words, names, numbers.

/// Bits a letter, after Shannon.
pub(super) fn entropy(value: &str) -> f64 {
    let mut counts = [0u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = value.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total).map(|share| -share * share.log2()).sum()
}

pub(super) fn is_uuid(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Lower,
    Upper,
    Digit,
    Sign,
}

fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' => Class::Lower,
        b'A'..=b'Z' => Class::Upper,
        b'0'..=b'9' => Class::Digit,
        _ => Class::Sign,
    }
}

/// Whether a value looks as if chance had made it: letters of several classes, often in turn. A password may be shorter and
/// less mixed.
pub(super) fn looks_random(value: &str, length_min: usize, password: bool) -> bool {
    if value.len() < length_min {
        return false;
    }
    let classes: Vec<Class> = value.bytes().map(class).collect();
    let has = |one: Class| classes.contains(&one);
    let kinds = [Class::Lower, Class::Upper, Class::Digit, Class::Sign].into_iter().filter(|one| has(*one)).count();
    let turns = classes.windows(2).filter(|two| two[0] != two[1] && two[0] != Class::Sign && two[1] != Class::Sign).count();
    // A capital that begins a word is no turn of chance.
    let words = classes.windows(3).filter(|three| three == &[Class::Lower, Class::Upper, Class::Lower]).count();
    let digits = classes.iter().filter(|one| **one == Class::Digit).count();
    let signs = classes.iter().filter(|one| **one == Class::Sign).count();
    if password {
        let letters = has(Class::Lower) || has(Class::Upper);
        return kinds >= 3 && letters && digits >= 1 && turns + signs >= 2 && entropy(value) >= 2.75 && signs * 2 < value.len();
    }
    let letters = value.len() - digits - signs;
    letters >= 4
        && digits >= 2
        && signs * 4 <= value.len()
        && turns.saturating_sub(words) * 6 >= value.len()
        && entropy(value) >= 3.0
        && longest_word(value) <= 9
}

/// The longest run of small letters with a vowel pattern of words: chance seldom makes one of ten.
fn longest_word(value: &str) -> usize {
    value.split(|letter: char| !letter.is_ascii_lowercase()).map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_told_apart() {
        for value in ["aB3dE5gH7jK9mN1pQ3", "9f86d081884c7d659a2feaa0c55ad015", "x7-Kq2_Pz9.Lm4wRt8"] {
            assert!(looks_random(value, 16, false), "{value}");
        }
        for value in ["OAuthTokenProvider", "kube-system-namespace-2024", "internationalization2", "1234567890123456", "aaaaaaaaaaaaaaaaaaaa"] {
            assert!(!looks_random(value, 16, false), "{value}");
        }
        assert!(looks_random("Tr0ub4dor&3", 8, true) && !looks_random("correcthorse", 8, true) && !looks_random("aA1!", 8, true));
        assert!(is_uuid("3f2b8c1e-9d4a-4e6b-8f70-1a2b3c4d5e6f") && !is_uuid("3f2b8c1e"));
        assert!((entropy("abcd") - 2.0).abs() < 1e-9 && entropy("") == 0.0);
    }
}
