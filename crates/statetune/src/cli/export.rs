//! `statetune export`

use anyhow::anyhow;
use serde_json::json;
use statetune_peft_methods::{Adapter, PeftError, methods};
use statetune_tensor::DType;
use statetune_trainer::config::DeviceSection;

use super::adapters::Source;
use super::{ExportArguments, Output, out, setup};

pub(super) fn run(arguments: &ExportArguments, output: Output) -> anyhow::Result<()> {
    let out = &arguments.out;
    // Before models are read for nothing.
    out::check_free(out)?;
    let source = Source::open(&arguments.adapter, arguments.model.as_deref())?;
    let device = setup::device(&DeviceSection { threads: Some(1), ..DeviceSection::default() })?;
    let model = setup::model(&source.base, &device, DType::F32)?;
    let adapter = setup::adapter(&source.adapter.path, &model, output)?.exported(&model)?;
    out::write_whole(out, |folder| {
        adapter.save_peft(folder, &source.base.to_string_lossy()).map_err(|error| match error {
            // Where the reason says what to do there is nothing to add.
            PeftError::NotExportable { ref reason } if !reason.contains("statetune merge") => {
                anyhow!("{error}{}", offer(&adapter, arguments))
            }
            other => other.into(),
        })
    })?;
    let numbers = adapter.trainable();
    match output.json {
        true => say!("{:#}", json!({"adapter": out, "base": source.base, "numbers": numbers})),
        false => say!("{}: {numbers} numbers, for Hugging Face PEFT", out.display()),
    }
    Ok(())
}

/// What to do with an adapter that PEFT would compute otherwise.
fn offer(adapter: &Adapter, arguments: &ExportArguments) -> String {
    let mergeable = adapter.methods().iter().all(|method| methods::find(method.tag()).is_ok_and(|info| info.mergeable));
    match mergeable {
        true => format!(". `statetune merge {} FOLDER` writes a model without it", arguments.adapter.display()),
        false => ", and it cannot be merged into a model either: a checkpoint has no tensor for it".into(),
    }
}
