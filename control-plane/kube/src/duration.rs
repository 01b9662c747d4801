//! Spans of time as objects write them: `90s`, `1h30m`, `250ms`.

use std::time::Duration;

/// What a span looks like, as a pattern of a schema.
pub const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h|d))+$";

/// Why a text is not a span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a span of time: expected numbers with ms, s, m, h or d, such as 90s or 1h30m")]
pub struct DurationError {
    text: String,
}

/// The span that a text says.
///
/// # Errors
/// Says what is accepted.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError { text: text.escape_debug().take(64).collect() };
    let mut rest = text;
    let mut all = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=9).contains(&digits) {
            return Err(wrong());
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        // Nine digits of days are far below the bound.
        all += Duration::from_millis(number * millis);
        rest = tail;
    }
    Ok(all)
}

/// The span as a text that [`parse`] reads back, to the millisecond.
#[must_use]
pub fn format(span: Duration) -> String {
    use std::fmt::Write;
    let mut millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let number = millis / size;
        millis %= size;
        if number > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{number}{unit}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_back_as_written() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1h30m", 5_400_000),
            ("2d1ms", 172_800_001),
            ("30d", 30 * 86_400_000),
        ] {
            let span = Duration::from_millis(millis);
            assert_eq!(parse(text), Ok(span), "{text}");
            assert_eq!(format(span), text);
        }
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert!(parse("999999999d999999999d").is_ok());
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "5", "m", "5y", "5 m", "-5s", "1.5h", "5m5", "9999999999s", "5S"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
