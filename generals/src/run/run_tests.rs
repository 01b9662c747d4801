use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mindos_model::{FailureKind, Timestamp};
use mindos_outgoing::Outgoing;
use mindos_sdk::{Ceilings, Usage};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::brain::Fake;
use super::context::{Context, of_event};
use super::{Brain, Run, Steps, review};
use crate::change::Tree;
use crate::model::{Ask, Message, Meter, ModelFailure, Said, Stop, ToolCall};
use crate::{Event, Profile, Report};

type Answering = Pin<Box<dyn Future<Output = Result<Said, ModelFailure>> + Send>>;
use std::pin::Pin;

/// A model that answers by a function of what it is asked and how often it was.
struct Scripted<F> {
    asked: Mutex<Vec<Ask>>,
    script: F,
}

impl<F: Fn(usize, &Ask) -> Answering + Send + Sync> Fake for Scripted<F> {
    fn answer<'a>(&'a self, ask: &'a Ask) -> Pin<Box<dyn Future<Output = Result<Said, ModelFailure>> + Send + 'a>> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(ask.clone());
            asked.len()
        };
        (self.script)(number, ask)
    }
}

fn scripted<F: Fn(usize, &Ask) -> Answering + Send + Sync>(script: F) -> Arc<Scripted<F>> {
    Arc::new(Scripted { asked: Mutex::default(), script })
}

fn said(text: impl Into<String>) -> Said {
    let usage = Usage { model: "fake:m".into(), input_tokens: 100, output_tokens: 50, cost_micros: 70, calls: 1, ..Usage::default() };
    Said { text: text.into(), calls: Vec::new(), stop: Stop::End, usage, model: "fake:m".into() }
}

fn now(answer: Result<Said, ModelFailure>) -> Answering {
    Box::pin(std::future::ready(answer))
}

fn good() -> String {
    json!({"summary": "fine", "verdict": "good", "findings": [], "past": []}).to_string()
}

fn call(name: &str, arguments: Value) -> Said {
    let call = ToolCall { id: "c1".into(), name: name.into(), arguments, signature: None };
    Said { calls: vec![call], stop: Stop::Tools, ..said("") }
}

fn event() -> Event {
    let sha = "0123456789012345678901234567890123456789";
    let data = json!({"action": "opened", "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
        "sender": {"login": "ann"}, "pull_request": {"number": 7, "title": "Add a thing", "body": "It adds a thing that was missing before.",
        "head": {"ref": "feat/x", "sha": sha}, "base": {"ref": "main"}, "labels": []}});
    Event { event_type: "pr_created".into(), data, ..Event::default() }
}

fn run(profile: Profile, brain: Arc<dyn Fake>, checkpoint: &[u8]) -> Run {
    let meter = Meter::own(Ceilings::default());
    Run {
        profile: Arc::new(profile),
        event: Arc::new(event()),
        outgoing: Outgoing::new(),
        access: None,
        brain: Brain::Fake(brain),
        steps: Steps::new(None, meter.clone(), checkpoint, 5),
        meter,
        now: Timestamp(0),
    }
}

fn profile() -> Profile {
    Profile::stock("code-review-general").unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn context(run: &Run) -> Context {
    let mut context = of_event(&run.event, None);
    let mut tree = Tree::of_listing("abc", [], false);
    tree.hold("src/a.rs", "fn a() {}\n");
    context.tree = Some(tree);
    context
}

fn look(run: &Run) -> Report {
    block_on(review::look_at(run, context(run))).unwrap()
}

#[test]
fn a_model_looks_things_up_and_answers() {
    let model = scripted(|number, _| now(Ok(if number == 1 { call("read_file", json!({"path": "src/a.rs"})) } else { said(good()) })));
    let run = run(profile(), model.clone(), b"");
    let report = look(&run);
    let asked = model.asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].tools.len(), 3);
    let Message::Tool { output, call, .. } = &asked[1].messages[2] else { panic!("{:?}", asked[1].messages) };
    assert!(output.contains("1: fn a() {}") && output.contains(run.steps.fence().as_str()) && call == "c1", "{output}");
    assert_eq!((&*report.model, report.answer.as_ref().unwrap()["summary"].as_str()), ("fake:m", Some("fine")));
    assert!(report.effects[0].parameters["body"].as_str().unwrap().contains("\n\nfine\n\n"));
}

#[test]
fn an_answer_that_does_not_fit_is_repaired_once() {
    let fits = scripted(|number, _| now(Ok(said(if number == 1 { "{\"summary\": 1}".to_owned() } else { good() }))));
    assert!(look(&run(profile(), fits.clone(), b"")).answer.is_some());
    let asked = fits.asked.lock().unwrap();
    let Some(Message::User(repair)) = asked[1].messages.last() else { panic!() };
    assert!(repair.contains("does not fit the schema") && repair.contains("/summary"), "{repair}");
    assert!(asked[1].tools.is_empty(), "no looks while it repairs");

    let never = scripted(|_, _| now(Ok(said("I will not"))));
    let report = look(&run(profile(), never.clone(), b""));
    assert_eq!((report.answer.is_none(), never.asked.lock().unwrap().len()), (true, 2));
    assert!(report.statement.contains("no answer that fits the schema"), "{}", report.statement);
}

#[test]
fn the_profiles_budget_ends_the_looking() {
    let model = scripted(|_, _| now(Ok(call("list_files", json!({})))));
    let mut limited = profile();
    limited.budget.rounds = 3;
    let report = look(&run(limited, model.clone(), b""));
    assert_eq!(model.asked.lock().unwrap().len(), 3);
    assert!(model.asked.lock().unwrap()[2].tools.is_empty(), "the last round is for the answer");
    assert!(report.answer.is_none());

    for budget in [|it: &mut Profile| it.budget.output_tokens = 150, |it: &mut Profile| it.budget.cost_micros = Some(100)] {
        let model = scripted(|_, _| now(Ok(call("list_files", json!({})))));
        let mut limited = profile();
        budget(&mut limited);
        let report = look(&run(limited, model.clone(), b""));
        assert!(model.asked.lock().unwrap().len() <= 2);
        assert!(report.statement.contains("budget of the profile"), "{}", report.statement);
    }
}

#[test]
fn a_refusal_or_a_context_that_is_too_long_leaves_what_is_computed() {
    let refuses = scripted(|_, _| now(Err(ModelFailure::Refused { message: "no".into() })));
    let report = look(&run(profile(), refuses, b""));
    assert!(report.statement.contains("the model would not answer") && !report.findings.is_empty());

    let short = scripted(|_, ask| {
        let Some(Message::User(text)) = ask.messages.first() else { panic!() };
        now(if text.len() > 12_000 { Err(ModelFailure::ContextTooLong { message: "long".into() }) } else { Ok(said(good())) })
    });
    let mut long = run(profile(), short.clone(), b"");
    let mut event = event();
    event.data["pull_request"]["body"] = json!("word ".repeat(40_000));
    long.event = Arc::new(event);
    assert!(look(&long).answer.is_some());
    assert!(short.asked.lock().unwrap().len() > 1);
}

#[test]
fn a_failure_keeps_its_kind_and_a_ceiling_ends_the_run() {
    let failing = |failure: ModelFailure| {
        let model = scripted(move |_, _| now(Err(failure.clone())));
        let run = run(profile(), model, b"");
        let context = context(&run);
        block_on(review::look_at(&run, context)).unwrap_err().kind
    };
    assert_eq!(failing(ModelFailure::Overloaded { message: "x".into() }), FailureKind::Transient);
    assert_eq!(failing(ModelFailure::OverBudget { message: "x".into() }), FailureKind::OverBudget);
    let until = Timestamp(9);
    assert_eq!(failing(ModelFailure::RateLimited { until, message: "x".into() }), FailureKind::RateLimited { until });
}

#[test]
fn a_second_attempt_pays_only_for_what_the_first_did_not() {
    let first = scripted(|number, _| {
        now(if number == 1 { Ok(call("read_file", json!({"path": "src/a.rs"}))) } else { Err(ModelFailure::Overloaded { message: "x".into() }) })
    });
    let one = run(profile(), first, b"");
    let failed = block_on(review::look_at(&one, context(&one)));
    assert!(failed.is_err());

    let second = scripted(|_, _| now(Ok(said(good()))));
    let two = run(profile(), second.clone(), &one.steps.checkpoint());
    let report = look(&two);
    assert_eq!(second.asked.lock().unwrap().len(), 1, "the first call is in the checkpoint");
    assert!(matches!(second.asked.lock().unwrap()[0].messages.as_slice(), [_, Message::Assistant { .. }, Message::Tool { .. }]));
    assert_eq!(two.steps.paid_earlier()[0].cost_micros, 70);
    assert!(report.answer.is_some());

    // And a third one for nothing at all.
    let third = scripted(|_, _| now(Err(ModelFailure::Unreachable { message: "x".into() })));
    let three = run(profile(), third.clone(), &two.steps.checkpoint());
    assert_eq!(look(&three).answer, report.answer);
    assert_eq!(third.asked.lock().unwrap().len(), 0);
}

#[test]
fn eight_runs_wait_for_their_models_at_once() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let barrier = Arc::new(Barrier::new(8));
    let waiting = barrier.clone();
    let model = scripted(move |_, _| {
        let barrier = waiting.clone();
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            // Nobody gets an answer before all eight are here.
            barrier.wait().await;
            Ok(said(good()))
        })
    });
    block_on(async {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let run = run(profile(), model.clone(), b"");
                tokio::spawn(async move { review::look_at(&run, context(&run)).await })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap().unwrap().answer.is_some());
        }
    });
    assert_eq!(ALIVE.load(Ordering::SeqCst), 8);
}

#[test]
fn a_dropped_run_leaves_what_it_paid_for() {
    let model = scripted(|number, _| {
        if number == 1 { now(Ok(call("list_files", json!({})))) } else { Box::pin(std::future::pending()) }
    });
    let run = run(profile(), model, b"");
    block_on(async {
        tokio::select! {
            _ = review::look_at(&run, context(&run)) => panic!("it cannot end"),
            () = async { while run.steps.checkpoint().len() < 200 { tokio::task::yield_now().await } } => {}
        }
    });
    let kept: Value = serde_json::from_slice(&run.steps.checkpoint()).unwrap();
    assert_eq!((kept["calls"].as_array().unwrap().len(), &kept["calls"][0]["step"]), (1, &json!("ask.1")));
}

#[test]
fn what_we_caused_ourselves_has_no_effects_and_costs_nothing() {
    let model = scripted(|_, _| now(Ok(said(good()))));
    let run = run(profile(), model.clone(), b"");
    let mut context = context(&run);
    context.own_echo = true;
    let report = block_on(review::look_at(&run, context)).unwrap();
    assert_eq!((report.effects.len(), model.asked.lock().unwrap().len()), (0, 0));
}
