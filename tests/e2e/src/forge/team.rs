//! A control plane with its generals at the forge: the real programs, in stream mode or behind a sidecar.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mindos_proto::effect::v1::effect_service_client::EffectServiceClient;
use mindos_proto::effect::v1::{Effect, EffectStatus, ListEffectsRequest};
use mindos_proto::route::v1::{Route, RouteTargets, Strategy};
use tokio::sync::Mutex;

use super::{APP, Forge, OWNER, app_key};
use crate::account::Account;
use crate::client;
use crate::process::{self, Process};
use crate::world::{World, free_address};

/// Secret of the webhooks.
const SECRET: &str = "a secret of the webhook";
/// Models that cost money, and what a million tokens cost, asked and answered, in millionths of a dollar. The generals' own list has the
/// same for the first; the second is priced by the control plane, whose settings have both.
pub const PRICES: [(&str, u64, u64); 2] = [("gpt-4o-mini", 150_000, 600_000), ("claude-haiku", 1_000_000, 5_000_000)];
/// How long a flow may take to come to rest.
pub const REST_MAX: Duration = Duration::from_secs(60);

/// What a call costs by [`PRICES`], in millionths, rounded up; nothing where a model has no price.
#[must_use]
pub fn cost_micros(model: &str, input: u64, output: u64) -> u64 {
    let price = PRICES.iter().find(|(name, _, _)| *name == model);
    price.map_or(0, |(_, asked, answered)| (input * asked + output * answered).div_ceil(1_000_000))
}

/// How a team is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Names its folder.
    pub name: &'a str,
    /// How many times faster than GitHub's the limits pass, and the control plane writes.
    pub scale: u32,
    /// More of the settings file.
    pub settings: &'a str,
}

/// The programs.
#[derive(Debug)]
pub struct Team {
    pub world: World,
    pub forge: Forge,
    /// Generals and sidecars by name.
    programs: BTreeMap<String, Process>,
    /// Where generals behind a sidecar listen.
    listens: BTreeMap<String, String>,
    /// The ledger as far as it was read.
    account: Mutex<Account>,
}

/// How a general runs.
#[derive(Clone, Debug)]
pub struct General<'a> {
    /// Its type, such as `security-general`.
    pub r#type: &'a str,
    /// Behind a sidecar, or with a stream of its own.
    pub sidecar: bool,
    /// The models it asks, such as `openai:gpt-4o-mini`; none where empty.
    pub models: &'a [&'a str],
    /// Variables of its process.
    pub environment: Vec<String>,
}

impl<'a> General<'a> {
    /// One with a stream of its own that asks a model of the OpenAI kind.
    #[must_use]
    pub fn stream(r#type: &'a str) -> General<'a> {
        General { r#type, sidecar: false, models: &["openai:gpt-4o-mini"], environment: Vec::new() }
    }

    /// The same behind a sidecar.
    #[must_use]
    pub fn behind_sidecar(r#type: &'a str) -> General<'a> {
        General { sidecar: true, ..General::stream(r#type) }
    }
}

fn route(name: &str, kinds: &[&str], types: &[&str], strategy: Strategy) -> Route {
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Route {
        name: name.to_owned(),
        r#match: Some(mindos_proto::route::v1::RouteMatch { kinds: of(kinds), ..Default::default() }),
        targets: Some(RouteTargets { types: of(types), ..RouteTargets::default() }),
        strategy: strategy.into(),
        ..Route::default()
    }
}

/// Routes of the tests: the stock ones that concern these generals, pushes to a pull request like its opening, and `more`. What nobody here
/// works on is recorded, and nothing waits for it.
#[must_use]
pub fn routes(more: &[Route]) -> Vec<Route> {
    let reviewers = ["architecture-general", "security-general", "code-review-general"];
    let mut routes = vec![
        route("pr-created", &["pr_created", "com.github.pull_request.synchronize"], &reviewers, Strategy::Broadcast),
        route("needs-attention", &["needs_attention"], &["triage-general", "priority-general"], Strategy::Broadcast),
        Route { count: 1, ..route("tasks", &["task"], &["coding-general"], Strategy::LoadBalanced) },
    ];
    routes.extend_from_slice(more);
    routes.push(route("rest", &[], &["nobody-general"], Strategy::Broadcast));
    routes
}

impl Team {
    /// Starts the forge and the control plane; no general yet.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(setup: &Setup<'_>) -> Result<Team> {
        let Setup { name, scale, settings } = setup;
        let mut world = World::new(name, &[])?;
        let forge = Forge::start(world.folder(), *scale).await?;
        let file = world.folder().join("settings.yaml");
        let (api, key) = (forge.api(), app_key());
        let prices: String = PRICES
            .iter()
            .map(|(model, input, output)| {
                let [input, output] = [input, output].map(|price| *price as f64 / 1e6);
                format!("  {model}: {{input: {input}, output: {output}}}\n")
            })
            .collect();
        let text = format!(
            "github_secret: \"{SECRET}\"\n\
             github_app: {{id: {APP}, private_key_file: \"{}\", api: \"{api}\", every: 1s, look_back: 10m}}\n\
             github: {{writes_per_second: {scale}}}\n\
             effects: {{mode: live}}\n\
             tasks: {{}}\n\
             prices:\n{prices}\
             {settings}",
            key.display()
        );
        std::fs::write(&file, text).context("failed to write the settings")?;
        world.add_arguments(&["--settings", &file.display().to_string()]);
        world.start_plane().await?;
        let hook = format!("{}/webhooks/github", world.server());
        forge.admin("hook", serde_json::json!({"url": hook, "secret": SECRET})).await?;
        client::apply(&world.channel()?, routes(&[])).await?;
        Ok(Team { world, forge, programs: BTreeMap::new(), listens: BTreeMap::new(), account: Mutex::default() })
    }

    /// Starts a general, and its sidecar where it has one, and waits until the control plane knows them.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn general(&mut self, general: &General<'_>) -> Result<()> {
        self.program(general)?;
        if general.sidecar && !self.programs.contains_key(&sidecar_name(general.r#type)) {
            self.sidecar(general.r#type)?;
        }
        self.there().await
    }

    /// Where the coding agent keeps the folders of its tasks.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.world.folder().join("workspace")
    }

    /// What is left of tasks that are over.
    #[must_use]
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.workspace()).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }

    /// Waits until every general that was started has an instance that lives.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn there(&self) -> Result<()> {
        let generals = self.programs.keys().filter(|name| !name.starts_with("sidecar-")).count();
        self.world.fleet(generals, generals).await
    }

    /// Starts a general's own program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn program(&mut self, general: &General<'_>) -> Result<()> {
        let General { r#type, sidecar, models, environment } = general;
        let listen = match self.listens.get(*r#type) {
            Some(listen) => listen.clone(),
            None => free_address()?,
        };
        self.listens.insert((*r#type).to_owned(), listen.clone());
        let mut words: Vec<String> = environment.clone();
        let base = self.forge.models();
        words.extend([
            format!("OPENAI_BASE_URL={base}/v1"),
            "OPENAI_API_KEY=sk-none".to_owned(),
            format!("ANTHROPIC_BASE_URL={base}"),
            "ANTHROPIC_API_KEY=sk-ant-none".to_owned(),
            format!("OLLAMA_BASE_URL={base}"),
            format!("WORKSPACE_DIR={}", self.workspace().display()),
            process::mindos()?.display().to_string(),
        ]);
        words.extend(["general", "--type", r#type, "--listen", &listen].map(str::to_owned));
        if !sidecar {
            let plane = format!("http://{}", self.world.agents());
            let instance = format!("{type}-0");
            words.extend(["--control-plane", &plane, "--cluster", "east", "--instance", &instance].map(str::to_owned));
        }
        words.extend(models.iter().flat_map(|model| ["--model".to_owned(), (*model).to_owned()]));
        let started = Process::start_program(Path::new("/usr/bin/env"), self.world.folder(), r#type, &words)?;
        self.programs.insert((*r#type).to_owned(), started);
        Ok(())
    }

    /// Starts the sidecar of a general.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn sidecar(&mut self, r#type: &str) -> Result<()> {
        let listen = self.listens.get(r#type).context("a sidecar has a general")?;
        let plane = format!("http://{}", self.world.agents());
        let general = format!("name={type},type={type},slots=8,url=http://{listen}");
        let instance = format!("{type}-0");
        let words = [
            "sidecar",
            "--control-plane",
            &plane,
            "--cluster",
            "east",
            "--instance",
            &instance,
            "--repository-access",
            "--general",
            &general,
        ];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let name = sidecar_name(r#type);
        let started = Process::start(self.world.folder(), &name, &words)?;
        self.programs.insert(name, started);
        Ok(())
    }

    /// Takes a program out, to kill it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn take(&mut self, name: &str) -> Result<Process> {
        self.programs.remove(name).with_context(|| format!("{name} does not run"))
    }

    /// A program that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn running(&self, name: &str) -> Result<&Process> {
        self.programs.get(name).with_context(|| format!("{name} does not run"))
    }

    /// All effects known, the newest first.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub async fn effects(&self) -> Result<Vec<Effect>> {
        let mut client = EffectServiceClient::new(self.world.channel()?);
        let (mut effects, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListEffectsRequest { page_size: 1000, page_token, ..ListEffectsRequest::default() };
            let answer = client.list_effects(request).await.context("failed to list effects")?.into_inner();
            effects.extend(answer.effects);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(effects);
            }
        }
    }

    /// The account of everything so far. What was read before is not read again.
    ///
    /// # Errors
    /// When the ledger does not follow.
    pub async fn account(&self) -> Result<Account> {
        let mut account = self.account.lock().await;
        // The control plane may be on its way back.
        if let Ok(entries) = client::ledger(&self.world.channel()?, account.seq + 1).await {
            account.add(&entries)?;
        }
        Ok(account.clone())
    }

    /// Waits until `events` are accepted at least, nothing is open, and no effect waits; an effect that failed is an error.
    ///
    /// # Errors
    /// When that takes too long, naming what is open.
    pub async fn rest(&self, events: usize) -> Result<Account> {
        let begun = Instant::now();
        loop {
            let account = self.account().await?;
            let effects = self.effects().await?;
            if let Some(failed) = effects.iter().find(|one| one.status() == EffectStatus::Failed) {
                bail!("an effect failed: {failed:?}\n{}", self.logs());
            }
            let waiting: Vec<_> = effects.iter().filter(|one| one.status() == EffectStatus::Waiting).collect();
            if waiting.is_empty() && account.open() == 0 && account.events.len() >= events {
                ensure!(
                    account.parked.is_empty(),
                    "parked: {:?}\n{:?}\n{}",
                    account.parked,
                    account.attempts_ended,
                    self.logs()
                );
                return Ok(account);
            }
            ensure!(
                begun.elapsed() < REST_MAX,
                "{} deliveries are open, effects wait: {waiting:?}\n{}",
                account.open(),
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Looks until what is looked for is there, then waits until nothing is open and looks once more: it is to stay so.
    ///
    /// # Errors
    /// What `look` says in the end.
    pub async fn stays<T>(&self, look: impl AsyncFn() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        while let Err(failure) = look().await {
            let account = self.account().await?;
            if begun.elapsed() > REST_MAX || !account.parked.is_empty() {
                let ended = account.attempts_ended;
                return Err(failure.context(format!("attempts ended: {ended:?}\n{}", self.logs())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.rest(0).await?;
        self.forge.look("settled").await?;
        self.rest(0).await?;
        look().await
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text =
            self.world.plane().map(|plane| format!("control plane:\n{}\n", plane.log_end())).unwrap_or_default();
        for (name, program) in &self.programs {
            text.push_str(&format!("{name}:\n{}\n", program.log_end()));
        }
        text
    }

    /// What the ledger says in full, one record a line.
    ///
    /// # Errors
    /// When it cannot be exported.
    pub fn export(&self) -> Result<String> {
        let server = self.world.server();
        let output = process::run(&["ledger", "export", "--server", &server])?;
        ensure!(output.status.success(), "no export: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).context("an export is text")
    }

    /// That Prism and the stub saw nothing wrong: no refusal, no request or answer that is not GitHub's.
    ///
    /// # Errors
    /// Naming what was.
    pub async fn nothing_refused(&self) -> Result<()> {
        let refusals = self.forge.refusals().await?;
        ensure!(refusals.is_empty(), "{} were refused or wrong: {refusals:#?}", refusals.len());
        Ok(())
    }
}

fn sidecar_name(r#type: &str) -> String {
    format!("sidecar-{type}")
}

/// Path of a repository's API.
#[must_use]
pub fn repository(name: &str) -> String {
    format!("/repos/{OWNER}/{name}")
}
