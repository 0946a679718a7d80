//! The fastest of the algorithms that cuBLASLt names for a product, by trial. Its first choice is often not the fastest: of
//! mamba-130m's `in_proj` at 8,192 tokens the eighth takes 57 us where the first takes 66.
//!
//! Which one a trial finds may differ from run to run, so it must not matter to the result: only those are tried that, like the
//! first, do not split the inner index, and of them only those are taken whose result is the first's, bit by bit, in some rows.
//!
//! A trial takes as long as some hundred products, and needs a result that may be overwritten. So it is made while a graph is
//! captured that will be replayed often ([`Cuda::capture_tuned`](super::Cuda::capture_tuned)), where the product is large, on a
//! stream of its own: nothing else runs then, and what the graph computes does not exist yet.

use cudarc::cublaslt::{result, sys};
use cudarc::driver;
use cudarc::driver::sys::{CUevent, CUstream};

use super::gemm::{Operands, Plan};
use super::{CudaError, Driver};

/// How many algorithms are asked for.
pub(super) const CANDIDATES: usize = 8;
/// Operations from which a product is worth it: some 5 us of an H100.
const WORTH: usize = 4_000_000_000;
/// Rows of the result that are compared.
const COMPARED: usize = 16;
/// Rounds, of which the first only warms up, and launches of each algorithm in one.
const ROUNDS: usize = 4;
const LAUNCHES: usize = 4;
/// What an algorithm has to take at most of the first one's time to be preferred: times vary by 2 or 3 %.
const GAIN: f32 = 0.95;

thread_local! {
    /// From how many operations on this thread tries products, if it does.
    pub(super) static FROM: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

/// While it lives, this thread's products are tried.
pub(super) struct Trying;

impl Trying {
    pub fn begin() -> Trying {
        FROM.set(Some(WORTH));
        Trying
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        FROM.set(None);
    }
}

/// Whether a product of so many operations is to be tried now.
pub(super) fn is_due(operations: usize) -> bool {
    FROM.get().is_some_and(|from| operations >= from)
}

/// A product whose result may be overwritten.
pub(super) struct Trial<'a> {
    pub driver: &'a Driver,
    pub handle: sys::cublasLtHandle_t,
    pub operands: Operands,
    /// Rows of the result, bytes from one to the next, and bytes of its columns.
    pub rows: usize,
    pub row_bytes: usize,
    pub columns_bytes: usize,
}

/// A stream and two events.
struct Watch {
    stream: CUstream,
    begin: CUevent,
    end: CUevent,
}

impl Watch {
    fn new() -> Result<Watch, driver::DriverError> {
        let event = || driver::result::event::create(driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
        let stream = driver::result::stream::create(driver::result::stream::StreamKind::NonBlocking)?;
        Ok(Watch { stream, begin: event()?, end: event()? })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and used by nobody else.
        unsafe {
            let _ = driver::result::event::destroy(self.begin);
            let _ = driver::result::event::destroy(self.end);
            let _ = driver::result::stream::destroy(self.stream);
        }
    }
}

/// Whether it computes a sum in parts that are added afterwards. One that does not say so counts as one that does.
fn splits(algorithm: &sys::cublasLtMatmulAlgo_t) -> bool {
    use sys::cublasLtMatmulAlgoConfigAttributes_t::{
        CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME as REDUCTION, CUBLASLT_ALGO_CONFIG_SPLITK_NUM as PARTS,
    };
    let number = |attribute| {
        let (mut value, mut written) = (0u32, 0);
        let place = (&raw mut value).cast();
        // SAFETY: the value is as large as the attribute, and written during the call.
        let status = unsafe { sys::cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, place, 4, &mut written) };
        status.result().ok().map(|()| value)
    };
    !matches!((number(PARTS), number(REDUCTION)), (Some(0 | 1), Some(0)))
}

impl Trial<'_> {
    /// The fastest of these that gives the plan's own algorithm's bits, or that one.
    pub fn fastest(
        &self,
        plan: &Plan,
        algorithms: &[sys::cublasLtMatmulAlgo_t],
    ) -> Result<sys::cublasLtMatmulAlgo_t, CudaError> {
        let first = *plan.algorithm();
        let error = |error| self.driver.error("a trial of products", error);
        let watch = Watch::new().map_err(error)?;
        if splits(&first) || self.launch(plan, &first, &watch).is_err() {
            return Ok(first);
        }
        let result = self.rows(&watch).map_err(error)?;
        let mut candidates = vec![first];
        for algorithm in algorithms.iter().filter(|&other| *other != first && !splits(other)) {
            if self.launch(plan, algorithm, &watch).is_ok() && self.rows(&watch).map_err(error)? == result {
                candidates.push(*algorithm);
            }
        }
        let mut times = vec![f32::INFINITY; candidates.len()];
        for round in 0..ROUNDS {
            for (algorithm, time) in candidates.iter().zip(&mut times) {
                let own = self.time(plan, algorithm, &watch).map_err(error)?;
                if round > 0 {
                    *time = time.min(own);
                }
            }
        }
        let best = (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b])).unwrap_or(0);
        Ok(candidates[if times[best] < GAIN * times[0] { best } else { 0 }])
    }

    fn launch(
        &self,
        plan: &Plan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        watch: &Watch,
    ) -> Result<(), result::CublasError> {
        // SAFETY: the algorithm was named for this plan, the operands are the product's, and the stream is our own.
        unsafe { plan.launch(self.handle, algorithm, self.operands, watch.stream) }
    }

    /// Some rows of the result, from the first to the last.
    fn rows(&self, watch: &Watch) -> Result<Vec<u8>, driver::DriverError> {
        let mut found = vec![0; COMPARED * self.columns_bytes];
        for (i, row) in found.chunks_mut(self.columns_bytes).enumerate() {
            let from = self.operands.y + (i * (self.rows - 1) / (COMPARED - 1) * self.row_bytes) as u64;
            // SAFETY: a row of the result; waited for below.
            unsafe { driver::result::memcpy_dtoh_async(row, from, watch.stream) }?;
        }
        // SAFETY: the stream is alive.
        unsafe { driver::result::stream::synchronize(watch.stream) }?;
        Ok(found)
    }

    /// Milliseconds of some launches, one after the other; without end where the library refuses one.
    fn time(
        &self,
        plan: &Plan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        watch: &Watch,
    ) -> Result<f32, driver::DriverError> {
        // SAFETY: events and stream are alive.
        unsafe { driver::result::event::record(watch.begin, watch.stream) }?;
        let launched = (0..LAUNCHES).try_for_each(|_| self.launch(plan, algorithm, watch));
        // SAFETY: as above.
        unsafe {
            driver::result::event::record(watch.end, watch.stream)?;
            driver::result::stream::synchronize(watch.stream)?;
            let time = driver::result::event::elapsed(watch.begin, watch.end)?;
            Ok(if launched.is_ok() { time } else { f32::INFINITY })
        }
    }
}
