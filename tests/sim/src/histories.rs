//! Histories: journals that a release wrote, and what they lead to, in words that outlive the code.
//!
//! `tests/histories/<release>/` holds the files of a journal and `state.txt`. Invariant: every later release reads the
//! journal and comes to the same state.

use std::fmt::Write as _;
use std::path::Path;

use mindos_core::Durable;
use mindos_core::snapshot::{Ending, Item, PhaseItem};
use mindos_journal::{EmbeddedJournal, Options, Preparation, RealDisk};
use mindos_model::Seq;

use crate::ledger::Broken;
use crate::words;

/// Kinds of records there are.
pub const KINDS: usize = 48;
/// The file that says what the journal leads to.
pub const STATE: &str = "state.txt";

/// A state in words; long lists as their length and hash.
#[must_use]
pub fn summary(durable: &Durable) -> String {
    let mut text = String::new();
    let (mut seen, mut settled) = ((0, 0), (0, 0));
    for item in durable.export() {
        // Writing to a string cannot fail.
        let _ = match item {
            Item::Header { seq, at, epoch } => writeln!(text, "state at {seq}, {at}, epoch {epoch}"),
            Item::Cluster(cluster) => writeln!(text, "cluster {}", cluster.cluster),
            Item::General(general) => writeln!(text, "general {} type {}", general.key, general.ty),
            Item::Object(object) => writeln!(text, "object {} generation {}", object.key, object.generation),
            Item::Hold(held) => writeln!(text, "hold {:?} {:?}", held.target, held.holds),
            Item::Routes { tenant, at, table } => {
                writeln!(text, "routes of {tenant} since {at}: {}", table.routes.len())
            }
            Item::Route { route, cursor, .. } => {
                let cursor = cursor.map(|key| format!(" cursor {key}")).unwrap_or_default();
                writeln!(text, "{}{cursor}", crate::script::print::route(&route))
            }
            Item::Event(event) => {
                let _ = writeln!(
                    text,
                    "event {} {} lane {} route {} accepted {} payload {}+{}",
                    event.event,
                    event.kind,
                    event.lane,
                    event.route,
                    event.accepted,
                    event.payload.seq,
                    event.payload.len
                );
                for (ordinal, delivery) in (1..).zip(&event.deliveries) {
                    let phase = match &delivery.phase {
                        PhaseItem::Waiting { not_before } => format!("waiting until {not_before}"),
                        PhaseItem::Leased { general, instance, boot, since } => {
                            format!("leased to {general} at {instance} {boot} since {since}")
                        }
                        PhaseItem::Parked { reason, since } => format!("parked {reason} since {since}"),
                        PhaseItem::Succeeded { .. } => "succeeded".to_owned(),
                        PhaseItem::Cancelled => "cancelled".to_owned(),
                    };
                    let general = delivery.general.as_ref().map(|key| format!(" for {key}")).unwrap_or_default();
                    let (token, attempts, place) = (delivery.token, delivery.attempts, delivery.place);
                    let _ =
                        writeln!(text, "  {ordinal}{general} {phase} token {token} attempts {attempts} place {place}");
                }
                Ok(())
            }
            Item::Seen { key, at, seen: event } => {
                let event = event.event.0.to_le_bytes();
                seen = (seen.0 + 1, words::hash(&[&key, &at.0.to_le_bytes(), &event]) ^ u64::rotate_left(seen.1, 7));
                Ok(())
            }
            Item::Budget(budget) => {
                writeln!(text, "budget {} {:?} level {:?}", budget.budget.name, budget.tally, budget.level)
            }
            Item::Estimate { pair, learnt } => writeln!(text, "estimate {pair:?} {learnt:?}"),
            Item::Spend { delivery, reserved, spent, accounts } => {
                writeln!(text, "spend {delivery} {reserved:?} {spent:?} {accounts:?}")
            }
            Item::Over { delivery, account, wanted, .. } => writeln!(text, "over {delivery} {account} {wanted:?}"),
            Item::Access(item) => writeln!(text, "access {item:?}"),
            Item::EffectSeries(series) => writeln!(text, "effects from {}: {:?}", series.first, series.places),
            Item::Effect(effect) => {
                let (target, attempts) = (&effect.target, effect.attempts);
                let (key, not_before, failed) = (&effect.key, effect.not_before, effect.failed);
                writeln!(text, "effect {} {key} on {target} attempts {attempts} {not_before} {failed:?}", effect.effect)
            }
            Item::EffectKey { key, at, effect } => {
                writeln!(text, "key {:016x} of {effect} since {at}", words::hash(&[&key]))
            }
            Item::EffectObserved { effect, observed } => writeln!(text, "observed of {effect}: {observed}"),
            Item::Opinion { general, version, voices } => writeln!(text, "opinion {general} {version} {voices:?}"),
            Item::Voice { voice, verdict } => {
                writeln!(text, "voice {:016x} {verdict:?}", words::hash(&[&voice]))
            }
            // Not told of by the first releases.
            Item::Settled { ending: Ending::Answered | Ending::Unanswered, .. } => Ok(()),
            Item::Settled { delivery, token, ending: Ending::Held } => {
                let text = format!("{delivery} {token}");
                settled = (settled.0 + 1, words::hash(&[text.as_bytes()]) ^ u64::rotate_left(settled.1, 7));
                Ok(())
            }
        };
    }
    let _ = writeln!(text, "{} keys known, {:016x}", seen.0, seen.1);
    let _ = writeln!(text, "{} deliveries settled lately, {:016x}", settled.0, settled.1);
    text
}

/// Replays the journal in a folder, which is changed by being opened.
///
/// # Errors
/// When it cannot be read.
pub fn replay(folder: &Path) -> Result<Durable, Broken> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to replay `{}`: {error}", folder.display());
    let disk = RealDisk::existing(folder).map_err(|error| failed(&error))?;
    let options = Options { segment_bytes: 1 << 20, preparation: Preparation::Inline, ..Options::new([7; 16]) };
    let (journal, _) = EmbeddedJournal::open(disk, options).map_err(|error| failed(&error))?;
    let mut durable = Durable::new();
    let mut tail = journal.ledger().tail(Seq(1)).map_err(|error| failed(&error))?;
    while tail.next_batch(|entry| durable.apply(&entry)).map_err(|error| failed(&error))? {}
    Ok(durable)
}
