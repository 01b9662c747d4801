//! Chance: every draw of a run comes from its seed, in one order.

use std::time::Duration;

use mindos_core::input::Entropy;

/// The generator of a run.
#[derive(Clone, Debug)]
pub struct Chance(Entropy);

impl Chance {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Chance {
        Chance(Entropy(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x6d69_6e64))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number from `from` to `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, times: u64) -> bool {
        self.below(1000) < times
    }

    /// One of several; none of none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }

    /// A span from `from` to `to`, mostly short ones: the longer, the rarer.
    pub fn skewed(&mut self, from: u64, to: u64) -> u64 {
        let width = self.within(1, to.saturating_sub(from).max(1));
        from + self.below(width)
    }

    /// As [`Chance::within`], in milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.within(from, to))
    }
}
