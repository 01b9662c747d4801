//! Models against servers that answer, limit, stall and break off.

use std::time::Duration;

use mindos_sdk::{Ceilings, Usage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::testing::{Act, STREAM, Server, says, status};
use super::*;

/// Models of servers, each as `provider:name,items`; a price of a dollar for a thousand tokens either way, for `priced`.
fn models(servers: &[(&Server, &str)]) -> Models {
    let mut settings = settings(servers);
    settings.timeout = Duration::from_secs(20);
    Models::from(&settings)
}

fn settings(servers: &[(&Server, &str)]) -> ModelSettings {
    let file = tempfile();
    std::fs::write(&file, r#"{"models": [{"name": "priced", "input": 1000, "output": 1000}]}"#).unwrap();
    let options = ModelOptions {
        models: servers.iter().map(|(server, model)| format!("{model},url={}", server.origin)).collect(),
        model_concurrency: 2,
        model_timeout: 1,
        model_prices: Some(file.clone()),
        ..ModelOptions::default()
    };
    let settings = ModelSettings::read(&options, &|_| None).unwrap();
    std::fs::remove_file(file).unwrap();
    settings
}

fn tempfile() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("mindos-models-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(name)
}

fn ask() -> Ask {
    Ask { output_tokens_max: 100, ..Ask::of("Be brief.", "Hello") }
}

fn unlimited() -> Meter {
    Meter::own(Ceilings::default())
}

fn used(model: &str, input_tokens: u64, output_tokens: u64, calls: u32) -> Usage {
    let cost_micros = if model.ends_with("priced") { 1000 * (input_tokens + output_tokens) } else { 0 };
    let model = model.split_once(':').unwrap().1.to_owned();
    Usage { model, input_tokens, output_tokens, cost_micros, calls, ..Usage::default() }
}

fn error(words: &str) -> String {
    json!({"error": {"message": words, "type": "x", "param": null, "code": null}}).to_string()
}

#[tokio::test]
async fn none_is_a_value_too() {
    let models = Models::none();
    assert!(models.is_empty() && models.loads().is_empty());
    assert_eq!(models.ask(&unlimited(), &ask()).await, Err(ModelFailure::NoModel));
}

#[tokio::test]
async fn an_answer_is_charged_as_it_was_counted() {
    let server = Server::new([says("Hi", 11, 5)]).await;
    let (models, meter) = (models(&[(&server, "openai:priced")]), unlimited());
    let said = models.ask(&meter, &ask()).await.unwrap();
    assert_eq!((said.text.as_str(), said.stop, said.model.as_str()), ("Hi", Stop::End, "openai:priced"));
    assert_eq!(said.usage, used("openai:priced", 11, 5, 1));
    models.ask(&meter, &ask()).await.unwrap();
    assert_eq!(meter.used(), [used("openai:priced", 22, 10, 2)]);
    assert_eq!(server.requests()[0].0, "POST /chat/completions");
}

#[tokio::test]
async fn reports_can_say_by_which_list_a_cost_was_counted() {
    let server = Server::new([]).await;
    let all = ["openai:priced", "openai:gpt-4o", "openai:unheard-of", "ollama:gpt-4o"];
    let models = models(&all.map(|model| (&server, model)));
    let own = models.prices_of("priced");
    assert!(own.starts_with("the price list `mindos-models-") && own.contains("SHA-256"), "{own}");
    let built_in = models.prices_of("gpt-4o");
    assert!(
        built_in.contains("built into Mind OS") && built_in.contains("which is unverified and no price"),
        "{built_in}"
    );
    assert_eq!(
        (models.prices_of("unheard-of").as_str(), models.prices_of("none").as_str()),
        ("no price that is known here", "")
    );
}

#[tokio::test]
async fn failures_are_told_apart() {
    for (answer, kind) in [
        (status(401, "", &error("bad key")), "unauthorised"),
        (status(400, "", &error("maximum context length is 8")), "context_too_long"),
        (status(404, "", &error("no such model")), "rejected"),
        (status(500, "", "oops"), "unreachable"),
        (status(503, "", &error("busy")), "overloaded"),
        (status(529, "", ""), "overloaded"),
        (status(400, "", &error("content_filter")), "refused"),
        (Act::Say(format!("{STREAM}data: [1\n\n")), "invalid"),
        (Act::Say(STREAM.to_owned()), "cut"),
        (Act::Say(String::new()), "unreachable"),
    ] {
        let server = Server::new([answer]).await;
        let (models, meter) = (models(&[(&server, "openai:m")]), unlimited());
        let failure = models.ask(&meter, &ask()).await.unwrap_err();
        assert_eq!(failure.kind(), kind, "{failure}");
        assert!(failure.to_string().starts_with("openai:m "), "{failure}");
        let counted = if kind == "cut" { 1 } else { 0 };
        assert_eq!(meter.used().len(), counted, "{kind}");
    }
    let mut nobody = Server::new([]).await;
    nobody.origin = "http://127.0.0.1:1".to_owned();
    let failure = models(&[(&nobody, "openai:m")]).ask(&unlimited(), &ask()).await.unwrap_err();
    assert_eq!(failure.kind(), "unreachable", "{failure}");
}

#[tokio::test]
async fn a_limit_is_told_with_its_end_and_the_next_model_is_asked_until_then() {
    let headers = "Retry-After: 40\r\nx-ratelimit-remaining-tokens: 7\r\nx-ratelimit-reset-tokens: 1m0s\r\n";
    let limited = Server::new([status(429, headers, &error("Rate limit reached"))]).await;
    let alone = models(&[(&limited, "openai:m")]);
    let Err(ModelFailure::RateLimited { until, message }) = alone.ask(&unlimited(), &ask()).await else {
        panic!("it was to be limited")
    };
    let ahead = until.since(mindos_sdk::Clock::start().now());
    assert!((38..=41).contains(&ahead.as_secs()), "{ahead:?}");
    assert!(message.contains("Rate limit reached"), "{message}");
    let load = alone.loads().remove(0);
    assert_eq!((load.model.as_str(), load.tokens.unwrap().remaining), ("openai:m", 7));
    assert!(matches!(alone.ask(&unlimited(), &ask()).await, Err(ModelFailure::RateLimited { .. })));
    assert_eq!(limited.count(), 1, "it is not asked before its limit ends");

    let other = Server::new([says("Hi", 1, 1)]).await;
    let both = models(&[(&limited, "openai:m"), (&other, "openai:priced")]);
    for _ in 0..3 {
        assert_eq!(both.ask(&unlimited(), &ask()).await.unwrap().model, "openai:priced");
    }
    assert_eq!((limited.count(), other.count()), (2, 3));
}

#[tokio::test]
async fn a_limit_that_ends_soon_is_waited_for() {
    let headers = "Retry-After: 0\r\nx-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 6m0s\r\n";
    let server = Server::new([status(429, headers, &error("slow down")), says("Hi", 1, 1)]).await;
    let said = models(&[(&server, "openai:m")]).ask(&unlimited(), &ask()).await.unwrap();
    assert_eq!((said.text.as_str(), server.count()), ("Hi", 2));
    let never = Server::new([status(429, "Retry-After: 0\r\n", &error("slow down"))]).await;
    let failure = models(&[(&never, "openai:m")]).ask(&unlimited(), &ask()).await.unwrap_err();
    assert_eq!((failure.kind(), never.count()), ("rate_limited", 4), "it is not waited for ever");
}

#[tokio::test]
async fn a_limit_in_gemini_s_body_is_read() {
    let body = json!([{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "x"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33.5s"}]}}]);
    let server = Server::new([status(429, "", &body.to_string())]).await;
    let failure = models(&[(&server, "gemini:m")]).ask(&unlimited(), &ask()).await.unwrap_err();
    let ModelFailure::RateLimited { until, .. } = failure else { panic!("{failure}") };
    let ahead = until.since(mindos_sdk::Clock::start().now()).as_secs();
    assert!((32..=34).contains(&ahead), "{ahead}");
    assert_eq!(server.requests()[0].0, "POST /v1beta/models/m:streamGenerateContent?alt=sse");
}

#[tokio::test]
async fn a_wider_window_is_tried_and_a_narrower_one_is_not() {
    let long = || status(400, "", &error("prompt is too long"));
    let (small, smaller, wide) =
        (Server::new([long()]).await, Server::new([long()]).await, Server::new([says("Hi", 1, 1)]).await);
    let models = models(&[
        (&small, "openai:a,context=8000"),
        (&smaller, "openai:b,context=4000"),
        (&wide, "openai:c,context=100000"),
    ]);
    assert_eq!(models.ask(&unlimited(), &ask()).await.unwrap().model, "openai:c");
    assert_eq!((small.count(), smaller.count(), wide.count()), (1, 0, 1));
}

#[tokio::test]
async fn a_key_that_is_not_taken_is_told_and_the_next_model_is_asked() {
    let (shut, open) = (Server::new([status(401, "", &error("bad key"))]).await, Server::new([says("Hi", 1, 1)]).await);
    let models = models(&[(&shut, "openai:a"), (&open, "openai:b")]);
    for _ in 0..2 {
        assert_eq!(models.ask(&unlimited(), &ask()).await.unwrap().model, "openai:b");
    }
    assert_eq!((shut.count(), open.count()), (1, 2), "a key that is not taken is not shown at once again");
    assert_eq!(models.troubles(), ["openai:a does not take our key: bad key"]);
    assert_eq!(models.preferring(&["b".to_owned()]).labels().collect::<Vec<_>>(), ["openai:b", "openai:a"]);
    assert_eq!(models.unpriced().count(), 2);
}

#[tokio::test]
async fn a_refusal_is_not_taken_elsewhere() {
    let refusing = Server::new([Act::Say(format!(
        "{STREAM}data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"content_filter\"}}]}}\n\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":0}}}}\n\ndata: [DONE]\n\n"
    ))])
    .await;
    let other = Server::new([says("Hi", 1, 1)]).await;
    let meter = unlimited();
    let failure = models(&[(&refusing, "openai:priced"), (&other, "openai:m")]).ask(&meter, &ask()).await.unwrap_err();
    assert_eq!((failure.kind(), other.count()), ("refused", 0));
    assert_eq!(meter.used(), [used("openai:priced", 9, 0, 1)], "it is paid for nevertheless");
}

#[tokio::test]
async fn a_cut_stream_is_charged_once_and_as_far_as_it_is_known() {
    let begin = json!({"type": "message_start", "message": {"usage": {"input_tokens": 40, "output_tokens": 1}}});
    let text =
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x".repeat(30)}});
    let cut = Act::Say(format!("{STREAM}data: {begin}\n\ndata: {text}\n\n"));
    let (server, other) = (Server::new([cut]).await, Server::new([says("Hi", 1, 1)]).await);
    let meter = unlimited();
    let alone = models(&[(&server, "anthropic:priced")]);
    assert_eq!(alone.ask(&meter, &ask()).await.unwrap_err().kind(), "cut");
    assert_eq!(meter.used(), [used("anthropic:priced", 40, 10, 1)], "30 letters are taken for 10 tokens");
    let both = models(&[(&server, "anthropic:priced"), (&other, "openai:m")]);
    assert_eq!(both.ask(&meter, &ask()).await.unwrap().model, "openai:m");
    assert_eq!(meter.used(), [used("anthropic:priced", 80, 20, 2), used("openai:m", 1, 1, 1)]);
}

#[tokio::test]
async fn servers_that_are_silent_or_have_no_end_are_left() {
    let silent = Server::new([Act::Stall(String::new())]).await;
    let short = |server: &Server| Models::from(&settings(&[(server, "openai:m")]));
    assert_eq!(short(&silent).ask(&unlimited(), &ask()).await.unwrap_err().kind(), "unreachable");
    silent.open(0).await;
    let stalled = Server::new([Act::Stall(format!("{STREAM}data: {{}}\n\n"))]).await;
    assert_eq!(short(&stalled).ask(&unlimited(), &ask()).await.unwrap_err().kind(), "cut");
    stalled.open(0).await;
    let endless = Server::new([Act::Stall(format!("{STREAM}data: {}", "x".repeat(hearing::PART_MAX + 10)))]).await;
    let failure = models(&[(&endless, "openai:m")]).ask(&unlimited(), &ask()).await.unwrap_err();
    assert_eq!(failure.kind(), "invalid", "{failure}");
    endless.open(0).await;
}

#[tokio::test]
async fn dropping_the_future_ends_the_request_and_charges_what_was_heard() {
    let heard = format!("{STREAM}data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(300));
    for (act, output) in [(Act::Stall(heard), Some(100)), (Act::Stall(String::new()), None)] {
        let server = Server::new([act]).await;
        let (models, meter) = (models(&[(&server, "openai:priced")]), unlimited());
        let (asker, spent) = (models.clone(), meter.clone());
        let asked = tokio::spawn(async move { asker.ask(&spent, &ask()).await });
        server.open(1).await;
        if output.is_some() {
            // Until what was sent is heard there is nothing to charge it by.
            while models.loads()[0].running == 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        asked.abort();
        server.open(0).await;
        while models.loads()[0].running > 0 {
            tokio::task::yield_now().await;
        }
        let charged: Vec<u64> = meter.used().iter().map(|usage| usage.output_tokens).collect();
        assert_eq!(charged, output.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn no_more_are_asked_at_a_time_than_there_are_places() {
    let answer = match says("Hi", 1, 1) {
        Act::Say(bytes) => Act::Held(bytes),
        other => other,
    };
    let server = Server::new([answer]).await;
    let models = models(&[(&server, "openai:m")]);
    let asks: Vec<_> = (0..5)
        .map(|_| {
            let models = models.clone();
            tokio::spawn(async move { models.ask(&unlimited(), &ask()).await })
        })
        .collect();
    server.open(2).await;
    while models.loads()[0].queue < 3 {
        tokio::task::yield_now().await;
    }
    let load = models.loads().remove(0);
    assert_eq!((load.running, load.queue), (2, 3));
    server.release();
    for asked in asks {
        assert_eq!(asked.await.unwrap().unwrap().text, "Hi");
    }
    assert_eq!((server.count(), server.most_open()), (5, 2));
}

#[tokio::test]
async fn a_run_over_its_ceiling_stops_before_the_next_call() {
    let server = Server::new([says("Hi", 50, 60)]).await;
    let models = models(&[(&server, "openai:priced")]);
    // A call of these words and 100 tokens of answer is likely to cost 121 thousand.
    let meter = Meter::own(Ceilings { cost_micros: Some(240_000), ..Ceilings::default() });
    assert!(models.ask(&meter, &ask()).await.is_ok());
    assert!(models.ask(&meter, &ask()).await.is_ok(), "110 are used, 121 more are within 240");
    let failure = models.ask(&meter, &ask()).await.unwrap_err();
    assert_eq!((failure.kind(), server.count()), ("over_budget", 2));
    let work = failure.of_work(&meter);
    assert_eq!((work.kind.as_str(), work.usage), ("over_budget", vec![used("openai:priced", 100, 120, 2)]));
}

#[derive(Debug, Deserialize, PartialEq)]
struct Risk {
    risk: String,
}

fn risk() -> Schema {
    Schema::new(json!({"type": "object", "properties": {"risk": {"enum": ["low", "high"]}}, "required": ["risk"],
        "additionalProperties": false}))
    .unwrap()
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_asked_for_once_more() {
    let server =
        Server::new([says("{\"risk\": \"mid\"}", 10, 2), says("```json\n{\"risk\": \"low\"}\n```", 20, 3)]).await;
    let (models, meter) = (models(&[(&server, "openai:priced")]), unlimited());
    let (answer, said) = models.structured::<Risk>(&meter, ask(), &risk()).await.unwrap();
    assert_eq!((answer.risk.as_str(), said.usage.input_tokens), ("low", 20));
    assert_eq!(meter.used(), [used("openai:priced", 30, 5, 2)]);
    let requests = server.requests();
    let messages = requests[1].1["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 4);
    assert!(messages[3]["content"].as_str().unwrap().contains("/risk: is \"mid\", expected one of \"low\", \"high\""));
    assert_eq!(requests[1].1["response_format"]["json_schema"]["strict"], true);
    let failure = models.structured::<Risk>(&meter, ask(), &Schema::new(json!({"type": "array"})).unwrap()).await;
    let failure = failure.unwrap_err();
    assert!(failure.kind() == "invalid" && failure.to_string().contains("expected array"), "{failure}");
    assert_eq!(server.count(), 4, "it is asked for once more and not again");
}

#[tokio::test]
async fn a_server_that_knows_no_schemas_is_asked_in_words_from_then_on() {
    let unknown = status(400, "", &error("Unrecognized request argument supplied: response_format"));
    let server = Server::new([unknown, says("{\"risk\": \"high\"}", 1, 1)]).await;
    let models = models(&[(&server, "openai:m")]);
    for _ in 0..2 {
        assert_eq!(models.structured::<Risk>(&unlimited(), ask(), &risk()).await.unwrap().0.risk, "high");
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "what was learnt is kept");
    assert!(requests[0].1.get("response_format").is_some());
    for (_, body) in &requests[1..] {
        assert!(body.get("response_format").is_none());
        assert!(body["messages"][0]["content"].as_str().unwrap().contains("Be brief.\n\nAnswer with one JSON value"));
    }
}

#[tokio::test]
async fn the_coding_agent_s_completion_is_read_from_ollama() {
    let body =
        json!({"model": "q", "response": "# Plan", "done": true, "prompt_eval_count": 3, "eval_count": 2}).to_string();
    let server = Server::new([status(200, "Content-Type: application/json\r\n", &body)]).await;
    let plan = Ask { completion: true, temperature: Some(0.2), top_p: Some(0.9), ..Ask::of("", "Write a plan.") };
    let said = models(&[(&server, "ollama:q")]).ask(&unlimited(), &plan).await.unwrap();
    assert_eq!((said.text.as_str(), said.usage), ("# Plan", used("ollama:q", 3, 2, 1)));
    let want = json!({"model": "q", "prompt": "Write a plan.", "stream": false, "options": {"temperature": 0.2, "top_p": 0.9}});
    assert_eq!(server.requests(), [("POST /api/generate".to_owned(), want)]);
}

/// A model that is `sh` with a script, or a program of that name that is the script.
fn command(name: &str, script: &str) -> (Models, std::path::PathBuf) {
    let folder = tempfile();
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("script.sh");
    std::fs::write(&file, script).unwrap();
    let program = if name == "sh" { "/bin/sh".to_owned() } else { folder.join(name).display().to_string() };
    if name != "sh" {
        // By another process: a program that this one has open for writing cannot be started by the tests beside it.
        let installed = std::process::Command::new("install").args(["-m", "755"]).arg(&file).arg(&program).status();
        assert!(installed.unwrap().success());
    }
    let options = ModelOptions {
        models: vec![format!("command:{program} {}", file.display())],
        model_concurrency: 2,
        model_timeout: 20,
        ..ModelOptions::default()
    };
    (Models::from(&ModelSettings::read(&options, &environment).unwrap()), folder)
}

#[tokio::test]
async fn a_command_gets_its_prompt_and_is_bounded() {
    let (models, folder) = command("sh", "cat; env | cut -d= -f1 | sort | tr '\\n' ' '; ls -A | wc -l");
    let said = models.ask(&unlimited(), &ask()).await.unwrap();
    let expected = said.text.starts_with("Be brief.\n\nHello\n") && said.text.ends_with('0');
    assert!(expected && !said.text.contains("CARGO"), "prompt, few variables, an empty folder: {said:?}");
    assert_eq!((said.model.as_str(), said.usage.calls, said.usage.cost_micros), ("command:sh", 1, 0));
    std::fs::remove_dir_all(folder).unwrap();
    for (script, kind, words) in [
        ("echo no such option >&2; exit 2", "unreachable", "ended with 2: no such option"),
        ("echo rate limit reached >&2; exit 1", "rate_limited", "rate limit reached"),
        ("kill -9 $$", "unreachable", "signal 9"),
        ("while :; do echo 0123456789abcdef0123456789abcdef; done", "invalid", "more than"),
    ] {
        let (models, folder) = command("sh", script);
        let failure = models.ask(&unlimited(), &ask()).await.unwrap_err();
        assert!(failure.kind() == kind && failure.to_string().contains(words), "{script}: {failure:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
    let options = ModelOptions {
        models: vec!["command:/nonexistent/claude".to_owned()],
        model_concurrency: 1,
        model_timeout: 1,
        ..ModelOptions::default()
    };
    let failure = Models::from(&ModelSettings::read(&options, &environment).unwrap()).ask(&unlimited(), &ask()).await;
    assert_eq!(failure.unwrap_err().kind(), "rejected");
}

#[tokio::test]
async fn a_command_ends_with_all_it_started_when_its_future_is_dropped() {
    let folder = tempfile();
    std::fs::create_dir(&folder).unwrap();
    let pids = folder.join("pids");
    let (models, scripts) =
        command("sh", &format!("sleep 600 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display()));
    let asked = tokio::spawn(async move { models.ask(&unlimited(), &ask()).await });
    let text = loop {
        if let Ok(text) = std::fs::read_to_string(&pids) {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    asked.abort();
    for pid in text.split_whitespace() {
        gone(pid).await;
    }
    for folder in [folder, scripts] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

async fn gone(pid: &str) {
    // A zombie has no command line.
    let alive = || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while alive() {
        assert!(tokio::time::Instant::now() < deadline, "{pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_that_has_ended_is_not_held_up_by_what_it_started() {
    let (models, folder) = command("sh", "sleep 600 & echo $!");
    let said = models.ask(&unlimited(), &ask()).await.unwrap();
    assert!(said.text.parse::<u32>().is_ok(), "{said:?}");
    gone(&said.text).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_command_that_fails_is_charged_what_it_says_that_it_used() {
    for (words, tokens, cost, kind) in [
        ("oops", 9, 0.25, "unreachable"),
        ("Claude AI usage limit reached", 9, 0.25, "rate_limited"),
        ("Claude AI usage limit reached", 0, 0.0, "rate_limited"),
    ] {
        let claude = json!({"type": "result", "is_error": true, "result": words, "total_cost_usd": cost,
            "usage": {"input_tokens": tokens, "output_tokens": tokens}});
        for code in [0, 1] {
            let (models, folder) = command("claude", &format!("#!/bin/sh\necho '{claude}'\nexit {code}\n"));
            let meter = unlimited();
            let failure = models.ask(&meter, &ask()).await.unwrap_err();
            assert_eq!(failure.kind(), kind, "{failure}");
            let used = Usage { cost_micros: 250_000, ..used("command:claude", 9, 9, 1) };
            let charged = if tokens > 0 { vec![used] } else { Vec::new() };
            assert_eq!(meter.used(), charged, "{words}, ended with {code}");
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

#[test]
fn known_programs_are_called_so_that_they_do_not_ask_and_print_json() {
    let given = ["--model".to_owned(), "opus".to_owned()];
    let line = |program: &str, in_a_folder: bool| command::arguments(program, &given, in_a_folder).join(" ");
    assert_eq!(line("claude", true), "-p --output-format json --model opus");
    assert!(line("claude", false).starts_with("--disallowedTools Bash,"), "what is asked for words must not act");
    assert_eq!(line("gemini", false), "--output-format json --model opus");
    let aider = "--yes-always --no-detect-urls --no-check-update --no-pretty --model opus --message-file {prompt_file}";
    assert_eq!(line("aider", true), aider);
    assert_eq!(line("any", false), "--model opus");
}

#[test]
fn what_known_programs_print_is_read() {
    let claude = json!({"type": "result", "subtype": "success", "is_error": false, "result": "Hi", "total_cost_usd": 0.012345,
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5, "output_tokens": 7}});
    let printed = command::printed("claude", claude.to_string().as_bytes()).unwrap();
    assert_eq!((printed.text.as_str(), printed.cost_micros), ("Hi", Some(12_345)));
    assert_eq!((printed.tokens.input, printed.tokens.cached, printed.tokens.output), (Some(100), 90, Some(7)));
    let fault = |program: &str, said: &Value| {
        command::printed(program, said.to_string().as_bytes()).unwrap().fault.map(|fault| fault.kind)
    };
    assert_eq!(fault("claude", &claude), None);
    let limited = json!({"type": "result", "is_error": true, "result": "Claude AI usage limit reached|1795176000"});
    assert_eq!(fault("claude", &limited), Some(Kind::RateLimited));
    assert_eq!(command::printed("claude", b"oops").unwrap_err().kind, Kind::Invalid);
    let gemini = json!({"response": "Hi", "stats": {"models": {
        "a": {"tokens": {"prompt": 10, "candidates": 2, "cached": 4, "thoughts": 3}},
        "b": {"tokens": {"prompt": 1, "candidates": 1}}}}});
    let printed = command::printed("gemini", format!("Loaded.\n{gemini}").as_bytes()).unwrap();
    assert_eq!((printed.tokens.input, printed.tokens.cached, printed.tokens.output), (Some(11), 4, Some(6)));
    assert_eq!(command::printed("any", b" Hi\n").unwrap().text, "Hi");
    let value: Value = json!({"error": {"type": "AuthError", "message": "Invalid API key"}});
    assert_eq!(fault("gemini", &value), Some(Kind::Unauthorised));
}
