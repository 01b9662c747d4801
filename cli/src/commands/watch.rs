//! Watches: what comes is printed one by one, and a watch that broke goes on where it was.

use std::time::Duration;

use tonic::{Status, Streaming};

use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Named, Table};

/// How long what broke waits before it goes on where it was; doubled for as long as nothing comes.
const REDIAL_FIRST: Duration = Duration::from_millis(500);
/// The longest of these waits.
const REDIAL_MAX: Duration = Duration::from_secs(4);
/// Cells are at least this wide, so that rows printed one by one mostly line up.
const CELL: usize = 14;

/// The waits of what broke before it goes on where it was.
pub(super) struct Redial(Duration);

impl Redial {
    pub(super) fn new() -> Redial {
        Redial(REDIAL_FIRST)
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(REDIAL_MAX);
    }

    /// Something came: the next break is a first one.
    pub(super) fn reset(&mut self) {
        *self = Redial::new();
    }
}

/// Prints things as they come; the heading stands above the first.
pub(super) struct Printed<'a, M> {
    global: &'a Global,
    table: fn() -> Table,
    row: fn(&M) -> Vec<String>,
    headed: bool,
}

impl<'a, M: Named> Printed<'a, M> {
    pub(super) fn new(global: &'a Global, table: fn() -> Table, row: fn(&M) -> Vec<String>) -> Printed<'a, M> {
        Printed { global, table, row, headed: false }
    }

    fn one(&mut self, item: &M) {
        if self.global.output.is_json() {
            return render::print_json_line(&render::json(item));
        }
        let mut one = (self.table)();
        one.row((self.row)(item).iter().map(|cell| format!("{cell:<CELL$}")).collect());
        let text = one.text();
        let (heading, line) = text.split_once('\n').unwrap_or(("", &text));
        if !self.headed {
            self.headed = true;
            render::print(heading);
        }
        render::print(line);
    }
}

/// Follows a watch from a sequence on, until so many came; 0 is without end. `part` is the sequence of a message, 0 where it has none,
/// and what it carries.
pub(super) async fn follow<R, M: Named>(
    client: &Client,
    (from, limit): (u64, u64),
    open: impl AsyncFn(u64) -> Result<Streaming<R>, Status>,
    part: fn(R) -> (u64, Option<M>),
    mut printed: Printed<'_, M>,
) -> Result<(), Failure> {
    let (mut from_seq, mut seen) = (from, 0_u64);
    let (mut redial, mut opened) = (Redial::new(), false);
    loop {
        let mut stream = match open(from_seq).await {
            Ok(stream) => stream,
            // Only what broke with a place to go on from is opened again.
            Err(status) if opened && Client::is_passing(&status) => {
                redial.wait().await;
                continue;
            }
            Err(status) => return Err(client.failed()(status)),
        };
        opened = true;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) if Client::is_passing(&status) && from_seq > 0 => break,
                Err(status) => return Err(client.failed()(status)),
            };
            redial.reset();
            let (seq, item) = part(message);
            if seq > 0 {
                from_seq = seq + 1;
            }
            let Some(item) = item else { continue };
            printed.one(&item);
            seen += 1;
            if limit > 0 && seen >= limit || render::is_closed() {
                return Ok(());
            }
        }
        redial.wait().await;
    }
}
