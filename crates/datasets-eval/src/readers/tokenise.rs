//! Prompts and completions to tokens: examples to learn and to score, items to write answers for.

use std::collections::HashMap;
use std::path::Path;

use super::form::{Asked, Completion};
use super::load::end_of_text;
use super::sieve::Sieve;
use crate::{
    ClassLabel, Counts, DataConfig, DataError, Dataset, Example, Item, Loss, OnTooLong, Pool, Result, Split, Tokenizer,
    Watch,
};

/// All that tokenising takes.
pub(super) struct Tokenising<'a> {
    pub config: &'a DataConfig,
    pub split: Split,
    pub file: &'a Path,
    pub tokenizer: &'a Tokenizer,
    pub pool: &'a Pool,
    pub watch: Watch<'a>,
}

impl Tokenising<'_> {
    /// The token that ends a text, if any.
    pub(super) fn end_of_text(&self) -> Result<Option<u32>> {
        end_of_text(self.config.end_of_text.as_deref(), self.tokenizer)
    }

    /// The error of a row that has nothing where something has to be.
    pub(super) fn no_tokens(&self, line: usize, what: &'static str, hint: &'static str) -> DataError {
        DataError::NoTokens { file: self.file.into(), line, what, hint }
    }

    /// `f` of every index, in parallel; those whose row cannot be used go to the sieve, in order.
    pub(super) fn each<T: Send>(
        &self,
        count: usize,
        f: impl Fn(usize) -> Result<T> + Sync,
        sieve: &mut Sieve,
    ) -> Result<Vec<Option<T>>> {
        let results = self.pool.map_watched(count, |index| Ok(f(index)), self.watch)?;
        results.into_iter().map(|result| sieve.take(result)).collect()
    }

    /// The data set of what `rows` rows ask.
    pub(super) fn tokenise(
        &self,
        rows: usize,
        asked: &[Asked],
        classes: &[String],
        sieve: &mut Sieve,
    ) -> Result<Dataset> {
        let classes = self.classes(classes)?;
        let end = self.end_of_text()?;
        let pairs: Vec<(usize, usize)> = asked
            .iter()
            .enumerate()
            .flat_map(|(index, asked)| (0..asked.pairs.len()).map(move |part| (index, part)))
            .collect();
        let encode = |at: usize| self.example(&asked[pairs[at].0], pairs[at].1, &classes, end);
        let encoded = self.each(pairs.len(), encode, sieve)?;
        let longest = encoded.iter().flatten().map(|example| example.tokens.len()).max().unwrap_or(0);
        let mut usable = vec![false; asked.len()];
        let mut counts = Counts { rows, max_tokens: longest, ..Counts::default() };
        let mut examples = Vec::with_capacity(encoded.len());
        for (example, (index, _)) in encoded.into_iter().zip(pairs) {
            let Some(example) = example else { continue };
            usable[index] = true;
            if self.fits(example.tokens.len(), asked[index].line)? {
                examples.push(example);
            } else {
                counts.too_long += 1;
            }
        }
        counts.kept = examples.len();
        let usable = asked.iter().zip(usable).filter(|(_, usable)| *usable).map(|(asked, _)| asked);
        let items = if self.split == Split::Validation { self.items(usable, &mut counts)? } else { Vec::new() };
        Ok(Dataset { examples, items, classes, counts, bad_rows: Vec::new() })
    }

    /// Whether an example of so many tokens is to be kept; fails if longer ones are an error.
    fn fits(&self, found: usize, line: usize) -> Result<bool> {
        let max_tokens = self.config.max_tokens;
        if found > max_tokens && self.config.on_too_long == OnTooLong::Error {
            return Err(DataError::TooLong { file: self.file.into(), line, found, max_tokens });
        }
        Ok(found <= max_tokens)
    }

    fn example(&self, asked: &Asked, part: usize, classes: &[ClassLabel], end: Option<u32>) -> Result<Example> {
        let (prompt, completion) = &asked.pairs[part];
        let mut tokens = self.prompt(asked, prompt)?;
        let prompt_tokens = tokens.len();
        let class = match completion {
            Completion::Class(class) => {
                tokens.push(classes[*class].token);
                Some(*class)
            }
            Completion::Text(text) => {
                tokens.extend(self.tokenizer.encode(text)?);
                None
            }
        };
        if prompt_tokens == 0 {
            let hint = "the model needs a token to start from; correct the row";
            return Err(self.no_tokens(asked.line, "the prompt", hint));
        }
        if tokens.len() == prompt_tokens {
            let hint = "there is nothing to learn from it; correct or remove the row";
            return Err(self.no_tokens(asked.line, "the completion", hint));
        }
        // A template may have written the end itself.
        tokens.extend(end.filter(|end| class.is_none() && tokens.last() != Some(end)));
        let labelled_from = match self.config.loss {
            Loss::Completion => prompt_tokens,
            Loss::All => 1,
        };
        Ok(Example { id: Example::id_of(asked.row, part), tokens, labelled_from, class })
    }

    fn prompt(&self, asked: &Asked, prompt: &str) -> Result<Vec<u32>> {
        let mut tokens = if asked.prefix.is_empty() { Vec::new() } else { self.tokenizer.encode(asked.prefix)? };
        tokens.extend(self.tokenizer.encode(prompt)?);
        Ok(tokens)
    }

    /// The items of rows that ask for written answers, whatever the length of these.
    fn items<'a>(&self, asked: impl Iterator<Item = &'a Asked>, counts: &mut Counts) -> Result<Vec<Item>> {
        let mut rows: Vec<(&Asked, &str, Vec<String>)> = Vec::new();
        let mut by_prompt: HashMap<&str, usize> = HashMap::new();
        for asked in asked.filter(|asked| !asked.references.is_empty()) {
            let (prompt, _) = asked.pairs.last().expect("a pair");
            let known = by_prompt.insert(prompt, rows.len()).filter(|_| self.config.group_references);
            match known {
                Some(known) => {
                    by_prompt.insert(prompt, known);
                    rows[known].2.extend(asked.references.iter().cloned());
                }
                None => rows.push((asked, prompt, asked.references.clone())),
            }
        }
        let prompts = self.pool.map(rows.len(), |index| self.prompt(rows[index].0, rows[index].1))?;
        let mut items = Vec::with_capacity(rows.len());
        for ((asked, _, references), prompt) in rows.into_iter().zip(prompts) {
            // A token has to fit behind it.
            if self.fits(prompt.len() + 1, asked.line)? {
                let (row, line, database) = (asked.row as u64, asked.line as u64, asked.database.clone());
                items.push(Item { row, line, prompt, references, database });
            } else {
                counts.prompts_too_long += 1;
            }
        }
        Ok(items)
    }

    /// The classes with their tokens: one each, all different.
    fn classes(&self, names: &[String]) -> Result<Vec<ClassLabel>> {
        let mut classes: Vec<ClassLabel> = Vec::with_capacity(names.len());
        for name in names {
            let [token] = self.tokenizer.encode(name)?[..] else {
                let found = self.tokenizer.encode(name)?.len();
                return Err(DataError::LabelTokens { label: name.clone(), found });
            };
            if let Some(other) = classes.iter().find(|class| class.token == token) {
                return Err(DataError::SameLabel { first: other.name.clone(), second: name.clone(), token });
            }
            classes.push(ClassLabel { name: name.clone(), token });
        }
        Ok(classes)
    }
}
