//! Checks of the Markdown pages: that links lead somewhere, and that the book's contents name every page.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// What is broken in the book in this folder: links of its pages, and pages that its `SUMMARY.md` leaves out.
///
/// # Errors
/// A page cannot be read.
pub fn broken(docs: &Path) -> anyhow::Result<Vec<String>> {
    let pages = docs.join("src");
    let summary = fs::read_to_string(pages.join("SUMMARY.md")).context("docs/src/SUMMARY.md")?;
    let contents = links(&summary);
    let mut found = Vec::new();
    for entry in fs::read_dir(&pages).with_context(|| pages.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        found.extend(broken_links(&path)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "SUMMARY.md" && !contents.contains(&name) {
            found.push(format!("docs/src/SUMMARY.md does not name {name}"));
        }
    }
    Ok(found)
}

/// Relative links of a page whose files are missing, as messages.
///
/// # Errors
/// The page cannot be read.
pub fn broken_links(page: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let folder = page.parent().expect("a page lies in a folder");
    let targets = links(&text).into_iter().filter(|target| !target.is_empty() && !folder.join(target).exists());
    Ok(targets.map(|target| format!("{}: `{target}` leads nowhere", page.display())).collect())
}

/// Targets of relative links and mdBook includes, without their anchors; code is not searched.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Every second piece is inside backticks.
            let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
            targets.extend(prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned));
            let include = prose.split("{{#include ").nth(1).and_then(|rest| rest.split("}}").next());
            targets.extend(include.map(str::to_owned));
        }
    }
    targets.retain(|target| !["https:", "http:", "mailto:"].iter().any(|scheme| target.starts_with(scheme)));
    targets.iter().map(|target| target.split('#').next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_only() {
        let text = "See [a](a.md#x), [`b`](sub/b.md) and [web](https://e.org).\n```\n[no](no.md)\n```\n`[no](no.md)`\n{{#include ../c.md}}";
        assert_eq!(links(text), ["a.md", "sub/b.md", "../c.md"]);
    }
}
