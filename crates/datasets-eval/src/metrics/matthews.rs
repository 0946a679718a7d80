//! The Matthews correlation coefficient, for any number of classes (Gorodkin, "Comparing two K-category assignments by a
//! K-category correlation coefficient", 2004).

use super::Confusion;

/// (c s - Σ p_k t_k) / sqrt((s² - Σ p_k²)(s² - Σ t_k²)) with c pairs right of s, and p_k predictions and t_k golds of
/// class k; 0 where it is undefined, as scikit-learn has it. "No class" counts as one class more, never the gold one.
pub fn matthews(confusion: &Confusion) -> f64 {
    let (c, s) = (confusion.right() as f64, confusion.total() as f64);
    let golds: Vec<f64> = (0..confusion.classes()).map(|class| confusion.golds(class) as f64).collect();
    let columns = (0..confusion.classes()).map(Some).chain([None]);
    let predictions: Vec<f64> = columns.map(|class| confusion.predictions(class) as f64).collect();
    let products: f64 = golds.iter().zip(&predictions).map(|(t, p)| t * p).sum();
    let spread = |counts: &[f64]| s * s - counts.iter().map(|count| count * count).sum::<f64>();
    let below = spread(&golds) * spread(&predictions);
    if below == 0.0 { 0.0 } else { (c * s - products) / below.sqrt() }
}
