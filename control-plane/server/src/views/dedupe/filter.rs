//! A filter over the keys of one run: says "not here" for nearly every key that is not, at one touch of memory.
//!
//! A split block filter: a key picks one block of 32 bytes and sets one bit in each of its eight words, so a question costs one
//! cache line. At 16 bits a key about one absent key in 700 is let through. Keys are cut from SHA-256, so their own bits serve.

use mindos_core::record::DedupeKey;

const BITS_PER_KEY: usize = 16;
const WORDS: usize = 8;
/// Odd multipliers, from the Parquet format, that spread 32 bits over the eight words.
const SALTS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A set of keys that is never wrong about those in it.
#[derive(Debug)]
pub(super) struct Filter {
    blocks: Vec<[u32; WORDS]>,
}

impl Filter {
    /// An empty filter that is as good as promised up to `keys` keys.
    pub(super) fn with_capacity(keys: usize) -> Filter {
        let blocks = (keys * BITS_PER_KEY).div_ceil(32 * WORDS).max(1);
        Filter { blocks: vec![[0; WORDS]; blocks] }
    }

    pub(super) fn insert(&mut self, key: &DedupeKey) {
        let probe = Probe::new(key);
        let index = probe.block(self.blocks.len());
        for (word, bit) in self.blocks[index].iter_mut().zip(probe.mask) {
            *word |= bit;
        }
    }

    /// False when the key was never inserted.
    pub(super) fn may_contain(&self, probe: &Probe) -> bool {
        let block = &self.blocks[probe.block(self.blocks.len())];
        // Without a branch for each word: most questions end here.
        block.iter().zip(probe.mask).fold(0, |missing, (word, bit)| missing | (bit & !word)) == 0
    }
}

/// What a question about a key looks for, in every filter alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    high: u32,
    mask: [u32; WORDS],
}

impl Probe {
    pub(super) fn new(key: &DedupeKey) -> Probe {
        // The first half of the key orders the run; the second one is left for the filter.
        let high = u32::from_le_bytes([key[8], key[9], key[10], key[11]]);
        let low = u32::from_le_bytes([key[12], key[13], key[14], key[15]]);
        Probe { high, mask: SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27)) }
    }

    fn block(&self, blocks: usize) -> usize {
        ((u64::from(self.high) * blocks as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    #[test]
    fn what_was_inserted_is_found_and_little_else() {
        let mut filter = Filter::with_capacity(20_000);
        (0..20_000).for_each(|number| filter.insert(&key(number)));
        assert!((0..20_000).all(|number| filter.may_contain(&Probe::new(&key(number)))));
        let wrong = (20_000..120_000).filter(|&number| filter.may_contain(&Probe::new(&key(number)))).count();
        assert!(wrong < 300, "{wrong} of 100000 were let through");
    }
}
