//! What a device has computed, for tests that hold work to a formula. One relaxed addition per product: nothing beside it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Weight-gradient products since a device was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many.
    pub weight_gradients: u64,
    /// Their multiply-adds.
    pub multiply_adds: u64,
}

impl std::ops::Sub for Counts {
    type Output = Counts;

    /// What was computed between two moments.
    fn sub(self, before: Counts) -> Counts {
        Counts {
            weight_gradients: self.weight_gradients - before.weight_gradients,
            multiply_adds: self.multiply_adds - before.multiply_adds,
        }
    }
}

/// The counters of a device.
#[derive(Debug, Default)]
pub(super) struct Counters {
    weight_gradients: AtomicU64,
    multiply_adds: AtomicU64,
}

impl Counters {
    pub fn add_weight_gradient(&self, multiply_adds: usize) {
        self.weight_gradients.fetch_add(1, Ordering::Relaxed);
        self.multiply_adds.fetch_add(multiply_adds as u64, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counts {
        Counts {
            weight_gradients: self.weight_gradients.load(Ordering::Relaxed),
            multiply_adds: self.multiply_adds.load(Ordering::Relaxed),
        }
    }
}
