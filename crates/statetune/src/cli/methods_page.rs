//! What METHODS says of itself in the pages: the methods table, each method's options, the list of names. Pages hold it
//! between markers, `statetune methods --fill PAGE` renews it, and a test finds what is stale.

use anyhow::{Context, bail};
use statetune_mamba_model::config::MambaConfig;
use statetune_peft_methods::{METHODS, MethodInfo, PeftError, methods};

/// How a part of a page begins that is made here: this, what is to be there, and the end of the comment.
const BEGIN: &str = "<!-- METHODS: ";
const END: &str = "<!-- end of METHODS -->";

/// The models whose trained numbers the table gives, with `d_model` and layers.
const MODELS: [(&str, usize, usize); 2] = [("mamba-130m", 768, 24), ("mamba-1.4b", 2048, 48)];
/// Their vocabulary, padded.
const VOCABULARY: usize = 50_280;
/// The pages are wrapped after so many characters.
const WIDTH: usize = 108;

/// The page with its marked parts made anew. `table` stands for the methods table, `options of <method>` for a method's
/// options, `names` for the names.
///
/// # Errors
/// A marker is not closed, or asks for what there is not.
pub fn fill(page: &str) -> anyhow::Result<String> {
    let (mut filled, mut rest) = (String::new(), page);
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (what, after) = after.split_once(" -->").context("a marker is no comment")?;
        let (_, after) =
            after.split_once(END).with_context(|| format!("`{BEGIN}{what} -->` is not closed by `{END}`"))?;
        let text = match what.split_once("options of ") {
            None if what == "table" => table()?,
            None if what == "names" => names(),
            Some(("", tag)) => options(methods::find(tag)?),
            _ => bail!("`{BEGIN}{what} -->`: expected table, names, or options of a method"),
        };
        filled += &format!("{before}{BEGIN}{what} -->\n\n{text}\n{END}");
        rest = after;
    }
    Ok(filled + rest)
}

/// All methods, a row each.
fn table() -> anyhow::Result<String> {
    let models = MODELS.map(|(name, ..)| format!("trained, {name}")).join(" | ");
    let mut text = format!("| method | paper | touches | {models} | merges | cost in decoding |\n");
    text += &format!("|---|---|---|{}---|---|\n", "---|".repeat(MODELS.len()));
    for info in METHODS {
        let counts = MODELS.iter().map(|&(_, d_model, layers)| {
            let trained = trained(info, &MambaConfig::new(VOCABULARY, d_model, layers))?;
            Ok(grouped(trained))
        });
        let counts = counts.collect::<Result<Vec<_>, PeftError>>()?.join(" | ");
        let (tag, paper, merges) = (info.tag, linked(info.reference), if info.mergeable { "yes" } else { "no" });
        text += &format!("| `{tag}` | {paper} | {} | {counts} | {merges} | {} |\n", info.sites, info.decoding);
    }
    Ok(text)
}

/// The numbers a method trains with its default options; after its warm-up, where it has one.
fn trained(info: &MethodInfo, model: &MambaConfig) -> Result<usize, PeftError> {
    let method = (info.parse)(serde_json::json!({}))?;
    if method.warmup_steps() > 0 {
        let plan = method.plan(model)?;
        // How many are chosen does not depend on which.
        let warmed_up = |name: &str| {
            let spec = plan.tensors.iter().find(|spec| spec.name == name);
            let size: usize = spec.map_or(0, |spec| spec.shape.iter().product());
            Ok((1..=size).map(|i| i as f64).collect())
        };
        if let Some(chosen) = method.select(model, &warmed_up)? {
            return chosen.trainable(model);
        }
    }
    method.trainable(model)
}

/// A method's options, and what else its user has to know.
fn options(info: &MethodInfo) -> String {
    let mut text = String::new();
    if info.options.is_empty() {
        text += "No options. ";
    } else {
        text += "| option | default | meaning |\n|---|---|---|\n";
        for option in info.options {
            text += &format!("| `{}` | `{}` | {} |\n", option.name, option.default, option.meaning.replace('|', "\\|"));
        }
        text.push('\n');
    }
    let start = if info.starts_unchanged { "unchanged" } else { "changed" };
    text + &format!("Learning rate where none is given: {:e}. The model starts {start}.\n", info.learning_rate)
}

/// The names, wrapped.
fn names() -> String {
    let mut lines = vec![String::new()];
    for (i, info) in METHODS.iter().enumerate() {
        let name = format!("`{}`{}", info.tag, if i + 1 == METHODS.len() { "." } else { "," });
        let line = lines.last_mut().expect("there is a first line");
        match line.len() {
            0 => *line = name,
            length if length + 1 + name.len() <= WIDTH => *line += &format!(" {name}"),
            _ => lines.push(name),
        }
    }
    lines.join("\n") + "\n"
}

/// A text in which `arXiv <number>` leads to the paper.
fn linked(reference: &str) -> String {
    let mut parts = reference.split("arXiv ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        text += &format!("[arXiv {number}](https://arxiv.org/abs/{number}){rest}");
    }
    text
}

/// A number with a comma after each thousand.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let groups = digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    std::iter::once(digits[..first].to_owned()).chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_parts_are_replaced_and_the_rest_stays() {
        let page = format!("before\n{BEGIN}names -->\nold\n{END}\nafter {BEGIN}options of full -->{END}.");
        let filled = fill(&page).unwrap();
        assert!(filled.starts_with("before\n") && filled.ends_with(&format!("{END}.")), "{filled}");
        assert!(
            !filled.contains("old") && filled.contains("`affix-tuning`.\n") && filled.contains("No options."),
            "{filled}"
        );
        assert_eq!(fill(&filled).unwrap(), filled, "a second time nothing changes");
    }

    #[test]
    fn markers_that_mean_nothing_are_refused() {
        let error = fill(&format!("{BEGIN}tables -->{END}")).unwrap_err().to_string();
        assert!(error.contains("expected table"), "{error}");
        let error = fill(&format!("{BEGIN}options of lara -->{END}")).unwrap_err().to_string();
        assert!(error.contains("did you mean `lora`"), "{error}");
        assert!(fill(&format!("{BEGIN}table -->")).unwrap_err().to_string().contains("not closed"));
    }

    #[test]
    fn numbers_are_grouped_and_papers_linked() {
        assert_eq!(
            ["0", "999", "1,000", "12,240", "129,135,360"],
            [0, 999, 1000, 12_240, 129_135_360].map(grouped)[..]
        );
        assert_eq!(linked("A 2021, arXiv 2106.1; B"), "A 2021, [arXiv 2106.1](https://arxiv.org/abs/2106.1); B");
    }
}
