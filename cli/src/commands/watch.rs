//! Watches: what comes is printed one by one, and a watch that broke goes on where it was.

use std::time::Duration;

use tonic::{Status, Streaming};

use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Named, Table};

/// How long what broke waits before it goes on where it was.
pub(super) const REDIAL_AFTER: Duration = Duration::from_millis(500);
/// Cells are at least this wide, so that rows printed one by one mostly line up.
const CELL: usize = 14;

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
    loop {
        let mut stream = open(from_seq).await.map_err(client.failed())?;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) if Client::is_passing(&status) && from_seq > 0 => break,
                Err(status) => return Err(client.failed()(status)),
            };
            let (seq, item) = part(message);
            if seq > 0 {
                from_seq = seq + 1;
            }
            let Some(item) = item else { continue };
            printed.one(&item);
            seen += 1;
            if limit > 0 && seen >= limit {
                return Ok(());
            }
        }
        tokio::time::sleep(REDIAL_AFTER).await;
    }
}
