//! A random permutation that is a function: any place of any epoch's order is computed alone, so nothing is replayed on
//! resume. A balanced Feistel network over the smallest even-width power of two, walked until it lands inside the range
//! (Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Not for cryptography.

/// A permutation of `0..len`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    len: u64,
    /// Bits of half a word of the network.
    half: u32,
    keys: [u64; 6],
}

/// The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Permutation {
    /// The permutation of `0..len` for a key; `purpose` tells the permutations of one (seed, epoch) apart.
    pub(super) fn new(len: usize, seed: u64, epoch: u64, purpose: u64) -> Permutation {
        let step = 0x9e37_79b9_7f4a_7c15u64;
        let key = [epoch, purpose]
            .iter()
            .fold(mix(seed ^ step), |key, &x| mix(key.wrapping_mul(step) ^ mix(x.wrapping_add(step))));
        let keys = std::array::from_fn(|round| mix(key.wrapping_add(step.wrapping_mul(round as u64 + 1))));
        let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
        Permutation { len: len as u64, half: bits.div_ceil(2).max(1), keys }
    }

    /// What stands at this place. Panics if `place` is out of range.
    pub(super) fn at(&self, place: usize) -> usize {
        assert!((place as u64) < self.len, "place {place} of {}", self.len);
        let mask = (1u64 << self.half) - 1;
        let mut x = place as u64;
        loop {
            let (mut left, mut right) = (x >> self.half, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right.wrapping_add(key)) & mask));
            }
            x = (left << self.half) | right;
            if x < self.len {
                return x as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutes_every_length() {
        for len in (1..70).chain([255, 256, 257, 4097]) {
            let order = Permutation::new(len, 3, 5, 0);
            let mut seen: Vec<usize> = (0..len).map(|i| order.at(i)).collect();
            seen.sort();
            assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }
    }

    /// Every place is taken about equally often by each of 16 items over 8,000 epochs: chi squared of 15 degrees of
    /// freedom below 44.3 (1 in 10,000) at each place.
    #[test]
    fn is_uniform_in_each_place() {
        let epochs = 8000;
        for place in 0..16 {
            let mut counts = [0f64; 16];
            for epoch in 0..epochs {
                counts[Permutation::new(16, 1, epoch, 0).at(place)] += 1.0;
            }
            let expected = epochs as f64 / 16.0;
            let chi_squared: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            assert!(chi_squared < 44.3, "place {place}: {counts:?}, chi squared {chi_squared}");
        }
    }
}
