//! Which models are asked: options and environment, checked into typed values before anything starts.
//!
//! | environment | says |
//! |---|---|
//! | `OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, `GEMINI_API_KEY` | the key of that provider; `..._FILE` names a file that holds it |
//! | `OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`, `GEMINI_BASE_URL`, `OLLAMA_BASE_URL` | where it is |
//! | `LLM_PROVIDER`, `LLM_MODEL` | provider and model, where no `--model` is given |
//! | `LLM_API_KEY` | the key of `LLM_PROVIDER`, where it has none of its own |
//! | `MODEL_NAME` | the model, where `LLM_MODEL` is not set |
//!
//! Without `--model` and `LLM_PROVIDER` the provider is the one that a key is there for (OpenAI, Anthropic, Gemini, in this order), else
//! Ollama where its address or a model is named. None of it set means that no model is asked. Keys come from the environment and from files only:
//! arguments of a process are seen by all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mindos_outgoing::{Target, TargetError};
use mindos_sdk::model::Secret;

use super::dialect::Dialect;
use super::prices::{Known, Prices, PricesError};

/// Models that one general may have.
const MODELS_MAX: usize = 32;
/// Bytes of a file with prices.
const PRICES_MAX: u64 = 1 << 20;
/// What the coding agent of old told Ollama where nobody gave it a key.
const OLLAMA_KEY: &str = "ollama";

/// What a general is told of its models at its start.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Models")]
pub struct ModelOptions {
    /// A model as PROVIDER:NAME, asked in the order given when those before fail; may be given several times, in the variable one on
    /// each line. Providers: openai (and what speaks like it), anthropic, ollama, gemini, command. Behind the name may stand
    /// `,url=URL`, `,key-env=VARIABLE`, `,context=TOKENS`, `,concurrency=N`. A command is a program with its arguments, split at spaces; it gets
    /// the prompt on standard input, or as a file where an argument is {prompt_file} [default: what the environment says, else none]
    #[arg(long = "model", env = "MINDOS_MODELS", value_name = "PROVIDER:NAME", value_delimiter = '\n', num_args = 1)]
    pub models: Vec<String>,

    /// Questions to one model at the same time, 1 to 1000; more wait
    #[arg(long, env = "MINDOS_MODEL_CONCURRENCY", value_name = "N", default_value_t = 8)]
    pub model_concurrency: u32,

    /// Seconds to wait for a model to begin its answer, and for each next piece of it; also how long a command may take, 1 to 3600
    #[arg(long, env = "MINDOS_MODEL_TIMEOUT", value_name = "SECONDS", default_value_t = 300)]
    pub model_timeout: u32,

    /// Prices and context windows of your own (JSON as in generals/models.json), before those that are built in. The built-in prices are
    /// unverified: nobody has held them against what providers ask. Reports say by which list a cost was counted
    #[arg(long, env = "MINDOS_MODEL_PRICES", value_name = "FILE")]
    pub model_prices: Option<PathBuf>,

    /// Take http for providers on other machines also where a key is sent: everything goes in the clear
    #[arg(long, env = "MINDOS_MODEL_INSECURE")]
    pub model_insecure: bool,

    /// Variable of the environment that a command gets besides those it needs; may be given several times
    #[arg(long = "model-command-env", env = "MINDOS_MODEL_COMMAND_ENV", value_name = "NAME", value_delimiter = ',')]
    pub model_command_env: Vec<String>,
}

/// Which models are asked, in their order.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    pub models: Vec<ModelSetting>,
    pub timeout: Duration,
}

/// One model.
#[derive(Clone)]
pub struct ModelSetting {
    /// Its name at the provider; of a command the program.
    pub name: String,
    pub reached: Reached,
    pub known: Known,
    /// How reports name the list that prices it.
    pub prices: Arc<str>,
    pub concurrency: usize,
}

impl fmt::Debug for ModelSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.label())
    }
}

/// How a model is reached.
#[derive(Clone)]
pub enum Reached {
    Http {
        dialect: Dialect,
        base: Target,
        key: Option<Secret>,
    },
    /// Program, arguments and environment.
    Command {
        program: String,
        arguments: Vec<String>,
        environment: BTreeMap<String, Secret>,
    },
}

/// Why a setting is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ModelSettingsError {
    #[error(
        "--model `{0}`: expected PROVIDER:NAME with openai, anthropic, ollama, gemini or command, such as openai:gpt-4o-mini"
    )]
    Model(String),
    #[error("--model `{model}`: `{item}` is not known: expected url=, key-env=, context= or concurrency=")]
    Item { model: String, item: String },
    #[error("--model `{model}`: context={value}: expected a number of tokens from 1 on")]
    Context { model: String, value: String },
    #[error("{place}: expected a number from 1 to 1000")]
    Concurrency { place: String },
    #[error("--model is given {0} times: expected at most {MODELS_MAX}")]
    TooMany(usize),
    #[error("LLM_PROVIDER `{0}`: expected openai, anthropic, ollama, gemini or command")]
    Provider(String),
    #[error("LLM_MODEL: expected a model, as LLM_PROVIDER is `{0}`")]
    NoModel(&'static str),
    #[error("address of {provider}: {source}; set --model-insecure to take http where a key is sent")]
    Insecure { provider: &'static str, source: TargetError },
    #[error("address of {provider}: {source}")]
    Address { provider: &'static str, source: TargetError },
    #[error("key of {provider}: {variable} is not set")]
    NoKey { provider: &'static str, variable: String },
    #[error("key of {provider}: holds a letter that no key has")]
    Key { provider: &'static str },
    #[error("{variable}_FILE: {path}: {error}")]
    KeyFile { variable: String, path: String, error: std::io::Error },
    #[error("--model-timeout: expected a number of seconds from 1 to 3600")]
    Timeout,
    #[error("--model-prices {path}: {error}")]
    ReadPrices { path: String, error: std::io::Error },
    #[error("--model-prices {path}: {error}")]
    Prices { path: String, error: PricesError },
}

/// How the environment is read; the process's own is [`environment`].
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of this process, where it is set to something.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl ModelSettings {
    /// No model.
    #[must_use]
    pub fn none() -> ModelSettings {
        ModelSettings { models: Vec::new(), timeout: Duration::from_secs(300) }
    }

    /// Reads options and environment.
    ///
    /// # Errors
    /// Names the option or variable and what it accepts; never shows a key or an address.
    pub fn read(options: &ModelOptions, variable: Lookup<'_>) -> Result<ModelSettings, ModelSettingsError> {
        let ModelOptions { models, model_concurrency, model_timeout, model_prices, model_insecure, model_command_env } =
            options;
        if !(1..=3600).contains(model_timeout) {
            return Err(ModelSettingsError::Timeout);
        }
        let concurrency = concurrency(&model_concurrency.to_string(), "--model-concurrency")?;
        let mut prices = Prices::stock();
        if let Some(file) = model_prices {
            prices = with_own(prices, file)?;
        }
        let mut texts: Vec<String> =
            models.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            texts.extend(from_environment(variable)?);
        }
        if texts.len() > MODELS_MAX {
            return Err(ModelSettingsError::TooMany(texts.len()));
        }
        let reader = Reader { variable, prices, concurrency, insecure: *model_insecure, passed: model_command_env };
        let models = texts.iter().map(|text| reader.model(text)).collect::<Result<_, _>>()?;
        Ok(ModelSettings { models, timeout: Duration::from_secs(u64::from(*model_timeout)) })
    }
}

impl ModelSetting {
    /// The word for its provider.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        match &self.reached {
            Reached::Http { dialect, .. } => dialect.as_str(),
            Reached::Command { .. } => "command",
        }
    }

    /// `provider:name`: as it is called in reports and in what is charged.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", self.provider(), self.name)
    }
}

/// The one model that the environment names.
fn from_environment(variable: Lookup<'_>) -> Result<Option<String>, ModelSettingsError> {
    let model = variable("LLM_MODEL").or_else(|| variable("MODEL_NAME"));
    let has = |name: &str| variable(name).is_some() || variable(&format!("{name}_FILE")).is_some();
    let provider = match variable("LLM_PROVIDER") {
        Some(provider) => {
            let provider = provider.trim().to_lowercase();
            match provider.as_str() {
                "openai" => "openai",
                "anthropic" => "anthropic",
                "ollama" => "ollama",
                "gemini" | "google" => "gemini",
                "command" => "command",
                _ => return Err(ModelSettingsError::Provider(provider.chars().take(64).collect())),
            }
        }
        None if has("OPENAI_API_KEY") => "openai",
        None if has("ANTHROPIC_API_KEY") => "anthropic",
        None if has("GEMINI_API_KEY") => "gemini",
        None if variable("OLLAMA_BASE_URL").is_some() || model.is_some() => "ollama",
        None => return Ok(None),
    };
    let usual = match provider {
        "openai" => "gpt-4o-mini",
        "anthropic" => "claude-haiku-4-5",
        "gemini" => "gemini-2.5-flash",
        "ollama" => "qwen2.5-coder",
        _ => return model.ok_or(ModelSettingsError::NoModel("command")).map(|model| Some(format!("command:{model}"))),
    };
    Ok(Some(format!("{provider}:{}", model.as_deref().map_or(usual, str::trim))))
}

fn with_own(prices: Prices, file: &std::path::Path) -> Result<Prices, ModelSettingsError> {
    use std::io::Read;
    let path = file.display().to_string();
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(PRICES_MAX).read_to_string(&mut text));
    read.map_err(|error| ModelSettingsError::ReadPrices { path: path.clone(), error })?;
    prices.with(file, &text).map_err(|error| ModelSettingsError::Prices { path, error })
}

fn concurrency(text: &str, place: &str) -> Result<usize, ModelSettingsError> {
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| ModelSettingsError::Concurrency { place: place.to_owned() })
}

struct Reader<'a> {
    variable: Lookup<'a>,
    prices: Prices,
    concurrency: usize,
    insecure: bool,
    passed: &'a [String],
}

impl Reader<'_> {
    fn model(&self, text: &str) -> Result<ModelSetting, ModelSettingsError> {
        // Up to the items: an address may hold what is not to be seen.
        let shown = || text.split(',').next().unwrap_or_default().chars().take(128).collect::<String>();
        let wrong = || ModelSettingsError::Model(shown());
        let (provider, rest) = text.split_once(':').ok_or_else(wrong)?;
        let dialect = match provider.trim().to_lowercase().as_str() {
            "openai" => Dialect::OpenAi,
            "anthropic" => Dialect::Anthropic,
            "ollama" => Dialect::Ollama,
            "gemini" | "google" => Dialect::Gemini,
            "command" => return self.command(rest).ok_or_else(wrong),
            _ => return Err(wrong()),
        };
        let mut items = rest.split(',');
        let name = items.next().unwrap_or_default().trim().to_owned();
        let good = |letter: char| letter.is_ascii_alphanumeric() || "-._:/@+".contains(letter);
        if name.is_empty() || name.len() > 128 || !name.chars().all(good) || name.contains("..") {
            return Err(wrong());
        }
        let (mut url, mut key_env, mut context, mut concurrency) = (None, None, None, self.concurrency);
        for item in items {
            match item.trim().split_once('=') {
                Some(("url", value)) => url = Some(value.to_owned()),
                Some(("key-env", value)) => key_env = Some(value.to_owned()),
                Some(("context", value)) => {
                    let tokens = value.parse().ok().filter(|tokens| *tokens > 0);
                    let wrong = || ModelSettingsError::Context { model: shown(), value: value.to_owned() };
                    context = Some(tokens.ok_or_else(wrong)?);
                }
                Some(("concurrency", value)) => {
                    concurrency = self::concurrency(value, &format!("--model `{}`: concurrency={value}", shown()))?;
                }
                _ => {
                    let item = item.split('=').next().unwrap_or_default().chars().take(64).collect();
                    return Err(ModelSettingsError::Item { model: shown(), item });
                }
            }
        }
        let (base, key) = self.address(dialect, url, key_env)?;
        let mut known = self.prices.of(dialect.as_str(), &name, dialect != Dialect::Ollama);
        known.context = context.or(known.context);
        let prices = self.prices.name_of(&known);
        Ok(ModelSetting { name, reached: Reached::Http { dialect, base, key }, known, prices, concurrency })
    }

    /// Where a provider is, and the key for it. The provider's own key goes only where the provider's own variable points to.
    fn address(
        &self,
        dialect: Dialect,
        url: Option<String>,
        key_env: Option<String>,
    ) -> Result<(Target, Option<Secret>), ModelSettingsError> {
        let provider = dialect.as_str();
        let prefix = provider.to_uppercase();
        let key = match (&key_env, &url) {
            (Some(variable), _) => Some(
                self.secret(variable)?
                    .ok_or_else(|| ModelSettingsError::NoKey { provider, variable: variable.clone() })?,
            ),
            (None, Some(_)) => None,
            (None, None) => {
                let general = match (self.variable)("LLM_PROVIDER") {
                    Some(named) if named.trim().eq_ignore_ascii_case(provider) => self.secret("LLM_API_KEY")?,
                    None if dialect == Dialect::Ollama => self.secret("LLM_API_KEY")?,
                    _ => None,
                };
                let own = self.secret(&format!("{prefix}_API_KEY"))?.or(general);
                own.filter(|key| dialect != Dialect::Ollama || key.expose() != OLLAMA_KEY)
            }
        };
        if let Some(key) = &key
            && !key.expose().bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(ModelSettingsError::Key { provider });
        }
        let url = url.or_else(|| (self.variable)(&format!("{prefix}_BASE_URL")));
        if key.is_none() && url.is_none() && dialect != Dialect::Ollama {
            return Err(ModelSettingsError::NoKey { provider, variable: format!("{prefix}_API_KEY") });
        }
        let url = url.unwrap_or_else(|| dialect.home().to_owned());
        // Servers of one's own are often reached within a cluster by http; where no key is sent, that is taken.
        let base =
            Target::parse(url.trim().trim_end_matches('/'), self.insecure || key.is_none()).map_err(|source| {
                match source {
                    TargetError::Plain => ModelSettingsError::Insecure { provider, source },
                    source => ModelSettingsError::Address { provider, source },
                }
            })?;
        Ok((base, key))
    }

    fn secret(&self, variable: &str) -> Result<Option<Secret>, ModelSettingsError> {
        let named = (self.variable)(variable).map(Secret::new).filter(|secret| !secret.is_empty());
        if named.is_some() {
            return Ok(named);
        }
        let Some(path) = (self.variable)(&format!("{variable}_FILE")) else { return Ok(None) };
        let text = std::fs::read_to_string(path.trim()).map_err(|error| ModelSettingsError::KeyFile {
            variable: variable.to_owned(),
            path: path.clone(),
            error,
        })?;
        Ok(Some(Secret::new(text)).filter(|secret| !secret.is_empty()))
    }

    fn command(&self, line: &str) -> Option<ModelSetting> {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        let program = words.next()?;
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        let arguments: Vec<String> = words.collect();
        let needed = super::command::environment(&name);
        let names = needed.iter().copied().chain(self.passed.iter().map(String::as_str));
        let environment = names
            .filter_map(|name| Some((name.to_owned(), Secret::new((self.variable)(name)?))))
            .collect::<BTreeMap<_, _>>();
        let known = self.prices.of("command", &name, false);
        let (reached, prices) = (Reached::Command { program, arguments, environment }, self.prices.name_of(&known));
        let concurrency = self.concurrency.min(8);
        (!name.is_empty()).then_some(ModelSetting { name, reached, known, prices, concurrency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(models: &[&str], variables: &[(&str, &str)]) -> Result<ModelSettings, ModelSettingsError> {
        let options = ModelOptions {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            model_concurrency: 8,
            model_timeout: 300,
            ..ModelOptions::default()
        };
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        ModelSettings::read(&options, &variable)
    }

    fn labels(models: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        read(models, variables).unwrap().models.iter().map(ModelSetting::label).collect()
    }

    fn reached(setting: &ModelSetting) -> (String, Option<&str>) {
        match &setting.reached {
            Reached::Http { base, key, .. } => (base.origin(), key.as_ref().map(Secret::expose)),
            Reached::Command { program, .. } => (program.clone(), None),
        }
    }

    #[test]
    fn nothing_set_is_no_model() {
        assert_eq!(labels(&[], &[]), [""; 0]);
        assert_eq!(labels(&[], &[("LLM_API_KEY", "ollama"), ("GITHUB_TOKEN", "t")]), [""; 0]);
    }

    #[test]
    fn the_names_of_earlier_systems_are_taken() {
        assert_eq!(labels(&[], &[("OPENAI_API_KEY", "k")]), ["openai:gpt-4o-mini"]);
        assert_eq!(labels(&[], &[("OPENAI_API_KEY", "k"), ("MODEL_NAME", "gpt-4o")]), ["openai:gpt-4o"]);
        let coding = [("LLM_PROVIDER", "ollama"), ("LLM_MODEL", "qwen2.5-coder:14b"), ("LLM_API_KEY", "ollama")];
        let settings = read(&[], &coding).unwrap();
        assert_eq!(settings.models[0].label(), "ollama:qwen2.5-coder:14b");
        assert_eq!(reached(&settings.models[0]), ("http://localhost:11434".to_owned(), None));
        let away = [("OLLAMA_BASE_URL", "http://ollama.ai-agent:11434/")];
        let settings = read(&[], &away).unwrap();
        assert_eq!(reached(&settings.models[0]), ("http://ollama.ai-agent:11434".to_owned(), None));
        let other = [("LLM_PROVIDER", "Anthropic"), ("LLM_API_KEY", "k"), ("LLM_MODEL", "claude-sonnet-4-5")];
        let settings = read(&[], &other).unwrap();
        assert_eq!(reached(&settings.models[0]), ("https://api.anthropic.com".to_owned(), Some("k")));
        assert_eq!(settings.models[0].known.context, Some(200_000));
        assert!(settings.models[0].prices.contains("unverified"), "{}", settings.models[0].prices);
        assert_eq!(labels(&[], &[("LLM_PROVIDER", "command"), ("LLM_MODEL", "claude")]), ["command:claude"]);
    }

    #[test]
    fn models_keep_their_order_and_may_have_a_server_of_their_own() {
        let models = [
            "openai:org/model-7b,url=http://vllm:8000/v1,context=8192,concurrency=2",
            "openai:gpt-4o,url=https://proxy.example.com/v1,key-env=PROXY_KEY",
            "gemini:gemini-2.5-pro",
            "command:/opt/bin/claude --model opus",
        ];
        let variables = [("PROXY_KEY", "p"), ("GEMINI_API_KEY", "g"), ("OPENAI_API_KEY", "o")];
        let settings = read(&models, &variables).unwrap();
        let all: Vec<_> = settings.models.iter().map(reached).collect();
        assert_eq!(all[0], ("http://vllm:8000".to_owned(), None), "the provider's own key goes to the provider only");
        assert_eq!(all[1], ("https://proxy.example.com".to_owned(), Some("p")));
        assert_eq!((all[2].1, all[3].0.as_str()), (Some("g"), "/opt/bin/claude"));
        assert_eq!((settings.models[0].known.context, settings.models[0].concurrency), (Some(8192), 2));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_shown() {
        let refused = |models: &[&str], variables: &[(&str, &str)]| read(models, variables).unwrap_err().to_string();
        for model in ["gpt-4o", "openai:", "llama:x", "openai:a b", "openai:../x", "command: "] {
            assert!(refused(&[model], &[("OPENAI_API_KEY", "k")]).contains("expected PROVIDER:NAME"), "{model}");
        }
        let item = refused(&["openai:m,url=https://h/TOKEN,colour=TOKEN"], &[]);
        assert!(item.contains("`openai:m`: `colour` is not known") && !item.contains("TOKEN"), "{item}");
        assert!(refused(&["openai:m,context=0"], &[]).contains("context=0"));
        assert!(refused(&["openai:m,concurrency=0"], &[]).contains("concurrency=0: expected a number from 1 to 1000"));
        assert!(refused(&["openai:m"], &[]).contains("OPENAI_API_KEY is not set"));
        assert!(refused(&["openai:m,url=https://h,key-env=K"], &[]).contains("K is not set"));
        assert!(refused(&[], &[("LLM_PROVIDER", "huggingface")]).contains("expected openai, anthropic"));
        assert!(refused(&[], &[("LLM_PROVIDER", "command")]).contains("LLM_MODEL"));
        let plain = refused(&["openai:m"], &[("OPENAI_API_KEY", "SECRET"), ("OPENAI_BASE_URL", "http://far/v1")]);
        assert!(plain.contains("address of openai") && plain.contains("--model-insecure"), "{plain}");
        let odd = refused(&["openai:m"], &[("OPENAI_API_KEY", "SEC\u{7}RET")]);
        assert!(odd.contains("key of openai") && !odd.contains("RET"), "{odd}");
        let missing = refused(&["openai:m"], &[("OPENAI_API_KEY_FILE", "/nonexistent/key")]);
        assert!(missing.contains("OPENAI_API_KEY_FILE: /nonexistent/key"), "{missing}");
        let shown = format!("{:?}", read(&["openai:m"], &[("OPENAI_API_KEY", "SECRET")]).unwrap());
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
