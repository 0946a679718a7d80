//! What tells whether two evaluations are of the same data: digests of what is asked for, and of the tokens it is asked in.

use sha2::{Digest, Sha256};

use crate::Dataset;

impl Dataset {
    /// SHA-256 of the right answers by row: references and databases, or classes by name; for running text its tokens. The
    /// same for every tokenizer and prompt form as long as the same rows are kept.
    pub fn answers_digest(&self) -> String {
        let mut hash = Sha256::new();
        for item in &self.items {
            hash.update(item.row.to_le_bytes());
            text(&mut hash, item.database.as_deref().unwrap_or(""));
            hash.update((item.references.len() as u64).to_le_bytes());
            item.references.iter().for_each(|reference| text(&mut hash, reference));
        }
        if self.items.is_empty() {
            for example in &self.examples {
                hash.update(example.id.to_le_bytes());
                match example.class {
                    Some(class) => text(&mut hash, &self.classes[class].name),
                    None => tokens(&mut hash, &example.tokens),
                }
            }
        }
        hex(hash)
    }

    /// SHA-256 of all examples' tokens and where their targets begin: where it is the same, losses compare.
    pub fn tokens_digest(&self) -> String {
        let mut hash = Sha256::new();
        for example in &self.examples {
            hash.update(example.id.to_le_bytes());
            hash.update((example.labelled_from as u64).to_le_bytes());
            tokens(&mut hash, &example.tokens);
        }
        hex(hash)
    }
}

// Lengths come first, so that no two lists run into the same bytes.
fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

fn tokens(hash: &mut Sha256, tokens: &[u32]) {
    hash.update((tokens.len() as u64).to_le_bytes());
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::{ClassLabel, Dataset, Example, Item};

    fn written(prompt: Vec<u32>, references: &[&str]) -> Dataset {
        let tokens = [&prompt[..], &[7]].concat();
        let example = Example { id: 0, labelled_from: prompt.len(), tokens, class: None };
        let references = references.iter().map(|text| (*text).to_owned()).collect();
        let item = Item { row: 0, line: 1, prompt, references, database: None };
        Dataset { examples: vec![example], items: vec![item], ..Dataset::default() }
    }

    #[test]
    fn answers_are_the_same_whatever_the_prompt() {
        let (one, other) = (written(vec![1, 2], &["a", "b"]), written(vec![3], &["a", "b"]));
        assert_eq!(one.answers_digest(), other.answers_digest());
        assert_ne!(one.tokens_digest(), other.tokens_digest());
        for references in [&["a"][..], &["b", "a"], &["ab"], &["a", "b", ""]] {
            assert_ne!(one.answers_digest(), written(vec![1, 2], references).answers_digest(), "{references:?}");
        }
        assert_eq!(one.answers_digest().len(), 64);
    }

    #[test]
    fn classes_count_by_name() {
        let labelled = |name: &str, token| Dataset {
            examples: vec![Example { id: 4, tokens: vec![9, token], labelled_from: 1, class: Some(0) }],
            classes: vec![ClassLabel { name: name.into(), token }],
            ..Dataset::default()
        };
        assert_eq!(labelled("yes", 5).answers_digest(), labelled("yes", 6).answers_digest());
        assert_ne!(labelled("yes", 5).answers_digest(), labelled("no", 5).answers_digest());
    }
}
