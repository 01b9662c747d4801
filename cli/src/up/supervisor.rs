//! Keeps processes running: started again when they die, ended in order when all is to end.
//!
//! ```text
//!   starting --> running --died--> waiting (100 ms, doubled up to 10 s, anew after 30 s of life) --> starting
//!                   |
//!                  stop --> SIGTERM --> ended, or SIGKILL when the grace is over
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::{Part, Process};
use crate::process::{self, Log};
use crate::render;

/// First wait before a restart.
const RESTART_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A process that lived this long starts again with the first wait.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a part may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Notices that are kept for who looks later.
const NOTICES_MAX: usize = 200;

/// What happened to processes, for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    lines: Rc<RefCell<VecDeque<String>>>,
    /// Whether lines are printed as they come.
    quiet: bool,
    restarts: Rc<RefCell<u64>>,
}

impl Notices {
    pub(crate) fn new(quiet: bool) -> Notices {
        Notices { quiet, ..Notices::default() }
    }

    pub(crate) fn say(&self, line: String) {
        if !self.quiet {
            let at = crate::commands::filter::now().to_string();
            render::say(&format!("{at} {line}"));
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() == NOTICES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last line.
    pub(crate) fn last(&self) -> Option<String> {
        self.lines.borrow().back().cloned()
    }

    /// How many processes were started again.
    pub(crate) fn restarts(&self) -> u64 {
        *self.restarts.borrow()
    }
}

/// Processes that are kept running.
#[derive(Debug)]
pub(crate) struct Supervisor {
    children: Vec<(Part, watch::Sender<Wish>, JoinHandle<()>)>,
    notices: Notices,
}

/// What a child is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    End,
    Die,
}

impl Supervisor {
    pub(crate) fn new(notices: Notices) -> Supervisor {
        Supervisor { children: Vec::new(), notices }
    }

    /// Starts all processes of a part. Must be called on the main thread within a `LocalSet`.
    pub(crate) fn start(&mut self, processes: &[Process], part: Part) {
        for process in processes.iter().filter(|process| process.part == part) {
            let (wishes, wish) = watch::channel(Wish::Run);
            let task = tokio::task::spawn_local(keep(process.clone(), wish, self.notices.clone()));
            self.children.push((part, wishes, task));
        }
    }

    /// Ends everything: sidecars first, while there is still somebody to hand work back to.
    pub(crate) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        tokio::pin!(hurry);
        for parts in [&[Part::Sidecar][..], &[Part::General, Part::ControlPlane][..]] {
            let ending: Vec<usize> =
                (0..self.children.len()).filter(|at| parts.contains(&self.children[*at].0)).collect();
            for at in &ending {
                let _ = self.children[*at].1.send(Wish::End);
            }
            for at in ending {
                let task = &mut self.children[at].2;
                tokio::select! {
                    _ = task => {}
                    () = &mut hurry => {
                        for (_, wishes, _) in &self.children {
                            let _ = wishes.send(Wish::Die);
                        }
                        for (_, _, task) in &mut self.children {
                            if !task.is_finished() {
                                let _ = task.await;
                            }
                        }
                        return;
                    }
                }
            }
        }
    }
}

async fn keep(process: Process, mut wish: watch::Receiver<Wish>, notices: Notices) {
    let Process { name, part: _, args, variables, log, pid } = process;
    let mut wait = RESTART_MIN;
    while *wish.borrow() == Wish::Run {
        let started = Instant::now();
        match process::start(&args, &variables, &Log::File(&log)) {
            Ok(mut child) => {
                let id = child.id().unwrap_or_default();
                if let Err(error) = std::fs::write(&pid, format!("{id}\n")) {
                    notices.say(format!("{name}: cannot write {}: {error}", pid.display()));
                }
                let ended = tokio::select! {
                    ended = child.wait() => Some(ended),
                    _ = wish.wait_for(|wish| *wish != Wish::Run) => None,
                };
                let Some(ended) = ended else {
                    return end(&mut child, &mut wish).await;
                };
                let how = ended.map_or_else(|error| error.to_string(), describe);
                if started.elapsed() >= HEALTHY_AFTER {
                    wait = RESTART_MIN;
                }
                notices.say(format!("{name} {how}; starting it again in {} ms", wait.as_millis()));
            }
            Err(failure) => notices.say(format!("{name}: {failure}; trying again in {} ms", wait.as_millis())),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = wish.wait_for(|wish| *wish != Wish::Run) => return,
        }
        *notices.restarts.borrow_mut() += 1;
        wait = (wait * 2).min(RESTART_MAX);
    }
}

async fn end(child: &mut tokio::process::Child, wish: &mut watch::Receiver<Wish>) {
    if *wish.borrow() == Wish::End {
        process::terminate(child);
        let over = tokio::select! {
            _ = child.wait() => true,
            () = tokio::time::sleep(GRACE) => false,
            _ = wish.wait_for(|wish| *wish == Wish::Die) => false,
        };
        if over {
            return;
        }
    }
    let _ = child.kill().await;
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
