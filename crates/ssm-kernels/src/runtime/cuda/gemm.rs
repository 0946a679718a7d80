//! Dense products through cuBLASLt, with one algorithm per shape for the life of the device.
//!
//! Everything here is row-major: y = alpha · x · w + beta · y. cuBLASLt is column-major, so it is asked for yᵀ = wᵀ xᵀ.
//! Operands are f32 or bf16, sums f32; TF32 is never used. The heuristic's first choice for a shape is kept, or what a trial finds
//! to be faster and to give the same bits ([`trial`](super::trial)), so the same shape gives the same bits.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};

use super::trial::{self, Trial};
use super::{Cuda, CudaError, ElementType, Pool, View};

/// Bytes that algorithms may use beside their operands.
pub(super) const WORKSPACE: usize = 16 << 20;

/// A matrix in device memory: rows of `stride` elements.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// From its first element on.
    pub view: View<'a>,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie end to end.
    pub fn new(view: View<'a>, columns: usize) -> Matrix<'a> {
        Matrix { view, stride: columns, transposed: false }
    }

    /// A matrix whose rows lie `stride` elements apart.
    pub fn strided(view: View<'a>, stride: usize) -> Matrix<'a> {
        Matrix { view, stride, transposed: false }
    }

    /// Its transpose.
    pub fn t(self) -> Matrix<'a> {
        Matrix { transposed: !self.transposed, ..self }
    }
}

/// y `[m, n]` = alpha · x `[m, k]` · w `[k, n]` + beta · y.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Rows of y.
    pub m: usize,
    /// Columns of y.
    pub n: usize,
    /// The inner size.
    pub k: usize,
    /// Multiplies the product.
    pub alpha: f32,
    /// Multiplies what y holds; 0 overwrites it.
    pub beta: f32,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct PlanKey {
    sizes: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    types: [ElementType; 2],
    alignments: [u32; 3],
}

#[derive(Clone, Copy)]
pub(super) struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    tried: bool,
}

/// What a product is of: x, w, y, and what they are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub x: u64,
    pub w: u64,
    pub y: u64,
    pub alpha: f32,
    pub beta: f32,
    pub workspace: u64,
}

/// The handle, the workspace and the plans made so far.
#[derive(Default)]
pub(super) struct Plans {
    handle: Option<sys::cublasLtHandle_t>,
    workspace: Option<u64>,
    plans: HashMap<PlanKey, Plan>,
}

// SAFETY: used under a mutex only.
unsafe impl Send for Plans {}

impl Cuda {
    /// y = alpha · x · w + beta · y; see [`Product`].
    ///
    /// # Errors
    /// When cuBLASLt is missing or refuses.
    ///
    /// # Panics
    /// When a matrix is shorter than its shape, or the operands are of different types.
    #[track_caller]
    pub fn product(&self, y: Matrix, x: Matrix, w: Matrix, p: Product) -> Result<(), CudaError> {
        let Product { m, n, k, .. } = p;
        if m == 0 || n == 0 {
            return Ok(());
        }
        assert!(!y.transposed, "the result is not transposed");
        let fits = |what: &str, matrix: Matrix, rows: usize, columns: usize| {
            let (rows, columns) = if matrix.transposed { (columns, rows) } else { (rows, columns) };
            assert!(matrix.stride >= columns, "{what}: rows of {columns} lie {} apart", matrix.stride);
            let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * matrix.stride + columns };
            assert!(matrix.view.len() >= needed, "{what}: {} elements, {needed} needed", matrix.view.len());
        };
        fits("y", y, m, n);
        fits("x", x, m, k);
        fits("w", w, k, n);
        let (types, out) = (x.view.element(), y.view.element());
        assert_eq!(types, w.view.element(), "operands of one type");
        if !matches!(types, ElementType::F32 | ElementType::Bf16)
            || !matches!(out, ElementType::F32 | ElementType::Bf16)
        {
            return Err(CudaError::NotComputed { found: format!("{types:?} giving {out:?}") });
        }
        self.count_launch();
        let workspace = self.workspace()?;
        let Some(driver) = self.driver() else { return Ok(()) };
        let turn = driver.bind()?; // cuBLASLt looks for the current context
        let mut plans = self.0.gemm.lock().expect("a product panicked");
        let refused = |error: result::CublasError| CudaError::Product { status: format!("{:?}", error.0), m, n, k };
        let handle = match plans.handle {
            Some(handle) => handle,
            None => {
                // SAFETY: only looks for the library.
                if !unsafe { sys::is_culib_present() } {
                    let hint = "dense products need it; it comes with the CUDA toolkit, or with \
                                `pip install nvidia-cublas` (its folder then belongs in LD_LIBRARY_PATH)";
                    return Err(super::libraries::missing("libcublasLt", hint));
                }
                *plans.handle.insert(result::create_handle().map_err(refused)?)
            }
        };
        let alignment = |view: View| (1u32 << view.pointer().trailing_zeros().min(8)).min(256);
        let key = PlanKey {
            sizes: [m, n, k],
            strides: [y.stride, x.stride, w.stride],
            transposed: [x.transposed, w.transposed],
            types: [types, out],
            alignments: [alignment(y.view), alignment(x.view), alignment(w.view)],
        };
        if !plans.plans.contains_key(&key) {
            // SAFETY: the handle is alive.
            let plan = unsafe { Plan::new(handle, &key) }.map_err(refused)?;
            plans.plans.insert(key.clone(), plan);
        }
        let [x, w, y] = [x, w, y].map(|matrix| matrix.view.pointer());
        let operands = Operands { x, w, y, alpha: p.alpha, beta: p.beta, workspace };
        let plan = plans.plans.get_mut(&key).expect("just made");
        if !plan.tried && p.beta == 0.0 && trial::is_due(2 * m * n * k) {
            plan.tried = true;
            let row_bytes = key.strides[0] * out.bytes();
            let trial = Trial { driver, handle, operands, rows: m, row_bytes, columns_bytes: n * out.bytes() };
            // SAFETY: the handle is alive; the matrices were checked against their shapes.
            let algorithms = unsafe { plan.algorithms(handle, &key, trial::CANDIDATES) }.map_err(refused)?;
            plan.algorithm = trial.fastest(plan, &algorithms)?;
        }
        let plan = *plan;
        drop(plans);
        drop(turn); // a launch takes one of its own
        let launch = || {
            let _turn = driver.bind()?;
            // One product may be several kernels that hand one another sums and counts in the workspace: those of another
            // thread's must not come between.
            let _whole = self.0.gemm.lock().expect("a product panicked");
            // SAFETY: the matrices were checked against their shapes.
            unsafe { plan.launch(handle, &plan.algorithm, operands, driver.stream) }.map_err(refused)
        };
        self.profiled(|| format!("product {m}x{n}x{k}"), launch)
    }

    /// The address of [`WORKSPACE`] bytes, from the pool that lasts, whoever asks first.
    fn workspace(&self) -> Result<u64, CudaError> {
        let known = || self.0.gemm.lock().expect("a product panicked").workspace;
        if let Some(address) = known() {
            return Ok(address);
        }
        let array = self.allocate_in(Pool::Lasting, ElementType::U32, WORKSPACE / 4)?;
        let mut plans = self.0.gemm.lock().expect("a product panicked");
        if plans.workspace.is_none() {
            plans.workspace = Some(array.view().pointer());
            array.forget();
        }
        Ok(plans.workspace.expect("just set"))
    }
}

impl Plan {
    /// # Safety
    /// The handle must be alive.
    unsafe fn new(handle: sys::cublasLtHandle_t, key: &PlanKey) -> Result<Plan, result::CublasError> {
        let [m, n, k] = key.sizes;
        let data = |element| match element {
            ElementType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        let operation =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?;
        // Column-major, a row-major matrix is its transpose: w comes first.
        let set = |attribute, transposed: bool| {
            let value: i32 = if transposed { 1 } else { 0 };
            // SAFETY: the description was just made; the value is read during the call.
            unsafe { result::set_matmul_desc_attribute(operation, attribute, (&raw const value).cast(), 4) }
        };
        set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, key.transposed[1])?;
        set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, key.transposed[0])?;
        let layout = |element, rows: usize, columns: usize, transposed: bool, stride: usize| {
            let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
            result::create_matrix_layout(data(element), rows as u64, columns as u64, stride as i64)
        };
        let layouts = [
            layout(key.types[0], n, k, key.transposed[1], key.strides[2])?,
            layout(key.types[0], k, m, key.transposed[0], key.strides[1])?,
            layout(key.types[1], n, m, false, key.strides[0])?,
        ];
        // SAFETY: asked for before it is used.
        let mut plan = Plan { operation, layouts, algorithm: unsafe { std::mem::zeroed() }, tried: false };
        // SAFETY: the caller's.
        let found = unsafe { plan.algorithms(handle, key, 1) }?;
        let unknown = result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        plan.algorithm = *found.first().ok_or(unknown)?;
        Ok(plan)
    }

    /// The library's choices, the best in its opinion first.
    ///
    /// # Safety
    /// The handle must be alive, and the plan of this key.
    unsafe fn algorithms(
        &self,
        handle: sys::cublasLtHandle_t,
        key: &PlanKey,
        count: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, result::CublasError> {
        let preference = result::create_matmul_pref()?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let alignments = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[2]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[0]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[0]),
        ];
        // SAFETY: preference and descriptions are alive; values are read during the calls; as many results are written as there
        // is room for, each a plain structure.
        unsafe {
            let workspace = WORKSPACE;
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, (&raw const workspace).cast(), 8)?;
            for (attribute, value) in alignments {
                result::set_matmul_pref_attribute(preference, attribute, (&raw const value).cast(), 4)?;
            }
            let [a, b, d] = self.layouts;
            let mut results: Vec<sys::cublasLtMatmulHeuristicResult_t> = vec![std::mem::zeroed(); count];
            let (mut found, room) = (0, count as i32);
            let place = results.as_mut_ptr();
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.operation,
                a,
                b,
                d,
                d,
                preference,
                room,
                place,
                &mut found,
            );
            result::destroy_matmul_pref(preference)?;
            status.result()?;
            results.truncate(found as usize);
            results.retain(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
            Ok(results.into_iter().map(|result| result.algo).collect())
        }
    }

    /// The library's first choice, or what a trial took instead.
    pub(super) fn algorithm(&self) -> &sys::cublasLtMatmulAlgo_t {
        &self.algorithm
    }

    /// Launches the product.
    ///
    /// # Safety
    /// Handle and stream must be alive, the algorithm one for this plan, and the operands as large as its matrices.
    pub(super) unsafe fn launch(
        &self,
        handle: sys::cublasLtHandle_t,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        on: Operands,
        stream: cudarc::driver::sys::CUstream,
    ) -> Result<(), result::CublasError> {
        let [x, w, y] = [on.x, on.w, on.y].map(|pointer| pointer as *const c_void);
        // SAFETY: the caller's; alpha and beta are read during the call.
        unsafe {
            result::matmul(
                handle,
                self.operation,
                (&raw const on.alpha).cast(),
                (&raw const on.beta).cast(),
                w,
                self.layouts[0],
                x,
                self.layouts[1],
                y,
                self.layouts[2],
                y.cast_mut(),
                self.layouts[2],
                algorithm,
                on.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cuda::Array;
    use crate::testing::{assert_close, cuda, numbers, widen};

    /// Threads of one handle share the workspace: a product that is several kernels is whole before another begins.
    #[test]
    fn cuda_products_of_several_threads_do_not_mix() {
        let cuda = cuda();
        // Long sums of few results, which the library cuts in parts.
        let (m, n, k) = (3, 5, 4099);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cuda = &cuda;
                scope.spawn(move || {
                    let (x, w) = (numbers(m * k, thread), numbers(k * n, thread + 9));
                    let term = |i: usize, l: usize| f64::from(x[i / n * k + l]) * f64::from(w[l * n + i % n]);
                    let expected: Vec<f64> = (0..m * n).map(|i| (0..k).map(|l| term(i, l)).sum()).collect();
                    let (dx, dw) = (cuda.upload(&x).unwrap(), cuda.upload(&w).unwrap());
                    let y = cuda.zeros(ElementType::F32, m * n).unwrap();
                    for _ in 0..20 {
                        let (x, w) = (Matrix::new(dx.view(), k), Matrix::new(dw.view(), n));
                        let p = Product { m, n, k, alpha: 1.0, beta: 0.0 };
                        cuda.product(Matrix::new(y.view(), n), x, w, p).unwrap();
                        assert_close("a thread's product", &cuda.download::<f32>(y.view()).unwrap(), &expected, 1e-4);
                    }
                });
            }
        });
    }

    /// Whichever algorithm a trial takes, nothing differs; and what a product adds to is left as it was.
    #[test]
    fn cuda_products_tried_while_captured_give_the_same_bits() {
        let cuda = cuda();
        for (m, n, k) in [(40, 72, 200), (1, 8, 16), (17, 33, 9), (256, 264, 1032)] {
            let bf16 = |v: Vec<f32>| v.into_iter().map(half::bf16::from_f32).collect::<Vec<_>>();
            let (x, w) = (numbers(m * k, 1), numbers(k * n, 2));
            let (x, w) = (cuda.upload(&bf16(x)).unwrap(), cuda.upload(&bf16(w)).unwrap());
            let (x, w) = (Matrix::new(x.view(), k), Matrix::new(w.view(), n));
            let begun = numbers(m * n, 3);
            let y = [(); 4].map(|()| cuda.upload(&begun).unwrap());
            let multiply =
                |y: &Array, beta| cuda.product(Matrix::new(y.view(), n), x, w, Product { m, n, k, alpha: 0.5, beta });
            multiply(&y[0], 0.0).unwrap();
            multiply(&y[1], 1.0).unwrap();
            let tried = || cuda.0.gemm.lock().unwrap().plans.values().filter(|plan| plan.tried).count();
            let before = tried();
            let graph = cuda
                .capture_tuned(|| {
                    trial::FROM.set(Some(0));
                    multiply(&y[3], 1.0)?;
                    assert_eq!(tried(), before, "a product that adds was tried");
                    multiply(&y[2], 0.0)
                })
                .unwrap();
            assert_eq!(tried(), before + 1, "products tried");
            let bits = |y: &Array| -> Vec<u32> {
                cuda.download::<f32>(y.view()).unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert_eq!(bits(&y[3]), begun.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), "before the replay");
            graph.expect("a device").launch().unwrap();
            assert_eq!([bits(&y[2]), bits(&y[3])], [bits(&y[0]), bits(&y[1])], "{m} {n} {k}");
            multiply(&y[1], 0.0).unwrap();
            assert_eq!(bits(&y[1]), bits(&y[0]), "launched later, {m} {n} {k}");
        }
    }

    /// Every combination of transposition, odd sizes, strides and types, against sums in double precision.
    #[test]
    fn cuda_products_match_double_precision() {
        let cuda = cuda();
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 9), (64, 48, 80), (5, 130, 24)] {
            for mask in 0..8 {
                let (tx, tw, bf16) = (mask & 1 > 0, mask & 2 > 0, mask & 4 > 0);
                let pad = 3;
                let shape = |t: bool, r: usize, c: usize| if t { (c, r) } else { (r, c) };
                let ((xr, xc), (wr, wc)) = (shape(tx, m, k), shape(tw, k, n));
                let round = |x: Vec<f32>| -> Vec<f32> {
                    x.into_iter().map(|x| if bf16 { half::bf16::from_f32(x).to_f32() } else { x }).collect()
                };
                let x = round(numbers(xr * (xc + pad), 1));
                let w = round(numbers(wr * (wc + pad), 2));
                let y = numbers(m * (n + pad), 3);
                let upload = |v: &[f32]| match bf16 {
                    true => cuda.upload(&v.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>()),
                    false => cuda.upload(v),
                };
                let (dx, dw, dy) = (upload(&x).unwrap(), upload(&w).unwrap(), cuda.upload(&y).unwrap());
                let matrix = |view, stride, t| Matrix { view, stride, transposed: t };
                let p = Product { m, n, k, alpha: 0.5, beta: 2.0 };
                let (mx, mw) = (matrix(dx.view(), xc + pad, tx), matrix(dw.view(), wc + pad, tw));
                cuda.product(Matrix::strided(dy.view(), n + pad), mx, mw, p).unwrap();
                let found = cuda.download::<f32>(dy.view()).unwrap();
                let at = |v: &[f32], t: bool, stride: usize, r: usize, c: usize| {
                    f64::from(if t { v[c * stride + r] } else { v[r * stride + c] })
                };
                let mut expected = widen(&y);
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 = (0..k).map(|l| at(&x, tx, xc + pad, i, l) * at(&w, tw, wc + pad, l, j)).sum();
                        expected[i * (n + pad) + j] = 0.5 * sum + 2.0 * f64::from(y[i * (n + pad) + j]);
                    }
                }
                assert_close(&format!("product {m} {n} {k} {mask}"), &found, &expected, 1e-5);
            }
        }
    }
}
