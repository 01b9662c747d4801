//! Identifiers that the plane gives out.

use std::fmt;
use std::str::FromStr;

/// Position of a record in the journal, from 1. Zero stands for "before the first record".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The position right after this one. Nothing comes after the last one there is, which only a caller can name.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one delivery for its whole life: the event's record and the delivery's place in it, from 1. Written `d42.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// Sequence of the record that accepted the event.
    pub event: Seq,
    /// Which of the event's deliveries, from 1.
    pub ordinal: u32,
}

impl DeliveryId {
    /// The delivery `ordinal` (from 1) of the event accepted at `event`.
    #[must_use]
    pub fn new(event: Seq, ordinal: u32) -> DeliveryId {
        DeliveryId { event, ordinal }
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}.{}", self.event.0, self.ordinal)
    }
}

/// Fencing token of a lease: the plane's epoch, then the lease's number within its delivery. Written `1.3`.
///
/// Tokens of one delivery only grow, across restarts and restores too, because every start raises the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Grows with every start and every restore of the plane, from 1.
    pub epoch: u32,
    /// Grows with every lease of the delivery, from 1.
    pub term: u32,
}

impl Token {
    /// The token of lease number `term` given out in `epoch`.
    #[must_use]
    pub fn new(epoch: u32, term: u32) -> Token {
        Token { epoch, term }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.term)
    }
}

/// Names one effect for its whole life: the sequence of the record that intended it. Written `e42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub Seq);

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A text that is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

impl ParseIdError {
    pub(crate) fn unknown(kind: &'static str, expected: &'static str, text: &str) -> ParseIdError {
        ParseIdError { kind, expected, text: text.chars().take(64).collect() }
    }
}

impl FromStr for DeliveryId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<DeliveryId, ParseIdError> {
        let parse = || {
            let (event, ordinal) = text.strip_prefix('d')?.split_once('.')?;
            let id = DeliveryId { event: Seq(decimal(event)?), ordinal: u32::try_from(decimal(ordinal)?).ok()? };
            (id.event.0 > 0 && id.ordinal > 0).then_some(id)
        };
        parse().ok_or_else(|| ParseIdError::unknown("delivery id", "`d<event>.<ordinal>`, such as `d42.1`", text))
    }
}

impl FromStr for EffectId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<EffectId, ParseIdError> {
        let number = text.strip_prefix('e').and_then(decimal).filter(|number| *number > 0);
        let number = number.ok_or_else(|| ParseIdError::unknown("effect id", "`e<record>`, such as `e42`", text))?;
        Ok(EffectId(Seq(number)))
    }
}

impl FromStr for Token {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Token, ParseIdError> {
        let parse = || {
            let (epoch, term) = text.split_once('.')?;
            Some(Token { epoch: u32::try_from(decimal(epoch)?).ok()?, term: u32::try_from(decimal(term)?).ok()? })
        };
        parse().ok_or_else(|| ParseIdError::unknown("token", "`<epoch>.<term>`, such as `1.3`", text))
    }
}

/// Digits only, no sign and no leading zero, so that each id has one spelling.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_as_written() {
        let id = DeliveryId::new(Seq(42), 1);
        assert_eq!(id.to_string().parse(), Ok(id));
        let token = Token::new(3, 7);
        assert_eq!(token.to_string().parse(), Ok(token));
        let effect = EffectId(Seq(42));
        assert_eq!(effect.to_string(), "e42");
        assert_eq!(effect.to_string().parse(), Ok(effect));
    }

    #[test]
    fn an_id_has_one_spelling() {
        for text in ["", "d", "d1", "1.1", "d0.1", "d1.0", "d01.1", "d+1.1", "d1.1 ", "d1.99999999999"] {
            assert!(text.parse::<DeliveryId>().is_err(), "{text}");
        }
        for text in ["", "1", "1.", ".1", "01.1", "1.1.1", "-1.1"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
        for text in ["", "e", "42", "e0", "e042", "e+1", "E42", "e42 ", "e1.1"] {
            assert!(text.parse::<EffectId>().is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_order_by_epoch_first() {
        assert!(Token::new(2, 1) > Token::new(1, 9));
        assert!(Token::new(1, 2) > Token::new(1, 1));
    }
}
