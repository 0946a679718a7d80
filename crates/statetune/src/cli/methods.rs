//! `statetune methods`

use serde_json::json;
use statetune_peft_methods::METHODS;

use super::Output;

pub(super) fn run(output: Output) -> anyhow::Result<()> {
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
