//! What the settings file says of traces.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use mindos_outgoing::Target;

/// Where spans go, as the settings file names it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpSetting {
    endpoint: String,
    #[serde(default)]
    insecure: bool,
    sample: Option<f64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Where spans go.
#[derive(Clone, PartialEq)]
pub struct Otlp {
    /// `/v1/traces` at the endpoint.
    pub target: Target,
    /// The share of the traces beginning here that is exported, 0 to 1.
    pub sample: f64,
    pub headers: HeaderMap,
}

impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Otlp").field("target", &self.target).field("sample", &self.sample).finish_non_exhaustive()
    }
}

impl OtlpSetting {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn otlp(&self) -> Result<Otlp, String> {
        let OtlpSetting { endpoint, insecure, sample, headers } = self;
        let target = Target::parse(endpoint, *insecure).and_then(|target| target.join("/v1/traces"));
        let target = target.map_err(|error| format!("`otlp.endpoint`: {error}"))?;
        let sample = sample.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&sample) {
            return Err("`otlp.sample`: expected 0 to 1".to_owned());
        }
        let header = |(name, value): (&String, &String)| {
            let bad = || format!("`otlp.headers`: `{name}` is not a header, or its value is not one");
            let mut held = HeaderValue::from_str(value).map_err(|_| bad())?;
            held.set_sensitive(true);
            Ok((name.parse::<HeaderName>().map_err(|_| bad())?, held))
        };
        Ok(Otlp { target, sample, headers: headers.iter().map(header).collect::<Result<_, String>>()? })
    }
}
