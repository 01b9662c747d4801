//! `mindos top`: the fleet and its work, full screen, twice a second.
//!
//! ```text
//!   control plane --lists, metrics--> feed --Picture--> draw --> terminal
//!                                       ^                ^
//!                                     2 Hz              keys
//! ```
//! Invariant: the terminal is given back as it was, however the view ends.

mod draw;
mod feed;
mod picture;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::options::Global;
use crate::site::Site;

use feed::Feed;
pub(crate) use feed::{SETTLED, read_metrics};
use picture::{Pane, Screen};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos top
  mindos top --server http://127.0.0.1:8090 --interval 1s

Keys: q quit, tab and shift-tab or 1 to 6 change the pane, up and down move, p pauses the view, ? shows the keys.
It needs a terminal; for scripts there are `mindos generals list --output json` and the server's /metrics.";

/// How often the keyboard is looked at.
const KEYS_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often the view is renewed.
    #[arg(long, default_value = "500ms", value_parser = crate::commands::filter::span, value_name = "SPAN")]
    interval: Duration,
}

/// Shows the view until somebody quits it.
pub(crate) async fn run(args: TopArgs, global: &Global) -> Result<(), Failure> {
    // Ends here, and not on an empty screen, when nobody answers.
    let site = Site::of(global).await?;
    crate::client::Client::dial(&site).await?;
    show(&site, args.interval, &|| None).await
}

/// The view for `mindos up`; `notice` says what happened last.
pub(crate) async fn view(server: &str, notice: &dyn Fn() -> Option<String>) -> Result<(), Failure> {
    show(&Site::plain(server), Duration::from_millis(500), notice).await
}

async fn show(site: &Site, interval: Duration, notice: &dyn Fn() -> Option<String>) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage("the live view needs a terminal")
            .hint("use `mindos generals list --output json`, `mindos deliveries watch` or the server's /metrics"));
    }
    let mut feed = Feed::new(site)?;
    let mut keys = Keys::start();
    let mut terminal = ratatui::try_init().map_err(|error| Failure::world(format!("the terminal refused: {error}")))?;
    let _restore = Restore;
    let mut screen = Screen::new(&site.endpoint);
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if !screen.paused {
                    screen.take(feed.look().await);
                }
            }
            key = keys.next() => match key {
                Some(Key::Quit) | None => return Ok(()),
                Some(Key::Pause) => screen.paused = !screen.paused,
                Some(Key::Help) => screen.help = !screen.help,
                Some(Key::Next) => screen.turn(1),
                Some(Key::Previous) => screen.turn(-1),
                Some(Key::Pane(at)) => screen.pane = Pane::ALL[at.min(Pane::ALL.len() - 1)],
                Some(Key::Move(by)) => screen.scroll(by),
                Some(Key::Redraw) => {}
            },
        }
        screen.notice = notice();
        terminal
            .draw(|frame| draw::draw(frame, &screen))
            .map_err(|error| Failure::world(format!("the terminal refused: {error}")))?;
    }
}

/// Gives the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Pause,
    Help,
    Next,
    Previous,
    Pane(usize),
    Move(i16),
    Redraw,
}

/// What is typed, read on a thread of its own because reading blocks.
#[derive(Debug)]
struct Keys {
    typed: mpsc::Receiver<Key>,
    over: Arc<AtomicBool>,
}

impl Keys {
    fn start() -> Keys {
        let (sender, typed) = mpsc::channel(64);
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match event::poll(KEYS_INTERVAL) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let Ok(event) = event::read() else { return };
                if let Some(key) = meaning(&event)
                    && sender.blocking_send(key).is_err()
                {
                    return;
                }
            }
        });
        Keys { typed, over }
    }

    async fn next(&mut self) -> Option<Key> {
        self.typed.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn meaning(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else {
        return matches!(event, Event::Resize(..)).then_some(Key::Redraw);
    };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('p' | ' ') => Some(Key::Pause),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        KeyCode::Char(digit @ '1'..='6') => Some(Key::Pane(usize::from(digit as u8 - b'1'))),
        KeyCode::Tab | KeyCode::Right => Some(Key::Next),
        KeyCode::BackTab | KeyCode::Left => Some(Key::Previous),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Move(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Move(1)),
        KeyCode::PageUp => Some(Key::Move(-20)),
        KeyCode::PageDown => Some(Key::Move(20)),
        _ => None,
    }
}
