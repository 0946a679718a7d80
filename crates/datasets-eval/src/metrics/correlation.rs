//! Correlation of numbers, as STS-B is scored: Pearson's of the values, Spearman's of their ranks. As scipy computes them.

use crate::{DataError, Result};

/// Pearson's correlation coefficient, -1 to 1; NaN where all values of a side are equal, since it is undefined there.
///
/// # Errors
///
/// The sides are of different lengths, or there are fewer than two values.
pub fn pearson(predictions: &[f64], references: &[f64]) -> Result<f64> {
    let n = references.len();
    if predictions.len() != n || n < 2 {
        return Err(DataError::Argument {
            what: "predicted numbers",
            expected: format!("{}, one for each reference, and at least 2", n.max(2)),
            found: format!("{} for {n} references", predictions.len()),
        });
    }
    let deviations = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / n as f64;
        values.iter().map(|value| value - mean).collect::<Vec<f64>>()
    };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if constant(predictions) || constant(references) {
        return Ok(f64::NAN);
    }
    let (x, y) = (deviations(predictions), deviations(references));
    Ok((product(&x, &y) / (product(&x, &x).sqrt() * product(&y, &y).sqrt())).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation coefficient, -1 to 1; equal values share the mean of their ranks. NaN as above.
///
/// # Errors
///
/// As [`pearson`].
pub fn spearman(predictions: &[f64], references: &[f64]) -> Result<f64> {
    pearson(&ranks(predictions), &ranks(references))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    // A value that is no number has no rank, and makes the result none.
    if values.iter().any(|value| value.is_nan()) {
        return vec![f64::NAN; values.len()];
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (group.len() as f64 + 1.0) / 2.0;
        group.iter().for_each(|&place| ranks[place] = mean);
        first += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked of scipy 1.17.
    #[test]
    fn coefficients_are_those_of_scipy() {
        let x = [0.5, 2.25, 3.0, 3.0, 4.75, 1.0];
        let y = [0.0, 2.0, 3.5, 2.5, 5.0, 2.0];
        assert!((pearson(&x, &y).unwrap() - 0.932_317_162_638_607_1).abs() < 1e-12);
        assert!((spearman(&x, &y).unwrap() - 0.970_588_235_294_117_8).abs() < 1e-12);
        assert!(pearson(&x, &[1.0; 6]).unwrap().is_nan());
        assert!(spearman(&[f64::NAN, 1.0], &[1.0, 2.0]).unwrap().is_nan());
    }

    #[test]
    fn what_has_no_pairs_is_refused() {
        for (x, y) in [(&[1.0, 2.0][..], &[1.0][..]), (&[1.0], &[1.0]), (&[], &[])] {
            let error = pearson(x, y).unwrap_err().to_string();
            assert!(error.contains("one for each reference"), "{error}");
        }
    }
}
