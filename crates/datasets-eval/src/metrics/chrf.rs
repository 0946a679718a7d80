//! chrF, the F-score of runs of characters, and chrF++ with words beside them (Popović, WMT 2015 and 2017), as sacrebleu 2.6
//! computes them: 0 to 100.

use super::metric::{Metric, reference_count, yes};
use super::ngrams::Ngrams;
use super::tokens::python;

/// Corpus chrF. The default is sacrebleu's chrF2; [`Chrf::plus_plus`] is chrF2++.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chrf {
    /// The longest runs of characters.
    pub char_order: usize,
    /// The longest runs of words; 0 for none.
    pub word_order: usize,
    /// How many times recall weighs what precision does.
    pub beta: u32,
    /// Case does not matter.
    pub lowercase: bool,
    /// White space is a character too.
    pub whitespace: bool,
    /// The mean of the orders' F-scores, as in Popović's program, instead of the F-score of the mean precision and recall
    /// over the orders that both texts are long enough for.
    pub eps_smoothing: bool,
}

impl Default for Chrf {
    fn default() -> Chrf {
        Chrf { char_order: 6, word_order: 0, beta: 2, lowercase: false, whitespace: false, eps_smoothing: false }
    }
}

/// The runs of a text.
struct Runs {
    characters: Ngrams<char>,
    words: Ngrams<String>,
}

impl Chrf {
    /// chrF++: with single words and pairs of words.
    pub fn plus_plus() -> Chrf {
        Chrf { word_order: 2, ..Chrf::default() }
    }

    fn runs(&self, text: &str) -> Runs {
        let text = if self.lowercase { text.to_lowercase() } else { text.to_owned() };
        let characters = text.chars().filter(|c| self.whitespace || !python::is_space(*c)).collect();
        let words = if self.word_order > 0 { words(&text) } else { Vec::new() };
        Runs { characters: Ngrams::new(characters, self.char_order), words: Ngrams::new(words, self.word_order) }
    }

    /// Runs of the prediction, of the reference, and of both, for every order. Where the reference has none, the
    /// prediction's do not count.
    fn compare(&self, own: &Runs, other: &Runs) -> Vec<f64> {
        fn orders<T: Ord>(own: &Ngrams<T>, other: &Ngrams<T>, longest: usize, found: &mut Vec<f64>) {
            for n in 1..=longest {
                let (total, theirs) = (own.total(n), other.total(n));
                let shared = own.shared(std::slice::from_ref(other), n);
                found.extend([if theirs > 0 { total } else { 0 }, theirs, shared].map(|x| x as f64));
            }
        }
        let mut found = Vec::with_capacity(3 * (self.char_order + self.word_order));
        orders(&own.characters, &other.characters, self.char_order, &mut found);
        orders(&own.words, &other.words, self.word_order, &mut found);
        found
    }

    fn of(&self, statistics: &[f64]) -> f64 {
        const EPS: f64 = 1e-16;
        let factor = f64::from(self.beta).powi(2);
        let f_score = |p: f64, r: f64| (1.0 + factor) * p * r / (factor * p + r);
        let (mut scores, mut precisions, mut recalls, mut orders) = (0.0, 0.0, 0.0, 0.0);
        for counts in statistics.chunks_exact(3) {
            let [own, theirs, shared] = [counts[0], counts[1], counts[2]];
            let precision = if own > 0.0 { shared / own } else { EPS };
            let recall = if theirs > 0.0 { shared / theirs } else { EPS };
            scores += if factor * precision + recall > 0.0 { f_score(precision, recall) } else { EPS };
            if own > 0.0 && theirs > 0.0 {
                precisions += precision;
                recalls += recall;
                orders += 1.0;
            }
        }
        if self.eps_smoothing {
            100.0 * scores / (self.char_order + self.word_order) as f64
        } else if precisions + recalls > 0.0 {
            100.0 * f_score(precisions / orders, recalls / orders)
        } else {
            0.0
        }
    }
}

/// Words, with one mark at the end, or else at the start, cut off.
fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in python::split(text) {
        let mark = |c: Option<char>| c.filter(char::is_ascii_punctuation).map_or(0, char::len_utf8);
        let (first, last) = (mark(word.chars().next()), mark(word.chars().next_back()));
        let cut = match word.chars().nth(1) {
            Some(_) if last > 0 => word.len() - last,
            Some(_) => first,
            None => 0,
        };
        let (head, tail) = word.split_at(cut);
        found.extend([head, tail].into_iter().filter(|part| !part.is_empty()).map(str::to_owned));
    }
    found
}

impl Metric for Chrf {
    fn name(&self) -> String {
        format!("chrF{}{}", self.beta, "+".repeat(self.word_order))
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|case:{}|eff:{}|nc:{}|nw:{}|space:{}|as:sacrebleu-2.6",
            reference_count(references),
            if self.lowercase { "lc" } else { "mixed" },
            yes(!self.eps_smoothing),
            self.char_order,
            self.word_order,
            yes(self.whitespace)
        )
    }

    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let own = self.runs(prediction);
        // Of the references with the best score, the first.
        let mut best = (f64::NEG_INFINITY, Vec::new());
        for reference in references {
            let statistics = self.compare(&own, &self.runs(reference));
            let value = self.of(&statistics);
            if value > best.0 {
                best = (value, statistics);
            }
        }
        best.1
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        self.of(sums)
    }
}
