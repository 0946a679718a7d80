//! Perplexity of a language model.

use crate::{DataError, Result};

/// exp of the mean loss: summed loss (natural logarithm) over the tokens it was summed over; 1 at best, and infinite for a
/// text that the model holds impossible. The perplexities of models with different tokenizers do not compare.
///
/// # Errors
///
/// There are no tokens, or the loss is not a number or below 0.
pub fn perplexity(summed_loss: f64, tokens: usize) -> Result<f64> {
    let refuse =
        |what, expected: &str, found: String| Err(DataError::Argument { what, expected: expected.into(), found });
    if tokens == 0 {
        return refuse("tokens of a perplexity", "at least 1", "0".into());
    }
    if summed_loss.is_nan() || summed_loss < 0.0 {
        return refuse("summed loss of a perplexity", "0 or more", summed_loss.to_string());
    }
    Ok((summed_loss / tokens as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_exponential_of_the_mean_loss() {
        // A fair choice among eight at every token.
        assert!((perplexity(10.0 * 8f64.ln(), 10).unwrap() - 8.0).abs() < 1e-12);
        assert_eq!(perplexity(0.0, 3).unwrap(), 1.0);
        for (loss, tokens) in [(1.0, 0), (f64::NAN, 1), (-0.5, 1)] {
            assert!(perplexity(loss, tokens).is_err(), "{loss} over {tokens}");
        }
    }
}
