//! `statetune methods`

use std::fs;

use anyhow::Context;
use serde_json::json;
use statetune_peft_methods::METHODS;

use super::{MethodsArguments, Output, methods_page};

pub(super) fn run(arguments: &MethodsArguments, output: Output) -> anyhow::Result<()> {
    for path in &arguments.fill {
        let page = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let filled = methods_page::fill(&page).with_context(|| path.display().to_string())?;
        if filled != page {
            fs::write(path, filled).with_context(|| format!("cannot write {}", path.display()))?;
            say!("{}: written", path.display());
        } else {
            say!("{}: up to date", path.display());
        }
    }
    if !arguments.fill.is_empty() {
        return Ok(());
    }
    if output.json {
        let list: Vec<_> = METHODS
            .iter()
            .map(|info| {
                let options: Vec<_> = info
                    .options
                    .iter()
                    .map(|o| json!({"name": o.name, "default": o.default, "meaning": o.meaning}))
                    .collect();
                json!({"method": info.tag, "summary": info.summary, "reference": info.reference,
                    "sites": info.sites, "mergeable": info.mergeable, "starts_unchanged": info.starts_unchanged,
                    "decoding": info.decoding, "learning_rate": info.learning_rate, "options": options})
            })
            .collect();
        say!("{:#}", serde_json::Value::Array(list));
        return Ok(());
    }
    for info in METHODS {
        say!("{}\n    {}\n    {}", info.tag, info.summary, info.reference);
        say!("    touches: {}; default learning rate {:e}", info.sites, info.learning_rate);
        say!("    merges into the base model: {}", if info.mergeable { "yes" } else { "no" });
        say!("    cost in decoding: {}", info.decoding);
        for option in info.options {
            say!("    {} = {}\n        {}", option.name, option.default, option.meaning);
        }
        say!("");
    }
    Ok(())
}
