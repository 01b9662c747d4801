//! What models cost: configuration of the shell, so that the core reads amounts of money and never a price.
//!
//! A cost that an agent reports itself stays; tokens without one are priced on their way in, and the journal has the result.

use std::collections::BTreeMap;

use mindos_core::input::{AgentMessage, Input};
use mindos_core::record::Usage;
use serde::Deserialize;

/// Models that may have a price.
const MODELS_MAX: usize = 1000;
/// Tokens that a price is for.
const TOKENS: f64 = 1e6;
const MICROS: f64 = 1e6;
/// Highest price of a million tokens, so that no sum runs over.
const PRICE_MAX: f64 = 1e6;

/// Prices by model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Prices(BTreeMap<String, Price>);

/// What a million tokens of a model cost, in the currency unit.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

impl Prices {
    /// Checks what the file says.
    ///
    /// # Errors
    /// Names the model and what is accepted.
    pub fn check(&self) -> Result<(), String> {
        if self.0.len() > MODELS_MAX {
            return Err(format!("`prices` names {} models: expected at most {MODELS_MAX}", self.0.len()));
        }
        let is_price = |price: f64| (0.0..=PRICE_MAX).contains(&price);
        match self.0.iter().find(|(_, price)| !is_price(price.input) || !is_price(price.output)) {
            Some((model, _)) => Err(format!("`prices.{model}`: expected 0 to {PRICE_MAX} for a million tokens")),
            None => Ok(()),
        }
    }

    /// Puts a cost on usage that comes without one.
    pub fn price(&self, inputs: &mut [Input]) {
        if self.0.is_empty() {
            return;
        }
        for input in inputs {
            let Input::Agent { session: _, message } = input else { continue };
            let usage = match message {
                AgentMessage::Result(report) => &mut report.usage,
                AgentMessage::Extend(extend) => &mut extend.usage,
                _ => continue,
            };
            for used in usage.iter_mut().filter(|used| used.cost_micros == 0) {
                used.cost_micros = self.cost(used);
            }
        }
    }

    fn cost(&self, used: &Usage) -> u64 {
        let Some(Price { input, output }) = self.0.get(&*used.model) else { return 0 };
        let price = |tokens: u64, price: f64| tokens as f64 / TOKENS * price * MICROS;
        // Rounded up: what was used is never free.
        (price(used.input_tokens, *input) + price(used.output_tokens, *output)).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn tokens_without_a_cost_are_priced() {
        let prices: Prices = serde_norway::from_str("gpt-4o-mini: {input: 0.15, output: 0.6}").unwrap();
        prices.check().unwrap();
        let used = |model: &str, input_tokens, output_tokens| Usage {
            model: Arc::from(model),
            input_tokens,
            output_tokens,
            cost_micros: 0,
        };
        assert_eq!(prices.cost(&used("gpt-4o-mini", 2_000_000, 500_000)), 600_000);
        assert_eq!(prices.cost(&used("gpt-4o-mini", 1, 0)), 1);
        assert_eq!(prices.cost(&used("other", 1_000_000, 1)), 0);
    }

    #[test]
    fn a_price_is_neither_negative_nor_beyond_all_bounds() {
        for text in ["m: {input: -1, output: 0}", "m: {input: 1, output: 1e9}", "m: {input: .nan, output: 1}"] {
            let prices: Prices = serde_norway::from_str(text).unwrap();
            assert!(prices.check().unwrap_err().contains("prices.m"), "{text}");
        }
    }
}
