//! ISBNs of 10 or 13 digits, with their check digit.

use std::fmt;

/// A valid ISBN, without dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isbn(String);

/// Why a text is no ISBN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsbnError {
    Length(usize),
    Digit(char),
    Check,
}

impl Isbn {
    /// Reads an ISBN; dashes and blanks are ignored.
    pub fn parse(text: &str) -> Result<Isbn, IsbnError> {
        let digits: String = text.chars().filter(|c| *c != '-' && !c.is_whitespace()).collect();
        let last = digits.len().saturating_sub(1);
        let mut values = Vec::new();
        for (at, c) in digits.chars().enumerate() {
            match c.to_digit(10) {
                Some(value) => values.push(value),
                None if (c == 'X' || c == 'x') && at == last && digits.len() == 10 => values.push(10),
                None => return Err(IsbnError::Digit(c)),
            }
        }
        let good = match values.len() {
            10 => values.iter().enumerate().map(|(at, v)| (10 - at as u32) * v).sum::<u32>() % 11 == 0,
            13 => values.iter().enumerate().map(|(at, v)| if at % 2 == 0 { *v } else { 3 * v }).sum::<u32>() % 10 == 0,
            other => return Err(IsbnError::Length(other)),
        };
        if good { Ok(Isbn(digits.to_uppercase())) } else { Err(IsbnError::Check) }
    }
}

impl fmt::Display for Isbn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones_are_taken_and_wrong_ones_say_why() {
        assert_eq!(Isbn::parse("0-306-40615-2").unwrap().to_string(), "0306406152");
        assert!(Isbn::parse("978-0-306-40615-7").is_ok());
        assert_eq!(Isbn::parse("978-0-306-40615-8"), Err(IsbnError::Check));
        assert_eq!(Isbn::parse("123"), Err(IsbnError::Length(3)));
        assert_eq!(Isbn::parse("03064o6152"), Err(IsbnError::Digit('o')));
    }
}
