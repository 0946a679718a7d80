//! `statetune merge`

use std::path::{Path, PathBuf};

use serde_json::json;
use statetune_mamba_model::Patches;
use statetune_peft_methods::adapter::{MergeReport, MergedTensor};
use statetune_tensor::DType;
use statetune_trainer::config::DeviceSection;
use statetune_trainer::verify::logits_apart;

use super::adapters::{self, Named, Source};
use super::{MergeArguments, Output, out, setup};
use crate::hub;
use crate::model_folder::COMPANIONS;

pub(super) fn run(arguments: &MergeArguments, output: Output) -> anyhow::Result<()> {
    let out = &arguments.out;
    // Before models are read for nothing.
    out::check_free(out)?;
    let source = Source::open(&arguments.adapter, arguments.model.as_deref())?;
    let mut all = Named::parse_all(&arguments.adapters)?;
    all.insert(0, source.adapter.clone());
    let base = adapters::common_base(&all, arguments.model.as_deref().or(source.run.as_ref().map(|_| &*source.base)))?;
    let device = setup::device(&DeviceSection { threads: arguments.threads, ..DeviceSection::default() })?;
    let model = setup::model(&base, &device, DType::F32)?;
    let set = adapters::load(&all, &model, output)?;
    let names = adapters::names(&all);
    let patches = set.patches(&names)?;
    let (merged, report) = set.merge(&names)?;
    let companions = companions(&source, &base)?;
    if companions.is_empty() && !output.quiet {
        eprintln!("note: {} has no tokenizer, and the merged model none either", base.display());
    }
    let unties = model.config().tie_word_embeddings && !merged.config().tie_word_embeddings;
    merged.save(out, &companions)?;
    drop(merged);
    // What was written, as it will be read.
    let written = setup::model(out, &device, DType::F32)?;
    let apart = logits_apart((&model, &patches), (&written, &Patches::none()))?;
    if output.json {
        let rounding: Vec<_> = report.tensors.iter().map(rounding).collect();
        let logits = json!({"difference": apart.difference, "largest": apart.largest});
        say!(
            "{:#}",
            json!({"model": out, "base": base, "adapters": Named::json(&all), "tensors": rounding, "unties": unties,
                "logits": logits})
        );
        return Ok(());
    }
    print(&report);
    if unties {
        say!("the adapter changes one end of tied embeddings: embedding and head are two tensors now");
    }
    say!(
        "logits differ from those of model and adapter by at most {:.2e}; the largest is {:.2}",
        apart.difference,
        apart.largest
    );
    say!("{}", out.display());
    Ok(())
}

fn rounding(tensor: &MergedTensor) -> serde_json::Value {
    json!({"name": tensor.name, "type": tensor.dtype.to_string(), "max_rounding": tensor.max_rounding,
        "rms_rounding": tensor.rms_rounding})
}

/// What rounding to a narrow type costs, by tensor.
fn print(report: &MergeReport) {
    let narrow = |tensor: &&MergedTensor| matches!(tensor.dtype, DType::Bf16 | DType::F16);
    for tensor in report.tensors.iter().filter(narrow) {
        let MergedTensor { name, dtype, max_rounding, rms_rounding } = tensor;
        say!("{name}: rounded to {dtype} by at most {max_rounding:.2e}, {rms_rounding:.2e} in the mean square");
    }
    say!("{} tensors changed", report.tensors.len());
}

/// The tokenizer's files, and others that a model folder holds. A run may have a tokenizer of its own.
fn companions(source: &Source, base: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = companions_in(&hub::folder(base)?);
    let own = source.run.as_ref().and_then(|run| run.model.tokenizer.as_deref());
    if let Some(own) = own.map(hub::file).transpose()?.filter(|path| path.is_file()) {
        found.retain(|path| path.file_name() != own.file_name());
        found.insert(0, own);
    }
    Ok(found)
}

/// What stands beside the weights in a folder, and stays as it is.
pub(super) fn companions_in(folder: &Path) -> Vec<PathBuf> {
    COMPANIONS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}
