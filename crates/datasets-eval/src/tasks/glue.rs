//! GLUE (Wang et al., 2019): the eight tasks of the paper, their columns, classes and prompt form. The instructions are
//! those of State-offset Tuning's published code, which took them from PromptBench (Zhu et al., 2023).

use crate::config::config_error;
use crate::error::nearest;
use crate::{DataError, Result};

/// What stands between the parts of a prompt.
pub const SEPARATOR: &str = "###";

/// A task: where its texts and its label stand, and how the model is asked.
#[derive(Debug, PartialEq, Eq)]
pub struct GlueTask {
    /// The name in configurations.
    pub name: &'static str,
    /// What the prompt begins with.
    pub instruction: &'static str,
    /// Names of the texts, in the order of the prompt: one or two.
    pub fields: &'static [&'static str],
    /// Their columns in the tsv files.
    pub columns: &'static [&'static str],
    /// The label's column.
    pub label_column: &'static str,
    /// The label column's values in the order of the classes: value i is answered with the digit i.
    pub labels: &'static [&'static str],
    /// All columns of the layouts known: the official one first, then that of published subsets.
    pub layouts: &'static [&'static [&'static str]],
    /// Whether files begin with a header; if not, the columns are those of the only layout.
    pub has_header: bool,
}

const DIGITS: &[&str] = &["0", "1"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const SENTENCES: &[&str] = &["sentence1", "sentence2"];

/// The tasks, by name.
pub static TASKS: [GlueTask; 8] = [
    GlueTask {
        name: "cola",
        instruction: "Review the sentence below and identify whether its grammar is Unacceptable or Acceptable. Respond with '0' if Unacceptable or '1' if Acceptable: ",
        fields: &["sentence"],
        columns: &["sentence"],
        label_column: "label",
        labels: DIGITS,
        layouts: &[&["source", "label", "mark", "sentence"]],
        has_header: false,
    },
    GlueTask {
        name: "mnli",
        instruction: "Assess the connection between the following sentences and classify it as entailment, neutral, or contradiction. Respond with '0' if entailment, '1' if neutral or '2' if contradiction: ",
        fields: &["premise", "hypothesis"],
        columns: SENTENCES,
        label_column: "gold_label",
        labels: &["entailment", "neutral", "contradiction"],
        layouts: &[
            &[
                "index",
                "promptID",
                "pairID",
                "genre",
                "sentence1_binary_parse",
                "sentence2_binary_parse",
                "sentence1_parse",
                "sentence2_parse",
                "sentence1",
                "sentence2",
                "label1",
                "gold_label",
            ],
            &[
                "index",
                "promptID",
                "pairID",
                "genre",
                "sentence1_binary_parse",
                "sentence2_binary_parse",
                "sentence1_parse",
                "sentence2_parse",
                "sentence1",
                "sentence2",
                "label1",
                "label2",
                "label3",
                "label4",
                "label5",
                "gold_label",
            ],
            &["index", "sentence1", "sentence2", "gold_label"],
        ],
        has_header: true,
    },
    GlueTask {
        name: "mrpc",
        instruction: "Can the given sentences be considered semantically identical? Respond with '0' if not_equivalent or '1' if equivalent: ",
        fields: SENTENCES,
        columns: &["#1 String", "#2 String"],
        label_column: "Quality",
        labels: DIGITS,
        layouts: &[&["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]],
        has_header: true,
    },
    GlueTask {
        name: "qnli",
        instruction: "Consider the context and question, and indicate if the answer can be logically deduced from the context. Respond with '0' if entailment or '1' if not_entailment: ",
        fields: &["question", "sentence"],
        columns: &["question", "sentence"],
        label_column: "label",
        labels: ENTAILMENT,
        layouts: &[&["index", "question", "sentence", "label"]],
        has_header: true,
    },
    GlueTask {
        name: "qqp",
        instruction: "Can these two statements be considered equal in meaning? Respond with '0' if not_equivalent or '1' if equivalent: ",
        fields: &["question1", "question2"],
        columns: &["question1", "question2"],
        label_column: "is_duplicate",
        labels: DIGITS,
        layouts: &[
            &["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
            &["id", "question1", "question2", "is_duplicate"],
        ],
        has_header: true,
    },
    GlueTask {
        name: "rte",
        instruction: "Determine if the given pair of sentences displays entailment or not_entailment. Respond with '0' if entailment or '1' if not_entailment: ",
        fields: SENTENCES,
        columns: SENTENCES,
        label_column: "label",
        labels: ENTAILMENT,
        layouts: &[&["index", "sentence1", "sentence2", "label"]],
        has_header: true,
    },
    GlueTask {
        name: "sst2",
        instruction: "Read the provided excerpt and choose between negative and positive to describe its sentiment. Respond with '0' if negative or '1' if positive: ",
        fields: &["sentence"],
        columns: &["sentence"],
        label_column: "label",
        labels: DIGITS,
        layouts: &[&["sentence", "label"]],
        has_header: true,
    },
    GlueTask {
        name: "wnli",
        instruction: "Identify whether the given pair of sentences demonstrates entailment or not_entailment. Respond with '0' if not_entailment or '1' if entailment: ",
        fields: SENTENCES,
        columns: SENTENCES,
        label_column: "label",
        labels: DIGITS,
        layouts: &[&["index", "sentence1", "sentence2", "label"]],
        has_header: true,
    },
];

impl GlueTask {
    /// A task by its name; case, `-` and `_` do not matter ("SST-2" is "sst2").
    pub fn named(name: &str) -> Result<&'static GlueTask> {
        let plain = name.to_lowercase().replace(['-', '_'], "");
        TASKS.iter().find(|task| task.name == plain).ok_or_else(|| {
            let known: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
            match config_error("task", &format!("one of {}", known.join(", ")), &format!("\"{name}\"")) {
                DataError::Config { key, expected, found, .. } => {
                    DataError::Config { key, expected, found, nearest: nearest(&plain, known) }
                }
                other => other,
            }
        })
    }

    /// The prompt: instruction, first text, separator, and the second text and a separator where there is one.
    /// `texts` stand in the order of [`fields`](Self::fields).
    pub fn prompt<S: AsRef<str>>(&self, texts: &[S]) -> String {
        let mut prompt = String::from(self.instruction);
        for text in texts {
            prompt.push_str(text.as_ref());
            prompt.push_str(SEPARATOR);
        }
        prompt
    }

    /// What the model should answer for class `index`: its digit.
    pub fn answer(&self, index: usize) -> String {
        index.to_string()
    }
}
