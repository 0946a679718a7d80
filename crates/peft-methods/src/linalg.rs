//! Singular values and QR of a matrix, and the low-rank pairs A, B made from them. LAPACK does the work, through
//! ndarray-linalg and the system's OpenBLAS: without the feature `lapack` everything here returns an error that names it.
//!
//! Matrices are slices in f64, row-major. Signs are fixed: the largest entry of every left vector is positive. OpenBLAS
//! is kept to one thread, so that results do not depend on how many there are; it still picks its kernels by
//! processor, so the last bits may differ between machines.

#[cfg(all(test, feature = "lapack"))]
mod lapack_tests;

use crate::PeftError;

/// U diag(s) Vᵀ with p = min(m, n) singular values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Svd {
    /// U `[m, p]`, its columns orthonormal.
    pub u: Vec<f64>,
    /// The singular values `[p]`, descending.
    pub s: Vec<f64>,
    /// Vᵀ `[p, n]`, its rows orthonormal.
    pub vt: Vec<f64>,
}

/// Q R with p = min(m, n).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Qr {
    /// Q `[m, p]`, its columns orthonormal.
    pub q: Vec<f64>,
    /// R `[p, n]`, zero below the diagonal.
    pub r: Vec<f64>,
}

/// How many singular values are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// So many, or as many as there are.
    Fixed(usize),
    /// The fewest whose squares reach this share of the sum of all squares, above 0 and at most 1.
    Energy(f64),
}

/// A matrix of low rank as a product B A, with what the product leaves of the matrix it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// A `[r, in]`.
    pub a: Vec<f64>,
    /// B `[out, r]`.
    pub b: Vec<f64>,
    /// r; 0 for a matrix of zeros.
    pub rank: usize,
    /// The share of the sum of squares that B A keeps; 1 for a matrix of zeros.
    pub energy: f64,
    /// The Frobenius norm of what is left: matrix - B A.
    pub error: f64,
    /// The Frobenius norm of the matrix.
    pub norm: f64,
}

/// The singular value decomposition of a matrix `[rows, cols]`.
///
/// # Errors
/// [`PeftError::MissingFeature`]; [`PeftError::LinearAlgebra`] if a value is not finite or the iteration does not end.
pub(crate) fn svd(rows: usize, cols: usize, values: &[f64]) -> Result<Svd, PeftError> {
    assert_eq!(values.len(), rows * cols, "a matrix [{rows}, {cols}]");
    finite(values, "singular value decomposition")?;
    let mut svd = backend::svd(rows, cols, values)?;
    fix_signs(&mut svd.u, &mut svd.vt, cols);
    Ok(svd)
}

/// The QR decomposition of a matrix `[rows, cols]`.
///
/// # Errors
/// Those of [`svd`].
pub(crate) fn qr(rows: usize, cols: usize, values: &[f64]) -> Result<Qr, PeftError> {
    assert_eq!(values.len(), rows * cols, "a matrix [{rows}, {cols}]");
    finite(values, "QR decomposition")?;
    let mut qr = backend::qr(rows, cols, values)?;
    fix_signs(&mut qr.q, &mut qr.r, cols);
    Ok(qr)
}

/// A `[rank, in]` and B `[out, rank]` from the largest singular values of W `[out, in]`: `scale` · B A = U_r S_r V_rᵀ,
/// split evenly, as PiSSA starts (Meng et al. 2024, arXiv 2404.02948, equations 2 and 3).
///
/// # Errors
/// Those of [`svd`]; the rank is above min(out, in), or the scale not positive.
pub(crate) fn principal(
    w: &[f64],
    out: usize,
    inputs: usize,
    rank: usize,
    scale: f64,
) -> Result<(Vec<f64>, Vec<f64>), PeftError> {
    check_rank(out, inputs, rank)?;
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(PeftError::LinearAlgebra {
            reason: format!("the scale {scale} of a low-rank product is not above 0"),
        });
    }
    let svd = svd(out, inputs, w)?;
    Ok(split(&svd, out, inputs, rank, scale))
}

/// A = R[:rank] `[rank, in]` and B = Q[:, :rank] `[out, rank]` of W = Q R `[out, in]`, as OLoRA starts (Büyükakyüz 2024,
/// arXiv 2406.01775; `olora_init` of Hugging Face PEFT, which takes `scale` · B A from the base without dividing by the
/// scale first).
///
/// # Errors
/// Those of [`qr`]; the rank is above min(out, in).
pub(crate) fn orthonormal(
    w: &[f64],
    out: usize,
    inputs: usize,
    rank: usize,
) -> Result<(Vec<f64>, Vec<f64>), PeftError> {
    check_rank(out, inputs, rank)?;
    let qr = qr(out, inputs, w)?;
    let p = out.min(inputs);
    let b = qr.q.chunks(p).flat_map(|row| &row[..rank]).copied().collect();
    Ok((qr.r[..rank * inputs].to_vec(), b))
}

/// The nearest matrix of low rank to `delta` `[out, in]`, by its largest singular values, split evenly between A and B.
/// Singular values that are zero to the precision of f64 are never kept.
///
/// # Errors
/// [`PeftError::MissingFeature`] without the feature `lapack`; [`PeftError::LinearAlgebra`] if a value is not finite, the
/// rank is 0 or the energy not in (0, 1].
///
/// # Panics
/// If `delta` has another number of values.
pub fn low_rank_of(delta: &[f64], out: usize, inputs: usize, rank: Rank) -> Result<LowRank, PeftError> {
    rank.check()?;
    let svd = svd(out, inputs, delta)?;
    let squares = |s: &[f64]| s.iter().rev().map(|s| s * s).sum::<f64>();
    let total = squares(&svd.s);
    let floor = svd.s[0] * out.max(inputs) as f64 * f64::EPSILON;
    let numerical = svd.s.iter().take_while(|&&s| s > floor).count();
    let rank = match rank {
        Rank::Fixed(rank) => rank.min(numerical),
        Rank::Energy(energy) => {
            (0..numerical).find(|&rank| squares(&svd.s[..rank]) >= energy * total).unwrap_or(numerical)
        }
    };
    let left = squares(&svd.s[rank..]);
    let energy = if total > 0.0 { 1.0 - left / total } else { 1.0 };
    let (a, b) = split(&svd, out, inputs, rank, 1.0);
    Ok(LowRank { a, b, rank, energy, error: left.sqrt(), norm: total.sqrt() })
}

/// Whether decompositions can be made in this build.
///
/// # Errors
/// [`PeftError::MissingFeature`] naming `what` was to be done.
pub fn available(what: &str) -> Result<(), PeftError> {
    if cfg!(feature = "lapack") { Ok(()) } else { Err(missing(what)) }
}

impl Rank {
    /// Checks the number by itself.
    ///
    /// # Errors
    /// [`PeftError::LinearAlgebra`]: the rank is 0, or the energy not in (0, 1].
    pub fn check(self) -> Result<(), PeftError> {
        let reason = match self {
            Rank::Fixed(0) => "the rank must be at least 1".into(),
            Rank::Energy(energy) if !(energy > 0.0 && energy <= 1.0) => {
                format!("the energy must be above 0 and at most 1, found {energy}")
            }
            _ => return Ok(()),
        };
        Err(PeftError::LinearAlgebra { reason })
    }
}

fn missing(what: &str) -> PeftError {
    PeftError::MissingFeature { feature: "lapack", what: what.to_owned() }
}

fn finite(values: &[f64], what: &str) -> Result<(), PeftError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(PeftError::LinearAlgebra { reason: format!("{what}: element {at} is {}", values[at]) }),
        None => Ok(()),
    }
}

fn check_rank(out: usize, inputs: usize, rank: usize) -> Result<(), PeftError> {
    let most = out.min(inputs);
    if (1..=most).contains(&rank) {
        return Ok(());
    }
    let reason =
        format!("a matrix [{out}, {inputs}] has {most} directions to start from, so its rank cannot be {rank}");
    Err(PeftError::LinearAlgebra { reason })
}

/// A and B with `scale` · B A = U_r S_r V_rᵀ, each with the square roots of S / scale.
fn split(svd: &Svd, out: usize, inputs: usize, rank: usize, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let p = out.min(inputs);
    let roots: Vec<f64> = svd.s[..rank].iter().map(|s| (s / scale).sqrt()).collect();
    let a = svd.vt.chunks(inputs).zip(&roots).flat_map(|(row, root)| row.iter().map(move |v| v * root)).collect();
    let b = svd.u.chunks(p).flat_map(|row| row.iter().zip(&roots).map(|(u, root)| u * root)).collect();
    (a, b)
}

/// Turns columns of `left` `[m, p]` and rows of `right` `[p, cols]` together, so that each column's largest entry (the
/// first of equals) is positive.
fn fix_signs(left: &mut [f64], right: &mut [f64], cols: usize) {
    let p = right.len() / cols;
    for i in 0..p {
        let column = left.iter().skip(i).step_by(p);
        let largest = column.fold(0f64, |largest, &x| if x.abs() > largest.abs() { x } else { largest });
        if largest < 0.0 {
            left.iter_mut().skip(i).step_by(p).for_each(|x| *x = -*x);
            right[i * cols..][..cols].iter_mut().for_each(|x| *x = -*x);
        }
    }
}

#[cfg(feature = "lapack")]
mod backend {
    //! LAPACK by way of ndarray-linalg.

    use ndarray::Array2;
    use ndarray_linalg::{JobSvd, QRInto, SVDDCInto, error::LinalgError};
    use statetune_ssm_kernels::runtime::openblas_on_one_thread;

    use super::{Qr, Svd};
    use crate::PeftError;

    fn matrix(rows: usize, cols: usize, values: &[f64]) -> Array2<f64> {
        openblas_on_one_thread();
        Array2::from_shape_vec((rows, cols), values.to_vec()).expect("the number of values was checked")
    }

    fn failed(error: LinalgError) -> PeftError {
        PeftError::LinearAlgebra { reason: format!("LAPACK: {error}") }
    }

    /// The numbers in row-major order, whatever order LAPACK left them in.
    fn rows(array: Array2<f64>) -> Vec<f64> {
        if array.is_standard_layout() { array.into_raw_vec_and_offset().0 } else { array.iter().copied().collect() }
    }

    pub(super) fn svd(m: usize, n: usize, values: &[f64]) -> Result<Svd, PeftError> {
        let (u, s, vt) = matrix(m, n, values).svddc_into(JobSvd::Some).map_err(failed)?;
        let (u, vt) = u.zip(vt).expect("both sides were asked for");
        Ok(Svd { u: rows(u), s: s.to_vec(), vt: rows(vt) })
    }

    pub(super) fn qr(m: usize, n: usize, values: &[f64]) -> Result<Qr, PeftError> {
        let (q, r) = matrix(m, n, values).qr_into().map_err(failed)?;
        Ok(Qr { q: rows(q), r: rows(r) })
    }
}

#[cfg(not(feature = "lapack"))]
mod backend {
    //! No LAPACK in this build.

    use super::{Qr, Svd, missing};
    use crate::PeftError;

    pub(super) fn svd(_: usize, _: usize, _: &[f64]) -> Result<Svd, PeftError> {
        Err(missing("the singular value decomposition"))
    }

    pub(super) fn qr(_: usize, _: usize, _: &[f64]) -> Result<Qr, PeftError> {
        Err(missing("the QR decomposition"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "lapack"))]
    fn without_the_feature_errors_name_it_and_the_way_to_it() {
        let w = [1.0, 2.0, 3.0, 4.0];
        let errors = [
            svd(2, 2, &w).map(drop),
            qr(2, 2, &w).map(drop),
            principal(&w, 2, 2, 1, 1.0).map(drop),
            orthonormal(&w, 2, 2, 1).map(drop),
            low_rank_of(&w, 2, 2, Rank::Fixed(1)).map(drop),
            available("this"),
        ];
        for error in errors.map(|result| result.unwrap_err()) {
            let text = error.to_string();
            assert!(matches!(error, PeftError::MissingFeature { feature: "lapack", .. }), "{text}");
            assert!(text.contains("--features lapack") && text.contains("libopenblas-dev"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_every_build() {
        let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let refused = |result: Result<(), PeftError>, word: &str| {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        };
        refused(principal(&w, 3, 2, 3, 1.0).map(drop), "cannot be 3");
        refused(principal(&w, 3, 2, 1, 0.0).map(drop), "scale");
        refused(orthonormal(&w, 2, 3, 0).map(drop), "cannot be 0");
        refused(low_rank_of(&w, 2, 3, Rank::Fixed(0)).map(drop), "rank");
        refused(low_rank_of(&w, 2, 3, Rank::Energy(1.5)).map(drop), "1.5");
        refused(low_rank_of(&w, 2, 3, Rank::Energy(f64::NAN)).map(drop), "NaN");
        refused(svd(1, 2, &[1.0, f64::NAN]).map(drop), "element 1");
        refused(qr(2, 1, &[f64::INFINITY, 0.0]).map(drop), "element 0");
    }
}
