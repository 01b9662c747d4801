//! Decisions: which records follow from an input, and what is answered.
//!
//! Pure: nothing here changes the state, reads a clock or draws chance that was not handed in.

use mindos_model::Timestamp;
use smallvec::{SmallVec, smallvec};

use crate::durable::Durable;
use crate::input::{Entropy, Input, RequestId, SessionId};
use crate::output::{Output, PlaneMessage, Rejection, Reply};
use crate::plane::Limits;
use crate::record::{JournalTruncated, PayloadCarried, PrefixDropped, Record};
use crate::soft::Soft;

/// What follows from one input. Mostly one record and one output, which need no memory of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    pub(crate) records: SmallVec<[Record; 1]>,
    pub(crate) outputs: SmallVec<[Output; 1]>,
}

/// What a decision rests on besides the durable state.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) soft: &'a Soft,
    pub(crate) limits: &'a Limits,
    pub(crate) now: Timestamp,
    pub(crate) entropy: Entropy,
}

impl Decision {
    pub(crate) fn reply(request: RequestId, reply: Result<Reply, Rejection>) -> Decision {
        Decision { records: SmallVec::new(), outputs: smallvec![Output::Reply { request, reply: Box::new(reply) }] }
    }

    pub(crate) fn send(session: SessionId, message: PlaneMessage) -> Decision {
        Decision { records: SmallVec::new(), outputs: smallvec![Output::Send { session, message }] }
    }

    pub(crate) fn with(mut self, record: Record) -> Decision {
        self.records.push(record);
        self
    }
}

impl Durable {
    pub(crate) fn decide(&self, input: Input, context: Context<'_>) -> Decision {
        match input {
            Input::Publish { request, event } => self.publish(request, *event, context),
            Input::Hello(hello) => self.hello(*hello, context),
            Input::Agent { session, message } => self.agent(session, message, context),
            Input::Closed { session: _ } | Input::KeepPools { tenant: _, pools: _ } => Decision::default(),
            Input::Cancel { request, tenant, select, why, by } => {
                self.cancel(request, &tenant, &select, (&why, &by), context)
            }
            Input::Redrive { request, tenant, select, why, by } => {
                self.redrive(request, &tenant, &select, (&why, &by), context)
            }
            Input::Hold { request, tenant, target, end, begin, why, by, from } => {
                self.hold(request, tenant, target, (end, begin), (why, by, from), context)
            }
            Input::ApplyRoutes { request, tenant, table, expected, by, from } => {
                self.apply_routes(request, tenant, table, expected, (by, from))
            }
            Input::RemoveGeneral { request, key, by, from } => self.remove_general(request, key, (by, from), context),
            Input::Budget { request, tenant, change, by, from } => {
                self.change_budget(request, tenant, change, (by, from))
            }
            Input::Object { request, change, by, from } => self.change_object(request, *change, (by, from), context),
            Input::FinalizeUpgrade { request, version, by, from } => {
                self.finalize_upgrade(request, version, (by, from))
            }
            Input::Access { request, within, change, by, from } => {
                self.change_access(request, within, *change, (by, from), context.now)
            }
            Input::Join(join) => self.join(*join, context.now),
            Input::Redact { request, tenant, events, why, by, from } => {
                self.redact(request, tenant, events, why, (by, from), context)
            }
            Input::Query { request, tenant, query } => self.query(request, &tenant, query, context),
            Input::Effect { effect, report } => self.effect_report(effect, report, context),
            Input::ChangeEffect { request, tenant, effect, change, by, from } => {
                self.change_effect(request, &tenant, effect, change, (by, from), context)
            }
            Input::Intend { tenant, event, part, intents } => self.intend(tenant, event, part, intents),
            Input::Carry { event, effect: Some(effect), payload } => match self.effects.is_open(effect) {
                true => {
                    let record = PayloadCarried { event, effect: Some(effect), payload };
                    Decision::default().with(Record::PayloadCarried(record))
                }
                false => Decision::default(),
            },
            Input::Carry { event, effect: None, payload } => match self.events.get(event) {
                // A copy that was read before it was redacted.
                Some(known) if known.is_redacted() => Decision::default(),
                Some(_) => {
                    let record = PayloadCarried { event, effect: None, payload };
                    Decision::default().with(Record::PayloadCarried(record))
                }
                None => Decision::default(),
            },
            Input::DropPrefix { request, through, link } => {
                let mut decision = Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }));
                decision.outputs.push(Output::DropPrefix { through });
                decision.with(Record::PrefixDropped(PrefixDropped { through, link }))
            }
            Input::Truncated { kept, dropped_through } => {
                let record = JournalTruncated { kept, dropped_through };
                Decision::default().with(Record::JournalTruncated(record))
            }
        }
    }
}
