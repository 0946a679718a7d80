//! The generated tasks as files in the form that users have theirs in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use statetune::datasets_eval::world::{Family, Split, TaskExample, World};

/// Examples per task to learn from.
pub const TRAIN: usize = 2_000;
/// Examples per task that the loss and, for classes, the accuracy are taken on.
const VALIDATION: usize = 500;
/// Prompts per task that are answered in full.
const TEST: usize = 100;
/// Another draw than any test of the project uses.
const SEED: u64 = 1;

/// A task with its files.
pub struct Task {
    pub family: Family,
    pub train: PathBuf,
    pub validation: PathBuf,
    /// Not written: answered by generation, for tasks without classes.
    pub test: Vec<TaskExample>,
}

impl Task {
    /// Whether an answer is a class.
    pub fn has_classes(&self) -> bool {
        self.family == Family::Feeling
    }

    /// The `[data]` part of a configuration.
    pub fn data_section(&self) -> String {
        let answer = if self.has_classes() {
            "label_field = \"completion\"\nlabels = [\" 0\", \" 1\"]"
        } else {
            "completion_field = \"completion\""
        };
        format!(
            "[data]\nformat = \"jsonl\"\ntrain = \"{}\"\nvalidation = \"{}\"\nprompt_field = \"prompt\"\n{answer}\n",
            self.train.display(),
            self.validation.display()
        )
    }
}

/// Writes all tasks into a folder.
pub fn write(world: &World, folder: &Path) -> anyhow::Result<Vec<Task>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let write = |family: Family, split: Split, name: &str, count: usize| -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{}.{name}.jsonl", family.name()));
        let lines = world.task(family, split, SEED, count).map(|TaskExample { prompt, completion, .. }| {
            json!({"prompt": prompt, "completion": completion}).to_string() + "\n" //
        });
        fs::write(&path, lines.collect::<String>()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let task = |family: Family| {
        Ok(Task {
            family,
            train: write(family, Split::Train, "train", TRAIN)?,
            validation: write(family, Split::Validation, "validation", VALIDATION)?,
            test: world.task(family, Split::Test, SEED, TEST).collect(),
        })
    };
    Family::ALL.into_iter().map(task).collect()
}
