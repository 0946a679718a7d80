//! The page around the charts: markup and escaping.

use super::chart;
use super::{Generation, Report, Table};

const STYLE: &str = include_str!("style.css");

/// One HTML page that needs no other file, network or script. Every text of the report is escaped.
pub fn render(report: &Report) -> String {
    let mut body = format!("<h1>{}</h1>\n", escape(&report.title));
    if !report.summary.is_empty() {
        let facts = report.summary.iter().map(|(name, value)| {
            format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value)) //
        });
        body += &format!("<dl>\n{}</dl>\n", facts.collect::<String>());
    }
    body.extend(report.tables.iter().map(table));
    if !report.charts.is_empty() {
        let charts = report.charts.iter().map(chart::render);
        body += &format!("<section class=\"charts\">\n{}</section>\n", charts.collect::<String>());
    }
    if !report.generations.is_empty() {
        body += "<h2>Generations</h2>\n";
        body.extend(report.generations.iter().map(generation));
    }
    if !report.notes.is_empty() {
        let notes = report.notes.iter().map(|note| format!("<li>{}</li>\n", escape(note)));
        body += &format!("<h2>Notes</h2>\n<ul>\n{}</ul>\n", notes.collect::<String>());
    }
    for (title, text) in &report.listings {
        body += &format!("<h2>{}</h2>\n<pre>{}</pre>\n", escape(title), escape(text));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&report.title)
    )
}

fn table(table: &Table) -> String {
    // A column is aligned as its cells are; a column of words with one number in it is not numeric.
    let columns = table.rows.iter().map(Vec::len).max().unwrap_or(0).max(table.header.len());
    let numeric: Vec<bool> = (0..columns)
        .map(|column| {
            let mut cells =
                table.rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty()).peekable();
            cells.peek().is_some() && cells.all(|cell| reads_as_number(cell))
        })
        .collect();
    let row = |cells: &[String], tag: &str| -> String {
        let cells = (0..columns).map(|column| {
            let text = cells.get(column).map_or("", String::as_str);
            let class = if numeric[column] { " class=\"number\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(text))
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    format!(
        "<div class=\"scroll\"><table>\n<caption>{}</caption>\n<thead>{}</thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        escape(&table.caption),
        row(&table.header, "th"),
        table.rows.iter().map(|cells| row(cells, "td")).collect::<String>()
    )
}

/// A number, perhaps with a unit behind it, such as "83.4", "1,536", "0.12%", "2.1 min", or a missing one: "-".
fn reads_as_number(cell: &str) -> bool {
    let cell = cell.trim();
    let first = cell.split_whitespace().next().unwrap_or_default();
    let digits = first.trim_end_matches(['%', 'x', '×']).replace(',', "");
    cell == "-" || digits.parse::<f64>().is_ok()
}

fn generation(generation: &Generation) -> String {
    let outputs = generation.outputs.iter().map(|(source, text)| {
        format!("<div class=\"output\"><h3>{}</h3><pre>{}</pre></div>\n", escape(source), escape(text)) //
    });
    format!(
        "<article>\n<pre class=\"prompt\">{}</pre>\n{}</article>\n",
        escape(&generation.prompt),
        outputs.collect::<String>()
    )
}

/// Text as HTML text or a quoted attribute. Control characters but tab and newline, which HTML forbids, become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(character),
            _ if character.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::{Chart, Series};
    use super::*;

    fn full() -> Report {
        Report {
            title: "Run".into(),
            summary: vec![("trainable".into(), "12,288".into())],
            tables: vec![Table {
                caption: "Methods".into(),
                header: vec!["method".into(), "accuracy".into(), "note".into()],
                rows: vec![vec!["lora".into(), "83.1%".into()], vec!["none".into(), "-".into(), "base".into()]],
            }],
            charts: vec![Chart {
                title: "Loss".into(),
                x_label: "steps".into(),
                y_label: "loss".into(),
                series: vec![Series { name: "lora".into(), points: vec![(1.0, 2.0), (2.0, 1.0)] }],
            }],
            generations: vec![Generation { prompt: "Q:".into(), outputs: vec![("lora".into(), "A".into())] }],
            notes: vec!["3 rows were too long".into()],
            listings: vec![("Configuration".into(), "epochs = 1".into())],
        }
    }

    /// Opening tags of the page, without attributes; void elements apart.
    fn balanced(page: &str) {
        let mut open = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
            let name: String = tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric()).collect();
            if tag.starts_with('!') || name == "meta" || tag.ends_with('/') {
                continue;
            } else if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "in {page}");
            } else {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn a_page_stands_alone_and_its_tags_close() {
        for report in [full(), Report::default()] {
            let page = render(&report);
            balanced(&page);
            for outside in ["http", "<script", "<link", "@import", "url(", "src="] {
                assert!(!page.contains(outside), "{outside}");
            }
        }
        let page = render(&full());
        for text in ["12,288", "Methods", "83.1%", "<svg", "Q:", "3 rows were too long", "<pre>epochs = 1</pre>"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn every_text_is_escaped() {
        let evil = || "<script>alert(\"x\" & 'y')</script>\u{7}".to_owned();
        let page = render(&Report {
            title: evil(),
            summary: vec![(evil(), evil())],
            tables: vec![Table { caption: evil(), header: vec![evil()], rows: vec![vec![evil()]] }],
            charts: vec![Chart {
                title: evil(),
                x_label: evil(),
                y_label: evil(),
                series: vec![Series { name: evil(), points: vec![(0.0, 0.0)] }],
            }],
            generations: vec![Generation { prompt: evil(), outputs: vec![(evil(), evil())] }],
            notes: vec![evil()],
            listings: vec![(evil(), evil())],
        });
        balanced(&page);
        assert!(!page.contains("<script") && !page.contains('\u{7}'));
        let escaped = "&lt;script&gt;alert(&quot;x&quot; &amp; &#39;y&#39;)&lt;/script&gt;\u{fffd}";
        // Title and heading; two in the summary; three in the table; three of the chart and the name in legend and line;
        // three of the generation; the note; two of the listing.
        assert!(page.matches(escaped).count() >= 17, "{}", page.matches(escaped).count());
    }

    #[test]
    fn numeric_columns_are_aligned_to_the_right() {
        let page = render(&full());
        assert!(page.contains("<td class=\"number\">83.1%</td>") && page.contains("<td class=\"number\">-</td>"));
        assert!(page.contains("<td>lora</td>") && page.contains("<td></td>"), "short rows are filled");
        assert!(reads_as_number("2.1 min") && reads_as_number("1,536") && !reads_as_number("rank 8"));
    }
}
