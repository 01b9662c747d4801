//! What the settings file says of catching up.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::app_jwt::AppKey;
use crate::config::span;
use mindos_outgoing::Target;

/// Deliveries that GitHub still has.
const LOOK_BACK_MAX: Duration = Duration::from_secs(3 * 24 * 3600);

/// A GitHub App as the settings file names it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSetting {
    /// The App's id or client id.
    id: serde_json::Value,
    private_key_file: PathBuf,
    api: Option<String>,
    #[serde(default)]
    insecure: bool,
    every: Option<String>,
    look_back: Option<String>,
}

/// A GitHub App whose missed deliveries are asked for.
#[derive(Clone, Debug)]
pub struct App {
    pub id: String,
    pub key: AppKey,
    /// Where the API is: `https://api.github.com`, or `https://<host>/api/v3`.
    pub api: Target,
    /// The same as text, without a slash at its end.
    pub api_url: String,
    /// Between two looks.
    pub every: Duration,
    /// How far back the first look goes.
    pub look_back: Duration,
}

impl AppSetting {
    /// Checks the settings and reads the key.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn app(&self) -> Result<App, String> {
        let AppSetting { id, private_key_file, api, insecure, every, look_back } = self;
        let at = |field: &str, reason: String| format!("`github_app.{field}`: {reason}");
        let id = match id {
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::String(text) if !text.is_empty() && text.len() <= 64 => text.clone(),
            _ => return Err(at("id", "expected the App's id or client id".to_owned())),
        };
        let api_url = api.as_deref().unwrap_or("https://api.github.com").trim().trim_end_matches('/').to_owned();
        let api = Target::parse(&api_url, *insecure);
        let between = |field: &str, text: &Option<String>, unset: Duration, min: Duration| {
            let read = text.as_deref().map_or(Ok(unset), span).map_err(|error| at(field, error))?;
            if (min..=LOOK_BACK_MAX).contains(&read) {
                return Ok(read);
            }
            Err(at(field, format!("expected {} s to 3d", min.as_secs())))
        };
        Ok(App {
            id,
            key: AppKey::read(private_key_file).map_err(|error| at("private_key_file", error.to_string()))?,
            api: api.map_err(|error| at("api", error.to_string()))?,
            api_url,
            every: between("every", every, Duration::from_secs(300), Duration::from_secs(1))?,
            look_back: between("look_back", look_back, LOOK_BACK_MAX, Duration::from_secs(60))?,
        })
    }
}
