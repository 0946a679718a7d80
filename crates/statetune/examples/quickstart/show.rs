//! What the quickstart shows: the table, three generations, the curves.

use statetune::cli::page;
use statetune::datasets_eval::world::Family;
use statetune::trainer::report::{Chart, Generation, Table};

use crate::contest::{Contest, Entry};

/// What the columns mean.
pub const LEGEND: &str = "perplexity: of the right answers on 500 validation examples. score: sql, statements that run in \
                          SQLite; records and dialogue, F1 of the words shared with the right answer; feeling, accuracy \
                          among the two labels. right: sql, statements that find what the right one finds; records and \
                          dialogue, answers right to the letter; feeling, accuracy among all tokens. Answers are to 100 \
                          test prompts, those of feeling to the validation examples.";

/// All tasks and ways of tuning.
pub fn table(contests: &[Contest]) -> Table {
    let row = |contest: &Contest, entry: &Entry| {
        let dash = |text: String| if entry.trainable == 0 { "-".to_owned() } else { text };
        vec![
            contest.family.name().to_owned(),
            entry.name.to_owned(),
            dash(entry.trainable.to_string()),
            dash(format!("{:.0}", entry.seconds)),
            format!("{:.2}", entry.evaluation.perplexity),
            format!("{:.1}%", 100.0 * entry.score),
            format!("{:.1}%", 100.0 * entry.right),
        ]
    };
    let rows = contests.iter().flat_map(|contest| contest.entries.iter().map(move |entry| row(contest, entry)));
    Table {
        caption: "Methods by task".into(),
        header: ["task", "method", "trained", "seconds", "perplexity", "score", "right"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

/// A table for a terminal.
pub fn plain(table: &Table) -> String {
    let all: Vec<&Vec<String>> = std::iter::once(&table.header).chain(&table.rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)) + "\n";
    let mut text = line(&table.header) + &rule;
    for (i, row) in table.rows.iter().enumerate() {
        if i > 0 && row[0] != table.rows[i - 1][0] {
            text += &rule;
        }
        text += &line(row);
    }
    text
}

/// One prompt of each task that is answered in words, with every answer.
pub fn generations(contests: &[Contest]) -> Vec<Generation> {
    let spoken = contests.iter().filter(|contest| contest.family != Family::Feeling);
    let generation = |contest: &Contest| {
        let (prompt, right) = &contest.test[0];
        let answers = contest.entries.iter().map(|entry| (entry.name.to_owned(), entry.answers[0].trim().to_owned()));
        let outputs = answers.chain([("right".to_owned(), right.trim().to_owned())]).collect();
        Generation { prompt: prompt.clone(), outputs }
    };
    spoken.map(generation).collect()
}

/// A generation for a terminal.
pub fn plain_generation(generation: &Generation) -> String {
    let lines =
        generation.outputs.iter().map(|(source, text)| format!("  {source:<16}  {}\n", text.replace('\n', " / ")));
    format!("{}\n{}", generation.prompt, lines.collect::<String>())
}

/// Training loss of a task, a line for each method.
pub fn curves(contest: &Contest) -> Vec<Chart> {
    let runs: Vec<_> =
        contest.entries.iter().skip(1).map(|entry| (entry.name.to_owned(), entry.records.clone())).collect();
    let charts = page::charts(&runs).into_iter().filter(|chart| chart.title == "Training loss");
    charts.map(|chart| Chart { title: format!("{}: training loss", contest.family.name()), ..chart }).collect()
}
