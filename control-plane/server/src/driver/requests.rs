//! Requests on their way through the plane: who gets which reply.
//!
//! A batch has one slot, whatever its size: its replies are counted down and handed over together. Invariant: the plane
//! answers each request once, so a slot is free again after its last reply.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mindos_core::input::RequestId;
use mindos_core::output::{Rejection, Reply};
use tokio::sync::oneshot;

/// What the plane said to one request.
pub type Answer = Result<Reply, Rejection>;

/// Requests in one batch.
pub(crate) const BATCH_REQUESTS_MAX: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 10;

#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    /// Tells a slot's uses apart.
    round: u32,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<Answer>),
    Many { left: usize, answers: Vec<Option<Answer>>, done: oneshot::Sender<Vec<Answer>> },
}

impl Requests {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    pub(crate) fn one(&mut self) -> (RequestId, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (self.insert(Waiting::One(sender)), receiver)
    }

    /// A slot for `count` requests, named by the first one's id and those right behind it; 1 to [`BATCH_REQUESTS_MAX`].
    pub(crate) fn many(&mut self, count: usize) -> (RequestId, oneshot::Receiver<Vec<Answer>>) {
        let (done, receiver) = oneshot::channel();
        let answers = std::iter::repeat_with(|| None).take(count).collect();
        (self.insert(Waiting::Many { left: count, answers, done }), receiver)
    }

    fn insert(&mut self, waiting: Waiting) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot { round: 0, waiting: None });
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut self.entries[index as usize];
        slot.waiting = Some(waiting);
        // Rounds have 22 bits: far more than uses of a slot while one of its replies is under way.
        RequestId(u64::from(slot.round) << 42 | u64::from(index) << PLACE_BITS)
    }

    /// Hands a reply to whoever waits; a reply nobody waits for is dropped.
    pub(crate) fn complete(&mut self, request: RequestId, answer: Answer) {
        let place = (request.0 & (BATCH_REQUESTS_MAX as u64 - 1)) as usize;
        let index = (request.0 >> PLACE_BITS) as u32;
        let round = (request.0 >> 42) as u32;
        let Some(slot) = self.entries.get_mut(index as usize).filter(|slot| slot.round == round) else { return };
        match slot.waiting.take() {
            None => {}
            Some(Waiting::One(sender)) => {
                let _ = sender.send(answer);
                self.release(index);
            }
            Some(Waiting::Many { mut left, mut answers, done }) => {
                if let Some(empty) = answers.get_mut(place).filter(|answer| answer.is_none()) {
                    *empty = Some(answer);
                    left -= 1;
                }
                if left > 0 {
                    slot.waiting = Some(Waiting::Many { left, answers, done });
                } else {
                    let _ = done.send(answers.into_iter().flatten().collect());
                    self.release(index);
                }
            }
        }
    }

    /// Gives up a slot whose requests were never offered.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        self.release((request.0 >> PLACE_BITS) as u32);
    }

    fn release(&mut self, index: u32) {
        if let Some(slot) = self.entries.get_mut(index as usize) {
            slot.waiting = None;
            slot.round = (slot.round + 1) & 0x3f_ffff;
            self.free.push(index);
        }
    }

    /// Slots that are taken.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.entries.iter().filter(|slot| slot.waiting.is_some()).count()
    }

    /// Turns all who wait away: their receivers see the channel closed.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;

    fn done(at: u64) -> Answer {
        Ok(Reply::Done { at: Seq(at) })
    }

    fn at(answer: &Answer) -> u64 {
        match answer {
            Ok(Reply::Done { at }) => at.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_of_a_batch_come_together_in_their_order() {
        let requests = Requests::default();
        let (first, mut receiver) = requests.lock().many(3);
        for place in [2, 0, 1] {
            assert!(receiver.try_recv().is_err());
            requests.lock().complete(RequestId(first.0 + place), done(place + 10));
        }
        let answers: Vec<u64> = receiver.try_recv().unwrap().iter().map(at).collect();
        assert_eq!(answers, [10, 11, 12]);
    }

    #[test]
    fn a_late_reply_does_not_reach_the_slots_next_user() {
        let requests = Requests::default();
        let (old, _) = requests.lock().one();
        requests.lock().complete(old, done(1));
        let (new, mut receiver) = requests.lock().one();
        assert_ne!(old, new);
        requests.lock().complete(old, done(2));
        assert!(receiver.try_recv().is_err());
        requests.lock().complete(new, done(3));
        assert_eq!(at(&receiver.try_recv().unwrap()), 3);
    }
}
