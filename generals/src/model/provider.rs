//! One model: asked by no more than its share at a time, with its limits in mind, and charged as it counts.
//!
//! ```text
//!   wait for a place --> away? --> may we spend? --> ask --> hear --> charge
//!                         |            |              |
//!                  its failure    over budget    refused: told apart, learnt from, or away until its reset
//! ```
//! Invariants: an attempt is charged at most once, with what the provider counted, and with an estimate of what it did not tell of an answer that
//! had begun; dropping the future ends the request.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method};
use mindos_outgoing::{Incoming, Opened, Outgoing, OutgoingError, Request, Target};
use mindos_sdk::model::{Secret, Timestamp};
use mindos_sdk::{Clock, ModelLoad, ProviderLimits, Usage, retry_after};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::command::{Printed, Program};
use super::dialect::{Dialect, Encoded, Quirks, open_ai};
use super::failure::{Kind, brief};
use super::hearing::{Answer, Fault, Heard, Hearing, Tokens, list, text};
use super::meter::Hold;
use super::settings::{ModelSetting, Reached};
use super::{Ask, Meter, ModelFailure, Said, Stop, estimate};

/// Bytes of a stream, with all that surrounds the answer in it.
const STREAM_MAX: usize = 64 << 20;
/// Bytes of a refusal that are read.
const REFUSAL_MAX: usize = 64 << 10;
/// How often a request is put in other words for a server that does not take it.
const REWORDINGS_MAX: usize = 4;
/// How long a provider that does not say when its limit ends is left alone, and one that does not know our key.
const AWAY: Duration = Duration::from_secs(60);
/// The furthest that a reset may lie ahead.
const AWAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A whole answer may take so many times what its pieces may.
const WHOLE: u32 = 3;
/// How long the end of a stream is waited for after the end of its answer, so that its connection can be used again.
const TRAILING: Duration = Duration::from_millis(100);

pub(crate) struct Provider {
    setting: ModelSetting,
    label: String,
    client: Outgoing,
    clock: Clock,
    timeout: Duration,
    places: Semaphore,
    running: AtomicU32,
    waiting: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: ProviderLimits,
    quirks: Quirks,
    away: Option<Away>,
}

/// Why a model is not asked for a while.
#[derive(Clone, Debug)]
struct Away {
    until: Timestamp,
    kind: Kind,
    message: String,
}

/// Counts while it lives.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Counted<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Provider {
    pub(crate) fn new(setting: ModelSetting, client: Outgoing, clock: Clock, timeout: Duration) -> Provider {
        // OpenAI itself has given up the name that all others know.
        let other_limit_name = matches!(&setting.reached, Reached::Http { dialect: Dialect::OpenAi, base, .. }
            if open_ai::HOME.starts_with(&base.origin()));
        let quirks = Quirks { other_limit_name, ..Quirks::default() };
        Provider {
            label: setting.label(),
            client,
            clock,
            timeout,
            places: Semaphore::new(setting.concurrency),
            running: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            state: Mutex::new(State { quirks, ..State::default() }),
            setting,
        }
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn setting(&self) -> &ModelSetting {
        &self.setting
    }

    /// Its load and limits, as far as they are known.
    pub(crate) fn load(&self) -> ModelLoad {
        let now = self.clock.now();
        let ProviderLimits { requests, tokens } = self.lock().limits.at(now);
        let (running, queue) = (self.running.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed));
        ModelLoad { model: self.label.clone(), running, queue, requests, tokens, ..ModelLoad::default() }
    }

    /// What a person has to see to: a key that is not taken.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().away.as_ref().filter(|away| away.kind == Kind::Unauthorised).map(|away| away.message.clone())
    }

    pub(crate) async fn ask(&self, meter: &Meter, ask: &Ask) -> Result<Said, ModelFailure> {
        let _place = self.place().await;
        if let Some(failure) = self.away() {
            return Err(failure);
        }
        let _running = Counted::new(&self.running);
        let expected = estimate::input(ask);
        let likely = Tokens { input: Some(expected), output: Some(ask.output_tokens_max.into()), ..Tokens::default() };
        let likely = self.usage(&likely, None);
        let cost = likely.cost_micros;
        let Some(mut hold) = meter.hold(likely).await else {
            let message = format!(
                "{} was not asked: the run may not use {expected} tokens and an answer, likely {cost} micros, more",
                self.label
            );
            return Err(ModelFailure::OverBudget { message });
        };
        let answered = match &self.setting.reached {
            Reached::Http { dialect, base, key } => self.http(*dialect, base, key.as_ref(), ask, &mut hold).await,
            Reached::Command { program, arguments, environment } => {
                let name = &self.setting.name;
                let program = Program { name, program, arguments, environment, timeout: self.timeout };
                self.command(&program, ask, &mut hold).await
            }
        };
        match answered {
            Ok((Answer { text, calls, stop, tokens: _ }, usage)) => {
                debug!(model = %self.label, input_tokens = usage.input_tokens, output_tokens = usage.output_tokens, "model answered");
                self.lock().away.take_if(|away| away.kind == Kind::Unauthorised);
                Ok(Said { text, calls, stop, usage, model: self.label.clone() })
            }
            Err(fault) => Err(self.failure(fault, &HeaderMap::new())),
        }
    }

    async fn place(&self) -> SemaphorePermit<'_> {
        if let Ok(place) = self.places.try_acquire() {
            return place;
        }
        let _waiting = Counted::new(&self.waiting);
        self.places.acquire().await.expect("it is never closed")
    }

    /// Why it is not to be asked at this moment.
    fn away(&self) -> Option<ModelFailure> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.away.take_if(|away| away.until <= now);
        // A limit that headers show as used up is none yet: some providers say when all of it is there again, not the next part.
        let Away { until, kind, message } = state.away.clone()?;
        Some(kind.failure(until, message))
    }

    async fn http(
        &self,
        dialect: Dialect,
        base: &Target,
        key: Option<&Secret>,
        ask: &Ask,
        hold: &mut Hold,
    ) -> Result<(Answer, Usage), Fault> {
        let headers =
            dialect.headers(key).map_err(|_| Fault::new(Kind::Unauthorised, "its key holds a strange letter"))?;
        let mut rewordings = 0;
        loop {
            let quirks = self.lock().quirks;
            let Encoded { path, body } = dialect.encode(&self.setting.name, ask, quirks);
            let target = base.join(&path).map_err(|_| Fault::new(Kind::Rejected, "its name makes no address"))?;
            let request = Request {
                headers: headers.clone(),
                body: body.to_string().into(),
                timeout: self.timeout,
                answer_max: STREAM_MAX,
                ..Request::new(Method::POST, target)
            };
            let mut opened = self.client.open(request).await.map_err(|error| unreached(&error))?;
            let now = self.clock.now();
            let limits = ProviderLimits::read(&opened.headers, now);
            {
                let mut state = self.lock();
                state.limits = limits.or(state.limits);
            }
            if opened.status.is_success() {
                return self.hear(dialect, opened, ask, hold).await;
            }
            let body = self.refusal(&mut opened.body).await;
            let fault = dialect.refusal(opened.status, &body);
            if fault.kind == Kind::Rejected
                && rewordings < REWORDINGS_MAX
                && let Some(learnt) = quirks.learn(ask, &fault.words)
            {
                debug!(model = %self.label, why = fault.words, "request put in other words");
                rewordings += 1;
                self.lock().quirks = learnt;
                continue;
            }
            if matches!(fault.kind, Kind::RateLimited | Kind::Overloaded) {
                opened.headers.entry(RETRY_AFTER).or_insert_with(|| retry_in(&body));
            }
            self.note(&fault, &opened.headers);
            return Err(fault);
        }
    }

    async fn refusal(&self, body: &mut Incoming) -> Bytes {
        let mut whole = Vec::new();
        let read = async {
            while let Ok(Some(piece)) = body.next().await {
                whole.extend_from_slice(&piece);
                if whole.len() >= REFUSAL_MAX {
                    whole.truncate(REFUSAL_MAX);
                    break;
                }
            }
        };
        // What it says is worth some seconds, not all that an answer may take.
        let _ = timeout(self.timeout.min(Duration::from_secs(10)), read).await;
        whole.into()
    }

    async fn hear(
        &self,
        dialect: Dialect,
        opened: Opened,
        ask: &Ask,
        hold: &mut Hold,
    ) -> Result<(Answer, Usage), Fault> {
        let Opened { status: _, headers: _, mut body } = opened;
        let (expected, until) = (estimate::input(ask), Instant::now() + self.timeout * WHOLE);
        let usage = |heard: &Heard| self.usage(&counted(expected, heard), None);
        let mut hearing = Hearing::new(dialect);
        hold.known(usage(hearing.heard()));
        loop {
            let Ok(piece) = timeout_at(until, body.next()).await else {
                return Err(Fault::new(Kind::Cut, "the answer took too long"));
            };
            match piece {
                Ok(Some(piece)) => {
                    let fed = hearing.feed(&piece);
                    hold.known(usage(hearing.heard()));
                    if let Err(fault) = fed {
                        // It failed before it said or counted anything.
                        if hearing.heard().bytes == 0 && hearing.heard().tokens == Tokens::default() {
                            hold.nothing();
                        }
                        self.note(&fault, &HeaderMap::new());
                        return Err(fault);
                    }
                    if hearing.ended() && dialect != Dialect::Gemini {
                        let _ = timeout(TRAILING, body.next()).await;
                        break;
                    }
                }
                Ok(None) => break,
                Err(error @ OutgoingError::TooLarge { .. }) => return Err(Fault::protocol(error.to_string())),
                // A stream whose answer was whole is not cut, whatever becomes of its connection.
                Err(_) if hearing.ended() => break,
                Err(error) => return Err(Fault::new(Kind::Cut, error.to_string())),
            }
        }
        // Where it comes to none, what was known at the last piece stays charged.
        let answer = hearing.finish(ask.messages.len())?;
        let heard = Heard { ended: true, bytes: heard_bytes(&answer), tokens: answer.tokens, ..Heard::default() };
        let usage = usage(&heard);
        hold.known(usage.clone());
        Ok((answer, usage))
    }

    async fn command(&self, program: &Program<'_>, ask: &Ask, hold: &mut Hold) -> Result<(Answer, Usage), Fault> {
        let expected = estimate::input(ask);
        hold.known(self.usage(&Tokens { input: Some(expected), ..Tokens::default() }, None));
        let failed = |fault| Printed { fault: Some(fault), ..Printed::default() };
        let Printed { text, tokens, cost_micros, fault } = program.ask(ask).await.unwrap_or_else(failed);
        if let Some(fault) = fault {
            let told = self.usage(&tokens, cost_micros);
            if told.input_tokens.max(told.output_tokens).max(told.cost_micros) > 0 {
                hold.known(told);
            } else if matches!(fault.kind, Kind::Rejected | Kind::Unauthorised | Kind::RateLimited) {
                // What was not run, or not let in, has used nothing.
                hold.nothing();
            }
            self.note(&fault, &HeaderMap::new());
            return Err(fault);
        }
        let heard = Heard { ended: true, bytes: text.len(), tokens, ..Heard::default() };
        let usage = self.usage(&counted(expected, &heard), cost_micros);
        hold.known(usage.clone());
        Ok((Answer { text, calls: Vec::new(), stop: Stop::End, tokens }, usage))
    }

    /// What so many tokens come to.
    fn usage(&self, tokens: &Tokens, cost_micros: Option<u64>) -> Usage {
        let cost = || self.setting.known.price.map_or(0, |price| price.cost_micros(tokens));
        let input_tokens = tokens.input.unwrap_or(0);
        Usage {
            // The bare name, as the control plane's prices and budgets know it.
            model: self.setting.name.clone(),
            input_tokens,
            cached_input_tokens: tokens.cached.min(input_tokens),
            output_tokens: tokens.output.unwrap_or(0),
            cost_micros: cost_micros.unwrap_or_else(cost),
            calls: 1,
        }
    }

    /// Keeps in mind that it is not to be asked for a while.
    fn note(&self, fault: &Fault, headers: &HeaderMap) {
        let now = self.clock.now();
        let until = match fault.kind {
            Kind::RateLimited => self.until(headers, now),
            Kind::Unauthorised => now + AWAY,
            _ => return,
        };
        let message = self.message(fault);
        let mut state = self.lock();
        let known = state.away.as_ref().is_some_and(|away| away.kind == fault.kind);
        if fault.kind == Kind::RateLimited {
            // When it may be asked again is what others have to know.
            let ProviderLimits { requests, tokens } = &mut state.limits;
            for limit in [requests, tokens].into_iter().flatten().filter(|limit| limit.remaining == 0) {
                limit.resets_at = Some(until);
            }
        }
        state.away = Some(Away { until, kind: fault.kind, message });
        drop(state);
        if fault.kind == Kind::Unauthorised && !known {
            warn!(model = %self.label, words = fault.words, "key of a model provider is not taken");
        }
    }

    /// When a limit ends: as the provider says, else after a minute.
    fn until(&self, headers: &HeaderMap, now: Timestamp) -> Timestamp {
        let asked = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
        let until = asked.or_else(|| self.lock().limits.at(now).used_up_until()).unwrap_or(now + AWAY);
        until.min(now + AWAY_MAX)
    }

    fn failure(&self, fault: Fault, headers: &HeaderMap) -> ModelFailure {
        let message = self.message(&fault);
        let now = self.clock.now();
        let noted = self.lock().away.as_ref().filter(|away| away.kind == fault.kind).map(|away| away.until);
        fault.kind.failure(noted.unwrap_or_else(|| self.until(headers, now)), message)
    }

    fn message(&self, fault: &Fault) -> String {
        let what = match fault.kind {
            Kind::RateLimited => "limits us",
            Kind::Overloaded => "is overloaded",
            Kind::ContextTooLong => "cannot read so much",
            Kind::Refused => "would not answer",
            Kind::Unauthorised => "does not take our key",
            Kind::Cut => "broke off",
            Kind::Invalid => "gave no usable answer",
            Kind::Rejected => "does not take the request",
            Kind::Unreachable => "did not answer",
        };
        match fault.words.is_empty() {
            true => format!("{} {what}", self.label),
            false => format!("{} {what}: {}", self.label, fault.words),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer used: as it was counted, and what was not counted by its length.
fn counted(expected: u64, heard: &Heard) -> Tokens {
    let written = estimate::of_bytes(heard.bytes);
    let output = match (heard.tokens.output, heard.ended) {
        (Some(output), true) => output,
        (output, _) => output.unwrap_or(0).max(written),
    };
    Tokens { input: Some(heard.tokens.input.unwrap_or(expected)), output: Some(output), ..heard.tokens }
}

fn heard_bytes(answer: &Answer) -> usize {
    let calls = answer.calls.iter().map(|call| call.name.len() + call.arguments.to_string().len());
    answer.text.len() + calls.sum::<usize>()
}

/// An error with all that caused it; none of it holds more of an address than its host.
fn unreached(error: &OutgoingError) -> Fault {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    Fault::new(Kind::Unreachable, brief(&words))
}

/// When to come again, as Gemini says it: in the body.
fn retry_in(body: &[u8]) -> http::HeaderValue {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let value = value.get(0).unwrap_or(&value);
    let delay =
        list(value, "/error/details").iter().map(|detail| text(detail, "/retryDelay")).find(|it| !it.is_empty());
    let seconds =
        delay.and_then(|delay| delay.strip_suffix('s')?.parse::<f64>().ok()).filter(|it| (0.0..=1e6).contains(it));
    let seconds = seconds.map(|seconds| (seconds.ceil() as u64).to_string()).unwrap_or_default();
    seconds.try_into().unwrap_or_else(|_| http::HeaderValue::from_static(""))
}
