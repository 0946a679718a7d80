//! The Porter stemmer (Porter, "An algorithm for suffix stripping", 1980) with the changes that NLTK makes by default: a
//! table of irregular forms, words of two letters left alone, and rules of its own in the steps 1a, 1b, 1c and 2.
//!
//! It is not the later Snowball ("Porter2") stemmer: METEOR and ROUGE are defined on this one.

/// Forms whose stem no rule gives.
const IRREGULAR: [(&str, &str); 15] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
];

/// Suffixes of step 2 and what they become after a stem of positive measure.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Suffixes that step 4 removes after a stem of measure 2 or more; "ion" only after s or t.
const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word, in lower case.
pub fn porter_stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().chain(&[("succeed", "succeed")]).find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    let lower = word.to_lowercase();
    if word.chars().count() <= 2 {
        return lower;
    }
    let mut word = Word(lower.chars().collect());
    word.step_1a();
    word.step_1b();
    word.step_1c();
    word.step_2();
    word.step_3();
    word.step_4();
    word.step_5();
    word.0.into_iter().collect()
}

/// A word being cut. A prefix of it is named by its length.
struct Word(Vec<char>);

impl Word {
    fn ends(&self, suffix: &str) -> bool {
        let mut letters = self.0.iter().rev();
        suffix.chars().rev().all(|c| letters.next() == Some(&c))
    }

    /// Puts `by` in the place of all after the first `stem` letters.
    fn end_with(&mut self, stem: usize, by: &str) {
        self.0.truncate(stem);
        self.0.extend(by.chars());
    }

    /// Length without a suffix, which must be there (suffixes are ASCII).
    fn without(&self, suffix: &str) -> usize {
        self.0.len() - suffix.len()
    }

    /// Any letter but a, e, i, o, u, and but y after a consonant.
    fn is_consonant(&self, at: usize) -> bool {
        match self.0[at] {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            // In a run of y's every second one is a consonant.
            'y' => {
                let ys = self.0[..at].iter().rev().take_while(|c| **c == 'y').count();
                let before = at - ys;
                let first = before == 0 || !self.is_consonant(before - 1);
                first == ys.is_multiple_of(2)
            }
            _ => true,
        }
    }

    /// Porter's m: how often a vowel is followed by a consonant.
    fn measure(&self, stem: usize) -> usize {
        (1..stem).filter(|&i| !self.is_consonant(i - 1) && self.is_consonant(i)).count()
    }

    fn has_vowel(&self, stem: usize) -> bool {
        (0..stem).any(|i| !self.is_consonant(i))
    }

    fn ends_double_consonant(&self) -> bool {
        let n = self.0.len();
        n >= 2 && self.0[n - 1] == self.0[n - 2] && self.is_consonant(n - 1)
    }

    /// Porter's *o: consonant, vowel, consonant at the end, the last not w, x or y; here also a vowel and a consonant alone.
    fn ends_cvc(&self, stem: usize) -> bool {
        if stem == 2 {
            return !self.is_consonant(0) && self.is_consonant(1);
        }
        stem >= 3
            && self.is_consonant(stem - 3)
            && !self.is_consonant(stem - 2)
            && self.is_consonant(stem - 1)
            && !matches!(self.0[stem - 1], 'w' | 'x' | 'y')
    }

    fn step_1a(&mut self) {
        let n = self.0.len();
        if self.ends("ies") {
            // "dies" is "die", "flies" is "fli".
            self.end_with(n - 3, if n == 4 { "ie" } else { "i" });
        } else if self.ends("sses") {
            self.end_with(n - 2, "");
        } else if self.ends("s") && !self.ends("ss") {
            self.end_with(n - 1, "");
        }
    }

    fn step_1b(&mut self) {
        let n = self.0.len();
        if self.ends("ied") {
            return self.end_with(n - 3, if n == 4 { "ie" } else { "i" });
        }
        if self.ends("eed") {
            if self.measure(n - 3) > 0 {
                self.end_with(n - 1, "");
            }
            return;
        }
        let suffix = ["ed", "ing"].into_iter().find(|suffix| self.ends(suffix));
        let Some(stem) = suffix.map(|suffix| self.without(suffix)).filter(|stem| self.has_vowel(*stem)) else { return };
        self.end_with(stem, "");
        if ["at", "bl", "iz"].iter().any(|end| self.ends(end)) {
            self.0.push('e');
        } else if self.ends_double_consonant() {
            if !matches!(self.0[stem - 1], 'l' | 's' | 'z') {
                self.0.pop();
            }
        } else if self.measure(stem) == 1 && self.ends_cvc(stem) {
            self.0.push('e');
        }
    }

    /// y after a consonant, but not after a single one: "happy" is "happi", "enjoy" stays, "by" stays.
    fn step_1c(&mut self) {
        let n = self.0.len();
        if self.ends("y") && n > 2 && self.is_consonant(n - 2) {
            self.0[n - 1] = 'i';
        }
    }

    fn step_2(&mut self) {
        // What this leaves may have another suffix.
        if self.ends("alli") && self.measure(self.without("alli")) > 0 {
            self.end_with(self.without("li"), "");
        }
        if let Some((suffix, by)) = STEP_2.iter().find(|(suffix, _)| self.ends(suffix)) {
            let stem = self.without(suffix);
            if self.measure(stem) > 0 {
                self.end_with(stem, by);
            }
        } else if self.ends("logi") && self.measure(self.0.len() - 3) > 0 {
            // The l counts as a part of the stem.
            self.0.pop();
        }
    }

    fn step_3(&mut self) {
        if let Some((suffix, by)) = STEP_3.iter().find(|(suffix, _)| self.ends(suffix)) {
            let stem = self.without(suffix);
            if self.measure(stem) > 0 {
                self.end_with(stem, by);
            }
        }
    }

    fn step_4(&mut self) {
        if let Some(suffix) = STEP_4.iter().find(|suffix| self.ends(suffix)) {
            let stem = self.without(suffix);
            if self.measure(stem) > 1 && (*suffix != "ion" || matches!(self.0[stem - 1], 's' | 't')) {
                self.end_with(stem, "");
            }
        }
    }

    fn step_5(&mut self) {
        if self.ends("e") {
            let stem = self.0.len() - 1;
            let measure = self.measure(stem);
            if measure > 1 || measure == 1 && !self.ends_cvc(stem) {
                self.0.pop();
            }
        }
        if self.ends("ll") && self.measure(self.0.len() - 1) > 1 {
            self.0.pop();
        }
    }
}
