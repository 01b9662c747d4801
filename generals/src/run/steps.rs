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
use tokio::sync::mpsc;

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
    /// What calls cost whose answers were of no use later: they were asked anew, in other words.
    #[serde(default)]
    superseded: Vec<KeptUsage>,
}

/// One paid call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Call {
    step: String,
    /// SHA-256 of what was asked, in hex.
    input: String,
    output: Value,
    usage: Vec<KeptUsage>,
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

/// Who hears how far a run is.
#[derive(Debug)]
pub enum Follower {
    /// The control plane, by the run's own stream.
    Stream(Reporter),
    /// Whoever asked by `POST /process` and takes lines. Only what the run itself says waits there, and that is sent before it goes on.
    Lines(mpsc::UnboundedSender<Progress>),
}

impl Follower {
    fn tell(&self, progress: Progress) {
        match self {
            Follower::Stream(reporter) => reporter.progress(progress),
            // Who left drops the run, too.
            Follower::Lines(lines) => drop(lines.send(progress)),
        }
    }
}

/// The steps of one run.
#[derive(Debug)]
pub struct Steps {
    follower: Option<Follower>,
    meter: Meter,
    fence: Fence,
    /// What earlier attempts paid, by model.
    earlier: Vec<Usage>,
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
    pub fn new(follower: Option<Follower>, meter: Meter, checkpoint: &[u8], bits: u128) -> Steps {
        let read = serde_json::from_slice::<Checkpoint>(checkpoint).ok().filter(|read| read.v == VERSION);
        let before = read.and_then(|read| Some((Fence::again(&read.fence)?, read)));
        let (fence, before) = before.unwrap_or_else(|| (Fence::of(bits), Checkpoint::default()));
        let Checkpoint { v: _, fence: _, calls, superseded } = before;
        let mut earlier = Vec::new();
        for usage in calls.iter().flat_map(|call| &call.usage).chain(&superseded) {
            add(&mut earlier, Usage::from(usage.clone()));
        }
        let saved = Mutex::new(Checkpoint { v: VERSION, fence: fence.as_str().to_owned(), calls, superseded });
        Steps { follower, meter, fence, earlier, saved }
    }

    /// The fence of this run.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Announces a step. All steps are announced here, and only here.
    pub async fn begin(&self, name: &str) {
        if let Some(follower) = &self.follower {
            let note = name.chars().take(80).collect();
            follower.tell(Progress { note, usage: self.meter.used(), ..Progress::default() });
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
        let kept = self
            .lock()
            .calls
            .iter()
            .find(|call| call.step == step && call.input == input)
            .map(|call| call.output.clone());
        if let Some(output) = kept.and_then(|output| serde_json::from_value(output).ok()) {
            return Ok(output);
        }
        let (output, usage) = call.await?;
        let usage = usage.into_iter().map(KeptUsage::from).collect();
        if let Ok(value) = serde_json::to_value(&output) {
            self.keep(Call { step: step.to_owned(), input, output: value, usage });
        }
        Ok(output)
    }

    /// What earlier attempts paid, by model. It is not in the meter of this attempt.
    #[must_use]
    pub fn paid_earlier(&self) -> Vec<Usage> {
        self.earlier.clone()
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
            if let Some(at) = saved.calls.iter().position(|known| known.step == call.step) {
                // What rests on it is of no use either, and costs nothing to keep until it is asked anew.
                let before = saved.calls.remove(at);
                saved.superseded.extend(before.usage);
            }
            saved.calls.push(call);
        }
        if let Some(follower) = &self.follower {
            let checkpoint = self.checkpoint();
            follower.tell(Progress { usage: self.meter.used(), checkpoint, ..Progress::default() });
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

/// For tests that kill a run at each of its steps, in builds with debug assertions alone. Where `MINDOS_HOLD_DIR` names a folder, its file
/// `steps` gets the name of each step, and a run whose step stands in its file `at` makes `held` and waits until `at` names another or is gone.
#[cfg(debug_assertions)]
mod hold {
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use std::time::Duration;

    pub(super) async fn at(name: &str) {
        let Some(folder) = std::env::var_os("MINDOS_HOLD_DIR") else { return };
        let folder = Path::new(&folder);
        if let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(folder.join("steps")) {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        let is_it = || fs::read_to_string(folder.join("at")).is_ok_and(|at| at == name);
        if is_it() {
            let _ = fs::write(folder.join("held"), name);
            while is_it() {
                tokio::time::sleep(Duration::from_millis(5)).await;
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
            // Another question is another call, and what was paid stays paid.
            ask(&second, "a", "q2", &mut asked).await;
            assert_eq!((asked, second.paid_earlier()), (2, usage(5)));
            assert_eq!(steps(&second.checkpoint()).paid_earlier()[0].output_tokens, 10);
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
        for noise in [
            &b"{}"[..],
            b"\xff",
            b"{\"v\":9,\"fence\":\"0\",\"calls\":[]}",
            b"{\"v\":1,\"fence\":\"<<x\",\"calls\":[]}",
        ] {
            assert_eq!(steps(noise).fence(), &Fence::of(7));
        }
    }
}
