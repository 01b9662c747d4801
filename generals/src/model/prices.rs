//! What models cost and how much they can read, from `models.json`.
//!
//! Prices are in the currency of the budgets (US dollars), for a million tokens; costs are in millionths of it, rounded up for each call.
//! A model is found by `provider:name`, then by `name`; a date or `-latest` at the end of a name is passed over. Models of Ollama and
//! commands run on machines of one's own, so they are found by `provider:name` only, and cost nothing otherwise.
//!
//! The table that comes with the program is unverified: nobody has held it against what providers ask. So a report says by which table it counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::hearing::Tokens;

/// The table that comes with the program.
const STOCK: &str = include_str!("../../models.json");
/// Prices above this are a slip of the pen.
const PRICE_MAX: f64 = 1_000_000.0;

/// How reports name the table that comes with the program.
pub const BUILT_IN: &str =
    concat!("the price list built into Mind OS ", env!("CARGO_PKG_VERSION"), ", which is unverified");
/// How they name that there is none.
pub const NO_PRICE: &str = "no price that is known here";

/// The table.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    rows: BTreeMap<String, Known>,
    /// How reports name the file that rows of one's own are from.
    own: Arc<str>,
}

/// What is known of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether it stands in a file of one's own.
    pub own: bool,
    /// Tokens that it can read and write together.
    pub context: Option<u64>,
    /// Unset where the table has none.
    pub price: Option<Price>,
}

/// Millionths of the currency unit for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    rates: Rates,
    /// From so many tokens of input on, all of the call costs this.
    long: Option<(u64, Rates)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    input: u64,
    cached: u64,
    stored: u64,
    output: u64,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    #[error(
        "expected {{\"models\": [{{\"name\", \"context\", \"input\", \"cached\", \"stored\", \"output\", \"long\"}}]}}: {0}"
    )]
    Json(#[from] serde_json::Error),
    #[error("price `{field}` of model `{name}`: expected 0 to 1000000 for a million tokens")]
    Price { name: String, field: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "about")]
    _about: String,
    models: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    context: Option<u64>,
    #[serde(default)]
    input: Option<f64>,
    #[serde(default)]
    cached: Option<f64>,
    #[serde(default)]
    stored: Option<f64>,
    #[serde(default)]
    output: Option<f64>,
    #[serde(default)]
    long: Option<Long>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    from: u64,
    input: f64,
    #[serde(default)]
    cached: Option<f64>,
    #[serde(default)]
    stored: Option<f64>,
    output: f64,
}

impl Prices {
    /// The table that comes with the program.
    #[must_use]
    pub fn stock() -> Prices {
        Prices::parse(STOCK).expect("a test reads it")
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &str) -> Result<Prices, PricesError> {
        let file: File = serde_json::from_str(text)?;
        let read = |row: Row| {
            let Row { name, context, input, cached, stored, output, long } = row;
            let price = match (input, output) {
                (None, None) => None,
                (input, output) => {
                    let rates = rates(&name, input.unwrap_or(0.0), cached, stored, output.unwrap_or(0.0))?;
                    let long = match long {
                        Some(Long { from, input, cached, stored, output }) => {
                            Some((from, self::rates(&name, input, cached, stored, output)?))
                        }
                        None => None,
                    };
                    Some(Price { rates, long })
                }
            };
            Ok((name, Known { own: false, context, price }))
        };
        let rows = file.models.into_iter().map(read).collect::<Result<_, PricesError>>()?;
        Ok(Prices { rows, own: Arc::from("") })
    }

    /// This table with the rows of a file of one's own in the place of those of the same name.
    ///
    /// # Errors
    /// When the file's text is no table.
    pub fn with(mut self, path: &Path, text: &str) -> Result<Prices, PricesError> {
        let own = Prices::parse(text)?.rows.into_iter().map(|(name, known)| (name, Known { own: true, ..known }));
        self.rows.extend(own);
        let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        let file: String = file.chars().filter(|letter| letter.is_ascii_graphic() && *letter != '`').take(64).collect();
        let digest: String = Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        self.own = format!("the price list `{file}` (SHA-256 {digest}..)").into();
        Ok(self)
    }

    /// How reports name the table that prices this model.
    #[must_use]
    pub fn name_of(&self, known: &Known) -> Arc<str> {
        match (known.price, known.own) {
            (None, _) => NO_PRICE.into(),
            (Some(_), true) => Arc::clone(&self.own),
            (Some(_), false) => BUILT_IN.into(),
        }
    }

    /// What is known of a model of a provider; `hosted` ones are found by their name alone.
    #[must_use]
    pub fn of(&self, provider: &str, name: &str, hosted: bool) -> Known {
        let bare = undated(name);
        let found =
            |name: &str| self.rows.get(&format!("{provider}:{name}")).or(self.rows.get(name).filter(|_| hosted));
        found(name).or_else(|| found(bare)).copied().unwrap_or_default()
    }
}

fn rates(name: &str, input: f64, cached: Option<f64>, stored: Option<f64>, output: f64) -> Result<Rates, PricesError> {
    let micros = |field: &'static str, price: f64| match (0.0..=PRICE_MAX).contains(&price) {
        true => Ok((price * 1_000_000.0).round() as u64),
        false => Err(PricesError::Price { name: name.to_owned(), field }),
    };
    Ok(Rates {
        input: micros("input", input)?,
        cached: micros("cached", cached.unwrap_or(input))?,
        stored: micros("stored", stored.unwrap_or(input))?,
        output: micros("output", output)?,
    })
}

/// A name without the date or the `latest` at its end, such as `-20250929`, `-2024-07-18`, `-latest` or `@20250929`.
fn undated(name: &str) -> &str {
    if let Some(bare) = name.strip_suffix("-latest") {
        return bare;
    }
    let bare = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
    let digits = name[bare.len()..].bytes().filter(u8::is_ascii_digit).count();
    // The date is the last eight digits; digits before it belong to the name.
    if digits < 8 {
        return name;
    }
    let (mut left, mut end) = (8, name.len());
    for (at, letter) in name.char_indices().rev() {
        if left == 0 {
            break;
        }
        left -= usize::from(letter.is_ascii_digit());
        end = at;
    }
    let before = &name[..end];
    before.strip_suffix(['-', '@']).unwrap_or(name)
}

impl Price {
    /// What a call costs, in millionths, rounded up.
    #[must_use]
    pub fn cost_micros(&self, tokens: &Tokens) -> u64 {
        let input = tokens.input.unwrap_or(0);
        let Rates { input: fresh, cached, stored, output } = match self.long {
            Some((from, rates)) if input >= from => rates,
            _ => self.rates,
        };
        let plain = input.saturating_sub(tokens.cached).saturating_sub(tokens.stored);
        let part = |tokens: u64, rate: u64| u128::from(tokens) * u128::from(rate);
        let sum = part(plain, fresh)
            + part(tokens.cached.min(input), cached)
            + part(tokens.stored.min(input), stored)
            + part(tokens.output.unwrap_or(0), output);
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, cached: u64, stored: u64, output: u64) -> Tokens {
        Tokens { input: Some(input), cached, stored, output: Some(output) }
    }

    #[test]
    fn models_are_found_by_name_with_and_without_a_date() {
        let stock = Prices::stock();
        let mini = stock.of("openai", "gpt-4o-mini", true);
        assert_eq!(mini.context, Some(128_000));
        assert_eq!(mini.price.unwrap().cost_micros(&tokens(1000, 400, 0, 100)), 90 + 30 + 60);
        assert_eq!(stock.of("openai", "gpt-4o-mini-2024-07-18", true), mini);
        let sonnet = stock.of("anthropic", "claude-sonnet-4-5", true);
        assert!(sonnet.price.is_some());
        assert_eq!(stock.of("anthropic", "claude-sonnet-4-5-20250929", true), sonnet);
        assert_eq!(stock.of("anthropic", "claude-sonnet-4-5@20250929", true), sonnet);
        assert_eq!(
            stock.of("openai", "gpt-4o-mini-audio", true),
            Known::default(),
            "another model is not taken for it"
        );
        assert_eq!(stock.of("ollama", "gpt-4o-mini", false), Known::default());
        for odd in ["", "-", "20250929", "ä20250929", "a-1", "-latest"] {
            assert_eq!(stock.of("openai", odd, true), Known::default(), "{odd}");
        }
    }

    #[test]
    fn costs_are_whole_millionths_rounded_up_and_long_prompts_have_their_own() {
        let table = Prices::parse(
            r#"{"models": [{"name": "ollama:q", "context": 32768},
                {"name": "m", "input": 3, "cached": 0.3, "stored": 3.75, "output": 15,
                 "long": {"from": 1000, "input": 6, "output": 22.5}}]}"#,
        )
        .unwrap();
        let price = table.of("x", "m", true).price.unwrap();
        assert_eq!(price.cost_micros(&tokens(1, 1, 0, 0)), 1, "0.3 is rounded up");
        assert_eq!(price.cost_micros(&tokens(999, 100, 200, 10)), (699 * 300 + 100 * 30 + 200 * 375 + 15_000) / 100);
        assert_eq!(price.cost_micros(&tokens(1000, 0, 0, 2)), 6045);
        assert_eq!(price.cost_micros(&tokens(u64::MAX, 0, 0, u64::MAX)), u64::MAX);
        assert_eq!(price.cost_micros(&Tokens::default()), 0);
        let local = table.of("ollama", "q", false);
        assert_eq!((local.context, local.price), (Some(32768), None));
    }

    #[test]
    fn a_table_of_ones_own_comes_first_and_is_checked() {
        let own = r#"{"models": [{"name": "gpt-4o-mini", "input": 1, "output": 1}]}"#;
        let both = Prices::stock().with(Path::new("/etc/prices.json"), own).unwrap();
        let named = |name: &str| both.name_of(&both.of("openai", name, true)).to_string();
        assert_eq!(named("gpt-4o-mini"), "the price list `prices.json` (SHA-256 8a625076c445..)");
        assert!(named("gpt-4o").contains("built into Mind OS") && named("gpt-4o").contains("unverified"));
        assert_eq!(named("nobody-knows"), NO_PRICE);
        assert_eq!(both.of("openai", "gpt-4o-mini", true).price.unwrap().cost_micros(&tokens(5, 0, 0, 5)), 10);
        let refused = |text: &str| Prices::parse(text).unwrap_err().to_string();
        assert!(refused(r#"{"models": [{"name": "m", "input": -1}]}"#).contains("`input` of model `m`"));
        assert!(refused(r#"{"models": [{"name": "m", "colour": 1}]}"#).contains("colour"));
        assert!(refused("[]").contains("expected {\"models\""));
    }
}
