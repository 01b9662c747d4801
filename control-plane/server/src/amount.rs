//! Amounts as people write them: money to the millionth, and what is to be set aside for work before it is known.

use mindos_core::budget::Amount;

use crate::config::span;

/// Parts of an amount, those that are left out unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub micros: Option<u64>,
    pub tokens: Option<u64>,
    pub time_ms: Option<u64>,
}

impl Parts {
    /// The amount, with the parts of `default` where they are left out.
    #[must_use]
    pub fn or(self, default: Amount) -> Amount {
        let Parts { micros, tokens, time_ms } = self;
        Amount {
            micros: micros.unwrap_or(default.micros),
            tokens: tokens.unwrap_or(default.tokens),
            time_ms: time_ms.unwrap_or(default.time_ms),
        }
    }
}

/// Reads the parts of an amount, such as `cost=0.05,tokens=20000,time=60s`; at least one of them.
///
/// # Errors
/// Says what is accepted.
pub fn parts(text: &str) -> Result<Parts, String> {
    let expected =
        || "expected one or more of cost=AMOUNT, tokens=COUNT and time=SPAN, each once, with commas".to_owned();
    let mut parts = Parts::default();
    for part in text.split(',') {
        let (name, value) = part.trim().split_once('=').ok_or_else(expected)?;
        let (place, amount) = match name {
            "cost" => (&mut parts.micros, money(value)?),
            "tokens" => {
                (&mut parts.tokens, value.parse().map_err(|_| format!("tokens: expected a number: `{value}`"))?)
            }
            "time" => {
                let millis = u64::try_from(span(value)?.as_millis()).map_err(|_| "time: is too long".to_owned())?;
                (&mut parts.time_ms, millis)
            }
            _ => return Err(expected()),
        };
        if place.replace(amount).is_some() {
            return Err(expected());
        }
    }
    Ok(parts)
}

/// Reads an amount of money, such as `25` or `0.50`, as millionths.
///
/// # Errors
/// Says what is accepted.
pub fn money(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not an amount: expected a number with at most six decimals, such as `0.50`");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 6 || !is_number(whole) || !is_number(part) {
        return Err(bad());
    }
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| bad())?;
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    whole.checked_mul(1_000_000).and_then(|whole| whole.checked_add(part)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_what_is_left_out_stays_as_it_was() {
        let default = Amount { micros: 1, tokens: 2, time_ms: 3 };
        let read = |text: &str| parts(text).map(|parts| parts.or(default));
        assert_eq!(read("cost=0.05"), Ok(Amount { micros: 50_000, ..default }));
        let all = Amount { micros: 2_000_000, tokens: 7, time_ms: 90_000 };
        assert_eq!(read("time=90s, tokens=7,cost=2"), Ok(all));
        for bad in ["", "0.05", "cost", "cost=", "cost=-1", "cost=1,cost=2", "tokens=x", "time=9", "price=1", "cost=1,"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
