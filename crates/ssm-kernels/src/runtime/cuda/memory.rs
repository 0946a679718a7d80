//! Device memory: two pools of places, who works with the second, and what is taken from the driver and given back.

use std::collections::HashSet;

use cudarc::driver::{result, sys};

use super::arena::Arena;
use super::error::{LASTING, WORKING};
use super::one_piece::OnePiece;
use super::{Array, Bytes, CAPTURES, Cuda, CudaError, Driver, ElementType, Turn};

/// The smallest segment that is asked of the driver at once.
const SEGMENT: u64 = 4 << 20;

/// Which pool an array comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Lasting,
    Working,
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) pools: [Arena; 2],
    as_one: OnePiece,    // what the working pool would need in one piece
    exact: HashSet<u64>, // separate allocations that are not rounded: they can serve no other array
}

/// How much memory a device's arena holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes taken from the device.
    pub reserved: Bytes,
    /// The most that was in use at once, by pool: what lasts, and what a step works with.
    pub peak: [Bytes; 2],
}

impl Cuda {
    pub(super) fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // An account that panicked half way cannot be trusted.
        self.0.memory.lock().expect("an allocation panicked")
    }

    /// How much memory is held.
    pub fn memory_use(&self) -> MemoryUse {
        let memory = self.memory();
        if self.is_planning() {
            // Each pool is one endless segment.
            let peak = [0, 1].map(|i| memory.pools[i].reach().saturating_sub((i as u64 + 1) << 60));
            return MemoryUse {
                reserved: Bytes(peak.iter().sum::<u64>() as usize),
                peak: peak.map(|end| Bytes(end as usize)),
            };
        }
        let reserved: u64 = memory.pools.iter().map(Arena::reserved).sum();
        MemoryUse { reserved: Bytes(reserved as usize), peak: [0, 1].map(|i| Bytes(memory.pools[i].peak() as usize)) }
    }

    /// Counts the peaks of [`Cuda::memory_use`] anew from what is in use now.
    pub fn start_peak(&self) {
        self.memory().pools.iter_mut().for_each(Arena::start_peak);
    }

    /// Takes one piece for lasting arrays of so many bytes each, unless the pool has one free that is large enough: taken as
    /// they come, they leave a gap at the end of every segment.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn reserve_lasting(&self, arrays: impl Iterator<Item = usize>) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let size: u64 = arrays.map(Arena::rounded).sum();
        let turn = driver.bind()?;
        let mut memory = self.memory();
        if driver.separate || memory.pools[Pool::Lasting as usize].has_room(size) {
            return Ok(());
        }
        driver.segment(&turn, &mut memory, Pool::Lasting, size)
    }

    /// Takes so many bytes for the working pool in one piece: what a plan found a step to need.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn reserve_working(&self, bytes: Bytes) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let turn = driver.bind()?;
        let mut memory = self.memory();
        if memory.pools[1].reserved() >= bytes.0 as u64 || driver.separate {
            return Ok(());
        }
        driver.segment(&turn, &mut memory, Pool::Working, Arena::rounded(bytes.0))
    }

    /// Gives the working pool's segments back and takes one in which all that was done so far has room: a first step, which
    /// takes them as it goes, leaves gaps. Does nothing while something lies there or a captured graph may write there.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn consolidate_working(&self) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let _alone = self.working();
        let turn = driver.bind()?;
        let mut memory = self.memory();
        if memory.pools[1].live() > 0 || self.has_graphs() || driver.separate {
            return Ok(());
        }
        driver.release_unused(&turn, &mut memory, Pool::Working)?;
        let size = memory.as_one.size().max(Arena::rounded(0));
        driver.segment(&turn, &mut memory, Pool::Working, size)
    }

    pub(super) fn allocate(&self, element: ElementType, len: usize) -> Result<Array, CudaError> {
        self.allocate_in(if self.0.turns.works() { Pool::Working } else { Pool::Lasting }, element, len)
    }

    pub(super) fn allocate_in(&self, pool: Pool, element: ElementType, len: usize) -> Result<Array, CudaError> {
        let bytes = (len * element.bytes()).max(1);
        let size = Arena::rounded(bytes);
        let mut memory = self.memory();
        let mut found = memory.pools[pool as usize].take(size);
        if found.is_none() {
            drop(memory); // who captures has the turn and asks for memory
            let driver = self.driver().expect("a plan's segments are endless");
            let turn = driver.bind()?;
            memory = self.memory();
            found = memory.pools[pool as usize].take(size);
            if found.is_none() {
                let exact = driver.separate && !self.keeps_places();
                let least = if exact { bytes as u64 } else { size };
                let wanted = if driver.separate { least } else { size.max(SEGMENT) };
                if driver.segment(&turn, &mut memory, pool, wanted).is_err() {
                    // Segments that nobody uses may make room for one that is large enough.
                    if pool == Pool::Lasting || !self.has_graphs() {
                        driver.release_unused(&turn, &mut memory, pool)?;
                    }
                    driver.segment(&turn, &mut memory, pool, least)?;
                }
                found = memory.pools[pool as usize].take(size);
                if exact {
                    memory.exact.extend(found);
                }
            }
        }
        let pointer = found.expect("a segment of that size was just added");
        if pool == Pool::Working {
            memory.as_one.took(pointer, size);
        }
        drop(memory);
        Ok(Array::new(self.clone(), pointer, size, pool, len, element))
    }

    pub(super) fn free(&self, pool: Pool, pointer: u64, size: u64) {
        let mut memory = self.memory();
        if pool == Pool::Working {
            memory.as_one.gave_back(pointer, size);
        }
        if !memory.exact.contains(&pointer) {
            return memory.pools[pool as usize].give_back(pointer, size);
        }
        drop(memory); // who captures has the turn and asks for memory
        // What a graph may write to stays until the device goes, and on a lost device there is nothing to give back.
        if let (false, Some(driver)) = (self.keeps_places(), self.driver())
            && let Ok(turn) = driver.bind()
        {
            let mut memory = self.memory();
            memory.exact.remove(&pointer);
            memory.pools[pool as usize].give_back(pointer, size);
            let _ = driver.release_unused(&turn, &mut memory, pool);
        }
    }

    /// Whether graphs write, or are about to, to places that arrays have left.
    fn keeps_places(&self) -> bool {
        CAPTURES.with(std::cell::Cell::get) || self.has_graphs()
    }
}

impl Driver {
    /// Takes memory from the driver.
    fn segment(&self, _: &Turn<'_>, memory: &mut Memory, pool: Pool, size: u64) -> Result<(), CudaError> {
        // SAFETY: the address is kept by the arena and freed with it.
        match unsafe { result::malloc_sync(size as usize) } {
            Ok(address) => {
                memory.pools[pool as usize].add_segment(address, Arena::rounded(size as usize));
                Ok(())
            }
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, self.total));
                let held = memory.pools.iter().map(Arena::reserved).sum::<u64>() as usize;
                let purpose = if pool == Pool::Working { WORKING } else { LASTING };
                Err(CudaError::OutOfMemory {
                    wanted: Bytes(size as usize),
                    what: purpose.what,
                    advice: purpose.advice,
                    held: Bytes(held),
                    free: Bytes(free),
                    total: Bytes(total),
                })
            }
            Err(error) => Err(self.error("cuMemAlloc", error)),
        }
    }

    /// Gives segments back that nothing lies in. Those of the working pool may be written to by captured graphs: only where
    /// there are none.
    fn release_unused(&self, turn: &Turn<'_>, memory: &mut Memory, pool: Pool) -> Result<(), CudaError> {
        self.drain(turn)?;
        for address in memory.pools[pool as usize].take_unused_segments() {
            // SAFETY: nothing lies there any more and all work is done.
            let _ = unsafe { result::free_sync(address) };
        }
        Ok(())
    }
}
