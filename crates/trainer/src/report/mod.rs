//! A run's report: one HTML page that opens without a network, made from plain data.
//!
//! [`render`] writes the page, `chart` its line charts as inline SVG. What goes into a report is decided by whoever fills
//! a [`Report`]; nothing here reads a run.

mod chart;
mod html;

pub use html::render;

/// What a page shows, from top to bottom; empty parts are left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// Facts of the run, as (name, value).
    pub summary: Vec<(String, String)>,
    /// Tables under the summary.
    pub tables: Vec<Table>,
    /// Line charts.
    pub charts: Vec<Chart>,
    /// What the models wrote.
    pub generations: Vec<Generation>,
    /// Things to know, counted rows among them.
    pub notes: Vec<String>,
    /// Texts as they stand, by title: a configuration.
    pub listings: Vec<(String, String)>,
}

/// A table. A row may be shorter than the header; cells that read as numbers are aligned to the right.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// What the table shows.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// A chart of lines over a common x axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// What the chart shows.
    pub title: String,
    /// The x axis: quantity and unit.
    pub x_label: String,
    /// The y axis: quantity and unit.
    pub y_label: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line of a chart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// (x, y) in order. The line has a gap where either is not finite; the legend counts such points.
    pub points: Vec<(f64, f64)>,
}

/// A prompt and what was written after it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Generation {
    /// The prompt.
    pub prompt: String,
    /// Texts by their source, a model or "reference".
    pub outputs: Vec<(String, String)>,
}
