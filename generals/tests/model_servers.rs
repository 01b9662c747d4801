//! Models against a real mock of their providers: npm `@copilotkit/aimock`, which speaks all four dialects and keeps a journal of what it
//! was asked and what it counted.
//!
//! `MINDOS_TEST_NODE_MODULES=<node_modules that holds it> cargo test -p mindos-generals --test model_servers -- --ignored`

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use mindos_generals::model::{Ask, Message, Meter, ModelOptions, ModelSettings, Models, Schema, Stop, ToolSpec};
use mindos_outgoing::{Outgoing, Request, Target};
use mindos_sdk::Ceilings;
use serde::Deserialize;
use serde_json::{Value, json};

/// Provider, model, path below the server's address that the provider's base is, and path that is asked.
const PROVIDERS: [(&str, &str, &str, &str); 4] = [
    ("openai", "gpt-4o-mini", "/v1", "/v1/chat/completions"),
    ("anthropic", "claude-haiku-4-5", "", "/v1/messages"),
    ("ollama", "qwen2.5-coder", "", "/api/chat"),
    ("gemini", "gemini-2.5-flash", "", "/v1beta/models/gemini-2.5-flash:streamGenerateContent"),
];
/// Dollars for a million tokens: input and output, of each of them.
const PRICES: (u64, u64) = (3, 15);

/// The mock, ended with this.
struct Aimock {
    process: Child,
    origin: String,
}

impl Drop for Aimock {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Aimock {
    async fn start() -> Aimock {
        let modules = std::env::var_os("MINDOS_TEST_NODE_MODULES");
        let modules = PathBuf::from(modules.expect("MINDOS_TEST_NODE_MODULES names a folder with @copilotkit/aimock"));
        let program = modules.join("@copilotkit/aimock/dist/cli.js");
        assert!(program.is_file(), "{} is not there", program.display());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/aimock.json");
        let process = Command::new("node")
            .arg(program)
            .args(["-p", &port.to_string(), "--strict", "--log-level", "warn", "-f"])
            .arg(fixtures)
            .stdin(Stdio::null())
            .spawn()
            .expect("node is there");
        let mock = Aimock { process, origin: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(30);
        while mock.journal().await.is_none() {
            assert!(Instant::now() < deadline, "it does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        mock
    }

    async fn journal(&self) -> Option<Vec<Value>> {
        let target = Target::parse(&format!("{}/__aimock/journal", self.origin), true).unwrap();
        let request = Request { answer_max: 8 << 20, ..Request::new(Method::GET, target) };
        serde_json::from_slice(&Outgoing::new().send(request).await.ok()?.body).ok()
    }

    /// Calls, tokens read and tokens written that it counted, by path. It counts none of Ollama's.
    async fn counted(&self) -> BTreeMap<String, (u32, u64, u64)> {
        let mut counted = BTreeMap::new();
        for entry in self.journal().await.unwrap() {
            let whole =
                entry["response"]["status"] == 200 && entry["response"]["fixture"]["response"]["usage"].is_object();
            if !whole {
                continue;
            }
            let path = entry["path"].as_str().unwrap().split('?').next().unwrap().to_owned();
            let usage = &entry["response"]["fixture"]["response"]["usage"];
            let of = |name: &str| if path.starts_with("/api/") { 0 } else { usage[name].as_u64().unwrap() };
            let sums: &mut (u32, u64, u64) = counted.entry(path.clone()).or_default();
            *sums = (sums.0 + 1, sums.1 + of("input_tokens"), sums.2 + of("output_tokens"));
        }
        counted
    }

    fn models(&self, providers: &[&(&str, &str, &str, &str)]) -> Models {
        let name = format!("mindos-prices-{}-{}.json", std::process::id(), self.process.id());
        let prices = std::env::temp_dir().join(name);
        let row = |name: String| json!({"name": name, "input": PRICES.0, "output": PRICES.1});
        let rows: Vec<Value> = PROVIDERS.iter().map(|(provider, name, ..)| row(format!("{provider}:{name}"))).collect();
        std::fs::write(&prices, json!({"models": rows}).to_string()).unwrap();
        let model = |(provider, name, base, _): &&(&str, &str, &str, &str)| {
            format!("{provider}:{name},url={}{base},key-env=KEY", self.origin)
        };
        let options = ModelOptions {
            models: providers.iter().map(model).collect(),
            model_concurrency: 4,
            model_timeout: 20,
            model_prices: Some(prices.clone()),
            ..ModelOptions::default()
        };
        let settings = ModelSettings::read(&options, &|name| (name == "KEY").then(|| "secret".to_owned())).unwrap();
        std::fs::remove_file(prices).unwrap();
        Models::from(&settings)
    }
}

#[derive(Debug, Deserialize)]
struct Risk {
    risk: String,
}

fn risk() -> Schema {
    let schema = json!({"type": "object", "properties": {"risk": {"enum": ["low", "high"]}}, "required": ["risk"],
        "additionalProperties": false});
    Schema::new(schema).unwrap()
}

fn unlimited() -> Meter {
    Meter::own(Ceilings::default())
}

#[tokio::test]
#[ignore = "needs MINDOS_TEST_NODE_MODULES with @copilotkit/aimock"]
async fn every_dialect_speaks_calls_tools_answers_by_schema_and_is_charged_what_the_server_counted() {
    for provider in &PROVIDERS {
        // One for each, as it counts how often a limit was met in all.
        let mock = Aimock::start().await;
        let (name, model, _, path) = provider;
        let models = mock.models(&[provider]);
        let meter = unlimited();

        let said = models.ask(&meter, &Ask::of("Be brief.", "say hello")).await.unwrap();
        assert_eq!((said.text.as_str(), said.stop), ("Grüß Gott, one and all", Stop::End), "{name}");

        let mut ask = Ask::of("", "What is the weather?");
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        ask.tools = vec![ToolSpec {
            name: "get_weather".to_owned(),
            description: "The weather in a city.".to_owned(),
            parameters: Schema::new(parameters).unwrap(),
        }];
        let said = models.ask(&meter, &ask).await.unwrap();
        assert_eq!(said.stop, Stop::Tools, "{name}");
        let call = &said.calls[0];
        assert_eq!((call.name.as_str(), &call.arguments), ("get_weather", &json!({"city": "Oslo"})), "{name}");
        ask.messages.push(Message::said(&said));
        ask.messages.push(Message::Tool { call: call.id.clone(), name: call.name.clone(), output: "rain".to_owned() });
        let said = models.ask(&meter, &ask).await.unwrap();
        assert_eq!((said.text.as_str(), said.stop), ("It rains in Oslo.", Stop::End), "{name}");

        let (answer, _) = models.structured::<Risk>(&meter, Ask::of("", "how risky is it?"), &risk()).await.unwrap();
        assert_eq!(answer.risk, "low", "{name}: after a repair");

        let limited = models.ask(&meter, &Ask::of("", "limit once")).await;
        assert_eq!(limited.unwrap().text, "Now it goes.", "{name}: a limit of a second is waited for");

        let failure = models.ask(&meter, &Ask::of("", "overload")).await.unwrap_err();
        assert_eq!(failure.kind(), "overloaded", "{name}: {failure}");

        let used = meter.used();
        let counted = mock.counted().await;
        let (calls, input, output) = counted[*path];
        assert_eq!(used.len(), 1);
        assert_eq!((used[0].calls, used[0].input_tokens, used[0].output_tokens), (calls, input, output), "{name}");
        assert_eq!(calls, 6, "{name}: hello, tool, its result, answer, repair, and after the limit");
        assert_eq!(used[0].model, *model);
        assert_eq!(used[0].cost_micros, input * PRICES.0 + output * PRICES.1, "{name}: to the millionth");
    }
}

#[tokio::test]
#[ignore = "needs MINDOS_TEST_NODE_MODULES with @copilotkit/aimock"]
async fn cut_streams_are_found_and_limits_send_to_the_next() {
    let mock = Aimock::start().await;
    for provider in &PROVIDERS {
        let meter = unlimited();
        let failure = mock.models(&[provider]).ask(&meter, &Ask::of("", "cut it")).await.unwrap_err();
        assert_eq!(failure.kind(), "cut", "{}: {failure}", provider.0);
        let used = meter.used();
        assert_eq!((used.len(), used[0].calls), (1, 1), "{}: what was heard is charged, once", provider.0);
    }
    let all = mock.models(&PROVIDERS.iter().collect::<Vec<_>>());
    let failure = all.ask(&unlimited(), &Ask::of("", "limit always")).await.unwrap_err();
    assert_eq!(failure.kind(), "rate_limited", "{failure}");
    for (name, ..) in &PROVIDERS {
        assert!(failure.to_string().contains(&format!("{name}:")), "each was asked: {failure}");
    }
    let known = all.loads().iter().filter(|load| load.requests.is_some_and(|limit| limit.remaining == 0)).count();
    assert_eq!(known, 4, "limits are reported: {:?}", all.loads());
}

#[tokio::test]
#[ignore = "needs MINDOS_TEST_NODE_MODULES with @copilotkit/aimock"]
async fn a_run_over_its_ceiling_stops_within_one_call() {
    let mock = Aimock::start().await;
    let models = mock.models(&[&PROVIDERS[0]]);
    let ask = Ask { output_tokens_max: 20, ..Ask::of("", "say hello") };
    let one = 11 * PRICES.0 + 5 * PRICES.1;
    let ceiling = 10 * one;
    let meter = Meter::own(Ceilings { cost_micros: Some(ceiling), ..Ceilings::default() });
    let mut answers = 0;
    let failure = loop {
        match models.ask(&meter, &ask).await {
            Ok(_) => answers += 1,
            Err(failure) => break failure,
        }
        assert!(answers < 20, "it does not stop");
    };
    assert_eq!(failure.kind(), "over_budget", "{failure}");
    let spent = meter.used()[0].cost_micros;
    assert!(spent <= ceiling && spent == answers * one, "{spent} of {ceiling} in {answers} calls");
    assert_eq!(mock.counted().await["/v1/chat/completions"].0 as u64, answers, "nothing was asked after it");
}

/// A counter of llama.cpp's server.
async fn metric(origin: &str, key: &str, name: &str) -> u64 {
    let target = Target::parse(&format!("{origin}/metrics"), true).unwrap();
    let mut request = Request::new(Method::GET, target);
    request.headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    let answer = Outgoing::new().send(request).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse::<f64>().unwrap() as u64
}

/// A real server with a model of random weights: see what starts it in the project's notes on testing. Its words are noise.
#[tokio::test]
#[ignore = "needs MINDOS_TEST_LLAMA_URL, a llama-server with --metrics and the key in MINDOS_TEST_LLAMA_KEY"]
async fn a_real_server_counts_what_is_charged_obeys_schemas_and_is_told_when_its_client_goes() {
    let origin =
        std::env::var("MINDOS_TEST_LLAMA_URL").expect("MINDOS_TEST_LLAMA_URL is the address of a llama-server");
    let key = std::env::var("MINDOS_TEST_LLAMA_KEY").unwrap_or_default();
    for (provider, base) in [("openai", "/v1"), ("anthropic", "")] {
        let models = |key: &str| {
            let options = ModelOptions {
                models: vec![format!("{provider}:tiny,url={origin}{base},key-env=KEY")],
                model_concurrency: 4,
                model_timeout: 60,
                ..ModelOptions::default()
            };
            Models::from(&ModelSettings::read(&options, &|_| Some(key.to_owned())).unwrap())
        };
        let (asked, meter) = (models(&key), unlimited());
        let before =
            (metric(&origin, &key, "prompt_tokens_total").await, metric(&origin, &key, "tokens_predicted_total").await);
        let ask = Ask { output_tokens_max: 16, temperature: Some(0.0), ..Ask::of("Be brief.", "Say hello.") };
        for _ in 0..3 {
            asked.ask(&meter, &ask).await.unwrap();
        }
        let after =
            (metric(&origin, &key, "prompt_tokens_total").await, metric(&origin, &key, "tokens_predicted_total").await);
        let used = meter.used().remove(0);
        assert_eq!(used.output_tokens, after.1 - before.1, "{provider}: tokens written");
        assert_eq!(used.input_tokens - used.cached_input_tokens, after.0 - before.0, "{provider}: tokens read anew");

        let failure = models("wrong").ask(&unlimited(), &ask).await.unwrap_err();
        assert_eq!(failure.kind(), "unauthorised", "{provider}: {failure}");
        let long = Ask::of("", "word ".repeat(40_000));
        let failure = asked.ask(&unlimited(), &long).await.unwrap_err();
        assert_eq!(failure.kind(), "context_too_long", "{provider}: {failure}");
        if provider == "openai" {
            let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                "additionalProperties": false});
            let schema = Schema::new(schema).unwrap();
            let (answer, _) = asked.structured::<Value>(&unlimited(), Ask::of("", "Is it so?"), &schema).await.unwrap();
            assert!(answer["ok"].is_boolean(), "{answer}");
        }

        let endless = Ask { output_tokens_max: 100_000, ..Ask::of("", "Go on for ever.") };
        let (asker, spent) = (asked.clone(), meter.clone());
        let going = tokio::spawn(async move { asker.ask(&spent, &endless).await });
        let deadline = Instant::now() + Duration::from_secs(30);
        while metric(&origin, &key, "requests_processing").await == 0 && !going.is_finished() {
            assert!(Instant::now() < deadline, "{provider}: it does not begin");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        going.abort();
        while metric(&origin, &key, "requests_processing").await > 0 {
            assert!(Instant::now() < deadline, "{provider}: it goes on for nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
