//! The steps of a run: named, reported, cancellable, and paid for once.
//!
//! ```text
//!   begin("reading context") ---> progress to the control plane
//!   paid("review.1", digest of the question, call) ---> the answer that an earlier attempt left, or the call's, which is then left
//! ```
//! Invariant: between two steps nothing of a run is kept but what its checkpoint says, so a run may be dropped at any await and begun again.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mindos_sdk::{Progress, Reporter, Usage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::Meter;
use crate::prompt::Fence;

/// Largest checkpoint, in bytes: what the control plane takes.
pub const CHECKPOINT_MAX: usize = 64 * 1024;
/// Version of the checkpoint's form; another one is not read.
const VERSION: u32 = 1;

/// What an attempt leaves for the next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    v: u32,
    /// The fence of the run, so that the next attempt asks the very same questions.
    fence: String,
    calls: Vec<Call>,
}

/// One paid call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Call {
    step: String,
    /// SHA-256 of what was asked, in hex.
    input: String,
    output: Value,
    usage: Vec<KeptUsage>,
    /// Whether an earlier attempt made it.
    #[serde(skip)]
    earlier: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeptUsage {
    model: String,
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    cost_micros: u64,
    calls: u32,
}

/// The steps of one run.
#[derive(Debug)]
pub struct Steps {
    reporter: Option<Reporter>,
    meter: Meter,
    fence: Fence,
    saved: Mutex<Checkpoint>,
}

impl Steps {
    /// Steps of a run that nobody follows: no checkpoint, no progress.
    #[must_use]
    pub fn alone(meter: Meter, bits: u128) -> Steps {
        Steps::new(None, meter, &[], bits)
    }

    /// Steps of a run that reports, from the checkpoint that the attempt before left. `bits` are for the fence of a first attempt.
    #[must_use]
    pub fn new(reporter: Option<Reporter>, meter: Meter, checkpoint: &[u8], bits: u128) -> Steps {
        let read = serde_json::from_slice::<Checkpoint>(checkpoint).ok().filter(|read| read.v == VERSION);
        let before = read.and_then(|read| Some((Fence::again(&read.fence)?, read.calls)));
        let (fence, mut calls) = before.unwrap_or_else(|| (Fence::of(bits), Vec::new()));
        for call in &mut calls {
            call.earlier = true;
        }
        let saved = Mutex::new(Checkpoint { v: VERSION, fence: fence.as_str().to_owned(), calls });
        Steps { reporter, meter, fence, saved }
    }

    /// The fence of this run.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Announces a step. All steps are announced here, and only here.
    pub async fn begin(&self, name: &str) {
        if let Some(reporter) = &self.reporter {
            let note = name.chars().take(80).collect();
            reporter.progress(Progress { note, usage: self.meter.used(), ..Progress::default() });
        }
        #[cfg(debug_assertions)]
        hold::at(name).await;
    }

    /// The output of a call that costs: what an earlier attempt left for the same step and question, else the call's own, which is left for
    /// the next attempt. The call says what it used, for the record; it has told the meter itself.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn paid<T, E, F>(&self, step: &str, question: &impl Serialize, call: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<(T, Vec<Usage>), E>>,
    {
        let input = digest(question);
        let kept = self.lock().calls.iter().find(|call| call.step == step && call.input == input).map(|call| call.output.clone());
        if let Some(output) = kept.and_then(|output| serde_json::from_value(output).ok()) {
            return Ok(output);
        }
        let (output, usage) = call.await?;
        let usage = usage.into_iter().map(KeptUsage::from).collect();
        if let Ok(value) = serde_json::to_value(&output) {
            self.keep(Call { step: step.to_owned(), input, output: value, usage, earlier: false });
        }
        Ok(output)
    }

    /// What earlier attempts paid for and this one uses, by model. It is not in the meter of this attempt.
    #[must_use]
    pub fn paid_earlier(&self) -> Vec<Usage> {
        let saved = self.lock();
        let earlier = saved.calls.iter().filter(|call| call.earlier).flat_map(|call| call.usage.iter().cloned());
        let mut sums: Vec<Usage> = Vec::new();
        for usage in earlier.map(Usage::from) {
            add(&mut sums, usage);
        }
        sums
    }

    /// What the run has used in all its attempts, by model.
    #[must_use]
    pub fn used_in_all(&self) -> Vec<Usage> {
        let mut sums = self.meter.used();
        for usage in self.paid_earlier() {
            add(&mut sums, usage);
        }
        sums
    }

    /// The state for the next attempt: as many calls as fit, those first that were made first, for what came later rests on them.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let saved = self.lock();
        let mut checkpoint = Checkpoint { calls: Vec::new(), ..saved.clone() };
        let mut bytes = serde_json::to_vec(&checkpoint).unwrap_or_default();
        for call in &saved.calls {
            checkpoint.calls.push(call.clone());
            match serde_json::to_vec(&checkpoint) {
                Ok(longer) if longer.len() <= CHECKPOINT_MAX => bytes = longer,
                // A shorter one behind it may fit still.
                Ok(_) | Err(_) => drop(checkpoint.calls.pop()),
            }
        }
        bytes
    }

    fn keep(&self, call: Call) {
        {
            let mut saved = self.lock();
            saved.calls.retain(|known| known.step != call.step);
            saved.calls.push(call);
        }
        if let Some(reporter) = &self.reporter {
            let checkpoint = self.checkpoint();
            reporter.progress(Progress { usage: self.meter.used(), checkpoint, ..Progress::default() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Checkpoint> {
        // Nothing in it is left half done by a panic.
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to the sums by model.
pub(crate) fn add(sums: &mut Vec<Usage>, usage: Usage) {
    match sums.iter_mut().find(|sum| sum.model == usage.model) {
        Some(sum) => {
            sum.input_tokens = sum.input_tokens.saturating_add(usage.input_tokens);
            sum.cached_input_tokens = sum.cached_input_tokens.saturating_add(usage.cached_input_tokens);
            sum.output_tokens = sum.output_tokens.saturating_add(usage.output_tokens);
            sum.cost_micros = sum.cost_micros.saturating_add(usage.cost_micros);
            sum.calls = sum.calls.saturating_add(usage.calls);
        }
        None => sums.push(usage),
    }
}

/// SHA-256 of a question's JSON, in hex.
fn digest(question: &impl Serialize) -> String {
    let json = serde_json::to_vec(question).unwrap_or_default();
    Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl From<Usage> for KeptUsage {
    fn from(usage: Usage) -> KeptUsage {
        let Usage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = usage;
        KeptUsage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls }
    }
}

impl From<KeptUsage> for Usage {
    fn from(kept: KeptUsage) -> Usage {
        let KeptUsage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls } = kept;
        Usage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls }
    }
}

/// For tests that kill a run at each of its steps, in builds with debug assertions alone: `MINDOS_STEPS_FILE` gets the name of each step,
/// and at the step `MINDOS_HOLD_AT` the run writes its process id to `MINDOS_HOLD_DIR/<step>` and waits for `MINDOS_HOLD_DIR/go`.
#[cfg(debug_assertions)]
mod hold {
    use std::io::Write;
    use std::path::Path;
    use std::time::Duration;

    pub(super) async fn at(name: &str) {
        if let Some(file) = std::env::var_os("MINDOS_STEPS_FILE")
            && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(file)
        {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        let is_it = std::env::var("MINDOS_HOLD_AT").is_ok_and(|at| at == name);
        if let Some(folder) = std::env::var_os("MINDOS_HOLD_DIR").filter(|_| is_it) {
            let folder = Path::new(&folder);
            let _ = std::fs::write(folder.join(name), std::process::id().to_string());
            while !folder.join("go").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mindos_sdk::Ceilings;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn steps(checkpoint: &[u8]) -> Steps {
        Steps::new(None, Meter::own(Ceilings::default()), checkpoint, 7)
    }

    fn usage(tokens: u64) -> Vec<Usage> {
        vec![Usage { model: "m".into(), output_tokens: tokens, cost_micros: 2 * tokens, calls: 1, ..Usage::default() }]
    }

    async fn ask(steps: &Steps, step: &str, question: &str, asked: &mut u32) -> String {
        let call = async {
            *asked += 1;
            Ok::<_, ()>((format!("answer to {question}"), usage(5)))
        };
        steps.paid(step, &question, call).await.unwrap()
    }

    #[test]
    fn what_was_paid_for_is_not_paid_again_by_the_next_attempt() {
        block_on(async {
            let mut asked = 0;
            let first = steps(b"");
            ask(&first, "a", "q", &mut asked).await;
            ask(&first, "a", "q", &mut asked).await;
            assert_eq!((asked, first.paid_earlier()), (1, vec![]));

            let second = steps(&first.checkpoint());
            assert_eq!(second.fence(), first.fence());
            assert_eq!(ask(&second, "a", "q", &mut asked).await, "answer to q");
            assert_eq!((asked, second.paid_earlier()), (1, usage(5)));
            // Another question is another call.
            ask(&second, "a", "q2", &mut asked).await;
            assert_eq!((asked, second.paid_earlier()), (2, vec![]));
        });
    }

    #[test]
    fn a_checkpoint_keeps_to_its_size_and_noise_is_no_checkpoint() {
        block_on(async {
            let large = steps(b"");
            let mut asked = 0;
            ask(&large, "a", "q", &mut asked).await;
            let call = async { Ok::<_, ()>(("x".repeat(CHECKPOINT_MAX), vec![])) };
            large.paid("b", &"q", call).await.unwrap();
            ask(&large, "c", "q", &mut asked).await;
            let checkpoint = large.checkpoint();
            assert!(checkpoint.len() <= CHECKPOINT_MAX);
            let after = steps(&checkpoint);
            ask(&after, "a", "q", &mut asked).await;
            ask(&after, "c", "q", &mut asked).await;
            assert_eq!(asked, 2);
        });
        for noise in [&b"{}"[..], b"\xff", b"{\"v\":9,\"fence\":\"0\",\"calls\":[]}", b"{\"v\":1,\"fence\":\"<<x\",\"calls\":[]}"] {
            assert_eq!(steps(noise).fence(), &Fence::of(7));
        }
    }
}
