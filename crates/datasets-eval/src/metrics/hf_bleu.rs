//! BLEU as the `bleu` metric of Hugging Face's evaluate library defines it: 0 to 1, brevity against the SHORTEST reference
//! of every example, no smoothing by default. The State-offset and SSM-PEFT authors report this one; with several references
//! it is higher than [`Bleu`](super::Bleu).

use super::metric::{Metric, reference_count, yes};
use super::ngrams::Ngrams;
use super::tokens::mteval_13a;

const ORDER: usize = 4;

/// Corpus BLEU of the evaluate library, of runs up to four tokens ("13a").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HfBleu {
    /// One is added to both counts of every order (Lin and Och, 2004, but in the first order too).
    pub smooth: bool,
}

impl Metric for HfBleu {
    fn name(&self) -> String {
        "BLEU (evaluate)".into()
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|case:mixed|tok:13a|smooth:{}|reflen:shortest|as:hf_evaluate-bleu",
            reference_count(references),
            yes(self.smooth)
        )
    }

    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let ngrams = |text: &str| Ngrams::new(mteval_13a(text), ORDER);
        let own = ngrams(prediction);
        let others: Vec<_> = references.iter().map(|text| ngrams(text)).collect();
        let shortest = others.iter().map(Ngrams::len).min().unwrap_or(0);
        let matches = (1..=ORDER).map(|n| own.shared(&others, n));
        let numbers = [own.len(), shortest].into_iter().chain(matches).chain((1..=ORDER).map(|n| own.total(n)));
        numbers.map(|x| x as f64).collect()
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        let (length, reference) = (sums[0], sums[1]);
        let add = f64::from(self.smooth);
        let precisions = (0..ORDER).map(|n| (sums[2 + n] + add) / (sums[2 + ORDER + n] + add));
        // 0 / 0 is no precision either.
        let logs: f64 = precisions.map(|p| if p > 0.0 { p.ln() } else { f64::NEG_INFINITY }).sum();
        if length == 0.0 || reference == 0.0 {
            return 0.0;
        }
        let ratio = length / reference;
        let brevity = if ratio > 1.0 { 1.0 } else { (1.0 - 1.0 / ratio).exp() };
        brevity * (logs / ORDER as f64).exp()
    }
}
