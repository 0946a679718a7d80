//! The CPU as kernels see it: a SIMD level and a thread pool of its own.
//!
//! Work is cut into tasks by shape, never by the number of threads, so the bits of a result do not depend on it.

use std::sync::Arc;

use rayon::prelude::*;

use super::counts::{Counters, Counts};
use super::{DisjointSlice, Level, Products, RuntimeError};

/// A CPU device: which kernels run and on which threads. Cloning shares the pool and the counters.
#[derive(Clone)]
pub struct Cpu {
    level: Level,
    products: Products,
    pool: Arc<rayon::ThreadPool>,
    counters: Arc<Counters>,
}

impl Cpu {
    /// A device with its own pool of `threads` workers (0: as many as the machine has cores).
    ///
    /// # Errors
    /// When the processor lacks the level or the threads cannot be started.
    pub fn new(level: Level, threads: usize) -> Result<Cpu, RuntimeError> {
        let level = level.check()?;
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("statetune-{i}"))
            .build()
            .map_err(|e| RuntimeError::ThreadPool { threads, reason: e.to_string() })?;
        Ok(Cpu { level, products: Products::default(), pool: Arc::new(pool), counters: Arc::default() })
    }

    /// The fastest level on all cores.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn best() -> Result<Cpu, RuntimeError> {
        Cpu::new(Level::best(), 0)
    }

    /// The same device with dense products in this precision.
    ///
    /// # Errors
    /// When the processor cannot, at this level.
    pub fn with_products(self, products: Products) -> Result<Cpu, RuntimeError> {
        match products.is_available(self.level) {
            true => Ok(Cpu { products, ..self }),
            false => Err(RuntimeError::ProductsUnavailable { wanted: products, level: self.level }),
        }
    }

    /// What the operands of dense products are rounded to.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The SIMD level in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The number of worker threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// What it has computed so far.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Counts a weight-gradient product.
    pub(crate) fn count_weight_gradient(&self, multiply_adds: usize) {
        self.counters.add_weight_gradient(multiply_adds);
    }

    /// Calls `task(0..tasks)`, each once, in any order and on any worker. Tasks must write disjoint memory.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.threads() == 1 {
            (0..tasks).for_each(task);
        } else {
            self.pool.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(&task));
        }
    }

    /// Calls `task(i, chunk)` for the chunks of `slice`, `size` elements each but for the last.
    pub fn for_each_chunk<T: Send>(&self, slice: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let len = slice.len();
        let slice = DisjointSlice::new(slice);
        self.for_each(len.div_ceil(size.max(1)), |i| {
            // SAFETY: chunk i belongs to task i alone.
            task(i, unsafe { slice.range_mut(i * size..len.min((i + 1) * size)) });
        });
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let products = if self.products == Products::F32 { "" } else { ", bf16 products" };
        write!(f, "cpu({}{products}, {} threads)", self.level, self.threads())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 7] {
            let cpu = Cpu::new(Level::Portable, threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            cpu.for_each(100, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let cpu = Cpu::new(Level::Portable, 2).unwrap();
        let mut x = [0; 10];
        cpu.for_each_chunk(&mut x, 4, |i, chunk| chunk.fill(i + 1));
        assert_eq!(x, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
        cpu.for_each_chunk(&mut [0; 0], 4, |_, _| unreachable!("nothing to do"));
    }
}
