//! The generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11).

/// A keyed, stateless random function: the same key and counter always give the same block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

/// The multipliers of the two halves.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the key grows by after each round (the golden ratio and √3 - 1).
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

impl Philox {
    /// A generator with this key.
    pub fn new(key: u64) -> Philox {
        Philox { key: [key as u32, (key >> 32) as u32] }
    }

    /// Four random words for this counter.
    #[inline]
    pub fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        self.blocks::<1>([[counter[0]], [counter[1]], [counter[2]], [counter[3]]]).map(|word| word[0])
    }

    /// N blocks at once, word by word: `blocks(counters)[word][i]` is word `word` of block `i`. The lanes are
    /// independent, so the compiler can use vectors.
    #[inline(always)]
    pub fn blocks<const N: usize>(&self, counters: [[u32; N]; 4]) -> [[u32; N]; 4] {
        let [mut c0, mut c1, mut c2, mut c3] = counters;
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            for i in 0..N {
                let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0[i]);
                let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2[i]);
                c0[i] = (p1 >> 32) as u32 ^ c1[i] ^ k0;
                c1[i] = p1 as u32;
                c2[i] = (p0 >> 32) as u32 ^ c3[i] ^ k1;
                c3[i] = p0 as u32;
            }
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
        [c0, c1, c2, c3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123 (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        let cases = [
            (0, [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (u64::MAX, [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (key, counter, expected) in cases {
            assert_eq!(Philox::new(key).block(counter), expected);
        }
    }
}
