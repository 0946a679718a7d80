//! BLEU (Papineni et al., ACL 2002) as sacrebleu 2.6 computes it (Post, WMT 2018): 0 to 100, brevity against the reference
//! whose length is nearest. The authors' reports use another variant: [`HfBleu`](super::HfBleu).

use super::metric::{Metric, reference_count, yes};
use super::ngrams::Ngrams;
use super::tokens::{mteval_13a, python};

/// What stands in for a precision of zero (Chen and Cherry, "A systematic comparison of smoothing techniques for
/// sentence-level BLEU", WMT 2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BleuSmoothing {
    /// Nothing: the score is 0.
    None,
    /// Their method 1: this count (0.1 there).
    Floor(f64),
    /// Their method 2: this much is added to both counts of every order but the first (1 there).
    AddK(f64),
    /// Their method 3, NIST's: 1/2 for the first order without a match, 1/4 for the next, and so on.
    Exp,
}

/// How a text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BleuTokens {
    /// `mteval-v13a`.
    Mteval13a,
    /// White space only, for texts that are tokens already.
    None,
}

/// Corpus BLEU. The defaults are sacrebleu's. An example's score is sentence BLEU: the same with `effective_order`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bleu {
    /// Case does not matter.
    pub lowercase: bool,
    /// How a text becomes tokens.
    pub tokens: BleuTokens,
    /// What stands in for a precision of zero.
    pub smoothing: BleuSmoothing,
    /// The longest runs compared; at least 1.
    pub max_order: usize,
    /// Orders for which the prediction is too short are left out instead of counting as zero.
    pub effective_order: bool,
}

impl Default for Bleu {
    fn default() -> Bleu {
        Bleu {
            lowercase: false,
            tokens: BleuTokens::Mteval13a,
            smoothing: BleuSmoothing::Exp,
            max_order: 4,
            effective_order: false,
        }
    }
}

impl Bleu {
    fn ngrams(&self, text: &str) -> Ngrams<String> {
        let text = if self.lowercase { text.to_lowercase() } else { text.to_owned() };
        let text = python::trim_end(&text);
        let tokens = match self.tokens {
            BleuTokens::Mteval13a => mteval_13a(text),
            BleuTokens::None => python::split(text).map(str::to_owned).collect(),
        };
        Ngrams::new(tokens, self.max_order)
    }

    fn of(&self, sums: &[f64], effective_order: bool) -> f64 {
        let (length, reference, matches, totals) = counts(sums);
        if matches.iter().all(|count| *count == 0.0) {
            return 0.0;
        }
        let (mut logs, mut orders, mut halves) = (0.0, 0, 1.0);
        for n in 0..self.max_order {
            let (mut count, mut total) = (matches[n], totals[n]);
            if let BleuSmoothing::AddK(k) = self.smoothing
                && n > 0
            {
                (count, total) = (count + k, total + k);
            }
            if total == 0.0 {
                break;
            }
            orders = n + 1;
            let precision = match self.smoothing {
                _ if count > 0.0 => count / total,
                BleuSmoothing::Exp => {
                    halves *= 2.0;
                    1.0 / (halves * total)
                }
                BleuSmoothing::Floor(floor) => floor / total,
                BleuSmoothing::None | BleuSmoothing::AddK(_) => return 0.0,
            };
            logs += (100.0 * precision).ln();
        }
        // Without effective order, an order that no prediction is long enough for makes the product zero.
        if orders < self.max_order && !effective_order {
            return 0.0;
        }
        brevity(length, reference) * (logs / orders as f64).exp()
    }
}

/// Statistics are the lengths of prediction and reference, the matches of every order, and the totals of every order.
fn counts(sums: &[f64]) -> (f64, f64, &[f64], &[f64]) {
    let (matches, totals) = sums[2..].split_at((sums.len() - 2) / 2);
    (sums[0], sums[1], matches, totals)
}

/// The factor for predictions shorter than the references.
fn brevity(length: f64, reference: f64) -> f64 {
    match length {
        0.0 => 0.0,
        _ if length < reference => (1.0 - reference / length).exp(),
        _ => 1.0,
    }
}

impl Metric for Bleu {
    fn name(&self) -> String {
        "BLEU".into()
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        let smoothing = match self.smoothing {
            BleuSmoothing::None => "none".to_owned(),
            BleuSmoothing::Floor(value) => format!("floor[{value:.2}]"),
            BleuSmoothing::AddK(value) => format!("add-k[{value:.2}]"),
            BleuSmoothing::Exp => "exp".to_owned(),
        };
        format!(
            "nrefs:{}|case:{}|eff:{}|tok:{}|smooth:{smoothing}{}|as:sacrebleu-2.6",
            reference_count(references),
            if self.lowercase { "lc" } else { "mixed" },
            yes(self.effective_order),
            if self.tokens == BleuTokens::Mteval13a { "13a" } else { "none" },
            if self.max_order == 4 { String::new() } else { format!("|order:{}", self.max_order) },
        )
    }

    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let own = self.ngrams(prediction);
        let others: Vec<_> = references.iter().map(|text| self.ngrams(text)).collect();
        // Of two as near, the shorter.
        let nearest = others.iter().map(Ngrams::len).min_by_key(|&length| (length.abs_diff(own.len()), length));
        let orders = 1..=self.max_order;
        let matches = orders.clone().map(|n| own.shared(&others, n));
        let numbers = [own.len(), nearest.unwrap_or(0)].into_iter().chain(matches).chain(orders.map(|n| own.total(n)));
        numbers.map(|x| x as f64).collect()
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        self.of(sums, self.effective_order)
    }

    fn example(&self, statistics: &[f64]) -> f64 {
        self.of(statistics, true)
    }
}

/// The mean of sentence BLEU over the examples; what it does with one sentence is [`Bleu`] with `effective_order`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SentenceBleu(
    /// The options.
    pub Bleu,
);

impl Metric for SentenceBleu {
    fn name(&self) -> String {
        "sentence BLEU".into()
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!("mean:sentences|{}", Bleu { effective_order: true, ..self.0 }.signature(references))
    }

    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        vec![self.0.of(&self.0.statistics(prediction, references), true), 1.0]
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        super::metric::mean(sums)
    }
}
